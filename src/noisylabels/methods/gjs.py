"""Generalized Jensen-Shannon: the label, and views of an image that must agree."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from noisylabels.data.batches import Batch
from noisylabels.errors import check_count, check_range
from noisylabels.functional import consensus
from noisylabels.losses import JensenShannonLoss
from noisylabels.methods.base import Method, Parts
from noisylabels.methods.engine import Engine


class GeneralizedJensenShannon(Method):
    r"""Fits the label with the mean prediction of several views that are kept alike.

    .. math::
        L = \frac{1}{N} \sum_i \Bigl[\ell(\bar p_i, y_i)
        - \frac{1}{\log(1 - \pi)} \frac{1}{V} \sum_v KL(p_i^{(v)} \| \bar p_i)\Bigr]

    With the loss ``js`` and the same :math:`\pi` this is the generalized Jensen-Shannon divergence
    of the paper, which is the sum of these two terms. The views are augmented independently and go
    through the network together.

    Args:
        engine: Runs the network.
        parts: What the method is made of; its loss stands where the paper has the Jensen-Shannon
            divergence of the label.
        pi: Sets the weight of the views' agreement, in (0, 1].
        views: V, at least 2.

    Raises:
        ConfigError: A hyper-parameter is out of its range.

    References:
        Englesson, Azizpour, "Generalized Jensen-Shannon Divergence Loss for Learning with Noisy
        Labels", 2021.
    """

    def __init__(self, engine: Engine, parts: Parts, *, pi: float = 0.5, views: int = 2) -> None:
        check_range("pi", pi, high=1.0, open=True)
        self._weight = -1 / math.log1p(-pi) if pi < 1 else 0.0
        self._views = check_count("views", views, low=2)
        super().__init__(engine, parts, networks=1)
        self._warn_of_equal_views()
        if isinstance(self._loss, JensenShannonLoss) and self._loss.pi != pi:
            self._say(
                f"gjs: the method's pi {pi:g} and the loss's {self._loss.pi:g} differ: together "
                f"they are not the published loss"
            )

    @property
    def views(self) -> int:
        """How many times each batch has each example, augmented anew."""
        return self._views

    def train_epoch(self, batches: Iterable[Batch]) -> None:
        """Train on one epoch's batches, or on what is left of them."""
        (network,) = self._networks
        network.train()

        def loss(part: Batch) -> Tensor:
            logits = network(torch.cat(part.views))
            mean_log_p, divergence = consensus(
                logits.reshape(len(part.views), len(part.target), -1)
            )
            value: Tensor = self._loss(mean_log_p, part.target) + self._weight * divergence.mean()
            return value

        for batch in batches:
            self._descend(batch, loss)
