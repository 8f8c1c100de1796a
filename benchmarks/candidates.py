"""What is learnt from sets of candidates, and from the votes of several raters.

    python benchmarks/candidates.py
    python benchmarks/candidates.py --images data/cifar10 --weights lite0.pth
    python benchmarks/candidates.py --snippets data/text/crowd_snippets.parquet

The published baselines are written out here from their formulas in plain torch, and train in the
same loop, from the same weights, on the same batches as the library's losses: *average* takes all
candidates alike; *CC* (Feng and others, 2020) is minus the logarithm of a set's probability;
*PRODEN* (Lv and others, 2020) weighs candidates by the network's predictions at the example's last
visit, before the step; *RC* (Feng and others, 2020) by those after it. Both begin with equal
weights. Digits: a perceptron of two hidden layers of 128, 40 epochs; with ``--images``, frozen
features of 10,000 images of CIFAR-10 under the same perceptron. Three seeds, accuracy at the last
epoch. Votes: a linear layer over tf-idf of review snippets, see ``votes`` below. Writes
``docs/results/candidates.json`` and ``candidates.md``, of the parts that were not made what is
there.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from noisylabels.candidates import CandidateLoss, draw_candidate
from noisylabels.data.datasets import SOURCES
from noisylabels.losses import build
from noisylabels.noise import candidates
from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.labelling import label
from noisylabels.run.plan import plan
from noisylabels.run.trainer import train
from noisylabels.votes import consensus, dawid_skene

FOLDER = Path(__file__).parents[1] / "docs/results"
SEEDS = 3
EPOCHS = 40
HIDDEN = 128
NOISES = {
    "digits": ((0.3, 0.0), (0.5, 0.0), (0.7, 0.0), (0.3, 0.2)),
    "cifar10": ((0.5, 0.0), (0.3, 0.2)),
}
"""Probability that a class joins a set, and that the true one is left out."""
SETTINGS = {"digits": {"lr": 0.1, "batch": 64}, "cifar10": {"lr": 0.01, "batch": 128}}
SMOOTHINGS = (0.0, 1.0, 3.0, 10.0, 30.0)


def average(log_p: Tensor, sets: Tensor) -> Tensor:
    """The mean cross entropy of a set's candidates."""
    return -(log_p.masked_fill(~sets, 0).sum(1) / sets.sum(1)).mean()


def classifier_consistent(log_p: Tensor, sets: Tensor) -> Tensor:
    """CC: minus the logarithm of the sum of the candidates' probabilities."""
    return -(log_p.exp() * sets).sum(1).log().mean()


class Remembered:
    """PRODEN and RC: cross entropy with weights that are kept for each example."""

    def __init__(self, sets: Tensor) -> None:
        self.sets = sets
        self.weights = sets / sets.sum(1, keepdim=True)

    def loss(self, log_p: Tensor, index: Tensor) -> Tensor:
        """Return the loss of some examples."""
        return -(self.weights[index] * log_p).sum(1).mean()

    def update(self, log_p: Tensor, index: Tensor) -> None:
        """Let the weights of some examples follow predictions of them."""
        p = log_p.exp() * self.sets[index]
        self.weights[index] = p / p.sum(1, keepdim=True)


OURS: dict[str, Callable[[], nn.Module]] = {
    "set: ce": lambda: build("ce"),
    "set: gce 0.7": lambda: build("gce"),
    "set: dal 0 to 1.5": lambda: build("dal", q_start=0.0),
    "weighed 0 to 1: ce": lambda: CandidateLoss(build("ce"), start=0.0, end=1.0),
    "weighed 0 to 2: ce": lambda: CandidateLoss(build("ce"), start=0.0, end=2.0),
    "weighed 1: gce 0.7": lambda: CandidateLoss(build("gce"), start=1.0, end=1.0),
    "weighed 0 to 1: gce 0.7": lambda: CandidateLoss(build("gce"), start=0.0, end=1.0),
    "weighed 0 to 1: dal 0 to 1.5": lambda: CandidateLoss(build("dal", q_start=0.0), end=1.0),
}
BASELINES = ("one candidate: ce", "average", "CC", "PRODEN", "RC")


