"""The errors a user can meet, and the two sentences they are made of.

A message repeats what was given, says what was expected, and names the place (file, row, key)
or the nearest valid name.
"""

import difflib
from collections.abc import Iterable
from numbers import Real
from typing import TypeVar

Number = TypeVar("Number", bound=float)


class NoisyLabelsError(Exception):
    """Base class of every error that this library raises on purpose.

    Attributes:
        status: The exit status of a command that ends with it.
    """

    status = 2


class ConfigError(NoisyLabelsError, ValueError):
    """A setting that is unknown, of the wrong type or out of its range."""


class DataError(NoisyLabelsError, ValueError):
    """A dataset or label file that is missing, damaged or does not fit."""


class CheckpointError(NoisyLabelsError, RuntimeError):
    """A checkpoint or run folder that cannot be read or belongs to something else."""


class MissingExtraError(NoisyLabelsError, ImportError):
    """An optional dependency is not installed.

    Args:
        package: Import name of what is missing.
        extra: The extra of this library that brings it.

    Example:
        >>> print(MissingExtraError("jinja2", "report"))
        jinja2 is not installed: pip install 'noisylabels[report]'
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'noisylabels[{extra}]'")


MOST_NAMES = 40
"""Names that a message lists at most: libraries of networks have more than a thousand."""


def unknown(what: str, given: str, known: Iterable[str]) -> str:
    """Say that a name is not known, with the nearest known one and the list, if it can be read.

    Args:
        what: What kind of thing was named, e.g. ``"loss"``.
        given: The name as it was given.
        known: The valid names.

    Returns:
        One line.

    Example:
        >>> unknown("loss", "gec", ["ce", "gce", "mae"])
        "unknown loss 'gec': did you mean 'gce'? (known: ce, gce, mae)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(given, names, cutoff=0.5)
    # Letters that have changed places are likelier than another letter.
    near.sort(key=lambda name: sorted(name) != sorted(given))
    hint = f": did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(names[:MOST_NAMES]) or "none"
    more = f", and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return f"unknown {what} {given!r}{hint} (known: {listed}{more})"


def check_range(
    name: str,
    value: Number,
    *,
    low: float = 0.0,
    high: float = float("inf"),
    open: bool = False,
    below: bool = False,
) -> Number:
    """Return ``value`` if it lies in its range, else raise.

    Args:
        name: The parameter's name, for the message.
        value: The number to check; NaN lies in no range.
        low: Least valid value.
        high: Greatest valid value.
        open: Whether ``low`` itself is excluded.
        below: Whether ``high`` itself is excluded, as infinity always is.

    Returns:
        ``value``, unchanged.

    Raises:
        ConfigError: ``value`` is no number, outside the range, NaN or infinite.

    Example:
        >>> check_range("rate", 0.4, high=1.0)
        0.4
        >>> check_range("rate", 1.5, high=1.0)
        Traceback (most recent call last):
        noisylabels.errors.ConfigError: rate must be in [0, 1], got 1.5
    """
    check_number(name, value)
    above = value > low if open else value >= low
    below = below or high == float("inf")
    if above and (value < high if below else value <= high):
        return value
    end = f"{high:g}{')' if below else ']'}"
    raise ConfigError(f"{name} must be in {'(' if open else '['}{low:g}, {end}, got {value!r}")


def check_number(name: str, value: object) -> float:
    """Return ``value`` as a float if it is a number, else raise.

    Args:
        name: The parameter's name, for the message.
        value: What to check; a string is no number, nor is True.

    Returns:
        ``value`` as a float.

    Raises:
        ConfigError: ``value`` is no number.

    Example:
        >>> check_number("q", 1)
        1.0
        >>> check_number("q", "0.7")
        Traceback (most recent call last):
        noisylabels.errors.ConfigError: q must be a number, got '0.7'
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    return float(value)


def check_count(name: str, value: int, *, low: int = 0) -> int:
    """Return ``value`` if it is a whole number and not too small, else raise.

    Args:
        name: The parameter's name, for the message.
        value: The number to check; 3.0 is none, nor is True.
        low: Least valid value.

    Returns:
        ``value``.

    Raises:
        ConfigError: ``value`` is no whole number, or below ``low``.

    Example:
        >>> check_count("views", 2, low=2)
        2
        >>> check_count("views", 2.5, low=2)
        Traceback (most recent call last):
        noisylabels.errors.ConfigError: views must be a whole number, got 2.5
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name} must be a whole number, got {value!r}")
    return check_range(name, value, low=low)


def check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of the choices, else raise.

    Args:
        name: The parameter's name, for the message.
        value: The value to check.
        choices: The valid values.

    Returns:
        ``value``.

    Raises:
        ConfigError: ``value`` is none of them.

    Example:
        >>> check_choice("prior", "uniform", ["uniform", "given"])
        'uniform'
        >>> check_choice("prior", "flat", ["uniform", "given"])
        Traceback (most recent call last):
        noisylabels.errors.ConfigError: prior must be 'uniform' or 'given', got 'flat'
    """
    known = list(choices)
    if value not in known:
        raise ConfigError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")
    return value
