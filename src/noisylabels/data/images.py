"""One encoded image to one uint8 tensor, whatever a camera, scanner or web page made of it."""

import functools
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
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


DEPTHS = (8, 12, 16)
"""Bits that 16-bit values are known to use."""
OTHER_ORDER = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGBX;16B": "RGBX;16L",
    "RGBX;16L": "RGBX;16B",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    "CMYK;16B": "CMYK;16L",
    "CMYK;16L": "CMYK;16B",
    # Both bytes of gray and of alpha, as four channels.
    "LA;16B": "RGBA",
}
"""Pillow's names of 16-bit colours in a file, and of the same in the other byte order."""


class Header(NamedTuple):
    """What an image is, before it is brought to anything.

    Args:
        channels: 1 or 3.
        height: Pixels.
        width: Pixels.
        greatest: The greatest value, of an image of 16 bits; 0 for others.
    """

    channels: int
    height: int
    width: int
    greatest: int = 0


@dataclass(frozen=True)
class ImageSpec:
    """The shape that every image of a dataset is resized and converted to.

    Args:
        channels: 1 or 3.
        height: Pixels.
        width: Pixels.
        depth: Bits that the values of its 16-bit images use: 8, 12 or 16.
    """

    channels: int
    height: int
    width: int
    depth: int = 16

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.height, self.width


def decode(
    encoded: bytes | None,
    spec: ImageSpec | None = None,
    *,
    resize: bool = True,
    enough: int | None = None,
) -> tuple[Tensor, list[str]]:
    """Decode an image.

    Transparency is laid on white, 16-bit values are reduced to 8 bits, every other colour space
    becomes RGB, and a photograph is turned the way its EXIF data says.

    Args:
        encoded: The contents of an image file.
        spec: What the image is brought to: resized to cover it, then cropped at the centre. By
            default it keeps its size, and is gray if it was.
        resize: Whether ``spec`` is for the size too.
        enough: Pixels of the shorter side that are enough: a larger JPEG file is decoded at half,
            a quarter or an eighth of its size, which takes a fraction of the time. By default all
            are wanted.

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

    def read(opened: ImageFile) -> tuple[Array, list[str]]:
        if enough is not None:
            opened.draft(None, (enough, enough))
        image, done = _tidy(opened, spec.depth if spec else 16)
        if spec is not None:
            image = _coloured(image, spec.channels, done)
        if spec is not None and resize and image.size != (spec.width, spec.height):
            done.append(f"resized to {spec.height}x{spec.width}")
            side = (spec.width, spec.height)
            image = ImageOps.fit(image, side, Image.Resampling.BILINEAR)
        return np.array(image), done

    (array, done), bare = _read(encoded, read)
    if bare:
        done.append("damaged metadata left out")
    pixels = torch.from_numpy(array)
    return (pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)), done


def peek(encoded: bytes | None) -> Header | None:
    """Read an image's header, and of one of 16 bits the greatest value; None where it has none."""

    def read(image: ImageFile) -> Header:
        channels = 1 if image.mode in GRAY else 3
        values = _sixteen_bits(image)
        # A TIFF image's size is given as it will be once it is turned.
        on_side = image.format != "TIFF" and _orientation(image) > 4
        width, height = reversed(image.size) if on_side else image.size
        greatest = 0 if values is None else int(_colours(image, values).max())
        return Header(channels, height, width, greatest)

    try:
        return _read(encoded or b"", read)[0]
    except DataError:
        return None


def choose_image_spec(headers: Sequence[Header], size: int | None) -> ImageSpec:
    """Choose what images are brought to, from some of their headers.

    Args:
        headers: Their headers.
        size: The side, if the user has set it.

    Returns:
        Gray if all of them are. Without ``size`` the commonest height and width where neither is
        above 96, else 224 x 224. The least depth that holds every value of those of 16 bits: one
        for all images, so that they stay comparable.

    Example:
        >>> choose_image_spec([Header(3, 32, 32), Header(1, 32, 32), Header(3, 28, 32)], None).shape
        (3, 32, 32)
        >>> choose_image_spec([Header(1, 480, 640, greatest=4000)], None)
        ImageSpec(channels=1, height=224, width=224, depth=12)
    """
    channels = 3 if any(header.channels == 3 for header in headers) else 1
    greatest = max(header.greatest for header in headers)
    depth = next(depth for depth in DEPTHS if greatest < 2**depth) if greatest else 16
    if size is not None:
        return ImageSpec(channels, size, size, depth)
    sizes = [(header.height, header.width) for header in headers]
    height, width = max(sorted(set(sizes)), key=sizes.count)
    return (
        ImageSpec(channels, height, width, depth)
        if max(height, width) <= SMALL
        else ImageSpec(channels, LARGE, LARGE, depth)
    )


