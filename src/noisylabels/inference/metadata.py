"""What a file of weights says of itself: all that one needs, beside them, to predict."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from noisylabels.data.images import ImageSpec
from noisylabels.errors import DataError

KEY = "noisylabels"
"""Of a file's metadata, which has the description as JSON."""


@dataclass(frozen=True)
class Images:
    """How an image file becomes an input.

    Args:
        channels: 1 or 3.
        height: Pixels.
        width: Pixels.
        depth: Bits that the values of 16-bit images use.
        margin: Whether images are resized to cover 256/224 of the size before their middle is cut
            out, as those of a run that streams, else the size itself.
    """

    channels: int
    height: int
    width: int
    depth: int
    margin: bool

    def spec(self) -> ImageSpec:
        """Return what every image is brought to."""
        return ImageSpec(self.channels, self.height, self.width, self.depth)


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class Description:
    """What is known of a trained model.

    Args:
        classes: The K class names.
        model: The component that its networks are made of, as a table.
        features: That of its features.
        contents: Digests of the files that both name, of weights that were downloaded, and of the
            user's own source.
        networks: How many networks there are.
        shares: The share of each in the prediction; None where it is no such mean.
        input: Shape of one raw input.
        images: How image files become inputs; None where they never do.
        shape: Shape of what the networks are given.
        mean: What is subtracted from each of its channels or features.
        std: What each is divided by then.
        run_id: The run.
        whole: Whether the weights are those of everything, frozen features among them.
        highest: The value of a white pixel.
    """

    classes: tuple[str, ...]
    model: dict[str, Any]
    features: dict[str, Any]
    contents: dict[str, str]
    networks: int
    shares: tuple[float, ...] | None
    input: tuple[int, ...]
    images: Images | None
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    run_id: str
    whole: bool = False
    highest: int = 255

    def text(self) -> str:
        """Return the description as JSON."""
        return json.dumps(_ADAPTER.dump_python(self, mode="json"))


_ADAPTER = TypeAdapter(Description)


def read(described: Mapping[str, Any], where: Path) -> Description:
    """Check what a file says of itself: it can come from anywhere.

    Args:
        described: Plain values.
        where: The run folder or file, for messages.

    Returns:
        The description.

    Raises:
        DataError: Something is missing, as in a file of an older version, or does not fit.
    """
    try:
        found = _ADAPTER.validate_python(described)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise DataError(
                f"{where}: its weights are of an older version, which does not say its {key}: "
                f"make the run again"
            ) from error
        raise DataError(f"{where}: its weights' {key}: {first['msg']}") from error
    several = found.shares is not None and len(found.shares) != found.networks
    channels = found.shape[:1]
    if several or (len(found.mean),) != channels or (len(found.std),) != channels:
        raise DataError(f"{where}: its weights' shape, mean, std and shares do not fit together")
    return found
