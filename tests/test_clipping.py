"""Thresholds of clipped gradients, against scipy's and scikit-learn's numbers."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import truncnorm
from sklearn.mixture import GaussianMixture

import mps
from noisylabels.clipping import LEAST_PROBABILITY, clipping_threshold, fit_two_normals


def losses(share, seed=0, count=2000):
    """Losses of right labels about 0.3, and a share of wrong ones about 5."""
    generator = np.random.default_rng(seed)
    wrong = round(share * count)
    return torch.from_numpy(
        np.concatenate(
            [
                generator.normal(0.6, 0.15, count - wrong),
                generator.normal(5.0, 0.8, wrong),
            ]
        )
    )


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9])
def test_two_normals_are_scikit_learns(share):
    values = losses(share)
    means, variances = fit_two_normals(values)
    theirs = GaussianMixture(2, reg_covar=1e-3, random_state=0, tol=1e-6, max_iter=500)
    theirs.fit(values.numpy()[:, None])
    order = theirs.means_[:, 0].argsort()
    np.testing.assert_allclose(means, theirs.means_[order, 0], rtol=0.01)
    np.testing.assert_allclose(variances, theirs.covariances_[order, 0, 0], rtol=0.05)


@pytest.mark.parametrize("q", [0.0, 0.5])
@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_wrong_labels_have_what_they_may(q, epsilon):
    values = losses(0.3)
    threshold = clipping_threshold(values, q=q, epsilon=epsilon)
    means, variances = (each.tolist() for each in fit_two_normals(values))

    def pull(mean, variance):
        scale = variance**0.5
        low, high = -np.log1p(-1e-7), -np.log(1e-7)
        spread = truncnorm((low - mean) / scale, (high - mean) / scale, mean, scale)
        limit = -np.log(threshold)
        return quad(
            lambda h: spread.pdf(h) * np.exp((1 - q) * min(h, limit)),
            low,
            high,
            points=[mean, limit],
            limit=200,
        )[0]

    right, wrong = (pull(*each) for each in zip(means, variances, strict=True))
    assert wrong / right == pytest.approx(1 + epsilon, rel=0.01)


def test_nothing_is_clipped_where_wrong_labels_have_little():
    assert clipping_threshold(losses(0.3), q=0.99, epsilon=10.0) == LEAST_PROBABILITY


@pytest.mark.parametrize("values", [torch.zeros(10), torch.tensor([0.0, 16.0]), torch.ones(2)])
def test_odd_losses_have_a_threshold(values):
    assert LEAST_PROBABILITY <= clipping_threshold(values, q=0.0, epsilon=0.1) < 1


def test_devices_without_float64_are_left_first():
    values = losses(0.2).float()
    found = fit_two_normals(values.as_subclass(mps.SingleOnly))
    torch.testing.assert_close(found, fit_two_normals(values), rtol=0, atol=0)
