"""One network, one loss: what every robust loss is meant for."""

from collections.abc import Iterable

from torch import Tensor

from noisylabels.data.batches import Batch
from noisylabels.methods.base import Method, MethodContext


class Single(Method):
    """Minimises the loss of one network by gradient descent.

    Args:
        context: What the method is given.
    """

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context, networks=1)

    def train_epoch(self, batches: Iterable[Batch]) -> None:
        """Train on the batches of an epoch, or on those that are left of it."""
        (network,) = self.networks
        network.train()

        def loss(part: Batch) -> Tensor:
            value: Tensor = self.context.loss(network(part.input), part.target)
            return value

        for batch in batches:
            self.optimize(batch, loss)
