"""The losses as modules: drop-in replacements of ``torch.nn.CrossEntropyLoss``.

Each class is final, holds its hyper-parameters and computes one formula of
:mod:`noisylabels.functional`. Beside its hyper-parameters every loss takes what :class:`Loss`
takes, and raises ``ConfigError`` where a value is out of its range. A hyper-parameter that the
signature calls :data:`~noisylabels.schedules.Hyperparameter` is a number, a schedule or a
schedule's table; as an attribute it is a float, the value at the present :attr:`Loss.progress`,
which a training loop sets.

    >>> loss = build("gce", q={"schedule": "linear", "start": 0.6, "end": 1.5})
    >>> loss.progress = 0.5
    >>> loss
    GeneralizedCrossEntropyLoss(q=linear(start=0.6, end=1.5))
    >>> loss.q
    1.05
    >>> loss.dynamic()
    {'q': 1.05}
"""

import functools
import inspect
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict, Unpack, final, overload

import torch
from torch import Tensor, nn

from noisylabels import _fused, clipping, estimation, functional, noise, schedules
from noisylabels.errors import (
    CheckpointError,
    ConfigError,
    check_count,
    check_range,
    unknown,
)
from noisylabels.schedules import Hyperparameter, Schedule, StatefulSchedule

Reduction = Literal["mean", "sum", "none"]
BaseLoss = str | Mapping[str, Any]
"""What another loss is made of: a key of ``LOSSES``, or a table with that as ``"name"`` and its
hyper-parameters."""

UNTOLD_CALLS = 1000
"""After so many calls a loss with schedules warns if it was never told the progress."""
TAKE_OFF = 0.98
"""Share of the greatest entropy to which predictions' falls when a network begins to learn."""
EARLY, LATEST = 0.05, 0.15
"""Progress up to which learning began early, and by which it has begun, or q moves without it."""
NEWEST = 0.1
"""Weight of the newest batch in the mean that the take-off is seen by."""
FEWEST_EXAMPLES = 8
LOOKS = 3
"""A loss warns when so many looks in a row find one class predicted for a whole batch."""


class LossOptions(TypedDict, total=False):
    """What every loss takes beside ``weight`` and its hyper-parameters, see :class:`Loss`."""

    ignore_index: int
    reduction: Reduction
    label_smoothing: float


class Scheduled(property):
    """A hyper-parameter of a loss that may be a schedule, declared in the loss's class.

    Assigned is a :data:`~noisylabels.schedules.Hyperparameter`, read is a float: the value at the
    loss's progress. Numbers are checked when assigned, pure schedules on
    :data:`~noisylabels.schedules.GRID` as well, and every schedule whenever it is read.

    Args:
        low: Least valid value.
        high: Greatest valid value.
        open: Whether ``low`` itself is excluded.
        below: Whether ``high`` itself is excluded.

    Raises:
        ConfigError: A value is no number or out of its range.
    """

    def __init__(
        self,
        *,
        low: float = 0.0,
        high: float = math.inf,
        open: bool = False,
        below: bool = False,
    ) -> None:
        # Functions, and a property: that is what every version of torch's compiler looks into.
        def read(loss: "Loss") -> float:
            held = loss.held[self._name]
            if not callable(held):
                return held
            progress = loss.progress
            compiling = torch.compiler.is_compiling()
            value = held(progress) if compiling else self._called(held, progress)
            return self._checked(value, progress)

        def assign(loss: "Loss", value: Hyperparameter) -> None:
            loss.held[self._name] = self._parsed(value)

        super().__init__(read, assign)
        self._range: dict[str, Any] = {"low": low, "high": high, "open": open, "below": below}

    def __set_name__(self, owner: type, name: str) -> None:
        """Take the attribute's name."""
        self._name = name

    if TYPE_CHECKING:

        @overload
        def __get__(self, loss: None, owner: type | None = None) -> "Scheduled": ...

        @overload
        def __get__(self, loss: "Loss", owner: type | None = None) -> float: ...

        def __get__(self, loss: Any, owner: type | None = None) -> Any:
            """Return the value at the loss's progress."""

        def __set__(self, loss: "Loss", value: Hyperparameter) -> None:
            """Check the values that are known beforehand, and let the loss hold them."""

    def _parsed(self, value: Hyperparameter) -> "float | Schedule":
        """Check the values that are known beforehand."""
        held = schedules.parse(self._name, value)
        if not callable(held):
            return check_range(self._name, held, **self._range)
        try:
            foreseen = schedules.foresee(held)
        except ConfigError as error:
            raise ConfigError(f"{self._name}: {error}") from None
        for progress, at_progress in foreseen.items():
            self._checked(at_progress, progress)
        return held

    def _called(self, held: Schedule, progress: float) -> float:
        try:
            return held(progress)
        except AttributeError as error:
            # Which a module would take for its own: that it has no such hyper-parameter.
            raise RuntimeError(f"the schedule of {self._name} failed: {error}") from error

    def _checked(self, value: float, progress: float) -> float:
        try:
            return float(check_range(self._name, value, **self._range))
        except ConfigError as error:
            raise ConfigError(f"{error} at progress {progress:g}") from None


