"""What a run tells: the lines of ``metrics.jsonl``, TensorBoard events and whoever looks on."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from noisylabels.checkpoint import replacing
from noisylabels.errors import DataError

Metrics = dict[str, float | int | None]


class Observer(Protocol):
    """Whoever looks on while runs are made, such as a progress display."""

    def started(self, name: str, folder: Path, epoch: int, epochs: int) -> None:
        """A run starts, or continues, with the given epoch; at ``epochs`` it was finished."""

    def noted(self, sentence: str) -> None:
        """Something that the user should know about the data or the run."""

    def advanced(self, metrics: Metrics) -> None:
        """The running run has finished an epoch."""


class Silent:
    """An observer that does nothing."""

    def started(self, name: str, folder: Path, epoch: int, epochs: int) -> None:
        """Do nothing."""

    def noted(self, sentence: str) -> None:
        """Do nothing."""

    def advanced(self, metrics: Metrics) -> None:
        """Do nothing."""


class Tracker:
    """Writes a run's metrics, one line per epoch, and the same to TensorBoard.

    Args:
        folder: The run folder.
        history: The metrics of the epochs before; ``metrics.jsonl`` is made to hold just these.
    """

    def __init__(self, folder: Path, history: Sequence[Metrics]) -> None:
        with warnings.catch_warnings():
            # TensorBoard's import warns about packages of its own.
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter

        self._path = folder / "metrics.jsonl"
        with replacing(self._path) as temporary:
            temporary.write_text("".join(map(_line, history)), encoding="utf-8")
        self._events = SummaryWriter(folder, purge_step=len(history) or None)

    def log(self, metrics: Metrics) -> None:
        """Write the metrics of one epoch."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(metrics))
        for name, value in metrics.items():
            if name != "epoch" and value is not None:
                self._events.add_scalar(name, value, metrics["epoch"])

    def close(self) -> None:
        """Flush and close the event file."""
        self._events.close()


def read_metrics(path: Path) -> list[Metrics]:
    """Read ``metrics.jsonl``; a last line that was cut while being written is left out.

    Args:
        path: The file; it need not exist.

    Returns:
        The metrics of each epoch, in order.

    Raises:
        DataError: A line is not a JSON object with an epoch.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text ({error})") from error
    metrics = []
    # What follows the last newline is empty, or cut.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            value = json.loads(line)
            metrics.append({"epoch": int(value["epoch"]), **value})
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}: line {number}: expected metrics with an epoch") from error
    return metrics


def _line(metrics: Metrics) -> str:
    return json.dumps(metrics) + "\n"
