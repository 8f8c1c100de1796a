"""Tasks of a real cluster of this machine."""

import sys

import pytest

from fateful import FATEFUL, StopsWhen, losses
from noisylabels.errors import ConfigError, MissingExtraError
from noisylabels.run.interruption import StoppedError
from noisylabels.studies import sweep
from noisylabels.studies.launchers import launcher
from noisylabels.studies.launchers.jobs import Ended
from noisylabels.studies.launchers.local import cores
from noisylabels.studies.launchers.ray import Ray
from noisylabels.studies.study import grid
from noisylabels.studies.sweep import prepare


@pytest.mark.long
def test_one_finishes_one_fails_one_is_stopped_and_one_has_not_begun(
    digits, own_module, tmp_path, monkeypatch
):
    own_module("fateful", FATEFUL)
    monkeypatch.chdir(tmp_path)
    short, long = {**digits, "epochs": 2}, {**digits, "epochs": 1000}
    runs = [*grid(short, loss=["ce", *losses("failing")])]
    runs += grid(long, loss=losses("endless"), seed=range(3))
    prepared = prepare(runs, tmp_path / "runs")
    finished, failing, *endless = prepared.jobs
    follower = StopsWhen(
        trained=[job.run_id for job in endless[:2]], ended=[finished.run_id, failing.run_id]
    )
    # Two at once, on any machine.
    jobs = Ray(num_cpus=cores() / 2)
    with pytest.raises(StoppedError, match="1 done, 1 failed, 3 stopped; the same command"):
        sweep.run(prepared, jobs, follower, sweep.begin(prepared, jobs.width))
    error = "KeyError: 'not today'"
    assert follower.ends[failing.run_id] == Ended(failing.run_id, "failed", error)
    assert "in per_example" in failing.folder.log.read_text()
    assert all(follower.ends[job.run_id].state == "stopped" for job in endless)
    assert [(job.folder.path / "checkpoint.pt").exists() for job in endless] == [True, True, False]
    assert not (tmp_path / "runs/logs/ray").exists()


def test_what_cannot_be_used_is_named(monkeypatch):
    with pytest.raises(ConfigError, match="ray: num_cpus must be in"):
        launcher("ray", None, {"ray": {"num_cpus": 0}})
    with pytest.raises(ConfigError, match="ray: ValueError: .*num_cpu"):
        launcher("ray", None, {"ray": {"num_cpu": 1}})
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"ray is not installed: .*\[ray\]"):
        launcher("ray")
