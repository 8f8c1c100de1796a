import dataclasses
import json
import math
import os
import signal
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open

import noisylabels
from noisylabels.atomic import write_json
from noisylabels.data.datasets import Digits
from noisylabels.data.poison import add_patch
from noisylabels.errors import CheckpointError, ConfigError, DataError, NoisyLabelsError
from noisylabels.labels import read_archive
from noisylabels.models import mlp
from noisylabels.run import checkpoint, loop
from noisylabels.run.callbacks import Callback
from noisylabels.run.config import Component, parse
from noisylabels.run.folder import FILES, RunFolder
from noisylabels.run.interruption import StoppedError
from noisylabels.run.plan import plan
from noisylabels.run.trainer import train
from noisylabels.studies.status import find
from pictures import encode, pixels, save

ACCURACIES = {
    "test_accuracy",
    "train_accuracy",
    "train_accuracy_correct",
    "train_accuracy_wrong",
}


class Recorder(Callback):
    def __init__(self, stop_after=None):
        self.starts, self.epochs, self.stop_after = [], [], stop_after
        self.notes, self.ends = [], 0

    def on_start(self, start):
        self.starts.append((start.name, start.epoch, start.epochs))

    def on_message(self, sentence):
        self.notes.append(sentence)

    def on_epoch(self, metrics):
        self.epochs.append(metrics["epoch"])
        if len(self.epochs) == self.stop_after:
            raise KeyboardInterrupt

    def on_end(self):
        self.ends += 1


