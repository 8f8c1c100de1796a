"""How far runs have come: what a run folder tells while it is being made, and afterwards."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from noisylabels.errors import DataError
from noisylabels.lock import is_held
from noisylabels.tracking import read_metrics

HEADER = ("run", "data", "loss", "seed", "state", "epoch", "test accuracy", "time", "left")


@dataclass(frozen=True)
class Status:
    """How far a run has come.

    Args:
        folder: Its folder.
        data: Name of its data.
        loss: Name of its loss.
        seed: Its seed.
        state: ``"finished"``, ``"running"``, ``"stopped"`` or ``"not started"``.
        epoch: Epochs that are done.
        epochs: Epochs that it has.
        accuracy: Test accuracy of the last evaluation, a fraction in [0, 1].
        seconds: Time that it took so far.
        left: Seconds that it will take still, from the epochs that are done.
    """

    folder: Path
    data: str
    loss: str
    seed: int
    state: str
    epoch: int
    epochs: int
    accuracy: float | None
    seconds: float | None
    left: float | None

    def row(self) -> tuple[str, ...]:
        """Return the row of a table, see ``HEADER``."""
        return (
            self.folder.name,
            self.data,
            self.loss,
            str(self.seed),
            self.state,
            f"{self.epoch}/{self.epochs}",
            "" if self.accuracy is None else f"{100 * self.accuracy:.1f} %",
            _duration(self.seconds),
            _duration(self.left),
        )


def find(places: Iterable[Path]) -> list[Status]:
    """Read the state of runs.

    Args:
        places: Run folders, or folders of them.

    Returns:
        A status for each run, in the order of their folders.

    Raises:
        DataError: A place does not exist or holds no run, or a file of a run is damaged.

    Example:
        >>> find([])
        []
    """
    found = []
    for place in places:
        if not place.is_dir():
            raise DataError(f"{place}: expected a run folder, or a folder of them, got none")
        folders = [place] if (place / "config.json").exists() else sorted(place.iterdir())
        runs = [folder for folder in folders if (folder / "config.json").exists()]
        if not runs:
            raise DataError(f"{place}: expected a run folder, or a folder of them")
        found += [read(folder) for folder in runs]
    return found


def read(folder: Path) -> Status:
    """Read the state of one run.

    Args:
        folder: The run folder.

    Returns:
        Its status.

    Raises:
        DataError: A file in it is damaged.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        epochs, data, loss = config["epochs"], config["data"]["name"], config["loss"]["name"]
        seed = config["seed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected a run's configuration ({error!r})") from error
    metrics = read_metrics(folder / "metrics.jsonl")
    accuracy = next(
        (a for line in reversed(metrics) if (a := line.get("test_accuracy")) is not None), None
    )
    seconds = _seconds(folder)
    left = seconds / len(metrics) * (epochs - len(metrics)) if seconds and metrics else None
    if (folder / "result.json").exists():
        state, left = "finished", None
    elif is_held(folder):
        state = "running"
    else:
        state = "stopped" if metrics else "not started"
    return Status(folder, data, loss, seed, state, len(metrics), epochs, accuracy, seconds, left)


def _seconds(folder: Path) -> float | None:
    path = folder / "progress.json"
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["total"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected the seconds of a run ({error!r})") from error


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
