"""Live progress of runs: a bar on a terminal, plain lines anywhere else."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
)

from noisylabels.run.callbacks import Callback, Start
from noisylabels.run.folder import Metrics
from noisylabels.studies.launchers.jobs import Ended, Event
from noisylabels.studies.space import title
from noisylabels.studies.status import duration
from noisylabels.studies.sweep import Follower
from noisylabels.studies.sweep import Progress as SweepProgress
from noisylabels.studies.tuning import State, Trial, Watcher

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_STATES = 60.0
"""Of a study, where no run has ended meanwhile."""


class Live:
    """What is live between its start and its end, as a context manager.

    Attributes:
        _bar: What is shown.
    """

    _bar: Progress

    def __enter__(self) -> Self:
        """Start the live display."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the live display."""
        self._bar.stop()


class Display(Live, Callback):
    """Shows runs, epochs, accuracy and time left on standard error.

    A callback and a context manager.

    Args:
        runs: How many runs there will be.
        epochs: How many epochs they have together.
        console: Where to show it.
    """

    def __init__(self, runs: int, epochs: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._runs = runs
        self._run = 0
        self._name = ""
        self._said: set[str] = set()
        self._under_way = False
        self._epoch = 0
        self._epochs = 0
        self._trained = 0
        self._left = epochs
        self._began = self._spoke = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=epochs, left="")

    def on_start(self, start: Start) -> None:
        """Show which run it is and where it stands."""
        self._run += 1
        self._under_way = True
        epoch, epochs = start.epoch, start.epochs
        self._name, self._epoch, self._epochs = start.name, epoch, epochs
        state = ""
        if epoch == epochs:
            state = ": finished already, nothing to do"
        elif epoch:
            state = f": continues after epoch {epoch} of {epochs}"
        self._print(f"run {self._run} of {self._runs}: {start.name} ({start.folder}){state}")
        self._left -= epoch
        # Epochs that were there already count for nothing, or they would count as speed.
        self._bar.update(self._task, description=self._title(""), total=self._trained + self._left)

    def on_message(self, sentence: str) -> None:
        """Show a sentence; what is said of the data before each run, once for all of them."""
        if self._under_way or sentence not in self._said:
            self._said.add(sentence)
            self._print(f"  {sentence}")

    def on_epoch(self, metrics: Metrics) -> None:
        """Show the accuracy of the epoch that has just ended."""
        self._epoch += 1
        self._trained += 1
        self._left -= 1
        value = metrics.get("test_accuracy")
        accuracy = "not evaluated" if value is None else f"test accuracy {100 * value:.1f} %"
        now = time.monotonic()
        left = f"{duration((now - self._began) / self._trained * self._left)} left"
        self._bar.update(self._task, description=self._title(accuracy), advance=1, left=left)
        last = self._epoch == self._epochs
        if self._console.is_terminal or not (last or now - self._spoke > SECONDS_BETWEEN_LINES):
            return
        self._print(
            f"  epoch {self._epoch} of {self._epochs}: loss {metrics['loss']:.4f}, "
            f"{accuracy}, {left}"
        )

    def on_end(self) -> None:
        """Wait for the next run."""
        self._under_way = False

    def _title(self, accuracy: str) -> str:
        run = f"{self._run}/{self._runs} " if self._runs > 1 else ""
        return f"{run}{self._name} {accuracy.removeprefix('test accuracy ')}".rstrip()

    def _print(self, line: str) -> None:
        self._spoke = time.monotonic()
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


