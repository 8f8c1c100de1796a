"""Where a run's metrics go: ``metrics.jsonl``, TensorBoard events and tracking services."""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from noisylabels.errors import MissingExtraError, NoisyLabelsError
from noisylabels.run.callbacks import Callback, Start
from noisylabels.run.folder import Metrics, RunFolder, writing

PROJECT = "noisylabels"


class MetricsFile(Callback):
    """Writes ``metrics.jsonl``.

    When a run continues, the file is made to hold just the epochs that are done.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def on_start(self, start: Start) -> None:
        """Write the epochs that are done."""
        self._folder.write_metrics(start.history)

    def on_epoch(self, metrics: Metrics) -> None:
        """Add an epoch."""
        self._folder.append_metrics(metrics)


class TensorBoard(Callback):
    """Writes a file of TensorBoard events, from the process and thread that trains.

    torch's ``SummaryWriter`` writes in a thread, and where the disk is full or the folder gone,
    that thread shows a traceback of its own.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        with warnings.catch_warnings():
            # TensorBoard's import warns about packages of its own.
            warnings.simplefilter("ignore")
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary, self._status = Event, Summary, SessionLog
        self._writer = RecordWriter
        self._path = folder.new_events()

    def on_start(self, start: Start) -> None:
        """Make the file; TensorBoard forgets what earlier files say of epochs to come."""
        with writing(self._path):
            self._records = self._writer(self._path.open("ab"))
            self._write(file_version="brain.Event:2")
            if start.history:
                session = self._status(status=self._status.START)
                self._write(step=len(start.history), session_log=session)
            self._records.flush()

    def on_epoch(self, metrics: Metrics) -> None:
        """Write the metrics of an epoch."""
        epoch, values = _numbers(metrics)
        scalars = [self._summary.Value(tag=tag, simple_value=each) for tag, each in values.items()]
        with writing(self._path):
            self._write(step=epoch, summary=self._summary(value=scalars))
            self._records.flush()

    def on_end(self) -> None:
        """Close the file."""
        with writing(self._path):
            self._records.close()

    def _write(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())


class Wandb(Callback):
    """Sends metrics to Weights & Biases, or what speaks its language.

    The user's own settings win (``WANDB_MODE``, ``WANDB_PROJECT``, ``WANDB_RUN_ID``, ...), and a
    run of the service that is open in this process gets the metrics and stays open. Where they say
    nothing, the run folder's name becomes the run's id, so that a cut run continues.

    Raises:
        MissingExtraError: wandb is not installed.
    """

    def __init__(self) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("wandb", "wandb") from error
        self._wandb = wandb

    def on_start(self, start: Start) -> None:
        """Open the service's run, or take the one that is open."""
        self._run = self._wandb.run
        self._ours = self._run is None
        if not self._ours:
            # Keys of its own, for "seed" or "loss" may be the user's.
            self._run.config.update({PROJECT: dict(start.settings)}, allow_val_change=True)
            return
        own = self._wandb.setup().settings
        wanted = {
            "project": (own.project, PROJECT),
            "id": (own.run_id, start.folder.name),
            "name": (own.run_name, start.name),
            "resume": (own.resume, "allow"),
            # Its default is the working directory, which no setting tells from the user's choice.
            "dir": (os.environ.get("WANDB_DIR"), start.folder),
        }
        unsaid = {name: value for name, (chosen, value) in wanted.items() if not chosen}
        self._run = self._wandb.init(config=dict(start.settings), **unsaid)

    def on_epoch(self, metrics: Metrics) -> None:
        """Send the metrics of an epoch."""
        epoch, values = _numbers(metrics)
        if self._ours:
            self._run.log(values, step=epoch)
        else:
            # Its steps are the user's, and those before the last one would be lost.
            self._run.log(values | {"epoch": epoch})

    def on_end(self) -> None:
        """Send what is left."""
        if self._ours:
            self._run.finish()


