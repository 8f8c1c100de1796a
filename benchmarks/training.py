"""Speed of the training step: the classic form, ours in float32, ours as "auto" chooses.

    python benchmarks/training.py PARQUET_FOLDER [--rounds 3] [--parts full narrow digits]

PARQUET_FOLDER holds CIFAR-10. The paper's recipe (ResNet-18, batch 128, SGD with momentum, random
crop and flip, normalisation) in one process and in turns, so that a slow minute of the machine
slows all forms alike. Classic is what released recipes do: float32, torchvision's transforms image
by image in a DataLoader with 2 workers, `loss.item()` at every step. Ours is the runner's own job:
its batches, its method, its loss. `full` is the full-width network, `narrow` has width 16, `digits`
is a perceptron on handwritten digits, where Python and dispatch dominate. Medians over rounds;
loading, compiling and the first steps are not timed, starting the DataLoader's workers is.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from noisylabels.data.batches import Batch
from noisylabels.data.examples import Dataset as Loaded
from noisylabels.losses import build
from noisylabels.models import MODELS
from noisylabels.run.config import parse
from noisylabels.run.labelling import label
from noisylabels.run.plan import plan
from noisylabels.run.trainer import assemble

FORMS = {"ours, float32": "32", "ours, auto": "auto"}


@dataclass(frozen=True)
class Part:
    """What is trained.

    Args:
        run: The run's tables.
        steps: Steps that are timed in a round; for the perceptron, of several epochs.
    """

    run: dict[str, Any]
    steps: int


class PerImage(Dataset[tuple[torch.Tensor, int]]):
    """Images one at a time, as released recipes have them."""

    def __init__(self, data: Loaded, crop: bool) -> None:
        self._arrays = data.train.tensor().permute(0, 2, 3, 1).squeeze(3).numpy()
        self._labels = data.train.labels.tolist()
        scale = 255.0
        steps: list[Any] = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        mean, std = (data.mean / scale).tolist(), (data.std / scale).tolist()
        last = [transforms.ToTensor(), transforms.Normalize(mean, std)]
        self._transform = transforms.Compose([*(steps if crop else []), *last])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Augment one image."""
        return self._transform(Image.fromarray(self._arrays[index])), self._labels[index]


def classic(part: Part, data: Loaded) -> Callable[[], None]:
    """Make the classic form; calling it trains for a round."""
    torch.manual_seed(0)
    shape, model = data.train.shape, dict(part.run["model"])
    network = MODELS[model.pop("name")](shape, len(data.classes), **model)
    loss, size = build("dal"), part.run["batch_size"]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images = PerImage(data, crop=part.run["augment"] != "none")
    network.train()

    def run() -> None:
        left = part.steps
        while left > 0:
            loader = DataLoader(images, size, shuffle=True, num_workers=2)
            for input, target in islice(loader, left):
                optimizer.zero_grad()
                value = loss(network(input), target)
                value.backward()
                optimizer.step()
                value.item()
                left -= 1

    return run


class Ours:
    """A run as the runner makes it.

    Args:
        part: What is trained.
        precision: As in a run's file.
    """

    def __init__(self, part: Part, precision: str) -> None:
        made = plan(parse(part.run | {"precision": precision}))
        self.state, self.setup = assemble(made, *label(made))
        self._steps = part.steps
        self.fetching = 0.0
        self.state.method.set_epoch(0, 1)
        self.state.method.begin_epoch()

    def __call__(self) -> None:
        """Train for a round."""
        left, epoch = self._steps, 0
        while left > 0:
            before = left
            left -= sum(1 for _ in self._count(epoch, left))
            epoch += 1
            assert left < before
        self.state.method.end_epoch()

    def _count(self, epoch: int, left: int) -> Iterator[None]:
        seen: list[None] = []
        self.state.method.train_epoch(self._timed(epoch, left, seen))
        yield from seen

    def _timed(self, epoch: int, left: int, seen: list[None]) -> Iterator[Batch]:
        batches = iter(self.state.batches.epoch(epoch))
        for _ in range(left):
            begun = time.perf_counter()
            batch = next(batches, None)
            self.fetching += time.perf_counter() - begun
            if batch is None:
                return
            seen.append(None)
            yield batch


