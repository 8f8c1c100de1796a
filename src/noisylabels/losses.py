"""The losses as modules: drop-in replacements of ``torch.nn.CrossEntropyLoss``.

Each class is final, holds its hyper-parameters and computes one formula of
:mod:`noisylabels.functional`. :attr:`Loss.progress` is all that changes while training: dynamic
losses read it, a training loop sets it.

    >>> loss = build("dal", q_start=0.6, q_end=1.5)
    >>> loss.progress = 0.5
    >>> loss
    DynamicsAwareLoss(q_start=0.6, q_end=1.5, lambda_end=1.0)
    >>> {name: round(value, 4) for name, value in loss.dynamic().items()}
    {'q': 1.05, 'lamb': 0.1}
"""

from abc import ABC, abstractmethod
from typing import Any, Literal, final

from torch import Tensor, nn

from noisylabels import functional, schedules
from noisylabels.errors import ConfigError, check_range, unknown

Reduction = Literal["mean", "sum", "none"]


class Loss(nn.Module, ABC):
    """A loss with the calling conventions of ``torch.nn.CrossEntropyLoss``.

    Args:
        weight: Weight of each class, of shape (C).
        ignore_index: Class index whose examples count for nothing.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Shape:
        As ``torch.nn.CrossEntropyLoss``: logits (C), (N, C) or (N, C, d1, ...); class indices of
        that shape without C, or class probabilities of that shape; a scalar, or the loss of each
        example with ``reduction="none"``.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    progress: float = 0.0
    """Training progress in [0, 1]; a training loop sets it to ``epoch / epochs``."""

    weight: Tensor | None

    def __init__(
        self,
        *,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ConfigError(unknown("reduction", reduction, ("mean", "sum", "none")))
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction

    @abstractmethod
    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example, without weights, ``ignore_index`` or reduction."""

    def dynamic(self) -> dict[str, float]:
        """Return the hyper-parameters that follow :attr:`progress`, at its present value."""
        return {}

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the reduced loss of a batch."""
        return functional.reduce(
            self.per_example,
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Show the hyper-parameters."""
        shared = {"training", "ignore_index", "reduction", "progress"}
        own = {k: v for k, v in vars(self).items() if k[0] != "_" and k not in shared}
        return ", ".join(f"{name}={value!r}" for name, value in own.items())


@final
class CrossEntropyLoss(Loss):
    """Cross entropy, see :func:`noisylabels.functional.cross_entropy`."""

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.cross_entropy(input, target)


@final
class MeanAbsoluteErrorLoss(Loss):
    """Mean absolute error, see :func:`noisylabels.functional.mean_absolute_error`."""

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.mean_absolute_error(input, target)


@final
class GeneralizedCrossEntropyLoss(Loss):
    """Generalized cross entropy, see :func:`noisylabels.functional.generalized_cross_entropy`.

    Args:
        q: Exponent, at least 0: 0 is cross entropy, 1 mean absolute error.
        weight: Weight of each class, of shape (C).
        ignore_index: Class index whose examples count for nothing.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Example:
        >>> GeneralizedCrossEntropyLoss(q=0.7)
        GeneralizedCrossEntropyLoss(q=0.7)
    """

    def __init__(
        self,
        *,
        q: float = 0.7,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.q = check_range("q", q)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.generalized_cross_entropy(input, target, q=self.q)


@final
class DynamicsAwareLoss(Loss):
    r"""Dynamics-aware loss, see :func:`noisylabels.functional.dynamics_aware`.

    q moves linearly from ``q_start`` (fits fast) to ``q_end`` (robust) with :attr:`progress`;
    where it passes 1, the bootstrapping term grows in, see
    :func:`noisylabels.schedules.bootstrapping`.

    Args:
        q_start: q at progress 0, at least 0.
        q_end: q at progress 1, at least 0; up to 1 there is no bootstrapping.
        lambda_end: Weight of the bootstrapping term at progress 1, at least 0.
        weight: Weight of each class, of shape (C).
        ignore_index: Class index whose examples count for nothing.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Example:
        >>> loss = DynamicsAwareLoss(q_start=0.8, q_end=1.5)
        >>> loss.progress = 0.9
        >>> round(loss.q, 2), round(loss.lamb, 2)
        (1.43, 0.86)

    References:
        Li, Xia, Zhu, Liu, Zhang, Liu, "Dynamics-Aware Loss for Learning with Label Noise", 2023.
    """

    def __init__(
        self,
        *,
        q_start: float = 0.6,
        q_end: float = 1.5,
        lambda_end: float = 1.0,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.q_start = check_range("q_start", q_start)
        self.q_end = check_range("q_end", q_end)
        self.lambda_end = check_range("lambda_end", lambda_end)

    @property
    def q(self) -> float:
        """The exponent at the present progress."""
        return schedules.linear(self.progress, start=self.q_start, end=self.q_end)

    @property
    def lamb(self) -> float:
        """The weight of the bootstrapping term at the present progress."""
        return schedules.bootstrapping(
            self.progress, q_start=self.q_start, q_end=self.q_end, lambda_end=self.lambda_end
        )

    def dynamic(self) -> dict[str, float]:
        """Return ``q`` and ``lamb`` at the present progress."""
        return {"q": self.q, "lamb": self.lamb}

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.dynamics_aware(input, target, q=self.q, lamb=self.lamb)


LOSSES: dict[str, type[Loss]] = {
    "ce": CrossEntropyLoss,
    "mae": MeanAbsoluteErrorLoss,
    "gce": GeneralizedCrossEntropyLoss,
    "dal": DynamicsAwareLoss,
}


def build(key: str, **hyperparameters: Any) -> Loss:
    """Build a loss from its key.

    Args:
        key: A key of ``LOSSES``, e.g. ``"dal"``.
        **hyperparameters: Keyword arguments of that loss.

    Returns:
        The loss.

    Raises:
        ConfigError: The key is unknown, or a hyper-parameter is out of its range.
        TypeError: The loss has no such hyper-parameter.

    Example:
        >>> build("gce", q=0.9)
        GeneralizedCrossEntropyLoss(q=0.9)
    """
    if key not in LOSSES:
        raise ConfigError(unknown("loss", key, LOSSES))
    return LOSSES[key](**hyperparameters)
