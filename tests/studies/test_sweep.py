import io
import os
import re
import shutil
import signal
from pathlib import Path
from random import Random

import pytest
from rich.console import Console

from noisylabels.__main__ import main
from noisylabels.data.files import Folder
from noisylabels.display import SweepDisplay
from noisylabels.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.interruption import StoppedError
from noisylabels.studies import study, sweep
from noisylabels.studies.launchers.jobs import Advanced, Ended, Job, Launcher, make
from noisylabels.studies.study import grid
from noisylabels.studies.sweep import Follower, Progress, Runner, SweepError, begin, prepare
from pictures import class_folders


class Here(Launcher):
    """Makes runs in this process, one after the other; `before` is told of each."""

    def __init__(self, before=lambda job: None):
        self.given, self.stopped, self._heard, self._before = [], False, [], before

    width = 1

    @property
    def room(self):
        return 0 if self._heard else 1

    def submit(self, jobs):
        for job in jobs:
            self.given.append(job.run_id)
            self._before(job)
            self._heard.append(make(job, self._heard.append))

    def events(self, seconds):
        heard, self._heard = self._heard, []
        return heard

    def stop(self, run_ids=None):
        self.stopped = True

    def __exit__(self, *error):
        pass


class Notes(Follower):
    def __init__(self):
        self.said, self.ends = [], []

    def on_message(self, sentence):
        self.said.append(sentence)

    def on_event(self, event, progress):
        if isinstance(event, Ended):
            self.ends.append((event.run_id, event.state))


def run(prepared, launcher=None, follower=None):
    launcher = launcher or Here()
    return sweep.run(prepared, launcher, follower)


@pytest.fixture
def base(digits):
    return {**digits, "epochs": 1}


def test_every_run_is_made_once(base, tmp_path):
    runs = grid(base, loss=["ce", "mae"], seed=[0, 1])
    # What a result does not depend on makes no other run.
    again = parse({**base, "loss": "ce", "save_model": False})
    prepared = prepare([*runs, again], tmp_path)
    assert len(prepared.jobs) == 4
    assert prepared.notes == ["digits ce seed 0 is the same run as digits ce seed 0: made once"]
    assert (
        sweep.sentence(begin(prepared, 1)) == "4 runs; expected time: known after the first epochs"
    )
    notes, launcher = Notes(), Here()
    progress = run(prepared, launcher, notes)
    assert launcher.given == [job.run_id for job in prepared.jobs]
    assert progress.done == set(launcher.given)
    assert progress.counts() == "4 done"
    assert len([each for each in notes.said if "float32" in each]) == 1
    assert sweep.sentence(begin(prepared, 1)) == "4 runs, all of them finished: nothing to do"
    more = prepare(grid(base, loss=["ce", "mae"], seed=[0, 1, 2]), tmp_path)
    said = sweep.sentence(begin(more, 1))
    assert said.startswith("6 runs, 4 of them finished; expected time: about ")
    launcher = Here()
    run(more, launcher)
    assert launcher.given == [job.run_id for job in more.jobs if job.title.endswith("seed 2")]


