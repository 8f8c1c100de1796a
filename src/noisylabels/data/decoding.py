"""Decoding of many images, by worker processes or threads where that pays."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from noisylabels.data.examples import EncodedImages, Examples, LoadReport, StreamedImages
from noisylabels.data.images import SMALL, ImageSpec, decode, quiet
from noisylabels.errors import DataError

Decoded = tuple[int, Tensor | str, list[str]]
CHUNK = 64


def default_workers() -> int:
    """Return how many processes decode where nobody says: one per core, at most 8."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


class Readable(Protocol):
    """Encoded images, as a decoder needs them; every ``EncodedImages`` is such."""

    def __len__(self) -> int:
        """Return the number of images."""

    def read(self, index: int) -> bytes | None:
        """Read one image's encoded bytes; None where there are none.

        Raises:
            DataError: It cannot be read; the message is the reason alone.
        """

    def place(self, index: int) -> str:
        """Say where an image lies, for people."""


def decode_all(
    encoded: Readable,
    spec: ImageSpec,
    workers: int,
    resize: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Decoded]:
    """Decode images in order.

    Args:
        encoded: The images.
        spec: What each is brought to.
        workers: Processes; small images are decoded here, for sending them costs as much.
        resize: ``uint8 image -> uint8 image of the size of spec``; by default they are resized to
            cover it, and cropped at the centre.

    Yields:
        Position; the image, uint8 of shape (channels, height, width), or why it cannot be decoded;
        and what had to be done to it.
    """
    decoder = Decoder(encoded, spec, resize=resize or True)
    if _is_cheap(spec, workers):
        yield from map(decoder.__getitem__, range(len(encoded)))
        return
    for chunk in DataLoader(decoder, batch_size=CHUNK, num_workers=workers, collate_fn=list):
        yield from chunk


def _is_cheap(spec: ImageSpec, workers: int) -> bool:
    """Return whether images are decoded one by one, by whoever asks."""
    return workers == 0 or max(spec.height, spec.width) <= SMALL


def decode_for(
    device: torch.device,
    encoded: Readable,
    spec: ImageSpec,
    workers: int,
    resize: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Decoded]:
    """Decode images in order for a network that uses them as they come.

    Beside an accelerator that is done meanwhile, by processes. A network on the CPU has all its
    cores: whatever runs beside it holds up all its threads. There images are decoded between its
    batches, by as many threads.

    Args:
        device: Where the network is.
        encoded: The images.
        spec: What each is brought to.
        workers: As for :func:`decode_all`; with none there is one thread, too.
        resize: As for :func:`decode_all`.

    Yields:
        As :func:`decode_all`.
    """
    if device.type != "cpu" or _is_cheap(spec, workers):
        yield from decode_all(encoded, spec, workers, resize)
        return
    decoder = Decoder(_InTurn(encoded), spec, resize=resize or True)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start in range(0, len(encoded), CHUNK):
            positions = range(start, min(start + CHUNK, len(encoded)))
            # Each thread changes what warnings do, and back, for all of them.
            with quiet():
                decoded = list(pool.map(decoder.__getitem__, positions))
            yield from decoded


class _InTurn:
    """Encoded images that one thread at a time reads, as a Parquet file must be.

    Args:
        encoded: The images.
    """

    def __init__(self, encoded: Readable) -> None:
        self._encoded = encoded
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._encoded)

    def read(self, index: int) -> bytes | None:
        """Read one image's encoded bytes, when it is this thread's turn."""
        with self._lock:
            return self._encoded.read(index)

    def place(self, index: int) -> str:
        """Say where an image lies, for people."""
        return self._encoded.place(index)


def decode_examples(
    encoded: EncodedImages,
    labels: Tensor,
    spec: ImageSpec,
    report: LoadReport,
    *,
    stream: bool,
    workers: int,
    targets: Tensor | None = None,
) -> Examples:
    """Decode every image once, and keep those that can be decoded.

    Args:
        encoded: The images.
        labels: Their labels, of shape (N).
        spec: What each is brought to.
        report: Decides about those that cannot be decoded, and counts what was done to the rest.
        stream: Whether to keep them encoded, not as one tensor.
        workers: Processes that decode.
        targets: What is learnt in place of the labels, of shape (N, K).

    Returns:
        The examples.

    Raises:
        DataError: An image cannot be decoded, and bad rows are not to be skipped.
    """
    images = torch.empty(0 if stream else len(encoded), *spec.shape, dtype=torch.uint8)
    kept: list[int] = []
    for index, pixels, done in decode_all(encoded, spec, workers):
        if isinstance(pixels, str):
            report.reject(encoded.place(index), pixels)
            continue
        if not stream:
            images[len(kept)] = pixels
        report.count(done)
        kept.append(index)
    position = torch.tensor(kept, dtype=torch.int64)
    sound = encoded if len(kept) == len(encoded) else encoded.take(position.numpy())
    inputs = StreamedImages(sound, spec) if stream else images[: len(kept)]
    targets = None if targets is None else targets[position]
    return Examples(inputs, labels[position], sound.places(), targets=targets)


class Decoder(Dataset[Decoded]):
    """Decodes images one by one, in whichever process asks.

    Args:
        encoded: The images.
        spec: What each is brought to.
        resize: Whether ``spec`` is for the size too, else each keeps its own; or what is done to
            images of their own size.
    """

    def __init__(
        self,
        encoded: Readable,
        spec: ImageSpec,
        *,
        resize: bool | Callable[[Tensor], Tensor] = True,
    ) -> None:
        self._encoded = encoded
        self._spec = spec
        self._resize = resize

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._encoded)

    def __getitem__(self, index: int) -> Decoded:
        """Read and decode one image; a reason in its place says why that cannot be."""
        try:
            encoded = self._encoded.read(index)
            pixels, done = decode(encoded, self._spec, resize=self._resize is True)
            if callable(self._resize):
                pixels = self._resize(pixels)
        except DataError as error:
            # An exception would come out of a worker with its traceback for a message.
            return index, str(error), []
        except MemoryError as error:
            error.add_note(f"while decoding {self._encoded.place(index)}")
            raise
        return index, pixels, done
