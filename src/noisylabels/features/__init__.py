"""Data to vectors: pretrained networks for images and texts, and statistics of texts."""

from collections.abc import Callable

from noisylabels.data.source import Facts
from noisylabels.features.base import Compute, Features
from noisylabels.features.networks import timm, torchvision
from noisylabels.features.texts import sentence, tfidf

__all__ = ["FEATURES", "Compute", "Features"]


def none(facts: Facts) -> None:
    """Leave the inputs as they are."""


FEATURES: dict[str, Callable[..., Features | None]] = {
    "none": none,
    "timm": timm,
    "torchvision": torchvision,
    "tfidf": tfidf,
    "sentence": sentence,
}
"""Features by name: ``(facts, *, the user's parameters) -> features, or None for the inputs``."""