class SweepDisplay(Live, Follower):
    """Shows how many runs of a study are done, running and failed, and the time left.

    A follower and a context manager.

    Args:
        console: Where to show it; standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._spoke = time.monotonic()
        self._bar = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=1)

    def on_start(self, progress: SweepProgress) -> None:
        """Show where the study stands."""
        self._show(progress)

    def on_message(self, sentence: str) -> None:
        """Show a sentence."""
        self._print(f"  {sentence}")

    def on_event(self, event: Event, progress: SweepProgress) -> None:
        """Show what has happened to a run."""
        self._show(progress)
        now = time.monotonic()
        if isinstance(event, Ended):
            self._print(f"{progress.jobs[event.run_id].title}: {self._end(event, progress)}")
            if not self._console.is_terminal:
                self._print(f"  {self._state(progress)}")
        elif not self._console.is_terminal and now - self._spoke > SECONDS_BETWEEN_STATES:
            self._print(f"  {self._state(progress)}")

    def _end(self, event: Ended, progress: SweepProgress) -> str:
        folder = progress.jobs[event.run_id].folder
        if event.state == "failed":
            return f"failed: {event.error} (log: {folder.log})"
        if event.state == "held":
            return "another process is making it"
        if event.state == "stopped":
            return "stopped"
        result = folder.result()
        accuracy, held_out = result["test_accuracy"], result.get("validation_accuracy")
        said = "done" if accuracy is None else f"test accuracy {100 * accuracy:.1f} %"
        if accuracy is None and held_out is not None:
            said = f"hold-out {100 * held_out:.1f} %"
        return f"{said}, {duration(result['seconds'])} ({folder.path})"

    def _state(self, progress: SweepProgress) -> str:
        left = progress.left()
        return f"{progress.counts()}" + (f"; {duration(left)} left" if left else "")

    def _show(self, progress: SweepProgress) -> None:
        parts = (
            epoch / progress.jobs[run_id].tables["epochs"]
            for run_id, epoch in progress.running.items()
        )
        ended = len(progress.done) + len(progress.failed)
        self._bar.update(
            self._task,
            description=self._state(progress),
            completed=ended + sum(parts),
            total=len(progress.jobs),
        )

    def _print(self, line: str) -> None:
        self._spoke = time.monotonic()
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


class TuneDisplay(SweepDisplay, Watcher):
    """Shows each trial as it ends, the best so far, and the time left.

    A watcher and a context manager.

    Args:
        console: Where to show it; standard error by default.
    """

    _choosing: State | None = None

    def on_trials(self, state: State) -> None:
        """Show where the trials stand."""
        self._choosing = state
        self._show(state.runs)

    def on_trial(self, trial: Trial, state: State) -> None:
        """Show what came of a trial, and the best so far."""
        said = f"trial {trial.number} of {state.tuning.trials}: {title(trial.values)}: "
        if trial.state == "finished":
            said += f"hold-out {100 * (trial.accuracy or 0.0):.1f} %"
        else:
            said += f"{trial.state}{f': {trial.error}' if trial.error else ''}"
        best, left = state.best, state.left()
        if best is not None:
            said += f"; best {100 * (best.accuracy or 0.0):.1f} % (trial {best.number})"
        self._print(said + (f"; {duration(left)} left" if left else ""))
        self._show(state.runs)

    def on_stage(self, sentence: str, state: State) -> None:
        """Show what follows the trials."""
        self._print(sentence)
        self._show(state.runs)

    def on_event(self, event: Event, progress: SweepProgress) -> None:
        """Show what has happened to a run that is no trial's, or that has failed."""
        trials = self._choosing is not None and self._choosing.stage == "trials"
        if not trials or not isinstance(event, Ended):
            super().on_event(event, progress)

    def _state(self, progress: SweepProgress) -> str:
        state = self._choosing
        if state is None or state.stage != "trials":
            return super()._state(progress)
        left = state.left()
        counted = f"{state.made} of {state.tuning.trials} trials, {len(progress.running)} running"
        return counted + (f"; {duration(left)} left" if left else "")

    def _show(self, progress: SweepProgress) -> None:
        state = self._choosing
        if state is None or state.stage != "trials":
            super()._show(progress)
        else:
            self._bar.update(
                self._task,
                description=self._state(progress),
                completed=state.made,
                total=state.tuning.trials,
            )
