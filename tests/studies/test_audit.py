import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

import noisylabels
from folders import alter
from noisylabels.errors import ConfigError, DataError
from noisylabels.estimation import wrong_probability
from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.trainer import train
from noisylabels.studies import audit
from noisylabels.studies.audit import Evidence


def evidence(count=60, classes=4, seed=0, **changes):
    draws = np.random.default_rng(seed)
    mean, last = (draws.dirichlet(np.full(classes, 0.5), count).astype(np.float32) for _ in "ab")
    labels = draws.integers(0, classes, count)
    values = {
        "classes": tuple("abcdefghij"[:classes]),
        "labels": labels,
        "mean": mean,
        "last": last,
        "margin": audit.margins(mean, labels),
        "differing": draws.integers(0, 5, count) / 4,
        "parts": np.full(count, "train"),
        "rows": np.arange(count),
        "places": np.full(count, ""),
        "true": draws.integers(0, classes, count),
        "accuracy": 0.9,
        "against_given": False,
        "evaluations": 9,
        "folders": (),
    }
    return Evidence(**(values | changes))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds on the same wrong labels."""
    out = tmp_path_factory.mktemp("runs")
    base = {
        "data": "digits",
        "noise": {"name": "symmetric-exclusive", "rate": 0.3, "seed": 0},
        "model": {"name": "mlp", "hidden": [32]},
        "loss": {"name": "dal", "q_start": 0.2},
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
        "batch_size": 64,
        "epochs": 10,
        "validation": 0.1,
    }
    for seed in (0, 1):
        train(parse(base | {"seed": seed, "validation": 0.0}), out / "seeds")
    train(parse(base), out / "held")
    return out


def test_scores_are_cleanlabs_formulae():
    """As its documentation has them, on the same probabilities."""
    found = evidence()
    rows = np.arange(len(found))
    own = found.mean[rows, found.labels]
    np.testing.assert_allclose(audit.SCORES["mean-given"](found), 1 - own)
    p = found.last.copy()
    own = p[rows, found.labels]
    p[rows, found.labels] = 0
    normalised = (own - p.max(1) + 1) / 2
    np.testing.assert_allclose(audit.SCORES["last-margin"](found), 1 - normalised, atol=1e-7)
    p, labels = torch.from_numpy(found.mean), torch.from_numpy(found.labels)
    np.testing.assert_array_equal(audit.SCORES["posterior"](found), wrong_probability(p, labels))


@pytest.mark.parametrize("name", audit.SCORES)
def test_every_score_ranks_and_is_a_share(name):
    made = audit.judge(evidence(), name)
    assert ((made.score >= 0) & (made.score <= 1)).all()
    assert (np.diff(made.score[made.order]) <= 0).all()
    assert sorted(made.order) == list(range(60))
    assert (made.suggested[made.suspects] != made.evidence.labels[made.suspects]).all()


def test_more_epochs_of_another_prediction_are_more_suspicious():
    found = evidence()
    score = audit.SCORES["epochs"](found)
    several = np.flatnonzero(found.differing > 0.5)
    few = np.flatnonzero(found.differing < 0.5)
    assert score[several].min() > score[few].max()


def test_average_precision_is_sklearns_with_ties_too():
    draws = np.random.default_rng(0)
    wrong, score = draws.random(200) < 0.3, draws.integers(0, 30, 200) / 30
    theirs = average_precision_score(wrong, score)
    assert audit.average_precision(wrong, score) == pytest.approx(theirs)
    top = np.argsort(-score, kind="stable")[:50]
    assert audit.precision_at(wrong, score, 50) == wrong[top].mean()


def test_an_unknown_score_is_refused():
    with pytest.raises(ConfigError, match="score must be 'posterior' or .* got 'margin'"):
        audit.judge(evidence(), "margin")


def test_wrong_labels_are_found(runs):
    made = noisylabels.audit(runs / "seeds")
    wrong = made.evidence.labels != made.evidence.true
    assert wrong.mean() == pytest.approx(0.31, abs=0.01)
    assert average_precision_score(wrong, made.score) > 0.92
    for estimate in made.estimates:
        assert estimate.low < estimate.share < estimate.high
        assert estimate.share == pytest.approx(wrong.mean(), abs=0.05)
    low, high = made.wrong
    assert low <= high <= len(made.suspects) + 1
    right = made.suggested[made.suspects] == made.evidence.true[made.suspects]
    assert right.mean() > 0.8
    said = made.sentences()
    assert any("true labels are known here: 30." in sentence for sentence in said)
    assert re.search(r"about \d\d % of the first 500 suspects, and", made.trust())
    # They are about as often wrong as is said, rather more often.
    for first in (100, 200, len(made.suspects)):
        real = wrong[made.suspects[:first]].mean()
        assert real - 0.25 < made.precision(first) < real + 0.02
    # Whatever ranks them, it is the probability that counts.
    other = audit.judge(made.evidence, "last-margin")
    assert other.alike == pytest.approx(made.alike)


def test_runs_are_averaged(runs):
    folders = RunFolder.find([runs / "seeds"])
    both, each = audit.read(folders), [audit.read([folder]) for folder in folders]
    np.testing.assert_allclose(both.mean, (each[0].mean + each[1].mean) / 2)
    np.testing.assert_allclose(both.differing, (each[0].differing + each[1].differing) / 2)
    assert both.accuracy == pytest.approx((each[0].accuracy + each[1].accuracy) / 2)
    assert both.evaluations == 10
    kept = folders[0].predictions()
    np.testing.assert_allclose(each[0].margin, kept["train_mean_margin"])
    np.testing.assert_allclose(each[0].given, kept["train_mean_given"], atol=1e-3)


def test_held_out_examples_are_judged_too(runs):
    made = noisylabels.audit([runs / "held"])
    parts, counts = np.unique(made.evidence.parts, return_counts=True)
    assert dict(zip(parts.tolist(), counts.tolist(), strict=True)) == {
        "train": 1293,
        "validation": 144,
    }
    assert {suspect.part for suspect in made.listed()} == {"train", "validation"}
    # Their true labels are not kept.
    assert (made.evidence.true[made.evidence.parts == "validation"] == -1).all()


def test_runs_of_other_labels_are_refused(runs, tmp_path):
    first = RunFolder.find([runs / "seeds"])[0].path
    other = alter(first, tmp_path / "other", seed=7)
    labels = dict(np.load(other / "labels.npz"))
    labels["given"][5] = (labels["given"][5] + 1) % 10
    np.savez(other / "labels.npz", **labels)
    with pytest.raises(DataError, match=r"same labels, but 1 differ, the first in row 5"):
        noisylabels.audit([first, other])
    data = json.loads((other / "data.json").read_text())
    data["classes"] = list("abcdefghij")
    (other / "data.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"same data, got 1437 examples of 10 classes and 1437 of"):
        noisylabels.audit([first, other])


def test_runs_without_means_are_judged_by_their_last_epoch(runs, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(RunFolder.find([runs / "seeds"])[0].path, old)
    kept = {name: a for name, a in np.load(old / "predictions.npz").items() if "_mean" not in name}
    del kept["train_evaluations"], kept["train_disagreements"]
    np.savez(old / "predictions.npz", **kept)
    made = noisylabels.audit(old)
    np.testing.assert_array_equal(made.evidence.mean, made.evidence.last)
    assert any("over 1 evaluated epoch only" in sentence for sentence in made.sentences())


def test_damaged_and_unfinished_runs_are_named(runs, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(RunFolder.find([runs / "seeds"])[0].path, old)
    kept = dict(np.load(old / "predictions.npz"))
    np.savez(old / "predictions.npz", **(kept | {"train_probabilities": np.zeros((3, 10))}))
    with pytest.raises(DataError, match=r"predictions.npz: expected train_probabilities of shape"):
        noisylabels.audit(old)
    (old / "result.json").unlink()
    with pytest.raises(DataError, match="at least one finished run, got 1 unfinished"):
        noisylabels.audit(old)


def test_files_have_every_suspect_and_what_cleanlab_takes(runs, tmp_path):
    made = noisylabels.audit(runs / "seeds")
    audit.write(made, tmp_path / "new" / "folder")
    with (tmp_path / "new" / "folder" / "suspects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(audit.COLUMNS)
    assert [int(row["rank"]) for row in rows] == list(range(1, len(made.suspects) + 1))
    first = made.listed()[0]
    assert (rows[0]["given"], rows[0]["row"]) == (first.given, str(first.row))
    assert float(rows[0]["score"]) == pytest.approx(first.score, abs=1e-6)
    arrays = np.load(tmp_path / "new" / "folder" / "audit.npz")
    assert arrays["pred_probs"].shape == (1437, 10)
    np.testing.assert_allclose(arrays["pred_probs"].sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(arrays["labels"], made.evidence.labels)
    frame = made.frame()
    assert list(frame.columns) == list(audit.COLUMNS)
    assert len(frame) == len(rows)


def test_cleanlab_takes_the_arrays(runs, tmp_path):
    rank = pytest.importorskip("cleanlab.rank")
    made = noisylabels.audit(runs / "seeds")
    audit.write(made, tmp_path)
    arrays = np.load(tmp_path / "audit.npz")
    quality = rank.get_label_quality_scores(arrays["labels"], arrays["pred_probs"])
    np.testing.assert_allclose(1 - quality, audit.SCORES["mean-given"](made.evidence), atol=1e-6)


def test_two_classes_that_are_taken_for_each_other_overlap():
    labels = np.repeat([0, 1, 2], 40)
    p = np.full((120, 3), 0.02, dtype=np.float32)
    p[np.arange(120), labels] = 0.96
    # Ten labelled as 0 are 1, five the other way.
    p[:10], p[40:45] = (0.02, 0.96, 0.02), (0.96, 0.02, 0.02)
    made = audit.judge(evidence(120, 3, labels=labels, mean=p, last=p))
    (overlap,) = made.overlaps()
    assert {overlap.first, overlap.second} == {"a", "b"}
    assert overlap.examples == pytest.approx(15, abs=0.5)
    assert overlap.share == pytest.approx(15 / 80, abs=0.01)
    assert [cell[:2] for cell in made.confusions()] == [("a", "b"), ("b", "a")]
    assert set(made.suspects.tolist()) == {*range(10), *range(40, 45)}


def suspicious(count=1000, classes=10, wrong=0.2, seed=0, **changes):
    """Sure predictions, all of them right, for labels of which some are wrong."""
    draws = np.random.default_rng(seed)
    true = draws.integers(0, classes, count)
    moved = draws.random(count) < wrong
    labels = np.where(moved, (true + draws.integers(1, classes, count)) % classes, true)
    mean = np.full((count, classes), 0.04 / (classes - 1), dtype=np.float32)
    mean[np.arange(count), true] = 0.96
    values = {"labels": labels, "mean": mean, "last": mean, "true": true, "accuracy": 0.95}
    return evidence(count, classes, **(values | changes))


def test_a_weak_networks_ranking_is_not_recommended():
    assert "too weak to tell" in audit.judge(suspicious(accuracy=0.3)).trust()
    said = audit.judge(suspicious(accuracy=0.45)).trust()
    assert said.endswith("of a network as weak as this it can be half of that")
    strong = audit.judge(suspicious(accuracy=0.9)).trust()
    assert strong.endswith("% of the suspects are expected to be wrong labels")


def test_mistakes_of_the_network_itself_count_among_what_looks_wrong():
    """Of 80 % that it predicts of true labels, 12 % of the mistakes look like wrong ones."""
    made = audit.judge(suspicious())
    rate = made.score.mean()
    assert rate == pytest.approx(0.2, abs=0.03)
    assert made.alike == pytest.approx(0.12 * 0.05 / rate)
    assert made.precision(len(made.suspects)) == pytest.approx(
        made.score[made.suspects].mean() * (1 - made.alike), abs=0.01
    )
    assert made.precision(5) > made.precision(100) > made.precision(1000) > 0.9
    # Against labels as noisy as the rest, of which it cannot predict more.
    noisy = audit.judge(suspicious(accuracy=0.95 * (1 - rate), against_given=True))
    assert noisy.alike == pytest.approx(made.alike)
    unknown = audit.judge(suspicious(accuracy=float("nan")))
    assert 0 <= unknown.alike < 0.1


def test_few_suspects_may_all_be_mistakes_of_the_network():
    made = audit.judge(suspicious(wrong=0.02, accuracy=0.8))
    assert made.alike > 0.5
    assert "no more labels look wrong to it than its own mistakes would" in made.trust()
    assert made.precision(5) < 0.5
    none = audit.judge(suspicious(wrong=0.0))
    assert none.precision(100) == 0.0
    assert "no more labels look wrong" in none.trust()


def test_against_given_labels_a_network_is_better_than_it_looks():
    made = audit.judge(evidence(accuracy=0.7, against_given=True))
    assert made.skill == pytest.approx((0.7 - 0.25) / 0.75)
    assert "70.0 % of the given labels held out, and more of the true ones" in made.trust()


def test_labels_learnt_by_heart_are_said():
    labels = np.random.default_rng(0).integers(0, 4, 60)
    p = np.full((60, 4), 0.01, dtype=np.float32)
    p[np.arange(60), labels] = 0.97
    made = audit.judge(evidence(labels=labels, last=p))
    said = next(sentence for sentence in made.sentences() if "by heart" in sentence)
    assert "trained on the network predicts 100.0 %, of others about" in said


@pytest.mark.parametrize(("accuracy", "least"), [(0.7, False), (0.6, True)])
def test_of_few_examples_there_are_at_least_so_many(accuracy, least):
    """A fifth of the labels is not predicted though they were trained on, others' as often not."""
    made = audit.judge(suspicious(accuracy=accuracy, against_given=True))
    expected = "at least about" if least else "labels held out, and more of the true ones"
    assert expected in made.trust()
    assert ("at least" in made.trust()) == least
    assert any("by heart" in sentence for sentence in made.sentences()) == least


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    out = tmp_path_factory.mktemp("folds")
    base = {
        "data": {"name": "digits", "limit": 400},
        "noise": {"name": "symmetric-exclusive", "rate": 0.2},
        "model": {"name": "mlp", "hidden": [16]},
        "epochs": 2,
    }
    for fold in (1, 2, 3):
        train(parse(base | {"validation": f"{fold}/3"}), out)
    train(parse(base), out.parent / "whole")
    return out


