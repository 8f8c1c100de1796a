"""The base of all methods: owner of the networks, their optimisers and per-example memory.

A method of your own subclasses :class:`Method`; ``docs/methods/own.md`` shows a complete one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from noisylabels.data.batches import Batch
from noisylabels.errors import ConfigError
from noisylabels.losses import Loss
from noisylabels.methods.engine import Engine, gather_shares
from noisylabels.methods.graphs import StepGraph, is_capturable
from noisylabels.methods.guard import Guard, are_finite

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """What is to be learnt, for methods that look beyond a single batch.

    Args:
        labels: Given labels of the training set, int64 in [0, K), of shape (N), on the CPU.
        num_classes: K.
        inputs: Yields the inputs of one part of the data, in order and without augmentation: every
            ``world_size``-th example of it, beginning with the ``global_rank``-th.
        sizes: Number of examples in each part: ``"train"``, ``"test"`` and, with a hold-out,
            ``"validation"``; and ``"triggered"``, the test examples with a trigger, where the
            training set is poisoned.
        held_out: Given labels of the hold-out, int64, of shape (M), on the CPU; None without one.
        batch_size: Examples per training step, over all processes.
        seed: The run's seed.
        augmented: Whether the views of an example differ from each other.
    """

    labels: Tensor
    num_classes: int
    inputs: Callable[[str], Iterator[Tensor]]
    sizes: Mapping[str, int]
    held_out: Tensor | None = None
    batch_size: int = 128
    seed: int = 0
    augmented: bool = True


def _say_nothing(sentence: str) -> None:
    pass


@dataclass(frozen=True)
class MethodContext:
    """All that a method is given: the engine, the components of the run and the task.

    Args:
        engine: Runs the networks.
        network: Makes the network of a given number; each of a method's networks starts from
            weights of its own.
        optimizer: Makes the optimiser of a network's parameters.
        loss: The loss.
        lr_factor: Factor on the learning rate, by progress.
        task: What is to be learnt.
        momentum_factor: Factor on the momentum (of SGD) or the first beta (of Adam), by progress;
            None leaves it alone.
        clip_norm: Norm that the gradients of a step are scaled down to, above 0; None leaves them
            alone.
        accumulate: Number of parts in which the gradients of a batch are computed, at least 1.
        guard: Checks every step's loss and gradients.
        say: Tells the user a sentence.
    """

    engine: Engine
    network: Callable[[int], nn.Module]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    loss: Loss
    lr_factor: Callable[[float], float]
    task: Task
    momentum_factor: Callable[[float], float] | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    guard: Guard = field(default_factory=Guard)
    say: Callable[[str], None] = _say_nothing


OF_BATCHES = {"weight": "class weights", "lamb": "lamb"}
"""What of a loss is a matter of whole batches, see ``Loss.beyond_examples``."""


class Method(ABC):
    """Owns networks, optimisers and per-example memory.

    A training loop calls, for each epoch, :meth:`set_epoch`; :meth:`begin_epoch`, unless it resumes
    within the epoch; :meth:`train_epoch` with the batches that :meth:`order` and :attr:`views` ask
    for; :meth:`end_epoch`; and :meth:`predict` where it evaluates.

    Between two batches a method is always in a consistent state: from what :meth:`state_dict`
    returns while the next batch is being fetched, training continues to exactly the same end.

    A subclass takes ``(context, *, its own parameters)``, implements :meth:`train_epoch`, in which
    it calls :meth:`optimize` for every batch, and extends :meth:`state_dict` and
    :meth:`load_state_dict` if it has memory of its own.

    Args:
        context: What the method is given.
        networks: How many networks the method trains.
        pure: Whether every step of an epoch does the same with another batch, :meth:`optimize`
            called with the same arguments beside it: the step of a single network can then be a
            graph on a GPU, see :mod:`noisylabels.methods.graphs`.

    Raises:
        ConfigError: Gradients are to be accumulated of a loss of whole batches: one with class
            weights, by whose sum each part of a batch would be divided by itself, or with the
            ``lamb`` of ``anl-ce`` and ``anl-fl``.

    Attributes:
        context: What the method was given.
        networks: The networks, set up by the engine.
        optimizers: The optimiser of each network.
        device: Where the networks are.
        epoch: The present epoch, counted from 0.
        epochs: How many epochs there will be.
        step: How many of the present epoch's steps have been made or skipped.
    """

    def __init__(self, context: MethodContext, *, networks: int, pure: bool = False) -> None:
        beyond = context.loss.beyond_examples()
        whole = [what for name, what in OF_BATCHES.items() if name in beyond]
        if context.accumulate > 1 and whole:
            raise ConfigError(
                f"a loss with {whole[0]} is of whole batches: accumulate must be 1, got "
                f"{context.accumulate}"
            )
        self.context = context
        self.networks: list[nn.Module] = []
        self.optimizers: list[torch.optim.Optimizer] = []
        for number in range(networks):
            network = context.network(number)
            # Made for the bare parameters, then wrapped together with them.
            optimizer = context.optimizer(network.parameters())
            pure = pure and is_capturable(network, optimizer, context.loss)
            wrapped, optimizer = context.engine.setup(network, optimizer)
            self.networks.append(wrapped)
            self.optimizers.append(optimizer)
        self._parameters = [list(network.parameters()) for network in self.networks]
        self._bases = [[dict(group) for group in o.param_groups] for o in self.optimizers]
        self.device = self._parameters[0][0].device
        self.epoch = 0
        self.epochs = 1
        self.step = 0
        self._count = 0
        self._total = torch.zeros((), device=self.device)
        self._predictions: dict[str, Tensor] = {}
        self._graph: StepGraph | None = None
        alone = context.engine.world_size == context.accumulate == 1 and not context.guard.waits
        if pure and networks == 1 and alone and _is_gpu(self.device):
            self._graph = StepGraph(self.device, context.say)

    @property
    def views(self) -> int:
        """How many views, each augmented anew, the present epoch's batches have of an example."""
        return 1

    @property
    def skipped(self) -> int:
        """How many steps were skipped because the loss or a gradient was not finite."""
        return self.context.guard.skipped

    def check_target(self, target: Tensor) -> None:
        """Refuse targets that the method is not made for, before it trains.

        Args:
            target: Some targets, as its batches will have them, on its device.

        Raises:
            ConfigError: By default, they are no labels but sets of candidates or class
                probabilities.
        """
        if target.ndim == 1:
            return
        got = "sets of candidates" if target.dtype is torch.bool else "class probabilities"
        raise ConfigError(
            f"{type(self).__name__} needs one label for each example, got {got}: "
            f'method = "single" takes them, and "candidates" takes sets'
        )

    @abstractmethod
    def train_epoch(self, batches: Iterable[Batch]) -> None:
        """Train on the batches of an epoch, or on those that are left of it."""

    def order(self) -> list[Tensor] | None:
        """Return the examples of the present epoch's steps, where they are not the usual ones.

        Returns:
            Positions in the training set, int64 on the CPU, for each step, over all processes; or
            None for every example once, shuffled. Asking changes nothing: the answer is the same
            throughout the epoch, and in a method whose state was restored within it.
        """
        return None

    def predict(self, part: str) -> Tensor:
        """Predict the classes of one part of the data with every network, in evaluation mode.

        The result is remembered until the next :meth:`optimize`, :meth:`end_epoch` or
        :meth:`load_state_dict`.

        Args:
            part: ``"train"``, ``"validation"``, ``"test"`` or ``"triggered"``.

        Returns:
            Log-probabilities of all examples in order, the same in every process, float32 on the
            CPU, of shape (networks, N, K); not to be changed in place.
        """
        if part not in self._predictions:
            task, engine = self.context.task, self.context.engine
            found = map_batches(self.networks, task.inputs(part), log_probabilities)
            if engine.world_size > 1:
                own = found.transpose(0, 1).to(self.device)
                found = gather_shares(engine, own, task.sizes[part]).transpose(0, 1).cpu()
            self._predictions[part] = found
        return self._predictions[part]

    def combine(self, probabilities: Tensor) -> Tensor:
        """Combine the predictions of the networks into the method's own.

        Args:
            probabilities: Class probabilities by each network, of shape (networks, N, K).

        Returns:
            Probabilities of shape (N, K): by default the first network's.
        """
        return probabilities[0]

    def metrics(self) -> dict[str, float]:
        """Return what the method has to report of the present epoch besides loss and accuracy."""
        return {}

    def set_epoch(self, epoch: int, epochs: int) -> float:
        """Set the loss's progress, the learning rates and the momenta.

        Args:
            epoch: The epoch, counted from 0.
            epochs: How many there will be.

        Returns:
            The learning rate of the first parameter group.
        """
        self.epoch, self.epochs = epoch, epochs
        if self._graph is not None:
            # It holds the learning rate and the loss's hyper-parameters.
            self._graph.forget()
        self.context.loss.progress = self.loss_progress(epoch, epochs)
        progress = epoch / epochs
        factor = self.context.lr_factor(progress)
        for optimizer, bases in zip(self.optimizers, self._bases, strict=True):
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["lr"] = base["lr"] * factor
                if self.context.momentum_factor is not None:
                    _scale_momentum(group, base, self.context.momentum_factor(progress))
        return float(self._bases[0][0]["lr"] * factor)

    def loss_progress(self, epoch: int, epochs: int) -> float:
        """Return the progress that the loss is told: how much of the training is behind.

        Args:
            epoch: The epoch, counted from 0.
            epochs: How many there will be.
        """
        return epoch / epochs

    def begin_epoch(self) -> None:
        """Start counting an epoch's steps and losses."""
        self.step = self._count = 0
        self._total = torch.zeros_like(self._total)
        if self._graph is not None:
            self._graph.forget()

    def optimize(
        self,
        batch: Batch,
        loss: Callable[[Batch], Tensor],
        networks: Sequence[int] = (0,),
        losses: int = 1,
    ) -> bool:
        """Make one step of one or more networks.

        Args:
            batch: The step's batch.
            loss: ``batch -> scalar to minimise``, a mean over the examples; it is called with a
                part of the batch at a time where gradients are accumulated.
            networks: Numbers of the networks that are trained.
            losses: How many losses the scalar is the sum of; what is reported is their mean.

        Returns:
            Whether the step was made; False if it was skipped because the loss or a gradient was
            not finite.

        Raises:
            NonFiniteError: The loss or a gradient is not finite, and such steps are not skipped.
        """
        self._predictions.clear()
        guard, count = self.context.guard, len(batch.target)
        if self._graph is not None:

            def step(whole: Batch) -> tuple[Tensor, Tensor]:
                total, finite = self._gradients(whole, loss, networks, losses)
                self._update(networks, total)
                return total, finite

            total, finite = self._graph(step, batch)
            passes = guard.passes(self.step, batch, total / count, finite)
        else:
            total, finite = self._gradients(batch, loss, networks, losses)
            passes = guard.passes(self.step, batch, total / count, finite)
            if passes:
                self._update(networks, total)
        self._count += count * passes
        self.step += 1
        return passes

    def _gradients(
        self,
        batch: Batch,
        loss: Callable[[Batch], Tensor],
        networks: Sequence[int],
        losses: int,
    ) -> tuple[Tensor, Tensor]:
        """Compute a batch's gradients; return the sum of its losses, and whether all is finite."""
        for number in networks:
            self.optimizers[number].zero_grad()
        total = self._backward(batch, loss, losses)
        finite = are_finite(
            total,
            chain.from_iterable(self._parameters[number] for number in networks),
            loss_counts=self.context.engine.world_size == 1,
        )
        return total, finite

    def _update(self, networks: Sequence[int], total: Tensor) -> None:
        """Change the weights by their gradients."""
        for number in networks:
            if self.context.clip_norm is not None:
                nn.utils.clip_grad_norm_(self._parameters[number], self.context.clip_norm)
            self.optimizers[number].step()
        self._total += total

    def _backward(self, batch: Batch, loss: Callable[[Batch], Tensor], losses: int) -> Tensor:
        """Compute the gradients of a batch, part by part, and return the sum of its losses."""
        engine = self.context.engine
        total = torch.zeros((), device=self.device)
        # As many parts in every process, however small its share of the batch: each part's
        # gradients are averaged over all of them.
        least = self.whole_size(batch) // engine.world_size
        for part in batch.split(max(1, min(self.context.accumulate, least))):
            mean = loss(part)
            # The share of the part in the batch of all processes, whose gradients are averaged.
            engine.backward(mean if part.weight == 1 else mean * part.weight)
            # Summed on the device: reading the value here would wait for it at every step.
            total = total + mean.detach() * (len(part.target) / losses)
        return total

    def whole_size(self, batch: Batch) -> int:
        """Return how many examples a batch has over all processes."""
        return round(len(batch.target) * self.context.engine.world_size / batch.weight)

    def gather(self, batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Bring together what all processes have found of a batch's examples.

        Args:
            batch: This process's part of it.
            rows: One for each of its examples, of shape (n, ...).

        Returns:
            The examples' indices, int64, of shape (N), and their rows, of shape (N, ...), the same
            in every process.
        """
        size, engine = self.whole_size(batch), self.context.engine
        return gather_shares(engine, batch.index, size), gather_shares(engine, rows, size)

    def settle(self) -> None:
        """Make sure that every step so far was finite.

        Raises:
            NonFiniteError: One was not.
        """
        self.context.guard.settle()

    def end_epoch(self) -> float:
        """Return the epoch's mean training loss per example, over all processes.

        Raises:
            NonFiniteError: A step that had not been checked before was not finite.
        """
        self.settle()
        # Also of a method that steps its optimisers without `optimize`.
        self._predictions.clear()
        sums = torch.stack([self._total, self._total.new_tensor(self._count)])
        if self.context.engine.world_size > 1:
            sums = self.context.engine.all_reduce(sums, reduce_op="sum")
            self._average_statistics()
        total, count = sums.tolist()
        return float(total / count) if count else 0.0

    def _average_statistics(self) -> None:
        """Give all processes the mean of their running statistics (of batch norm)."""
        for network in self.networks:
            for buffer in network.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.context.engine.all_reduce(buffer, reduce_op="mean"))

    def say_if_views_are_equal(self) -> None:
        """Tell the user, in a method that wants several views, if all of them are identical."""
        if not self.context.task.augmented:
            self.context.say(
                'augment is "none": all views of an example are identical, so there is nothing to '
                "gain from comparing or mixing them"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return all state that training changes: tensors and plain values."""
        return {
            "networks": [network.state_dict() for network in self.networks],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "count": self._count,
            "total": self._total,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._predictions.clear()
        if self._graph is not None:
            self._graph.forget()
        for network, stored in zip(self.networks, state["networks"], strict=True):
            network.load_state_dict(stored)
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self.step, self._count = state["step"], state["count"]
        self._total = state["total"].to(self.device)
        self.context.guard.skipped = state["skipped"]


def _scale_momentum(group: dict[str, Any], base: Mapping[str, Any], factor: float) -> None:
    """Set a parameter group's momentum, or first beta, to a multiple of its base value."""
    if "betas" in group:
        first, *rest = base["betas"]
        group["betas"] = (first * factor, *rest)
    elif "momentum" in group:
        group["momentum"] = base["momentum"] * factor


def _is_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def log_probabilities(network: nn.Module, input: Tensor) -> Tensor:
    """Compute a network's log-probabilities of the classes, in float32.

    Args:
        network: Its output are logits of shape (N, K).
        input: Its input.

    Returns:
        Log-probabilities of shape (N, K).
    """
    return torch.log_softmax(network(input), 1, dtype=torch.float32)


def map_batches(
    networks: Sequence[nn.Module],
    batches: Iterable[T],
    values: Callable[[nn.Module, T], Tensor],
) -> Tensor:
    """Compute values of examples with networks in evaluation mode, without gradients.

    Args:
        networks: The networks; afterwards they are in the mode that they were in.
        batches: The examples.
        values: ``(network, batch of n examples) -> values of shape (n, ...)``.

    Returns:
        The values on the CPU, of shape (networks, N, ...).

    Example:
        >>> halves = [torch.zeros(2, 3), torch.ones(1, 3)]
        >>> map_batches([nn.Identity()], halves, lambda network, x: network(x).sum(1))
        tensor([[0., 0., 3.]])
    """
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()
    with torch.inference_mode():
        found = [
            torch.stack([values(network, batch).cpu() for network in networks]) for batch in batches
        ]
    for network, mode in zip(networks, modes, strict=True):
        network.train(mode)
    # Outside: what is made in inference mode can never be changed again.
    return torch.cat(found, 1)
