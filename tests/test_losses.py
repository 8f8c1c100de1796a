"""The losses against the released code's numbers, a naive second computation, and torch."""

import copy
import functools
import inspect
import io
import json
import math
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import mps
import naive
from following import Following
from noisylabels import clipping, functional, losses, schedules
from noisylabels.errors import CheckpointError, ConfigError, DataError
from noisylabels.losses import (
    LOSSES,
    DynamicsAwareLoss,
    GeneralizedJensenShannonLoss,
    Loss,
    LossOptions,
    build,
    hyperparameters,
)
from noisylabels.run import config
from noisylabels.run.plan import plan
from noisylabels.schedules import Hyperparameter

DAL = {"q_start": 0.6, "q_end": 1.5, "lambda_end": 1.0}
SR = {"tau": 0.5, "lamb": 1.5, "p": 0.1, "rho": 1.02, "r": 2, "epochs": 150}
APL = {"alpha": 10.0, "beta": 0.1}
ASYMMETRIC = {"alpha": 1.0, "beta": 0.4, "a": 6.0, "q": 1.5}
# Of three classes wrong labels go to the next, of two nowhere.
MATRIX = [
    [0.7, 0.3, 0.0, 0.0, 0.0],
    [0.0, 0.6, 0.4, 0.0, 0.0],
    [0.1, 0.1, 0.5, 0.2, 0.1],
    [0.0, 0.0, 0.0, 1.0, 0.0],
    [0.0, 0.0, 0.0, 0.0, 1.0],
]

# name: (key, hyper-parameters, progress, the naive loss of one example)
CASES = {
    "ce": ("ce", {}, 0.0, naive.ce),
    "mae": ("mae", {}, 0.0, naive.mae),
    "gce 0": ("gce", {"q": 0.0}, 0.0, naive.gce),
    "gce 0.3": ("gce", {"q": 0.3}, 0.0, naive.gce),
    "gce 1.5": ("gce", {"q": 1.5}, 0.0, naive.gce),
    "tce 1": ("tce", {"order": 1}, 0.0, naive.tce),
    "tce 6": ("tce", {"order": 6}, 0.0, naive.tce),
    "tce 2.3": ("tce", {"order": 2.3}, 0.0, naive.tce),
    "js 0": ("js", {"pi": 0.0}, 0.0, naive.js),
    "js 0.001": ("js", {"pi": 0.001}, 0.0, naive.js),
    "js 0.5": ("js", {"pi": 0.5}, 0.0, naive.js),
    "js 0.999": ("js", {"pi": 0.999}, 0.0, naive.js),
    "js 1": ("js", {"pi": 1.0}, 0.0, naive.js),
    "rce": ("rce", {}, 0.0, naive.rce),
    "rce -4": ("rce", {"A": -4.0}, 0.0, naive.rce),
    "sce": ("sce", {"alpha": 6.0, "beta": 1.0}, 0.0, naive.sce),
    "nce": ("nce", {}, 0.0, naive.nce),
    "nce+rce": ("nce+rce", APL, 0.0, naive.nce_rce),
    "agce": ("agce", {"a": 3.0, "q": 3.0}, 0.0, naive.agce),
    "agce near gce": ("agce", {"a": 1e-5, "q": 0.7}, 0.0, naive.agce),
    "agce 0": ("agce", {"a": 0.0, "q": 0.7}, 0.0, naive.agce),
    "agce log": ("agce", {"a": 2.0, "q": 0.0}, 0.0, naive.agce),
    "nce+agce": ("nce+agce", ASYMMETRIC, 0.0, naive.nce_agce),
    "ce+sr": ("ce+sr", SR, 0.0, functools.partial(naive.ce_sr, progress=0.0)),
    "ce+sr later": ("ce+sr", SR, 77 / 150, functools.partial(naive.ce_sr, progress=77 / 150)),
    "btl": ("btl", {"t1": 0.7, "t2": 3.0}, 0.0, naive.btl),
    "btl light": ("btl", {"t1": 0.2, "t2": 1.0}, 0.0, naive.btl),
    "btl log": ("btl", {"t1": 1.0, "t2": 1.3}, 0.0, naive.btl),
    "btl steps": ("btl", {"t1": 0.7, "t2": 1.5, "num_iters": 20}, 0.0, naive.btl),
    "poly1": ("poly1", {"epsilon": 2.0}, 0.0, naive.poly1),
    "dgce": ("dgce", {"q_start": 0.2, "q_end": 1.2}, 0.5, lambda z, y, **_: naive.gce(z, y, 0.7)),
    "dal early": ("dal", DAL, 0.2, functools.partial(naive.dal, progress=0.2)),
    "dal late": ("dal", DAL, 0.9, functools.partial(naive.dal, progress=0.9)),
    "dal without": (
        "dal",
        DAL | {"q_start": 0.2, "q_end": 1.0},
        1.0,
        functools.partial(naive.dal, progress=1.0),
    ),
    "dal from zero": (
        "dal",
        DAL | {"q_start": 0.0},
        0.0,
        functools.partial(naive.dal, progress=0.0),
    ),
    "dal above one": (
        "dal",
        DAL | {"q_start": 1.2, "q_end": 2.0},
        0.5,
        functools.partial(naive.dal, progress=0.5),
    ),
    # Without a gradient nothing is seen to begin: q moves from 0.
    "adaptive-dal": (
        "adaptive-dal",
        {"q_end": 1.4, "lambda_end": 0.8},
        0.15 + 0.85 * 0.9,
        functools.partial(naive.dal, q_start=0.0, progress=0.9),
    ),
    "dtce": (
        "dtce",
        {"order_start": 20.0, "order_end": 1.0},
        0.6,
        lambda z, y, **_: naive.tce(z, y, 20 - 19 * 0.6),
    ),
    "djs": ("djs", {}, 0.3, lambda z, y, **_: naive.js(z, y, 0.3)),
    "djs at 0": ("djs", {}, 0.0, lambda z, y, **_: naive.ce(z, y)),
    "djs at 1": ("djs", {}, 1.0, lambda z, y, **_: naive.mae(z, y)),
    "anl-ce": ("anl-ce", {"alpha": 2.0, "beta": 3.0}, 0.0, naive.anl_ce),
    "anl-ce limited": (
        "anl-ce",
        {"alpha": 1.0, "beta": 5.0, "min_prob": 0.01},
        0.0,
        naive.anl_ce,
    ),
    "anl-fl": ("anl-fl", {"alpha": 2.0, "beta": 3.0, "gamma": 0.5}, 0.0, naive.anl_fl),
    "anl-fl 2": ("anl-fl", {"alpha": 1.0, "beta": 1.0, "gamma": 2.0}, 0.0, naive.anl_fl),
    "jal-ce": ("jal-ce", {"alpha": 2.0, "beta": 0.5, "a": 30.0}, 0.0, naive.jal_ce),
    "jal-ce 1": ("jal-ce", {"alpha": 0.0, "beta": 1.0, "a": 1.0}, 0.0, naive.jal_ce),
    "jal-fl": (
        "jal-fl",
        {"alpha": 2.0, "beta": 0.5, "a": 5.0, "gamma": 0.5},
        0.0,
        naive.jal_fl,
    ),
    "eps-softmax": (
        "eps-softmax",
        {"alpha": 0.5, "beta": 0.1, "m": 1e4},
        0.0,
        naive.eps_softmax,
    ),
    "eps-softmax little": (
        "eps-softmax",
        {"alpha": 1.0, "beta": 0.0, "m": 0.01},
        0.0,
        naive.eps_softmax,
    ),
    "truncated-gce before": (
        "truncated-gce",
        {"q": 0.7, "k": 0.5, "start": 0.5},
        0.4,
        functools.partial(naive.truncated_gce, progress=0.4),
    ),
    "truncated-gce": (
        "truncated-gce",
        {"q": 0.7, "k": 0.3, "start": 0.5},
        0.5,
        functools.partial(naive.truncated_gce, progress=0.5),
    ),
    "logit-clip": (
        "logit-clip",
        {"delta": 1.5, "base": {"name": "gce", "q": 0.5}},
        0.0,
        naive.logit_clip,
    ),
    "logit-clip of none": (
        "logit-clip",
        {"delta": 1e4, "base": {"name": "gce", "q": 0.0}},
        0.0,
        naive.logit_clip,
    ),
    "forward": ("forward", {"matrix": MATRIX}, 0.0, naive.forward),
    "backward": ("backward", {"matrix": MATRIX}, 0.0, naive.backward),
    "ldr-kl": ("ldr-kl", {"lamb": 10.0, "margin": 0.1}, 0.0, naive.ldr_kl),
    "ldr-kl sharp": ("ldr-kl", {"lamb": 0.5, "margin": 2.0}, 0.0, naive.ldr_kl),
    "ldr-kl of logits": (
        "ldr-kl",
        {"lamb": 2.0, "margin": 1.0, "normalize": False},
        0.0,
        naive.ldr_kl,
    ),
}
# One of each kind, where it is not the formula that counts: fixed values, a schedule, two passes
# over the logits, drawn labels.
KINDS = ("gce", "dgce", "dal", "nlnl")
# Losses that class probabilities define.
INDICES = {"nlnl", "ogc", "peer"}
SOFT = sorted(set(LOSSES) - INDICES)
# Every hyper-parameter that may be a schedule.
SCHEDULABLE = [
    (key, name)
    for key, loss in LOSSES.items()
    for name, parameter in inspect.signature(loss).parameters.items()
    if parameter.annotation == Hyperparameter
]


def make(case, **options):
    key, hyperparameters, progress, _ = CASES[case]
    loss = build(key, **hyperparameters, **options)
    loss.progress = progress
    return loss


def expected(case, logits, target):
    _, hyperparameters, _, formula = CASES[case]
    pairs = zip(logits.tolist(), target.tolist(), strict=True)
    return [formula(z, y, **hyperparameters) for z, y in pairs]


def at(key, progress=0.7, **options):
    loss = build(key, **options)
    loss.progress = progress
    return loss


def seeded(loss, *arguments):
    """Call a loss as if it were the first that draws."""
    torch.manual_seed(0)
    return loss(*arguments)


def cyclic(classes):
    """Make a matrix by which labels are those of the next class at times."""
    right = torch.eye(classes)
    return (0.6 * right + 0.4 * right.roll(1, 1)).tolist()


def linear(start, end):
    return functools.partial(schedules.linear, start=start, end=end)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return logits, torch.tensor([0, 4, 2, 2, 1, 3])


def test_every_loss_has_a_naive_twin():
    assert {key for key, *_ in CASES.values()} | INDICES == set(LOSSES)


class TestFormulas:
    @pytest.mark.parametrize("case", CASES)
    def test_equals_naive_computation(self, case, batch):
        values = make(case, reduction="none")(*batch)
        np.testing.assert_allclose(values.numpy(), expected(case, *batch), rtol=1e-10)

    @pytest.mark.parametrize("case", CASES)
    def test_gradient_is_right(self, case, batch):
        logits, target = batch
        assert torch.autograd.gradcheck(
            make(case), (logits.requires_grad_(), target), fast_mode=True
        )
        assert torch.autograd.gradgradcheck(make(case), (logits, target), fast_mode=True)

    @pytest.mark.parametrize("case", CASES)
    def test_probabilities_give_the_expectation(self, case, batch):
        logits, target = batch
        loss = make(case, reduction="none")
        eta = torch.rand(6, 5, dtype=torch.float64).softmax(1)
        each = torch.stack([loss(logits, torch.full((6,), k)) for k in range(5)], dim=1)
        torch.testing.assert_close(loss(logits, eta), (eta * each).sum(1))
        one_hot = nn.functional.one_hot(target, 5).double()
        torch.testing.assert_close(loss(logits, one_hot), loss(logits, target))

    @pytest.mark.parametrize("pi", [0.1, 0.5, 0.999, 1.0])
    @pytest.mark.parametrize("views", [1, 2, 3])
    def test_gjs_equals_naive_computation(self, pi, views, batch):
        _, target = batch
        logits = torch.randn(views, 6, 5, dtype=torch.float64)
        values = GeneralizedJensenShannonLoss(pi=pi, reduction="none")(logits, target)
        wanted = [
            naive.gjs([view[n].tolist() for view in logits], y, pi)
            for n, y in enumerate(target.tolist())
        ]
        np.testing.assert_allclose(values.numpy(), wanted, rtol=1e-10)

    def test_gjs_of_one_view_is_js_and_agreeing_views_change_nothing(self, batch):
        logits, target = batch
        js = build("js", pi=0.5)(logits, target)
        for views in (1, 3):
            gjs = GeneralizedJensenShannonLoss(pi=0.5)(logits.expand(views, 6, 5), target)
            torch.testing.assert_close(gjs, js)

    @pytest.mark.parametrize("counts", [None, [10, 20, 30, 40, 50]])
    def test_nlnl_equals_naive_computation(self, counts, batch):
        logits, target = batch
        values = seeded(build("nlnl", n=4, class_counts=counts, reduction="none"), logits, target)
        torch.manual_seed(0)
        drawn = functional.draw_complement(target, num_classes=5, n=4)
        inverse = [1 / count for count in counts or [1] * 5]
        weights = [value / (sum(inverse) / 5) for value in inverse]
        wanted = [
            naive.nlnl(z, c, weights) for z, c in zip(logits.tolist(), drawn.tolist(), strict=True)
        ]
        np.testing.assert_allclose(values.numpy(), wanted, rtol=1e-6)

    @pytest.mark.parametrize("classes", [10, 100])
    def test_equals_released_code(self, shared, classes):
        folder = shared / "reference" / "losses"
        cases = json.loads((folder / f"k{classes}.json").read_text())
        arrays = np.load(folder / f"k{classes}.npz", allow_pickle=False)
        logits = torch.from_numpy(arrays["logits"]).requires_grad_()
        target = torch.from_numpy(arrays["target"])
        for case in cases:
            hyperparameters = dict(case["hyperparameters"])
            epoch, epochs = hyperparameters.pop("epoch", 0), hyperparameters.pop("epochs", 150)
            loss = at(case["loss"], epoch / epochs, **hyperparameters)
            value = loss(logits, target)
            (gradient,) = torch.autograd.grad(value, logits)
            number = f"{case['case']:02d}"
            assert value.item() == pytest.approx(float(arrays[f"value_{number}"]), rel=1e-4)
            np.testing.assert_allclose(gradient.numpy(), arrays[f"grad_{number}"], atol=1e-4)


