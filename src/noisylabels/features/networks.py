"""Pretrained networks for images, from timm and torchvision."""

import functools
import importlib.metadata
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from noisylabels.data.decoding import decode_for
from noisylabels.data.digests import file_digest, tensors_digest
from noisylabels.data.examples import Dataset, Examples, StreamedImages
from noisylabels.data.images import LARGE
from noisylabels.data.source import Facts
from noisylabels.errors import (
    ConfigError,
    DataError,
    MissingExtraError,
    check_range,
    unknown,
)
from noisylabels.features.base import Compute, Features, Meter
from noisylabels.features.cache import is_kept, keep
from noisylabels.features.folding import fold_batch_norms
from noisylabels.features.hub import without_retries
from noisylabels.features.reduction import Dimensions, reduced

BATCH = 64
LEAST_SIZE = 16
Size = Annotated[int, Field(ge=LEAST_SIZE)]


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier.

    Args:
        network: ``(N, 3, size, size) -> (N, D)``.
        width: D.
        size: Side of the images that it was trained on.
        mean: What is subtracted from each channel, of values in [0, 1].
        std: What each channel is divided by then.
    """

    network: nn.Module
    width: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Make(ABC):
    """Builds a backbone of a library.

    Args:
        model: Its name there.
        weights: A file of its weights; None for published ones.

    Attributes:
        library: What the library is called.
        extra: What installs it.
    """

    library: ClassVar[str]
    extra: ClassVar[str]
    model: str
    weights: Path | None

    @abstractmethod
    def __call__(self, filled: bool) -> Backbone:
        """Build it, with its weights or without."""

    def identity(self) -> dict[str, Any]:
        """Return all that the backbone depends on, plain values.

        Raises:
            DataError: The file of weights cannot be read.
            MissingExtraError: The library is not installed.
        """
        try:
            version = importlib.metadata.version(self.library)
        except importlib.metadata.PackageNotFoundError as error:
            raise MissingExtraError(self.library, self.extra) from error
        digest = None if self.weights is None else file_digest(self.weights)
        return asdict(self) | {"library": self.library, "version": version, "weights": digest}


@functools.cache
def _check(make: Make, size: int | None) -> None:
    """Try a network once: neither a study of a hundred runs nor the next run waits for it again."""
    identity = {"part": "checked network", "size": size, **make.identity()}
    if is_kept(identity):
        return
    name = make.model
    backbone = make(True)
    side = size or backbone.size
    try:
        with torch.no_grad():
            vectors = backbone.network.eval()(torch.zeros(1, 3, side, side))
    except Exception as error:  # many networks take one size only, and say so in their own way
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{name!r} fails on images of {side}x{side} pixels ({reason:.200}); its own are "
            f"{backbone.size}x{backbone.size}"
        ) from error
    if not isinstance(vectors, Tensor) or vectors.shape != (1, backbone.width):
        got = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        raise ConfigError(f"{name!r}: expected a vector of {backbone.width} numbers, got {got}")
    keep(identity, {"width": torch.tensor(backbone.width)})


class NetworkFeatures(Features):
    """The last layer of a pretrained network before its classifier.

    Args:
        facts: The source's facts.
        make: Builds it, with its weights or without.
        size: Side that images are resized to; that of the network's own training by default.
        freeze: Whether it stays as it is.
        backbone_lr: Factor on its learning rate where it does not.

    Raises:
        ConfigError: The inputs are no images, or ``backbone_lr`` is out of its range.
    """

    def __init__(
        self,
        facts: Facts,
        make: Make,
        *,
        size: int | None,
        freeze: bool,
        backbone_lr: float,
    ) -> None:
        if not facts.images:
            raise ConfigError(f"{make.model!r} is a network for images, and the data has none")
        check_range("backbone_lr", backbone_lr)
        self.freeze = freeze
        self._make = make
        self._size = size
        self._backbone_lr = backbone_lr
        self._highest = facts.highest

    def check(self) -> None:
        """Refuse a network that there is none of, or weights or a size that do not fit."""
        _check(self._make, self._size)

    def weights_digest(self) -> str | None:
        """Return the digest of published weights."""
        if self._make.weights is not None or not self.freeze:
            return None
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        return tensors_digest(self._make(True).network.state_dict())

    def extract(
        self, parts: Mapping[str, Examples], train: Examples, compute: Compute
    ) -> dict[str, Tensor]:
        """Compute the vectors in the fast precision, batch by batch."""
        network = self.module()
        precision = compute.precision(network, compute.device)
        layout = compute.memory_format(network, precision)
        network.eval()
        # Any generator of the user's own goes on as if nothing was.
        noise = torch.randn(1, 3, network.size, network.size, generator=torch.Generator())
        fold_batch_norms(network.network, noise)
        network = network.to(compute.device).to(memory_format=layout)
        side = min(train.shape[-2:])
        if LARGE <= side < network.size:
            compute.say(
                f"images are read at a side of {side} and enlarged to {network.size} for "
                f"{self._make.model}: if they are larger, set data.size = {network.size}"
            )
        total = sum(map(len, parts.values()))
        meter = Meter(total, "images", compute.say)
        vectors = {}
        with torch.inference_mode(), _autocast(compute.device, precision):
            for part, examples in parts.items():
                rows = []
                for images in batches(examples, compute):
                    given = images.to(compute.device, memory_format=layout, non_blocking=True)
                    rows.append(network(given).float().cpu())
                    meter.add(len(images))
                vectors[part] = torch.cat(rows) if rows else torch.zeros(0, network.width)
        meter.end()
        return vectors

    def module(self, *, filled: bool = True) -> "Preprocessed":
        """Build the network with what its images go through first."""
        backbone = self._make(filled)
        return Preprocessed(backbone, self._size or backbone.size, self._highest)

    def network(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        head: Callable[..., nn.Module],
        *,
        filled: bool = True,
    ) -> nn.Module:
        """Build the network, its images resized, and a head over its vectors."""
        backbone = self._make(filled)
        for parameter in backbone.network.parameters():
            # Read where the optimiser is made.
            parameter.lr_factor = self._backbone_lr  # type: ignore[attr-defined]
        resized = Resized(backbone.network, self._size or backbone.size)
        return nn.Sequential(resized, head((backbone.width,), num_classes))

    def normalisation(self, dataset: Dataset) -> tuple[Tensor, Tensor]:
        """Return what the network was trained with, in pixel units, not the dataset's own."""
        backbone = self._make(False)
        channels = len(dataset.mean)
        mean, std = (torch.tensor(values[:channels]) for values in (backbone.mean, backbone.std))
        return self._highest * mean, self._highest * std


