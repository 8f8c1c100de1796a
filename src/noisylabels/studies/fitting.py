"""For a person with data and a deadline: what to train, chosen by the data and the machine."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisylabels.data.examples import Examples
from noisylabels.data.images import SMALL
from noisylabels.data.source import Facts, ImageSource
from noisylabels.errors import (
    ConfigError,
    DataError,
    MissingExtraError,
    NoisyLabelsError,
    check_range,
)
from noisylabels.features.networks import check_timm_model
from noisylabels.run import config, spec
from noisylabels.run.advice import on_short_training
from noisylabels.run.callbacks import Callback
from noisylabels.run.config import Component, RunConfig, parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.labelling import label
from noisylabels.run.plan import TINY, Plan, plan
from noisylabels.run.timing import seconds_per_epoch
from noisylabels.run.trainer import train

BACKBONE = "tf_efficientnet_lite0"
"""Network of timm that images are taken to by default: small, and quick without a GPU."""
SIZE = 128
"""Side that its images are resized to: half of its own, a quarter of the time."""
STEPS, PERCEPTRON_STEPS = 2000, 1000
"""Steps that a linear layer and a perceptron get at least, see docs/losses/dal.md."""
LEAST_EPOCHS, MOST_EPOCHS = 30, 200
BATCH, LEAST_BATCH = 128, 16
"""Examples of a batch; fewer where so many steps would take more epochs than that."""
DECAY, MOST_DECAY, WIDE = 100.0, 0.3, 1280
"""Weight decay of a linear layer: the first over the number of examples, at most the second, and
less in proportion for vectors that are shorter than the third. Else few examples are learnt by
heart, wrong labels too, see docs/results/decay.md."""
HELD_OUT = 0.1
"""Share of the training set, with its given labels, by which the loss's schedule is chosen."""
DEADLINE = 20.0
"""Minutes that training a network from its first weights may take."""
WIDTHS = (64, 32, 16)
SCRATCH_SIZE = 64
"""Side that larger images are resized to for a network that is trained from its first weights."""
SCRATCH_EPOCHS = (150, 80, 40, 20)
SCHEDULES = (
    {"name": "dal", "q_start": 0.6, "q_end": 1.5},
    {"name": "dal", "q_start": 0.0, "q_end": 1.0},
)
"""The dynamics-aware loss that is robust from the start, and the one that fits first: with many
classes or few steps the first can underfit."""


Recipe = Sequence[RunConfig]
"""What will be trained on a dataset: a run for each candidate, with its hold-out, where the best
one's is made on all data; or one alone, where there is nothing to choose."""


@dataclass(frozen=True)
class Fit:
    """What came out.

    Args:
        folder: The run that is to be used, made on all training data.
        hold_out: Accuracy of the chosen candidate on what was held out, against given labels.
        chosen: The loss that was chosen.
    """

    folder: RunFolder
    hold_out: float
    chosen: Component

    def sentences(self) -> list[str]:
        """Say what was trained and how good it is, as far as the labels can tell."""
        result = self.folder.result()
        tested = f"test accuracy {100 * result['test_accuracy']:.1f} % on the test set's labels"
        if result.get("test_labels") == "given":
            tested += ", which are given ones too: the wrong ones among them cannot be predicted"
        return [
            f"model: {self.folder.path} ({self.folder.config()['model']['name']}, loss "
            f"{self.chosen.name} with q_start {self.chosen.parameters['q_start']})",
            f"hold-out accuracy {100 * self.hold_out:.1f} % against given labels",
            tested,
        ]