def peak(dtype: torch.dtype) -> float:
    """Measure the rate of a large matrix product, in GFLOP/s."""
    a = torch.randn(2048, 2048).to(dtype)
    seconds = []
    for _ in range(8):
        begun = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - begun)
    return 2 * 2048**3 / statistics.median(seconds) / 1e9


def flops(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Count the operations of a training step per image: forward, and twice that backward."""
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, *shape))
    return 3 * counter.get_total_flops()


def memory() -> float:
    """Return the process's peak memory in MiB, and start counting anew."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    Path("/proc/self/clear_refs").write_text("5")
    return found


def measure(name: str, part: Part, rounds: int) -> None:
    """Time the forms of one part in turns and print a table."""
    made = plan(parse(part.run))
    data, _ = label(made)
    forms: dict[str, Callable[[], None]] = {"classic": classic(part, data)}
    for form, precision in FORMS.items():
        forms[form] = Ours(part, precision)
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    memories: dict[str, float] = {}
    for turn in range(rounds + 1):
        for form, run in forms.items():
            if isinstance(run, Ours):
                run.fetching = 0.0 if turn == 1 else run.fetching
            memory()
            begun = time.perf_counter()
            run()
            memories[form] = memory()
            if turn:
                seconds[form].append(time.perf_counter() - begun)
    model = dict(part.run["model"])
    each = flops(
        MODELS[model.pop("name")](data.train.shape, len(data.classes), **model), data.train.shape
    )
    peaks = {"32": peak(torch.float32), "bf16": peak(torch.bfloat16)}
    print(
        f"\n{name}: {part.steps} steps a round, {each / 1e9:.3f} GFLOP an image; matrix products: "
        f"{peaks['32']:.0f} GFLOP/s in float32, {peaks['bf16']:.0f} in bfloat16\n"
    )
    print("| form | images/s | ratio | share of peak | MiB | outside forward, backward, step |")
    print("|---|---|---|---|---|---|", flush=True)
    count = part.steps * part.run["batch_size"]
    slowest = statistics.median(seconds["classic"])
    for form, run in forms.items():
        median = statistics.median(seconds[form])
        precision = run.setup.precision if isinstance(run, Ours) else "32"
        share = each * count / median / 1e9 / peaks[precision]
        outside = (
            f"{100 * run.fetching / sum(seconds[form]):.1f} %" if isinstance(run, Ours) else ""
        )
        chosen = f" ({run.setup.sentence()})" if form == "ours, auto" else ""
        print(
            f"| {form}{chosen} | {count / median:,.0f} | {slowest / median:.2f} "
            f"| {100 * share:.0f} % | {memories[form]:,.0f} | {outside} |",
            flush=True,
        )


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parquet")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="*", default=["full", "narrow", "digits"])
    options = parser.parse_args()
    cifar = {
        "data": {"name": "parquet", "root": options.parquet},
        "loss": {"name": "dal"},
        "augment": {"name": "crop-flip"},
        "batch_size": 128,
        "epochs": 150,
    }
    digits = {
        "data": {"name": "digits"},
        "loss": {"name": "dal"},
        "augment": "none",
        "batch_size": 128,
        "epochs": 150,
        "model": {"name": "mlp"},
    }
    parts = {
        "full": Part(cifar | {"model": {"name": "resnet18"}}, 6),
        "narrow": Part(cifar | {"model": {"name": "resnet18", "width": 16}}, 24),
        "digits": Part(digits, 120),
    }
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    for name in options.parts:
        measure(name, parts[name], options.rounds)


if __name__ == "__main__":
    main()
