import sys
import threading
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from noisylabels.errors import DataError, MissingExtraError
from noisylabels.run.tracking import SERVICES, Tracker, read_metrics


def line(epoch, loss=0.5):
    return {"epoch": epoch, "loss": loss, "test_accuracy": 0.25, "train_accuracy_wrong": None}


def test_lines_and_events_hold_the_same(tmp_path):
    tracker = Tracker(tmp_path, [])
    for epoch in range(3):
        tracker.log(line(epoch, loss=1.0 / (epoch + 1)))
    tracker.close()
    assert [m["epoch"] for m in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "test_accuracy"}
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([1, 1 / 2, 1 / 3])


@pytest.mark.parametrize("left", [None, "", '{"epoch": 0, "loss": 9}\n{"epoch": 1, "lo'])
def test_continuing_writes_what_was_and_drops_what_comes_again(tmp_path, left):
    path = tmp_path / "metrics.jsonl"
    lines = [line(epoch) for epoch in range(4)]
    tracker = Tracker(tmp_path, [])
    for metrics in lines:
        tracker.log(metrics)
    tracker.close()
    whole = path.read_bytes()
    if left is None:
        path.unlink()
    else:
        path.write_text(left)
    tracker = Tracker(tmp_path, lines[:2])
    tracker.log(lines[2])
    tracker.log(lines[3])
    tracker.close()
    assert path.read_bytes() == whole
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [0, 1, 2, 3]


def test_whoever_writes_hears_of_a_folder_that_is_gone(tmp_path):
    threads = threading.active_count()
    (tmp_path / "run").mkdir()
    tracker = Tracker(tmp_path / "run", [])
    tracker.log(line(0))
    assert threading.active_count() == threads, "a thread would show a traceback of its own"
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="run/metrics.jsonl"):
        tracker.log(line(1))
    tracker.close()


def test_damaged_lines_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    for bad in ("no json", "[1]", '{"loss": 1}', "3"):
        path.write_text('{"epoch": 0}\n' + bad + "\n")
        with pytest.raises(DataError, match=r"metrics.jsonl: line 2: expected metrics"):
            read_metrics(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"metrics.jsonl: expected UTF-8"):
        read_metrics(path)


def test_a_line_that_was_cut_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 0}\n{"epoch": 1, "lo')
    assert read_metrics(path) == [{"epoch": 0}]


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


SETTINGS = {"loss": {"name": "dal", "q_start": 0.6}, "epochs": 3}


def test_wandb_gets_every_epoch_and_continues_by_the_runs_id(tmp_path, monkeypatch):
    client = Recorded()
    monkeypatch.setitem(sys.modules, "wandb", client)
    service = SERVICES["wandb"](tmp_path, "digits dal seed 0", SETTINGS)
    tracker = Tracker(tmp_path, [], [service])
    tracker.log(line(0))
    tracker.close()
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
        tracker = Tracker(tmp_path, [], [SERVICES["mlflow"](tmp_path, "name", SETTINGS)])
        tracker.log(line(4))
        tracker.close()
    calls = {name: (args, kwargs) for name, args, kwargs in client.calls}
    starts = [kwargs["run_id"] for name, _, kwargs in client.calls if name == "start_run"]
    assert starts == [None, "abc"]
    assert calls["log_params"][0][0] == {"loss.name": "dal", "loss.q_start": 0.6, "epochs": 3}
    assert calls["log_metrics"] == (({"loss": 0.5, "test_accuracy": 0.25},), {"step": 4})
    assert [name for name, _, _ in client.calls].count("log_params") == 1


@pytest.mark.parametrize("name", SERVICES)
def test_a_missing_service_is_named(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"{name} is not installed: pip install"):
        SERVICES[name](tmp_path, "name", {})


def test_a_service_that_fails_does_not_end_the_run(tmp_path):
    class Failing:
        def log(self, epoch, values):
            raise ConnectionError("no network")

        def close(self):
            pytest.fail("it has been given up")

    tracker = Tracker(tmp_path, [], [Failing()])
    (complaint,) = tracker.log(line(0))
    assert complaint.startswith("Failing gets no more metrics: ConnectionError('no network')")
    assert tracker.log(line(1)) == []
    tracker.close()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2
