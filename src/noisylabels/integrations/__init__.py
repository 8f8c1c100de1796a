"""Adapters for the training loops of other libraries, one module each.

Importing a module imports its library, or says which extra brings it; importing this package
imports torch alone. In any other loop :func:`set_progress` is all that a dynamic loss needs.
"""

from torch import nn

from noisylabels.errors import ConfigError
from noisylabels.losses import Loss


def set_progress(module: nn.Module, progress: float) -> None:
    """Tell every loss in a module how far training is.

    Args:
        module: A loss, or whatever holds losses at any depth.
        progress: Training progress in [0, 1].

    Raises:
        ConfigError: ``progress`` is out of its range, or the module holds no loss of this library,
            such as one whose losses are in a list rather than a ``torch.nn.ModuleList``.

    Example:
        >>> from noisylabels.losses import DynamicsAwareLoss
        >>> both = nn.ModuleDict({"teacher": DynamicsAwareLoss(), "student": DynamicsAwareLoss()})
        >>> set_progress(both, 0.5)
        >>> both["teacher"].q, both["student"].q
        (1.05, 1.05)
    """
    losses = [part for part in module.modules() if isinstance(part, Loss)]
    if not losses:
        raise ConfigError(
            f"{type(module).__name__} holds no loss of noisylabels: expected one as an attribute, "
            f"such as `self.loss = DynamicsAwareLoss()`, or in a torch.nn.ModuleList"
        )
    for loss in losses:
        loss.progress = progress
