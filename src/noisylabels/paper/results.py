"""The runs of an experiment, found or made, and the tables that they fill."""

import dataclasses
import shlex
import statistics
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noisylabels.errors import ConfigError, check_count, unknown
from noisylabels.paper import published
from noisylabels.paper.experiments import (
    HOSTS,
    LATER_LOSSES,
    LOSSES,
    Column,
    Experiment,
    Part,
    Row,
)
from noisylabels.paper.protocol import DATASETS, INSTANCE, Protocol
from noisylabels.run import config
from noisylabels.run.plan import Sources, plan
from noisylabels.studies import records, study
from noisylabels.studies.records import Run
from noisylabels.studies.study import Study
from noisylabels.studies.table import Cell, Entry, Grid, Place, Table, compare, mark

SELDOM = 1000
"""Epochs from one evaluation to the next, more than any run has: the last always has one."""


@dataclass(frozen=True)
class Choice:
    """Which part of an experiment is asked for, and with what changes.

    Args:
        rows: Titles of rows, or keys of their losses or methods; none are all.
        columns: Keys of columns; none are all.
        seeds: How many seeds; by default those of the scale.
        overrides: Words that set keys of every run, such as ``["--epochs", "10"]``.
        datasets: Names of datasets; none are all.
    """

    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    seeds: int | None = None
    overrides: Sequence[str] = ()
    datasets: Sequence[str] = ()


@dataclass(frozen=True)
class Slot:
    """A run, and where it stands.

    Args:
        row: The number of its row.
        column: The number of its column.
        seed: Its seed.
        run_id: Its id.
    """

    row: int
    column: int
    seed: int
    run_id: str


@dataclass(frozen=True)
class Plan:
    """The runs of an experiment on one dataset.

    Args:
        part: The rows and columns that were asked for.
        slots: The runs.
        study: The same as a study; a run that several slots share is in it once.
        overrides: Words of the command line that all runs follow.
    """

    part: Part
    slots: Sequence[Slot]
    study: Study
    overrides: Sequence[str] = ()

    @property
    def run_ids(self) -> set[str]:
        """The ids of its runs."""
        return {slot.run_id for slot in self.slots}


def prepare(
    experiment: Experiment, protocol: Protocol, choice: Choice, out: Path, *, write: bool = True
) -> list[Plan]:
    """Write an experiment's studies, a file for each dataset, and find what runs they have.

    Args:
        experiment: The experiment.
        protocol: How it is done.
        choice: Which part of it.
        out: Folder of the files, which ``noisylabels sweep`` and ``status`` take too.
        write: Whether the files are written.

    Returns:
        A plan for each dataset.

    Raises:
        ConfigError: The scale does not have it, there is no such dataset, row or column, an
            override is what rows, columns or seeds decide, or none of the noise is of the kind that
            another is asked for in place of.
        DataError: A file that a run names is missing.
        CheckpointError: A file cannot be written.
    """
    if protocol.scale not in experiment.scales:
        raise ConfigError(
            f"{experiment.name} is of scale {' or '.join(map(repr, experiment.scales))}, got "
            f"{protocol.scale!r}: choose by --scale"
        )
    _check_overrides(choice.overrides)
    # Rows have the names that papers call losses by; their keys are as good.
    rows = [TITLES.get(name.casefold(), name) for name in choice.rows]
    choice = dataclasses.replace(choice, rows=rows)
    whole = experiment.parts(protocol)
    _check_names(whole, choice)
    parts = [
        _chosen(part, choice)
        for part in whole
        if not choice.datasets or _is_named(part.dataset, choice.datasets)
    ]
    parts = [part for part in parts if part.rows and part.columns]
    if not parts:
        raise ConfigError(
            f"{experiment.name}: no part has these datasets, rows and columns together"
        )
    if protocol.instance != INSTANCE[0] and not any(map(_depends_on_inputs, parts)):
        raise ConfigError(
            f"--instance {protocol.instance}: must be left out where no column is of "
            f"instance-dependent noise"
        )
    if choice.seeds is not None:
        check_count("seeds", choice.seeds, low=1)
    seeds = range(choice.seeds or protocol.seeds)
    plans = []
    for part in parts:
        path = out / f"{experiment.name}-{protocol.scale}-{part.dataset}.toml"
        base, cells = _cells(experiment, protocol, part, choice.overrides)
        said = f"{experiment.name} at scale {protocol.scale}: {experiment.about}."
        tables = {"base": base, "axes": {"seed": list(seeds), "cell": cells}}
        if write:
            study.write(path, tables, said)
        # As it is read from the file.
        read = study.parse(tomllib.loads(study.text(tables)), path)
        sources = Sources()
        ids = {
            point.title: plan(point.run, trial=False, sources=sources).run_id
            for point in read.points
        }
        slots = [
            Slot(i, j, seed, ids[f"seed {seed}, cell {_title(row, column)}"])
            for seed in seeds
            for i, row in enumerate(part.rows)
            for j, column in enumerate(part.columns)
        ]
        plans.append(Plan(part, slots, read, choice.overrides))
    return plans


