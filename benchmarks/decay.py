"""How much a linear layer over features should decay, by how many examples there are.

    python benchmarks/decay.py --data data --weights lite0.pth

With few examples a linear layer over 1,280 numbers learns wrong labels by heart, even with a robust
loss. ``noisylabels fit`` therefore decays its weights by 100 over the number of examples, at most
0.3, and less for shorter vectors. Here is what other values do: the first images of CIFAR-10, with
symmetric and asymmetric noise, and snippets of reviews with one rater's class and a worst rater's,
where the truth is the consensus of 20. DAL (0.6 to 1.5), 2,000 steps, seed 0. Suspects and average
precision are those of an audit of the run. Writes ``docs/results/decay.json`` and ``decay.md``; 25
minutes on one core.
"""

import argparse
import dataclasses
import json
import platform
import re
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.plan import plan
from noisylabels.run.trainer import train
from noisylabels.studies import audit
from noisylabels.studies.fitting import BATCH, SCHEDULES, STEPS
from noisylabels.studies.fitting import decay as decay_of_fit

FOLDER = Path(__file__).parents[1] / "docs/results"
DECAYS = (1e-4, 0.01, 0.03, 0.1, 0.3, 1.0)
PAIRS = [0, 1, 0, 5, 7, 3, 6, 7, 8, 1]
"""CIFAR-10's classes that are taken for each other: truck, bird, cat and dog, deer."""
NOISES = {
    "symmetric 28 %": {"name": "symmetric", "rate": 0.28 / 0.9},
    "asymmetric 15 %": {"name": "asymmetric", "rate": 0.3, "map": PAIRS},
}
RATERS = {"one rater": "one_rater", "a worst rater": "worst_rater"}
Row = dict[str, Any]


def main() -> None:
    """Train, audit, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/decay"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in chain(images(given.data, given.weights, given.out), texts(given.data, given.out)):
        rows.append(row)
        print(row, flush=True)
    about = {
        "command": "python benchmarks/decay.py --data data --weights lite0.pth",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    (FOLDER / "decay.json").write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    (FOLDER / "decay.md").write_text(table(rows))


def images(data: Path, weights: Path, out: Path) -> Iterator[Row]:
    """Yield a row for each count, noise and decay."""
    features = {"name": "timm", "model": "tf_efficientnet_lite0", "size": 128}
    for count in (400, 1000, 3000, 10000):
        for noise, parameters in NOISES.items():
            source = {"name": "parquet", "root": str(data / "cifar10"), "limit": count}
            base = {
                "data": source,
                "noise": parameters,
                "features": features | {"weights": str(weights)},
            }
            yield from rows_of("CIFAR-10", noise, base, 0.01, count, None, out)


def texts(data: Path, out: Path) -> Iterator[Row]:
    """Yield a row for each count, rater and decay."""
    rated = pd.read_parquet(data / "text/crowd_snippets.parquet").sample(frac=1, random_state=0)
    test = rated.iloc[-4000:]
    for count in (500, 2000, 10000):
        chosen = rated.iloc[:count]
        for rater, column in RATERS.items():
            path = out / f"{column}-{count}.csv"
            parts = {"train": chosen.assign(label=chosen[column])}
            parts["test"] = test.assign(label=test["consensus"])
            joined = pd.concat([part.assign(split=name) for name, part in parts.items()])
            joined[["text", "label", "split"]].to_csv(path, index=False)
            base = {"data": {"name": "text", "path": str(path)}, "features": "tfidf"}
            yield from rows_of("snippets", rater, base, 0.1, count, chosen["consensus"], out)


def rows_of(
    name: str, noise: str, base: Row, rate: float, count: int, truth: Any, out: Path
) -> Iterator[Row]:
    """Yield a row for each decay."""
    epochs = -(-STEPS // max(1, round(count / BATCH)))
    for decay in DECAYS:
        optimizer = {"name": "sgd", "lr": rate, "weight_decay": decay}
        run = base | {"model": "linear", "optimizer": optimizer, "loss": SCHEDULES[0]}
        run |= {"batch_size": BATCH, "epochs": epochs, "evaluate_every": max(1, epochs // 10)}
        folder = RunFolder(train(plan(parse(run)), out))
        evidence = audit.read([folder])
        if truth is not None:
            true = np.array([evidence.classes.index(label) for label in truth])
            evidence = dataclasses.replace(evidence, true=true[evidence.rows])
        found = audit.judge(evidence)
        wrong = evidence.true != evidence.labels
        hits = int(wrong[found.suspects].sum())
        yield {
            "data": name,
            "examples": count,
            "noise": noise,
            "weight_decay": decay,
            "taken by fit": decay == nearest(count, 256 if base["features"] == "tfidf" else 1280),
            "test_accuracy": folder.result()["test_accuracy"],
            "noise_rate": float(wrong.mean()),
            "estimated": [estimate.share for estimate in found.estimates],
            "average_precision": audit.average_precision(wrong, found.score),
            "suspects": len(found.suspects),
            "precision": hits / max(1, len(found.suspects)),
            "said": found.trust().partition(": ")[2],
            "recall": hits / int(wrong.sum()),
        }


def nearest(count: int, width: int) -> float:
    """Return the decay nearest to that of ``fit``, by ratio."""
    own = decay_of_fit(count, width)
    return min(DECAYS, key=lambda decay: abs(np.log(decay / own)))


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown, the decay that is nearest to that of ``fit`` in bold."""
    lines = [
        "| data | noise | weight decay | test accuracy | average precision | suspects: precision "
        "| said | recall | wrong, estimated |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        decay = (
            f"**{row['weight_decay']:g}**" if row["taken by fit"] else f"{row['weight_decay']:g}"
        )
        low, high = sorted(row["estimated"])
        noise = f"{row['noise']} ({100 * row['noise_rate']:.1f} %)"
        cells = [
            f"{row['data']}, {row['examples']:,}",
            noise,
            decay,
            f"{100 * row['test_accuracy']:.1f} %",
            f"{row['average_precision']:.3f}",
            f"{100 * row['precision']:.0f} %",
            short(row["said"]),
            f"{100 * row['recall']:.0f} %",
            f"{100 * low:.1f} to {100 * high:.1f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def short(said: str) -> str:
    """Return what is said of the suspects' precision as a number, if it is one."""
    found = re.search(r"(\d+) % of (the suspects|all)", said)
    least = "at least " if said.startswith("at least") else ""
    return f"{least}{found[1]} %" if found else "none"


if __name__ == "__main__":
    main()
