"""Augmentation of whole batches, for images in memory.

Every image has its own draw, from a CPU generator, so the same state gives the same result on
every device.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from noisylabels.data.augment.parameters import (
    ADJUSTMENTS,
    MAGNITUDES,
    UNCHANGED,
    Jitter,
    check_colours,
    check_crop_flip,
    check_images,
    check_jitter,
    check_randaugment,
    check_resized_crop,
    height_and_width,
)
from noisylabels.errors import ConfigError, check_range, unknown

ATTEMPTS = 10
"""Boxes that a random resized crop tries before it takes the middle of the image."""
SLICE = 2**19
"""Pixel values that are in float32 at once."""
# What a change of colour or size needs on the way stays in a CPU's cache: on batches of 4,096
# images of 32x32 pixels this makes them five to ten times as fast.


def none(images: Tensor, generator: torch.Generator) -> Tensor:
    """Leave the inputs as they are.

    Args:
        images: Images, or inputs of any other shape and dtype.
        generator: Not used.

    Returns:
        ``images`` itself.
    """
    return images


def crop_flip(
    images: Tensor,
    generator: torch.Generator,
    *,
    padding: int = 4,
    mode: Literal["constant", "reflect"] = "constant",
    flip: bool = True,
    cutout: int = 0,
    jitter: Jitter = UNCHANGED,
) -> Tensor:
    """Pad, crop at a random place, flip half of the images, change colours, cut out a square.

    Args:
        images: uint8, of shape (N, channels, height, width).
        generator: CPU generator; the same state gives the same result on every device.
        padding: Pixels added on each side, from 0 to the image's longer side, or to its shorter
            side less one with ``mode="reflect"``.
        mode: ``"constant"`` pads with black, ``"reflect"`` with the image mirrored at its border.
        flip: Whether half of the images are flipped left to right.
        cutout: Side in pixels of a black square in every image, see :func:`cut_out`; 0 for none.
        jitter: Strengths of brightness, contrast and saturation, at least 0, and of hue, in
            [0, 0.5], see :func:`jitter_colours`.

    Returns:
        A new tensor of the same shape and dtype.

    Raises:
        ConfigError: A parameter is out of its range, or ``images`` has another shape or dtype.

    Example:
        >>> images = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
        >>> crop_flip(images, torch.Generator().manual_seed(0), padding=1)[0, 0]
        tensor([[ 6,  5,  4,  0],
                [10,  9,  8,  0],
                [14, 13, 12,  0],
                [ 0,  0,  0,  0]], dtype=torch.uint8)
    """
    check_images(images)
    check_crop_flip(height_and_width(images), padding, mode, cutout, jitter)
    crops = _crop_flip(images, generator, padding, mode, flip)
    return cut_out(jitter_colours(crops, generator, jitter), generator, cutout)


def randaugment(
    images: Tensor,
    generator: torch.Generator,
    *,
    num_ops: int = 1,
    magnitude: int = 3,
    padding: int = 4,
    mode: Literal["constant", "reflect"] = "constant",
    flip: bool = True,
    cutout: int = 16,
    jitter: Jitter = UNCHANGED,
) -> Tensor:
    """Crop and flip, apply RandAugment's random operations, then cut out a square.

    Every image draws ``num_ops`` of 14 operations with replacement: identity, shear and
    translation along either axis, rotation, brightness, colour, contrast, sharpness, posterize,
    solarize, autocontrast and equalize. Those with two directions also draw a sign.

    Args:
        images: uint8, of shape (N, 1 or 3, height, width); colour leaves gray images alone.
        generator: CPU generator; the same state gives the same result on every device.
        num_ops: Operations per image, at least 0.
        magnitude: Strength of the operations, from 0 to 30.
        padding: As for :func:`crop_flip`.
        mode: As for :func:`crop_flip`.
        flip: As for :func:`crop_flip`.
        cutout: As for :func:`crop_flip`; comes last.
        jitter: As for :func:`crop_flip`; comes before the operations.

    Returns:
        A new tensor of the same shape and dtype.

    Raises:
        ConfigError: A parameter is out of its range, or ``images`` has another shape or dtype.

    Example:
        >>> images = torch.full((1, 3, 8, 8), 200, dtype=torch.uint8)
        >>> out = randaugment(images, torch.Generator().manual_seed(0), padding=0, cutout=2)
        >>> (out == 0).sum().item()
        12

    References:
        Ekin D. Cubuk, Barret Zoph, Jonathon Shlens, Quoc V. Le. RandAugment: Practical automated
        data augmentation with a reduced search space. 2020. We take torchvision's operations and
        its 31 levels, on which the paper's magnitude runs from 0 to 30; areas that come into view
        are black; pixels are sampled from the nearest.
    """
    check_images(images)
    check_randaugment(num_ops, magnitude)
    check_crop_flip(height_and_width(images), padding, mode, cutout, jitter)
    if num_ops:
        check_colours(images)
    crops = jitter_colours(_crop_flip(images, generator, padding, mode, flip), generator, jitter)
    operations = _operations(magnitude, *height_and_width(images))
    for _ in range(num_ops):
        chosen = torch.randint(len(operations), (len(crops),), generator=generator)
        # One call per operation, not per image: every image that drew it goes through at once.
        for number, operation in enumerate(operations):
            index = (chosen == number).nonzero().squeeze(1).to(crops.device)
            if len(index):
                crops[index] = operation(crops[index])
    return cut_out(crops, generator, cutout)


def resized_crop(
    images: Tensor,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
    jitter: Jitter = UNCHANGED,
) -> Tensor:
    """Crop a box of random size and shape and enlarge it to the image's size.

    Boxes are resampled bilinearly. A box is never larger than its image, so nothing is ever made
    smaller and anti-aliasing would change nothing.

    Args:
        images: uint8, of shape (N, channels, height, width).
        generator: CPU generator; the same state gives the same result on every device.
        scale: Least and greatest share of the image's area, 0 < low <= high <= 1.
        ratio: Least and greatest width / height, 0 < low <= high; drawn uniformly in its
            logarithm.
        flip: Whether half of the images are flipped left to right.
        jitter: As for :func:`crop_flip`.

    Returns:
        A new tensor of the same shape and dtype.

    Raises:
        ConfigError: A parameter is out of its range, or ``images`` has another shape or dtype.

    Example:
        >>> images = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
        >>> resized_crop(images, torch.Generator().manual_seed(0), scale=(0.2, 0.3))[0, 0]
        tensor([[3, 3, 2, 2],
                [4, 4, 3, 3],
                [6, 6, 5, 5],
                [7, 7, 6, 6]], dtype=torch.uint8)

    References:
        Christian Szegedy, Wei Liu, Yangqing Jia, Pierre Sermanet, Scott Reed, Dragomir Anguelov,
        Dumitru Erhan, Vincent Vanhoucke, Andrew Rabinovich. Going Deeper with Convolutions. 2015.
        As in torchvision, a box that does not fit is drawn again up to ten times, after which the
        largest central box of a valid shape is taken.
    """
    check_images(images)
    check_resized_crop(scale, ratio, jitter)
    height, width = height_and_width(images)
    count = len(images)
    boxes = _boxes(count, (height, width), scale, ratio, generator)
    flipped = torch.zeros(count, dtype=torch.bool)
    if flip:
        flipped = torch.rand(count, generator=generator) < 0.5
    top, left, box_height, box_width = (side.to(images.device) for side in boxes)
    rows = _sample_points(top, box_height, height)
    columns = _sample_points(left, box_width, width)
    columns = torch.where(flipped.to(images.device)[:, None], columns.flip(1), columns)
    crops = torch.empty_like(images)
    for part in _slices(images):
        grid = torch.stack(
            (
                columns[part, None].expand(-1, height, -1),
                rows[part, :, None].expand(-1, -1, width),
            ),
            dim=3,
        )
        pixels = images[part].float()
        sampled = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
        crops[part] = sampled.round_()
    return jitter_colours(crops, generator, jitter)


def cut_out(images: Tensor, generator: torch.Generator, side: int) -> Tensor:
    """Blacken one square in every image.

    The square's centre is drawn uniformly over the image; what lies outside is clipped.

    Args:
        images: uint8, of shape (N, channels, height, width).
        generator: CPU generator; the same state gives the same result on every device.
        side: Side of the square in pixels, at least 0.

    Returns:
        A new tensor of the same shape and dtype, or ``images`` itself if ``side`` is 0.

    Raises:
        ConfigError: ``side`` is negative, or ``images`` has another shape or dtype.

    Example:
        >>> images = torch.ones(1, 1, 4, 4, dtype=torch.uint8)
        >>> cut_out(images, torch.Generator().manual_seed(0), 2)[0, 0]
        tensor([[1, 1, 0, 0],
                [1, 1, 1, 1],
                [1, 1, 1, 1],
                [1, 1, 1, 1]], dtype=torch.uint8)

    References:
        Terrance DeVries, Graham W. Taylor. Improved Regularization of Convolutional Neural
        Networks with Cutout. 2017. We blacken before the images are normalised, where the paper
        blackens to the mean; an odd side is exact, where the authors' own rounds it down to even.
    """
    check_images(images)
    check_range("cutout", side)
    if not side:
        return images
    height, width = height_and_width(images)
    inside = []
    for length in (height, width):
        middle = torch.randint(length, (len(images), 1), generator=generator)
        offset = torch.arange(length) - (middle - side // 2)
        inside.append(((offset >= 0) & (offset < side)).to(images.device))
    return images.masked_fill((inside[0][:, :, None] & inside[1][:, None])[:, None], 0)


def jitter_colours(images: Tensor, generator: torch.Generator, strengths: Jitter) -> Tensor:
    """Change brightness, contrast, saturation and hue at random.

    Every image has its own factors, uniform in [max(0, 1 - strength), 1 + strength], and its own
    shift of hue, uniform in [-strength, strength]. The order of the four is drawn once for the
    batch, where torchvision draws it for every image.

    Args:
        images: uint8, of shape (N, 1 or 3, height, width).
        generator: CPU generator; the same state gives the same result on every device.
        strengths: Of brightness, contrast and saturation, at least 0, and of hue, in [0, 0.5].

    Returns:
        A new tensor of the same shape and dtype, or ``images`` itself if all strengths are 0.

    Raises:
        ConfigError: A strength is out of its range, or ``images`` has another shape or dtype.

    Example:
        >>> images = torch.full((2, 3, 1, 1), 100, dtype=torch.uint8)
        >>> jitter_colours(images, torch.Generator().manual_seed(0), (0.5, 0, 0, 0))[:, 0, 0, 0]
        tensor([63, 81], dtype=torch.uint8)
    """
    check_images(images)
    check_jitter(strengths)
    if not any(strengths):
        return images
    amounts = {}
    for number in torch.randperm(len(ADJUSTMENTS), generator=generator).tolist():
        if strength := strengths[number]:
            name = ADJUSTMENTS[number]
            low, high = max(0.0, 1 - strength), 1 + strength
            if name == "hue":
                low, high = -strength, strength
            amounts[name] = torch.empty(len(images)).uniform_(low, high, generator=generator)
    return adjust_colours(images, amounts)


def adjust_colours(images: Tensor, amounts: Mapping[str, Tensor]) -> Tensor:
    """Change brightness, contrast, saturation and hue, every image by its own amount.

    The images stay in float32 from the first change to the last and are rounded once, where
    torchvision rounds down after each.

    Args:
        images: uint8, of shape (N, 1 or 3, height, width); saturation and hue leave gray images
            alone.
        amounts: What to change, in this order: float32 of shape (N), the factors of
            ``"brightness"`` (1 leaves as is, 0 is black), ``"contrast"`` (0 is the image's mean
            gray) and ``"saturation"`` (0 is gray), at least 0, and the shift of ``"hue"``, in
            turns of the colour circle.

    Returns:
        A new tensor of the same shape and dtype.

    Raises:
        ConfigError: A key is unknown, or ``images`` has another shape or dtype.

    Example:
        >>> red = torch.tensor([200, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1)
        >>> adjust_colours(red, {"hue": torch.tensor([1 / 3])}).flatten().tolist()
        [0, 200, 0]

    References:
        Alvy Ray Smith. Color gamut transform pairs. 1978. We never form the saturation: a change
        of hue keeps the greatest and the least of the three values.
    """
    check_images(images)
    check_colours(images)
    for name in amounts:
        if name not in ADJUSTMENTS:
            raise ConfigError(unknown("adjustment", name, ADJUSTMENTS))
    steps = [
        (ADJUST[name], amount.to(images.device)[:, None, None, None])
        for name, amount in amounts.items()
    ]
    adjusted = torch.empty_like(images)
    for part in _slices(images):
        pixels = images[part].float()
        for adjust, amount in steps:
            pixels = adjust(pixels, amount[part])
        adjusted[part] = pixels.round_()
    return adjusted


def _brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    return (pixels * factor).clamp_(0, 255)


def _contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    mean = _gray(pixels).mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, pixels, factor).clamp_(0, 255)


def _saturation(pixels: Tensor, factor: Tensor) -> Tensor:
    if pixels.shape[1] == 1:
        return pixels
    return torch.lerp(_gray(pixels), pixels, factor).clamp_(0, 255)


def _hue(pixels: Tensor, shift: Tensor) -> Tensor:
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.chunk(3, dim=1)
    low, high = pixels.aminmax(dim=1, keepdim=True)
    chroma = high - low
    # The three differences are zero where the chroma is, so any divisor will do there.
    divisor = chroma.clamp(min=1e-6)
    sixth = torch.where(
        high == red,
        (green - blue) / divisor,
        torch.where(high == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    sixth += 6 * shift
    # Round the colour circle from here, each of the three falls for a sixth of a turn, is least
    # for two sixths, rises for one and is greatest for two.
    start = torch.tensor([5.0, 3.0, 1.0], device=pixels.device)[:, None, None]
    around = sixth + start
    around -= 6 * torch.floor(around / 6)
    fall = (2 - (around - 2).abs_()).clamp_(0, 1)
    return high - chroma * fall


ADJUST: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
}
"""How :func:`adjust_colours` makes each change: ``(float32 pixels, amount) -> pixels``."""


def _gray(pixels: Tensor) -> Tensor:
    if pixels.shape[1] == 1:
        return pixels
    weights = torch.tensor([0.2989, 0.587, 0.114], device=pixels.device)[:, None, None]
    # Whole gray levels, as an image in gray would have.
    return (pixels * weights).sum(1, keepdim=True).floor_()


def _crop_flip(
    images: Tensor, generator: torch.Generator, padding: int, mode: str, flip: bool
) -> Tensor:
    count, _, height, width = images.shape
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator).to(images.device)
    padded = F.pad(images, (padding,) * 4) if mode == "constant" else _reflect(images, padding)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    crops = windows[torch.arange(count, device=images.device), :, top, left]
    if not flip:
        return crops
    flipped = (torch.rand(count, generator=generator) < 0.5).to(images.device)
    return torch.where(flipped[:, None, None, None], crops.flip(3), crops)


def _reflect(images: Tensor, padding: int) -> Tensor:
    # `F.pad` reflects uint8 on some devices only.
    for dim in (2, 3):
        before = images.narrow(dim, 1, padding).flip(dim)
        after = images.narrow(dim, images.shape[dim] - 1 - padding, padding).flip(dim)
        images = torch.cat((before, images, after), dim)
    return images


def _operations(magnitude: int, height: int, width: int) -> list[Callable[[Tensor], Tensor]]:
    """RandAugment's 14 operations, each in both directions where there are two, else twice."""
    from torchvision.transforms.v2 import functional

    def level(greatest: float, least: float = 0.0) -> float:
        # In float32 as torchvision's, for a translation or threshold may lie at a whole number.
        return torch.linspace(least, greatest, MAGNITUDES)[magnitude].item()

    def affine(
        x: float = 0, y: float = 0, across: float = 0, down: float = 0
    ) -> Callable[[Tensor], Tensor]:
        angles = [math.degrees(math.atan(slope)) for slope in (across, down)]
        middle = [0.0, 0.0] if across or down else None
        return partial(
            functional.affine,
            angle=0.0,
            translate=[int(x), int(y)],
            scale=1.0,
            shear=angles,
            center=middle,
        )

    operations: list[Callable[[Tensor], Tensor]] = []
    for sign in (1, -1):
        factor = 1 + sign * level(0.9)
        operations += [
            torch.clone,
            affine(across=sign * level(0.3)),
            affine(down=sign * level(0.3)),
            affine(x=sign * level(150 / 331 * width)),
            affine(y=sign * level(150 / 331 * height)),
            partial(functional.rotate, angle=sign * level(30.0)),
            partial(functional.adjust_brightness, brightness_factor=factor),
            partial(functional.adjust_saturation, saturation_factor=factor),
            partial(functional.adjust_contrast, contrast_factor=factor),
            partial(functional.adjust_sharpness, sharpness_factor=factor),
            partial(functional.posterize, bits=round(8 - 4 * magnitude / (MAGNITUDES - 1))),
            partial(functional.solarize, threshold=255 * level(0.0, 1.0)),
            functional.autocontrast,
            functional.equalize,
        ]
    return operations


def _boxes(
    count: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw a box for every image: top, left, height and width, int64 of shape (count)."""
    height, width = size

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float64).uniform_(low, high, generator=generator)

    area = height * width * uniform(*scale, ATTEMPTS, count)
    shape = uniform(math.log(ratio[0]), math.log(ratio[1]), ATTEMPTS, count).exp()
    widths, heights = (area * shape).sqrt().round(), (area / shape).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.to(torch.uint8).argmax(0, keepdim=True)
    found, box_width, box_height = (
        value.gather(0, first).squeeze(0) for value in (fits, widths, heights)
    )
    nearest = min(max(width / height, ratio[0]), ratio[1])
    largest = min(height, round(width / nearest)), min(width, round(height * nearest))
    box_height = torch.where(found, box_height, max(largest[0], 1))
    box_width = torch.where(found, box_width, max(largest[1], 1))
    place = uniform(0.0, 1.0, 2, count)
    # A float64 below one, times a whole number, rounds to below that number.
    top = torch.where(found, place[0] * (height - box_height + 1), (height - box_height) / 2)
    left = torch.where(found, place[1] * (width - box_width + 1), (width - box_width) / 2)
    return top.long(), left.long(), box_height.long(), box_width.long()


def _sample_points(start: Tensor, length: Tensor, full: int) -> Tensor:
    """Where ``full`` evenly spread samples of [start, start + length) lie, as fractions of a side.

    In ``grid_sample``'s units, where -1 and 1 are the outer edges of the image.
    """
    start, length = start.float()[:, None], length.float()[:, None]
    point = start + (torch.arange(full, device=start.device) + 0.5) * length / full
    # The box's own border pixels are repeated: what lies outside it must not show.
    point = torch.minimum(torch.maximum(point, start + 0.5), start + length - 0.5)
    return point * (2 / full) - 1


def _slices(images: Tensor) -> list[slice]:
    step = max(1, SLICE // max(1, images.shape[1:].numel()))
    return [slice(start, start + step) for start in range(0, len(images), step)]
