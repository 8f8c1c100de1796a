import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from noisylabels.errors import DataError
from noisylabels.tracking import Tracker, read_metrics


def line(epoch, loss=0.5):
    return {"epoch": epoch, "loss": loss, "test_accuracy": 0.25, "train_accuracy_wrong": None}


def test_lines_and_events_hold_the_same(tmp_path):
    tracker = Tracker(tmp_path, 0)
    for epoch in range(3):
        tracker.log(line(epoch, loss=1.0 / (epoch + 1)))
    tracker.close()
    assert [m["epoch"] for m in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "test_accuracy"}
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([1, 1 / 2, 1 / 3])


def test_continuing_drops_what_comes_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tracker = Tracker(tmp_path, 0)
    for epoch in range(4):
        tracker.log(line(epoch))
    tracker.close()
    whole = path.read_bytes()
    with path.open("a") as file:
        file.write('{"epoch": 4, "lo')
    tracker = Tracker(tmp_path, 2)
    tracker.log(line(2))
    tracker.log(line(3))
    tracker.close()
    assert path.read_bytes() == whole


def test_damaged_lines_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    for bad in ("no json", "[1]", '{"loss": 1}', "3"):
        path.write_text('{"epoch": 0}\n' + bad + "\n")
        with pytest.raises(DataError, match=r"metrics.jsonl: line 2: expected metrics"):
            read_metrics(path)
