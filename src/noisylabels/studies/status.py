"""How far runs have come: what a run folder tells while it is being made, and afterwards."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from noisylabels.errors import DataError
from noisylabels.run.lock import is_held
from noisylabels.run.tracking import read_metrics

HEADER = (
    "run",
    "data",
    "method",
    "loss",
    "seed",
    "state",
    "epoch",
    "test accuracy",
    "time",
    "left",
)


@dataclass(frozen=True)
class Status:
    """How far a run has come.

    Args:
        folder: Its folder.
        state: ``"finished"``, ``"running"``, ``"stopped"`` or ``"not started"``; or what is wrong
            with its files, of which nothing else is known then.
        data: Name of its data.
        method: Name of its method.
        loss: Name of its loss.
        seed: Its seed.
        epoch: Epochs that are done.
        epochs: Epochs that it has.
        accuracy: Test accuracy of the last evaluation, a fraction in [0, 1].
        seconds: Time that it took so far.
        left: Seconds that it will take still, from the epochs that are done.
    """

    folder: Path
    state: str
    data: str = ""
    method: str = ""
    loss: str = ""
    seed: int | None = None
    epoch: int = 0
    epochs: int = 0
    accuracy: float | None = None
    seconds: float | None = None
    left: float | None = None

    def row(self) -> tuple[str, ...]:
        """Return the row of a table, see ``HEADER``."""
        return (
            self.folder.name,
            self.data,
            self.method,
            self.loss,
            "" if self.seed is None else str(self.seed),
            self.state,
            f"{self.epoch}/{self.epochs}" if self.epochs else "",
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
        DataError: A place does not exist or holds no run, or is a run with a damaged file. Among
            several runs in a folder a damaged one is a line like the others.

    Example:
        >>> find([])
        []
    """
    found = []
    for place in places:
        if not place.is_dir():
            raise DataError(f"{place}: expected a run folder, or a folder of them, got none")
        if (place / "config.json").exists():
            found.append(read(place))
            continue
        runs = [folder for folder in sorted(place.iterdir()) if (folder / "config.json").exists()]
        if not runs:
            raise DataError(f"{place}: expected a run folder, or a folder of them")
        found += [_read_anyway(folder) for folder in runs]
    return found


def _read_anyway(folder: Path) -> Status:
    try:
        return read(folder)
    except DataError as error:
        return Status(folder, f"damaged: {error}")


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
        data, method, loss = (config[part]["name"] for part in ("data", "method", "loss"))
        epochs, seed = config["epochs"], config["seed"]
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
    return Status(
        folder,
        state,
        data,
        method,
        loss,
        seed,
        epoch=len(metrics),
        epochs=epochs,
        accuracy=accuracy,
        seconds=seconds,
        left=left,
    )


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
