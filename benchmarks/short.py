"""Where short training is too short for DAL: accuracy by ``q_start``, epochs, batch and data size.

    python benchmarks/short.py

Digits with 40 % symmetric noise and a perceptron of two hidden layers, trained by the README's
loop: plain torch, ``progress = epoch / epochs``, SGD with momentum 0.9 and a cosine learning rate.
Writes every run to ``docs/results/short.json`` and tables to ``short.md``. About ten minutes on one
core.
"""

import argparse
import itertools
import json
import statistics
from pathlib import Path

import torch
from torch import Tensor, nn

from noisylabels.data.datasets import SOURCES
from noisylabels.losses import build
from noisylabels.noise import symmetric

FOLDER = Path(__file__).parents[1] / "docs/results"
EPOCHS = (1, 2, 3, 5, 10, 20, 50)
LOSSES = {
    "ce": {"key": "ce"},
    "gce 0.7": {"key": "gce", "q": 0.7},
    **{f"dal {q:g}": {"key": "dal", "q_start": q, "q_end": 1.5} for q in (0.0, 0.2, 0.4, 0.6, 0.8)},
    "dal 0 to 1": {"key": "dal", "q_start": 0.0, "q_end": 1.0},
    "dgce 0.6": {"key": "dgce", "q_start": 0.6, "q_end": 1.5},
}
SETTINGS = {
    "batch 64, lr 0.1, all": {"batch": 64, "lr": 0.1, "share": 1.0},
    "batch 64, lr 0.01, all": {"batch": 64, "lr": 0.01, "share": 1.0},
    "batch 16, lr 0.1, all": {"batch": 16, "lr": 0.1, "share": 1.0},
    "batch 256, lr 0.1, all": {"batch": 256, "lr": 0.1, "share": 1.0},
    "batch 64, lr 0.1, a quarter": {"batch": 64, "lr": 0.1, "share": 0.25},
}
SEEDS = 3


def data(share: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images and noisy labels, and test images and labels."""
    digits = SOURCES["digits"]().load()
    train, test = digits.train, digits.test
    given = symmetric(train.labels, num_classes=10, rate=0.4, seed=seed, features=None)
    count = round(share * len(given))
    return train.tensor()[:count] / 16, given[:count], test.tensor() / 16, test.labels


def run(loss_name: str, epochs: int, seed: int, *, batch: int, lr: float, share: float) -> dict:
    """Train once; return the test accuracy, and how many classes are ever predicted."""
    images, labels, test_images, test_labels = data(share, seed)
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(),
        nn.Linear(512, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    loss = build(**LOSSES[loss_name])
    for epoch in range(epochs):
        loss.progress = epoch / epochs
        for index in torch.randperm(len(labels)).split(batch):
            optimizer.zero_grad()
            loss(network(images[index]), labels[index]).backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        predicted = network(test_images).argmax(1)
    steps = epochs * -(-len(labels) // batch)
    accuracy = (predicted == test_labels).double().mean().item()
    return {"steps": steps, "accuracy": accuracy, "classes": len(predicted.unique())}


def table(runs: list[dict], setting: str) -> str:
    """Return the accuracies of a setting, in percent: the mean over seeds, and the least."""
    rows = [f"| loss | {' | '.join(f'{n} epoch' + 's' * (n > 1) for n in EPOCHS)} |"]
    rows.append("|---" * (len(EPOCHS) + 1) + "|")
    for name in LOSSES:
        cells = []
        for epochs in EPOCHS:
            found = [
                100 * each["accuracy"]
                for each in runs
                if (each["setting"], each["loss"], each["epochs"]) == (setting, name, epochs)
            ]
            cells.append(f"{statistics.fmean(found):.0f} ({min(found):.0f})")
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Make the runs and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    runs = []
    for setting, name, epochs in itertools.product(SETTINGS, LOSSES, EPOCHS):
        for seed in range(seeds):
            about = {"setting": setting, "loss": name, "epochs": epochs, "seed": seed}
            runs.append(about | run(name, epochs, seed, **SETTINGS[setting]))
        print(
            setting, name, epochs, [round(100 * r["accuracy"]) for r in runs[-seeds:]], flush=True
        )
    stored = {"command": "python benchmarks/short.py", "torch": torch.__version__, "runs": runs}
    (FOLDER / "short.json").write_text(json.dumps(stored, indent=1) + "\n")
    parts = [
        f"{setting}, {min(r['steps'] for r in runs if r['setting'] == setting)} steps an epoch, "
        f"mean over {seeds} seeds (least):\n\n{table(runs, setting)}\n"
        for setting in SETTINGS
    ]
    (FOLDER / "short.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
