r"""Schedules: plain functions from training progress to a value.

Progress is a float in [0, 1]: 0 at the first epoch, 1 at the end of training (an epoch counted
from 0 has progress ``epoch / epochs``). Learning rates and the hyper-parameters of losses both
come from here: where a loss takes a number, it takes a schedule too, see :data:`Hyperparameter`.
A schedule that follows more than the clock is a :class:`StatefulSchedule`.
"""

import functools
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from noisylabels.errors import ConfigError, check_number, check_range, unknown

Schedule = Callable[[float], float]
"""``progress -> value``."""

Hyperparameter = float | Mapping[str, Any] | Schedule
"""A number, a schedule, or a schedule's table as :func:`parse` reads it."""

GRID = tuple(step / 1000 for step in range(1001))
"""The progress at which a schedule is looked at before training."""


@runtime_checkable
class StatefulSchedule(Protocol):
    """A schedule that follows how training goes.

    In a run :meth:`update` is called after each epoch with its number, mean training loss, learning
    rate, the loss's hyper-parameters and what the method has to say: ``epoch``, ``loss``, ``lr``,
    ``q``, ... Not with accuracies, for a result must not depend on how often a run is evaluated.

    A call only reads the state; :meth:`update` is all that changes it. What ``state_dict``
    returns becomes part of a checkpoint: keep to numbers, strings, lists and dictionaries.
    """

    def __call__(self, progress: float, /) -> float:
        """Return the value at ``progress``."""

    def update(self, metrics: Mapping[str, float], /) -> None:
        """Take in what has been measured."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the schedule remembers."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on from what another has remembered."""


def constant(progress: float, *, value: float = 1.0) -> float:
    """Stay at one value.

    Args:
        progress: Training progress in [0, 1]; not used.
        value: The value.

    Returns:
        ``value``.

    Example:
        >>> constant(0.3, value=2.0)
        2.0
    """
    return value


def linear(progress: float, *, start: float = 1.0, end: float = 0.0, begin: float = 0.0) -> float:
    r"""Stay at ``start``, then move to ``end`` at an even pace.

    .. math::
        v(t) = \text{start} + (\text{end} - \text{start})
        \max\Bigl(0, \frac{t - \text{begin}}{1 - \text{begin}}\Bigr)

    Args:
        progress: Training progress :math:`t` in [0, 1].
        start: Value up to progress ``begin``.
        end: Value at progress 1.
        begin: Progress at which the movement begins, in [0, 1).

    Returns:
        The value at ``progress``.

    Raises:
        ConfigError: ``begin`` is not in [0, 1).

    Example:
        >>> linear(0.25, start=0.0, end=2.0)
        0.5
        >>> [linear(progress, begin=0.5) for progress in (0.0, 0.5, 0.75)]
        [1.0, 1.0, 0.5]
    """
    check_range("begin", begin, high=1.0, below=True)
    return start + (end - start) * max(0.0, (progress - begin) / (1 - begin))


def cosine(progress: float, *, start: float = 1.0, end: float = 0.0) -> float:
    r"""Move from ``start`` to ``end`` along half a cosine wave.

    .. math:: v(t) = \text{end} + (\text{start} - \text{end}) \, (1 + \cos \pi t) / 2

    Args:
        progress: Training progress :math:`t` in [0, 1].
        start: Value at progress 0.
        end: Value at progress 1.

    Returns:
        The value at ``progress``.

    Example:
        >>> round(cosine(0.5), 6)
        0.5

    References:
        Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017; here
        without restarts.
    """
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def exponential(progress: float, *, end: float = 1e-3) -> float:
    r"""Shrink from 1 to ``end`` by the same factor in every epoch.

    .. math:: v(t) = \text{end}^t

    A factor :math:`f` per epoch over :math:`E` epochs is :math:`\text{end} = f^E`.

    Args:
        progress: Training progress :math:`t` in [0, 1].
        end: Value at progress 1, above 0.

    Returns:
        The value at ``progress``.

    Raises:
        ConfigError: ``end`` is not above 0.

    Example:
        >>> round(exponential(10 / 250, end=0.97**250) - 0.97**10, 12)
        0.0
    """
    return float(check_range("end", end, open=True) ** progress)


