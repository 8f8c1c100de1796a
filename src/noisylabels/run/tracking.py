"""What a run tells: the lines of ``metrics.jsonl``, TensorBoard events and whoever looks on."""

import json
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from noisylabels.atomic import replacing, write_json
from noisylabels.errors import DataError, MissingExtraError

PROJECT = "noisylabels"
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


class Service(Protocol):
    """A tracking service that also gets the metrics."""

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Send the metrics of one epoch."""

    def close(self) -> None:
        """Send what is left."""


class Wandb:
    """Weights & Biases, or what speaks its language.

    Where it sends the metrics is its own settings' business (``WANDB_MODE``, ``WANDB_BASE_URL``).

    Args:
        folder: The run folder; its name becomes the run's id, so that a cut run continues.
        name: A short name for people.
        settings: The run's configuration.

    Raises:
        MissingExtraError: wandb is not installed.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("wandb", "wandb") from error
        self._run = wandb.init(
            project=PROJECT,
            id=folder.name,
            name=name,
            config=dict(settings),
            dir=folder,
            resume="allow",
        )

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Send the metrics of one epoch."""
        self._run.log(dict(values), step=epoch)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


class Mlflow:
    """MLflow, at ``MLFLOW_TRACKING_URI``.

    Args:
        folder: The run folder; it keeps the service's id of the run, so that a cut run continues.
        name: A short name for people.
        settings: The run's configuration.

    Raises:
        MissingExtraError: mlflow is not installed.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtraError("mlflow", "mlflow") from error
        self._mlflow = mlflow
        path = folder / "mlflow.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        mlflow.set_experiment(PROJECT)
        run = mlflow.start_run(run_id=known.get("run_id"), run_name=name)
        if not known:
            mlflow.log_params(dict(_flat(settings)))
            write_json(path, {"run_id": run.info.run_id})

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Send the metrics of one epoch."""
        self._mlflow.log_metrics(dict(values), step=epoch)

    def close(self) -> None:
        """Send what is left."""
        self._mlflow.end_run()


SERVICES: dict[str, Callable[[Path, str, Mapping[str, Any]], Service]] = {
    "wandb": Wandb,
    "mlflow": Mlflow,
}


class Events:
    """A file of TensorBoard events, written by the caller.

    torch's ``SummaryWriter`` writes in a thread, and where the disk is full or the folder gone,
    that thread shows a traceback of its own.

    Args:
        folder: The run folder.
        purge_step: TensorBoard forgets what earlier files say of this step and later ones; None if
            there is nothing to forget.

    Raises:
        OSError: The file cannot be made.
    """

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        with warnings.catch_warnings():
            # TensorBoard's import warns about packages of its own.
            warnings.simplefilter("ignore")
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        # TensorBoard knows its files by such names.
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((folder / name).open("ab"))
        self._write(file_version="brain.Event:2")
        if purge_step is not None:
            self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))
        self._records.flush()

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Write the metrics of one epoch.

        Raises:
            OSError: They cannot be written.
        """
        scalars = [self._summary.Value(tag=tag, simple_value=each) for tag, each in values.items()]
        self._write(step=epoch, summary=self._summary(value=scalars))
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def _write(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())


class Tracker:
    """Writes a run's metrics, one line per epoch, and the same to TensorBoard and to services.

    Args:
        folder: The run folder.
        history: The metrics of the epochs before; ``metrics.jsonl`` is made to hold just these.
        services: Services that get them too.
    """

    def __init__(
        self, folder: Path, history: Sequence[Metrics], services: Sequence[Service] = ()
    ) -> None:
        self._services = list(services)
        self._path = folder / "metrics.jsonl"
        with replacing(self._path) as temporary:
            temporary.write_text("".join(map(_line, history)), encoding="utf-8")
        self._events = Events(folder, purge_step=len(history) or None)

    def log(self, metrics: Metrics) -> list[str]:
        """Write the metrics of one epoch.

        Returns:
            Complaints about services that failed: a run is not lost to one, which gets no more.
        """
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(metrics))
        epoch = int(metrics["epoch"] or 0)
        values = {k: v for k, v in metrics.items() if k != "epoch" and v is not None}
        self._events.log(epoch, values)
        complaints = []
        for service in list(self._services):
            try:
                service.log(epoch, values)
            except Exception as error:  # a service can fail in any way
                self._services.remove(service)
                complaints.append(f"{type(service).__name__} gets no more metrics: {error!r:.200}")
        return complaints

    def close(self) -> None:
        """Close the event file and the services."""
        self._events.close()
        for service in self._services:
            # What it has got it has got; the run is whole without it.
            with suppress(Exception):
                service.close()


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


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings as ``loss.q_start``."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _line(metrics: Metrics) -> str:
    return json.dumps(metrics) + "\n"
