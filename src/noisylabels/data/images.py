"""One encoded image to one uint8 tensor, whatever a camera, scanner or web page made of it."""

import functools
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from noisylabels.data.metadata import without_metadata
from noisylabels.errors import DataError

# Pillow logs what is wrong with a file; what is refused is said by this module.
logging.getLogger("PIL").addHandler(logging.NullHandler())

Array = np.ndarray[Any, Any]
T = TypeVar("T")

GRAY = ("1", "L", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"RIFF", "WEBP"),
    (b"GIF8", "GIF"),
)
UNSAFE = ("EPS", "FITS")
"""Formats never opened: the first is a program, the second unpacks without a bound."""
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""
SMALL = 96
"""Sides up to which images keep their own size."""
LARGE = 224
"""Side that larger images, and those of mixed sizes, are brought to."""


@dataclass(frozen=True)
class ImageSpec:
    """What every image of a dataset is brought to.

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
        DataError: It is no image, damaged, empty, or would be larger than Pillow's limit against
            decompression bombs. The message is the reason alone: the caller knows the place. Where
            only metadata is damaged the pixels are used.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("CMYK", (4, 2)).save(file, "TIFF")
        >>> pixels, done = decode(file.getvalue())
        >>> pixels.shape, done
        (torch.Size([3, 2, 4]), ['CMYK converted to RGB'])
    """
    if not encoded:
        raise DataError("expected an encoded image, got 0 bytes")

    def read(opened: Image.Image) -> tuple[Array, list[str]]:
        image, done = _tidy(opened)
        if spec is not None or channels is not None:
            image = _coloured(image, spec.channels if spec else channels or 0, done)
        if spec is not None and image.size != (spec.width, spec.height):
            done.append(f"resized to {spec.height}x{spec.width}")
            side = (spec.width, spec.height)
            image = ImageOps.fit(image, side, Image.Resampling.BILINEAR)
        return np.array(image), done

    (array, done), bare = _read(encoded, read)
    if bare:
        done.append("damaged metadata left out")
    pixels = torch.from_numpy(array)
    return (pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)), done


def peek(encoded: bytes | None) -> tuple[int, int, int] | None:
    """Read an image's header: channels (1 or 3), height and width; None where it has none."""

    def read(image: Image.Image) -> tuple[int, int, int]:
        channels = 1 if image.mode in GRAY else 3
        # A TIFF image's size is given as it will be once it is turned.
        on_side = image.format != "TIFF" and _orientation(image) > 4
        width, height = reversed(image.size) if on_side else image.size
        return channels, height, width

    try:
        return _read(encoded or b"", read)[0]
    except DataError:
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
    if 0 in image.size:
        raise ValueError("no pixels")
    done = []
    orientation = _orientation(image)
    image.load()
    # Not ImageOps.exif_transpose: it writes all of the EXIF data anew, and fails at odd tags.
    if orientation in TURNS:
        # A TIFF image is turned as it is loaded.
        image = image if image.format == "TIFF" else image.transpose(TURNS[orientation])
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


def _read(encoded: bytes, read: Callable[[Image.Image], T]) -> tuple[T, bool]:
    """Open an image and read it; without its metadata (True then) where these are in the way.

    Any exception is the image's fault but one: it is the machine that has no memory left, and that
    must not choose which examples are trained on.
    """
    try:
        with _quiet(), _open(encoded) as image:
            return read(image), False
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"refused as a decompression bomb ({error})") from error
    except Exception as error:
        bare = without_metadata(encoded)
        if bare is not None:
            with suppress(DataError):
                return _read(bare, read)[0], True
        reason = " ".join(f"{error}".split()) or type(error).__name__
        if "BytesIO" in reason:
            reason = "no image format is recognised"
        raise DataError(f"expected an encoded image ({reason:.200})") from error


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; 1, upright, where it cannot be read."""
    try:
        orientation = image.getexif().get(ORIENTATION)
        return orientation if orientation in TURNS else 1
    except MemoryError:
        raise
    except Exception:
        return 1


def _open(encoded: bytes) -> Image.Image:
    """Open an image as what its first bytes say: asking every format takes twice the time."""
    likely = [name for magic, name in MAGIC if encoded.startswith(magic)]
    return Image.open(io.BytesIO(encoded), formats=likely or _formats())


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in UNSAFE]


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow's warnings: a bomb is an error, the rest (odd metadata) is nobody's business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
