"""How an epoch's examples become batches: shuffled, augmented, normalised.

Every random draw of an epoch comes from a generator seeded with (seed, epoch, purpose) and
nothing else, so a run that is cut and continued sees the same batches as an uncut one, and every
loss sees the same batches as every other.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    # At run time nothing is needed of what reads images.
    from noisylabels.data.examples import Dataset, Examples

CHUNK = 2**21
"""Pixel values that are augmented and normalised at once: 8 MiB in float32."""
# Activations of larger batches fall out of a CPU's cache: 1,024 images take 2.2 times as long each.
EVALUATION_BATCH = 256
EVALUATION_PIXELS = 2**21
MOST_EVALUATED = 2048
"""Pixels, and examples, that a GPU, which waits for the start of every operation, evaluates at once
at most: activations of larger batches would be gigabytes."""


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Derive an independent seed for one purpose.

    Args:
        seed: The run's seed.
        *purpose: What the seed is for, e.g. ``"order", epoch``.

    Returns:
        A seed in [0, 2^63).

    Example:
        >>> derive_seed(0, "order", 1) != derive_seed(0, "order", 2)
        True
    """
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def evaluation_batch(device: torch.device, shape: Sequence[int]) -> int:
    """Return how many examples a network evaluates at once.

    Args:
        device: Where it does.
        shape: Shape of one input: (channels, height, width), or (D) of a vector.

    Returns:
        256 on a CPU; elsewhere more where examples are small.

    Example:
        >>> evaluation_batch(torch.device("cpu"), (3, 32, 32))
        256
        >>> evaluation_batch(torch.device("cuda"), (3, 32, 32))
        2048
        >>> evaluation_batch(torch.device("cuda"), (3, 224, 224))
        256
    """
    if device.type == "cpu":
        return EVALUATION_BATCH
    fitting = EVALUATION_PIXELS // max(1, math.prod(shape[1:]))
    return min(MOST_EVALUATED, max(EVALUATION_BATCH, fitting))


