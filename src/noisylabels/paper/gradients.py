"""The slope of a loss over the probability of the given label: the paper's figure 2."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from noisylabels.losses import Loss, build

CLASSES = 10


@dataclass(frozen=True)
class Curve:
    """A loss whose slope is known in closed form.

    Args:
        title: What it is called.
        formula: ``p_y -> dL/dp_y``, where the other classes share ``1 - p_y`` evenly.
        key: The loss's key.
        hyperparameters: What it is made with.
        progress: How far training has come.
    """

    title: str
    formula: Callable[[Tensor], Tensor]
    key: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    progress: float = 0.0


def slope(
    key: str, hyperparameters: Mapping[str, Any], progress: float, count: int = 193
) -> tuple[Tensor, Tensor]:
    """Compute dL/dp_y by differentiating the loss itself.

    Args:
        key: The loss's key.
        hyperparameters: What it is made with.
        progress: How far training has come, in [0, 1].
        count: Number of points.

    Returns:
        p_y from 0.02 to 0.98, and the slopes there, where the other nine classes share 1 - p_y
        evenly; float64, of shape (``count``).
    """
    loss = build(key, **hyperparameters, reduction="sum")
    loss.progress = progress
    return slope_of(loss, count)


def slope_of(loss: Loss, count: int = 193) -> tuple[Tensor, Tensor]:
    """Compute dL/dp_y of a loss as it is.

    Args:
        loss: The loss, with a sum for its reduction.
        count: Number of points.

    Returns:
        What :func:`slope` does.
    """
    p = torch.linspace(0.02, 0.98, count, dtype=torch.float64, requires_grad=True)
    others = ((1 - p) / (CLASSES - 1))[:, None].expand(-1, CLASSES - 1)
    logits = torch.cat([p[:, None], others], dim=1).log()
    (gradient,) = torch.autograd.grad(loss(logits, torch.zeros(count, dtype=torch.int64)), p)
    return p.detach(), gradient


def _gce(q: float) -> Curve:
    return Curve(f"GCE, q {q:g}", lambda p: -(p ** (q - 1)), "gce", {"q": q})


def _tce(order: int) -> Curve:
    return Curve(
        f"TCE, order {order}", lambda p: -(1 - (1 - p) ** order) / p, "tce", {"order": order}
    )


def _js(pi: float) -> Curve:
    def formula(p: Tensor) -> Tensor:
        mixture = pi + (1 - pi) * p
        return -((1 - pi) * p / mixture).log() / math.log(1 - pi)

    return Curve(f"JS, pi {pi:g}", formula, "js", {"pi": pi})


def _dal(progress: float) -> Curve:
    start, end = 0.6, 1.5
    q = start + (end - start) * progress
    begin = (1 - start) / (end - start)
    weight = max(0.0, (progress - begin) / (1 - begin)) / (q * math.log(CLASSES))

    def formula(p: Tensor) -> Tensor:
        entropy = ((1 - p) / (CLASSES - 1)).log() - p.log()
        return -(p ** (q - 1)) + weight * entropy

    return Curve(f"DAL, t {progress:g}", formula, "dal", {"q_start": start, "q_end": end}, progress)


PANELS: dict[str, tuple[Curve, ...]] = {
    "CE and MAE": (
        Curve("CE", lambda p: -1 / p, "ce"),
        Curve("MAE", lambda p: -torch.ones_like(p), "mae"),
    ),
    "GCE": tuple(_gce(q) for q in (0.3, 0.7, 0.9)),
    "TCE": tuple(_tce(order) for order in (2, 6, 18)),
    "JS": tuple(_js(pi) for pi in (0.1, 0.5, 0.9)),
    "DAL": tuple(_dal(progress) for progress in (0.0, 0.4, 0.7, 1.0)),
}
"""The curves of figure 2, by what their panel shows."""