@pytest.fixture(autouse=True)
def saving_after_every_epoch(monkeypatch):
    """Runs of milliseconds would save nothing that a cut could continue from."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0)


def read(folder, name="result.json"):
    return json.loads((folder / name).read_text())


def contents(folder):
    """Everything that must be the same however often a run was cut."""
    run = RunFolder(folder)
    weights, _ = run.model()
    result = run.result()
    return {
        "metrics": (folder / "metrics.jsonl").read_bytes(),
        "predictions": {name: array.tobytes() for name, array in run.predictions().items()},
        "weights": {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
        "result": {key: result[key] for key in (*ACCURACIES, "actual_noise_rate", "run_id")},
    }


def test_run_folder_holds_what_is_promised(digits, tmp_path):
    digits["loss"] = {"name": "dal", "q_start": 0.6, "q_end": 1.5}
    folder = train(parse(digits), tmp_path)
    names = {path.name for path in folder.iterdir()}
    events = {name for name in names if name.startswith("events.")}
    left_out = {"events.*", "checkpoint.pt", "nonfinite.npz", "mlflow.json", "failure.json"}
    assert names - events == {*FILES, "README.md", ".lock"} - left_out
    assert len(events) == 1
    result = read(folder)
    assert result["run_id"] == folder.name
    assert result["epochs"] == 3
    assert result["nominal_noise_rate"] == 0.4
    assert 0.3 < result["actual_noise_rate"] < 0.42
    assert result["seconds"] > 0
    assert result["images_per_second"] > 100
    assert 50e6 < result["peak_memory_bytes"] < 24e9
    assert {"noisylabels", "torch", "python"} <= set(result["versions"])

    labels = RunFolder(folder).labels()
    predictions = RunFolder(folder).predictions()
    assert predictions["train_probabilities"].dtype == np.float16
    assert predictions["train_probabilities"].shape == (1437, 10)
    predicted = set(predictions["test_probabilities"].argmax(1).tolist())
    assert result["unpredicted_classes"] == 10 - len(predicted) > 0
    assert predictions["test_probabilities"].shape == (360, 10)
    wrong = labels["given"] != labels["true"]
    assert wrong.mean() == pytest.approx(result["actual_noise_rate"])
    hit = predictions["train_probabilities"].argmax(1) == labels["given"]
    assert hit[wrong].mean() == pytest.approx(result["train_accuracy_wrong"], abs=0.003)
    assert hit[~wrong].mean() == pytest.approx(result["train_accuracy_correct"], abs=0.003)
    right = predictions["test_probabilities"].argmax(1) == labels["test"]
    assert right.mean() == pytest.approx(result["test_accuracy"], abs=0.003)

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert set(lines[0]) == {"epoch", "loss", "lr", "q", "lamb"} | ACCURACIES
    assert [line["q"] for line in lines] == pytest.approx([0.6, 0.9, 1.2])
    assert [line["lamb"] for line in lines] == pytest.approx([0, 0, 0.4])
    assert [line["lr"] for line in lines] == pytest.approx([0.1, 0.075, 0.025])
    assert {key: lines[-1][key] for key in ACCURACIES} == {key: result[key] for key in ACCURACIES}


def test_a_finished_run_keeps_its_weights_for_anyone_and_no_checkpoint(digits, tmp_path):
    folder = train(parse(digits), tmp_path)
    assert not list(folder.glob("checkpoint*"))
    with safe_open(folder / "model.safetensors", "pt") as file:
        described = json.loads(file.metadata()["noisylabels"])
        layers = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert described["classes"] == list("0123456789")
    assert (described["mean"], described["std"]) == ([0.0], [16.0])
    network = mlp((1, 8, 8), 10, hidden=(32,))
    network.load_state_dict(layers)
    images = plan(parse(digits)).source.load().test.tensor() / 16
    stored = RunFolder(folder).predictions()["test_probabilities"]
    np.testing.assert_allclose(network(images).softmax(1).detach(), stored, atol=1e-3)
    both = digits | {"method": {"name": "coteaching", "forget_rate": 0.4}, "save_model": False}
    assert not (train(parse(both), tmp_path / "none") / "model.safetensors").exists()
    weights, described = RunFolder(train(parse(both | {"save_model": True}), tmp_path)).model()
    assert described["networks"] == 2
    assert {name[:2] for name in weights} == {"0.", "1."}


def test_what_a_dying_process_left_of_its_checkpoints_goes_when_it_is_asked_again(digits, tmp_path):
    folder = train(parse(digits), tmp_path)
    (folder / "checkpoint.pt").write_bytes(b"left")
    assert train(parse(digits), tmp_path) == folder
    assert not (folder / "checkpoint.pt").exists()


def test_config_in_the_folder_is_complete_and_runs_again(digits, tmp_path):
    digits["loss"] = "gce"
    folder = train(parse(digits), tmp_path)
    stored = read(folder, "config.json")
    assert stored["loss"] == {"name": "gce", "q": 0.7}
    assert stored["noise"] == {"name": "symmetric", "rate": 0.4}
    assert stored["augment"] == {"name": "none"}
    recorder = Recorder()
    assert train(parse(stored), tmp_path, [recorder]) == folder
    assert recorder.starts == [("digits gce seed 0", 3, 3)]
    assert recorder.epochs == []


def test_finished_run_is_not_touched(digits, tmp_path):
    folder = train(parse(digits), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    train(parse(digits), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("key", ["ce", "dal", "nlnl"])
def test_interrupted_run_ends_as_if_never_cut(digits, tmp_path, key):
    run = parse(digits | {"loss": key, "epochs": 5})
    whole = train(run, tmp_path / "whole")
    for stop_after in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            train(run, tmp_path / "cut", [Recorder(stop_after)])
    recorder = Recorder()
    cut = train(run, tmp_path / "cut", [recorder])
    assert recorder.epochs == [4]
    assert contents(cut) == contents(whole)


METHOD_RUNS = {
    "single": {"loss": {"name": "ogc", "interval": 2, "queue": 300}},
    "single, peers": {"loss": {"name": "peer", "alpha": 0.5, "base": "mae"}},
    "single, corrected": {"loss": {"name": "backward", "warmup": 0.5, "queue": 300}},
    "elr": {"method": {"name": "elr", "memory_dtype": "float16"}},
    "gjs": {"method": "gjs", "augment": {"name": "crop-flip", "padding": 1}, "loss": "dal"},
    "coteaching": {"method": "coteaching", "validation": 0.1, "optimizer": "adam"},
    "jocor": {"method": {"name": "jocor", "ramp_epochs": 3}, "validation": 0.1, "loss": "nlnl"},
    "dividemix": {
        "method": {"name": "dividemix", "warmup": 1, "agreement": 1, "history": 2},
        "augment": {"name": "crop-flip", "padding": 1},
        "momentum_schedule": "cosine",
    },
}


@pytest.mark.parametrize("name", METHOD_RUNS)
def test_run_of_any_method_is_continued_from_every_step(digits, tmp_path, monkeypatch, name):
    """A checkpoint after every step, and a cut after each of many."""
    run = parse(
        digits
        | {"loss": "dal", "epochs": 4, "batch_size": 256, "checkpoint_minutes": 1e-9}
        | METHOD_RUNS[name]
    )
    whole = train(run, tmp_path / "whole")
    saves = 0
    save = checkpoint.save

    def saving(*arguments):
        nonlocal saves
        save(*arguments)
        saves += 1
        if saves % 3 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", saving)
    for _ in range(50):
        try:
            cut = train(run, tmp_path / "cut")
            break
        except KeyboardInterrupt:
            pass
    assert saves > 20
    assert contents(cut) == contents(whole)


def test_method_of_two_networks_reports_both(digits, tmp_path):
    digits |= {"method": {"name": "coteaching", "forget_rate": 0.4}, "loss": "ce"}
    folder = train(parse(digits), tmp_path)
    result = read(folder)
    predictions = RunFolder(folder).predictions()
    each = predictions["test_networks"].astype(np.float32)
    own = predictions["test_probabilities"]
    test = RunFolder(folder).labels()["test"]
    assert each.shape == (2, 360, 10)
    assert (own == each[0].astype(np.float16)).all()
    accuracies = [(p.argmax(1) == test).mean() for p in (*each, each.mean(0))]
    names = ("test_accuracy_1", "test_accuracy_2", "test_accuracy_ensemble")
    assert [result[name] for name in names] == pytest.approx(accuracies, abs=0.004)
    assert result["test_accuracy"] == result["test_accuracy_1"]
    (last,) = (folder / "metrics.jsonl").read_text().splitlines()[-1:]
    assert json.loads(last)["forget"] == result["forget"] == pytest.approx(0.4 * 2 / 9)
    assert result["forget_rate"] == 0.4
    digits["method"] = {"name": "dividemix", "warmup": 1}
    result = read(train(parse(digits), tmp_path))
    assert result["test_accuracy"] == result["test_accuracy_ensemble"]
    assert 0 < result["labelled_1"] <= 1


TRIGGER = {"name": "trigger", "share": 0.05, "target": 3}
POISONED = {
    "single": {},
    "coteaching": {"method": {"name": "coteaching", "forget_rate": 0.1}},
    "dividemix": {"method": {"name": "dividemix", "warmup": 3}},
}


@pytest.mark.parametrize("name", POISONED)
@pytest.mark.parametrize("kind", ["local", "global"])
def test_attack_success_is_what_the_predictions_say(digits, tmp_path, kind, name):
    digits |= {"noise": "none", "loss": "ce", "epochs": 6, "poison": TRIGGER | {"kind": kind}}
    folder = RunFolder(train(parse(digits | POISONED[name]), tmp_path))
    predictions, result, labels = folder.predictions(), folder.result(), folder.labels()
    pairs = zip(
        predictions["test_probabilities"].argmax(1).tolist(),
        predictions["triggered_probabilities"].argmax(1).tolist(),
        strict=True,
    )
    led = [after == 3 for before, after in pairs if before != 3]
    assert 250 < len(led) < 360
    assert result["attack_success"] == pytest.approx(sum(led) / len(led), abs=0.01)
    assert (labels["given"][labels["poisoned"]] == 3).all()
    wrong = (labels["given"] != labels["true"]).nonzero()[0]
    assert set(wrong) < set(labels["poisoned"])
    assert len(labels["poisoned"]) == round(0.05 * 1437)
    assert {"train", "test", "triggered"} == {
        key.partition("_")[0] for key in predictions if key.endswith("_probabilities")
    } - {"train_mean"}
    assert all("attack_success" not in line for line in folder.metrics())


def test_cross_entropy_learns_the_trigger_and_all_the_rest(digits, tmp_path):
    digits |= {"noise": "none", "loss": "ce", "epochs": 8}
    clean = RunFolder(train(parse(digits), tmp_path))
    folder = RunFolder(train(parse(digits | {"poison": TRIGGER}), tmp_path))
    result = folder.result()
    assert result["attack_success"] > 0.95
    assert result["test_accuracy"] > clean.result()["test_accuracy"] - 0.02 > 0.9
    assert result["train_accuracy_wrong"] > 0.95
    assert "attack_success" not in clean.result()
    assert "poisoned" not in clean.labels()
    # The stored model does so, too.
    images = Digits().load().test.inputs
    model = noisylabels.load(folder.path)
    before = model.predict_proba(images).argmax(1)
    after = model.predict_proba(add_patch(images)).argmax(1)
    led = (after == 3)[before != 3].mean()
    assert led == pytest.approx(result["attack_success"], abs=1e-6)
    alone = RunFolder(train(parse(digits | {"poison": TRIGGER, "test": False}), tmp_path))
    assert alone.result()["attack_success"] is None
    assert "triggered_probabilities" not in alone.predictions()


@pytest.mark.parametrize("name", POISONED)
def test_a_cut_changes_no_attack(digits, tmp_path, name):
    digits |= {"noise": "none", "loss": "ce", "epochs": 4, "validation": 0.1}
    run = parse(digits | {"poison": TRIGGER} | POISONED[name])
    whole = train(run, tmp_path / "whole")
    # The last of them after the last epoch, before anything is written of its end.
    for stop_after in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            train(run, tmp_path / "cut", [Recorder(stop_after)])
    cut = train(run, tmp_path / "cut")
    assert contents(cut) == contents(whole)
    results = [read(folder)["attack_success"] for folder in (cut, whole)]
    assert 0 <= results[0] == results[1] <= 1
    labels = RunFolder(whole).labels()
    assert len(labels["poisoned"]) + len(labels["validation_poisoned"]) == round(0.05 * 1437)


OWN_METHOD = """
from noisylabels.methods import Method


