"""Time and memory of the last layer and the loss as one, against the layer, then the loss.

    python benchmarks/linear.py [--sizes 1024x128x100000 ...] [--losses ce dal] [--rounds 5]
                                [--device cuda]

Forward plus backward in float32 with gradients of input, weight and bias; sizes are N x d x K. One
thread, and seconds are the process's own (in the system too, where fresh pages are made), so that
what else runs on the machine does not count. All forms of a row are timed in one process and in
turns; medians over rounds. Memory is the peak of what one step allocates, gradients included,
each in a process of its own, by torch's own account; what the resident set grew by at most stands
beside it (Linux). On a GPU seconds are by the clock, until it is done, memory is what its allocator
gave out at most, and *Liger* is `LinearLoss(..., liger=True)` without a bias, where it is there.
`dal` is at progress 0.8, where lambda > 0. *Composed* is ``loss(layer(input), target)``,
*torch* is ``torch.nn.functional.linear_cross_entropy`` with its chunked path, for `ce`, where torch
has it.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noisylabels.linear import LinearLoss
from noisylabels.losses import build

SIZES = ("1024x128x100000", "8192x128x1000", "8192x1024x1000", "1024x128x1000")
PROGRESS = 0.8

Step = Callable[[], Tensor]


def forms(key: str, size: str, device: str) -> tuple[dict[str, Step], list[Tensor]]:
    """Make the steps to be compared, by name, and the tensors whose gradients they make."""
    count, width, classes = map(int, size.split("x"))
    torch.manual_seed(0)
    head = nn.Linear(width, classes).to(device)
    input = torch.randn(count, width).to(device).requires_grad_()
    target = torch.randint(classes, (count,)).to(device)
    loss = build(key).to(device)
    loss.progress = PROGRESS
    loss.warns = False
    tiled = LinearLoss(loss)
    steps: dict[str, Step] = {
        "composed": lambda: loss(head(input), target),
        "LinearLoss": lambda: tiled(input, head.weight, target, linear_bias=head.bias),
    }
    # On cards of compute capability 9.0 Liger's kernel is in CUTLASS.
    if device != "cpu" and all(map(importlib.util.find_spec, ("liger_kernel", "cutlass"))):
        by_kernel = LinearLoss(loss, liger=True)
        steps["Liger"] = lambda: by_kernel(input, head.weight, target)
    if key == "ce" and hasattr(nn, "LinearCrossEntropyOptions"):
        options = nn.LinearCrossEntropyOptions()
        steps["torch"] = lambda: F.linear_cross_entropy(
            input, head.weight, target, linear_bias=head.bias, options=options
        )
    return steps, [input, head.weight, head.bias]


def run(step: Step, leaves: list[Tensor]) -> float:
    """Run forward and backward once; return its seconds."""
    for leaf in leaves:
        leaf.grad = None
    if not leaves[0].is_cuda:
        begun = time.process_time()
        step().backward()
        return time.process_time() - begun
    torch.cuda.synchronize()
    begun = time.perf_counter()
    step().backward()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def medians(key: str, size: str, rounds: int, device: str) -> dict[str, float]:
    """Time each form in turns; return its median seconds."""
    steps, leaves = forms(key, size, device)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            taken = run(step, leaves)
            if turn:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_on_gpu(key: str, size: str, name: str) -> dict[str, float]:
    """Measure what the allocator of a GPU gives out for one step at most, in MiB."""
    steps, leaves = forms(key, size, "cuda")
    run(steps[name], leaves)
    for leaf in leaves:
        leaf.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(steps[name], leaves)
    return {"allocated": (torch.cuda.max_memory_allocated() - before) / 2**20}


def peak(key: str, size: str, name: str) -> dict[str, float]:
    """Measure what one step needs at most, in MiB: allocated, and by the resident set's growth."""
    steps, leaves = forms(key, size, "cpu")
    resident()
    before = resident()
    run(steps[name], leaves)
    grown = resident() - before
    for leaf in leaves:
        leaf.grad = None
    with torch.profiler.profile(profile_memory=True) as profile:
        run(steps[name], leaves)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return {"allocated": highest / 2**20, "resident": grown}


def resident() -> float:
    """Return the most memory that was resident since this was last asked, in MiB."""
    status = Path("/proc/self/status").read_text()
    (most,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return int(most) / 2**10


def measure(key: str, size: str, rounds: int, device: str) -> None:
    """Print the rows of one loss at one size."""
    seconds = medians(key, size, rounds, device)
    for name, median in seconds.items():
        if device == "cuda":
            memory = peak_on_gpu(key, size, name)
        else:
            command = [sys.executable, __file__, "--peak", key, size, name]
            shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            memory = json.loads(shown.splitlines()[-1])
        figures = " | ".join(f"{value:.0f}" for value in memory.values())
        print(
            f"| {size} | {key} | {name} | {1e3 * median:.2f} | {median / seconds['composed']:.2f} "
            f"| {figures} |",
            flush=True,
        )


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--losses", nargs="*", default=["ce", "dal"])
    parser.add_argument("--sizes", nargs="*", default=SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        print(json.dumps(peak(*options.peak)))
        return
    where = torch.cuda.get_device_name() if options.device == "cuda" else "one thread"
    print(f"torch {torch.__version__}, {where}, {options.rounds} rounds")
    resides = " resident, MiB |" * (options.device == "cpu")
    print(f"| N x d x K | loss | form | milliseconds | ratio | allocated, MiB |{resides}")
    print("|---|---|---|---|---|---|" + "---|" * bool(resides))
    for size in options.sizes:
        for key in options.losses:
            measure(key, size, options.rounds, options.device)


if __name__ == "__main__":
    main()
