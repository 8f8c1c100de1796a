"""Digests of files' contents, remembered: hashing 50,000 small files takes seconds, but once.

A digest is remembered with the path, the size and the modification time of its file, in one SQLite
file of the user's cache folder (``NOISYLABELS_CACHE`` names another). A file that was modified less
than two seconds before it was read is not remembered: it could be changed again without the time
showing it. Where the cache cannot be used, everything is hashed anew.
"""

import hashlib
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path

from noisylabels.errors import DataError

NAME = "digests.sqlite3"
SECONDS_OF_DOUBT = 2.0
THREADS = 8
BLOCK = 2**20
BATCH = 500
"""How many paths are looked up in one query: SQLite has a limit on variables."""

Stamp = tuple[int, int]
"""Size in bytes, and modification time in nanoseconds."""


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal.

    Args:
        path: The file.

    Raises:
        DataError: It cannot be read.
    """
    return file_digests([path])[0]


def file_digests(paths: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of many files' contents, in hexadecimal.

    Args:
        paths: The files.

    Returns:
        A digest for each, in order.

    Raises:
        DataError: One cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.txt")
        ...     _ = path.write_text("whole")
        ...     file_digests([path])[0][:12]
        'e2a1ed2be2a1'
    """
    # As bytes, for not every name is text.
    names = [os.fsencode(os.path.abspath(path)) for path in paths]  # noqa: PTH100 - far quicker
    stamps = [_stamp(path) for path in paths]
    with _cache() as cache:
        known = cache.find(names)
        digests = [
            known[name][1] if name in known and known[name][0] == stamp else None
            for name, stamp in zip(names, stamps, strict=True)
        ]
        missing = [index for index, digest in enumerate(digests) if digest is None]
        with ThreadPoolExecutor(THREADS) as threads:
            now = time.time_ns()
            found = list(threads.map(lambda index: _hash(paths[index]), missing))
        certain = now - SECONDS_OF_DOUBT * 1e9
        cache.keep(
            [
                (names[index], *stamps[index], digest)
                for index, digest in zip(missing, found, strict=True)
                if stamps[index][1] < certain
            ]
        )
    for index, digest in zip(missing, found, strict=True):
        digests[index] = digest
    return [digest for digest in digests if digest is not None]


def folder_digest(folder: Path) -> str:
    """Return a hash of the names and contents of all files below a folder.

    Args:
        folder: The folder, wherever it lies.

    Raises:
        DataError: A file cannot be read.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    total = hashlib.sha256()
    for path, digest in zip(files, file_digests(files), strict=True):
        total.update(f"{path.relative_to(folder).as_posix()}\0{digest}\n".encode())
    return total.hexdigest()


def _stamp(path: Path) -> Stamp:
    try:
        status = os.stat(path)  # noqa: PTH116 - a tenth of Path.stat's time
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return status.st_size, status.st_mtime_ns


def _hash(path: Path) -> str:
    try:
        with path.open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


class _Cache:
    """What is remembered; nothing where there is no database.

    Args:
        path: Its file.
        database: The database, if it can be used.
    """

    def __init__(self, path: Path, database: sqlite3.Connection | None) -> None:
        self._path = path
        self._database = database

    def find(self, names: Sequence[bytes]) -> dict[bytes, tuple[Stamp, str]]:
        """Return stamp and digest of each path that is known."""
        known: dict[bytes, tuple[Stamp, str]] = {}
        if self._database is None:
            return known
        try:
            for start in range(0, len(names), BATCH):
                part = names[start : start + BATCH]
                marks = ",".join("?" * len(part))
                query = f"SELECT path, size, modified, digest FROM files WHERE path IN ({marks})"
                for name, size, modified, digest in self._database.execute(query, part):
                    known[name] = (size, modified), digest
        except sqlite3.OperationalError:
            pass
        except sqlite3.DatabaseError:
            # Damaged: the next one to look makes a new one.
            self._path.unlink(missing_ok=True)
            self._database = None
        return known

    def keep(self, rows: Sequence[tuple[bytes, int, int, str]]) -> None:
        """Remember path, size, modification time and digest of files."""
        if self._database is None or not rows:
            return
        with suppress(sqlite3.Error), self._database:
            self._database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows)


@contextmanager
def _cache() -> Iterator[_Cache]:
    path = cache_folder() / NAME
    database = _open(path)
    with nullcontext() if database is None else closing(database):
        yield _Cache(path, database)


def _open(path: Path) -> sqlite3.Connection | None:
    """Open the database, anew if it is damaged; None where it cannot be used."""
    for _ in range(2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(path, timeout=10)
            database.execute(
                "CREATE TABLE IF NOT EXISTS files "
                "(path BLOB PRIMARY KEY, size INTEGER, modified INTEGER, digest TEXT)"
            )
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                return None
            with suppress(OSError):
                path.unlink()
        except OSError:
            return None
        else:
            return database
    return None


def cache_folder() -> Path:
    """Return the folder of what can be computed again.

    Returns:
        ``NOISYLABELS_CACHE`` if that is set, else ``noisylabels`` in the platform's cache folder.
    """
    if own := os.environ.get("NOISYLABELS_CACHE"):
        return Path(own)
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData/Local")
    elif sys.platform == "darwin":
        base = home / "Library/Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "noisylabels"
