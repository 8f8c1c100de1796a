import html
import html.parser
import os
import re
import signal
import socket
import statistics
import subprocess
import sys

import pytest

from browser import browse
from noisylabels.__main__ import main
from noisylabels.data.datasets import Digits
from noisylabels.errors import ConfigError, DataError
from noisylabels.paper.hyperparameters import HYPERPARAMETERS
from noisylabels.run import config, loop
from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.interruption import StoppedError
from noisylabels.run.plan import plan
from noisylabels.run.trainer import train
from noisylabels.studies import space, tune, tune_page
from noisylabels.studies.launchers.jobs import Advanced, Ended, Launcher, make
from noisylabels.studies.tuning import Candidate, Trial, Watcher, percent

BASE = {
    "data": "digits",
    "noise": {"name": "symmetric", "rate": 0.4},
    "model": {"name": "mlp", "hidden": [16]},
    "loss": {"name": "gce", "q": 0.5},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "epochs": 2,
    "batch_size": 64,
}
SPACE = {
    "loss.q": {"low": 0.1, "high": 1},
    "optimizer.lr": {"low": 0.01, "high": 1.0, "log": True},
    "batch_size": {"low": 32, "high": 128, "step": 32},
}


class Here(Launcher):
    """Makes runs in this process, one after the other: no import of torch for each test.

    Args:
        tell: Is told of everything that happens to a run; what it raises ends all.
        stop_at: How many runs are begun when somebody presses Ctrl-C.
    """

    width = 1

    def __init__(self, tell=lambda event: None, stop_at=None):
        self._tell, self._stop_at = tell, stop_at
        self._queue, self.begun = [], []

    @property
    def room(self):
        return 1 - len(self._queue)

    def submit(self, jobs):
        self._queue += jobs
        self.begun += jobs
        if self._stop_at is not None and len(self.begun) == self._stop_at:
            signal.raise_signal(signal.SIGINT)

    def events(self, seconds):
        if not self._queue:
            return []
        job, told = self._queue.pop(), []

        def tell(event):
            told.append(event)
            self._tell(event)

        ended = make(job, tell)
        return [*told, ended]

    def stop(self, run_ids=None):
        # As a worker does that is asked before its first step.
        stopped = [Ended(job.run_id, "stopped") for job in self._queue]
        self._queue.clear()
        self.events = lambda seconds: [stopped.pop()] if stopped else []

    def __exit__(self, kind, error, trace):
        pass


class Notes(Watcher):
    def __init__(self):
        self.trials, self.stages, self.messages = [], [], []

    def on_trial(self, trial, state):
        self.trials.append(trial)

    def on_stage(self, sentence, state):
        self.stages.append(sentence)

    def on_message(self, sentence):
        self.messages.append(sentence)


def prepare(out, tables=SPACE, base=BASE, **options):
    return tune.prepare(parse(base), space.parse(tables), out, **options)


def run(tuning, launcher=None, watcher=None):
    opened = tune.open_trials(tuning)
    return tune.run(tuning, opened, launcher or Here(), watcher or Watcher())


def count(out):
    """How often each run was trained, by its TensorBoard files: one for each beginning."""
    return {
        folder.path.name: len(list(folder.path.glob("events.*")))
        for folder in RunFolder.find([out])
    }


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned")
    notes = Notes()
    tuning = prepare(out, trials=6, suggestions=HYPERPARAMETERS)
    return run(tuning, watcher=notes), notes


