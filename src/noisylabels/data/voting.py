"""Rows of a table that several people have labelled."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from noisylabels.data.examples import LoadReport
from noisylabels.data.label_encoding import (
    WHOLE,
    LabelKind,
    encode_labels,
    is_missing,
    label_text,
)
from noisylabels.errors import ConfigError, check_choice
from noisylabels.votes import CONSENSUSES, Consensus, consensus

LABEL = "label"
"""The default column of labels."""
Ballot = tuple[tuple[object, object], ...]
"""Of each column who gave a vote, and the vote; or the class, and how many gave it."""


@dataclass(frozen=True)
class Encoded:
    """The labels of the rows that are sound, as numbers.

    Args:
        sound: Which rows are, bool, of the shape of all rows.
        classes: The class names.
        given: Given labels, int64, of shape (N).
        better: The labels that rows have as test examples, of that shape.
        targets: What is learnt in place of the given ones, of shape (N, K), if anything is.
        better_targets: The same of the better ones.
    """

    sound: Tensor
    classes: tuple[str, ...]
    given: Tensor
    better: Tensor
    targets: Tensor | None = None
    better_targets: Tensor | None = None


@dataclass(frozen=True)
class TestLabels:
    """The labels that rows have as test examples, from a column of their own.

    Args:
        column: The column.
        labels: Of each row.
        tested: Which rows are test examples: they need this label alone, and the others do not.
            None where any may become one, so that all need both.
    """

    column: str
    labels: Sequence[object]
    tested: Sequence[bool] | None

    def needed(self, kind: LabelKind) -> list[int]:
        """Return the rows whose label here counts."""
        return [
            row
            for row, label in enumerate(self.labels)
            if self.tested is None or self.tested[row] or not is_missing(label, kind)
        ]

    def alone(self, kind: LabelKind) -> set[int]:
        """Return the rows that need no other label."""
        return {
            row
            for row, label in enumerate(self.labels)
            if self.tested is not None and self.tested[row] and not is_missing(label, kind)
        }

    def beside(self, given: Sequence[object], kind: LabelKind) -> tuple[list[object], list[object]]:
        """Return both labels of each row, each in the other's place where it is not needed.

        Args:
            given: The other label of each row.
            kind: As for :func:`noisylabels.data.label_encoding.encode_labels`.
        """
        own, better = list(given), list(given)
        for row in self.alone(kind):
            if is_missing(given[row], kind):
                own[row] = self.labels[row]
        for row in self.needed(kind):
            better[row] = self.labels[row]
        return own, better

    def places(self, places: Sequence[str]) -> list[str]:
        """Return where the labels are, for messages.

        Args:
            places: Where each row is.
        """
        return [f"{place}: {self.column}" for place in places]

    def of(self, rows: Sequence[int]) -> "TestLabels":
        """Return those of some rows."""
        tested = None if self.tested is None else [self.tested[row] for row in rows]
        return TestLabels(self.column, [self.labels[row] for row in rows], tested)


class Voted(Protocol):
    """A source whose rows may have votes: its options of them."""

    @property
    def votes(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def raters(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def vote_counts(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def consensus(self) -> Consensus: ...  # noqa: D102
    @property
    def candidate_separator(self) -> str | None: ...  # noqa: D102
    @property
    def label_column(self) -> str: ...  # noqa: D102
    @property
    def labels(self) -> LabelKind: ...  # noqa: D102


@dataclass(frozen=True)
class Voting:
    """Which columns hold votes, and what becomes of them.

    Args:
        votes: Columns of labels by one rater each, empty where a rater gave none.
        raters: Columns of who gave each of the votes; by default each column is one rater's.
        counts: In place of both, a column for each class, of how many gave it.
        consensus: What becomes of the votes, see ``noisylabels.votes``.
        separator: What stands between the candidates of a set, which votes are not.
        label_column: Column of labels, which votes take the place of.
        labels: Whether labels are names or numbers; the classes that votes are counted of have
            names.

    Raises:
        ConfigError: The settings do not fit each other.
    """

    votes: tuple[str, ...]
    raters: tuple[str, ...]
    counts: tuple[str, ...]
    consensus: Consensus
    separator: str | None
    label_column: str
    labels: LabelKind

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.votes and self.counts:
            raise ConfigError("votes must be left out where there are vote_counts")
        if self.raters and len(self.raters) != len(self.votes):
            raise ConfigError(
                f"raters: expected a column for each of {len(self.votes)} columns of votes, got "
                f"{len(self.raters)}"
            )
        twice = sorted(name for name, n in Counter((*self.votes, *self.raters)).items() if n > 1)
        if twice:
            raise ConfigError(
                f"votes and raters: expected each column once, got {', '.join(map(repr, twice))} "
                f"more than once"
            )
        check_choice("consensus", self.consensus, CONSENSUSES)
        if not self and self.consensus != "soft":
            raise ConfigError(
                f"consensus must be left out where there are neither votes nor vote_counts, got "
                f"{self.consensus!r}"
            )
        if self and self.label_column != LABEL:
            raise ConfigError(
                f"label_column must be left out where there are votes, which take its place; got "
                f"{self.label_column!r}"
            )
        if self.counts and self.consensus == "dawid-skene":
            raise ConfigError(
                "consensus must be 'soft' or 'majority' with vote_counts, which do not say who "
                "gave which vote; got 'dawid-skene'"
            )
        if len(set(self.counts)) == 1 or len(set(self.counts)) != len(self.counts):
            raise ConfigError(
                f"vote_counts: expected a column for each of at least two classes, got "
                f"{', '.join(self.counts)}"
            )
        if self.counts and self.labels == "numbers":
            raise ConfigError(
                "labels must be left out where there are vote_counts, whose columns name the "
                "classes; got 'numbers'"
            )
        if self.separator is not None and self:
            raise ConfigError("candidate_separator must be left out where there are votes")

    @classmethod
    def of(cls, source: Voted) -> Self:
        """Return what a source says of votes.

        Args:
            source: The source.

        Raises:
            ConfigError: Its settings do not fit each other.
        """
        return cls(
            source.votes,
            source.raters,
            source.vote_counts,
            source.consensus,
            source.candidate_separator,
            source.label_column,
            source.labels,
        )

    def __bool__(self) -> bool:
        """Whether there are votes."""
        return bool(self.votes or self.counts)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (*self.votes, *self.raters, *self.counts)

    def read(self, values: Mapping[str, Any]) -> Ballot:
        """Return a row's votes.

        Args:
            values: The row, by column.
        """
        columns = self.votes or self.counts
        named = [values[name] for name in self.raters] or columns
        return tuple((who, values[name]) for who, name in zip(named, columns, strict=True))

    def encode(
        self,
        ballots: Sequence[Ballot],
        places: Sequence[str],
        report: LoadReport,
        kind: LabelKind,
        better: TestLabels | None = None,
    ) -> Encoded:
        """Turn votes into class numbers, and probabilities where these are learnt.

        Args:
            ballots: The votes of each row.
            places: Where each row is, for messages.
            report: Takes what is skipped.
            kind: As for :func:`noisylabels.data.label_encoding.encode_labels`.
            better: The labels that rows have as test examples; by default the consensus.

        Returns:
            The rows that are sound.

        Raises:
            DataError: A vote is no label or a row has none, and bad rows are not to be skipped.
        """
        encode = self._encode_counts if self.counts else self._encode_votes
        return encode(ballots, places, report, kind, better)

    def _encode_votes(
        self,
        ballots: Sequence[Ballot],
        places: Sequence[str],
        report: LoadReport,
        kind: LabelKind,
        better: TestLabels | None,
    ) -> Encoded:
        given = [
            (row, column, who, vote)
            for row, ballot in enumerate(ballots)
            for column, (who, vote) in enumerate(ballot)
            if not is_missing(vote, kind)
        ]
        voted = {row for row, *_ in given}
        sound = self._have_votes(voted, places, report, kind, better)
        names = [_name(who) if self.raters else who for _, _, who, _ in given]
        for (row, column, who, _), name in zip(given, names, strict=True):
            if name is None and bool(sound[row]):
                told = "none" if is_missing(who, "names") else f"{who!r:.80}"
                place = f"{places[row]}: {self.raters[column]}"
                report.reject(place, f"expected who gave the vote, got {told}")
                sound[row] = False
        if not bool(sound.all()):
            return self._again(sound, ballots, places, report, kind, better)
        needed = [] if better is None else better.needed(kind)
        also = [] if better is None else [better.labels[row] for row in needed]
        where = [] if better is None else better.places([places[row] for row in needed])
        numbers, classes, good = encode_labels(
            [*(vote for *_, vote in given), *also],
            [*(f"{places[row]}: {self.votes[column]}" for row, column, *_ in given), *where],
            None,
            report,
            kind,
            [*(row for row, *_ in given), *needed],
        )
        sound[[row for (row, *_), kept in zip(given, good.tolist(), strict=False) if not kept]] = (
            False
        )
        sound[needed] &= good[len(given) :]
        if not bool(sound.all()):
            return self._again(sound, ballots, places, report, kind, better)
        numbered: dict[object, int] = {}
        votes, raters = torch.full((2, len(ballots), len(self.votes)), -1).unbind()
        whose = [numbered.setdefault(name, len(numbered)) for name in names]
        cells = [(row, column) for row, column, *_ in given]
        index = torch.tensor(cells, dtype=torch.int64).view(-1, 2).T
        votes[*index] = numbers[: len(given)]
        raters[*index] = torch.tensor(whose, dtype=torch.int64)
        kept = sorted(voted)
        shares = consensus(
            votes[kept],
            num_classes=len(classes),
            by=self.consensus,
            raters=raters[kept] if self.consensus == "dawid-skene" else None,
        )
        self._note(len(given), len(kept), f" by {len(numbered)} raters", report)
        return self._encoded(sound, classes, kept, shares, needed, numbers[len(given) :])

    def _encode_counts(
        self,
        ballots: Sequence[Ballot],
        places: Sequence[str],
        report: LoadReport,
        kind: LabelKind,
        better: TestLabels | None,
    ) -> Encoded:
        sound = torch.ones(len(ballots), dtype=torch.bool)
        table = [[_count(value) for _, value in ballot] for ballot in ballots]
        for row, numbered in enumerate(table):
            if None in numbered:
                column = numbered.index(None)
                name, value = ballots[row][column]
                report.reject(f"{places[row]}: {name}", f"expected a count of votes, got {value!r}")
                sound[row] = False
        voted = {row for row, numbered in enumerate(table) if None in numbered or any(numbered)}
        sound &= self._have_votes(voted, places, report, "names", better)
        if not bool(sound.all()):
            return self._again(sound, ballots, places, report, kind, better)
        needed, numbers = [], torch.zeros(0, dtype=torch.int64)
        if better is not None:
            needed = better.needed("names")
            where = better.places([places[row] for row in needed])
            labels = [better.labels[row] for row in needed]
            numbers, _, good = encode_labels(labels, where, self.counts, report, "names")
            sound[needed] &= good
            if not bool(sound.all()):
                return self._again(sound, ballots, places, report, kind, better)
        kept = sorted(voted)
        counts = torch.tensor([table[row] for row in kept], dtype=torch.float64)
        counts = counts.view(-1, len(self.counts))
        self._note(int(counts.sum()), len(kept), "", report)
        shares = (counts / counts.sum(1, keepdim=True)).float()
        return self._encoded(sound, self.counts, kept, shares, needed, numbers)

    def _have_votes(
        self,
        voted: set[int],
        places: Sequence[str],
        report: LoadReport,
        kind: LabelKind,
        better: TestLabels | None,
    ) -> Tensor:
        """Refuse rows that nobody has labelled."""
        columns = ", ".join(self.votes or self.counts)
        fine = voted if better is None else voted | better.alone(kind)
        for row in sorted(set(range(len(places))) - fine):
            report.reject(places[row], f"expected a vote in {columns}, got none")
        return torch.tensor([row in fine for row in range(len(places))], dtype=torch.bool)

    def _again(
        self,
        sound: Tensor,
        ballots: Sequence[Ballot],
        places: Sequence[str],
        report: LoadReport,
        kind: LabelKind,
        better: TestLabels | None,
    ) -> Encoded:
        """Encode the rows that are sound, by themselves: they may have fewer classes."""
        kept = sound.nonzero().squeeze(1).tolist()
        if not kept:
            none = torch.zeros(0, dtype=torch.int64)
            return Encoded(sound, (), none, none)
        rest = self.encode(
            [ballots[row] for row in kept],
            [places[row] for row in kept],
            report,
            kind,
            None if better is None else better.of(kept),
        )
        return dataclasses.replace(rest, sound=sound.masked_scatter(sound, rest.sound))

    def _encoded(
        self,
        sound: Tensor,
        classes: tuple[str, ...],
        voted: list[int],
        shares: Tensor,
        needed: list[int],
        numbers: Tensor,
    ) -> Encoded:
        """Return what came of votes.

        Args:
            sound: Which rows are sound: all of them.
            classes: The class names.
            voted: The rows with votes.
            shares: What became of their votes, of shape (len(voted), K).
            needed: The rows with a label as a test example, all without votes among them.
            numbers: That label.
        """
        better = torch.full((len(sound),), -1)
        better[needed] = numbers
        every = torch.nn.functional.one_hot(better.clamp(min=0), len(classes)).to(shares.dtype)
        every[voted] = shares
        labels = every.argmax(1)
        targets = None if self.consensus == "majority" else every
        return Encoded(sound, classes, labels, better.where(better >= 0, labels), targets)

    def _note(self, votes: int, rows: int, whose: str, report: LoadReport) -> None:
        report.note(
            f"labels are the {self.consensus} consensus of {votes} votes{whose}, "
            f"{votes / max(1, rows):.1f} for each example"
        )


def _name(who: object) -> str | None:
    """Return who gave a vote, None where it is not said; 1.0, as spreadsheets write it, is 1."""
    text = label_text(who, "names")
    whole = None if text is None else WHOLE.fullmatch(text)
    return text if whole is None else whole[1]


def _count(value: object) -> int | None:
    if is_missing(value, "numbers"):
        return 0
    try:
        count = float(str(value))
    except ValueError:
        return None
    return int(count) if count >= 0 and count.is_integer() else None
