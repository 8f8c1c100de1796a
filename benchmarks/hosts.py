"""The bigger methods with their own loss and with DAL, in the layout of the paper's table 5.

Every run is one of the runner's, so the command continues where it was stopped. It writes the runs'
numbers to ``docs/results/hosts-<part>.json`` and tables of them to ``hosts-<part>.md``; runs that
are there already, from whatever machine, are not made again:

    python benchmarks/hosts.py digits
    python benchmarks/hosts.py cifar10 --images ../shared/data/cifar10 --labels ../shared/data/label
"""

import argparse
import json
import platform
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.plan import plan
from noisylabels.run.trainer import train

Table = dict[str, Any]
Key = tuple[str, str, str]

NAMES = {
    "single": "CE",
    "elr": "ELR",
    "gjs": "GJS",
    "coteaching": "Co-teaching",
    "jocor": "JoCoR",
    "dividemix": "DivideMix",
}
INSIDE: Table = {"name": "dal", "q_start": 0.0, "q_end": 1.0}
"""DAL inside another method, as in the paper."""
ALONE: Table = {"name": "dal", "q_start": 0.6, "q_end": 1.5}
FOLDER = Path(__file__).parents[1] / "docs" / "results"
RESULTS = (
    "test_accuracy",
    "test_accuracy_1",
    "test_accuracy_2",
    "test_accuracy_ensemble",
    "train_accuracy_correct",
    "train_accuracy_wrong",
    "actual_noise_rate",
    "nominal_noise_rate",
    "precision",
    "torch",
    "run_id",
)


def adam(begin: float) -> Table:
    """Co-teaching's optimiser and schedules."""
    return {
        "optimizer": {"name": "adam", "lr": 0.001},
        "lr_schedule": {"name": "linear", "begin": begin},
        "momentum_schedule": {"name": "multistep", "milestones": [begin], "factor": 0.11111},
    }


def digits() -> tuple[Mapping[str, Table], Mapping[str, Table], int]:
    """Return methods, kinds of noise and the number of seeds on digits.

    The methods' values were chosen with their published loss on three tenths of the noisy training
    set, held out, at 40 and 80 % symmetric noise, seed 0: see docs/results/index.md.
    """
    common: Table = {
        "data": "digits",
        "model": "mlp",
        "epochs": 100,
        "batch_size": 64,
        "evaluate_every": 1000,
        "augment": "none",
        "optimizer": {"name": "sgd", "lr": 0.1},
    }
    views: Table = {"augment": {"name": "crop-flip", "padding": 1, "flip": False}}
    methods = {
        "single": common | {"optimizer": {"name": "sgd", "lr": 0.03}},
        "elr": common
        | {
            "method": {"name": "elr", "beta": 0.9, "lamb": 3.0},
            "optimizer": {"name": "sgd", "lr": 0.02},
        },
        "gjs": common | views | {"method": {"name": "gjs", "pi": 0.3}},
        "coteaching": common | adam(0.4) | {"method": {"name": "coteaching"}},
        "jocor": common | adam(0.4) | {"method": {"name": "jocor", "c": 0.65}},
        "dividemix": common
        | views
        | {"method": {"name": "dividemix", "warmup": 40, "lambda_u": 5.0}},
    }
    noises: dict[str, Table] = {
        "symmetric 40 %": {"name": "symmetric", "rate": 0.4},
        "symmetric 80 %": {"name": "symmetric", "rate": 0.8},
        "instance 40 %": {"name": "instance", "rate": 0.4},
    }
    return methods, noises, 5


def cifar10(images: Path, labels: Path) -> tuple[Mapping[str, Table], Mapping[str, Table], int]:
    """Return methods, kinds of noise and the number of seeds on the small form of CIFAR-10."""
    common: Table = {
        "data": {"name": "parquet", "root": str(images), "limit": 5000},
        "model": {"name": "resnet18", "width": 16},
        "epochs": 40,
        "batch_size": 128,
        "evaluate_every": 10,
        "augment": "crop-flip",
    }
    start, epochs = 10, 18
    methods = {
        "elr": common
        | {
            "method": {"name": "elr", "beta": 0.7, "lamb": 3.0},
            "optimizer": {"name": "sgd", "lr": 0.02, "weight_decay": 1e-3},
        },
        "coteaching": common
        | adam(0.4)
        | {"method": {"name": "coteaching"}, "epochs": 20, "evaluate_every": 20},
        # The rate falls after half of the epochs that mix, as in the published 300.
        "dividemix": common
        | {
            "method": {
                "name": "dividemix",
                "warmup": start,
                "agreement": 2,
                "lambda_u": 25.0,
                "rampup": 4.0,
            },
            "model": {"name": "preact-resnet18", "width": 16},
            "optimizer": {"name": "sgd", "lr": 0.02, "weight_decay": 5e-4},
            "lr_schedule": {"name": "multistep", "milestones": [(start + epochs) / 2 / epochs]},
            "batch_size": 64,
            "epochs": epochs,
            "evaluate_every": epochs,
        },
    }
    noises: dict[str, Table] = {
        f"symmetric {rate} %": {
            "name": "file",
            "path": str(labels / f"symmetric/cifar10_{rate}.npy"),
            "rate": rate / 100,
        }
        for rate in (40, 80)
    }
    return methods, noises, 1