class TestLimits:
    @pytest.mark.parametrize(
        ("key", "hyperparameters", "progress", "limit", "tolerance"),
        [
            ("gce", {"q": 1e-9}, 0, "ce", 1e-7),
            ("gce", {"q": 1.0}, 0, "mae", 1e-12),
            ("tce", {"order": 1}, 0, "mae", 1e-12),
            ("tce", {"order": 4000}, 0, "ce", 1e-4),
            ("js", {"pi": 1e-9}, 0, "ce", 1e-6),
            ("js", {"pi": 0.0}, 0, "ce", 1e-12),
            ("js", {"pi": 1.0}, 0, "mae", 1e-12),
            ("btl", {"t1": 1.0, "t2": 1.0}, 0, "ce", 1e-12),
            ("btl", {"t1": 1 - 1e-9, "t2": 1.0}, 0, "ce", 1e-6),
            ("btl", {"t1": 1.0, "t2": 1 + 1e-6, "num_iters": 20}, 0, "ce", 1e-3),
            ("agce", {"a": 0.0, "q": 1.0}, 0, "mae", 1e-12),
            ("poly1", {"epsilon": 0.0}, 0, "ce", 1e-12),
            ("sce", {"alpha": 1.0, "beta": 0.0}, 0, "ce", 1e-12),
            ("nce+rce", {"alpha": 1.0, "beta": 0.0}, 0, "nce", 1e-12),
            ("nce+rce", {"alpha": 0.0, "beta": 1.0}, 0, "rce", 1e-12),
            ("nce+agce", {"alpha": 1.0, "beta": 0.0}, 0, "nce", 1e-12),
            ("dtce", {}, 1.0, "mae", 1e-12),
            ("djs", {}, 0.0, "ce", 1e-12),
            ("djs", {}, 1.0, "mae", 1e-12),
            ("dal", {"q_start": 0.0, "q_end": 0.0}, 0.5, "ce", 1e-12),
            ("anl-ce", {"alpha": 1.0, "beta": 0.0}, 0, "nce", 1e-12),
            ("anl-fl", {"alpha": 1.0, "beta": 0.0, "gamma": 0.0}, 0, "nce", 1e-12),
            ("jal-ce", {"alpha": 1.0, "beta": 0.0}, 0, "nce", 1e-12),
            ("jal-fl", {"alpha": 1.0, "beta": 0.0, "gamma": 0.0}, 0, "nce", 1e-12),
            ("eps-softmax", {"alpha": 1.0, "beta": 0.0, "m": 0.0}, 0, "ce", 1e-12),
            ("eps-softmax", {"alpha": 0.0, "beta": 0.5}, 0, "mae", 1e-12),
            ("truncated-gce", {"k": 0.0}, 1.0, "gce", 1e-12),
            ("truncated-gce", {}, 0.0, "gce", 1e-12),
            ("logit-clip", {"delta": 1e3}, 0, "ce", 1e-12),
            ("ogc", {}, 0, "ce", 1e-12),
            ("ogc", {"q": 0.7}, 0, "gce", 1e-12),
            ("forward", {"matrix": torch.eye(5)}, 0, "ce", 1e-12),
            ("backward", {"matrix": torch.eye(5)}, 0, "ce", 1e-12),
            ("peer", {"alpha": 0.0, "base": "ce"}, 0, "ce", 1e-12),
            ("forward", {}, 0, "ce", 1e-12),
            ("backward", {}, 1, "ce", 1e-12),
        ],
    )
    def test_limit(self, key, hyperparameters, progress, limit, tolerance):
        logits = torch.randn(50, 5, dtype=torch.float64).clamp(-2, 2)
        target = torch.randint(5, (50,))
        value = at(key, progress, reduction="none", **hyperparameters)(logits, target)
        torch.testing.assert_close(
            value, build(limit, reduction="none")(logits, target), rtol=tolerance, atol=tolerance
        )

    @pytest.mark.parametrize("progress", [0.0, 0.3, 0.5, 0.9, 1.0])
    def test_dal_without_bootstrapping_is_dgce(self, progress, batch):
        dal = at("dal", progress, lambda_end=0.0)
        assert torch.equal(dal(*batch), at("dgce", progress)(*batch))

    def test_sparse_regularization_with_weight_0_is_scaled_ce(self, batch):
        logits, target = batch
        scaled = nn.functional.normalize(logits) / 0.5
        torch.testing.assert_close(
            build("ce+sr", lamb=0.0)(logits, target), build("ce")(scaled, target)
        )

    @pytest.mark.parametrize(
        ("key", "total"),
        # The active parts add up to alpha, the negative ones to beta for each other class.
        [("mae", 4.0), ("rce", None), ("nce", 1.0), ("anl-ce", 25.0), ("anl-fl", 25.0)],
    )
    def test_symmetric_losses_have_a_constant_sum_over_labels(self, key, total):
        logits = 3 * torch.randn(40, 5, dtype=torch.float64)
        loss = build(key, reduction="none")
        sums = sum(loss(logits, torch.full((40,), k)) for k in range(5))
        expected = -4 * math.log(1e-4) if total is None else total
        torch.testing.assert_close(sums, torch.full((40,), expected).double())

    @pytest.mark.parametrize("q_start", [0.0, 0.4, 1.0, 1.3])
    @pytest.mark.parametrize("q_end", [0.0, 0.4, 1.0, 1.3])
    def test_dal_at_the_edges_of_its_schedule(self, q_start, q_end, batch):
        logits, target = batch
        logits.requires_grad_()
        for progress in (0.0, 0.5, 1.0):
            loss = at("dal", progress, q_start=q_start, q_end=q_end)
            assert 0 <= loss.lamb <= 1
            if q_end <= 1:
                assert loss.lamb == 0
            value = loss(logits, target)
            assert value.isfinite()
            assert torch.autograd.grad(value, logits)[0].isfinite().all()

    def test_dal_with_both_terms_in_their_range(self):
        loss = at("dal", 1.0, reduction="none")
        extremes = torch.tensor([[0.0] * 5, [50.0, 0, 0, 0, 0], [-50.0, 0, 0, 0, 50]])
        value = loss(extremes, torch.zeros(3).long())
        uniform = (1 - 0.2**1.5) / 1.5 + 1 / 1.5
        torch.testing.assert_close(value, torch.tensor([uniform, 0.0, 1 / 1.5]))

    def test_without_focus_the_focal_losses_are_those_of_cross_entropy(self, batch):
        torch.testing.assert_close(build("anl-fl", gamma=0.0)(*batch), build("anl-ce")(*batch))
        torch.testing.assert_close(build("jal-fl", gamma=0.0)(*batch), build("jal-ce")(*batch))

    def test_ldr_between_cross_entropy_and_the_worst_class(self, batch):
        logits, target = batch
        flat = build("ldr-kl", lamb=1.0, margin=0.0, normalize=False)(logits, target)
        torch.testing.assert_close(flat, build("ce")(logits, target) - math.log(5))
        sharp = build("ldr-kl", lamb=1e-4, margin=1.0, normalize=False)(logits, target)
        hinge = nn.functional.multi_margin_loss(logits, target, reduction="none")
        own = logits.gather(1, target[:, None])
        worst = (logits + 1 - own).scatter(1, target[:, None], 0).amax(1)
        assert (worst >= hinge).all()
        torch.testing.assert_close(sharp, worst.mean(), atol=1e-3, rtol=0)

    def test_a_truncated_example_has_no_gradient(self):
        p = torch.tensor([[0.3, 0.7], [0.7, 0.3]], dtype=torch.float64)
        logits, target = p.log().requires_grad_(), torch.tensor([0, 0])
        (gradient,) = torch.autograd.grad(at("truncated-gce", 1.0)(logits, target), logits)
        assert gradient[0].eq(0).all()
        (untruncated,) = torch.autograd.grad(build("gce")(logits, target), logits)
        assert torch.equal(gradient[1], untruncated[1])

    def test_an_epsilon_softmax_is_as_near_to_one_hot_as_it_says(self):
        logits = torch.randn(40, 5, dtype=torch.float64)
        for m in (1.0, 100.0):
            loss = build("eps-softmax", alpha=1.0, beta=0.0, m=m, reduction="none")
            each = torch.stack([loss(logits, torch.full((40,), k)) for k in range(5)], 1)
            near = (-each).exp()
            one_hot = nn.functional.one_hot(logits.argmax(1), 5)
            torch.testing.assert_close(near.sum(1), torch.ones(40, dtype=torch.float64))
            assert ((near - one_hot).abs().sum(1) < 2 / (m + 1)).all()


class TestActiveNegative:
    @pytest.mark.parametrize("key", ["anl-ce", "anl-fl"])
    def test_the_least_probability_is_below_chance(self, key):
        with pytest.raises(ConfigError, match=r"min_prob must be below 1/C.*with 10 classes below"):
            build(key, min_prob=0.1)(torch.zeros(2, 10), torch.tensor([0, 1]))
        for logits in (torch.zeros(2, 5), 0.01 * torch.randn(2, 5)):
            assert build(key, min_prob=0.1)(logits, torch.tensor([0, 1])).isfinite()


class TestImbalance:
    """What ANL asks of a batch, and not of an example."""

    def test_equals_naive_computation(self, batch):
        logits, _ = batch
        wanted = naive.class_imbalance(logits.tolist())
        assert functional.class_imbalance(logits).item() == pytest.approx(wanted, rel=1e-10)
        assert torch.autograd.gradcheck(functional.class_imbalance, logits.requires_grad_())

    @pytest.mark.parametrize("key", ["anl-ce", "anl-fl"])
    @pytest.mark.parametrize("soft", [False, True])
    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    def test_is_added_to_every_example(self, key, soft, reduction, batch):
        logits, target = batch
        if soft:
            target = nn.functional.one_hot(target, 5).double()
        without, whole = (
            build(key, lamb=lamb, reduction=reduction)(logits, target) for lamb in (0.0, 2.0)
        )
        added = 2 * functional.class_imbalance(logits) * (6 if reduction == "sum" else 1)
        torch.testing.assert_close(whole, without + added)

    def test_ignored_examples_and_weights(self, batch):
        logits, target = batch
        weight = torch.rand(5, dtype=torch.float64)
        marked, kept = target.clone(), [1, 2, 4, 5]
        marked[[0, 3]] = -100
        logits.requires_grad_()
        for options in ({}, {"weight": weight}, {"reduction": "sum"}, {"label_smoothing": 0.1}):
            loss = build("anl-ce", lamb=3.0, **options)
            value = loss(logits, marked)
            torch.testing.assert_close(value, loss(logits[kept], target[kept]))
            (gradient,) = torch.autograd.grad(value, logits)
            assert gradient[[0, 3]].eq(0).all()
        loss = build("anl-ce", lamb=3.0, reduction="sum")
        value = loss(logits, torch.full((6,), -100))
        assert value == 0
        assert torch.autograd.grad(value, logits)[0].eq(0).all()

    @pytest.mark.parametrize("key", ["anl-ce", "anl-fl"])
    def test_what_is_ignored_may_be_anything(self, key, batch):
        logits, target = batch
        logits[3], target[3] = math.inf, -100
        kept = [0, 1, 2, 4, 5]
        value = build(key, lamb=1.0)(logits.requires_grad_(), target)
        torch.testing.assert_close(value, build(key, lamb=1.0)(logits[kept], target[kept]))
        assert torch.autograd.grad(value, logits)[0][kept].isfinite().all()

    def test_no_example_is_as_uneven_as_can_be(self):
        none = torch.zeros(0, 4)
        assert functional.class_imbalance(none).item() == pytest.approx(math.log(4))

    def test_shapes_only_arrange_examples(self):
        logits, target = torch.randn(6, 5, 2), torch.randint(5, (6, 2))
        rows = logits.movedim(1, -1).reshape(-1, 5)
        loss = build("anl-ce", lamb=1.0)
        torch.testing.assert_close(loss(logits, target), loss(rows, target.reshape(-1)))