class Loss(nn.Module, ABC):
    """A loss with the calling conventions of ``torch.nn.CrossEntropyLoss``.

    Its state is :attr:`progress` and what its stateful schedules remember.

    Args:
        weight: Weight of each class, of shape (C).
        ignore_index: Class index whose examples count for nothing.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        label_smoothing: How far targets are moved to the uniform distribution, in [0, 1].

    Attributes:
        held: The hyper-parameters that may be schedules, as a float or a schedule each.

    Shape:
        As ``torch.nn.CrossEntropyLoss``: logits (C), (N, C) or (N, C, d1, ...); class indices of
        that shape without C, or class probabilities of that shape; a scalar, or the loss of each
        example with ``reduction="none"``. Where :attr:`takes_candidates`, also bool of that shape:
        sets of candidates, whose total probability is taken for the label's.

    Raises:
        ConfigError: A hyper-parameter is out of its range.
    """

    formula: ClassVar[str]
    """The loss of one example in plain text."""

    needs_indices: ClassVar[bool] = False
    """Whether class probabilities, smoothed class indices among them, do not define the loss."""

    takes_candidates: ClassVar[bool] = False
    """Whether targets may be sets of candidates: bool of the logits' shape."""

    class_dim: ClassVar[int | None] = None
    """Dimension of the classes, where it is not the usual one."""

    pure: ClassVar[bool] = False
    """Whether a batch's loss is a matter of its logits, its targets and the hyper-parameters at the
    loss's progress alone, with nothing drawn, remembered, or decided by their values. For a
    subclass it says nothing."""

    warns: bool = True
    """Whether it warns, once each, of a progress that is never told and of predictions that have
    shrunk to one class."""

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ConfigError(unknown("reduction", reduction, ("mean", "sum", "none")))
        if label_smoothing and self.needs_indices:
            raise ConfigError(
                f"{type(self).__name__} is not defined for class probabilities: label_smoothing "
                f"must be 0, got {label_smoothing!r}"
            )
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = check_range("label_smoothing", label_smoothing, high=1)
        self.held: dict[str, float | Schedule] = {}
        self._progress = 0.0
        self._told = False
        self._calls = 0
        self._collapsed = 0

    @abstractmethod
    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example, without weights, ``ignore_index`` or reduction."""

    def beyond_examples(self) -> list[str]:
        """Name what of the loss :meth:`per_example` leaves out, beside ignored examples.

        Whatever calls it alone, as methods that select examples do, should refuse these.

        Example:
            >>> build("ce", label_smoothing=0.1).beyond_examples()
            ['label_smoothing']
        """
        given = {"weight": self.weight is not None, "label_smoothing": self.label_smoothing != 0}
        return [name for name, is_given in given.items() if is_given]

    def of_log_p(self, log_p: Tensor) -> Tensor:
        r"""Compute the part of each example's loss that the label's probability determines.

        Losses for which this and :meth:`entropy_weight` are all say so by defining it:
        :math:`\ell = f(\log p_y) + c \, H(p)`. They need no logits at hand, see
        :class:`noisylabels.linear.LinearLoss`.

        Args:
            log_p: :math:`\log p_y` of each example.

        Returns:
            :math:`f(\log p_y)`.

        Raises:
            NotImplementedError: The loss depends on more.
        """
        raise NotImplementedError(f"{type(self).__name__} depends on more than log p_y and H(p)")

    def entropy_weight(self, classes: int) -> float:
        """Return the weight of the prediction's entropy, beside :meth:`of_log_p`.

        Args:
            classes: Number of classes.

        Returns:
            0, but for the dynamics-aware loss.
        """
        return 0.0

    @property
    def progress(self) -> float:
        """Training progress in [0, 1]; a training loop sets it to ``epoch / epochs``."""
        return self._progress

    @progress.setter
    def progress(self, progress: float) -> None:
        before = self._progress
        try:
            self._progress = float(check_range("progress", progress, high=1))
        except ConfigError as error:
            raise ConfigError(f"{error}: expected epoch / epochs") from None
        self._told = True
        self._moved(before)

    def _moved(self, before: float) -> None:
        """Take note that the progress has been told anew."""

    def dynamic(self) -> dict[str, float]:
        """Return the hyper-parameters that are schedules, at their present values."""
        return {name: getattr(self, name) for name, held in self.held.items() if callable(held)}

    def update(self, metrics: Mapping[str, float]) -> None:
        """Tell the stateful schedules what has been measured.

        Args:
            metrics: In a loop of one's own whatever the schedules ask for, such as
                ``{"validation_accuracy": 0.91}``; in a run see
                :class:`~noisylabels.schedules.StatefulSchedule`.
        """
        for schedule in self._stateful().values():
            schedule.update(metrics)
        self._told = True

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the reduced loss of a batch."""
        self._refuse_candidates(input, target)
        if self.training and self.warns and not torch.compiler.is_compiling():
            self._count_call()
            self._watch(input, target)
        return self._reduced(input, target)

    def _refuse_candidates(self, input: Tensor, target: Tensor) -> None:
        if not self.takes_candidates and functional.holds_candidates(input, target):
            # Weighed candidates are class probabilities.
            weighed = ', or CandidateLoss of it (in a run: method = "candidates")'
            raise TypeError(
                f"{type(self).__name__} is not defined for sets of candidates, as CrossEntropyLoss "
                f"and DynamicsAwareLoss are: expected class indices or probabilities"
                f"{'' if self.needs_indices else weighed}"
            )

    def _reduced(self, input: Tensor, target: Tensor) -> Tensor:
        each = self._of_batch(input, target, self.ignore_index)
        return self._reduce(each, input, target)

    def _of_batch(
        self, input: Tensor, target: Tensor, ignore_index: int
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what computes the loss of each example of a batch, of which some may be ignored.

        It is given ``input`` and ``target`` again, with a class in the place of ``ignore_index``,
        and other examples of the batch if need be.
        """
        return self.per_example

    def _reduce(
        self, function: Callable[[Tensor, Tensor], Tensor], input: Tensor, target: Tensor
    ) -> Tensor:
        return functional.reduce(
            function,
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            class_dim=self.class_dim,
        )

    def extra_repr(self) -> str:
        """Show the hyper-parameters."""
        # A loss of one's own need not keep each of them by its name.
        names = [name for name in hyperparameters(type(self)) if hasattr(self, name)]
        values = {name: getattr(self, name) for name in names} | self.held
        if self.label_smoothing:
            values["label_smoothing"] = self.label_smoothing
        return ", ".join(f"{name}={schedules.describe(value)}" for name, value in values.items())

    def get_extra_state(self) -> dict[str, Any]:
        """Return the progress and the states of the stateful schedules."""
        states = {name: schedule.state_dict() for name, schedule in self._stateful().items()}
        return {"progress": self.progress, "schedules": states}

    def set_extra_state(self, state: object) -> None:
        """Go on from a state.

        Raises:
            CheckpointError: It belongs to a loss with other stateful schedules.
        """
        if not isinstance(state, Mapping):
            # Negative learning used to save how often it had been called.
            return
        self.progress = state.get("progress", self.progress)
        stateful = self._stateful()
        for name, saved in state.get("schedules", {}).items():
            if name not in stateful:
                raise CheckpointError(unknown("stateful schedule", name, stateful))
            stateful[name].load_state_dict(saved)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A state that was saved before there was more than the weights is a whole one too.
        state_dict.setdefault(f"{prefix}_extra_state", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _stateful(self) -> dict[str, StatefulSchedule]:
        return {n: held for n, held in self.held.items() if isinstance(held, StatefulSchedule)}

    def _count_call(self) -> None:
        """Warn, once, of a schedule that has been read a thousand times at progress 0."""
        self._calls += 1
        if self._calls == UNTOLD_CALLS and not self._told and self.dynamic():
            warnings.warn(
                f"{type(self).__name__} was called {UNTOLD_CALLS} times and never told the "
                f"progress of training: its {' and '.join(self.dynamic())} stayed where they "
                f"start; write `loss.progress = epoch / epochs` at the start of every epoch",
                stacklevel=5,
            )

    def _watch(self, input: Tensor, target: Tensor) -> None:
        """Look at a batch now and then, and warn where one class is predicted for all of it."""
        # Other devices would have to be waited for. Late in training there are few calls left, and
        # no network predicts one class any more only because it has just begun.
        interval = (10 if input.is_cpu else 100) // (5 if self._progress >= 0.5 else 1)
        if self._collapsed < LOOKS and self._calls % interval == 0:
            self._look(input, target)

    def _look(self, input: Tensor, target: Tensor) -> None:
        """Warn where one class is predicted for whole batches that are mostly of other classes."""
        if input.ndim != 2 or len(input) < FEWEST_EXAMPLES or target.ndim not in (1, 2):
            return
        if torch._C._are_functorch_transforms_active():
            return
        predicted = input.detach().argmax(1)
        if target.ndim == 1:
            known = ~functional.is_ignored(target, self.ignore_index)
            predicted, target = predicted[known], target[known]
            if len(target) < FEWEST_EXAMPLES:
                return
        if target.dtype is torch.bool:
            others = ~target[:, predicted[0]]
        else:
            labels = target if target.ndim == 1 else target.argmax(1)
            others = labels != predicted[0]
        collapsed = (predicted == predicted[0]).all() & (2 * others.sum() > len(others))
        self._collapsed = self._collapsed + 1 if bool(collapsed) else 0
        if self._collapsed == LOOKS:
            warnings.warn(
                f"{type(self).__name__}: for whole batches the network predicts class "
                f"{int(predicted[0])} alone. A loss that is robust before the network has learnt "
                f"anything can end so: train longer, or start nearer to cross entropy"
                + (", by q_start=0.0" if hasattr(self, "q_start") else ""),
                stacklevel=6,
            )


class LossWrapper(nn.Module):
    """A module that computes a loss in another way, or of something else than logits and labels.

    Args:
        loss: The loss.
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    @property
    def progress(self) -> float:
        """The loss's training progress in [0, 1]; a training loop sets it to ``epoch / epochs``."""
        return self.loss.progress

    @progress.setter
    def progress(self, progress: float) -> None:
        self.loss.progress = progress


@final
class CrossEntropyLoss(Loss):
    """Cross entropy, see :func:`noisylabels.functional.cross_entropy`."""

    formula = "-log p_y"
    pure = True
    takes_candidates = True

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.cross_entropy(input, target)

    def of_log_p(self, log_p: Tensor) -> Tensor:
        """Compute the loss of each example from the label's log-probability."""
        return -log_p


@final
class MeanAbsoluteErrorLoss(Loss):
    """Mean absolute error, see :func:`noisylabels.functional.mean_absolute_error`."""

    formula = "1 - p_y"
    pure = True
    takes_candidates = True

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.mean_absolute_error(input, target)

    def of_log_p(self, log_p: Tensor) -> Tensor:
        """Compute the loss of each example from the label's log-probability."""
        return functional.generalized_cross_entropy_of(log_p, q=1)


@final
class GeneralizedCrossEntropyLoss(Loss):
    """Generalized cross entropy, see :func:`noisylabels.functional.generalized_cross_entropy`.

    Args:
        q: Exponent, at least 0: 0 is cross entropy, 1 mean absolute error.

    Example:
        >>> GeneralizedCrossEntropyLoss(q=0.7)
        GeneralizedCrossEntropyLoss(q=0.7)
    """

    formula = "(1 - p_y^q)/q"
    pure = True
    takes_candidates = True
    q = Scheduled()

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        q: Hyperparameter = 0.7,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.q = q

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.generalized_cross_entropy(input, target, q=self.q)

    def of_log_p(self, log_p: Tensor) -> Tensor:
        """Compute the loss of each example from the label's log-probability."""
        return functional.generalized_cross_entropy_of(log_p, q=self.q)


@final
class TaylorCrossEntropyLoss(Loss):
    """Taylor cross entropy, see :func:`noisylabels.functional.taylor_cross_entropy`.

    Args:
        order: Number of terms, at least 1; a fraction counts the next term in part.
    """

    formula = "sum_{i=1..order} (1 - p_y)^i / i"
    pure = True
    takes_candidates = True
    order = Scheduled(low=1)

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        order: Hyperparameter = 3.0,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.order = order
        self._max_order = math.ceil(max(schedules.foresee(self.held["order"]).values()))

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        order = self.order
        # One compiled graph serves every order that was foreseen.
        most = self._max_order if order <= self._max_order else math.ceil(order)
        return functional.taylor_cross_entropy(input, target, order=order, max_order=most)


@final
class JensenShannonLoss(Loss):
    """Scaled Jensen-Shannon divergence, see :func:`noisylabels.functional.jensen_shannon`.

    Args:
        pi: Weight of the label, in [0, 1]: 0 is cross entropy, 1 mean absolute error.
    """

    formula = "Z [pi KL(e_y||m) + (1 - pi) KL(p||m)], m = pi e_y + (1 - pi) p, Z: 0 is CE, 1 MAE"
    pure = True
    takes_candidates = True
    pi = Scheduled(high=1)

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        pi: Hyperparameter = 0.9,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.pi = pi

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.jensen_shannon(input, target, pi=self.pi)


@final
class GeneralizedJensenShannonLoss(Loss):
    """Scaled Jensen-Shannon divergence of a label and several views.

    See :func:`noisylabels.functional.generalized_jensen_shannon`. Logits come as (views, N, C),
    class indices as (N), so it is no loss of a single network's logits and not in ``LOSSES``.

    Args:
        pi: Weight of the label, in (0, 1].
    """

    formula = "Z [pi KL(e_y||m) + (1 - pi)/V sum_v KL(p_v||m)], m = pi e_y + (1 - pi)/V sum_v p_v"
    needs_indices = True
    class_dim = -1
    pi = Scheduled(high=1, open=True)

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        pi: Hyperparameter = 0.5,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.pi = pi

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.generalized_jensen_shannon(input, target, pi=self.pi)


@final
class ReverseCrossEntropyLoss(Loss):
    """Reverse cross entropy, see :func:`noisylabels.functional.reverse_cross_entropy`.

    Args:
        A: What stands for log 0, at most 0.
    """

    formula = "-A (1 - p_y)"
    pure = True
    takes_candidates = True
    A = Scheduled(low=-math.inf, high=0)

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        A: Hyperparameter = functional.LOG_RCE,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.A = A

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.reverse_cross_entropy(input, target, A=self.A)

    def of_log_p(self, log_p: Tensor) -> Tensor:
        """Compute the loss of each example from the label's log-probability."""
        return -self.A * functional.generalized_cross_entropy_of(log_p, q=1)


@final
class SymmetricCrossEntropyLoss(Loss):
    """Symmetric cross entropy, see :func:`noisylabels.functional.symmetric_cross_entropy`.

    Args:
        alpha: Weight of cross entropy, at least 0.
        beta: Weight of reverse cross entropy, at least 0.
        A: What stands for log 0, at most 0.
    """

    formula = "-alpha log p_y - beta A (1 - p_y)"
    pure = True
    takes_candidates = True
    alpha = Scheduled()
    beta = Scheduled()
    A = Scheduled(low=-math.inf, high=0)

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        alpha: Hyperparameter = 0.1,
        beta: Hyperparameter = 10.0,
        A: Hyperparameter = functional.LOG_RCE,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.alpha, self.beta, self.A = alpha, beta, A

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.symmetric_cross_entropy(
            input, target, alpha=self.alpha, beta=self.beta, A=self.A
        )

    def of_log_p(self, log_p: Tensor) -> Tensor:
        """Compute the loss of each example from the label's log-probability."""
        return functional.symmetric_cross_entropy_of(
            log_p, alpha=self.alpha, beta=self.beta, A=self.A
        )


@final
class NormalizedCrossEntropyLoss(Loss):
    """Normalized cross entropy, see :func:`noisylabels.functional.normalized_cross_entropy`."""

    formula = "log p_y / sum_k log p_k"
    pure = True

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.normalized_cross_entropy(input, target)


@final
class ActivePassiveLoss(Loss):
    """Normalized and reverse cross entropy, see :func:`noisylabels.functional.active_passive`.

    Args:
        alpha: Weight of the active term, at least 0.
        beta: Weight of the passive term, at least 0.
    """

    formula = "alpha NCE + beta RCE"
    pure = True
    alpha = Scheduled()
    beta = Scheduled()

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        alpha: Hyperparameter = 1.0,
        beta: Hyperparameter = 0.1,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.alpha, self.beta = alpha, beta

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.active_passive(input, target, alpha=self.alpha, beta=self.beta)


@final
class AsymmetricGeneralizedCrossEntropyLoss(Loss):
    """Asymmetric generalized cross entropy.

    See :func:`noisylabels.functional.asymmetric_generalized_cross_entropy`.

    Args:
        a: Shift of the probability, at least 0.
        q: Exponent, at least 0.
    """

    formula = "((a + 1)^q - (a + p_y)^q)/q"
    pure = True
    takes_candidates = True
    a = Scheduled()
    q = Scheduled()

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        a: Hyperparameter = 6.0,
        q: Hyperparameter = 1.5,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.a, self.q = a, q

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.asymmetric_generalized_cross_entropy(input, target, a=self.a, q=self.q)


@final
class ActiveAsymmetricLoss(Loss):
    """Normalized and asymmetric generalized cross entropy.

    See :func:`noisylabels.functional.active_asymmetric`.

    Args:
        alpha: Weight of the active term, at least 0.
        beta: Weight of the passive term, at least 0.
        a: Shift of the probability, at least 0.
        q: Exponent, at least 0.
    """

    formula = "alpha NCE + beta AGCE"
    pure = True
    alpha = Scheduled()
    beta = Scheduled()
    a = Scheduled()
    q = Scheduled()

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        alpha: Hyperparameter = 1.0,
        beta: Hyperparameter = 0.4,
        a: Hyperparameter = 6.0,
        q: Hyperparameter = 1.5,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.alpha, self.beta, self.a, self.q = alpha, beta, a, q

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.active_asymmetric(
            input, target, alpha=self.alpha, beta=self.beta, a=self.a, q=self.q
        )


@final
class SparseRegularizedCrossEntropyLoss(Loss):
    """Cross entropy with sparse regularization.

    See :func:`noisylabels.functional.sparse_regularized_cross_entropy`.

    Args:
        tau: Temperature, above 0.
        lamb: Weight of the regularization before it grows, at least 0.
        p: Exponent, above 0; small values ask for sparse predictions.
        rho: Growth of the weight, above 0.
        r: Epochs between two multiplications by ``rho``, at least 1.
        epochs: Epochs that progress 0 to 1 stands for, at least 1.
    """

    formula = "-log s_y + lamb rho^floor(epoch/r) sum_k s_k^p, s = softmax(z/(tau ||z||))"
    pure = True
    tau = Scheduled(open=True)
    lamb = Scheduled()
    p = Scheduled(open=True)

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        tau: Hyperparameter = 0.5,
        lamb: Hyperparameter = 1.5,
        p: Hyperparameter = 0.1,
        rho: float = 1.02,
        r: int = 1,
        epochs: int = 150,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.tau, self.lamb, self.p = tau, lamb, p
        self.rho = check_range("rho", rho, open=True)
        self.r = check_count("r", r, low=1)
        self.epochs = check_count("epochs", epochs, low=1)

    @property
    def current_lamb(self) -> float:
        """The weight of the regularization at the present progress."""
        # An epoch is often a quotient times a divisor: 3/150 * 150 must not be epoch 2.
        steps = math.floor(self.progress * self.epochs / self.r + 1e-9)
        return self.lamb * self.rho**steps

    def dynamic(self) -> dict[str, float]:
        """Return ``lamb`` as it has grown, and the hyper-parameters that are schedules."""
        return super().dynamic() | {"lamb": self.current_lamb}

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.sparse_regularized_cross_entropy(
            input, target, tau=self.tau, lamb=self.current_lamb, p=self.p
        )


@final
class BiTemperedLogisticLoss(Loss):
    """Bi-tempered logistic loss, see :func:`noisylabels.functional.bi_tempered_logistic`.

    Args:
        t1: Temperature of the logarithm, in [0, 1]; below 1 the loss is bounded.
        t2: Temperature of the softmax, at least 1; above 1 its tails are heavy.
        num_iters: Fixed-point steps of the normalisation, at least 1.
    """

    formula = "-log_t1 p_y - (1 - sum_k p_k^(2 - t1))/(2 - t1), p = exp_t2(z - lambda(z))"
    pure = True
    t1 = Scheduled(high=1)
    t2 = Scheduled(low=1)

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        t1: Hyperparameter = 0.7,
        t2: Hyperparameter = 3.0,
        num_iters: int = 5,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.t1, self.t2 = t1, t2
        self.num_iters = check_count("num_iters", num_iters, low=1)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.bi_tempered_logistic(
            input, target, t1=self.t1, t2=self.t2, num_iters=self.num_iters
        )


@final
class NegativeLearningLoss(Loss):
    """Negative learning, see :func:`noisylabels.functional.negative_learning`.

    Every call draws other complementary labels, see
    :func:`noisylabels.functional.draw_complement`.

    Args:
        n: Complementary labels to draw for each example, at least 1.
        class_counts: Examples of each class; a class weighs by the inverse, with mean 1.
            Equal weights by default.
    """

    formula = "-sum_c w_c log(1 - p_c) over n classes c other than y, w_c ~ 1/class_counts_c"
    needs_indices = True

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        n: int = 1,
        class_counts: Sequence[int] | None = None,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.n = check_count("n", n, low=1)
        self.class_counts = None if class_counts is None else tuple(class_counts)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        functional.require_indices("negative_learning", target)
        classes = input.shape[0 if input.ndim == 1 else 1]
        complement = functional.draw_complement(target, num_classes=classes, n=self.n)
        return functional.negative_learning(
            input, target, complement=complement, class_weight=self._class_weight(input, classes)
        )

    def _class_weight(self, input: Tensor, classes: int) -> Tensor | None:
        counts = self.class_counts
        if counts is None:
            return None
        if len(counts) != classes:
            raise ConfigError(
                f"class_counts: expected {classes} counts, one per class, got {len(counts)}"
            )
        inverse = [1 / max(count, 1) for count in counts]
        mean = sum(inverse) / classes
        return input.new_tensor([value / mean for value in inverse], dtype=torch.float32)


@final
class Poly1Loss(Loss):
    """Poly-1, see :func:`noisylabels.functional.poly1`.

    Args:
        epsilon: Weight of the added term, at least -1.
    """

    formula = "-log p_y + epsilon (1 - p_y)"
    pure = True
    takes_candidates = True
    epsilon = Scheduled(low=-1)

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        epsilon: Hyperparameter = 10.0,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.epsilon = epsilon

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.poly1(input, target, epsilon=self.epsilon)


class DynamicsAwareLoss(Loss):
    """Dynamics-aware loss, see :func:`noisylabels.functional.dynamics_aware`.

    q moves linearly from ``q_start`` (fits fast) to ``q_end`` (robust) with :attr:`progress`;
    where it passes 1, the bootstrapping term grows in, see
    :func:`noisylabels.schedules.bootstrapping`.

    Args:
        q_start: q at progress 0, at least 0.
        q_end: q at progress 1, at least 0; up to 1 there is no bootstrapping.
        lambda_end: Weight of the bootstrapping term at progress 1, at least 0.

    Example:
        >>> loss = DynamicsAwareLoss(q_start=0.8, q_end=1.5)
        >>> loss.progress = 0.9
        >>> round(loss.q, 2), round(loss.lamb, 2)
        (1.43, 0.86)

    References:
        Li, Xia, Zhu, Liu, Zhang, Liu, "Dynamics-Aware Loss for Learning with Label Noise", 2023.
    """

    formula = "(1 - p_y^q(t))/q(t) + lambda(t) H(p)/(q(t) log K), q and lambda growing with t"
    pure = True
    takes_candidates = True

    _fusible: ClassVar[bool] = True
    """Whether the fused pass computes it: not what a subclass has made another loss of."""

    def __init_subclass__(cls, **options: Any) -> None:
        """See whether a subclass has another loss of each example."""
        super().__init_subclass__(**options)
        if "per_example" in vars(cls) and "_fusible" not in vars(cls):
            cls._fusible = False

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        q_start: float = 0.6,
        q_end: float = 1.5,
        lambda_end: float = 1.0,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.q_start = check_range("q_start", q_start)
        self.q_end = check_range("q_end", q_end)
        self.lambda_end = check_range("lambda_end", lambda_end)

    def _line(self) -> tuple[float, float]:
        """Return where the line of q starts, and how far along it the present progress is."""
        return self.q_start, self.progress

    @property
    def q(self) -> float:
        """The exponent at the present progress."""
        start, passed = self._line()
        return schedules.linear(passed, start=start, end=self.q_end)

    @property
    def lamb(self) -> float:
        """The weight of the bootstrapping term at the present progress."""
        start, passed = self._line()
        return schedules.bootstrapping(
            passed, q_start=start, q_end=self.q_end, lambda_end=self.lambda_end
        )

    def dynamic(self) -> dict[str, float]:
        """Return ``q`` and ``lamb`` at the present progress."""
        return {"q": self.q, "lamb": self.lamb}

    def _reduced(self, input: Tensor, target: Tensor) -> Tensor:
        q, lamb = self.q, self.lamb
        if self._fusible and _fused.applies(
            input,
            target,
            lamb=lamb,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        ):
            return _fused.dynamics_aware(
                input,
                target,
                q=q,
                lamb=lamb,
                reduction=self.reduction,
                ignore_index=self.ignore_index,
            )
        return super()._reduced(input, target)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.dynamics_aware(input, target, q=self.q, lamb=self.lamb)

    def of_log_p(self, log_p: Tensor) -> Tensor:
        """Compute the first term of each example's loss from the label's log-probability."""
        return functional.generalized_cross_entropy_of(log_p, q=self.q)

    def entropy_weight(self, classes: int) -> float:
        """Return the weight of the prediction's entropy at the present progress."""
        q, lamb = self.q, self.lamb
        if classes == 1 or lamb == 0:
            return 0.0
        return functional.entropy_weight(classes, q=q, lamb=lamb)


@dataclass
class _Seen:
    """What an adaptive loss has seen of a network that has not begun to learn.

    Args:
        entropy: The mean of the last batches' relative entropies.
        counted: How many batches are in it.
        calls: Calls since the progress was told.
        taken: How many of them there had been when learning began; 0 if it has not.
        scale: Of ``q_start``, for the number of classes.
    """

    entropy: float = 1.0
    counted: int = 0
    calls: int = 0
    taken: int = 0
    scale: float = 1.0


@final
class AdaptiveDynamicsAwareLoss(DynamicsAwareLoss):
    r"""Dynamics-aware loss whose q waits until the network has begun to learn.

    A robust loss hardly moves a network that predicts all classes alike, so with the clock a
    ``q_start`` that serves long training leaves short training nowhere. Here the loss is cross
    entropy until the entropy of the predictions, averaged over about ten batches, has fallen to
    ``TAKE_OFF`` of its greatest value :math:`\log K`. Let that be at progress :math:`a` (within an
    epoch by the share of its calls): from the next progress that is told, q is on a line to
    ``q_end`` at 1, which at :math:`a` starts at

    .. math:: q_a = q_\text{start} \, \min\Bigl(1, \frac{10}{K}\Bigr) \min\Bigl(1,
        \max\Bigl(0, \frac{\text{LATEST} - a}{\text{LATEST} - \text{EARLY}}\Bigr)\Bigr).

    So a network that began early, for which training is long, goes on robustly, and one that took
    its time goes on fitting; where nothing is seen to begin by ``LATEST``, q moves from 0 at that
    progress, or, with the few epochs of which one leads past it, at which it began in that one. The
    middle factor is for more than ten classes, where labels at chance have
    :math:`K^{-q}` of cross entropy's pull.

    What it has seen is part of its state, and forgotten where the progress goes back. Only calls
    count whose logits want a gradient; until the beginning each of them waits for the device.

    Args:
        q_start: Where q goes on with up to ten classes if learning begins early, at least 0.
        q_end: q at progress 1, at least 0; up to 1 there is no bootstrapping.
        lambda_end: Weight of the bootstrapping term at progress 1, at least 0.

    Attributes:
        began: Progress at which the network began to learn, or None where that is not known yet.

    Example:
        >>> loss = AdaptiveDynamicsAwareLoss()
        >>> logits = torch.tensor([[4.0, 0.0, 0.0]], requires_grad=True)
        >>> for epoch in range(3):
        ...     loss.progress = epoch / 10
        ...     _ = loss(logits, torch.tensor([0]))
        ...     print(f"{loss.q:.2f}")
        0.00
        0.40
        0.52

    References:
        This project's own; ``docs/losses/adaptive.md`` has what it was compared with.
    """

    formula = "cross entropy, and dal from when the network has begun to learn"
    # What it follows needs all logits.
    of_log_p = Loss.of_log_p
    # Each example's loss is the same, but for what it follows.
    _fusible = True

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        q_start: float = 0.8,
        q_end: float = 1.5,
        lambda_end: float = 1.0,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, q_start=q_start, q_end=q_end, lambda_end=lambda_end, **options)
        self.began: float | None = None
        self._seen = _Seen()

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example, and in training see whether learning has begun."""
        self._follow(input, target, None)
        return super().per_example(input, target)

    def _of_batch(
        self, input: Tensor, target: Tensor, ignore_index: int
    ) -> Callable[[Tensor, Tensor], Tensor]:
        self._follow(input, target, ignore_index)
        return super().per_example

    def get_extra_state(self) -> dict[str, Any]:
        """Return the progress and what has been seen."""
        return super().get_extra_state() | {"began": self.began} | asdict(self._seen)

    def set_extra_state(self, state: object) -> None:
        """Go on from a state."""
        super().set_extra_state(state)
        if isinstance(state, Mapping):
            self.began = state.get("began", self.began)
            for name in asdict(self._seen):
                setattr(self._seen, name, state.get(name, getattr(self._seen, name)))

    def _line(self) -> tuple[float, float]:
        began = LATEST if self.began is None else self.began
        lateness = min(1.0, max(0.0, (began - EARLY) / (LATEST - EARLY)))
        start = self.q_start * self._seen.scale * (1 - lateness)
        # Of one epoch, or none, nothing is left.
        left = 1 - began
        return start, max(0.0, (self.progress - began) / left) if left else 1.0

    def _moved(self, before: float) -> None:
        seen = self._seen
        if self.progress < before:
            # Another training begins.
            self.began, self._seen = None, _Seen()
        elif self.progress > before:
            if self.began is None and seen.taken:
                self.began = before + (self.progress - before) * seen.taken / seen.calls
            seen.calls = 0

    def _follow(self, input: Tensor, target: Tensor, ignore_index: int | None) -> None:
        if not (self.training and input.requires_grad and torch.is_grad_enabled()):
            return
        if self.began is not None or self.progress >= LATEST:
            return
        if torch._C._are_functorch_transforms_active():
            return
        seen = self._seen
        seen.calls += 1
        if seen.taken:
            return
        each = functional.relative_entropy(input.detach())
        soft = target.is_floating_point() or functional.holds_candidates(input, target)
        if ignore_index is not None and not soft:
            each = each[~functional.is_ignored(target, ignore_index)]
        entropy = float(each.mean())
        # Nothing can be learnt of no example, nor of logits that are not finite.
        if not math.isfinite(entropy):
            return
        seen.counted += 1
        seen.entropy += (entropy - seen.entropy) * max(1 / seen.counted, NEWEST)
        if seen.entropy <= TAKE_OFF:
            seen.taken = seen.calls
            seen.scale = min(1.0, 10 / input.shape[0 if input.ndim == 1 else 1])


class _Balanced(Loss):
    """A loss that also asks for batches whose mean prediction is spread over the classes."""

    lamb = Scheduled()

    def beyond_examples(self) -> list[str]:
        """Name what :meth:`per_example` leaves out: lamb's term too, which is the batch's."""
        return super().beyond_examples() + (["lamb"] if self.held["lamb"] != 0 else [])

    def _reduced(self, input: Tensor, target: Tensor) -> Tensor:
        lamb = self.lamb
        if lamb == 0:
            return super()._reduced(input, target)
        soft = target.is_floating_point()
        counted = None if soft else ~functional.is_ignored(target, self.ignore_index)
        imbalance = lamb * functional.class_imbalance(input, counted)

        def both(input: Tensor, target: Tensor) -> Tensor:
            # An example weighs as much as its probabilities say.
            each, dim = self.per_example(input, target), 0 if input.ndim == 1 else 1
            total = target.sum(dim).to(each.dtype) if target.is_floating_point() else 1
            return each + total * imbalance

        return self._reduce(both, input, target)


@final
class ActiveNegativeLoss(_Balanced):
    """Normalized and normalized negative cross entropy (ANL-CE).

    See :func:`noisylabels.functional.active_negative`.

    Args:
        alpha: Weight of the active term, at least 0.
        beta: Weight of the negative term, at least 0.
        lamb: Weight of :func:`noisylabels.functional.class_imbalance` of each batch, at least 0.
        min_prob: Least probability that counts in the negative term, in (0, 1/C).
    """

    formula = "alpha NCE + beta (1 - (A + log p_y)/sum_k (A + log p_k)) + lamb (log K - H(mean p))"
    alpha = Scheduled()
    beta = Scheduled()

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        alpha: Hyperparameter = 5.0,
        beta: Hyperparameter = 5.0,
        lamb: Hyperparameter = 0.0,
        min_prob: float = 1e-7,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.alpha, self.beta, self.lamb = alpha, beta, lamb
        self.min_prob = check_range("min_prob", min_prob, high=1, open=True, below=True)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example, without what is the batch's."""
        return functional.active_negative(
            input, target, alpha=self.alpha, beta=self.beta, min_prob=self.min_prob
        )


