import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from noisylabels.__main__ import main
from noisylabels.data.datasets import Digits
from noisylabels.data.examples import Examples
from noisylabels.errors import ConfigError, DataError
from noisylabels.estimation import estimate_noise_rate
from noisylabels.labels import read_archive
from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.noise_rates import measure, tell
from noisylabels.run.plan import plan
from noisylabels.run.trainer import train
from noisylabels.studies import audit, decisions
from pictures import class_folders

SETTINGS = {
    "data": {"name": "digits"},
    "model": {"name": "mlp", "hidden": [64]},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "loss": {"name": "gce", "q": 0.5},
    "epochs": 30,
}
WRONG = 0.3


@pytest.fixture
def noisy(monkeypatch):
    """Digits as somebody's own data: a third of all labels is wrong, and nothing tells which.

    Returns the true labels of both parts.
    """
    whole = Digits.load
    data = Digits().load()

    def spoil(examples, seed):
        generator = torch.Generator().manual_seed(seed)
        wrong = torch.rand(len(examples), generator=generator) < WRONG
        shift = torch.randint(1, 10, (len(examples),), generator=generator)
        labels = torch.where(wrong, (examples.labels + shift) % 10, examples.labels)
        return dataclasses.replace(examples, labels=labels)

    def load(self, workers=0):
        found = whole(self, workers)
        train, test = spoil(found.train, 1), spoil(found.test, 2)
        return dataclasses.replace(found, train=train, test=test, test_is_given=True)

    monkeypatch.setattr(Digits, "load", load)
    monkeypatch.setattr(Digits, "clean", False)
    return {"train": data.train.labels, "test": data.test.labels}


def table(path, labels, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("row", "label"))
        writer.writerows((row, int(labels[row])) for row in rows)
    return str(path)


def make(tmp_path, **changes):
    folder = train(SETTINGS | changes, tmp_path / "runs")
    return folder, json.loads((folder / "result.json").read_text())


def test_noisy_test_labels_say_what_can_be_reached(noisy, tmp_path):
    folder, result = make(tmp_path)
    assert result["test_labels"] == "given"
    # Digits are easy: nearly all that is missed is wrong.
    assert result["test_noise_rate"] == pytest.approx(WRONG, abs=0.06)
    assert result["reachable_test_accuracy"] == 1 - result["test_noise_rate"]
    assert (
        result["test_noise_rate_low"] < result["test_noise_rate"] < result["test_noise_rate_high"]
    )
    assert result["test_noise_rate_by"] == "confident joint on test examples"
    # Split off the same data, they tell how many of the training labels are wrong.
    assert result["estimated_noise_rate"] == result["test_noise_rate"]
    kept, labels = (read_archive(folder / f"{name}.npz") for name in ("predictions", "labels"))
    p, given = kept["test_mean_probabilities"].astype(np.float32), labels["test"]
    naive = estimate_noise_rate(torch.from_numpy(p), torch.from_numpy(given))
    assert result["test_noise_rate"] == pytest.approx(naive, abs=1e-6)
    reachable = f"{100 * result['reachable_test_accuracy']:.0f} %"
    assert f"a perfect model would have about {reachable}" in tell(result, 10)[1]