def runs(
    methods: Mapping[str, Table], noises: Mapping[str, Table], seeds: int
) -> Iterator[tuple[Key, int, Table]]:
    """Yield what to run: (method, loss, noise), seed, configuration."""
    for seed in range(seeds):
        for noise, kind in noises.items():
            for name, recipe in methods.items():
                method = dict(recipe.get("method", {"name": "single"}))
                if name in ("coteaching", "jocor"):
                    # As in their papers, which know the rate of the noise they made.
                    method["forget_rate"] = kind["rate"]
                published = {"name": "js", "pi": method["pi"]} if name == "gjs" else {"name": "ce"}
                inside = ALONE if name == "single" else INSIDE
                for loss in (published, inside):
                    change = {
                        "method": equally_long(method, loss),
                        "noise": kind,
                        "loss": loss,
                        "seed": seed,
                    }
                    yield (name, loss["name"], noise), seed, recipe | change


def equally_long(method: Table, loss: Table) -> Table:
    """Let DivideMix's mixing, where the recipe says how long to agree, begin in the same epoch.

    With cross entropy there is nothing to agree on: the warm-up is that much longer.
    """
    if "agreement" not in method:
        return method
    if loss["name"] == "ce":
        return method | {"agreement": 0}
    return method | {"warmup": method["warmup"] - method["agreement"]}


def machine() -> str:
    """Say what kind of processor this is."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {capability}, {torch.get_num_threads()} threads"


def percent(values: list[float]) -> str:
    """Write the mean, and the sample standard deviation of several, in percent."""
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def title(method: str, loss: str) -> str:
    """Name a row as the paper does."""
    if method == "single":
        return {"ce": "CE", "dal": "DAL (0.6 to 1.5)"}[loss]
    return f"{NAMES[method]} + DAL" if loss == "dal" else NAMES[method]


def table(done: list[Table], key: str) -> str:
    """Make a table of one number: a row for each method and loss, a column for each noise."""
    noises = list(dict.fromkeys(run["noise"] for run in done))
    rows = sorted({(run["method"], run["loss"]) for run in done}, key=place)
    lines = ["| | " + " | ".join(noises) + " |", "|---" * (len(noises) + 1) + "|"]
    for method, loss in rows:
        cells = []
        for noise in noises:
            found = [
                run[key]
                for run in done
                if (run["method"], run["loss"], run["noise"]) == (method, loss, noise)
                and run.get(key) is not None
            ]
            cells.append(percent(found) if found else "")
        if any(cells):
            lines.append(f"| {title(method, loss)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def place(row: tuple[str, str]) -> tuple[int, bool]:
    """Order rows as table 5 does."""
    return list(NAMES).index(row[0]), row[1] == "dal"


def rates(done: list[Table]) -> str:
    """Say the actual noise rates."""
    found: dict[str, dict[int, float]] = {}
    for run in done:
        found.setdefault(run["noise"], {})[run["seed"]] = run["actual_noise_rate"]
    return "; ".join(
        f"{noise}: {percent(list(by_seed.values()))} %" for noise, by_seed in found.items()
    )


def read(part: str) -> dict[str, Table]:
    """Return the runs that are done, by run id."""
    path = FOLDER / f"hosts-{part}.json"
    done = json.loads(path.read_text())["runs"] if path.exists() else []
    return {run["run_id"]: run for run in done}


def write(part: str, done: list[Table], seeds: int) -> None:
    """Write the runs' numbers and the tables."""
    folders = " --images IMAGES --labels LABELS" if part == "cifar10" else ""
    stored = {"command": f"python benchmarks/hosts.py {part}{folders}", "runs": done}
    (FOLDER / f"hosts-{part}.json").write_text(json.dumps(stored, indent=1) + "\n")
    text = [
        "Test accuracy, %, last epoch"
        + (f", mean ± standard deviation over {seeds} seeds:" if seeds > 1 else ", one seed:"),
        table(done, "test_accuracy"),
        "Share of wrong labels that the network predicts in the end, %:",
        table(done, "train_accuracy_wrong"),
        *(
            [
                "Test accuracy of the mean prediction of both networks, %:",
                table(done, "test_accuracy_ensemble"),
            ]
            if any("test_accuracy_ensemble" in run for run in done)
            else []
        ),
        f"Labels that are really wrong: {rates(done)}.",
    ]
    (FOLDER / f"hosts-{part}.md").write_text("\n\n".join(text) + "\n")


def main() -> None:
    """Make the runs that the command line asks for, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=["digits", "cifar10"])
    parser.add_argument("--images", type=Path, help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--labels", type=Path, help="folder of the published label files")
    parser.add_argument("--out", type=Path, default=Path("runs/hosts"))
    parser.add_argument("--methods", nargs="*", default=list(NAMES))
    options = parser.parse_args()
    if options.part == "cifar10" and not (options.images and options.labels):
        parser.error("cifar10 needs --images and --labels")
    methods, noises, seeds = (
        digits() if options.part == "digits" else cifar10(options.images, options.labels)
    )
    methods = {name: recipe for name, recipe in methods.items() if name in options.methods}
    done = read(options.part)
    for (method, loss, noise), seed, tables in runs(methods, noises, seeds):
        made = plan(parse(tables))
        if made.run_id in done:
            continue
        folder = train(made, options.out / options.part)
        result = RunFolder(folder).result()
        about = {"method": method, "loss": loss, "noise": noise, "seed": seed}
        numbers = {key: result[key] for key in RESULTS if key in result}
        done[made.run_id] = about | numbers | {"machine": machine()}
        print(
            f"{title(method, loss):20} {noise:16} seed {seed}: "
            f"{100 * result['test_accuracy']:.1f} % in {result['seconds']:.0f} s",
            flush=True,
        )
        write(options.part, list(done.values()), seeds)


if __name__ == "__main__":
    main()