@final
class ActiveNegativeFocalLoss(_Balanced):
    """Normalized and normalized negative focal loss (ANL-FL).

    See :func:`noisylabels.functional.active_negative_focal`.

    Args:
        alpha: Weight of the active term, at least 0.
        beta: Weight of the negative term, at least 0.
        gamma: Exponent of the focal loss, at least 0.
        lamb: Weight of :func:`noisylabels.functional.class_imbalance` of each batch, at least 0.
        min_prob: Least probability that counts in the negative term, in (0, 1/C).
    """

    formula = (
        "alpha F_y/sum_k F_k + beta (1 - (A - F_y)/sum_k (A - F_k)) + lamb (log K - H(mean p))"
    )
    alpha = Scheduled()
    beta = Scheduled()
    gamma = Scheduled()

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        alpha: Hyperparameter = 5.0,
        beta: Hyperparameter = 5.0,
        gamma: Hyperparameter = 0.5,
        lamb: Hyperparameter = 0.0,
        min_prob: float = 1e-7,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.alpha, self.beta, self.gamma, self.lamb = alpha, beta, gamma, lamb
        self.min_prob = check_range("min_prob", min_prob, high=1, open=True, below=True)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example, without what is the batch's."""
        return functional.active_negative_focal(
            input,
            target,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            min_prob=self.min_prob,
        )


