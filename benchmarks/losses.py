"""Time and memory of every loss, as ratios to torch.nn.CrossEntropyLoss.

    python benchmarks/losses.py [--losses dal gce] [--sizes 128x10 4096x1000] [--no-compile]

Forward plus backward on float32 logits, two threads, everything in one process and in turns, so
that a slow minute of the machine slows all rows alike; medians over rounds. Memory is the peak of
what is allocated beyond the logits, their gradient included, in units of the logits: CE itself
needs 2 to 3. `dal` is at progress 0.8, where lambda > 0; `dal straightforward` is the formula as
one would first write it (softmax, one-hot, clamp, pow, log). `gjs` is left out: it takes several
views, so twice the logits.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from noisylabels.losses import LOSSES, build

SIZES = ("128x10", "128x100", "4096x1000", "1024x32000")
PROGRESS = 0.8
CE = "nn.CrossEntropyLoss"
STRAIGHTFORWARD = "dal straightforward"

Step = Callable[[Tensor, Tensor], Tensor]


class StraightforwardDAL(nn.Module):
    """The dynamics-aware loss as one would first write it."""

    def __init__(self, q: float, lamb: float) -> None:
        super().__init__()
        self.q, self.lamb = q, lamb

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the mean loss."""
        classes = input.shape[1]
        p = input.softmax(1).clamp(min=1e-6, max=1.0)
        one_hot = nn.functional.one_hot(target, classes).float()
        p_y = (one_hot * p).sum(1)
        entropy = -(p * (p + 1e-6).log()).sum(1)
        gce = (1 - p_y.pow(self.q)) / self.q
        return (gce + self.lamb * entropy / (self.q * math.log(classes))).mean()


def make(keys: list[str], compiled: bool) -> dict[str, Step]:
    """Build what is to be timed, by name."""
    losses: dict[str, nn.Module] = {CE: nn.CrossEntropyLoss()}
    dal = build("dal")
    dal.progress = PROGRESS
    losses[STRAIGHTFORWARD] = StraightforwardDAL(dal.q, dal.lamb)  # type: ignore[attr-defined]
    for key in keys:
        loss = build(key)
        loss.progress = PROGRESS
        losses[key] = loss
        if compiled:
            losses[f"{key} compiled"] = torch.compile(loss, fullgraph=True)
    return dict(losses)


def run(step: Step, logits: Tensor, target: Tensor) -> None:
    """Run forward and backward once."""
    logits.grad = None
    step(logits, target).backward()


def peak_memory(step: Step, logits: Tensor, target: Tensor) -> float:
    """Measure the peak of what one step allocates, in units of the logits."""
    logits.grad = None
    with torch.profiler.profile(profile_memory=True) as profile:
        step(logits, target).backward()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak / (logits.numel() * logits.element_size())


def measure(steps: dict[str, Step], rows: int, classes: int, rounds: int) -> None:
    """Print the table of one size."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator).requires_grad_()
    target = torch.randint(classes, (rows,), generator=generator)
    repeats = {}
    for name, step in steps.items():
        run(step, logits, target)
        run(step, logits, target)
        begun = time.perf_counter()
        run(step, logits, target)
        repeats[name] = max(1, int(0.02 / (time.perf_counter() - begun)))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            begun = time.perf_counter()
            for _ in range(repeats[name]):
                run(step, logits, target)
            seconds[name].append((time.perf_counter() - begun) / repeats[name])
    base = statistics.median(seconds[CE])
    print(f"\n({rows}, {classes})\n")
    print("| loss | ratio to CE | microseconds | memory / logits |\n|---|---|---|---|")
    for name, step in steps.items():
        median = statistics.median(seconds[name])
        memory = peak_memory(step, logits, target)
        print(f"| {name} | {median / base:.2f} | {1e6 * median:.0f} | {memory:.2f} |", flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--losses", nargs="*", default=sorted(set(LOSSES) - {"gjs"}))
    parser.add_argument("--sizes", nargs="*", default=SIZES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # All losses share one forward, and torch counts graphs by code.
    torch._dynamo.config.recompile_limit = 100
    print(f"torch {torch.__version__}, {options.threads} threads, {options.rounds} rounds")
    for size in options.sizes:
        rows, classes = map(int, size.split("x"))
        torch._dynamo.reset()
        steps = make(options.losses, not options.no_compile)
        measure(steps, rows, classes, options.rounds)


if __name__ == "__main__":
    main()
