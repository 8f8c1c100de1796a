import json
import os
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from noisylabels.errors import CheckpointError, MissingExtraError, NoisyLabelsError
from noisylabels.run import tracking
from noisylabels.run.callbacks import Callbacks, Start
from noisylabels.run.folder import RunFolder
from noisylabels.run.tracking import SERVICES, MetricsFile, Service, TensorBoard

SETTINGS = {"loss": {"name": "dal", "q_start": 0.6}, "epochs": 3}


def line(epoch, loss=0.5):
    return {"epoch": epoch, "loss": loss, "test_accuracy": 0.25, "train_accuracy_wrong": None}


def start(path, history=()):
    return Start("digits dal seed 0", path, len(history), 4, SETTINGS, history)


def follow(path, epochs, history=()):
    """Follow some epochs of a run as the loop does."""
    folder = RunFolder(path)
    callbacks = Callbacks([MetricsFile(folder), TensorBoard(folder)])
    callbacks.on_start(start(path, history))
    for metrics in epochs:
        callbacks.on_epoch(metrics)
    callbacks.on_end()


def scalars(path, tag):
    events = EventAccumulator(str(path))
    events.Reload()
    return events.Scalars(tag), set(events.Tags()["scalars"])


def test_lines_and_events_hold_the_same(tmp_path):
    follow(tmp_path, [line(epoch, loss=1.0 / (epoch + 1)) for epoch in range(3)])
    assert [m["epoch"] for m in RunFolder(tmp_path).metrics()] == [0, 1, 2]
    losses, tags = scalars(tmp_path, "loss")
    assert tags == {"loss", "test_accuracy"}
    assert [e.value for e in losses] == pytest.approx([1, 1 / 2, 1 / 3])


@pytest.mark.parametrize("left", [None, "", '{"epoch": 0, "loss": 9}\n{"epoch": 1, "lo'])
def test_continuing_writes_what_was_and_drops_what_comes_again(tmp_path, left):
    path = tmp_path / "metrics.jsonl"
    lines = [line(epoch) for epoch in range(4)]
    follow(tmp_path, lines)
    whole = path.read_bytes()
    if left is None:
        path.unlink()
    else:
        path.write_text(left)
    follow(tmp_path, lines[2:], history=lines[:2])
    assert path.read_bytes() == whole
    assert [e.step for e in scalars(tmp_path, "loss")[0]] == [0, 1, 2, 3]


def test_whoever_writes_hears_of_a_folder_that_is_gone(tmp_path):
    threads = threading.active_count()
    path = tmp_path / "run"
    path.mkdir()
    folder = RunFolder(path)
    callbacks = Callbacks([MetricsFile(folder), TensorBoard(folder)])
    callbacks.on_start(start(path))
    callbacks.on_epoch(line(0))
    assert threading.active_count() == threads, "a thread would show a traceback of its own"
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"run/metrics.jsonl: cannot be written"):
        callbacks.on_epoch(line(1))
    callbacks.on_end()


class Recorded:
    """A module that stands in for a service's client and writes down how it is called."""

    def __init__(self, active=None, **chosen):
        self.calls = []
        # wandb's open run and merged settings.
        self.run = self if active else None
        names = ("project", "run_id", "run_name", "resume")
        self.settings = SimpleNamespace(**dict.fromkeys(names) | chosen)
        # mlflow's open run, and what it says of it.
        self.active_run = lambda: self if active else None
        self.info = SimpleNamespace(run_id="abc", experiment_id="7")
        self.experiment_id = "7"
        self.params = {}
        self.data = SimpleNamespace(params=self.params)

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return self

        return call

    def log_params(self, params):
        self.calls.append(("log_params", (params,), {}))
        assert not set(self.params) & set(params), "a parameter cannot change"
        self.params |= params

    def setup(self):
        return self

    @property
    def config(self):
        return self

    def named(self, name):
        return [(args, kwargs) for called, args, kwargs in self.calls if called == name]


MLFLOW = ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")


def track(monkeypatch, path, name, client, variables=()):
    """Send an epoch to a service."""
    for variable in (*MLFLOW, "WANDB_DIR"):
        monkeypatch.delenv(variable, raising=False)
    for variable in variables:
        monkeypatch.setenv(variable, "mine")
    monkeypatch.setitem(sys.modules, name, client)
    service = SERVICES[name]()
    service.on_start(start(path))
    service.on_epoch(line(4))
    service.on_end()