def test_clean_test_labels_are_what_accuracy_is_counted_against(noisy, tmp_path):
    clean = table(tmp_path / "clean.csv", noisy["test"], range(0, 360, 4))
    folder, result = make(tmp_path, test_labels=clean)
    kept, labels = (read_archive(folder / f"{name}.npz") for name in ("predictions", "labels"))
    predicted = kept["test_probabilities"].argmax(1)
    true = noisy["test"].numpy()
    assert result["test_accuracy"] == pytest.approx((predicted[::4] == true[::4]).mean())
    assert result["test_accuracy_given"] == pytest.approx((predicted == labels["test"]).mean())
    assert result["test_accuracy"] > 0.85 > result["test_accuracy_given"]
    assert (result["test_labels"], result["clean_test_labels"]) == ("clean", 90)
    # Measured, not estimated.
    wrong = labels["test"][::4] != true[::4]
    interval = binomtest(int(wrong.sum()), 90).proportion_ci(method="wilson")
    assert result["test_noise_rate"] == pytest.approx(wrong.mean())
    assert result["test_noise_rate_low"] == pytest.approx(interval.low, abs=1e-3)
    assert result["test_noise_rate_high"] == pytest.approx(interval.high, abs=1e-3)
    # Of the training labels, too: the test set was split off.
    assert result["estimated_noise_rate"] == result["test_noise_rate"]
    assert labels["test_clean"].tolist() == [
        int(label) if row % 4 == 0 else -1 for row, label in enumerate(true)
    ]
    evidence = audit.read([audit.RunFolder(folder)])
    test = evidence.parts == "test"
    assert evidence.true[test].tolist() == labels["test_clean"].tolist()
    assert (evidence.accuracy, evidence.against_given) == (result["test_accuracy"], False)


def test_examples_with_clean_labels_are_the_hold_out(noisy, tmp_path):
    rows = list(range(0, 1437, 10))
    clean = table(tmp_path / "clean.csv", noisy["train"], rows)
    folder, result = make(tmp_path, validation_labels=clean)
    kept, labels = (read_archive(folder / f"{name}.npz") for name in ("predictions", "labels"))
    assert labels["validation_rows"].tolist() == rows
    assert len(labels["given"]) == 1437 - len(rows)
    predicted = kept["validation_probabilities"].argmax(1)
    true = noisy["train"].numpy()[rows]
    assert result["validation_accuracy"] == pytest.approx((predicted == true).mean())
    given = (predicted == labels["validation"]).mean()
    assert result["validation_accuracy_given"] == pytest.approx(given)
    assert given < 0.8 < result["validation_accuracy"]
    assert result["estimated_noise_rate"] == pytest.approx((labels["validation"] != true).mean())
    assert result["estimated_noise_rate_by"] == f"{len(rows)} clean labels of held-out examples"
    evidence = audit.read([audit.RunFolder(folder)])
    held = evidence.parts == "validation"
    assert evidence.labels[held].tolist() == labels["validation"].tolist()
    assert evidence.true[held].tolist() == true.tolist()


def test_held_out_labels_tell_where_there_are_no_clean_ones(noisy, tmp_path):
    _, result = make(tmp_path, validation=0.2)
    assert result["estimated_noise_rate_by"] == "confident joint on held-out examples"
    assert result["estimated_noise_rate"] == pytest.approx(WRONG, abs=0.08)


def test_a_method_estimates_noise_from_the_labels_as_they_were_given(noisy, tmp_path):
    clean = table(tmp_path / "clean.csv", noisy["train"], range(0, 1437, 3))
    method = {"name": "coteaching"}
    _, result = make(tmp_path, validation_labels=clean, method=method, loss="ce")
    assert result["forget_rate"] == pytest.approx(WRONG, abs=0.1)


def test_decisions_find_the_rows_of_a_hold_out_with_clean_labels(noisy, tmp_path):
    rows = [2, 5, 11]
    clean = table(tmp_path / "clean.csv", noisy["train"], rows)
    run = parse(SETTINGS | {"validation_labels": clean})
    given = Digits().load().train.labels
    decision = decisions.Decision("d", "validation", 1, "", str(int(given[5])), "aside", "0")
    other = decisions.Decision("e", "train", 2, "", str(int(given[3])), "aside", "0")
    made = decisions.apply([decision, other], run)
    assert torch.nonzero(made.train < 0).flatten().tolist() == [3, 5]


def test_a_limit_leaves_clean_labels_beyond_it_out(noisy, tmp_path):
    clean = table(tmp_path / "clean.csv", noisy["train"], [1, 50, 700])
    _, result = make(tmp_path, validation_labels=clean, data={"name": "digits", "limit": 100})
    assert result["clean_validation_labels"] == 2