def _tidy(opened: ImageFile, depth: int) -> tuple[Image.Image, list[str]]:
    if 0 in opened.size:
        raise ValueError("no pixels")
    done: list[str] = []
    # Pillow turns TIFF images as it loads them; EXIF data of a PNG file may lie behind its pixels.
    before = _orientation(opened) if opened.format == "TIFF" else 1
    image = _eight_bits(opened, depth, done)
    # Not ImageOps.exif_transpose: it writes all of the EXIF data anew, and fails at odd tags.
    orientation = _orientation(opened)
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    if before != 1 or orientation != 1:
        done.append("turned as its EXIF data says")
    mode = image.mode
    # A colour may be the transparent one in images of any mode.
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        done.append("transparency laid on white")
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB"), done
    if mode in ("L", "RGB"):
        return image, done
    if mode == "F":
        raise ValueError("floating-point values")
    if mode == "1":
        return image.convert("L"), done
    if mode != "P":
        done.append(f"{mode} converted to RGB")
    return image.convert("RGB"), done


def _eight_bits(image: ImageFile, depth: int, done: list[str]) -> Image.Image:
    """Load an image, and drop the bits that its mode has too many."""
    values = _sixteen_bits(image)
    if values is None:
        image.load()
        return image
    greatest = int(_colours(image, values).max())
    if greatest >= 2**depth:
        raise ValueError(
            f"16-bit value {greatest}, above {2**depth - 1}: the images looked at hold less"
        )
    done.append(
        "16-bit values reduced to 8 bits"
        if depth == 16
        else f"16-bit values of 0..{2**depth - 1} "
        + ("taken as they are" if depth == 8 else "reduced to 8 bits")
    )
    shift = np.full(values.shape[2:], depth - 8, dtype=values.dtype)
    if image.mode == "RGBA" and values[..., 3].max() >= 2**depth:
        # What is opaque has the greatest value that there is, whatever the colours use.
        shift[3] = 8
    mode = image.mode if values.ndim == 3 else "L"
    reduced = (values >> shift).astype(np.uint8)
    made = Image.frombytes(mode, image.size, reduced.tobytes())
    if (hidden := image.info.get("transparency")) is not None:
        # Of all bits, for colours that were told apart by those that are dropped are no longer.
        seen = values != np.asarray(hidden, dtype=values.dtype)
        opaque = seen if seen.ndim == 2 else seen.any(2)
        made.putalpha(Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8)))
    return made


def _sixteen_bits(image: ImageFile) -> Array | None:
    """Return all values of an opened image of 16 bits, (height, width[, channels]); else None.

    Raises:
        ValueError: Its values are of more than 16 bits.
    """
    values: Array
    if image.mode.startswith("I"):
        values = np.array(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"values in {values.min()}..{values.max()}, more than 16 bits")
        return values
    raw = _raw_mode(image.tile[0]) if image.tile else ""
    if raw not in OTHER_ORDER:
        return None
    # Pillow keeps the high bytes of colours alone: the low ones are those of the other order.
    with _open(cast(io.BytesIO, image.fp).getvalue()) as again:
        again.tile = [_in_other_order(tile) for tile in image.tile]
        low = np.array(again)
    if raw == "LA;16B":
        low = low[..., [1, 1, 1, 3]]
    values = (np.array(image).astype(np.uint16) << 8) + low
    return values


def _raw_mode(tile: Any) -> str:
    """Name the pixels of a part of a file as Pillow does, their byte order spelt out."""
    name = tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args
    return f"{name}".replace(";16N", ";16L" if sys.byteorder == "little" else ";16B")


def _in_other_order(tile: Any) -> Any:
    raw = OTHER_ORDER[_raw_mode(tile)]
    return tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:]))


def _colours(image: Image.Image, values: Array) -> Array:
    return values[..., :3] if image.mode == "RGBA" else values


def _coloured(image: Image.Image, channels: int, done: list[str]) -> Image.Image:
    if (image.mode == "L") == (channels == 1):
        return image
    done.append("gray shown as RGB" if channels == 3 else "colour shown as gray")
    return image.convert("RGB" if channels == 3 else "L")


def _read(encoded: bytes, read: Callable[[ImageFile], T]) -> tuple[T, bool]:
    """Open an image and read it; without its metadata (True then) where these are in the way.

    Any exception is the image's fault but one: it is the machine that has no memory left, and that
    must not choose which examples are trained on.
    """
    try:
        with quiet(), _open(encoded) as image:
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


def _open(encoded: bytes) -> ImageFile:
    """Open an image as what its first bytes say: asking every format takes twice the time."""
    likely = [name for magic, name in MAGIC if encoded.startswith(magic)]
    return Image.open(io.BytesIO(encoded), formats=likely or _formats())


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in UNSAFE]


@contextmanager
def quiet() -> Iterator[None]:
    """Set Pillow's warnings: a bomb is an error, the rest (odd metadata) is nobody's business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