TITLES = {key: title for title, key in (LOSSES | LATER_LOSSES | HOSTS).items()}
"""What rows of losses and bigger methods are called, by their keys."""
SET_BY = {
    "seed": "--seeds",
    "noise": "--columns",
    "poison": "--columns",
    "loss.name": "--rows",
    "method.name": "--rows",
}
"""Keys that differ from run to run, and the option that chooses among them."""


def _check_overrides(words: Sequence[str]) -> None:
    """Refuse what would be ignored, or would stand in a row or column of another name."""
    tables = config.override_tables(words)
    for key, option in SET_BY.items():
        root, _, name = key.partition(".")
        value = tables.get(root)
        if value is not None and (not name or not isinstance(value, Mapping) or name in value):
            raise ConfigError(f"--{key}: must be left out: {option} chooses which there are")


def _title(row: Row, column: Column) -> str:
    return f"{row.title}, {column.title}"


def _chosen(part: Part, choice: Choice) -> Part:
    rows = [row for row in part.rows if not choice.rows or _is_named(row.title, choice.rows)]
    columns = [c for c in part.columns if not choice.columns or _is_named(c.key, choice.columns)]
    return Part(part.dataset, rows, columns)


def _check_names(parts: Sequence[Part], choice: Choice) -> None:
    """Refuse datasets, rows and columns that are in no part."""
    datasets = list(dict.fromkeys(part.dataset for part in parts))
    rows = list(dict.fromkeys(row.title for part in parts for row in part.rows))
    columns = list(dict.fromkeys(column.key for part in parts for column in part.columns))
    for what, given, known in (
        ("dataset", choice.datasets, datasets),
        ("row", choice.rows, rows),
        ("column", choice.columns, columns),
    ):
        for name in given:
            if not _is_named(name, known):
                raise ConfigError(unknown(what, name, known))


def _depends_on_inputs(part: Part) -> bool:
    return any(each.setting and each.setting.kind == INSTANCE[0] for each in part.columns)


def _is_named(name: str, names: Iterable[str]) -> bool:
    return name.casefold() in {each.casefold() for each in names}