def multistep(
    progress: float, *, milestones: tuple[float, ...] = (0.5, 0.75), factor: float = 0.1
) -> float:
    r"""Multiply by ``factor`` at each milestone.

    .. math:: v(t) = \text{factor}^{|\{m : m \le t\}|}

    Args:
        progress: Training progress :math:`t` in [0, 1].
        milestones: Progress at each of them, in (0, 1): epoch 80 of 150 is ``0.5333``.
        factor: At least 0.

    Returns:
        The value at ``progress``.

    Raises:
        ConfigError: A milestone or ``factor`` is out of its range.

    Example:
        >>> [multistep(epoch / 200, factor=0.5) for epoch in (0, 99, 100, 150)]
        [1.0, 1.0, 0.5, 0.25]
    """
    for milestone in milestones:
        check_range("milestones", milestone, high=1.0, open=True, below=True)
    # 3/30 is a little more than 0.1 for a computer.
    passed = len([milestone for milestone in milestones if milestone <= progress + 1e-9])
    return float(check_range("factor", factor) ** passed)


def bootstrapping(
    progress: float, *, q_start: float, q_end: float, lambda_end: float = 1.0
) -> float:
    r"""Weight of the bootstrapping (entropy) term of the dynamics-aware loss.

    Zero while :math:`q(t) < 1`, then linear up to ``lambda_end`` at the end of training:

    .. math::
        \lambda(t) = \lambda_\text{end} \max\Bigl(0, \frac{t - t_0}{1 - t_0}\Bigr), \qquad
        t_0 = \frac{1 - q_\text{start}}{q_\text{end} - q_\text{start}}

    If ``q_end`` is at most 1, q never passes 1 and the weight stays 0. If ``q_start`` is already
    1 or more, the growth starts at once (:math:`t_0 = 0`).

    Args:
        progress: Training progress :math:`t` in [0, 1].
        q_start: q at progress 0, at least 0.
        q_end: q at progress 1, at least 0.
        lambda_end: Weight at progress 1, at least 0.

    Returns:
        The weight, in [0, ``lambda_end``].

    Example:
        >>> [round(bootstrapping(t, q_start=0.5, q_end=1.5), 2) for t in (0.0, 0.5, 0.75, 1.0)]
        [0.0, 0.0, 0.5, 1.0]
        >>> bootstrapping(1.0, q_start=0.5, q_end=1.0)
        0.0

    References:
        Li, Xia, Zhu, Liu, Zhang, Liu, "Dynamics-Aware Loss for Learning with Label Noise", 2023.
        The released code divides by zero at ``q_end = 1`` and grows past ``lambda_end`` below it;
        here the weight is 0 in both cases.
    """
    if q_end <= 1:
        return 0.0
    begin = (1 - q_start) / (q_end - q_start) if q_start < 1 else 0.0
    return lambda_end * max(0.0, (progress - begin) / (1 - begin))


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
    "multistep": multistep,
}


def parse(name: str, value: Hyperparameter) -> float | Schedule:
    """Make what a loss holds of what it is given for a hyper-parameter.

    Args:
        name: The hyper-parameter's name, for the message.
        value: A number, a schedule, or a table: under ``"schedule"`` a key of ``SCHEDULES``, or
            ``"module:attr"`` for a function or class of the user's own, and its keyword arguments.

    Returns:
        A float or a schedule.

    Raises:
        ConfigError: The value is none of these, the table names no schedule or an argument that
            the schedule does not have, or an argument has the wrong type.

    Example:
        >>> parse("q", 1)
        1.0
        >>> q = parse("q", {"schedule": "linear", "start": 0.6, "end": 1.5})
        >>> q(0.5)
        1.05
        >>> parse("q", {"schedule": "liner"})
        Traceback (most recent call last):
        noisylabels.errors.ConfigError: q: unknown schedule 'liner': did you mean 'linear'? ...
    """
    if isinstance(value, Mapping):
        return _of_table(name, value)
    if not callable(value):
        return check_number(name, value)
    if hasattr(value, "update") and not isinstance(value, StatefulSchedule):
        raise ConfigError(
            f"{name}: a schedule with update needs state_dict and load_state_dict too, "
            f"got {value!r}"
        )
    return value


