"""Jobs as submitit starts them: real processes of this machine, and what Slurm's commands get."""

import os
import sys

import pytest

from fateful import FATEFUL, StopsWhen, losses
from noisylabels.errors import ConfigError, MissingExtraError
from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.interruption import StoppedError
from noisylabels.run.trainer import train
from noisylabels.studies import sweep
from noisylabels.studies.launchers import launcher, slurm
from noisylabels.studies.launchers.jobs import Ended
from noisylabels.studies.launchers.local import Local
from noisylabels.studies.launchers.slurm import Slurm
from noisylabels.studies.study import grid
from noisylabels.studies.sweep import prepare

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Slurm has no Windows")


@pytest.mark.long
def test_a_preempted_job_is_requeued_and_a_stopped_one_is_whole(
    digits, own_module, tmp_path, monkeypatch
):
    own_module("fateful", FATEFUL)
    monkeypatch.chdir(tmp_path)
    runs = grid({**digits, "epochs": 1000}, loss=losses("endless")) + grid(
        digits, loss=losses("preempted")
    )
    prepared = prepare(runs, tmp_path / "runs")
    endless, preempted = prepared.jobs
    follower = StopsWhen(trained=[endless.run_id], ended=[preempted.run_id])
    jobs = Slurm(cluster="local", jobs=2)
    with pytest.raises(StoppedError, match="1 done, 1 stopped; the same command continues"):
        sweep.run(prepared, jobs, follower, sweep.begin(prepared, jobs.width))
    assert follower.ends[preempted.run_id] == Ended(preempted.run_id, "finished")
    assert follower.ends[endless.run_id] == Ended(endless.run_id, "stopped")
    assert (endless.folder.path / "checkpoint.pt").exists()
    assert not (tmp_path / "runs/logs").exists(), "nobody needs submitit's files any more"
    # It was cut where it was told to end, went on from there, and nothing shows of it.
    assert (tmp_path / "preempted").exists()
    whole = RunFolder(train(runs[1], tmp_path / "whole"))
    cut = preempted.folder
    assert cut.metrics() == whole.metrics()
    for name, array in whole.predictions().items():
        assert (cut.predictions()[name] == array).all(), name


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Slurm's commands as they look from outside: they note what they are given."""
    commands = {
        "sbatch": 'cp "$1" batch.sh; echo Submitted batch job 7',
        "srun": "",
        "squeue": "cat states",
        "scancel": 'echo "$@" >> cancelled',
    }
    for name, text in commands.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "SECONDS_OF_DELAY", 0.0)

    def become(jobs, *states):
        rows = [f"7_{number} {state}\n" for number, state in enumerate(states)]
        (tmp_path / "states").write_text("".join(rows))
        jobs._next_look = jobs._next_question = 0.0

    return become


def test_an_array_its_options_and_its_ends(digits, cluster, tmp_path):
    tables = {"partition": "gpu", "gpus_per_node": 1, "mem_gb": 8, "setup": ["module load cuda"]}
    jobs = launcher("slurm", 2, {"slurm": {**tables, "time": 90}})
    prepared = prepare(grid(digits, seed=range(3)), tmp_path / "runs")
    jobs.submit(prepared.jobs)
    batch = (tmp_path / "batch.sh").read_text()
    for line in ("array=0-2%2", "partition=gpu", "mem=8GB", "time=90", "job-name=noisylabels"):
        assert f"#SBATCH --{line}\n" in batch
    assert "\nmodule load cuda\n" in batch
    cluster(jobs, "PENDING", "RUNNING", "COMPLETING")
    assert jobs.events(0.0) == []
    cluster(jobs, "PENDING", "RUNNING", "OUT_OF_MEMORY")
    killed = prepared.jobs[2]
    error = "its job 7_2 ended without a result (state OUT_OF_MEMORY)"
    assert jobs.events(0.0) == [Ended(killed.run_id, "failed", error)]
    assert killed.folder.failure()["error"] == error
    # One that waits is cancelled; one that runs is asked by its ticket alone.
    running = jobs._runs[prepared.jobs[1].run_id]
    jobs.stop()
    assert (tmp_path / "cancelled").read_text() == "7_0\n"
    assert not running.task.wanted
    cluster(jobs, "CANCELLED", "COMPLETED", "OUT_OF_MEMORY")
    assert jobs.events(0.0) == [Ended(job.run_id, "stopped") for job in prepared.jobs[:2]]
    # What submitit wrote stays, for one has failed.
    assert list((tmp_path / "runs/logs/slurm").glob("*/7_2_submitted.pkl"))


