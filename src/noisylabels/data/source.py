"""What a source of data is, and what all sources of image files share."""

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from noisylabels.data.decoding import decode_examples
from noisylabels.data.digests import file_digest, folder_digest
from noisylabels.data.examples import (
    Dataset,
    EncodedImages,
    Examples,
    ImportLog,
    OnError,
    StreamedImages,
    channel_statistics,
    stratified,
)
from noisylabels.data.images import SMALL, Header, ImageSpec, choose_image_spec, peek
from noisylabels.errors import ConfigError, DataError, check_range

DEFAULT_TEST_SHARE = 0.2
DEFAULT_MEMORY_BUDGET = 2**31
PEEKED = 100
SAMPLED = 1024
SPARSE = 10
"""How many times as great as there are different labels a number may be and still be a class."""

CHOSEN = ("size", "memory_budget", "test_share", "split_seed")
"""Options whose effect is said by what was chosen, or by which examples are for testing."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Facts:
    """What is known of a source's examples before they are read.

    Args:
        shape: The shape of one input.
        images: Whether inputs are images, (channels, height, width).
        class_map: The usual map of asymmetric noise, a key of ``noisylabels.noise.MAPS``; None
            where there is none.
    """

    shape: tuple[int, ...]
    images: bool
    class_map: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Where a dataset comes from.

    A subclass's fields are the keys of ``data = {name = "...", ...}``.

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
    def facts(self) -> Facts:
        """Return what is known of the examples before they are read.

        Raises:
            DataError: Something is missing or damaged; the message names file and row.
        """

    def identity(self) -> dict[str, Any]:
        """Return what the examples depend on beside the contents of files.

        Returns:
            Plain values by name: the fields that differ from their defaults, but paths.
        """
        return {
            field.name: value
            for field in dataclasses.fields(self)
            if not isinstance(value := getattr(self, field.name), Path) and value != field.default
        }

    def digest(self) -> str:
        """Return a hash of the contents of the files and folders that the fields name.

        Returns:
            The hash, or "" where there is none: the same for the same contents elsewhere.

        Raises:
            DataError: One cannot be read.
        """
        total = hashlib.sha256()
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]
        paths = [value for value in values if isinstance(value, Path)]
        for path in paths:
            total.update((folder_digest if path.is_dir() else file_digest)(path).encode())
        return total.hexdigest() if paths else ""


@dataclass(frozen=True, kw_only=True)
class UserSource(Source):
    """A source whose rows may be bad.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        on_error: ``"raise"`` stops at the first bad row; ``"skip"`` leaves bad rows out, counts
            them and lists them in the run folder.
    """

    on_error: OnError = "raise"


@dataclass(frozen=True)
class Split:
    """How a test set is cut from examples that have none of their own.

    Args:
        share: Share of the examples that becomes the test set, in (0, 1); a fifth by default.
        seed: Seed of the draw, at least 0; 0 by default.
    """

    share: float | None
    seed: int | None

    def check(self) -> None:
        """Refuse values that are out of their range.

        Raises:
            ConfigError: One is.
        """
        if self.share is not None and not 0 < self.share < 1:
            raise ConfigError(f"test_share must be in (0, 1), got {self.share!r}")
        if self.seed is not None:
            check_range("split_seed", self.seed, high=2**63 - 1)

    def refuse(self, where: Path) -> None:
        """Refuse values for examples that have a test set of their own.

        Raises:
            ConfigError: One is given.
        """
        for name, value in (("test_share", self.share), ("split_seed", self.seed)):
            if value is not None:
                raise ConfigError(
                    f"{where} has a test set of its own: {name} {value!r} is for none"
                )

    def cut(self, labels: Tensor, log: ImportLog) -> Tensor:
        """Choose the test examples, stratified by label.

        Args:
            labels: int64 in [0, K), of shape (N).
            log: Remembers that there was no test set.

        Returns:
            Which of them are test examples, bool, of shape (N).
        """
        seed = 0 if self.seed is None else self.seed
        share = DEFAULT_TEST_SHARE if self.share is None else self.share
        _, chosen = stratified(labels, share, seed)
        test = torch.zeros(len(labels), dtype=torch.bool)
        test[chosen] = True
        log.note(
            f"no test set given: {len(chosen)} of {len(test)} examples became it "
            f"(stratified, split_seed {seed})"
        )
        return test


@dataclass(frozen=True)
class Listing:
    """What a source of image files holds, before any image is decoded.

    Args:
        images: Encoded images.
        labels: int64, of shape (N).
        test: Which of them are test examples, bool, of shape (N).
        classes: The K class names.
        log: What was found so far.
    """

    images: EncodedImages
    labels: Tensor
    test: Tensor
    classes: tuple[str, ...]
    log: ImportLog


@dataclass(frozen=True, kw_only=True)
class ImageFiles(UserSource):
    """A source of encoded images.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        on_error: ``"raise"`` stops at the first bad row; ``"skip"`` leaves bad rows out, counts
            them and lists them in the run folder.
        size: Side in pixels that images are brought to, at least 1. By default the commonest size
            of the first 100 if no side of it is above 96, else 224.
        storage: ``"memory"`` decodes all images once into one tensor; ``"stream"`` decodes them
            anew in every epoch, by worker processes; ``"auto"`` takes memory where they fit into
            ``memory_budget``.
        memory_budget: Bytes of decoded images, at least 0; 2 GiB by default.
    """

    size: int | None = None
    storage: Literal["auto", "memory", "stream"] = "auto"
    memory_budget: int | None = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ConfigError: A value is out of its range, or of no use beside the others.
        """
        super().__post_init__()
        if self.memory_budget is not None:
            check_range("memory_budget", self.memory_budget)
            if self.storage != "auto":
                raise ConfigError(
                    f'memory_budget {self.memory_budget} is for storage = "auto", '
                    f"got {self.storage!r}"
                )
        if self.size is not None:
            check_range("size", self.size, low=1, high=2**14)

    @property
    @abstractmethod
    def where(self) -> Path:
        """The folder or file that the source is, for messages."""

    @abstractmethod
    def listing(self) -> Listing:
        """List the images and check their labels.

        Raises:
            DataError: Something is missing or damaged; the message names file and row.
        """

    def with_test(self, listing: Listing) -> Listing:
        """Return a listing that has a test set; one that cannot be cut is left as it is."""
        return listing

    @cached_property
    def _listing(self) -> Listing:
        listing = self.listing()
        if not len(listing.labels):
            raise DataError(f"{self.where}: expected examples, got none that is sound")
        return self.with_test(listing)

    @cached_property
    def _spec(self) -> ImageSpec:
        images = self._listing.images
        headers = [
            header
            for index in range(min(PEEKED, len(images)))
            if (header := peek(_readable(images, index))) is not None
        ]
        return choose_image_spec(headers or [Header(3, SMALL + 1, SMALL + 1)], self.size)

    @property
    def _streams(self) -> bool:
        budget = DEFAULT_MEMORY_BUDGET if self.memory_budget is None else self.memory_budget
        return self.storage == "stream" or (self.storage == "auto" and self._bytes > budget)

    @property
    def _bytes(self) -> int:
        return len(self._listing.images) * int(np.prod(self._spec.shape))

    def facts(self) -> Facts:
        """Return what is known of the images before they are decoded."""
        return Facts(self._spec.shape, images=True)

    def identity(self) -> dict[str, Any]:
        """Return what the examples depend on beside the contents of files.

        With what ``"auto"`` and no ``size`` stand for here: it may be what another run says.
        """
        chosen = {"storage": "stream" if self._streams else "memory", "shape": self._spec.shape}
        own = super().identity()
        return chosen | {k: v for k, v in own.items() if k not in (*chosen, *CHOSEN)}

    def load(self, workers: int = 0) -> Dataset:
        """List, check and, where they fit into memory, decode all images."""
        listing, spec = self._listing, self._spec
        log = listing.log.copy()
        stream = self._streams
        where = "stream from their files" if stream else "in memory"
        channels, height, width = spec.shape
        log.note(
            f"{len(listing.images)} images of {channels}x{height}x{width} {where} "
            f'(storage = "{self.storage}", {self._bytes / 2**20:.0f} MiB decoded)'
        )
        train, test = (
            self._part(chosen.nonzero().squeeze(1), log, stream, workers)
            for chosen in (~listing.test, listing.test)
        )
        self._check_parts(train, test, listing.classes, log)
        return Dataset(
            train,
            test,
            listing.classes,
            *channel_statistics(_sample(train, workers)),
            notes=log.notes(),
            skipped=tuple(log.skipped),
        )

    def _part(self, index: Tensor, log: ImportLog, stream: bool, workers: int) -> Examples:
        images, labels = self._listing.images.take(index.numpy()), self._listing.labels[index]
        if stream:
            images = images.hold()
        if stream and self.on_error == "raise":
            # The first epoch decodes them all anyway, and stops at one that it cannot decode.
            return Examples(StreamedImages(images, self._spec), labels, images.places())
        return decode_examples(images, labels, self._spec, log, stream=stream, workers=workers)

    def _check_parts(
        self, train: Examples, test: Examples, classes: Sequence[str], log: ImportLog
    ) -> None:
        for part, name in ((train, "training"), (test, "test")):
            if not len(part):
                raise DataError(
                    f"{self.where}: expected {name} examples, got none that can be decoded"
                )
        note_empty(train.labels, classes, "training examples", log)
        if len(set(train.labels.tolist())) < 2:
            raise DataError(
                f"{self.where}: expected training examples of at least two classes, got "
                f"{len(train)} of {classes[int(train.labels[0])]!r} only"
            )

    def digest(self) -> str:
        """Return a hash of the images' contents, of their labels, classes and split."""
        listing = self._listing
        total = hashlib.sha256(listing.images.digest().encode())
        total.update(listing.labels.numpy().tobytes())
        total.update(listing.test.numpy().tobytes())
        total.update("\n".join(listing.classes).encode())
        return total.hexdigest()


