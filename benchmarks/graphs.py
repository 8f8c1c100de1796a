"""Training steps on a GPU, one kernel after the other and as CUDA graphs.

    python benchmarks/graphs.py [--widths 64 16] [--losses ce dal] [--steps 300]

ResNet-18 on batches of 128 images of 32 x 32 that lie on the GPU, SGD with momentum, bfloat16 where
it pays, channels last: forward, loss, backward, guard and step as a run makes them, without the
augmentation. `dal` is at progress 0.9, where lambda > 0. *Epoch* is what a graph costs by epoch:
two steps one kernel after the other, the capture, and a replay.
"""

import argparse
import time
from collections.abc import Sequence

import torch
from torch import nn

from noisylabels.data.batches import Batch
from noisylabels.losses import build
from noisylabels.methods import MethodContext, Task
from noisylabels.methods.single import Single
from noisylabels.models import resnet18
from noisylabels.run.config import parse
from noisylabels.run.device import allow_tf32
from noisylabels.run.launch import launch
from noisylabels.schedules import constant

DEVICE = torch.device("cuda", 0)
SIZE, CLASSES, COUNT = 128, 10, 4


def method(width: int, key: str, images: torch.Tensor, labels: torch.Tensor) -> Single:
    """Make what a run would train."""

    def network(number: int) -> nn.Module:
        made = resnet18((3, 32, 32), CLASSES, width=width)
        return made.to(memory_format=torch.channels_last)

    loss = build(key)
    loss.warns = False
    return Single(
        MethodContext(
            engine=launch(parse({"data": {"name": "digits"}}), DEVICE, "bf16"),
            network=network,
            optimizer=lambda parameters: torch.optim.SGD(
                parameters, lr=0.01, momentum=0.9, weight_decay=1e-4
            ),
            loss=loss.to(DEVICE),
            lr_factor=constant,
            task=Task(
                labels=labels.cpu(),
                num_classes=CLASSES,
                inputs=lambda part: iter(images.split(SIZE)),
                sizes={"train": len(labels)},
                held_out=None,
                batch_size=SIZE,
            ),
        )
    )


def seconds(made: Single, batches: Sequence[Batch]) -> float:
    """Train on batches; return the seconds until all is done."""
    torch.cuda.synchronize()
    begun = time.perf_counter()
    made.train_epoch(batches)
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--widths", type=int, nargs="*", default=[64, 16])
    parser.add_argument("--losses", nargs="*", default=["ce", "dal"])
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    allow_tf32(True)
    images = torch.randn(COUNT * SIZE, 3, 32, 32).to(DEVICE, memory_format=torch.channels_last)
    labels = (torch.arange(len(images)) % CLASSES).to(DEVICE)
    order = torch.arange(len(images), device=DEVICE).split(SIZE)
    batches = [Batch(index, images[index], labels[index]) for index in order]
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, {options.steps} steps")
    print("| width | loss | by kernels, ms | by graphs, ms | ratio | epoch, ms |")
    print("|---|---|---|---|---|---|")
    for width in options.widths:
        for key in options.losses:
            found = []
            for graphed in (False, True):
                made = method(width, key, images, labels)
                if not graphed:
                    made._graph = None
                made.set_epoch(90, 100)
                made.begin_epoch()
                made.train_epoch(batches)
                found.append(1e3 * seconds(made, batches * (options.steps // COUNT)))
            plain, quick = (each / options.steps for each in found)
            made.set_epoch(91, 100)
            made.begin_epoch()
            epoch = 1e3 * seconds(made, batches[:3])
            print(
                f"| {width} | {key} | {plain:.2f} | {quick:.2f} | {plain / quick:.1f} "
                f"| {epoch:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
