"""What a sweep costs beyond the training itself, what two jobs gain, how fast runs become a table.

    python benchmarks/studies.py

The runs are the demo's nine on digits, 150 epochs each, made by the workers of a sweep in
a folder of their own. Targets: under 0.3 s a run beyond its training; two jobs 1.7 times as fast as
one; 500 finished runs in a table in under 2 s. What two jobs can gain at most is measured with two
processes that have nothing to do with a sweep.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from noisylabels import demo
from noisylabels.run.folder import RunFolder
from noisylabels.run.trainer import train
from noisylabels.studies import formats, records, sweep, table
from noisylabels.studies.launchers.jobs import Ended, Event
from noisylabels.studies.launchers.local import Local

RUNS = 500


class Clock(sweep.Follower):
    """Notes when each run ended."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, float]] = []

    def on_event(self, event: Event, progress: sweep.Progress) -> None:
        """Note the time of an end."""
        if isinstance(event, Ended):
            self.ends.append((event.run_id, time.perf_counter()))


def made(out: Path, jobs: int, epochs: int) -> tuple[float, Clock]:
    """Make the demo's runs, and return how long it took, start of the workers included."""
    prepared = sweep.prepare([run.replace(epochs=epochs) for run in demo.runs()], out)
    clock = Clock()
    begun = time.perf_counter()
    sweep.run(prepared, Local(jobs=jobs), clock)
    return time.perf_counter() - begun, clock


def overheads(out: Path, clock: Clock) -> list[float]:
    """Return the seconds of each run but the first that went into neither steps nor evaluation."""
    left = []
    for (_, before), (run_id, end) in zip(clock.ends, clock.ends[1:], strict=False):
        result = RunFolder(out / run_id).result()
        left.append(end - before - result["training_seconds"] - result["evaluation_seconds"])
    return left


def train_when_told(epochs: int) -> None:
    """Get ready, wait for a line, train one run and print its seconds of steps and evaluation."""
    run = demo.runs()[0]
    with tempfile.TemporaryDirectory() as folder:
        train(run.replace(epochs=2), folder)
        print("ready", flush=True)
        sys.stdin.readline()
        result = RunFolder(train(run.replace(epochs=epochs), folder)).result()
    print(result["training_seconds"] + result["evaluation_seconds"])


def at_once(count: int, epochs: int) -> float:
    """Return the mean seconds of a run in so many processes that train at once, a thread each."""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--train", "--epochs", str(epochs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for _ in range(count)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return statistics.fmean(float(process.communicate()[0]) for process in processes)


def reading(out: Path, many: Path) -> float:
    """Return how long 500 finished runs take to become a table; they are copies of nine."""
    folders = RunFolder.find([out])
    for number in range(RUNS):
        folder = folders[number % len(folders)]
        copy = many / f"{number:012x}"
        shutil.copytree(folder.path, copy)
        # Other seeds, so that they are other runs.
        for name, change in (
            ("config.json", {"seed": number}),
            ("result.json", {"run_id": copy.name}),
        ):
            values = json.loads((copy / name).read_text())
            (copy / name).write_text(json.dumps(values | change))
    begun = time.perf_counter()
    pivoted = table.pivot(records.read([many]), ["loss"], ["noise", "noise.rate"], "test_accuracy")
    formats.text([pivoted])
    return time.perf_counter() - begun


def main() -> None:
    """Measure, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train_when_told(options.epochs)
        return
    alone, beside = at_once(1, options.epochs), at_once(2, options.epochs)
    runs = len(demo.runs())
    print(
        f"two processes at once do {2 * alone / beside:.2f} times the work of one: {runs} runs can "
        f"gain {runs / math.ceil(runs / 2) * alone / beside:.2f} at most"
    )
    with tempfile.TemporaryDirectory() as folder:
        places = {jobs: Path(folder, str(jobs)) for jobs in (1, 2)}
        seconds = {}
        for jobs, out in places.items():
            seconds[jobs], clock = made(out, jobs, options.epochs)
            print(f"nine runs, {options.epochs} epochs each, --jobs {jobs}: {seconds[jobs]:.1f} s")
            if jobs == 1:
                left = overheads(out, clock)
                median, most = statistics.median(left), max(left)
                print(
                    f"beyond steps and evaluation, a run: median {median:.2f} s, most {most:.2f} s"
                )
        print(f"ratio: {seconds[1] / seconds[2]:.2f}")
        took = reading(places[1], Path(folder, "many"))
        print(f"{RUNS} finished runs into a table: {took:.2f} s")


if __name__ == "__main__":
    main()
