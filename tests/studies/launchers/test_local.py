"""Real worker processes: really killed, really stopped, really side by side."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from noisylabels.errors import ConfigError
from noisylabels.run import config
from noisylabels.run.folder import RunFolder
from noisylabels.run.trainer import train
from noisylabels.studies import study, sweep
from noisylabels.studies.launchers import local
from noisylabels.studies.launchers.jobs import Ended, Job
from noisylabels.studies.launchers.local import Local
from pictures import class_folders
from waiting import wait_for

MOODY = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
from noisylabels.data.datasets import Digits

@dataclass(frozen=True, kw_only=True)
class Moody(Digits):
    mood: str = "calm"

    def load(self, workers=0):
        if not Path("calm").exists():
            print("the mood is", self.mood)
            if self.mood == "deadly":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.mood == "angry":
                raise KeyError("not today")
        return super().load(workers)
"""
STUDY = """
[base]
data.name = "moody:Moody"
noise = {name = "symmetric", rate = 0.4}
model.hidden = [32]
epochs = 2
[axes]
data.mood = ["calm", "deadly", "angry"]
seed = [0, 1]
"""
LONG = """
[base]
data = "digits"
model.hidden = [32]
epochs = 100000
[axes]
seed = [0, 1, 2]
"""
# What waits for the runs' own processes has one thread of each already.
COMMAND = [sys.executable, "-m", "noisylabels", "sweep", "study.toml"]


def start(*words):
    return subprocess.Popen([*COMMAND, *words], stdout=-1, stderr=-1, text=True)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    return tmp_path


def workers():
    """Count the worker processes of this machine whose working directory is this one."""
    found = 0
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            own = cmdline.with_name("cwd").readlink() == Path.cwd()
            found += own and b"launchers.worker" in cmdline.read_bytes()
        except OSError:
            continue
    return found


@pytest.mark.long
def test_two_commands_share_a_study_with_runs_that_fail_and_die(place):
    """Two commands, one worker each, on six runs: two kill their process and two raise."""
    (place / "moody.py").write_text(MOODY)
    (place / "study.toml").write_text(STUDY)
    first, second = start(), start()
    said = [process.communicate() for process in (first, second)]
    assert [first.returncode, second.returncode] == [1, 1]
    folders = {
        (run["data"]["mood"], run["seed"]): folder
        for folder in RunFolder.find([Path("runs")])
        for run in [folder.config()]
    }
    assert len(folders) == 6
    for (mood, _), folder in folders.items():
        if mood == "calm":
            assert folder.state() == "finished"
            # Every process that trains writes events of its own: one did.
            assert len(list(folder.path.glob("events.*"))) == 1
            assert not folder.log.exists()
            continue
        assert folder.state() == "failed"
        why = {"deadly": "was killed by SIGKILL (out of memory?)", "angry": "not today"}[mood]
        assert why in folder.failure()["error"]
        assert f"the mood is {mood}" in folder.log.read_text() or mood == "deadly"
        for _, error in said:
            assert str(folder.log) in error
    assert "Traceback" in folders["angry", 0].log.read_text()
    for _, error in said:
        assert "4 of 6 runs failed, the same command tries them again: " in error
    assert not list(Path("runs/logs").glob(".*"))
    # The cause is gone; the same command makes what is missing, here as a script would.
    Path("calm").touch()
    prepared = sweep.prepare(study.read(Path("study.toml")), Path("runs"))
    assert sweep.begin(prepared, 2).counts() == "2 done, 4 to come"
    sweep.run(prepared, Local(jobs=2))
    assert {folder.state() for folder in folders.values()} == {"finished"}
    assert not list(Path("runs/logs").iterdir())
    # A worker has computed what any process does.
    own = train(config.parse(folders["calm", 1].config()), Path("own"))
    ours, theirs = (RunFolder(path) for path in (own, folders["calm", 1].path))
    assert ours.metrics() == theirs.metrics()


