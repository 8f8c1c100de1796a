"""The functions of the package itself, for the page that indexes them by the names people type."""

import inspect
from pathlib import Path

import noisylabels


def reference() -> str:
    """Return an entry for each, which points to where it is described."""
    entries = []
    for name in sorted(noisylabels.__all__):
        function = getattr(noisylabels, name)
        if inspect.ismodule(function):
            continue
        signature = inspect.signature(function).replace(return_annotation=inspect.Signature.empty)
        bare = [
            each.replace(
                annotation=inspect.Parameter.empty,
                default=str(each.default) if isinstance(each.default, Path) else each.default,
            )
            for each in signature.parameters.values()
        ]
        described = f"{function.__module__}.{function.__qualname__}"
        first, _, _ = inspect.getdoc(function).partition("\n")
        entries.append(
            f"```{{py:function}} noisylabels.{name}{signature.replace(parameters=bare)}\n"
            f"{first} See {{py:func}}`{described}`.\n```\n"
        )
    return "\n".join(entries)
