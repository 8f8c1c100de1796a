"""One network, one loss: what every robust loss is meant for."""

from collections.abc import Iterable

from torch import Tensor

from noisylabels.data.batches import Batch
from noisylabels.methods.base import Method, Parts
from noisylabels.methods.engine import Engine


class Single(Method):
    """Minimises the loss of one network by gradient descent.

    Args:
        engine: Runs the network.
        parts: What the method is made of.
    """

    def __init__(self, engine: Engine, parts: Parts) -> None:
        super().__init__(engine, parts, networks=1)

    def train_epoch(self, batches: Iterable[Batch]) -> None:
        """Train on one epoch's batches, or on what is left of them."""
        (network,) = self._networks
        network.train()

        def loss(part: Batch) -> Tensor:
            value: Tensor = self._loss(network(part.input), part.target)
            return value

        for batch in batches:
            self._descend(batch, loss)
