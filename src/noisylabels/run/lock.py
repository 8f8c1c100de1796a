"""One process per run folder."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from noisylabels.errors import CheckpointError

NAME = ".lock"

_held_here: set[Path] = set()


class HeldError(CheckpointError):
    """A run folder is held: someone else is making this run."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process.

    The operating system holds the lock, so that a process that dies, however it dies, leaves none
    behind; nor do processes that it has started inherit it.

    Args:
        folder: The run folder.

    Raises:
        HeldError: Another process holds it, or this one.
        OSError: The folder cannot be written.
    """
    own = folder.resolve()
    # Closing any file of it would give up a lock that this process has on it.
    if own in _held_here:
        raise HeldError(f"{folder}: this process is making this run already")
    with (folder / NAME).open("a+", encoding="utf-8") as file:
        for wait in (0.1, 0.4, 0.0):
            # Whoever asks whether the folder is held, holds it for an instant.
            if _acquire(file):
                break
            time.sleep(wait)
        else:
            file.seek(0)
            raise HeldError(
                f"{folder}: another process ({file.read().strip() or 'unknown'}) is making this run"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        _held_here.add(own)
        try:
            yield
        finally:
            _held_here.discard(own)
            file.truncate(0)


def is_held(folder: Path) -> bool:
    """Return whether a process, this or another, holds a run folder."""
    if folder.resolve() in _held_here:
        return True
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
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def _acquire_on_windows(file: IO[str]) -> bool:
    import importlib

    msvcrt = importlib.import_module("msvcrt")
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True