def test_what_leaves_nothing_to_learn_from_or_to_hold_out_is_refused(noisy, tmp_path):
    both = table(tmp_path / "all.csv", noisy["train"], range(1437))
    with pytest.raises(DataError, match="expected training examples of at least two classes"):
        make(tmp_path, validation_labels=both)
    late = table(tmp_path / "late.csv", noisy["train"], [700])
    with pytest.raises(DataError, match="expected labels of the 100 training examples, got none"):
        make(tmp_path, validation_labels=late, data={"name": "digits", "limit": 100})
    with pytest.raises(ConfigError, match=r"validation must be left out, got 0\.1"):
        make(tmp_path, validation_labels=late, validation=0.1)
    with pytest.raises(DataError, match=r"none\.csv"):
        make(tmp_path, test_labels=str(tmp_path / "none.csv"))


def test_a_run_is_known_by_what_the_labels_are_not_by_where_they_lie(tmp_path):
    labels = Digits().load().test.labels
    first, moved = (table(tmp_path / name, labels, range(9)) for name in ("a.csv", "b.csv"))
    other = table(tmp_path / "c.csv", labels, range(8))
    ids = [plan(parse(SETTINGS | {"test_labels": path})).run_id for path in (first, moved, other)]
    assert ids[0] == ids[1] != ids[2]
    without = plan(parse(SETTINGS)).run_id
    assert without not in ids
    # Nobody looks at the labels of a test set that is left alone.
    alone = SETTINGS | {"test": False}
    assert plan(parse(alone)).run_id == plan(parse(alone | {"test_labels": first})).run_id


def test_true_test_labels_need_no_ceiling(tmp_path):
    noise = {"name": "symmetric", "rate": 0.3}
    _, result = make(tmp_path, noise=noise)
    assert result["test_labels"] == "true"
    assert "reachable_test_accuracy" not in result
    assert result["estimated_noise_rate"] == pytest.approx(result["actual_noise_rate"], abs=0.06)
    assert result["estimated_noise_rate_by"] == "confident joint on training examples"
    # What is known needs no estimate.
    assert tell(result, 10) == []


@pytest.mark.parametrize(("accuracy", "warned"), [(0.55, True), (0.72, False)])
def test_a_weak_model_says_that_its_own_mistakes_count(accuracy, warned):
    by = "confident joint on held-out examples"
    ends = {"_low": 0.1, "_high": 0.3, "_by": by, "": 0.2}
    result = {f"estimated_noise_rate{end}": value for end, value in ends.items()}
    result |= {"actual_noise_rate": None, "test_labels": "true", "test_accuracy": accuracy}
    said = tell(result, 3)
    assert said[0] == f"about 20.0 % (10.0 to 30.0) of the training labels seem wrong, by {by}"
    # 0.6 of what there is above a third is 0.733 for three classes, and 0.64 for ten.
    assert said[1].startswith("a model this weak")
    assert (len(tell(result, 10)) == 2) is warned
    measured = result | {"estimated_noise_rate_by": "90 clean labels of held-out examples"}
    assert len(tell(measured, 3)) == 1


