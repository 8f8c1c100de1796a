"""One network, one loss: what every robust loss is meant for."""

from collections.abc import Iterable

import torch
from torch import Tensor

from noisylabels.data.batches import Batch
from noisylabels.errors import ConfigError
from noisylabels.methods.base import Method, MethodContext


class Single(Method):
    """Minimises the loss of one network by gradient descent.

    Args:
        context: What the method is given.
    """

    def __init__(self, context: MethodContext) -> None:
        # A subclass may look at more.
        super().__init__(context, networks=1, pure=type(self) is Single)

    def check_target(self, target: Tensor) -> None:
        """Refuse targets that the loss does not take.

        Args:
            target: Some targets.

        Raises:
            ConfigError: The loss does not take them.
        """
        if target.ndim == 1:
            return
        logits = target.new_zeros(len(target), self.context.task.num_classes, dtype=torch.float32)
        try:
            self.context.loss(logits, target)
        except TypeError as error:
            raise ConfigError(str(error)) from error

    def train_epoch(self, batches: Iterable[Batch]) -> None:
        """Train on the batches of an epoch, or on those that are left of it."""
        (network,) = self.networks
        network.train()

        def loss(part: Batch) -> Tensor:
            value: Tensor = self.context.loss(network(part.input), part.target)
            return value

        for batch in batches:
            self.optimize(batch, loss)
