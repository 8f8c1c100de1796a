"""What both forms of an augmentation share: the ranges of their parameters, and the checks."""

import torch
from torch import Tensor

from noisylabels.errors import ConfigError, check_range, unknown

Jitter = tuple[float, float, float, float]
"""Strengths of brightness, contrast, saturation and hue."""
UNCHANGED: Jitter = (0.0, 0.0, 0.0, 0.0)
ADJUSTMENTS = ("brightness", "contrast", "saturation", "hue")
"""What a jitter changes, in the order of its strengths."""
MAGNITUDES = 31
"""Levels of strength of RandAugment, from 0 to 30."""


def height_and_width(images: Tensor) -> tuple[int, int]:
    """Return the height and the width of an image or of a batch of images."""
    return images.shape[-2], images.shape[-1]


def check_images(images: Tensor) -> None:
    """Refuse what is no batch of uint8 images."""
    if images.ndim != 4 or images.dtype is not torch.uint8:
        raise ConfigError(
            f"images must be uint8 of shape (N, channels, height, width), got {images.dtype} of "
            f"shape {tuple(images.shape)}"
        )


def check_colours(images: Tensor) -> None:
    """Refuse images, of shape (N, channels, height, width), that are neither gray nor RGB."""
    if images.shape[1] not in (1, 3):
        raise ConfigError(f"images must have 1 or 3 channels, got {images.shape[1]}")


def check_size(size: tuple[int, int]) -> None:
    """Refuse a size that is not a height and a width of at least one pixel."""
    if len(size) != 2:
        raise ConfigError(f"size must be a height and a width, got {size!r}")
    check_range("size[0]", size[0], low=1)
    check_range("size[1]", size[1], low=1)


def check_crop_flip(
    size: tuple[int, int], padding: int, mode: str, cutout: int, jitter: Jitter
) -> None:
    """Refuse parameters of ``crop-flip`` that do not fit images of this size."""
    if mode not in ("constant", "reflect"):
        raise ConfigError(unknown("mode", mode, ("constant", "reflect")))
    check_range("padding", padding, high=max(size) if mode == "constant" else min(size) - 1)
    check_range("cutout", cutout)
    check_jitter(jitter)


def check_randaugment(num_ops: int, magnitude: int) -> None:
    """Refuse parameters of ``randaugment`` that are out of their range."""
    check_range("num_ops", num_ops)
    check_range("magnitude", magnitude, high=MAGNITUDES - 1)


def check_resized_crop(
    scale: tuple[float, float], ratio: tuple[float, float], jitter: Jitter
) -> None:
    """Refuse parameters of ``resized-crop`` that are out of their range."""
    check_range("scale[0]", scale[0], high=1.0, open=True)
    check_range("scale[1]", scale[1], low=scale[0], high=1.0)
    check_range("ratio[0]", ratio[0], open=True)
    check_range("ratio[1]", ratio[1], low=ratio[0])
    check_jitter(jitter)


def check_jitter(strengths: Jitter) -> None:
    """Refuse anything but four strengths in their ranges."""
    if len(strengths) != len(ADJUSTMENTS):
        raise ConfigError(
            f"jitter must be the four strengths of {', '.join(ADJUSTMENTS)}, got {strengths!r}"
        )
    for name, strength in zip(ADJUSTMENTS, strengths, strict=True):
        check_range(f"jitter: {name}", strength, high=0.5 if name == "hue" else float("inf"))
