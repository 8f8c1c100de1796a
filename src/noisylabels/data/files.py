"""Sources of image files: folders, tables, Parquet and Arrow, and two published datasets."""

import dataclasses
import functools
import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from noisylabels.data.examples import ArrowImages, ImagePaths, LoadReport, ParquetRowGroups
from noisylabels.data.label_encoding import LabelKind, encode_candidates, encode_labels
from noisylabels.data.source import (
    LABEL_BEFORE,
    Facts,
    ImageSource,
    Manifest,
    SplittableImageSource,
)
from noisylabels.data.tables import (
    is_text,
    open_arrow,
    read_list,
    read_parquet,
    read_schema,
    read_table,
    read_text,
    read_values,
)
from noisylabels.data.voting import LABEL, Voting
from noisylabels.errors import DataError
from noisylabels.votes import Consensus

NO_PHOTOGRAPHS = frozenset(
    # Without a decoder, with the help of another program only, or moving pictures.
    ["BUFR", "GRIB", "HDF5", "WMF", "EPS", "FITS", "MPEG", "FLI"]
)
"""Formats of Pillow that are left out."""
SYSTEM_FOLDERS = frozenset(
    [
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "@sharebin",
        "@tmp",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "$extend",
        "__macosx",
        "cvs",
        "lost+found",
        "system volume information",
        "thumbnails",
        "__pycache__",
    ]
)
"""Folders that systems, servers and file managers make, in lower case, beside hidden ones."""
SYSTEM_FILES = ("thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r")
ANIMALS = (
    "cat",
    "lynx",
    "wolf",
    "coyote",
    "cheetah",
    "jaguar",
    "chimpanzee",
    "orangutan",
    "hamster",
    "guinea pig",
)
SPLIT = "split"
"""Default column of splits of a table."""
LISTS = (".txt", ".lst", ".list")
"""Extensions of lists without a header."""
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validate", "validation", "eval", "dev")
PART_NAMES = (*TRAIN_NAMES, *TEST_NAMES, "holdout")
"""First words of folders that hold a part of a set, not a class."""

Entry = tuple[str, str, Any, bool]
"""Place for people, path relative to the root, label as it stands, whether it is a test example."""


