"""Augmentation of whole batches: uint8 images in, uint8 images out, every image its own draw."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from noisylabels.errors import check_range


def none(images: Tensor, generator: torch.Generator) -> Tensor:
    """Leave the images as they are.

    Args:
        images: uint8, of shape (N, channels, height, width).
        generator: Not used.

    Returns:
        ``images`` itself.
    """
    return images


def crop_flip(images: Tensor, generator: torch.Generator, *, padding: int = 4) -> Tensor:
    """Pad with black, crop at a random place, flip half of the images left to right.

    Args:
        images: uint8, of shape (N, channels, height, width).
        generator: CPU generator; the same state gives the same result on every device.
        padding: Pixels added on each side, from 0 to the image's longer side.

    Returns:
        A new tensor of the same shape and dtype.

    Raises:
        ConfigError: ``padding`` is out of its range.

    Example:
        >>> images = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
        >>> crop_flip(images, torch.Generator().manual_seed(0), padding=1)[0, 0]
        tensor([[ 6,  5,  4,  0],
                [10,  9,  8,  0],
                [14, 13, 12,  0],
                [ 0,  0,  0,  0]], dtype=torch.uint8)
    """
    count, _, height, width = images.shape
    check_range("padding", padding, high=max(height, width))
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator).to(images.device)
    flipped = (torch.rand(count, generator=generator) < 0.5).to(images.device)
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    crops = windows[torch.arange(count, device=images.device), :, top, left]
    return torch.where(flipped[:, None, None, None], crops.flip(3), crops)


AUGMENTS: dict[str, Callable[..., Tensor]] = {"none": none, "crop-flip": crop_flip}