class TestNumbers:
    def test_scores_of_low_logits_do_not_vanish(self):
        logits = torch.tensor([[-200.0, -201.0, -300.0]], requires_grad=True)
        loss = build("ldr-kl", lamb=1.0)(logits, torch.tensor([1]))
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()
        assert (logits.grad != 0).any()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("scale", [1.0, 1e4])
    @pytest.mark.parametrize("key", LOSSES)
    def test_extreme_logits_stay_finite(self, key, scale, dtype):
        rows = [[1, -1, 0, -1], [-1, 1, 0, 1], [0, -math.inf, 1, -1], [-1, -math.inf, -1, 0]]
        logits = (scale * torch.tensor(rows)).to(dtype).requires_grad_()
        for progress in (0.0, 0.5, 1.0):
            loss = at(key, progress)(logits, torch.tensor([1, 1, 0, 2]))
            (gradient,) = torch.autograd.grad(loss, logits)
            assert loss.dtype is torch.float32
            assert loss.isfinite()
            assert gradient.dtype is dtype
            assert gradient.isfinite().all()

    @pytest.mark.parametrize("progress", [0.0, 0.9])
    @pytest.mark.parametrize("key", LOSSES)
    def test_an_excluded_label_makes_no_loss_nan(self, key, progress):
        logits = torch.tensor([[-math.inf, 1.0, 2.0]] * 2, requires_grad=True)
        loss = at(key, progress)(logits, torch.tensor([0, 0]))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert not loss.isnan()
        assert gradient.isfinite().all()

    @pytest.mark.parametrize(
        ("key", "without"),
        [
            ("sce", {"alpha": 0.0, "beta": 1.0}),
            ("eps-softmax", {"alpha": 0.0, "beta": 1.0}),
            ("anl-ce", {"alpha": 0.0}),
            ("nce+rce", {"alpha": 0.0}),
            ("jal-ce", {"alpha": 0.0}),
            ("peer", {"alpha": 0.0}),
        ],
    )
    def test_a_term_without_weight_makes_no_loss_nan(self, key, without):
        logits = torch.tensor([[-math.inf, 1.0, 2.0]] * 2, requires_grad=True)
        loss = build(key, **without)(logits, torch.tensor([0, 0]))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()

    @pytest.mark.parametrize("key", SOFT)
    def test_float64_targets_leave_the_logits_precision(self, key):
        logits, target = torch.randn(4, 5), torch.rand(4, 5, dtype=torch.float64).softmax(1)
        # In training, forward and backward would estimate their matrix.
        assert at(key, 0.9).eval()(logits, target).dtype is torch.float32

    @pytest.mark.parametrize("classes", [2, 4])
    @pytest.mark.parametrize("key", LOSSES)
    def test_one_class_that_is_left_makes_no_gradient_nan(self, key, classes):
        rows = torch.full((2, classes), -math.inf)
        rows[:, 0] = 0.0
        for progress in (0.0, 0.9):
            logits = rows.clone().requires_grad_()
            loss = at(key, progress)(logits, torch.tensor([0, 0]))
            (gradient,) = torch.autograd.grad(loss, logits)
            assert loss.isfinite()
            assert gradient.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("key", LOSSES)
    def test_a_last_layer_of_zeros_takes_a_finite_step(self, key, dtype):
        logits = torch.zeros(4, 5, dtype=dtype, requires_grad=True)
        for progress in (0.0, 0.9):
            loss = at(key, progress)(logits, torch.arange(4))
            (gradient,) = torch.autograd.grad(loss, logits)
            assert loss.isfinite()
            # ce+sr divides by a temperature of 0.1, anl-ce multiplies by 5.
            assert float(gradient.abs().max()) < 100

    @pytest.mark.parametrize("key", ["forward", "backward"])
    def test_given_matrices_keep_the_numbers_of_the_loss(self, key):
        loss = build(key, matrix=cyclic(4))
        rows = [[1, -1, 0, -1], [-1, 1, 0, 1], [0, -math.inf, 1, -1], [-1, -math.inf, -1, 0]]
        for scale in (1.0, 1e4):
            logits = (scale * torch.tensor(rows)).requires_grad_()
            for target in (torch.tensor([0, 2, 2, 3]), torch.full((4, 4), 0.25)):
                value = loss(logits, target)
                (gradient,) = torch.autograd.grad(value, logits)
                assert not value.isnan()
                assert gradient.isfinite().all()
        # A label that can come of no class that is left.
        logits = torch.tensor([[-math.inf, -math.inf, 0.0, 0.0]], requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(logits, torch.tensor([1])), logits)
        assert gradient.isfinite().all()

    @pytest.mark.parametrize("key", ["forward", "backward"])
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_autocast_and_half_leave_matrices_as_they_are(self, key, smoothing):
        loss = build(key, matrix=cyclic(20), label_smoothing=smoothing)
        logits, target = torch.randn(64, 20, requires_grad=True), torch.randint(20, (64,))
        plain = loss(logits, target)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under = loss(logits, target)
            (gradient,) = torch.autograd.grad(under, logits)
        torch.testing.assert_close(under, plain)
        torch.testing.assert_close(gradient, torch.autograd.grad(plain, logits)[0])
        half = logits.detach().bfloat16()
        torch.testing.assert_close(loss(half, target), loss(half.float(), target))

    def test_an_excluded_label_has_the_greatest_normalized_loss(self):
        logits = torch.tensor([[-math.inf, 1.0, 2.0], [-math.inf, 1.0, -math.inf]])
        for target, wanted in (([0, 0], [1.0, 0.5]), ([1, 1], [0.0, 0.0])):
            each = functional.normalized_cross_entropy(logits, torch.tensor(target))
            assert each.tolist() == wanted
        soft = torch.tensor([[0.25, 0.75, 0.0]])
        assert functional.normalized_cross_entropy(logits[:1], soft).tolist() == [0.25]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_extreme_views_stay_finite(self, dtype):
        rows = [[[1e4, -1e4, 0], [0, -math.inf, 1]], [[-1e4, 1e4, 0], [1, -math.inf, 0]]]
        logits = torch.tensor(rows, dtype=dtype).requires_grad_()
        loss = GeneralizedJensenShannonLoss()(logits, torch.tensor([1, 0]))
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()

    @pytest.mark.parametrize("case", CASES)
    def test_vanishing_probability_keeps_the_gradient_of_the_formula(self, case):
        target = torch.tensor([0])
        logits = torch.tensor([[-30.0, 0.0, 1.0, 0.5, -1.0]]).double().requires_grad_()
        (gradient,) = torch.autograd.grad(make(case)(logits, target), logits)
        step = 1e-5
        ends = logits.detach().repeat(2, 1)
        ends[:, 0] += torch.tensor([step, -step])
        up, down = expected(case, ends, torch.tensor([0, 0]))
        assert gradient[0, 0].item() == pytest.approx((up - down) / (2 * step), abs=2e-9, rel=1e-5)

    @pytest.mark.parametrize("q", [0.3, 0.7])
    def test_gradient_far_below_any_clamp(self, q):
        # -p_y^q (1 - p_y), where released code clamps p at 1e-6 and has gradient 0.
        logits = torch.tensor([[-40.0, 0.0]], requires_grad=True)
        build("gce", q=q)(logits, torch.tensor([0])).backward()
        assert logits.grad[0, 0].item() == pytest.approx(-math.exp(-40 * q), rel=1e-5)

    @pytest.mark.parametrize("key", LOSSES)
    def test_half_is_computed_in_float32(self, key):
        logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
        target = torch.tensor([0, 1, 2, 3])
        for dtype in (torch.bfloat16, torch.float16):
            half = logits.to(dtype)
            value = seeded(at(key), half, target)
            torch.testing.assert_close(value, seeded(at(key), half.float(), target))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                under = seeded(at(key), half, target)
            assert value.dtype is under.dtype is torch.float32
            torch.testing.assert_close(under, value)

    @pytest.mark.parametrize("key", LOSSES)
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast_changes_nothing_for_float32(self, key, dtype):
        logits = torch.randn(64, 20, requires_grad=True)
        target = torch.randint(20, (64,))
        plain = seeded(at(key, 0.9), logits, target)
        with torch.autocast("cpu", dtype=dtype):
            under = seeded(at(key, 0.9), logits, target)
            (gradient,) = torch.autograd.grad(under, logits)
        torch.testing.assert_close(under, plain)
        torch.testing.assert_close(gradient, torch.autograd.grad(plain, logits)[0])


