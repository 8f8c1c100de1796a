"""Files that are either whole or not there."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path, *, keep: Path | None = None, lasting: bool = True) -> Iterator[Path]:
    """Write a file under a temporary name and move it into place when it is whole.

    Args:
        path: The file to make or replace.
        keep: Where the file that is replaced goes, in the same folder; by default it is lost.
        lasting: Whether the folder is synced too. Where it is not, a power cut may bring the file
            that was there before back, whole; the next lasting file of the folder makes both last.

    Yields:
        The temporary path, in the same folder. When the block ends it is synced to the disk and
        renamed to ``path``; when the block raises it is removed and ``path`` stays as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder, "a.txt")) as path:
        ...         _ = path.write_text("whole")
        ...     os.listdir(folder)
        ['a.txt']
    """
    # Processes of several machines, or containers, may have one number and write one file.
    own = f"{os.getpid()}.{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{own}.tmp")
    try:
        yield temporary
        _sync(temporary)
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
        if lasting:
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, lasting: bool = True) -> None:
    """Write a value as JSON, whole or not at all.

    Args:
        path: The file to make or replace.
        value: Plain values; a path is written as a string.
        lasting: See :func:`replacing`.
    """
    with replacing(path, lasting=lasting) as temporary:
        temporary.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    """Make sure that what a file holds is on the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename last: it is the folder that has changed."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