def test_what_was_kept_of_a_failure_goes_once_another_attempt_succeeds(
    digits, cluster, tmp_path, monkeypatch
):
    jobs = Slurm()
    prepared = prepare(grid({**digits, "epochs": 1}, seed=range(2)), tmp_path / "runs")
    first, second = prepared.jobs
    place = tmp_path / "runs/logs/slurm"

    def submit(*given):
        jobs.submit(given)
        cluster(jobs, *["FAILED"] * len(given))
        return [ended.state for ended in jobs.events(0.0)]

    def succeed(job):
        with monkeypatch.context() as without_slurm:
            without_slurm.setenv("PATH", "")
            train(parse(job.tables), job.out)

    assert submit(first, second) == ["failed", "failed"]
    (kept,) = place.iterdir()
    assert submit(first) == ["failed"]
    assert len(list(place.iterdir())) == 2
    succeed(first)
    assert submit(first) == ["finished"]
    # That of the second is needed still.
    assert list(place.iterdir()) == [kept]
    succeed(second)
    assert submit(second) == ["finished"]
    assert not place.exists()


def test_options_are_checked_whichever_launcher_is_chosen(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="slurm: NameError: Unknown argument 'partion'"):
        launcher("local", None, {"slurm": {"partion": "gpu"}})
    with pytest.raises(ConfigError, match="slurm: time must be in"):
        launcher("local", None, {"slurm": {"time": 0}})
    with pytest.raises(ConfigError, match="ray: ValueError: Invalid option keyword num_cpu"):
        launcher("local", None, {"ray": {"num_cpu": 1}})
    assert isinstance(launcher("local", None, {"slurm": {"partition": "gpu"}}), Local)
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert isinstance(launcher("local", None, {"slurm": {"partion": "gpu"}}), Local)


def test_what_cannot_be_used_is_named(monkeypatch, cluster):
    with pytest.raises(ConfigError, match="slurm: cluster must be 'slurm' or 'local', got 'lsf'"):
        launcher("slurm", None, {"slurm": {"cluster": "lsf"}})
    with pytest.raises(ConfigError, match="slurm: NameError: Unknown argument 'partion'"):
        launcher("slurm", None, {"slurm": {"partion": "gpu"}})
    with pytest.raises(ConfigError, match='slurm: .*"mem_gb" expected type'):
        launcher("slurm", None, {"slurm": {"mem_gb": "8 GB"}})
    with pytest.raises(ConfigError, match="slurm: nodes: a run of a study has one process"):
        launcher("slurm", None, {"slurm": {"nodes": 2}})
    with pytest.raises(ConfigError, match="jobs must be in"):
        launcher("slurm", 0)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="slurm: sbatch and srun not found on the PATH"):
        launcher("slurm")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MissingExtraError, match=r"submitit is not installed: .*\[slurm\]"):
        launcher("slurm")


def test_a_queue_that_refuses_says_so(digits, cluster, tmp_path):
    (tmp_path / "bin/sbatch").write_text("#!/bin/sh\necho invalid partition >&2; exit 1\n")
    jobs = Slurm()
    with pytest.raises(ConfigError, match="slurm: .*invalid partition"):
        jobs.submit(prepare(grid(digits), tmp_path / "runs").jobs)
    assert not (tmp_path / "runs/logs").exists()
