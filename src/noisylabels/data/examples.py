"""Examples: inputs in memory or in files, their labels, and a report of how they were loaded."""

import copy
import dataclasses
import functools
import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from noisylabels.data.digests import file_digest, file_digests
from noisylabels.data.images import ImageSpec
from noisylabels.errors import DataError

OnError = Literal["raise", "skip"]


class EncodedImages(ABC):
    """EncodedImages images, read one by one when they are needed."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def read(self, index: int) -> bytes | None:
        """Read one image's encoded bytes; None where the file has none.

        Raises:
            DataError: It cannot be read; the message is the reason alone.
        """

    @abstractmethod
    def place(self, index: int) -> str:
        """Say where an image lies, for people."""

    @abstractmethod
    def take(self, index: np.ndarray[Any, Any]) -> Self:
        """Return the images at these positions."""

    @abstractmethod
    def digest(self) -> str:
        """Return a hash that changes when the images do."""

    def hold(self) -> Self:
        """Return the same images, quick to read in any order."""
        return self

    def places(self) -> np.ndarray[Any, Any]:
        """Return the place of every image, an array of strings."""
        return np.array([self.place(index) for index in range(len(self))], dtype=np.str_)


@dataclass(frozen=True)
class ImagePaths(EncodedImages):
    """Image files below one folder.

    Args:
        root: The folder.
        names: Their paths relative to it, an array of strings.
        origins: Where each is listed, an array of strings: itself, or a table's row.
    """

    root: Path
    names: np.ndarray[Any, Any]
    origins: np.ndarray[Any, Any]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def read(self, index: int) -> bytes:
        """Read one file."""
        try:
            return Path(self.root, self.names[index]).read_bytes()
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})") from error

    def place(self, index: int) -> str:
        """Return the file's path, after the table's row if a table lists it."""
        path, origin = str(self.root / self.names[index]), str(self.origins[index])
        return path if origin == path else f"{origin}: {path}"

    def places(self) -> np.ndarray[Any, Any]:
        """Return every file's path, an array of strings."""
        return np.array([str(self.root / name) for name in self.names], dtype=np.str_)

    def take(self, index: np.ndarray[Any, Any]) -> Self:
        """Return the files at these positions."""
        return dataclasses.replace(
            self,
            names=self.names[index],
            origins=self.origins[index],
        )

    def digest(self) -> str:
        """Return a hash of the files' names and contents.

        An unreadable file does not raise here: loading it reports its place, or skips it.
        """
        digests = file_digests([f"{self.root}{os.sep}{name}" for name in self.names])
        total = hashlib.sha256()
        for name, digest in zip(self.names, digests, strict=True):
            content = digest if isinstance(digest, str) else "cannot be read"
            total.update(f"{name.replace(os.sep, '/')!a} {content}\n".encode())
        return total.hexdigest()


@dataclass(frozen=True)
class ArrowImages(EncodedImages):
    """A column of encoded images in Parquet or Arrow files.

    Args:
        chunks: For each file its encoded images: an Arrow array, or :class:`ParquetRowGroups`.
        files: The files.
        rows: File number and row of each image, int64, of shape (N, 2).
    """

    chunks: Sequence[Any]
    files: Sequence[Path]
    rows: np.ndarray[Any, Any]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def read(self, index: int) -> bytes | None:
        """Return one row's bytes."""
        file, row = self.rows[index]
        content: bytes | None = self.chunks[file][int(row)].as_py()
        return content

    def place(self, index: int) -> str:
        """Name the file and the row, counted from 0."""
        file, row = self.rows[index]
        return f"{self.files[file]}: row {row}"

    def take(self, index: np.ndarray[Any, Any]) -> Self:
        """Return the rows at these positions."""
        return dataclasses.replace(self, rows=self.rows[index])

    def hold(self) -> Self:
        """Return the same images with all encoded bytes of their files in memory."""
        used = set(self.rows[:, 0].tolist())
        whole = [
            chunk.whole if number in used and isinstance(chunk, ParquetRowGroups) else chunk
            for number, chunk in enumerate(self.chunks)
        ]
        return dataclasses.replace(self, chunks=whole)

    def digest(self) -> str:
        """Return a hash of the files' contents."""
        return "".join(map(file_digest, self.files))


