"""The paper's theorems as properties of our functions; docs/theory.md tells them in words."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from noisylabels import functional
from noisylabels.losses import build

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(2, 8)


def posterior(generator, classes, concentration=1.0):
    return torch.from_numpy(generator.dirichlet([concentration] * classes))


def risk(f, eta, q, lamb=0.0):
    """Expected loss of predicting the distribution f where labels follow eta."""
    return functional.dynamics_aware(f.log()[None], eta[None], q=q, lamb=lamb).item()


def one_hot(eta):
    return torch.nn.functional.one_hot(eta.argmax(), len(eta)).double()


@settings(max_examples=40, derandomize=True)
@given(seeds, sizes, st.floats(0.05, 0.8))
def test_theorem_4_1_closed_form_is_the_minimiser(seed, classes, q):
    eta = posterior(np.random.default_rng(seed), classes, 5.0)
    power = eta.log() / (1 - q)
    closed = power.softmax(0)

    def objective(logits):
        z = torch.from_numpy(logits).requires_grad_()
        value = functional.generalized_cross_entropy(z[None], eta[None], q=q).sum()
        (gradient,) = torch.autograd.grad(value, z)
        return value.item(), gradient.numpy()

    found = minimize(objective, np.zeros(classes), jac=True, method="BFGS", options={"gtol": 1e-10})
    numeric = torch.from_numpy(found.x).softmax(0)
    assert risk(closed, eta, q) <= found.fun + 1e-9
    torch.testing.assert_close(numeric, closed, atol=1e-4, rtol=0)


@settings(derandomize=True)
@given(seeds, sizes, st.floats(0.01, 0.99))
def test_theorem_4_1_nothing_is_better(seed, classes, q):
    generator = np.random.default_rng(seed)
    eta = posterior(generator, classes)
    closed = (eta.log() / (1 - q)).softmax(0)
    for concentration in (0.2, 1.0, 5.0):
        other = posterior(generator, classes, concentration).clamp(min=1e-300)
        assert risk(closed, eta, q) <= risk(other, eta, q) + 1e-12


@settings(derandomize=True)
@given(seeds, sizes, st.floats(1.0, 5.0), st.floats(0.0, 20.0))
def test_theorem_4_2_and_corollary_4_3_one_hot_is_the_minimiser(seed, classes, q, lamb):
    generator = np.random.default_rng(seed)
    eta = posterior(generator, classes)
    best = risk(one_hot(eta), eta, q, lamb)
    assert best == pytest.approx((1 - eta.max().item()) / q)
    for concentration in (0.1, 1.0, 5.0):
        assert best <= risk(posterior(generator, classes, concentration), eta, q, lamb) + 1e-12
    for k in range(classes):
        vertex = torch.nn.functional.one_hot(torch.tensor(k), classes).double()
        assert best <= risk(vertex, eta, q, lamb) + 1e-12


def test_theorem_4_2_needs_q_of_at_least_1():
    eta = torch.tensor([0.6, 0.4], dtype=torch.float64)
    assert risk(one_hot(eta), eta, 0.5) > risk((eta.log() / 0.5).softmax(0), eta, 0.5)


class World:
    """Finitely many inputs, a clean posterior for each, and label noise that depends on it."""

    def __init__(self, seed, inputs=12, classes=4):
        generator = np.random.default_rng(seed)
        self.weight = posterior(generator, inputs)
        self.clean = torch.stack([posterior(generator, classes, 0.3) for _ in range(inputs)])
        noise = generator.dirichlet([1.0] * classes, size=(inputs, classes))
        stay = torch.from_numpy(generator.uniform(0.2, 1.0, size=(inputs, 1, 1)))
        transition = stay * torch.eye(classes) + (1 - stay) * torch.from_numpy(noise)
        self.noisy = torch.einsum("ij,ijk->ik", self.clean, transition)
        self.minimiser = torch.nn.functional.one_hot(self.noisy.argmax(1), classes).double()

    def excess(self, decision):
        """0-1 risk beyond that of the Bayes classifier."""
        lost = self.clean.amax(1) - self.clean.gather(1, decision[:, None])[:, 0]
        return (self.weight * lost).sum().item()

    def bound(self, f, distance_counts):
        moved = self.noisy.argmax(1) != self.clean.argmax(1)
        far = distance_counts((f - self.minimiser).abs().amax(1))
        return (self.weight * (moved | far)).sum().item()


@settings(derandomize=True)
@given(seeds, st.floats(0.1, 10.0))
def test_theorem_4_6_bounds_any_classifier(seed, sharpness):
    world = World(seed)
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(world.clean.shape, generator=generator, dtype=torch.float64)
    f = logits.softmax(1)
    assert world.excess(f.argmax(1)) <= world.bound(f, lambda d: d >= 0.5) + 1e-12


@settings(max_examples=10, derandomize=True)
@given(seeds, st.sampled_from([1.0, 1.5]))
def test_theorem_4_6_bounds_a_trained_classifier(seed, q_end):
    world = World(seed)
    logits = torch.zeros_like(world.clean, requires_grad=True)
    loss = build("dal", q_start=0.6, q_end=q_end, reduction="none")
    steps = 300
    for step in range(steps):
        loss.progress = step / steps
        value = (world.weight * loss(logits, world.noisy)).sum()
        (gradient,) = torch.autograd.grad(value, logits)
        logits = (logits - 20 * gradient / world.weight[:, None]).detach().requires_grad_()
    f = logits.detach().softmax(1)
    bound = world.bound(f, lambda d: d >= 0.5)
    assert world.excess(f.argmax(1)) <= bound + 1e-12
    # Training has brought f near the minimiser, so that little but the noise itself is left.
    moved = (world.weight * (world.noisy.argmax(1) != world.clean.argmax(1))).sum().item()
    near = (world.weight * ((f - world.minimiser).abs().amax(1) < 0.5)).sum().item()
    assert near > 0.8
    assert bound <= moved + (1 - near) + 1e-12


def test_theorem_4_6_fails_if_a_distance_of_one_half_does_not_count():
    world = World(0, inputs=1, classes=2)
    world.clean = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    world.noisy = torch.tensor([[0.4, 0.6]], dtype=torch.float64)
    world.minimiser = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    f = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    tie = torch.tensor([0])
    assert world.excess(tie) == pytest.approx(1)
    assert world.bound(f, lambda d: d > 0.5) == 0
    assert world.bound(f, lambda d: d >= 0.5) == pytest.approx(1)


@settings(derandomize=True)
@given(st.floats(0.0, 1.0), st.floats(0.01, 0.99))
def test_gradient_with_respect_to_the_probability(progress, p):
    """Figure 2: dL/dp_y of DAL at two classes is -p^(q-1) plus the bootstrapping term's."""
    loss = build("dal", q_start=0.6, q_end=1.5, reduction="none")
    loss.progress = progress
    probability = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    logits = torch.stack([probability, 1 - probability]).log()[None]
    (slope,) = torch.autograd.grad(loss(logits, torch.tensor([0])).sum(), probability)
    bootstrapping = loss.lamb * math.log((1 - p) / p) / (loss.q * math.log(2))
    assert slope.item() == pytest.approx(-(p ** (loss.q - 1)) + bootstrapping, rel=1e-6, abs=1e-9)
