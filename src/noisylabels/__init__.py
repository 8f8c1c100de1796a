"""Train classifiers on data whose labels are partly wrong."""

import importlib
from types import ModuleType

__version__ = "0.1.0.dev0"

_CORE = ("errors", "functional", "losses", "noise", "schedules")


def __getattr__(name: str) -> ModuleType:
    # Torch takes seconds to import, `noisylabels --help` may take half of one.
    if name in _CORE:
        return importlib.import_module(f"noisylabels.{name}")
    raise AttributeError(f"module 'noisylabels' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_CORE]
