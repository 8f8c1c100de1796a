"""A user's own loss by which a run meets its fate, and a sweep that is stopped at its last run."""

import signal

from noisylabels.studies.launchers.jobs import Advanced, Ended
from noisylabels.studies.sweep import Follower

FATEFUL = """
import os, signal, time
from pathlib import Path

from noisylabels.losses import Loss


class Fateful(Loss):
    formula = "-log p_y"
    needs_indices = True

    def __init__(self, weight=None, *, fate: str, **options):
        super().__init__(weight, **options)
        self.fate, self.steps = fate, 0

    def per_example(self, input, target):
        if self.training:
            self.steps += 1
        if self.steps == 30 and self.fate == "failing":
            raise KeyError("not today")
        if self.steps == 30 and self.fate == "preempted" and not Path("preempted").exists():
            Path("preempted").touch()
            self.be_preempted()
        if self.fate == "endless":
            # Others need the cores.
            time.sleep(0.02)
        return -input.log_softmax(1).gather(1, target[:, None]).squeeze(1)

    def be_preempted(self):
        told, before = [], signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *what: (before(*what), told.append(what)))
        os.kill(os.getpid(), signal.SIGUSR2)
        while not told:
            time.sleep(0.01)
        signal.signal(signal.SIGTERM, before)
"""
"""The text of a module `fateful`, whose `Fateful` is cross entropy otherwise."""


def losses(*fates):
    return [{"name": "fateful:Fateful", "fate": fate} for fate in fates]


class StopsWhen(Follower):
    """Asks a sweep to stop, once, as Ctrl-C does, when these runs train and these have ended."""

    def __init__(self, trained, ended):
        self.ends, self._trained, self._left = {}, set(trained), set(trained) | set(ended)

    def on_event(self, event, progress):
        if isinstance(event, Ended):
            self.ends[event.run_id] = event
            happened = event.run_id not in self._trained
        else:
            happened = (
                isinstance(event, Advanced) and event.metrics and event.run_id in self._trained
            )
        if happened and self._left:
            self._left.discard(event.run_id)
            if not self._left:
                signal.raise_signal(signal.SIGINT)
