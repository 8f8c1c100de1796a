"""A table of any runs: what stands in rows, what in columns, and one result in the cells.

Rows and columns are settings by key. What shares a cell may differ in nothing but the seed, or the
mean would be of nothing in particular: it is refused, with what differs. Cells hold mean ± sample
standard deviation over seeds.
"""

import functools
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from noisylabels.errors import ConfigError, DataError, check_choice, unknown
from noisylabels.run.config import Word
from noisylabels.run.plan import REGISTRIES
from noisylabels.studies import records
from noisylabels.studies.records import Run, describe, flatten, order
from noisylabels.studies.status import AGAINST_GIVEN

FRACTIONS = frozenset(["accuracy", "rate", "success"])
"""Words of a result's key that make it a fraction, which is shown in percent."""
NOISE_RATES = (
    ("actual_noise_rate", "labels that are really wrong"),
    ("estimated_noise_rate", "labels that are estimated to be wrong"),
    ("reachable_test_accuracy", "a perfect model would have against given test labels about"),
)
"""Results that say how many labels are wrong, and what is said of them; those that are estimated
only where the noise is not known."""
LESS_IS_BETTER = frozenset(["wrong", "loss", "seconds", "bytes", "skipped", "attack"])
"""Words of a result's key of which less is better: labels memorised, an attack's success, cost."""
BEST = ("auto", "high", "low", "none")
NOTHING = "–"
DIGITS = 3
"""Digits that a number has which is no fraction."""
ROUNDING = 1e-12
"""Differences that are this close, relative to what differs, are the same."""
Place = tuple[int, int]
"""Numbers of a row and a column."""


@dataclass(frozen=True)
class Difference:
    """What a cell has more than the cell it is compared with, seed by seed.

    Args:
        seeds: Seeds that both have.
        mean: Mean of the differences.
        std: Their sample standard deviation; None of one seed, as ``p``.
        p: Of a paired, two-sided t-test over the seeds.
    """

    seeds: int
    mean: float
    std: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Cell:
    """Runs that differ in nothing but the seed.

    Args:
        values: The result by seed.
        against_given: Whether the labels that a test accuracy is counted against may be wrong.
        best: Whether it is the best of its column, or within the best one's standard error.
        difference: To the row that all are compared with.
    """

    values: Mapping[int, float]
    against_given: bool = False
    best: bool = False
    difference: Difference | None = None

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.values.values())

    @property
    def std(self) -> float | None:
        """The sample standard deviation over seeds; None of one."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def error(self) -> float:
        """The standard error of the mean; 0 of one seed."""
        return (self.std or 0.0) / math.sqrt(len(self.values))


@dataclass(frozen=True)
class Entry:
    """A row or a column.

    Args:
        texts: What it is, a text for each key.
        heads: The same where it stands without its keys, as above a column.
        names: What it may be called by each key: its text, and the name of its component.
    """

    texts: tuple[str, ...]
    heads: tuple[str, ...]
    names: tuple[frozenset[str], ...]

    @property
    def title(self) -> str:
        """What it is, in one line."""
        return ", ".join(self.heads)


@dataclass(frozen=True)
class Grid:
    """A table as it is shown, whatever the format.

    Args:
        heading: What is in it.
        corner: The keys of the rows.
        columns: The heads of the columns, from the outermost.
        rows: The texts of each row, and its cells: the text, and whether it is marked.
        remarks: What is said below it.
        best: What it means that a cell is marked; nothing where none is.
    """

    heading: str
    corner: Sequence[str]
    columns: Sequence[tuple[str, ...]]
    rows: Sequence[tuple[Sequence[str], Sequence[tuple[str, bool]]]]
    remarks: Sequence[str]
    best: str = ""

    def notes(self, mark: str = "bold") -> list[str]:
        """Return all that is said below it, where a mark looks like this."""
        return [*([f"{mark}: {self.best}"] if self.best else []), *self.remarks]

    def widths(self) -> list[int]:
        """Return how many signs the longest line of each column has."""
        cells = [[cell for cell, _ in cells] for _, cells in self.rows]
        return [
            max(map(len, (*column, *(row[number] for row in cells))))
            for number, column in enumerate(self.columns)
        ]

    def heads(self) -> list[list[tuple[str, int]]]:
        """Return the rows of the columns' heads: what is said, and over how many columns."""
        lines = []
        for level in range(len(self.columns[0])):
            line: list[tuple[str, int]] = []
            for number, column in enumerate(self.columns):
                before = self.columns[number - 1][: level + 1] if number else None
                if column[: level + 1] == before:
                    line[-1] = (line[-1][0], line[-1][1] + 1)
                else:
                    line.append((column[level], 1))
            lines.append(line)
        return lines


