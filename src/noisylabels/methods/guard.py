"""Losses and gradients that are not finite are noticed before they reach the weights."""

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from noisylabels.data.batches import Batch
from noisylabels.errors import NoisyLabelsError

OnNan = Literal["raise", "skip"]
LAG = 32
"""Steps whose flags are read together on devices that one would have to wait for."""


class NonFiniteError(NoisyLabelsError):
    """A loss or a gradient is not finite.

    Args:
        step: The step of the epoch, counted from 0.
        batch: The batch of that step; on devices that one has to wait for, without its inputs.
        loss: Its loss.
    """

    def __init__(self, step: int, batch: Batch, loss: float) -> None:
        super().__init__(f"loss or gradients are not finite in step {step} (loss {loss:g})")
        self.step = step
        self.batch = batch
        self.loss = loss


class Guard:
    """Checks every step's loss and gradients.

    On a CPU, and wherever bad steps are skipped, a bad step changes no weight. On other devices,
    which would have to be waited for, the flags of 32 steps are read together: the bad step is
    still named, and the last checkpoint is from before it.

    Args:
        on_nan: ``"raise"`` stops at a bad step, ``"skip"`` skips and counts it.

    Attributes:
        skipped: How many steps have been skipped.
    """

    def __init__(self, on_nan: OnNan = "raise") -> None:
        self._on_nan = on_nan
        self._waiting: list[tuple[int, Batch, Tensor, Tensor]] = []
        self.skipped = 0

    @property
    def waits(self) -> bool:
        """Whether a step's weights are updated only once its flag has been read, on any device."""
        return self._on_nan == "skip"

    def passes(self, step: int, batch: Batch, loss: Tensor, finite: Tensor) -> bool:
        """Check a step whose gradients are known.

        Args:
            step: The step of the epoch, counted from 0.
            batch: Its batch.
            loss: Its loss, a scalar.
            finite: Whether it counts as good, a bool scalar, see :func:`are_finite`.

        Returns:
            Whether the step counts. On a CPU, and where :attr:`waits`, the weights may only be
            updated then.

        Raises:
            NonFiniteError: The step, or one of the last 32, is bad, and bad steps are not skipped.
        """
        if self._on_nan == "raise" and finite.device.type != "cpu":
            # Without its inputs: 32 batches of large images would fill a device.
            light = dataclasses.replace(batch, input=batch.input.new_empty(0), others=())
            self._waiting.append((step, light, loss.detach(), finite))
            if len(self._waiting) >= LAG:
                self.settle()
            return True
        if bool(finite):
            return True
        if self._on_nan == "raise":
            raise NonFiniteError(step, batch, float(loss))
        self.skipped += 1
        return False

    def settle(self) -> None:
        """Read the flags that have not been read yet.

        Raises:
            NonFiniteError: A step was bad.
        """
        waiting, self._waiting = self._waiting, []
        if waiting and not bool(torch.stack([flag for *_, flag in waiting]).all()):
            step, batch, loss, _ = next(entry for entry in waiting if not bool(entry[3]))
            raise NonFiniteError(step, batch, float(loss))


def are_finite(
    loss: Tensor, parameters: Iterable[nn.Parameter], *, loss_counts: bool = True
) -> Tensor:
    """Say whether a loss and all gradients are finite.

    Args:
        loss: The loss, or the sum of a batch's losses, a scalar.
        parameters: The parameters with their gradients.
        loss_counts: Whether the loss counts too. Several processes must decide alike, and only the
            gradients are the same in all of them.

    Returns:
        A bool scalar on their device.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    # It is finite only if every gradient is, and far cheaper than a check of each.
    counted = loss.detach() if loss_counts else torch.zeros_like(loss)
    return (counted + sum_of_norms(gradients)).isfinite()


def sum_of_norms(tensors: list[Tensor]) -> Tensor | float:
    """Add the norms of tensors; NaN or infinite if any value is.

    Args:
        tensors: Of any shapes, on one device.

    Returns:
        A scalar; 0 for none.
    """
    if not tensors:
        return 0.0
    norms: Any = torch._foreach_norm(tensors)
    return torch.stack(list(norms)).sum()
