"""How an epoch's examples become batches: shuffled, augmented, normalised.

Every random draw of an epoch comes from a generator seeded with (seed, epoch, purpose) and
nothing else, so a run that is cut and continued sees the same batches as an uncut one, and every
loss sees the same batches as every other.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noisylabels.data.examples import Dataset, Examples

CHUNK = 2**21
"""Pixel values that are augmented and normalised at once: 8 MiB in float32."""
# Activations of larger batches fall out of a CPU's cache: 1,024 images take 2.2 times as long each.
EVALUATION_BATCH = 256


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


def derive_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Make a CPU generator for one purpose, see :func:`derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    Args:
        index: Position of each example in the training set, int64, of shape (N).
        input: Normalised images, float32, of shape (N, channels, height, width), or features of
            shape (N, D).
        target: Given labels, int64, of shape (N).
    """

    index: Tensor
    input: Tensor
    target: Tensor


class Batches(ABC):
    """A dataset in the form that a network eats.

    Args:
        dataset: The dataset; ``dataset.train.labels`` are the given labels.
        batch_size: Examples per training step; the last step of an epoch has what is left, and a
            single example that is left joins the step before.
        seed: The run's seed.
        device: Where the batches go.
        memory_format: Memory format of inputs that are images.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self._dataset = dataset
        self._labels = dataset.train.labels.to(device)
        # One number per channel, or per feature.
        shape = (-1, *[1] * (len(dataset.train.shape) - 1))
        self._mean = dataset.mean.to(device).reshape(shape)
        self._std = dataset.std.to(device).reshape(shape)
        self._batch_size = batch_size
        self._seed = seed
        self._device = device
        self._memory_format = memory_format if len(shape) == 3 else torch.contiguous_format

    @abstractmethod
    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the training batches of an epoch, counted from 0."""

    @abstractmethod
    def _inputs(self, examples: Examples) -> Iterator[Tensor]:
        """Yield the inputs in order, without augmentation."""

    def train_inputs(self) -> Iterator[Tensor]:
        """Yield the training inputs in order, without augmentation."""
        return self._inputs(self._dataset.train)

    def validation_inputs(self) -> Iterator[Tensor]:
        """Yield the held-out inputs in order, without augmentation; none without a hold-out."""
        held_out = self._dataset.validation
        return iter(()) if held_out is None else self._inputs(held_out)

    def test_inputs(self) -> Iterator[Tensor]:
        """Yield the test inputs in order."""
        return self._inputs(self._dataset.test)

    def order(self, epoch: int) -> list[Tensor]:
        """Return the positions of each training batch of an epoch, int64 on the CPU."""
        generator = derive_generator(self._seed, "order", epoch)
        order = torch.randperm(len(self._labels), generator=generator)
        batches = list(torch.split(order, self._batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:
            # Batch norm cannot normalise a single example.
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

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
        dataset: Dataset,
        augment: Callable[[Tensor, torch.Generator], Tensor],
        **options: Any,
    ) -> None:
        super().__init__(dataset, **options)
        self._train = dataset.train.tensor().to(self._device)
        self._augment = augment

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the training batches of an epoch, counted from 0."""
        batches = [batch.to(self._device) for batch in self.order(epoch)]
        generator = derive_generator(self._seed, "augment", epoch)
        # Whole chunks at once: on small images the cost of a batch is dispatch, not pixels.
        together = max(1, CHUNK // (self._train[0].numel() * self._batch_size))
        for start in range(0, len(batches), together):
            chunk = batches[start : start + together]
            index, sizes = torch.cat(chunk), [len(batch) for batch in chunk]
            inputs = self._normalise(self._augment(self._train[index], generator))
            targets = self._labels[index]
            yield from map(Batch, chunk, torch.split(inputs, sizes), torch.split(targets, sizes))

    def _inputs(self, examples: Examples) -> Iterator[Tensor]:
        whole = self._train if examples is self._dataset.train else examples.tensor()
        for inputs in torch.split(whole, EVALUATION_BATCH):
            yield self._normalise(inputs.to(self._device))