def recommend(
    data: Component,
    *,
    backbone: str = BACKBONE,
    weights: Path | None = None,
    seed: int = 0,
    minutes: float = DEADLINE,
    runs: int = 2,
    say: Callable[[str], None] = lambda sentence: None,
) -> Recipe:
    """Choose what suits a dataset and this machine.

    Texts become weights of words, tables of numbers stay as they are, images go through a
    pretrained network if its weights can be had, and a linear layer is trained on that. Where they
    cannot be had a ResNet is trained, narrower and shorter where it would take too long here.

    Args:
        data: The dataset.
        backbone: Network of timm for images.
        weights: A local file of its weights; by default they are downloaded.
        seed: Seed of the runs.
        minutes: How long training a network from its first weights may take, all runs together.
        runs: How many there will be of one candidate: :func:`fit` makes one with a hold-out, and
            one on all data.
        say: Tells the user what is chosen and why, and how far computing features has come.

    Returns:
        The recipe.

    Raises:
        ConfigError: The data cannot be used, there is no such backbone, ``minutes`` is not above 0,
            or given weights do not fit, or are for data that goes through no network.
        DataError: The data is missing or damaged, or has sets of candidates for labels.
    """
    check_range("minutes", minutes, open=True)
    facts = spec.source(data).facts()
    common = {"data": data.table(), "seed": seed}
    linear = {"model": "linear", "optimizer": {"name": "sgd", "lr": 0.01}}
    if facts.texts:
        _check_unused("texts", backbone, weights)
        base = common | linear | {"features": "tfidf", "optimizer": {"name": "sgd", "lr": 0.1}}
        return _candidates(say, base, "texts: weights of their words, and a linear layer")
    if not facts.images:
        _check_unused("numbers", backbone, weights)
        model = {"name": "mlp", "hidden": [256]}
        base = common | {"model": model, "optimizer": {"name": "sgd", "lr": 0.05}}
        return _candidates(say, base, "numbers: a perceptron with one hidden layer")
    if max(facts.shape[1:]) < TINY:
        _check_unused("tiny images", backbone, weights)
        base = common | {"model": "mlp", "optimizer": {"name": "sgd", "lr": 0.05}}
        return _candidates(say, base, "tiny images: a perceptron")
    features = {"name": "timm", "model": backbone, "size": SIZE}
    if weights is not None:
        features["weights"] = str(weights)
    pretrained = common | linear | {"features": features}
    with suppress(MissingExtraError):
        # A slip of the pen is no reason for hours of training.
        check_timm_model(backbone)
    try:
        plan(parse(pretrained))
    except NoisyLabelsError as error:
        if weights is not None:
            raise
        reason = f"no pretrained network ({error})"
        if not isinstance(error, MissingExtraError):
            reason += "; --weights FILE takes a local one"
        return _from_scratch(say, common, facts, reason, 60 * minutes / runs, runs)
    where = f"weights of {weights}" if weights else "its published weights"
    return _candidates(
        say, pretrained, f"images: frozen features of {backbone} ({where}), and a linear layer"
    )


def _check_unused(what: str, backbone: str, weights: Path | None) -> None:
    """Refuse a network of images for what goes through none."""
    given = {"backbone": None if backbone == BACKBONE else backbone, "weights": weights}
    for name, value in given.items():
        if value is not None:
            raise ConfigError(
                f"{name}: must be left out, for {what} go through no pretrained network, got "
                f"{str(value)!r}"
            )


def _check_single_labels(train: Examples) -> None:
    """Refuse, before anything is trained, what no wrong labels can be looked for in."""
    if train.candidates is not None:
        raise DataError(
            "expected one label for each example, got sets of candidates, of which no single label "
            "can be called wrong: noisylabels train learns from them"
        )


def decay(count: int, width: int) -> float:
    """Return the weight decay of a linear layer.

    Args:
        count: How many examples there are, at least 1.
        width: How long their vectors are, at least 1.

    Returns:
        A factor on the squared weights' gradient, in (0, 0.3].
    """
    return min(DECAY / count, MOST_DECAY) * min(width / WIDE, 1)