@final
class JointAsymmetricLoss(Loss):
    """Normalized cross entropy and asymmetric mean square error (JAL-CE).

    See :func:`noisylabels.functional.joint_asymmetric`.

    Args:
        alpha: Weight of the active term, at least 0.
        beta: Weight of the passive term, at least 0.
        a: Where the probability of the label is drawn to, at least 1.
    """

    formula = "alpha NCE + beta/K sum_k (p_k - a 1[k = y])^2"
    alpha = Scheduled()
    beta = Scheduled()
    a = Scheduled(low=1)

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        alpha: Hyperparameter = 1.0,
        beta: Hyperparameter = 1.0,
        a: Hyperparameter = 30.0,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.alpha, self.beta, self.a = alpha, beta, a

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.joint_asymmetric(
            input, target, alpha=self.alpha, beta=self.beta, a=self.a
        )


@final
class JointAsymmetricFocalLoss(Loss):
    """Normalized focal loss and asymmetric mean square error (JAL-FL).

    See :func:`noisylabels.functional.joint_asymmetric_focal`.

    Args:
        alpha: Weight of the active term, at least 0.
        beta: Weight of the passive term, at least 0.
        a: Where the probability of the label is drawn to, at least 1.
        gamma: Exponent of the focal loss, at least 0.
    """

    formula = "alpha F_y/sum_k F_k + beta/K sum_k (p_k - a 1[k = y])^2, F = -(1 - p)^gamma log p"
    alpha = Scheduled()
    beta = Scheduled()
    a = Scheduled(low=1)
    gamma = Scheduled()

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        alpha: Hyperparameter = 1.0,
        beta: Hyperparameter = 1.0,
        a: Hyperparameter = 30.0,
        gamma: Hyperparameter = 0.5,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.alpha, self.beta, self.a, self.gamma = alpha, beta, a, gamma

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.joint_asymmetric_focal(
            input, target, alpha=self.alpha, beta=self.beta, a=self.a, gamma=self.gamma
        )


