"""Experiments on why DAL does not help inside some methods: one setting changed, and what came out.

Each supposed reason foretells what a change would do; next to it stands the run as it was. Writes
``docs/results/reasons.json`` and ``reasons.md``; runs that are in ``--out`` are not made again:

    python benchmarks/reasons.py --images ../shared/data/cifar10 --labels ../shared/data/label
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hosts import FOLDER, INSIDE, Table, cifar10, digits, machine, percent

from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.plan import plan
from noisylabels.run.trainer import train

CE: Table = {"name": "ce"}
DIGITS: list[tuple[str, str, list[str], Table, Table]] = [
    ("ELR, lambda 3", "elr", ["symmetric 40 %", "symmetric 80 %"], {}, CE),
    ("ELR + DAL, lambda 3", "elr", ["symmetric 40 %", "symmetric 80 %"], {}, INSIDE),
    ("ELR, lambda 1", "elr", ["symmetric 40 %", "symmetric 80 %"], {"lamb": 1.0}, CE),
    ("ELR + DAL, lambda 1", "elr", ["symmetric 40 %", "symmetric 80 %"], {"lamb": 1.0}, INSIDE),
    ("JoCoR", "jocor", ["symmetric 80 %"], {}, CE),
    ("JoCoR + DAL", "jocor", ["symmetric 80 %"], {}, INSIDE),
    ("JoCoR + DAL, q to 0.5", "jocor", ["symmetric 80 %"], {}, INSIDE | {"q_end": 0.5}),
    ("DivideMix", "dividemix", ["symmetric 80 %"], {}, CE),
    ("DivideMix + DAL", "dividemix", ["symmetric 80 %"], {}, INSIDE),
    ("DivideMix + DAL, no agreement", "dividemix", ["symmetric 80 %"], {"agreement": 0}, INSIDE),
]
"""Title, method, noises, changes of the method, loss."""
CIFAR10: list[tuple[str, str, list[str], Table, Table]] = [
    ("CIFAR-10, ELR, lambda 3", "elr", ["symmetric 40 %"], {}, CE),
    ("CIFAR-10, ELR + DAL, lambda 3", "elr", ["symmetric 40 %"], {}, INSIDE),
    ("CIFAR-10, ELR + DAL, lambda 1", "elr", ["symmetric 40 %"], {"lamb": 1.0}, INSIDE),
]


def runs(images: Path, labels: Path) -> Iterator[tuple[str, str, int, Table]]:
    """Yield what to run: title, noise, seed, configuration."""
    parts = ((DIGITS, digits()), (CIFAR10, cifar10(images, labels)))
    for rows, (methods, noises, seeds) in parts:
        for title, name, where, changes, loss in rows:
            recipe = methods[name]
            method = recipe["method"] | changes
            for noise in where:
                if name == "jocor":
                    method = method | {"forget_rate": noises[noise]["rate"]}
                change = {"method": method, "noise": noises[noise], "loss": loss}
                for seed in range(seeds):
                    yield title, noise, seed, recipe | change | {"seed": seed}


def given_up(folder: Path) -> int:
    """Count the classes that a run's network never predicts on the test set."""
    p = RunFolder(folder).predictions()["test_probabilities"]
    return p.shape[1] - len(np.unique(p.argmax(1)))


def main() -> None:
    """Make the runs, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--images", type=Path, required=True, help="folder of CIFAR-10's Parquet files"
    )
    parser.add_argument(
        "--labels", type=Path, required=True, help="folder of the published label files"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/reasons"))
    options = parser.parse_args()
    found: dict[tuple[str, str], list[Table]] = {}
    for title, noise, seed, tables in runs(options.images, options.labels):
        folder = train(plan(parse(tables)), options.out)
        result = RunFolder(folder).result()
        numbers = {
            key: result.get(key)
            for key in ("test_accuracy", "train_accuracy_correct", "train_accuracy_wrong", "run_id")
        }
        about = {"title": title, "noise": noise, "seed": seed, "machine": machine()}
        found.setdefault((title, noise), []).append(
            about | numbers | {"classes_given_up": given_up(folder)}
        )
        print(title, noise, seed, numbers["test_accuracy"], flush=True)
    stored = {"command": "python benchmarks/reasons.py --images IMAGES --labels LABELS"}
    everything = [run for several in found.values() for run in several]
    (FOLDER / "reasons.json").write_text(json.dumps(stored | {"runs": everything}, indent=1) + "\n")
    lines = [
        "| | noise | test accuracy, % | wrong labels predicted, % | right ones, % | classes never "
        "predicted |",
        "|---|---|---|---|---|---|",
    ]
    for (title, noise), several in found.items():
        cells = [
            percent([run[key] for run in several])
            for key in ("test_accuracy", "train_accuracy_wrong", "train_accuracy_correct")
        ]
        never = ", ".join(str(run["classes_given_up"]) for run in several)
        lines.append(f"| {title} | {noise} | {' | '.join(cells)} | {never} |")
    (FOLDER / "reasons.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
