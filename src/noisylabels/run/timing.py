"""How long a run will take, from a few of its steps."""

import itertools
import json
import os
import sys
import time
from contextlib import suppress

from noisylabels.run.config import parse
from noisylabels.run.labelling import label
from noisylabels.run.loop import TRIGGERED
from noisylabels.run.plan import Plan, plan
from noisylabels.run.trainer import assemble

WARM_UP = 2
"""Steps that are not timed: the first ones allocate, and choose their kernels."""
ENOUGH = 1.0
"""Seconds that the timed steps are to take at least, if the epoch has so many."""
MOST = 32
"""Batches that are in memory at once at most."""
FORWARD = 1 / 3
"""What a prediction costs of a step, which computes gradients too."""


def seconds_per_epoch(made: Plan) -> float:
    """Time some steps of a run, in memory, and say what an epoch will take with its evaluation.

    Methods that do something else later, as DivideMix does after its warm-up, take longer then.

    Args:
        made: The plan of a run of one process.

    Returns:
        Seconds, without what comes once for a run: reading its data, say.

    Raises:
        ConfigError: A component does not fit the data.
        DataError: The data is missing or damaged.
    """
    dataset, true = label(made)
    state, _ = assemble(made, dataset, true)
    method, run = state.method, made.config
    method.set_epoch(0, run.epochs)
    method.begin_epoch()
    batches = state.batches.epoch(0, 0, order=method.order(), views=method.views)
    begun = time.perf_counter()
    first = list(itertools.islice(batches, WARM_UP))
    method.train_epoch(iter(first))
    method.settle()
    warm_up = time.perf_counter() - begun
    steps, seconds, more = 0, 0.0, WARM_UP
    while seconds < ENOUGH:
        begun = time.perf_counter()
        part = list(itertools.islice(batches, more))
        if not part:
            break
        method.train_epoch(iter(part))
        # A GPU may still be at work.
        method.settle()
        seconds += time.perf_counter() - begun
        steps, more = steps + len(part), min(2 * more, MOST)
    if not steps:
        # A set so small that warming up took all there was.
        steps, seconds = len(first), warm_up
    examples = len(dataset.train)
    sizes = method.context.task.sizes
    predicted = sum(sizes[part] for part in sizes if part != TRIGGERED) / run.evaluate_every
    per_example = seconds / (steps * run.batch_size)
    return per_example * (examples + FORWARD * predicted)


def main() -> None:
    """Time runs for another process, which a run that dies must not take with it.

    Reads lines of JSON, the tables of one run after the other; writes a line for each, the seconds
    that it will take with the reading of its data, or null where it cannot be timed.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What user code prints is no answer.
    os.dup2(2, 1)
    for line in sys.stdin:
        seconds = None
        # A run that cannot be timed, for whatever the user's code does, will say so itself.
        with suppress(Exception):
            begun = time.perf_counter()
            made = plan(parse(json.loads(line)))
            pace = seconds_per_epoch(made)
            seconds = time.perf_counter() - begun + pace * made.config.epochs
        answers.write(json.dumps(seconds) + "\n")
        answers.flush()
