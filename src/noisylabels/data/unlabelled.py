"""Inputs without labels, as people have them: folders, files, tables, arrays."""

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from noisylabels.data.datasets import PUBLISHED, read_inputs
from noisylabels.data.decoding import Readable
from noisylabels.data.examples import ArrowImages, ImagePaths, LoadReport, Texts
from noisylabels.data.files import (
    encoded_column,
    extensions,
    image_columns,
    images_below,
    inside,
)
from noisylabels.data.images import ORIENTATION
from noisylabels.data.tables import TABLES, is_text, read_parquet, read_schema, read_table
from noisylabels.errors import ConfigError, DataError
from noisylabels.labels import read_archive

IN_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Pillow's modes that a PNG file keeps as they are."""


@dataclass(frozen=True)
class Unlabelled:
    """Inputs without labels.

    Args:
        inputs: Encoded images, a tensor as :func:`noisylabels.data.datasets.read_inputs` makes
            it, or texts: those that can be used as far as is known before they are decoded.
        names: What each is called, the bad ones among them: a path or a row.
        bad: Why an input cannot be used, by its position among the names.
        column: What the names are.
    """

    inputs: Readable | Tensor | Texts
    names: Sequence[str]
    bad: Mapping[int, str]
    column: Literal["path", "row"] = "path"

    def place(self, position: int) -> str:
        """Say where an input lies, for people."""
        name = self.names[position]
        return name if self.column == "path" else f"row {name}"

    def positions(self) -> list[int]:
        """Return the positions of the inputs among the names."""
        return [position for position in range(len(self.names)) if position not in self.bad]


@dataclass(frozen=True)
class PillowImages:
    """Images that Pillow has opened or made.

    Args:
        images: The images.
    """

    images: Sequence[Image.Image]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def read(self, index: int) -> bytes:
        """Encode an image without loss, so that it goes the way of files."""
        image = self.images[index]
        if image.mode == "F":
            raise DataError("expected an image, got floating-point values")
        exif = Image.Exif()
        with suppress(Exception):
            # Pillow turns a TIFF image as it loads it.
            exif[ORIENTATION] = 1 if image.format == "TIFF" else image.getexif().get(ORIENTATION, 1)
        file = io.BytesIO()
        try:
            kept = image
            if image.mode.startswith("I") and image.mode not in IN_PNG:
                # Integers, of whichever byte order.
                kept = image.convert("I")
                values = np.array(kept)
                if values.min() < 0 or values.max() > 65535:
                    raise ValueError(f"values in {values.min()}..{values.max()}, more than 16 bits")
                kept = kept.convert("I;16")
            elif image.mode not in IN_PNG:
                kept = image.convert("RGBA" if image.mode in ("PA", "RGBa") else "RGB")
            kept.save(file, "PNG", compress_level=0, exif=exif)
        except Exception as error:  # a file that was opened lazily can be damaged in any way
            raise DataError(f"expected an image ({' '.join(str(error).split())})") from error
        return file.getvalue()

    def place(self, index: int) -> str:
        """Return the image's file, or its number."""
        return str(getattr(self.images[index], "filename", "") or f"image {index}")


def read_places(
    places: Sequence[Path], *, column: str | None = None, root: Path | None = None
) -> Unlabelled:
    """List what lies at some places.

    Args:
        places: Folders of images, in any depth, and image files, by Pillow's extensions; or one
            table (``.csv``, ``.tsv``, ``.parquet``) of paths or, in Parquet, encoded images; or one
            ``.npz`` file with ``x``.
        column: A table's column of paths, ``path`` by default.
        root: Folder that a table's paths are relative to, and must not lead out of; by default that
            of the table.

    Returns:
        The inputs.

    Raises:
        ConfigError: A column or root is given, and there is no table of paths.
        DataError: A place is missing, or has nothing of the kind.
    """
    if not places:
        raise DataError("expected a folder, files, a table or an .npz file, got none")
    suffixes = [path.suffix.lower() for path in places if not path.is_dir()]
    single = next((path for path in places if path.suffix.lower() in (*TABLES, ".npz")), None)
    if single is None or single.is_dir():
        _check_no_table(places[0], column, root)
        return _read_images(places)
    if len(places) > 1:
        raise DataError(f"{single}: expected it alone, or images alone, got {len(places)} places")
    if suffixes == [".npz"]:
        _check_no_table(single, column, root)
        return _read_arrays(single)
    return _read_table(single, column, root)


def _check_no_table(place: Path, column: str | None, root: Path | None) -> None:
    """Refuse what is for a table of paths alone."""
    for name, value in (("column", column), ("root", root)):
        if value is not None:
            raise ConfigError(
                f"{place}: {name} is for a table of paths, and this is none: expected it left out, "
                f"got {str(value)!r}"
            )


def _read_images(places: Sequence[Path]) -> Unlabelled:
    names: list[str] = []
    for place in places:
        if place.is_dir():
            others: list[str] = []
            # Absolute or not, as the user has it.
            found = [str(place / name) for name in images_below(place, place, others, [])]
            if not found:
                raise DataError(
                    f"{place}: expected images, got none ({len(others)} files without an image's "
                    f"extension)"
                )
            names += found
        elif place.exists() and place.suffix.lower() not in extensions():
            raise DataError(
                f"{place}: expected a folder, an image, a table ({', '.join(TABLES)}) or an .npz "
                f"file"
            )
        else:
            names.append(str(place))
    array = np.array(names, dtype=np.str_)
    return Unlabelled(ImagePaths(Path(), array, array), names, {})


