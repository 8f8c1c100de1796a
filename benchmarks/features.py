"""How fast pretrained features are computed, and how fast they are there the second time.

    python benchmarks/features.py --images data/cifar10 --weights lite0.pth

Real images of CIFAR-10 through tf_efficientnet_lite0 with real weights: extraction as runs do it
(decode, resize, normalise, forward; from memory, and from JPEG files) against the bare forward pass
of the same network on ready tensors, in the same precision, memory format and batches, alternating
in one process, by the clock. Then the second use of all 50,000 training images' vectors: the
plan with the digests of the data, and the data with its vectors, in a process of its own, as
``noisylabels features`` does it (a run imports torch's optimisers beside); and that whole command
beside ``import torch`` alone. Prints JSON.
"""

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from noisylabels.data.decoding import default_workers
from noisylabels.data.examples import Examples
from noisylabels.data.source import Facts
from noisylabels.features import Compute
from noisylabels.features.networks import BATCH, resize, timm
from noisylabels.run import spec
from noisylabels.run.device import choose_memory_format, choose_precision

MODEL = "tf_efficientnet_lite0"
SIDE = 160
REPEATS = 4
"""Processes that each time of the second use is a median of."""
SECOND = """
import sys, time
from pathlib import Path
from noisylabels.run.config import load
from noisylabels.run.labelling import label
from noisylabels.run.plan import plan
begun = time.perf_counter()
made = plan(load(Path(sys.argv[1])), trial=False)
planned = time.perf_counter()
dataset, _ = label(made, lambda sentence: print(sentence, file=sys.stderr))
print(planned - begun, time.perf_counter() - planned, len(dataset.train))
"""


def images(parquet: Path, count: int) -> torch.Tensor:
    """Read the first images, uint8."""
    files = pq.read_table(parquet).slice(0, count).column("img").combine_chunks().field("bytes")
    arrays = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files.to_pylist()]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def streamed(pixels: torch.Tensor, folder: Path) -> Examples:
    """Write images as JPEG files of ``SIDE`` pixels, and return them as a source streams them."""
    for number, image in enumerate(pixels):
        path = folder / str(number % 2) / f"{number:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=90)
    data = f"folder:{folder},size={SIDE},storage=stream,test_share=0.01"
    return spec.source(spec.parse(data)).load(0).train


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def compare(examples: Examples, weights: Path, size: int, rounds: int) -> dict:
    """Return images a second, and of the forward pass alone, and their ratio."""
    facts = Facts(examples.shape, images=True)
    features = timm(facts, model=MODEL, weights=weights, size=size)
    device = torch.device("cpu")
    compute = Compute(device, default_workers(), choose_precision, choose_memory_format)
    module = features.module()
    precision = choose_precision(module, device)
    layout = choose_memory_format(module, precision)
    network = module.network.to(memory_format=layout).eval()
    shown = torch.rand(BATCH, 3, size, size).mul(2).sub(1).contiguous(memory_format=layout)
    batches = -(-len(examples) // BATCH)

    def forward() -> None:
        reduced = precision == "bf16"
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            for _ in range(batches):
                network(shown)

    extracted, bare = [], []

    def extract() -> None:
        features.extract({"x": examples}, examples, compute)

    extract()
    for _ in range(rounds):
        extracted.append(seconds(extract))
        bare.append(seconds(forward))
    made = seconds(features.module)
    full = batches * BATCH
    ratios = [
        (len(examples) / (e - made)) / (full / b) for e, b in zip(extracted, bare, strict=True)
    ]
    return {
        "precision": precision,
        "extraction, images/s": len(examples) / (statistics.median(extracted) - made),
        "forward, images/s": full / statistics.median(bare),
        "ratio, median": statistics.median(ratios),
        "ratio, rounds": [round(ratio, 3) for ratio in ratios],
        "building the network, s": made,
    }


def preparation(pixels: torch.Tensor, size: int) -> float:
    """Return the milliseconds that resizing a batch takes."""
    batch = pixels[:BATCH].float()
    return 1000 * statistics.median(seconds(lambda: resize(batch, size)) for _ in range(9))


def second_use(root: Path, weights: Path, size: int, cache: Path) -> dict:
    """Return the seconds that 50,000 vectors take that are there already."""
    run = cache / "run.toml"
    run.write_text(
        f'data = {{ name = "parquet", root = "{root.resolve()}" }}\n'
        f'features = {{ name = "timm", model = "{MODEL}", weights = "{weights.resolve()}", '
        f"size = {size} }}\n"
    )
    environment = os.environ | {"NOISYLABELS_CACHE": str(cache)}

    def start(*words: str) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    def used() -> list[float]:
        return [float(word) for word in start("-c", SECOND, str(run)).split()]

    first, *others = (used() for _ in range(1 + REPEATS))
    plans, loads, counts = zip(*others, strict=True)
    whole = {
        "the whole command, s": ("-m", "noisylabels", "features", str(run)),
        "import torch, s": ("-c", "import torch"),
    }
    return {
        "vectors": int(counts[0]),
        "first, s": sum(first[:2]),
        "second, plan and digests, s": statistics.median(plans),
        "second, data and vectors, s": statistics.median(loads),
        **{
            name: statistics.median(seconds(partial(start, *words)) for _ in range(REPEATS))
            for name, words in whole.items()
        },
    }


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of CIFAR-10's Parquet")
    parser.add_argument("--weights", type=Path, required=True, help=f"of {MODEL}")
    parser.add_argument("--count", type=int, default=1024)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--second-size", type=int, default=32, help="side for the 50,000")
    options = parser.parse_args()
    pixels = images(options.images / "train.parquet", options.count)
    memory = Examples(pixels, torch.zeros(len(pixels), dtype=torch.int64))
    result: dict = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}",
        "size": options.size,
        "resizing a batch, ms": preparation(pixels, options.size),
        "memory": compare(memory, options.weights, options.size, options.rounds),
    }
    with tempfile.TemporaryDirectory() as folder:
        files = streamed(pixels, Path(folder))
        result["JPEG files"] = compare(files, options.weights, options.size, options.rounds)
    if options.second_size:
        with tempfile.TemporaryDirectory() as cache:
            result["second use"] = second_use(
                options.images, options.weights, options.second_size, Path(cache)
            )
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
