"""What a tuning is: what is chosen, its trials, how far it is, and what came of it."""

import datetime
import statistics
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from noisylabels.run.config import RunConfig
from noisylabels.run.folder import RunFolder, writing
from noisylabels.studies.space import Space, apply, title
from noisylabels.studies.status import AGAINST_GIVEN
from noisylabels.studies.sweep import Follower, Progress

HOLD_OUT = 0.1
"""Share of the training set that is held out, where the run's file does not say."""
FOLDER = "tuning"
"""Folder, within that of run folders, of journals and of what was chosen."""
Stage = Literal["waiting", "running", "finished", "pruned", "failed"]


@dataclass(frozen=True)
class Trial:
    """Values that are tried, and what came of them.

    Args:
        number: Its number, from 1; Optuna's own is one less.
        state: How far it is.
        values: The values by key, as they stand in a run's file.
        runs: Ids of its runs, one for each seed; none before they are known.
        host: The machine that makes them.
        process: The process there that has begun it; 0 where that is not known.
        out: The folder of their run folders there.
        place: What that folder is known by wherever it is in sight, see :func:`mark`.
        accuracies: Hold-out accuracy of each run, where it is finished; fractions in [0, 1].
        accuracy: Their mean.
        seconds: What its runs took together.
        error: Why it failed.
        began: When it was begun.
    """

    number: int
    state: Stage
    values: Mapping[str, Any]
    runs: Sequence[str] = ()
    host: str = ""
    process: int = 0
    out: Path = Path()
    place: str = ""
    accuracies: Sequence[float] = ()
    accuracy: float | None = None
    seconds: float | None = None
    error: str = ""
    began: datetime.datetime | None = None


@dataclass(frozen=True)
class Tuning:
    """What is chosen, and how.

    Args:
        base: The run, with every default filled in.
        space: Its keys that are chosen, see :func:`noisylabels.studies.space.fit`.
        out: Folder of run folders.
        trials: How many trials there are in the end, failed ones among them.
        seeds: Runs of each trial, with seeds from the base's on.
        prune: Whether a trial is given up once it is worse than the median of the others.
        storage: See :class:`noisylabels.studies.trials.Trials`.
        name: The study's name, see :func:`prepare`.
        first: Values that are tried before any others.
    """

    base: RunConfig
    space: Space
    out: Path
    trials: int
    seeds: int
    prune: bool
    storage: str
    name: str
    first: Sequence[Mapping[str, Any]]

    @property
    def chosen(self) -> Path:
        """The file that gets the run with the chosen values."""
        return self.out / FOLDER / f"{self.name}.toml"

    def sees(self, trial: Trial) -> bool:
        """Return whether a trial's run folders are made in this folder, by whichever machine."""
        return bool(trial.place) and (self.out / FOLDER / trial.place).exists()

    def run(self, values: Mapping[str, Any], seed: int) -> RunConfig:
        """Return a run that a choice is made by.

        Args:
            values: Values by key.
            seed: Which of its seeds, from 0.
        """
        return held_out(apply(self.base, values)).replace(seed=self.base.seed + seed)

    def final(self, values: Mapping[str, Any], seed: int) -> RunConfig:
        """Return a run that is made of the choice: as the base, on all that it trains on.

        Args:
            values: The values that were chosen.
            seed: Which of its seeds, from 0.
        """
        return apply(self.base, values).replace(seed=self.base.seed + seed)


