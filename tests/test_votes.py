"""Votes of several raters; estimates against a second computation, one example at a time."""

import itertools
import math

import pytest
import torch

from mps import SingleOnly
from noisylabels.errors import ConfigError, DataError
from noisylabels.losses import build
from noisylabels.votes import consensus, count_votes, dawid_skene

RELIABLE = (0.95, 0.9, 0.8, 0.6, 0.4)


def crowd(count=400, classes=3, seed=0):
    """True classes, and the votes of five raters, a fifth of which is missing."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(classes, (count,), generator=generator)
    columns = []
    for right in RELIABLE:
        wrong = torch.rand(count, generator=generator) >= right
        step = torch.randint(1, classes, (count,), generator=generator)
        columns.append(torch.where(wrong, (true + step) % classes, true))
    votes = torch.stack(columns, 1)
    missing = torch.rand(votes.shape, generator=generator) < 0.2
    missing[:, 0] = False
    return true, votes.masked_fill(missing, -1)


def naive_dawid_skene(votes, classes, iterations, smoothing, tiny=1e-10):
    belief = []
    for row in votes:
        given = [v for v in row if v >= 0]
        belief.append([given.count(k) / len(given) for k in range(classes)])
    for _ in range(iterations):
        prior = [sum(b[k] for b in belief) / len(belief) for k in range(classes)]

        def matrix(columns, lent, belief=belief):
            rows = []
            for k in range(classes):
                cells = [lent[k][label] + tiny for label in range(classes)]
                for b, row in zip(belief, votes, strict=True):
                    for column in columns:
                        if row[column] >= 0:
                            cells[row[column]] += b[k]
                rows.append([c / sum(cells) for c in cells])
            return rows

        raters = range(len(votes[0]))
        pooled = matrix(raters, [[0.0] * classes] * classes)
        lent = [[smoothing * c for c in row] for row in pooled]
        confusion = [matrix([rater], lent) for rater in raters]
        belief = []
        for row in votes:
            joint = [
                prior[k]
                * math.prod(confusion[r][k][label] for r, label in enumerate(row) if label >= 0)
                for k in range(classes)
            ]
            belief.append([j / sum(joint) for j in joint])
    return belief, confusion


@pytest.mark.parametrize("smoothing", [0.0, 5.0])
def test_dawid_skene_equals_naive_computation(smoothing):
    _, votes = crowd(60)
    found = dawid_skene(votes, smoothing=smoothing, iterations=7, tolerance=0.0)
    belief, confusion = naive_dawid_skene(votes.tolist(), 3, 7, smoothing)
    torch.testing.assert_close(
        found.probabilities, torch.tensor(belief).double(), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(found.confusion, torch.tensor(confusion).double(), atol=1e-6, rtol=0)
    assert len(found.log_likelihood) == 7


def test_raters_are_told_apart_and_believed_accordingly():
    true, votes = crowd(2000)
    found = dawid_skene(votes)
    torch.testing.assert_close(
        found.reliability, torch.tensor(RELIABLE).double(), atol=0.03, rtol=0
    )
    by = {
        kind: (consensus(votes, by=kind).argmax(1) == true).double().mean().item()
        for kind in ("majority", "dawid-skene")
    }
    assert by["dawid-skene"] > by["majority"] + 0.03


def test_the_likelihood_never_falls_without_smoothing():
    steps = dawid_skene(crowd()[1], smoothing=0.0, iterations=40, tolerance=0.0).log_likelihood
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(steps))
    assert steps[-1] > steps[0]


def test_raters_by_number_are_those_of_columns_in_any_order():
    _, votes = crowd()
    generator = torch.Generator().manual_seed(1)
    order = torch.rand(votes.shape, generator=generator).argsort(1)
    mixed = dawid_skene(votes.gather(1, order), raters=order)
    torch.testing.assert_close(mixed.probabilities, dawid_skene(votes).probabilities)


def test_it_ends_where_nothing_changes():
    _, votes = crowd()
    ended = dawid_skene(votes, iterations=1000)
    assert len(ended.log_likelihood) < 200
    more = dawid_skene(votes, iterations=1000, tolerance=0.0)
    torch.testing.assert_close(ended.probabilities, more.probabilities, atol=1e-3, rtol=0)


def test_one_vote_for_each_is_that_vote():
    labels = torch.tensor([0, 2, 1, 2])
    for kind in ("soft", "majority", "dawid-skene"):
        assert consensus(labels[:, None], by=kind).argmax(1).equal(labels)


def test_shares_and_majorities_are_counts():
    votes = torch.tensor([[0, 1, 1, -1], [2, 0, -1, -1], [2, 2, 2, 2]])
    assert count_votes(votes).tolist() == [[1, 2, 0], [1, 0, 1], [0, 0, 4]]
    assert consensus(votes, num_classes=4).tolist()[1] == [0.5, 0, 0.5, 0]
    # Of equally many the first class.
    assert consensus(votes, by="majority").argmax(1).tolist() == [1, 0, 2]


def test_devices_without_float64():
    votes = torch.tensor([[0, 1], [1, 1]])
    there = votes.as_subclass(SingleOnly)
    assert dawid_skene(there).probabilities.equal(dawid_skene(votes).probabilities)
    for by in ("soft", "majority", "dawid-skene"):
        assert consensus(there, by=by).equal(consensus(votes, by=by))


def test_losses_take_them():
    _, votes = crowd(8)
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    shares = consensus(votes)
    each = torch.stack(
        [build("gce", reduction="none")(logits, torch.full((8,), k)) for k in range(3)]
    )
    torch.testing.assert_close(build("gce")(logits, shares), (each.T * shares).sum(1).mean())


@pytest.mark.parametrize(
    ("votes", "message"),
    [
        ([[0, 1], [-1, -1]], r"row 1: expected at least one vote, got none"),
        (
            [[0, 1], [0, -2]],
            r"row 1: expected a class in 0..1, or -1 for no vote, got -2 in column 1",
        ),
        ([[], []], r"expected int64 of shape \(N, R\), got torch.float32 of shape \(2, 0\)"),
        ([0, 1], r"expected int64 of shape \(N, R\), got torch.int64 of shape \(2,\)"),
    ],
)
def test_votes_that_are_none(votes, message):
    with pytest.raises(DataError, match=message):
        consensus(torch.tensor(votes))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_no_votes_are_of_no_class_unless_it_is_said(shape):
    votes = torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(DataError, match="votes: expected at least one vote"):
        consensus(votes)
    if not len(votes):
        assert consensus(votes, num_classes=4).shape == (0, 4)


def test_settings_out_of_range():
    _, votes = crowd(10)
    with pytest.raises(ConfigError, match="by must be 'soft' or 'majority' or 'dawid-skene'"):
        consensus(votes, by="mean")
    with pytest.raises(ConfigError, match="smoothing must be"):
        dawid_skene(votes, smoothing=-1.0)


def test_raters_are_asked_for_where_there_is_a_vote():
    _, votes = crowd(50)
    raters = torch.arange(5).expand_as(votes)
    expected = dawid_skene(votes, raters=raters)
    for none in (-1, 10**9):
        found = dawid_skene(votes, raters=raters.where(votes >= 0, none))
        torch.testing.assert_close(found.confusion, expected.confusion)
        torch.testing.assert_close(found.probabilities, expected.probabilities)


@pytest.mark.parametrize("value", [-1, 6, 10**9])
def test_a_rater_out_of_range_is_named(value):
    votes = torch.tensor([[0, 1], [-1, 1], [0, 0]])
    raters = torch.tensor([[0, 1], [0, value], [0, 5]])
    said = rf"raters: row 1: expected .* in 0..5, got {value} in column 1 .*without gaps"
    with pytest.raises(DataError, match=said):
        dawid_skene(votes, raters=raters)
    assert dawid_skene(votes, raters=raters.clamp(0, 5)).confusion.shape == (6, 2, 2)
    numbered = torch.unique(raters, return_inverse=True)[1]
    assert len(dawid_skene(votes, raters=numbered).confusion) == len(raters.unique())


def test_raters_of_another_form():
    _, votes = crowd(10)
    for raters in (votes.double(), votes[:5], votes[:, :1]):
        with pytest.raises(
            DataError, match=r"raters: expected int64 of the votes' shape \(10, 5\)"
        ):
            dawid_skene(votes, raters=raters)


@pytest.mark.parametrize("by", ["soft", "majority"])
def test_raters_that_nobody_looks_at(by):
    _, votes = crowd(10)
    with pytest.raises(ConfigError, match=f"raters must be left out .* got by '{by}'"):
        consensus(votes, by=by, raters=torch.arange(5).expand_as(votes))


@pytest.mark.parametrize("given", [False, True])
def test_no_example_says_nothing_of_raters(given):
    votes = torch.zeros(0, 3, dtype=torch.int64)
    found = dawid_skene(votes, num_classes=2, raters=votes if given else None)
    assert found.probabilities.shape == (0, 2)
    assert found.confusion.shape == (0 if given else 3, 2, 2)
    assert found.prior.tolist() == [0.5, 0.5]
    assert found.reliability.tolist() == ([] if given else [0.5] * 3)
    assert found.log_likelihood == ()
    assert consensus(votes, num_classes=2, by="dawid-skene").shape == (0, 2)