def fit(
    name: str, x: Tensor, sets: Tensor, test: tuple[Tensor, Tensor], seed: int, setting: Any
) -> dict[str, float]:
    """Train a perceptron on sets, and return its test accuracy and the seconds it took."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(x.shape[1], HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, sets.shape[1]),
    )
    optimizer = torch.optim.SGD(
        network.parameters(), lr=setting["lr"], momentum=0.9, weight_decay=1e-4
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    ours = OURS[name]() if name in OURS else None
    kept = Remembered(sets)
    drawn = draw_candidate(sets, seed=seed)
    begun = time.perf_counter()
    for epoch in range(EPOCHS):
        if ours is not None:
            ours.progress = epoch / EPOCHS
        for index in torch.randperm(len(x)).split(setting["batch"]):
            logits = network(x[index])
            log_p = logits.log_softmax(1)
            if ours is not None:
                value = ours(logits, sets[index])
            elif name == "average":
                value = average(log_p, sets[index])
            elif name == "CC":
                value = classifier_consistent(log_p, sets[index])
            elif name == "one candidate: ce":
                value = nn.functional.nll_loss(log_p, drawn[index])
            else:
                value = kept.loss(log_p, index)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            if name == "PRODEN":
                kept.update(log_p.detach(), index)
            elif name == "RC":
                with torch.no_grad():
                    kept.update(network(x[index]).log_softmax(1), index)
        schedule.step()
    seconds = time.perf_counter() - begun
    with torch.no_grad():
        right = (network(test[0]).argmax(1) == test[1]).double().mean().item()
    return {"accuracy": right, "seconds": seconds}


def on_sets(data: str, images: Path | None, weights: Path | None) -> list[dict[str, Any]]:
    """Train everything on one dataset."""
    if data == "digits":
        dataset = SOURCES["digits"]().load()
    else:
        features = {"name": "timm", "model": "tf_efficientnet_lite0", "size": 128}
        features |= {"dimensions": 256, "weights": str(weights)}
        source = {"name": "parquet", "root": str(images), "limit": 10_000}
        dataset, _ = label(plan(parse({"data": source, "features": features}), trial=False))

    def vectors(part: Any) -> tuple[Tensor, Tensor]:
        scaled = (part.tensor().flatten(1).float() - dataset.mean) / dataset.std
        return scaled, part.labels

    (x, true), test = vectors(dataset.train), vectors(dataset.test)
    runs = []
    for rate, missing in NOISES[data]:
        for name in (*BASELINES, *OURS):
            for seed in range(SEEDS):
                sets = candidates(true, rate=rate, missing=missing, seed=seed, num_classes=10)
                about = {"data": data, "rate": rate, "missing": missing, "loss": name, "seed": seed}
                runs.append(about | fit(name, x, sets, test, seed, SETTINGS[data]))
            print(
                rate,
                missing,
                name,
                [f"{100 * r['accuracy']:.1f}" for r in runs[-SEEDS:]],
                flush=True,
            )
    return runs


CLASSES = ("negative", "neutral", "positive")
BLOCK = 30
"""Snippets that the same raters scored, one after the other in the file."""
COLUMNS = {
    "one rater": {"label_column": "vote0"},
    "all raters, shares": {"consensus": "soft"},
    "all raters, majority": {"consensus": "majority"},
    "all raters, Dawid-Skene": {"consensus": "dawid-skene"},
    "the consensus itself": {"label_column": "consensus"},
}


def votes(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Train on snippets of reviews by what becomes of their raters' votes.

    A rating's sign is a vote. The file does not name raters, but those of 30 rows in a row are the
    same ones in the same order: within such blocks a position's mean deviation from its rows varies
    six times as much as where each row's ratings are shuffled. A rater is therefore a position in a
    block. A fifth of the snippets are test examples, against the published consensus: positive
    where the mean of all ratings is at least 0.5, negative where it is at most -0.5.

    Returns:
        Runs, and how often the consensus of votes by itself is the published one.
    """
    table = pd.read_parquet(path)
    width = max(map(len, table["ratings"]))
    rated = np.full((len(table), width), -1)
    for row, ratings in enumerate(table["ratings"]):
        rated[row, : len(ratings)] = np.sign(ratings) + 1
    raters = np.arange(len(table))[:, None] // BLOCK * width + np.arange(width)
    true = table["consensus"].map(CLASSES.index).to_numpy()
    given, who = torch.from_numpy(rated), torch.from_numpy(raters)
    agreement = []

    def agrees(name: str, probabilities: Tensor) -> None:
        share = float((probabilities.argmax(1).numpy() == true).mean())
        agreement.append({"labels": name, "agreement": share})
        print(agreement[-1], flush=True)

    agrees("one rater", consensus(given[:, :1], num_classes=3))
    agrees("majority", consensus(given, by="majority"))
    agrees("Dawid-Skene, a rater for each column", dawid_skene(given).probabilities)
    for smoothing in SMOOTHINGS:
        found = dawid_skene(given, raters=who, smoothing=smoothing)
        agrees(f"Dawid-Skene, smoothing {smoothing:g}", found.probabilities)

    names = [f"vote{number}" for number in range(width)]
    words = np.array(["", *CLASSES])[rated + 1]
    columns = {name: words[:, number] for number, name in enumerate(names)}
    columns |= {f"rater{number}": raters[:, number] for number in range(width)}
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(SEEDS):
            generator = np.random.default_rng(seed)
            test = generator.permutation(len(table)) < len(table) // 5
            source = Path(folder, f"{seed}.parquet")
            pd.DataFrame(
                {
                    "text": table["text"],
                    "consensus": table["consensus"],
                    "split": np.where(test, "test", "train"),
                    **columns,
                }
            ).to_parquet(source)
            for name, options in COLUMNS.items():
                several = (
                    {}
                    if "label_column" in options
                    else {
                        "votes": names,
                        "raters": [f"rater{number}" for number in range(width)],
                    }
                )
                for loss in ("ce", "gce"):
                    run = {
                        "data": {
                            "name": "text",
                            "path": str(source),
                            "test_label_column": "consensus",
                            **options,
                            **several,
                        },
                        "features": "tfidf",
                        "loss": loss,
                        "optimizer": {"name": "adam", "lr": 0.003},
                        "epochs": 10,
                        "seed": seed,
                        "save_model": False,
                    }
                    made = RunFolder(train(parse(run), Path(folder, "runs"))).result()
                    about = {"labels": name, "loss": loss, "seed": seed}
                    runs.append(about | {"accuracy": made["test_accuracy"]})
                    print(runs[-1], flush=True)
    return runs, agreement


