"""How an epoch's examples become batches: shuffled, augmented, normalised.

Every random draw of an epoch comes from a generator seeded with (seed, epoch, purpose) and
nothing else, so a run that is cut and continued sees the same batches as an uncut one, and every
loss sees the same batches as every other.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from noisylabels.data.datasets import Dataset

CHUNK = 2**24
"""Pixel values that are augmented and normalised at once: 64 MiB in float32."""
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
        input: Normalised images, float32, of shape (N, channels, height, width).
        target: Given labels, int64, of shape (N).
    """

    index: Tensor
    input: Tensor
    target: Tensor


class Batches:
    """A dataset in memory, in the form that a network eats.

    Args:
        dataset: The dataset; ``dataset.train.labels`` are the given labels.
        augment: ``(uint8 images, generator) -> uint8 images``, for training only.
        batch_size: Examples per training step; the last step of an epoch has what is left, and a
            single example that is left joins the step before.
        seed: The run's seed.
        device: Where the batches go.
        memory_format: Memory format of the inputs.
    """

    def __init__(
        self,
        dataset: Dataset,
        augment: Callable[[Tensor, torch.Generator], Tensor],
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self._images = dataset.train.images.to(device)
        self._labels = dataset.train.labels.to(device)
        self._test = dataset.test.images.to(device)
        self._mean = dataset.mean.to(device)[:, None, None]
        self._std = dataset.std.to(device)[:, None, None]
        self._augment = augment
        self._batch_size = batch_size
        self._seed = seed
        self._memory_format = memory_format

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the training batches of an epoch, counted from 0."""
        count = len(self._labels)
        order = torch.randperm(count, generator=derive_generator(self._seed, "order", epoch))
        batches = list(torch.split(order.to(self._labels.device), self._batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:
            # Batch norm cannot normalise a single example.
            batches[-2:] = [torch.cat(batches[-2:])]
        generator = derive_generator(self._seed, "augment", epoch)
        # Whole chunks at once: on small images the cost of a batch is dispatch, not pixels.
        together = max(1, CHUNK // (self._images[0].numel() * self._batch_size))
        for start in range(0, len(batches), together):
            chunk = batches[start : start + together]
            index, sizes = torch.cat(chunk), [len(batch) for batch in chunk]
            inputs = self._normalise(self._augment(self._images[index], generator))
            targets = self._labels[index]
            yield from map(Batch, chunk, torch.split(inputs, sizes), torch.split(targets, sizes))

    def train_inputs(self) -> Iterator[Tensor]:
        """Yield the training images in order, without augmentation."""
        yield from map(self._normalise, torch.split(self._images, EVALUATION_BATCH))

    def test_inputs(self) -> Iterator[Tensor]:
        """Yield the test images in order."""
        yield from map(self._normalise, torch.split(self._test, EVALUATION_BATCH))

    def _normalise(self, images: Tensor) -> Tensor:
        scaled = (images.float() - self._mean) / self._std
        return scaled.contiguous(memory_format=self._memory_format)