@dataclass(frozen=True, kw_only=True)
class SplitImageFiles(ImageFiles):
    """A source of encoded images of which a part becomes the test set where none is given.

    Args:
        limit: As for :class:`ImageFiles`.
        on_error: As for :class:`ImageFiles`.
        size: As for :class:`ImageFiles`.
        storage: As for :class:`ImageFiles`.
        memory_budget: As for :class:`ImageFiles`.
        test_share: Share of the examples that becomes the test set, in (0, 1); stratified by label;
            a fifth by default.
        split_seed: Seed of that split, at least 0; 0 by default.
    """

    test_share: float | None = None
    split_seed: int | None = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ConfigError: A value is out of its range, or of no use beside the others.
        """
        super().__post_init__()
        self._split.check()

    @property
    def _split(self) -> Split:
        return Split(self.test_share, self.split_seed)

    def with_test(self, listing: Listing) -> Listing:
        """Cut a test set from a listing that has none.

        Raises:
            ConfigError: It has one, and how to cut one is said.
            DataError: There is one class only.
        """
        if bool(listing.test.any()):
            self._split.refuse(self.where)
            return listing
        if len(set(listing.labels.tolist())) < 2:
            raise DataError(
                f"{self.where}: expected examples of at least two classes, got only "
                f"{listing.classes[int(listing.labels[0])]!r}"
            )
        test = self._split.cut(listing.labels, listing.log)
        return dataclasses.replace(listing, test=test)


def encode_labels(
    values: Sequence[object], places: Sequence[str], classes: Sequence[str] | None, log: ImportLog
) -> tuple[Tensor, tuple[str, ...], Tensor]:
    """Turn labels as they stand in a file into class numbers.

    Args:
        values: Numbers, strings of numbers, or names; None, "" or NaN where one is missing.
        places: Where each stands, for the message.
        classes: Class names, if they are known: labels may be names or numbers then. By default the
            names in alphabetical order, or "0", "1", ... up to the greatest number, if most labels
            are numbers.
        log: Decides about labels that are missing or out of range.

    Returns:
        int64 labels of those that are sound, the class names, and which are sound (bool).

    Raises:
        DataError: A label is not sound, and bad rows are not to be skipped.

    Example:
        >>> encode_labels(["bee", "ant", "bee"], ["a", "b", "c"], None, ImportLog("raise"))[:2]
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
            log.refuse(places[index], f"expected a label {expected}, got {got}")
            sound[index] = False
    return torch.tensor([label for label in found if label is not None]).long(), names, sound


def note_empty(labels: Tensor, classes: Sequence[str], what: str, log: ImportLog) -> None:
    """Say which classes have no example.

    Args:
        labels: int64 in [0, K), of shape (N).
        classes: The K class names.
        what: What the examples are, for the sentence.
        log: Remembers it.
    """
    counts = torch.bincount(labels, minlength=len(classes))
    empty = [f"{i} ({classes[i]})" for i in (counts == 0).nonzero().squeeze(1).tolist()]
    if empty:
        shown = ", ".join(empty[:8]) + (", ..." if len(empty) > 8 else "")
        log.note(f"classes without {what}: {len(empty)} of {len(classes)}: {shown}")


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
        ImportLog("raise"),
        stream=False,
        workers=workers,
    ).tensor()
