"""Runs as they stand in their folders, and which of them differ in nothing but the seed.

Values stay what they are here, numbers, lists and tables with a name, and become text in
:func:`describe` alone: reports and tables compare and order the values, never the text.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisylabels.atomic import replacing
from noisylabels.errors import DataError, MissingExtraError
from noisylabels.losses import Loss
from noisylabels.run import config
from noisylabels.run.config import Component
from noisylabels.run.device import PRECISIONS
from noisylabels.run.folder import REQUIRED, Metrics, RunFolder, State, writing
from noisylabels.run.plan import INVARIANT, LABEL_FILES, REGISTRIES

if TYPE_CHECKING:
    import pandas

Key = tuple[str, ...]
"""A setting: its name, or a component's and a parameter's."""

ALWAYS_SAID = ("epochs", "batch_size", "precision")
"""Settings that are said even where they are the defaults."""
NAMING = ("name", "schedule")
"""What a table may be called by: a component, or the schedule of a hyper-parameter."""
DIGEST_LENGTH = 8
ARCHIVE = ".jsonl"
"""What the name of an archive ends with."""
UNSAID = config.defaults(Loss)
"""What all losses take; it is said only where it is set."""


@dataclass(frozen=True)
class Contents:
    """Something that a run's result depends on and that is no setting: what a file holds.

    Args:
        part: The component that it belongs to, such as ``"noise"``.
        parameters: The component's parameters that say where it lies.
        title: What it is called, such as ``"contents of noise.path"``.
        digest: A few digits that stand for it.
    """

    part: str
    parameters: tuple[str, ...]
    title: str
    digest: str


@dataclass(frozen=True)
class Run:
    """A run folder, or a line of an archive, as it was read.

    Args:
        folder: The run folder.
        config: The configuration's tables.
        identity: All that the result depends on; None, as ``result``, while it is not finished.
        result: The last epoch's numbers.
        lines: The metrics of each epoch, where they are known already; by default they are read
            when they are first asked for.
    """

    folder: Path
    config: Mapping[str, Any]
    identity: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    lines: Sequence[Metrics] | None = None

    @property
    def run_id(self) -> str:
        """The hash of all that its result depends on."""
        return str(self.result["run_id"]) if self.result else self.folder.name

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.config["seed"])

    @property
    def against_given(self) -> bool:
        """Whether the labels that its test accuracy is counted against may be wrong themselves."""
        return (self.result or {}).get("test_labels") == "given"

    @functools.cached_property
    def metrics(self) -> Sequence[Metrics]:
        """The metrics of each epoch; those of an archive that does not hold them are none."""
        return RunFolder(self.folder).metrics() if self.lines is None else self.lines

    @property
    def state(self) -> State:
        """How far it has come."""
        return "finished" if self.result else RunFolder(self.folder).state()

    @functools.cached_property
    def tables(self) -> dict[str, Any]:
        """The configuration with the defaults of what is newer than the run."""
        filled = {}
        for name, field in config.FIELDS.items():
            value = self.config.get(name, field.default)
            filled[name] = value.table() if isinstance(value, Component) else value
        return filled

    @property
    def computed(self) -> str | None:
        """The precision that it was computed in, which ``"auto"`` does not tell; None before."""
        if self.result is None:
            return None
        return PRECISIONS[self.result["precision"]] + ", TF32" * bool(self.result.get("tf32"))

    @functools.cached_property
    def key(self) -> str:
        """All that the result of a finished run depends on but the seed, as one string."""
        identity, _ = self._ended()
        # Precision counts as it was computed, not as it was asked for.
        left_out = ("seed", "precision")
        settings = {k: v for k, v in identity["settings"].items() if k not in left_out}
        return json.dumps([{**identity, "settings": settings}, self.computed], sort_keys=True)

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """All that the result of a finished run depends on but the seed, as plain values.

        With the defaults, the loss first. Components are tables, without what the result does not
        depend on: where files lie.
        """
        identity, _ = self._ended()
        own = identity["settings"]
        settings: dict[str, Any] = {"loss": None}
        for name, value in self.tables.items():
            # What a file of labels holds counts, not where it lies.
            if name in ("seed", *INVARIANT, *LABEL_FILES):
                continue
            if name == "data":
                value = own.get("data", value)
            elif isinstance(value, Mapping):
                counted = own.get(name, {})
                value = {
                    key: each
                    for key, each in value.items()
                    if key in ("name", *counted)
                    # What is a path is not told from other words, but no path is counted.
                    or not (isinstance(each, str) or (name == "loss" and UNSAID.get(key) == each))
                }
            settings[name] = value
        # Of a newer version than this one.
        settings |= {name: value for name, value in own.items() if name not in config.FIELDS}
        settings["precision"] = self.computed
        settings |= {each.title: each.digest for each in self.contents}
        return settings | {"version of results": identity["version"]}

    @functools.cached_property
    def contents(self) -> list[Contents]:
        """What files a finished run's result depends on."""
        identity, _ = self._ended()
        owners: dict[str, tuple[str, tuple[str, ...]]] = {"data": ("data", ("root", "path"))}
        for part in REGISTRIES:
            table = self.tables[part] if isinstance(self.tables[part], Mapping) else {}
            owners |= {f"{part}.{name}": (part, (name,)) for name in table}
            called = (_name(value) for value in (table, *table.values()))
            owners |= {f"{part} {name}": (part, ()) for name in called if name is not None}
        found = []
        for name, digest in identity["contents"].items():
            if digest:
                part, parameters = owners.get(name, (name, ()))
                found.append(Contents(part, parameters, f"contents of {name}", _short(digest)))
        return found

    def place(self, contents: Contents) -> str:
        """Say where contents lay when the run was made.

        Args:
            contents: One of its :attr:`contents`.

        Returns:
            A line.
        """
        table = self.config.get(contents.part, {})
        if isinstance(table, str):
            places = [table]
        else:
            places = [str(table[name]) for name in contents.parameters if name in table]
        return ", ".join([*places, f"as run {self.folder.name} found it"])

    def _ended(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        assert self.identity is not None, "asked of finished runs only"
        assert self.result is not None, "asked of finished runs only"
        return self.identity, self.result


def read(paths: Iterable[Path]) -> list[Run]:
    """Read runs.

    Args:
        paths: Run folders, folders of run folders, or archives (``.jsonl``, see :func:`archive`); a
            run that is reached twice, or was copied, counts once.

    Returns:
        The runs.

    Raises:
        DataError: There is no path, a path is no run folder and holds none, or a file is damaged.
    """
    paths = list(paths)
    archives = [path for path in paths if path.suffix == ARCHIVE and not path.is_dir()]
    folders = RunFolder.find(path for path in paths if path not in archives)
    if not folders and not archives:
        raise DataError("expected run folders, or folders of them")
    runs: dict[object, Run] = {}
    for folder in folders:
        result = folder.result() if folder.finished else None
        identity = folder.identity() if result else None
        run = Run(folder.path, folder.config(), identity, result)
        # A copy of a run is no other seed.
        same = (run.run_id, run.computed) if result else folder
        runs.setdefault(same, run)
    for path in archives:
        for run in _unpack(path):
            same = run.run_id, run.computed
            # An archive need not have the metrics that another one has.
            if same not in runs or (run.metrics and not runs[same].metrics):
                runs[same] = run
    return list(runs.values())


def archive(runs: Iterable[Run], path: Path, *, metrics: bool = False) -> None:
    """Write finished runs into one file, a line for each, for keeping and passing on.

    An archive can be read wherever run folders can. It has neither weights nor predictions.

    Args:
        runs: The runs; those that are not finished are left out.
        path: The file, ``.jsonl``.
        metrics: Whether every epoch's metrics are kept too.

    Raises:
        CheckpointError: It cannot be written.
    """
    ended = sorted((run for run in runs if run.result), key=lambda run: (run.run_id, run.seed))
    lines = []
    for run in ended:
        line: dict[str, Any] = {
            "run_id": run.run_id,
            "config": run.config,
            "identity": run.identity,
            "result": run.result,
        }
        if metrics:
            line["metrics"] = list(run.metrics)
        # ASCII: file names need not be UTF-8, and may hold what ends a line for some readers.
        lines.append(json.dumps(line, separators=(",", ":")) + "\n")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")


def _unpack(path: Path) -> Iterator[Run]:
    """Yield the runs of an archive."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            lines = list(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        place = f"{path}: line {number}"
        try:
            found = json.loads(line)
            config, identity, result = (
                dict(found[name]) for name in ("config", "identity", "result")
            )
            folder, metrics = path / str(found["run_id"]), list(found.get("metrics", ()))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{place}: expected a run as JSON ({error!r})") from error
        for name, part in zip(REQUIRED, (config, identity, result), strict=True):
            if missing := [key for key in REQUIRED[name] if key not in part]:
                raise DataError(f"{place}: expected {', '.join(missing)} in its {name}")
        yield Run(folder, config, identity, result, lines=metrics)


def group(runs: Iterable[Run]) -> list[list[Run]]:
    """Put finished runs together that differ in nothing but the seed.

    Args:
        runs: The runs; those that are not finished are left out.

    Returns:
        The groups, each by seed; a seed counts once. Runs that were computed in different precision
        are not together.

    Raises:
        DataError: No run is finished.
    """
    runs = list(runs)
    by_key: dict[str, dict[int, Run]] = {}
    for run in runs:
        if run.result is not None:
            # The same was asked for in other words, such as a precision that "auto" chose too.
            by_key.setdefault(run.key, {}).setdefault(run.seed, run)
    if not by_key:
        raise DataError(f"expected at least one finished run, got {len(runs)} unfinished")
    return [[by_seed[seed] for seed in sorted(by_seed)] for by_seed in by_key.values()]


def differences(settings: Sequence[Mapping[str, Any]]) -> dict[Key, list[Any]]:
    """Find what is not the same in all settings.

    Args:
        settings: Settings by name, see :attr:`Run.settings`.

    Returns:
        The values of all by key. Components of one name are compared by parameter.

    Example:
        >>> differences([{"noise": {"name": "symmetric", "rate": rate}} for rate in (0.2, 0.4)])
        {('noise', 'rate'): [0.2, 0.4]}
    """
    found: dict[Key, list[Any]] = {}
    for name in dict.fromkeys(name for each in settings for name in each):
        values: list[Any] = [each.get(name) for each in settings]
        if all(value == values[0] for value in values):
            continue
        if all(isinstance(v, Mapping) and v["name"] == values[0]["name"] for v in values):
            for key in dict.fromkeys(key for value in values for key in value):
                inside = [value.get(key) for value in values]
                if any(each != inside[0] for each in inside):
                    found[name, key] = inside
        else:
            found[name,] = values
    return found


def common(settings: Sequence[Mapping[str, Any]], apart: Iterable[Key]) -> str:
    """Say what all settings have in common, but for what nobody would have asked.

    Args:
        settings: Settings by name.
        apart: What is said elsewhere, such as the keys of :func:`differences`.

    Returns:
        A line.
    """
    apart = set(apart)
    said = []
    for name, value in settings[0].items():
        if (name,) in apart:
            continue
        default = config.FIELDS[name].default if name in config.FIELDS else value
        if name in ALWAYS_SAID or value != default:
            if isinstance(value, Mapping):
                value = {key: each for key, each in value.items() if (name, key) not in apart}
            said.append(f"{name} {describe(value)}")
    return "; ".join(said)


def places(groups: Iterable[Sequence[Run]], apart: Iterable[Key]) -> list[str]:
    """Say where contents that tell groups apart lay when their first run was made.

    Args:
        groups: Finished runs, see :func:`group`.
        apart: What tells them apart, see :func:`differences`.

    Returns:
        A line for each of the contents.
    """
    apart = set(apart)
    said: dict[str, str] = {}
    for first, *_ in groups:
        for each in first.contents:
            if (each.title,) in apart:
                said.setdefault(f"{each.title} {each.digest}", first.place(each))
    return [f"{contents}: {where}" for contents, where in said.items()]


def describe(value: Any) -> str:
    """Write a setting for people; nothing where there is none.

    Args:
        value: A plain value, or a table.

    Example:
        >>> describe({"name": "gce", "q": 0.7})
        'gce (q 0.7)'
    """
    if isinstance(value, Mapping):
        name = _name(value)
        own = [
            f"{key} {describe(each)}"
            for key, each in value.items()
            if not (key in NAMING and each == name) and each is not None
        ]
        parameters = f"({', '.join(own)})" if own else ""
        return " ".join(filter(None, (name, parameters)))
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return "" if value is None else str(value)


def describe_apart(values: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Write settings for people: of tables with one set of parameters the name is enough.

    Args:
        values: The settings.

    Returns:
        What is written for each, and in full those of which it is the name alone.

    Example:
        >>> elr, gjs = {"name": "elr", "beta": 0.7}, {"name": "gjs"}
        >>> describe_apart([elr, gjs, gjs | {"pi": 0.3}])
        (['elr', 'gjs', 'gjs (pi 0.3)'], ['elr (beta 0.7)'])
    """
    by_name: dict[str | None, list[Any]] = {}
    for value in values:
        by_name.setdefault(_name(value), []).append(value)
    short, full = [], []
    for value in values:
        name, whole = _name(value), describe(value)
        alone = name is not None and all(each == value for each in by_name[name])
        short.append(name if alone and name is not None else whole)
        if short[-1] != whole:
            full.append(whole)
    return short, sorted(set(full))


def order(value: Any, names: Iterable[str] = ()) -> tuple[Any, ...]:
    """Return what settings are sorted by: numbers as numbers, tables by name, then by parameter.

    Args:
        value: A setting.
        names: The names of tables in the order they are to have; others come after them.

    Example:
        >>> sorted([64, None, 128, {"name": "b"}, {"name": "a"}, "x"], key=order)
        [None, 64, 128, 'x', {'name': 'a'}, {'name': 'b'}]
    """
    if value is None:
        return (0,)
    if isinstance(value, int | float):
        return (1, value)
    if isinstance(value, str):
        return (2, value)
    if isinstance(value, Mapping):
        known, name = list(names), _name(value) or ""
        place = known.index(name) if name in known else len(known)
        return (4, place, name, tuple((key, order(value[key])) for key in sorted(value)))
    return (3, tuple(map(order, value)))


def flatten(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by dotted key, the tables that they stand in among them.

    Args:
        tables: Settings by name.

    Example:
        >>> list(flatten({"epochs": 3, "loss": {"name": "gce", "q": 0.7}}))
        ['epochs', 'loss', 'loss.q']
    """
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        flat[key] = value
        if isinstance(value, Mapping):
            name = _name(value)
            own = {k: v for k, v in value.items() if not (k in NAMING and v == name)}
            flat |= {f"{key}.{below}": each for below, each in flatten(own).items()}
    return flat


def frame(paths: str | Path | Iterable[str | Path] = "runs") -> "pandas.DataFrame":
    """Read runs into a pandas DataFrame, a row for each; this is ``noisylabels.runs``.

    Args:
        paths: A run folder or a folder of run folders, or several of them.

    Returns:
        ``run_id``, ``folder``, ``state`` (as ``noisylabels status`` names it); every setting, with
        its default where it was not set: ``epochs``, ``noise`` (a component's name),
        ``noise.rate`` (its parameters); and what ``result.json`` holds, missing where a run is not
        finished: ``test_accuracy``, ``versions.torch``, ... A name that is a setting's and a
        result's (``epochs``, ``compile``) is the setting's, but ``precision`` is what a finished
        run was computed in.

    Raises:
        MissingExtraError: pandas is not installed.
        DataError: A path is no run folder and holds none, or a file in it is damaged.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingExtraError("pandas", "report") from error
    given = [paths] if isinstance(paths, str | Path) else paths
    rows, settings, results = [], dict[str, None](), dict[str, None]()
    for run in read(Path(path) for path in given):
        about = {
            "run_id": run.run_id,
            "folder": str(run.folder),
            "state": run.state,
        }
        own = flatten(run.tables) | {"precision": run.computed}
        settings |= dict.fromkeys([*about, *own])
        result = flatten(run.result or {})
        results |= dict.fromkeys(result)
        rows.append({key: _scalar(value) for key, value in (result | own | about).items()})
    # A table without a name says nothing itself.
    names = [
        key
        for key in {**settings, **results}
        if not all(isinstance(row.get(key), dict) or key not in row for row in rows)
    ]
    return pandas.DataFrame(rows, columns=names)


def _scalar(value: Any) -> Any:
    """Return what can stand in a column and be grouped by: a table's name, a tuple for a list."""
    if isinstance(value, Mapping):
        return value if (name := _name(value)) is None else name
    return tuple(map(_scalar, value)) if isinstance(value, list | tuple) else value


def _name(value: Any) -> str | None:
    """Return what a table is called; None where it is not, or is no table."""
    if not isinstance(value, Mapping):
        return None
    return next((str(value[key]) for key in NAMING if key in value), None)


def _short(digest: str) -> str:
    """Return a few digits for a digest, which may be those of several files in a row."""
    return hashlib.sha256(digest.encode()).hexdigest()[:DIGEST_LENGTH]
