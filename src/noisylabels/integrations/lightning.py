"""A callback for Lightning, of the package ``lightning`` or ``pytorch_lightning``.

It is given to the Trainer::

    import lightning
    from noisylabels.integrations.lightning import LossProgress

    trainer = lightning.Trainer(max_epochs=20, callbacks=[LossProgress()])
"""

import importlib
import math
import sys
from typing import TYPE_CHECKING, Any

from noisylabels.errors import ConfigError, MissingExtraError, check_count
from noisylabels.integrations import set_progress

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""Where Lightning is: the same code in two packages."""


def _find_callback() -> Any:
    # A Trainer of either takes callbacks of the other, so whichever is loaded already will do.
    for package in sorted(PACKAGES, key=lambda package: package not in sys.modules):
        try:
            return importlib.import_module(package).Callback
        except ModuleNotFoundError as error:
            missing = error
    raise MissingExtraError("lightning", "lightning") from missing


if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    Callback = _find_callback()


class LossProgress(Callback):
    r"""Sets the progress of every loss in the module that is trained, at every batch.

    Progress is that towards the limit that will end training, as the Trainer's own
    ``global_step / estimated_stepping_batches`` has it with one optimiser:

    .. math::
        \max\left(\frac{\text{epochs}}{\text{max epochs}},
        \frac{\text{global step}}{\text{max steps}}\right)

    where an epoch counts in parts, by the steps that its batches make under gradient accumulation,
    so that all batches of a step have the same progress. With several optimisers an epoch counts by
    its batches, and ``max_steps`` is of the steps of all of them, as for the Trainer. ``max_time``
    counts where nothing else limits training, as it makes results depend on the machine. Where
    the length of an epoch is not known, progress moves from epoch to epoch.

    All of it is in a checkpoint of the Trainer: training that is resumed goes on where it was,
    within an epoch too.

    Args:
        total_steps: Optimiser steps that training takes, as ``trainer.global_step`` counts them,
            for a Trainer that has no limit or is stopped by something else. Progress stays at 1
            after them.

    Raises:
        ConfigError: ``total_steps`` is not a whole number of at least 1. When training starts:
            the module holds no loss, or nothing says when training will end.

    Example:
        >>> LossProgress(total_steps=10_000).total_steps
        10000
    """

    def __init__(self, *, total_steps: int | None = None) -> None:
        super().__init__()
        if total_steps is not None:
            check_count("total_steps", total_steps, low=1)
        self.total_steps = total_steps

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Set the progress before the first batch, or that of the batch to resume with."""
        # A checkpoint that was made at the end of an epoch still tells its last batch.
        batch = (trainer.fit_loop.batch_idx + 1) % trainer.num_training_batches
        set_progress(pl_module, self._progress(trainer, int(batch)))

    def on_train_batch_start(
        self, trainer: "Trainer", pl_module: "LightningModule", batch: Any, batch_idx: int
    ) -> None:
        """Set the progress before a batch."""
        # Its `batch_idx` is not reliable where the module fetches the batches.
        set_progress(pl_module, self._progress(trainer, trainer.fit_loop.batch_idx))

    def _progress(self, trainer: "Trainer", batch: int) -> float:
        if self.total_steps is not None:
            return min(1.0, trainer.global_step / self.total_steps)
        shares = []
        if trainer.max_steps != -1:
            shares.append(trainer.global_step / trainer.max_steps)
        epochs, batches = trainer.max_epochs, trainer.num_training_batches
        if epochs is not None and epochs != -1:
            if batches != math.inf:
                accumulated = trainer.accumulate_grad_batches
                step = batch // accumulated / math.ceil(batches / accumulated)
                shares.append((trainer.current_epoch + step) / epochs)
            elif epochs > 1:
                shares.append(trainer.current_epoch / epochs)
        if not shares:
            shares = _shares_of_time(trainer)
        if not shares:
            raise ConfigError(
                f"nothing says when training ends: the Trainer has max_epochs={epochs}, "
                f"max_steps={trainer.max_steps} and no max_time, and an epoch has {batches} "
                f"batches: expected one of these limits, or LossProgress(total_steps=...)"
            )
        return min(1.0, max(shares))


def _shares_of_time(trainer: "Trainer") -> list[float]:
    """Return the part of each time limit that has passed, on the first process's clock."""
    shares = []
    # Either package has a Timer of its own, which is what `max_time` becomes.
    for timer in trainer.callbacks:  # type: ignore[attr-defined]
        remaining = timer.time_remaining() if hasattr(timer, "time_remaining") else None
        if remaining is not None:
            elapsed = timer.time_elapsed()
            share = elapsed / max(elapsed + remaining, sys.float_info.min)
            shares.append(trainer.strategy.broadcast(share))
    return shares