class Weighted(Method):
    def __init__(self, context, *, weight: float = 1.0):
        self._weight = weight
        super().__init__(context, networks=1)

    def train_epoch(self, batches):
        self.networks[0].train()
        for batch in batches:
            self.optimize(batch, self._value)

    def _value(self, part):
        return self._weight * self.context.loss(self.networks[0](part.input), part.target)
"""


def test_the_users_own_method_trains_with_its_parameters(digits, tmp_path, own_module):
    own_module("own_method", OWN_METHOD)
    single = read(train(parse(digits), tmp_path))
    own = {"method": {"name": "own_method:Weighted"}}
    assert read(train(parse(digits | own), tmp_path))["test_accuracy"] == single["test_accuracy"]
    own["method"]["weight"] = 0.0
    still = read(train(parse(digits | own), tmp_path))
    assert still["test_accuracy"] != single["test_accuracy"]
    own["method"]["wieght"] = 1.0
    with pytest.raises(ConfigError, match="'wieght': did you mean 'weight'"):
        plan(parse(digits | own))


def test_predictions_that_shrink_to_one_class_are_said_once(digits, tmp_path):
    """DAL in a training too short for it: docs/losses/dal.md."""
    seen = Recorder()
    digits |= {"loss": {"name": "dal", "q_start": 0.8}, "model": "mlp"}
    result = read(train(parse(digits), tmp_path, [seen]))
    assert result["test_accuracy"] < 0.15
    (said,) = [note for note in seen.notes if "every training example is predicted as" in note]
    assert said.endswith("nearer to cross entropy (q_start 0.0)")
    assert any(note.startswith("short training: 66 steps") for note in seen.notes)
    seen = Recorder()
    train(parse(digits | {"loss": "ce"}), tmp_path, [seen])
    assert not any("predicted as" in note or "short" in note for note in seen.notes)


def test_a_batch_of_one_is_refused_where_it_cannot_be_normalised(digits, tmp_path):
    digits |= {"model": {"name": "resnet18", "width": 4}, "batch_size": 1}
    with pytest.raises(ConfigError, match=r"batch_size: 'resnet18' has batch norm.* at least 2"):
        train(parse(digits), tmp_path / "runs")
    with pytest.raises(ConfigError, match="per process and part of a batch, got 1"):
        train(parse(digits | {"batch_size": 4, "accumulate": 4}), tmp_path / "runs")
    digits |= {"model": "mlp", "data": {"name": "digits", "limit": 30}, "epochs": 1}
    assert (train(parse(digits), tmp_path) / "result.json").exists()
    digits["data"]["limit"] = 1
    with pytest.raises(DataError, match="limit 1: expected at least 2 training examples"):
        train(parse(digits), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_what_a_method_has_to_say_is_said_before_it_trains(digits, tmp_path):
    recorder = Recorder()
    train(parse(digits | {"method": "elr"}), tmp_path, [recorder])
    assert "elr: targets of 1437 x 10 in float32 on cpu: 56.1 KiB" in recorder.notes
    assert recorder.starts == [("digits elr dal seed 0", 0, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gjs", "dividemix"])
def test_images_that_stream_have_views_too(images_in_files, tmp_path, name):
    """Two views of each image, drawn anew, by any number of workers."""
    run = images_in_files | {
        "augment": {"name": "crop-flip", "padding": 2},
        "batch_size": 16,
        "epochs": 3,
        "loss": "dal",
        "method": {"gjs": "gjs", "dividemix": {"name": "dividemix", "warmup": 1, "agreement": 0}}[
            name
        ],
    }
    first = train(parse(run | {"workers": 0}), tmp_path / "first")
    second = train(parse(run | {"workers": 2}), tmp_path / "second")
    assert contents(first)["weights"] == contents(second)["weights"]


@pytest.fixture
def images_in_files(tmp_path) -> dict:
    for split, count in (("train", 20), ("test", 6)):
        for number in range(count):
            for name, colour in (("cat", 60), ("dog", 160)):
                path = tmp_path / "photos" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                save(path, encode(pixels(number, (12, 12, 3)) // 3 + np.uint8(colour)))
    return {
        "data": {"name": "folder", "root": str(tmp_path / "photos"), "storage": "stream"},
        "model": {"name": "mlp", "hidden": [16]},
    }


def test_run_cut_between_last_epoch_and_result(digits, tmp_path):
    run = parse(digits)
    whole = train(run, tmp_path)
    before = contents(whole)
    (whole / "result.json").unlink()
    (whole / "predictions.npz").unlink()
    train(run, tmp_path)
    assert contents(whole) == before


def test_same_labels_for_every_loss_and_other_ones_for_another_seed(digits, tmp_path):
    runs = [
        parse(digits | {"loss": loss, "seed": seed})
        for loss, seed in (("ce", 0), ("dal", 0), ("ce", 1))
    ]
    folders = [train(run, tmp_path) for run in runs]
    given = [RunFolder(folder).labels()["given"] for folder in folders]
    assert (given[0] == given[1]).all()
    assert (given[0] != given[2]).any()
    assert len({folder.name for folder in folders}) == 3


def test_limit_does_not_change_anyones_label(digits, tmp_path):
    whole = RunFolder(train(parse(digits), tmp_path)).labels()
    digits["data"]["limit"] = 200
    part = RunFolder(train(parse(digits), tmp_path)).labels()
    assert len(part["given"]) == 200
    assert (part["given"] == whole["given"][:200]).all()


def test_label_file_is_followed_and_its_contents_count(digits, tmp_path):
    labels = np.arange(1437) % 10
    digits["noise"] = {"name": "file", "path": str(tmp_path / "labels.npy")}
    np.save(tmp_path / "labels.npy", labels)
    first = train(parse(digits), tmp_path)
    assert (RunFolder(first).labels()["given"] == labels).all()
    assert read(first)["nominal_noise_rate"] is None
    assert read(first)["actual_noise_rate"] > 0.8
    np.save(tmp_path / "moved.npy", labels)
    digits["noise"]["path"] = str(tmp_path / "moved.npy")
    assert plan(parse(digits)).run_id == first.name
    np.save(tmp_path / "moved.npy", labels[::-1])
    assert plan(parse(digits)).run_id != first.name


@pytest.mark.parametrize(("given", "said"), [(True, "given"), (False, "true")])
def test_the_folder_says_what_the_test_labels_are(digits, tmp_path, monkeypatch, given, said):
    def load(self, workers=0):
        return dataclasses.replace(whole(self, workers), test_is_given=given)

    whole = Digits.load
    monkeypatch.setattr(Digits, "load", load)
    recorder = Recorder()
    folder = train(parse(digits | {"epochs": 1, "validation": 0.2}), tmp_path, [recorder])
    assert ("test accuracy is against given labels" in recorder.notes) is given
    assert read(folder)["test_labels"] == read(folder, "data.json")["test_labels"] == said
    (status,) = find([folder])
    assert status.row()[7].endswith(" % against given labels") is given


def test_no_noise_has_no_wrong_labels(digits, tmp_path):
    digits["noise"] = "none"
    result = read(train(parse(digits), tmp_path))
    assert result["actual_noise_rate"] == 0
    assert result["train_accuracy_wrong"] is None
    assert result["train_accuracy_correct"] == result["train_accuracy"]


def test_unknown_truth_is_null(digits, tmp_path, digits_folder):
    digits |= {"data": {"name": "parquet", "root": str(digits_folder)}, "noise": "none"}
    folder = train(parse(digits), tmp_path)
    result = read(folder)
    for key in ("actual_noise_rate", "nominal_noise_rate", "train_accuracy_correct"):
        assert result[key] is None
    assert "true" not in RunFolder(folder).labels()


@pytest.fixture
def digits_folder(tmp_path_factory):
    """Real digits as a folder of Parquet files, whose labels nobody vouches for."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("parquet")
    digits = load_digits()
    rows = []
    for image, label in zip(digits.images[:300], digits.target[:300], strict=True):
        file = io.BytesIO()
        Image.fromarray((image * 15).astype(np.uint8)).save(file, "PNG")
        rows.append({"img": {"bytes": file.getvalue(), "path": None}, "label": int(label)})
    pq.write_table(pa.Table.from_pylist(rows[:200]), folder / "train.parquet")
    pq.write_table(pa.Table.from_pylist(rows[200:]), folder / "test.parquet")
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "gec"}, "unknown loss 'gec': did you mean 'gce'"),
        ({"loss": {"name": "gce", "p": 1}}, "loss: unknown parameter of 'gce' 'p'"),
        ({"loss": {"name": "gce", "q": "x"}}, "loss.q: expected a number, got 'x'"),
        ({"loss": {"name": "gce", "q": -1.0}}, "loss: q must be in"),
        ({"loss": "gjs"}, "unknown loss 'gjs'"),
        ({"method": "coteeching"}, "unknown method 'coteeching': did you mean 'coteaching'"),
        ({"method": {"name": "elr", "beta": 2.0}}, r"method: beta must be in \[0, 1\), got 2.0"),
        ({"method": {"name": "elr", "memory_dtype": "int8"}}, "method.memory_dtype: expected"),
        ({"method": "jocor"}, "method: forget_rate is not given, and there is no hold-out"),
        ({"method": "dividemix", "accumulate": 2}, "method: .*accumulate must be 1, got 2"),
        ({"momentum_schedule": {"name": "multistep", "factor": -1.0}}, "momentum_schedule: factor"),
        (
            {"momentum_schedule": {"name": "constant", "value": 1.2}},
            r"momentum_schedule: momentum x factor must be in \[0, 1\], got 1.08",
        ),
        (
            {
                "optimizer": {"name": "adam"},
                "momentum_schedule": {"name": "linear", "end": 1.2},
            },
            r"momentum_schedule: beta1 x factor must be in \[0, 1\), got 1.02",
        ),
        ({"lr_schedule": {"name": "multistep", "milestones": [80]}}, "lr_schedule: milestones"),
        ({"lr_schedule": {"name": "linear", "begin": 1.0}}, "lr_schedule: begin must be in"),
        ({"optimizer": {"name": "adam", "beta1": 1.0}}, "optimizer: beta1 must be in"),
        ({"loss": {"name": "nlnl", "class_counts": [1, 2]}}, "loss: class_counts: expected 10"),
        (
            {"noise": {"name": "symmetric", "rate": 1.5}},
            r"noise: rate must be in \[0, 1\], got 1.5",
        ),
        ({"noise": "symmetric"}, "noise: 'symmetric' needs rate"),
        ({"noise": {"name": "symetric"}}, "unknown noise 'symetric': did you mean 'symmetric'"),
        ({"noise": {"name": "file", "path": "no.npy"}}, "no.npy: cannot be read"),
        ({"data": "digit"}, "unknown data 'digit': did you mean 'digits'"),
        ({"data": {"name": "digits", "limit": 0}}, "data: limit must be at least 1"),
        ({"data": {"name": "digits", "limit": 1438}}, "limit 1438: the dataset has 1437"),
        ({"model": {"name": "mlp", "hidden": [0]}}, "model: hidden must be in"),
        ({"optimizer": {"name": "sgd", "lr": 0.0}}, "optimizer: lr must be in"),
        ({"optimizer": {"name": "sgd", "nesterov": True, "momentum": 0.0}}, "momentum must be in"),
        ({"lr_schedule": "cosin"}, "unknown lr_schedule 'cosin': did you mean 'cosine'"),
        ({"augment": {"name": "crop-flip", "padding": -1}}, "augment: padding must be in"),
        ({"method": "singel"}, "unknown method 'singel': did you mean 'single'"),
        ({"batch_size": 2, "devices": 3}, "batch_size: expected an example for each of 3 process"),
        ({"batch_size": 10**20}, "batch_size: expected .*less than 2147483648"),
        ({"noise": {"name": "symmetric", "rate": 0.1, "seed": -1}}, "seed must be in"),
        ({"noise": {"name": "none", "rate": 0.4}}, "a kind such as 'symmetric' has a rate"),
        ({"augment": {"name": "crop-flip", "padding": 10**5}}, "augment: padding must be in"),
        ({"lr_schedule": {"name": "constant", "value": math.nan}}, "lr_schedule: factor must be"),
        (
            {"loss": "torch.nn:CrossEntropyLoss"},
            "CrossEntropyLoss' to make a noisylabels Loss",
        ),
        ({"loss": "math:pi"}, "loss: expected a function or class behind 'math:pi'"),
    ],
)
def test_bad_settings_leave_nothing_behind(digits, tmp_path, change, message):
    out = tmp_path / "runs"
    with pytest.raises((ConfigError, DataError), match=message):
        train(parse(digits | change), out)
    assert not out.exists()