class TestContract:
    """What torch.nn.CrossEntropyLoss does, every loss does."""

    SHAPES = ((5,), (6, 5), (6, 5, 2), (6, 5, 2, 3), (0, 5))

    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("soft", [False, True])
    def test_ce_is_torchs(self, reduction, weighted, shape, soft):
        logits = torch.randn(shape, dtype=torch.float64)
        places = shape[:1] + shape[2:] if len(shape) > 1 else ()
        target = torch.rand_like(logits) if soft else torch.randint(5, places)
        if not soft and target.numel() > 1:
            target.view(-1)[0] = -100
        weight = torch.rand(5, dtype=torch.float64) if weighted else None
        ours = build("ce", weight=weight, reduction=reduction)(logits, target)
        theirs = nn.CrossEntropyLoss(weight=weight, reduction=reduction)(logits, target)
        torch.testing.assert_close(ours, theirs, equal_nan=True)

    @pytest.mark.parametrize("key", SOFT)
    @pytest.mark.parametrize("shape", SHAPES[:-1])
    def test_shapes_only_arrange_examples(self, key, shape):
        logits = torch.randn(shape, dtype=torch.float64)
        places = shape[:1] + shape[2:] if len(shape) > 1 else ()
        target = torch.randint(5, places)
        rows = logits.movedim(0 if logits.ndim == 1 else 1, -1).reshape(-1, 5)
        values = at(key, reduction="none")(logits, target)
        assert values.shape == places
        torch.testing.assert_close(
            values.reshape(-1), at(key, reduction="none")(rows, target.reshape(-1))
        )

    @pytest.mark.parametrize("key", ["gce", "dgce", "dal"])
    def test_ignored_examples_count_for_nothing(self, key, batch):
        logits, target = batch
        logits.requires_grad_()
        weight = torch.rand(5, dtype=torch.float64)
        kept = [1, 2, 4, 5]
        for ignored in (7, -100, 3):
            marked = target.clone()
            marked[[0, 3]] = ignored
            rows = [row for row in kept if marked[row] != ignored]
            for options in ({}, {"weight": weight}, {"reduction": "sum"}):
                loss = at(key, ignore_index=ignored, **options)
                value = loss(logits, marked)
                torch.testing.assert_close(value, loss(logits[rows], marked[rows]))
                (gradient,) = torch.autograd.grad(value, logits)
                assert gradient[[0, 3]].eq(0).all()

    @pytest.mark.parametrize("key", KINDS)
    def test_empty_and_all_ignored_batches(self, key):
        theirs = nn.CrossEntropyLoss
        nothing = torch.zeros(0, 5), torch.zeros(0).long()
        ignored = torch.randn(3, 5), torch.full((3,), -100)
        for arguments in (nothing, ignored):
            for reduction in ("mean", "sum", "none"):
                torch.testing.assert_close(
                    at(key, reduction=reduction)(*arguments),
                    theirs(reduction=reduction)(*arguments),
                    equal_nan=True,
                )

    @pytest.mark.parametrize("key", LOSSES)
    def test_uint8_targets(self, key, batch):
        logits, target = batch
        weight = torch.rand(5, dtype=torch.float64)
        loss = at(key, weight=weight)
        assert torch.equal(seeded(loss, logits, target.byte()), seeded(loss, logits, target))

    @pytest.mark.parametrize("key", LOSSES)
    def test_bytes_are_not_ignored_for_what_they_are_modulo_256(self, key):
        # -100 is 156 there, and 300 is 44.
        logits, target = torch.randn(6, 200), torch.tensor([156, 44, 3, 199, 156, 0])
        for ignored in (-100, 300, 44):
            loss = at(key, ignore_index=ignored)
            wanted = seeded(loss, logits, target)
            assert torch.equal(seeded(at(key, ignore_index=ignored), logits, target.byte()), wanted)

    @pytest.mark.parametrize("key", LOSSES)
    @pytest.mark.parametrize(
        ("shape", "target"),
        [
            ((6, 5), torch.zeros(4).long()),
            ((6, 5), torch.zeros(6, 1).long()),
            ((6, 5), torch.zeros(6, 4)),
            ((6, 5, 2), torch.zeros(6).long()),
            ((5,), torch.zeros(2).long()),
            ((6, 5), torch.full((6,), 5)),
            ((6, 5), torch.full((6,), -1)),
            ((6, 5), torch.zeros(6).int()),
            ((6, 5), torch.zeros(6, dtype=torch.bool)),
        ],
    )
    @pytest.mark.parametrize("grad", [False, True])
    def test_errors_are_torchs(self, key, shape, target, grad):
        logits = torch.randn(shape, requires_grad=grad)

        def error(loss):
            with pytest.raises((RuntimeError, ValueError, IndexError, TypeError)) as caught:
                loss(logits, target)
            return caught.type

        theirs = error(nn.CrossEntropyLoss())
        ours = error(at(key))
        assert ours is (TypeError if key in INDICES and target.is_floating_point() else theirs)

    def test_losses_that_probabilities_do_not_define(self):
        for loss, shape in (
            (build("nlnl"), (6, 5)),
            (build("ogc"), (6, 5)),
            (build("peer"), (6, 5)),
            (GeneralizedJensenShannonLoss(), (2, 6, 5)),
        ):
            logits = torch.randn(shape)
            with pytest.raises(TypeError, match="not defined for class probabilities"):
                loss(logits, torch.full((6, 5), 0.2))
        with pytest.raises(ValueError, match=r"expected input of shape \(views, N, C\)"):
            GeneralizedJensenShannonLoss()(torch.randn(6, 5), torch.zeros(6).long())

    def test_the_page_of_candidates_names_them(self):
        page = Path(__file__).parents[1] / "docs" / "candidates.md"
        text = " ".join(page.read_text(encoding="utf-8").split())
        (named,) = re.findall(r'"single"` and all losses but ([^;]*);', text)
        assert set(re.findall(r"`(.+?)`", named)) == INDICES
        assert {key for key in LOSSES if build(key).needs_indices} == INDICES

    @pytest.mark.parametrize("key", KINDS)
    def test_weights_scale_examples_and_the_mean(self, key, batch):
        logits, target = batch
        weight = torch.rand(5, dtype=torch.float64)
        each = seeded(at(key, reduction="none"), logits, target)
        scaled = seeded(at(key, weight=weight, reduction="none"), logits, target)
        torch.testing.assert_close(scaled, each * weight[target])
        torch.testing.assert_close(
            seeded(at(key, weight=weight), logits, target), scaled.sum() / weight[target].sum()
        )

    @pytest.mark.parametrize("key", LOSSES)
    def test_weight_comes_first(self, key, batch):
        weight = torch.rand(5, dtype=torch.float64)
        loss = LOSSES[key](weight)
        assert loss.weight is weight
        assert torch.equal(seeded(loss, *batch), seeded(build(key, weight=weight), *batch))

    @pytest.mark.parametrize(
        ("key", "soft"),
        [*((key, False) for key in KINDS), *((key, True) for key in KINDS if key in SOFT)],
    )
    @pytest.mark.parametrize("shape", [(4,), (6,), (1,), (), (1, 5)])
    def test_weights_of_the_wrong_shape(self, key, soft, shape, batch):
        logits, target = batch
        target = torch.full((6, 5), 0.2) if soft else target
        weight = torch.ones(shape, dtype=torch.float64)
        with pytest.raises(RuntimeError):
            nn.CrossEntropyLoss(weight)(logits, target)
        wanted = rf"shape \(C\), one for each of 5 classes, got \({shape[0] if shape else ''}"
        with pytest.raises(RuntimeError, match=wanted):
            at(key, weight=weight)(logits, target)

    def test_weights_of_views(self):
        views, target = torch.randn(2, 6, 5), torch.randint(5, (6,))
        weight = torch.rand(5)
        each = GeneralizedJensenShannonLoss(reduction="none")(views, target)
        value = GeneralizedJensenShannonLoss(weight)(views, target)
        torch.testing.assert_close(value, (weight[target] * each).sum() / weight[target].sum())
        with pytest.raises(RuntimeError, match=r"each of 5 classes, got \(6,\)"):
            GeneralizedJensenShannonLoss(torch.ones(6))(views, target)

    @pytest.mark.parametrize("key", KINDS)
    def test_copies(self, key, batch):
        loss = at(key, weight=torch.arange(1.0, 6.0).double())
        file = io.BytesIO()
        torch.save(loss.state_dict(), file)
        file.seek(0)
        restored = build(key, weight=torch.zeros(5).double())
        restored.load_state_dict(torch.load(file, weights_only=True))
        twins = copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), restored
        value = seeded(loss, *batch)
        for twin in twins:
            assert twin.progress == loss.progress
            assert torch.equal(seeded(twin, *batch), value)

    @pytest.mark.parametrize("key", KINDS)
    def test_meta_device(self, key):
        logits = torch.randn(6, 5, device="meta", requires_grad=True)
        loss = at(key)(logits, torch.zeros(6, dtype=torch.int64, device="meta"))
        loss.backward()
        assert loss.shape == ()
        assert logits.grad.shape == (6, 5)
        assert logits.grad.is_meta

    def test_functional_transforms_of_drawn_labels(self):
        logits, target = torch.randn(4, 6, 5), torch.randint(5, (4, 6))
        loss = build("nlnl")
        assert torch.func.vmap(loss, randomness="different")(logits, target).shape == (4,)
        gradient = seeded(torch.func.grad(loss), logits[0], target[0])
        one = logits[0].clone().requires_grad_()
        (wanted,) = torch.autograd.grad(seeded(loss, one, target[0]), one)
        torch.testing.assert_close(gradient, wanted)
        gradients = torch.func.vmap(torch.func.grad(loss), randomness="different")(logits, target)
        assert gradients.shape == logits.shape

    @pytest.mark.parametrize("key", ["gce", "nce+agce", "btl", "dal", "djs"])
    def test_functional_transforms(self, key):
        logits = torch.randn(4, 6, 5, dtype=torch.float64)
        target = torch.randint(5, (4, 6))
        loss = at(key)
        values = torch.func.vmap(loss)(logits, target)
        gradients = torch.func.vmap(torch.func.grad(loss))(logits, target)
        for n in range(4):
            one = logits[n].clone().requires_grad_()
            value = loss(one, target[n])
            torch.testing.assert_close(values[n], value)
            torch.testing.assert_close(gradients[n], torch.autograd.grad(value, one)[0])
        hessian = torch.func.hessian(loss)(logits[0], target[0])
        assert hessian.shape == (6, 5, 6, 5)
        assert hessian.isfinite().all()

    def test_repr_shows_hyperparameters_only(self):
        loss = at("dal", 0.5, q_start=0.8)
        assert repr(loss) == "DynamicsAwareLoss(q_start=0.8, q_end=1.5, lambda_end=1.0)"
        assert repr(build("ce", weight=torch.ones(3))) == "CrossEntropyLoss()"
        assert "class_counts=(1, 2)" in repr(build("nlnl", class_counts=[1, 2]))

        class Own(Loss):
            def __init__(self, weight=None, *, gamma=2.0):
                super().__init__(weight)
                self._kept = gamma

            def per_example(self, input, target):
                return self._kept * functional.cross_entropy(input, target)

        assert repr(Own()) == "Own()"
        smooth = build("ce", label_smoothing=0.1)
        assert repr(smooth) == "CrossEntropyLoss(label_smoothing=0.1)"

    @pytest.mark.parametrize("key", LOSSES)
    def test_says_its_formula(self, key):
        assert 0 < len(build(key).formula) < 100


class TestLabelSmoothing:
    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("shape", TestContract.SHAPES)
    @pytest.mark.parametrize("soft", [False, True])
    @pytest.mark.parametrize("smoothing", [0.1, 1.0])
    def test_ce_is_torchs(self, reduction, weighted, shape, soft, smoothing):
        logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        places = shape[:1] + shape[2:] if len(shape) > 1 else ()
        target = torch.rand(shape).double() if soft else torch.randint(5, places)
        if not soft and target.numel() > 1:
            target.view(-1)[0] = 3
        options = {
            "weight": torch.rand(5, dtype=torch.float64) if weighted else None,
            "ignore_index": -100 if soft else 3,
            "reduction": reduction,
            "label_smoothing": smoothing,
        }
        ours = build("ce", **options)(logits, target)
        theirs = nn.CrossEntropyLoss(**options)(logits, target)
        torch.testing.assert_close(ours, theirs, equal_nan=True)
        torch.testing.assert_close(
            torch.autograd.grad(ours.sum(), logits), torch.autograd.grad(theirs.sum(), logits)
        )

    def test_ce_in_half_is_torchs_in_float(self):
        logits, target = torch.randn(6, 5).bfloat16(), torch.randint(5, (6,))
        theirs = nn.CrossEntropyLoss(label_smoothing=0.3)(logits.float(), target)
        ours = build("ce", label_smoothing=0.3)(logits, target)
        torch.testing.assert_close(ours, theirs)

    @pytest.mark.parametrize("key", SOFT)
    def test_is_the_loss_of_the_smoothed_target(self, key, batch):
        logits, target = batch
        smoothed = 0.8 * nn.functional.one_hot(target, 5) + 0.2 / 5
        ours = at(key, label_smoothing=0.2, reduction="none")(logits, target)
        # In training those with a matrix to estimate want indices.
        theirs = at(key, reduction="none").eval()(logits, smoothed.double())
        torch.testing.assert_close(ours, theirs)
        assert not torch.allclose(ours, at(key, reduction="none")(logits, target))

    def test_none_changes_nothing(self, batch):
        assert torch.equal(at("dal", label_smoothing=0.0)(*batch), at("dal")(*batch))

    def test_keeps_to_torchs_errors(self):
        loss = build("gce", label_smoothing=0.1)
        with pytest.raises(IndexError, match="Target 5 is out of bounds"):
            loss(torch.randn(2, 5), torch.tensor([0, 5]))

    @pytest.mark.parametrize(
        "made", [LOSSES["nlnl"], LOSSES["ogc"], LOSSES["peer"], GeneralizedJensenShannonLoss]
    )
    def test_is_refused_where_probabilities_do_not_define_the_loss(self, made):
        with pytest.raises(ConfigError, match=r"label_smoothing must be 0, got 0\.1"):
            made(label_smoothing=0.1)

    @pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
    def test_out_of_range(self, wrong):
        with pytest.raises(ConfigError, match="label_smoothing must be in"):
            build("ce", label_smoothing=wrong)