def mark(out: Path) -> str:
    """Mark a folder of run folders, unless it is marked, so that any machine that sees it knows it.

    Its path does not tell: on two machines one path can be two folders, and one folder have two.

    Args:
        out: The folder.

    Returns:
        The mark: the name of an empty file.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    folder = out / FOLDER
    # Two that mark it at once leave two marks, and either will do.
    for known in folder.glob(".*.place"):
        return known.name
    new = folder / f".{uuid.uuid4().hex}.place"
    with writing(new):
        folder.mkdir(parents=True, exist_ok=True)
        new.touch()
    return new.name


def held_out(run: RunConfig) -> RunConfig:
    """Return a run as a choice is made by it: with a hold-out, and its test set left alone.

    Args:
        run: The run.
    """
    share = run.validation if run.holds_out else HOLD_OUT
    held = run.replace(validation=share, test=False)
    # Of the run itself the weights may be wanted: what is made of the choice is this very run then.
    return held if held == run else held.replace(save_model=False)


@dataclass
class State:
    """How far the choosing has come.

    Attributes:
        tuning: What is chosen.
        trials: All trials, as they stand in the storage.
        runs: The runs that are made here.
        stage: What is being done.
        began: When the trials began here, by ``time.monotonic``.
        ended: How many have ended here since.
    """

    tuning: Tuning
    runs: Progress
    trials: list[Trial] = field(default_factory=list)
    stage: str = "trials"
    began: float = 0.0
    ended: int = 0

    @property
    def made(self) -> int:
        """How many trials are finished, pruned or failed."""
        return sum(trial.state not in ("waiting", "running") for trial in self.trials)

    @property
    def begun(self) -> int:
        """How many trials are made or being made, here or elsewhere."""
        return sum(trial.state != "waiting" for trial in self.trials)

    @property
    def best(self) -> Trial | None:
        """The trial with the greatest hold-out accuracy; the first of equal ones."""
        return next(iter(ranked(self.trials)), None)

    def left(self) -> float | None:
        """Return the seconds that the trials will take still; None where nobody knows yet."""
        if self.stage != "trials" or not self.ended:
            return None
        each = (time.monotonic() - self.began) / self.ended
        return each * max(0, self.tuning.trials - self.made)


class Watcher(Follower):
    """Follows the choosing; each method does nothing until a subclass overrides it."""

    def on_trials(self, state: State) -> None:
        """The trials begin; those that are there already count."""

    def on_trial(self, trial: Trial, state: State) -> None:
        """A trial that was made here has ended."""

    def on_stage(self, sentence: str, state: State) -> None:
        """The trials are over, and something else begins."""


@dataclass(frozen=True)
class Candidate:
    """One of the best trials, with its repeats.

    Args:
        trial: The trial.
        accuracies: Hold-out accuracies of the same seeds as those of the other candidates.
    """

    trial: Trial
    accuracies: Sequence[float]

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def deviation(self) -> float:
        """The sample standard deviation over seeds; 0 of a single one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return float(self.deviation / len(self.accuracies) ** 0.5)


@dataclass(frozen=True)
class Outcome:
    """What was chosen, and what came of it.

    Args:
        tuning: What there was to choose.
        storage: Where the trials are, without a password.
        trials: All trials.
        candidates: The best, the chosen one first.
        finals: Run folders of the final runs, by seed.
        hold_out: Examples that are held out.
        classes: How many classes there are.
        noise_rate: Share of the labels that are wrong; None where nobody knows.
    """

    tuning: Tuning
    storage: str
    trials: Sequence[Trial]
    candidates: Sequence[Candidate]
    finals: Sequence[RunFolder]
    hold_out: int
    classes: int
    noise_rate: float | None

    @property
    def chosen(self) -> Candidate:
        """The best by the mean over the same seeds."""
        return self.candidates[0]

    def near(self) -> int:
        """Return how many other trials lie within a standard error of the best one's accuracy.

        The standard error is that of the chosen one's mean over seeds.
        """
        best, *others = ranked(self.trials)
        error = self.chosen.error
        return sum((trial.accuracy or 0.0) >= (best.accuracy or 0.0) - error for trial in others)

    def test_accuracies(self) -> list[float]:
        """Return the test accuracies of the final runs; none where the test set is left alone."""
        found = [folder.result()["test_accuracy"] for folder in self.finals]
        return [value for value in found if value is not None]

    def sentences(self) -> list[str]:
        """Return what was chosen and what came of it, for people."""
        chosen, failed = self.chosen, [each for each in self.trials if each.state == "failed"]
        said = []
        if failed:
            said.append(
                f"{len(failed)} of {len(self.trials)} trials failed, such as "
                f"{title(failed[0].values)}: {failed[0].error}"
            )
        said.append(
            f"chosen: trial {chosen.trial.number}: {title(chosen.trial.values)}: hold-out accuracy "
            f"{percent(chosen.accuracies)}, standard error {100 * chosen.error:.1f} points; "
            f"{self.near()} other trials lie within that of the best"
        )
        if accuracies := self.test_accuracies():
            given = self.finals[0].result()["test_labels"] == "given"
            against = f" {AGAINST_GIVEN}" if given else ""
            said.append(f"final test accuracy{against}: {percent(accuracies)}")
        return said


def percent(accuracies: Sequence[float]) -> str:
    """Write the mean of accuracies over seeds, with their sample standard deviation.

    Args:
        accuracies: Fractions in [0, 1].

    Example:
        >>> percent([0.5, 0.52]), percent([0.5])
        ('51.0 ± 1.4 % over 2 seeds', '50.0 %')
    """
    mean = f"{100 * statistics.fmean(accuracies):.1f}"
    if len(accuracies) == 1:
        return f"{mean} %"
    deviation = 100 * statistics.stdev(accuracies)
    return f"{mean} ± {deviation:.1f} % over {len(accuracies)} seeds"


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Return the finished trials, the best first; of equal ones the earlier.

    Args:
        trials: Trials in any state.
    """
    finished = [trial for trial in trials if trial.accuracy is not None]
    return sorted(finished, key=lambda trial: (-(trial.accuracy or 0.0), trial.number))
