"""A space: the keys of a run that are chosen, and the values that each may take."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from noisylabels.errors import ConfigError, unknown
from noisylabels.run import config
from noisylabels.run.config import RunConfig
from noisylabels.run.plan import INVARIANT, plan
from noisylabels.studies.records import describe
from noisylabels.studies.study import with_changes

WORDS = ("low", "high", "log", "step")
"""What a range's table may hold."""
REFUSED = {
    "data": "what is chosen is compared on the same examples",
    "noise": "what is chosen is compared on the same labels",
    "seed": "--seeds repeats each trial",
    "validation": "the hold-out is what trials are compared by",
    "validation_labels": "the hold-out is what trials are compared by",
    "test_labels": "no trial sees the test set",
    "test": "no trial sees the test set",
    "devices": "a run of a study has one process",
    "nodes": "a run of a study has one process",
    **dict.fromkeys(sorted(INVARIANT), "the result does not depend on it"),
}
"""Keys of a run that are not for choosing, each with the reason."""
DIGITS = 4
"""Significant digits of a number that is shown to people."""


@dataclass(frozen=True)
class Range:
    """Numbers from one end to the other, both included.

    Args:
        key: A dotted key of a run's file.
        low: The least.
        high: The greatest.
        log: Whether they are drawn on a logarithmic scale.
        step: Distance between two of them; any number in between where it is None.
        whole: Whether they are whole.
    """

    key: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def probes(self) -> dict[str, Any]:
        """Return the values that must fit a run if all are to, each with its name."""
        ends = {"low": self.low, "high": self.high}
        return ends if self.step is None else ends | {"low + step": self.low + self.step}

    def holds(self, value: Any) -> bool:
        """Return whether a value lies within.

        Args:
            value: What a run's file may hold.
        """
        number = isinstance(value, int) or (isinstance(value, float) and not self.whole)
        if not number or isinstance(value, bool) or not self.low <= value <= self.high:
            return False
        return self.step is None or _steps(self.low, value, self.step) % 1 == 0

    def table(self) -> dict[str, Any]:
        """Return the range as it stands in a file."""
        table: dict[str, Any] = {"low": self.low, "high": self.high}
        return table | {
            name: getattr(self, name) for name in ("log", "step") if getattr(self, name)
        }

    def decode(self, stored: Any) -> Any:
        """Return the value of a run that a stored one stands for: it is the same."""
        return stored

    def encode(self, value: Any) -> Any:
        """Return what stands for a value in a storage: it is the same."""
        return value


@dataclass(frozen=True)
class Choices:
    """Values of which a run has one.

    Args:
        key: A dotted key of a run's file.
        values: The values, as they stand in a file.
    """

    key: str
    values: Sequence[Any]

    def probes(self) -> dict[str, Any]:
        """Return the values that must fit a run, each with its name."""
        return {f"choice {number}": value for number, value in enumerate(self.values, 1)}

    def holds(self, value: Any) -> bool:
        """Return whether a value is one of the choices.

        Args:
            value: What a run's file may hold.
        """
        return value in self.values

    def table(self) -> list[Any]:
        """Return the choices as they stand in a file."""
        return list(self.values)

    def decode(self, stored: Any) -> Any:
        """Return the value of a run that a stored one stands for.

        Args:
            stored: See :meth:`encode`.
        """
        return next(value for value in self.values if _scalar(value) == stored)

    def encode(self, value: Any) -> Any:
        """Return what stands for a value in a storage, which takes numbers and text alone.

        Args:
            value: One of the choices.
        """
        return _scalar(next(each for each in self.values if each == value))


Parameter = Range | Choices