def test_the_best_hold_out_accuracy_is_chosen(tuned):
    outcome, notes = tuned
    assert [trial.state for trial in outcome.trials] == ["finished"] * 6
    assert [trial.number for trial in notes.trials] == [1, 2, 3, 4, 5, 6]
    for trial in outcome.trials:
        (run_id,) = trial.runs
        folder = RunFolder(outcome.tuning.out / run_id)
        stored = folder.config()
        assert stored["validation"] == 0.1
        assert stored["test"] is stored["save_model"] is False
        assert stored["loss"]["q"] == trial.values["loss.q"]
        assert stored["batch_size"] == trial.values["batch_size"]
        assert trial.accuracy == folder.result()["validation_accuracy"]
        assert trial.accuracy == folder.metrics()[-1]["validation_accuracy"]
        assert 0.1 <= trial.values["loss.q"] <= 1
        assert trial.values["batch_size"] in (32, 64, 96, 128)
    best = sorted(outcome.trials, key=lambda trial: trial.accuracy)[-3:]
    assert {each.trial.number for each in outcome.candidates} == {each.number for each in best}
    for each in outcome.candidates:
        accuracies = [
            RunFolder(
                outcome.tuning.out / plan(outcome.tuning.run(each.trial.values, seed)).run_id
            ).result()["validation_accuracy"]
            for seed in range(3)
        ]
        assert list(each.accuracies) == accuracies
        assert accuracies[0] == each.trial.accuracy
    means = [each.mean for each in outcome.candidates]
    assert means == sorted(means, reverse=True)


def test_the_runs_own_values_and_the_papers_are_tried_first(tuned):
    first = [trial.values for trial in tuned[0].trials[:3]]
    own = {"optimizer.lr": 0.1, "batch_size": 64}
    assert first == [{"loss.q": q} | own for q in (0.5, 0.9, 0.7)]


def test_the_final_run_is_the_one_of_the_file_that_was_written(tuned):
    outcome = tuned[0]
    written = config.load(outcome.tuning.chosen)
    assert written.loss.parameters["q"] == outcome.chosen.trial.values["loss.q"]
    assert (written.validation, written.test, written.save_model) == (0.0, True, True)
    (final,) = outcome.finals
    assert plan(written).run_id == final.path.name
    assert count(outcome.tuning.out)[final.path.name] == 1
    assert train(written, outcome.tuning.out) == final.path
    assert count(outcome.tuning.out)[final.path.name] == 1
    assert outcome.test_accuracies() == [final.result()["test_accuracy"]]
    assert len(final.labels()["given"]) == 1437


def test_a_final_run_that_is_a_trial_too_keeps_its_weights(tmp_path):
    alone = prepare(tmp_path, base={**BASE, "test": False, "validation": 0.1}, trials=1)
    (final,) = run(alone).finals
    assert (final.path / "model.safetensors").exists()
    assert count(tmp_path)[final.path.name] == 1


def test_the_same_command_does_nothing_anew(tuned):
    before, _ = tuned
    launcher = Here()
    outcome = run(before.tuning, launcher)
    assert launcher.begun == []
    assert outcome.trials == before.trials
    assert [each.accuracies for each in outcome.candidates] == [
        each.accuracies for each in before.candidates
    ]


class Cells(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.rows, self._cell = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        if tag == "td":
            self._cell = False

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data


def test_the_page_has_the_studys_numbers(tuned, tmp_path):
    outcome = tuned[0]
    tune_page.write(outcome, tmp_path / "tune.html")
    text = (tmp_path / "tune.html").read_text()
    rows = [row for row in Cells(text).rows if row]
    best, every = rows[:3], rows[3:]
    assert [row[0] for row in every] == [str(trial.number) for trial in outcome.trials]
    for row, trial in zip(every, outcome.trials, strict=True):
        assert row[1:5] == [
            f"{trial.values['loss.q']:.4g}",
            f"{trial.values['optimizer.lr']:.4g}",
            str(trial.values["batch_size"]),
            f"{100 * trial.accuracy:.1f} %",
        ]
        assert row[5] == "finished"
        assert row[7] == trial.runs[0]
    for row, each in zip(best, outcome.candidates, strict=True):
        assert row[0] == str(each.trial.number)
        assert row[4:7] == [f"{100 * value:.1f} %" for value in each.accuracies]
        mean, std = statistics.mean(each.accuracies), statistics.stdev(each.accuracies)
        assert row[7] == f"{100 * mean:.1f} ± {100 * std:.1f} %"
    plain = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))
    assert f"loss.q {outcome.chosen.trial.values['loss.q']!r} " in plain
    final = outcome.finals[0].result()
    assert f"final test accuracy {100 * final['test_accuracy']:.1f} %, against true" in plain
    rate = outcome.noise_rate
    assert f"{100 * rate:.1f} % of the labels are wrong" in plain
    assert f"a difference of 1 point shows as {1 - rate * 10 / 9:.2f}" in plain
    assert "With 144 examples held out" in plain
    assert text.count("<svg") == 3
    assert not re.search(r'(src|href)="http', text)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_its_window(tuned, tmp_path, width):
    tune_page.write(tuned[0], tmp_path / "tune.html")
    source = html.escape((tmp_path / "tune.html").read_text(encoding="utf-8"))
    (tmp_path / "frame.html").write_text(
        f'<body><iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{source}">'
        "</iframe><script>onload = () => { const page = document.querySelector('iframe')"
        ".contentDocument.documentElement; document.body.textContent = page.scrollWidth }"
        "</script></body>",
        encoding="utf-8",
    )
    shown = browse(tmp_path, "--dump-dom", (tmp_path / "frame.html").as_uri())
    assert int(re.search(r"<body>(\d+)", shown)[1]) <= width


