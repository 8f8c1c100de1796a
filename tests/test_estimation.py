import math

import numpy as np
import pytest
import torch

from noisylabels import estimation
from noisylabels.errors import ConfigError, DataError
from noisylabels.estimation import (
    ESTIMATORS,
    confident_joint,
    disagreement,
    estimate_noise_rate,
    posterior,
    posterior_joint,
    wrong_probability,
    wrong_share,
    wrong_share_interval,
)
from noisylabels.noise import NOISES


def predictions(true, sharpness, errors=0.0, seed=0):
    """Of a network that is right about the true class but for some errors."""
    generator = torch.Generator().manual_seed(seed)
    classes = int(true.max()) + 1
    seen = true.clone()
    wrong = torch.rand(len(true), generator=generator) < errors
    seen[wrong] = torch.randint(classes, (int(wrong.sum()),), generator=generator)
    logits = torch.randn(len(true), classes, generator=generator)
    logits[torch.arange(len(true)), seen] += sharpness
    return logits.softmax(1)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.4, 0.6])
def test_good_predictions_tell_the_rate(rate):
    true = torch.arange(5000) % 10
    given = NOISES["symmetric"](true, num_classes=10, rate=rate, seed=1)
    actual = (given != true).double().mean().item()
    assert estimate_noise_rate(predictions(true, 8.0), given) == pytest.approx(actual, abs=0.02)


def test_confusions_of_unsure_predictions_count_less_than_their_errors():
    true = torch.arange(5000) % 10
    given = NOISES["symmetric"](true, num_classes=10, rate=0.4, seed=1)
    actual = (given != true).double().mean().item()
    p = predictions(true, 3.0)
    errors = (p.argmax(1) != given).double().mean().item()
    found = estimate_noise_rate(p, given)
    assert actual < found < errors
    assert found == pytest.approx(actual, abs=0.06)


def test_by_hand():
    """The example of the docstring, and a class that no label names."""
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
    given = torch.tensor([0, 0, 1, 1, 1])
    # Thresholds 0.85 and 0.6: rows 0, 2, 3 and 4 count; 4 has label 1 and is taken for 0.
    # Class 0 is scaled from 1 to 2, class 1 stays 3: 1 of 5.
    assert estimate_noise_rate(p, given) == pytest.approx(0.2)
    wide = torch.cat([p * 0.9, torch.full((5, 1), 0.1)], 1)
    assert estimate_noise_rate(wide, given) == pytest.approx(0.2)


def test_predictions_that_say_nothing_do_not_divide_by_zero():
    p = torch.full((4, 2), 0.5)
    assert 0 <= estimate_noise_rate(p, torch.tensor([0, 1, 0, 1])) <= 1


def noisy(kind="symmetric", sharpness=5.0, errors=0.05):
    true = torch.arange(3000) % 6
    given = NOISES[kind](true, num_classes=6, rate=0.3, seed=1)
    return true, given, predictions(true, sharpness, errors)


@pytest.mark.parametrize("joint", [confident_joint, disagreement, posterior_joint])
def test_joints_have_every_given_label(joint):
    _, given, p = noisy()
    found = joint(p, given)
    assert found.shape == (6, 6)
    torch.testing.assert_close(found.sum(1), torch.bincount(given).double())


def test_confident_joint_is_cleanlabs():
    count = pytest.importorskip("cleanlab.count")
    _, given, p = noisy("pairflip")
    theirs = count.estimate_joint(given.numpy(), p.double().numpy())
    ours = confident_joint(p, given)
    # Theirs are rounded to whole examples.
    np.testing.assert_allclose(ours / ours.sum(), theirs, atol=1e-3)
    assert estimate_noise_rate(p, given) == wrong_share(ours)
    other = estimate_noise_rate(p, given, estimator="disagreement")
    assert other == pytest.approx(float((p.argmax(1) != given).double().mean()))
    with pytest.raises(ConfigError, match="estimator must be"):
        estimate_noise_rate(p, given, estimator="guess")


def test_disagreement_counts_pairs_one_by_one():
    _, given, p = noisy()
    naive = torch.zeros(6, 6, dtype=torch.float64)
    for label, row in zip(given.tolist(), p, strict=True):
        naive[label, int(row.argmax())] += 1
    assert torch.equal(disagreement(p, given), naive)


