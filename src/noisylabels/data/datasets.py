"""Datasets: named sources in, images and labels in memory out.

A source is a frozen dataclass whose fields are the keys of ``data = {name = "...", ...}``. Its
``load`` returns every example: ``limit`` is applied by the runner after the noise, so that a
smaller run sees the same wrong labels as a larger one.
"""

import dataclasses
import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from noisylabels.errors import ConfigError, DataError, MissingExtraError

TEST_SHARE = 0.2


@dataclass(frozen=True)
class Examples:
    """Images and their labels.

    Args:
        images: uint8, of shape (N, channels, height, width).
        labels: int64 in [0, K), of shape (N).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A training and a test set with the same classes.

    Args:
        train: Training examples, with the labels as the source has them.
        test: Test examples.
        classes: The K class names.
        mean: What is subtracted from each channel's pixel values, of shape (channels).
        std: What each channel is divided by then, of shape (channels).
    """

    train: Examples
    test: Examples
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Where a dataset comes from.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
    """

    limit: int | None = None

    clean: ClassVar[bool]
    """Whether the source's labels are known to be true."""
    model: ClassVar[str]
    """The model that suits the source."""
    augment: ClassVar[str]
    """The augmentation that suits the source."""

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ConfigError: ``limit`` is not positive.
        """
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, got {self.limit}")

    @abstractmethod
    def load(self) -> Dataset:
        """Read all examples.

        Raises:
            DataError: Something is missing or damaged; the message names file and row.
        """

    def digest(self) -> str:
        """Return a hash of the contents, or "" where the name alone fixes them."""
        return ""


@dataclass(frozen=True, kw_only=True)
class Digits(Source):
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels with values 0..16, nothing to download.

    A fifth is the test set: stratified, always the same. Pixels are scaled to [0, 1].

    References:
        Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
    """

    clean: ClassVar[bool] = True
    model: ClassVar[str] = "mlp"
    augment: ClassVar[str] = "none"

    def load(self) -> Dataset:
        """Read all examples."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        images = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)
        labels = torch.from_numpy(digits.target.astype(np.int64))
        train, test = train_test_split(
            np.arange(len(labels)), test_size=TEST_SHARE, stratify=digits.target, random_state=0
        )
        return Dataset(
            train=Examples(images[train], labels[train]),
            test=Examples(images[test], labels[test]),
            classes=tuple(str(digit) for digit in range(10)),
            mean=torch.zeros(1),
            std=torch.full((1,), 16.0),
        )


@dataclass(frozen=True, kw_only=True)
class Cifar10(Source):
    """CIFAR-10 through torchvision: 50,000 and 10,000 images of 32x32 pixels.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        root: Folder that holds ``cifar-10-batches-py``, or to which it is downloaded. The files
            must have the published checksums: nothing else is read.

    References:
        Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """

    root: Path = Path("data")

    clean: ClassVar[bool] = True
    model: ClassVar[str] = "resnet18"
    augment: ClassVar[str] = "crop-flip"

    def load(self) -> Dataset:
        """Read all examples, downloading them if they are not there.

        Raises:
            DataError: They are not there and cannot be downloaded.
        """
        from torchvision.datasets import CIFAR10

        try:
            train = CIFAR10(self.root, train=True)
        except RuntimeError:
            train = self._download()
        test = CIFAR10(self.root, train=False)
        examples, tests = (
            Examples(
                torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
                torch.tensor(part.targets),
            )
            for part in (train, test)
        )
        return Dataset(examples, tests, tuple(train.classes), *channel_statistics(examples.images))

    def _download(self) -> Any:
        from torchvision.datasets import CIFAR10

        new = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        try:
            return CIFAR10(self.root, train=True, download=True)
        except (OSError, RuntimeError) as error:
            for folder in new:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
            raise DataError(
                f"{self.root}: expected the published cifar-10-batches-py there (with its "
                f"checksums), and it could not be downloaded: {error}"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Parquet(Source):
    """Images in the layout of Hugging Face image datasets.

    ``root`` (or ``root/data``) holds ``train*.parquet`` and ``test*.parquet``; an image column is
    a struct of ``bytes`` (an encoded image) and ``path``, a label column holds integers.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        root: Folder of the files.
        image: Image column; by default the only struct column with ``bytes``.
        label: Label column; by default ``label`` or ``fine_label``, whichever there is.
    """

    root: Path
    image: str | None = None
    label: str | None = None

    clean: ClassVar[bool] = False
    model: ClassVar[str] = "resnet18"
    augment: ClassVar[str] = "crop-flip"

    def load(self) -> Dataset:
        """Read all examples.

        Raises:
            DataError: A file or column is missing, an image cannot be decoded or has another size
                than the first, or a label is no class; the message names file and row.
            MissingExtraError: pyarrow is not installed.
        """
        train, classes = self._read("train", None)
        test, _ = self._read("test", classes)
        if train.images.shape[1:] != test.images.shape[1:]:
            raise DataError(
                f"{self.root}: expected test images of the training images' shape "
                f"{tuple(train.images.shape[1:])}, got {tuple(test.images.shape[1:])}"
            )
        return Dataset(train, test, classes, *channel_statistics(train.images))

    def digest(self) -> str:
        """Return a hash of the files' contents."""
        total = hashlib.sha256()
        for split in ("train", "test"):
            for path in self._files(split):
                total.update(file_digest(path).encode())
        return total.hexdigest()

    def _files(self, split: str) -> list[Path]:
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder")
        files = sorted(
            [*self.root.glob(f"{split}*.parquet"), *self.root.glob(f"data/{split}*.parquet")]
        )
        if not files:
            raise DataError(f"{self.root}: expected {split}*.parquet there or in its folder data")
        return files

    def _read(
        self, split: str, classes: tuple[str, ...] | None
    ) -> tuple[Examples, tuple[str, ...]]:
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise MissingExtraError("pyarrow", "hf") from error
        tables = []
        for path in self._files(split):
            try:
                tables.append((path, parquet.ParquetFile(path)))
            except (OSError, ValueError) as error:
                raise DataError(f"{path}: cannot be read as Parquet ({error})") from error
        count = sum(table.metadata.num_rows for _, table in tables)
        if count == 0:
            raise DataError(f"{self.root}: expected examples in {split}*.parquet, got no row")
        images: Tensor | None = None
        labels = torch.empty(count, dtype=torch.int64)
        done = 0
        for path, table in tables:
            schema = table.schema_arrow
            classes = classes or _class_names(schema, self._label_column(path, schema))
        for path, table in tables:
            schema = table.schema_arrow
            image, label = self._image_column(path, schema), self._label_column(path, schema)
            for row, (encoded, number) in enumerate(_rows(path, table, image, label)):
                pixels = _decode(encoded, f"{path}: row {row}")
                if images is None:
                    images = torch.empty(count, *pixels.shape, dtype=torch.uint8)
                if pixels.shape != images.shape[1:]:
                    raise DataError(
                        f"{path}: row {row}: expected an image of the first one's shape "
                        f"{tuple(images.shape[1:])}, got {tuple(pixels.shape)}"
                    )
                if type(number) is not int or number < 0 or (classes and number >= len(classes)):
                    known = f"0..{len(classes) - 1}" if classes else "0, 1, ..."
                    raise DataError(
                        f"{path}: row {row}: expected a label in {known}, got {number!r}"
                    )
                images[done], labels[done] = pixels, number
                done += 1
        assert images is not None, "there is at least one row"
        names = classes or tuple(str(index) for index in range(int(labels.max()) + 1))
        return Examples(images, labels), names

    def _image_column(self, path: Path, schema: Any) -> str:
        import pyarrow as pa

        structs = [
            field.name
            for field in schema
            if pa.types.is_struct(field.type) and "bytes" in [part.name for part in field.type]
        ]
        wanted = [self.image] if self.image else structs
        if len(wanted) == 1 and wanted[0] in structs:
            return wanted[0]
        expected = f"an image column {self.image!r}" if self.image else "one image column"
        raise DataError(
            f"{path}: expected {expected} (a struct with bytes), "
            f"got {', '.join(structs) or 'none'} among {', '.join(schema.names)}"
        )

    def _label_column(self, path: Path, schema: Any) -> str:
        import pyarrow as pa

        for name in [self.label] if self.label else ["label", "fine_label"]:
            if name in schema.names and pa.types.is_integer(schema.field(name).type):
                return name
        raise DataError(
            f"{path}: expected an integer column {self.label or 'label'!r} "
            f"among {', '.join(schema.names)}"
        )


SOURCES: dict[str, type[Source]] = {"digits": Digits, "cifar10": Cifar10, "parquet": Parquet}


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


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


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
    train = Examples(dataset.train.images[:limit], dataset.train.labels[:limit])
    return dataclasses.replace(dataset, train=train)


def _rows(path: Path, table: Any, image: str, label: str) -> Iterator[tuple[bytes | None, Any]]:
    try:
        for batch in table.iter_batches(1024, columns=[image, label]):
            yield from zip(
                batch.column(image).field("bytes").to_pylist(),
                batch.column(label).to_pylist(),
                strict=True,
            )
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error})") from error


def _decode(encoded: bytes | None, place: str) -> Tensor:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded or b"")) as image:
            array = np.array(image if image.mode == "L" else image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{place}: expected an encoded image ({error})") from error
    pixels = torch.from_numpy(array)
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """Read the class names that ``datasets`` keeps in a file's metadata."""
    stored = (schema.metadata or {}).get(b"huggingface")
    try:
        names = json.loads(stored)["info"]["features"][label]["names"] if stored else None
    except (ValueError, KeyError, TypeError):
        return None
    return tuple(str(name) for name in names) if names else None
