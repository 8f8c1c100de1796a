"""How far runs have come: what a run folder tells while it is being made, and afterwards."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from noisylabels.errors import DataError
from noisylabels.run.folder import RunFolder

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

AGAINST_GIVEN = "against given labels"
"""Said beside an accuracy that is counted against labels which may be wrong themselves."""


@dataclass(frozen=True)
class Status:
    """How far a run has come.

    Args:
        folder: Its folder.
        state: ``"finished"``, ``"running"``, ``"failed"``, ``"stopped"`` or ``"not started"``; or
            what is wrong with its files, of which nothing else is known then.
        data: Name of its data.
        method: Name of its method.
        loss: Name of its loss.
        seed: Its seed.
        epoch: Epochs that are done.
        epochs: Epochs that it has.
        accuracy: Test accuracy of the last evaluation, a fraction in [0, 1].
        against_given: Whether it is counted against labels that may be wrong themselves.
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
    against_given: bool = False
    seconds: float | None = None
    left: float | None = None

    def row(self) -> tuple[str, ...]:
        """Return the row of a table, see ``HEADER``."""
        against = f" {AGAINST_GIVEN}" if self.against_given else ""
        return (
            self.folder.name,
            self.data,
            self.method,
            self.loss,
            "" if self.seed is None else str(self.seed),
            self.state,
            f"{self.epoch}/{self.epochs}" if self.epochs else "",
            "" if self.accuracy is None else f"{100 * self.accuracy:.1f} %{against}",
            duration(self.seconds),
            duration(self.left),
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
    places = list(places)
    asked = {place.resolve() for place in places}
    found = []
    for folder in RunFolder.find(places):
        try:
            found.append(read(folder))
        except DataError as error:
            if folder.path.resolve() in asked:
                raise
            found.append(Status(folder.path, f"damaged: {error}"))
    return found


def read(folder: RunFolder) -> Status:
    """Read the state of one run.

    Args:
        folder: The run folder.

    Returns:
        Its status.

    Raises:
        DataError: A file in it is damaged.
    """
    config, metrics, state = folder.config(), folder.metrics(), folder.state()
    epochs = config["epochs"]
    accuracy = next(
        (a for line in reversed(metrics) if (a := line.get("test_accuracy")) is not None), None
    )
    seconds = folder.result()["seconds"] if state == "finished" else folder.progress().get("total")
    left = None
    if state != "finished" and seconds and metrics:
        left = seconds / len(metrics) * (epochs - len(metrics))
    return Status(
        folder.path,
        state,
        config["data"]["name"],
        config["method"]["name"],
        config["loss"]["name"],
        config["seed"],
        epoch=len(metrics),
        epochs=epochs,
        accuracy=accuracy,
        # Where there is an accuracy, the data has been read.
        against_given=accuracy is not None and folder.data().get("test_labels") == "given",
        seconds=seconds,
        left=left,
    )


def duration(seconds: float | None) -> str:
    """Write a time for people; nothing where it is not known.

    Args:
        seconds: The time.

    Example:
        >>> duration(75), duration(7500)
        ('1 min 15 s', '2 h 05 min')
    """
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
