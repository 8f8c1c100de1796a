"""A study: a base run and axes, whose product is the runs to make."""

import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from noisylabels.atomic import replacing
from noisylabels.errors import ConfigError, unknown
from noisylabels.run import config
from noisylabels.run.config import Component, RunConfig
from noisylabels.run.folder import writing
from noisylabels.studies.records import describe

KEYS = ("base", "axes", "slurm", "ray")
"""What a study's file may hold."""
T = TypeVar("T")
Changes = Mapping[str, Any]
"""Values by dotted key of a run's file."""


@dataclass(frozen=True)
class Point:
    """One run of a study.

    Args:
        title: What tells it from the others, in one line.
        run: Its configuration.
    """

    title: str
    run: RunConfig


@dataclass(frozen=True)
class Study:
    """A base run and axes, as they stand in a file.

    Args:
        path: The file.
        points: Its runs, checked by themselves and not yet against what they name.
        notes: What was done to the axes that the user may not expect.
        options: What the file says to each launcher, by the launcher's name.
        overrides: Words that won over its base.
    """

    path: Path
    points: Sequence[Point]
    notes: Sequence[str] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    overrides: Sequence[str] = ()


def read(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study's TOML file.

    Args:
        path: The file. Its ``base`` is a run's file, found from the study's folder, or a table.
        overrides: Words such as ``["--epochs", "10"]``, which win over the base.

    Returns:
        The study.

    Raises:
        ConfigError: A file is missing or no TOML, a key is unknown, or an axis is empty.
    """
    return parse(config.read_toml(path), path, overrides)


def parse(tables: Mapping[str, Any], path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read the tables of a study's file.

    Args:
        tables: The tables.
        path: The file, for messages and what lies beside it.
        overrides: As for :func:`read`.

    Returns:
        The study.

    Raises:
        ConfigError: As for :func:`read`.
    """
    for key in tables:
        if key not in KEYS:
            raise ConfigError(f"{path}: {unknown('key of a study', key, KEYS)}")
    base = tables.get("base")
    if isinstance(base, str):
        run = config.load(path.parent / base, overrides)
    elif isinstance(base, Mapping):
        run = _named(path, lambda: config.parse(config.override(base, overrides)))
    else:
        raise ConfigError(
            f'{path}: expected base = "run.toml" or a table [base] with a run, got {base!r}'
        )
    for key in ("axes", "slurm", "ray"):
        if not isinstance(tables.get(key, {}), Mapping):
            raise ConfigError(f"{path}: {key}: expected a table, got {tables[key]!r}")
    axes = _named(path, lambda: find_axes(tables.get("axes", {})))
    points = _named(path, lambda: list(_product(run, axes)))
    options: dict[str, Any] = {key: tables[key] for key in ("slurm", "ray") if key in tables}
    notes = [axis.note for axis in axes if axis.note]
    return Study(path, points, notes, options, overrides)


def write(path: Path, tables: Mapping[str, Any], said: str) -> None:
    """Write tables as a TOML file, whole or not at all.

    Args:
        path: The file; its folder is made.
        tables: Plain tables. What is None is left out: TOML does not have it, and it is the default
            wherever it occurs.
        said: What the file is, in a comment at its head.

    Raises:
        CheckpointError: The file cannot be written.
    """
    head = "".join(f"# {line}\n" for line in said.splitlines())
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(head + text(tables), encoding="utf-8")


def text(tables: Mapping[str, Any]) -> str:
    """Return tables as TOML, which has no null: what is None is left out.

    Args:
        tables: The tables.
    """
    return tomli_w.dumps(_without_null(tables))


def _without_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_null(each) for key, each in value.items() if each is not None}
    return value