def test_wandb_gets_every_epoch_and_continues_by_the_runs_id(tmp_path, monkeypatch):
    client = Recorded()
    track(monkeypatch, tmp_path, "wandb", client)
    (_, _, made), (_, logged, step), (last, _, _) = client.calls
    assert made == {
        "project": "noisylabels",
        "id": tmp_path.name,
        "name": "digits dal seed 0",
        "resume": "allow",
        "dir": tmp_path,
        "config": SETTINGS,
    }
    assert logged[0] == {"loss": 0.5, "test_accuracy": 0.25}
    assert step == {"step": 4}
    assert last == "finish"


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        ({"project": "mine"}, {"id", "name", "resume", "dir"}),
        ({"run_id": "mine", "run_name": "mine"}, {"project", "resume", "dir"}),
        ({"resume": "must"}, {"project", "id", "name", "dir"}),
    ],
)
def test_what_the_user_chose_in_wandb_is_left_to_it(tmp_path, monkeypatch, chosen, left):
    client = Recorded(**chosen)
    track(monkeypatch, tmp_path, "wandb", client)
    ((_, made),) = client.named("init")
    assert set(made) == left | {"config"}
    client = Recorded(**chosen)
    track(monkeypatch, tmp_path, "wandb", client, ["WANDB_DIR"])
    ((_, made),) = client.named("init")
    assert set(made) == left - {"dir"} | {"config"}


def test_an_open_run_of_wandb_is_used_and_stays_open(tmp_path, monkeypatch):
    client = Recorded(active=True)
    track(monkeypatch, tmp_path, "wandb", client)
    assert [name for name, _, _ in client.calls] == ["update", "log"]
    assert client.named("update")[0][0] == ({"noisylabels": SETTINGS},)
    # The steps are the user's.
    assert client.named("log") == [(({"loss": 0.5, "test_accuracy": 0.25, "epoch": 4},), {})]


def test_mlflow_keeps_its_run_when_a_run_continues(tmp_path, monkeypatch):
    client = Recorded()
    for _ in range(2):
        track(monkeypatch, tmp_path, "mlflow", client)
    named = {"experiment_id": "7", "run_name": "digits dal seed 0"}
    assert client.named("start_run") == [((), named), ((), {"run_id": "abc"})]
    settings = {"loss.name": "dal", "loss.q_start": 0.6, "epochs": 3}
    assert [params for (params,), _ in client.named("log_params")] == [settings, {}]
    sent = ({"loss": 0.5, "test_accuracy": 0.25},), {"step": 4, "run_id": "abc"}
    assert client.named("log_metrics") == [sent] * 2
    assert len(client.named("end_run")) == 2
    assert not client.named("set_experiment"), "it would be the one of all that the process does"


@pytest.mark.parametrize("variable", MLFLOW)
def test_what_the_user_chose_in_mlflow_is_left_to_it(tmp_path, monkeypatch, variable):
    client = Recorded()
    client.params["epochs"] = 9
    track(monkeypatch, tmp_path, "mlflow", client, [variable])
    # A name would be given to a run that has one.
    name = {} if variable == "MLFLOW_RUN_ID" else {"run_name": "digits dal seed 0"}
    assert client.named("start_run") == [((), name)]
    assert not client.named("create_experiment") + client.named("set_experiment")
    assert client.params["epochs"] == 9
    assert RunFolder(tmp_path).service("mlflow") == {"run_id": "abc"}


def test_an_open_run_of_mlflow_is_used_and_stays_open(tmp_path, monkeypatch):
    client = Recorded(active=True)
    track(monkeypatch, tmp_path, "mlflow", client)
    assert not client.named("start_run") + client.named("end_run")
    assert client.named("log_metrics")[0][1]["run_id"] == "abc"


def test_mlflows_experiment_is_made_once(tmp_path, monkeypatch):
    class Empty(Recorded):
        def __init__(self, there):
            super().__init__()
            self.there = there

        def get_experiment_by_name(self, name):
            return self.there.pop(0)

        def create_experiment(self, name):
            self.calls.append(("create_experiment", (name,), {}))
            if self.there:
                raise ValueError("there is one")
            return "8"

    made = SimpleNamespace(experiment_id="7")
    for number, (there, wanted) in enumerate([([None], "8"), ([None, made], "7")]):
        client = Empty(there)
        (tmp_path / str(number)).mkdir()
        track(monkeypatch, tmp_path / str(number), "mlflow", client)
        assert client.named("start_run")[0][1]["experiment_id"] == wanted
    with pytest.raises(ValueError, match="there is one"):
        track(monkeypatch, tmp_path / "2", "mlflow", Empty([None, None]))


