"""The reference of the command line, from the classes that the command line is made of."""

import ast
import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from itertools import pairwise
from typing import Any

from noisylabels.cli import CLASSES, COMMANDS, options


def reference() -> str:
    """Return a section for each command, in the order of ``noisylabels --help``."""
    return "\n\n".join(
        _section(name, command) for name, command in CLASSES.items() if not COMMANDS.get(name)
    )


def _section(name: str, command: type) -> str:
    said = _said(command)
    optional = options(command)
    shown = {field: _shown(field, optional) for field in fields(command)}
    words = [
        text if _is_required(field) else f"[{text}]"
        for field, text in shown.items()
        if text not in optional
    ]
    words += [
        f"{text} ..." for field, text in shown.items() if text in optional and _is_required(field)
    ]
    lines = [f"## noisylabels {name}", "", inspect.getdoc(command) or "", "", "```console"]
    lines += [" ".join(["$ noisylabels", name, *words, "[options]" * bool(optional)]).rstrip()]
    lines += ["```", ""]
    for field, text in shown.items():
        lines += [f"`{text}`", f": {said[field.name]}{_default(field)}", ""]
    return "\n".join(lines)


def _shown(field: Field[Any], optional: Sequence[str]) -> str:
    flag = f"--{field.name.replace('_', '-')}"
    if flag in optional:
        return flag
    return field.name.upper() + ("..." if "tuple" in str(field.type) else "")


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING


def _default(field: Field[Any]) -> str:
    """Return a sentence about a default that says something."""
    if field.default in (MISSING, None, False, (), ""):
        return ""
    default = field.default[0] if isinstance(field.default, tuple) else field.default
    return f" Default: `{default}`."


def _said(command: type) -> dict[str, str]:
    """Return the sentence that stands below each field of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(command))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        ast.unparse(field.target): " ".join(ast.literal_eval(below.value).split())
        for field, below in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr)
    }
