import pytest
import torch

from noisylabels import checkpoint
from noisylabels.errors import CheckpointError

CPU = torch.device("cpu")


def test_round_trip(tmp_path):
    path = tmp_path / "checkpoint.pt"
    state = {"epoch": 3, "weights": torch.arange(4.0), "nested": [{"lr": 0.1}]}
    checkpoint.save(path, "abc", state)
    loaded = checkpoint.load(path, "abc", CPU)
    assert torch.equal(loaded.pop("weights"), state["weights"])
    assert loaded == {"epoch": 3, "nested": [{"lr": 0.1}]}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    checkpoint.write_json(path, {"a": 1})
    before = path.read_bytes()

    def fail():
        with checkpoint.replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a checkpoint was unpickled",))


def test_a_pickle_bomb_does_not_run(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"format": 1, "run_id": "abc", "state": Bomb()}, path)
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        checkpoint.load(path, "abc", CPU)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated(tmp_path, keep):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, "abc", {"weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"checkpoint.pt: not a whole checkpoint"):
        checkpoint.load(path, "abc", CPU)


def test_of_another_run_or_format(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, "abc", {})
    with pytest.raises(CheckpointError, match="expected run xyz, got abc"):
        checkpoint.load(path, "xyz", CPU)
    torch.save({"format": 99}, path)
    with pytest.raises(CheckpointError, match="expected checkpoint format 1, got 99"):
        checkpoint.load(path, "abc", CPU)
    torch.save([1], path)
    with pytest.raises(CheckpointError, match="expected checkpoint format 1, got 'list'"):
        checkpoint.load(path, "abc", CPU)
