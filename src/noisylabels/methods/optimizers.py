"""Optimisers: ``(parameters, *, the user's parameters) -> torch.optim.Optimizer``."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from noisylabels.errors import check_range


def sgd(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    l1_decay: float = 0.0,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Build stochastic gradient descent with momentum.

    Args:
        parameters: What to optimise.
        lr: Learning rate, above 0.
        momentum: In [0, 1].
        weight_decay: L2 penalty, at least 0.
        l1_decay: L1 penalty, at least 0: so much of each weight's sign is added to its gradient, as
            some losses were published with (ANL).
        nesterov: Whether the momentum is Nesterov's; ``momentum`` must be above 0 then.

    Returns:
        The optimiser.

    Raises:
        ConfigError: A value is out of its range.
    """
    check_range("lr", lr, open=True)
    check_range("momentum", momentum, high=1, open=nesterov)
    check_range("weight_decay", weight_decay)
    check_range("l1_decay", l1_decay)
    optimizer = torch.optim.SGD(
        parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
    )
    if l1_decay:
        optimizer.register_step_pre_hook(functools.partial(_add_signs, l1_decay))
    return optimizer


@torch.no_grad()
def _add_signs(
    l1_decay: float, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Add the gradient of an L1 penalty, as weight decay adds that of an L2 penalty."""
    for group in optimizer.param_groups:
        trained = [each for each in group["params"] if each.grad is not None]
        if trained:
            signs = torch._foreach_sign(trained)
            torch._foreach_add_([each.grad for each in trained], signs, alpha=l1_decay)


def adam(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float = 0.001,
    beta1: float = 0.9,
    beta2: float = 0.999,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Build Adam.

    Args:
        parameters: What to optimise.
        lr: Learning rate, above 0.
        beta1: Decay of the gradients' mean, in [0, 1).
        beta2: Decay of the squared gradients' mean, in [0, 1).
        weight_decay: L2 penalty, at least 0, added to the gradients.

    Returns:
        The optimiser.

    Raises:
        ConfigError: A value is out of its range.

    References:
        Kingma, Ba, "Adam: A Method for Stochastic Optimization", 2015.
    """
    check_range("lr", lr, open=True)
    check_range("beta1", beta1, high=1.0, below=True)
    check_range("beta2", beta2, high=1.0, below=True)
    check_range("weight_decay", weight_decay)
    return torch.optim.Adam(parameters, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay)


def with_lr_factors(
    make: Callable[..., torch.optim.Optimizer], parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Build an optimiser that gives some parameters another learning rate.

    Args:
        make: ``parameters -> optimizer``.
        parameters: What to optimise; the learning rate of each is multiplied by its attribute
            ``lr_factor``, where it has one.

    Returns:
        The optimiser.
    """
    # The first group's learning rate is the one that is reported.
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in parameters:
        groups.setdefault(getattr(parameter, "lr_factor", 1.0), []).append(parameter)
    if len(groups) == 1:
        return make(groups[1.0])
    groups = {factor: group for factor, group in groups.items() if group}
    optimizer = make([{"params": group} for group in groups.values()])
    for group, factor in zip(optimizer.param_groups, groups, strict=True):
        group["lr"] *= factor
    return optimizer


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": sgd, "adam": adam}