class TestHyperparameters:
    def test_all_that_are_not_counts_may_be_schedules(self):
        names = {key: [n for k, n in SCHEDULABLE if k == key] for key, _ in SCHEDULABLE}
        assert names == {
            "gce": ["q"],
            "tce": ["order"],
            "js": ["pi"],
            "rce": ["A"],
            "sce": ["alpha", "beta", "A"],
            "nce+rce": ["alpha", "beta"],
            "agce": ["a", "q"],
            "nce+agce": ["alpha", "beta", "a", "q"],
            "ce+sr": ["tau", "lamb", "p"],
            "btl": ["t1", "t2"],
            "poly1": ["epsilon"],
            "anl-ce": ["alpha", "beta", "lamb"],
            "anl-fl": ["alpha", "beta", "gamma", "lamb"],
            "jal-ce": ["alpha", "beta", "a"],
            "jal-fl": ["alpha", "beta", "a", "gamma"],
            "eps-softmax": ["alpha", "beta", "m"],
            "truncated-gce": ["q", "k"],
            "ldr-kl": ["lamb", "margin"],
            "logit-clip": ["delta"],
            "ogc": ["q", "epsilon"],
            "peer": ["alpha"],
        }

    @pytest.mark.parametrize(("key", "name"), SCHEDULABLE)
    def test_a_schedule_gives_what_its_values_give(self, key, name, batch):
        default = hyperparameters(LOSSES[key])[name]
        other = default / 2 + 0.3 if key == "ogc" else default + 1
        end = (default + {"A": -4.0, "pi": 0.2, "t1": 0.2, "k": 0.2}.get(name, other)) / 2
        table = {"schedule": "linear", "start": default, "end": end}
        for schedule in (linear(default, end), table):
            loss = build(key, **{name: schedule})
            for progress in (0.0, 0.25, 1.0):
                loss.progress = progress
                value = default + (end - default) * progress
                assert type(getattr(loss, name)) is float
                assert getattr(loss, name) == pytest.approx(value)
                fixed = at(key, progress, **{name: value})
                torch.testing.assert_close(loss(*batch), fixed(*batch))
                assert loss.dynamic()[name] == pytest.approx(fixed.dynamic().get(name, value))

    @pytest.mark.parametrize("key", LOSSES)
    def test_defaults_are_found_by_name(self, key):
        found = hyperparameters(LOSSES[key])
        assert not set(found) & {"weight", "options", *LossOptions.__annotations__}
        assert repr(build(key, **found)) == repr(build(key))

    def test_defaults_of_a_class_and_of_a_function(self):
        assert hyperparameters(LOSSES["sce"]) == {"alpha": 0.1, "beta": 10.0, "A": math.log(1e-4)}
        assert hyperparameters(LOSSES["dtce"]) == {"order_start": 20.0, "order_end": 1.0}
        assert hyperparameters(LOSSES["nlnl"]) == {"n": 1, "class_counts": None}

    def test_numbers_are_held_as_floats(self):
        assert type(build("gce", q=1).q) is float
        assert type(build("gce", q=np.float32(0.5)).q) is float
        assert build("gce", q=0.9).dynamic() == {}

    def test_can_be_set_later(self):
        loss = build("gce")
        loss.q = linear(0.5, 1.0)
        assert loss.dynamic() == {"q": 0.5}
        loss.q = 0.9
        assert (loss.q, loss.dynamic()) == (0.9, {})
        with pytest.raises(ConfigError, match=r"q must be in \[0, inf\), got -1"):
            loss.q = -1.0
        assert loss.q == 0.9

    def test_an_order_above_all_that_was_foreseen(self, batch):
        following = Following(2.0)
        loss = build("tce", order=following)
        following.update({"accuracy": 7.5})
        torch.testing.assert_close(loss(*batch), build("tce", order=7.5)(*batch))

    def test_grown_weight_of_a_scheduled_weight(self):
        loss = at("ce+sr", 0.5, lamb=linear(1.0, 3.0), rho=1.1, epochs=10)
        assert loss.lamb == 2.0
        assert loss.dynamic() == {"lamb": pytest.approx(2.0 * 1.1**5)}

    def test_repr_shows_schedules_as_they_are_typed(self):
        assert repr(build("dgce")) == "GeneralizedCrossEntropyLoss(q=linear(start=0.6, end=1.5))"
        cosine = {"schedule": "cosine", "end": 0.5}
        assert "alpha=cosine(end=0.5), beta=10.0" in repr(build("sce", alpha=cosine))
        assert repr(build("gce", q=Following())) == "GeneralizedCrossEntropyLoss(q=Following())"

    def test_a_table_in_a_runs_file(self, batch):
        table = {"schedule": "multistep", "milestones": [0.5], "factor": 0.25}
        run = config.parse({"data": "digits", "loss": {"name": "gce", "q": table}})
        bound = config.bind(run.loss, LOSSES["gce"], "loss")
        assert json.loads(json.dumps(bound)) == {"q": table}
        loss = build("gce", **bound)
        assert loss.q == 1.0
        loss.progress = 0.5
        assert loss.q == 0.25

    @pytest.mark.parametrize(
        ("q", "message"),
        [
            (-0.1, r"^q must be in \[0, inf\), got -0\.1$"),
            (math.nan, "q must be in .* got nan"),
            ("0.7", "q must be a number, got '0.7'"),
            (True, "q must be a number, got True"),
            (None, "q must be a number, got None"),
            (linear(0.5, -0.5), r"q must be in \[0, inf\), got -0\.00.* at progress 0\.501$"),
            (lambda progress: None, "q must be a number, got None at progress 0$"),
            (lambda progress: math.nan if progress > 0.7 else 1, "got nan at progress 0.701"),
            (Following(-1.0), "got -1.0 at progress 0$"),
            ({"schedule": "linear", "end": -1.0}, "q must be in .* at progress 0.501"),
            ({"schedule": "liner"}, "q: unknown schedule 'liner': did you mean 'linear'"),
            ({"schedule": "linear", "ends": 1.0}, "q: unknown parameter of 'linear' 'ends'"),
            ({"schedule": "linear", "end": "1"}, "q: end must be a number, got '1'"),
            ({"schedule": "multistep", "milestones": 0.5}, "q: milestones must be a list"),
            (
                {"schedule": "multistep", "milestones": ["a"]},
                "milestones must be a number, got 'a'",
            ),
            ({"schedule": "linear", "begin": 2.0}, "q: begin must be in"),
            ({"end": 1.0}, "q: expected a table such as"),
        ],
    )
    def test_what_is_refused_when_made(self, q, message):
        with pytest.raises(ConfigError, match=message):
            build("gce", q=q)

    @pytest.mark.parametrize(
        ("key", "wrong"),
        [
            ("dal", {"q_start": "0.6"}),
            ("dal", {"q_end": {"schedule": "linear"}}),
            ("gce", {"label_smoothing": "0.1"}),
            ("forward", {"warmup": None}),
        ],
    )
    def test_what_is_no_number_is_named(self, key, wrong):
        (name,) = wrong
        with pytest.raises(ConfigError, match=f"{name} must be a number, got "):
            build(key, **wrong)

    def test_a_schedule_that_fails_is_named(self, batch):
        class Failing(Following):
            def __call__(self, progress):
                return 0.5 if progress == 0 else None.value

        loss = build("gce", q=Failing())
        loss.progress = 0.5
        with pytest.raises(RuntimeError, match="the schedule of q failed: 'NoneType' object has"):
            loss(*batch)

    def test_values_are_checked_at_use_too(self, batch):
        between = at("gce", 0.5, q=lambda progress: -1.0 if progress == 0.00012 else 0.5)
        between.progress = 0.00012
        with pytest.raises(ConfigError, match=r"got -1\.0 at progress 0\.00012"):
            between(*batch)
        following = build("js", pi=Following())
        following.update({"accuracy": 1.5})
        with pytest.raises(ConfigError, match=r"pi must be in \[0, 1\], got 1\.5 at progress 0"):
            following(*batch)

    def test_a_schedule_with_half_a_state(self):
        class Half:
            def __call__(self, progress):
                return 0.5

            def update(self, metrics): ...

        with pytest.raises(ConfigError, match="q: a schedule with update needs state_dict and"):
            build("gce", q=Half())


class TestState:
    def test_progress_is_saved(self):
        loss = build("dal")
        loss.load_state_dict(at("dal", 0.7).state_dict())
        assert loss.progress == 0.7

    @pytest.mark.parametrize("key", KINDS)
    @pytest.mark.parametrize("weighted", [False, True])
    def test_states_of_before_still_load(self, key, weighted):
        weight = torch.arange(5.0)
        before = {"weight": weight} if weighted else {}
        if key == "nlnl":
            before["_extra_state"] = 7
        loss = at(key, weight=torch.zeros(5) if weighted else None)
        loss.load_state_dict(before, strict=True)
        assert loss.progress == 0.7
        if weighted:
            assert torch.equal(loss.weight, weight)
        within = nn.ModuleDict({"loss": loss})
        within.load_state_dict({f"loss.{name}": value for name, value in before.items()})
        with pytest.raises(RuntimeError, match="Unexpected key"):
            loss.load_state_dict({**before, "wait": 1})

    def test_a_stateful_schedule_goes_on_where_it_was(self, batch):
        loss = build("sce", alpha=Following(), beta=linear(10.0, 1.0))
        loss.progress = 0.5
        loss.update({"accuracy": 0.25})
        assert loss.dynamic() == {"alpha": 0.25, "beta": 5.5}
        file = io.BytesIO()
        torch.save(loss.state_dict(), file)
        file.seek(0)
        restored = build("sce", alpha=Following(), beta=linear(10.0, 1.0))
        restored.load_state_dict(torch.load(file, weights_only=True))
        assert restored.dynamic() == loss.dynamic()
        assert torch.equal(restored(*batch), loss(*batch))

    def test_a_state_of_other_schedules(self):
        state = build("gce", q=Following()).state_dict()
        with pytest.raises(CheckpointError, match=r"unknown stateful schedule 'q' \(known: none\)"):
            build("gce").load_state_dict(state)

    @pytest.mark.parametrize("wrong", [-0.1, 1.1, 7, math.nan, "0.5", None, True])
    def test_progress_out_of_range(self, wrong):
        loss = at("dal", 0.3)
        with pytest.raises(ConfigError, match=r"progress must be .*: expected epoch / epochs"):
            loss.progress = wrong
        assert loss.progress == 0.3

    def test_progress_is_a_plain_float(self):
        for progress in (0, 1, 0.5, np.float64(0.5)):
            assert type(at("dal", progress).progress) is float


class TestUntold:
    """A loss with schedules that is never told the progress says so once."""

    @pytest.fixture(autouse=True)
    def few(self, monkeypatch):
        monkeypatch.setattr(losses, "UNTOLD_CALLS", 3)

    def heard(self, loss, batch, calls=8):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(calls):
                loss(*batch)
        return [str(warning.message) for warning in caught if "progress" in str(warning.message)]

    @pytest.mark.parametrize(("key", "names"), [("dgce", "q"), ("dal", "q and lamb")])
    def test_warns_once(self, key, names, batch):
        loss = build(key)
        assert self.heard(loss, batch, calls=2) == []
        (said,) = self.heard(loss, batch)
        assert f"its {names} stayed where they start" in said
        assert "write `loss.progress = epoch / epochs`" in said

    def test_the_warning_points_at_the_call(self, batch):
        loss = build("dgce")
        self.heard(loss, batch, calls=2)
        with pytest.warns(UserWarning, match="progress") as caught:
            loss(*batch)
        assert caught[0].filename == __file__

    def test_says_nothing_where_there_is_nothing_to_say(self, batch):
        told, updated, restored = build("dal"), build("gce", q=Following()), build("dal")
        told.progress = 0.0
        updated.update({"accuracy": 0.5})
        restored.load_state_dict(told.state_dict())
        for loss in (build("gce"), build("dal").eval(), told, updated, restored):
            assert self.heard(loss, batch) == []

    def test_compiled_and_transformed(self, batch):
        torch._dynamo.reset()
        compiled = torch.compile(build("dgce"), fullgraph=True, backend="eager")
        assert self.heard(compiled, batch) == []
        logits, target = batch
        transformed = torch.func.vmap(torch.func.grad(build("dgce")))
        many = logits.expand(2, 6, 5), target.expand(2, 6)
        assert len(self.heard(transformed, many)) == 1


SCHEDULED = {
    **{key: {} for key in ("ce", "nlnl", "dal", "ce+sr", "dgce", "djs", "dtce")},
    "sce": {"alpha": linear(0.1, 1.0), "beta": linear(10.0, 1.0), "A": linear(-9.0, -4.0)},
    "agce": {"a": linear(0.5, 6.0), "q": linear(0.5, 1.5)},
    "btl": {"t1": linear(0.2, 0.7), "t2": linear(1.2, 3.0)},
    "gce": {"q": lambda progress: 0.5 + progress**2},
    "poly1": {"epsilon": {"schedule": "cosine", "start": 5.0, "end": 1.0}},
    "js": {"pi": Following()},
    "anl-ce": {"alpha": linear(1.0, 5.0), "lamb": linear(1.0, 2.0)},
    "anl-fl": {"beta": linear(1.0, 5.0), "gamma": linear(0.0, 2.0)},
    "jal-fl": {"a": linear(1.0, 30.0), "gamma": linear(0.0, 2.0)},
    "eps-softmax": {"alpha": linear(0.1, 0.01), "m": linear(0.0, 1e4)},
    "truncated-gce": {"q": linear(0.5, 1.0), "k": linear(0.1, 0.5), "start": 0.0},
    "ldr-kl": {"lamb": linear(1.0, 10.0), "margin": linear(0.1, 2.0)},
    "forward": {"matrix": MATRIX},
    "backward": {"matrix": MATRIX},
    "logit-clip": {"delta": linear(0.5, 2.0), "base": {"name": "gce", "q": linear(0.5, 1.5)}},
}


NO_RECOMPILING = (2, 13)
"""The oldest torch that was seen to serve every progress by one graph; 2.6 does not."""


class TestCompile:
    @pytest.mark.parametrize("key", SCHEDULED)
    def test_one_graph_serves_every_progress(self, key):
        from torch._dynamo.testing import CompileCounterWithBackend

        if tuple(map(int, torch.__version__.split(".")[:2])) < NO_RECOMPILING:
            pytest.skip("this torch compiles anew for every progress")
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        loss = at(key, 0.0, **SCHEDULED[key])
        compiled = torch.compile(loss, fullgraph=True, backend=counter)
        target = torch.randint(5, (8,))
        for step in range(10):
            loss.progress = step / 9
            loss.update({"accuracy": 1 - 0.05 * step})
            logits = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
            value, wanted = seeded(compiled, logits, target), seeded(loss, logits, target)
            torch.testing.assert_close(value, wanted)
            torch.testing.assert_close(
                torch.autograd.grad(value, logits)[0], torch.autograd.grad(wanted, logits)[0]
            )
        assert counter.frame_count <= 2

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "key",
        [
            "dal",
            *(
                pytest.param(key, marks=pytest.mark.long)
                for key in ("agce", "ce+sr", "btl", "sce", "dgce", "dtce", "djs")
            ),
        ],
    )
    def test_generated_code_is_right_at_every_progress(self, key):
        torch._dynamo.reset()
        loss = at(key, 0.0, **SCHEDULED[key])
        compiled = torch.compile(loss, fullgraph=True)
        target = torch.randint(7, (33,))
        for step in range(10):
            loss.progress = step / 9
            logits = torch.randn(33, 7, requires_grad=True)
            value, wanted = compiled(logits, target), loss(logits, target)
            torch.testing.assert_close(value, wanted)
            torch.testing.assert_close(
                torch.autograd.grad(value, logits)[0], torch.autograd.grad(wanted, logits)[0]
            )


