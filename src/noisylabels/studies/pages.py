"""Pages for a browser: a template and what fills it, in one file that needs no network."""

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from noisylabels.atomic import replacing
from noisylabels.errors import DataError, MissingExtraError


def render(template: str, **context: Any) -> str:
    """Fill a template.

    Args:
        template: Name of a file in ``noisylabels/studies/templates``. What fills it is escaped.
        **context: What the template asks for.

    Returns:
        The page.

    Raises:
        MissingExtraError: Jinja is not installed.
    """
    require()
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("noisylabels.studies"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template(template).render(**context)


def require(*, drawings: bool = False) -> None:
    """Refuse to make pages where that cannot be done, before any work is done for them.

    Args:
        drawings: Whether they have drawings.

    Raises:
        MissingExtraError: Jinja is not installed, or for drawings Matplotlib.
    """
    for module in ("jinja2", "matplotlib") if drawings else ("jinja2",):
        try:
            import_module(module)
        except ImportError as error:
            raise MissingExtraError(module, "report") from error


def check(path: Path) -> None:
    """Refuse a file that cannot be written before any work is done for it.

    Args:
        path: The file to make or replace.

    Raises:
        DataError: It is a folder, or lies where nothing can be written.
    """
    if not path.name or path.is_dir():
        raise DataError(f"{path}: expected a file to write, got a folder")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise DataError(f"{path}: cannot be written in {nearest}")


def write(path: Path, text: str) -> None:
    """Write a text, whole or not at all.

    Args:
        path: The file to make or replace; its folder is made if it is not there.
        text: What it is to hold.

    Raises:
        DataError: The file cannot be written.
    """
    check(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            # Names of files are not always text: their bytes stay what they are.
            temporary.write_bytes(_bytes(text))
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Half of a pair, which is no byte of a name.
        return text.encode("utf-8", "backslashreplace")


def legible(text: str) -> str:
    r"""Return a text as a browser has it: what is no character becomes U+FFFD.

    Example:
        >>> legible("caf\udce9.png") == "caf\ufffd.png"
        True
    """
    return re.sub("[\\ud800-\\udfff]", "\ufffd", text)


def write_page(path: Path, template: str, **context: Any) -> None:
    """Fill a template and write it, whole or not at all.

    Args:
        path: The file to make or replace; its folder is made if it is not there.
        template: Name of a file in ``noisylabels/studies/templates``. What fills it is escaped.
        **context: What the template asks for.

    Raises:
        MissingExtraError: Jinja is not installed.
        DataError: The file cannot be written.
    """
    # Where a name is no text, people see which byte it has.
    text = render(template, **context)
    write(path, text.encode("utf-8", "backslashreplace").decode())
