import math

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from noisylabels.errors import NoisyLabelsError
from noisylabels.methods.mixture import clean_probability


def two_groups(seed=0, wrong=0.4, count=2000):
    random = np.random.default_rng(seed)
    bad = random.random(count) < wrong
    return torch.from_numpy(
        np.where(bad, random.gamma(20, 0.2, count), random.gamma(1, 0.3, count))
    ), bad


def density(x, mean, variance):
    return math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def test_posteriors_are_bayes_rule_on_the_mixture_that_scikit_learn_fits():
    losses, bad = two_groups()
    scaled = ((losses - losses.min()) / (losses.max() - losses.min())).numpy()
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=3)
    mixture.fit(scaled[:, None])
    low = int(mixture.means_.argmin())
    expected = []
    for x in scaled:
        parts = [
            weight * density(x, mean, variance)
            for weight, mean, variance in zip(
                mixture.weights_, mixture.means_.ravel(), mixture.covariances_.ravel(), strict=True
            )
        ]
        expected.append(parts[low] / sum(parts))
    probability, odd = clean_probability(losses, seed=3)
    assert odd is None
    np.testing.assert_allclose(probability.numpy(), expected, atol=1e-6)
    assert ((probability.numpy() > 0.5) != bad).mean() > 0.98


def test_losses_of_several_epochs_are_scaled_each_and_averaged():
    first, _ = two_groups(seed=0, count=400)
    second, _ = two_groups(seed=0, count=400)
    second = 30 * second.sqrt() + 5
    scaled = [(x - x.min()) / (x.max() - x.min()) for x in (first, second)]
    column = ((scaled[0] + scaled[1]) / 2).numpy()[:, None]
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=3).fit(column)
    expected = mixture.predict_proba(column)[:, mixture.means_.argmin()]
    probability, _ = clean_probability(torch.stack([first, second]), seed=3)
    np.testing.assert_allclose(probability.numpy(), expected, atol=1e-6)
    unscaled, _ = clean_probability(first + second, seed=3)
    assert (unscaled - probability).abs().max() > 0.01


def test_an_epoch_of_the_same_losses_says_nothing():
    losses, _ = two_groups(count=400)
    with_it, odd = clean_probability(torch.stack([losses, torch.full_like(losses, 2.0)]), seed=3)
    assert odd is None
    alone, _ = clean_probability(losses, seed=3)
    assert ((with_it > 0.5) == (alone > 0.5)).double().mean() > 0.95


def test_scale_and_shift_do_not_matter_nor_does_the_order():
    losses, _ = two_groups(count=500)
    probability, _ = clean_probability(losses, seed=0)
    other, _ = clean_probability(7 * losses.flip(0) - 2, seed=0)
    torch.testing.assert_close(other.flip(0), probability, atol=0.02, rtol=0)


def test_the_seed_alone_decides():
    losses, _ = two_groups(count=300)
    first = clean_probability(losses, seed=2**62)[0]
    torch.manual_seed(1)
    torch.rand(3)
    assert torch.equal(clean_probability(losses, seed=2**62)[0], first)


@pytest.mark.parametrize("losses", [torch.full((9,), 0.7), torch.tensor([0.1]), torch.zeros(5)])
def test_losses_that_are_all_the_same_are_clean(losses):
    probability, odd = clean_probability(losses, seed=0)
    assert probability.tolist() == [1.0] * len(losses)
    assert odd == "all losses are the same"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_not_clean(bad):
    losses = torch.tensor([0.1, 0.1, bad, 0.2, 4.0, 4.1])
    probability, odd = clean_probability(losses, seed=0)
    assert odd == "1 losses are not finite"
    assert probability[2] == 0
    without, _ = clean_probability(losses[[0, 1, 3, 4, 5]], seed=0)
    torch.testing.assert_close(probability[[0, 1, 3, 4, 5]], without)


def test_a_network_that_has_diverged_is_refused():
    with pytest.raises(NoisyLabelsError, match="diverged"):
        clean_probability(torch.tensor([[math.nan, 0.1], [0.2, math.nan]]), seed=0)
    with pytest.raises(NoisyLabelsError, match="diverged"):
        clean_probability(torch.full((3,), math.nan), seed=0)