class Mlflow(Callback):
    """Sends metrics to MLflow, at ``MLFLOW_TRACKING_URI``.

    The user's own settings win (``MLFLOW_EXPERIMENT_NAME``, ``MLFLOW_RUN_ID``, ...), and a run of
    the service that is open in this process gets the metrics and stays open. The run folder keeps
    the service's id of the run, so that a cut run continues.

    Raises:
        MissingExtraError: mlflow is not installed.
    """

    def __init__(self) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtraError("mlflow", "mlflow") from error
        self._mlflow = mlflow

    def on_start(self, start: Start) -> None:
        """Open the service's run, or take the one that is open."""
        folder = RunFolder(start.folder)
        run = self._mlflow.active_run()
        self._ours = run is None
        if run is None:
            run = self._open(folder.service("mlflow").get("run_id"), start.name)
        self._run_id = run.info.run_id
        # A parameter that is there, from before a cut or of the user's own, cannot change.
        there = self._mlflow.get_run(self._run_id).data.params
        settings = {key: value for key, value in _flat(start.settings) if key not in there}
        self._mlflow.log_params(settings)
        folder.write_service("mlflow", {"run_id": self._run_id})

    def _open(self, known: str | None, name: str) -> Any:
        """Open the run that the user names, the one that was cut, or a new one."""
        if os.environ.get("MLFLOW_RUN_ID"):
            return self._mlflow.start_run()
        if known is not None:
            return self._mlflow.start_run(run_id=known)
        # `mlflow.set_experiment` sets the id too.
        if {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & set(os.environ):
            return self._mlflow.start_run(run_name=name)
        return self._mlflow.start_run(experiment_id=self._experiment(), run_name=name)

    def _experiment(self) -> str:
        """Find or make an experiment, without making it the one of all that the process does."""
        found = self._mlflow.get_experiment_by_name(PROJECT)
        if found is None:
            try:
                return str(self._mlflow.create_experiment(PROJECT))
            except Exception:  # a service can fail in any way
                # Another process may have made it just now.
                found = self._mlflow.get_experiment_by_name(PROJECT)
                if found is None:
                    raise
        return str(found.experiment_id)

    def on_epoch(self, metrics: Metrics) -> None:
        """Send the metrics of an epoch."""
        epoch, values = _numbers(metrics)
        self._mlflow.log_metrics(values, step=epoch, run_id=self._run_id)

    def on_end(self) -> None:
        """Send what is left."""
        if self._ours:
            self._mlflow.end_run()


SERVICES: dict[str, type[Wandb | Mlflow]] = {"wandb": Wandb, "mlflow": Mlflow}


class Service(Callback):
    """A tracking service: it must start, but what fails in it later does not end the run.

    Args:
        name: A key of ``SERVICES``.
        say: Tells the user.

    Raises:
        MissingExtraError: Its package is not installed.
    """

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name = name
        self._say = say
        self._client: Callback | None = SERVICES[name]()

    def on_start(self, start: Start) -> None:
        """Open the service's run.

        Raises:
            NoisyLabelsError: It cannot be opened.
        """
        if self._client:
            try:
                self._client.on_start(start)
            except Exception as error:  # a service can fail in any way
                self._give_up()
                raise NoisyLabelsError(
                    f"trackers: {self._name} cannot be started: {error}"
                ) from error

    def on_epoch(self, metrics: Metrics) -> None:
        """Send the metrics of an epoch, unless it has failed before."""
        if self._client:
            try:
                self._client.on_epoch(metrics)
            except Exception as error:  # a service can fail in any way
                self._give_up()
                self._say(f"{self._name} gets no more metrics: {error!r:.200}")

    def on_end(self) -> None:
        """Send what is left, unless it has failed before."""
        self._give_up()

    def _give_up(self) -> None:
        """Close the service's run, once: another run of this process must not land in it."""
        client, self._client = self._client, None
        if client:
            # What it has got it has got; the run is whole without it.
            with suppress(Exception):
                client.on_end()


def _numbers(metrics: Metrics) -> tuple[int, dict[str, float]]:
    """Return the epoch, and what there is to plot of it."""
    values = {k: float(v) for k, v in metrics.items() if k != "epoch" and v is not None}
    return int(metrics["epoch"] or 0), values


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings as ``loss.q_start``."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
