"""One process per run folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from noisylabels.errors import CheckpointError

NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process.

    The operating system holds the lock, so that a process that dies, however it dies, leaves none
    behind; nor do processes that it has started inherit it.

    Args:
        folder: The run folder.

    Raises:
        CheckpointError: Another process holds it.
        OSError: The folder cannot be written.
    """
    with (folder / NAME).open("a+", encoding="utf-8") as file:
        if not _acquire(file):
            file.seek(0)
            raise CheckpointError(
                f"{folder}: another process ({file.read().strip() or 'unknown'}) is making this run"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def is_held(folder: Path) -> bool:
    """Return whether another process holds a run folder."""
    try:
        with (folder / NAME).open("r+", encoding="utf-8") as file:
            return not _acquire(file)
    except OSError:
        return False


def _acquire(file: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:
        return _acquire_on_windows(file)
    try:
        # A record lock, not flock: workers that outlive their parent must not keep it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _acquire_on_windows(file: IO[str]) -> bool:
    import importlib

    msvcrt = importlib.import_module("msvcrt")
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True