def naive_posterior(p, labels, steps):
    """The same in loops over classes, in NumPy."""
    p = np.maximum(p.double().numpy(), estimation.LEAST)
    y, n, k = labels.numpy(), len(p), p.shape[1]
    pairs = [(a, b) for a in range(k) for b in range(k) if a != b]

    def expected(matrix):
        q = np.array([p[i] * matrix[:, y[i]] for i in range(n)])
        return q / q.sum(1, keepdims=True)

    def counted(q):
        return np.array([[q[y == given, true].sum() for given in range(k)] for true in range(k)])

    def fitted(weight):
        matrix = np.full((k, k), (1 - estimation.FIRST_RIGHT) / (k - 1))
        np.fill_diagonal(matrix, estimation.FIRST_RIGHT)
        for _ in range(steps):
            counts = counted(expected(matrix))
            rate = 1 - np.trace(counts) / counts.sum()
            off = (1 - np.eye(k)) / (k - 1)
            counts += n / k * (estimation.FEW_WRONG * off)
            counts += n / k * weight * (rate * off + (1 - rate) * np.eye(k))
            matrix = counts / counts.sum(1, keepdims=True)
        return matrix

    q = expected(fitted(0.0))
    counts = counted(q)
    rates = counts / counts.sum(1, keepdims=True)
    drawn = [(q[y == b, a] ** 2).sum() / counts[a].sum() ** 2 for a, b in pairs]
    apart = np.mean([(rates[a, b] - rates[b, a]) ** 2 / 2 for a, b in pairs]) - 2 * np.mean(drawn)
    directed = apart / np.mean([rates[pair] for pair in pairs]) ** 2
    weight = 1e6 if directed < 1 else (1.25 / directed) ** 6
    return expected(fitted(weight))


@pytest.mark.parametrize("kind", ["symmetric", "pairflip"])
def test_the_posterior_is_a_naive_one(kind, monkeypatch):
    monkeypatch.setattr(estimation, "STEPS", 4)
    _, given, p = noisy(kind)
    found = posterior(p[:400], given[:400])
    np.testing.assert_allclose(found, naive_posterior(p[:400], given[:400], 4), atol=1e-9)


@pytest.mark.parametrize("count", [100, 200, 400, None])
def test_of_even_noise_the_ranking_is_the_labels_own_probability(count):
    """Of few examples too: that more cats are called dogs than dogs cats may be chance."""
    _, given, p = noisy()
    for start in range(0, len(p) if count else 1, count or 1):
        some = slice(start, start + count if count else None)
        own = p[some].gather(1, given[some, None]).squeeze(1)
        found = wrong_probability(p[some], given[some])
        ranks = [values.argsort().argsort().double() for values in (own, 1 - found)]
        assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) > 0.9999


def test_where_two_classes_are_alike_the_ranking_is_the_labels_own_probability():
    """Cats called dogs as often as dogs cats: the probabilities say so already."""
    draws = np.random.default_rng(0)
    true = draws.integers(0, 4, 3000)
    p = draws.dirichlet(np.full(4, 0.3), 3000)
    p[np.arange(3000), true] += 3.0
    given = true.copy()
    mistaken = draws.random(3000) < 0.2
    # 0 and 1 are taken for each other, 2 and 3 are not.
    given[mistaken & (true == 0)], given[mistaken & (true == 1)] = 1, 0
    p = torch.from_numpy(p / p.sum(1, keepdims=True))
    found = wrong_probability(p, torch.from_numpy(given))
    own = p[torch.arange(3000), torch.from_numpy(given)]
    ranks = [values.argsort().argsort().double() for values in (own, 1 - found)]
    assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) > 0.9999


def test_where_one_class_is_taken_for_another_such_labels_are_doubted_more():
    true, given, p = noisy("pairflip", sharpness=2.0)
    wrong = (given != true).numpy()
    own = p.gather(1, given[:, None]).squeeze(1).numpy()
    by_posterior = np.argsort(-wrong_probability(p, given).numpy())[: wrong.sum()]
    by_probability = np.argsort(own)[: wrong.sum()]
    assert wrong[by_posterior].mean() > wrong[by_probability].mean() + 0.02