def test_clean_labels_are_what_is_chosen_by(tmp_path):
    clean = tmp_path / "clean.csv"
    true = Digits().load().train.labels
    rows = [f"{row},{int(true[row])}" for row in range(0, 1437, 20)]
    clean.write_text("\n".join(["row,label", *rows]))
    tuning = prepare(
        tmp_path,
        base=BASE | {"validation_labels": str(clean), "epochs": 1},
        tables={"loss.q": [0.3, 0.7]},
        trials=2,
    )
    assert str(clean) in tune.describe(tuning, tune.open_trials(tuning))
    outcome = run(tuning)
    for trial in outcome.trials:
        folder = RunFolder(outcome.tuning.out / trial.runs[0])
        held = folder.labels()
        assert held["validation_clean"].tolist() == true[held["validation_rows"]].tolist()
        predicted = folder.predictions()["validation_probabilities"].argmax(1)
        assert trial.accuracy == pytest.approx((predicted == held["validation_clean"]).mean())
    assert config.load(outcome.tuning.chosen).validation_labels == clean
    tune_page.write(outcome, tmp_path / "tune.html")
    page = (tmp_path / "tune.html").read_text()
    assert "labels that are held out are known to be right" in page
    assert "with their given labels" not in page


def test_no_trial_touches_a_test_label(tmp_path):
    """By a source whose test labels raise whatever is asked of them."""
    sealed = BASE | {"data": "sealed:SealedDigits", "epochs": 1}
    outcome = run(prepare(tmp_path, base=sealed | {"test": False}, trials=3))
    assert [trial.state for trial in outcome.trials] == ["finished"] * 3
    assert outcome.test_accuracies() == []
    assert "final test accuracy" not in " ".join(outcome.sentences())
    tune_page.write(outcome, tmp_path / "tune.html")
    assert "not evaluated" in (tmp_path / "tune.html").read_text()
    # The check can fail: the final run, which is to be tested, is the first that looks.
    notes = Notes()
    tuning = prepare(tmp_path, base=sealed, trials=3)
    with pytest.raises(tune.TuneError, match="its run failed: .*of the test labels"):
        run(tuning, watcher=notes)
    assert [trial.state for trial in tune.open_trials(tuning).list()] == ["finished"] * 3
    assert notes.stages[-1] == "trial " + notes.stages[-1].split()[1] + (
        " is chosen; its final run on all training data"
    )
    assert tuning.chosen.exists()


