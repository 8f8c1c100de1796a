"""An epoch of images that stay in their files: decoded and augmented by worker processes.

Each image's randomness comes from (seed, epoch, its position) and nothing else, so neither the
number of workers nor a cut of the run changes what the network sees.
"""

import functools
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Indexed

from noisylabels.data.augment import Transform, centre
from noisylabels.data.batches import EVALUATION_BATCH, Batch, Batches, derive_seed
from noisylabels.data.decoding import Decoder
from noisylabels.data.examples import Dataset, Examples, StreamedImages
from noisylabels.errors import DataError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stream(Batches):
    """A dataset in files, in the form that a network eats.

    Args:
        dataset: The dataset; its inputs stream.
        augment: One uint8 image of any size to one of the dataset's, drawing from torch's global
            generator; for training only.
        centre: The same without randomness, for evaluation.
        workers: Processes that decode.
        **options: As for :class:`noisylabels.data.batches.Batches`.
    """

    def __init__(
        self,
        dataset: Dataset,
        augment: Transform,
        centre: Transform,
        *,
        workers: int,
        **options: Any,
    ) -> None:
        super().__init__(dataset, **options)
        self._augment = augment
        self._centre = centre
        self._workers = workers

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
            epoch: As for :meth:`noisylabels.data.batches.Batches.epoch`.
            start: As for :meth:`noisylabels.data.batches.Batches.epoch`.
            order: As for :meth:`noisylabels.data.batches.Batches.epoch`.
            views: As for :meth:`noisylabels.data.batches.Batches.epoch`.
        """
        batches, weights = self._shares(self.order(epoch) if order is None else order)
        examples = _Images(self._dataset.train, self._augment, self._seed, epoch)
        keys = [
            [
                # In an order of a method's own an example can come more than once in an epoch.
                (position, *([] if order is None else [step]), *([view] if view else []))
                for view in range(views)
                for position in batch.tolist()
            ]
            for step, batch in enumerate(batches[start:], start)
        ]
        images = self._load(examples, keys)
        for index, weight, loaded in zip(batches[start:], weights[start:], images, strict=True):
            there = index.to(self._device)
            first, *others = torch.split(self._normalise(loaded), len(index))
            yield Batch(there, first, self._labels[there], weight, tuple(others))

    def _inputs(self, examples: Examples) -> Iterator[Tensor]:
        positions = torch.split(torch.arange(len(examples)), EVALUATION_BATCH)
        keys: list[list[tuple[int, ...]]] = [
            [(position,) for position in batch.tolist()] for batch in positions
        ]
        yield from map(self._normalise, self._load(_Images(examples, self._centre), keys))

    def _load(
        self, images: "_Images", batches: Sequence[list[tuple[int, ...]]]
    ) -> Iterator[Tensor]:
        loader = DataLoader(
            images,
            batch_sampler=batches,
            num_workers=self._workers,
            collate_fn=_collate,
            worker_init_fn=ignore_signals,
            pin_memory=self._device.type == "cuda",
            # Of its own, or the loader draws its workers' seed from the run's.
            generator=torch.Generator(),
        )
        with _signals_held_back():
            running = iter(loader)
        for batch in running:
            if isinstance(batch, str):
                raise DataError(batch)
            yield batch.to(self._device, non_blocking=True)


def ignore_signals(worker: int) -> None:
    """Leave stopping to the process that started this worker, which finishes its step first."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Start workers that hear no signal before they ignore it.

    One that died of it could leave a queue locked, and the others, which ignore being ended, would
    wait at it for ever.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _collate(images: Sequence[Tensor | str]) -> Tensor | str:
    """Stack images, or say what is wrong with the first that is none."""
    tensors = [image for image in images if isinstance(image, Tensor)]
    if len(tensors) < len(images):
        return next(image for image in images if isinstance(image, str))
    return torch.stack(tensors)


def batch_of_one(
    augment: Callable[[Tensor, torch.Generator], Tensor], size: tuple[int, int]
) -> Transform:
    """Make an augmentation of batches, such as the user's own, into one of a single image.

    Args:
        augment: ``(images, generator) -> images``.
        size: Height and width of the result.

    Returns:
        The transform; its draws come from torch's global generator.
    """
    return functools.partial(_augment_one, augment, centre(size))


def _augment_one(
    augment: Callable[[Tensor, torch.Generator], Tensor], centre: Transform, image: Tensor
) -> Tensor:
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    return augment(centre(image).unsqueeze(0), generator)[0]


class _Images(Indexed[Tensor | str]):
    def __init__(
        self, examples: Examples, transform: Transform, seed: int | None = None, epoch: int = 0
    ) -> None:
        assert isinstance(examples.inputs, StreamedImages), "what is in memory does not stream"
        self._encoded = examples.inputs.encoded
        self._decoder = Decoder(self._encoded, examples.inputs.spec, resize=False)
        self._transform = transform
        self._seed = seed
        self._epoch = epoch

    def __getitem__(self, key: tuple[int, ...]) -> Tensor | str:
        position = key[0]
        _, pixels, _ = self._decoder[position]
        if isinstance(pixels, str):
            return f"{self._encoded.place(position)}: {pixels}"
        if self._seed is None:
            return self._transform(pixels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self._seed, "augment", self._epoch, *key))
            return self._transform(pixels)
