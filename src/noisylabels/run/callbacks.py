"""Whoever follows a run: one protocol for displays, files of metrics and tracking services."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisylabels.run.folder import Metrics


@dataclass(frozen=True)
class Start:
    """What is known of a run when it starts or continues.

    Args:
        name: A short name for people.
        folder: The run folder.
        epoch: Epochs that are done; all of them where the run was finished before.
        epochs: Epochs that it has.
        settings: The configuration's tables.
        history: The metrics of the epochs that are done.
    """

    name: str
    folder: Path
    epoch: int
    epochs: int
    settings: Mapping[str, Any]
    history: Sequence[Metrics]


class Callback:
    """Follows a run; each method does nothing until a subclass overrides it.

    ``on_message`` may come at any time, also before ``on_start``; after ``on_start``, and an
    ``on_epoch`` for each epoch, ``on_end`` comes once, however the run ends. In a run of several
    processes only the first one's callbacks are called. What a callback raises ends the run.

    Example:
        >>> class Accuracy(Callback):
        ...     def on_epoch(self, metrics):
        ...         print(metrics["epoch"], metrics["test_accuracy"])
        >>> Accuracy().on_epoch({"epoch": 0, "test_accuracy": 0.5})
        0 0.5
    """

    def on_start(self, start: Start) -> None:
        """A run starts or continues, or was finished before."""

    def on_message(self, sentence: str) -> None:
        """There is something that the user should know about the data or the run."""

    def on_epoch(self, metrics: Metrics) -> None:
        """An epoch has ended; None stands for what there is nothing to compute from."""

    def on_end(self) -> None:
        """The run is finished, was stopped or has failed."""


class Callbacks(Callback):
    """Several callbacks as one.

    Args:
        callbacks: The callbacks, in the order in which they are called.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = list(callbacks)
        self._started: list[Callback] = []

    def on_start(self, start: Start) -> None:
        """Start all of them."""
        for callback in self._callbacks:
            callback.on_start(start)
            self._started.append(callback)

    def on_message(self, sentence: str) -> None:
        """Tell all of them."""
        for callback in self._callbacks:
            callback.on_message(sentence)

    def on_epoch(self, metrics: Metrics) -> None:
        """Tell all of them."""
        for callback in self._callbacks:
            callback.on_epoch(metrics)

    def on_end(self) -> None:
        """End those that were started, each once, even where another one's end fails."""
        if self._started:
            try:
                self._started.pop().on_end()
            finally:
                self.on_end()