def test_every_example_is_judged_by_the_run_that_held_it_out(folds):
    (whole,) = RunFolder.find([folds.parent / "whole"])
    found = audit.read(RunFolder.find([folds]))
    assert found.out_of_fold
    # As if it had been one run: the labels, the true ones and the rows are those of the data.
    np.testing.assert_array_equal(found.labels, whole.labels()["given"])
    np.testing.assert_array_equal(found.true, whole.labels()["true"])
    np.testing.assert_array_equal(found.rows, np.arange(400))
    for folder in RunFolder.find([folds]):
        rows = folder.labels()["validation_rows"]
        mean = folder.predictions()["validation_mean_probabilities"]
        np.testing.assert_allclose(found.mean[rows], mean, atol=2e-3)
    assert not any("by heart" in sentence for sentence in audit.judge(found).sentences())


def test_all_folds_must_be_there(folds, tmp_path):
    some = RunFolder.find([folds])[:2]
    with pytest.raises(DataError, match=r"one finished run of each fold \(1/3, 2/3, 3/3\), got"):
        audit.read(some)
    (whole,) = RunFolder.find([folds.parent / "whole"])
    with pytest.raises(DataError, match="of each fold"):
        audit.read([*RunFolder.find([folds]), whole])
    third = RunFolder.find([folds])[2].path
    other = alter(third, tmp_path / "other")
    labels = dict(np.load(other / "labels.npz"))
    labels["given"] = np.roll(labels["given"], 1)
    np.savez(other / "labels.npz", **labels)
    with pytest.raises(DataError, match="other: expected the labels of the other folds' runs"):
        audit.read([*some, RunFolder(other)])


def test_a_test_set_that_was_left_alone_is_not_needed(tmp_path):
    run = {"data": {"name": "digits", "limit": 200}, "model": "mlp", "epochs": 1, "test": False}
    made = noisylabels.audit(train(parse(run), tmp_path))
    assert made.trust().startswith("no test set and no hold-out was looked at")
    folder = train(parse(run | {"validation": 0.2}), tmp_path)
    made = noisylabels.audit(folder)
    assert made.evidence.accuracy == RunFolder(folder).result()["validation_accuracy"]
    assert "of the given labels held out" in made.trust()
