"""Time and memory of instance-dependent noise, beside the way it is published.

    python benchmarks/noise.py [--sizes 50000x3072x10 50000x3072x100] [--dtypes float32 uint8]

A size is examples x numbers per example x classes; uint8 features are images of three channels. The
published way draws all matrices, standardises the features and multiplies one example at a time by
the matrix of its class: here a loop in float32 over the first --loop examples, whose seconds are
scaled to all of them (the matrices are drawn once and not scaled). Ours multiplies the examples of
a class together, in float64, and standardises chunk by chunk. Best of --rounds. Memory is the peak
of what the process holds beyond the features, on Linux only; for the loop without any copy of the
features that it did not get to.
"""

import argparse
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from noisylabels.noise import instance

SIZES = ("50000x3072x10", "50000x3072x100")
RATE = 0.4
PROCESS = Path("/proc/self")


def resident(field: str) -> float:
    """Return the resident memory (VmRSS) or its peak (VmHWM) in MiB."""
    found = re.search(rf"{field}:\s+(\d+) kB", (PROCESS / "status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def measure(step: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that a step takes and the peak of what it adds to memory, in MiB."""
    # Writing 5 sets the peak back to what is resident now.
    (PROCESS / "clear_refs").write_text("5")
    before = resident("VmRSS")
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun, resident("VmHWM") - before


def draw_matrices(numbers: int, classes: int) -> Tensor:
    """Draw the matrices of all classes."""
    return torch.randn(classes, numbers, classes)


def loop(labels: Tensor, features: Tensor, matrices: Tensor) -> Tensor:
    """Draw given labels one example at a time."""
    rates = torch.normal(RATE, 0.1, (len(labels),)).clamp(0, 1)
    x = features.float()
    if not features.is_floating_point():
        x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    given = torch.empty_like(labels)
    for row, label in enumerate(labels.tolist()):
        scores = (x[row].reshape(1, -1) @ matrices[label])[0]
        scores[label] = -torch.inf
        chances = rates[row] * scores.softmax(0)
        chances[label] = 1 - rates[row]
        given[row] = torch.multinomial(chances, 1)
    return given


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="*", default=SIZES)
    parser.add_argument("--dtypes", nargs="*", choices=["float32", "uint8"], default=["float32"])
    parser.add_argument("--loop", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, best of {options.rounds}")
    print(f"one at a time: {options.loop} examples, scaled\n")
    print(
        "| size | features | ours, s | one at a time, s | ratio | ours, MiB | one at a time, MiB |"
    )
    print("|---|---|---|---|---|---|---|")
    for size in options.sizes:
        for dtype in options.dtypes:
            count, numbers, classes = map(int, size.split("x"))
            labels = torch.randint(classes, (count,))
            if dtype == "uint8":
                features = torch.randint(256, (count, 3, 1, numbers // 3), dtype=torch.uint8)
            else:
                features = torch.randn(count, numbers)
            row = compare(labels, features, classes, min(options.loop, count), options.rounds)
            print(f"| {size} | {dtype} | {row}", flush=True)


def compare(labels: Tensor, features: Tensor, classes: int, looped: int, rounds: int) -> str:
    """Measure both ways; return the cells of their row."""
    ours, drawing, looping = [], [], []
    new = partial(instance, labels, rate=RATE, num_classes=classes, features=features)
    for seed in range(rounds):
        ours.append(measure(partial(new, seed=seed)))
        drawing.append(measure(partial(draw_matrices, features[0].numel(), classes)))
        matrices = draw_matrices(features[0].numel(), classes)
        looping.append(measure(partial(loop, labels[:looped], features[:looped], matrices)))
    seconds = min(drawing)[0] + min(looping)[0] * len(labels) / looped
    memory = [max(peak for _, peak in runs) for runs in (ours, drawing, looping)]
    best = min(ours)[0]
    return (
        f"{best:.2f} | {seconds:.1f} | {seconds / best:.1f} | {memory[0]:.0f} | "
        f"{memory[1] + memory[2]:.0f} |"
    )


if __name__ == "__main__":
    main()
