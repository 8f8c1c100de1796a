"""Checkpoints: whole, checked, and never executed.

A checkpoint is what ``torch.save`` writes, a zip file, whose comment is the SHA-256 of all bytes
before it: ``torch.load`` reads it as it is, and a single flipped bit is noticed.
"""

import hashlib
import io
import pickle
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from noisylabels.atomic import replacing
from noisylabels.errors import CheckpointError

FORMAT = 2
# Of a zip file without a comment the last two bytes are the comment's length.
NO_COMMENT = b"\0\0"
COMMENT = re.compile(rb"sha256:([0-9a-f]{64})\Z")


def previous(path: Path) -> Path:
    """Return where the checkpoint before the latest is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save(path: Path, run_id: str, state: dict[str, Any]) -> None:
    """Save a checkpoint; the one that was there before becomes the previous one.

    At every moment either file, or both, is whole: the new one is written under another name, read
    again and synced before anything is renamed.

    Args:
        path: The file to make or replace.
        run_id: The run that it belongs to.
        state: Tensors and plain values.

    Raises:
        OSError: It cannot be written; the checkpoints that were there stay.
        CheckpointError: What was written does not read back.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "run_id": run_id, "state": state}, buffer)
    # A view: a checkpoint can be large, and is held here once.
    content = buffer.getbuffer()
    if content[-len(NO_COMMENT) :] != NO_COMMENT:
        raise CheckpointError(f"{path}: expected torch.save to write a zip file without a comment")
    body = content[: -len(NO_COMMENT)]
    digest = hashlib.sha256(body)
    comment = f"sha256:{digest.hexdigest()}".encode()
    ending = len(comment).to_bytes(2, "little") + comment
    digest.update(ending)
    with replacing(path, keep=previous(path)) as temporary:
        with temporary.open("wb") as file:
            file.write(body)
            file.write(ending)
        with temporary.open("rb") as file:
            if hashlib.file_digest(file, "sha256").digest() != digest.digest():
                raise CheckpointError(f"{path}: what was written does not read back")


def load(path: Path, run_id: str) -> dict[str, Any]:
    """Load a checkpoint; nothing in it is executed.

    Args:
        path: The file.
        run_id: The run that it must belong to.

    Returns:
        The state as it was saved, its tensors on the CPU: not all of it has to fit into a GPU.

    Raises:
        CheckpointError: The file is damaged, of another version or of another run.
    """
    try:
        content = path.read_bytes()
        _check_sum(content)
        stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0][:80] or type(error).__name__
        raise CheckpointError(f"{path}: not a whole checkpoint ({reason})") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        found = stored.get("format") if isinstance(stored, dict) else type(stored).__name__
        raise CheckpointError(f"{path}: expected checkpoint format {FORMAT}, got {found!r}")
    if stored.get("run_id") != run_id:
        raise CheckpointError(f"{path}: expected run {run_id}, got {stored.get('run_id')}")
    state: dict[str, Any] = stored["state"]
    return state


def load_latest(path: Path, run_id: str) -> tuple[dict[str, Any] | None, str | None]:
    """Load the latest checkpoint that can be read.

    Args:
        path: The latest; the previous one lies beside it.
        run_id: The run that they must belong to.

    Returns:
        The state, or None where there is no checkpoint; and what is wrong with the latest, if the
        previous one had to be taken.

    Raises:
        CheckpointError: There is a checkpoint, and none that can be read.
    """
    before = previous(path)
    if not path.exists() and not before.exists():
        return None, None
    try:
        if not path.exists():
            raise CheckpointError(f"{path}: not there")
        return load(path, run_id), None
    except CheckpointError as error:
        try:
            return load(before, run_id), f"{error}; the previous one is taken"
        except CheckpointError as worse:
            raise CheckpointError(
                f"{error}; nor can {worse}; delete both to start the run again"
                if before.exists()
                else f"{error}; delete it to start the run again"
            ) from error


def _check_sum(content: bytes) -> None:
    if content[-22:].startswith(b"PK\5\6"):
        # A zip file without a comment: none of ours, and what it holds will say so.
        return
    found = COMMENT.search(content[-71:])
    if found is None:
        raise ValueError("its last bytes are not the checksum")
    length = len(found[0])
    body = content[: -length - 2]
    if content[-length - 2 : -length] != length.to_bytes(2, "little"):
        raise ValueError("its comment's length is not that which was written")
    if hashlib.sha256(body).hexdigest() != found[1].decode():
        raise ValueError("its bytes are not those that were written")


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint, lest the next one put it in the place of the previous one."""
    with suppress(FileNotFoundError):
        path.replace(path.with_name(f"{path.stem}.damaged{path.suffix}"))
