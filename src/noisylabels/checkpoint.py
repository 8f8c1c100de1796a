"""Files that are either whole or not there, and the checkpoints among them."""

import json
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from noisylabels.errors import CheckpointError

FORMAT = 1


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name and move it into place when it is whole.

    Args:
        path: The file to make or replace.

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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all.

    Args:
        path: The file to make or replace.
        value: Plain values; a path is written as a string.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")


def save(path: Path, run_id: str, state: dict[str, Any]) -> None:
    """Save a checkpoint, whole or not at all.

    Args:
        path: The file to make or replace.
        run_id: The run that it belongs to.
        state: Tensors and plain values.
    """
    with replacing(path) as temporary:
        torch.save({"format": FORMAT, "run_id": run_id, "state": state}, temporary)


def load(path: Path, run_id: str, device: torch.device) -> dict[str, Any]:
    """Load a checkpoint; nothing in it is executed.

    Args:
        path: The file.
        run_id: The run that it must belong to.
        device: Where its tensors go.

    Returns:
        The state as it was saved.

    Raises:
        CheckpointError: The file is damaged, of another version or of another run.
    """
    try:
        stored = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0][:80] or type(error).__name__
        raise CheckpointError(
            f"{path}: not a whole checkpoint ({reason}); without it the run starts again"
        ) from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        found = stored.get("format") if isinstance(stored, dict) else type(stored).__name__
        raise CheckpointError(f"{path}: expected checkpoint format {FORMAT}, got {found!r}")
    if stored["run_id"] != run_id:
        raise CheckpointError(f"{path}: expected run {run_id}, got {stored['run_id']}")
    state: dict[str, Any] = stored["state"]
    return state
