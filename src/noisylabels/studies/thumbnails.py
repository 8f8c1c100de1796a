"""Small pictures of examples, or a line of text where there is none to show."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from noisylabels.data.decoding import decode_examples
from noisylabels.data.examples import Examples, LoadReport, StreamedImages, Texts
from noisylabels.data.images import choose_image_spec, decode, peek

SIDE = 96
"""Longest side of a picture, in pixels."""
FAINT = 31
"""Greatest value up to which images are shown brighter than they are."""
QUALITY = 80
NUMBERS = 8
"""Features that are shown of an example that is no image."""

LONGEST = 1000
"""Characters that are shown of a text."""


@dataclass(frozen=True)
class Thumbnail:
    """What an example looks like.

    Args:
        image: The picture as a ``data:`` address; "" where there is none.
        text: What stands in its place.
    """

    image: str = ""
    text: str = ""


def read(places: Sequence[str]) -> list[Thumbnail] | None:
    """Make pictures of image files.

    Args:
        places: Their paths.

    Returns:
        A picture of each; None if any of them is no image file that can be opened.
    """
    try:
        headers = [peek(Path(place).read_bytes()) for place in places]
        known = [header for header in headers if header is not None]
        if not known or len(known) < len(headers):
            return None
        # One depth for all: of 16 bits, the same value is to have the same shade.
        spec = choose_image_spec(known, None)
        return [
            _shrink(
                _image(decode(Path(place).read_bytes(), spec, resize=False, enough=2 * SIDE)[0])
            )
            for place in places
        ]
    except (OSError, ValueError):
        return None


def draw(examples: Examples, index: Tensor) -> list[Thumbnail]:
    """Make pictures of examples.

    Args:
        examples: Images in memory or streaming, texts, or features, of which the first are shown.
        index: Positions of those that are wanted, int64, of shape (n).

    Returns:
        A picture, or a line, of each.

    Raises:
        DataError: One of them cannot be decoded.
    """
    chosen = examples.take(index)
    if isinstance(chosen.inputs, StreamedImages):
        encoded, spec = chosen.inputs.encoded, chosen.inputs.spec
        chosen = decode_examples(
            encoded, chosen.labels, spec, LoadReport("raise"), stream=False, workers=0
        )
    if isinstance(chosen.inputs, Texts):
        texts = map(str, chosen.inputs.values)
        return [Thumbnail(text=text[:LONGEST] + " ..." * (len(text) > LONGEST)) for text in texts]
    inputs = chosen.tensor()
    if inputs.ndim == 2:
        rows = inputs[:, :NUMBERS].tolist()
        more = ", ..." if inputs.shape[1] > NUMBERS else ""
        return [Thumbnail(text=", ".join(f"{value:.4g}" for value in row) + more) for row in rows]
    # Digits have values 0..16: as they are they would all be black.
    brightest = max(1, int(inputs.max())) if len(inputs) else 1
    stretch = 255 // brightest if brightest <= FAINT else 1
    return [_shrink(_image(pixels * stretch)) for pixels in inputs]


def _image(pixels: Tensor) -> Image.Image:
    channels_last = pixels.permute(1, 2, 0).to(torch.uint8)
    return Image.fromarray(channels_last.squeeze(2).contiguous().numpy())


def _shrink(image: Image.Image) -> Thumbnail:
    """Return a small copy; one that is small already stays as it is."""
    small = max(image.size) <= SIDE
    own = image.convert("RGB")
    own.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    # Of a few pixels each one counts.
    own.save(file, "WEBP", lossless=small, quality=QUALITY)
    return Thumbnail(f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}")
