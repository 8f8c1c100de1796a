"""DAL whose q follows learning against DAL on the clock, where no ``q_start`` serves all.

    python benchmarks/adaptive.py --data data --weights lite0.pth

Plain loops, ``progress = epoch / epochs``, SGD with momentum 0.9 and a cosine, a perceptron of two
hidden layers of 512: on digits (batch 64, learning rate 0.1), and on frozen features of the first
10,000 and 20,000 images of CIFAR-10 and CIFAR-100, reduced to 256 numbers (batch 128, 0.01).
Symmetric noise, drawn anew for each seed; test accuracy of the last epoch.

"Cells" compares clocks, ``adaptive-dal`` and what else q could follow, in ten settings. "Pairs"
compares ``adaptive-dal`` with DAL over five seeds where the clock may be wrong: short and long
training, little data, all kinds of noise rates, a ``q_start`` that is off. Every run goes into
``docs/results/adaptive.json`` as it ends, the tables into ``adaptive-cells.md`` and
``adaptive-pairs.md``; the same command continues. Two and a half hours of one core.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from noisylabels.data.datasets import SOURCES
from noisylabels.losses import Loss, build
from noisylabels.noise import symmetric
from noisylabels.run.config import parse
from noisylabels.run.labelling import label
from noisylabels.run.plan import plan

FOLDER = Path(__file__).parents[1] / "docs/results"
COMMAND = "python benchmarks/adaptive.py --data data --weights lite0.pth"
COUNTS = {"cifar10": 10_000, "cifar100": 20_000}
Set = tuple[Tensor, Tensor, Tensor, Tensor]
"""Training inputs and clean labels, test inputs and labels."""
Run = dict[str, Any]
SETS: dict[str, Set] = {}
"""Loaded once, for all processes that are forked then."""


@dataclass(frozen=True)
class Cell:
    """What is trained on, and for how long.

    Args:
        data: ``"digits"``, ``"cifar10"`` or ``"cifar100"``.
        noise: Symmetric noise, in percent.
        epochs: How long.
        share: How much of the training set.
    """

    data: str
    noise: int
    epochs: int
    share: float = 1.0

    @property
    def title(self) -> str:
        """What the cell is called in a table."""
        part = "" if self.share == 1 else f", {100 * self.share:g} % of the data"
        return f"{self.data}, {self.noise} %, {self.epochs} epochs{part}"


CELLS = [
    *(Cell("digits", 40, epochs) for epochs in (3, 5, 10, 20, 50)),
    *(Cell("cifar10", noise, 40) for noise in (40, 60, 80)),
    *(Cell("cifar100", noise, 60) for noise in (40, 80)),
]
PAIRED = [
    Cell("cifar10", noise, epochs, share)
    for epochs in (60, 20, 200)
    for share in (1.0, 0.1)
    for noise in (0, 20, 40, 80)
]


class Follower:
    """Sets the progress of a loss: by the clock.

    Args:
        loss: The loss.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def begin(self, progress: float) -> None:
        """Start an epoch.

        Args:
            progress: Of the training, in [0, 1).
        """
        self.loss.progress = progress

    def end(self, logits: Tensor, labels: Tensor) -> None:
        """Look at what was predicted in the epoch, of each example at the moment of its step."""


class Held(Follower):
    """Holds q at 0 until an indicator turns, and then lets it rise from 0.6 to 1.5.

    Args:
        indicator: Of the logits of an epoch, of the one before, and the labels; its first minimum
            is waited for.
    """

    def __init__(self, indicator: Callable[[Tensor, Tensor, Tensor], float]) -> None:
        super().__init__(build("dal", q_start=0.0, q_end=1.5))
        self.indicator = indicator
        self.values: list[float] = []
        self.before: Tensor | None = None
        self.turned: float | None = None
        self.progress = 0.0

    def begin(self, progress: float) -> None:
        """Set the progress at which q, on its line from 0 to 1.5, is what it shall be."""
        self.progress = progress
        if self.turned is not None:
            share = (progress - self.turned) / (1 - self.turned)
            self.loss.progress = (0.6 + 0.9 * share) / 1.5

    def end(self, logits: Tensor, labels: Tensor) -> None:
        """See whether the indicator has turned."""
        if self.turned is None and self.before is not None:
            self.values.append(self.indicator(logits, self.before, labels))
            if len(self.values) > 1 and self.values[-1] >= self.values[-2]:
                self.turned = self.progress
        self.before = logits


def prediction_changes(logits: Tensor, before: Tensor, labels: Tensor) -> float:
    """Return the share of predictions that differ from those of the epoch before."""
    return (logits.argmax(1) != before.argmax(1)).double().mean().item()