def _read_table(path: Path, column: str | None, root: Path | None) -> Unlabelled:
    path_column = column or "path"
    if path.suffix.lower() == ".parquet":
        schema = read_schema(path)
        images = image_columns(schema)
        if path_column not in schema.names and len(images) == 1:
            _check_no_table(path, column, root)
            return _read_embedded(path, images[0])
    rows = _read_column(path, path_column)
    folder = (root or path.parent).resolve()
    names, found, origins, bad = [], [], [], {}
    for position, (row, value) in enumerate(rows):
        name = str(value or "").strip()
        names.append(name)
        place = f"{path}: row {row}"
        try:
            relative = inside(folder, name, place, LoadReport("raise"))
        except DataError as error:
            reason = str(error).removeprefix(f"{place}: ").partition(" (on_error")[0]
            bad[position] = f"row {row}: {reason}"
            continue
        found.append(str(relative))
        origins.append(place)
    images_at = ImagePaths(folder, np.array(found, np.str_), np.array(origins, np.str_))
    return Unlabelled(images_at, names, bad)


def _read_column(path: Path, column: str) -> list[tuple[int, object]]:
    """Read a column: the number of each row, as a spreadsheet counts, and its value."""
    torn = LoadReport("skip")
    columns, numbered = read_table(path, [column], column, torn)
    # What is in which of a torn row's columns is in doubt.
    torn.refuse()
    rows = [(row, values.get(column)) for row, values in numbered]
    if column not in columns:
        raise DataError(
            f"{path}: expected a column {column!r}, got {', '.join(map(repr, columns))} (--column "
            f"names another one)"
        )
    if not rows:
        raise DataError(f"{path}: expected rows, got none")
    return rows


def read_texts(path: Path, column: str = "text") -> Unlabelled:
    """Read the texts of a table.

    Args:
        path: A ``.csv``, ``.tsv`` or ``.parquet`` file.
        column: Its column of texts.

    Returns:
        The texts; one that is empty or no UTF-8 is a bad one. They are called by their row, counted
        as a spreadsheet does: the header is row 1.

    Raises:
        DataError: It cannot be read, or has no such column.
    """
    if path.suffix.lower() not in TABLES:
        raise DataError(f"{path}: expected a table of texts ({', '.join(TABLES)})")
    rows = _read_column(path, column)
    texts = ["" if value is None else str(value) for _, value in rows]
    return of_texts(texts, [str(row) for row, _ in rows])


def of_texts(texts: Sequence[str], names: Sequence[str] | None = None) -> Unlabelled:
    """Take texts.

    Args:
        texts: The texts.
        names: What they are called; by default their number.
    """
    bad = {}
    for number, text in enumerate(texts):
        if not text.strip():
            bad[number] = "expected a text, got none"
        elif not is_text(text):
            bad[number] = "expected UTF-8 text, save it as that"
    sound = np.array([t for number, t in enumerate(texts) if number not in bad], dtype=object)
    return Unlabelled(Texts(sound), names or _numbers(len(texts)), bad, "row")


def _read_embedded(path: Path, column: str) -> Unlabelled:
    chunk = encoded_column(path, column)
    count: int = read_parquet(path, []).num_rows
    rows = np.stack([np.zeros(count, np.int64), np.arange(count)], axis=1)
    return Unlabelled(ArrowImages([chunk], [path], rows), _numbers(count), {}, "row")


def _read_arrays(path: Path) -> Unlabelled:
    found = read_archive(path)
    arrays = {PUBLISHED.get(name, name): array for name, array in found.items()}
    name = next((name for name in ("x", "x_test") if name in arrays), None)
    if name is None:
        raise DataError(f"{path}: expected an array x, got {', '.join(found) or 'none'}")
    return of_array(arrays[name], f"{path}: {name}")


def of_array(array: np.ndarray[Any, Any], place: str = "inputs") -> Unlabelled:
    """Take images or features from an array.

    Args:
        array: As :func:`noisylabels.data.datasets.read_inputs` takes it.
        place: Where it is, for messages.

    Returns:
        The inputs; features that are not finite are bad ones.

    Raises:
        DataError: It is of another shape or type, or empty.
    """
    if not array.size:
        raise DataError(f"{place}: expected inputs, got an array of shape {array.shape}")
    inputs = read_inputs(array, place)
    sound = inputs.flatten(1).isfinite().all(1)
    rows = (~sound).nonzero().squeeze(1).tolist()
    bad = dict.fromkeys(rows, "expected finite numbers, got NaN or inf")
    return Unlabelled(inputs[sound] if bad else inputs, _numbers(len(inputs)), bad, "row")


def of_images(images: Sequence[Image.Image]) -> Unlabelled:
    """Take images of Pillow's."""
    return Unlabelled(PillowImages(images), _numbers(len(images)), {}, "row")


def _numbers(count: int) -> list[str]:
    return list(map(str, range(count)))
