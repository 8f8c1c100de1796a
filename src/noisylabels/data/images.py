"""One encoded image to one uint8 tensor, whatever a camera, scanner or web page made of it."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from noisylabels.errors import DataError

GRAY = ("1", "L", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"RIFF", "WEBP"),
    (b"GIF8", "GIF"),
)
SMALL = 96
"""Sides up to which images keep their own size."""
LARGE = 224
"""Side that larger images, and those of mixed sizes, are brought to."""


@dataclass(frozen=True)
class ImageSpec:
    """The shape that every image of a dataset is resized and converted to.

    Args:
        channels: 1 or 3.
        height: Pixels.
        width: Pixels.
    """

    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.height, self.width


def decode(
    encoded: bytes | None, spec: ImageSpec | None = None, *, channels: int | None = None
) -> tuple[Tensor, list[str]]:
    """Decode an image.

    Transparency is laid on white, 16-bit values are reduced to 8 bits, every other colour space
    becomes RGB, and a photograph is turned the way its EXIF data says.

    Args:
        encoded: The contents of an image file.
        spec: What the image is brought to: resized to cover it, then cropped at the centre. By
            default it keeps its size, and is gray if it was.
        channels: 1 or 3, for an image that keeps its size.

    Returns:
        uint8 of shape (channels, height, width), and what had to be done, one phrase each.

    Raises:
        DataError: It is no image, truncated, empty, or would be larger than Pillow's limit against
            decompression bombs. The message is the reason alone: the caller knows the place.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("CMYK", (4, 2)).save(file, "TIFF")
        >>> pixels, done = decode(file.getvalue())
        >>> pixels.shape, done
        (torch.Size([3, 2, 4]), ['CMYK converted to RGB'])
    """
    if not encoded:
        raise DataError("expected an encoded image, got 0 bytes")
    try:
        with _quiet(), _open(encoded) as opened:
            image, done = _tidy(opened)
            if spec is not None or channels is not None:
                image = _coloured(image, spec.channels if spec else channels or 0, done)
            if spec is not None and image.size != (spec.width, spec.height):
                done.append(f"resized to {spec.height}x{spec.width}")
                side = (spec.width, spec.height)
                image = ImageOps.fit(image, side, Image.Resampling.BILINEAR)
            array = np.array(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"refused as a decompression bomb ({error})") from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, OverflowError) as error:
        reason = "no image format is recognised" if "BytesIO" in str(error) else error
        raise DataError(f"expected an encoded image ({reason})") from error
    pixels = torch.from_numpy(array)
    return (pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)), done


def peek(encoded: bytes | None) -> tuple[int, int, int] | None:
    """Read an image's header: channels (1 or 3), height and width; None where it has none."""
    try:
        with _quiet(), _open(encoded or b"") as image:
            channels = 1 if image.mode in GRAY else 3
            # An orientation of 5 to 8 lies on its side.
            turned = image.getexif().get(0x0112, 1) > 4
            width, height = reversed(image.size) if turned else image.size
            return channels, height, width
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        TypeError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ):
        return None


def choose_image_spec(headers: Sequence[tuple[int, int, int]], size: int | None) -> ImageSpec:
    """Choose what images are brought to, from some of their headers.

    Args:
        headers: Channels, height and width of each.
        size: The side, if the user has set it.

    Returns:
        Gray if all of them are. Without ``size`` the commonest height and width where neither is
        above 96, else 224 x 224.

    Example:
        >>> choose_image_spec([(3, 32, 32), (1, 32, 32), (3, 28, 32)], None).shape
        (3, 32, 32)
        >>> choose_image_spec([(3, 480, 640)], None).shape
        (3, 224, 224)
    """
    channels = 3 if any(header[0] == 3 for header in headers) else 1
    if size is not None:
        return ImageSpec(channels, size, size)
    sizes = [header[1:] for header in headers]
    height, width = max(sorted(set(sizes)), key=sizes.count)
    return (
        ImageSpec(channels, height, width)
        if max(height, width) <= SMALL
        else ImageSpec(channels, LARGE, LARGE)
    )


def _tidy(image: Image.Image) -> tuple[Image.Image, list[str]]:
    done = []
    if image.getexif().get(0x0112, 1) != 1:
        image = ImageOps.exif_transpose(image)
        done.append("turned as its EXIF data says")
    mode = image.mode
    if mode in ("L", "RGB"):
        return image, done
    if mode.startswith("I"):
        done.append("16-bit values reduced to 8 bits")
        values = np.array(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"values in {values.min()}..{values.max()}, more than 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)), done
    if mode == "F":
        raise ValueError("floating-point values")
    if mode == "1":
        return image.convert("L"), done
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        done.append("transparency laid on white")
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB"), done
    if mode != "P":
        done.append(f"{mode} converted to RGB")
    return image.convert("RGB"), done


def _coloured(image: Image.Image, channels: int, done: list[str]) -> Image.Image:
    if (image.mode == "L") == (channels == 1):
        return image
    done.append("gray shown as RGB" if channels == 3 else "colour shown as gray")
    return image.convert("RGB" if channels == 3 else "L")


def _open(encoded: bytes) -> Image.Image:
    """Open an image as what its first bytes say: asking every format takes twice the time."""
    likely = [name for magic, name in MAGIC if encoded.startswith(magic)]
    return Image.open(io.BytesIO(encoded), formats=likely or None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow's warnings: a bomb is an error, the rest (odd metadata) is nobody's business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
