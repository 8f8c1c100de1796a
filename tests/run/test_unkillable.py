"""Real processes, really killed: whatever happens to a run, it ends as if nothing had happened."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import warm
from noisylabels.errors import CheckpointError, NoisyLabelsError
from noisylabels.labels import read_archive
from noisylabels.run import checkpoint, config, loop
from noisylabels.run.callbacks import Callback
from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.interruption import StoppedError
from noisylabels.run.plan import plan
from noisylabels.run.trainer import train
from pictures import pixels, save
from waiting import wait_for

RUN = """
epochs = 8
checkpoint_minutes = {minutes}
batch_size = 64
data = {{ name = "digits" }}
noise = {{ name = "symmetric", rate = 0.4 }}
model = {{ name = "mlp", hidden = [256, 256] }}
loss = {{ name = "dal", q_start = 0.6, q_end = 1.5 }}
optimizer = {{ name = "sgd", lr = 0.1 }}
augment = {{ name = "crop-flip", padding = 1 }}
"""
ALWAYS = 1e-9

# One process that has imported everything, whose children are killed. Each is killed at a random
# moment after every epoch, however fast the machine is.
DRIVER = """
import os, random, signal, sys, time
from pathlib import Path
from noisylabels.run import config
from noisylabels.run.trainer import train