def _candidates(say: Callable[[str], None], base: dict[str, Any], reason: str) -> Recipe:
    say(reason)
    train = label(plan(parse(base), trial=False), say)[0].train
    _check_single_labels(train)
    count, linear = len(train), base["model"] == "linear"
    kept = (1 - HELD_OUT) * count
    wanted = STEPS if linear else PERCEPTRON_STEPS
    batch = BATCH
    while batch > LEAST_BATCH and round(kept / batch) * MOST_EPOCHS < wanted:
        batch //= 2
    steps = max(1, round(kept / batch))
    epochs = min(MOST_EPOCHS, max(LEAST_EPOCHS, -(-wanted // steps)))
    base = base | {"epochs": epochs, "batch_size": batch, "validation": HELD_OUT}
    if linear:
        own = float(f"{decay(count, *train.shape):.2g}")
        base |= {"optimizer": base["optimizer"] | {"weight_decay": own}}
    runs = [parse(base | {"loss": loss}) for loss in SCHEDULES]
    say(f"{epochs} epochs of {steps} steps")
    return runs


def _from_scratch(
    say: Callable[[str], None],
    common: dict[str, object],
    facts: Facts,
    reason: str,
    seconds: float,
    runs: int,
) -> Recipe:
    """Return the largest network and longest training that are done in time on this machine.

    Enough steps for the loss that is robust from the start come before a wider network.
    """
    side = max(facts.shape[1:])
    data = Component.parse(common["data"])
    if side > SMALL and isinstance(spec.source(data), ImageSource):
        common = common | {"data": {**data.table(), "size": SCRATCH_SIZE}}
        reason = f"{reason}; images are resized to {SCRATCH_SIZE} pixels"
    say(reason)
    made = plan(
        parse(
            common
            | {
                "model": {"name": "resnet18", "width": WIDTHS[0]},
                "loss": SCHEDULES[0],
                "optimizer": {"name": "sgd", "lr": 0.05},
                "batch_size": BATCH,
                "validation": HELD_OUT,
            }
        ),
        trial=False,
    )
    train = label(made, vectors=False)[0].train
    _check_single_labels(train)
    base, kept = made.config, len(train)

    def suffices(run: RunConfig) -> bool:
        return on_short_training(run, kept) is None

    while base.batch_size > LEAST_BATCH and not suffices(base.replace(epochs=SCRATCH_EPOCHS[1])):
        base = base.replace(batch_size=base.batch_size // 2)
    in_time = _in_time(base, seconds, suffices)
    fast = plan(base.replace(loss=Component.parse(SCHEDULES[1])), trial=False).config.loss
    quick = [(run.replace(loss=fast), took) for run, took in in_time]
    enough = [each for each in (*in_time, *quick) if suffices(each[0])]
    chosen, took = enough[0] if enough else max(quick, key=lambda each: each[0].epochs)
    limit = f", over the limit of {runs * seconds / 60:g} min: nothing here is shorter"
    say(
        f"from its first weights instead: resnet18 of width {chosen.model.parameters['width']}, "
        f"{chosen.epochs} epochs, {runs} {'run' if runs == 1 else 'runs'}, about "
        f"{runs * took / 60:.0f} min{limit if took > seconds else ''}"
    )
    return [chosen]


def _in_time(
    base: RunConfig, seconds: float, suffices: Callable[[RunConfig], bool]
) -> list[tuple[RunConfig, float]]:
    """Measure what a run takes, wide ones first, until some are long enough and done in time.

    Args:
        base: A run of a ResNet.
        seconds: How long it may take.
        suffices: Whether a run has enough steps.

    Returns:
        Those that are done in time, and the seconds that each takes; where there are none, the one
        that is done soonest.
    """
    found: list[tuple[RunConfig, float]] = []
    for width in WIDTHS:
        model = Component("resnet18", {"width": width})
        pace = seconds_per_epoch(plan(base.replace(model=model)))
        tried = [base.replace(model=model, epochs=epochs) for epochs in SCRATCH_EPOCHS]
        timed = [(run, run.epochs * pace) for run in tried]
        found += [(run, took) for run, took in timed if took <= seconds]
        if any(suffices(run) for run, _ in found):
            break
    return found or timed[-1:]


def choose(
    recipe: Recipe,
    out: Path,
    callbacks: Sequence[Callback] = (),
    say: Callable[[str], None] = lambda sentence: None,
) -> tuple[RunConfig, float]:
    """Train every candidate, and choose by what is held out.

    The first candidate is taken unless another is better by more than a standard error.

    Args:
        recipe: What to train.
        out: Folder of run folders.
        callbacks: Whoever follows the runs.
        say: Tells the user what was chosen.

    Returns:
        The best candidate; and its accuracy on what was held out, against given labels.

    Raises:
        ConfigError: The data does not fit.
        StoppedError: SIGINT or SIGTERM came; the same call continues.
    """
    found: list[tuple[float, RunConfig]] = []
    for run in recipe:
        folder = RunFolder(train(run, out, callbacks))
        found.append((folder.result()["validation_accuracy"], run))
    accuracy, best = max(found, key=lambda each: each[0])
    if len(found) > 1:
        listed = ", ".join(f"{run.loss.parameters['q_start']}: {100 * a:.1f} %" for a, run in found)
        first, robust = found[0]
        error = math.sqrt(2 * accuracy * (1 - accuracy) / len(folder.labels()["validation"]))
        if best is not robust and accuracy - first <= error:
            # By chance either can be ahead, and fewer wrong labels are learnt with this one.
            listed += f"; no more than chance apart, so {robust.loss.parameters['q_start']}"
            accuracy, best = found[0]
        say(f"hold-out accuracy against given labels by q_start of dal: {listed}")
    return best, accuracy


def fit(
    recipe: Recipe,
    out: Path,
    callbacks: Sequence[Callback] = (),
    say: Callable[[str], None] = lambda sentence: None,
) -> Fit:
    """Choose by what is held out, and train on all of it.

    Args:
        recipe: What to train.
        out: Folder of run folders.
        callbacks: Whoever follows the runs.
        say: Tells the user what was chosen.

    Returns:
        What came out; made again it is found finished.

    Raises:
        ConfigError: The data does not fit.
        StoppedError: SIGINT or SIGTERM came; the same call continues.
    """
    best, accuracy = choose(recipe, out, callbacks, say)
    whole: Plan = plan(best.replace(validation=0.0))
    return Fit(RunFolder(train(whole, out, callbacks)), accuracy, best.loss)


@dataclass(frozen=True)
class Jury:
    """The runs that judge the labels of a dataset.

    Args:
        recipe: What is trained; the best of several candidates judges.
        folds: Runs, of which each judges the part that it held out; 0 for one that judges all.
    """

    recipe: Recipe
    folds: int

    @property
    def runs(self) -> int:
        """How many runs are made."""
        return (len(self.recipe) if self._chooses else 0) + max(1, self.folds)

    @property
    def epochs(self) -> int:
        """How many epochs they take."""
        return self.runs * self.recipe[0].epochs

    @property
    def _chooses(self) -> bool:
        return len(self.recipe) > 1

    def train(
        self,
        out: Path,
        callbacks: Sequence[Callback] = (),
        say: Callable[[str], None] = lambda sentence: None,
    ) -> list[RunFolder]:
        """Make the runs.

        Args:
            out: Folder of run folders.
            callbacks: Whoever follows the runs.
            say: Tells the user what was chosen.

        Returns:
            Those that judge.

        Raises:
            ConfigError: The data does not fit.
            StoppedError: SIGINT or SIGTERM came; the same call continues.
        """
        run = self.recipe[0]
        if self._chooses:
            run = choose(self.recipe, out, callbacks, say)[0].replace(validation=0.0)
        parts = [f"{fold + 1}/{self.folds}" for fold in range(self.folds)]
        judges = [run.replace(validation=part) for part in parts] or [run]
        # All are checked before the first is trained.
        plans = [plan(judge) for judge in judges]
        return [RunFolder(train(each, out, callbacks)) for each in plans]


def empanel(
    data: str,
    *,
    folds: int = 0,
    backbone: str = BACKBONE,
    weights: Path | None = None,
    minutes: float = DEADLINE,
    say: Callable[[str], None] = lambda sentence: None,
) -> Jury:
    """Choose the runs that judge the labels of a dataset.

    Args:
        data: A run's TOML file, which says what is trained; or a dataset in one word, for which
            :func:`recommend` does.
        folds: Runs, of which each judges the part that it held out; 0 for one that judges all.
        backbone: Network of timm for images.
        weights: A local file of its weights; by default they are downloaded.
        minutes: How long training networks from their first weights may take.
        say: Tells the user what is trained and why, and how far computing features has come.

    Raises:
        ConfigError: The data cannot be used, the file holds examples out already, or an option is
            given that it decides.
        DataError: The data is missing or damaged, or has sets of candidates for labels.
    """
    if Path(data).suffix == ".toml":
        options = {"backbone": backbone != BACKBONE, "minutes": minutes != DEADLINE}
        options["weights"] = weights is not None
        if ignored := [name for name, given in options.items() if given]:
            raise ConfigError(
                f"{data}: {', '.join(ignored)} must be left out: the file says what is trained"
            )
        run = config.load(Path(data))
        if folds and run.holds_out:
            held = "validation" if run.validation else "validation_labels"
            raise ConfigError(f"{data}: --folds holds examples out: {held} must be left out")
        made = plan(run)
        _check_single_labels(label(made, vectors=False)[0].train)
        chosen = made.config
        what = f"model {chosen.model.name}, {chosen.epochs} epochs, loss {chosen.loss.name}"
        say(f"as {data} says: {what}")
        return Jury([run], folds)
    recipe = recommend(
        spec.parse(data),
        backbone=backbone,
        weights=weights,
        minutes=minutes,
        runs=max(1, folds),
        say=say,
    )
    return Jury(recipe, folds)