REAL = """
import json, sys
import mlflow, wandb
from pathlib import Path
from noisylabels.run import loop
from noisylabels.run.callbacks import Callback
from noisylabels.run.config import parse
from noisylabels.run.trainer import train

loop.SECONDS_BETWEEN_SAVES = 0
opened, cut = sys.argv[1] == "opened", sys.argv[2] == "cut"


class Look(Callback):
    def on_epoch(self, metrics):
        run = mlflow.active_run()
        self.seen = {
            "wandb": [wandb.run.project, wandb.run.id, wandb.run.name],
            "mlflow": [mlflow.get_experiment(run.info.experiment_id).name, run.info.run_id],
        }
        if cut:
            raise KeyboardInterrupt


if opened:
    mine = wandb.init(project="opened", id="theirs", name="name", config={"seed": 5})
    wandb.log({"something": 1}, step=50)
    mlflow.set_experiment("opened")
    run = mlflow.start_run()
    mlflow.log_param("seed", 5)
look = Look()
config = {"data": "digits", "model": {"name": "mlp", "hidden": [4]}, "epochs": 2, "loss": "ce"}
config["trackers"] = ["wandb", "mlflow"]
try:
    train(parse(config), Path("runs"), [look])
except KeyboardInterrupt:
    assert cut
if opened:
    assert wandb.run is mine and mine.config["seed"] == 5, "the user's run"
    assert mine.config["noisylabels"]["epochs"] == 2
    assert mlflow.active_run().info.run_id == run.info.run_id, "the user's run"
    wandb.finish()
    mlflow.end_run()
assert wandb.run is None and mlflow.active_run() is None
run = mlflow.get_run(look.seen["mlflow"][1])
history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
look.seen["epochs"] = [metric.step for metric in history]
look.seen["params"] = [run.data.params["loss.name"], run.data.params["seed"]]
look.seen["name"] = run.info.run_name
print(json.dumps(look.seen))
"""


def really_track(folder, *words, **variables):
    """Train in a process of its own with the services' packages, of which nothing is sent out."""
    for package in ("wandb", "mlflow", "sqlalchemy"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install wandb mlflow-skinny sqlalchemy")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MLFLOW_"))}
    environment = kept | {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HOME": str(folder),
    }
    command = [sys.executable, "-W", "ignore", "-c", REAL, *words]
    done = subprocess.run(
        command, cwd=folder, env=environment | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_real_services_follow_a_run_that_is_cut(tmp_path):
    first = really_track(tmp_path, "closed", "cut")
    whole = really_track(tmp_path, "closed", "whole")
    (folder,) = (tmp_path / "runs").iterdir()
    assert first["wandb"] == whole["wandb"] == ["noisylabels", folder.name, "digits ce seed 0"]
    assert first["mlflow"] == whole["mlflow"]
    assert whole["mlflow"][0] == "noisylabels"
    assert (first["epochs"], whole["epochs"]) == ([0], [0, 1])
    assert whole["name"] == "digits ce seed 0"
    assert len(list(folder.glob(f"wandb/offline-run-*-{folder.name}"))) == 2


@pytest.mark.slow
def test_the_users_settings_of_the_real_services_win(tmp_path):
    chosen = {
        "WANDB_PROJECT": "mine",
        "WANDB_RUN_ID": "one",
        "WANDB_NAME": "named",
        "WANDB_DIR": str(tmp_path),
        "MLFLOW_EXPERIMENT_NAME": "mine",
    }
    seen = really_track(tmp_path, "closed", "cut", **chosen)
    assert seen["wandb"] == ["mine", "one", "named"]
    assert seen["mlflow"][0] == "mine"
    assert list(tmp_path.glob("wandb/offline-run-*-one"))
    continued = really_track(tmp_path, "closed", "whole", MLFLOW_RUN_ID=seen["mlflow"][1])
    assert continued["mlflow"] == seen["mlflow"]
    assert continued["epochs"] == [0, 1]


@pytest.mark.slow
def test_open_runs_of_the_real_services_are_used_and_stay_open(tmp_path):
    seen = really_track(tmp_path, "opened", "whole")
    assert seen["wandb"] == ["opened", "theirs", "name"]
    assert seen["mlflow"][0] == "opened"
    assert seen["epochs"] == [0, 1]
    assert seen["params"] == ["ce", "5"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_missing_service_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"{name} is not installed: pip install"):
        Service(name, print)


class Failing:
    """A service whose network fails in one of its methods."""

    def __init__(self, method):
        self.calls, self.method = [], method

    def __getattr__(self, name):
        def call(*args):
            self.calls.append(name)
            if name == self.method:
                raise ConnectionError("no network")

        return call


def failing(monkeypatch, method, say):
    client = Failing(method)
    monkeypatch.setitem(tracking.SERVICES, "wandb", lambda: client)
    return client, Service("wandb", say)


def test_a_service_that_fails_later_does_not_end_the_run(monkeypatch):
    said = []
    client, service = failing(monkeypatch, "on_epoch", said.append)
    service.on_start(start(Path("runs/abc")))
    for epoch in range(3):
        service.on_epoch(line(epoch))
    service.on_end()
    assert said == ["wandb gets no more metrics: ConnectionError('no network')"]
    assert client.calls == ["on_start", "on_epoch", "on_end"], "closed once, when it fails"
    client, service = failing(monkeypatch, "on_end", said.append)
    service.on_start(start(Path("runs/abc")))
    service.on_end()
    assert client.calls == ["on_start", "on_end"]


def test_a_service_that_cannot_start_is_named_and_closed(monkeypatch):
    client, service = failing(monkeypatch, "on_start", print)
    with pytest.raises(NoisyLabelsError, match="trackers: wandb cannot be started: no network"):
        service.on_start(start(Path("runs/abc")))
    service.on_end()
    assert client.calls == ["on_start", "on_end"]
