import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from noisylabels.errors import CheckpointError, MissingExtraError, NoisyLabelsError
from noisylabels.run import tracking
from noisylabels.run.callbacks import Callbacks, Start
from noisylabels.run.folder import RunFolder
from noisylabels.run.tracking import SERVICES, MetricsFile, Service, TensorBoard

SETTINGS = {"loss": {"name": "dal", "q_start": 0.6}, "epochs": 3}


def line(epoch, loss=0.5):
    return {"epoch": epoch, "loss": loss, "test_accuracy": 0.25, "train_accuracy_wrong": None}


def start(path, history=()):
    return Start("digits dal seed 0", path, len(history), 4, SETTINGS, history)


def follow(path, epochs, history=()):
    """Follow some epochs of a run as the loop does."""
    folder = RunFolder(path)
    callbacks = Callbacks([MetricsFile(folder), TensorBoard(folder)])
    callbacks.on_start(start(path, history))
    for metrics in epochs:
        callbacks.on_epoch(metrics)
    callbacks.on_end()


def scalars(path, tag):
    events = EventAccumulator(str(path))
    events.Reload()
    return events.Scalars(tag), set(events.Tags()["scalars"])


def test_lines_and_events_hold_the_same(tmp_path):
    follow(tmp_path, [line(epoch, loss=1.0 / (epoch + 1)) for epoch in range(3)])
    assert [m["epoch"] for m in RunFolder(tmp_path).metrics()] == [0, 1, 2]
    losses, tags = scalars(tmp_path, "loss")
    assert tags == {"loss", "test_accuracy"}
    assert [e.value for e in losses] == pytest.approx([1, 1 / 2, 1 / 3])


@pytest.mark.parametrize("left", [None, "", '{"epoch": 0, "loss": 9}\n{"epoch": 1, "lo'])
def test_continuing_writes_what_was_and_drops_what_comes_again(tmp_path, left):
    path = tmp_path / "metrics.jsonl"
    lines = [line(epoch) for epoch in range(4)]
    follow(tmp_path, lines)
    whole = path.read_bytes()
    if left is None:
        path.unlink()
    else:
        path.write_text(left)
    follow(tmp_path, lines[2:], history=lines[:2])
    assert path.read_bytes() == whole
    assert [e.step for e in scalars(tmp_path, "loss")[0]] == [0, 1, 2, 3]


def test_whoever_writes_hears_of_a_folder_that_is_gone(tmp_path):
    threads = threading.active_count()
    path = tmp_path / "run"
    path.mkdir()
    folder = RunFolder(path)
    callbacks = Callbacks([MetricsFile(folder), TensorBoard(folder)])
    callbacks.on_start(start(path))
    callbacks.on_epoch(line(0))
    assert threading.active_count() == threads, "a thread would show a traceback of its own"
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"run/metrics.jsonl: cannot be written"):
        callbacks.on_epoch(line(1))
    callbacks.on_end()


class Recorded:
    """A module that stands in for a service's client and writes down how it is called."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return self

        return call

    @property
    def info(self):
        return SimpleNamespace(run_id="abc")


def test_wandb_gets_every_epoch_and_continues_by_the_runs_id(tmp_path, monkeypatch):
    client = Recorded()
    monkeypatch.setitem(sys.modules, "wandb", client)
    service = SERVICES["wandb"]()
    service.on_start(start(tmp_path))
    service.on_epoch(line(0))
    service.on_end()
    (_, _, made), (_, logged, step), (last, _, _) = client.calls
    assert made["id"] == tmp_path.name
    assert made["resume"] == "allow"
    assert made["config"] == SETTINGS
    assert logged[0] == {"loss": 0.5, "test_accuracy": 0.25}
    assert step == {"step": 0}
    assert last == "finish"


def test_mlflow_keeps_its_run_when_a_run_continues(tmp_path, monkeypatch):
    client = Recorded()
    monkeypatch.setitem(sys.modules, "mlflow", client)
    for _ in range(2):
        service = SERVICES["mlflow"]()
        service.on_start(start(tmp_path))
        service.on_epoch(line(4))
        service.on_end()
    calls = {name: (args, kwargs) for name, args, kwargs in client.calls}
    starts = [kwargs["run_id"] for name, _, kwargs in client.calls if name == "start_run"]
    assert starts == [None, "abc"]
    assert calls["log_params"][0][0] == {"loss.name": "dal", "loss.q_start": 0.6, "epochs": 3}
    assert calls["log_metrics"] == (({"loss": 0.5, "test_accuracy": 0.25},), {"step": 4})
    assert [name for name, _, _ in client.calls].count("log_params") == 1


@pytest.mark.parametrize("name", SERVICES)
def test_a_missing_service_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"{name} is not installed: pip install"):
        Service(name, print)


class Failing:
    """A service whose network fails in one of its methods."""

    def __init__(self, method):
        self.calls, self.method = [], method

    def __getattr__(self, name):
        def call(*args):
            self.calls.append(name)
            if name == self.method:
                raise ConnectionError("no network")

        return call


def failing(monkeypatch, method, say):
    client = Failing(method)
    monkeypatch.setitem(tracking.SERVICES, "wandb", lambda: client)
    return client, Service("wandb", say)


def test_a_service_that_fails_later_does_not_end_the_run(monkeypatch):
    said = []
    client, service = failing(monkeypatch, "on_epoch", said.append)
    service.on_start(start(Path("runs/abc")))
    for epoch in range(3):
        service.on_epoch(line(epoch))
    service.on_end()
    assert said == ["wandb gets no more metrics: ConnectionError('no network')"]
    assert client.calls == ["on_start", "on_epoch"]
    client, service = failing(monkeypatch, "on_end", said.append)
    service.on_start(start(Path("runs/abc")))
    service.on_end()
    assert client.calls == ["on_start", "on_end"]


def test_a_service_that_cannot_start_is_named(monkeypatch):
    _, service = failing(monkeypatch, "on_start", print)
    with pytest.raises(NoisyLabelsError, match="trackers: wandb cannot be started: no network"):
        service.on_start(start(Path("runs/abc")))
