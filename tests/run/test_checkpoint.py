import os
from pathlib import Path
from random import Random

import pytest
import torch

from noisylabels.atomic import replacing, write_json
from noisylabels.errors import CheckpointError
from noisylabels.run import checkpoint


def test_round_trip(tmp_path):
    path = tmp_path / "checkpoint.pt"
    state = {"epoch": 3, "weights": torch.arange(4.0), "nested": [{"lr": 0.1}]}
    checkpoint.save(path, "abc", state)
    loaded = checkpoint.load(path, "abc")
    assert torch.equal(loaded.pop("weights"), state["weights"])
    assert loaded == {"epoch": 3, "nested": [{"lr": 0.1}]}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    before = path.read_bytes()

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_process_number_do_not_share_a_file(tmp_path):
    # As in containers, in each of which the first process has the number 1.
    path = tmp_path / "state.json"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a checkpoint was unpickled",))


def test_a_pickle_bomb_does_not_run(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"format": 2, "run_id": "abc", "state": Bomb()}, path)
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        checkpoint.load(path, "abc")


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated(tmp_path, keep):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, "abc", {"weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"checkpoint.pt: not a whole checkpoint"):
        checkpoint.load(path, "abc")


def test_of_another_run_or_format(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, "abc", {})
    with pytest.raises(CheckpointError, match="expected run xyz, got abc"):
        checkpoint.load(path, "xyz")
    torch.save({"format": 99}, path)
    with pytest.raises(CheckpointError, match="expected checkpoint format 2, got 99"):
        checkpoint.load(path, "abc")
    torch.save([1], path)
    with pytest.raises(CheckpointError, match="expected checkpoint format 2, got 'list'"):
        checkpoint.load(path, "abc")


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, "abc", {"weights": torch.arange(300.0)})
    content = path.read_bytes()
    random = Random(0)
    for place in [
        *random.sample(range(len(content)), 150),
        *range(len(content) - 93, len(content)),
    ]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="not a whole checkpoint"):
            checkpoint.load(path, "abc")


def test_torch_reads_the_file_as_it_is(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, "abc", {"weights": torch.arange(3.0)})
    stored = torch.load(path, weights_only=True)
    assert stored["state"]["weights"].tolist() == [0, 1, 2]


def test_the_previous_checkpoint_is_kept_and_taken_where_the_latest_is_bad(tmp_path):
    path = tmp_path / "checkpoint.pt"
    assert checkpoint.load_latest(path, "abc") == (None, None)
    for epoch in (1, 2, 3):
        checkpoint.save(path, "abc", {"epoch": epoch})
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "checkpoint.previous.pt",
        "checkpoint.pt",
    ]
    assert checkpoint.load_latest(path, "abc") == ({"epoch": 3}, None)
    content = path.read_bytes()
    for damage in (content[:-1], content[:50], b""):
        path.write_bytes(damage)
        state, doubt = checkpoint.load_latest(path, "abc")
        assert state == {"epoch": 2}
        assert "the previous one is taken" in doubt
    path.unlink()
    state, doubt = checkpoint.load_latest(path, "abc")
    assert state == {"epoch": 2}
    assert "not there" in doubt
    checkpoint.previous(path).write_bytes(b"no")
    with pytest.raises(CheckpointError, match="delete both to start the run again"):
        checkpoint.load_latest(path, "abc")


def test_a_full_disk_leaves_both_checkpoints(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "checkpoint.pt"
    for epoch in (1, 2):
        checkpoint.save(path, "abc", {"epoch": epoch})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.save(path, "abc", {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.load(path, "abc") == {"epoch": 2}
    assert checkpoint.load(checkpoint.previous(path), "abc") == {"epoch": 1}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.fixture
def synced(monkeypatch):
    """Names of what is synced, in order; once ``failing`` is set, the disk refuses."""
    names, fsync = [], os.fsync

    def watched(handle):
        names.append(Path(f"/proc/self/fd/{handle}").resolve().name)
        if synced.failing:
            raise OSError("no space left")
        fsync(handle)

    synced = type("Synced", (), {"names": names, "failing": False})()
    if not Path("/proc/self/fd").exists():
        pytest.skip("what is synced is looked up in /proc")
    monkeypatch.setattr(os, "fsync", watched)
    return synced


def test_a_disk_that_refuses_to_sync_leaves_both_checkpoints(tmp_path, synced):
    path = tmp_path / "checkpoint.pt"
    for epoch in (1, 2):
        checkpoint.save(path, "abc", {"epoch": epoch})
    synced.failing = True
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(path, "abc", {"epoch": 3})
    assert checkpoint.load(path, "abc") == {"epoch": 2}
    assert checkpoint.load(checkpoint.previous(path), "abc") == {"epoch": 1}


def test_a_checkpoint_is_synced_once_and_then_its_folder(tmp_path, synced):
    """Each waits for the disk: of a short run they were a third of all that was not training."""
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, "abc", {"epoch": 1})
    temporary, folder = synced.names
    assert temporary.startswith(".checkpoint.pt.")
    assert folder == tmp_path.name
    synced.names.clear()
    write_json(tmp_path / "progress.json", {"epoch": 1}, lasting=False)
    (temporary,) = synced.names
    assert temporary.startswith(".progress.json.")
