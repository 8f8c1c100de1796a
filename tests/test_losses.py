"""The losses against the released code's numbers, a naive second computation, and torch."""

import copy
import functools
import io
import json
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import naive
from noisylabels import functional
from noisylabels.errors import ConfigError
from noisylabels.losses import LOSSES, build

DAL = {"q_start": 0.6, "q_end": 1.5, "lambda_end": 1.0}
SR = {"tau": 0.5, "lamb": 1.5, "p": 0.1, "rho": 1.02, "r": 2, "epochs": 150}
APL = {"alpha": 10.0, "beta": 0.1}
ASYMMETRIC = {"alpha": 1.0, "beta": 0.4, "a": 6.0, "q": 1.5}

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
    "dtce": (
        "dtce",
        {"order_start": 20.0, "order_end": 1.0},
        0.6,
        lambda z, y, **_: naive.tce(z, y, 20 - 19 * 0.6),
    ),
    "djs": ("djs", {}, 0.3, lambda z, y, **_: naive.js(z, y, 0.3)),
    "djs at 0": ("djs", {}, 0.0, lambda z, y, **_: naive.ce(z, y)),
    "djs at 1": ("djs", {}, 1.0, lambda z, y, **_: naive.mae(z, y)),
}
# Losses that take what every other loss takes.
ORDINARY = sorted(set(LOSSES) - {"gjs"})


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


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return logits, torch.tensor([0, 4, 2, 2, 1, 3])


def test_every_loss_has_a_naive_twin():
    assert {key for key, *_ in CASES.values()} | {"gjs", "nlnl"} == set(LOSSES)


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
        values = build("gjs", pi=pi, reduction="none")(logits, target)
        wanted = [
            naive.gjs([view[n].tolist() for view in logits], y, pi)
            for n, y in enumerate(target.tolist())
        ]
        np.testing.assert_allclose(values.numpy(), wanted, rtol=1e-10)

    def test_gjs_of_one_view_is_js_and_agreeing_views_change_nothing(self, batch):
        logits, target = batch
        js = build("js", pi=0.5)(logits, target)
        for views in (1, 3):
            gjs = build("gjs", pi=0.5)(logits.expand(views, 6, 5), target)
            torch.testing.assert_close(gjs, js)

    @pytest.mark.parametrize("counts", [None, [10, 20, 30, 40, 50]])
    def test_nlnl_equals_naive_computation(self, counts, batch):
        logits, target = batch
        values = build("nlnl", n=4, class_counts=counts, seed=3, reduction="none")(logits, target)
        drawn = functional.draw_complement(target, num_classes=5, n=4, seed=3, step=0)
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

    @pytest.mark.parametrize(("key", "total"), [("mae", 4.0), ("rce", None), ("nce", 1.0)])
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


