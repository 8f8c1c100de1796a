"""Time and memory of every loss, as ratios to torch.nn.CrossEntropyLoss.

    python benchmarks/losses.py [--losses dal gce] [--sizes 128x10 4096x1000] [--no-compile]
                                [--device cuda] [--dtype bfloat16]

Forward plus backward, two threads, everything in one process and in turns, so
that a slow minute of the machine slows all rows alike; medians over rounds. The compiled rows have
turns of their own after the others, for generated code brings a thread pool of its own, and two
pools spin against each other. Memory is the peak of
what is allocated beyond the logits, their gradient included, in units of the logits: CE itself
needs 2 to 3. `dal` is at progress 0.8, where lambda > 0; `dal straightforward` is the formula as
one would first write it (softmax, one-hot, clamp, pow, log). On a GPU a row's steps are put into
its queue one after the other, and waited for at the end.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Mapping

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


def make(keys: list[str]) -> dict[str, nn.Module]:
    """Build what is to be timed, by name."""
    losses: dict[str, nn.Module] = {CE: nn.CrossEntropyLoss()}
    dal = build("dal")
    dal.progress = PROGRESS
    losses[STRAIGHTFORWARD] = StraightforwardDAL(dal.q, dal.lamb)  # type: ignore[attr-defined]
    for key in keys:
        loss = build(key)
        loss.progress = PROGRESS
        losses[key] = loss
    return losses


def run(step: Step, logits: Tensor, target: Tensor) -> None:
    """Run forward and backward once."""
    logits.grad = None
    step(logits, target).backward()


def seconds_of(repeats: int, step: Step, logits: Tensor, target: Tensor) -> float:
    """Return the seconds of one of several runs."""
    if logits.is_cuda:
        torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(repeats):
        run(step, logits, target)
    if logits.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / repeats


def peak_memory(step: Step, logits: Tensor, target: Tensor) -> float:
    """Measure the peak of what one step allocates, in units of the logits."""
    logits.grad = None
    if logits.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(logits, target).backward()
        peak = torch.cuda.max_memory_allocated() - before
        return peak / (logits.numel() * logits.element_size())
    with torch.profiler.profile(profile_memory=True) as profile:
        step(logits, target).backward()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak / (logits.numel() * logits.element_size())


def medians(
    steps: Mapping[str, Step], logits: Tensor, target: Tensor, rounds: int
) -> dict[str, float]:
    """Time each step in turns; return its median seconds."""
    repeats = {}
    for name, step in steps.items():
        run(step, logits, target)
        run(step, logits, target)
        repeats[name] = max(1, int(0.02 / seconds_of(1, step, logits, target)))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            run(step, logits, target)
            seconds[name].append(seconds_of(repeats[name], step, logits, target))
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure(rows: int, classes: int, options: argparse.Namespace) -> None:
    """Print the table of one size."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator)
    logits = logits.to(options.device, getattr(torch, options.dtype)).requires_grad_()
    target = torch.randint(classes, (rows,), generator=generator).to(options.device)
    keys, rounds = options.losses, options.rounds
    losses = {name: loss.to(options.device) for name, loss in make(keys).items()}
    seconds = medians(losses, logits, target, rounds)
    memory = {name: peak_memory(loss, logits, target) for name, loss in losses.items()}
    if not options.no_compile:
        again = {f"{key} compiled": torch.compile(losses[key], fullgraph=True) for key in keys}
        seconds |= medians(again, logits, target, rounds)
        memory |= {name: peak_memory(loss, logits, target) for name, loss in again.items()}
    print(f"\n({rows}, {classes})\n")
    print("| loss | ratio to CE | microseconds | memory / logits |\n|---|---|---|---|")
    for name, median in seconds.items():
        ratio = median / seconds[CE]
        print(f"| {name} | {ratio:.2f} | {1e6 * median:.0f} | {memory[name]:.2f} |", flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--losses", nargs="*", default=sorted(LOSSES))
    parser.add_argument("--sizes", nargs="*", default=SIZES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # All losses share one forward, and torch counts graphs by code.
    torch._dynamo.config.recompile_limit = 100
    where = torch.cuda.get_device_name() if options.device == "cuda" else options.device
    print(
        f"torch {torch.__version__}, {where}, {options.dtype}, {options.threads} threads, "
        f"{options.rounds} rounds"
    )
    for size in options.sizes:
        rows, classes = map(int, size.split("x"))
        torch._dynamo.reset()
        measure(rows, classes, options)


if __name__ == "__main__":
    main()
