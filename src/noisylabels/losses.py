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

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from noisylabels import _fused, functional, schedules
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

    formula: ClassVar[str]
    """The loss of one example in plain text."""

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
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in hyperparameters(type(self)))


@final
class CrossEntropyLoss(Loss):
    r"""Cross entropy.

    See :func:`noisylabels.functional.cross_entropy`.

    Args:
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.
    """

    formula = "-log p_y"

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.cross_entropy(input, target)


@final
class MeanAbsoluteErrorLoss(Loss):
    r"""Mean absolute error.

    See :func:`noisylabels.functional.mean_absolute_error`.

    Args:
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.
    """

    formula = "1 - p_y"

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.mean_absolute_error(input, target)


@final
class GeneralizedCrossEntropyLoss(Loss):
    r"""Generalized cross entropy.

    See :func:`noisylabels.functional.generalized_cross_entropy`.

    Args:
        q: Exponent, at least 0: 0 is cross entropy, 1 mean absolute error.
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.

    Example:
        >>> GeneralizedCrossEntropyLoss(q=0.7)
        GeneralizedCrossEntropyLoss(q=0.7)
    """

    formula = "(1 - p_y^q)/q"

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
class TaylorCrossEntropyLoss(Loss):
    r"""Taylor cross entropy.

    See :func:`noisylabels.functional.taylor_cross_entropy`.

    Args:
        order: Number of terms, at least 1; a fraction counts the next term in part.
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    formula = "sum_{i=1..order} (1 - p_y)^i / i"

    def __init__(
        self,
        *,
        order: float = 3,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.order = check_range("order", order, low=1)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.taylor_cross_entropy(input, target, order=self.order)


@final
class JensenShannonLoss(Loss):
    r"""Scaled Jensen-Shannon divergence.

    See :func:`noisylabels.functional.jensen_shannon`.

    Args:
        pi: Weight of the label, in [0, 1]: 0 is cross entropy, 1 mean absolute error.
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    formula = "Z [pi KL(e_y||m) + (1 - pi) KL(p||m)], m = pi e_y + (1 - pi) p, Z: 0 is CE, 1 MAE"

    def __init__(
        self,
        *,
        pi: float = 0.9,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.pi = check_range("pi", pi, high=1)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.jensen_shannon(input, target, pi=self.pi)


@final
class GeneralizedJensenShannonLoss(Loss):
    r"""Scaled Jensen-Shannon divergence of a label and several views.

    See :func:`noisylabels.functional.generalized_jensen_shannon`.

    Logits come as (views, N, C), class indices as (N).

    Args:
        pi: Weight of the label, in (0, 1].
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    formula = "Z [pi KL(e_y||m) + (1 - pi)/V sum_v KL(p_v||m)], m = pi e_y + (1 - pi)/V sum_v p_v"

    def __init__(
        self,
        *,
        pi: float = 0.5,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.pi = check_range("pi", pi, high=1, open=True)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.generalized_jensen_shannon(input, target, pi=self.pi)


@final
class ReverseCrossEntropyLoss(Loss):
    r"""Reverse cross entropy.

    See :func:`noisylabels.functional.reverse_cross_entropy`.

    Args:
        A: What stands for log 0, at most 0.
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    formula = "-A (1 - p_y)"

    def __init__(
        self,
        *,
        A: float = functional.LOG_RCE,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.A = check_range("A", A, low=-math.inf, high=0)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.reverse_cross_entropy(input, target, A=self.A)


@final
class SymmetricCrossEntropyLoss(Loss):
    r"""Symmetric cross entropy.

    See :func:`noisylabels.functional.symmetric_cross_entropy`.

    Args:
        alpha: Weight of cross entropy, at least 0.
        beta: Weight of reverse cross entropy, at least 0.
        A: What stands for log 0, at most 0.
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    formula = "-alpha log p_y - beta A (1 - p_y)"

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        beta: float = 10.0,
        A: float = functional.LOG_RCE,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.alpha = check_range("alpha", alpha)
        self.beta = check_range("beta", beta)
        self.A = check_range("A", A, low=-math.inf, high=0)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.symmetric_cross_entropy(
            input, target, alpha=self.alpha, beta=self.beta, A=self.A
        )


@final
class NormalizedCrossEntropyLoss(Loss):
    r"""Normalized cross entropy.

    See :func:`noisylabels.functional.normalized_cross_entropy`.

    Args:
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.
    """

    formula = "log p_y / sum_k log p_k"

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.normalized_cross_entropy(input, target)


@final
class ActivePassiveLoss(Loss):
    r"""Normalized and reverse cross entropy.

    See :func:`noisylabels.functional.active_passive`.

    Args:
        alpha: Weight of the active term, at least 0.
        beta: Weight of the passive term, at least 0.
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    formula = "alpha NCE + beta RCE"

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 0.1,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.alpha = check_range("alpha", alpha)
        self.beta = check_range("beta", beta)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.active_passive(input, target, alpha=self.alpha, beta=self.beta)


@final
class AsymmetricGeneralizedCrossEntropyLoss(Loss):
    r"""Asymmetric generalized cross entropy.

    See :func:`noisylabels.functional.asymmetric_generalized_cross_entropy`.

    Args:
        a: Shift of the probability, at least 0.
        q: Exponent, at least 0.
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    formula = "((a + 1)^q - (a + p_y)^q)/q"

    def __init__(
        self,
        *,
        a: float = 6.0,
        q: float = 1.5,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.a = check_range("a", a)
        self.q = check_range("q", q)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.asymmetric_generalized_cross_entropy(input, target, a=self.a, q=self.q)


@final
class ActiveAsymmetricLoss(Loss):
    r"""Normalized and asymmetric generalized cross entropy.

    See :func:`noisylabels.functional.active_asymmetric`.

    Args:
        alpha: Weight of the active term, at least 0.
        beta: Weight of the passive term, at least 0.
        a: Shift of the probability, at least 0.
        q: Exponent, at least 0.
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    formula = "alpha NCE + beta AGCE"

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 0.4,
        a: float = 6.0,
        q: float = 1.5,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.alpha = check_range("alpha", alpha)
        self.beta = check_range("beta", beta)
        self.a = check_range("a", a)
        self.q = check_range("q", q)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.active_asymmetric(
            input, target, alpha=self.alpha, beta=self.beta, a=self.a, q=self.q
        )


@final
class SparseRegularizedCrossEntropyLoss(Loss):
    r"""Cross entropy with sparse regularization.

    See :func:`noisylabels.functional.sparse_regularized_cross_entropy`.

    Args:
        tau: Temperature, above 0.
        lamb: Weight of the regularization at progress 0, at least 0.
        p: Exponent, above 0; small values ask for sparse predictions.
        rho: Growth of the weight, above 0.
        r: Epochs between two multiplications by ``rho``, at least 1.
        epochs: Epochs that progress 0 to 1 stands for, at least 1.
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    formula = "-log s_y + lamb rho^floor(epoch/r) sum_k s_k^p, s = softmax(z/(tau ||z||))"

    def __init__(
        self,
        *,
        tau: float = 0.5,
        lamb: float = 1.5,
        p: float = 0.1,
        rho: float = 1.02,
        r: int = 1,
        epochs: int = 150,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.tau = check_range("tau", tau, open=True)
        self.lamb = check_range("lamb", lamb)
        self.p = check_range("p", p, open=True)
        self.rho = check_range("rho", rho, open=True)
        self.r = check_range("r", r, low=1)
        self.epochs = check_range("epochs", epochs, low=1)

    @property
    def current_lamb(self) -> float:
        """The weight of the regularization at the present progress."""
        # An epoch is often a quotient times a divisor: 3/150 * 150 must not be epoch 2.
        steps = math.floor(self.progress * self.epochs / self.r + 1e-9)
        return self.lamb * self.rho**steps

    def dynamic(self) -> dict[str, float]:
        """Return ``lamb`` at the present progress."""
        return {"lamb": self.current_lamb}

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.sparse_regularized_cross_entropy(
            input, target, tau=self.tau, lamb=self.current_lamb, p=self.p
        )


@final
class BiTemperedLogisticLoss(Loss):
    r"""Bi-tempered logistic loss.

    See :func:`noisylabels.functional.bi_tempered_logistic`.

    Args:
        t1: Temperature of the logarithm, in [0, 1]; below 1 the loss is bounded.
        t2: Temperature of the softmax, at least 1; above 1 its tails are heavy.
        num_iters: Fixed-point steps of the normalisation, at least 1.
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    formula = "-log_t1 p_y - (1 - sum_k p_k^(2 - t1))/(2 - t1), p = exp_t2(z - lambda(z))"

    def __init__(
        self,
        *,
        t1: float = 0.7,
        t2: float = 3.0,
        num_iters: int = 5,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.t1 = check_range("t1", t1, high=1)
        self.t2 = check_range("t2", t2, low=1)
        self.num_iters = check_range("num_iters", num_iters, low=1)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.bi_tempered_logistic(
            input, target, t1=self.t1, t2=self.t2, num_iters=self.num_iters
        )


@final
class NegativeLearningLoss(Loss):
    r"""Negative learning.

    See :func:`noisylabels.functional.negative_learning`.

    Every call draws other complementary labels; how many calls there were is part of
    ``state_dict()``, so that a continued run draws what an uncut one would.

    Args:
        n: Complementary labels to draw for each example, at least 1.
        class_counts: Examples of each class; a class weighs by the inverse, with mean 1.
            Equal weights by default.
        seed: Seed of the draws.
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    formula = "-sum_c w_c log(1 - p_c) over n classes c other than y, w_c ~ 1/class_counts_c"

    def __init__(
        self,
        *,
        n: int = 1,
        class_counts: Sequence[int] | None = None,
        seed: int = 0,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.n = check_range("n", n, low=1)
        self.class_counts = None if class_counts is None else tuple(class_counts)
        self.seed = check_range("seed", seed)
        # Calls are counted twice over: torch.compile takes a number for a constant, and torch.func
        # lets no function change a tensor. No buffer, which .half() would convert.
        self._calls = 0
        self._compiled_calls = torch.zeros((), dtype=torch.int64)

    def _class_weight(self, input: Tensor) -> Tensor:
        inverse = [1 / max(count, 1) for count in self.class_counts or ()]
        mean = sum(inverse) / len(inverse)
        return input.new_tensor([value / mean for value in inverse], dtype=torch.float32)

    def get_extra_state(self) -> int:
        """Return the number of calls."""
        return int(self._compiled_calls) + self._calls

    def set_extra_state(self, state: int) -> None:
        """Restore the number of calls."""
        self._compiled_calls.zero_()
        self._calls = state

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        functional.require_indices("negative_learning", target)
        classes = input.shape[0 if input.ndim == 1 else 1]
        complement = functional.draw_complement(
            target,
            num_classes=classes,
            n=self.n,
            seed=self.seed,
            step=self._compiled_calls + self._calls,
        )
        if torch.compiler.is_compiling():
            self._compiled_calls.add_(1)
        else:
            self._calls += 1
        if self.class_counts is not None and len(self.class_counts) != classes:
            raise ConfigError(
                f"class_counts: expected {classes} counts, one per class, "
                f"got {len(self.class_counts)}"
            )
        weight = None if self.class_counts is None else self._class_weight(input)
        return functional.negative_learning(
            input, target, complement=complement, class_weight=weight
        )


@final
class Poly1Loss(Loss):
    r"""Poly-1.

    See :func:`noisylabels.functional.poly1`.

    Args:
        epsilon: Weight of the added term, at least -1.
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    formula = "-log p_y + epsilon (1 - p_y)"

    def __init__(
        self,
        *,
        epsilon: float = 10.0,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.epsilon = check_range("epsilon", epsilon, low=-1)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.poly1(input, target, epsilon=self.epsilon)


@final
class DynamicGeneralizedCrossEntropyLoss(Loss):
    r"""Generalized cross entropy whose exponent follows :attr:`progress`.

    See :func:`noisylabels.functional.generalized_cross_entropy`.

    Args:
        q_start: q at progress 0, at least 0.
        q_end: q at progress 1, at least 0.
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    formula = "(1 - p_y^q(t))/q(t), q(t) = q_start + (q_end - q_start) t"

    def __init__(
        self,
        *,
        q_start: float = 0.6,
        q_end: float = 1.5,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.q_start = check_range("q_start", q_start)
        self.q_end = check_range("q_end", q_end)

    @property
    def q(self) -> float:
        """The exponent at the present progress."""
        return schedules.linear(self.progress, start=self.q_start, end=self.q_end)

    def dynamic(self) -> dict[str, float]:
        """Return ``q`` at the present progress."""
        return {"q": self.q}

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
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.

    Example:
        >>> loss = DynamicsAwareLoss(q_start=0.8, q_end=1.5)
        >>> loss.progress = 0.9
        >>> round(loss.q, 2), round(loss.lamb, 2)
        (1.43, 0.86)

    References:
        Li, Xia, Zhu, Liu, Zhang, Liu, "Dynamics-Aware Loss for Learning with Label Noise", 2023.
    """

    formula = "(1 - p_y^q(t))/q(t) + lambda(t) H(p)/(q(t) log K), q and lambda growing with t"

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

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the reduced loss of a batch."""
        fusible = _fused.applies(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
        # Asked last: a compiled graph must not ask whether the weight is 0.
        if fusible and (lamb := self.lamb) > 0:
            # The composed loss knows ignored targets, and what to say of impossible ones.
            with suppress(RuntimeError):
                return _fused.dynamics_aware(
                    input, target, q=self.q, lamb=lamb, reduction=self.reduction
                )
        return super().forward(input, target)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.dynamics_aware(input, target, q=self.q, lamb=self.lamb)


@final
class DynamicTaylorCrossEntropyLoss(Loss):
    r"""Taylor cross entropy whose order follows :attr:`progress`.

    See :func:`noisylabels.functional.taylor_cross_entropy`.

    Args:
        order_start: Order at progress 0, at least 1.
        order_end: Order at progress 1, at least 1.
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    formula = "sum_{i=1..order(t)} (1 - p_y)^i / i"

    def __init__(
        self,
        *,
        order_start: float = 20.0,
        order_end: float = 1.0,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.order_start = check_range("order_start", order_start, low=1)
        self.order_end = check_range("order_end", order_end, low=1)

    @property
    def order(self) -> float:
        """The order at the present progress; a fraction counts the next term in part."""
        return schedules.linear(self.progress, start=self.order_start, end=self.order_end)

    def dynamic(self) -> dict[str, float]:
        """Return ``order`` at the present progress."""
        return {"order": self.order}

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        most = math.ceil(max(self.order_start, self.order_end))
        return functional.taylor_cross_entropy(input, target, order=self.order, max_order=most)


@final
class DynamicJensenShannonLoss(Loss):
    r"""Jensen-Shannon divergence whose weight follows :attr:`progress`.

    See :func:`noisylabels.functional.jensen_shannon`.

    Args:
        pi_start: pi at progress 0, in [0, 1].
        pi_end: pi at progress 1, in [0, 1].
        weight: As for :class:`Loss`.
        ignore_index: As for :class:`Loss`.
        reduction: As for :class:`Loss`.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    formula = "JS with pi(t) = pi_start + (pi_end - pi_start) t"

    def __init__(
        self,
        *,
        pi_start: float = 0.0,
        pi_end: float = 1.0,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.pi_start = check_range("pi_start", pi_start, high=1)
        self.pi_end = check_range("pi_end", pi_end, high=1)

    @property
    def pi(self) -> float:
        """The label's weight at the present progress."""
        return schedules.linear(self.progress, start=self.pi_start, end=self.pi_end)

    def dynamic(self) -> dict[str, float]:
        """Return ``pi`` at the present progress."""
        return {"pi": self.pi}

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.jensen_shannon(input, target, pi=self.pi)


LOSSES: dict[str, type[Loss]] = {
    "ce": CrossEntropyLoss,
    "mae": MeanAbsoluteErrorLoss,
    "gce": GeneralizedCrossEntropyLoss,
    "tce": TaylorCrossEntropyLoss,
    "js": JensenShannonLoss,
    "gjs": GeneralizedJensenShannonLoss,
    "rce": ReverseCrossEntropyLoss,
    "sce": SymmetricCrossEntropyLoss,
    "nce": NormalizedCrossEntropyLoss,
    "nce+rce": ActivePassiveLoss,
    "agce": AsymmetricGeneralizedCrossEntropyLoss,
    "nce+agce": ActiveAsymmetricLoss,
    "ce+sr": SparseRegularizedCrossEntropyLoss,
    "btl": BiTemperedLogisticLoss,
    "nlnl": NegativeLearningLoss,
    "poly1": Poly1Loss,
    "dgce": DynamicGeneralizedCrossEntropyLoss,
    "dal": DynamicsAwareLoss,
    "dtce": DynamicTaylorCrossEntropyLoss,
    "djs": DynamicJensenShannonLoss,
}


def hyperparameters(loss: type[Loss]) -> dict[str, Any]:
    """Return a loss's own hyper-parameters and their defaults.

    Args:
        loss: The loss's class.

    Returns:
        Defaults by name, without ``weight``, ``ignore_index`` and ``reduction``.

    Example:
        >>> hyperparameters(LOSSES["dal"])
        {'q_start': 0.6, 'q_end': 1.5, 'lambda_end': 1.0}
    """
    shared = inspect.signature(Loss).parameters
    own = inspect.signature(loss).parameters
    return {name: p.default for name, p in own.items() if name not in shared}


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