class ParquetRowGroups:
    """The encoded images of a Parquet file, of which one row group at a time is in memory.

    Another process opens the file anew.

    Args:
        path: The file.
        file: The same, as a ``pyarrow.parquet.ParquetFile``.
        column: Its image column, a struct with ``bytes``.
    """

    def __init__(self, path: Path, file: Any, column: str) -> None:
        self._path = path
        self._file = file
        self._column = column
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self._group = -1
        self._rows: Any = None

    def __getitem__(self, row: int) -> Any:
        """Return one row's bytes, as an Arrow scalar."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if group != self._group:
            self._rows = self._bytes(self._file.read_row_group(group, columns=[self._column]))
            self._group = group
        return self._rows[row - int(self._starts[group])]

    @functools.cached_property
    def whole(self) -> Any:
        """All rows in one Arrow array, which is read once for all parts of the data."""
        return self._bytes(self._file.read(columns=[self._column]))

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to open it again: an opened file goes into no other process."""
        return _open_row_groups, (self._path, self._column)

    def _bytes(self, table: Any) -> Any:
        import pyarrow.compute as compute

        return compute.struct_field(table.column(self._column), "bytes")


def _open_row_groups(path: Path, column: str) -> ParquetRowGroups:
    from pyarrow.parquet import ParquetFile

    return ParquetRowGroups(path, ParquetFile(path), column)


@dataclass(frozen=True)
class StreamedImages:
    """Images that stay encoded and are decoded anew each time they are used.

    Args:
        encoded: The images.
        spec: What each of them is brought to.
    """

    encoded: EncodedImages
    spec: ImageSpec

    @property
    def shape(self) -> tuple[int, ...]:
        """N, channels, height and width."""
        return len(self.encoded), *self.spec.shape


@dataclass(frozen=True)
class Texts:
    """Texts, which features turn into vectors.

    Args:
        values: The texts, an array of N strings.
    """

    values: np.ndarray[Any, Any]

    @property
    def shape(self) -> tuple[int]:
        """N alone."""
        return (len(self.values),)


