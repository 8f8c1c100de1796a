"""Sets of candidates: which of them is the label shows as the network learns."""

from collections.abc import Iterable

import torch
from torch import Tensor

from noisylabels.candidates import CandidateLoss
from noisylabels.data.batches import Batch
from noisylabels.errors import ConfigError
from noisylabels.methods.base import Method, MethodContext


class Candidates(Method):
    """Minimises the loss of a set's candidates, each weighed by what the network thinks of it.

    See :class:`noisylabels.candidates.CandidateLoss`. The sharpness of the weights moves linearly
    with progress, from ``start`` to ``end``: 0 and 0 average over the candidates, 1 and 1 believe
    the network from the first step on. Cross entropy is the loss to take: a robust one can learn
    nothing at all where sets are large, see ``docs/results/candidates.md``.

    Args:
        context: What the method is given; its loss is that of a label.
        start: Sharpness at the beginning, at least 0.
        end: Sharpness at the end, at least 0.

    Raises:
        ConfigError: A sharpness is out of its range, or class probabilities do not define the loss.
    """

    def __init__(self, context: MethodContext, *, start: float = 0.0, end: float = 2.0) -> None:
        self._loss = CandidateLoss(context.loss, start=start, end=end)
        super().__init__(context, networks=1)

    def check_target(self, target: Tensor) -> None:
        """Refuse targets that are no sets of candidates.

        Args:
            target: Some targets.

        Raises:
            ConfigError: They are none.
        """
        if target.dtype is not torch.bool:
            raise ConfigError(
                'expected sets of candidates, got one label for each example: method = "single" is '
                'for such; noise = {name = "candidates", rate = 0.3} makes sets of them'
            )

    def train_epoch(self, batches: Iterable[Batch]) -> None:
        """Train on the batches of an epoch, or on those that are left of it."""
        (network,) = self.networks
        network.train()

        def loss(part: Batch) -> Tensor:
            value: Tensor = self._loss(network(part.input), part.target)
            return value

        for batch in batches:
            self.optimize(batch, loss)

    def metrics(self) -> dict[str, float]:
        """Return the sharpness of the present epoch."""
        return {"sharpness": self._loss.sharpness}
