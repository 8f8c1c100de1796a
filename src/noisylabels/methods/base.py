"""What a method is: the owner of networks, optimisers and memory."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from noisylabels.data.batches import Batch
from noisylabels.losses import Loss
from noisylabels.methods.guard import Guard


class Engine(Protocol):
    """What a method needs of the machinery below it; Lightning's Fabric is one."""

    @property
    def world_size(self) -> int:
        """How many processes train together."""

    def setup(self, module: nn.Module, *optimizers: torch.optim.Optimizer) -> Any:
        """Put a network and its optimisers on the device, in the run's precision."""

    def backward(self, tensor: Tensor) -> None:
        """Compute gradients in the run's precision."""

    def all_reduce(self, data: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Combine a tensor over all processes."""


@dataclass(frozen=True)
class Parts:
    """What a method is made of.

    Args:
        network: Makes a network; the argument numbers the networks of one method, each of which
            starts from its own weights.
        optimizer: Makes the optimiser of a network.
        loss: The loss.
        lr_factor: Factor on the learning rate, by progress.
        clip_norm: Norm that a step's gradients are scaled down to, above 0; None leaves them.
        accumulate: Parts that a batch is computed in, at least 1.
        guard: Looks at every step's loss and gradients.
    """

    network: Callable[[int], nn.Module]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    loss: Loss
    lr_factor: Callable[[float], float]
    clip_norm: float | None = None
    accumulate: int = 1
    guard: Guard = field(default_factory=Guard)


class Method(ABC):
    """Owns networks, optimisers and per-example memory.

    Between two batches it is always whole: what :meth:`state_dict` returns while the next batch is
    being fetched continues, with the batches that follow, to the same end.

    Args:
        engine: Runs the networks.
        parts: What the method is made of.
        networks: How many networks the method trains.
    """

    def __init__(self, engine: Engine, parts: Parts, *, networks: int) -> None:
        self._engine = engine
        self._lr_factor = parts.lr_factor
        self._loss = parts.loss
        self._guard = parts.guard
        self._clip_norm = parts.clip_norm
        self._accumulate = parts.accumulate
        self._networks: list[nn.Module] = []
        self._optimizers: list[torch.optim.Optimizer] = []
        for number in range(networks):
            network = parts.network(number)
            # Made for the bare parameters, then wrapped together with them.
            wrapped, optimizer = engine.setup(network, parts.optimizer(network.parameters()))
            self._networks.append(wrapped)
            self._optimizers.append(optimizer)
        self._parameters = [list(network.parameters()) for network in self._networks]
        self._base_lrs: list[list[float]] = [
            [g["lr"] for g in o.param_groups] for o in self._optimizers
        ]
        self._step = 0
        self._count = 0
        self._total = torch.zeros((), device=self._parameters[0][0].device)

    @abstractmethod
    def train_epoch(self, batches: Iterable[Batch]) -> None:
        """Train on one epoch's batches, or on what is left of them."""

    @abstractmethod
    def predict(self, inputs: Iterable[Tensor]) -> Tensor:
        """Predict class probabilities.

        Returns:
            Probabilities, float32 on the CPU, of shape (N, K).
        """

    def begin_epoch(self) -> None:
        """Start counting an epoch's steps and losses."""
        self._step = self._count = 0
        self._total = torch.zeros_like(self._total)

    def end_epoch(self) -> float:
        """Return the epoch's mean training loss per example, over all processes.

        Raises:
            NonFiniteError: A step was bad that has not been looked at before.
        """
        self._guard.settle()
        sums = torch.stack(
            [self._total, torch.tensor(float(self._count), device=self._total.device)]
        )
        if self._engine.world_size > 1:
            sums = self._engine.all_reduce(sums, reduce_op="sum")
            self._average_statistics()
        total, count = sums.tolist()
        return float(total / count) if count else 0.0

    def _average_statistics(self) -> None:
        """Give all processes the mean of their running statistics (of batch norm)."""
        for network in self._networks:
            for buffer in network.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self._engine.all_reduce(buffer, reduce_op="mean"))

    def set_progress(self, progress: float) -> float:
        """Set the loss's progress and the learning rates.

        Args:
            progress: Training progress in [0, 1].

        Returns:
            The learning rate of the first parameter group.
        """
        self._loss.progress = progress
        factor = self._lr_factor(progress)
        for optimizer, base_lrs in zip(self._optimizers, self._base_lrs, strict=True):
            for group, base_lr in zip(optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = base_lr * factor
        return self._base_lrs[0][0] * factor

    def settle(self) -> None:
        """Make sure that no step so far was bad.

        Raises:
            NonFiniteError: One was.
        """
        self._guard.settle()

    @property
    def skipped(self) -> int:
        """How many steps were left out because they were not finite."""
        return self._guard.skipped

    def state_dict(self) -> dict[str, Any]:
        """Return all state that training changes: tensors and plain values."""
        return {
            "networks": [network.state_dict() for network in self._networks],
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "step": self._step,
            "count": self._count,
            "total": self._total,
            "skipped": self._guard.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for network, stored in zip(self._networks, state["networks"], strict=True):
            network.load_state_dict(stored)
        for optimizer, stored in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self._step, self._count = state["step"], state["count"]
        self._total = state["total"].to(self._total.device)
        self._guard.skipped = state["skipped"]

    def _descend(self, number: int, batch: Batch, loss: Callable[[Batch], Tensor]) -> None:
        """Make one step of one network.

        Args:
            number: The network.
            batch: The step's batch.
            loss: Mean loss of a batch, or of a part of it.
        """
        optimizer = self._optimizers[number]
        optimizer.zero_grad()
        total: Tensor | float = 0.0
        for part in batch.split(self._accumulate):
            mean = loss(part)
            # The share of the part in the batch of all processes, whose gradients are averaged.
            self._engine.backward(mean if part.weight == 1 else mean * part.weight)
            # Summed on the device: reading the value here would wait for it at every step.
            total = total + mean.detach() * len(part.target)
        parameters = self._parameters[number]
        mean = torch.as_tensor(total) / len(batch.target)
        if self._engine.world_size > 1:
            # The gradients are the same in all processes, the losses not: all must decide alike.
            mean = torch.zeros_like(mean)
        if self._guard.passes(self._step, batch, mean, parameters):
            if self._clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, self._clip_norm)
            optimizer.step()
            self._total += total
            self._count += len(batch.target)
        self._step += 1


def probabilities(network: nn.Module, inputs: Iterable[Tensor]) -> Tensor:
    """Predict class probabilities with one network in evaluation mode.

    Args:
        network: Gives logits of shape (n, K).
        inputs: Batches of images.

    Returns:
        Probabilities, float32 on the CPU, of shape (N, K).
    """
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(batch).softmax(1, dtype=torch.float32).cpu() for batch in inputs])