def grid(base: RunConfig | Mapping[str, Any] | Path | str, **axes: Any) -> list[RunConfig]:
    """Make the configurations of a study.

    Args:
        base: A configuration, its tables, or a run's TOML file.
        **axes: Values of each key that changes, as in a study's file: ``loss=[...]``, and
            ``**{"noise.rate": [0.2, 0.4]}`` where the key has a dot. A component's table stands for
            the whole component. Any other name is that of keys that change together, whose values
            are tables of keys.

    Returns:
        The configurations; the last axis changes fastest, and of equal ones there is one.

    Raises:
        ConfigError: A key is unknown, an axis is empty, or a value has the wrong type.

    Example:
        >>> runs = grid({"data": "digits"}, loss=["ce", {"name": "gce", "q": 0.7}], seed=range(3))
        >>> [(run.loss.name, run.seed) for run in runs]
        [('ce', 0), ('ce', 1), ('ce', 2), ('gce', 0), ('gce', 1), ('gce', 2)]
        >>> both = [{"noise.name": "symmetric", "noise.rate": 0.8},
        ...         {"noise.name": "asymmetric", "noise.rate": 0.4}]
        >>> [run.noise.name for run in grid({"data": "digits"}, setting=both)]
        ['symmetric', 'asymmetric']
    """
    if isinstance(base, str | Path):
        base = config.load(Path(base))
    elif isinstance(base, Mapping):
        base = config.parse(base)
    elif not isinstance(base, RunConfig):
        raise ConfigError(f"base: expected a configuration, tables or a file, got {base!r}")
    runs: list[RunConfig] = []
    for point in _product(base, find_axes(axes)):
        if point.run not in runs:
            runs.append(point.run)
    return runs


@dataclass(frozen=True)
class Axis:
    """Points of which every run has one.

    Args:
        name: Its name, or those of the axes that it unites.
        points: What each is called, and the changes that it makes.
        note: That it unites several axes, and why.
    """

    name: str
    points: Sequence[tuple[str, Changes]]
    note: str = ""

    @property
    def keys(self) -> set[str]:
        """The keys that its points set; a component sets its name and the parameters it has."""
        return {
            key for _, changes in self.points for each in changes.items() for key in _sets(*each)
        }


def find_axes(tables: Mapping[str, Any]) -> list[Axis]:
    """Read axes as they stand in a file.

    Args:
        tables: Values by axis.

    Returns:
        The axes. Those that set the same key are one: a run has one value of it, so its points
        stand side by side.

    Raises:
        ConfigError: A key is unknown or an axis is empty.
    """
    axes: list[Axis] = []
    for name, values in tables.items():
        root = name.partition(".")[0]
        axes += _of_key(name, values) if root in config.FIELDS else [_of_several(name, values)]
    return _united(axes)


def _of_key(key: str, values: Any) -> Iterator[Axis]:
    """Yield the axis of a key; a table is what TOML makes of a dotted key without quotes."""
    if isinstance(values, Mapping) and not isinstance(values.get("name"), str):
        for below, each in values.items():
            yield from _of_key(f"{key}.{below}", each)
        return
    if isinstance(values, str | Mapping | Component) or not isinstance(values, Iterable):
        raise ConfigError(f"axis {key}: expected a list of values, got {_plain(values)!r}")
    listed = [_plain(value) for value in values]
    if not listed:
        raise ConfigError(f"axis {key}: expected at least one value, got none")
    yield Axis(key, [(f"{key} {describe(value)}", {key: value}) for value in listed])