@final
class EpsilonSoftmaxLoss(Loss):
    """Cross entropy of an epsilon-softmax and mean absolute error (CE_eps + MAE).

    See :func:`noisylabels.functional.epsilon_softmax`.

    Args:
        alpha: Weight of the cross entropy, at least 0.
        beta: Weight of mean absolute error, at least 0.
        m: What the likeliest class is given, at least 0; more is more robust.
    """

    formula = "-alpha log((p_y + m 1[y likeliest])/(m + 1)) + 2 beta (1 - p_y)"
    alpha = Scheduled()
    beta = Scheduled()
    m = Scheduled()

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        alpha: Hyperparameter = 0.01,
        beta: Hyperparameter = 5.0,
        m: Hyperparameter = 1e5,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.alpha, self.beta, self.m = alpha, beta, m

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.epsilon_softmax(input, target, alpha=self.alpha, beta=self.beta, m=self.m)


@final
class TruncatedGeneralizedCrossEntropyLoss(Loss):
    """Truncated generalized cross entropy.

    See :func:`noisylabels.functional.truncated_generalized_cross_entropy`.

    Args:
        q: Exponent, at least 0.
        k: Probability up to which a label is taken for wrong, in [0, 1].
        start: Progress at which that begins, in [0, 1]; before it is generalized cross entropy.
    """

    formula = "(1 - max(p_y, k)^q)/q, k = 0 before start"
    q = Scheduled()
    k = Scheduled(high=1)

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        q: Hyperparameter = 0.7,
        k: Hyperparameter = 0.5,
        start: float = 1 / 3,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.q, self.k = q, k
        self.start = check_range("start", start, high=1)

    @property
    def current_k(self) -> float:
        """The threshold at the present progress."""
        # Epoch 40 of 120 is a third.
        return self.k if self.progress >= self.start - 1e-9 else 0.0

    def dynamic(self) -> dict[str, float]:
        """Return ``k`` as it is now, and the hyper-parameters that are schedules."""
        return super().dynamic() | {"k": self.current_k}

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.truncated_generalized_cross_entropy(
            input, target, q=self.q, k=self.current_k
        )


