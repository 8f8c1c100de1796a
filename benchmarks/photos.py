"""From a folder of photos with wrong labels to a model: what `fit` and `apply` are worth.

    python benchmarks/photos.py --images data/cifar10

The first training images of CIFAR-10, enlarged to 160 pixels and written as JPEG files into a
folder for each class, 30 % of them into a wrong one. Then the commands of the README, as a user
gives them, each timed as a process with an empty cache, and once more on the labels that `apply`
made; the same with cross entropy, for what the labels are worth to it. Accuracy is that of
`predict` on photos of the test set, which are in none of these folders. Writes
``docs/results/photos.json`` and ``photos.md``; about three minutes on one core.
"""

import argparse
import csv
import io
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from noisylabels.noise import symmetric_exclusive

FOLDER = Path(__file__).parents[1] / "docs/results"
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
SIDE = 160
RATE = 0.3
ABOVE = 0.95
FIRST = 500
CE = """\
data = { name = "folder", root = "photos" }
features = { name = "timm", model = "tf_efficientnet_lite0", WEIGHTS size = 128 }
model = "linear"
loss = "ce"
optimizer = { name = "sgd", lr = 0.01 }
epochs = 75
batch_size = 128
"""
Result = dict[str, float]


def photographs(parquet: Path, count: int) -> tuple[list[Image.Image], torch.Tensor]:
    """Read the first images and their labels."""
    rows = pq.read_table(parquet).slice(0, count)
    files = rows.column("img").combine_chunks().field("bytes").to_pylist()
    images = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
    return images, torch.tensor(rows.column("label").to_pylist())


def save(images: list[Image.Image], labels: torch.Tensor, folder: Path) -> None:
    """Write images as JPEG files, each into the folder of its label."""
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = folder / CLASSES[label] / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=90)


def command(out: Path, *words: str) -> tuple[str, float]:
    """Run a command in a process; return what it prints, and its seconds."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "noisylabels", *words],
        cwd=out,
        env=os.environ | {"NOISYLABELS_CACHE": str(out / "cache")},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr}")
    return done.stdout, time.perf_counter() - begun


def number(path: str) -> int:
    """Return which image a file is."""
    return int(Path(path).stem)


def accuracy(out: Path, run: str, true: torch.Tensor) -> float:
    """Return the share of the new photos whose class a run predicts."""
    command(out, "predict", run, "new", "--out", "predictions.csv")
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    hits = [row["class"] == CLASSES[true[number(row["path"])]] for row in rows]
    assert len(hits) == len(true)
    return float(np.mean(hits))


def model(said: str) -> str:
    """Return the run folder that fit speaks of."""
    (line,) = (line for line in said.splitlines() if line.startswith("model: "))
    return line.removeprefix("model: ").partition(" ")[0]


def wrong_share(table: Path, true: torch.Tensor) -> float:
    """Return which share of a table's labels is wrong."""
    with table.open() as file:
        rows = list(csv.DictReader(file))
    return float(np.mean([row["label"] != CLASSES[true[number(row["path"])]] for row in rows]))


def measure(images: Path, weights: Path | None, count: int, new: int, out: Path) -> Result:
    """Make the folders, give the commands, and compare with the truth."""
    photos, true = photographs(images / "train.parquet", count)
    given = symmetric_exclusive(true, num_classes=10, rate=RATE, seed=0, features=None)
    save(photos, given, out / "photos")
    photos, unseen = photographs(images / "test.parquet", new)
    save(photos, unseen, out / "new")
    local = [] if weights is None else ["--weights", str(weights.resolve())]
    said, seconds = command(out, "fit", "photos", *local)
    wrong = (given != true).numpy()
    with (out / "fit" / "suspects.csv").open() as file:
        suspects = np.array([number(row["path"]) for row in csv.DictReader(file)])
    first = suspects[:FIRST]
    result = {
        "photos": count,
        "wrong": float(wrong.mean()),
        "fit, seconds": seconds,
        "first": len(first),
        "wrong of the first": int(wrong[first].sum()),
        "suspects": len(suspects),
        "wrong of the suspects": int(wrong[suspects].sum()),
        "found of the wrong": float(wrong[suspects].sum() / wrong.sum()),
        "fit, accuracy": accuracy(out, model(said), unseen),
    }
    sure = ["--above", str(ABOVE), "--data", "folder:photos"]
    _, result["apply, seconds"] = command(out, "apply", "fit", *sure, "--out", "labels.csv")
    result["wrong after apply"] = wrong_share(out / "labels.csv", true)
    said, result["fit again, seconds"] = command(
        out, "fit", "table:labels.csv", *local, "--out", "again"
    )
    result["fit again, accuracy"] = accuracy(out, model(said), unseen)
    setting = "" if weights is None else f'weights = "{weights.resolve()}",'
    (out / "run.toml").write_text(CE.replace("WEIGHTS", setting))
    table = ["--data.name", "table", "--data.path", "labels.csv"]
    for name, words in (("before", []), ("after", table)):
        said, _ = command(out, "train", "run.toml", *words)
        result[f"ce {name}, accuracy"] = accuracy(out, said.strip(), unseen)
    return result


def page(result: Result, machine: str) -> str:
    """Write the table."""
    percent = {name: f"{100 * value:.1f} %" for name, value in result.items()}
    rows = [
        ("wrong labels", percent["wrong"], percent["wrong after apply"]),
        ("`fit`, test accuracy", percent["fit, accuracy"], percent["fit again, accuracy"]),
        (
            "cross entropy, test accuracy",
            percent["ce before, accuracy"],
            percent["ce after, accuracy"],
        ),
    ]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"""`fit` on {result["photos"]:,} photos: {result["fit, seconds"]:.0f} seconds. Of its
first {result["first"]} suspects {result["wrong of the first"]} were wrong labels, of all
{result["suspects"]:,} suspects {result["wrong of the suspects"]:,}, which is
{percent["found of the wrong"]} of the wrong labels. ({machine})

| | before | after `apply --above {ABOVE}` |
|---|---|---|
{lines}
"""


def main() -> None:
    """Measure, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of CIFAR-10's Parquet")
    parser.add_argument("--weights", type=Path, help="of tf_efficientnet_lite0; timm's by default")
    parser.add_argument("--count", type=int, default=3000, help="photos to train on")
    parser.add_argument("--new", type=int, default=1000, help="photos to predict")
    parser.add_argument("--out", type=Path, default=Path("runs/photos"), help="an empty folder")
    parser.add_argument("--results", type=Path, default=FOLDER)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    out = options.out.resolve()
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    result = measure(options.images, options.weights, options.count, options.new, out)
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS {threads}, torch "
        f"{torch.__version__}, {time.strftime('%Y-%m-%d')}, one seed"
    )
    text = json.dumps({"machine": machine} | result, indent=1)
    (options.results / "photos.json").write_text(text + "\n")
    (options.results / "photos.md").write_text(page(result, machine))
    print(text)


if __name__ == "__main__":
    main()
