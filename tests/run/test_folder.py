import json

import numpy as np
import pytest
import torch

from noisylabels.errors import CheckpointError, DataError
from noisylabels.run.folder import RunFolder, writing


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "abc").mkdir()
    return RunFolder(tmp_path / "abc")


def test_metrics_that_were_cut_are_left_out_and_damaged_ones_named(folder):
    path = folder.path / "metrics.jsonl"
    assert folder.metrics() == []
    path.write_text('{"epoch": 0}\n{"epoch": 1, "lo')
    assert folder.metrics() == [{"epoch": 0}]
    for bad in ("no json", "[1]", '{"loss": 1}', "3"):
        path.write_text('{"epoch": 0}\n' + bad + "\n")
        with pytest.raises(DataError, match=r"metrics.jsonl: line 2: expected metrics"):
            folder.metrics()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"metrics.jsonl: expected UTF-8"):
        folder.metrics()


def test_what_is_written_is_read_again(folder):
    folder.open({"seed": 3}, {"version": 1, "settings": {}, "contents": {}}, {"device": "cpu"})
    folder.write_labels({"given": np.arange(3)})
    folder.write_data({"classes": ["a"]})
    folder.write_metrics([{"epoch": 0, "loss": 1.0}])
    folder.append_metrics({"epoch": 1, "loss": 0.5})
    assert folder.identity() == {"version": 1, "settings": {}, "contents": {}}
    assert folder.setup() == {"device": "cpu"}
    assert folder.data() == {"classes": ["a"]}
    assert folder.labels()["given"].tolist() == [0, 1, 2]
    assert [line["loss"] for line in folder.metrics()] == [1.0, 0.5]
    assert "`labels.npz`: " in (folder.path / "README.md").read_text()
    folder.save_checkpoint({"epoch": 2})
    assert folder.load_checkpoint(repair=False) == ({"epoch": 2}, None)
    assert (folder.state(), folder.finished) == ("stopped", False)
    result = {"run_id": "abc", "test_accuracy": 0.5, "precision": "32", "seconds": 1.0}
    weight = torch.ones(2, 3).t()
    folder.finish(result, {"test": np.zeros(2)}, [{"w": weight}, {"w": 2 * weight}], {"k": 1})
    assert (folder.state(), folder.result()) == ("finished", result)
    weights, described = folder.model()
    assert described == {"k": 1}
    assert torch.equal(weights["1.w"], 2 * weight)
    assert not list(folder.path.glob("checkpoint*"))


def test_damaged_files_are_named(folder):
    for name, read in (("config", folder.config), ("result", folder.result)):
        path = folder.path / f"{name}.json"
        path.write_text("{")
        with pytest.raises(DataError, match=rf"{name}.json: expected JSON \("):
            read()
        path.write_text("[]")
        with pytest.raises(DataError, match=rf"{name}.json: expected a JSON object, got list"):
            read()
        path.write_text("{}")
        with pytest.raises(DataError, match=rf"{name}.json: expected \w+, .* in it"):
            read()
    for name, read in (("labels", folder.labels), ("predictions", folder.predictions)):
        with pytest.raises(DataError, match=rf"{name}.npz: no such file"):
            read()
        (folder.path / f"{name}.npz").write_bytes(b"PK\3\4")
        with pytest.raises(DataError, match=rf"{name}.npz: expected an .npz file of plain arrays"):
            read()
    np.savez(folder.path / "labels.npz", given=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"labels.npz: expected an .npz file of plain arrays"):
        folder.labels()
    (folder.path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"model.safetensors: expected the weights"):
        folder.model()


def test_runs_are_found_once_in_the_order_of_their_names(tmp_path):
    for name in ("b", "a"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text(json.dumps({}))
    found = RunFolder.find([tmp_path / "runs", tmp_path / "runs" / "b"])
    assert [folder.path.name for folder in found] == ["a", "b"]
    with pytest.raises(DataError, match="runs/c: expected a run folder .*, got none"):
        RunFolder.find([tmp_path / "runs" / "c"])
    with pytest.raises(DataError, match=r"expected a run folder \(with config.json\), or a folder"):
        RunFolder.find([tmp_path])


def test_only_what_cannot_be_written_is_said_so(tmp_path):
    expected = r"a.json: cannot be written \(No space left"
    with pytest.raises(CheckpointError, match=expected), writing(tmp_path / "a.json"):
        raise OSError(28, "No space left on device")
    with pytest.raises(ValueError, match="of the caller"), writing(tmp_path):
        raise ValueError("of the caller")


def test_a_new_folder_that_stays_empty_is_removed(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "abc")
    with pytest.raises(ValueError, match="refused"), folder.held():
        raise ValueError("refused")
    assert not folder.path.parent.exists()
    with folder.held():
        assert folder.state() == "running"
        folder.write_data({"classes": []})
    assert folder.path.exists()
