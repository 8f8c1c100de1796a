"""Texts with labels, in a table."""

import dataclasses
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
from noisylabels.data.label_encoding import LabelKind, encode_candidates, note_empty, several
from noisylabels.data.source import LABEL_BEFORE, Facts, SplittableSource
from noisylabels.data.tables import is_text, read_table
from noisylabels.data.voting import LABEL, Encoded, TestLabels, Voting
from noisylabels.errors import ConfigError, DataError
from noisylabels.votes import Consensus

SPLIT = "split"
Row = tuple[str, str, Any, object, bool, str]
"""Place, text, label (or votes), label as a test example, whether it has a label before, split."""
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
            than the rest; that of the labels by default. With splits it may be empty for training
            rows, as their own labels or votes may for test rows.
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
    """

    path: Path
    text_column: str = "text"
    label_column: str = LABEL
    split_column: str | None = None
    test_label_column: str | None = None
    labels: LabelKind = "auto"
    candidate_separator: str | None = None
    votes: tuple[str, ...] = ()
    raters: tuple[str, ...] = ()
    vote_counts: tuple[str, ...] = ()
    consensus: Consensus = "soft"

    @property
    def where(self) -> Path:
        """The file."""
        return self.path

    @property
    def has_test_set(self) -> bool:
        """Whether a row is of the split ``test``."""
        return any(split == "test" for *_, split in self._read[0])

    def facts(self) -> Facts:
        """Return that the inputs are texts."""
        return Facts((), images=False)

    def digest(self) -> str:
        """Return a hash of the file's contents."""
        return file_digest(self.path)

    def load(self, workers: int = 0) -> Dataset:
        """Read all examples."""
        self.check_split()
        found, torn = self._read
        report = torn.copy()
        rows = [row for row in found if self._sound(row, report)]
        if not rows:
            raise DataError(f"{self.path}: expected texts with labels, got none that is sound")
        places = [place for place, *_ in rows]
        encoded = self._encode(rows, places, report)
        rows = [row for row, keep in zip(rows, encoded.sound.tolist(), strict=True) if keep]
        if not rows:
            raise DataError(f"{self.path}: expected texts with labels, got none that is sound")
        classes = encoded.classes
        test = torch.tensor([split == "test" for *_, split in rows])
        corrected = any(before for *_, before, split in rows if split == "test")
        if not self.has_test_set:
            test = self.split_test_set(encoded.given, report)
        texts = np.array([text for _, text, *_ in rows], dtype=object)
        where = np.array([place for place, *_ in rows], dtype=np.str_)
        train, tests = (
            _examples(texts, labels, own, where, chosen.nonzero().squeeze(1))
            for labels, own, chosen in (
                (encoded.given, encoded.targets, ~test),
                (encoded.better, encoded.better_targets, test),
            )
        )
        tests = dataclasses.replace(tests, targets=several(tests.targets))
        if len(set(train.mentioned().tolist())) < 2 or not len(tests):
            raise DataError(
                f"{self.path}: expected training texts of at least two classes and test texts, got "
                f"{len(train)} and {len(tests)}"
            )
        note_empty(train.mentioned(), classes, "training examples", report)
        return Dataset(
            train,
            tests,
            classes,
            torch.zeros(0),
            torch.ones(0),
            notes=report.notes(),
            skipped=tuple(report.skipped),
            test_is_given=(not self.has_test_set or corrected) and self.test_label_column is None,
        )

    def _encode(self, rows: list[Row], places: list[str], report: LoadReport) -> Encoded:
        """Encode labels, sets of candidates or votes."""
        given = [label for _, _, label, *_ in rows]
        better = self._better(rows)
        if voting := self._voting:
            return voting.encode(given, places, report, self.labels, better)
        count, columns = len(rows), 1
        values, where = given, places
        if better is not None:
            given, others = better.beside(given, self.labels)
            columns = 2
            values, where = given + others, places + better.places(places)
        numbers, sets, classes, good = encode_candidates(
            values,
            where,
            None,
            report,
            self.labels,
            self.candidate_separator,
            [*range(count)] * columns,
        )
        sound = good.view(columns, count).all(0)
        if not bool(sound.all()):
            kept = sound.nonzero().squeeze(1).tolist()
            rest = self._encode([rows[row] for row in kept], [places[row] for row in kept], report)
            return dataclasses.replace(rest, sound=sound.masked_scatter(sound, rest.sound))
        first, last = (None, None) if sets is None else (sets[:count], sets[-count:])
        return Encoded(sound, classes, numbers[:count], numbers[-count:], first, last)

    def _better(self, rows: list[Row]) -> TestLabels | None:
        """Return the labels that rows have as test examples, where a column has such."""
        if self.test_label_column is None:
            return None
        tested = [split == "test" for *_, split in rows] if self.has_test_set else None
        return TestLabels(self.test_label_column, [last for _, _, _, last, *_ in rows], tested)

    @property
    def _voting(self) -> Voting:
        return Voting.of(self)

    @cached_property
    def _read(self) -> tuple[list[Row], LoadReport]:
        """The rows, and what was found while reading them."""
        report = LoadReport(self.on_error)
        return list(self._rows(report)), report

    def _rows(self, report: LoadReport) -> Iterator[Row]:
        voting = self._voting
        labels = voting.columns or (self.label_column,)
        wanted = (self.text_column, *labels, self.split_column, self.test_label_column)
        names, numbered = read_table(
            self.path,
            filter(None, (*wanted, SPLIT, LABEL_BEFORE)),
            self.text_column,
            report,
        )
        for column in filter(None, wanted):
            if column not in names:
                raise DataError(
                    f"{self.path}: expected a column {column!r}, got {', '.join(map(repr, names))} "
                    f"(text_column and label_column name other ones)"
                )
        for row, values in numbered:
            label = voting.read(values) if voting else values[self.label_column]
            better = values[self.test_label_column] if self.test_label_column else label
            split = str(values.get(self.split_column or SPLIT) or "").strip().lower()
            text = values[self.text_column]
            before = bool(values.get(LABEL_BEFORE))
            given = "" if text is None or text != text else str(text)
            yield f"{self.path}: row {row}", given, label, better, before, split

    def _sound(self, row: Row, report: LoadReport) -> bool:
        place, text, label, better, _, split = row
        if split not in ("", *PARTS):
            report.reject(place, f"expected split train or test, got {split!r}")
            return False
        if not text.strip():
            report.reject(place, "expected a text, got none")
            return False
        for value in (text, label, better):
            if not is_text(value):
                report.reject(place, f"expected UTF-8 text, save it as that; got {value!r:.80}")
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
        # Which refuses what does not fit.
        _ = self._voting


def _examples(
    texts: "np.ndarray[Any, Any]",
    labels: Tensor,
    targets: Tensor | None,
    places: "np.ndarray[Any, Any]",
    index: Tensor,
) -> Examples:
    chosen = index.numpy()
    targets = None if targets is None else targets[index]
    return Examples(Texts(texts[chosen]), labels[index], places[chosen], targets=targets)