def mean(runs: list[dict[str, Any]], **about: Any) -> str:
    """Return mean and standard deviation of some runs' accuracies, in percent."""
    found = [100 * r["accuracy"] for r in runs if all(r[k] == v for k, v in about.items())]
    return f"{statistics.fmean(found):.1f} ± {statistics.stdev(found):.1f}" if found else ""


def sets_table(runs: list[dict[str, Any]], data: str) -> list[str]:
    """Return the table of one dataset."""
    heads = [
        f"{100 * rate:.0f} %" + (f", {100 * missing:.0f} % without the truth" if missing else "")
        for rate, missing in NOISES[data]
    ]
    rows = [f"| {data} | {' | '.join(heads)} | seconds |", f"|---|{'---|' * (len(heads) + 1)}"]
    for name in (*BASELINES, *OURS):
        cells = [mean(runs, data=data, loss=name, rate=r, missing=m) for r, m in NOISES[data]]
        seconds = [r["seconds"] for r in runs if (r["data"], r["loss"]) == (data, name)]
        rows.append(f"| {name} | {' | '.join(cells)} | {statistics.fmean(seconds):.0f} |")
    return [*rows, ""]


def write(stored: dict[str, Any]) -> None:
    """Write all that is known as JSON and as tables."""
    (FOLDER / "candidates.json").write_text(json.dumps(stored, indent=1) + "\n")
    lines = []
    for data in SETTINGS:
        if any(r["data"] == data for r in stored.get("sets", [])):
            lines += sets_table(stored["sets"], data)
    if "votes" in stored:
        lines += ["| labels of the training texts | ce | gce |", "|---|---|---|"]
        for name in COLUMNS:
            cells = [mean(stored["votes"], labels=name, loss=loss) for loss in ("ce", "gce")]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines += ["", "| labels | agree with the published consensus |", "|---|---|"]
        lines += [
            f"| {each['labels']} | {100 * each['agreement']:.1f} % |"
            for each in stored["agreement"]
        ]
    (FOLDER / "candidates.md").write_text("\n".join(lines).rstrip() + "\n")


def main() -> None:
    """Make one part of the runs and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--snippets", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = FOLDER / "candidates.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    if options.snippets is not None:
        stored["votes"], stored["agreement"] = votes(options.snippets)
    else:
        data = "digits" if options.images is None else "cifar10"
        others = [r for r in stored.get("sets", []) if r["data"] != data]
        stored["sets"] = others + on_sets(data, options.images, options.weights)
    write(stored | {"torch": str(torch.__version__)})


if __name__ == "__main__":
    main()
