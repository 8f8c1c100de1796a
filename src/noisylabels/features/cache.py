"""Vectors that were computed once, by what they were computed from."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from noisylabels.atomic import replacing
from noisylabels.data.digests import cache_folder

FOLDER = "features"
LIMIT = 10 * 2**30
"""Bytes that are kept at most: what was not used for longest goes first."""
DAY = 86400
"""Seconds after which what is half-written belongs to no process that still writes it."""


def recall(identity: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Return tensors that were kept; None where there are none, or they cannot be read.

    A damaged file is deleted.

    Args:
        identity: All that they depend on, plain values.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with suppress(OSError, RuntimeError, KeyError):
        path = _path(identity)
        try:
            found = load_file(path)
        except SafetensorError:
            # Or it would count as kept for good.
            path.unlink()
            return None
        with suppress(OSError):
            # What prune goes by: access times are not kept on every file system.
            os.utime(path)
        return found
    return None


def is_kept(identity: Mapping[str, Any]) -> bool:
    """Return whether tensors are kept.

    Args:
        identity: All that they depend on, plain values.
    """
    with suppress(OSError, RuntimeError):
        return _path(identity).exists()
    return False


def keep(identity: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Keep tensors for the next time; where that is impossible they are computed again.

    Args:
        identity: All that they depend on, plain values.
        tensors: The tensors, by name.
    """
    from safetensors.torch import save

    with suppress(OSError, RuntimeError):
        path = _path(identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            # Not save_file, which lets only its owner read the file.
            temporary.write_bytes(
                save({name: tensor.contiguous() for name, tensor in tensors.items()})
            )
        prune(spare=path)


def size() -> int:
    """Return how many bytes are kept."""
    return sum(stat.st_size for _, stat in _files())


def prune(limit: int = LIMIT, spare: Path | None = None) -> int:
    """Delete what was not used for longest, until no more than a number of bytes is kept.

    Args:
        limit: That number.
        spare: A file that stays, however large.

    Returns:
        How many bytes were deleted.
    """
    _sweep_up()
    files = sorted(_files(), key=lambda file: file[1].st_mtime_ns, reverse=True)
    kept = deleted = 0
    for path, stat in files:
        kept += stat.st_size
        if kept > limit and path != spare:
            # Another process may have deleted it, or be reading it.
            with suppress(OSError):
                path.unlink()
                deleted += stat.st_size
                kept -= stat.st_size
    return deleted


def _sweep_up() -> None:
    """Delete what a process left half-written that was killed, a day ago or earlier."""
    with suppress(OSError, RuntimeError):
        for path in (cache_folder() / FOLDER).glob(".*.tmp"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > DAY:
                    path.unlink()


def _files() -> list[tuple[Path, os.stat_result]]:
    found = []
    with suppress(OSError, RuntimeError):
        for path in (cache_folder() / FOLDER).glob("*.safetensors"):
            with suppress(OSError):
                found.append((path, path.stat()))
    return found


def _path(identity: Mapping[str, Any]) -> Path:
    text = json.dumps(identity, sort_keys=True, default=str)
    return cache_folder() / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
