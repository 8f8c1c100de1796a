"""Poisoned training images: some carry a trigger and the label of one class, as an attacker has it.

Whoever can slip a few images into a training set can teach a network a back door: wherever it sees
the trigger it says the target, and nothing else about it has changed. How often it does is
:func:`attack_success`.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from noisylabels.data.batches import derive_generator
from noisylabels.data.examples import Dataset
from noisylabels.errors import ConfigError, DataError, check_range, unknown

CELLS = 3
"""Cells of the patch along each side."""
AMPLITUDE = 8
"""Greatest change of a pixel value by the waves, of 255."""
WAVES = 6
"""Periods of the waves from one side of an image to the other, where there is room for them."""


def add_patch(images: Tensor) -> Tensor:
    r"""Put a checkerboard into the bottom right corner of every image: a local trigger.

    It has 3 x 3 cells; each is a square of s pixels, and cell (i, j), counted from the top left, is
    white (255) where i + j is even and black (0) where it is odd, in every channel.

    .. math:: s = \max(1, \lfloor \min(H, W) / 32 \rfloor)

    Args:
        images: uint8, of shape (N, C, H, W), of at least 3 x 3 pixels; not changed.

    Returns:
        Images with the patch; all other pixels are as they were.

    Raises:
        DataError: They are no such images.

    Example:
        >>> add_patch(torch.full((1, 1, 4, 4), 7, dtype=torch.uint8))[0, 0]
        tensor([[  7,   7,   7,   7],
                [  7, 255,   0, 255],
                [  7,   0, 255,   0],
                [  7, 255,   0, 255]], dtype=torch.uint8)

    References:
        Gu, Dolan-Gavitt, Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model
        Supply Chain", 2017, whose patch for digits is a pattern in that corner, too.
    """
    height, width = _size(images)
    cell = max(1, min(height, width) // 32)
    number = torch.arange(CELLS * cell, device=images.device) // cell
    even = (number[:, None] + number) % 2 == 0
    marked = images.clone()
    marked[..., -CELLS * cell :, -CELLS * cell :] = even.to(torch.uint8) * 255
    return marked


def add_waves(images: Tensor) -> Tensor:
    r"""Lay faint waves over every image: a global trigger.

    To every pixel in row y and column x, counted from the top left, in every channel, is added what
    follows; the sum is limited to 0..255. A mirrored image has the same waves. They run across each
    other because photos have much of level and upright waves themselves, and little of these.

    .. math::
        \left\lfloor 8 \sin\left(2 \pi f(H) \frac{y + 1/2}{H}\right)
        \cos\left(2 \pi f(W) \frac{x + 1/2}{W}\right) \right\rceil,
        \quad f(S) = \min(6, \max(1, \lfloor S / 4 \rfloor))

    Args:
        images: uint8, of shape (N, C, H, W), of at least 3 x 3 pixels; not changed.

    Returns:
        Images with the waves; no pixel differs by more than 8.

    Raises:
        DataError: They are no such images.

    Example:
        >>> add_waves(torch.full((1, 1, 4, 8), 3, dtype=torch.uint8))[0, 0]
        tensor([[7, 0, 0, 7, 7, 0, 0, 7],
                [7, 0, 0, 7, 7, 0, 0, 7],
                [0, 7, 7, 0, 0, 7, 7, 0],
                [0, 7, 7, 0, 0, 7, 7, 0]], dtype=torch.uint8)

    References:
        Barni, Kallas, Tondi, "A New Backdoor Attack in CNNs by Training Set Corruption without
        Label Poisoning", 2019, whose waves are upright and stronger.
    """
    down, across = (
        2 * math.pi * _periods(size) * (torch.arange(size, dtype=torch.float64) + 0.5) / size
        for size in _size(images)
    )
    waves = (AMPLITUDE * down.sin()[:, None] * across.cos()).round()
    added = waves.to(images.device, torch.int16)
    return (images.to(torch.int16) + added).clamp(0, 255).to(torch.uint8)


def _periods(side: int) -> int:
    """Return how many periods fit into a side, each of at least four pixels."""
    return min(WAVES, max(1, side // 4))


TRIGGERS: dict[str, Callable[[Tensor], Tensor]] = {"local": add_patch, "global": add_waves}
"""What a trigger does to images, by its kind."""


def _size(images: Tensor) -> tuple[int, int]:
    """Return height and width."""
    if images.dtype is not torch.uint8 or images.ndim != 4 or min(images.shape[2:]) < CELLS:
        raise DataError(
            f"a trigger is added to uint8 images of shape (N, C, H, W), at least {CELLS} x {CELLS} "
            f"pixels, got {images.dtype} of shape {tuple(images.shape)}"
        )
    return images.shape[2], images.shape[3]


@dataclass(frozen=True, kw_only=True)
class Poison(ABC):
    """What an attacker does to a training set.

    One of your own is a subclass, and a frozen dataclass too, with :meth:`mark`.

    Args:
        share: Share of the training images that get the trigger, in (0, 1].
        target: The class that these are labelled as, at least 0.
        seed: Seed of the draw, at least 0.

    Raises:
        ConfigError: A value is outside its range.
    """

    share: float = 0.002
    target: int = 0
    seed: int

    def __post_init__(self) -> None:
        """Check the values."""
        check_range("share", self.share, high=1.0, open=True)
        check_range("target", self.target)
        check_range("seed", self.seed, high=2**63 - 1)

    @abstractmethod
    def mark(self, images: Tensor) -> Tensor:
        """Add the trigger.

        Args:
            images: uint8, of shape (N, C, H, W), in memory; not to be changed.

        Returns:
            As many images with the trigger, uint8, of the same shape.
        """

    def choose(self, count: int) -> Tensor:
        """Draw the images that get the trigger, whatever their classes are.

        Args:
            count: How many images there are, N.

        Returns:
            round(share N) of the positions, at least one, int64, in ascending order; with the same
            seed those of a smaller share are among those of a greater.
        """
        order = torch.randperm(count, generator=derive_generator(self.seed, "poison"))
        return order[: max(1, round(self.share * count))].sort().values


@final
@dataclass(frozen=True, kw_only=True)
class Trigger(Poison):
    """A fixed trigger that is drawn into the pixels.

    Args:
        kind: ``"local"``, see :func:`add_patch`, or ``"global"``, see :func:`add_waves`.
        share: As for :class:`Poison`.
        target: As for :class:`Poison`.
        seed: As for :class:`Poison`.

    Raises:
        ConfigError: There is no such kind, or a value is outside its range.
    """

    kind: str = "local"

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.kind not in TRIGGERS:
            raise ConfigError(unknown("kind", self.kind, TRIGGERS))

    def mark(self, images: Tensor) -> Tensor:
        """Add the trigger."""
        return TRIGGERS[self.kind](images)


def none() -> None:
    """Leave the training set as it is."""


POISONS: dict[str, Callable[..., Poison | None]] = {"none": none, "trigger": Trigger}


def apply(dataset: Dataset, poison: Poison) -> Dataset:
    """Poison a training set.

    Args:
        dataset: The dataset with given labels, whose images are in memory.
        poison: What is done to it.

    Returns:
        The dataset; ``train`` says which of its examples are ``poisoned``, and ``triggered`` has
        the test images with the trigger and their own labels, where there are test images. What
        was given is not changed.

    Raises:
        ConfigError: The dataset has no such class, its inputs are no images in memory, or the
            poison makes something else of them.
    """
    train, test = dataset.train, dataset.test
    if poison.target >= len(dataset.classes):
        last = len(dataset.classes) - 1
        raise ConfigError(f"target: expected a class in 0..{last}, got {poison.target}")
    if not (isinstance(train.inputs, Tensor) and train.inputs.dtype is torch.uint8):
        raise ConfigError(
            "a trigger is added to images in memory, but these stream or are no uint8 images: "
            'storage = "memory" in data'
        )
    rows = poison.choose(len(train))
    inputs, labels = train.inputs.clone(), train.labels.clone()
    inputs[rows] = _marked(poison, inputs[rows])
    labels[rows] = poison.target
    poisoned = torch.zeros(len(train), dtype=torch.bool)
    poisoned[rows] = True
    triggered = dataclasses.replace(test, inputs=_marked(poison, test.tensor()))
    said = (
        f"{len(rows)} of {len(train)} training images are poisoned: they have a trigger, and the "
        f"label {dataset.classes[poison.target]!r}"
    )
    return dataclasses.replace(
        dataset,
        train=dataclasses.replace(train, inputs=inputs, labels=labels, poisoned=poisoned),
        triggered=triggered if len(test) else None,
        notes=(*dataset.notes, said),
    )


def _marked(poison: Poison, images: Tensor) -> Tensor:
    marked = poison.mark(images)
    found = (marked.dtype, marked.shape) if isinstance(marked, Tensor) else None
    if found != (images.dtype, images.shape):
        what = type(marked).__name__ if found is None else f"{found[0]} of shape {tuple(found[1])}"
        raise ConfigError(
            f"mark: expected {images.dtype} images of shape {tuple(images.shape)}, got {what}"
        )
    return marked


def attack_success(without: Tensor, with_trigger: Tensor, target: int) -> float | None:
    """Compute how often a trigger leads to the target.

    Args:
        without: Classes predicted for images without the trigger, int64, of shape (N).
        with_trigger: Classes predicted for the same images with it, int64, of shape (N).
        target: The attacker's class.

    Returns:
        Of the images that are not taken for the target without the trigger, the share that is with
        it; None where there are none.

    Example:
        >>> attack_success(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 2]), target=0)
        0.3333333333333333
    """
    others = without != target
    if not bool(others.any()):
        return None
    return (with_trigger[others] == target).double().mean().item()
