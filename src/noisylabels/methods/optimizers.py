"""Optimisers: ``(parameters, *, the user's parameters) -> torch.optim.Optimizer``."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from noisylabels.errors import check_range


def sgd(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Build stochastic gradient descent with momentum.

    Args:
        parameters: What to optimise.
        lr: Learning rate, above 0.
        momentum: In [0, 1].
        weight_decay: L2 penalty, at least 0.
        nesterov: Whether the momentum is Nesterov's; ``momentum`` must be above 0 then.

    Returns:
        The optimiser.

    Raises:
        ConfigError: A value is out of its range.
    """
    check_range("lr", lr, open=True)
    check_range("momentum", momentum, high=1, open=nesterov)
    check_range("weight_decay", weight_decay)
    return torch.optim.SGD(
        parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
    )


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": sgd}
