"""The losses in other libraries' training loops, one module for each; they need the core alone."""

from torch import nn

from noisylabels.losses import Loss


def set_progress(module: nn.Module, value: float) -> None:
    """Tell every loss within a module the progress of training.

    Args:
        module: A loss, or anything that has losses among its modules.
        value: ``epoch / epochs``, in [0, 1].

    Raises:
        ConfigError: The value is out of its range.

    Example:
        >>> from noisylabels.losses import build
        >>> criteria = nn.ModuleList([build("dal", q_start=0.0, q_end=1.0)])
        >>> set_progress(criteria, 0.5)
        >>> criteria[0].q
        0.5
    """
    for each in module.modules():
        if isinstance(each, Loss):
            each.progress = value
