"""Texts with labels, in a table."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisylabels.data.digests import file_digest
from noisylabels.data.examples import Dataset, Examples, LoadReport, Texts
from noisylabels.data.label_encoding import LabelKind, encode_labels, note_empty
from noisylabels.data.source import Facts, SplittableSource
from noisylabels.data.tables import read_table
from noisylabels.errors import ConfigError, DataError

SPLIT = "split"
PARTS = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Text(SplittableSource):
    """A CSV or Parquet file of texts and labels; features turn the texts into vectors.

    Args:
        limit: Train on the first ``limit`` training examples only; all by default.
        path: The file.
        text_column: Column of texts.
        label_column: Column of labels.
        split_column: Column of splits, ``train`` or ``test``; ``split`` by default, which may be
            missing.
        test_label_column: Column of the test examples' labels, where some are known to be better
            than the rest; that of the labels by default.
        labels: ``"names"`` takes labels as text, ``"numbers"`` as class numbers, ``"auto"`` as
            numbers where all of them are whole.
        on_error: ``"raise"`` stops at the first bad row; ``"skip"`` leaves bad ones out, counts
            them and lists them in the run folder.
        test_share: Share of the examples that become the test set, in (0, 1); 0.2 by default. Only
            where no test set is given.
        split_seed: Seed of that split, at least 0; 0 by default. Only where no test set is given.
    """

    path: Path
    text_column: str = "text"
    label_column: str = "label"
    split_column: str | None = None
    test_label_column: str | None = None
    labels: LabelKind = "auto"

    @property
    def where(self) -> Path:
        """The file."""
        return self.path

    @property
    def has_test_set(self) -> bool:
        """Whether a row is of the split ``test``."""
        return any(split == "test" for *_, split in self._rows)

    def facts(self) -> Facts:
        """Return that the inputs are texts."""
        return Facts((), images=False)

    def digest(self) -> str:
        """Return a hash of the file's contents."""
        return file_digest(self.path)

    def load(self, workers: int = 0) -> Dataset:
        """Read all examples."""
        self.check_split()
        report = LoadReport(self.on_error)
        rows = [row for row in self._rows if self._sound(row, report)]
        if not rows:
            raise DataError(f"{self.path}: expected texts with labels, got none that is sound")
        places = [place for place, *_ in rows]
        both = [label for _, _, label, _, _ in rows] + [better for *_, better, _ in rows]
        numbers, classes, sound = encode_labels(both, places * 2, None, report, self.labels)
        if len(numbers) < len(both):
            # A row counts only with both of its labels.
            kept = sound[: len(rows)] & sound[len(rows) :]
            rows = [row for row, keep in zip(rows, kept.tolist(), strict=True) if keep]
            both = [label for _, _, label, _, _ in rows] + [better for *_, better, _ in rows]
            numbers, classes, _ = encode_labels(both, places * 2, None, report, self.labels)
        given, better = numbers[: len(rows)], numbers[len(rows) :]
        test = torch.tensor([split == "test" for *_, split in rows])
        if not self.has_test_set:
            test = self.split_test_set(given, report)
        texts = np.array([text for _, text, *_ in rows], dtype=object)
        where = np.array([place for place, *_ in rows], dtype=np.str_)
        train, tests = (
            _examples(texts, labels, where, chosen.nonzero().squeeze(1))
            for labels, chosen in ((given, ~test), (better, test))
        )
        if len(set(train.labels.tolist())) < 2 or not len(tests):
            raise DataError(
                f"{self.path}: expected training texts of at least two classes and test texts, got "
                f"{len(train)} and {len(tests)}"
            )
        note_empty(train.labels, classes, "training examples", report)
        return Dataset(
            train,
            tests,
            classes,
            torch.zeros(0),
            torch.ones(0),
            notes=report.notes(),
            skipped=tuple(report.skipped),
            test_is_given=not self.has_test_set and self.test_label_column is None,
        )

    @cached_property
    def _rows(self) -> list[tuple[str, str, object, object, str]]:
        """Place, text, label, label as a test example, and split of each row."""
        return list(self._read())

    def _read(self) -> Iterator[tuple[str, str, object, object, str]]:
        wanted = (self.text_column, self.label_column, self.split_column, self.test_label_column)
        names, numbered = read_table(
            self.path,
            filter(None, (*wanted, SPLIT)),
            self.text_column,
            LoadReport(self.on_error),
        )
        for column in filter(None, wanted):
            if column not in names:
                raise DataError(
                    f"{self.path}: expected a column {column!r}, got {', '.join(map(repr, names))} "
                    f"(text_column and label_column name other ones)"
                )
        for row, values in numbered:
            label = values[self.label_column]
            better = values[self.test_label_column] if self.test_label_column else label
            split = str(values.get(self.split_column or SPLIT) or "").strip().lower()
            text = values[self.text_column]
            yield f"{self.path}: row {row}", str(text or ""), label, better, split

    def _sound(self, row: tuple[str, str, object, object, str], report: LoadReport) -> bool:
        place, text, _, _, split = row
        if split not in ("", *PARTS):
            report.reject(place, f"expected split train or test, got {split!r}")
            return False
        if not text.strip():
            report.reject(place, "expected a text, got none")
            return False
        return True

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ConfigError: The file is of another kind.
        """
        super().__post_init__()
        if self.path.suffix.lower() not in (".csv", ".tsv", ".parquet"):
            raise ConfigError(f"{self.path}: expected a .csv, .tsv or .parquet file of texts")


def _examples(
    texts: "np.ndarray[Any, Any]", labels: Tensor, places: "np.ndarray[Any, Any]", index: Tensor
) -> Examples:
    chosen = index.numpy()
    return Examples(Texts(texts[chosen]), labels[index], places[chosen])
