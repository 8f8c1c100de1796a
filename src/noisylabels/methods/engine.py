"""The machinery below a method: devices, precision, and the processes that train together."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Engine(Protocol):
    """What a method needs of the machinery below it; Lightning's Fabric provides all of it."""

    @property
    def world_size(self) -> int:
        """How many processes train together."""

    @property
    def global_rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the first process."""

    def setup(self, module: nn.Module, *optimizers: torch.optim.Optimizer) -> Any:
        """Move a network and its optimisers to the device and set the run's precision."""

    def backward(self, tensor: Tensor) -> None:
        """Compute gradients in the run's precision."""

    def barrier(self) -> None:
        """Wait until all processes are here."""

    def all_reduce(self, data: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Combine a tensor over all processes."""


class SingleProcess:
    """An engine of one process that leaves device and precision as they are.

    Example:
        >>> engine = SingleProcess()
        >>> engine.world_size, engine.is_global_zero
        (1, True)
    """

    world_size = 1
    global_rank = 0
    is_global_zero = True

    def setup(self, module: nn.Module, *optimizers: torch.optim.Optimizer) -> Any:
        """Return the network and its optimisers unchanged."""
        return module, *optimizers

    def backward(self, tensor: Tensor) -> None:
        """Compute gradients."""
        tensor.backward()  # type: ignore[no-untyped-call]

    def barrier(self) -> None:
        """Return at once."""

    def all_reduce(self, data: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Return the tensor unchanged."""
        return data


def gather_shares(engine: Engine, own: Tensor, count: int) -> Tensor:
    """Gather rows that are dealt out in turn to all processes, in their original order.

    Args:
        engine: The processes.
        own: This process's rows, on its device, of shape (n, ...): rows ``global_rank``,
            ``global_rank + world_size``, ... of the whole.
        count: Number of rows of the whole.

    Returns:
        The whole, of shape (``count``, ...), the same in every process; ``own`` itself if there is
        only one.

    Example:
        >>> gather_shares(SingleProcess(), torch.arange(3), 3)
        tensor([0, 1, 2])
    """
    world = engine.world_size
    if world == 1:
        return own
    whole = own.new_zeros(count, *own.shape[1:])
    whole[engine.global_rank :: world] = own
    gathered: Tensor = engine.all_reduce(whole, reduce_op="sum")
    return gathered


def pick_own(engine: Engine, rows: Tensor) -> Tensor:
    """Find those rows of a gathered whole that are this process's own.

    Args:
        engine: The processes.
        rows: Row numbers in what :func:`gather_shares` returned, int64, of shape (m).

    Returns:
        Row numbers in this process's share, int64; ``rows`` itself if there is only one process.

    Example:
        >>> pick_own(SingleProcess(), torch.tensor([2, 0]))
        tensor([2, 0])
    """
    world = engine.world_size
    return rows if world == 1 else rows[rows % world == engine.global_rank] // world


def broadcast_first(engine: Engine, own: Tensor) -> Tensor:
    """Give every process the first one's values.

    Processors of another kind may round differently; a decision that all must make alike has to
    start from the same numbers.

    Args:
        engine: The processes.
        own: This process's values, on its device, of the same shape in every process.

    Returns:
        The first process's values; ``own`` itself if there is only one process.

    Example:
        >>> broadcast_first(SingleProcess(), torch.tensor([0.5]))
        tensor([0.5000])
    """
    if engine.world_size == 1:
        return own
    kept = own if engine.is_global_zero else torch.zeros_like(own)
    shared: Tensor = engine.all_reduce(kept, reduce_op="sum")
    return shared
