"""Which labels are wrong, as far as finished runs can tell: suspects, how many, and which classes.

Everything here is computed from what runs keep of their predictions, see
:mod:`noisylabels.run.trajectory`; nothing is trained, and no label is changed.
"""

import functools
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from noisylabels.atomic import replacing
from noisylabels.data.tables import write_csv
from noisylabels.errors import ConfigError, DataError, MissingExtraError, check_choice
from noisylabels.estimation import (
    ESTIMATORS,
    posterior,
    wrong_probability,
    wrong_share,
    wrong_share_interval,
)
from noisylabels.labels import check
from noisylabels.run.folder import RunFolder
from noisylabels.studies import pages

if TYPE_CHECKING:
    import pandas

Array = np.ndarray[Any, Any]

PARTS = {"": "train", "validation": "validation", "test": "test"}
"""Parts of the data by what their arrays in ``labels.npz`` begin with."""
SHOWN_ESTIMATES = {
    "confident joint": "misses labels that people mistook on hard examples",
    "disagreement": "counts the network's own mistakes too",
}
"""The estimates of an audit, and what is the matter with each."""
DISAGREE = 0.02
"""Difference of two estimates of the share of wrong labels that is worth a sentence."""
BY_HEART = 0.15
"""By how much larger a share of the given labels that it was trained on a network must predict than
of others to have learnt wrong ones too, see ``docs/results/decay.md``."""
FIRST = 500
"""Suspects whose expected precision is said, besides that of all."""
CONFIDENT = 0.12
"""Share of a network's own mistakes that look like wrong labels: with no wrong label at all, this
share of the mistakes on a test set was counted, see ``docs/results/audit.md``."""
TOO_MANY = 0.5
"""Share of the labels that look wrong, from which on these mistakes may be all there is."""
WEAK, MIDDLING = 0.3, 0.5
"""Skill below which confidence itself says nothing, and skill below which it says too much."""
OVERLAPS = 10
"""Pairs of classes that are listed."""
COLUMNS = (
    "rank",
    "part",
    "row",
    "path",
    "given",
    "suggested",
    "score",
    "p_given",
    "p_suggested",
    "margin",
    "epochs_differing",
    "p_given_last",
)
"""The columns of ``suspects.csv``."""


@dataclass(frozen=True)
class Evidence:
    """What runs predicted for examples with given labels: means over epochs, then over runs.

    Args:
        classes: The K class names.
        labels: Given labels, int64, of shape (N).
        mean: Class probabilities, float32, of shape (N, K).
        last: The same of the last epoch alone.
        margin: By how much the given label's probability was above the likeliest other class.
        differing: Share of the epochs in which another class was predicted.
        parts: The part of the data that each example is of: ``"train"``, or one that was not
            trained on, ``"validation"`` or ``"test"``.
        rows: The position of each in its part.
        places: Where each comes from; "" where its number says it.
        true: True labels where they are known, else -1.
        accuracy: Share of the test labels that were predicted; of held-out labels where the test
            set was left alone, and NaN where nothing was held out.
        against_given: Whether these may be wrong themselves.
        evaluations: Epochs that were evaluated, of the run with fewest; 1 where means are missing.
        folders: The runs.
        out_of_fold: Whether each example was predicted by a run that was not trained on it; rows
            are then those of the whole training set.
    """

    classes: tuple[str, ...]
    labels: Array
    mean: Array
    last: Array
    margin: Array
    differing: Array
    parts: Array
    rows: Array
    places: Array
    true: Array
    accuracy: float
    against_given: bool
    evaluations: int
    folders: tuple[Path, ...]
    out_of_fold: bool = False

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)

    @property
    def given(self) -> Array:
        """The mean probability of the given label, of shape (N)."""
        return self.of(self.mean, self.labels)

    @functools.cached_property
    def posterior(self) -> Array:
        """Class probabilities given the label too, see ``noisylabels.estimation.posterior``."""
        p, labels = torch.from_numpy(self.mean), torch.from_numpy(self.labels)
        return np.asarray(posterior(p, labels).numpy())

    @staticmethod
    def of(probabilities: Array, labels: Array) -> Array:
        """Return the probability of one label of each example."""
        return np.asarray(probabilities[np.arange(len(labels)), labels])