def derive_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Make a CPU generator for one purpose, see :func:`derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


def cut_into_batches(order: Tensor, size: int, world: int = 1) -> list[Tensor]:
    """Cut an order into batches, of which the last has what is left.

    What is left joins the batch before if it is less than two examples for each process: batch norm
    cannot normalise a single one.

    Args:
        order: Positions, of shape (N).
        size: Examples per batch, at least 1.
        world: Processes that share each batch.

    Returns:
        The batches; one without examples if N is 0.

    Example:
        >>> cut_into_batches(torch.arange(7), 3)
        [tensor([0, 1, 2]), tensor([3, 4, 5, 6])]
    """
    batches = list(torch.split(order, size))
    if len(batches) > 1 and len(batches[-1]) < 2 * world:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    Args:
        index: Position of each example in the training set, int64, of shape (N).
        input: Normalised images, float32, of shape (N, channels, height, width), or features of
            shape (N, D).
        target: Given labels, int64, of shape (N); or of shape (N, K) what the examples have in
            their place, see ``noisylabels.data.examples.Examples``.
        weight: Factor on the mean loss: the batch's share of what all processes, or all parts of a
            batch, have in a step, such that the gradients' mean (or sum) is that of the whole.
        others: The same examples, augmented anew: of each further view its ``input``.
    """

    index: Tensor
    input: Tensor
    target: Tensor
    weight: float = 1.0
    others: tuple[Tensor, ...] = ()

    @property
    def views(self) -> tuple[Tensor, ...]:
        """Every view's ``input``."""
        return self.input, *self.others

    def split(self, parts: int) -> "list[Batch]":
        """Cut the batch into parts of about the same size whose weights add up to its own."""
        if parts == 1:
            return [self]
        count = len(self.target)
        tensors = (self.index, self.target, *self.views)
        columns = (torch.tensor_split(tensor, parts) for tensor in tensors)
        return [
            Batch(index, input, target, self.weight * len(target) / count, tuple(others))
            for index, target, input, *others in zip(*columns, strict=True)
            if len(target)
        ]


class Batches(ABC):
    """A dataset in the form that a network eats.

    Args:
        dataset: The dataset; ``dataset.train.labels`` are the given labels, ``targets`` what is
            learnt in their place.
        batch_size: Examples per training step; the last step of an epoch has what is left, and a
            single example that is left joins the step before.
        seed: The run's seed.
        device: Where the batches go.
        memory_format: Memory format of inputs that are images.
        rank: The number of this process among those that train together.
        world: How many train together; each gets every ``world``-th example of a batch.
    """

    def __init__(
        self,
        dataset: "Dataset",
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._dataset = dataset
        self._rank = rank
        self._world = world
        train = dataset.train
        self._labels = (train.labels if train.targets is None else train.targets).to(device)
        # One number per channel, or per feature.
        shape = (-1, *[1] * (len(dataset.train.shape) - 1))
        self._mean = dataset.mean.to(device).reshape(shape)
        self._std = dataset.std.to(device).reshape(shape)
        self._batch_size = batch_size
        self._seed = seed
        self._device = device
        self._memory_format = memory_format if len(shape) == 3 else torch.contiguous_format

    @abstractmethod
    def epoch(
        self,
        epoch: int,
        start: int = 0,
        *,
        order: Sequence[Tensor] | None = None,
        views: int = 1,
    ) -> Iterator[Batch]:
        """Yield this process's part of the training batches of an epoch.

        Args:
            epoch: The epoch, counted from 0.
            start: How many batches to leave out.
            order: Positions of each batch, int64 on the CPU; by default every example once,
                shuffled.
            views: How many times each example is augmented, at least 1.
        """

    @abstractmethod
    def _inputs(self, examples: "Examples") -> Iterator[Tensor]:
        """Yield the inputs in order, without augmentation."""

    def inputs(self, part: str) -> Iterator[Tensor]:
        """Yield this process's part of some inputs in order, without augmentation.

        Args:
            part: ``"train"``, ``"validation"``, ``"test"`` or ``"triggered"``.
        """
        examples: Examples = getattr(self._dataset, part)
        if self._world > 1:
            examples = examples.take(torch.arange(self._rank, len(examples), self._world))
        return self._inputs(examples)

    def order(self, epoch: int) -> list[Tensor]:
        """Return the positions of each training batch of an epoch, int64 on the CPU."""
        generator = derive_generator(self._seed, "order", epoch)
        order = torch.randperm(len(self._labels), generator=generator)
        return cut_into_batches(order, self._batch_size, self._world)

    def _shares(self, whole: Sequence[Tensor]) -> tuple[list[Tensor], list[float]]:
        """Return this process's positions in each batch, and their weights."""
        shares = [batch[self._rank :: self._world] for batch in whole]
        weights = [
            len(share) * self._world / len(batch)
            for share, batch in zip(shares, whole, strict=True)
        ]
        return shares, weights

    def _normalise(self, inputs: Tensor) -> Tensor:
        layout = self._memory_format if inputs.ndim == 4 else torch.preserve_format
        # A copy even of float32, for it is changed in place.
        scaled = inputs.to(torch.float32, memory_format=layout, copy=True)
        return scaled.sub_(self._mean).div_(self._std)


class InMemory(Batches):
    """A dataset in memory: whole chunks are augmented and normalised at once.

    Args:
        dataset: The dataset; its inputs are tensors.
        augment: ``(inputs, generator) -> inputs``, for training only.
        **options: As for :class:`Batches`.
    """

    def __init__(
        self,
        dataset: "Dataset",
        augment: Callable[[Tensor, torch.Generator], Tensor],
        **options: Any,
    ) -> None:
        super().__init__(dataset, **options)
        self._train = dataset.train.tensor().to(self._device)
        # On the device as a whole: a copy at every evaluation would cost more than the forward.
        self._test = dataset.test.tensor().to(self._device)
        self._augment = augment

    def epoch(
        self,
        epoch: int,
        start: int = 0,
        *,
        order: Sequence[Tensor] | None = None,
        views: int = 1,
    ) -> Iterator[Batch]:
        """Yield this process's part of the training batches of an epoch.

        Args:
            epoch: As for :meth:`Batches.epoch`.
            start: As for :meth:`Batches.epoch`.
            order: As for :meth:`Batches.epoch`.
            views: As for :meth:`Batches.epoch`.
        """
        batches, weights = self._shares(self.order(epoch) if order is None else order)
        # Whole chunks at once: on small images the cost of a batch is dispatch, not pixels.
        together = max(1, CHUNK // (self._train[0].numel() * self._batch_size))
        for first in range(start - start % together, len(batches), together):
            few = batches[first : first + together]
            sizes = [len(batch) for batch in few]
            index = torch.cat(few).to(self._device)
            chunk = torch.split(index, sizes)
            inputs = []
            for view in range(views):
                # The first view is the same, however many there are.
                purpose = (epoch, first, self._rank, *([view] if view else []))
                generator = derive_generator(self._seed, "augment", *purpose)
                augmented = self._normalise(self._augment(self._train[index], generator))
                inputs.append(torch.split(augmented, sizes))
            targets = torch.split(self._labels[index], sizes)
            others = zip(*inputs[1:], strict=True) if views > 1 else repeat(())
            made = map(Batch, chunk, inputs[0], targets, weights[first:], others)
            yield from islice(made, max(0, start - first), None)

    def _inputs(self, examples: "Examples") -> Iterator[Tensor]:
        held = {id(self._dataset.train): self._train, id(self._dataset.test): self._test}
        whole = held.get(id(examples))
        whole = examples.tensor() if whole is None else whole
        together = evaluation_batch(self._device, whole.shape[1:])
        for inputs in torch.split(whole, together):
            yield self._normalise(inputs.to(self._device, non_blocking=True))
