"""Datasets by name: each source is a frozen dataclass.

Its fields are the keys of ``data = {name = "...", ...}``. Its ``load`` returns every example:
``limit`` is applied by the runner after the noise, so that a smaller run sees the same wrong
labels as a larger one.
"""

import dataclasses
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from noisylabels.data.digests import file_digest
from noisylabels.data.examples import (
    Dataset,
    Examples,
    LoadReport,
    channel_statistics,
)
from noisylabels.data.files import Animal10N, Folder, Parquet, Table, WebVision
from noisylabels.data.images import ImageSpec
from noisylabels.data.label_encoding import LabelKind, encode_labels, note_empty, several
from noisylabels.data.source import LABEL_BEFORE, Facts, Source, SplittableSource
from noisylabels.data.texts import Text
from noisylabels.errors import DataError
from noisylabels.labels import read_archive

DIGITS_TEST_SHARE = 0.2
DIGITS_HIGHEST = 16


@dataclass(frozen=True, kw_only=True)
class Digits(Source):
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels with values 0..16, nothing to download.

    A fifth is the test set: stratified, always the same. Pixels are scaled to [0, 1].

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.

    References:
        Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
    """

    clean: ClassVar[bool] = True

    def facts(self) -> Facts:
        """Return the digits' shape and class map."""
        return Facts((1, 8, 8), images=True, class_map="digits", highest=DIGITS_HIGHEST)

    def load(self, workers: int = 0) -> Dataset:
        """Read all examples."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        images = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)
        labels = torch.from_numpy(digits.target.astype(np.int64))
        train, test = train_test_split(
            np.arange(len(labels)),
            test_size=DIGITS_TEST_SHARE,
            stratify=digits.target,
            random_state=0,
        )
        return Dataset(
            train=Examples(images[train], labels[train]),
            test=Examples(images[test], labels[test]),
            classes=tuple(str(digit) for digit in range(10)),
            mean=torch.zeros(1),
            std=torch.full((1,), float(DIGITS_HIGHEST)),
        )


OFFLINE = "NOISYLABELS_OFFLINE"
"""Environment variable: where it is set, no dataset is downloaded."""


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
    _torchvision: ClassVar[str] = "CIFAR10"
    _class_map: ClassVar[str] = "cifar10"

    def facts(self) -> Facts:
        """Return the images' shape and class map."""
        return Facts((3, 32, 32), images=True, class_map=self._class_map)

    def image_spec(self) -> ImageSpec:
        """Return the images' shape."""
        return ImageSpec(3, 32, 32)

    def digest(self) -> str:
        """Return "": torchvision reads files with the published checksums only."""
        return ""

    def load(self, workers: int = 0) -> Dataset:
        """Read all examples, downloading them if they are not there.

        Raises:
            DataError: They are not there and cannot be downloaded.
        """
        import torchvision.datasets

        published = getattr(torchvision.datasets, self._torchvision)
        try:
            train = published(self.root, train=True)
        except RuntimeError:
            train = self._download(published)
        test = published(self.root, train=False)
        examples, tests = (
            Examples(
                torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
                torch.tensor(part.targets),
            )
            for part in (train, test)
        )
        return Dataset(
            examples, tests, tuple(train.classes), *channel_statistics(examples.tensor())
        )

    def _download(self, published: Any) -> Any:
        if os.environ.get(OFFLINE):
            raise DataError(f"{self.root}: no {published.base_folder} there, and {OFFLINE} is set")
        new = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        try:
            return published(self.root, train=True, download=True)
        except (OSError, RuntimeError) as error:
            for folder in new:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
            raise DataError(
                f"{self.root}: expected the published {published.base_folder} there (with its "
                f"checksums), and it could not be downloaded: {error}"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Cifar100(Cifar10):
    """CIFAR-100 through torchvision: 50,000 and 10,000 images of 32x32 pixels, 100 classes.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        root: Folder that holds ``cifar-100-python``, or to which it is downloaded. The files
            must have the published checksums: nothing else is read.

    References:
        Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """

    _torchvision: ClassVar[str] = "CIFAR100"
    _class_map: ClassVar[str] = "cifar100"


@dataclass(frozen=True, kw_only=True)
class Arrays(SplittableSource):
    """NumPy arrays in one ``.npz`` file: images, or any other features.

    It holds ``x`` and ``y``, of which a part becomes the test set, or ``x_train``, ``y_train``,
    ``x_test`` and ``y_test`` (or, as MedMNIST has them, ``train_images``, ``train_labels``,
    ``test_images`` and ``test_labels``; ``val`` is the test set where there is no ``test``); and,
    if it likes, ``classes``, the names. Inputs are uint8 images of shape (N, H, W),
    (N, H, W, 1 or 3) or (N, 1 or 3, H, W), or numbers of shape (N, D), which are standardised
    feature by feature. Labels are class numbers or names, of shape (N) or (N, 1); or truth values
    of shape (N, K): sets of candidates, of which one is the label. Their columns are the classes
    in order, whatever ``labels`` says; beside a part of sets, each label is a set of its own.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        path: The file. Nothing in it is unpickled.
        on_error: ``"raise"`` stops at the first bad row; ``"skip"`` leaves bad rows out, counts
            them and lists them in the run folder.
        test_share: Share of the examples that become the test set, in (0, 1); 0.2 by default. Only
            where no test set is given.
        split_seed: Seed of that split, at least 0; 0 by default. Only where no test set is given.
        labels: ``"names"`` takes labels as text, ``"numbers"`` as class numbers, ``"auto"`` as
            numbers where all of them are whole.
    """

    path: Path
    labels: LabelKind = "auto"

    @property
    def where(self) -> Path:
        """The file."""
        return self.path

    @property
    def has_test_set(self) -> bool:
        """Whether the file holds ``x_test``, or ``x_val`` in its place."""
        return "_test" in self._parts

    def facts(self) -> Facts:
        """Return the shape of the inputs."""
        self.check_split()
        inputs = next(iter(self._parts.values()))[0]
        return Facts(tuple(inputs.shape[1:]), images=inputs.ndim == 4)

    def image_spec(self) -> ImageSpec | None:
        """Return the images' shape, if inputs are images."""
        facts = self.facts()
        return ImageSpec(*facts.shape) if facts.images else None

    def load(self, workers: int = 0) -> Dataset:
        """Read all examples."""
        self.check_split()
        report = LoadReport(self.on_error)
        named = self._arrays.get("classes")
        classes = None if named is None else tuple(map(str, named.tolist()))
        sets = self._sets
        if sets:
            count = next(iter(sets.values())).shape[1]
            classes = tuple(map(str, range(count))) if classes is None else classes
            if len(classes) != count:
                raise DataError(
                    f"{self.path}: expected {count} classes, one for each column of candidates, "
                    f"got {len(classes)}"
                )
        inputs, test = [], []
        for part, (array, _) in self._parts.items():
            inputs.append(array)
            test += [part == "_test"] * len(array)
        tables = [array for name, array in self._arrays.items() if name.startswith("x")]
        if any(array.dtype.kind in "iu" and array.ndim == 2 for array in tables):
            report.note(
                "inputs are whole numbers: they are standardised as features, not taken as ids of "
                "tokens or categories"
            )
        read = {"classes", *(f"{letter}{part}" for part in self._parts for letter in "xy")}
        unread = sorted(name for ours, name in self._names.items() if ours not in read)
        if unread:
            report.note(f"arrays that are not read: {', '.join(unread)}")
        numbers, names = self._encode(classes, report)
        kept = self._finite(numbers >= 0, report)
        whole, is_test = torch.cat(inputs)[kept], torch.tensor(test)[kept]
        own = self._candidates(numbers, len(names))[kept] if sets else None
        numbers = numbers[kept]
        if not self.has_test_set:
            is_test = self.split_test_set(numbers, report)
        train, tests = (Examples(whole[i], numbers[i]) for i in (~is_test, is_test))
        if own is not None:
            train = dataclasses.replace(train, targets=own[~is_test])
            tests = dataclasses.replace(tests, targets=several(own[is_test]))
        if len(set(train.mentioned().tolist())) < 2 or not len(tests):
            raise DataError(
                f"{self.path}: expected training examples of at least two classes and test "
                f"examples, got {len(train)} and {len(tests)} of classes "
                f"{sorted(set(numbers.tolist()))}"
            )
        note_empty(train.mentioned(), names, "training examples", report)
        statistics = channel_statistics if whole.ndim == 4 else feature_statistics
        return Dataset(
            train,
            tests,
            names,
            *statistics(train.tensor()),
            notes=report.notes(),
            skipped=tuple(report.skipped),
            test_is_given=not self.has_test_set or f"{LABEL_BEFORE}_test" in self._arrays,
        )

    def digest(self) -> str:
        """Return a hash of the file's contents."""
        return file_digest(self.path)

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        return read_archive(self.path)

    @cached_property
    def _names(self) -> dict[str, str]:
        """The file's names of arrays by ours."""
        names: dict[str, str] = {}
        for name in self._arrays:
            ours = PUBLISHED.get(name, name)
            if ours in names:
                raise DataError(f"{self.path}: expected {names[ours]} or {name}, got both")
            names[ours] = name
        if "x_train" in names and not {"x_test", "y_test"} & {*names}:
            for letter in "xy":
                if f"{letter}_val" in names:
                    names[f"{letter}_test"] = names.pop(f"{letter}_val")
        return names

    @cached_property
    def _parts(self) -> dict[str, tuple[Tensor, list[object]]]:
        """Inputs and labels by the ending of their names: "", or "_train" and "_test".

        A part of sets has no labels.
        """
        there = {ours: self._arrays[name] for ours, name in self._names.items()}
        endings = ("_train", "_test") if "x_train" in there else ("",)
        for name in [f"{letter}{ending}" for ending in endings for letter in "xy"]:
            if name not in there:
                raise DataError(
                    f"{self.path}: expected arrays x and y, or x_train, y_train, x_test and "
                    f"y_test, got {', '.join(there) or 'none'}: numpy.savez({self.path.name!r}, "
                    f"x=..., y=...) writes such a file"
                )
        parts: dict[str, tuple[Tensor, list[object]]] = {}
        for ending in endings:
            x, y = there[f"x{ending}"], there[f"y{ending}"]
            if x.ndim == 0 or not x.size:
                raise DataError(
                    f"{self.path}: x{ending}: expected examples, got an array of shape {x.shape}"
                )
            if y.ndim == 2 and y.shape[1] == 1:
                # As Keras and MedMNIST have them.
                y = y[:, 0]
            inputs = read_inputs(x, f"{self.path}: x{ending}")
            if _are_sets(y) and len(y) == len(x):
                parts[ending] = inputs, []
                continue
            if y.ndim != 1 or y.dtype.kind not in "biufUSM" or len(y) != len(x):
                raise DataError(
                    f"{self.path}: y{ending}: expected {len(x)} class numbers or names, one per "
                    f"row of x{ending}, got shape {y.shape} of {y.dtype}"
                )
            parts[ending] = inputs, _plain(y)
        shapes = {name: tuple(inputs.shape[1:]) for name, (inputs, _) in parts.items()}
        if len(set(shapes.values())) > 1:
            raise DataError(
                f"{self.path}: expected test inputs of the training inputs' shape "
                f"{shapes['_train']}, got {shapes['_test']}"
            )
        return parts

    @cached_property
    def _sets(self) -> dict[str, Tensor]:
        """The sets of candidates of each part that has such, by the ending of its name."""
        given = {part: self._arrays[self._names[f"y{part}"]] for part in self._parts}
        sets = {part: torch.from_numpy(y) for part, y in given.items() if _are_sets(y)}
        if len({each.shape[1] for each in sets.values()}) > 1:
            raise DataError(f"{self.path}: expected candidates of as many classes in both parts")
        return sets

    def _encode(
        self, classes: tuple[str, ...] | None, report: LoadReport
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Return each row's class number, -1 where it has none, and the class names."""
        labels = [
            (f"{self.path}: y{part}: row {row}", value)
            for part, (_, given) in self._parts.items()
            for row, value in enumerate(given)
        ]
        numbers, names, sound = encode_labels(
            [value for _, value in labels], [p for p, _ in labels], classes, report, self.labels
        )
        plain = torch.full((len(labels),), -1).masked_scatter(sound, numbers)
        found = []
        for part, (_, given) in self._parts.items():
            if part in self._sets:
                sets = self._sets[part]
                empty = ~sets.any(1)
                for row in empty.nonzero().squeeze(1).tolist():
                    report.reject(
                        f"{self.path}: y{part}: row {row}",
                        "expected a label among the candidates, got none",
                    )
                # Of each set the first candidate stands for it where one label is wanted.
                found.append(sets.int().argmax(1).masked_fill(empty, -1))
            else:
                found.append(plain[: len(given)])
                plain = plain[len(given) :]
        return torch.cat(found), names

    def _candidates(self, numbers: Tensor, count: int) -> Tensor:
        """Return the sets of all rows: in a part of labels those of the label alone.

        Args:
            numbers: Each row's class number, -1 where it has none.
            count: How many classes there are.
        """
        sizes = [len(inputs) for inputs, _ in self._parts.values()]
        # What has no class goes to one of its own.
        alone = torch.nn.functional.one_hot(numbers.where(numbers >= 0, count), count + 1)
        parts = alone[:, :count].bool().split_with_sizes(sizes)
        return torch.cat(
            [self._sets.get(part, own) for part, own in zip(self._parts, parts, strict=True)]
        )

    def _finite(self, sound: Tensor, report: LoadReport) -> Tensor:
        """Return which of the rows that are sound have finite inputs."""
        parts = sound.split_with_sizes([len(inputs) for inputs, _ in self._parts.values()])
        flags = []
        for (part, (inputs, _)), own in zip(self._parts.items(), parts, strict=True):
            finite = inputs.flatten(1).isfinite().all(1)
            for row in (own & ~finite).nonzero().squeeze(1).tolist():
                report.reject(
                    f"{self.path}: x{part}: row {row}", "expected finite numbers, got NaN or inf"
                )
            flags.append(own & finite)
        return torch.cat(flags)


PUBLISHED = {
    f"{part}_{kind}": f"{letter}_{part}"
    for part in ("train", "val", "test")
    for kind, letter in (("images", "x"), ("labels", "y"))
}
"""MedMNIST's names of arrays, and ours."""


def read_inputs(x: np.ndarray[Any, Any], place: str) -> Tensor:
    """Bring an array to the layout of inputs.

    Args:
        x: uint8 images of shape (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W), or numbers of
            shape (N, D).
        place: Where it is, for messages.

    Returns:
        uint8 of shape (N, 1 or 3, H, W), or float32 of shape (N, D).

    Raises:
        DataError: It is neither.
    """
    if x.ndim == 2 and x.dtype.kind in "fiub":
        return torch.from_numpy(x.astype(np.float32))
    if x.dtype == np.uint8 and x.ndim == 3:
        return torch.from_numpy(x).unsqueeze(1)
    if x.dtype == np.uint8 and x.ndim == 4 and x.shape[3] in (1, 3):
        return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
    if x.dtype == np.uint8 and x.ndim == 4 and x.shape[1] in (1, 3):
        return torch.from_numpy(x)
    raise DataError(
        f"{place}: expected uint8 images of 1 or 3 channels or numbers of shape (N, D), got shape "
        f"{x.shape} of {x.dtype}"
    )


def _are_sets(y: np.ndarray[Any, Any]) -> bool:
    return y.ndim == 2 and y.shape[1] > 1 and y.dtype == bool


def _plain(labels: np.ndarray[Any, Any]) -> list[object]:
    """Return labels as Python values; times as text, which alone holds all of their digits."""
    values: list[object] = labels.tolist()
    if labels.dtype.kind == "M":
        texts = np.datetime_as_string(labels).tolist()
        values = [None if text == "NaT" else text for text in texts]
    return values


def feature_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Compute each feature's mean and standard deviation.

    Args:
        features: Of shape (N, D).

    Returns:
        Mean and standard deviation, float32, each of shape (D); a constant feature has standard
        deviation 1.

    Example:
        >>> feature_statistics(torch.tensor([[0.0, 7.0], [4.0, 7.0]]))
        (tensor([2., 7.]), tensor([2., 1.]))
    """
    std, mean = torch.std_mean(features.double(), 0, correction=0)
    return mean.float(), std.masked_fill(std == 0, 1).float()


SOURCES: dict[str, type[Source]] = {
    "digits": Digits,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "animal10n": Animal10N,
    "webvision": WebVision,
    "folder": Folder,
    "table": Table,
    "parquet": Parquet,
    "arrays": Arrays,
    "text": Text,
}

ALIASES = {"hf": "parquet"}
"""Other names of sources: what they stand for is one source with one identity."""