def test_every_run_is_checked_before_the_first_starts(base, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(
        "[base]\ndata = 'digits'\n[axes]\nloss = [{name = 'ce'}, {name = 'gce', q = -1}]\n"
    )
    with pytest.raises(ConfigError, match=r"study.toml: loss gce \(q -1\): loss: q must be in"):
        prepare(study.read(path), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError, match="expected at least one run, got none"):
        prepare([], tmp_path)
    absent = parse({**base, "trackers": ["mlflow"]})
    with pytest.raises(MissingExtraError, match="mlflow is not installed"):
        prepare([*grid(base, loss=["ce"]), absent], tmp_path)
    with pytest.raises(ConfigError, match="digits dal seed 0: a run of a study has one process"):
        prepare([*grid(base, loss=["ce"]), parse({**base, "devices": 2})], tmp_path)
    (tmp_path / "file").touch()
    nowhere = prepare(grid(base), tmp_path / "file" / "runs")
    with pytest.raises(CheckpointError, match="expected a folder that can be written"):
        run(nowhere)


def test_the_data_of_many_runs_is_listed_once(tmp_path, monkeypatch):
    listed = []

    def watched(self):
        listed.append(self.root)
        return read_manifest(self)

    read_manifest = Folder.read_manifest
    monkeypatch.setattr(Folder, "read_manifest", watched)
    for count, name in enumerate("ab", start=8):
        class_folders(tmp_path / name, count)
    data = [{"name": "folder", "root": str(tmp_path / name)} for name in "ab"]
    base = {"data": data[0], "model": "linear", "epochs": 1}
    prepared = prepare(grid(base, seed=[0, 1, 2], data=data), tmp_path / "runs")
    assert len({job.run_id for job in prepared.jobs}) == 6
    assert listed == [tmp_path / "a", tmp_path / "b"]


SOURCE = """
from dataclasses import dataclass
from pathlib import Path
from noisylabels.data.datasets import Digits

@dataclass(frozen=True, kw_only=True)
class Gloomy(Digits):
    def load(self, workers=0):
        if not Path("calm").exists():
            print("an omen")
            raise KeyError("not today")
        return super().load(workers)
"""


def test_a_failing_run_does_not_stop_the_others(base, own_module, tmp_path, monkeypatch):
    own_module("gloomy", SOURCE)
    monkeypatch.chdir(tmp_path)
    runs = [parse(base), parse({**base, "data": "gloomy:Gloomy"}), parse({**base, "seed": 1})]
    prepared = prepare(runs, tmp_path / "runs")
    bad = prepared.jobs[1]
    with pytest.raises(
        SweepError, match=r"1 of 3 runs failed, .*gloomy:Gloomy dal.*not today"
    ) as all:
        run(prepared)
    assert str(bad.folder.log) in str(all.value)
    assert all.value.status == 1
    assert [job.folder.state() for job in prepared.jobs] == ["finished", "failed", "finished"]
    assert bad.folder.failure()["error"].startswith("data: 'gloomy:Gloomy' failed: KeyError")
    # Wherever one looks from, and wherever the folder of run folders is moved.
    log = bad.folder.path / bad.folder.failure()["log"]
    assert log.resolve() == bad.folder.log.resolve()
    assert not Path(bad.folder.failure()["log"]).is_absolute()
    assert "Traceback" in log.read_text()
    assert list(sweep.failures(prepared.jobs)) == [
        f"failed: {bad.title}: {bad.folder.failure()['error']} (log: {bad.folder.log})"
    ]
    (tmp_path / "calm").touch()
    launcher = Here()
    run(prepared, launcher)
    assert launcher.given == [bad.run_id]
    assert bad.folder.state() == "finished"
    assert not bad.folder.failure()
    assert not bad.folder.log.exists()


def test_what_another_command_has_just_failed_is_not_tried_again(base, tmp_path):
    prepared = prepare(grid(base, seed=[0, 1]), tmp_path)
    first, second = prepared.jobs

    class Other(Here):
        def submit(self, jobs):
            second.folder.fail(second.tables, "a pity")
            super().submit(jobs)

    launcher = Other()
    with pytest.raises(SweepError, match="1 of 2 runs failed, .*seed 1: a pity"):
        run(prepared, launcher)
    assert launcher.given == [first.run_id]
    # Later, by the same command, it is.
    launcher = Here()
    run(prepared, launcher)
    assert launcher.given == [second.run_id]


def test_a_run_that_ends_the_process_is_a_failure(base, own_module, tmp_path):
    own_module(
        "quitter", SOURCE.replace("Gloomy", "Quitter").replace("raise KeyError", "raise SystemExit")
    )
    (job,) = prepare([parse({**base, "data": "quitter:Quitter"})], tmp_path / "runs").jobs
    ended = make(job)
    assert (ended.state, ended.error) == ("failed", "SystemExit: not today")
    assert "Traceback" in job.folder.log.read_text()


def test_data_that_has_changed_since_it_was_planned(base, own_module, tmp_path):
    file = own_module("shifty", SOURCE.replace("Gloomy", "Shifty").replace("calm", str(tmp_path)))
    (job,) = prepare([parse({**base, "data": "shifty:Shifty"})], tmp_path / "runs").jobs
    file.write_text(file.read_text() + "\n# edited\n")
    ended = make(job)
    assert ended.state == "failed"
    assert "have changed since it was planned" in ended.error


def test_what_others_make_is_waited_for_and_what_they_leave_is_taken_up(
    base, tmp_path, monkeypatch
):
    monkeypatch.setattr(sweep, "SECONDS_BETWEEN_LOOKS", 0)
    prepared = prepare(grid(base, seed=range(3)), tmp_path)
    first, second, third = prepared.jobs
    held = first.folder.held()
    held.__enter__()
    seen = []
    make(second)

    class Look(Notes):
        def on_event(self, event, progress):
            super().on_event(event, progress)
            if isinstance(event, Ended) and event.run_id == third.run_id:
                seen.append(progress.counts())
                # Whoever held it leaves it.
                held.__exit__(None, None, None)

    notes, launcher = Look(), Here()
    run(prepared, launcher, notes)
    assert launcher.given == [third.run_id, first.run_id]
    assert seen == ["2 done, 1 made by another process"]
    assert {job.folder.state() for job in prepared.jobs} == {"finished"}


def test_a_run_that_another_process_has_just_begun(base, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "SECONDS_BETWEEN_LOOKS", 0)
    (job,) = prepare([parse(base)], tmp_path).jobs
    with job.folder.held():
        assert make(job) == Ended(job.run_id, "held")
    prepared, launcher = prepare([parse(base)], tmp_path), Here()
    held = []

    def hold_once(job):
        if not held:
            held.append(job.folder.held())
            held[0].__enter__()

    class Leave(Notes):
        def on_event(self, event, progress):
            super().on_event(event, progress)
            if isinstance(event, Ended) and event.state == "held":
                held[0].__exit__(None, None, None)

    launcher._before, notes = hold_once, Leave()
    run(prepared, launcher, notes)
    assert [state for _, state in notes.ends] == ["held", "finished"]


def test_a_study_that_has_changed_says_what_is_new_and_what_is_left(base, tmp_path):
    path = tmp_path / "study.toml"
    (tmp_path / "run.toml").write_text("data = 'digits'\nmodel.hidden = [8]\nepochs = 1\n")
    path.write_text("base = 'run.toml'\n[axes]\nseed = [0, 1]\n")
    out = tmp_path / "runs"
    prepared = prepare(study.read(path), out)
    assert prepared.notes == []
    gone = prepared.jobs[0]
    run(prepared)
    path.write_text("base = 'run.toml'\n[axes]\nseed = [1, 2, 3]\n")
    new, left = prepare(study.read(path), out).notes
    assert new == f"2 runs are new since {path} was last made, such as seed 2"
    assert left == (
        f"1 run belongs to {path} no longer, such as seed 0 ({gone.folder.path}); "
        f"their folders stay"
    )
    assert gone.folder.state() == "finished"
    ((name, jobs),) = sweep.find_studies(out)
    assert name == str(path)
    assert sweep.summary(jobs) == "2 runs: 2 finished"
    manifest = prepared.manifest()
    manifest.write_text("{}")
    with pytest.raises(DataError, match="expected JSON with file and runs"):
        prepare(study.read(path), out)


def test_the_time_left_is_learnt_from_runs_that_are_alike(base, tmp_path):
    runs = grid({**base, "epochs": 10}, **{"model.hidden": [[8], [16]]}, seed=[0, 1])
    prepared = prepare(runs, tmp_path)
    progress = Progress({job.run_id: job for job in prepared.jobs}, width=2)
    small, _, large, _ = (job.tables for job in prepared.jobs)
    assert progress.left() is None
    progress.pace.learn(small, 20, 10)
    assert progress.left() is None
    progress.pace.learn(large, 60, 10)
    assert progress.left() == (2 * 20 + 2 * 60) / 2
    progress.start(prepared.jobs[0].run_id, 5)
    assert progress.left() == (10 + 20 + 2 * 60) / 2
    progress.pace.learn(large, 20, 10)
    assert progress.left() == (10 + 20 + 2 * 40) / 2


MANY = 20_000


class Untouched(dict):
    """A dictionary that can be asked of one key after the other, and not gone over."""

    def __iter__(self):
        raise AssertionError("all of it was gone over")

    keys = values = items = __iter__


def synthetic_jobs(out):
    for number in range(MANY):
        tables = {"data": "digits", "model": "mlp", "epochs": 10 + 10 * (number % 3)}
        yield Job(f"{number:012x}", f"run {number}", tables, out)


def test_no_event_of_a_large_study_goes_over_all_of_its_runs(tmp_path):
    progress = Progress({job.run_id: job for job in synthetic_jobs(tmp_path)}, width=4)
    jobs = list(progress.jobs.values())
    progress.pace.learn(jobs[0].tables, 20.0, 10)
    progress.jobs, progress.waiting = Untouched(progress.jobs), Untouched(progress.waiting)
    random = Random(0)
    with SweepDisplay(Console(file=io.StringIO())) as display:
        for job in jobs[:300]:
            progress.start(job.run_id)
            epoch = random.randrange(1, 10)
            progress.start(job.run_id, epoch)
            display.on_event(Advanced(job.run_id, epoch, {}), progress)
            state = random.choice(["failed", "stopped", "held", ""])
            if state:
                progress.end(Ended(job.run_id, state, "a pity" * (state == "failed")))
                if state == "failed":
                    display.on_event(Ended(job.run_id, state, "a pity"), progress)
                elif random.random() < 0.5:
                    # It was left by whoever had it.
                    progress.add(job)
    # The same, computed anew.
    waiting = dict.keys(progress.waiting)
    groups = [progress.done, progress.elsewhere, progress.failed, progress.stopped]
    ended = set().union(*groups)
    assert set(waiting) == {job.run_id for job in jobs} - ended - set(progress.running)
    epochs = sum(progress.jobs[run_id].tables["epochs"] for run_id in waiting)
    epochs += sum(
        progress.jobs[run_id].tables["epochs"] - epoch for run_id, epoch in progress.running.items()
    )
    assert progress.left() == pytest.approx(2.0 * epochs / 4)
    assert progress.counts() == (
        f"{len(progress.running)} running, {len(progress.elsewhere)} made by another process, "
        f"{len(progress.failed)} failed, {len(progress.stopped)} stopped, {len(waiting)} to come"
    )


def test_several_at_once_begin_with_the_longest(base, tmp_path):
    both = [{**base, "epochs": epochs} for epochs in (1, 2, 10, 9)]
    prepared = prepare([*grid(both[0], seed=[0, 1]), *map(parse, both[1:])], tmp_path)
    one, other, two, ten, nine = (job.run_id for job in prepared.jobs)

    def order(width, known):
        progress = begin(prepared, width)
        if known:
            progress.pace.learn(prepared.jobs[0].tables, 1.0, 1)
        given = []

        class Patient(Here):
            room = len(prepared.jobs)

            def submit(self, jobs):
                given.extend(job.run_id for job in jobs)

        Runner(Patient(), Follower(), progress).step()
        return given

    # What takes about as long stays in the order of the file.
    assert order(2, known=True) == [ten, nine, two, one, other]
    assert order(2, known=False) == order(1, known=True) == [one, other, two, ten, nine]


def test_each_kind_of_run_is_timed_where_no_finished_run_is_like_it(base, tmp_path, monkeypatch):
    timed = []

    def time_runs(runs, width):
        for run in runs:
            timed.append((run["method"]["name"], run["model"]["hidden"]))
            yield None if run["method"]["name"] == "elr" else 30.0

    monkeypatch.setattr(sweep, "time_runs", time_runs)
    axes = {"model.hidden": [[8], [16]], "method": ["single", "elr"], "seed": [0, 1]}
    prepared = prepare(grid({**base, "epochs": 10}, **axes), tmp_path)
    progress = begin(prepared, 1)
    progress.pace.learn(prepared.jobs[0].tables, 10, 10)
    sweep.time_kinds(progress)
    assert timed == [("elr", [8]), ("single", [16]), ("elr", [16])]
    # What could not be timed is taken to be like the others of its data and model.
    assert progress.left() == 4 * 10 + 4 * 30


def test_being_asked_to_stop(base, tmp_path, monkeypatch):
    prepared, launcher = prepare(grid(base, seed=range(3)), tmp_path), Here()
    before = signal.getsignal(signal.SIGINT)

    def submit(jobs):
        launcher.given += [job.run_id for job in jobs]
        os.kill(os.getpid(), signal.SIGINT)
        launcher._heard.append(Ended(jobs[0].run_id, "stopped"))

    launcher.submit = submit
    with pytest.raises(StoppedError, match="stopped: 1 stopped, 2 to come; the same") as stopped:
        run(prepared, launcher)
    assert stopped.value.status == 130
    assert launcher.stopped
    assert len(launcher.given) == 1
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.long
def test_the_command_says_what_there_is_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(
        "[base]\ndata = 'digits'\nmodel.hidden = [8]\nepochs = 1\n[axes]\nseed = [0, 1]\n"
    )
    assert main(["sweep", "study.toml", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^2 runs; expected time: about .*\d+ s$", said, flags=re.MULTILINE)
    assert said.count("not started") == 2
    assert not (tmp_path / "runs").exists()
    run(prepare(study.read(study.Path("study.toml")), study.Path("runs")))
    assert main(["sweep", "study.toml"]) == 0
    assert "2 runs, all of them finished: nothing to do" in capsys.readouterr().out
    assert main(["sweep", "study.toml", "--dry-run", "--epochs", "2"]) == 0
    assert "2 runs are new since study.toml was last made" in capsys.readouterr().out
    folder = next(iter(RunFolder.find([tmp_path / "runs"])))
    assert main(["status", "study.toml"]) == 0
    said = capsys.readouterr().out
    assert "study.toml: 2 runs: 2 finished" in said
    assert "seed 1" in said
    tables = folder.config()
    shutil.rmtree(folder.path)
    folder.fail(tables, "a pity")
    assert main(["status", "study.toml", "runs"]) == 0
    said = capsys.readouterr().out
    assert said.count("study.toml: 2 runs: 1 finished, 1 failed") == 2
    assert (
        f"failed: seed {tables['seed']}: a pity (log: {folder.log.relative_to(tmp_path)})" in said
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["study.toml", "--jobs", "0"], "jobs must be in [1, inf), got 0"),
        (["study.toml", "--launcher", "slrum"], "unknown launcher 'slrum': did you mean 'slurm'?"),
        (["study.toml", "--loss", "gec"], "unknown loss 'gec': did you mean 'gce'?"),
        (["none.toml"], "none.toml: cannot be read"),
        (["study.toml", "--job", "2"], "unknown key 'job'"),
    ],
)
def test_bad_words(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text("[base]\ndata = 'digits'\n[axes]\nseed = [0]\n")
    assert main(["sweep", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
