"""The processes that train a run together: the only place that knows Lightning Fabric."""

import inspect
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from noisylabels.errors import CheckpointError, ConfigError, NoisyLabelsError
from noisylabels.methods.engine import Engine
from noisylabels.run.config import RunConfig


@contextmanager
def _without(name: str) -> Iterator[None]:
    """Hide a module that is not imported yet from what is imported meanwhile."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


# Fabric asks for torchmetrics' version by importing it, and with it torchvision, transformers and
# scipy: 3 to 5 seconds of each process, for a callback that nothing here uses.
with _without("torchmetrics"):
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

PATIENCE = 30
"""Seconds in which the other processes of a run that failed may end by themselves."""


def is_global_zero(run: RunConfig) -> bool:
    """Return whether this process is the first of those that train a run together.

    Args:
        run: The run; where it has one process, that is the first.
    """
    if run.devices * run.nodes == 1:
        # Whatever started it, such as Slurm, numbers it for purposes of its own.
        return True
    # Within a Slurm job a process that another one started has a local rank, and the other's Slurm
    # rank.
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if (rank := os.environ.get(name)) is not None:
            return rank.strip() == "0"
    return True


def launch(run: RunConfig, device: torch.device, precision: str) -> Fabric:
    """Start the processes that train together; each comes back from here.

    Args:
        run: The run.
        device: The kind of device that they train on.
        precision: ``"32"`` or ``"bf16"``.

    Returns:
        This process's engine.

    Raises:
        ConfigError: There are not so many devices or machines.
    """
    together = run.devices * run.nodes > 1
    # Running statistics are averaged at the end of each epoch, not overwritten at every step. The
    # second name is older torch's, which newer torch calls deprecated.
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    overwriting = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in known)
    options: dict[str, Any] = {overwriting: False}
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=device.type,
        devices=run.devices,
        num_nodes=run.nodes,
        strategy=DDPStrategy(**options) if together else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    try:
        fabric.launch()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"devices, nodes: {error}") from error
    return fabric


@contextmanager
def ending_others(engine: Engine) -> Iterator[None]:
    """End the processes that this one started, should it fail: they would wait for it.

    With NCCL they would until its timeout, their GPUs taken. Errors that have a name stop all
    processes alike: then the others have 30 s to save their batches. Those that `torchrun` or Slurm
    started are theirs to end.

    Args:
        engine: Those that train together, with the launcher that started them, if one did.
    """
    try:
        yield
    except BaseException as error:
        launcher = getattr(getattr(engine, "strategy", None), "launcher", None)
        watched = getattr(launcher, "procs", [])
        started = list(watched)
        # Or whoever watches them would kill this one, before it has said why.
        watched.clear()
        # Only the first process writes: what it cannot write, it alone knows of.
        alike = isinstance(error, NoisyLabelsError) and not isinstance(error, CheckpointError)
        patience = PATIENCE if alike else 0
        end = time.monotonic() + patience
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0, end - time.monotonic()))
            process.kill()
        raise