@dataclass(frozen=True)
class Table:
    """One result by rows and columns.

    Args:
        value: The result's key.
        row_keys: What the rows are made of.
        column_keys: What the columns are made of; there may be none.
        rows: The rows.
        columns: The columns.
        cells: The cells by place; where there is no result there is none.
        direction: Whether the ``"high"`` or the ``"low"`` are best; ``"none"`` is.
        against: The row that the others are compared with.
        remarks: What has to be said of the runs.
    """

    value: str
    row_keys: tuple[str, ...]
    column_keys: tuple[str, ...]
    rows: Sequence[Entry]
    columns: Sequence[Entry]
    cells: Mapping[Place, Cell]
    direction: str
    against: int | None = None
    remarks: Sequence[str] = field(default_factory=tuple)

    @property
    def heading(self) -> str:
        """What the table shows."""
        most, least = max(self._counts), min(self._counts)
        if most == 1:
            over = "one seed each"
        else:
            seeds = f"{most} seeds" if least == most else f"up to {most} seeds"
            over = f"mean ± standard deviation over {seeds}"
        return f"{self._name}{', %' if self.in_percent else ''}: {over}"

    @functools.cached_property
    def in_percent(self) -> bool:
        """Whether the result is a fraction."""
        numbers = [value for cell in self.cells.values() for value in cell.values.values()]
        named = FRACTIONS & set(self.value.split("_"))
        return bool(named) and all(0 <= number <= 1 for number in numbers)

    def grids(self) -> list[Grid]:
        """Return the table and, where rows are compared with one, that of their differences."""
        columns = [entry.heads or (self.value,) for entry in self.columns]
        rows = [
            (row.texts, [self._shown(self.cells.get((i, j))) for j in range(len(self.columns))])
            for i, row in enumerate(self.rows)
        ]
        marked = any(cell.best for cell in self.cells.values())
        best = f"the {self.direction}est mean of a column, and what is within its standard error"
        grids = [
            Grid(self.heading, self.row_keys, columns, rows, self.remarks, best if marked else "")
        ]
        if self.against is not None and len(self.rows) > 1:
            differences = [
                (row.texts, [(self._compared(i, j), False) for j in range(len(self.columns))])
                for i, row in enumerate(self.rows)
                if i != self.against
            ]
            points = ", percentage points" if self.in_percent else ""
            heading = f"{self._name}, difference to {self.rows[self.against].title}{points}"
            note = (
                "mean ± standard deviation of the differences over the seeds that both have; "
                "p: paired t-test, two-sided, not corrected for how many are compared"
            )
            grids.append(Grid(heading, self.row_keys, columns, differences, [note]))
        return grids

    @property
    def _name(self) -> str:
        given = self.value.startswith("test_accuracy") and all(
            cell.against_given for cell in self.cells.values()
        )
        return f"{self.value} {AGAINST_GIVEN}" if given else self.value

    @functools.cached_property
    def _counts(self) -> list[int]:
        return [len(cell.values) for cell in self.cells.values()]

    @functools.cached_property
    def _decimals(self) -> int:
        if self.in_percent:
            return 1
        largest = max(abs(cell.mean) for cell in self.cells.values())
        magnitude = math.floor(math.log10(largest)) if largest else DIGITS
        return max(0, DIGITS - 1 - magnitude)

    def _number(self, number: float, sign: str = "") -> str:
        # What rounds to nothing is neither more nor less.
        number = round(100 * number if self.in_percent else number, self._decimals) or 0.0
        return f"{number:{sign if number else ''},.{self._decimals}f}"

    def _spread(self, mean: float, std: float | None, sign: str = "") -> str:
        own = self._number(mean, sign)
        return own if std is None else f"{own} ± {self._number(std)}"

    def _shown(self, cell: Cell | None) -> tuple[str, bool]:
        if cell is None:
            return NOTHING, False
        count = len(cell.values)
        fewer = f" (n {count})" if count < max(self._counts) else ""
        return self._spread(cell.mean, cell.std) + fewer, cell.best

    def _compared(self, row: int, column: int) -> str:
        cell = self.cells.get((row, column))
        found = cell.difference if cell else None
        if found is None:
            return NOTHING
        p = NOTHING if found.p is None else "< 0.001" if found.p < 0.001 else f"{found.p:.3f}"
        return f"{self._spread(found.mean, found.std, sign='+')}, p {p}"