class TestNegativeLearning:
    def test_draws_are_uniform_over_the_other_classes(self):
        target = torch.arange(5).repeat(4000)
        drawn = functional.draw_complement(target, num_classes=5, n=3)
        assert drawn.shape == (20_000, 3)
        assert (drawn != target[:, None]).all()
        counts = torch.zeros(5, 5).index_put((target[:, None], drawn), torch.ones(1), True)
        share = counts / counts.sum(1, keepdim=True)
        off = ~torch.eye(5, dtype=torch.bool)
        assert (share[off] - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 12_000)
        # No two places follow each other.
        same = (drawn[:-1] - target[:-1, None]) % 5 == (drawn[1:] - target[1:, None]) % 5
        assert abs(same.double().mean() - 0.25) < 0.01

    def test_calls_draw_anew_and_torchs_seed_fixes_them_all(self, batch):
        def values(seed):
            torch.manual_seed(seed)
            loss = build("nlnl")
            return [loss(*batch).item() for _ in range(5)]

        assert len(set(values(0))) > 1
        assert values(0) == values(0)
        assert values(0) != values(1)

    def test_one_class_has_no_complement(self):
        with pytest.raises(ConfigError, match="need at least 2 classes, got 1"):
            build("nlnl")(torch.zeros(2, 1), torch.zeros(2).long())


class TestLogitClip:
    def test_no_norm_is_greater_and_none_is_raised(self):
        logits = torch.randn(50, 5, 3) * torch.rand(50, 1, 3) * 3
        clipped = functional.clip_logits(logits, delta=2.0)
        norms = logits.norm(dim=1)
        torch.testing.assert_close(clipped.norm(dim=1), norms.clamp(max=2.0))
        short = norms.lt(2.0).unsqueeze(1).expand_as(logits)
        assert torch.equal(clipped[short], logits[short])
        assert 0 < short.double().mean() < 1

    def test_no_logits_at_all_have_a_gradient(self):
        logits = torch.zeros(1, 3, requires_grad=True)
        build("logit-clip")(logits, torch.tensor([0])).backward()
        torch.testing.assert_close(logits.grad, torch.tensor([[-2 / 3, 1 / 3, 1 / 3]]))

    def test_the_base_follows_the_progress_and_what_is_measured(self, batch):
        base = {"name": "sce", "alpha": linear(1.0, 3.0), "beta": Following()}
        loss = at("logit-clip", 0.5, delta=100.0, base=base)
        loss.update({"accuracy": 0.25})
        assert loss.dynamic() == {"base.alpha": 2.0, "base.beta": 0.25}
        torch.testing.assert_close(loss(*batch), build("sce", alpha=2.0, beta=0.25)(*batch))
        restored = build("logit-clip", delta=100.0, base={**base, "beta": Following()})
        restored.load_state_dict(loss.state_dict())
        assert restored.dynamic() == loss.dynamic()
        dal = at("logit-clip", 0.9, delta=100.0, base="dal")
        torch.testing.assert_close(dal(*batch), at("dal", 0.9)(*batch))

    @pytest.mark.parametrize("key", ["forward", "backward"])
    def test_a_base_with_a_matrix(self, key, batch):
        base = {"name": key, "matrix": MATRIX}
        loss = build("logit-clip", delta=1e4, base=base)
        torch.testing.assert_close(loss(*batch), build(key, matrix=MATRIX)(*batch))

    def test_a_base_in_a_runs_file(self):
        loss = {"name": "logit-clip", "delta": 2.0, "base": {"name": "gce", "q": 0.5}}
        run = config.parse({"data": "digits", "loss": loss})
        bound = config.bind(run.loss, LOSSES["logit-clip"], "loss")
        assert json.loads(json.dumps(bound)) == {key: loss[key] for key in ("delta", "base")}
        assert build("logit-clip", **bound).loss.q == 0.5

    @pytest.mark.parametrize("key", ["logit-clip", "peer"])
    def test_a_base_on_a_command_line_is_typed_as_a_loss_is(self, key):
        def bound(*words):
            tables = config.override_tables(["--loss", key, *words])
            run = config.parse({"data": "digits"} | tables)
            return config.bind(run.loss, LOSSES[key], "loss")["base"]

        assert bound("--loss.base", "mae") == "mae"
        gce = {"name": "gce", "q": 0.5}
        assert bound("--loss.base", "gce", "--loss.base.q", "0.5") == gce
        assert bound("--loss.base.name", "gce", "--loss.base.q", "0.5") == gce
        plain = bound("--loss.base.name", "ldr-kl", "--loss.base.normalize", "false")
        assert plain == {"name": "ldr-kl", "normalize": False}
        assert build(key, base=plain).loss.normalize is False
        schedule = "{schedule = 'linear', start = 0.1, end = 1}"
        moving = bound("--loss.base.name", "gce", "--loss.base.q", schedule)
        assert moving["q"]["schedule"] == "linear"
        nested = ("--loss.base.name", "logit-clip", "--loss.base.base.name", "gce")
        assert bound(*nested, "--loss.base.base.q", "0.5")["base"] == gce
        for words, message in (
            (("ldr-kl", "normalize", "maybe"), "loss.base.normalize: expected a.* boolean.*maybe"),
            (("gce", "q", "high"), "loss.base.q: expected a.* number.*high"),
            (("anl-ce", "min_prob", "small"), "loss.base.min_prob: expected a.* number.*small"),
        ):
            name, parameter, value = words
            with pytest.raises(ConfigError, match=message):
                bound("--loss.base.name", name, f"--loss.base.{parameter}", value)


