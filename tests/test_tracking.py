import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from noisylabels.errors import DataError
from noisylabels.tracking import Tracker, read_metrics


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
