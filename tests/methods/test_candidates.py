"""Training on sets of candidates: one method's steps, and runs from a file to a result."""

import numpy as np
import pytest
import torch

import tiny
from noisylabels.errors import ConfigError, DataError
from noisylabels.functional import candidate_weights
from noisylabels.losses import build
from noisylabels.methods import METHODS, Batch
from noisylabels.run.callbacks import Callback
from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.interruption import StoppedError
from noisylabels.run.labelling import label
from noisylabels.run.noise_rates import tell
from noisylabels.run.plan import plan
from noisylabels.run.trainer import train
from noisylabels.studies import audit

RUN = {
    "data": {"name": "digits", "limit": 300},
    "noise": {"name": "candidates", "rate": 0.3, "missing": 0.1},
    "model": {"name": "mlp", "hidden": [16]},
    "epochs": 3,
}


def sets():
    made = torch.nn.functional.one_hot(tiny.labels(), tiny.CLASSES).bool()
    made[::2, 0] = True
    return made


def batches():
    return [Batch(b.index, b.input, sets()[b.index]) for b in tiny.batches()]


def train_epoch(method, epoch, epochs):
    method.set_epoch(epoch, epochs)
    method.begin_epoch()
    method.train_epoch(batches())
    return method.end_epoch()


def test_an_epoch_is_gradient_descent_on_weighed_candidates():
    method = METHODS["candidates"](tiny.context("gce"), start=0.5, end=1.5)
    train_epoch(method, 1, 2)
    assert method.metrics() == {"sharpness": 1.0}
    naive = tiny.network(0)
    for batch in batches():
        logits = naive(batch.input)
        weights = candidate_weights(logits.detach(), batch.target, sharpness=1.0)
        value = build("gce")(logits, weights)
        tiny.descend(naive, torch.autograd.grad(value, list(naive.parameters())))
    tiny.assert_same_weights(method, naive)


def test_a_memory_weighs_by_the_last_visit():
    method = METHODS["candidates"](tiny.context("ce"), start=1.0, end=1.0, memory=True)
    naive, last = tiny.network(0), torch.zeros(len(tiny.labels()), tiny.CLASSES)
    for epoch in range(3):
        train_epoch(method, epoch, 3)
        for batch in batches():
            p = last[batch.index].softmax(1) * batch.target
            weights = p / p.sum(1, keepdim=True)
            logits = naive(batch.input)
            value = -(weights * logits.log_softmax(1)).sum(1).mean()
            last[batch.index] = logits.detach()
            tiny.descend(naive, torch.autograd.grad(value, list(naive.parameters())))
    tiny.assert_same_weights(method, naive, rtol=1e-4, atol=1e-6)


def test_single_descends_on_the_total_probability():
    method = METHODS["single"](tiny.context("gce"))
    train_epoch(method, 0, 1)
    naive = tiny.network(0)
    for batch in batches():
        p = naive(batch.input).softmax(1).masked_fill(~batch.target, 0).sum(1)
        value = ((1 - p**0.7) / 0.7).mean()
        tiny.descend(naive, torch.autograd.grad(value, list(naive.parameters())))
    tiny.assert_same_weights(method, naive, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["single", "candidates"])
def test_a_run_says_what_it_was_trained_on(method, tmp_path):
    folder = RunFolder(train(parse(RUN | {"method": method, "validation": 0.1}), tmp_path))
    labels, result, kept = folder.labels(), folder.result(), folder.predictions()
    given, true, candidates = (labels[name] for name in ("given", "true", "candidates"))
    rows = np.arange(len(true))
    assert candidates.shape == (len(true), 10)
    assert candidates[rows, given].all()
    assert labels["validation_candidates"].any(1).all()
    has = candidates[rows, true]
    assert result["actual_noise_rate"] == pytest.approx(1 - has.mean())
    assert result["nominal_noise_rate"] == 0.1
    assert result["mean_candidates"] == pytest.approx(candidates.sum(1).mean())
    assert "estimated_noise_rate" not in result
    predicted = kept["train_probabilities"].argmax(1)
    inside = candidates[rows, predicted]
    assert result["train_accuracy"] == pytest.approx(inside.mean(), abs=0.01)
    assert result["train_accuracy_wrong"] == pytest.approx(inside[~has].mean(), abs=0.05)
    assert (kept["train_disagreements"] <= 3).all()
    (said,) = tell(result, 10)
    assert said.startswith("trained on sets of 3.")
    assert said.endswith(f"{100 * (1 - has.mean()):.1f} % of the sets lack the true label")
    with pytest.raises(DataError, match="expected one label for each example, got sets"):
        audit.read([folder])


