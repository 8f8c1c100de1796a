"""Vectors reduced to the directions in which those of the training set differ most."""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from noisylabels.data.examples import Examples
from noisylabels.errors import ConfigError, DataError
from noisylabels.features.base import Compute, Features

Dimensions = Annotated[int, Field(ge=2)]


class Reduced(Features):
    """Frozen features, projected onto their first principal components.

    Args:
        whole: The features.
        dimensions: Length of the vectors; fewer where there are fewer training examples, or where
            those of ``whole`` are shorter.

    Raises:
        ConfigError: The features are fine-tuned, so that there is nothing to project beforehand.
    """

    learns = True
    common_scale = True

    def __init__(self, whole: Features, dimensions: int) -> None:
        if not whole.freeze:
            raise ConfigError("dimensions: expected freeze = true, only frozen vectors are reduced")
        self.whole = whole
        self._dimensions = dimensions
        self._learnt: dict[str, Tensor] | None = None

    def check(self) -> None:
        """Refuse what the features refuse."""
        self.whole.check()

    def weights_digest(self) -> str | None:
        """Return the digest of the features' weights."""
        return self.whole.weights_digest()

    def extract(
        self, parts: Mapping[str, Examples], train: Examples, compute: Compute
    ) -> dict[str, Tensor]:
        """Compute the vectors, learn directions from the training examples, and project."""
        needed = dict(parts) if self._learnt else {**parts, "train": train}
        vectors = self.reduce(self.whole.extract(needed, train, compute))
        return {part: vectors[part] for part in parts}

    def reduce(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Project vectors.

        Args:
            vectors: float32 by part, each of shape (N, D); with those of ``"train"``, from which
                the directions are learnt, unless they are known.

        Returns:
            float32 by part, each of shape (N, ``dimensions``).
        """
        if self._learnt is None:
            self._learnt = principal_components(vectors["train"], self._dimensions)
        centre, directions = self._learnt["centre"], self._learnt["directions"]
        return {part: (rows - centre) @ directions.T for part, rows in vectors.items()}

    def learnt(self) -> dict[str, Tensor]:
        """Return the mean of the training vectors and the directions, beside what they learnt."""
        assert self._learnt is not None, "asked after the vectors"
        return self.whole.learnt() | self._learnt

    def restore(self, learnt: Mapping[str, Tensor]) -> None:
        """Use a mean and directions that were learnt before.

        Raises:
            DataError: One of them is missing.
        """
        missing = {"centre", "directions"} - set(learnt)
        if missing:
            raise DataError(
                f"dimensions: expected {', '.join(sorted(missing))} among what was learnt"
            )
        self._learnt = {name: learnt[name] for name in ("centre", "directions")}
        if self.whole.learns:
            self.whole.restore(learnt)

    def module(self, *, filled: bool = True) -> nn.Module | None:
        """Build the features and the projection as one network."""
        whole = self.whole.module(filled=filled)
        assert self._learnt is not None, "asked after the vectors"
        return None if whole is None else nn.Sequential(whole, Projection(**self._learnt))


class Projection(nn.Module):
    """A projection of vectors.

    Args:
        centre: What is subtracted, of shape (D,).
        directions: Orthonormal rows, of shape (dimensions, D).

    Shape:
        Input (N, D), output (N, dimensions), both float32.
    """

    centre: Tensor
    directions: Tensor

    def __init__(self, centre: Tensor, directions: Tensor) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("directions", directions)

    def forward(self, vectors: Tensor) -> Tensor:
        """Project vectors."""
        return (vectors.float() - self.centre) @ self.directions.T


def principal_components(vectors: Tensor, dimensions: int) -> dict[str, Tensor]:
    """Find the directions in which vectors differ most.

    Args:
        vectors: float32, of shape (N, D), N at least 2.
        dimensions: How many directions; fewer where N - 1 or D are less.

    Returns:
        ``centre``, the mean, of shape (D,); ``directions``, orthonormal rows, the one of the
        greatest variance first, of shape (min(``dimensions``, N - 1, D), D). Of each, the entry of
        greatest magnitude is positive: a direction is as good as its opposite.

    References:
        Pearson, "On lines and planes of closest fit to systems of points in space", 1901.

    Example:
        >>> found = principal_components(torch.tensor([[0.0, 1.0], [3.0, 1.0], [6.0, 1.0]]), 2)
        >>> found["centre"].tolist(), found["directions"].abs()[0].tolist()
        ([3.0, 1.0], [1.0, 0.0])
    """
    double = vectors.double()
    centre = double.mean(0)
    centred = double - centre
    count = min(dimensions, len(vectors) - 1, vectors.shape[1])
    # In ascending order of variance.
    _, columns = torch.linalg.eigh(centred.T @ centred)
    directions = columns.flip(1).T[:count]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return {
        "centre": centre.float(),
        "directions": (directions * largest.sign()).float().contiguous(),
    }


def reduced(features: Features, dimensions: int | None) -> Features:
    """Reduce features where that is asked for.

    Args:
        features: The features.
        dimensions: Length of the vectors; None leaves them as they are.

    Raises:
        ConfigError: The features are fine-tuned.
    """
    return features if dimensions is None else Reduced(features, dimensions)