@dataclass(frozen=True)
class Examples:
    """Inputs and their labels.

    Args:
        inputs: uint8 images of shape (N, channels, height, width), float32 features of shape
            (N, D), images that stream, or texts.
        labels: int64 in [0, K), of shape (N).
        places: Where each example comes from, an array of N strings; None where its number says it.
        poisoned: Whether each has a trigger, bool, of shape (N); None where none has, see
            ``noisylabels.data.poison``.
        targets: What is learnt in place of the labels, of shape (N, K): sets of candidates, bool,
            of which ``labels`` holds one each; or class probabilities, float32, of which ``labels``
            holds the class that counts. None where labels are learnt.
    """

    inputs: Tensor | StreamedImages | Texts
    labels: Tensor
    places: np.ndarray[Any, Any] | None = None
    poisoned: Tensor | None = None
    targets: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)

    @property
    def candidates(self) -> Tensor | None:
        """The sets of candidates, bool, of shape (N, K), where each example has one."""
        held = self.targets
        return held if held is not None and held.dtype is torch.bool else None

    def mentioned(self) -> Tensor:
        """Return all labels, or all candidates of all sets, int64."""
        sets = self.candidates
        return self.labels if sets is None else sets.nonzero()[:, 1]

    def allows(self, labels: Tensor) -> Tensor:
        """Return whether each of these labels is the example's own, or one of its candidates.

        Args:
            labels: int64 in [0, K), of shape (N).
        """
        sets = self.candidates
        return self.labels == labels if sets is None else sets.gather(1, labels[:, None]).squeeze(1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    def tensor(self) -> Tensor:
        """Return the inputs where they are in memory.

        Raises:
            DataError: They stream, or are texts.
        """
        if isinstance(self.inputs, Tensor):
            return self.inputs
        if isinstance(self.inputs, Texts):
            raise DataError(
                f"{len(self)} texts are no vectors: this needs features, such as "
                f'features = {{name = "tfidf"}}'
            )
        raise DataError(
            f"{len(self)} images stream from their files: this needs them in memory "
            f'(storage = "memory")'
        )

    def take(self, index: Tensor) -> "Examples":
        """Return the examples at these positions."""
        inputs: Tensor | StreamedImages | Texts
        if isinstance(self.inputs, Tensor):
            inputs = self.inputs[index]
        elif isinstance(self.inputs, Texts):
            inputs = Texts(self.inputs.values[index.numpy()])
        else:
            inputs = StreamedImages(self.inputs.encoded.take(index.numpy()), self.inputs.spec)
        places = None if self.places is None else self.places[index.numpy()]
        poisoned = None if self.poisoned is None else self.poisoned[index]
        targets = None if self.targets is None else self.targets[index]
        return Examples(inputs, self.labels[index], places, poisoned, targets)


@dataclass(frozen=True)
class Dataset:
    """A training and a test set with the same classes.

    Args:
        train: Training examples, with the labels as the source has them.
        test: Test examples.
        classes: The K class names.
        mean: What is subtracted from each channel's pixel values, or from each feature, float32. A
            saved model is of no use without it and ``std``: its inputs are scaled by both.
        std: What each channel or feature is divided by then, float32.
        validation: Examples held out of the training set, with their given labels.
        validation_rows: Where these stood in the training set, int64, of shape (M).
        notes: What was found and done while reading, a sentence each.
        skipped: Place and reason of each row that was left out.
        test_is_given: Whether the test set's labels are as noisy as those of the training set.
        test_clean: Labels of test examples that are known to be right, int64 of shape (N), -1 where
            they are not known; None where none is.
        validation_clean: The same of those held out.
        triggered: The test examples with the trigger, where the training set is poisoned.
    """

    train: Examples
    test: Examples
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor
    validation: Examples | None = None
    validation_rows: Tensor | None = None
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    test_is_given: bool = False
    test_clean: Tensor | None = None
    validation_clean: Tensor | None = None
    triggered: Examples | None = None


class LoadReport:
    """Collects what happens while data is loaded, and raises at bad rows or skips them.

    Args:
        on_error: ``"raise"`` stops at the first bad row, ``"skip"`` leaves bad rows out.
    """

    def __init__(self, on_error: OnError) -> None:
        self._on_error = on_error
        self._done: Counter[str] = Counter()
        self._notes: list[str] = []
        self.skipped: list[tuple[str, str]] = []

    def copy(self) -> "LoadReport":
        """Return an independent copy."""
        return copy.deepcopy(self)

    def reject(self, place: str, reason: str) -> None:
        """Leave a row out, or stop.

        Raises:
            DataError: Bad rows are not to be skipped.
        """
        if self._on_error == "raise":
            raise DataError(f'{place}: {reason} (on_error = "skip" leaves such rows out)')
        self.skipped.append((place, reason))

    def refuse(self) -> None:
        """Stop at the first row that was left out, where none can be.

        Raises:
            DataError: There is one.
        """
        if self.skipped:
            place, reason = self.skipped[0]
            raise DataError(f"{place}: {reason}")

    def count(self, phrases: Sequence[str]) -> None:
        """Count what was done to an example."""
        self._done.update(phrases)

    def note(self, sentence: str) -> None:
        """Remember a sentence for the user."""
        self._notes.append(sentence)

    def notes(self) -> tuple[str, ...]:
        """Return every sentence."""
        counted = [f"{phrase}: {count}" for phrase, count in sorted(self._done.items())]
        if self.skipped:
            place, reason = self.skipped[0]
            counted.append(f"left out: {len(self.skipped)} (the first: {place}: {reason})")
        return (*self._notes, *counted)


def stratified_split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split examples into two parts that have every class in the same proportion.

    Args:
        labels: int64 in [0, K), of shape (N).
        share: Share of the second part, in [0, 1).
        seed: Seed of the draw.

    Returns:
        Positions of the first and of the second part, each in ascending order. Of a class with n
        members the second part has floor(share n), or one more: those whose fractions are largest,
        so that the whole part has round(share N); never the last one of a class.

    Example:
        >>> stratified_split(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), 0.25, seed=0)
        (tensor([1, 2, 3, 5, 6, 7]), tensor([0, 4]))
    """
    counts = torch.bincount(labels)
    exact = counts.double() * share
    quota = exact.floor().long()
    missing = round(share * len(labels)) - int(quota.sum())
    for index in (quota - exact).argsort(stable=True)[:missing].tolist():
        quota[index] += 1
    quota = torch.minimum(quota, (counts - 1).clamp(min=0))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order] = rank < quota[labels[order]]
    return (~chosen).nonzero().squeeze(1), chosen.nonzero().squeeze(1)


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute each channel's mean and standard deviation.

    Args:
        images: uint8, of shape (N, channels, height, width).

    Returns:
        Mean and standard deviation in pixel units, each of shape (channels); a constant channel
        has standard deviation 1.

    Example:
        >>> channel_statistics(torch.tensor([0, 4], dtype=torch.uint8).reshape(2, 1, 1, 1))
        (tensor([2.]), tensor([2.]))
    """
    values = torch.arange(256, dtype=torch.float64)
    moments = []
    for channel in images.unbind(1):
        share = torch.bincount(channel.reshape(-1), minlength=256).double() / channel.numel()
        mean = (share * values).sum()
        moments.append((mean, (share * (values - mean) ** 2).sum().sqrt()))
    mean, std = torch.tensor(moments, dtype=torch.float32).T
    return mean.clone(), std.masked_fill(std == 0, 1)


