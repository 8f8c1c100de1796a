"""What a training step costs with every loss of the fair table.

    python benchmarks/steps.py digits digits
    python benchmarks/steps.py features cifar10 --data data --weights lite0.pth

A step is the runner's own, at a scale of ``noisylabels paper fair`` and with the values chosen
there: the network's forward and backward pass, the loss, the optimiser. In each round every loss
trains anew for a few epochs, from the beginning of its schedule to the end, all in one process and
in turns, so that a slow minute of the machine slows all alike; one thread, as in runs that are made
beside each other. The median of the rounds goes into
``docs/results/paper/steps-SCALE-DATASET.json``, for the table on the documentation's first page.
"""

import argparse
import datetime
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from noisylabels.paper.experiments import CURVES, LATER_LOSSES, LOSSES, loss_values
from noisylabels.paper.protocol import SCALES, Protocol
from noisylabels.run.config import parse
from noisylabels.run.labelling import label
from noisylabels.run.plan import Plan, plan
from noisylabels.run.trainer import assemble
from noisylabels.studies.study import with_changes

RESULTS = Path(__file__).parents[1] / "docs/results/paper"


def main() -> None:
    """Measure what the command line asks for, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("scale", choices=SCALES)
    parser.add_argument("dataset")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    protocol = Protocol(given.scale, given.data, weights=given.weights)
    keys = [*LOSSES.values(), *LATER_LOSSES.values()]
    plans = {key: _planned(protocol, given.dataset, key, given.epochs) for key in keys}
    seconds: dict[str, list[float]] = {key: [] for key in keys}
    for turn in range(given.rounds + 1):
        for key, made in plans.items():
            found = _step(made)
            if turn:
                seconds[key].append(found)
        print(f"round {turn} of {given.rounds}", flush=True)
    medians = {key: statistics.median(found) for key, found in seconds.items()}
    for key, median in medians.items():
        print(f"{key:14} {1e3 * median:7.3f} ms, ratio to CE {median / medians['ce']:.2f}")
    path = RESULTS / f"steps-{given.scale}-{given.dataset}.json"
    machine = (
        f"{platform.machine()}, one thread, torch {torch.__version__}, medians of {given.rounds} "
        f"rounds, {datetime.date.today()}"
    )
    path.write_text(json.dumps({"machine": machine, "seconds": medians}, indent=1) + "\n")


def _planned(protocol: Protocol, dataset: str, key: str, epochs: int) -> Plan:
    base = protocol.base(dataset) | {
        "noise": protocol.noise(dataset, CURVES),
        "epochs": epochs,
        "precision": "32",
    }
    values = loss_values(protocol, dataset, key, either_decay=True)
    return plan(parse(with_changes(parse(base).tables(), values)))


def _step(made: Plan) -> float:
    """Train anew and return the seconds of a step."""
    state, _ = assemble(made, *label(made))
    method, run = state.method, made.config
    spent, steps = 0.0, 0
    for epoch in range(run.epochs):
        method.set_epoch(epoch, run.epochs)
        method.begin_epoch()
        batches = list(state.batches.epoch(epoch, 0, order=method.order(), views=method.views))
        begun = time.perf_counter()
        method.train_epoch(batches)
        # What some losses and methods fit once an epoch is theirs too.
        method.end_epoch()
        spent += time.perf_counter() - begun
        steps += len(batches)
    return spent / steps


if __name__ == "__main__":
    main()
