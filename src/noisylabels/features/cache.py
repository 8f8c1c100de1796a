"""Vectors that were computed once, by what they were computed from."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from noisylabels.atomic import replacing
from noisylabels.data.digests import cache_folder

FOLDER = "features"


def recall(identity: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Return tensors that were kept; None where there are none, or they cannot be read.

    Args:
        identity: All that they depend on, plain values.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with suppress(OSError, SafetensorError, RuntimeError, KeyError):
        return load_file(_path(identity))
    return None


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


def _path(identity: Mapping[str, Any]) -> Path:
    text = json.dumps(identity, sort_keys=True, default=str)
    return cache_folder() / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
