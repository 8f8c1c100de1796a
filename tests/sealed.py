"""Digits whose test labels nobody may look at, as a source of one's own."""

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from noisylabels.data.datasets import Digits
from noisylabels.data.examples import Dataset, Examples


class TouchedError(Exception):
    """Somebody has looked at what must not be looked at."""


class Sealed(Tensor):
    """A tensor that raises whatever is asked of it: a value, a comparison, even its shape."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise TouchedError(f"{func.__name__} of the test labels")


@dataclass(frozen=True, kw_only=True)
class SealedDigits(Digits):
    """Digits, whose test labels are sealed."""

    def load(self, workers: int = 0) -> Dataset:
        dataset = super().load(workers)
        labels = Tensor._make_subclass(Sealed, dataset.test.labels)
        return dataclasses.replace(dataset, test=Examples(dataset.test.inputs, labels))
