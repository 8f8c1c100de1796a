"""Labels of some examples that are known to be right: a small clean set, in a file of its own."""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from noisylabels.data.examples import Dataset, Examples, LoadReport, Texts
from noisylabels.data.label_encoding import WHOLE, LabelKind, encode_labels
from noisylabels.data.tables import TABLES, read_table
from noisylabels.errors import DataError
from noisylabels.labels import read, read_archive

Part = Literal["train", "test"]
TITLES: dict[Part, str] = {"train": "training", "test": "test"}
LABEL = "label"
PARTS = ("part", "split")
"""Columns that say which part of the data a row of that number, or a text, is of."""
PART_NAMES = ("train", "validation", "test")
UNKNOWN = -1


def read_clean_labels(
    path: Path, dataset: Dataset, part: Part, roots: Iterable[Path] = ()
) -> tuple[Tensor, str]:
    """Read labels that are known to be right, for some or all examples of a part of a dataset.

    Args:
        path: A table (``.csv``, ``.tsv``, ``.parquet``) with the column ``label`` and one that says
            whose label it is: ``text``, of texts; ``path``, as a table of images has it (relative
            to the table, to the working directory or to ``roots``) or as ``suspects.csv`` has it;
            or ``row``, the position in the part, from 0. For texts and rows ``part`` or ``split``
            may tell which part they are of. Or an array (``.npy``, or ``.npz`` with ``y_test`` or
            ``y_train``, or ``labels``) of a class number for each example of the part, -1 where it
            is not known.
        dataset: The dataset as its source has it.
        part: The part.
        roots: Further folders that paths may be relative to.

    Returns:
        Class numbers, int64 of shape (N), -1 where the file says nothing; and a sentence about what
        was found.

    Raises:
        DataError: The file is missing or damaged, names an example or a class that there is not, or
            an example twice, or none of this part.
    """
    examples: Examples = getattr(dataset, part)
    suffix, elsewhere = path.suffix.lower(), 0
    if suffix in TABLES:
        clean, elsewhere = _read_table(path, dataset, part, roots)
    elif suffix in (".npy", ".npz"):
        clean = _read_array(path, part, len(examples), len(dataset.classes))
    else:
        raise DataError(
            f"{path}: expected clean labels in a {', '.join(TABLES)}, .npy or .npz file"
        )
    count, others = int((clean >= 0).sum()), f"rows of other parts of the data: {elsewhere}"
    if not count:
        got = others if elsewhere else "none"
        raise DataError(f"{path}: expected the label of a {TITLES[part]} example, got {got}")
    said = f"{path}: clean labels of {count} of {len(clean)} {TITLES[part]} examples"
    return clean, f"{said}; {others}, left out" if elsewhere else said


def _read_array(path: Path, part: Part, count: int, num_classes: int) -> Tensor:
    place = str(path)
    if path.suffix.lower() == ".npy":
        clean = read(path)
    else:
        arrays = read_archive(path)
        wanted = (f"y_{part}", "labels")
        name = next((name for name in wanted if name in arrays), None)
        if name is None:
            got = ", ".join(arrays) or "none"
            raise DataError(f"{path}: expected an array {' or '.join(wanted)}, got {got}")
        array, place = arrays[name], f"{path}: {name}"
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise DataError(
                f"{place}: expected a one-dimensional array of integer labels, got shape "
                f"{array.shape} of {array.dtype}"
            )
        clean = torch.from_numpy(array.astype("int64"))
    if len(clean) != count:
        raise DataError(
            f"{place}: expected {count} labels, one per {TITLES[part]} example (-1 where it is not "
            f"known), got {len(clean)}"
        )
    outside = ((clean < UNKNOWN) | (clean >= num_classes)).nonzero().flatten()
    if len(outside):
        row = int(outside[0])
        raise DataError(
            f"{place}: row {row}: expected a label in 0..{num_classes - 1}, or -1 where it is not "
            f"known, got {int(clean[row])}"
        )
    return clean


