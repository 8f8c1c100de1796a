"""What a method is: the owner of networks, optimisers and memory."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from noisylabels.data.batches import Batch
from noisylabels.losses import Loss
from noisylabels.methods.engine import Engine
from noisylabels.methods.guard import Guard

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """What is to be learnt, for methods that look beyond one batch.

    Args:
        labels: Given labels of the training set, int64 in [0, K), of shape (N), on the CPU.
        num_classes: K.
        inputs: Yields this process's share, every ``world_size``-th, of the inputs of ``"train"``
            or ``"validation"``, in order and without augmentation.
        held_out: Given labels of the hold-out, int64, of shape (M), on the CPU; None without one.
        batch_size: Examples per training step, over all processes.
        seed: The run's seed.
        augmented: Whether an augmentation makes the views of an example different.
    """

    labels: Tensor
    num_classes: int
    inputs: Callable[[str], Iterator[Tensor]]
    held_out: Tensor | None = None
    batch_size: int = 128
    seed: int = 0
    augmented: bool = True


def _nobody(sentence: str) -> None:
    pass


@dataclass(frozen=True)
class Parts:
    """What a method is made of.

    Args:
        network: Makes a network; the argument numbers the networks of one method, each of which
            starts from its own weights.
        optimizer: Makes the optimiser of a network.
        loss: The loss.
        lr_factor: Factor on the learning rate, by progress.
        task: What is to be learnt.
        momentum_factor: Factor on the momentum (of SGD) or the first beta (of Adam), by progress;
            None leaves it.
        clip_norm: Norm that a step's gradients are scaled down to, above 0; None leaves them.
        accumulate: Parts that a batch is computed in, at least 1.
        guard: Looks at every step's loss and gradients.
        say: Tells the user a sentence.
    """

    network: Callable[[int], nn.Module]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    loss: Loss
    lr_factor: Callable[[float], float]
    task: Task
    momentum_factor: Callable[[float], float] | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    guard: Guard = field(default_factory=Guard)
    say: Callable[[str], None] = _nobody


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
        self._momentum_factor = parts.momentum_factor
        self._loss = parts.loss
        self._task = parts.task
        self._guard = parts.guard
        self._clip_norm = parts.clip_norm
        self._accumulate = parts.accumulate
        self._say = parts.say
        self._networks: list[nn.Module] = []
        self._optimizers: list[torch.optim.Optimizer] = []
        for number in range(networks):
            network = parts.network(number)
            # Made for the bare parameters, then wrapped together with them.
            wrapped, optimizer = engine.setup(network, parts.optimizer(network.parameters()))
            self._networks.append(wrapped)
            self._optimizers.append(optimizer)
        self._parameters = [list(network.parameters()) for network in self._networks]
        self._bases = [[dict(g) for g in o.param_groups] for o in self._optimizers]
        self._device = self._parameters[0][0].device
        self._epoch = 0
        self._epochs = 1
        self._step = 0
        self._count = 0
        self._total = torch.zeros((), device=self._device)

    @property
    def views(self) -> int:
        """How many times the present epoch's batches have each example, augmented anew."""
        return 1

    @abstractmethod
    def train_epoch(self, batches: Iterable[Batch]) -> None:
        """Train on one epoch's batches, or on what is left of them."""

    def order(self) -> list[Tensor] | None:
        """Return the present epoch's batches where they are not the usual ones.

        Returns:
            Positions in the training set, int64 on the CPU, for each step, over all processes; or
            None for every example once, shuffled.
        """
        return None

    def predict(self, inputs: Iterable[Tensor]) -> Tensor:
        """Predict class probabilities with every network, in evaluation mode.

        Args:
            inputs: Batches of inputs.

        Returns:
            Probabilities, float32 on the CPU, of shape (networks, N, K).
        """
        return evaluate(
            self._networks, inputs, lambda network, x: network(x).softmax(1, dtype=torch.float32)
        )

    def combine(self, probabilities: Tensor) -> Tensor:
        """Make the method's own prediction of those of its networks.

        Args:
            probabilities: What :meth:`predict` returned, of shape (networks, N, K).

        Returns:
            Probabilities of shape (N, K): the first network's, where a method's authors report
            single networks.
        """
        return probabilities[0]

    def metrics(self) -> dict[str, float]:
        """Return what there is to say of the present epoch beside losses and accuracies."""
        return {}

    def _warn_of_equal_views(self) -> None:
        """Say, in a method that wants several views, that they are the same."""
        if not self._task.augmented:
            self._say(
                'augment is "none": the views of an example are all the same, and what the method '
                "gains by comparing or mixing them is lost"
            )

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

    def set_epoch(self, epoch: int, epochs: int) -> float:
        """Set the loss's progress, the learning rates and the momenta.

        Args:
            epoch: The epoch, counted from 0.
            epochs: How many there will be.

        Returns:
            The learning rate of the first parameter group.
        """
        self._epoch, self._epochs = epoch, epochs
        progress = epoch / epochs
        self._loss.progress = progress
        factor = self._lr_factor(progress)
        for optimizer, bases in zip(self._optimizers, self._bases, strict=True):
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["lr"] = base["lr"] * factor
                if self._momentum_factor is None:
                    continue
                if "betas" in group:
                    first, *rest = base["betas"]
                    group["betas"] = (first * self._momentum_factor(progress), *rest)
                elif "momentum" in group:
                    group["momentum"] = base["momentum"] * self._momentum_factor(progress)
        return float(self._bases[0][0]["lr"] * factor)

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

    def _descend(
        self,
        batch: Batch,
        loss: Callable[[Batch], Tensor],
        networks: Sequence[int] = (0,),
        *,
        losses: int = 1,
    ) -> bool:
        """Make one step of one or more networks.

        Args:
            batch: The step's batch.
            loss: What to minimise: a mean over a batch, or over a part of it.
            networks: The networks.
            losses: Of how many losses it is the sum; their mean is reported.

        Returns:
            Whether the step was made, and not left out for it was not finite.
        """
        for number in networks:
            self._optimizers[number].zero_grad()
        total: Tensor | float = 0.0
        # As many parts in every process, however small its share of the batch: each part's
        # gradients are averaged over all of them.
        least = self._whole_size(batch) // self._engine.world_size
        for part in batch.split(max(1, min(self._accumulate, least))):
            mean = loss(part)
            # The share of the part in the batch of all processes, whose gradients are averaged.
            self._engine.backward(mean if part.weight == 1 else mean * part.weight)
            # Summed on the device: reading the value here would wait for it at every step.
            total = total + mean.detach() * (len(part.target) / losses)
        parameters = [self._parameters[number] for number in networks]
        mean = torch.as_tensor(total) / len(batch.target)
        passes = self._guard.passes(
            self._step,
            batch,
            mean,
            chain(*parameters),
            loss_counts=self._engine.world_size == 1,
        )
        if passes:
            for number in networks:
                if self._clip_norm is not None:
                    nn.utils.clip_grad_norm_(self._parameters[number], self._clip_norm)
                self._optimizers[number].step()
            self._total += total
            self._count += len(batch.target)
        self._step += 1
        return passes

    def _whole_size(self, batch: Batch) -> int:
        """Return how many examples the batch has over all processes."""
        return round(len(batch.target) * self._engine.world_size / batch.weight)


def evaluate(
    networks: Sequence[nn.Module],
    batches: Iterable[T],
    values: Callable[[nn.Module, T], Tensor],
) -> Tensor:
    """Compute values of examples with networks in evaluation mode.

    Args:
        networks: The networks.
        batches: The examples.
        values: ``(network, batch of n examples) -> values of shape (n, ...)``.

    Returns:
        The values on the CPU, of shape (networks, N, ...).
    """
    for network in networks:
        network.eval()
    with torch.inference_mode():
        found = [
            torch.stack([values(network, batch).cpu() for network in networks]) for batch in batches
        ]
    # Outside: what is made in inference mode can never be changed again.
    return torch.cat(found, 1)