@final
class LabelDistributionallyRobustLoss(Loss):
    """Label-distributionally robust loss with KL regularization (LDR-KL).

    See :func:`noisylabels.functional.label_distributionally_robust`.

    Args:
        lamb: Weight of the regularization, above 0; more is more robust.
        margin: How far the label's score should be above the others, at least 0.
        normalize: Whether scores are nonnegative and have mean 1; if not, they are the logits.
    """

    formula = "lamb log mean_k exp((s_k - s_y + margin 1[k != y])/lamb), s = K softplus(z)/sum"
    lamb = Scheduled(open=True)
    margin = Scheduled()

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        lamb: Hyperparameter = 10.0,
        margin: Hyperparameter = 0.1,
        normalize: bool = True,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.lamb, self.margin = lamb, margin
        if not isinstance(normalize, bool):
            raise ConfigError(f"normalize must be True or False, got {normalize!r}")
        self.normalize = normalize

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return functional.label_distributionally_robust(
            input, target, lamb=self.lamb, margin=self.margin, normalize=self.normalize
        )


class _OnBase(Loss):
    """A loss that is made of another one, which has its progress."""

    loss: Loss

    def dynamic(self) -> dict[str, float]:
        """Return the hyper-parameters that are schedules; those of the base as ``base.NAME``."""
        of_base = {f"base.{name}": value for name, value in self.loss.dynamic().items()}
        return super().dynamic() | of_base

    def update(self, metrics: Mapping[str, float]) -> None:
        """Tell the stateful schedules what has been measured."""
        super().update(metrics)
        self.loss.update(metrics)

    def _moved(self, before: float) -> None:
        self.loss.progress = self.progress


@final
class LogitClippedLoss(_OnBase):
    """A loss of logits whose norm is clipped (LogitClip).

    See :func:`noisylabels.functional.clip_logits`.

    Args:
        delta: The greatest norm, above 0; less is more robust.
        base: The loss: a key of ``LOSSES``, or a table with that as ``"name"`` and its
            hyper-parameters.

    Raises:
        ConfigError: There is no such loss, class probabilities do not define it, or it has what is
            not of each example: a matrix to estimate, or a ``lamb`` of the batch's.

    Example:
        >>> loss = LogitClippedLoss(delta=1.5, base={"name": "gce", "q": 0.5})
        >>> loss.base
        {'name': 'gce', 'q': 0.5}
    """

    formula = "base(z min(1, delta/||z||))"
    delta = Scheduled(open=True)

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        delta: Hyperparameter = 1.0,
        base: BaseLoss = "ce",
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.delta = delta
        self.base = base
        self.loss = _build_base(base)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        return self.loss.per_example(self._clipped(input), target)

    def _of_batch(
        self, input: Tensor, target: Tensor, ignore_index: int
    ) -> Callable[[Tensor, Tensor], Tensor]:
        clipped = self._clipped(input)
        each = self.loss._of_batch(clipped, target, ignore_index)

        def of_clipped(logits: Tensor, known: Tensor) -> Tensor:
            return each(clipped if logits is input else self._clipped(logits), known)

        return of_clipped

    def _clipped(self, input: Tensor) -> Tensor:
        return functional.clip_logits(input, delta=self.delta)


def _build_base(base: BaseLoss) -> Loss:
    table = dict(base) if isinstance(base, Mapping) else {"name": base}
    key = table.pop("name", None)
    if not isinstance(key, str):
        raise ConfigError(f'base: expected a table such as {{name = "gce", q = 0.7}}, got {base!r}')
    if key not in LOSSES:
        raise ConfigError(f"base: {unknown('loss', key, LOSSES)}")
    known = hyperparameters(LOSSES[key])
    for name in table:
        if name not in known:
            raise ConfigError(f"base: {unknown(f'parameter of {key!r}', name, known)}")
    loss = build(key, **table)
    if loss.needs_indices:
        raise ConfigError(f"base: expected a loss that class probabilities define, got {key!r}")
    beyond = loss.beyond_examples()
    if "matrix" in beyond:
        raise ConfigError(f"base: {key!r} estimates its matrix only by itself: give it one")
    if beyond:
        raise ConfigError(f"base: {key!r} is taken of each example alone: {beyond[0]} must be 0")
    return loss


@final
class OptimizedGradientClippingLoss(Loss):
    r"""Generalized cross entropy whose gradient is clipped by how losses are spread (OGC).

    See :func:`noisylabels.functional.clipped_gradient`. In training it remembers the losses of the
    last examples, and now and then finds the threshold anew, see
    :func:`noisylabels.clipping.clipping_threshold`. What it remembers is part of its state, and
    forgotten where the progress goes back. Only calls count whose logits want a gradient, and only
    of the loss itself, not of ``per_example``.

    Args:
        q: Exponent, in [0, 1); at 0 it is cross entropy.
        epsilon: How much more of the gradient wrong labels may have than right ones, above 0.
        interval: Calls between two thresholds, at least 1.
        queue: Examples that are remembered, at least 2; before there are as many, nothing is
            clipped.

    Attributes:
        threshold: The probability of a label below which the gradient is clipped at present.
    """

    formula = "(1 - p_y^q)/q, below p_y = t its tangent at t; t from a mixture of -log p_y"
    needs_indices = True
    q = Scheduled(high=1, below=True)
    epsilon = Scheduled(open=True)
    threshold: float
    _seen: Tensor
    _since: int

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        q: Hyperparameter = 0.0,
        epsilon: Hyperparameter = 2.0,
        interval: int = 32,
        queue: int = 4096,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.q, self.epsilon = q, epsilon
        self.interval = check_count("interval", interval, low=1)
        self.queue = check_count("queue", queue, low=2)
        self._forget()
        # The threshold moves without the progress.
        self._told = not super().dynamic()

    def dynamic(self) -> dict[str, float]:
        """Return ``threshold``, and the hyper-parameters that are schedules."""
        return super().dynamic() | {"threshold": self.threshold}

    def beyond_examples(self) -> list[str]:
        """Name what :meth:`per_example` leaves out: the threshold, which it never finds, too."""
        return [*super().beyond_examples(), "threshold"]

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the reduced loss of a batch, and in training remember the losses in it."""
        self._refuse_candidates(input, target)
        if self.training and input.requires_grad and torch.is_grad_enabled():
            self._remember(input.detach(), target)
        return super().forward(input, target)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        functional.require_indices("optimized_gradient_clipping", target)
        if self.threshold == clipping.LEAST_PROBABILITY:
            return functional.generalized_cross_entropy(input, target, q=self.q)
        return functional.clipped_gradient(input, target, q=self.q, threshold=self.threshold)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the progress, the states of the stateful schedules and what is remembered."""
        return super().get_extra_state() | {
            "threshold": self.threshold,
            "seen": self._seen.cpu(),
            "since": self._since,
        }

    def set_extra_state(self, state: object) -> None:
        """Go on from a state."""
        super().set_extra_state(state)
        if isinstance(state, Mapping):
            self.threshold = state.get("threshold", self.threshold)
            self._seen = state.get("seen", self._seen)
            self._since = state.get("since", self._since)

    def _moved(self, before: float) -> None:
        if self.progress < before:
            # Another training begins.
            self._forget()

    def _forget(self) -> None:
        self.threshold = clipping.LEAST_PROBABILITY
        self._seen = torch.zeros(0)
        self._since = 0

    def _remember(self, input: Tensor, target: Tensor) -> None:
        if torch._C._are_functorch_transforms_active() or target.is_floating_point():
            return
        ignored = functional.is_ignored(target, self.ignore_index)
        each = functional.cross_entropy(input, target.masked_fill(ignored, 0))
        # Of a batch that diverged nothing is learnt.
        counted = ~(ignored | each.isnan())
        # As far as the least probability that counts.
        new = each[counted].float().clamp(max=-math.log(clipping.LEAST_PROBABILITY))
        self._seen = torch.cat([self._seen.to(new.device), new])[-self.queue :]
        self._since += 1
        if self._since >= self.interval:
            self._since = 0
            if len(self._seen) == self.queue:
                self.threshold = clipping.clipping_threshold(
                    self._seen, q=self.q, epsilon=self.epsilon
                )


