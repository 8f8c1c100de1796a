"""Images, encoded and decoded, for the tests of everything that reads or changes them."""

import io
import json
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

ICC = bytes(range(200)) * 2
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a>picture</a></x:xmpmeta>'


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


def exif(orientation: int = 6) -> Image.Exif:
    """Orientation, and a tag of every type that cameras write."""
    made = Image.Exif()
    made[0x0112] = orientation
    made[0x010F] = "maker"
    made[0x011A] = 72.5
    made[0x9286] = b"ASCII\0\0\0hello"
    made.get_ifd(0x8769)[0x829A] = 0.01
    made.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    return made


def with_metadata(kind: str, orientation: int = 6) -> bytes:
    """A lossless picture of 20 x 24 pixels, if the format can, with all metadata that it has."""
    text = PngInfo()
    text.add_text("short", "b" * 30)
    text.add_text("packed", "d" * 300, zip=True)
    text.add_itxt("international", "f" * 30)
    options = {"exif": exif(orientation), "icc_profile": ICC, "xmp": XMP, "dpi": (72, 72)}
    options |= {"comment": b"hello", "pnginfo": text, "lossless": True, "quality": 100}
    image = Image.fromarray(pixels(3, (20, 24, 3)))
    if kind in ("APNG", "MPO"):
        options |= {"save_all": True, "append_images": [image.transpose(Image.Transpose(1))]}
    if kind == "ICNS":
        # Pillow writes every size up to 1024.
        inner = encode(image.resize((128, 128)))
        entry = b"ic07" + struct.pack(">I", 8 + len(inner)) + inner
        return b"icns" + struct.pack(">I", 8 + len(entry)) + entry
    if kind == "ICO":
        return encode(image.resize((32, 32)), kind, sizes=[(32, 32)])
    if kind in ("PPM", "SPIDER", "IM"):
        options = {}
    if kind == "TIFF":
        options = {name: options[name] for name in ("exif", "icc_profile", "dpi")}
        options["description"] = "picture" * 9
    mode = "1" if kind in ("MSP", "XBM") else "P" if kind in ("BLP", "GIF") else "RGB"
    with warnings.catch_warnings():
        # Pillow will not write IM for ever.
        warnings.simplefilter("ignore", DeprecationWarning)
        return encode(image.convert(mode), "PNG" if kind == "APNG" else kind, **options)


def bomb(side: int = 20_000) -> bytes:
    """A PNG file of a few bytes that claims to hold ``side`` x ``side`` pixels."""
    content = encode(Image.new("1", (1, 1)))
    header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def save(path: Path, array, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(array if isinstance(array, bytes) else encode(array, **options))
    return path


def class_folders(root: Path, count: int = 8, shape=(20, 24, 3)) -> Path:
    """Folders "bright" and "dark", whose pictures are told apart in a few epochs."""
    for number in range(count):
        for name, half in (("bright", 128), ("dark", 0)):
            save(root / name / f"{number}.png", pixels(number, shape) // 2 + half)
    return root


def split_folders(root: Path, count: int = 12) -> Path:
    """Photos of two classes, the last of each in a test set."""
    for number in range(count):
        name = ("ant", "bee")[number % 2]
        part = "test" if number >= count - 2 else "train"
        save(root / part / name / f"{number:02}.png", pixels(number, (8, 8, 3)))
    return root


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