def test_a_trial_that_dies_is_continued_and_none_is_made_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0)
    tuning = prepare(tmp_path, base=BASE | {"epochs": 3}, trials=5)
    seen = []

    def die(event):
        if isinstance(event, Advanced) and event.metrics:
            seen.append(event)
            if len(seen) == 3 + 3 + 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tuning, Here(die))
    left = tune.open_trials(tuning).list()
    assert [trial.state for trial in left] == ["finished", "finished", "running"]
    assert len(RunFolder(tmp_path / left[2].runs[0]).metrics()) == 2
    starts = []

    def note(event):
        if isinstance(event, Advanced) and not event.metrics:
            starts.append((event.run_id, event.epoch))

    launcher = Here(note)
    outcome = run(tuning, launcher)
    assert [trial.state for trial in outcome.trials] == ["finished"] * 5
    assert outcome.trials[2].values == left[2].values
    assert starts[0] == (left[2].runs[0], 2), "it goes on where it was"
    begun = [job.run_id for job in launcher.begun]
    assert len(begun) == len(set(begun))
    assert not set(begun) & {trial.runs[0] for trial in left[:2]}
    # What would have come without the interruption.
    whole = run(prepare(tmp_path / "other", base=BASE | {"epochs": 3}, trials=5))
    assert [trial.values for trial in whole.trials] == [trial.values for trial in outcome.trials]
    assert [trial.accuracy for trial in whole.trials] == [
        trial.accuracy for trial in outcome.trials
    ]


def test_ctrl_c_ends_in_one_line_and_the_same_command_continues(tmp_path):
    tuning = prepare(tmp_path, trials=4)
    with pytest.raises(StoppedError) as stopped:
        run(tuning, Here(stop_at=3))
    assert stopped.value.status == 130
    assert str(stopped.value) == "stopped: 3 of 4 trials; the same command continues"
    with pytest.raises(StoppedError, match="stopped: 4 of 4 trials, in the repeats; the same"):
        run(tuning, Here(stop_at=3))
    outcome = run(tuning)
    assert [trial.state for trial in outcome.trials] == ["finished"] * 4
    assert set(count(tmp_path).values()) == {1}


def test_more_trials_go_on_from_those_that_are_there(tmp_path):
    run(prepare(tmp_path, trials=2))
    outcome = run(prepare(tmp_path, trials=4))
    assert [trial.state for trial in outcome.trials] == ["finished"] * 4
    assert set(count(tmp_path).values()) == {1}


def test_another_run_space_or_number_of_seeds_is_another_study(tmp_path):
    name = prepare(tmp_path).name
    assert re.fullmatch(r"run-[0-9a-f]{8}", name)
    assert prepare(tmp_path / "else", trials=7, storage="x.journal").name == name
    others = [
        prepare(tmp_path, base=BASE | {"epochs": 3}),
        prepare(tmp_path, base=BASE | {"seed": 1}),
        prepare(tmp_path, seeds=2),
        prepare(tmp_path, SPACE | {"batch_size": [32]}),
    ]
    assert len({name, *(each.name for each in others)}) == 5
    assert prepare(tmp_path, name="a b/ü").name.startswith("a-b-")


def test_a_trial_that_fails_is_listed_and_the_others_go_on(tmp_path):
    notes = Notes()
    tuning = prepare(tmp_path, {"optimizer.lr": [0.1, 1e30]}, trials=6)
    outcome = run(tuning, watcher=notes)
    failed = [trial for trial in outcome.trials if trial.state == "failed"]
    assert 1 <= len(failed) < 6
    assert all(trial.values == {"optimizer.lr": 1e30} for trial in failed)
    assert "not finite" in failed[0].error
    assert f"(log: {tmp_path}" in failed[0].error
    assert outcome.chosen.trial.values == {"optimizer.lr": 0.1}
    assert outcome.sentences()[0].startswith(
        f"{len(failed)} of 6 trials failed, such as optimizer.lr 1e+30: "
    )
    assert len(outcome.candidates) == 1, "the same values are no other candidate"
    tune_page.write(outcome, tmp_path / "tune.html")
    assert "not finite" in (tmp_path / "tune.html").read_text()


def test_where_all_fail_that_is_said(tmp_path):
    with pytest.raises(tune.TuneError, match="2 of 2 trials failed and none has fini") as failed:
        run(prepare(tmp_path, {"optimizer.lr": [1e30, 1e31]}, trials=2))
    assert failed.value.status == 1