def mixture(logits: Tensor, before: Tensor, labels: Tensor) -> float:
    """Return, with its sign turned, how far two normal distributions of the losses are apart."""
    losses = nn.functional.cross_entropy(logits, labels, reduction="none").numpy()[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = GaussianMixture(2, random_state=0, max_iter=20).fit(losses)
    spread = math.sqrt(fitted.covariances_.mean())
    return -abs(float(fitted.means_[0, 0] - fitted.means_[1, 0])) / spread


def alignment(logits: Tensor, before: Tensor, labels: Tensor) -> float:
    """Return the mean cosine of the gradients of a label and of the predicted label that differs.

    Where a network is sure of something else than the label, they are opposed; where it begins to
    give way to the label, less so.
    """
    probabilities, predicted = logits.softmax(1), logits.argmax(1)
    other = predicted != labels
    pulls = [
        probabilities - nn.functional.one_hot(target, logits.shape[1])
        for target in (labels, predicted)
    ]
    return nn.functional.cosine_similarity(*pulls)[other].mean().item()


RULES: dict[str, Callable[[], Follower]] = {
    "adaptive-dal": lambda: Follower(build("adaptive-dal")),
    **{
        f"dal {q:g}": lambda q=q: Follower(build("dal", q_start=q))
        for q in (0.0, 0.2, 0.4, 0.6, 0.8)
    },
    "prediction changes": lambda: Held(prediction_changes),
    "mixture of losses": lambda: Held(mixture),
    "gradient alignment": lambda: Held(alignment),
    "adaptive-dal, q_start lower": lambda: Follower(off_by(-0.2)),
    "adaptive-dal, q_start higher": lambda: Follower(off_by(0.2)),
}
IN_CELLS = list(RULES)[:9]
OFF = {"adaptive-dal, q_start lower": "dal 0.4", "adaptive-dal, q_start higher": "dal 0.8"}
"""Rules with a ``q_start`` that is 0.2 off, and the clock with the same."""


class Bench:
    """What has been run."""

    def __init__(self) -> None:
        self.path = FOLDER / "adaptive.json"
        stored = json.loads(self.path.read_text())["runs"] if self.path.exists() else []
        self.runs = {self.key(Cell(**run["cell"]), run["rule"], run["seed"]): run for run in stored}

    @staticmethod
    def key(cell: Cell, rule: str, seed: int) -> tuple[object, ...]:
        """Return what a run is found by."""
        return (*astuple(cell), rule, seed)

    def keep(self, run: Run) -> None:
        """Write a run, and the tables as they are with it."""
        cell = Cell(**run["cell"])
        self.runs[self.key(cell, run["rule"], run["seed"])] = run
        stored = {"command": COMMAND, "torch": torch.__version__, "runs": list(self.runs.values())}
        self.path.write_text(json.dumps(stored, indent=1) + "\n")
        for name, table in (("cells", cells_table(self)), ("pairs", pairs_table(self))):
            (FOLDER / f"adaptive-{name}.md").write_text(table + "\n")
        accuracy = 100 * run["accuracy"]
        print(f"{cell.title}: {run['rule']}, seed {run['seed']}: {accuracy:.1f}", flush=True)

    def accuracies(self, cell: Cell, rule: str) -> dict[int, float]:
        """Return the accuracies of a rule in a cell, in percent, by seed."""
        return {
            run["seed"]: 100 * run["accuracy"]
            for run in self.runs.values()
            if Cell(**run["cell"]) == cell and run["rule"] == rule
        }


def load(name: str, root: Path, weights: Path) -> Set:
    """Return a dataset, its inputs normalised."""
    if name == "digits":
        digits = SOURCES["digits"]().load()
        train, test = digits.train, digits.test
        return train.tensor()[:] / 16, train.labels, test.tensor() / 16, test.labels
    features = {"name": "timm", "model": "tf_efficientnet_lite0", "size": 128}
    described = {
        "data": {"name": "parquet", "root": str(root / name), "limit": COUNTS[name]},
        "features": features | {"weights": str(weights), "dimensions": 256},
        "model": "mlp",
    }
    dataset, _ = label(plan(parse(described)), print)
    mean, std = (torch.as_tensor(each) for each in (dataset.mean, dataset.std))
    x, z = ((part.tensor() - mean) / std for part in (dataset.train, dataset.test))
    return x, dataset.train.labels, z, dataset.test.labels


def make(what: tuple[Cell, str, int]) -> Run:
    """Train once, in a process that has the data."""
    cell, rule, seed = what
    accuracy, began = train(cell, RULES[rule](), seed, SETS[cell.data])
    run = {"cell": asdict(cell), "rule": rule, "seed": seed, "accuracy": accuracy}
    return run | ({} if began is None else {"began": began})


def off_by(change: float) -> Loss:
    """Return the adaptive loss with a ``q_start`` that is so far off its default."""
    usual = build("adaptive-dal").q_start
    return build("adaptive-dal", q_start=usual + change)


def train(cell: Cell, follower: Follower, seed: int, data: Set) -> tuple[float, float | None]:
    """Train once; return the test accuracy, and when the adaptive loss saw the beginning."""
    inputs, clean, test, test_labels = data
    classes = int(clean.max()) + 1
    count = round(cell.share * len(clean))
    inputs, clean = inputs[:count], clean[:count]
    rate = cell.noise / 100
    labels = symmetric(clean, num_classes=classes, rate=rate, seed=seed, features=None)
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(inputs[0].numel(), 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(),
        nn.Linear(512, classes),
    )  # fmt: skip
    small = cell.data == "digits"
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.1 if small else 0.01, momentum=0.9, weight_decay=1e-4
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, cell.epochs)
    seen = torch.empty(count, classes)
    for epoch in range(cell.epochs):
        follower.begin(epoch / cell.epochs)
        for index in torch.randperm(count).split(64 if small else 128):
            optimizer.zero_grad()
            logits = network(inputs[index])
            follower.loss(logits, labels[index]).backward()
            optimizer.step()
            seen[index] = logits.detach()
        follower.end(seen.clone(), labels)
        schedule.step()
    with torch.no_grad():
        accuracy = (network(test).argmax(1) == test_labels).double().mean().item()
    return accuracy, getattr(follower.loss, "began", None)