class TestCorrection:
    def test_backward_has_the_mean_of_the_true_labels(self, batch):
        logits, target = batch
        given = torch.tensor(MATRIX, dtype=torch.float64)[target]
        loss = build("backward", matrix=MATRIX)
        torch.testing.assert_close(loss(logits, given), build("ce")(logits, target))

    def test_forward_is_least_where_the_true_labels_are_predicted(self):
        """With labels that follow the matrix, and with cross entropy somewhere else."""
        matrix = torch.tensor(MATRIX, dtype=torch.float64)
        truth = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1], dtype=torch.float64)
        given = (truth @ matrix)[None]
        for key, least in (("forward", True), ("ce", False)):
            logits = truth.log()[None].requires_grad_()
            loss = build(key, **({"matrix": MATRIX} if least else {}))
            (gradient,) = torch.autograd.grad(loss(logits, given), logits)
            assert gradient.abs().max().lt(1e-12) == least

    @pytest.mark.parametrize("key", ["forward", "backward"])
    def test_a_matrix_in_a_runs_file(self, key, tmp_path, batch):
        np.save(tmp_path / "t.npy", np.array(MATRIX))
        wanted = build(key, matrix=MATRIX)(*batch)
        for matrix in (MATRIX, str(tmp_path / "t.npy")):
            run = config.parse({"data": "digits", "loss": {"name": key, "matrix": matrix}})
            bound = config.bind(run.loss, LOSSES[key], "loss")
            torch.testing.assert_close(build(key, **bound)(*batch), wanted)
        for missing in (tmp_path / "no.npy", str(tmp_path / "no.npy")):
            with pytest.raises(DataError, match="no.npy"):
                build(key, matrix=missing)

    @pytest.mark.parametrize("key", ["peer", "logit-clip"])
    def test_a_matrix_of_a_base_in_a_runs_file(self, key, tmp_path):
        file, ids = tmp_path / "t.npy", []
        base = {"name": "forward", "matrix": str(file)}
        run = config.parse({"data": "digits", "loss": {"name": key, "base": base}})
        for noise in (0.0, 0.2):
            np.save(file, (1 - noise) * np.eye(10) + noise / 10)
            made = plan(run)
            ids.append(made.run_id)
            assert made.loss().loss.transition[0, 0].item() == pytest.approx(1 - 0.9 * noise)
        assert ids[0] != ids[1]

    def test_a_matrix_of_other_classes(self, batch):
        with pytest.raises(ConfigError, match="matrix: expected 5 x 5 numbers.*got 2 x 2"):
            build("forward", matrix=[[0.9, 0.1], [0.0, 1.0]])(*batch)

    @staticmethod
    def train(loss, steps):
        """Train on labels of which class 0 has a third of the next class's."""
        values = []
        for step in steps:
            loss.progress = step / 20
            generator = torch.Generator().manual_seed(step)
            true = torch.randint(3, (60,), generator=generator)
            wrong = (true == 0) & (torch.rand(60, generator=generator) < 1 / 3)
            logits = 5 * nn.functional.one_hot(true, 3).float()
            logits = (logits + torch.randn(60, 3, generator=generator)).requires_grad_()
            values.append(loss(logits, torch.where(wrong, 1, true)).item())
        return values

    @pytest.mark.parametrize("key", ["forward", "backward"])
    def test_is_estimated_after_the_warm_up(self, key):
        loss = build(key, warmup=0.5, queue=300)
        plain = self.train(build("ce"), range(20))
        assert self.train(loss, range(10)) == plain[:10]
        assert loss.dynamic() == {"corrected": 0.0}
        assert len(loss._seen[0]) == len(loss._seen[1]) == 300
        after = self.train(loss, range(10, 20))
        assert loss.dynamic() == {"corrected": 1.0}
        wanted = torch.tensor([[2 / 3, 1 / 3, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
        torch.testing.assert_close(loss.transition, wanted, atol=0.1, rtol=0)
        given = build(key, matrix=loss.transition)
        assert after == pytest.approx(self.train(given, range(10, 20)))
        assert given.dynamic() == {}

    @pytest.mark.parametrize("cut", [4, 10, 15])
    def test_goes_on_exactly_where_it_was(self, cut):
        whole, begun, resumed = (build("backward", warmup=0.5, queue=300) for _ in range(3))
        wanted = self.train(whole, range(20))
        values = self.train(begun, range(cut))
        file = io.BytesIO()
        torch.save(begun.state_dict(), file)
        file.seek(0)
        resumed.load_state_dict(torch.load(file, weights_only=True))
        assert values + self.train(resumed, range(cut, 20)) == wanted

    @pytest.mark.parametrize("key", ["forward", "backward"])
    def test_a_batch_that_diverged_is_not_remembered(self, key):
        loss, sound = (build(key, warmup=0.5, queue=300) for _ in range(2))
        for each in (loss, sound):
            self.train(each, range(10))
        broken = torch.randn(6, 3)
        broken[2, 1] = math.nan
        loss.progress = 9 / 20
        loss(broken.requires_grad_(), torch.zeros(6).long())
        for each in (loss, sound):
            self.train(each, range(10, 11))
        torch.testing.assert_close(loss.transition, sound.transition, atol=0.05, rtol=0)

    @pytest.mark.parametrize("key", ["forward", "backward"])
    def test_class_probabilities_need_a_matrix(self, key, batch):
        """Nothing could be estimated from them, and it would stay cross entropy for good."""
        logits, target = batch
        soft = nn.functional.one_hot(target, 5).double()
        with pytest.raises(TypeError, match="matrix from class indices, and got class prob"):
            build(key)(logits.requires_grad_(), soft)
        assert build(key).eval()(logits, soft) == build("ce")(logits, soft)
        assert build(key, matrix=MATRIX)(logits, soft).isfinite()

    @pytest.mark.parametrize("key", ["forward", "backward"])
    def test_who_is_told_late_has_a_warm_up_of_the_whole_queue(self, key):
        loss = build(key, warmup=0.5, queue=150)
        for step, corrected in ((12, 0.0), (13, 0.0), (14, 0.0), (15, 1.0)):
            self.train(loss, [step])
            assert loss.dynamic() == {"corrected": corrected}

    @pytest.mark.parametrize("key", ["forward", "backward"])
    def test_another_training_estimates_anew(self, key):
        loss = build(key, warmup=0.5, queue=300)
        wanted = self.train(loss, range(20))
        loss.progress = 0.0
        assert loss.dynamic() == {"corrected": 0.0}
        assert self.train(loss, range(20)) == wanted

    def test_ignored_examples_are_not_remembered(self, batch):
        logits, target = batch
        target[:2] = -100
        loss = build("forward")
        loss(logits.requires_grad_(), target)
        assert loss._seen[1].tolist() == target[2:].tolist()
        loss(torch.randn(4, 5, 3, requires_grad=True), torch.randint(5, (4, 3)))
        assert loss._seen[0].shape == (16, 5)


class TestPeer:
    def test_equals_naive_computation(self, batch):
        logits, target = batch
        loss = build("peer", alpha=0.7, base={"name": "gce", "q": 0.5}, reduction="none")
        loss.eval()
        pairs = loss._draw(torch.ones(6, dtype=torch.bool))
        wanted = naive.peer(logits.tolist(), target.tolist(), pairs.tolist(), 0.7, 0.5)
        np.testing.assert_allclose(loss(logits, target).numpy(), wanted, rtol=1e-10)
        assert torch.autograd.gradcheck(loss, (logits.requires_grad_(), target))

    def test_pairs_are_uniform_and_of_what_is_kept(self):
        loss = build("peer")
        kept = torch.arange(6) != 2
        drawn = []
        for loss.drawn in range(2000):
            drawn.append(loss._draw(kept))
        pairs = torch.stack(drawn, 1).reshape(2, -1)
        for each in pairs:
            share = torch.bincount(each, minlength=6) / len(each)
            wanted = torch.tensor([0.2, 0.2, 0, 0.2, 0.2, 0.2])
            torch.testing.assert_close(share, wanted, atol=0.02, rtol=0)
        # An example and a label of its own no more often than by chance.
        assert abs((pairs[0] == pairs[1]).double().mean() - 0.2) < 0.02
        assert build("peer", seed=1)._draw(kept).tolist() != build("peer")._draw(kept).tolist()

    def test_ignored_examples_count_for_nothing(self, batch):
        logits, target = batch
        target[[0, 3]] = -100
        loss, without = build("peer", alpha=0.5), build("peer")
        (gradient,) = torch.autograd.grad(loss(logits.requires_grad_(), target), logits)
        assert gradient[[0, 3]].eq(0).all()
        assert gradient[[1, 2, 4, 5]].ne(0).any(1).all()
        ignored = torch.full((6,), -100)
        assert without(logits, ignored).isnan()
        assert build("peer", reduction="sum")(logits, ignored) == 0

    def test_weights_scale_examples_and_the_mean(self, batch):
        logits, target = batch
        weight = torch.rand(5, dtype=torch.float64)
        each = build("peer", reduction="none")(logits, target)
        scaled = build("peer", weight=weight)(logits, target)
        torch.testing.assert_close(scaled, (weight[target] * each).sum() / weight[target].sum())

    def test_goes_on_exactly_where_it_was_whatever_torch_draws(self, batch):
        logits, target = batch
        logits.requires_grad_()

        def values(loss, count):
            torch.rand(3)
            return [loss(logits, target).item() for _ in range(count)]

        whole, begun, resumed = (build("peer") for _ in range(3))
        wanted = values(whole, 8)
        assert len(set(wanted)) > 1
        first = values(begun, 3)
        begun.eval()(logits, target)
        with torch.no_grad():
            begun.train()(logits, target)
        file = io.BytesIO()
        torch.save(begun.state_dict(), file)
        file.seek(0)
        resumed.load_state_dict(torch.load(file, weights_only=True))
        assert first + values(resumed, 5) == wanted
        assert values(pickle.loads(pickle.dumps(resumed)), 2) == values(whole, 2)

    def test_what_is_logged_of_the_base_has_a_name_of_its_own(self):
        base = {"name": "sce", "alpha": linear(0.5, 0.1)}
        loss = at("peer", 0.5, alpha=linear(0.0, 1.0), base=base)
        assert loss.dynamic() == {"alpha": 0.5, "base.alpha": 0.3}

    def test_compiled_it_is_compiled_once(self):
        from torch._dynamo.testing import CompileCounterWithBackend

        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        loss, other = build("peer"), build("peer")
        compiled = torch.compile(loss, backend=counter)
        target = torch.randint(5, (8,))
        frames = []
        for _ in range(6):
            logits = torch.randn(8, 5, requires_grad=True)
            torch.testing.assert_close(compiled(logits, target), other(logits, target))
            frames.append(counter.frame_count)
        assert frames[1:] == frames[1:2] * 5

    def test_arranged_examples(self):
        logits, target = torch.randn(6, 5, 2), torch.randint(5, (6, 2))
        rows = logits.movedim(1, -1).reshape(-1, 5)
        each = build("peer", reduction="none")(logits, target)
        torch.testing.assert_close(
            each.reshape(-1), build("peer", reduction="none")(rows, target.reshape(-1))
        )


class TestAdaptive:
    """What it does with q is DAL's; here is when it does so."""

    @staticmethod
    def step(loss, scale, *, classes=10, seed=0):
        """Call the loss with logits of a scale; return the relative entropy of the batch."""
        generator = torch.Generator().manual_seed(seed)
        logits = scale * torch.randn(40, classes, generator=generator)
        loss(logits.requires_grad_(), torch.randint(classes, (40,), generator=generator)).item()
        p = logits.detach().softmax(1)
        return (-(p * p.log()).sum(1) / math.log(classes)).mean().item()

    def test_begins_when_the_mean_of_ten_batches_has_fallen(self):
        loss, mean, below = build("adaptive-dal"), 0.0, None
        for step in range(40):
            loss.progress = 0.02 * (step // 7)
            assert (loss.began is None) == (below is None or step // 7 == below // 7)
            assert (loss.q == 0) == (loss.began is None)
            entropy = self.step(loss, 0.02 * step, seed=step)
            mean += (entropy - mean) * max(1 / (step + 1), 0.1)
            if below is None and mean <= losses.TAKE_OFF:
                below = step
        epoch, earlier = divmod(below, 7)
        assert epoch > 1
        assert earlier not in (0, 6)
        assert loss.began == pytest.approx(0.02 * (epoch + (earlier + 1) / 7))

    @pytest.mark.parametrize(
        ("began", "share"), [(0.0, 1.0), (0.05, 1.0), (0.1, 0.5), (0.14, 0.1), (0.17, 0.0)]
    )
    @pytest.mark.parametrize(("classes", "scale"), [(5, 1.0), (10, 1.0), (100, 0.1)])
    def test_is_dal_on_what_is_left(self, began, share, classes, scale):
        loss = build("adaptive-dal", q_start=0.8, q_end=1.4, lambda_end=0.7)
        loss.progress = began - 1e-9 if began else 0.0
        self.step(loss, 9.0, classes=classes)
        assert loss.q == 0 or began > losses.LATEST
        loss.progress = began + 1e-9
        if share:
            assert loss.began == pytest.approx(began, abs=1e-8)
        else:
            assert loss.began is None
            began = losses.LATEST
        dal = build("dal", q_start=0.8 * share * scale, q_end=1.4, lambda_end=0.7)
        logits, target = torch.randn(6, classes), torch.randint(classes, (6,))
        for passed in (0.1, 0.5, 0.9, 1.0):
            loss.progress, dal.progress = min(1.0, began + passed * (1 - began)), passed
            assert loss.dynamic() == pytest.approx(dal.dynamic(), abs=1e-6)
            torch.testing.assert_close(loss(logits, target), dal(logits, target))

    def test_goes_on_without_a_beginning(self, batch):
        loss, late = build("adaptive-dal"), build("dal", q_start=0.0)
        for share in (0.0, 0.5, 1.0):
            loss.progress = losses.LATEST * share
            self.step(loss, 0.0)
            assert loss.dynamic() == {"q": 0.0, "lamb": 0.0}
            torch.testing.assert_close(loss(*batch), build("ce")(*batch))
        for progress in (0.5, 0.9, 1.0):
            loss.progress = progress
            late.progress = (progress - losses.LATEST) / (1 - losses.LATEST)
            assert loss.dynamic() == pytest.approx(late.dynamic())

    def test_few_epochs_go_on_from_where_learning_began(self):
        loss = build("adaptive-dal")
        for scale in (0.0, 0.0, 0.0, 9.0):
            self.step(loss, scale)
        for progress, passed in ((1 / 3, 0.0), (2 / 3, 0.5), (1.0, 1.0)):
            loss.progress = progress
            assert loss.began == pytest.approx(1 / 3)
            assert loss.dynamic()["q"] == pytest.approx(1.5 * passed)

    def test_an_epoch_that_is_all_there_is(self):
        loss = build("adaptive-dal")
        self.step(loss, 9.0)
        loss.progress = 1.0
        assert loss.began == 1.0
        assert loss.q == 1.5
        assert self.step(loss, 1.0) > 0

    def test_only_training_counts(self):
        loss = build("adaptive-dal")
        logits, target = 9 * torch.randn(8, 10), torch.arange(8)
        loss(logits, target)
        with torch.no_grad():
            loss(logits.clone().requires_grad_(), target)
        loss.eval()(logits.clone().requires_grad_(), target)
        # A step that is not finite is none, and no step is one of no example.
        loss.train()(torch.full_like(logits, math.nan).requires_grad_(), target)
        loss(logits[:0].clone().requires_grad_(), target[:0])
        loss.progress = 0.01
        assert loss.began is None
        loss.per_example(logits.clone().requires_grad_(), target)
        loss.progress = 0.02
        assert loss.began == 0.02

    def test_goes_on_exactly_where_it_was(self):
        def train(loss, steps):
            for step in steps:
                loss.progress = (step // 5) / 100
                self.step(loss, 0.02 * step, seed=step)
            return loss

        whole = train(build("adaptive-dal"), range(60))
        assert 0.02 < whole.began < 0.1
        taken = round(500 * whole.began)
        for cut_at in (taken - 7, taken - 1, taken + 1, 45):
            cut = train(build("adaptive-dal"), range(cut_at))
            file = io.BytesIO()
            torch.save(cut.state_dict(), file)
            file.seek(0)
            resumed = build("adaptive-dal")
            resumed.load_state_dict(torch.load(file, weights_only=True))
            assert train(resumed, range(cut_at, 60)).began == whole.began
            assert resumed.dynamic() == whole.dynamic()

    @pytest.mark.parametrize("shape", [(10,), (4, 10), (4, 10, 3)])
    def test_any_shape_is_followed(self, shape):
        loss = build("adaptive-dal")
        target = torch.zeros(shape[:1] + shape[2:] if len(shape) > 1 else ()).long()
        loss(torch.zeros(shape).requires_grad_(), target)
        loss.progress = 0.01
        assert loss.began is None
        sure = torch.zeros(shape).movedim(0 if len(shape) == 1 else 1, -1)
        sure[..., 2] = 50.0
        sure = sure.movedim(-1, 0 if len(shape) == 1 else 1)
        for _ in range(20):
            loss(sure.requires_grad_(), target)
        loss.progress = 0.02
        assert 0.01 < loss.began < 0.02

    def test_another_training_is_followed_anew(self):
        loss = build("adaptive-dal")
        for progress in (0.0, 0.01):
            loss.progress = progress
            self.step(loss, 9.0)
        assert loss.q > 0
        loss.progress = 0.0
        self.step(loss, 0.0)
        assert (loss.began, loss.q) == (None, 0.0)
        for progress in (0.01, 0.02):
            loss.progress = progress
            self.step(loss, 0.0)
        assert loss.began is None

    @pytest.mark.parametrize(
        ("key", "made"),
        [
            ("adaptive-dal", {}),
            ("logit-clip", {"delta": 1e6, "base": "adaptive-dal"}),
            ("peer", {"base": "adaptive-dal"}),
        ],
    )
    @pytest.mark.parametrize("ignore_index", [-100, 9])
    def test_ignored_examples_are_not_looked_at(self, key, made, ignore_index):
        def trained(rows):
            loss = build(key, ignore_index=ignore_index, **made)
            target = torch.tensor([0, 1, ignore_index, ignore_index, ignore_index])[: len(rows)]
            for progress in (0.0, 0.01):
                loss.progress = progress
                assert loss(rows.clone().requires_grad_(), target).isfinite()
            return (loss.loss if made else loss).began

        sure, unlearnt = 50 * torch.eye(10)[:2], torch.zeros(2, 10)
        padding = 50 * torch.eye(10)[:3]
        assert trained(sure) == trained(torch.cat([sure, torch.zeros(3, 10)])) == 0.01
        assert trained(torch.cat([sure, torch.full((3, 10), math.nan)])) == 0.01
        assert trained(unlearnt) is trained(torch.cat([unlearnt, padding])) is None

    def test_a_base_follows_too(self):
        clipped = build("logit-clip", delta=1e6, base="adaptive-dal")
        for progress in (0.0, 0.01):
            clipped.progress = progress
            self.step(clipped, 9.0)
        assert clipped.loss.began == 0.01
        assert clipped.dynamic()["base.q"] > 0

    def test_pairs_are_no_batches(self):
        loss = build("peer", base="adaptive-dal")
        for _ in range(3):
            self.step(loss, 0.0)
        assert loss.loss._seen.calls == 3

    def test_pairs_of_a_clipped_base_are_clipped_too(self, batch):
        clip = {"name": "logit-clip", "delta": 0.5, "base": "gce"}
        x, y = batch
        found = build("peer", base=clip, reduction="none")(x, y)
        clipped = functional.clip_logits(x, delta=0.5)
        torch.testing.assert_close(found, build("peer", base="gce", reduction="none")(clipped, y))

    @pytest.mark.parametrize("progress", [0.0, 0.4, 0.5, 0.9])
    def test_a_subclass_has_its_own_loss_of_each_example(self, progress, batch):
        class Doubled(DynamicsAwareLoss):
            def per_example(self, input, target):
                return 2 * super().per_example(input, target)

        class Renamed(Doubled):
            formula = "2 dal"

        own, x = build("dal"), batch[0].clone().requires_grad_()
        own.progress = progress
        for kind in (Doubled, Renamed):
            loss = kind()
            loss.progress = progress
            torch.testing.assert_close(loss(x, batch[1]), 2 * own(x, batch[1]))


class TestOptimizedGradientClipping:
    def test_another_training_is_remembered_anew(self):
        loss, fresh = (build("ogc", interval=2, queue=40) for _ in range(2))
        loss.progress = 0.9
        self.train(loss, self.batches())
        assert loss.threshold > clipping.LEAST_PROBABILITY
        loss.progress = 0.0
        assert loss.threshold == clipping.LEAST_PROBABILITY
        assert self.train(loss, self.batches(seed=1)) == self.train(fresh, self.batches(seed=1))

    @staticmethod
    def train(loss, batches):
        """Return what each batch costs."""
        values = []
        for logits, target in batches:
            values.append(loss(logits.clone().requires_grad_(), target).item())
        return values

    @staticmethod
    def batches(count=20, seed=0):
        """Batches of which three labels in ten are not predicted."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            target = torch.randint(5, (20,), generator=generator)
            logits = torch.randn(20, 5, generator=generator)
            predicted = torch.where(torch.arange(20) < 6, (target + 1) % 5, target)
            yield logits + 4 * nn.functional.one_hot(predicted, 5), target

    @pytest.mark.parametrize("q", [0.0, 0.6])
    @pytest.mark.parametrize("threshold", [1e-7, 0.2, 0.9])
    def test_equals_naive_computation(self, q, threshold, batch):
        logits, target = batch
        loss = build("ogc", q=q, reduction="none")
        loss.threshold = threshold
        pairs = zip(logits.tolist(), target.tolist(), strict=True)
        wanted = [naive.clipped(z, y, q, threshold) for z, y in pairs]
        np.testing.assert_allclose(loss(*batch).numpy(), wanted, rtol=1e-10)
        assert torch.autograd.gradcheck(loss.eval(), (logits.requires_grad_(), target))
        p = logits.detach().softmax(1).gather(1, target[:, None]).squeeze(1).requires_grad_()
        own = torch.stack([p, 1 - p], 1).log()
        (slope,) = torch.autograd.grad(loss(own, torch.zeros(6).long()).sum(), p)
        torch.testing.assert_close(-slope, p.detach().clamp(min=threshold) ** (q - 1))

    def test_the_threshold_is_set_anew_and_lowers_what_wrong_labels_pull(self):
        loss = build("ogc", interval=5, queue=100)
        batches = list(self.batches())
        self.train(loss, batches[:4])
        assert loss.threshold == 1e-7
        assert loss.dynamic() == {"threshold": 1e-7}
        hopeless, label = torch.tensor([[0.0, 25.0]], requires_grad=True), torch.tensor([0])
        # Before there is a threshold nothing is clipped, however small a probability is.
        expected = torch.autograd.grad(build("ce")(hopeless, label), hopeless)
        assert torch.autograd.grad(loss(hopeless, label), hopeless)[0].equal(expected[0])
        self.train(loss, batches[4:])
        assert 0.01 < loss.threshold < 0.9
        assert len(loss._seen) == 100

    def test_a_batch_that_diverged_is_not_remembered(self):
        loss = build("ogc", interval=1, queue=20)
        (logits, target), (more, labels) = self.batches(2)
        self.train(loss, [(logits, target)])
        before = loss.threshold
        self.train(loss, [(torch.full_like(more, math.nan), labels)])
        assert 0.01 < loss.threshold == before

    def test_goes_on_exactly_where_it_was(self):
        batches = list(self.batches())
        whole = build("ogc", interval=4, queue=100)
        wanted = self.train(whole, batches)
        cut = build("ogc", interval=4, queue=100)
        begun = self.train(cut, batches[:11])
        file = io.BytesIO()
        torch.save(cut.state_dict(), file)
        file.seek(0)
        resumed = build("ogc", interval=4, queue=100)
        resumed.load_state_dict(torch.load(file, weights_only=True))
        assert begun + self.train(resumed, batches[11:]) == wanted
        assert resumed.threshold == whole.threshold
        without = self.train(build("ogc", interval=4, queue=100), batches[11:])
        assert begun + without != wanted
        assert copy.deepcopy(whole).threshold == whole.threshold

    def test_only_training_counts(self):
        loss = build("ogc", interval=1, queue=20)
        (logits, target), (_, _) = self.batches(2)
        loss(logits, target)
        with torch.no_grad():
            loss(logits.clone().requires_grad_(), target)
        loss.eval()(logits.clone().requires_grad_(), target)
        assert len(loss._seen) == 0
        target[:5] = -100
        self.train(loss.train(), [(logits, target)])
        assert len(loss._seen) == 15

    def test_never_complains_of_the_progress(self, monkeypatch):
        monkeypatch.setattr(losses, "UNTOLD_CALLS", 3)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.train(build("ogc"), self.batches(5))

    # The compiler's own, where it leaves a graph.
    @pytest.mark.long
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
    @pytest.mark.filterwarnings("ignore:Graph break due to unsupported builtin")
    @pytest.mark.parametrize(
        ("key", "hyperparameters"),
        [
            ("ogc", {"interval": 2, "queue": 40}),
            ("forward", {"warmup": 0.5}),
            ("peer", {}),
            ("adaptive-dal", {}),
        ],
    )
    def test_what_remembers_may_be_compiled_in_pieces(self, key, hyperparameters):
        torch._dynamo.reset()
        loss, twin = (build(key, **hyperparameters) for _ in range(2))
        compiled = torch.compile(loss, backend="eager")
        batches = list(self.batches(8))
        for half in (batches[:4], batches[4:]):
            assert self.train(compiled, half) == pytest.approx(self.train(twin, half))
            loss.progress = twin.progress = 0.5
        assert loss.dynamic() == twin.dynamic()


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("gce", {"q": -0.1}),
        ("gce", {"q": math.nan}),
        ("tce", {"order": 0.5}),
        ("js", {"pi": 1.1}),
        ("rce", {"A": 1.0}),
        ("sce", {"alpha": -1.0}),
        ("nce+rce", {"beta": -1.0}),
        ("agce", {"a": -1.0}),
        ("nce+agce", {"q": -1.0}),
        ("ce+sr", {"tau": 0.0}),
        ("ce+sr", {"p": 0.0}),
        ("ce+sr", {"r": 0}),
        ("btl", {"t1": 1.5}),
        ("btl", {"t2": 0.9}),
        ("btl", {"num_iters": 0}),
        ("nlnl", {"n": 0}),
        ("poly1", {"epsilon": -2.0}),
        ("dgce", {"q_start": -1.0}),
        ("dal", {"q_start": -1.0}),
        ("dal", {"q_end": math.inf}),
        ("dal", {"lambda_end": -0.5}),
        ("dtce", {"order_end": 0.0}),
        ("djs", {"pi_end": 2.0}),
        ("anl-ce", {"beta": -1.0}),
        ("anl-ce", {"lamb": -1.0}),
        ("anl-ce", {"min_prob": 0.0}),
        ("anl-fl", {"gamma": -1.0}),
        ("anl-fl", {"min_prob": 1.0}),
        ("jal-ce", {"a": 0.5}),
        ("jal-fl", {"gamma": -0.5}),
        ("eps-softmax", {"m": -1.0}),
        ("truncated-gce", {"k": 1.5}),
        ("truncated-gce", {"start": 2.0}),
        ("ldr-kl", {"lamb": 0.0}),
        ("ldr-kl", {"margin": -1.0}),
        ("logit-clip", {"delta": 0.0}),
        ("logit-clip", {"base": "nlnl"}),
        ("ldr-kl", {"normalize": "false"}),
        ("anl-ce", {"min_prob": "0.1"}),
        ("forward", {"matrix": 5}),
        ("logit-clip", {"base": "gec"}),
        ("logit-clip", {"base": {"q": 0.7}}),
        ("logit-clip", {"base": {"name": "gce", "p": 0.7}}),
        ("logit-clip", {"base": "forward"}),
        ("logit-clip", {"base": {"name": "logit-clip", "base": "backward"}}),
        ("logit-clip", {"base": {"name": "anl-ce", "lamb": 0.5}}),
        ("logit-clip", {"base": {"name": "anl-fl", "lamb": linear(0.0, 1.0)}}),
        ("forward", {"matrix": [[0.5, 0.5]]}),
        ("forward", {"matrix": [[0.5, 0.4], [0.0, 1.0]]}),
        ("forward", {"warmup": 0.0}),
        ("backward", {"matrix": [[0.5, 0.5], [0.5, 0.5]]}),
        ("backward", {"queue": 0}),
        ("peer", {"alpha": -1.0}),
        ("peer", {"base": "ogc"}),
        ("peer", {"base": "backward"}),
        ("peer", {"base": {"name": "anl-fl", "lamb": 1.0}}),
        ("peer", {"seed": -1}),
        ("ogc", {"q": 1.0}),
        ("ogc", {"epsilon": 0.0}),
        ("ogc", {"interval": 0}),
        ("ogc", {"queue": 1}),
        ("ce", {"reduction": "median"}),
    ],
)
def test_bad_hyperparameters_are_named(key, wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        build(key, **wrong)


def test_a_label_without_weight_among_views():
    with pytest.raises(ConfigError, match="pi must be in"):
        GeneralizedJensenShannonLoss(pi=0.0)


def test_a_loss_of_views_is_none_of_a_network():
    with pytest.raises(ConfigError, match="unknown loss 'gjs'"):
        build("gjs")


def test_unknown_key_and_parameter():
    with pytest.raises(ConfigError, match="did you mean 'gce'"):
        build("gec")
    with pytest.raises(TypeError, match="p"):
        build("gce", p=1)


def test_bootstrapping_needs_an_exponent():
    with pytest.raises(ConfigError, match="lamb must be 0 where q is 0"):
        functional.dynamics_aware(torch.zeros(1, 3), torch.tensor([0]), q=0.0, lamb=1.0)


def test_one_class_has_no_entropy():
    logits, target = torch.zeros(2, 1, requires_grad=True), torch.zeros(2).long()
    assert at("dal", 1.0)(logits, target) == 0
    assert functional.dynamics_aware(logits, target, q=1.5, lamb=1.0).eq(0).all()


@pytest.mark.parametrize("key", LOSSES)
def test_devices_without_float64_train(key):
    own = {
        "ogc": {"interval": 5, "queue": 32},
        "forward": {"warmup": 0.2},
        "backward": {"warmup": 0.2},
    }
    loss = build(key, **own.get(key, {}))
    logits, target = torch.randn(16, 4), torch.randint(4, (16,))
    with mps.NoDoubleMoves():
        for call in range(40):
            loss.progress = call / 40
            hidden = logits.as_subclass(mps.SingleOnly).requires_grad_()
            loss(hidden, target).backward()
            assert hidden.grad.isfinite().all()
    assert loss.dynamic().get("corrected", 1.0)


class TestCollapse:
    """A loop whose predictions have shrunk to one class is told so, once."""

    @staticmethod
    def batch(classes=4):
        logits = torch.zeros(16, classes)
        logits[:, 1] = 1.0
        return logits, torch.arange(16) % classes

    @staticmethod
    def call(loss, logits, target, times=100):
        for _ in range(times):
            loss(logits, target)

    def test_it_is_said_once(self):
        loss = build("gce")
        with pytest.warns(UserWarning, match="predicts class 1 alone") as said:
            self.call(loss, *self.batch())
        assert len(said) == 1

    def test_it_is_said_of_the_fused_pass_too(self):
        loss = build("dal")
        loss.progress = 0.9
        logits, target = self.batch()
        with pytest.warns(UserWarning, match="q_start=0.0"):
            self.call(loss, logits.requires_grad_(), target)

    def test_it_is_said_of_soft_targets_too(self):
        logits, target = self.batch()
        with pytest.warns(UserWarning, match="predicts class 1 alone"):
            self.call(build("gce"), logits, nn.functional.one_hot(target, 4).float())

    def test_it_is_said_where_only_the_last_calls_of_a_short_training_are_so(self):
        loss = build("dal")
        logits, target = self.batch()
        several = torch.eye(4).repeat(4, 1)
        for call in range(60):
            loss.progress = call / 60
            loss(several, target)
        with pytest.warns(UserWarning, match="predicts class 1 alone"):
            self.call(loss, logits, target, times=8)

    @pytest.mark.parametrize("case", ["evaluation", "mostly that class", "off"])
    def test_it_is_not_said_where_nothing_is_wrong(self, case):
        loss = build("gce")
        logits, target = self.batch()
        if case == "evaluation":
            loss.eval()
        elif case == "mostly that class":
            target[:10] = 1
        elif case == "off":
            loss.warns = False
        self.call(loss, logits, target)

    @pytest.mark.parametrize("kind", ["classes", "candidates"])
    def test_it_is_said_on_devices_without_float64(self, kind):
        logits, target = self.batch()
        if kind == "candidates":
            target = nn.functional.one_hot(target, 4).bool()
        with pytest.warns(UserWarning, match="predicts class 1 alone"):
            self.call(build("dal"), logits.as_subclass(mps.SingleOnly), target)

    def test_ignored_examples_are_no_mistakes(self):
        logits, target = self.batch()
        few = torch.cat([torch.full((22,), -100), torch.ones(10, dtype=torch.int64)])
        self.call(build("gce"), logits.repeat(2, 1), few)
        self.call(build("gce"), logits, torch.full((16,), -100))
        self.call(build("gce", ignore_index=0), logits, target.clamp(max=1) * (target < 2))
        # What is predicted of them is of no matter either.
        logits[::4] = torch.eye(4)[2]
        with pytest.warns(UserWarning, match="predicts class 1 alone"):
            self.call(build("gce", ignore_index=0), logits, target)

    def test_it_takes_three_looks_in_a_row(self):
        loss = build("gce")
        logits, target = self.batch()
        several = torch.eye(4).repeat(4, 1)
        for call in range(1, 101):
            loss(several if call % 20 == 0 else logits, target)