class _Corrected(Loss):
    """A loss corrected by a matrix of which label is given for which true one.

    The matrix is given; or it is estimated, once, from the predictions of the last examples of the
    warm-up, before which there is no correction. Where training was told no progress before the end
    of the warm-up, it is estimated when the queue is full. It is forgotten where progress falls.
    """

    transition: Tensor | None
    _correction: Tensor | None
    _copied: Tensor | None

    def __init__(
        self,
        weight: Tensor | None,
        matrix: Path | Sequence[Sequence[float]] | None,
        warmup: float,
        queue: int,
        options: LossOptions,
    ) -> None:
        super().__init__(weight, **options)
        self.matrix = matrix
        self.warmup = check_range("warmup", warmup, high=1, open=True)
        self.queue = check_count("queue", queue, low=1)
        self._use(None if matrix is None else noise.read_matrix(matrix))
        self._forget()

    @abstractmethod
    def corrected(self, input: Tensor, target: Tensor, correction: Tensor) -> Tensor:
        """Compute the loss of each example, by what :meth:`correction` has made."""

    def correction(self, transition: Tensor) -> Tensor:
        """Make of the matrix, once, what corrects with."""
        return transition

    def dynamic(self) -> dict[str, float]:
        """Return whether an estimated matrix is there yet, as ``corrected``."""
        if self.matrix is not None:
            return super().dynamic()
        return super().dynamic() | {"corrected": float(self.transition is not None)}

    def beyond_examples(self) -> list[str]:
        """Name what :meth:`per_example` leaves out: a matrix, which it never estimates, too."""
        return super().beyond_examples() + (["matrix"] if self.matrix is None else [])

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the reduced loss of a batch, and in the warm-up remember what is predicted."""
        self._refuse_candidates(input, target)
        if self.transition is None and self.training:
            if target.is_floating_point():
                functional.cross_entropy(input, target)  # raises what torch raises
                raise TypeError(
                    f"{type(self).__name__} estimates its matrix from class indices, and got class "
                    f"probabilities: give it a matrix"
                )
            if input.requires_grad and torch.is_grad_enabled():
                self._remember(input.detach(), target)
        return super().forward(input, target)

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example."""
        if self._correction is None:
            return functional.cross_entropy(input, target)
        classes, rows = input.shape[0 if input.ndim == 1 else 1], len(self._correction)
        if rows != classes:
            raise ConfigError(
                f"matrix: expected {classes} x {classes} numbers, one row per class, "
                f"got {rows} x {rows}"
            )
        return self.corrected(input, target, self._beside(input))

    def _beside(self, input: Tensor) -> Tensor:
        """Return what corrects, on the logits' device: every copy to a GPU would be waited for."""
        assert self._correction is not None, "asked where there is a matrix only"
        if input.is_cpu:
            return self._correction
        dtype = torch.promote_types(input.dtype, torch.float32)
        copied = self._copied
        if copied is None or copied.device != input.device or copied.dtype != dtype:
            copied = self._copied = self._correction.to(dtype).to(input.device)
        return copied

    def get_extra_state(self) -> dict[str, Any]:
        """Return the progress, the states of the stateful schedules and what is remembered."""
        state = super().get_extra_state()
        if self.matrix is None:
            predicted, given = self._seen
            state |= {
                "transition": self.transition,
                "predicted": predicted.cpu(),
                "given": given.cpu(),
                "warmed": self._warmed,
            }
        return state

    def set_extra_state(self, state: object) -> None:
        """Go on from a state."""
        super().set_extra_state(state)
        if self.matrix is None and isinstance(state, Mapping) and "predicted" in state:
            self._use(state["transition"])
            self._seen = state["predicted"], state["given"]
            self._warmed = state.get("warmed", True)

    def _moved(self, before: float) -> None:
        if self.matrix is None and self.progress < before:
            # Another training begins.
            self._use(None)
            self._forget()

    def _forget(self) -> None:
        self._seen = torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)
        self._warmed = False

    def _use(self, transition: Tensor | None) -> None:
        self.transition = transition
        self._copied = None
        self._correction = None if transition is None else self.correction(transition)

    def _remember(self, input: Tensor, target: Tensor) -> None:
        if torch._C._are_functorch_transforms_active():
            return
        warm = self.progress >= self.warmup
        self._warmed = self._warmed or not warm
        # Whoever tells of no progress before that has what fills the queue for a warm-up.
        if warm and len(self._seen[0]) >= (1 if self._warmed else self.queue):
            predicted, given = (each.cpu() for each in self._seen)
            joint = estimation.confident_joint(predicted, given)
            self._use(estimation.transition_matrix(joint))
            self._seen = predicted[:0].clone(), given[:0].clone()
            return
        ignored = functional.is_ignored(target, self.ignore_index)
        functional.cross_entropy(input, target.masked_fill(ignored, 0))  # raises what torch raises
        dim = 0 if input.ndim == 1 else 1
        rows = input.float().softmax(dim).movedim(dim, -1).reshape(-1, input.shape[dim])
        labels = target.reshape(-1).long()
        # Of a batch that diverged nothing is learnt.
        kept = ~ignored.reshape(-1) & rows.isfinite().all(1)
        predicted, given = (each.to(input.device) for each in self._seen)
        predicted = torch.cat([predicted.reshape(-1, rows.shape[1]), rows[kept]])
        self._seen = predicted[-self.queue :], torch.cat([given, labels[kept]])[-self.queue :]


@final
class ForwardCorrectedLoss(_Corrected):
    """Cross entropy of the labels that a prediction lets expect (forward correction).

    See :func:`noisylabels.functional.forward_corrected`. An estimated matrix is that of
    :func:`noisylabels.estimation.confident_joint`, for predictions in training; it is part of the
    state, and so is what has been seen of the warm-up.

    Args:
        matrix: Probability of each given label (columns) for each true one (rows), or a ``.npy`` or
            ``.csv`` file of them; estimated by default.
        warmup: Progress at which it is estimated, in (0, 1]; before it is cross entropy.
        queue: Last examples of the warm-up that it is estimated from, at least 1.

    Raises:
        ConfigError: The matrix is not square, or a row of it is no distribution.
        DataError: The matrix's file cannot be read.
    """

    formula = "-log sum_k T_ky p_k, T given, or estimated after a warm-up"

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        matrix: Path | Sequence[Sequence[float]] | None = None,
        warmup: float = 0.3,
        queue: int = 8192,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, matrix, warmup, queue, options)

    def corrected(self, input: Tensor, target: Tensor, correction: Tensor) -> Tensor:
        """Compute the loss of each example, corrected."""
        return functional.forward_corrected(input, target, matrix=correction)


@final
class BackwardCorrectedLoss(_Corrected):
    """Cross entropy of the true labels, as expected from the given ones (backward correction).

    See :func:`noisylabels.functional.backward_corrected`, and :class:`ForwardCorrectedLoss` for how
    the matrix is estimated.

    Args:
        matrix: Probability of each given label (columns) for each true one (rows), or a ``.npy`` or
            ``.csv`` file of them; estimated by default.
        warmup: Progress at which it is estimated, in (0, 1]; before it is cross entropy.
        queue: Last examples of the warm-up that it is estimated from, at least 1.

    Raises:
        ConfigError: The matrix is not square, a row of it is no distribution, or it has no inverse.
        DataError: The matrix's file cannot be read.
    """

    formula = "-sum_k (T^-1)_yk log p_k, T given, or estimated after a warm-up"

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        matrix: Path | Sequence[Sequence[float]] | None = None,
        warmup: float = 0.3,
        queue: int = 8192,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, matrix, warmup, queue, options)
        if self.transition is not None:
            rank = int(torch.linalg.matrix_rank(self.transition))
            if rank < len(self.transition):
                raise ConfigError(
                    f"matrix: expected one that has an inverse, got {len(self.transition)} rows "
                    f"of rank {rank}"
                )

    def correction(self, transition: Tensor) -> Tensor:
        """Invert the matrix."""
        # An estimated one need not have an inverse.
        inverse: Tensor = torch.linalg.pinv(transition)
        return inverse

    def corrected(self, input: Tensor, target: Tensor, correction: Tensor) -> Tensor:
        """Compute the loss of each example, corrected."""
        return functional.backward_corrected(input, target, inverse=correction)