class Resized(nn.Module):
    """A network whose images are made RGB, and resized first.

    Args:
        network: The network.
        size: Side, in pixels.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Resize images, float of shape (N, 1 or 3, height, width), and run the network."""
        resized = resize(images, self.size).contiguous(memory_format=_layout(images))
        return self.network(resized)  # type: ignore[no-any-return]


class Preprocessed(nn.Module):
    """A network that takes uint8 images of any size.

    Args:
        backbone: The network and what its inputs are normalised with.
        size: Side that images are resized to.
        highest: The value of a white pixel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, size: int, highest: int = 255) -> None:
        super().__init__()
        self.network = backbone.network
        self.width = backbone.width
        self.size = size
        self.highest = highest
        for name in ("mean", "std"):
            values = highest * torch.tensor(getattr(backbone, name))
            self.register_buffer(name, values.reshape(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Resize and normalise uint8 images (N, 1 or 3, height, width), and run the network."""
        # A kernel that resizes plane by plane takes half the time of one that goes pixel by pixel.
        resized = resize(images.contiguous().float(), self.size)
        # As Pillow has it: overshoots of the bicubic kernel are no colours. In place: to allocate
        # memory for each step takes longer than the arithmetic.
        normalised = resized.clamp(0, self.highest).sub_(self.mean).div_(self.std)
        # Convolutions that have to turn them by themselves take a tenth longer.
        turned = normalised.contiguous(memory_format=_layout(images))
        return self.network(turned)  # type: ignore[no-any-return]


def _layout(images: Tensor) -> torch.memory_format:
    """Return the memory format that images are in."""
    last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def resize(images: Tensor, size: int) -> Tensor:
    """Resize images as Pillow's bicubic filter does, gray ones made RGB.

    Args:
        images: float32, of shape (N, 1 or 3, height, width).
        size: Side, in pixels.

    Returns:
        float32, of shape (N, 3, size, size).
    """
    if images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    with torch.autocast(images.device.type, enabled=False):
        if images.is_cpu and max(height, width) < size:
            # Where a line is short, its products are several times faster than the kernel.
            return _weights(height, size) @ (images.float() @ _weights(width, size).T)
        return _interpolate(images.float(), size, size)