def _of_table(name: str, table: Mapping[str, Any]) -> Schedule:
    key, arguments = table.get("schedule"), {k: v for k, v in table.items() if k != "schedule"}
    if not isinstance(key, str):
        raise ConfigError(
            f'{name}: expected a table such as {{schedule = "linear", start = 0.6, end = 1.5}}, '
            f"got {table!r}"
        )
    if ":" in key:
        return _own(name, key, arguments)
    if key not in SCHEDULES:
        raise ConfigError(f"{name}: {unknown('schedule', key, SCHEDULES)}")
    parameters = list(inspect.signature(SCHEDULES[key]).parameters.values())
    accepted = {parameter.name: parameter.annotation for parameter in parameters[1:]}
    for argument, value in arguments.items():
        if argument not in accepted:
            raise ConfigError(f"{name}: {unknown(f'parameter of {key!r}', argument, accepted)}")
        if accepted[argument] is float:
            check_number(f"{name}: {argument}", value)
        elif not isinstance(value, list | tuple):
            raise ConfigError(f"{name}: {argument} must be a list of numbers, got {value!r}")
        else:
            for number in value:
                check_number(f"{name}: {argument}", number)
    return functools.partial(SCHEDULES[key], **arguments)


def _own(name: str, key: str, arguments: Mapping[str, Any]) -> Schedule:
    """Make the user's own schedule: of a class, a function with its arguments, or an instance."""
    module, _, attribute = key.partition(":")
    try:
        target = getattr(importlib.import_module(module), attribute)
        made = target(**arguments) if isinstance(target, type) else target
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{name}: schedule {key!r} cannot be made: {error}") from error
    if not callable(made):
        raise ConfigError(f"{name}: expected {key!r} to be a schedule, got {made!r:.80}")
    if inspect.isroutine(made):
        return functools.partial(made, **arguments)
    if made is target and arguments:
        raise ConfigError(
            f"{name}: {key!r} is an instance, which takes no arguments: expected none, got "
            f"{', '.join(arguments)}"
        )
    # One with a state must be whole.
    parse(name, made)
    schedule: Schedule = made
    return schedule


def foresee(value: float | Schedule) -> dict[float, float]:
    """Return all that is known of a hyper-parameter before training.

    Args:
        value: What :func:`parse` returns. Schedules other than :class:`StatefulSchedule` are taken
            to be pure: the same progress always gives the same value.

    Returns:
        Values by progress: on ``GRID`` for a pure schedule, otherwise only at progress 0.

    Example:
        >>> foresee(0.7)
        {0.0: 0.7}
        >>> foresee(functools.partial(linear, start=0.6, end=1.5))[0.5]
        1.05
    """
    if not callable(value):
        return {0.0: value}
    points = GRID[:1] if isinstance(value, StatefulSchedule) else GRID
    return {progress: value(progress) for progress in points}


def describe(value: float | Schedule) -> str:
    """Write a hyper-parameter as it would be typed, without addresses in memory.

    Args:
        value: What :func:`parse` returns.

    Returns:
        One line.

    Example:
        >>> describe(parse("q", {"schedule": "linear", "start": 0.6, "end": 1.5}))
        'linear(start=0.6, end=1.5)'
        >>> describe(0.7)
        '0.7'
    """
    if isinstance(value, functools.partial):
        arguments = ", ".join(f"{name}={given!r}" for name, given in value.keywords.items())
        return f"{describe(value.func)}({arguments})"
    if inspect.isroutine(value):
        return value.__name__
    if type(value).__repr__ is object.__repr__:
        return f"{type(value).__name__}()"
    return repr(value)
