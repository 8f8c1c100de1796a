"""What a source of data is, and what all sources of image files share."""

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from noisylabels.data.decoding import decode_examples
from noisylabels.data.examples import (
    Dataset,
    EncodedImages,
    Examples,
    LoadReport,
    OnError,
    StreamedImages,
    channel_statistics,
    stratified_split,
)
from noisylabels.data.images import SMALL, ImageSpec, choose_image_spec, peek
from noisylabels.errors import ConfigError, DataError, check_range

PEEKED = 100
SAMPLED = 1024
SPARSE = 10
"""How many times as great as there are different labels a number may be and still be a class."""

Array = np.ndarray[Any, Any]


class Facts(NamedTuple):
    """What suits a source where the configuration says ``"auto"``.

    Args:
        model: Key of ``MODELS``.
        augment: Key of ``AUGMENTS``.
        map: The class map of asymmetric noise; None where only the user can know it.
    """

    model: str
    augment: str
    map: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Where a dataset comes from.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
    """

    limit: int | None = None

    clean: ClassVar[bool] = False
    """Whether the source's labels are known to be true."""

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ConfigError: ``limit`` is not positive.
        """
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, got {self.limit}")

    @abstractmethod
    def load(self, workers: int = 0) -> Dataset:
        """Read all examples.

        Args:
            workers: Processes that decode images.

        Raises:
            DataError: Something is missing or damaged; the message names file and row.
        """

    @abstractmethod
    def suits(self) -> Facts:
        """Return what suits the source."""

    def digest(self) -> str:
        """Return a hash of the contents, or "" where the name alone fixes them."""
        return ""


@dataclass(frozen=True, kw_only=True)
class Own(Source):
    """A source of the user's own data.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        on_error: ``"raise"`` stops at the first bad row; ``"skip"`` leaves bad rows out, counts
            them and lists them in the run folder.
        test_share: Share of the examples that become the test set where none is given, in (0, 1);
            stratified by label.
        split_seed: Seed of that split, at least 0.
    """

    on_error: OnError = "raise"
    test_share: float = 0.2
    split_seed: int = 0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ConfigError: A value is out of its range.
        """
        super().__post_init__()
        if not 0 < self.test_share < 1:
            raise ConfigError(f"test_share must be in (0, 1), got {self.test_share!r}")
        check_range("split_seed", self.split_seed, high=2**63 - 1)


@dataclass(frozen=True)
class Manifest:
    """What a source of image files holds, before any image is decoded.

    Args:
        images: EncodedImages images.
        labels: int64, of shape (N).
        test: Which of them are test examples, bool, of shape (N).
        classes: The K class names.
        report: What was found so far.
    """

    images: EncodedImages
    labels: Tensor
    test: Tensor
    classes: tuple[str, ...]
    report: LoadReport