def keys(text: str) -> tuple[str, ...]:
    """Read keys as they stand on the command line.

    Args:
        text: The keys with commas between them.

    Example:
        >>> keys("noise, noise.rate")
        ('noise', 'noise.rate')
    """
    return tuple(filter(None, (key.strip() for key in text.split(","))))


def select(runs: Iterable[Run], where: str) -> list[Run]:
    """Choose runs by their settings.

    Args:
        runs: The runs.
        where: What they must have: ``key=value`` with commas between several, values as on the
            command line of a run. A component's value is its name.

    Returns:
        Those that have all of it.

    Raises:
        ConfigError: It is no ``key=value``, or no run has the key.
        DataError: No run has the value.

    Example:
        >>> from pathlib import Path
        >>> runs = [Run(Path(str(n)), {"data": {"name": "digits"}, "epochs": n}) for n in (1, 2)]
        >>> [run.tables["epochs"] for run in select(runs, "data=digits,epochs=2")]
        [2]
    """
    chosen = list(runs)
    addresses = {id(run): _addresses(run) for run in chosen}
    for condition in _conditions(where):
        key, equals, text = (part.strip() for part in condition.partition("="))
        if not equals:
            raise ConfigError(f"--where: expected key=value, got {condition!r}")
        _check_keys("key of --where", [key], addresses.values())
        readings = Word(text).readings()
        left = []
        for run in chosen:
            value = addresses[id(run)].get(key)
            if value in readings or text in (_called(value), _text(value)):
                left.append(run)
        if not left:
            there = _distinct(addresses[id(run)].get(key) for run in chosen)
            raise DataError(f"--where {condition}: no run has it (there are: {', '.join(there)})")
        chosen = left
    return chosen