class TestNumbers:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("scale", [1.0, 1e4])
    @pytest.mark.parametrize("key", ORDINARY)
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

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_extreme_views_stay_finite(self, dtype):
        rows = [[[1e4, -1e4, 0], [0, -math.inf, 1]], [[-1e4, 1e4, 0], [1, -math.inf, 0]]]
        logits = torch.tensor(rows, dtype=dtype).requires_grad_()
        loss = build("gjs")(logits, torch.tensor([1, 0]))
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()

    @pytest.mark.parametrize("case", CASES)
    def test_vanishing_probability_keeps_the_gradient_of_the_formula(self, case):
        target = torch.tensor([0])
        logits = torch.tensor([[-30.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(make(case)(logits, target), logits)
        step = 1e-5
        ends = torch.tensor([[-30 + step, 0, 1], [-30 - step, 0, 1]], dtype=torch.float64)
        up, down = expected(case, ends, torch.tensor([0, 0]))
        assert gradient[0, 0].item() == pytest.approx((up - down) / (2 * step), abs=2e-9, rel=1e-5)

    @pytest.mark.parametrize("q", [0.3, 0.7])
    def test_gradient_far_below_any_clamp(self, q):
        # -p_y^q (1 - p_y), where released code clamps p at 1e-6 and has gradient 0.
        logits = torch.tensor([[-40.0, 0.0]], requires_grad=True)
        build("gce", q=q)(logits, torch.tensor([0])).backward()
        assert logits.grad[0, 0].item() == pytest.approx(-math.exp(-40 * q), rel=1e-5)

    @pytest.mark.parametrize("key", ORDINARY)
    def test_half_is_computed_in_float32(self, key):
        logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
        target = torch.tensor([0, 1, 2, 3])
        for dtype in (torch.bfloat16, torch.float16):
            half = logits.to(dtype)
            value = at(key)(half, target)
            torch.testing.assert_close(value, at(key)(half.float(), target))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                under = at(key)(half, target)
            assert value.dtype is under.dtype is torch.float32
            torch.testing.assert_close(under, value)

    @pytest.mark.parametrize("key", ORDINARY)
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast_changes_nothing_for_float32(self, key, dtype):
        logits = torch.randn(64, 20, requires_grad=True)
        target = torch.randint(20, (64,))
        plain = at(key, 0.9)(logits, target)
        with torch.autocast("cpu", dtype=dtype):
            under = at(key, 0.9)(logits, target)
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

    @pytest.mark.parametrize("key", sorted(set(ORDINARY) - {"nlnl"}))
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

    @pytest.mark.parametrize("key", sorted(set(ORDINARY) - {"nlnl"}))
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

    @pytest.mark.parametrize("key", ORDINARY)
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

    @pytest.mark.parametrize("key", ORDINARY)
    def test_uint8_targets(self, key, batch):
        logits, target = batch
        weight = torch.rand(5, dtype=torch.float64)
        assert torch.equal(
            at(key, weight=weight)(logits, target.byte()), at(key, weight=weight)(logits, target)
        )

    @pytest.mark.parametrize("key", ORDINARY)
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
        assert ours is (TypeError if key == "nlnl" and target.is_floating_point() else theirs)

    def test_losses_that_probabilities_do_not_define(self):
        for key, shape in (("nlnl", (6, 5)), ("gjs", (2, 6, 5))):
            logits = torch.randn(shape)
            with pytest.raises(TypeError, match="not defined for class probabilities"):
                build(key)(logits, torch.full((6, 5), 0.2))
        with pytest.raises(ValueError, match=r"expected input of shape \(views, N, C\)"):
            build("gjs")(torch.randn(6, 5), torch.zeros(6).long())

    @pytest.mark.parametrize("key", ORDINARY)
    def test_weights_scale_examples_and_the_mean(self, key, batch):
        logits, target = batch
        weight = torch.rand(5, dtype=torch.float64)
        each = at(key, reduction="none")(logits, target)
        scaled = at(key, weight=weight, reduction="none")(logits, target)
        torch.testing.assert_close(scaled, each * weight[target])
        torch.testing.assert_close(
            at(key, weight=weight)(logits, target), scaled.sum() / weight[target].sum()
        )

    @pytest.mark.parametrize("key", ORDINARY)
    def test_copies(self, key, batch):
        loss = at(key, weight=torch.arange(1.0, 6.0).double())
        file = io.BytesIO()
        torch.save(loss.state_dict(), file)
        file.seek(0)
        restored = at(key, weight=torch.zeros(5).double())
        restored.load_state_dict(torch.load(file, weights_only=True))
        twins = copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), restored
        value = loss(*batch)
        for twin in twins:
            assert twin.progress == loss.progress
            assert torch.equal(twin(*batch), value)

    @pytest.mark.parametrize("key", ORDINARY)
    def test_meta_device(self, key):
        logits = torch.randn(6, 5, device="meta", requires_grad=True)
        loss = at(key)(logits, torch.zeros(6, dtype=torch.int64, device="meta"))
        loss.backward()
        assert loss.shape == ()
        assert logits.grad.shape == (6, 5)
        assert logits.grad.is_meta

    def test_functional_transforms_of_drawn_labels(self):
        logits, target = torch.randn(4, 6, 5), torch.randint(5, (4, 6))
        assert torch.func.vmap(build("nlnl"))(logits, target).shape == (4,)
        loss = build("nlnl")
        gradient = torch.func.grad(loss)(logits[0], target[0])
        one = logits[0].clone().requires_grad_()
        (wanted,) = torch.autograd.grad(build("nlnl")(one, target[0]), one)
        torch.testing.assert_close(gradient, wanted)
        assert torch.func.vmap(torch.func.grad(loss))(logits, target).shape == logits.shape

    @pytest.mark.parametrize("key", sorted(set(ORDINARY) - {"nlnl"}))
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

    @pytest.mark.parametrize("key", LOSSES)
    def test_class_says_its_formula(self, key):
        assert LOSSES[key].formula
        assert len(LOSSES[key].formula) < 100


class TestCompile:
    @pytest.mark.parametrize("key", ORDINARY)
    def test_one_graph_serves_every_progress(self, key):
        from torch._dynamo.testing import CompileCounterWithBackend

        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        loss, twin = at(key, 0.0), at(key, 0.0)
        compiled = torch.compile(loss, fullgraph=True, backend=counter)
        target = torch.randint(5, (8,))
        for step in range(10):
            loss.progress = twin.progress = step / 9
            logits = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
            value, wanted = compiled(logits, target), twin(logits, target)
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
                for key in ("gce", "ce+sr", "btl", "dgce", "dtce", "djs")
            ),
        ],
    )
    def test_generated_code_is_right_at_every_progress(self, key):
        torch._dynamo.reset()
        loss, twin = at(key, 0.0), at(key, 0.0)
        compiled = torch.compile(loss, fullgraph=True)
        target = torch.randint(7, (33,))
        for step in range(10):
            loss.progress = twin.progress = step / 9
            logits = torch.randn(33, 7, requires_grad=True)
            value, wanted = compiled(logits, target), twin(logits, target)
            torch.testing.assert_close(value, wanted)
            torch.testing.assert_close(
                torch.autograd.grad(value, logits)[0], torch.autograd.grad(wanted, logits)[0]
            )


