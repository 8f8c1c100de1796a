"""Train classifiers on data whose labels are partly wrong."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noisylabels import errors, functional, losses, noise, schedules
    from noisylabels.inference.classifier import load
    from noisylabels.run.trainer import train
    from noisylabels.studies.audit import audit
    from noisylabels.studies.records import frame as runs
    from noisylabels.studies.study import grid

__all__ = [
    "audit",
    "errors",
    "functional",
    "grid",
    "load",
    "losses",
    "noise",
    "runs",
    "schedules",
    "train",
]
__version__ = "0.1.0.dev0"

_CORE = ("errors", "functional", "losses", "noise", "schedules")
_FUNCTIONS = {
    "audit": ("noisylabels.studies.audit", "audit"),
    "load": ("noisylabels.inference.classifier", "load"),
    "grid": ("noisylabels.studies.study", "grid"),
    "train": ("noisylabels.run.trainer", "train"),
    "runs": ("noisylabels.studies.records", "frame"),
}


def __getattr__(name: str) -> Any:
    # Torch takes seconds to import, `noisylabels --help` may take half of one.
    if name in _CORE:
        return importlib.import_module(f"noisylabels.{name}")
    if name in _FUNCTIONS:
        module, function = _FUNCTIONS[name]
        try:
            return getattr(importlib.import_module(module), function)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing == "noisylabels":
                raise
            from noisylabels.errors import MissingExtraError

            raise MissingExtraError(missing, "train") from error
    raise AttributeError(f"module 'noisylabels' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_CORE, *_FUNCTIONS]