def pivot(
    runs: Iterable[Run],
    rows: Sequence[str],
    columns: Sequence[str],
    value: str,
    *,
    best: str = "auto",
    against: str | None = None,
) -> Table:
    """Put a result of finished runs into rows and columns.

    A key is a setting's (``epochs``), a component's parameter's (``noise.rate``), a component's
    name's (``loss.name``) or a component's (``loss``), which stands for all of it: its name, the
    parameters that tell components of one name apart, and what its files hold; without parameters
    that are keys themselves.

    Args:
        runs: The runs, see :func:`noisylabels.studies.records.read`; those that are not finished
            are left out.
        rows: Keys, at least one.
        columns: Keys.
        value: A key of ``result.json`` whose value is a number.
        best: Which are marked in each column that has several: ``"high"``, ``"low"``, ``"none"``;
            ``"auto"`` is high for accuracies and what is counted per second, low where a word of
            the key is in ``LESS_IS_BETTER``, else none.
        against: The row that the others are compared with: its title, or the name of a component
            or the value that no other row has, perhaps with its key (``loss.name=ce``).

    Returns:
        The table.

    Raises:
        ConfigError: A key or the row is not known, or stands for several.
        DataError: No run is finished, no run has a number for the result, or what shares a cell
            differs in more than the seed.
    """
    groups = records.group(runs)
    finished = [run for found in groups for run in found]
    addresses = {id(run): _addresses(run) for run in finished}
    every = (*rows, *columns)
    if not rows:
        raise ConfigError("--rows: expected a key such as loss, got none")
    if len(set(every)) < len(every):
        twice = next(key for key in every if every.count(key) > 1)
        raise ConfigError(f"{twice} is given twice: a key is in --rows or --columns, once")
    _check_keys("key", every, addresses.values())
    check_choice("--best", best, BEST)
    _check_value(value, finished)

    row_of, row_entries, legend = _axis(finished, rows, every, addresses)
    column_of, column_entries, more = _axis(finished, columns, every, addresses)
    together: dict[Place, list[Run]] = {}
    for run in finished:
        together.setdefault((row_of[id(run)], column_of[id(run)]), []).append(run)
    cells = {}
    infinite = []
    for place, found in sorted(together.items()):
        _check_together(found, _title(place, row_entries, column_entries))
        values = {}
        for run in found:
            number = (run.result or {}).get(value)
            if _is_number(number) and math.isfinite(number):
                values[run.seed] = float(number)
            elif _is_number(number):
                infinite.append(run.run_id)
        if values:
            cells[place] = Cell(values, any(run.against_given for run in found))
    if not cells:
        raise DataError(f"{value}: expected a finite number in some run, got none")

    direction = _direction(value) if best == "auto" else best
    reference = None if against is None else _find_row(against, rows, row_entries)
    settings = [found[0].settings for found in groups]
    apart = records.differences(settings)
    other = {key: found for key, found in apart.items() if not _covers(every, key, groups)}
    remarks = [
        f"all runs: {records.common(settings, apart)}",
        *dict.fromkeys([*legend, *more]),
        *records.places(groups, apart),
        *(
            f"{'.'.join(key)} differs between cells: {', '.join(_distinct(found))}"
            for key, found in other.items()
        ),
        *(
            line
            for told in NOISE_RATES
            for line in _noise_rates(
                finished, told, (rows, row_of, row_entries), (columns, column_of, column_entries)
            )
        ),
        *([] if "seed" in every else _missing_seeds(cells, row_entries, column_entries)),
        *([f"not finite, and left out: {', '.join(infinite)}"] if infinite else []),
        *(_given(cells, row_entries, column_entries) if value.startswith("test_accuracy") else ()),
    ]
    return Table(
        value=value,
        row_keys=tuple(rows),
        column_keys=tuple(columns),
        rows=row_entries,
        columns=column_entries,
        cells=compare(mark(cells, direction), reference),
        direction=direction,
        against=reference,
        remarks=remarks,
    )


def _addresses(run: Run) -> dict[str, Any]:
    """Return a run's settings by dotted key; of a finished one without what does not count."""
    own = flatten(run.tables)
    if run.result is not None:
        own |= flatten(run.settings)
    parts = {part: own.get(part) for part in REGISTRIES}
    return own | {f"{p}.name": each["name"] for p, each in parts.items() if _is_component(each)}


def _is_component(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and "name" in value


def _part(key: str) -> str:
    """Return the component that a key, its own or that of its name, is of; else nothing."""
    part = key.removesuffix(".name")
    return part if part in REGISTRIES else ""


def _conditions(where: str) -> list[str]:
    """Part conditions at their commas, but for those within brackets."""
    parts, depth = [""], 0
    for sign in where:
        depth += (sign in "[(") - (sign in "])")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part for part in parts if part.strip()]


def _check_keys(what: str, given: Iterable[str], addresses: Iterable[Mapping[str, Any]]) -> None:
    known = {key for each in addresses for key in each}
    for key in given:
        if key not in known:
            raise ConfigError(unknown(what, key, known))


def _check_value(value: str, runs: Sequence[Run]) -> None:
    results = [run.result or {} for run in runs]
    numbers = {key for each in results for key, own in each.items() if _is_number(own)}
    if value in numbers:
        return
    if any(value in each for each in results):
        there = ", ".join(dict.fromkeys(repr(each[value]) for each in results if value in each))
        raise DataError(f"{value}: expected a number in some run's result.json, got {there}")
    raise ConfigError(unknown("value", value, numbers))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_together(runs: Sequence[Run], title: str) -> None:
    """Refuse runs in one cell that differ in more than the seed."""
    different = list({run.key: run for run in runs}.values())
    if len(different) == 1:
        return
    apart = records.differences([run.settings for run in different])
    said = [f"{'.'.join(key)} ({', '.join(_distinct(found))})" for key, found in apart.items()]
    key, (first, *_) = next(iter(apart.items()))
    choice = f"{'.'.join(key)}={_called(first)}"
    raise DataError(
        f"{title}: runs of one cell differ in more than the seed, in {'; '.join(said)}: add what "
        f"tells them apart to --rows or --columns, or choose, such as with --where '{choice}'"
    )