@pytest.mark.parametrize("kind", ["symmetric", "pairflip"])
@pytest.mark.parametrize("sharpness", [6.0, 8.0])
def test_probabilities_of_wrong_labels_are_as_they_say(kind, sharpness):
    true, given, p = noisy(kind, sharpness, errors=0.0)
    # Means over epochs are less sure than the networks: here by a temperature.
    flat = (p.log() / 1.5).softmax(1)
    found, wrong = wrong_probability(flat, given), given != true
    assert float(found.mean()) == pytest.approx(float(wrong.double().mean()), abs=0.05)
    sure = found > 0.9
    assert float(wrong[sure].double().mean()) > 0.9


def test_very_many_examples_are_fitted_by_some_of_them(monkeypatch):
    _, given, p = noisy()
    whole = wrong_probability(p, given)
    monkeypatch.setattr(estimation, "LARGEST_FIT", 3000 * 2)
    assert float((wrong_probability(p, given) - whole).abs().mean()) < 0.01


def test_labels_in_turn_are_fitted_as_in_any_order(monkeypatch):
    true = torch.arange(6000) % 6
    wrong = torch.rand(6000, generator=torch.Generator().manual_seed(0)) < 0.3
    given = torch.where(wrong, (true + 1) % 6, true)
    p = predictions(true, 3.0)
    whole = wrong_probability(p, given)
    # A third of them: of every third row there are two classes alone, and 0.045 comes out.
    monkeypatch.setattr(estimation, "LARGEST_FIT", 6000 * 2)
    assert float((wrong_probability(p, given) - whole).abs().mean()) < 0.01


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1.5, -0.2])
def test_what_is_no_probability_is_named(estimator, bad):
    _, given, p = noisy()
    p[7, 2] = bad
    with pytest.raises(DataError, match=r"probabilities: row 7: expected numbers in \[0, 1\], got"):
        estimate_noise_rate(p, given, estimator=estimator)
    with pytest.raises(DataError, match="probabilities: row 7"):
        wrong_probability(p, given)


def test_one_class_and_no_class_change_nothing():
    one = torch.ones(3, 1)
    labels = torch.zeros(3, dtype=torch.int64)
    assert posterior(one, labels).tolist() == [[1.0]] * 3
    assert wrong_share(posterior_joint(one, labels)) == 0.0
    assert float(wrong_probability(one, labels).max()) < 1e-6
    absent = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]])
    assert bool(posterior(absent, labels[:2]).isfinite().all())


def test_an_interval_holds_the_estimate_and_shrinks_with_examples(monkeypatch):
    _, given, p = noisy()
    low, high = wrong_share_interval(p, given)
    assert low < wrong_share(confident_joint(p, given)) < high
    few_low, few_high = wrong_share_interval(p[:300], given[:300])
    assert (few_high - few_low) / (high - low) == pytest.approx(10**0.5, rel=0.35)
    # Drawn in part, and scaled.
    monkeypatch.setattr(estimation, "LARGEST_RESAMPLE", 600 * 6)
    part_low, part_high = wrong_share_interval(p, given)
    assert part_high - part_low == pytest.approx(high - low, rel=0.35)


TAKES_LABELS = [
    confident_joint,
    disagreement,
    estimate_noise_rate,
    posterior,
    posterior_joint,
    wrong_probability,
    wrong_share_interval,
]


@pytest.mark.parametrize("estimate", TAKES_LABELS)
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1, 5, 2], r"labels: row 2: expected a label in 0\.\.2, got 5"),
        ([0, 1, -1, 2], r"labels: row 2: expected a label in 0\.\.2, got -1"),
        ([0, 1], "labels: expected 4 labels, .*, got 2"),
        ([[0, 1, 2, 0]], r"whole labels of shape \(N\), got shapes \(4, 3\) and \(1, 4\)"),
        ([0.0, 1.0, 2.0, 0.0], "whole labels .*float32"),
    ],
)
def test_labels_that_do_not_fit_are_named(estimate, labels, said):
    with pytest.raises(DataError, match=said):
        estimate(torch.full((4, 3), 1 / 3), torch.tensor(labels))


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(DataError, match="expected at least one example"):
        wrong_share_interval(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("estimate", TAKES_LABELS)
def test_a_gpus_tensors_tell_the_same(estimate):
    _, given, p = noisy()
    found, expected = estimate(p.cuda(), given.cuda()), estimate(p, given)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
