"""The machinery below a method: devices, precision, and the processes that train together."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Engine(Protocol):
    """What a method needs of the machinery below it; Lightning's Fabric is one."""

    @property
    def world_size(self) -> int:
        """How many processes train together."""

    @property
    def global_rank(self) -> int:
        """Which of them this is, from 0."""

    def setup(self, module: nn.Module, *optimizers: torch.optim.Optimizer) -> Any:
        """Put a network and its optimisers on the device, in the run's precision."""

    def backward(self, tensor: Tensor) -> None:
        """Compute gradients in the run's precision."""

    def barrier(self) -> None:
        """Wait for all processes."""

    def all_reduce(self, data: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Combine a tensor over all processes."""


class Alone:
    """The engine of one process, in the precision and on the device that things have already.

    Example:
        >>> network, optimizer = Alone().setup(nn.Linear(2, 1), None)
        >>> Alone().world_size
        1
    """

    world_size = 1
    global_rank = 0

    def setup(self, module: nn.Module, *optimizers: torch.optim.Optimizer) -> Any:
        """Return what was given."""
        return module, *optimizers

    def backward(self, tensor: Tensor) -> None:
        """Compute gradients."""
        tensor.backward()  # type: ignore[no-untyped-call]

    def barrier(self) -> None:
        """Wait for nobody."""

    def all_reduce(self, data: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Return the tensor: there is no other."""
        return data


def gather_shares(engine: Engine, own: Tensor, count: int) -> Tensor:
    """Put the rows of all processes, of which each has every ``world_size``-th, in order.

    Args:
        engine: The processes.
        own: This process's rows, of shape (n, ...): the whole's rows number ``global_rank``,
            ``global_rank + world_size``, ...
        count: Rows of the whole.

    Returns:
        The whole, of shape (``count``, ...), the same in all processes; ``own`` itself if there is
        one process.

    Example:
        >>> gather_shares(Alone(), torch.arange(3), 3)
        tensor([0, 1, 2])
    """
    world = engine.world_size
    if world == 1:
        return own
    whole = own.new_zeros(count, *own.shape[1:])
    whole[engine.global_rank :: world] = own
    gathered: Tensor = engine.all_reduce(whole, reduce_op="sum")
    return gathered