@dataclass(frozen=True, kw_only=True)
class Folder(SplittableImageSource):
    """A folder of images, one folder per class.

    ``root/<class>/**/<image>``, of which a part becomes the test set; or
    ``root/train/<class>/...`` and ``root/test/<class>/...`` (or ``val``, ``validation``). The
    folders' names in alphabetical order (numbers in theirs) are the classes; where several are
    named like parts (``train_images``, ``test1``), nothing tells classes. Hidden files, and files
    without an image's extension, are left out and counted.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        root: The folder.
        on_error: ``"raise"`` stops at the first bad file; ``"skip"`` leaves bad ones out, counts
            them and lists them in the run folder.
        test_share: Share of the examples that become the test set, in (0, 1); 0.2 by default. Only
            where no test set is given.
        split_seed: Seed of that split, at least 0; 0 by default. Only where no test set is given.
        size: Side in pixels that images are resized to, at least 1. By default the commonest size
            of 100 spread over them if no side of it is above 96, else 224.
        storage: ``"memory"``, ``"stream"``, or ``"auto"``: memory where they fit.
        memory_budget: Bytes of decoded images that ``"auto"`` holds in memory, at least 0; 2 GiB by
            default.
    """

    root: Path

    @property
    def where(self) -> Path:
        """The folder."""
        return self.root

    def read_manifest(self) -> Manifest:
        """List the images of every class folder."""
        report = LoadReport(self.on_error)
        parts = self._parts(report)
        entries: list[Entry] = []
        others: list[str] = []
        system = [
            str(path)
            for top in dict.fromkeys((self.root, *parts.values()))
            for path in sorted(top.iterdir())
            if _is_systems(path)
        ]
        for part, top in parts.items():
            others += [
                str(path)
                for path in sorted(top.iterdir())
                if not path.is_dir() and _is_users(path.name)
            ]
            for folder in _folders(top):
                found = list(images_below(folder, self.root, others, system))
                if not found:
                    report.reject(str(folder), "expected images of this class, got none")
                # Composed and decomposed letters are the same letters.
                name = unicodedata.normalize("NFC", folder.name)
                entries += [(str(self.root / n), n, name, part == "test") for n in found]
        links = self._links(name for _, name, _, _ in entries)
        for sentence, places in (
            (f"links that lead out of {self.root}, followed", links[True]),
            (f"links to elsewhere in {self.root}, followed", links[False]),
            ("files without an image extension, ignored", others),
            ("folders that a system or a file manager made, ignored", system),
        ):
            if places:
                report.note(f"{sentence}: {_some(places)}")
        classes = sorted({str(label) for _, _, label, _ in entries}, key=_in_order)
        numbers = {name: number for number, name in enumerate(classes)}
        numbered = [(*entry[:2], numbers[str(entry[2])], entry[3]) for entry in entries]
        return _make_manifest(self.root, numbered, classes, report)

    def _parts(self, report: LoadReport) -> dict[str, Path]:
        """Return the folders that hold class folders: one, or those of the splits."""
        folders = _folders(self.root)
        if not folders:
            raise DataError(f"{self.root}: expected a folder per class there, got none")
        named: dict[str, Path] = {}
        for folder in folders:
            name = folder.name.casefold()
            if name in PART_NAMES and name in named:
                raise DataError(
                    f"{self.root}: expected one folder {name!r}, got {named[name].name!r} and "
                    f"{folder.name!r}, which differ in case only"
                )
            named[name] = folder
        train = next((named[name] for name in TRAIN_NAMES if name in named), None)
        test = next((named[name] for name in TEST_NAMES if name in named), None)
        if train is None or not _folders(train):
            alike = [folder.name for folder in folders if _words(folder.name)[0] in PART_NAMES]
            if len(alike) > 1:
                raise DataError(
                    f"{self.root}: expected train/<class>/... there (and test/<class>/...), or a "
                    f"table (CSV) of paths and labels, got folders named like parts of a set, not "
                    f"like classes: {_some(alike)}; nothing tells the class of the images directly "
                    f"inside (a class of that name belongs in train/, beside the other classes)"
                )
            if alike:
                report.note(f"{self.root / alike[0]}: named like a part of a set, is a class here")
            return {"": self.root}
        if test is not None and not _folders(test):
            held = sum(1 for _ in images_below(test, self.root, [], []))
            got = "no images" if any(test.iterdir()) else "an empty folder"
            got = f"{held} images whose classes nothing tells" if held else got
            raise DataError(
                f"{test}: expected a folder per class there, as in {train}, got {got}; moved "
                f"elsewhere, it leaves the test set to be split off {train}"
            )
        parts = {"train": train} | ({"test": test} if test else {})
        unused = [str(folder) for folder in folders if folder not in parts.values()]
        if unused:
            report.note(f"folders that are neither train nor test, left out: {', '.join(unused)}")
        return parts

    def _links(self, names: Iterable[str]) -> dict[bool, list[str]]:
        """Return the files and folders that are links, by whether they lead out of the root."""
        root, seen = self.root.resolve(), set[str]()
        links: dict[bool, list[str]] = {True: [], False: []}
        for name in names:
            part = name
            while part and part not in seen:
                seen.add(part)
                path = f"{self.root}{os.sep}{part}"
                if os.path.islink(path):  # noqa: PTH114 - a path object for each takes far longer
                    links[not Path(path).resolve().is_relative_to(root)].append(part)
                part = part.rpartition(os.sep)[0]
        return links