def _cells(
    experiment: Experiment, protocol: Protocol, part: Part, overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the runs of a part have in common, and by title what each cell changes."""
    recipe = protocol.base(part.dataset)
    if not experiment.curves:
        # The last epoch is what counts, whichever it is.
        recipe["evaluate_every"] = SELDOM
    whole = config.parse(recipe).tables()
    base = _overridden(whole, overrides)
    cells: dict[str, Any] = {}
    for row in part.rows:
        for column in part.columns:
            changes = _changes(protocol, part, row, column)
            own = _overridden(study.with_changes(whole, changes), overrides)
            cells[_title(row, column)] = _different(own, base)
    defaults = config.parse({"data": base["data"]}).tables() | {"data": None}
    return _different(base, defaults), cells


def _overridden(tables: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    return config.parse(config.override(tables, overrides)).tables()


def _different(tables: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is not the same in other tables."""
    return {key: value for key, value in tables.items() if value != other[key]}


def _changes(protocol: Protocol, part: Part, row: Row, column: Column) -> dict[str, Any]:
    noise = protocol.noise(part.dataset, column.setting) if column.setting else {"name": "none"}
    return {"noise": noise, **column.changes, **row.changes(column)}


@dataclass(frozen=True)
class PaperTable(Table):
    """A table with the paper's own numbers below each row.

    Args:
        title: What it is.
        printed: The paper's numbers, by place.
        printed_of: The dataset that these are of.
    """

    title: str = ""
    printed_of: str = ""
    printed: Mapping[Place, published.Published] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """What the table shows."""
        return f"{self.title}: {super().heading}"

    def grids(self) -> list[Grid]:
        """Return the table with the paper's numbers, and that of the differences."""
        first, *rest = super().grids()
        rows: list[tuple[Sequence[str], Sequence[tuple[str, bool]]]] = []
        for number, (texts, cells) in enumerate(first.rows):
            rows.append((texts, cells))
            printed = [self.printed.get((number, column)) for column in range(len(self.columns))]
            if any(printed):
                shown = [("" if each is None else str(each), False) for each in printed]
                rows.append(([f"    paper, {self.printed_of}"], shown))
        return [
            Grid(first.heading, first.corner, first.columns, rows, first.remarks, first.best),
            *rest,
        ]


def tabulate(
    experiment: Experiment, protocol: Protocol, made: Plan, runs: Mapping[str, Run]
) -> list[Table]:
    """Fill the tables of a part.

    Args:
        experiment: The experiment.
        protocol: How it is done.
        made: The part's plan.
        runs: Finished runs by id; cells without any are left empty.

    Returns:
        A table for each of the experiment's values that any run has.
    """
    part = made.part
    rows = [Entry((row.title,), (row.title,), (frozenset([row.title]),)) for row in part.rows]
    columns = [Entry((c.title,), (c.title,), (frozenset([c.key]),)) for c in part.columns]
    titles = [row.title for row in part.rows]
    against = titles.index(experiment.against) if experiment.against in titles else None
    tables: list[Table] = []
    for value in experiment.values:
        found: dict[Place, dict[int, float]] = {}
        for slot in made.slots:
            result = runs[slot.run_id].result if slot.run_id in runs else None
            if result is not None and result.get(value) is not None:
                found.setdefault((slot.row, slot.column), {})[slot.seed] = result[value]
        if not found:
            continue
        given = any(run.against_given for run in runs.values())
        cells = {place: Cell(by_seed, given) for place, by_seed in found.items()}
        # Nobody has published numbers of digits: the paper's first table stands beside them.
        dataset = "cifar10" if part.dataset == "digits" else part.dataset
        printed = published.find(experiment.name, dataset, value)
        direction = "low" if value == "attack_success" else "high"
        tables.append(
            PaperTable(
                value=value,
                row_keys=("",),
                column_keys=(experiment.across,),
                rows=rows,
                columns=columns,
                cells=compare(mark(cells, direction), against),
                direction=direction,
                against=against,
                remarks=_remarks(protocol, made, runs, bool(printed)),
                printed_of=DATASETS[dataset],
                title=f"{DATASETS[part.dataset]}, scale {protocol.scale}",
                printed={
                    (i, j): numbers[column.key]
                    for i, row in enumerate(part.rows)
                    for j, column in enumerate(part.columns)
                    if column.key in (numbers := printed.get(row.title, {}))
                },
            )
        )
    return tables


def _remarks(
    protocol: Protocol, made: Plan, runs: Mapping[str, Run], printed: bool
) -> tuple[str, ...]:
    """Say what has to be said of a table's runs."""
    remarks = []
    if made.overrides:
        remarks.append(f"in all runs: {shlex.join(made.overrides)}")
    if protocol.network is not None:
        remarks.append(f"network: {protocol.network}")
    if protocol.instance != INSTANCE[0]:
        remarks.append(f"instance-dependent noise: {protocol.instance}")
    rates = []
    for number, column in enumerate(made.part.columns):
        if column.setting is None:
            continue
        here = [
            runs[slot.run_id].result or {}
            for slot in made.slots
            if slot.column == number and slot.run_id in runs
        ]
        # Of different labels each counts once: of a file all runs have the same.
        actual = sorted({result["actual_noise_rate"] for result in here})
        if actual:
            origin = (
                "published"
                if protocol.noise(made.part.dataset, column.setting)["name"] == "file"
                else "made here"
            )
            rates.append(f"{column.title} is {100 * statistics.fmean(actual):.1f} % ({origin})")
    if rates:
        remarks.append(f"labels that are wrong: {', '.join(rates)}")
    published_values = [row.title for row in made.part.rows if not row.chosen]
    if published_values:
        remarks.append(
            f"not tuned for this, values as published or by default: {', '.join(published_values)}"
        )
    computed = sorted({str(run.computed) for run in _own(made, runs)})
    if len(computed) > 1:
        remarks.append(f"runs computed in different precision: {', '.join(computed)}")
    missing = len(made.run_ids - set(runs))
    if missing:
        remarks.append(f"runs that are missing: {missing} of {len(made.slots)}")
    if printed:
        remarks.append(f"paper: {published.source()}")
    return tuple(remarks)


def _own(made: Plan, runs: Mapping[str, Run]) -> list[Run]:
    return [runs[slot.run_id] for slot in made.slots if slot.run_id in runs]


def collect(
    plans: Iterable[Plan], places: Iterable[Path], out: Path, *, curves: bool = False
) -> dict[str, Run]:
    """Find the finished runs of some plans.

    Args:
        plans: The plans.
        places: Archives and folders of runs to look in.
        out: The folder that runs are made into.
        curves: Whether only those count of which every epoch is known.

    Returns:
        Finished runs by id.

    Raises:
        DataError: A place holds no runs, or is damaged.
    """
    wanted = {run_id for made in plans for run_id in made.run_ids}
    own = [out / run_id for run_id in wanted if (out / run_id / "config.json").exists()]
    places = [*places, *own]
    if not places:
        return {}
    return {
        run.run_id: run
        for run in records.read(places)
        if run.result is not None
        and run.run_id in wanted
        and not (curves and _evaluated(run) < run.config["epochs"])
    }


def _evaluated(run: Run) -> int:
    """Count the epochs after which a run was evaluated: those of a table's run are few."""
    return sum(line.get("test_accuracy") is not None for line in run.metrics)


def describe(made: Plan, runs: Mapping[str, Run]) -> str:
    """Say in a line how many runs there are, and how many of them are found.

    Args:
        made: A plan.
        runs: Finished runs by id.
    """
    ids = made.run_ids
    return (
        f"{len(made.part.rows)} rows, {len(made.part.columns)} columns, "
        f"{len({slot.seed for slot in made.slots})} seeds: {len(ids)} runs, {len(ids & set(runs))} "
        f"of them finished"
    )