def _called(value: Any) -> str:
    """Return what a value may be called in short: of a table its name."""
    named = isinstance(value, Mapping)
    return _text(value.get("name", value.get("schedule", value)) if named else value)


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(map(_text, sorted(values, key=order))))


def _text(value: Any) -> str:
    return describe(value) or NOTHING


def _axis(
    runs: Sequence[Run],
    axis: Sequence[str],
    every: Sequence[str],
    addresses: Mapping[int, Mapping[str, Any]],
) -> tuple[dict[int, int], list[Entry], list[str]]:
    """Make the rows, or the columns, of a table.

    Args:
        runs: Finished runs.
        axis: The keys of the rows.
        every: The keys of the rows and the columns.
        addresses: The settings of each run by dotted key.

    Returns:
        The number of each run's row; the rows; and what their texts stand for.
    """
    texts: dict[str, dict[str, str]] = {}
    values: dict[int, list[_Value]] = {
        id(run): [_value(run, key, every, addresses[id(run)].get(key)) for key in axis]
        for run in runs
    }
    legend = []
    for place, key in enumerate(axis):
        distinct = {value[place].canonical: value[place] for value in values.values()}
        texts[key], full = _tell_apart(list(distinct.values()))
        part = _part(key)
        if part and part != key:
            # The name alone: what else there is to it is said below.
            wholes = [_value(run, part, every, addresses[id(run)].get(part)) for run in runs]
            full = sorted({_text(each.plain) for each in wholes} - set(texts[key].values()))
        # One alone is among what all runs have in common.
        legend += [f"{part or key} {each}" for each in full if len(distinct) > 1]
    found: dict[tuple[str, ...], list[_Value]] = {}
    for own in values.values():
        found.setdefault(tuple(value.canonical for value in own), own)
    ordered = sorted(
        found,
        key=lambda each: [value.order(key) for key, value in zip(axis, found[each], strict=True)],
    )
    number = {each: place for place, each in enumerate(ordered)}
    of = {run: number[tuple(value.canonical for value in own)] for run, own in values.items()}
    entries = []
    for each in ordered:
        said = tuple(texts[key][canonical] for key, canonical in zip(axis, each, strict=True))
        heads = tuple(
            one if _part(key) else f"{key} {one}" for key, one in zip(axis, said, strict=True)
        )
        called = (_called(value.plain) for value in found[each])
        names = tuple(map(frozenset, zip(said, called, strict=True)))
        entries.append(Entry(said, heads, names))
    return of, entries, legend


@dataclass(frozen=True)
class _Value:
    """The value of a key.

    Args:
        plain: The setting.
        contents: Of a component, digests of what its files hold.
    """

    plain: Any
    contents: Mapping[str, str] = field(default_factory=dict)

    @property
    def canonical(self) -> str:
        return json.dumps([self.plain, self.contents], sort_keys=True)

    def order(self, key: str) -> tuple[Any, ...]:
        named = isinstance(self.plain, str) and _part(key)
        plain = {"name": self.plain} if named else self.plain
        return (order(plain, REGISTRIES.get(_part(key), ())), order(self.contents))


def _value(run: Run, key: str, every: Sequence[str], plain: Any) -> _Value:
    """Return a run's value of a key; of a component without what has a key of its own."""
    if key not in REGISTRIES or not isinstance(plain, Mapping):
        return _Value(plain)
    own = {
        name: each for name, each in plain.items() if name == "name" or f"{key}.{name}" not in every
    }
    contents = {
        each.title: each.digest
        for each in run.contents
        if each.part == key
        and not any(f"{key}.{name}" in every for name in each.parameters)
        and each.title not in every
    }
    return _Value(own, contents)