def _posterior(evidence: Evidence) -> Array:
    p, labels = torch.from_numpy(evidence.mean), torch.from_numpy(evidence.labels)
    return np.asarray(wrong_probability(p, labels).numpy())


def _last_margin(evidence: Evidence) -> Array:
    return (1 - margins(evidence.last, evidence.labels)) / 2


SCORES: dict[str, Callable[[Evidence], Array]] = {
    "posterior": _posterior,
    "mean-given": lambda evidence: 1 - evidence.given,
    "mean-margin": lambda evidence: (1 - evidence.margin) / 2,
    "last-given": lambda evidence: 1 - evidence.of(evidence.last, evidence.labels),
    "last-margin": _last_margin,
    # Ties, of which there are many, are broken by the margin.
    "epochs": lambda evidence: (evidence.differing + 1e-3 * (1 - evidence.margin)) / 1.002,
}
"""How suspicious a label is, in [0, 1], by name; ``docs/results/audit.md`` compares them."""
DEFAULT_SCORE = "posterior"


def margins(probabilities: Array, labels: Array) -> Array:
    """Return by how much the labels' probabilities are above the likeliest other class.

    Args:
        probabilities: Of shape (N, K).
        labels: int64, of shape (N).

    Example:
        >>> margins(np.array([[0.75, 0.25], [0.75, 0.25]]), np.array([0, 1]))
        array([ 0.5, -0.5])
    """
    rows = np.arange(len(labels))
    others = probabilities.copy()
    others[rows, labels] = -1
    return np.asarray(probabilities[rows, labels] - others.max(1))


@dataclass(frozen=True)
class Estimate:
    """How many labels are wrong.

    Args:
        method: What the estimate is called.
        share: Share of the labels.
        low: Lower end of an interval of 95 %, over the choice of examples.
        high: Its upper end.
    """

    method: str
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Suspect:
    """An example whose label is not the likeliest class.

    Args:
        example: Its position among all examples of the audit.
        rank: Its place, from 1, among the suspects.
        part: The part of the data that it is of.
        row: Its position there.
        place: Where it comes from; "" where its number says it.
        given: The given label's class.
        suggested: The likeliest class.
        score: How suspicious the label is, in [0, 1].
        p_given: Mean probability of the given label.
        p_suggested: Mean probability of the suggested one.
        margin: Mean margin of the given label, below 0 for most.
        epochs_differing: Share of the epochs in which another class was predicted.
        p_given_last: The given label's probability in the last epoch.
    """

    example: int
    rank: int
    part: str
    row: int
    place: str
    given: str
    suggested: str
    score: float
    p_given: float
    p_suggested: float
    margin: float
    epochs_differing: float
    p_given_last: float


@dataclass(frozen=True)
class Overlap:
    """Two classes that are taken for each other.

    Args:
        first: One class.
        second: The other.
        examples: Estimated number of examples of either that have the other's label.
        share: The same as a share of the examples with either label.
    """

    first: str
    second: str
    examples: float
    share: float


