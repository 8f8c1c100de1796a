"""Time and memory of reading, augmenting and streaming images, and of hashing their files.

    python benchmarks/data.py [PARQUET_FOLDER] [TORCHVISION_ROOT] [--rounds 5]

Without a folder only the hashing is measured: 50,000 files of 2.5 kB, as CIFAR-10 has them as PNG,
are listed and hashed with an empty cache of digests, and again with a full one. They have just been
written, so they are read from the system's memory. PARQUET_FOLDER holds CIFAR-10 as train.parquet
and test.parquet, TORCHVISION_ROOT its published cifar-10-batches-py. Reading is measured in a
process of its own for each layout: images/s, and the peak of memory over what the process had
before, in units of the uint8 images it returns. One epoch of crop, flip and normalisation at batch
128 is timed in turns, so that a slow minute of the machine slows all rows alike: ours in memory,
torchvision's transforms image by image, and the same in a DataLoader with 2 workers, as released
recipes have it. Streaming reads 2,000 JPEG files of 224 pixels, enlarged from CIFAR-10. Medians
over rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from noisylabels.data.augment import AUGMENTS, STREAMED, centre
from noisylabels.data.batches import InMemory
from noisylabels.data.datasets import SOURCES
from noisylabels.data.examples import Dataset as Loaded
from noisylabels.data.stream import Stream

BATCH = 128
STREAMED_IMAGES = 2_000
HASHED_FILES = 50_000
HASHED_BYTES = 2_500


class PerImage(Dataset[tuple[torch.Tensor, int]]):
    """CIFAR-10 as torchvision gives it: a PIL image and its label, one at a time."""

    def __init__(self, data: Loaded) -> None:
        self._arrays = data.train.tensor().permute(0, 2, 3, 1).numpy()
        self._labels = data.train.labels.tolist()
        mean, std = (data.mean / 255).tolist(), (data.std / 255).tolist()
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Augment one image."""
        return self._transform(Image.fromarray(self._arrays[index])), self._labels[index]


def status(field: str) -> int:
    """Read a size of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def read(name: str, root: str) -> None:
    """Read a dataset in this process and print its images/s and memory."""
    import pyarrow.parquet  # noqa: F401 - not part of what is measured
    import torchvision.datasets  # noqa: F401

    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    begun = time.perf_counter()
    data = SOURCES[name](root=Path(root)).load()
    seconds = time.perf_counter() - begun
    size = data.train.tensor().nbytes + data.test.tensor().nbytes
    count = len(data.train) + len(data.test)
    peak = (status("VmHWM") - before) / size
    print(f"| {name} | {count / seconds:,.0f} | {peak:.2f} |", flush=True)


def in_turns(forms: dict[str, Callable[[], Iterable[object]]], count: int, rounds: int) -> None:
    """Time an epoch of each form in turns; print images/s and ratios to the last."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            begun = time.perf_counter()
            for _ in form():
                pass
            seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    last = medians[next(reversed(medians))]
    for name, median in medians.items():
        print(f"| {name} | {count / median:,.0f} | {last / median:.1f} |", flush=True)


def augment(root: str, rounds: int) -> None:
    """Time crop, flip and normalisation of CIFAR-10."""
    data = SOURCES["parquet"](root=Path(root)).load()
    options = {"batch_size": BATCH, "seed": 0, "device": torch.device("cpu")}
    images = PerImage(data)
    ours = {
        name: InMemory(data, partial(AUGMENTS[key], **change), **options)
        for name, key, change in (
            ("in memory, crop-flip", "crop-flip", {}),
            ("in memory, crop-flip with reflection", "crop-flip", {"mode": "reflect"}),
            ("in memory, crop-flip with cutout", "crop-flip", {"cutout": 16}),
            ("in memory, crop-flip with jitter", "crop-flip", {"jitter": (0.4, 0.4, 0.4, 0.1)}),
            ("in memory, randaugment with cutout", "randaugment", {}),
        )
    }
    forms: dict[str, Callable[[], Iterable[object]]] = {
        name: partial(batches.epoch, 0) for name, batches in ours.items()
    }
    forms["torchvision, image by image"] = lambda: DataLoader(images, BATCH, shuffle=True)
    forms["torchvision, DataLoader with 2 workers"] = lambda: DataLoader(
        images, BATCH, shuffle=True, num_workers=2
    )
    in_turns(forms, len(images), rounds)


def stream(root: str, rounds: int) -> None:
    """Time an epoch of JPEG files."""
    images = SOURCES["parquet"](root=Path(root)).load().test
    with tempfile.TemporaryDirectory() as folder:
        for index, pixels in enumerate(images.tensor()[:STREAMED_IMAGES]):
            path = Path(folder, str(int(images.labels[index])), f"{index}.jpg")
            path.parent.mkdir(exist_ok=True)
            small = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
            small.resize((224, 224), Image.Resampling.BICUBIC).save(path, quality=90)
        data = SOURCES["folder"](root=Path(folder), storage="stream", test_share=0.05).load()
        forms: dict[str, Callable[[], Iterable[object]]] = {}
        for key in ("none", "resized-crop"):
            for workers in (2, 1, 0):
                batches = Stream(
                    data,
                    STREAMED[key]((224, 224)),
                    centre((224, 224)),
                    workers=workers,
                    batch_size=BATCH,
                    seed=0,
                    device=torch.device("cpu"),
                )
                forms[f"{key}, {workers} workers"] = partial(batches.epoch, 0)
        in_turns(forms, len(data.train), rounds)


def hashing(rounds: int) -> None:
    """Time listing and hashing a folder of small files, the first time and the second."""
    seconds: dict[str, list[float]] = {"list": [], "first": [], "second": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "images")
        for number in range(HASHED_FILES):
            path = root / str(number % 10) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(HASHED_BYTES))
            # Files that are two seconds old or less are not remembered.
            os.utime(path, (0, 0))
        for turn in range(rounds):
            os.environ["NOISYLABELS_CACHE"] = str(Path(folder, f"cache-{turn}"))
            for name in ("first", "second"):
                source = SOURCES["folder"](root=root)
                begun = time.perf_counter()
                source.facts()
                listed = time.perf_counter()
                source.digest()
                seconds["list"].append(listed - begun)
                seconds[name].append(time.perf_counter() - listed)
    for name, values in seconds.items():
        print(f"| {name} | {statistics.median(values):.2f} |", flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parquet", nargs="?")
    parser.add_argument("torchvision", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read(options.read, options.torchvision or options.parquet)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    print(f"\n| {HASHED_FILES:,} files | seconds |\n|---|---|", flush=True)
    hashing(options.rounds)
    if options.parquet is None:
        return
    print("\n| layout | images/s | peak memory / uint8 images |\n|---|---|---|", flush=True)
    for name, root in (("parquet", options.parquet), ("cifar10", options.torchvision)):
        if root:
            subprocess.run([sys.executable, __file__, root, "--read", name], check=True)
    print("\n| one epoch at batch 128 | images/s | ratio |\n|---|---|---|", flush=True)
    augment(options.parquet, options.rounds)
    print("\n| JPEG files of 224 pixels | images/s | ratio |\n|---|---|---|", flush=True)
    stream(options.parquet, options.rounds)


if __name__ == "__main__":
    main()