@dataclass(frozen=True)
class Space:
    """The parameters that are chosen, as they stand in a file.

    Args:
        path: The file, for messages.
        parameters: Its parameters, each of another key.
    """

    path: Path
    parameters: Sequence[Parameter] = field(default_factory=list)

    def tables(self) -> dict[str, Any]:
        """Return the space as plain values, by key."""
        return {parameter.key: parameter.table() for parameter in self.parameters}

    def decode(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values that a storage's stand for, in the order of the file.

        Args:
            stored: Stored values by key; what the space lacks is left out.
        """
        known = [each for each in self.parameters if each.key in stored]
        return {each.key: each.decode(stored[each.key]) for each in known}


def show(value: Any) -> str:
    """Write a value for people: numbers with four significant digits.

    Args:
        value: A value of a run's file.

    Example:
        >>> show(0.42123456), show(1e-05), show({"name": "gce", "q": 0.7})
        ('0.4212', '1e-05', 'gce (q 0.7)')
    """
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else describe(value)


def title(values: Mapping[str, Any]) -> str:
    """Write values by key for people, in one line.

    Args:
        values: Values by dotted key.

    Example:
        >>> title({"loss.q": 0.42123, "batch_size": 64})
        'loss.q 0.4212, batch_size 64'
    """
    return ", ".join(f"{key} {show(value)}" for key, value in values.items())


def read(path: Path) -> Space:
    """Read a space's TOML file.

    Args:
        path: The file: for each key of a run ``{low = ..., high = ...}``, perhaps with ``log =
            true`` or a ``step``, or a list of choices.

    Returns:
        The space, checked by itself and not yet against a run, see :func:`fit`.

    Raises:
        ConfigError: The file is missing or no TOML, a key is none that can be chosen, or its range
            is empty.
    """
    tables = config.read_toml(path)
    try:
        return parse(tables, path)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(tables: Mapping[str, Any], path: Path = Path("space")) -> Space:
    """Make a space of plain tables.

    Args:
        tables: What a space's file holds.
        path: The file, for messages.

    Returns:
        The space, not yet checked against a run.

    Raises:
        ConfigError: See :func:`read`.

    Example:
        >>> parse({"loss.q": {"low": 0.1, "high": 1}, "batch_size": [32, 64]}).tables()
        {'loss.q': {'low': 0.1, 'high': 1}, 'batch_size': [32, 64]}
    """
    parameters = [_parameter(key, value) for key, value in _ranges_and_choices(tables)]
    if not parameters:
        raise ConfigError(
            'expected at least one key, such as "loss.q" = { low = 0.1, high = 1.0 }, got none'
        )
    seen: dict[str, str] = {}
    for each in parameters:
        # A component and its name are the same key.
        key = f"{each.key}.name" if config.is_component(each.key) else each.key
        if key in seen:
            raise ConfigError(f"{seen[key]} and {each.key} set the same: expected one of them")
        seen[key] = each.key
    return Space(path, parameters)


def _ranges_and_choices(tables: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ranges and choices by dotted key; a table of tables or lists is a part of the key."""
    for name, value in tables.items():
        key = f"{before}{name}"
        root = key.partition(".")[0]
        if root not in config.FIELDS:
            raise ConfigError(unknown("key", root, config.FIELDS))
        if root in REFUSED:
            raise ConfigError(f"{key} cannot be chosen: {REFUSED[root]}")
        deeper = isinstance(value, Mapping) and any(
            isinstance(each, Mapping | list) for each in value.values()
        )
        if deeper:
            yield from _ranges_and_choices(value, f"{key}.")
        else:
            yield key, value


def _parameter(key: str, value: Any) -> Parameter:
    if isinstance(value, list):
        return _choices(key, value)
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{key}: expected a range {{ low = ..., high = ... }} or a list of choices, "
            f"got {value!r}"
        )
    for word in value:
        if word not in WORDS:
            raise ConfigError(f"{key}: {unknown('word of a range', word, WORDS)}")
    for word in ("low", "high"):
        if word not in value:
            raise ConfigError(f"{key}: a range needs {word}")
    for word in ("low", "high", "step"):
        given = value.get(word, 1)
        if not isinstance(given, int | float) or isinstance(given, bool) or not _finite(given):
            raise ConfigError(f"{key}: {word}: expected a number, got {given!r}")
    low, high, step = value["low"], value["high"], value.get("step")
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"{key}: log: expected true or false, got {log!r}")
    if low >= high:
        raise ConfigError(f"{key}: expected low below high, got low {low!r} and high {high!r}")
    if log and low <= 0:
        raise ConfigError(f"{key}: on a logarithmic scale low must be above 0, got {low!r}")
    if step is not None:
        if log:
            raise ConfigError(f"{key}: expected log or step, got both")
        if step <= 0:
            raise ConfigError(f"{key}: step must be above 0, got {step!r}")
        steps = _steps(low, high, step)
        if steps % 1:
            last = Decimal(str(low)) + int(steps) * Decimal(str(step))
            raise ConfigError(
                f"{key}: high {high!r} is no number of steps from low: the last is {last}"
            )
    return Range(key, low, high, log, step)


