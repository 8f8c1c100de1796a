"""What a source of data is, and what all sources of image files share."""

import dataclasses
import hashlib
import math
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
from noisylabels.data.digests import tree_digest
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
from noisylabels.data.images import SMALL, Header, ImageSpec, choose_image_spec, peek
from noisylabels.data.label_encoding import note_empty, several
from noisylabels.errors import ConfigError, DataError, check_range

PEEKED = 100
SAMPLED = 1024
TEST_SHARE = 0.2
"""Default share of the examples that become the test set."""
MEMORY_BUDGET = 2**31
"""Default limit, in bytes, on decoded images held in memory."""


class Facts(NamedTuple):
    """What is known of a source before any example is read.

    Args:
        shape: Shape of one input: (channels, height, width) of images, (D,) of features, () of
            texts.
        images: Whether inputs are images.
        class_map: The class map of asymmetric noise, see ``noisylabels.noise``; None where only the
            user can know it.
        highest: The value of a white pixel.
    """

    shape: tuple[int, ...]
    images: bool
    class_map: str | None = None
    highest: int = 255

    @property
    def texts(self) -> bool:
        """Whether inputs are texts."""
        return not self.shape


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Where a dataset comes from: a frozen dataclass whose fields are the user's options.

    A source of your own is a subclass, and a dataclass too, with :meth:`load` and :meth:`facts`.
    What a run's results depend on is taken from its fields, unless it says better:
    :meth:`identity` from those that are no paths, :meth:`digest` from what the paths hold.

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
        """Return what is known of the inputs and classes without reading every example."""

    def image_spec(self) -> ImageSpec | None:
        """Return what an image file becomes before it is such an input; None if it never does.

        A trained classifier decodes the images of its users so.
        """
        return None

    def identity(self) -> dict[str, Any]:
        """Return the options that affect the examples, as plain values.

        Paths are left out: where the data lies does not matter, and :meth:`digest` covers what it
        holds.

        Returns:
            The fields that differ from their defaults, without paths.
        """
        return {
            field.name: value
            for field in dataclasses.fields(self)
            if not isinstance(value := getattr(self, field.name), Path) and value != _default(field)
        }

    def digest(self) -> str:
        """Return a hash of the contents, the same wherever they lie.

        Returns:
            The hash of what the fields that are paths lead to, files or whole folders; "" if there
            are none, for then the name of the source alone fixes its contents.

        Raises:
            DataError: Something there is missing or cannot be read.
        """
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return "\n".join(
            f"{name} {tree_digest(value)}" for name, value in values if isinstance(value, Path)
        )


def check_source(made: object, name: str) -> Source:
    """Return what a component of the configuration made if it is a source, else raise.

    Args:
        made: What calling the component's target returned.
        name: The component's name, such as ``"my_module:MySource"``.

    Raises:
        ConfigError: It is no :class:`Source`, or its class is not a dataclass itself: the base
            class's fields would hide its own.
    """
    if isinstance(made, Source):
        if "__dataclass_fields__" in vars(type(made)):
            return made
        raise ConfigError(
            f"data: expected @dataclass(frozen=True, kw_only=True) on the class {name!r} itself, "
            f"not only on the one that it is a subclass of"
        )
    raise ConfigError(
        f"data: expected {name!r} to be a subclass of noisylabels.data.source.Source with "
        f"@dataclass(frozen=True, kw_only=True), got {type(made).__name__}"
    )


@dataclass(frozen=True, kw_only=True)
class FileSource(Source):
    """A source of files that can have bad rows.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        on_error: ``"raise"`` stops at the first bad row; ``"skip"`` leaves bad rows out, counts
            them and lists them in the run folder.
    """

    on_error: OnError = "raise"

    @property
    @abstractmethod
    def where(self) -> Path:
        """The folder or file that the source is, for messages."""