@dataclass(frozen=True, kw_only=True)
class ImageFiles(Own):
    """A source of encoded images.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        on_error: ``"raise"`` stops at the first bad row; ``"skip"`` leaves bad rows out, counts
            them and lists them in the run folder.
        test_share: Share of the examples that become the test set where none is given, in (0, 1);
            stratified by label.
        split_seed: Seed of that split, at least 0.
        size: Side in pixels that images are brought to, at least 1. By default the commonest size
            of the first 100 if no side of it is above 96, else 224.
        storage: ``"memory"`` decodes all images once into one tensor; ``"stream"`` decodes them
            anew in every epoch, by worker processes; ``"auto"`` takes memory where they fit into
            ``memory_budget``.
        memory_budget: Bytes of decoded images, at least 0.
    """

    size: int | None = None
    storage: Literal["auto", "memory", "stream"] = "auto"
    memory_budget: int = 2**31

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ConfigError: A value is out of its range.
        """
        super().__post_init__()
        check_range("memory_budget", self.memory_budget)
        if self.size is not None:
            check_range("size", self.size, low=1, high=2**14)

    @property
    @abstractmethod
    def where(self) -> Path:
        """The folder or file that the source is, for messages."""

    @abstractmethod
    def listing(self) -> Manifest:
        """List the images and check their labels.

        Raises:
            DataError: Something is missing or damaged; the message names file and row.
        """

    @cached_property
    def _listing(self) -> Manifest:
        listing = self.listing()
        self._check_classes(listing)
        if bool(listing.test.any()):
            return listing
        if len(set(listing.labels.tolist())) < 2:
            raise DataError(
                f"{self.where}: expected examples of at least two classes, got only "
                f"{listing.classes[int(listing.labels[0])]!r}"
            )
        _, chosen = stratified_split(listing.labels, self.test_share, self.split_seed)
        test = torch.zeros(len(listing.labels), dtype=torch.bool)
        test[chosen] = True
        listing.report.note(
            f"no test set given: {len(chosen)} of {len(test)} examples became it "
            f"(stratified, split_seed {self.split_seed})"
        )
        return dataclasses.replace(listing, test=test)

    @cached_property
    def _spec(self) -> ImageSpec:
        images = self._listing.images
        headers = [
            header
            for index in range(min(PEEKED, len(images)))
            if (header := peek(_readable(images, index))) is not None
        ]
        return choose_image_spec(headers or [(3, SMALL + 1, SMALL + 1)], self.size)

    def suits(self) -> Facts:
        """Return what suits images of this size."""
        if max(self._spec.height, self._spec.width) <= SMALL:
            return Facts("resnet18", "crop-flip")
        return Facts("resnet50", "resized-crop")

    def load(self, workers: int = 0) -> Dataset:
        """List, check and, where they fit into memory, decode all images."""
        listing, spec = self._listing, self._spec
        report = listing.report.copy()
        size = len(listing.images) * int(np.prod(spec.shape))
        stream = self.storage == "stream" or (self.storage == "auto" and size > self.memory_budget)
        where = "stream from their files" if stream else "in memory"
        channels, height, width = spec.shape
        report.note(
            f"{len(listing.images)} images of {channels}x{height}x{width} {where} "
            f'(storage = "{self.storage}", {size / 2**20:.0f} MiB decoded)'
        )
        train, test = (
            self._part(chosen.nonzero().squeeze(1), report, stream, workers)
            for chosen in (~listing.test, listing.test)
        )
        self._check_parts(train, test, listing.classes, report)
        return Dataset(
            train,
            test,
            listing.classes,
            *channel_statistics(_sample(train, workers)),
            notes=report.notes(),
            skipped=tuple(report.skipped),
        )

    def _part(self, index: Tensor, report: LoadReport, stream: bool, workers: int) -> Examples:
        images, labels = self._listing.images.take(index.numpy()), self._listing.labels[index]
        if stream:
            images = images.hold()
        if stream and self.on_error == "raise":
            # The first epoch decodes them all anyway, and stops at one that it cannot decode.
            return Examples(StreamedImages(images, self._spec), labels, images.places())
        return decode_examples(images, labels, self._spec, report, stream=stream, workers=workers)

    def _check_classes(self, listing: Manifest) -> None:
        if not len(listing.labels):
            raise DataError(f"{self.where}: expected examples, got none that is sound")

    def _check_parts(
        self, train: Examples, test: Examples, classes: Sequence[str], report: LoadReport
    ) -> None:
        for part, name in ((train, "training"), (test, "test")):
            if not len(part):
                raise DataError(
                    f"{self.where}: expected {name} examples, got none that can be decoded"
                )
        note_empty(train.labels, classes, "training examples", report)
        if len(set(train.labels.tolist())) < 2:
            raise DataError(
                f"{self.where}: expected training examples of at least two classes, got "
                f"{len(train)} of {classes[int(train.labels[0])]!r} only"
            )

    def digest(self) -> str:
        """Return a hash of the names, sizes and labels of all images."""
        listing = self._listing
        total = hashlib.sha256(listing.images.digest().encode())
        total.update(listing.labels.numpy().tobytes())
        total.update(listing.test.numpy().tobytes())
        total.update("\n".join(listing.classes).encode())
        return total.hexdigest()


def encode_labels(
    values: Sequence[object],
    places: Sequence[str],
    classes: Sequence[str] | None,
    report: LoadReport,
) -> tuple[Tensor, tuple[str, ...], Tensor]:
    """Turn labels as they stand in a file into class numbers.

    Args:
        values: Numbers, strings of numbers, or names; None, "" or NaN where one is missing.
        places: Where each stands, for the message.
        classes: Class names, if they are known: labels may be names or numbers then. By default the
            names in alphabetical order, or "0", "1", ... up to the greatest number, if most labels
            are numbers.
        report: Decides about labels that are missing or out of range.

    Returns:
        int64 labels of those that are sound, the class names, and which are sound (bool).

    Raises:
        DataError: A label is not sound, and bad rows are not to be skipped.

    Example:
        >>> encode_labels(["bee", "ant", "bee"], ["a", "b", "c"], None, LoadReport("raise"))[:2]
        (tensor([1, 0, 1]), ('ant', 'bee'))
    """
    cleaned = [_cleaned(value) for value in values]
    known = [value for value in cleaned if value is not None]
    wholes = [_whole(value) for value in cleaned]
    ids = {name: index for index, name in enumerate(classes or ())}
    # A typing error among numbers is an error, not a class called "l".
    numbers = 2 * sum(whole is not None for whole in wholes) > len(known)
    if classes is None and not numbers:
        classes = sorted({str(value) for value in known})
        ids = {name: index for index, name in enumerate(classes)}
    # Nor must a mistyped number make thousands of classes.
    limit = len(classes) if classes else SPARSE * max(1, len(set(known)))
    found = [
        # What a file has as a number is one; a string may be the name of a class.
        ids[value]
        if isinstance(value, str) and value in ids
        else whole
        if whole is not None and 0 <= whole < limit
        else None
        for value, whole in zip(cleaned, wholes, strict=True)
    ]
    if classes and not numbers:
        expected = f"among {', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}"
    else:
        expected = f"in 0..{limit - 1}" if classes else f"in 0, 1, ... (at most {limit - 1} here)"
    greatest = max((label for label in found if label is not None), default=0)
    names = tuple(classes or (str(index) for index in range(greatest + 1)))
    sound = torch.ones(len(values), dtype=torch.bool)
    for index, label in enumerate(found):
        if label is None:
            got = "none" if cleaned[index] is None else f"{values[index]!r:.80}"
            report.reject(places[index], f"expected a label {expected}, got {got}")
            sound[index] = False
    return torch.tensor([label for label in found if label is not None]).long(), names, sound


def note_empty(labels: Tensor, classes: Sequence[str], what: str, report: LoadReport) -> None:
    """Say which classes have no example.

    Args:
        labels: int64 in [0, K), of shape (N).
        classes: The K class names.
        what: What the examples are, for the sentence.
        report: Remembers it.
    """
    counts = torch.bincount(labels, minlength=len(classes))
    empty = [f"{i} ({classes[i]})" for i in (counts == 0).nonzero().squeeze(1).tolist()]
    if empty:
        shown = ", ".join(empty[:8]) + (", ..." if len(empty) > 8 else "")
        report.note(f"classes without {what}: {len(empty)} of {len(classes)}: {shown}")


def _cleaned(value: object) -> object:
    """Return a label without what file formats add: spaces, the .0 of whole numbers, NaN."""
    if isinstance(value, str):
        value = value.strip()
        if not value or value.lower() == "nan":
            return None
        head, dot, tail = value.partition(".")
        return head if dot and head.isdigit() and not tail.strip("0") else value
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return value


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    try:
        return int(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _readable(images: EncodedImages, index: int) -> bytes | None:
    try:
        return images.read(index)
    except DataError:
        return None


def _sample(train: Examples, workers: int) -> Tensor:
    """Return the images whose pixels are counted: all that are in memory, or some that stream."""
    if isinstance(train.inputs, Tensor):
        return train.inputs
    index = torch.linspace(0, len(train) - 1, min(SAMPLED, len(train))).long()
    streamed: StreamedImages = train.inputs
    return decode_examples(
        streamed.encoded.take(index.numpy()),
        train.labels[index],
        streamed.spec,
        LoadReport("raise"),
        stream=False,
        workers=workers,
    ).tensor()