@dataclass(frozen=True, kw_only=True)
class Table(SplittableImageSource):
    """A CSV or Parquet file with the columns ``path``, ``label`` and, if there is one, ``split``.

    Or a list (``.txt``) without a header, of a path and a label in each line.

    Paths are relative to the file. Labels are class numbers 0, 1, ... or names. The split is
    ``train`` or ``test`` (or ``val``, which is the test set where there is no ``test``). Rows are
    counted as a spreadsheet does: the header is row 1.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        path: The file.
        root: Folder that no image may lie outside of, and that paths are relative to; by default
            the file's own.
        path_column: Column of paths.
        label_column: Column of labels.
        split_column: Column of splits; ``split`` by default, which may be missing.
        labels: ``"names"`` takes labels as text, ``"numbers"`` as class numbers, ``"auto"`` as
            numbers where all of them are whole.
        candidate_separator: What stands between the candidates where a row may have several labels,
            such as ``"|"`` for ``cat|dog``; by default a row has one label, whatever is in it.
        votes: Columns of labels by one rater each, empty where a rater gave none; they take the
            place of the label column. None by default.
        raters: Columns of who gave each of the votes, where that differs from row to row; by
            default each column of votes is one rater's.
        vote_counts: In place of votes, a column for each class, named as the class, of how many
            gave it. None by default.
        consensus: What becomes of the votes: ``"soft"`` learns their shares, ``"majority"`` the
            commonest, and ``"dawid-skene"`` the classes' probabilities by the raters' estimated
            reliability, see ``noisylabels.votes``.
        on_error: ``"raise"`` stops at the first bad row; ``"skip"`` leaves bad ones out, counts
            them and lists them in the run folder.
        test_share: Share of the examples that become the test set, in (0, 1); 0.2 by default. Only
            where no test set is given.
        split_seed: Seed of that split, at least 0; 0 by default. Only where no test set is given.
        size: Side in pixels that images are resized to, at least 1. By default the commonest size
            of 100 spread over them if no side of it is above 96, else 224.
        storage: ``"memory"``, ``"stream"``, or ``"auto"``: memory where they fit.
        memory_budget: Bytes of decoded images that ``"auto"`` holds in memory, at least 0; 2 GiB by
            default.
    """

    path: Path
    root: Path | None = None
    path_column: str = "path"
    label_column: str = LABEL
    split_column: str | None = None
    labels: LabelKind = "auto"
    candidate_separator: str | None = None
    votes: tuple[str, ...] = ()
    raters: tuple[str, ...] = ()
    vote_counts: tuple[str, ...] = ()
    consensus: Consensus = "soft"

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ConfigError: The settings of votes do not fit each other.
        """
        super().__post_init__()
        _ = self._voting

    @property
    def _voting(self) -> Voting:
        return Voting.of(self)

    @property
    def where(self) -> Path:
        """The file."""
        return self.path

    def read_manifest(self) -> Manifest:
        """Read the table."""
        report = LoadReport(self.on_error)
        root = (self.root or self.path.parent).resolve()
        rows = list(self._rows(report))
        splits = {split for _, _, _, split, _ in rows}
        test = next((name for name in TEST_NAMES if name in splits), None)
        entries: list[Entry] = []
        seen: dict[str, tuple[str, object, bool]] = {}
        again = other = 0
        test_is_given = False
        for place, name, label, split, is_given in rows:
            if split not in ("", *TRAIN_NAMES, *TEST_NAMES):
                report.reject(place, f"expected split train or test, got {split!r}")
                continue
            if split in TEST_NAMES and split != test:
                other += 1
                continue
            relative = inside(root, name, place, report)
            if relative is None:
                continue
            if not is_text(label):
                report.reject(place, f"expected a label in UTF-8, got {label!r}: save it as that")
                continue
            if relative in seen:
                before, label_before, test_before = seen[relative]
                if (label_before, test_before) == (label, split == test):
                    again += 1
                    continue
                what = "label" if label_before != label else "split"
                report.reject(
                    place,
                    f"expected each path once, got {name!r} again with another "
                    f"{what} than at {before.rpartition(': ')[2]}",
                )
                continue
            seen[relative] = place, label, split == test
            entries.append((place, relative, label, split == test))
            test_is_given |= is_given and split == test
        if again:
            report.note(f"rows that repeat an earlier one, counted once: {again}")
        if other:
            report.note(f"rows of another split than train and {test}, left out: {other}")
        manifest = _make_manifest(
            root,
            entries,
            None,
            report,
            self.path,
            self.labels,
            self.candidate_separator,
            self._voting,
        )
        return dataclasses.replace(manifest, test_is_given=test_is_given)

    def identity(self) -> dict[str, Any]:
        """Return the options that affect the examples, as plain values."""
        # What they lead to, the labels and the split, is hashed.
        own = ("path_column", "label_column", "split_column", "labels", "candidate_separator")
        voting = ("votes", "raters", "vote_counts", "consensus")
        return {k: value for k, value in super().identity().items() if k not in own + voting}

    def _rows(self, report: LoadReport) -> Iterator[tuple[str, str, object, str, bool]]:
        """Yield place, path, label and split of each row, and whether it has a label before."""
        numbered: Iterable[tuple[int, Mapping[str, Any]]]
        voting = self._voting
        labels = voting.columns or (self.label_column,)
        if self.path.suffix.lower() in LISTS:
            names = [self.path_column, self.label_column]
            numbered = read_list(self.path, names)
        else:
            columns = (self.path_column, *labels, self.split_column or SPLIT, LABEL_BEFORE)
            names, numbered = read_table(self.path, columns, self.path_column, report)
        header = f"a first line {self.path_column},{self.label_column} names the columns; "
        for column in (self.path_column, *labels, self.split_column):
            if column is not None and column not in names:
                raise DataError(
                    f"{self.path}: expected a column {column!r}, got {', '.join(map(repr, names))} "
                    f"({'' if self.path.suffix.lower() == '.parquet' else header}"
                    f"path_column and label_column name other ones)"
                )
        for row, values in numbered:
            label = voting.read(values) if voting else values[self.label_column]
            split = values.get(self.split_column or SPLIT)
            yield (
                f"{self.path}: row {row}",
                str(values[self.path_column] or "").strip(),
                label.strip() if isinstance(label, str) else label,
                str(split or "").strip().lower(),
                bool(values.get(LABEL_BEFORE)),
            )


@dataclass(frozen=True, kw_only=True)
class Parquet(SplittableImageSource):
    """Images in the layout of Hugging Face image datasets, in files or a ``datasets`` folder.

    A folder holds ``train*.parquet`` and, if there is a test set, ``test*.parquet`` (there, in
    ``data/``, or in ``train/`` and ``test/``), or what ``datasets`` writes with ``save_to_disk``
    (``train/*.arrow``) or caches (``<name>-train.arrow``): the last word of a file's name that
    names a part tells it, in any case. An image column is a struct of ``bytes`` (an encoded image)
    and ``path``, a label column holds class numbers or names.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        root: Folder of the files, or one file, whose images are split.
        image: Image column; by default the only struct column with ``bytes``.
        label: Label column; by default ``label`` or ``fine_label``, whichever there is.
        labels: ``"names"`` takes labels as text, ``"numbers"`` as class numbers, ``"auto"`` as
            numbers where all of them are whole.
        on_error: ``"raise"`` stops at the first bad row; ``"skip"`` leaves bad ones out, counts
            them and lists them in the run folder.
        test_share: Share of the examples that become the test set, in (0, 1); 0.2 by default. Only
            where no test set is given.
        split_seed: Seed of that split, at least 0; 0 by default. Only where no test set is given.
        size: Side in pixels that images are resized to, at least 1. By default the commonest size
            of 100 spread over them if no side of it is above 96, else 224.
        storage: ``"memory"``, ``"stream"``, or ``"auto"``: memory where they fit.
        memory_budget: Bytes of decoded images that ``"auto"`` holds in memory, at least 0; 2 GiB by
            default.
    """

    root: Path
    image: str | None = None
    label: str | None = None
    labels: LabelKind = "auto"

    @property
    def where(self) -> Path:
        """The folder."""
        return self.root

    def read_manifest(self) -> Manifest:
        """Read the tables; images stay encoded."""
        report = LoadReport(self.on_error)
        places = self._files()
        files = self._chosen(places, "train")
        train = len(files)
        test_name = next((name for name in TEST_NAMES if name in places), None)
        if test_name is not None:
            files += self._chosen(places, test_name)
        there = [path for by_place in places.values() for place in by_place for path in place]
        unused = [str(path) for path in there if path not in files]
        if unused:
            report.note(f"files that are neither train nor test, left out: {_some(unused)}")
        classes: tuple[str, ...] | None = None
        chunks, values, rows = [], [], []
        for position, path in enumerate(files):
            schema = read_schema(path)
            image, label = self._image_column(path, schema), self._label_column(path, schema)
            named = _class_names(schema, label)
            if classes and named and named != classes:
                raise DataError(
                    f"{path}: expected the class names of {files[0]}, {', '.join(classes[:5])}, "
                    f"..., got {', '.join(named[:5])}, ..."
                )
            classes = classes or named
            chunks.append(encoded_column(path, image))
            found = read_values(path, read_parquet(path, [label]), label)
            values += found
            rows += [(position, row) for row in range(len(found))]
        images = ArrowImages(chunks, files, np.array(rows, dtype=np.int64).reshape(-1, 2))
        labels, names, sound = encode_labels(values, _Places(images), classes, report, self.labels)
        kept = images.take(sound.numpy())
        test = torch.from_numpy(kept.rows[:, 0] >= train)
        return Manifest(kept, labels, test, names, report)

    def facts(self) -> Facts:
        """Return the shape that images are resized to, and the class map if this is CIFAR."""
        ends = self._manifest.classes[0].lower(), self._manifest.classes[-1].lower()
        known = {("airplane", "truck"): "cifar10", ("apple", "worm"): "cifar100"}
        return super().facts()._replace(class_map=known.get(ends))

    def identity(self) -> dict[str, Any]:
        """Return the options that affect the examples, as plain values.

        Columns are given as resolved: a detected column and the same one set as an option are the
        same.
        """
        path = self._chosen(self._files(), "train")[0]
        schema = read_schema(path)
        image, label = self._image_column(path, schema), self._label_column(path, schema)
        # What `labels` leads to is hashed.
        own = {key: value for key, value in super().identity().items() if key != "labels"}
        return own | {"image": image, "label": label}

    def _files(self) -> dict[str, list[list[Path]]]:
        """Return the files of each part ("" is none), those of each place together."""
        if self.root.is_file():
            return {"train": [[self.root]]}
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder or file")
        parts: dict[str, list[list[Path]]] = {}
        for folder in (self.root, *_folders(self.root)):
            name = "" if folder == self.root else folder.name.casefold()
            if name not in ("", "data", *TRAIN_NAMES, *TEST_NAMES):
                continue
            for files in (_parquets(folder), _saved(folder)):
                # What `datasets` saves has names of no part.
                told = {path: _part(name) or _part(path.stem) for path in files}
                if not name and files and files[0].suffix == ".arrow" and not any(told.values()):
                    told = dict.fromkeys(files, "train")
                for part in sorted({*told.values()}):
                    parts.setdefault(part, []).append([f for f in files if told[f] == part])
        return parts

    def _chosen(self, places: Mapping[str, Sequence[Sequence[Path]]], part: str) -> list[Path]:
        found = places.get(part, [])
        if not found:
            others = [
                path.name for by_place in places.values() for files in by_place for path in files
            ]
            raise DataError(
                f"{self.root}: expected train*.parquet or a file with the word train in its name "
                f"there or in its folder data, or train/*.arrow as `datasets` writes it, got "
                f"{_some(others) if others else 'none'}"
            )
        if len(found) > 1:
            raise DataError(
                f"{self.root}: expected the files of {part} in one place and format, got "
                f"{' and '.join(str(files[0]) for files in found)}: together they would count "
                f"examples twice"
            )
        return [*found[0]]

    def _image_column(self, path: Path, schema: Any) -> str:
        structs = image_columns(schema)
        wanted = [self.image] if self.image else structs
        if len(wanted) == 1 and wanted[0] in structs:
            return wanted[0]
        expected = f"an image column {self.image!r}" if self.image else "one image column"
        raise DataError(
            f"{path}: expected {expected} (a struct with bytes), "
            f"got {', '.join(structs) or 'none'} among {', '.join(schema.names)}"
        )

    def _label_column(self, path: Path, schema: Any) -> str:
        import pyarrow as pa

        wanted = [self.label] if self.label else ["label", "fine_label"]
        there = [name for name in wanted if name in schema.names]
        # A nested one only if there is no other: it is refused for its type.
        for name in sorted(there, key=lambda name: pa.types.is_nested(schema.field(name).type)):
            return name
        raise DataError(
            f"{path}: expected a column {self.label or 'label'!r} of one label per row among "
            f"{', '.join(schema.names)}"
        )


@dataclass(frozen=True, kw_only=True)
class Animal10N(ImageSource):
    """ANIMAL-10N: 50,000 and 5,000 images of 64x64 pixels, about 8 % of the labels wrong.

    ``root/training`` and ``root/testing`` as published: files ``<label>_<number>.jpg``.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        root: The folder.
        on_error: ``"raise"`` stops at the first bad file; ``"skip"`` leaves bad ones out.
        size: Side in pixels; their own by default.
        storage: ``"memory"``, ``"stream"``, or ``"auto"``: memory where they fit.
        memory_budget: Bytes of decoded images that ``"auto"`` holds in memory, at least 0; 2 GiB by
            default.

    References:
        Song, Kim, Lee, "SELFIE: Refurbishing Unclean Samples for Robust Deep Learning", 2019.
    """

    root: Path

    @property
    def where(self) -> Path:
        """The folder."""
        return self.root

    def read_manifest(self) -> Manifest:
        """List the published files."""
        report = LoadReport(self.on_error)
        entries: list[Entry] = []
        for part, expected in (("training", 50_000), ("testing", 5_000)):
            found = list(images_below(_folder(self.root / part), self.root, [], []))
            if len(found) != expected:
                report.note(f"{self.root / part}: {len(found)} images, published were {expected}")
            for name in found:
                label = Path(name).name.partition("_")[0]
                entries.append((str(self.root / name), name, label, part == "testing"))
        return _make_manifest(self.root, entries, ANIMALS, report)


@dataclass(frozen=True, kw_only=True)
class WebVision(ImageSource):
    """WebVision 1.0 "mini": its first 50 classes, about 20 % of the labels wrong.

    ``root`` as published: ``info/train_filelist_google.txt`` and ``info/val_filelist.txt`` (a path
    and a class number on each line), ``info/synsets.txt`` with the classes' names if it is there,
    the Google images in ``google/`` and the validation images in ``val_images_256/``.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        root: The folder.
        num_classes: How many of the first classes, in 2..1000.
        on_error: ``"raise"`` stops at the first bad file; ``"skip"`` leaves bad ones out.
        size: Side in pixels; 224 by default.
        storage: ``"memory"``, ``"stream"``, or ``"auto"``: memory where they fit.
        memory_budget: Bytes of decoded images that ``"auto"`` holds in memory, at least 0; 2 GiB by
            default.

    References:
        Li, Wang, Li, Agustsson, Van Gool, "WebVision Database: Visual Learning and Understanding
        from Web Data", 2017.
    """

    root: Path
    num_classes: int = 50

    @property
    def where(self) -> Path:
        """The folder."""
        return self.root

    def read_manifest(self) -> Manifest:
        """Read the file lists."""
        report = LoadReport(self.on_error)
        entries: list[Entry] = []
        for split, name in (("train", "train_filelist_google.txt"), ("test", "val_filelist.txt")):
            path = self.root / "info" / name
            for row, image, label in _read_filelist(path):
                if label >= self.num_classes:
                    continue
                relative = image if split == "train" else f"{self._validation_folder()}/{image}"
                entries.append((f"{path}: row {row}", relative, label, split == "test"))
        return _make_manifest(self.root, entries, self.class_names(), report)

    def class_names(self) -> tuple[str, ...]:
        """Read the names of the classes, or number them where there is no list of names."""
        path = self.root / "info" / "synsets.txt"
        if not path.exists():
            return tuple(str(index) for index in range(self.num_classes))
        lines = read_text(path).splitlines()
        if len(lines) < self.num_classes:
            raise DataError(
                f"{path}: expected at least {self.num_classes} lines, one per class, "
                f"got {len(lines)}"
            )
        return tuple(line.strip() for line in lines[: self.num_classes])

    def _validation_folder(self) -> str:
        for name in ("val_images_256", "val_images"):
            if (self.root / name).is_dir():
                return name
        raise DataError(f"{self.root}: expected a folder val_images_256 there")

    def check(self) -> list[str]:
        """Compare what is there with what is known of the published sets.

        Returns:
            A sentence for each finding, the last of which says which "mini" it is.

        Raises:
            DataError: A file list is missing or damaged.
        """
        said = []
        lists = {
            "google": self.root / "info" / "train_filelist_google.txt",
            "flickr": self.root / "info" / "train_filelist_flickr.txt",
            "validation": self.root / "info" / "val_filelist.txt",
        }
        kept: dict[str, list[tuple[int, str, int]]] = {}
        for name, path in lists.items():
            if name == "flickr" and not path.exists():
                continue
            rows = list(_read_filelist(path))
            kept[name] = [row for row in rows if row[2] < self.num_classes]
            classes = len({label for _, _, label in kept[name]})
            said.append(
                f"{path}: {len(rows)} images, of which {len(kept[name])} of {classes} of the first "
                f"{self.num_classes} classes"
            )
            if classes != self.num_classes:
                said.append(f"{path}: expected all {self.num_classes} classes, got {classes}")
        there = {
            "google": [self.root / image for _, image, _ in kept["google"]],
            "validation": [
                self.root / self._validation_folder() / image for _, image, _ in kept["validation"]
            ],
        }
        counts = {}
        for name, paths in there.items():
            missing = [path for path in paths if not path.is_file()]
            counts[name] = len(paths) - len(missing)
            if missing:
                said.append(
                    f"{lists[name]}: {len(missing)} of {len(paths)} images are not there, "
                    f"the first: {missing[0]}"
                )
        names = self.class_names()
        said.append(f"class 0 is {names[0]!r}, class {len(names) - 1} is {names[-1]!r}")
        if names[0].isdigit():
            said.append(f"{self.root / 'info' / 'synsets.txt'}: not there, so classes are numbers")
        elif "tench" not in names[0]:
            said.append("class map: expected class 0 to be the tench (n01440764), as in ImageNet")
        said.append(_which_mini(counts["google"], counts["validation"], self.num_classes))
        return said


def _which_mini(train: int, test: int, num_classes: int) -> str:
    known = {
        65_944: 'the "mini" of the file list, which the paper and most others use (65,944 images)',
        61_234: 'the "mini" of the resized archive, which lacks images of the list (61,234 images)',
    }
    if num_classes == 50 and test == 2_500 and train in known:
        return f"this is {known[train]}, with 2,500 validation images"
    return (
        f"this is none of the known minis: {train} training and {test} validation images of "
        f"{num_classes} classes (known: 65944 or 61234 and 2500 of 50)"
    )


def _part(name: str) -> str:
    """Return the part that the last such word of a name tells, or ""."""
    told = [word for word in _words(name) if word in (*TRAIN_NAMES, *TEST_NAMES)]
    return "" if not told else "train" if told[-1] in TRAIN_NAMES else told[-1]


def _parquets(folder: Path) -> list[Path]:
    files = (path for path in folder.iterdir() if path.suffix.lower() == ".parquet")
    return sorted(path for path in files if _is_users(path.name))


def _saved(folder: Path) -> list[Path]:
    """Return the files of a set that `datasets` saved: not those that it made while it worked."""
    state = folder / "state.json"
    if not state.exists():
        return sorted(
            path for path in folder.glob("*.arrow") if not path.name.startswith(("cache-", "."))
        )
    try:
        stored = json.loads(state.read_text(encoding="utf-8"))
        files = [folder / entry["filename"] for entry in stored["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{state}: expected the files of a saved set ({error!r})") from error
    # Their name in versions of `datasets` before 2.
    if stored.get("_indices_files") or stored.get("_indices_data_files"):
        raise DataError(
            f"{folder}: it was saved with a selection of rows: flatten_indices().save_to_disk(...) "
            f"saves it without"
        )
    return files


class _Places(Sequence[str]):
    """The places of a column, made when they are asked for."""

    def __init__(self, images: ArrowImages) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Any) -> Any:
        return self._images.place(index)


def _make_manifest(
    root: Path,
    entries: Sequence[Entry],
    classes: Sequence[str] | None,
    report: LoadReport,
    where: Path | None = None,
    kind: LabelKind = "auto",
    separator: str | None = None,
    voting: Voting | None = None,
) -> Manifest:
    """Check that every file is there, and number the labels."""
    where = where or root
    present = []
    for entry in entries:
        try:
            found = os.stat(root / entry[1])  # noqa: PTH116 - a tenth of Path.stat's time
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            if not is_text(entry[1]):
                reason = f"{reason}; the name is no UTF-8 text"
            if where.suffix.lower() in LISTS:
                reason = (
                    f"{reason}; a line of a list is a path and a label with a space or tab between "
                    f"them, 'im/x0.png 0', and no header; a table with commas ends in .csv"
                )
            report.reject(entry[0], f"expected an image file {entry[1]!r} ({reason})")
            continue
        if stat.S_ISDIR(found.st_mode):
            report.reject(entry[0], f"expected an image file, got a folder: {entry[1]!r}")
            continue
        if found.st_size == 0:
            report.reject(entry[0], f"expected an image, got a file of 0 bytes: {entry[1]!r}")
            continue
        present.append(entry)
    if not present:
        raise DataError(f"{where}: expected images, got none")
    given, places = [entry[2] for entry in present], [entry[0] for entry in present]
    if voting:
        voted = voting.encode(given, places, report, kind)
        labels, targets, names, sound = voted.given, voted.targets, voted.classes, voted.sound
        if not len(labels):
            raise DataError(f"{where}: expected images with votes, got none")
    else:
        labels, targets, names, sound = encode_candidates(
            given, places, classes, report, kind, separator
        )
    chosen = sound.numpy()
    images = ImagePaths(
        root,
        names=np.array([entry[1] for entry in present])[chosen],
        origins=np.array([entry[0] for entry in present])[chosen],
    )
    test = torch.tensor([entry[3] for entry in present])[sound]
    return Manifest(images, labels, test, names, report, targets=targets)


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise DataError(
            f"{path}: expected a folder, {'got a file' if path.exists() else 'got none'}"
        )
    return path


def _folders(path: Path) -> list[Path]:
    return sorted(
        child
        for child in _folder(path).iterdir()
        if child.is_dir() and _is_users(child.name) and not _is_systems(child)
    )


def _is_users(name: str) -> bool:
    """Return whether a name is that of a file or folder that a person knows of."""
    return not name.startswith(".") and name.casefold() not in SYSTEM_FILES


def _is_systems(path: Path) -> bool:
    """Return whether an operating system, a server or a file manager made a folder."""
    return _is_system_name(path.name) and path.is_dir()


def _is_system_name(name: str) -> bool:
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case: what lies between digits and punctuation."""
    return re.split(r"[\W\d_]+", name.casefold())


@functools.cache
def extensions() -> frozenset[str]:
    """Return the extensions of image files, in lower case and with their point.

    They are those of the formats that this machine's Pillow reads, but for what is no photograph.
    """
    Image.init()
    # Pillow opens MPO as JPEG, and registers no reader of its own for it.
    return frozenset(
        extension
        for extension, name in Image.registered_extensions().items()
        if (name in Image.OPEN or name == "MPO") and name not in NO_PHOTOGRAPHS
    )


def _in_order(name: str) -> tuple[bool, int, str]:
    """Sort numbers as numbers, before all other names."""
    return (False, int(name), name) if name.isdecimal() else (True, 0, name)


def images_below(folder: Path, root: Path, others: list[str], system: list[str]) -> Iterator[str]:
    """Yield the images below a folder, relative to the root, in alphabetical order.

    Args:
        folder: The folder.
        root: The folder, or one above it.
        others: Gets the paths of the files that have no image's extension.
        system: Gets the paths of folders that a system or a file manager made.

    Yields:
        Paths. Hidden files and folders are left out. Links are followed, but to no folder
        twice, nor back to one that they are in.
    """
    known, home = extensions(), folder.resolve()
    seen = {home}
    for top, below, files in os.walk(folder, followlinks=True):
        made = [name for name in below if _is_system_name(name)]
        system += [f"{top}{os.sep}{name}" for name in made]
        users = sorted(name for name in below if _is_users(name) and name not in made)
        below[:] = [name for name in users if _is_new(Path(top, name), home, seen)]
        # One path object per folder: one per file would take as long as hashing all of them.
        relative = str(Path(top).relative_to(root))
        for name in sorted(filter(_is_users, files)):
            if os.path.splitext(name)[1].lower() in known:  # noqa: PTH122
                yield f"{relative}{os.sep}{name}"
            else:
                others.append(f"{top}{os.sep}{name}")


def _is_new(folder: Path, home: Path, seen: set[Path]) -> bool:
    """Return whether a folder below home is to be read: links may lead to it again, or round."""
    real = folder.resolve()
    if folder.is_symlink():
        around = any(each.is_relative_to(real) for each in (home, folder.parent.resolve()))
        # What is below home is read without the link.
        if around or real.is_relative_to(home):
            return False
    if real in seen:
        return False
    seen.add(real)
    return True


def inside(root: Path, name: str, place: str, report: LoadReport) -> str | None:
    """Return a path relative to the root, unless it is missing or leads out of it.

    Args:
        root: A folder, resolved.
        name: The path as a table has it.
        place: The table's row, for messages.
        report: Decides about a bad one.

    Raises:
        DataError: It is bad, and bad rows are not to be skipped.
    """
    if not name or "\0" in name:
        report.reject(place, "expected a path, got none" if not name else f"no path: {name!r}")
        return None
    if "\\" in name and not os.path.lexists(root / name):
        # As a program on Windows writes it.
        name = name.replace("\\", "/")
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        report.reject(place, f"expected a path inside {root}, got {name!r}, which leads out of it")
        return None
    return str(path.relative_to(root))


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _read_filelist(path: Path) -> Iterator[tuple[int, str, int]]:
    for row, line in enumerate(read_text(path).splitlines(), start=1):
        image, _, label = line.strip().rpartition(" ")
        if not image or not label.isdigit():
            raise DataError(f"{path}: row {row}: expected a path and a class number, got {line!r}")
        if image.startswith("/") or ".." in image.split("/"):
            raise DataError(f"{path}: row {row}: expected a path inside its folder, got {image!r}")
        yield row, image, int(label)


def image_columns(schema: Any) -> list[str]:
    """Return the columns of an Arrow schema that hold encoded images: structs with ``bytes``."""
    import pyarrow as pa

    return [
        field.name
        for field in schema
        if pa.types.is_struct(field.type) and "bytes" in [part.name for part in field.type]
    ]


def encoded_column(path: Path, column: str) -> Any:
    """Return the encoded images of a file, by row: a part of an ``ArrowImages``.

    Args:
        path: A Parquet or Arrow file.
        column: Its image column.
    """
    import pyarrow.compute as compute

    opened = open_arrow(path)
    if path.suffix == ".arrow":
        return compute.struct_field(opened.column(column), "bytes")
    return ParquetRowGroups(path, opened, column)


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """Read the class names that ``datasets`` keeps in a file's metadata."""
    stored = (schema.metadata or {}).get(b"huggingface")
    try:
        names = json.loads(stored)["info"]["features"][label]["names"] if stored else None
    except (ValueError, KeyError, TypeError):
        return None
    return tuple(str(name) for name in names) if names else None