def test_predicting_the_commonest_class_alone_is_no_skill(tmp_path):
    """Nine in ten of these are of one class, and nothing tells which."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(400, 4)).astype(np.float32), draw.choice(3, 400, p=[0.9, 0.05, 0.05])
    np.savez(tmp_path / "a.npz", x=x, y=y)
    data = {"name": "arrays", "path": str(tmp_path / "a.npz")}
    run = {"data": data, "model": "linear", "epochs": 5, "optimizer": {"name": "sgd", "lr": 0.1}}
    result = RunFolder(train(run, tmp_path / "runs")).result()
    assert result["test_accuracy"] == pytest.approx(0.9, abs=0.1)
    assert result["commonest_class"] == pytest.approx(0.9, abs=0.03)
    assert tell(result, 3)[-1].startswith("a model this weak")


def test_an_estimate_that_predictions_contradict_is_said_to_be_such():
    ends = {"_low": 0.4, "_high": 0.5, "_by": "3 clean labels of test examples", "": 0.47}
    result = {f"test_noise_rate{end}": value for end, value in ends.items()}
    result |= {"test_labels": "given", "test_accuracy": 0.913, "actual_noise_rate": 0.2}
    (said,) = tell(result | {"reachable_test_accuracy": 0.53}, 3)
    assert "47.0 % (40.0 to 50.0) of them seem wrong, which so many right predictions" in said
    assert "a perfect model" not in said
    (said,) = tell(result | {"reachable_test_accuracy": 0.95}, 3)
    assert "a perfect model would have about 95 %" in said


def test_no_error_among_few_labels_is_no_certainty():
    labels = torch.zeros(20, dtype=torch.int64)
    found = measure(Examples(torch.zeros(20, 1), labels), labels, "test")
    interval = binomtest(0, 20).proportion_ci(method="wilson")
    assert (found.rate, found.low) == (0, 0)
    assert found.high == pytest.approx(interval.high, abs=1e-4)


def test_photos_in_the_wrong_folders_and_one_table_of_those_looked_at(tmp_path, capsys):
    """One table serves both parts; each takes the photos that are its own."""
    root = class_folders(tmp_path / "photos", count=40)
    for number in range(0, 40, 4):
        # A quarter of the bright photos, among the dark ones.
        (root / "bright" / f"{number}.png").rename(root / "dark" / f"b{number}.png")
    looked_at = [path for path in sorted(root.glob("*/*.png")) if int(path.stem.strip("b")) < 30]
    with (tmp_path / "clean.csv").open("w", newline="") as file:
        rows = [
            (path.relative_to(root), "bright" if path.stem[0] == "b" else path.parent.name)
            for path in looked_at
        ]
        csv.writer(file).writerows([("path", "label"), *rows])
    config = tmp_path / "run.toml"
    config.write_text(
        f'data = {{name = "folder", root = "{root}", size = 8}}\n'
        f'test_labels = "{tmp_path}/clean.csv"\nvalidation_labels = "{tmp_path}/clean.csv"\n'
        'model = "linear"\naugment = "none"\nloss = "ce"\nepochs = 10\n'
        'optimizer = {name = "sgd", lr = 0.05}\nbatch_size = 4\n'
    )
    assert main(["train", str(config), "--out", str(tmp_path / "runs")]) == 0
    told = " ".join(capsys.readouterr().err.split())
    (folder,) = (tmp_path / "runs").iterdir()
    result = json.loads((folder / "result.json").read_text())
    labels = read_archive(folder / "labels.npz")
    tested = [Path(place) for place in labels["test_places"]]
    known = [path in looked_at for path in tested]
    assert result["clean_test_labels"] == sum(known) > 8
    assert result["clean_validation_labels"] == len(looked_at) - sum(known)
    # Bright and dark are easy, and one in eight is in the wrong folder.
    assert result["test_accuracy"] == 1 == result["validation_accuracy"]
    wrong = [path.stem[0] == "b" for path in tested]
    assert result["test_accuracy_given"] == pytest.approx(1 - np.mean(wrong))
    assert result["test_noise_rate"] == pytest.approx(np.mean(np.array(wrong)[known]))
    assert f"test accuracy 100.0 % on the {sum(known)} examples with clean labels" in told
    assert "against given labels: a perfect model would have about" in told
    page, wanted = tmp_path / "report.html", "perfect model against given labels"
    assert main(["report", str(folder), "--out", str(page)]) == 0
    assert wanted in page.read_text(encoding="utf-8")
    capsys.readouterr()
    value = "test_accuracy,estimated_noise_rate"
    assert main(["table", str(folder), "--rows", "epochs", "--value", value]) == 0
    shown = capsys.readouterr().out
    assert "labels that are estimated to be wrong" in shown
    assert "a perfect model would have against given test labels about" in shown
