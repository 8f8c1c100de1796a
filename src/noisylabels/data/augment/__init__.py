"""Augmentation, twice under every name: of whole batches, and of one image at a time.

Images in memory are augmented a batch at a time (:data:`AUGMENTS`), images that stream from files
one by one in the loader's workers (:data:`STREAMED`). Both forms of a name take the same
keyword-only parameters and refuse the same values.
"""

from collections.abc import Callable

from torch import Tensor

from noisylabels.data.augment.batched import crop_flip, none, randaugment, resized_crop
from noisylabels.data.augment.streamed import (
    Transform,
    centre,
    stream_crop_flip,
    stream_randaugment,
    stream_resized_crop,
)

__all__ = ["AUGMENTS", "STREAMED", "Transform", "centre"]

AUGMENTS: dict[str, Callable[..., Tensor]] = {
    "none": none,
    "crop-flip": crop_flip,
    "randaugment": randaugment,
    "resized-crop": resized_crop,
}
"""Of whole batches: ``(uint8 images, generator, *, parameters) -> uint8 images``."""

STREAMED: dict[str, Callable[..., Transform]] = {
    "none": centre,
    "crop-flip": stream_crop_flip,
    "randaugment": stream_randaugment,
    "resized-crop": stream_resized_crop,
}
"""Of one image: ``(size, *, parameters) -> (uint8 image -> uint8 image)``."""