@dataclass(frozen=True)
class Audit:
    """What was found.

    Args:
        evidence: What runs predicted.
        score_name: A key of ``SCORES``.
        score: How suspicious each label is, in [0, 1], of shape (N).
        suggested: The likeliest class of each example.
        order: All examples, the most suspicious first.
        estimates: How many labels are wrong, by each of ``SHOWN_ESTIMATES``.
        joint: Estimated number of examples by given (rows) and true class (columns).
    """

    evidence: Evidence
    score_name: str
    score: Array
    suggested: Array
    order: Array
    estimates: tuple[Estimate, ...]
    joint: Array

    @property
    def suspects(self) -> Array:
        """The examples whose label is not the likeliest class, the most suspicious first."""
        differ = self.suggested != self.evidence.labels
        return np.asarray(self.order[differ[self.order]])

    @property
    def wrong(self) -> tuple[int, int]:
        """How many labels are wrong, by the lowest and by the highest estimate."""
        shares = [estimate.share for estimate in self.estimates]
        return round(min(shares) * len(self.evidence)), round(max(shares) * len(self.evidence))

    def listed(self) -> list[Suspect]:
        """Return the suspects, the most suspicious first."""
        evidence = self.evidence
        names, given = evidence.classes, evidence.given
        likeliest = evidence.of(evidence.mean, self.suggested)
        last = evidence.of(evidence.last, evidence.labels)
        return [
            Suspect(
                example=example,
                rank=rank,
                part=str(evidence.parts[example]),
                row=int(evidence.rows[example]),
                place=str(evidence.places[example]),
                given=names[evidence.labels[example]],
                suggested=names[self.suggested[example]],
                score=float(self.score[example]),
                p_given=float(given[example]),
                p_suggested=float(likeliest[example]),
                margin=float(evidence.margin[example]),
                epochs_differing=float(evidence.differing[example]),
                p_given_last=float(last[example]),
            )
            for rank, example in enumerate(self.suspects.tolist(), start=1)
        ]

    def frame(self) -> "pandas.DataFrame":
        """Return the suspects as a pandas DataFrame, with the columns of ``suspects.csv``.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("pandas", "report") from error
        rows = [_cells(suspect) for suspect in self.listed()]
        return pandas.DataFrame(rows, columns=list(COLUMNS))

    def overlaps(self) -> list[Overlap]:
        """Return the pairs of classes that are taken for each other most, at most ``OVERLAPS``."""
        both = self.joint + self.joint.T
        sizes = np.bincount(self.evidence.labels, minlength=len(self.joint))
        pairs = sorted(zip(*np.triu_indices(len(both), 1), strict=True), key=lambda c: -both[c])
        names = self.evidence.classes
        return [
            Overlap(names[one], names[two], float(both[one, two]), float(both[one, two]) / total)
            for one, two in pairs[:OVERLAPS]
            if (total := int(sizes[one] + sizes[two])) and both[one, two] >= 0.5
        ]

    def confusions(self) -> list[tuple[str, str, float]]:
        """Return given class, true class and estimated number of examples, the most first."""
        names, cells = self.evidence.classes, []
        for given, true in np.argwhere(self.joint >= 0.5).tolist():
            if given != true:
                cells.append((names[given], names[true], float(self.joint[given, true])))
        return sorted(cells, key=lambda cell: -cell[2])

    @property
    def skill(self) -> float:
        """The networks' test accuracy above chance, in [0, 1].

        Where the test labels are as noisy as the rest, the networks are better than that. By how
        much cannot be told: of a weak one, what it does not predict looks like wrong labels.
        """
        chance = 1 / len(self.evidence.classes)
        return max((self.evidence.accuracy - chance) / (1 - chance), 0.0)

    def sentences(self) -> list[str]:
        """Say how many labels are wrong, and how far the ranking can be trusted."""
        evidence, (low, high) = self.evidence, self.wrong
        shares = [estimate.share for estimate in self.estimates]
        apart = max(shares) - min(shares) > DISAGREE
        by = "; ".join(
            f"{_percent(estimate)} by {estimate.method}"
            + (f", which {SHOWN_ESTIMATES[estimate.method]}" if apart else "")
            for estimate in self.estimates
        )
        number = f"about {high:,}" if low == high else f"between {low:,} and {high:,}"
        said = [f"{number} of {len(evidence):,} labels are wrong: {by}"]
        if apart:
            said.append("the two disagree: neither interval holds the error of its method")
        said.append(
            f"{len(self.suspects):,} suspects, whose label is not the likeliest class, ranked by "
            f"the score {self.score_name!r}"
        )
        said.append(self.trust())
        if self._by_heart:
            trained, others = self._agreements
            said.append(
                f"of the labels that it was trained on the network predicts "
                f"{100 * trained:.1f} %, of others about {100 * others:.1f} %: it has learnt some "
                f"by heart, wrong ones too if there are any, so that there are more than is said "
                f"here; audit DATA --folds 5 judges each label by a network that has not seen it"
            )
        if evidence.evaluations < 5:
            said.append(
                f"the means are over {evidence.evaluations} evaluated "
                f"{'epoch' if evidence.evaluations == 1 else 'epochs'} only (evaluate_every = 1 "
                f"keeps all)"
            )
        known = evidence.true >= 0
        if known.any():
            said.append(self._against_truth(known))
        return said

    @functools.cached_property
    def _agreements(self) -> tuple[float, float]:
        """The shares of given labels that are predicted: of those that were trained on, of others.

        Both are NaN where no label was trained on by the network that judges it.
        """
        evidence = self.evidence
        train = evidence.parts == "train"
        if evidence.out_of_fold or not train.any():
            return math.nan, math.nan
        trained = float((evidence.last[train].argmax(1) == evidence.labels[train]).mean())
        right = 1.0
        if not evidence.against_given:
            right -= max(estimate.share for estimate in self.estimates)
        return trained, evidence.accuracy * right

    @property
    def _by_heart(self) -> bool:
        """Whether the network has learnt labels by heart; never where that cannot be told."""
        trained, others = self._agreements
        return trained - others > BY_HEART

    @property
    def alike(self) -> float:
        """Which share of the labels that look wrong may be the networks' own mistakes, in [0, 1].

        The networks predict a share A of the true labels, told by labels that were not trained on
        (those are wrong at the estimated rate r where they are given ones: of them A (1 - r) is
        predicted). Of the rest, ``CONFIDENT`` are mistakes with as much confidence as is put into
        real suspects.
        """
        rate, predicted = float(self._chance.mean()), self.evidence.accuracy
        if math.isnan(predicted):
            # What was trained on is predicted better, but there is nothing else.
            predicted = float((self.evidence.mean.argmax(1) == self.evidence.labels).mean())
        if self.evidence.against_given or math.isnan(self.evidence.accuracy):
            predicted /= max(1 - rate, 1e-12)
        return min(CONFIDENT * max(1 - predicted, 0.0) / max(rate, 1e-12), 1.0)

    @functools.cached_property
    def _chance(self) -> Array:
        """The probability that each label is wrong, whatever score ranks them."""
        if self.score_name == DEFAULT_SCORE:
            return self.score
        return _posterior(self.evidence)

    def precision(self, count: int) -> float:
        """Return which share of the first suspects is expected to be wrong labels.

        That is their mean probability of a wrong label, less the networks' own mistakes among them.
        They are few in the beginning, and grow with the share of the labels looking wrong that the
        suspects make up, until all of ``alike`` are there.

        Args:
            count: How many suspects are looked at.
        """
        chance = self._chance
        first = chance[self.suspects[:count]]
        if not len(first):
            return 0.0
        reached = 1.0 if self.alike > TOO_MANY else min(first.sum() / chance.sum(), 1.0)
        return float(first.mean() * (1 - self.alike * reached))

    def trust(self) -> str:
        """Say how far the ranking can be trusted: which share of the suspects will be wrong labels.

        ``docs/results/audit.md`` compares what is said with the truth.
        """
        return f"{self._accuracy()}: {self._expectation()}"

    def _accuracy(self) -> str:
        evidence = self.evidence
        if math.isnan(evidence.accuracy):
            return "no test set and no hold-out was looked at: how good the network is is not known"
        against = (
            "given labels held out, and more of the true ones where some of these are wrong"
            if evidence.against_given
            else "test labels"
        )
        return f"the network predicts {100 * evidence.accuracy:.1f} % of the {against}"

    def _expectation(self) -> str:
        if self.skill < WEAK:
            return (
                "too weak to tell wrong labels from hard examples (at 20 % of ten classes the "
                "ranking was worth little: an area under the curve of 0.63, where chance is 0.5), "
                "and the number of wrong labels is that of its own mistakes; train longer, on "
                "better features, before looking at suspects"
            )
        if self.alike > TOO_MANY:
            return (
                "no more labels look wrong to it than its own mistakes would: the first suspects "
                "may be wrong labels or hard examples, which only looking at them tells (in the "
                "measurements between none and nearly all were wrong)"
            )
        count = len(self.suspects)
        share = f"about {100 * self.precision(FIRST):.0f} % of the first {FIRST} suspects"
        if count <= FIRST:
            share = f"about {100 * self.precision(count):.0f} % of the suspects"
        else:
            share += f", and {100 * self.precision(count):.0f} % of all {count:,},"
        doubt = (
            ""
            if self.skill >= MIDDLING
            else "; of a network as weak as this it can be half of that"
        )
        least = "at least " if self._by_heart else ""
        return f"{least}{share} are expected to be wrong labels{doubt}"

    def _against_truth(self, known: Array) -> str:
        wrong = (self.evidence.labels != self.evidence.true)[known]
        count = int(wrong.sum())
        told = f"the true labels are known here: {100 * wrong.mean():.1f} % are wrong"
        if not 0 < count < len(wrong):
            return told
        score = self.score[known]
        return (
            f"{told}; average precision {average_precision(wrong, score):.3f}, precision of the "
            f"first {count:,} {precision_at(wrong, score, count):.3f}"
        )


def average_precision(wrong: Array, score: Array) -> float:
    """Return the mean, over the wrong labels, of the precision at each one's place.

    Args:
        wrong: Which labels are wrong, bool, of shape (N).
        score: How suspicious each is; equal scores have one place.

    Example:
        >>> average_precision(np.array([True, False, True]), np.array([0.9, 0.5, 0.3]))
        0.8333333333333333
    """
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(wrong[order])
    # The last of equal scores: nothing tells one of them from the others.
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    precision = hits[ends] / (ends + 1)
    return float((np.diff(hits[ends], prepend=0) * precision).sum() / max(1, hits[-1]))


def precision_at(wrong: Array, score: Array, count: int) -> float:
    """Return which share of the most suspicious labels is wrong.

    Args:
        wrong: Which labels are wrong, bool, of shape (N).
        score: How suspicious each is.
        count: How many are looked at.
    """
    return float(wrong[np.argsort(-score, kind="stable")[:count]].mean())


def judge(evidence: Evidence, score: str = DEFAULT_SCORE) -> Audit:
    """Rank labels, and estimate how many are wrong.

    Args:
        evidence: What runs predicted.
        score: A key of ``SCORES``.

    Returns:
        What was found.

    Raises:
        ConfigError: There is no such score.
    """
    check_choice("score", score, SCORES)
    found = np.clip(SCORES[score](evidence), 0, 1)
    p, labels = torch.from_numpy(evidence.mean), torch.from_numpy(evidence.labels)
    estimates = []
    for name in SHOWN_ESTIMATES:
        joint = ESTIMATORS[name]
        low, high = wrong_share_interval(p, labels, joint)
        estimates.append(Estimate(name, wrong_share(joint(p, labels)), low, high))
    return Audit(
        evidence=evidence,
        score_name=score,
        score=found,
        suggested=_suggest(evidence),
        # Of equal scores the lower probability first.
        order=np.lexsort((evidence.given, -found)),
        estimates=tuple(estimates),
        joint=ESTIMATORS["confident joint"](p, labels).numpy(),
    )


def _suggest(evidence: Evidence) -> Array:
    """Return the likeliest class; where that is the given one, the likeliest given the label too.

    Where cats are often labelled as dogs, a dog's label is doubtful even of what looks like one.
    """
    likeliest = evidence.mean.argmax(1)
    agrees = likeliest == evidence.labels
    return np.asarray(np.where(agrees, evidence.posterior.argmax(1), likeliest))


def is_of_runs(place: Path) -> bool:
    """Return whether a place is a run folder, or a folder of run folders.

    Args:
        place: A path, of anything.
    """
    config = "config.json"
    return (place / config).exists() or any(True for _ in place.glob(f"*/{config}"))


def find(
    places: Sequence[Path], *, folds: int = 0, given: Sequence[str] = ()
) -> list[RunFolder] | None:
    """Find the runs that are to be audited.

    Args:
        places: Run folders or folders of them; or one dataset in one word, or a run's TOML file.
        folds: Of data: runs, of which each judges the part that it held out; 0 for none.
        given: Other options of how runs are made of data that somebody has set.

    Returns:
        The runs; None where they are to be made first.

    Raises:
        ConfigError: Places are of several kinds, or an option would be ignored.
    """
    if not places:
        raise ConfigError("audit: expected run folders, or data, got none")
    if folds < 0 or folds == 1:
        raise ConfigError(f"folds: expected at least 2, or 0 for none, got {folds}")
    if all(map(is_of_runs, places)):
        if ignored := [*(["folds"] if folds else []), *given]:
            raise ConfigError(
                f"{', '.join(ignored)}: expected data to make runs of, got finished runs"
            )
        return RunFolder.find(places)
    if len(places) > 1:
        other = next(place for place in places if not is_of_runs(place))
        raise ConfigError(f"audit: expected one dataset, or run folders alone, got {other} too")
    return None


def read(folders: Sequence[RunFolder]) -> Evidence:
    """Read what finished runs predicted for examples whose labels they were given.

    These are the training examples, those that were held out, and the test examples where their
    labels are no better than the rest.

    Args:
        folders: Runs of the same data with the same labels; what they say is averaged. Or runs that
            held out one fold each, of which what they held out counts: all folds must be there.

    Raises:
        DataError: There is none that is finished, their labels differ, or a file is damaged.
    """
    finished = [folder for folder in folders if folder.finished]
    if not finished:
        raise DataError(f"expected at least one finished run, got {len(folders)} unfinished")
    if any(isinstance(folder.config().get("validation"), str) for folder in finished):
        return _read_folds(finished)
    read_ = [_read_one(folder) for folder in finished]
    first = read_[0]
    for other in read_[1:]:
        _check_same(first, other)
    if len(read_) == 1:
        return first

    def mean(name: str) -> Array:
        return np.asarray(np.mean([getattr(each, name) for each in read_], axis=0))

    return Evidence(
        classes=first.classes,
        labels=first.labels,
        mean=mean("mean"),
        last=mean("last"),
        margin=mean("margin"),
        differing=mean("differing"),
        parts=first.parts,
        rows=first.rows,
        places=first.places,
        true=first.true,
        accuracy=float(mean("accuracy")),
        against_given=first.against_given,
        evaluations=min(each.evaluations for each in read_),
        folders=tuple(folder.path for folder in finished),
    )


def _read_folds(folders: Sequence[RunFolder]) -> Evidence:
    """Read what runs predicted for the fold that each held out, as one training set."""
    parts = [str(folder.config().get("validation")) for folder in folders]
    count = parts[0].partition("/")[2]
    wanted = [f"{number + 1}/{count}" for number in range(int(count) if count.isdecimal() else 0)]
    if sorted(parts) != sorted(wanted):
        raise DataError(
            f"expected one finished run of each fold ({', '.join(wanted)}), got validation "
            f"{', '.join(sorted(parts))}"
        )
    found = [_read_one(folder) for folder in folders]
    rows = []
    for folder, each in zip(folders, found, strict=True):
        own = folder.labels().get("validation_rows")
        if own is None or len(own) != int((each.parts == "validation").sum()):
            raise DataError(f"{folder.path / 'labels.npz'}: expected validation_rows of its fold")
        rows.append(own)
    joined = np.concatenate(rows)
    order = np.argsort(joined)
    if not np.array_equal(joined[order], np.arange(len(joined))):
        raise DataError(f"{folders[0].path}: expected folds that are parts of one training set")

    def held(name: str) -> Array:
        values = [getattr(each, name)[each.parts == "validation"] for each in found]
        return np.asarray(np.concatenate(values)[order])

    # The true labels of a fold are those that the other runs were trained with.
    true = np.full(len(joined), -1, dtype=np.int64)
    labels = held("labels")
    for own, each in zip(rows, found, strict=True):
        kept = np.setdiff1d(np.arange(len(joined)), own)
        trained = each.parts == "train"
        if len(kept) != int(trained.sum()) or (labels[kept] != each.labels[trained]).any():
            raise DataError(f"{each.folders[0]}: expected the labels of the other folds' runs")
        true[kept] = each.true[trained]
    return Evidence(
        classes=found[0].classes,
        labels=labels,
        mean=held("mean"),
        last=held("last"),
        margin=held("margin"),
        differing=held("differing"),
        parts=np.full(len(joined), "train"),
        rows=np.arange(len(joined)),
        places=held("places"),
        true=true,
        accuracy=float(np.mean([each.accuracy for each in found])),
        against_given=found[0].against_given,
        evaluations=min(each.evaluations for each in found),
        folders=tuple(folder.path for folder in folders),
        out_of_fold=True,
    )


def _read_one(folder: RunFolder) -> Evidence:
    data, result = folder.data(), folder.result()
    labels, predictions = folder.labels(), folder.predictions()
    classes = tuple(map(str, data["classes"]))
    if "candidates" in labels:
        raise DataError(
            f"{folder.path}: expected one label for each example, got sets of candidates: which of "
            f"a set is likeliest is in predictions.npz, and no single label can be called wrong"
        )
    found: dict[str, list[Array]] = {}
    evaluations = []
    for prefix, part in PARTS.items():
        name = prefix or "given"
        true = labels.get("true" if part == "train" else f"{part}_clean")
        trusted = data.get("test_labels") != "given" and true is None
        if name not in labels or (part == "test" and trusted):
            continue
        given = labels[name].astype(np.int64)
        place = f"{folder.path / 'labels.npz'}: {name}"
        check(torch.from_numpy(given), place, num_classes=len(classes))
        last = _probabilities(folder, predictions, f"{part}_probabilities", given, classes)
        mean_name = f"{part}_mean_probabilities"
        whole = mean_name in predictions
        mean = _probabilities(folder, predictions, mean_name, given, classes) if whole else last
        evaluations.append(int(predictions.get(f"{part}_evaluations", 1)))
        differing = predictions.get(f"{part}_disagreements", last.argmax(1) != given)
        places = labels.get(f"{prefix}_places".lstrip("_"), np.full(len(given), ""))
        own = {
            "labels": given,
            "mean": mean,
            "last": last,
            "margin": predictions.get(f"{part}_mean_margin", margins(last, given)),
            "differing": differing / evaluations[-1],
            "parts": np.full(len(given), part),
            "rows": np.arange(len(given)),
            "places": places,
            "true": _unknown(given) if true is None else true,
        }
        for key, value in own.items():
            if len(value) != len(given):
                raise DataError(
                    f"{folder.path}: expected {len(given)} values of {part} {key}, got {len(value)}"
                )
            found.setdefault(key, []).append(value)
    given_test = data.get("test_labels") == "given"
    accuracy = result["test_accuracy"]
    if accuracy is None:
        # The test set was left alone: what was held out tells too, if anything was.
        accuracy = result.get("validation_accuracy", math.nan)
    if "labels" not in found:
        raise DataError(f"{folder.path / 'labels.npz'}: expected the given labels, 'given'")
    joined: dict[str, Any] = {key: np.concatenate(values) for key, values in found.items()}
    return Evidence(
        classes=classes,
        accuracy=float(accuracy),
        against_given=given_test
        or (result["test_accuracy"] is None and "clean_validation_labels" not in result),
        evaluations=min(evaluations),
        folders=(folder.path,),
        **joined,
    )


def _unknown(labels: Array) -> Array:
    return np.full(len(labels), -1, dtype=np.int64)


def _probabilities(
    folder: RunFolder,
    predictions: Mapping[str, Array],
    name: str,
    labels: Array,
    classes: Sequence[str],
) -> Array:
    """Return probabilities that were kept, with rows that sum to 1."""
    shape = (len(labels), len(classes))
    found = predictions.get(name)
    if found is None or found.shape != shape:
        got = "none" if found is None else f"shape {found.shape}"
        path = folder.path / "predictions.npz"
        raise DataError(f"{path}: expected {name} of shape {shape}, got {got}")
    # Kept in half precision, they do not quite.
    p = found.astype(np.float32)
    return np.asarray(p / np.maximum(p.sum(1, keepdims=True), 1e-12))


def _check_same(first: Evidence, other: Evidence) -> None:
    """Refuse runs whose labels are not the same."""
    where = f"{other.folders[0]} and {first.folders[0]}"
    only = "an audit is of one set of labels (runs that differ in method, loss or seed alone)"
    if first.classes != other.classes or len(first) != len(other):
        raise DataError(
            f"{where}: expected the same data, got {len(other)} examples of {len(other.classes)} "
            f"classes and {len(first)} of {len(first.classes)}: {only}"
        )
    differ = np.flatnonzero((first.labels != other.labels) | (first.places != other.places))
    if len(differ):
        raise DataError(
            f"{where}: expected the same labels, but {len(differ)} differ, the first in row "
            f"{differ[0]}: {only}"
        )


def write(audit: Audit, out: Path) -> list[Path]:
    """Write the suspects, and the arrays that cleanlab takes.

    ``suspects.csv`` has a row for each suspect. ``audit.npz`` has all examples: ``labels`` and
    ``pred_probs`` (as ``cleanlab.filter.find_label_issues`` takes them), ``pred_probs_last``,
    ``score``, ``suggested``, ``order``, ``part``, ``row``, ``place`` and ``classes``.

    Args:
        audit: What was found.
        out: The folder to make them in.

    Returns:
        The files.

    Raises:
        DataError: One cannot be written.
    """
    table = io.StringIO()
    write_csv(table, [COLUMNS, *(_cells(suspect).values() for suspect in audit.listed())])
    pages.write(out / "suspects.csv", table.getvalue())
    evidence, path = audit.evidence, out / "audit.npz"
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                labels=evidence.labels,
                pred_probs=evidence.mean,
                pred_probs_last=evidence.last,
                score=audit.score,
                suggested=audit.suggested,
                order=audit.order,
                part=evidence.parts,
                row=evidence.rows,
                place=evidence.places,
                classes=np.array(evidence.classes),
            )
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error
    return [out / "suspects.csv", path]


def _cells(suspect: Suspect) -> dict[str, object]:
    """Return a row of ``suspects.csv``."""
    values = {"path": suspect.place} | vars(suspect)
    cells = {name: values[name] for name in COLUMNS}
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in cells.items()}


def audit(
    data: str | Path | Iterable[str | Path],
    *,
    score: str = DEFAULT_SCORE,
    folds: int = 0,
    weights: str | Path | None = None,
    out: str | Path = Path("audit", "runs"),
) -> Audit:
    """Find suspicious labels; this is ``noisylabels.audit``.

    Args:
        data: A run folder or a folder of run folders, or several of them, of the same labels; runs
            that are not finished are left out. Or a run's TOML file, or a dataset in one word, such
            as a folder of images: then runs are made first, as the file says, or as
            ``noisylabels fit`` makes them.
        score: A key of ``SCORES``.
        folds: Of data: runs, of which each judges the part that it held out; 0 for one that judges
            all.
        weights: Of images: a local file of the weights of ``tf_efficientnet_lite0``; by default
            they are downloaded.
        out: Where runs are made; one that is there already is not made again.

    Returns:
        What was found; ``frame()`` has the suspects.

    Raises:
        ConfigError: There is no such score, the data cannot be used, or an option would be ignored.
        DataError: There is no finished run, their labels differ, or a file is damaged.
    """
    check_choice("score", score, SCORES)
    places = [Path(place) for place in ([data] if isinstance(data, str | Path) else data)]
    given = [] if weights is None else ["weights"]
    folders = find(places, folds=folds, given=given)
    if folders is not None:
        return judge(read(folders), score)
    # What trains takes a second to import.
    from noisylabels.run.labelling import keeping_data
    from noisylabels.studies import fitting

    with keeping_data():
        local = None if weights is None else Path(weights)
        jury = fitting.empanel(str(places[0]), folds=folds, weights=local)
        return judge(read(jury.train(Path(out))), score)


def _percent(estimate: Estimate) -> str:
    low, high = (f"{100 * value:.1f}" for value in (estimate.low, estimate.high))
    return f"{100 * estimate.share:.1f} % ({low} to {high})"
