"""Encoded images, for the tests of everything that reads them."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def pixels(seed: int, shape=(6, 5, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(array, kind="PNG", **options) -> bytes:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(side: int = 20_000) -> bytes:
    """A PNG file of a few bytes that claims to hold ``side`` x ``side`` pixels."""
    content = encode(Image.new("1", (1, 1)))
    header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def save(path: Path, array, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(array if isinstance(array, bytes) else encode(array, **options))
    return path


def table(images, labels, *, names=None, label="label", image="img") -> pa.Table:
    column = pa.array(
        [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(images)],
        type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    made = pa.table({image: column, label: labels})
    if names:
        features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        made = made.replace_schema_metadata({"huggingface": json.dumps(features)})
    return made


def write(path: Path, images, labels, **options) -> None:
    pq.write_table(table(images, labels, **options), path)