def _choices(key: str, values: Sequence[Any]) -> Choices:
    if not values:
        raise ConfigError(f"{key}: expected at least one choice, got none")
    for number, value in enumerate(values):
        if value in values[:number]:
            raise ConfigError(f"{key}: the choice {value!r} is given twice")
    return Choices(key, values)


def fit(space: Space, base: RunConfig) -> Space:
    """Check every end of every range and every choice against what a run takes.

    Args:
        space: The space.
        base: The run whose keys are chosen; it is valid itself.

    Returns:
        The space, whose ranges know whether they are of whole numbers: they are where the run does
        not take a fraction.

    Raises:
        ConfigError: A value does not fit its parameter; the message says what would.
    """
    for parameter in space.parameters:
        for name, value in parameter.probes().items():
            _check(space, base, {parameter.key: value}, f"{parameter.key}: {name} {value!r}")
    for one, other in _together(space):
        for name, value in other.probes().items():
            for choice in one.values:
                place = f"{other.key}: {name} {value!r} with {one.key} {describe(choice)}"
                _check(space, base, {one.key: choice, other.key: value}, place)
    return replace(space, parameters=[_whole(each, base) for each in space.parameters])


def _together(space: Space) -> Iterator[tuple[Choices, Parameter]]:
    """Yield parameters of a component beside the choice of that component itself."""
    for one in space.parameters:
        root = one.key.removesuffix(".name")
        if isinstance(one, Choices) and config.is_component(root):
            for other in space.parameters:
                if other.key.startswith(f"{root}.") and other is not one:
                    yield one, other


def _check(space: Space, base: RunConfig, changes: Mapping[str, Any], place: str) -> None:
    try:
        plan(apply(base, changes))
    except ConfigError as error:
        raise ConfigError(f"{space.path}: {place} does not fit: {error}") from error


def _whole(parameter: Parameter, base: RunConfig) -> Parameter:
    if isinstance(parameter, Choices):
        return parameter
    ends = [end for end in (parameter.low, parameter.high, parameter.step) if end is not None]
    if all(isinstance(end, int) for end in ends):
        try:
            plan(apply(base, {parameter.key: parameter.low + 0.5}))
        except ConfigError:
            return replace(parameter, whole=True)
    return replace(parameter, low=float(parameter.low), high=float(parameter.high))


def apply(base: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Set keys of a run.

    Args:
        base: The run.
        changes: Values by dotted key.

    Returns:
        The run with these values.

    Raises:
        ConfigError: A key is unknown or a value has the wrong type.
    """
    return config.parse(with_changes(base.tables(), changes))


def own_values(space: Space, base: RunConfig) -> dict[str, Any]:
    """Return the values that a run has by itself, as far as they lie in a space.

    Args:
        space: The space, see :func:`fit`.
        base: The run, with every default filled in.

    Example:
        >>> base = config.parse({"data": "digits", "loss": {"name": "gce", "q": 0.7}})
        >>> own_values(parse({"loss.q": [0.5, 0.7], "epochs": {"low": 1, "high": 9}}), base)
        {'loss.q': 0.7}
    """
    own = {}
    run_id = plan(base).run_id
    for parameter in space.parameters:
        if isinstance(parameter, Choices):
            # Many spellings say the same of a component: it is the choice that changes nothing.
            for value in parameter.values:
                if plan(apply(base, {parameter.key: value})).run_id == run_id:
                    own[parameter.key] = value
        elif parameter.holds(value := _value(base.tables(), parameter.key)):
            own[parameter.key] = value
    return own


def _value(tables: Any, key: str) -> Any:
    for name in key.split("."):
        tables = tables.get(name) if isinstance(tables, Mapping) else None
    return tables


def _finite(value: float) -> bool:
    return math.isfinite(value)


def _steps(low: float, value: float, step: float) -> Decimal:
    """Return how many steps a value is from the low end, exactly as the numbers are written."""
    return (Decimal(str(value)) - Decimal(str(low))) / Decimal(str(step))


def _scalar(value: Any) -> Any:
    if isinstance(value, str | int | float | bool):
        return value
    return json.dumps(value, sort_keys=True, default=str)
