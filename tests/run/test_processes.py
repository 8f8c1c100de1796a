"""Two real processes that share each batch.

The first test starts them as a user does. Elsewhere the first process starts warm, and where a test
is of numbers alone, so does the second.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import warm
from noisylabels.run import loop
from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.trainer import train
from waiting import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def images(tmp_path) -> dict:
    """Small pictures whose classes differ in colour; the last batch has four examples."""
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 167)
    x = random.integers(0, 120, (167, 12, 12, 3)).astype(np.uint8)
    x[np.arange(167), :, :, y] += 100
    np.savez(tmp_path / "a.npz", x_train=x[:132], y_train=y[:132], x_test=x[132:], y_test=y[132:])
    return {
        "data": {"name": "arrays", "path": str(tmp_path / "a.npz")},
        "noise": {"name": "symmetric", "rate": 0.3},
        "model": {"name": "resnet18", "width": 16},
        "augment": "none",
        "loss": {"name": "dal", "q_start": 0.6, "q_end": 1.5},
        # At greater rates this little training is chaotic: at 0.001 one thread for each of two
        # processes instead of two for one moves the second epoch's loss by 9e-5 on some CPUs.
        "optimizer": {"name": "sgd", "lr": 0.0003},
        "batch_size": 32,
        "epochs": 3,
        "precision": "32",
    }


def write(path: Path, tables: dict) -> Path:
    def value(item):
        if isinstance(item, dict):
            return "{" + ", ".join(f"{k} = {value(v)}" for k, v in item.items()) + "}"
        return json.dumps(item)

    path.write_text("".join(f"{key} = {value(item)}\n" for key, item in tables.items()))
    return path


def start(path, out, *, launcher=(), **environment):
    words = ["-m", "noisylabels", "train", str(path), "--out", str(out)]
    command = [sys.executable, *launcher, *words]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


@pytest.fixture
def ranks(begin):
    """Start both processes of a job warm, as `torchrun` would start them."""

    def ranks(path, *outs, target=warm.saving):
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        return [
            begin("train", path, "--out", out, target=target, LOCAL_RANK=str(rank), **meeting)
            for rank, out in enumerate(outs)
        ]

    return ranks


def finish(*processes) -> Path:
    """Wait for a process, or all of a job, and return the folder that the first has named."""
    ends = [process.communicate(timeout=120) for process in processes]
    complaints = "".join(complaint for _, complaint in ends)
    assert [process.returncode for process in processes] == [0] * len(processes), complaints
    assert "Warning" not in complaints
    assert "deprecated" not in complaints
    (folder,) = "".join(shown for shown, _ in ends).splitlines()
    return Path(folder)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_have_the_loss_curve_of_one(images, tmp_path):
    """The paper's step with synchronised batch norm, float32, the same global batch."""
    single = lines(train(parse(images), tmp_path / "one"))
    both = images | {"devices": 2, "sync_batchnorm": True}
    folder = finish(start(write(tmp_path / "run.toml", both), tmp_path / "two"))
    for ours, theirs in zip(lines(folder), single, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["test_accuracy"] == pytest.approx(theirs["test_accuracy"], abs=0.03)
    assert single[1]["loss"] < 0.9 * single[0]["loss"]
    result = json.loads((folder / "result.json").read_text())
    assert result["processes"] == 2
    with np.load(folder / "predictions.npz") as predictions:
        assert predictions["test_probabilities"].shape == (35, 3)
        sums = predictions["test_probabilities"].astype(np.float32).sum(1)
    np.testing.assert_allclose(sums, 1, atol=2e-3)


@pytest.mark.long
def test_torchrun_on_two_machines_computes_what_two_processes_do(images, tmp_path):
    """Two agents, as on two machines; both are on this one, and share its folder."""
    # Without it torchrun would choose other threads, and another rounding.
    threads = {"OMP_NUM_THREADS": "1"}
    path = write(tmp_path / "both.toml", images | {"devices": 2, "sync_batchnorm": True})
    expected = lines(finish(start(path, tmp_path / "both", **threads)))
    path = write(tmp_path / "run.toml", images | {"nodes": 2, "sync_batchnorm": True})
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    size = ["--nnodes", "2", "--nproc-per-node", "1", "--local-addr", "127.0.0.1"]
    launcher = ["-m", "torch.distributed.run", *size, *meeting]
    out = tmp_path / "runs"
    jobs = [start(path, out, launcher=launcher, **threads) for _ in range(2)]
    try:
        ends = [job.communicate(timeout=120) for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    assert [job.returncode for job in jobs] == [0, 0], ends
    (folder,) = {Path(line) for shown, _ in ends for line in shown.splitlines()}
    assert lines(folder) == expected
    assert sum(complaints.count("run 1 of 1") for _, complaints in ends) == 1


@pytest.mark.long
def test_without_synchronised_batch_norm_a_run_is_only_near(images, tmp_path):
    """So that the test above could fail."""
    single = lines(train(parse(images), tmp_path / "one"))
    both = images | {"devices": 2}
    folder = finish(start(write(tmp_path / "run.toml", both), tmp_path / "two"))
    ours = [line["loss"] for line in lines(folder)]
    theirs = [line["loss"] for line in single]
    assert ours != pytest.approx(theirs, rel=1e-5)
    assert ours == pytest.approx(theirs, rel=0.5)


MLP = {"model": {"name": "mlp", "hidden": [32]}, "optimizer": {"name": "sgd", "lr": 0.01}}
METHODS = {
    "elr": {"method": {"name": "elr", "beta": 0.7, "lamb": 1.0}},
    "gjs": {"method": "gjs"},
    "coteaching": {"method": {"name": "coteaching", "ramp_epochs": 3}, "validation": 0.2},
    "jocor": {"method": {"name": "jocor", "forget_rate": 0.4, "ramp_epochs": 2, "c": 0.5}},
}


@pytest.mark.parametrize(
    "name",
    [
        "elr",
        "coteaching",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("gjs", "jocor")),
    ],
)
def test_two_processes_remember_and_choose_as_one(images, tmp_path, name, monkeypatch, ranks):
    """Memories, choices and estimates are those of the whole batch."""
    run = images | MLP | {"epochs": 5} | METHODS[name]
    path = write(tmp_path / "two.toml", run | {"devices": 2})
    out = tmp_path / "two"
    folder = finish(*ranks(path, out, out, target=warm.keeping))
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0)
    monkeypatch.setattr(RunFolder, "discard_checkpoints", lambda folder: None)
    single = train(parse(run), tmp_path / "one")
    for ours, theirs in zip(lines(folder), lines(single), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours.get("forget", 0) == pytest.approx(theirs.get("forget", 0), rel=1e-5)
    states = [
        torch.load(place / "checkpoint.pt", weights_only=True)["state"]["method"]
        for place in (folder, single)
    ]
    if name in ("coteaching", "jocor"):
        assert lines(folder)[-1]["forget"] > 0.1
    if name == "elr":
        torch.testing.assert_close(states[0]["targets"], states[1]["targets"], rtol=1e-4, atol=1e-5)
        assert (states[0]["targets"].sum(1) > 0.5).all()
    for ours, theirs in zip(*(state["networks"] for state in states), strict=True):
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=1e-4)


