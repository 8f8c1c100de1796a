"""Where the runs of a study are made."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from noisylabels.errors import ConfigError, MissingExtraError, unknown
from noisylabels.run import config
from noisylabels.run.config import Component
from noisylabels.studies.launchers.jobs import Launcher
from noisylabels.studies.launchers.local import Local
from noisylabels.studies.launchers.ray import Ray
from noisylabels.studies.launchers.slurm import Slurm

LAUNCHERS: dict[str, Callable[..., Launcher]] = {"local": Local, "slurm": Slurm, "ray": Ray}
"""Launchers by name."""
ANYWHERE: dict[str, dict[str, Any]] = {"slurm": {"cluster": "local"}}
"""Options with which those of a launcher can be checked where it could not be used."""


def launcher(
    name: str,
    jobs: int | None = None,
    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Launcher:
    """Make a launcher.

    Args:
        name: A key of ``LAUNCHERS``.
        jobs: How many runs are made at once; the launcher's own default where it is None.
        options: What a study's file says to each launcher, by its name.

    Returns:
        The launcher; nothing is started yet.

    Raises:
        ConfigError: There is none of that name, or an option, of this launcher or another, does not
            fit. Those of one that is not installed are not checked.
        MissingExtraError: What it needs is not installed.
    """
    if name not in LAUNCHERS:
        raise ConfigError(unknown("launcher", name, LAUNCHERS))
    for other in options.keys() - {name}:
        with suppress(MissingExtraError):
            _make(other, {**options[other], **ANYWHERE.get(other, {})})
    return _make(name, {**options.get(name, {}), **({} if jobs is None else {"jobs": jobs})})


def _make(name: str, options: Mapping[str, Any]) -> Launcher:
    target = LAUNCHERS[name]
    return target(**config.bind(Component(name, options), target, "launcher"))
