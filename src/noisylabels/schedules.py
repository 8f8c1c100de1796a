r"""Schedules: plain functions from training progress to a value.

Progress is a float in [0, 1]: 0 at the first epoch, 1 at the end of training (an epoch counted
from 0 has progress ``epoch / epochs``). Learning rates and the hyper-parameters of dynamic losses
both come from here.
"""

import math
from collections.abc import Callable

from noisylabels.errors import check_range


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
    passed = sum(milestone <= progress + 1e-9 for milestone in milestones)
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