class TestNegativeLearning:
    def test_draws_are_uniform_over_the_other_classes(self):
        target = torch.arange(5).repeat(4000)
        drawn = functional.draw_complement(target, num_classes=5, n=3, seed=0, step=0)
        assert drawn.shape == (20_000, 3)
        assert (drawn != target[:, None]).all()
        counts = torch.zeros(5, 5).index_put((target[:, None], drawn), torch.ones(1), True)
        share = counts / counts.sum(1, keepdim=True)
        off = ~torch.eye(5, dtype=torch.bool)
        assert (share[off] - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 12_000)
        # No two places follow each other.
        same = (drawn[:-1] - target[:-1, None]) % 5 == (drawn[1:] - target[1:, None]) % 5
        assert abs(same.double().mean() - 0.25) < 0.01

    def test_calls_draw_anew_and_a_seed_fixes_them_all(self, batch):
        first, second, other = build("nlnl"), build("nlnl"), build("nlnl", seed=1)
        values = [first(*batch).item() for _ in range(5)]
        assert len(set(values)) > 1
        assert values == [second(*batch).item() for _ in range(5)]
        assert values != [other(*batch).item() for _ in range(5)]

    def test_continues_from_its_state(self, batch):
        first, second = build("nlnl"), build("nlnl")
        first(*batch)
        second.load_state_dict(first.state_dict())
        assert torch.equal(first(*batch), second(*batch))

    def test_one_class_has_no_complement(self):
        with pytest.raises(ConfigError, match="need at least 2 classes, got 1"):
            build("nlnl")(torch.zeros(2, 1), torch.zeros(2).long())


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("gce", {"q": -0.1}),
        ("gce", {"q": math.nan}),
        ("tce", {"order": 0.5}),
        ("js", {"pi": 1.1}),
        ("gjs", {"pi": 0.0}),
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
        ("ce", {"reduction": "median"}),
    ],
)
def test_bad_hyperparameters_are_named(key, wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        build(key, **wrong)


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
