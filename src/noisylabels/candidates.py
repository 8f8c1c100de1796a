"""Labels that are sets of candidates, of which one is the true one.

A target of truth values, of the logits' shape, is taken by the losses that say so
(:attr:`noisylabels.losses.Loss.takes_candidates`): the total probability of a set stands for that
of a label. :class:`CandidateLoss` weighs a set's candidates instead, which every loss takes that
takes class probabilities.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from noisylabels import functional, schedules
from noisylabels.errors import ConfigError, DataError, check_range
from noisylabels.losses import Loss, LossWrapper


class CandidateLoss(LossWrapper):
    r"""A loss of sets of candidates, each weighed by what the network thinks of it.

    .. math::
        \ell = \sum_{k \in S} w_k \, \ell(z, k), \qquad
        w_k = \frac{p_k^{\tau(t)}}{\sum_{j \in S} p_j^{\tau(t)}} \text{ (without a gradient)}

    The sharpness :math:`\tau` moves linearly with progress: at 0 all candidates of a set count
    alike, at 1 they count as the network predicts, above 1 the likeliest counts for more. Cross
    entropy at 1 has the gradient of the total probability's cross entropy.

    Args:
        loss: The loss of a label :math:`\ell`; its progress is this one's.
        start: Sharpness at progress 0, at least 0.
        end: Sharpness at progress 1, at least 0.

    Shape:
        As the loss; ``target`` also bool, of the shape of ``input``. Targets of other kinds are the
        loss's own.

    Raises:
        ConfigError: A sharpness is out of its range, class probabilities do not define the loss, or
            it would estimate its matrix.

    Example:
        >>> from noisylabels.losses import CrossEntropyLoss
        >>> loss = CandidateLoss(CrossEntropyLoss(), start=0.0, end=1.0)
        >>> sets = torch.tensor([[True, True, False]])
        >>> loss(torch.tensor([[0.0, 2.0, 0.0]]), sets)
        tensor(1.2395)
        >>> loss.progress = 1.0
        >>> loss(torch.tensor([[0.0, 2.0, 0.0]]), sets)
        tensor(0.4780)
    """

    def __init__(self, loss: Loss, *, start: float = 0.0, end: float = 2.0) -> None:
        if not isinstance(loss, Loss):
            raise ConfigError(f"expected a loss of noisylabels.losses, got {loss!r:.80}")
        super().__init__(loss)
        if loss.needs_indices:
            raise ConfigError(
                f"{type(loss).__name__} is not defined for class probabilities, which the weights "
                f"of candidates are: expected a loss that is, such as CrossEntropyLoss"
            )
        if "matrix" in loss.beyond_examples():
            raise ConfigError(
                f"{type(loss).__name__} estimates its matrix from labels, and candidates are none: "
                f"give it a matrix"
            )
        self.start = check_range("start", start)
        self.end = check_range("end", end)

    @property
    def sharpness(self) -> float:
        """How far the weights follow the predictions at the present progress."""
        return schedules.linear(self.progress, start=self.start, end=self.end)

    def dynamic(self) -> dict[str, float]:
        """Return what moves with progress, at its present value."""
        return self.loss.dynamic() | {"sharpness": self.sharpness}

    def update(self, metrics: Mapping[str, float]) -> None:
        """Tell the loss's stateful schedules what has been measured."""
        self.loss.update(metrics)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the reduced loss of a batch."""
        if functional.holds_candidates(input, target):
            target = functional.candidate_weights(input, target, sharpness=self.sharpness)
        value: Tensor = self.loss(input, target)
        return value

    def extra_repr(self) -> str:
        """Show how the sharpness moves."""
        return f"start={self.start:g}, end={self.end:g}"


def check_sets(candidates: Tensor, count: int, place: str = "candidates") -> None:
    """Check that every example has a set, and every set a candidate.

    Args:
        candidates: Which classes are in each example's set, of shape (N, K).
        count: N.
        place: Where they come from, for the message.

    Raises:
        DataError: They are not bool of shape (N, K), or a set is empty; the message names the row.

    Example:
        >>> check_sets(torch.tensor([[True, False], [False, False]]), 2)
        Traceback (most recent call last):
        noisylabels.errors.DataError: candidates: row 1: expected at least one candidate, got none
    """
    if candidates.dtype is not torch.bool or candidates.ndim != 2 or len(candidates) != count:
        raise DataError(
            f"{place}: expected bool of shape ({count}, K), got {candidates.dtype} of shape "
            f"{tuple(candidates.shape)}"
        )
    empty = (~candidates.any(1)).nonzero()
    if len(empty):
        raise DataError(
            f"{place}: row {int(empty[0])}: expected at least one candidate, got none"
            + (f" ({len(empty)} such rows)" if len(empty) > 1 else "")
        )


def draw_candidate(candidates: Tensor, *, seed: int) -> Tensor:
    """Draw one candidate of each set, all of a set with the same probability.

    Args:
        candidates: Which classes are in each example's set, bool, of shape (N, K).
        seed: Seed of the draw, at least 0; the same seed gives the same labels on every device.

    Returns:
        Class indices, int64, of shape (N).

    Raises:
        DataError: A set is empty.

    Example:
        >>> draw_candidate(torch.tensor([[False, True, False], [True, False, True]]), seed=0)
        tensor([1, 0])
    """
    sets = candidates.cpu()
    check_sets(sets, len(sets))
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(sets.shape, generator=generator, dtype=torch.float64)
    return draws.masked_fill(~sets, -1.0).argmax(1).to(candidates.device)