@dataclass(frozen=True, kw_only=True)
class SplittableSource(FileSource):
    """A source whose files may lack a test set, which is then split off the training examples.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        on_error: ``"raise"`` stops at the first bad row; ``"skip"`` leaves bad rows out, counts
            them and lists them in the run folder.
        test_share: Share of the examples that become the test set, in (0, 1), stratified by label;
            0.2 by default. Only where no test set is given.
        split_seed: Seed of that split, at least 0; 0 by default. Only where no test set is given.
    """

    test_share: float | None = None
    split_seed: int | None = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ConfigError: A value is out of its range.
        """
        super().__post_init__()
        if self.test_share is not None and not 0 < self.test_share < 1:
            raise ConfigError(f"test_share must be in (0, 1), got {self.test_share!r}")
        if self.split_seed is not None:
            check_range("split_seed", self.split_seed, high=2**63 - 1)

    @property
    @abstractmethod
    def has_test_set(self) -> bool:
        """Whether a test set is given."""

    def identity(self) -> dict[str, Any]:
        """Return the options that affect the examples, as plain values.

        How the test set was split off is among them where it was.
        """
        self.check_split()
        split = {} if self.has_test_set else self._split_options()
        return super().identity() | split

    def check_split(self) -> None:
        """Refuse options of a split that is not made.

        Raises:
            ConfigError: A test set is given, and so is an option of splitting one off.
        """
        for name in ("test_share", "split_seed"):
            value = getattr(self, name)
            if self.has_test_set and value is not None:
                raise ConfigError(
                    f"{self.where}: {name} must be left out because the data has a test set, "
                    f"got {value!r}"
                )

    def split_test_set(self, labels: Tensor, report: LoadReport) -> Tensor:
        """Choose the test examples.

        Args:
            labels: int64 in [0, K), of shape (N).
            report: Remembers the split for the user.

        Returns:
            Which examples are test examples, bool, of shape (N).
        """
        options = self._split_options()
        _, chosen = stratified_split(labels, options["test_share"], options["split_seed"])
        test = torch.zeros(len(labels), dtype=torch.bool)
        test[chosen] = True
        report.note(
            f"no test set given: {len(chosen)} of {len(test)} examples were split off "
            f"(stratified, split_seed {options['split_seed']})"
        )
        return test

    def _split_options(self) -> dict[str, Any]:
        share = TEST_SHARE if self.test_share is None else self.test_share
        return {"test_share": share, "split_seed": self.split_seed or 0}


LABEL_BEFORE = "label_before"
"""Column, or beginning of an array's name, of labels as they were before some were put right.

Test examples that have one were split off from those with given labels."""


@dataclass(frozen=True)
class Manifest:
    """The images of a source with their labels, before any image is decoded.

    Args:
        images: Encoded images.
        labels: int64, of shape (N).
        test: Which of them are test examples, bool, of shape (N).
        classes: The K class names.
        report: What was found while listing them.
        test_is_given: Whether the test examples' labels are as noisy as the others: where they were
            split off, for want of a test set, or have a :data:`LABEL_BEFORE`.
        targets: What is learnt in place of the labels, see ``noisylabels.data.examples.Examples``.
    """

    images: EncodedImages
    labels: Tensor
    test: Tensor
    classes: tuple[str, ...]
    report: LoadReport
    test_is_given: bool = False
    targets: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class ImageSource(FileSource):
    """A source of encoded images.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        on_error: ``"raise"`` stops at the first bad row; ``"skip"`` leaves bad rows out, counts
            them and lists them in the run folder.
        size: Side in pixels that images are resized to, at least 1. By default the commonest size
            of 100 spread over them if no side of it is above 96, else 224.
        storage: ``"memory"`` decodes all images once into one tensor; ``"stream"`` decodes them
            anew in every epoch, by worker processes; ``"auto"`` takes memory where they fit into
            ``memory_budget``.
        memory_budget: Bytes of decoded images that ``"auto"`` holds in memory, at least 0; 2 GiB by
            default.
    """

    size: int | None = None
    storage: Literal["auto", "memory", "stream"] = "auto"
    memory_budget: int | None = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ConfigError: A value is out of its range, or would be ignored.
        """
        super().__post_init__()
        if self.size is not None:
            check_range("size", self.size, low=1, high=2**14)
        if self.memory_budget is None:
            return
        check_range("memory_budget", self.memory_budget)
        if self.storage != "auto":
            raise ConfigError(
                f"memory_budget must be left out unless storage is 'auto', got "
                f"{self.memory_budget} with storage = {self.storage!r}"
            )

    @abstractmethod
    def read_manifest(self) -> Manifest:
        """List the images and check their labels.

        Raises:
            DataError: Something is missing or damaged; the message names file and row.
        """

    @cached_property
    def _manifest(self) -> Manifest:
        """The manifest with its final split into training and test examples."""
        return self._listed

    @cached_property
    def _listed(self) -> Manifest:
        manifest = self.read_manifest()
        if not len(manifest.labels):
            raise DataError(f"{self.where}: expected examples, got none that is sound")
        return manifest

    @cached_property
    def _image_spec(self) -> ImageSpec:
        images = self._manifest.images
        headers = [
            header
            # Spread over all of them: the first are often of one class.
            for index in np.linspace(0, len(images) - 1, min(PEEKED, len(images))).astype(int)
            if (header := peek(_readable(images, int(index)))) is not None
        ]
        return choose_image_spec(headers or [Header(3, SMALL + 1, SMALL + 1)], self.size)

    @property
    def _decoded_size(self) -> int:
        return len(self._manifest.images) * math.prod(self._image_spec.shape)

    @property
    def _streams(self) -> bool:
        budget = MEMORY_BUDGET if self.memory_budget is None else self.memory_budget
        return self.storage == "stream" or (self.storage == "auto" and self._decoded_size > budget)

    def facts(self) -> Facts:
        """Return the shape that images are resized to."""
        return Facts(self._image_spec.shape, images=True)

    def image_spec(self) -> ImageSpec:
        """Return what every image is brought to."""
        return self._image_spec

    def load(self, workers: int = 0) -> Dataset:
        """List, check and, where they fit into memory, decode all images."""
        manifest = self._manifest
        report = manifest.report.copy()
        channels, height, width = self._image_spec.shape
        report.note(
            f"{len(manifest.images)} images of {channels}x{height}x{width} "
            f"{'stream from their files' if self._streams else 'in memory'} "
            f'(storage = "{self.storage}", {self._decoded_size / 2**20:.0f} MiB decoded)'
        )
        train, test = (
            self._part(chosen.nonzero().squeeze(1), report, workers)
            for chosen in (~manifest.test, manifest.test)
        )
        test = dataclasses.replace(test, targets=several(test.targets))
        self._check_parts(train, test, manifest.classes, report)
        return Dataset(
            train,
            test,
            manifest.classes,
            *channel_statistics(_sample(train, workers)),
            notes=report.notes(),
            skipped=tuple(report.skipped),
            test_is_given=manifest.test_is_given and not self.clean,
        )

    def identity(self) -> dict[str, Any]:
        """Return the options that affect the examples, as plain values.

        Size and storage are given as resolved: a size that was detected and the same size set as an
        option are the same.
        """
        identity = super().identity()
        for name in ("size", "storage", "memory_budget"):
            identity.pop(name, None)
        storage = "stream" if self._streams else "memory"
        channels, height, width = self._image_spec.shape
        # How deep 16-bit images are, too, follows from the contents.
        resolved = {"storage": storage, "channels": channels, "height": height, "width": width}
        return identity | resolved

    def digest(self) -> str:
        """Return a hash of the names, bytes and labels of all images."""
        manifest = self._manifest
        total = hashlib.sha256(manifest.images.digest().encode())
        total.update(manifest.labels.numpy().tobytes())
        total.update(manifest.test.numpy().tobytes())
        if manifest.targets is not None:
            total.update(manifest.targets.numpy().tobytes())
        total.update("\n".join(manifest.classes).encode(errors="surrogatepass"))
        return total.hexdigest()

    def _part(self, index: Tensor, report: LoadReport, workers: int) -> Examples:
        stream = self._streams
        images, labels = self._manifest.images.take(index.numpy()), self._manifest.labels[index]
        targets = self._manifest.targets
        targets = None if targets is None else targets[index]
        if stream:
            images = images.hold()
        if stream and self.on_error == "raise":
            # The first epoch decodes them all anyway, and stops at one that it cannot decode.
            inputs = StreamedImages(images, self._image_spec)
            return Examples(inputs, labels, images.places(), targets=targets)
        return decode_examples(
            images,
            labels,
            self._image_spec,
            report,
            stream=stream,
            workers=workers,
            targets=targets,
        )

    def _check_parts(
        self, train: Examples, test: Examples, classes: Sequence[str], report: LoadReport
    ) -> None:
        for part, name in ((train, "training"), (test, "test")):
            if not len(part):
                raise DataError(
                    f"{self.where}: expected {name} examples, got none that can be decoded"
                )
        note_empty(train.mentioned(), classes, "training examples", report)
        if len(set(train.mentioned().tolist())) < 2:
            raise DataError(
                f"{self.where}: expected training examples of at least two classes, got "
                f"{len(train)} of {classes[int(train.labels[0])]!r} only"
            )


