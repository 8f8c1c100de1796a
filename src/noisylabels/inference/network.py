"""A trained classifier as one network: from inputs as people have them to probabilities."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Whole(nn.Module):
    """Everything between a raw input and the probabilities of its classes, as one network.

    Args:
        features: Turns raw inputs into vectors; None where they go into the networks themselves.
        mean: What is subtracted from each channel or feature then.
        std: What each is divided by then.
        networks: The trained networks, from such values to logits.
        shares: The share of each network's probabilities in the result.

    Shape:
        Input uint8 images (N, channels, height, width) of the run's own size, or float32 features
        (N, D) in their own units; output float32 (N, K), class probabilities.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        features: nn.Module | None,
        mean: Tensor,
        std: Tensor,
        networks: Sequence[nn.Module],
        shares: Sequence[float],
    ) -> None:
        super().__init__()
        self.features = features
        self.networks = nn.ModuleList(networks)
        self.shares = tuple(shares)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the class probabilities."""
        vectors = inputs.float() if self.features is None else self.features(inputs)
        values = (vectors.float() - self.mean) / self.std
        shares = zip(self.shares, self.networks, strict=True)
        parts = [s * network(values).softmax(1, dtype=torch.float32) for s, network in shares]
        return torch.stack(parts).sum(0)