def _tell_apart(values: Sequence[_Value]) -> tuple[dict[str, str], list[str]]:
    """Write distinct values as briefly as they can be told apart.

    Returns:
        A text for each, and in full those that it does not say all of.
    """
    by_name: dict[str | None, list[_Value]] = {}
    for value in values:
        name = _called(value.plain) if isinstance(value.plain, Mapping) else None
        by_name.setdefault(name, []).append(value)
    said: dict[str, str] = {}
    full = []
    for name, found in by_name.items():
        if name is None:
            said |= {value.canonical: _text(value.plain) for value in found}
            continue
        settings = _differing([value.plain for value in found])
        brief = [{"name": name} | own for own in settings]
        if len({json.dumps(each, sort_keys=True) for each in brief}) < len(found):
            contents = _differing([value.contents for value in found])
            brief = [each | own for each, own in zip(brief, contents, strict=True)]
        for value, each in zip(found, brief, strict=True):
            said[value.canonical] = describe(each)
            if set(value.plain) - set(each):
                full.append(describe(value.plain))
    return said, full


def _differing(tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return of each table what is not the same in all."""
    names = dict.fromkeys(name for table in tables for name in table)
    apart = [
        name for name in names if any(each.get(name) != tables[0].get(name) for each in tables)
    ]
    return [{name: table[name] for name in apart if name in table} for table in tables]


def _covers(every: Sequence[str], key: records.Key, groups: Sequence[Sequence[Run]]) -> bool:
    """Return whether rows and columns say what a setting is."""
    if {".".join(key), key[0]} & set(every) or (len(key) == 1 and f"{key[0]}.name" in every):
        return True
    return any(
        each.part in every or any(f"{each.part}.{name}" in every for name in each.parameters)
        for found in groups
        for each in found[0].contents
        if each.title == key[0]
    )


def _find_row(against: str, keys: Sequence[str], rows: Sequence[Entry]) -> int:
    titles = [row.title for row in rows]
    found = [number for number, title in enumerate(titles) if title == against]
    found = found or [n for n, row in enumerate(rows) if against in frozenset().union(*row.names)]
    key, _, text = (part.strip() for part in against.partition("="))
    if not found and key in keys:
        place = keys.index(key)
        found = [number for number, row in enumerate(rows) if text in row.names[place]]
    if not found:
        known = {name for row in rows for name in (row.title, *frozenset().union(*row.names))}
        raise ConfigError(unknown("row of --against", against, known))
    if len(found) > 1:
        several = " or ".join(repr(titles[number]) for number in found)
        raise ConfigError(f"--against {against}: expected one row, such as {several}")
    return found[0]


def _direction(value: str) -> str:
    words = set(value.split("_"))
    if words & LESS_IS_BETTER:
        return "low"
    return "high" if "accuracy" in words or value.endswith("per_second") else "none"


def mark(cells: Mapping[Place, Cell], direction: str) -> dict[Place, Cell]:
    """Mark the best of each column, and what is within its standard error.

    Args:
        cells: The cells by place.
        direction: Whether the ``"high"`` or the ``"low"`` are best; ``"none"`` marks nothing.
    """
    marked = dict(cells)
    if direction == "none":
        return marked
    sign = 1 if direction == "high" else -1
    for column in {column for _, column in cells}:
        own = {place: cell for place, cell in cells.items() if place[1] == column}
        # Nothing is better than nothing.
        if len(own) > 1:
            best = max(own.values(), key=lambda cell: sign * cell.mean)
            for place, cell in own.items():
                near = sign * (best.mean - cell.mean) <= best.error
                marked[place] = replace(cell, best=near)
    return marked


def compare(cells: Mapping[Place, Cell], reference: int | None) -> dict[Place, Cell]:
    """Add to each cell its difference to that of one row.

    Args:
        cells: The cells by place.
        reference: The row; None adds nothing.
    """
    compared = dict(cells)
    for (row, column), cell in cells.items():
        other = None if reference is None else cells.get((reference, column))
        if other is not None and row != reference:
            gap = difference(cell.values, other.values)
            compared[row, column] = replace(cell, difference=gap)
    return compared


def difference(own: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """Compare results seed by seed.

    Args:
        own: Results by seed.
        other: Likewise.

    Returns:
        What ``own`` has more; None where they have no seed in common.
    """
    # scipy.stats, whose ttest_rel gives the same, takes longer to import than 500 runs to read.
    from scipy.special import stdtr

    seeds = sorted(own.keys() & other.keys())
    if not seeds:
        return None
    ours, theirs = [own[seed] for seed in seeds], [other[seed] for seed in seeds]
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(gaps)
    if len(seeds) == 1:
        return Difference(1, mean)
    std = statistics.stdev(gaps)
    nothing = ROUNDING * max(map(abs, (*ours, *theirs)))
    if std <= nothing:
        # Then t is 0/0; or beyond all bounds, though a few accuracies of so many test examples
        # can differ alike by chance, which the test cannot know.
        return Difference(len(seeds), mean, 0.0, 1.0 if abs(mean) <= nothing else None)
    t = mean / (std / math.sqrt(len(seeds)))
    return Difference(len(seeds), mean, std, 2 * float(stdtr(len(seeds) - 1, -abs(t))))


def _title(place: Place, rows: Sequence[Entry], columns: Sequence[Entry]) -> str:
    return " × ".join(filter(None, (rows[place[0]].title, columns[place[1]].title)))


def _missing_seeds(
    cells: Mapping[Place, Cell], rows: Sequence[Entry], columns: Sequence[Entry]
) -> list[str]:
    seeds = sorted({seed for cell in cells.values() for seed in cell.values})
    lacking = []
    for place, cell in cells.items():
        missing = [str(seed) for seed in seeds if seed not in cell.values]
        if missing:
            lacking.append(f"{_title(place, rows, columns)} lacks {', '.join(missing)}")
    return [f"seeds: {'; '.join(lacking)}"] if lacking else []


def _given(
    cells: Mapping[Place, Cell], rows: Sequence[Entry], columns: Sequence[Entry]
) -> list[str]:
    given = [_title(place, rows, columns) for place, cell in cells.items() if cell.against_given]
    # Where all are, the heading says so.
    return [f"{AGAINST_GIVEN}: {'; '.join(given)}"] if 0 < len(given) < len(cells) else []


def _noise_rates(
    runs: Sequence[Run],
    told: tuple[str, str],
    *axes: tuple[Sequence[str], Mapping[int, int], Sequence[Entry]],
) -> list[str]:
    """Say how many labels are wrong, for each noise and dataset of the table.

    Args:
        runs: The runs.
        told: One of ``NOISE_RATES``.
        axes: The keys of rows and columns, the entry of each run, and the entries.
    """
    name, title = told
    actual: dict[tuple[str, ...], set[tuple[int, float]]] = {}
    nominal: dict[tuple[str, ...], set[float]] = {}
    for run in sorted(runs, key=lambda run: [of[id(run)] for _, of, _ in reversed(axes)]):
        result = run.result or {}
        known = result.get("actual_noise_rate") is not None
        if result.get(name) is None or (known and name != "actual_noise_rate"):
            continue
        said = tuple(
            head
            for axis, of, entries in axes
            for key, head in zip(axis, entries[of[id(run)]].heads, strict=True)
            if key.partition(".")[0] in ("noise", "data")
        )
        # All that a seed is trained with has the same labels: they count once.
        actual.setdefault(said, set()).add((run.seed, result[name]))
        if result.get("nominal_noise_rate") is not None:
            nominal.setdefault(said, set()).add(result["nominal_noise_rate"])
    lines = []
    for said, found in actual.items():
        rates = [100 * rate for _, rate in sorted(found)]
        std = f" ± {statistics.stdev(rates):.1f}" if len(rates) > 1 else ""
        wanted = [f"{100 * rate:g}" for rate in sorted(nominal.get(said, ()))]
        meant = f" (nominal {', '.join(wanted)} %)" if wanted else ""
        whose = f"{', '.join(said)}: " if said else ""
        lines.append(f"{whose}{statistics.fmean(rates):.1f}{std} %{meant}")
    return [f"{title}: {'; '.join(lines)}"] if lines else []