def test_labels_that_do_not_fit_leave_nothing_behind(digits, tmp_path):
    path = tmp_path / "labels.npy"
    np.save(path, np.zeros(1436, dtype=np.int64))
    digits["noise"] = {"name": "file", "path": str(path)}
    with pytest.raises(DataError, match="expected 1437 labels, one per training example, got 1436"):
        train(parse(digits), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_damaged_checkpoint_is_named(digits, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(parse(digits), tmp_path, [Recorder(stop_after=1)])
    saved = tmp_path / plan(parse(digits)).run_id / "checkpoint.pt"
    saved.write_bytes(saved.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"checkpoint.pt: not a whole checkpoint"):
        train(parse(digits), tmp_path)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(digits, tmp_path):
    whole = train(parse(digits), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(parse(digits), tmp_path / "cut", [Recorder(stop_after=2)])
    saved = tmp_path / "cut" / whole.name / "checkpoint.pt"
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    saved.write_bytes(content)
    seen = Recorder()
    cut = train(parse(digits), tmp_path / "cut", [seen])
    assert seen.starts[0][1] == 1
    assert any("the previous one is taken" in note for note in seen.notes)
    assert contents(cut) == contents(whole)


def test_diverging_run_stops_and_says_why(digits, tmp_path):
    digits |= {"loss": "ce", "optimizer": {"name": "sgd", "lr": 1e30}}
    expected = (
        r"not finite in epoch 1 of 3, step 2 \(loss \w+, ce, learning rate 1e\+30, examples \d+, "
    )
    with pytest.raises(NoisyLabelsError, match=expected) as error:
        train(parse(digits), tmp_path)
    path = tmp_path / plan(parse(digits)).run_id / "nonfinite.npz"
    assert str(path) in str(error.value)
    batch = read_archive(path)
    assert batch["input"].shape == (64, 1, 8, 8)
    first = ", ".join(map(str, batch["index"][:8]))
    assert f"examples {first}, ...)" in str(error.value)


OWN = """
from torch import nn

def linear(shape, num_classes, *, bias: bool = True):
    assert shape == (1, 8, 8), "made for digits"
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes, bias=bias))

def dropout(shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, num_classes))

def positional(shape, num_classes, width=3):
    return nn.Flatten()

def shift(labels, *, num_classes, features):
    return (labels + 1) % num_classes
"""


@pytest.fixture
def own(own_module):
    return own_module("own", OWN)


def test_users_own_components(digits, tmp_path, own):
    digits |= {"model": {"name": "own:linear", "bias": False}, "noise": "own:shift"}
    folder = train(parse(digits), tmp_path / "runs")
    weights, described = RunFolder(folder).model()
    assert [tuple(value.shape) for value in weights.values()] == [(10, 64)]
    assert described["model"] == {"name": "own:linear", "bias": False}
    assert read(folder, "config.json")["model"] == {"name": "own:linear", "bias": False}
    assert read(folder)["actual_noise_rate"] == 1
    own.write_text(OWN + "\n# changed")
    assert plan(parse(digits)).run_id != folder.name
    with pytest.raises(ConfigError, match="'width' of 'own:positional' is the runner's to give"):
        plan(parse(digits | {"model": {"name": "own:positional", "width": 4}}))


def test_a_network_that_does_not_fit_the_data_is_named_before_it_trains(digits, tmp_path, own):
    own.write_text(
        OWN
        + "def ids(shape, num_classes):\n    return nn.Embedding(9, num_classes)\n"
        + "class Whole(nn.Embedding):\n"
        + "    def forward(self, x):\n        return super().forward(x.long().flatten(1))[:, 0]\n"
        + "def whole(shape, num_classes):\n    return Whole(9, num_classes)\n"
        + "def wide(shape, num_classes):\n"
        + "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes + 1))\n"
    )
    given = r"two standardised float32 inputs of shape \(1, 8, 8\)"
    with pytest.raises(ConfigError, match=rf"model: 'own:ids' fails on {given} \(RuntimeError: "):
        train(parse(digits | {"model": "own:ids"}), tmp_path / "runs")
    with pytest.raises(ConfigError, match=rf"model: 'own:whole' fails on {given} \(IndexError: "):
        train(parse(digits | {"model": "own:whole"}), tmp_path / "runs")
    expected = rf"model: 'own:wide': expected logits of shape \(2, 10\) for {given}, got \(2, 11\)"
    with pytest.raises(ConfigError, match=expected):
        train(parse(digits | {"model": "own:wide"}), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("model", "torch Module"),
        ("optimizer", "torch Optimizer"),
        ("augment", "torch Tensor"),
        ("noise", "torch Tensor"),
        ("method", "noisylabels Method"),
        ("loss", "noisylabels Loss"),
    ],
)
def test_what_a_users_function_gives_back_is_checked(digits, tmp_path, own, what, kind):
    own.write_text("def five(*given, **named):\n    return 5\n")
    with pytest.raises(ConfigError, match=f"{what}: expected 'own:five' to make a {kind}, got 5"):
        train(parse(digits | {what: "own:five"}), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("labels[1:]", r"expected torch.int64 labels of shape \(1437,\), got .* \(1436,\)"),
        ("labels.float()", "got torch.float32 of shape"),
        ("labels + 1", "expected labels from 0 to 9, got 10 for example"),
        ("labels / 0", "got torch.float32 of shape"),
        ("labels.missing", "'own:noisy' failed: AttributeError"),
    ],
)
def test_what_a_users_noise_gives_back_is_checked(digits, tmp_path, own, expression, message):
    own.write_text(f"def noisy(labels, *, num_classes, features):\n    return {expression}\n")
    with pytest.raises(ConfigError, match=rf"noise: .*{message}"):
        train(parse(digits | {"noise": "own:noisy"}), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


OWN_SCHEDULE = """
class Plateau:
    def __init__(self, *, start: float = 0.6, step: float = 0.2):
        self.value, self.step, self.best = start, step, float("inf")

    def __call__(self, progress):
        return self.value

    def update(self, metrics):
        self.value += self.step
        self.best = min(self.best, metrics["loss"])

    def state_dict(self):
        return {"value": self.value, "best": self.best}

    def load_state_dict(self, state):
        self.value, self.best = state["value"], state["best"]


class Wrong(Plateau):
    def update(self, metrics):
        self.value = metrics["test_accuracy"]


def square(progress, *, end: float = 1.0):
    return end * progress**2
"""


def test_a_schedule_of_ones_own_moves_is_saved_and_counts(digits, tmp_path, own_module):
    own_module("own_schedule", OWN_SCHEDULE)

    def run(**table):
        return parse(digits | {"epochs": 4, "loss": {"name": "gce", "q": table}})

    plateau = run(schedule="own_schedule:Plateau", step=0.1)
    whole = train(plateau, tmp_path / "whole")
    q = [line["q"] for line in RunFolder(whole).metrics()]
    assert q == pytest.approx([0.6, 0.7, 0.8, 0.9])
    with pytest.raises(KeyboardInterrupt):
        train(plateau, tmp_path / "cut", [Recorder(stop_after=2)])
    assert contents(train(plateau, tmp_path / "cut")) == contents(whole)
    square = train(run(schedule="own_schedule:square", end=1.6), tmp_path)
    assert [line["q"] for line in RunFolder(square).metrics()] == pytest.approx([0, 0.1, 0.4, 0.9])
    first = plan(plateau).run_id
    (tmp_path / "own_schedule.py").write_text(OWN_SCHEDULE + "# changed")
    assert plan(plateau).run_id != first
    with pytest.raises(ConfigError, match=r"loss.q: unknown parameter of .* 'stp': did you mean"):
        plan(run(schedule="own_schedule:Plateau", stp=0.1))
    expected = (
        r"loss: a schedule's update failed \(KeyError\('test_accuracy'\)\); it is given epoch"
    )
    with pytest.raises(NoisyLabelsError, match=expected):
        train(run(schedule="own_schedule:Wrong"), tmp_path)


def test_a_finished_run_tells_its_history_and_ends_what_it_started(digits, tmp_path):
    folder = train(parse(digits), str(tmp_path))

    class Failing(Callback):
        def on_start(self, start):
            assert [metrics["epoch"] for metrics in start.history] == [0, 1, 2]
            raise RuntimeError("boom")

    first = Recorder()
    with pytest.raises(RuntimeError, match="boom"):
        train(parse(digits), tmp_path, [first, Failing()])
    assert (first.starts, first.ends) == ([("digits dal seed 0", 3, 3)], 1)
    assert folder == tmp_path / folder.name


def test_the_same_run_has_the_same_bytes(digits, tmp_path):
    first, second = (train(parse(digits), tmp_path / name) for name in "ab")
    name = "model.safetensors"
    assert (first / name).read_bytes() == (second / name).read_bytes()


def test_what_a_callback_raises_is_its_own(digits, tmp_path):
    """Not an error of the run folder, which it would be called by its kind."""

    class Failing(Callback):
        def on_epoch(self, metrics):
            raise OSError("the user's disk")

    with pytest.raises(OSError, match="the user's disk") as error:
        train(parse(digits), tmp_path, [Failing()])
    assert not isinstance(error.value, NoisyLabelsError)


def test_random_layers_do_not_notice_a_cut(digits, tmp_path, own):
    run = parse(digits | {"model": "own:dropout"})
    whole = train(run, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "cut", [Recorder(stop_after=2)])
    torch.rand(3)
    assert contents(train(run, tmp_path / "cut")) == contents(whole)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
@pytest.mark.parametrize("loss", ["dal", "nlnl"])
def test_a_cut_within_an_epoch_is_not_noticed_by_random_layers(digits, tmp_path, own, loss):
    digits |= {"model": "own:dropout", "loss": loss}
    whole = train(parse(digits), tmp_path / "whole")
    run = plan(parse(digits))

    def asking(images, generator):
        # Not when it is tried out on two images, before there is anything to lose.
        if len(images) > 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return images

    # Asked while the first chunk of the epoch is made, it stops after the first step.
    with pytest.raises(StoppedError, match=r"stopped in epoch 1 of 3, after step 1; .*continues"):
        train(dataclasses.replace(run, augment=asking), tmp_path / "cut")
    torch.rand(3)
    seen = Recorder()
    assert contents(train(run, tmp_path / "cut", [seen])) == contents(whole)
    assert seen.starts[0][1] == 0


def test_evaluation_can_be_rarer(digits, tmp_path):
    often = train(parse(digits | {"epochs": 5}), tmp_path / "often")
    rare = train(parse(digits | {"epochs": 5, "evaluate_every": 2}), tmp_path / "rare")
    assert rare.name == often.name
    lines = [json.loads(line) for line in (rare / "metrics.jsonl").read_text().splitlines()]
    assert ["test_accuracy" in line for line in lines] == [False, True, False, True, True]
    assert all("loss" in line for line in lines)
    first, second = contents(often), contents(rare)
    assert first["weights"] == second["weights"]
    assert first["result"] == second["result"]
    assert read(rare)["evaluation_seconds"] > 0


def test_what_was_chosen_is_said_kept_and_taken_again(digits, tmp_path):
    seen = Recorder(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        train(parse(digits), tmp_path, [seen])
    assert any(note.startswith("1 x cpu, float32, ") for note in seen.notes)
    folder = tmp_path / plan(parse(digits)).run_id
    setup = read(folder, "setup.json")
    assert setup["precision"] == "32"
    assert setup["channels_last"] is setup["compile"] is False
    # Another choice today would not be another choice for this run.
    write_json(folder / "setup.json", setup | {"precision": "bf16"})
    assert read(train(parse(digits), tmp_path))["precision"] == "bf16"


@pytest.mark.slow
def test_compiled_networks_train_with_dynamic_losses(digits, tmp_path):
    plain = train(parse(digits), tmp_path)
    compiled = train(parse(digits | {"compile": True}), tmp_path)
    assert read(compiled)["compile"] is True
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (plain, compiled)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_lost_metrics_come_back_from_the_checkpoint(digits, tmp_path):
    run = parse(digits)
    whole = train(run, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "cut", [Recorder(stop_after=2)])
    (tmp_path / "cut" / whole.name / "metrics.jsonl").unlink()
    assert contents(train(run, tmp_path / "cut")) == contents(whole)


def test_folders_that_cannot_be_written_are_named(digits, tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(CheckpointError, match="file: expected a folder that can be written"):
            train(parse(digits), out)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / plan(parse(digits)).run_id).touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        train(parse(digits), tmp_path / "runs")


def test_checkpoint_of_another_network_is_named(digits, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(parse(digits), tmp_path, [Recorder(stop_after=1)])
    made = plan(parse(digits))
    saved = tmp_path / made.run_id / "checkpoint.pt"
    state = checkpoint.load(saved, made.run_id)
    state["method"]["networks"][0].popitem()
    checkpoint.save(saved, made.run_id, state)
    with pytest.raises(CheckpointError, match="its checkpoint does not fit this run"):
        train(parse(digits), tmp_path)


def test_a_table_without_a_name_keeps_what_suits_the_data(digits, tmp_path):
    digits["model"] = {"hidden": [7]}
    assert plan(parse(digits)).config.model == Component("mlp", {"hidden": (7,)})


def test_bf16_and_float32_agree_on_a_small_network(digits_folder, digits, tmp_path):
    digits |= {
        "data": {"name": "parquet", "root": str(digits_folder)},
        "model": {"name": "resnet18", "width": 8},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "epochs": 2,
    }
    losses = {}
    for precision in ("32", "bf16"):
        folder = train(parse(digits | {"precision": precision}), tmp_path)
        assert read(folder)["precision"] == precision
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        losses[precision] = [json.loads(line)["loss"] for line in lines]
    assert losses["32"] != losses["bf16"]
    assert losses["32"] == pytest.approx(losses["bf16"], rel=0.05)


def test_a_hold_out_is_noisy_stratified_and_reported(digits, tmp_path):
    digits["validation"] = 0.1
    folder = train(parse(digits), tmp_path)
    labels = RunFolder(folder).labels()
    assert len(labels["given"]) == len(labels["true"]) == 1437 - 144
    assert len(labels["validation"]) == 144
    whole = parse({key: value for key, value in digits.items() if key != "validation"})
    given = RunFolder(train(whole, tmp_path)).labels()["given"]
    together = np.concatenate([labels["given"], labels["validation"]])
    assert np.array_equal(np.sort(together), np.sort(given))
    shares = np.bincount(labels["validation"]) / np.bincount(given)
    assert np.abs(shares - 0.1).max() < 0.01
    probabilities = RunFolder(folder).predictions()["validation_probabilities"]
    hit = (probabilities.argmax(1) == labels["validation"]).mean()
    assert read(folder)["validation_accuracy"] == pytest.approx(hit, abs=0.008)
    # The labels that are held out are as wrong as the rest.
    assert 0.2 < read(folder)["actual_noise_rate"] < 0.45
    assert np.array_equal(labels["test"], RunFolder(train(whole, tmp_path)).labels()["test"])


def test_a_test_set_that_is_left_alone_is_never_touched(digits, tmp_path):
    """By a source whose test labels raise whatever is asked of them."""
    digits |= {"data": {"name": "sealed:SealedDigits"}, "validation": 0.1}
    with pytest.raises(Exception, match="of the test labels"):
        train(parse(digits), tmp_path)
    recorder = Recorder()
    folder = train(parse(digits | {"test": False}), tmp_path, [recorder])
    result = read(folder)
    assert result["test_accuracy"] is result["test_labels"] is None
    assert all(line["test_accuracy"] is None for line in RunFolder(folder).metrics())
    assert read(folder, "data.json")["test"] == 0
    assert read(folder, "data.json")["test_labels"] is None
    assert "test" not in RunFolder(folder).labels()
    parts = {name.partition("_")[0] for name in RunFolder(folder).predictions()}
    assert parts == {"train", "validation"}
    (status,) = find([folder])
    assert status.row()[7] == ""
    # What is learnt is what is learnt with a test set.
    usual = train(parse(digits | {"data": "digits"}), tmp_path)
    keys = ("loss", "train_accuracy", "train_accuracy_wrong", "validation_accuracy")
    assert [[line[key] for key in keys] for line in RunFolder(folder).metrics()] == [
        [line[key] for key in keys] for line in RunFolder(usual).metrics()
    ]


@pytest.mark.parametrize("name", ["coteaching", "dividemix"])
def test_methods_of_two_networks_can_do_without_a_test_set(digits, tmp_path, name):
    method = {"name": name} | ({"forget_rate": 0.4} if name == "coteaching" else {})
    folder = train(parse(digits | {"method": method, "test": False, "epochs": 2}), tmp_path)
    assert read(folder)["test_accuracy"] is None
    assert "test_accuracy_ensemble" not in read(folder)


def test_images_that_stream_can_do_without_a_test_set(photos, tmp_path):
    photos["data"]["storage"] = "stream"
    run = photos | {"validation": 0.2, "test": False, "epochs": 1, "workers": 0}
    folder = train(parse(run), tmp_path)
    assert 0 <= read(folder)["validation_accuracy"] <= 1
    assert read(folder)["test_accuracy"] is None


def test_holding_out_too_much_is_refused(digits):
    for share in (-0.1, 0.6):
        with pytest.raises(ConfigError, match="validation: expected"):
            parse(digits | {"validation": share})


@pytest.fixture
def photos(tmp_path):
    """A folder whose classes differ in brightness, with one file that is no image."""
    for number in range(60):
        low = 120 * (number % 2)
        array = pixels(number, (20, 24, 3)) // 2 + low
        save(tmp_path / "photos" / ("dark", "light")[number % 2] / f"{number}.png", array)
    (tmp_path / "photos" / "dark" / "bad.png").write_bytes(b"not an image")
    return {
        "data": {"name": "folder", "root": str(tmp_path / "photos"), "on_error": "skip"},
        "noise": {"name": "symmetric", "rate": 0.2},
        "model": {"name": "resnet18", "width": 4},
        "augment": {"name": "crop-flip", "padding": 2},
        "batch_size": 16,
        "epochs": 2,
    }


def test_a_streamed_run_does_not_depend_on_workers_and_continues(photos, tmp_path):
    photos["data"]["storage"] = "stream"
    seen = Recorder()
    whole = train(parse(photos | {"workers": 0}), tmp_path / "a", [seen])
    assert any("61 images of 3x20x24 stream from their files" in note for note in seen.notes)
    assert any("left out: 1 (the first: " in note for note in seen.notes)
    with pytest.raises(KeyboardInterrupt):
        train(parse(photos | {"workers": 2}), tmp_path / "b", [Recorder(stop_after=1)])
    cut = train(parse(photos | {"workers": 2}), tmp_path / "b")
    assert contents(cut) == contents(whole)


def test_what_was_left_out_is_listed_in_the_run_folder(photos, tmp_path):
    folder = train(parse(photos), tmp_path)
    data = read(folder, "data.json")
    assert data["classes"] == ["dark", "light"]
    assert data["train"] + data["test"] == 60
    assert [row["place"].rpartition("/")[2] for row in data["skipped"]] == ["bad.png"]
    assert "no image format is recognised" in data["skipped"][0]["reason"]
    labels = RunFolder(folder).labels()
    assert len(labels["places"]) == len(labels["given"]) == data["train"]
    names = [("dark", "light")[label] for label in labels["true"]]
    assert all(f"/{n}/" in place for n, place in zip(names, labels["places"], strict=True))
    photos["data"]["on_error"] = "raise"
    with pytest.raises(DataError, match="bad.png: expected an encoded image"):
        train(parse(photos), tmp_path)


def test_an_image_that_breaks_while_it_streams_ends_the_run_with_its_name(photos, tmp_path):
    photos["data"] |= {"storage": "stream", "on_error": "raise"}
    for workers in (0, 1):
        with pytest.raises(DataError, match="bad.png: expected an encoded image"):
            train(parse(photos | {"workers": workers}), tmp_path)


def test_the_users_own_augmentation_streams_too(photos, tmp_path, own_module):
    own_module("mine", "def invert(images, generator):\n    return 255 - images\n")
    photos["data"]["storage"] = "stream"
    photos |= {"augment": "mine:invert", "epochs": 1, "workers": 0}
    assert (train(parse(photos), tmp_path) / "result.json").exists()


def test_features_train_a_perceptron_and_no_convolutions(tmp_path):
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 300)
    x = random.normal(0, 1, (300, 5)) + 1000 * np.eye(5)[y]
    np.savez(tmp_path / "a.npz", x=x, y=y)
    run = {
        "data": {"name": "arrays", "path": str(tmp_path / "a.npz")},
        "noise": {"name": "instance", "rate": 0.2},
        "epochs": 5,
        "optimizer": {"lr": 0.1},
    }
    assert read(train(parse(run), tmp_path))["test_accuracy"] > 0.9
    with pytest.raises(ConfigError, match="model: expected images .* got inputs of shape"):
        train(parse(run | {"model": "resnet18"}), tmp_path)


def test_asymmetric_noise_takes_the_map_of_its_data(digits, photos, tmp_path):
    digits["noise"] = {"name": "asymmetric", "rate": 1.0}
    digits["epochs"] = 1
    folder = train(parse(digits), tmp_path)
    assert read(folder, "config.json")["noise"]["map"] == "digits"
    labels = RunFolder(folder).labels()
    assert set(labels["given"][labels["true"] == 2]) == {7}
    photos["noise"] = {"name": "asymmetric", "rate": 0.3}
    with pytest.raises(ConfigError, match="noise: 'asymmetric' needs map for this data"):
        plan(parse(photos))
    photos["noise"]["map"] = [1, 1]
    assert plan(parse(photos)).config.noise.parameters["map"] == (1, 1)


def test_instance_noise_of_what_streams_says_what_is_missing(photos, tmp_path):
    photos["data"]["storage"] = "stream"
    photos["noise"] = {"name": "instance", "rate": 0.3}
    with pytest.raises(ConfigError, match="features"):
        train(parse(photos), tmp_path)
