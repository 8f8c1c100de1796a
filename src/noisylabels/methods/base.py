"""What a method is: the owner of networks, optimisers and memory."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from noisylabels.data.batches import Batch
from noisylabels.losses import Loss


class Engine(Protocol):
    """What a method needs of the machinery below it; Lightning's Fabric is one."""

    def setup(self, module: nn.Module, *optimizers: torch.optim.Optimizer) -> Any:
        """Put a network and its optimisers on the device, in the run's precision."""

    def backward(self, tensor: Tensor) -> None:
        """Compute gradients in the run's precision."""


@dataclass(frozen=True)
class Parts:
    """What a method is made of.

    Args:
        network: Makes a network; the argument numbers the networks of one method, each of which
            starts from its own weights.
        optimizer: Makes the optimiser of a network.
        loss: The loss.
        lr_factor: Factor on the learning rate, by progress.
    """

    network: Callable[[int], nn.Module]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    loss: Loss
    lr_factor: Callable[[float], float]


class Method(ABC):
    """Owns networks, optimisers and per-example memory.

    Args:
        engine: Runs the networks.
        parts: What the method is made of.
        networks: How many networks the method trains.
    """

    def __init__(self, engine: Engine, parts: Parts, *, networks: int) -> None:
        self._engine = engine
        self._lr_factor = parts.lr_factor
        self._loss = parts.loss
        self._networks: list[nn.Module] = []
        self._optimizers: list[torch.optim.Optimizer] = []
        for number in range(networks):
            network = parts.network(number)
            # Made for the bare parameters, then wrapped together with them.
            wrapped, optimizer = engine.setup(network, parts.optimizer(network.parameters()))
            self._networks.append(wrapped)
            self._optimizers.append(optimizer)
        self._base_lrs: list[list[float]] = [
            [g["lr"] for g in o.param_groups] for o in self._optimizers
        ]

    @abstractmethod
    def train_epoch(self, batches: Iterable[Batch]) -> float:
        """Train on one epoch's batches.

        Returns:
            The mean training loss per example.
        """

    @abstractmethod
    def predict(self, inputs: Iterable[Tensor]) -> Tensor:
        """Predict class probabilities.

        Returns:
            Probabilities, float32 on the CPU, of shape (N, K).
        """

    def begin_epoch(self, progress: float) -> float:
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

    def state_dict(self) -> dict[str, Any]:
        """Return all state that training changes: tensors and plain values."""
        return {
            "networks": [network.state_dict() for network in self._networks],
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for network, stored in zip(self._networks, state["networks"], strict=True):
            network.load_state_dict(stored)
        for optimizer, stored in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)


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
