"""Images, encoded and decoded, for the tests of everything that reads or changes them."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image


def pixels(seed: int, shape=(6, 5, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_images(count=64, channels=3, height=32, width=24, seed=1):
    """Smooth coloured images with both flat black and flat white in them, and some noise."""
    coarse = torch.rand(count, channels, 4, 4, generator=generator(seed)) * 1.4 - 0.2
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    smooth += 0.05 * torch.randn(smooth.shape, generator=generator(seed + 1))
    return (smooth.clamp(0, 1) * 255).to(torch.uint8)


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


def change_one_byte(path: Path) -> None:
    """Change a file's middle byte in place; its size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