def todo(seeds: int) -> Iterator[tuple[Cell, str, int]]:
    """Yield the runs, the long ones last."""
    for epochs in (60, 20, None, 200):
        if epochs is None:
            for seed, cell, rule in itertools.product(range(seeds), CELLS, IN_CELLS):
                yield cell, rule, seed
            continue
        for seed, cell in itertools.product(range(5), PAIRED):
            if cell.epochs == epochs:
                yield cell, "adaptive-dal", seed
                yield cell, "dal 0.6", seed
                if cell.epochs == 60 and cell.share == 1:
                    for rule in itertools.chain(*OFF.items()):
                        yield cell, rule, seed


def cells_table(bench: Bench) -> str:
    """Return the mean accuracies in the ten cells, the best clock's in bold, and what is lost."""
    rows = ["| | " + " | ".join(cell.title for cell in CELLS) + " |", "|---" * 11 + "|"]
    found = {rule: [bench.accuracies(cell, rule).values() for cell in CELLS] for rule in IN_CELLS}
    means = {r: [statistics.fmean(x) if x else math.nan for x in found[r]] for r in found}
    clocks = [rule for rule in IN_CELLS if rule.startswith("dal ")]
    best = [max(means[rule][at] for rule in clocks) for at in range(len(CELLS))]
    for rule in IN_CELLS:
        shown = [
            f"**{mean:.1f}**" if rule in clocks and mean == best[at] else f"{mean:.1f}"
            for at, mean in enumerate(means[rule])
        ]
        rows.append(f"| {rule} | {' | '.join(shown)} |")
    lost = [mean - best[at] for at, mean in enumerate(means["adaptive-dal"])]
    rows.append(f"| adaptive-dal - best clock | {' | '.join(f'{each:+.1f}' for each in lost)} |")
    seeds = [str(min(len(found[rule][at]) for rule in IN_CELLS)) for at in range(len(CELLS))]
    return "\n".join([*rows, f"| seeds | {' | '.join(seeds)} |"]).replace("nan", "–")


def pair(bench: Bench, cell: Cell, rule: str, other: str) -> str | None:
    """Return a row that compares two rules over the seeds."""
    ours, theirs = bench.accuracies(cell, rule), bench.accuracies(cell, other)
    both = sorted(set(ours) & set(theirs))
    if len(both) < 2:
        return None
    a, b = (np.array([each[seed] for seed in both]) for each in (ours, theirs))
    p = stats.ttest_rel(a, b).pvalue
    chance = "< 0.001" if p < 0.001 else f"{p:.3f}"
    shown = [f"{x.mean():.1f} ± {x.std(ddof=1):.1f}" for x in (a, b)]
    shown.append(f"{(a - b).mean():+.1f} ± {(a - b).std(ddof=1):.1f}")
    return f"| {cell.title} | {other} | {' | '.join(shown)} | {chance} | {len(both)} |"


def pairs_table(bench: Bench) -> str:
    """Return the paired comparisons."""
    head = "| | against | adaptive-dal | clock | difference | p | seeds |"
    rows = [pair(bench, cell, "adaptive-dal", "dal 0.6") for cell in PAIRED]
    for rule, clock in OFF.items():
        rows += [pair(bench, cell, rule, clock) for cell in PAIRED]
    return "\n".join([head, "|---" * 7 + "|", *filter(None, rows)])


def main() -> None:
    """Make the runs and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="of the cells")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench()
    waiting = [each for each in todo(given.seeds) if bench.key(*each) not in bench.runs]
    for name in {cell.data for cell, _, _ in waiting}:
        SETS[name] = load(name, given.data, given.weights)
    with multiprocessing.get_context("fork").Pool(given.jobs) as pool:
        for run in pool.imap_unordered(make, waiting):
            bench.keep(run)


if __name__ == "__main__":
    main()
