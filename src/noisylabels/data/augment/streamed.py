"""Augmentation of one image at a time, for images that stream from files.

The loader's workers call these transforms; they draw from torch's global generator and also resize
every image to one size.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from noisylabels.data.augment.batched import cut_out
from noisylabels.data.augment.parameters import (
    MAGNITUDES,
    UNCHANGED,
    Jitter,
    check_colours,
    check_crop_flip,
    check_randaugment,
    check_resized_crop,
    check_size,
    height_and_width,
)
from noisylabels.errors import ConfigError

Transform = Callable[[Tensor], Tensor]
"""One uint8 image (channels, height, width) to another."""
THIN = 4
"""How many times as long as its crop an image may be when it is resized for it."""


def centre(size: tuple[int, int]) -> Transform:
    """Make the deterministic transform of evaluation: resize and crop at the centre.

    An image is resized, keeping its shape, until it just covers 256/224 of ``size``, and its
    middle is cut out. An image that has the size already stays as it is.

    Args:
        size: Height and width of the result, at least 1.

    Returns:
        A function ``uint8 image (channels, h, w) -> uint8 image (channels, *size)``, which raises
        ConfigError for an image of another shape or dtype.

    Raises:
        ConfigError: ``size`` is out of its range.

    Example:
        >>> centre((32, 32))(torch.zeros(3, 375, 500, dtype=torch.uint8)).shape
        torch.Size([3, 32, 32])
    """
    check_size(size)
    return partial(_centre, size)


def stream_crop_flip(
    size: tuple[int, int],
    *,
    padding: int = 4,
    mode: Literal["constant", "reflect"] = "constant",
    flip: bool = True,
    cutout: int = 0,
    jitter: Jitter = UNCHANGED,
) -> Transform:
    """Make ``crop-flip`` for one image of any size.

    An image of another size goes through :func:`centre` first.

    Args:
        size: Height and width of the result, at least 1.
        padding: As for :func:`.batched.crop_flip`.
        mode: As for :func:`.batched.crop_flip`.
        flip: As for :func:`.batched.crop_flip`.
        cutout: As for :func:`.batched.crop_flip`.
        jitter: As for :func:`.batched.crop_flip`; the order of the four is every image's own.

    Returns:
        A function ``uint8 image (channels, h, w) -> uint8 image (channels, *size)`` that draws
        from torch's global generator.

    Raises:
        ConfigError: A parameter is out of its range.

    Example:
        >>> augment = stream_crop_flip((32, 32), padding=4, cutout=8)
        >>> augment(torch.zeros(3, 40, 50, dtype=torch.uint8)).shape
        torch.Size([3, 32, 32])
    """
    from torchvision.transforms import v2

    check_size(size)
    check_crop_flip(size, padding, mode, cutout, jitter)
    steps = [*_crop_flip_jitter(size, padding, mode, flip, jitter), *_cut_out(cutout)]
    transform: Transform = v2.Compose(steps)
    return transform


def stream_randaugment(
    size: tuple[int, int],
    *,
    num_ops: int = 1,
    magnitude: int = 3,
    padding: int = 4,
    mode: Literal["constant", "reflect"] = "constant",
    flip: bool = True,
    cutout: int = 16,
    jitter: Jitter = UNCHANGED,
) -> Transform:
    """Make ``randaugment`` for one image of any size.

    An image of another size goes through :func:`centre` first.

    Args:
        size: Height and width of the result, at least 1.
        num_ops: As for :func:`.batched.randaugment`.
        magnitude: As for :func:`.batched.randaugment`.
        padding: As for :func:`.batched.crop_flip`.
        mode: As for :func:`.batched.crop_flip`.
        flip: As for :func:`.batched.crop_flip`.
        cutout: As for :func:`.batched.randaugment`.
        jitter: As for :func:`.batched.randaugment`; the order of the four is every image's own.

    Returns:
        A function ``uint8 image (1 or 3, h, w) -> uint8 image (1 or 3, *size)`` that draws from
        torch's global generator.

    Raises:
        ConfigError: A parameter is out of its range.

    Example:
        >>> stream_randaugment((32, 32))(torch.zeros(3, 40, 50, dtype=torch.uint8)).shape
        torch.Size([3, 32, 32])

    References:
        See :func:`.batched.randaugment`.
    """
    from torchvision.transforms import v2

    check_size(size)
    check_randaugment(num_ops, magnitude)
    check_crop_flip(size, padding, mode, cutout, jitter)
    colours = [_checked_colours] if num_ops else []
    transform: Transform = v2.Compose(
        [
            *colours,
            *_crop_flip_jitter(size, padding, mode, flip, jitter),
            v2.RandAugment(num_ops, magnitude, MAGNITUDES),
            *_cut_out(cutout),
        ]
    )
    return transform


def stream_resized_crop(
    size: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
    jitter: Jitter = UNCHANGED,
) -> Transform:
    """Make ``resized-crop`` for one image of any size.

    The box is cut from the image as it is, so it may be made smaller, with anti-aliasing.

    Args:
        size: Height and width of the result, at least 1.
        scale: As for :func:`.batched.resized_crop`.
        ratio: As for :func:`.batched.resized_crop`.
        flip: As for :func:`.batched.resized_crop`.
        jitter: As for :func:`.batched.crop_flip`; the order of the four is every image's own.

    Returns:
        A function ``uint8 image (channels, h, w) -> uint8 image (channels, *size)`` that draws
        from torch's global generator.

    Raises:
        ConfigError: A parameter is out of its range.

    Example:
        >>> stream_resized_crop((32, 32))(torch.zeros(3, 40, 50, dtype=torch.uint8)).shape
        torch.Size([3, 32, 32])

    References:
        See :func:`.batched.resized_crop`.
    """
    from torchvision.transforms import v2

    check_size(size)
    check_resized_crop(scale, ratio, jitter)
    transform: Transform = v2.Compose(
        [
            _checked_image,
            v2.RandomResizedCrop(size, scale=scale, ratio=ratio, antialias=True),
            *_flip_jitter(flip, jitter),
        ]
    )
    return transform


def _centre(size: tuple[int, int], image: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional

    height, width = height_and_width(_checked_image(image))
    if (height, width) == tuple(size):
        return image
    tall, wide = (round(side * 256 / 224) for side in size)
    # Resized as a whole, a thin image would be as long as it is thin.
    longest = math.ceil(THIN * max(tall, wide) / max(tall / height, wide / width))
    if max(height, width) > longest:
        height, width = min(height, longest), min(width, longest)
        image = functional.center_crop(image, [height, width])
    if tall * width >= wide * height:
        resized = [tall, width * tall // height]
    else:
        resized = [height * wide // width, wide]
    covering = functional.resize(image, resized, antialias=True)
    middle: Tensor = functional.center_crop(covering, list(size))
    return middle


def _checked_image(image: Tensor) -> Tensor:
    if image.ndim != 3 or image.dtype is not torch.uint8:
        raise ConfigError(
            f"image must be uint8 of shape (channels, height, width), got {image.dtype} of shape "
            f"{tuple(image.shape)}"
        )
    return image


def _checked_colours(image: Tensor) -> Tensor:
    check_colours(_checked_image(image)[None])
    return image


def _crop_flip_jitter(
    size: tuple[int, int], padding: int, mode: str, flip: bool, jitter: Jitter
) -> list[Transform]:
    from torchvision.transforms import v2

    crop = [v2.RandomCrop(size, padding=padding, padding_mode=mode)] if padding else []
    return [centre(size), *crop, *_flip_jitter(flip, jitter)]


def _flip_jitter(flip: bool, jitter: Jitter) -> list[Transform]:
    from torchvision.transforms import v2

    steps: list[Transform] = [v2.RandomHorizontalFlip()] if flip else []
    if any(jitter):
        steps += [_checked_colours, v2.ColorJitter(*jitter)]
    return steps


def _cut_out(side: int) -> list[Transform]:
    return [partial(_cut_out_one, side)] if side else []


def _cut_out_one(side: int, image: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(int(torch.randint(2**63 - 1, ())))
    return cut_out(image[None], generator, side)[0]