class Stop(Callback):
    def on_epoch(self, metrics):
        if metrics["epoch"] == 0:
            raise StoppedError(15, "cut")


@pytest.mark.parametrize("method", ["single", "candidates", {"name": "candidates", "memory": True}])
def test_a_run_that_was_cut_ends_as_one_that_was_not(method, tmp_path, monkeypatch):
    monkeypatch.setattr("noisylabels.run.loop.SECONDS_BETWEEN_SAVES", 0.0)
    run = parse(RUN | {"method": method, "loss": "dal"})
    whole = RunFolder(train(run, tmp_path / "whole"))
    with pytest.raises(StoppedError):
        train(run, tmp_path / "cut", [Stop()])
    cut = RunFolder(train(run, tmp_path / "cut"))
    assert cut.metrics() == whole.metrics()
    for name, array in whole.predictions().items():
        np.testing.assert_array_equal(cut.predictions()[name], array)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": "elr"},
            "EarlyLearningRegularization needs one label for each example, got sets",
        ),
        ({"method": "gjs"}, "GeneralizedJensenShannon needs one label"),
        ({"method": "dividemix"}, "DivideMix needs one label"),
        ({"method": {"name": "coteaching", "forget_rate": 0.2}}, "CoTeaching needs one label"),
        ({"loss": "nce"}, "NormalizedCrossEntropyLoss is not defined for sets of candidates"),
        ({"method": "candidates", "loss": "nlnl"}, "not defined for class probabilities"),
        ({"method": "candidates", "noise": "none"}, "expected sets of candidates, got one label"),
        ({"method": {"name": "candidates", "end": -1.0}}, "end must be in"),
        ({"poison": {"name": "trigger", "share": 0.1, "target": 1}}, "expected one label for each"),
    ],
)
def test_what_takes_no_sets_says_so(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(parse(RUN | changes), tmp_path)


def test_the_label_that_stands_for_a_set_is_drawn_from_it():
    dataset, true = label(plan(parse(RUN), trial=False))
    chosen = dataset.train.candidates.gather(1, dataset.train.labels[:, None])
    assert chosen.all()
    assert (dataset.train.labels == true).double().mean() < 0.5
    assert dataset.test.targets is None


@pytest.mark.parametrize("tested", ["cat|dog", "cat"])
def test_what_a_test_accuracy_of_sets_counts_is_said(tested, tmp_path):
    path = tmp_path / "t.csv"
    rows = ["a cat here,cat|dog,train", "a dog there,dog,train", "an owl there,owl|dog,train"] * 8
    rows += [f"a cat and more,{tested},test", "an owl,owl,test", "a dog,dog,test"] * 4
    path.write_text("\n".join(["text,label,split", *rows]))
    data = {"name": "text", "path": str(path), "candidate_separator": "|"}
    heard = []

    class Ear(Callback):
        def on_message(self, sentence):
            heard.append(sentence)

    run = {"data": data, "features": "tfidf", "model": "linear", "epochs": 2, "batch_size": 8}
    folder = RunFolder(train(parse(run), tmp_path / "runs", [Ear()]))
    result, predicted = folder.result(), folder.predictions()["test_probabilities"].argmax(1)
    labels = [{"cat": {0}, "cat|dog": {0, 1}}[tested], {2}, {1}] * 4
    right = [guess in allowed for guess, allowed in zip(predicted, labels, strict=True)]
    assert result["test_accuracy"] == pytest.approx(np.mean(right))
    of_sets = "test accuracy counts any candidate of a test example as right"
    assert (of_sets in heard) is (tested == "cat|dog")
    (said,) = (sentence for sentence in tell(result, 3) if sentence.startswith("trained on sets"))
    assert ("and so does one of a test set's 1.33" in said) is (tested == "cat|dog")
    assert result.get("test_mean_candidates") == (4 / 3 if tested == "cat|dog" else None)