def _of_several(name: str, values: Any) -> Axis:
    """Return the axis of keys that change together."""
    names = [f"{name} {each}" for each in values] if isinstance(values, Mapping) else None
    if not isinstance(values, Iterable) or isinstance(values, str):
        raise ConfigError(unknown("axis", name, config.FIELDS))
    points = list(values.values() if isinstance(values, Mapping) else values)
    if not points:
        raise ConfigError(f"axis {name}: expected at least one point, got none")
    if not all(isinstance(point, Mapping) for point in points):
        raise ConfigError(unknown("axis", name, config.FIELDS))
    flat = [dict(_values_of_point(point)) for point in points]
    for key in (key for point in flat for key in point):
        root = key.partition(".")[0]
        if root not in config.FIELDS:
            near = difflib.get_close_matches(name, config.FIELDS, n=1, cutoff=0.6)
            if near:
                raise ConfigError(unknown("axis", name, config.FIELDS))
            raise ConfigError(
                f"axis {name}: each of its points is a table of keys of a run that change "
                f"together; {unknown('key', root, config.FIELDS)}"
            )
    if not all(flat):
        raise ConfigError(f"axis {name}: a point sets no key")
    if names is None:
        names = [
            ", ".join(f"{key} {describe(value)}" for key, value in point.items()) for point in flat
        ]
    return Axis(name, list(zip(names, flat, strict=True)))


def _values_of_point(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a point; a component with its name is one value."""
    for key, value in table.items():
        path = f"{before}{key}"
        nested = isinstance(value, Mapping) and not {"name", "schedule"} & set(value)
        if nested:
            yield from _values_of_point(value, f"{path}.")
        else:
            yield path, _plain(value)


def _united(axes: Sequence[Axis]) -> list[Axis]:
    made: list[Axis] = []
    for axis in axes:
        alike = [other for other in made if other.keys & axis.keys]
        if not alike:
            made.append(axis)
            continue
        first, *rest = alike
        shared = sorted(set.union(*(other.keys & axis.keys for other in alike)))
        names = [*(other.name for other in alike), axis.name]
        united = Axis(
            " or ".join(names),
            [point for other in (*alike, axis) for point in other.points],
            f"{' and '.join(names)} both set {', '.join(shared)}: a run has a point of one of them",
        )
        made[made.index(first)] = united
        made = [other for other in made if other not in rest]
    return made


def _product(base: RunConfig, axes: Sequence[Axis]) -> Iterator[Point]:
    """Yield the points, each checked by itself."""
    tables = base.tables()
    for parts in itertools.product(*(axis.points for axis in axes)):
        title = ", ".join(name for name, _ in parts)
        changes = {key: value for _, part in parts for key, value in part.items()}
        try:
            yield Point(title, config.parse(with_changes(tables, changes)))
        except ConfigError as error:
            raise ConfigError(f"{title}: {error}" if title else str(error)) from error


def with_changes(tables: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    """Set keys of a run: whole components first, then their names, then single parameters.

    Args:
        tables: The run's tables.
        changes: Values by dotted key.

    Returns:
        The tables with the changes; naming another component starts from its own defaults.

    Raises:
        ConfigError: A key leads into what is no table.

    Example:
        >>> with_changes({"loss": "dal"}, {"loss.q": 0.5, "loss.name": "gce"})
        {'loss': {'name': 'gce', 'q': 0.5}}
    """
    changed = dict(tables)
    order = sorted(changes, key=lambda key: (key.count("."), not key.endswith(".name")))
    for key in order:
        field_, *below = key.split(".")
        changed[field_] = _set(changed.get(field_), below, changes[key], key)
    return changed


def _set(before: Any, path: Sequence[str], value: Any, key: str) -> Any:
    if not path:
        return value
    if isinstance(before, str):
        before = {"name": before}
    if not isinstance(before, Mapping):
        raise ConfigError(f"{key}: expected a table to set {path[0]} in, got {before!r}")
    if path == ["name"] and before.get("name") != value:
        # Another component starts from its own defaults.
        return {"name": value}
    return {**before, path[0]: _set(before.get(path[0]), path[1:], value, key)}


def _sets(key: str, value: Any) -> set[str]:
    """Return the keys that a value sets: of a component its name and its parameters."""
    if not config.is_component(key):
        return {key}
    return {f"{key}.{name}" for name in (value if isinstance(value, Mapping) else ("name",))}


def _plain(value: Any) -> Any:
    return value.table() if isinstance(value, Component) else value


def _named(path: Path, make: Callable[[], T]) -> T:
    try:
        return make()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