def test_seeds_repeat_each_trial(tmp_path):
    tuning = prepare(tmp_path, {"loss": ["ce", {"name": "gce", "q": 0.5}]}, trials=4, seeds=2)
    outcome = run(tuning)
    for trial in outcome.trials:
        results = [RunFolder(tmp_path / run_id) for run_id in trial.runs]
        assert [folder.config()["seed"] for folder in results] == [0, 1]
        accuracies = [folder.result()["validation_accuracy"] for folder in results]
        assert list(trial.accuracies) == accuracies
        assert trial.accuracy == statistics.fmean(accuracies)
    assert [len(each.accuracies) for each in outcome.candidates] == [3, 3]
    assert [folder.config()["seed"] for folder in outcome.finals] == [0, 1]
    assert "over 2 seeds" in outcome.sentences()[-1]
    assert outcome.trials[0].values["loss"] == {"name": "gce", "q": 0.5}, "the run's own"


def test_what_another_process_makes_is_left_to_it(tmp_path):
    tuning = prepare(tmp_path, trials=2)
    other = tune.open_trials(tuning)
    other.suggest(tuning.first)
    theirs = other.ask()
    made = plan(tuning.run(theirs.values, 0))
    other.assign(theirs, [made.run_id], tmp_path)
    holding = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from noisylabels.run.folder import RunFolder\n"
            f"with RunFolder(Path({str(tmp_path / made.run_id)!r})).held():\n"
            "    print('held', flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holding.stdout.readline() == "held\n"
    notes = Notes()

    class Once(Here):
        def events(self, seconds):
            told = super().events(seconds)
            if len(self.begun) == 1 and not told and holding.poll() is None:
                # Nothing is left here; the other one dies.
                holding.kill()
                holding.wait()
            return told

    launcher = Once()
    outcome = run(tuning, launcher, notes)
    assert launcher.begun[0].run_id != made.run_id
    assert [trial.number for trial in notes.trials] == [2, 1]
    assert [trial.state for trial in outcome.trials] == ["finished"] * 2
    assert set(count(tmp_path).values()) == {1}
    holding.stdin.close()
    holding.stdout.close()


def test_two_at_once_count_each_others_trials(tmp_path):
    """What the second tells of a trial that the first has told already changes nothing."""
    tuning = prepare(tmp_path, trials=2)
    first, second = tune.open_trials(tuning), tune.open_trials(tuning)
    trial = first.ask()
    assert [each.state for each in second.list()] == ["running"]
    first.finish(trial, [0.5], 1.0)
    second.finish(trial, [0.7], 2.0)
    second.fail(trial, "too late")
    (seen,) = second.list()
    assert (seen.state, seen.accuracy, seen.accuracies) == ("finished", 0.5, (0.5,))
    assert second.ask().number == 2


def test_a_trial_without_its_values_fails_after_a_while(tmp_path, monkeypatch):
    tuning = prepare(tmp_path, trials=2)
    opened = tune.open_trials(tuning)
    opened._study.ask()
    monkeypatch.setattr(tune, "SECONDS_FOR_VALUES", 0.0)
    outcome = run(tuning)
    assert [trial.state for trial in outcome.trials] == ["failed", "finished"]
    assert outcome.trials[0].error == "it was interrupted before it had its values"


def test_trials_of_a_machine_that_is_not_in_sight_are_left_to_it(tmp_path, monkeypatch):
    tuning = prepare(tmp_path, trials=2)
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    opened = tune.open_trials(tuning)
    opened.assign(opened.ask(), ["0123"], tmp_path / "another")
    monkeypatch.undo()
    monkeypatch.setattr(tune, "SECONDS_FOR_A_START", 0.0)
    outcome = run(tuning)
    assert [trial.state for trial in outcome.trials] == ["running", "finished"]
    assert outcome.trials[0].host == "elsewhere"


