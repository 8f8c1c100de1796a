"""The triggers of table 6 as pictures."""

from torch import Tensor

from noisylabels.data.poison import TRIGGERS

GAIN = 12
"""How many times greater than it is a difference is drawn."""
GREY = 128


def examples(images: Tensor, gain: int = GAIN) -> dict[str, Tensor]:
    """Add every kind of trigger to some images, ready to be drawn in rows.

    Args:
        images: uint8, of shape (N, C, H, W).
        gain: What a difference is multiplied by, at least 1.

    Returns:
        uint8 images of the same shape by title: ``"clean"``; then of every kind of trigger the
        images with it, such as ``"local"``, and ``"local, difference"``, where grey (128) is none.

    Raises:
        DataError: They are no such images.
    """
    rows = {"clean": images}
    for kind, add in TRIGGERS.items():
        marked = add(images)
        difference = marked.int() - images.int()
        rows[kind] = marked
        rows[f"{kind}, difference"] = (GREY + gain * difference).clamp(0, 255).to(images.dtype)
    return rows