@dataclass(frozen=True, kw_only=True)
class SplittableImageSource(SplittableSource, ImageSource):
    """A source of encoded images that may lack a test set.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        on_error: As for :class:`ImageSource`.
        test_share: As for :class:`SplittableSource`.
        split_seed: As for :class:`SplittableSource`.
        size: As for :class:`ImageSource`.
        storage: As for :class:`ImageSource`.
        memory_budget: As for :class:`ImageSource`.
    """

    @property
    def has_test_set(self) -> bool:
        """Whether some of the images are listed as test examples."""
        return bool(self._listed.test.any())

    @cached_property
    def _manifest(self) -> Manifest:
        self.check_split()
        listed = self._listed
        if self.has_test_set:
            return listed
        if listed.targets is None and len(set(listed.labels.tolist())) < 2:
            raise DataError(
                f"{self.where}: expected examples of at least two classes, got only "
                f"{listed.classes[int(listed.labels[0])]!r}"
            )
        report = listed.report.copy()
        test = self.split_test_set(listed.labels, report)
        if not bool(test.any()):
            raise DataError(
                f"{self.where}: expected two examples or more of some class, to split a test set "
                f"off, got {len(listed.labels)} of {len(listed.classes)} classes"
            )
        return dataclasses.replace(listed, test=test, report=report, test_is_given=True)


def _default(field: dataclasses.Field[Any]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


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
    streamed = train.inputs
    assert isinstance(streamed, StreamedImages), "an image source has images"
    return decode_examples(
        streamed.encoded.take(index.numpy()),
        train.labels[index],
        streamed.spec,
        LoadReport("raise"),
        stream=False,
        workers=workers,
    ).tensor()
