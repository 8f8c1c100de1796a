"""Digests of files' contents, remembered between runs.

A run is known by what its data files hold, not by where they lie, so every file has to be hashed.
For 50,000 small files that takes seconds, so digests are kept in a small database and looked up by
a file's absolute path, size and times. The database is a cache only: a damaged one is replaced,
one that cannot be written is ignored, and deleting it is always safe.
"""

import hashlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from noisylabels.errors import DataError

T = TypeVar("T")

DATABASE = "digests.sqlite3"
TABLE = """
    CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, stamp TEXT, digest TEXT)
    WITHOUT ROWID
"""
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
PATIENCE = 5.0
"""Seconds to wait for another process that is writing the database."""
YOUNG = 2 * 10**9
"""Nanoseconds for which a changed file counts as young: no clock of a file system is coarser."""
THREADS = 8
TOGETHER = 256
"""Files that a thread hashes at a time."""
PIECE = 2**20
"""Bytes that are read at once."""


def cache_folder() -> Path:
    """Return the folder of what is remembered between runs, which may not exist.

    It is ``$NOISYLABELS_CACHE``, or ``noisylabels`` in the user's cache folder of the platform.

    Raises:
        RuntimeError: The user has no home.
    """
    if own := os.environ.get("NOISYLABELS_CACHE"):
        return Path(own).expanduser()
    if sys.platform == "win32":
        base, default = os.environ.get("LOCALAPPDATA"), "AppData/Local"
    else:
        base, default = os.environ.get("XDG_CACHE_HOME"), ".cache"
    return Path(base or Path.home() / default, "noisylabels")


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of named tensors, such as a network's weights.

    Args:
        tensors: The tensors, on any device.
    """
    total = hashlib.sha256()
    for name, tensor in tensors.items():
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(content.view(torch.uint8).numpy().data)
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal.

    Args:
        path: The file.

    Raises:
        DataError: The file cannot be read.
    """
    (digest,) = file_digests([path])
    return _readable(path, digest)


def tree_digest(path: Path) -> str:
    """Return a hash of a file's contents, or of the names and contents of all files in a folder.

    Args:
        path: A file, or a folder, whose own name does not count; links below it are followed.

    Raises:
        DataError: Something there cannot be read.
    """
    if not path.is_dir():
        return file_digest(path)
    names = sorted(_files_below(path))
    digests = file_digests([path / name for name in names])
    total = hashlib.sha256()
    for name, digest in zip(names, digests, strict=True):
        total.update(f"{name!a} {_readable(path / name, digest)}\n".encode())
    return total.hexdigest()


def file_digests(paths: Sequence[Path | str]) -> list[str | OSError]:
    """Return the SHA-256 of many files' contents, without reading those that are remembered.

    Args:
        paths: The files.

    Returns:
        For each file its digest in hexadecimal, or why it cannot be read.
    """
    names = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - far quicker than resolve
    # A file that changes from here on gets a time that is not young any more when it is next seen.
    begun = time.time_ns()
    stats = [_stat(name) for name in names]
    stamps = [_stamp(found) for found in stats]
    # No name of a file is refused by the database that way, whatever its bytes are.
    keys = [ascii(name) for name in names]
    known: dict[tuple[str, str], str] = _ask(lambda database: _recall(database, keys), {})
    digests = [
        found if isinstance(found, OSError) else known.get((key, stamp))
        for found, key, stamp in zip(stats, keys, stamps, strict=True)
    ]
    unknown = [index for index, digest in enumerate(digests) if digest is None]
    new = []
    for index, digest in zip(unknown, _hash_all([names[i] for i in unknown]), strict=True):
        digests[index] = digest
        found = stats[index]
        # As in git's index: within one tick of the file system's clock a file can change twice,
        # and the second change leaves size and time as they were after the first.
        settled = not isinstance(found, OSError) and found.st_mtime_ns < begun - YOUNG
        if settled and isinstance(digest, str):
            new.append((keys[index], stamps[index], digest))
    if new:
        _ask(lambda database: _remember(database, new), None)
    return [digest for digest in digests if digest is not None]


def _readable(path: Path, digest: str | OSError) -> str:
    if isinstance(digest, OSError):
        raise DataError(f"{path}: cannot be read ({digest.strerror})") from digest
    return digest


def _files_below(folder: Path) -> Iterator[str]:
    """Yield the paths of all files below a folder, relative to it, with slashes."""
    seen = {folder.resolve()}
    for top, below, files in os.walk(folder, followlinks=True):
        folders = {name: Path(top, name).resolve() for name in sorted(below)}
        # A link may lead back to where it came from. In order, or one of two links to the same
        # folder would be taken today and the other tomorrow.
        below.clear()
        for name, real in folders.items():
            if real not in seen:
                seen.add(real)
                below.append(name)
        for name in files:
            yield Path(top, name).relative_to(folder).as_posix()


def _stat(name: str) -> os.stat_result | OSError:
    try:
        return os.stat(name)  # noqa: PTH116 - a tenth of Path.stat's time
    except OSError as error:
        return error


def _stamp(found: os.stat_result | OSError) -> str:
    """Return what changes with a file: a copy can keep size and mtime, but hardly the ctime."""
    if isinstance(found, OSError):
        return ""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _hash_all(names: Sequence[str]) -> list[str | OSError]:
    parts = [names[start : start + TOGETHER] for start in range(0, len(names), TOGETHER)]
    with ThreadPoolExecutor(THREADS) as threads:
        return list(chain.from_iterable(threads.map(_hash_some, parts)))


def _hash_some(names: Sequence[str]) -> list[str | OSError]:
    return [_hash(name) for name in names]


def _hash(name: str) -> str | OSError:
    total = hashlib.sha256()
    try:
        # hashlib.file_digest would clear a buffer of 256 KiB for every small file.
        with open(name, "rb", buffering=0) as file:  # noqa: PTH123
            while piece := file.read(PIECE):
                total.update(piece)
    except OSError as error:
        return error
    return total.hexdigest()


def _ask(query: Callable[[sqlite3.Connection], T], default: T) -> T:
    """Run a query in the database; return the default if that is impossible."""
    try:
        path = cache_folder() / DATABASE
        path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return default
    try:
        with closing(sqlite3.connect(path, timeout=PATIENCE)) as database, database:
            database.execute(TABLE)
            return query(database)
    except sqlite3.Error as error:
        # The lowest byte is the kind of error, the others are details.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED:
            with suppress(OSError):
                path.unlink()
    return default


def _recall(database: sqlite3.Connection, keys: Sequence[str]) -> dict[tuple[str, str], str]:
    rows = database.execute(
        "SELECT path, stamp, digest FROM digests WHERE path IN (SELECT value FROM json_each(?))",
        (json.dumps(keys),),
    )
    return {(path, stamp): digest for path, stamp, digest in rows}


def _remember(database: sqlite3.Connection, rows: Sequence[tuple[str, str, str]]) -> None:
    database.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", rows)