def test_parts_of_uneven_shares_are_as_many_in_each_process(images, tmp_path, ranks):
    """The last batch has five examples: three for one process, two for the other."""
    run = images | MLP | {"accumulate": 4, "data": images["data"] | {"limit": 101}}
    run |= {"poison": {"name": "trigger", "share": 0.2}}
    single = train(parse(run), tmp_path / "one")
    path, out = write(tmp_path / "run.toml", run | {"devices": 2}), tmp_path / "two"
    folder = finish(*ranks(path, out, out))
    for ours, theirs in zip(lines(folder), lines(single), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    # Each process predicts its share of the images with the trigger, too.
    found = [RunFolder(each).predictions()["triggered_probabilities"] for each in (folder, single)]
    np.testing.assert_allclose(*found, atol=2e-3)


def test_two_processes_divide_as_one_and_mix_each_for_itself(images, tmp_path, ranks):
    run = (
        images
        | MLP
        | {
            "epochs": 8,
            "method": {"name": "dividemix", "warmup": 4, "agreement": 1, "rampup": 4.0},
            "augment": {"name": "crop-flip", "padding": 1},
        }
    )
    single = lines(train(parse(run), tmp_path / "one"))
    path, out = write(tmp_path / "run.toml", run | {"devices": 2}), tmp_path / "two"
    folder = finish(*ranks(path, out, out))
    both = lines(folder)
    # Views are drawn by each process, so the warm-ups differ a little and so do the divisions.
    for ours, theirs in zip(both[:4], single[:4], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.2)
    for ours, theirs in zip(both[5:], single[5:], strict=True):
        assert 0 < ours["labelled_1"] < 1
        assert ours["labelled_1"] == pytest.approx(theirs["labelled_1"], abs=0.15)
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.3)
    assert both[-1]["test_accuracy"] == pytest.approx(single[-1]["test_accuracy"], abs=0.15)
    assert both[-1]["test_accuracy"] > 0.6


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the second process in /proc")
def test_a_killed_process_ends_the_job_and_it_continues(images, tmp_path, begin, ranks):
    both = images | {"devices": 2, "epochs": 400}
    path = write(tmp_path / "run.toml", both)
    saved = tmp_path / "runs"
    job = begin("train", path, "--out", saved)
    wait_for(lambda: any(saved.glob("*/checkpoint.pt")), job)
    (second,) = children(job.pid)
    os.kill(second, signal.SIGKILL)
    job.communicate(timeout=60)
    assert job.returncode != 0
    (checkpoint,) = saved.glob("*/checkpoint.pt")
    before = written(checkpoint)
    job = begin("train", path, "--out", saved)
    wait_for(lambda: written(checkpoint) not in (before, None), job)
    # One of them hears it, and both stop after the same step.
    os.kill(children(job.pid)[0], signal.SIGTERM)
    _, complaints = job.communicate(timeout=60)
    assert job.returncode == 143, complaints
    assert "continues after epoch" in complaints
    assert complaints.count("the same command continues") == 1
    assert "Traceback" not in complaints
    assert complaints.count("run 1 of 1") == 1, "the second process shows nothing"

    # As where machines do not share a folder.
    jobs = ranks(path, saved, tmp_path / "elsewhere")
    for job in jobs:
        _, complaints = job.communicate(timeout=60)
        assert job.returncode == 2, complaints
        assert "continue from different places" in complaints
        assert "epoch 1 step 1" in complaints


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the second process in /proc")
def test_a_failure_of_the_first_process_ends_the_second(images, tmp_path, begin):
    """Only the first writes; the second waits for it, and has nothing to say of its own."""
    both = images | MLP | {"devices": 2, "epochs": 4000}
    job = begin("train", write(tmp_path / "run.toml", both), "--out", tmp_path / "runs")
    wait_for(lambda: any((tmp_path / "runs").glob("*/checkpoint.pt")), job)
    (second,) = children(job.pid)
    (folder,) = (tmp_path / "runs").iterdir()
    folder.rename(tmp_path / "elsewhere")
    _, complaints = job.communicate(timeout=60)
    assert job.returncode == 2, complaints
    assert complaints.count("noisylabels: ") == 1
    assert f"{folder}/" in complaints
    assert "Traceback" not in complaints
    left = Path(f"/proc/{second}/cmdline")
    assert not (left.exists() and left.read_bytes()), "it may wait to be buried, but not run"


@pytest.mark.long
def test_where_all_fail_each_saves_its_batch(images, tmp_path, begin):
    both = images | MLP | {"devices": 2, "optimizer": {"name": "sgd", "lr": 1e30}}
    job = begin("train", write(tmp_path / "run.toml", both), "--out", tmp_path / "runs")
    _, complaints = job.communicate(timeout=60)
    assert job.returncode == 2, complaints
    assert "Traceback" not in complaints
    (folder,) = (tmp_path / "runs").iterdir()
    found = [np.load(folder / f"nonfinite.{rank}.npz")["index"] for rank in (0, 1)]
    assert len(np.intersect1d(*found)) == 0
    assert complaints.count("are not finite in epoch") == 2


def written(path: Path) -> int | None:
    """When a file was written; None while it is being replaced."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def children(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            name = status.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == parent and b"noisylabels" in name:
            found.append(int(status.parent.name))
    return found