@pytest.mark.long
def test_stopping_and_being_killed_leave_whole_runs_and_no_process(place):
    (place / "study.toml").write_text(LONG)

    def trained():
        return [folder for folder in Path("runs").glob("*/metrics.jsonl") if folder.read_bytes()]

    process = start("--jobs", "2")
    wait_for(lambda: len(trained()) == 2, process)
    # As a terminal does, but for the workers, which have a session of their own.
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert "stopped: 2 stopped, 1 to come; the same command continues" in error
    assert workers() == 0
    folders = RunFolder.find([Path("runs")])
    assert [folder.state() for folder in folders] == ["stopped", "stopped"]
    before = [folder.load_checkpoint(repair=False)[0]["epoch"] for folder in folders]
    assert min(before) > 0
    process = start("--jobs", "2")
    epochs = [len(folder.metrics()) for folder in folders]
    wait_for(
        lambda: all(len(f.metrics()) > n for f, n in zip(folders, epochs, strict=True)), process
    )
    process.kill()
    process.communicate()
    wait_for(lambda: workers() == 0)
    assert [folder.state() for folder in folders] == ["stopped", "stopped"]
    after = [folder.load_checkpoint(repair=False)[0]["epoch"] for folder in folders]
    assert all(now > then for now, then in zip(after, before, strict=True))


def test_each_worker_has_its_share(monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert local.environment(0, 3)["OMP_NUM_THREADS"] == "2"
    assert local.environment(0, 1)["OMP_NUM_THREADS"] == "8"
    assert local.environment(0, 20)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert local.environment(0, 3)["OMP_NUM_THREADS"] == "4"
    assert "CUDA_VISIBLE_DEVICES" not in local.environment(0, 3)
    monkeypatch.setattr(local.torch.cuda, "device_count", lambda: 2)
    given = [local.environment(n, 3)["CUDA_VISIBLE_DEVICES"] for n in range(3)]
    assert given == ["0", "1", "0"]
    assert local.default_jobs() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert local.environment(1, 2)["CUDA_VISIBLE_DEVICES"] == "7"
    assert local.environment(1, 1)["CUDA_VISIBLE_DEVICES"] == "5,7"


@pytest.mark.long
def test_workers_that_were_started_ahead_make_the_runs_and_end(place, digits):
    """They are given jobs before they have imported anything."""
    prepared = sweep.prepare(study.grid({**digits, "epochs": 1}, seed=[0, 1]), Path("runs"))
    with Local(jobs=2) as jobs:
        jobs.warm_up(5)
        assert workers() == 2
        jobs.warm_up(2)
        jobs.submit(prepared.jobs)
        assert workers() == 2
        ended = []
        while len(ended) < 2:
            ended += [event.state for event in jobs.events(60.0) if isinstance(event, Ended)]
        assert ended == ["finished", "finished"]
        with jobs:
            pass
        assert workers() == 0
    with Local(jobs=2) as jobs:
        jobs.warm_up(1)
    assert workers() == 0


@pytest.mark.long
@pytest.mark.slow
def test_a_worker_decodes_images_in_processes_of_its_own(tmp_path):
    """It hung where these were forked while a thread of the worker read its standard input."""
    photos = class_folders(tmp_path / "photos", count=20, shape=(110, 110, 3))
    (tmp_path / "study.toml").write_text(
        f"""
[base]
data = {{ name = "folder", root = {str(photos)!r}, size = 100, storage = "stream" }}
model = "linear"
augment = "none"
epochs = 1
batch_size = 8
workers = 2
"""
    )
    words = [sys.executable, "-m", "noisylabels", "sweep", "study.toml"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert [folder.state() for folder in RunFolder.find([tmp_path / "runs"])] == ["finished"]


def test_a_run_of_several_processes_is_refused():
    tables = {"devices": 2, "nodes": 1}
    with pytest.raises(ConfigError, match=re.escape("x: a run of a study has one process, got")):
        Local(jobs=2).submit([Job("0", "x", tables, Path("runs"))])