def _read_table(
    path: Path, dataset: Dataset, part: Part, roots: Iterable[Path]
) -> tuple[Tensor, int]:
    """Return the labels, and how many rows are of examples of another part."""
    torn = LoadReport("skip")
    inputs = getattr(dataset, part).inputs
    keys = ("text", "path", "row") if isinstance(inputs, Texts) else ("path", "row")
    names, numbered = read_table(path, (*keys, *PARTS, LABEL), LABEL, torn)
    torn.refuse()
    known = [key for key in keys if key in names]
    if LABEL not in names or not known:
        raise DataError(
            f"{path}: expected a column {LABEL!r} and {' or '.join(map(repr, keys))}, got "
            f"{', '.join(map(repr, names))}"
        )
    finders = {key: _FINDERS[key](dataset, part, (path.parent, Path(), *roots)) for key in known}
    positions: list[list[int]] = []
    values: list[object] = []
    places: list[str] = []
    seen: dict[int, tuple[int, object, str]] = {}
    elsewhere = 0
    for row, cells in numbered:
        place = f"{path}: row {row}"
        key = next((key for key in known if _cell(cells, key)), None)
        if key is None:
            raise DataError(f"{place}: expected a {' or a '.join(known)}, got none")
        said = next(filter(None, (_cell(cells, name) for name in PARTS)), part)
        if key != "path" and said not in PART_NAMES:
            raise DataError(f"{place}: expected a part ({', '.join(PART_NAMES)}), got {said!r}")
        # A path tells by itself what it is of.
        own = key == "path" or said == part
        found = finders[key].find(_cell(cells, key), place) if own else []
        if not found:
            elsewhere += 1
            continue
        label = cells[LABEL].strip() if isinstance(cells[LABEL], str) else cells[LABEL]
        for position in found:
            before = seen.setdefault(position, (row, label, key))
            # The same text can be there several times, and is then in a table of texts as often.
            if before[0] != row and not (before[1:] == (label, key) and key == "text"):
                raise DataError(
                    f"{place}: expected each example once, got {_cell(cells, key)!r:.80} again, "
                    f"after row {before[0]}"
                )
        positions.append(found)
        values.append(label)
        places.append(place)
    clean = torch.full((len(getattr(dataset, part)),), UNKNOWN, dtype=torch.int64)
    if values:
        # A class that is called by a number is meant by it, not the one in that place.
        classes = {*dataset.classes}
        kind: LabelKind = "auto"
        named = [_named(value, classes) for value in values]
        if {str(value) for value in named} <= classes:
            values, kind = named, "names"
        encoded, _, _ = encode_labels(values, places, dataset.classes, torn, kind)
        torn.refuse()
        for found, number in zip(positions, encoded.tolist(), strict=True):
            clean[found] = number
    return clean, elsewhere


def _cell(cells: Mapping[str, Any], name: str) -> str:
    value = cells.get(name)
    return "" if value is None else str(value).strip()


def _named(value: object, classes: Collection[str]) -> object:
    """Return a label; without zeros behind its point where a class is called so."""
    text = str(value)
    whole = WHOLE.fullmatch(text)
    return whole[1] if whole and text not in classes and whole[1] in classes else value


class _Paths:
    """Finds examples by where they come from."""

    def __init__(self, dataset: Dataset, part: Part, roots: Iterable[Path]) -> None:
        self._roots = [*roots]
        self._positions: dict[str, int | None] = {}
        own: Examples = getattr(dataset, part)
        other = dataset.test if part == "train" else dataset.train
        for examples, counts in ((other, False), (own, True)):
            for number, place in enumerate(() if examples.places is None else examples.places):
                # As it is: not all come from files of their own.
                for name in (str(place), os.path.abspath(place)):  # noqa: PTH100 - far quicker
                    self._positions[name] = number if counts else None

    def find(self, path: str, place: str) -> list[int]:
        """Return the position of an example; nothing where it is of another part.

        Raises:
            DataError: No example comes from there.
        """
        absolute = [(root / path).absolute() for root in self._roots]
        names = [path, *(os.path.normpath(each) for each in absolute)]
        for name in (*names, *(str(each.resolve()) for each in absolute)):
            if name in self._positions:
                position = self._positions[name]
                return [] if position is None else [position]
        raise DataError(f"{place}: expected the path of an example, got {path!r}")


class _Rows:
    """Finds examples by their position."""

    def __init__(self, dataset: Dataset, part: Part, roots: Iterable[Path]) -> None:
        self._part = part
        self._count = len(getattr(dataset, part))

    def find(self, row: str, place: str) -> list[int]:
        """Return the position of an example.

        Raises:
            DataError: There is no such position.
        """
        if not (row.isdecimal() and len(row) < 19 and int(row) < self._count):
            raise DataError(
                f"{place}: expected a row of the {TITLES[self._part]} set, in "
                f"0..{self._count - 1}, got {row!r:.80}"
            )
        return [int(row)]


class _Texts:
    """Finds examples by their text."""

    def __init__(self, dataset: Dataset, part: Part, roots: Iterable[Path]) -> None:
        self._positions: dict[str, list[int]] = {}
        for name in ("train", "test"):
            inputs = getattr(dataset, name).inputs
            for number, text in enumerate(inputs.values if isinstance(inputs, Texts) else ()):
                own = self._positions.setdefault(str(text).strip(), [])
                if name == part:
                    own.append(number)

    def find(self, text: str, place: str) -> list[int]:
        """Return the positions of examples; nothing where they are of another part.

        Raises:
            DataError: No example has that text.
        """
        if text not in self._positions:
            raise DataError(f"{place}: expected the text of an example, got {text!r:.80}")
        return self._positions[text]


_FINDERS: dict[str, type[_Paths | _Rows | _Texts]] = {
    "path": _Paths,
    "row": _Rows,
    "text": _Texts,
}