def _interpolate(images: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(
        images, (height, width), mode="bicubic", antialias=True, align_corners=False
    )


@functools.lru_cache(16)
def _weights(given: int, wanted: int) -> Tensor:
    """Return how much of each of ``given`` pixels is in each of ``wanted``, a row for each."""
    with torch.inference_mode(False), torch.no_grad():
        return _interpolate(torch.eye(given)[None, None], wanted, given)[0, 0]


def batches(examples: Examples, compute: Compute) -> Iterator[Tensor]:
    """Yield images in order, in batches.

    Args:
        examples: The examples.
        compute: How many processes decode them, where they stream, and for which device.

    Yields:
        uint8, of shape (n, channels, height, width).

    Raises:
        DataError: An image cannot be decoded.
    """
    inputs = examples.inputs
    if isinstance(inputs, StreamedImages):
        batch: list[Tensor] = []
        for position, image, _ in decode_for(
            compute.device, inputs.encoded, inputs.spec, compute.workers
        ):
            if isinstance(image, str):
                raise DataError(f"{inputs.encoded.place(position)}: {image}")
            batch.append(image)
            if len(batch) == BATCH:
                yield torch.stack(batch)
                batch = []
        if batch:
            yield torch.stack(batch)
    else:
        images = examples.tensor()
        yield from torch.split(images, BATCH) if len(images) else ()


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def check_timm_model(model: str) -> None:
    """Refuse a network that timm does not have.

    Args:
        model: Its name there, or a repository on its hub.

    Raises:
        ConfigError: There is none of that name.
        MissingExtraError: timm is not installed.
    """
    try:
        import timm as library
    except ImportError as error:
        raise MissingExtraError("timm", "features") from error
    known = library.list_models()
    if model.partition(".")[0] not in known and "/" not in model:
        raise ConfigError(unknown("model of timm", model, known))


@dataclass(frozen=True)
class Timm(Make):
    """Builds a network of timm."""

    library, extra = "timm", "features"

    def __call__(self, filled: bool) -> Backbone:
        """Build it."""
        check_timm_model(self.model)
        import timm as library

        hub = filled and self.weights is None

        def build() -> nn.Module:
            with without_retries() if hub else nullcontext():
                return library.create_model(self.model, pretrained=hub, num_classes=0)

        network = _built(build, self.model, hub)
        if filled and self.weights is not None:
            load_weights(network, self.weights, self.model)
        preset = network.pretrained_cfg
        return Backbone(
            network,
            # Of some networks a layer comes after what timm calls their features.
            getattr(network, "head_hidden_size", None) or network.num_features,
            preset["input_size"][-1],
            tuple(preset["mean"]),
            tuple(preset["std"]),
        )


@dataclass(frozen=True)
class Torchvision(Make):
    """Builds a network of torchvision.

    Args:
        tag: The name of its published weights.
    """

    library, extra = "torchvision", "train"
    tag: str

    def __call__(self, filled: bool) -> Backbone:
        """Build it."""
        from torchvision import models as library

        known = library.list_models(module=library)
        if self.model not in known:
            raise ConfigError(unknown("model of torchvision", self.model, known))
        published: Any = library.get_model_weights(self.model)
        if self.tag not in published.__members__:
            raise ConfigError(
                unknown(f"weights of {self.model!r}", self.tag, published.__members__)
            )
        hub = filled and self.weights is None
        chosen = published[self.tag]
        network = _built(
            lambda: library.get_model(self.model, weights=chosen if hub else None),
            self.model,
            hub,
        )
        width = _behead(network, self.model)
        if filled and self.weights is not None:
            load_weights(network, self.weights, self.model)
        preset = chosen.transforms()
        return Backbone(network, width, preset.crop_size[0], tuple(preset.mean), tuple(preset.std))


def timm(
    facts: Facts,
    *,
    model: str,
    weights: Path | None = None,
    size: Size | None = None,
    dimensions: Dimensions | None = None,
    freeze: bool = True,
    backbone_lr: float = 0.1,
) -> Features:
    """Make features of a network of timm.

    Args:
        facts: The source's facts.
        model: Its name there, such as ``"tf_efficientnet_lite0"``.
        weights: A local file of its weights, ``.safetensors``, or ``.pth`` without pickled code; by
            default those of timm's hub, which are downloaded.
        size: Side that images are resized to, at least 16; that of its training by default.
        dimensions: Length that vectors are reduced to by their principal components, which are
            learnt from the training images; at least 2. By default they are left as they are.
        freeze: Whether it stays as it is: then its vectors are computed once, and the model is a
            head over them. Otherwise it is fine-tuned.
        backbone_lr: Factor on the learning rate where it is fine-tuned, at least 0.

    Raises:
        ConfigError: The data has no images, or ``dimensions`` is given for what is fine-tuned.
    """
    make = Timm(model, weights)
    whole = NetworkFeatures(facts, make, size=size, freeze=freeze, backbone_lr=backbone_lr)
    return reduced(whole, dimensions)


def torchvision(
    facts: Facts,
    *,
    model: str,
    weights: Path | None = None,
    tag: str = "DEFAULT",
    size: Size | None = None,
    dimensions: Dimensions | None = None,
    freeze: bool = True,
    backbone_lr: float = 0.1,
) -> Features:
    """Make features of a classifier of torchvision.

    Args:
        facts: The source's facts.
        model: Its name there, such as ``"resnet50"``.
        weights: A local file of its weights, ``.safetensors``, or ``.pth`` without pickled code; by
            default those that ``tag`` names, which are downloaded.
        tag: The name of its published weights, such as ``"IMAGENET1K_V2"``.
        size: Side that images are resized to, at least 16; that of its training by default.
        dimensions: Length that vectors are reduced to by their principal components, which are
            learnt from the training images; at least 2. By default they are left as they are.
        freeze: As for :func:`timm`.
        backbone_lr: As for :func:`timm`.

    Raises:
        ConfigError: The data has no images, or ``dimensions`` is given for what is fine-tuned.
    """
    make = Torchvision(model, weights, tag)
    whole = NetworkFeatures(facts, make, size=size, freeze=freeze, backbone_lr=backbone_lr)
    return reduced(whole, dimensions)


def _built(make: Callable[[], Any], model: str, hub: bool) -> Any:
    """Build a library's network; where its weights are downloaded, that can fail in any way."""
    try:
        return make()
    except Exception as error:
        source = "its weights cannot be downloaded" if hub else "cannot be built"
        hint = "; weights = FILE takes a local file" if hub else ""
        raise ConfigError(f"{model!r}: {source} ({type(error).__name__}: {error}){hint}") from error


def _behead(network: nn.Module, model: str) -> int:
    """Replace a classifier's last linear layer, and return how many numbers it was given."""
    linear = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise ConfigError(f"{model!r} has no linear layer in the end")
    name, last = linear[-1]
    parent, _, attribute = name.rpartition(".")
    owner = network.get_submodule(parent)
    setattr(owner, attribute, nn.Identity())
    return last.in_features


COUNT = "num_batches_tracked"
"""What batch normalisation calls how many batches it has seen."""


def load_weights(network: nn.Module, path: Path, model: str) -> None:
    """Load weights from a file into a network that has no classifier.

    Args:
        network: The network.
        path: ``.safetensors``, or what ``torch.save`` wrote of a state dict.
        model: What it is called, for messages.

    Raises:
        ConfigError: The file cannot be read without unpickling code, or does not fit.
    """
    found = read_weights(path)
    own = network.state_dict()
    # As saved by training in parallel, or within a checkpoint.
    found = {name.removeprefix("module."): value for name, value in found.items()}
    # A count of batches, which files of before torch 0.4.1 lack, says nothing in evaluation.
    found = {name: own[name] for name in own if name.endswith(COUNT)} | found
    missing = [name for name in own if name not in found]
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in found and found[name].shape != value.shape
    ]
    if missing or shapes:
        reason = f"no {missing[0]} in it" if missing else shapes[0]
        raise ConfigError(f"{path}: weights of another network than {model!r} ({reason})")
    # What else is in it is the classifier's.
    network.load_state_dict({name: found[name] for name in own})


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read named tensors.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote.

    Returns:
        The tensors; of a checkpoint those below ``state_dict`` or ``model``.

    Raises:
        ConfigError: It cannot be read without unpickling code.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            # Of another protocol than its own, which is no news to whom it is refused.
            warnings.simplefilter("ignore", UserWarning)
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any kind of damage, or pickled code
        reason = str(error).partition("\n")[0]
        # torch advises to unpickle the code, and says a number for a file that is none of its own.
        silent = isinstance(error, UnpicklingError) or reason.strip("'").isdecimal()
        said = "" if silent else f" ({reason})"
        raise ConfigError(f"{path}: expected weights, without pickled code{said}") from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ConfigError(f"{path}: expected named tensors, got {type(found).__name__}")
    return dict(found)