def first(dataset: Dataset, limit: int | None) -> Dataset:
    """Keep the first ``limit`` training examples.

    Args:
        dataset: The dataset.
        limit: How many; all if it is None.

    Returns:
        The dataset with its training set cut.

    Raises:
        DataError: There are fewer.
    """
    if limit is None:
        return dataset
    if limit > len(dataset.train):
        raise DataError(f"limit {limit}: the dataset has {len(dataset.train)} training examples")
    return dataclasses.replace(dataset, train=dataset.train.take(torch.arange(limit)))


def hold_out(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Tensor]:
    """Hold a part of the training set out, stratified by the given labels.

    Args:
        dataset: The dataset, with the labels that training will see.
        share: Share that is held out, in (0, 1).
        seed: Seed of the draw.

    Returns:
        The dataset with its training set reduced and ``validation`` set, and the positions of the
        training examples that are left. The test set is not touched.

    Raises:
        DataError: The share is less than one example.
    """
    kept, out = stratified_split(dataset.train.labels, share, seed)
    if not len(out):
        raise DataError(
            f"validation {share:g}: of {len(dataset.train)} training examples that is none"
        )
    return _held_out(dataset, kept, out), kept


def hold_out_fold(dataset: Dataset, fold: int, folds: int, seed: int) -> tuple[Dataset, Tensor]:
    """Hold one of several parts of the training set out, which have no example in common.

    Args:
        dataset: The dataset, with the labels that training will see.
        fold: The part, counted from 0.
        folds: How many there are; each has every given label in the same proportion.
        seed: Seed of the draw.

    Returns:
        As :func:`hold_out`.

    Raises:
        DataError: There are fewer examples than parts.
    """
    labels = dataset.train.labels
    if len(labels) < folds:
        raise DataError(
            f"validation {fold + 1}/{folds}: expected an example for each part, got {len(labels)}"
        )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    dealt = torch.empty_like(order)
    # Class after class, so that parts differ by one example at most, in each class and in all.
    dealt[order] = torch.arange(len(order)) % folds
    kept, out = ((dealt != fold).nonzero().squeeze(1), (dealt == fold).nonzero().squeeze(1))
    return _held_out(dataset, kept, out), kept


def hold_out_clean(dataset: Dataset, clean: Tensor) -> tuple[Dataset, Tensor]:
    """Hold the training examples out whose labels are known to be right.

    Args:
        dataset: The dataset, with the labels that training will see.
        clean: Right labels of its training set, int64 of shape (N), -1 where they are not known.

    Returns:
        As :func:`hold_out`; ``validation`` has the given labels, ``validation_clean`` the right
        ones.

    Raises:
        DataError: No label is known, or too little is left to learn from.
    """
    kept, out = (clean < 0).nonzero().squeeze(1), (clean >= 0).nonzero().squeeze(1)
    if not len(out):
        raise DataError(
            f"validation_labels: expected labels of the {len(clean)} training examples, got none"
        )
    left = dataset.train.labels[kept]
    if len(set(left.tolist())) < 2:
        raise DataError(
            f"validation_labels: expected training examples of at least two classes besides the "
            f"{len(out)} with clean labels, got {len(left)} of {len(set(left.tolist()))}"
        )
    held = dataclasses.replace(_held_out(dataset, kept, out), validation_clean=clean[out])
    return held, kept


def _held_out(dataset: Dataset, kept: Tensor, out: Tensor) -> Dataset:
    train = dataset.train
    return dataclasses.replace(
        dataset, train=train.take(kept), validation=train.take(out), validation_rows=out
    )