@final
class PeerLoss(_OnBase):
    r"""A loss less that of examples with the labels of others (peer loss).

    See :func:`noisylabels.functional.peer`. Which examples and labels make the pairs of a batch is
    drawn from the number of training calls and ``seed`` alone, not from torch's generator: the
    number is the state. Ignored examples are in no pair. A call counts as one in training if its
    logits want a gradient.

    Args:
        alpha: Weight of the pairs, at least 0.
        base: The loss: a key of ``LOSSES``, or a table with that as ``"name"`` and its
            hyper-parameters.
        seed: What the draws start from, at least 0.

    Raises:
        ConfigError: There is no such loss, class probabilities do not define it, or it has what is
            not of each example: a matrix to estimate, or a ``lamb`` of the batch's.
    """

    formula = "base(z_n, y_n) - alpha base(z_i, y_j), i and j drawn from the batch"
    needs_indices = True
    alpha = Scheduled()

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        alpha: Hyperparameter = 1.0,
        base: BaseLoss = "gce",
        seed: int = 0,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(weight, **options)
        self.alpha = alpha
        self.base = base
        self.loss = _build_base(base)
        self.seed = check_count("seed", seed)
        self.drawn = 0

    def beyond_examples(self) -> list[str]:
        """Name what :meth:`per_example` leaves out: that every batch has pairs of its own, too."""
        return [*super().beyond_examples(), "pairs"]

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the reduced loss of a batch, and in training count it."""
        step = self._step
        if torch.compiler.is_compiling():
            # It would be compiled anew for every count.
            step = torch.compiler.disable(step)  # type: ignore[no-untyped-call]
        return step(input, target)

    def _step(self, input: Tensor, target: Tensor) -> Tensor:
        value = super().forward(input, target)
        if self.training and input.requires_grad and torch.is_grad_enabled():
            self.drawn += 1
        return value

    def per_example(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of each example, with pairs of all of them."""
        functional.require_indices("peer", target)
        pairs = self._draw(torch.ones_like(target, dtype=torch.bool).reshape(-1))
        each = self.loss.per_example
        return functional.peer(each, input, target, alpha=self.alpha, pairs=pairs)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the progress, the states of the stateful schedules and how often it drew."""
        return super().get_extra_state() | {"drawn": self.drawn}

    def set_extra_state(self, state: object) -> None:
        """Go on from a state."""
        super().set_extra_state(state)
        if isinstance(state, Mapping):
            self.drawn = state.get("drawn", self.drawn)

    def _reduced(self, input: Tensor, target: Tensor) -> Tensor:
        functional.require_indices("peer", target)
        ignored = functional.is_ignored(target, self.ignore_index)
        pairs = self._draw(~ignored.reshape(-1))
        each = self.loss._of_batch(input, target, self.ignore_index)

        def peer(input: Tensor, target: Tensor) -> Tensor:
            return functional.peer(each, input, target, alpha=self.alpha, pairs=pairs)

        return self._reduce(peer, input, target)

    def _draw(self, kept: Tensor) -> Tensor:
        """Draw an example and a label for each place: indices into what is kept."""
        # Torch's generator takes no more than 32 bits of a seed; an odd factor keeps seeds apart.
        seed = (self.seed * 0x9E3779B1 + self.drawn) % 2**32
        generator = torch.Generator().manual_seed(seed)
        chances = torch.rand(2, len(kept), generator=generator, dtype=torch.float64)
        places = kept.nonzero().flatten()
        if len(places) == 0:
            return torch.zeros(2, len(kept), dtype=torch.int64, device=kept.device)
        return places[(chances * len(places)).long().to(kept.device)]


def DynamicGeneralizedCrossEntropyLoss(  # noqa: N802
    weight: Tensor | None = None,
    *,
    q_start: float = 0.6,
    q_end: float = 1.5,
    **options: Unpack[LossOptions],
) -> GeneralizedCrossEntropyLoss:
    """Make a generalized cross entropy whose exponent moves linearly with progress.

    Args:
        weight: As for :class:`Loss`.
        q_start: q at progress 0, at least 0.
        q_end: q at progress 1, at least 0.
        **options: As for :class:`Loss`.

    Returns:
        The loss.

    Raises:
        ConfigError: A hyper-parameter is out of its range.

    Example:
        >>> DynamicGeneralizedCrossEntropyLoss(q_end=1.2)
        GeneralizedCrossEntropyLoss(q=linear(start=0.6, end=1.2))
    """
    check_range("q_start", q_start)
    check_range("q_end", q_end)
    q = functools.partial(schedules.linear, start=q_start, end=q_end)
    return GeneralizedCrossEntropyLoss(weight, q=q, **options)


def DynamicTaylorCrossEntropyLoss(  # noqa: N802
    weight: Tensor | None = None,
    *,
    order_start: float = 20.0,
    order_end: float = 1.0,
    **options: Unpack[LossOptions],
) -> TaylorCrossEntropyLoss:
    """Make a Taylor cross entropy whose order moves linearly with progress.

    Args:
        weight: As for :class:`Loss`.
        order_start: Order at progress 0, at least 1.
        order_end: Order at progress 1, at least 1.
        **options: As for :class:`Loss`.

    Returns:
        The loss.

    Raises:
        ConfigError: A hyper-parameter is out of its range.

    Example:
        >>> DynamicTaylorCrossEntropyLoss(order_start=6.0)
        TaylorCrossEntropyLoss(order=linear(start=6.0, end=1.0))
    """
    check_range("order_start", order_start, low=1)
    check_range("order_end", order_end, low=1)
    order = functools.partial(schedules.linear, start=order_start, end=order_end)
    return TaylorCrossEntropyLoss(weight, order=order, **options)


def DynamicJensenShannonLoss(  # noqa: N802
    weight: Tensor | None = None,
    *,
    pi_start: float = 0.0,
    pi_end: float = 1.0,
    **options: Unpack[LossOptions],
) -> JensenShannonLoss:
    """Make a Jensen-Shannon divergence whose weight moves linearly with progress.

    Args:
        weight: As for :class:`Loss`.
        pi_start: pi at progress 0, in [0, 1].
        pi_end: pi at progress 1, in [0, 1].
        **options: As for :class:`Loss`.

    Returns:
        The loss.

    Raises:
        ConfigError: A hyper-parameter is out of its range.

    Example:
        >>> DynamicJensenShannonLoss(pi_end=0.9)
        JensenShannonLoss(pi=linear(start=0.0, end=0.9))
    """
    check_range("pi_start", pi_start, high=1)
    check_range("pi_end", pi_end, high=1)
    pi = functools.partial(schedules.linear, start=pi_start, end=pi_end)
    return JensenShannonLoss(weight, pi=pi, **options)


LOSSES: dict[str, Callable[..., Loss]] = {
    "ce": CrossEntropyLoss,
    "mae": MeanAbsoluteErrorLoss,
    "gce": GeneralizedCrossEntropyLoss,
    "tce": TaylorCrossEntropyLoss,
    "js": JensenShannonLoss,
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
    "adaptive-dal": AdaptiveDynamicsAwareLoss,
    "dtce": DynamicTaylorCrossEntropyLoss,
    "djs": DynamicJensenShannonLoss,
    # What came after the paper.
    "anl-ce": ActiveNegativeLoss,
    "anl-fl": ActiveNegativeFocalLoss,
    "jal-ce": JointAsymmetricLoss,
    "jal-fl": JointAsymmetricFocalLoss,
    "eps-softmax": EpsilonSoftmaxLoss,
    "truncated-gce": TruncatedGeneralizedCrossEntropyLoss,
    "ldr-kl": LabelDistributionallyRobustLoss,
    "logit-clip": LogitClippedLoss,
    "ogc": OptimizedGradientClippingLoss,
    "forward": ForwardCorrectedLoss,
    "backward": BackwardCorrectedLoss,
    "peer": PeerLoss,
}


def hyperparameters(loss: Callable[..., Loss]) -> dict[str, Any]:
    """Return a loss's own hyper-parameters and their defaults.

    Args:
        loss: The loss's class, or the function that makes it.

    Returns:
        Defaults by name, without what every loss takes.

    Example:
        >>> hyperparameters(LOSSES["dal"])
        {'q_start': 0.6, 'q_end': 1.5, 'lambda_end': 1.0}
    """
    shared = inspect.signature(Loss).parameters
    own = inspect.signature(loss).parameters.values()
    return {p.name: p.default for p in own if p.name not in shared and p.kind != p.VAR_KEYWORD}


def make(loss: str | Callable[..., Loss], parameters: Mapping[str, Any]) -> Loss:
    """Make a loss of what people write: a key or a class, and hyper-parameters by name.

    Args:
        loss: A key of ``LOSSES``, or what makes a loss.
        parameters: Its keyword arguments.

    Returns:
        The loss.

    Raises:
        ConfigError: The key is unknown, the loss has no such hyper-parameter, or one is out of its
            range; or what was made is no loss.

    Example:
        >>> make(GeneralizedCrossEntropyLoss, {"q": 0.9})
        GeneralizedCrossEntropyLoss(q=0.9)
    """
    if isinstance(loss, str) and loss not in LOSSES:
        raise ConfigError(unknown("loss", loss, LOSSES))
    maker = LOSSES[loss] if isinstance(loss, str) else loss
    if not callable(maker) or isinstance(maker, torch.nn.Module):
        raise ConfigError(f"loss must be a key, a class or a Loss, got {maker!r}")
    try:
        made = maker(**parameters)
    except TypeError as error:
        known = [*hyperparameters(maker), *LossOptions.__annotations__, "weight"]
        for name in parameters:
            if name not in known:
                raise ConfigError(unknown(f"parameter of loss {loss!r}", name, known)) from error
        raise ConfigError(f"loss {loss!r}: {error}") from error
    if not isinstance(made, Loss):
        raise ConfigError(f"loss must make a Loss, got {loss!r}")
    return made


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
