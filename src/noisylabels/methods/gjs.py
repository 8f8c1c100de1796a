"""Generalized Jensen-Shannon: the label, and views of an image that must agree."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from noisylabels.data.batches import Batch
from noisylabels.errors import check_count, check_range
from noisylabels.functional import consensus
from noisylabels.losses import JensenShannonLoss
from noisylabels.methods.base import Method, MethodContext

PI = 0.5
"""What pi is if neither the method nor its loss says so."""


class GeneralizedJensenShannon(Method):
    r"""Fits the label with the mean prediction of several views that are kept alike.

    .. math::
        L = \frac{1}{N} \sum_i \Bigl[\ell(\bar p_i, y_i)
        - \frac{1}{\log(1 - \pi)} \frac{1}{V} \sum_v KL(p_i^{(v)} \| \bar p_i)\Bigr]

    With the loss ``js`` of the same :math:`\pi` this is the generalized Jensen-Shannon divergence
    of the paper, which is the sum of these two terms. The views are augmented independently and go
    through the network together. See :func:`noisylabels.functional.consensus`.

    Args:
        context: What the method is given; its loss stands where the paper has the Jensen-Shannon
            divergence of the label.
        pi: Sets the weight of the views' agreement, in (0, 1]; by default the loss ``js``'s own pi,
            and 0.5 with any other loss.
        views: V, at least 2.

    Raises:
        ConfigError: A hyper-parameter is out of its range.

    References:
        Englesson, Azizpour, "Generalized Jensen-Shannon Divergence Loss for Learning with Noisy
        Labels", 2021.
    """

    def __init__(self, context: MethodContext, *, pi: float | None = None, views: int = 2) -> None:
        self._given_pi = None if pi is None else check_range("pi", pi, high=1.0, open=True)
        self._views = check_count("views", views, low=2)
        super().__init__(context, networks=1)
        self.say_if_views_are_equal()
        loss = context.loss
        if isinstance(loss, JensenShannonLoss) and loss.pi != self.pi:
            context.say(
                f"gjs: the method's pi {self.pi:g} and the loss's {loss.pi:g} differ: together "
                f"they are not the published loss"
            )

    @property
    def pi(self) -> float:
        """Pi at present: as given to the method, or else that of its loss."""
        if self._given_pi is not None:
            return self._given_pi
        loss = self.context.loss
        if isinstance(loss, JensenShannonLoss):
            return check_range("the loss's pi", loss.pi, high=1.0, open=True)
        return PI

    @property
    def views(self) -> int:
        """How many views, each augmented anew, a batch has of an example."""
        return self._views

    def train_epoch(self, batches: Iterable[Batch]) -> None:
        """Train on the batches of an epoch, or on those that are left of it."""
        (network,) = self.networks
        network.train()

        def loss(part: Batch) -> Tensor:
            logits = network(torch.cat(part.views))
            mean_log_p, divergence = consensus(
                logits.reshape(len(part.views), len(part.target), -1)
            )
            fit: Tensor = self.context.loss(mean_log_p, part.target)
            weight = -1 / math.log1p(-self.pi) if self.pi < 1 else 0.0
            return fit + weight * divergence.mean()

        for batch in batches:
            self.optimize(batch, loss)