def test_a_trial_of_a_machine_that_died_before_it_had_a_run_folder_is_taken_up(
    tmp_path, monkeypatch
):
    """That the folder is shared is seen by its mark, wherever it is mounted."""
    shared = tmp_path / "shared"
    (tmp_path / "mounted").symlink_to(shared)
    tuning, other = prepare(shared, trials=2), prepare(tmp_path / "mounted", trials=2)
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    opened = tune.open_trials(tuning)
    opened.assign(opened.ask(), ["0123"], shared)
    monkeypatch.undo()
    waited = []

    class Waiting(Here):
        def events(self, seconds):
            if not self._queue and not waited:
                waited.append([trial.state for trial in opened.list()])
                monkeypatch.setattr(tune, "SECONDS_FOR_A_START", 0.0)
            return super().events(seconds)

    outcome = run(other, Waiting())
    # It was left to that machine until a minute had passed.
    assert waited == [["running", "finished"]]
    assert [trial.state for trial in outcome.trials] == ["finished"] * 2
    assert outcome.trials[0].host == socket.gethostname()
    assert len(list(shared.glob("tuning/.*.place"))) == 1


def test_a_database_keeps_trials_too(tmp_path):
    storage = f"sqlite:///{tmp_path / 'tune.db'}"
    run(prepare(tmp_path, trials=2, storage=storage))
    outcome = run(prepare(tmp_path, trials=3, storage=storage))
    assert [trial.state for trial in outcome.trials] == ["finished"] * 3
    assert outcome.storage == storage
    assert not list(tmp_path.glob("tuning/*.journal"))
    # Both kinds propose the same.
    other = run(prepare(tmp_path, trials=3))
    assert [trial.values for trial in other.trials] == [trial.values for trial in outcome.trials]


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("sqlite:////none/of/these/tune.db", "cannot be reached or used (unable to open database"),
        ("sqlite://", "expected a file, as in sqlite:///tune.db"),
        ("nonsense://x", "cannot be reached or used (Can't load plugin"),
        ("postgresql+psycopg2://me:secret@localhost:1/db", "me:***@localhost:1/db: "),
        ("://x", "storage: expected an address such as sqlite:///tune.db"),
        ("/dev/null/tune.journal", "/dev/null/tune.journal: cannot be reached or used ("),
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_line(tmp_path, storage, message):
    with pytest.raises(ConfigError) as refused:
        tune.open_trials(prepare(tmp_path, storage=storage))
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_journal_is_named_and_stays(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('data = "digits"\n')
    with pytest.raises(ConfigError, match="run.toml: expected what Optuna has written"):
        tune.open_trials(prepare(tmp_path, storage=str(path)))
    assert path.read_text() == 'data = "digits"\n'


def test_a_storage_that_goes_away_loses_nothing(tmp_path):
    tuning = prepare(tmp_path, trials=3, storage=f"sqlite:///{tmp_path / 'tune.db'}")
    opened = tune.open_trials(tuning)

    class Losing(Notes):
        def on_trial(self, trial, state):
            (tmp_path / "tune.db").write_bytes(b"no database any more" * 100)

    with pytest.raises(DataError, match="every run folder stays, the same command continues"):
        tune.run(tuning, opened, Here(), Losing())
    (tmp_path / "tune.db").unlink()
    launcher = Here()
    outcome = run(tuning, launcher)
    assert [trial.state for trial in outcome.trials] == ["finished"] * 3
    # The same trials are proposed again, and those whose runs are there are found finished.
    assert outcome.trials[0].runs[0] not in {job.run_id for job in launcher.begun}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials must be in [1, inf), got 0"),
        ({"seeds": 0}, "seeds must be in [1, inf), got 0"),
        ({"prune": True, "seeds": 2}, "prune: a trial is given up by the epochs of a single run"),
        ({"base": BASE | {"devices": 2}}, "a trial has one process, got devices 2"),
        ({"base": BASE | {"loss": "gec"}}, "unknown loss 'gec'"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is(tmp_path, options, message):
    with pytest.raises(ConfigError) as refused:
        prepare(tmp_path, **options)
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_standard_errors_and_who_is_within_them():
    candidate = Candidate(Trial(1, "finished", {}), [0.5, 0.6, 0.7])
    assert candidate.mean == pytest.approx(0.6)
    assert candidate.deviation == pytest.approx(0.1)
    assert candidate.error == pytest.approx(0.1 / 3**0.5)
    assert percent([0.5, 0.6, 0.7]) == "60.0 ± 10.0 % over 3 seeds"


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(
        'data = "digits"\nnoise = {name = "symmetric", rate = 0.4}\n'
        'model = {name = "mlp", hidden = [16]}\nloss = {name = "gce", q = 0.5}\n'
        "epochs = 2\nbatch_size = 64\n"
    )
    (tmp_path / "space.toml").write_text('"optimizer.lr" = {low = 1e-4, high = 1.0, log = true}\n')
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space", "none.toml"], "none.toml: cannot be read"),
        (["--space", "space.toml", "--storage", "sqlite:////none/x.db"], "unable to open database"),
        (["--space", "space.toml", "--loss.q", "-1"], "q must be in"),
        (
            ["--space", "space.toml", "--launcher", "lokal"],
            "--launcher must be 'local' or 'ray', got 'lokal'",
        ),
        (["--space", "space.toml", "--prune", "--seeds", "2"], "prune: "),
    ],
)
def test_bad_words_are_one_line_and_status_2(files, capsys, words, message):
    assert main(["tune", "run.toml", *words]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (files / "runs").exists()


COMMAND = [sys.executable, "-m", "noisylabels", "tune", "run.toml", "--space", "space.toml"]


@pytest.mark.long
@pytest.mark.slow
def test_the_command_prunes_with_workers_and_writes_what_it_chose(files, capsys):
    words = ["--epochs", "12", "--trials", "9", "--jobs", "2", "--prune"]
    assert main(["tune", "--space", "space.toml", "run.toml", *words]) == 0
    printed, shown = capsys.readouterr()
    lines = printed.splitlines()
    assert re.match(r"study run-[0-9a-f]{8} in runs/tuning/.*journal: new; chosen by", lines[0])
    assert lines[-1] == "tune.html"
    assert (files / lines[-2]).exists()
    trials = re.findall(r"trial (\d+) of 9: optimizer.lr \S+: (hold-out \d+\.\d %|pruned)", shown)
    assert {int(number) for number, _ in trials} == set(range(1, 10))
    pruned = [number for number, said in trials if said == "pruned"]
    assert pruned
    folders = RunFolder.find([files / "runs"])
    stopped = [folder for folder in folders if folder.state() == "stopped"]
    assert len(stopped) == len(pruned)
    assert all(4 <= len(folder.metrics()) < 12 for folder in stopped)
    assert "pruned" in (files / "tune.html").read_text()


@pytest.mark.long
@pytest.mark.slow
def test_two_commands_share_a_study_and_one_takes_up_what_the_killed_one_left(files):
    words = ["--epochs", "10", "--trials", "6", "--storage", "sqlite:///tune.db"]
    both = [
        subprocess.Popen(
            [*COMMAND, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for _ in range(2)
    ]
    killed, other = both
    for line in killed.stdout:
        if line.startswith("trial "):
            break
    killed.kill()
    killed.wait()
    killed.stdout.close()
    printed = other.communicate(timeout=300)[0]
    assert other.returncode == 0, printed
    assert "\nchosen: trial " in printed
    tuning = tune.prepare(
        config.load(files / "run.toml", ["--epochs", "10"]),
        space.read(files / "space.toml"),
        trials=6,
        storage="sqlite:///tune.db",
    )
    trials = tune.open_trials(tuning).list()
    # One more where both asked for the last one in the same moment.
    assert 6 <= len(trials) <= 7
    assert {trial.state for trial in trials} == {"finished"}
    folders = RunFolder.find([files / "runs"])
    assert {folder.state() for folder in folders} == {"finished"}
    for folder in folders:
        assert [line["epoch"] for line in folder.metrics()] == list(range(10))
    # Those of the trials, of further seeds of the best three, and the final one.
    assert len(folders) == len(trials) + 3 * 2 + 1
