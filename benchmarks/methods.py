"""What each method costs beside ``single`` on the same network: time of an epoch, peak memory.

    python benchmarks/methods.py data/cifar10

Epochs of all methods are timed in one process, in turns; the peak memory of each is that of a
process of its own. An image counts once an epoch, however often a method looks at it. No epoch is
evaluated, so DivideMix's time includes the predictions that it divides by.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from noisylabels.run.config import parse
from noisylabels.run.labelling import label
from noisylabels.run.loop import Job
from noisylabels.run.trainer import assemble, plan

METHODS: dict[str, dict[str, Any]] = {
    "single": {"method": "single"},
    "elr": {"method": "elr"},
    "gjs": {"method": "gjs", "loss": "js"},
    "coteaching": {"method": {"name": "coteaching", "forget_rate": 0.4}},
    "jocor": {"method": {"name": "jocor", "forget_rate": 0.4}},
    "dividemix": {"method": {"name": "dividemix", "warmup": 1}},
}
# The forgetting of the two-network methods, and the mixing, have begun by then.
FIRST = 10


def job(images: str, method: str, width: int, limit: int) -> Job:
    """Make a method's networks and batches: the paper's recipe with another method."""
    run = {
        "data": {"name": "parquet", "root": images, "limit": limit},
        "noise": {"name": "symmetric", "rate": 0.4},
        "model": {"name": "resnet18", "width": width},
        "loss": "ce",
        "augment": "crop-flip",
    }
    made = plan(parse(run | METHODS[method]))
    assembled, _ = assemble(made, *label(made))
    return assembled


def train(made: Job, epoch: int) -> None:
    """Train an epoch, as the runner does."""
    method = made.method
    method.set_epoch(epoch, 150)
    method.begin_epoch()
    batches = made.batches.epoch(epoch, order=method.order(), views=method.views)
    method.train_epoch(batches)
    method.end_epoch()


def peak() -> float:
    """Return the process's peak memory in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--limit", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", choices=METHODS, help="print the peak memory of one method")
    options = parser.parse_args()
    if options.memory:
        made = job(options.images, options.memory, options.width, options.limit)
        Path("/proc/self/clear_refs").write_text("5")
        train(made, FIRST)
        print(peak())
        return
    jobs = {name: job(options.images, name, options.width, options.limit) for name in METHODS}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(options.rounds + 1):
        for name, made in jobs.items():
            begun = time.perf_counter()
            train(made, FIRST + turn)
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, width {options.width}, "
        f"{options.limit} images, {options.rounds} rounds\n"
    )
    print("| method | images/s | time / single | peak MiB | memory / single |")
    print("|---|---|---|---|---|", flush=True)
    base = statistics.median(seconds["single"])
    first = 0.0
    for name in jobs:
        median = statistics.median(seconds[name])
        command = [sys.executable, __file__, *sys.argv[1:], "--memory", name]
        memory = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        first = first or memory
        print(
            f"| `{name}` | {options.limit / median:,.0f} | {median / base:.2f} "
            f"| {memory:,.0f} | {memory / first:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