run, out, kills = config.load(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
moments = random.Random(0)

def epochs():
    return sum(len(path.read_bytes().splitlines()) for path in out.glob("*/metrics.jsonl"))

for kill in range(kills + 1):
    child = os.fork()
    if child == 0:
        train(run, out)
        os._exit(0)
    if kill < kills:
        while epochs() < kill:
            if os.waitpid(child, os.WNOHANG)[0]:
                sys.exit("the run ended by itself")
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    checkpoints = list(out.glob("*/checkpoint.pt"))
    half = list(out.glob("*/.*.tmp"))
    print(status, len(checkpoints), len(half), flush=True)
"""


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(RUN.format(minutes=ALWAYS))
    return path


@pytest.fixture(autouse=True)
def saving_after_every_epoch(monkeypatch):
    """Runs of milliseconds would save nothing that a cut could continue from."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0)


def tables(**changes):
    import tomllib

    return parse(tomllib.loads(RUN.format(minutes=10)) | changes)


def contents(folder: Path):
    run = RunFolder(folder)
    weights, _ = run.model()
    timed = {key: v for key, v in run.result().items() if "accuracy" in key or "rate" in key}
    return {
        "metrics": (folder / "metrics.jsonl").read_bytes(),
        "weights": {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
        "predictions": {name: array.tobytes() for name, array in run.predictions().items()},
        "result": timed,
    }


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_twenty_kills_change_nothing(run, tmp_path, begin):
    """A checkpoint is written after every step, so that kills meet it half written."""
    run.write_text(run.read_text().replace("epochs = 8", "epochs = 30"))
    # The interval between checkpoints is not part of what a run is.
    whole = train(tables(epochs=30), tmp_path / "whole")
    driver = begin(DRIVER, run, tmp_path / "cut", 20, target=warm.code)
    shown, complaints = driver.communicate(timeout=300)
    assert driver.returncode == 0, complaints
    rows = [tuple(map(int, line.split())) for line in shown.splitlines()]
    assert [status for status, _, _ in rows] == [signal.SIGKILL] * 20 + [0]
    assert rows[-1] == (0, 0, 0), "no checkpoint of a finished run, and nothing half-written"
    assert contents(tmp_path / "cut" / whole.name) == contents(whole)


@pytest.mark.slow
def test_signals_finish_the_step_save_and_say_how_to_go_on(run, tmp_path, begin):
    run.write_text(RUN.format(minutes=10).replace("epochs = 8", "epochs = 2000"))
    folders = tmp_path / "cut"
    process = begin("train", run, "--out", folders)
    wait_for(lambda: any(folders.glob("*/checkpoint.pt")), process)
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=30)
    assert process.returncode == 143
    last = shown.splitlines()[-1]
    assert re.search(r"stopped in epoch \d+ of 2000.*: the same command continues", last)
    assert "Traceback" not in shown
    # Stopped again where it went on, it has lost nothing.
    (folder,) = folders.iterdir()
    before = len((folder / "metrics.jsonl").read_text().splitlines())
    process = begin("train", run, "--out", folders)
    wait_for(lambda: len((folder / "metrics.jsonl").read_text().splitlines()) > before, process)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"continues after epoch {before} of 2000" in shown
    assert "the same command continues" in shown.splitlines()[-1]


@pytest.mark.slow
def test_a_second_process_is_refused_and_a_dead_one_leaves_no_lock(run, tmp_path, begin):
    run.write_text(RUN.format(minutes=10).replace("epochs = 8", "epochs = 2000"))
    first = begin("train", run, "--out", tmp_path / "runs")
    try:
        wait_for(lambda: any((tmp_path / "runs").glob("*/checkpoint.pt")), first)
        expected = rf"another process \({first.pid}\) is making this run"
        with pytest.raises(CheckpointError, match=expected):
            train(config.load(run), tmp_path / "runs")
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    (lines,) = (tmp_path / "runs").glob("*/metrics.jsonl")
    before = lines.stat().st_size
    third = begin("train", run, "--out", tmp_path / "runs")
    wait_for(lambda: lines.stat().st_size > before, third)
    third.send_signal(signal.SIGTERM)
    _, shown = third.communicate(timeout=60)
    assert third.returncode == 143, shown


class Meddler(Callback):
    """Does something to the run after one of its epochs."""

    def __init__(self, deed, stop_after=None, epoch=0):
        self.deed, self.left, self.epoch = deed, stop_after, epoch

    def on_epoch(self, metrics):
        if metrics["epoch"] == self.epoch:
            self.deed()
        if self.left is not None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt


def test_a_folder_deleted_under_a_run_is_named(tmp_path):
    folder = tmp_path / plan(tables()).run_id
    with pytest.raises(CheckpointError, match="cannot be written"):
        train(tables(), tmp_path, [Meddler(lambda: shutil.rmtree(folder))])


def test_a_full_disk_is_named_and_the_last_checkpoint_stays(tmp_path):
    resource = pytest.importorskip("resource")
    whole = train(tables(), tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))

    try:
        with pytest.raises(CheckpointError, match=r"cannot be written \(File too large\)"):
            train(tables(), tmp_path / "full", [Meddler(fill, epoch=1)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    path = tmp_path / "full" / whole.name / "checkpoint.pt"
    assert checkpoint.load(path, whole.name)["epoch"] == 1
    assert contents(train(tables(), tmp_path / "full")) == contents(whole)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to mount")
def test_a_really_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no permission to mount")
    try:
        whole = train(tables(), tmp_path / "whole")
        filler = disk / "filler"
        fill = Meddler(lambda: filler.write_bytes(b"x" * (free(disk) - 4096)), epoch=1)
        with pytest.raises(CheckpointError, match=r"cannot be written \(No space left on device\)"):
            train(tables(), disk, [fill])
        path = disk / whole.name / "checkpoint.pt"
        assert checkpoint.load(path, whole.name)["epoch"] == 1
        filler.unlink()
        (tmp_path / "more").mkdir()
        shutil.copytree(disk / whole.name, tmp_path / "more" / whole.name)
        assert contents(train(tables(), tmp_path / "more")) == contents(whole)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def test_what_a_dead_process_left_half_written_is_removed(tmp_path):
    folder = tmp_path / plan(tables()).run_id
    folder.mkdir()
    (folder / ".checkpoint.pt.99999.tmp").write_bytes(b"half")
    train(tables(epochs=1), tmp_path)
    train(tables(), tmp_path)
    assert not list(folder.glob(".*.tmp"))


def test_a_run_that_skips_bad_steps_counts_them(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(300, 4)), np.arange(300) % 3
    x[7] = 1e3
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (tmp_path / "touchy.py").write_text(
        "from torch import nn\n"
        "class Touchy(nn.Module):\n"
        "    def __init__(self, shape, classes):\n"
        "        super().__init__()\n"
        "        self.linear = nn.Linear(shape[0], classes)\n"
        "    def forward(self, input):\n"
        "        bad = (input > 10) & self.training\n"
        "        return self.linear(input.masked_fill(bad, float('nan')))\n"
    )
    sys.path.insert(0, str(tmp_path))
    settings = {
        "data": {"name": "arrays", "path": str(tmp_path / "a.npz")},
        "noise": {"name": "symmetric", "rate": 0.1},
        "model": "touchy:Touchy",
        "epochs": 3,
        "batch_size": 50,
    }
    try:
        folder = train(parse(settings | {"on_nan": "skip"}), tmp_path / "skip")
        with pytest.raises(NoisyLabelsError, match=r"epoch 1 of 3, step \d \(loss nan"):
            train(parse(settings), tmp_path / "runs")
    finally:
        sys.path.remove(str(tmp_path))
    (path,) = (tmp_path / "runs").glob("*/nonfinite.npz")
    batch = read_archive(path)
    assert 7 in batch["index"]
    assert (batch["input"] > 10).any()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert [line["skipped_steps"] for line in lines] == [1, 2, 3]
    assert json.loads((folder / "result.json").read_text())["skipped_steps"] == 3


def test_a_damaged_checkpoint_never_takes_the_place_of_the_good_one(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tables(), tmp_path, [Meddler(lambda: None, stop_after=2)])
    folder = tmp_path / plan(tables()).run_id
    path = folder / "checkpoint.pt"
    damaged = bytearray(path.read_bytes())
    damaged[500] ^= 4
    path.write_bytes(damaged)
    good = checkpoint.previous(path).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        train(tables(), tmp_path, [Meddler(lambda: None, stop_after=1)])
    assert checkpoint.previous(path).read_bytes() == good
    assert (folder / "checkpoint.damaged.pt").read_bytes() == bytes(damaged)
    assert checkpoint.load(path, folder.name)["epoch"] == 2


def test_asked_to_stop_in_the_last_epoch_it_finishes_and_then_stops(tmp_path):
    deed = Meddler(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StoppedError, match="was just finished") as error:
        train(tables(epochs=1), tmp_path, [deed])
    assert error.value.status == 143
    assert len(list(tmp_path.glob("*/result.json"))) == 1


def test_one_process_cannot_make_a_run_twice_at_once(tmp_path):
    deed = Meddler(lambda: train(tables(), tmp_path))
    with pytest.raises(CheckpointError, match="this process is making this run already"):
        train(tables(), tmp_path, [deed])


@pytest.mark.slow
def test_a_signal_to_the_whole_group_while_images_stream(tmp_path, begin):
    """What Slurm and systemd do: the workers hear it too, and must not die of it."""
    for number in range(120):
        save(tmp_path / "photos" / "ab"[number % 2] / f"{number}.png", pixels(number, (8, 8, 3)))
    run = tmp_path / "run.toml"
    run.write_text(
        f"epochs = 500\nbatch_size = 4\nworkers = 2\nevaluate_every = 500\n"
        f'data = {{ name = "folder", root = "{tmp_path / "photos"}", storage = "stream" }}\n'
        f'model = {{ name = "mlp", hidden = [8] }}\naugment = "crop-flip"\n'
    )
    process = begin("train", run, "--out", tmp_path / "r", group=True)
    wait_for(lambda: any((tmp_path / "r").glob("*/checkpoint.pt")), process)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGTERM)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 143, shown
    assert "the same command continues" in shown
    assert "Traceback" not in shown
