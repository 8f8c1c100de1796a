"""The losses against the released code's numbers, a naive second computation, and torch."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from noisylabels import functional
from noisylabels.errors import ConfigError
from noisylabels.losses import LOSSES, build

# (key, hyper-parameters, progress), then the formula once more in plain float64 probabilities.
CASES = {
    "ce": ("ce", {}, 0.0),
    "mae": ("mae", {}, 0.0),
    "gce 0": ("gce", {"q": 0.0}, 0.0),
    "gce 0.3": ("gce", {"q": 0.3}, 0.0),
    "gce 0.9": ("gce", {"q": 0.9}, 0.0),
    "dal early": ("dal", {"q_start": 0.6, "q_end": 1.5}, 0.2),
    "dal late": ("dal", {"q_start": 0.6, "q_end": 1.5}, 0.9),
    "dal without": ("dal", {"q_start": 0.2, "q_end": 1.0}, 1.0),
    "dal from zero": ("dal", {"q_start": 0.0, "q_end": 1.0}, 0.0),
}


def make(case, **options):
    key, hyperparameters, progress = CASES[case]
    loss = build(key, **hyperparameters, **options)
    loss.progress = progress
    return loss


def naive(loss, case, logits, index):
    """Compute one example's loss with scalar arithmetic."""
    key, hyperparameters, _ = CASES[case]
    exponentials = [math.exp(z) for z in logits]
    p = [e / sum(exponentials) for e in exponentials]
    if key == "ce":
        return -math.log(p[index])
    if key == "mae":
        return 1 - p[index]
    if key == "gce":
        q = hyperparameters["q"]
        return (1 - p[index] ** q) / q if q else -math.log(p[index])
    q_start, q_end = hyperparameters["q_start"], hyperparameters["q_end"]
    q = q_start + (q_end - q_start) * loss.progress
    if q == 0:
        return -math.log(p[index])
    lamb = max(0.0, (q - 1) / (q_end - 1)) if q_end > 1 else 0.0
    entropy = -sum(x * math.log(x) for x in p)
    return (1 - p[index] ** q) / q + lamb * entropy / (q * math.log(len(p)))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return logits, torch.tensor([0, 4, 2, 2, 1, 3])


@pytest.mark.parametrize("case", CASES)
def test_equals_naive_computation(case, batch):
    loss = make(case, reduction="none")
    logits, target = batch
    expected = [
        naive(loss, case, z, y) for z, y in zip(logits.tolist(), target.tolist(), strict=True)
    ]
    torch.testing.assert_close(
        loss(logits, target), torch.tensor(expected).double(), rtol=1e-7, atol=1e-7
    )
    np.testing.assert_allclose(loss(logits, target).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_gradient_is_right(case, batch):
    logits, target = batch
    assert torch.autograd.gradcheck(make(case), (logits.requires_grad_(), target))


@pytest.mark.parametrize("case", CASES)
def test_probabilities_give_the_expectation(case, batch):
    logits, target = batch
    loss = make(case, reduction="none")
    eta = torch.rand(6, 5, dtype=torch.float64).softmax(1)
    each = torch.stack([loss(logits, torch.full((6,), k)) for k in range(5)], dim=1)
    torch.testing.assert_close(loss(logits, eta), (eta * each).sum(1))
    one_hot = nn.functional.one_hot(target, 5).double()
    torch.testing.assert_close(loss(logits, one_hot), loss(logits, target))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(5,), (6, 5), (6, 5, 2), (6, 5, 2, 3), (0, 5)])
@pytest.mark.parametrize("soft", [False, True])
def test_conventions_are_those_of_torch(reduction, weighted, shape, soft):
    logits = torch.randn(shape, dtype=torch.float64)
    places = shape[:1] + shape[2:] if len(shape) > 1 else ()
    target = torch.rand_like(logits) if soft else torch.randint(5, places)
    if not soft and target.numel() > 1:
        target.view(-1)[0] = -100
    weight = torch.rand(5, dtype=torch.float64) if weighted else None
    ours = make("ce", weight=weight, reduction=reduction)(logits, target)
    theirs = nn.CrossEntropyLoss(weight=weight, reduction=reduction)(logits, target)
    torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("case", CASES)
def test_ignored_examples_count_for_nothing(case, batch):
    logits, target = batch
    target[0] = target[3] = 7
    loss = make(case, ignore_index=7)
    kept = [1, 2, 4, 5]
    torch.testing.assert_close(loss(logits, target), loss(logits[kept], target[kept]))
    assert loss(logits, torch.full((6,), 7)).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_extreme_logits_stay_finite(case, dtype):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [0.0, -math.inf, 1.0]], dtype=dtype)
    logits.requires_grad_()
    loss = make(case)(logits, torch.tensor([1, 1, 0]))
    loss.backward()
    assert loss.dtype is torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("case", CASES)
def test_vanishing_probability_keeps_the_gradient_of_the_formula(case):
    logits = torch.tensor([[-30.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    loss = make(case)
    gradient = torch.autograd.grad(loss(logits, torch.tensor([0])), logits)[0][0, 0].item()
    step = 1e-5
    up, down = ([-30 + step, 0.0, 1.0], [-30 - step, 0.0, 1.0])
    slope = (naive(loss, case, up, 0) - naive(loss, case, down, 0)) / (2 * step)
    assert gradient == pytest.approx(slope, abs=1e-9)
    if "ce" in case.split()[0]:
        assert gradient < 0


@pytest.mark.parametrize("classes", [10, 100])
def test_equals_released_code(shared, classes):
    folder = shared / "reference" / "losses"
    cases = json.loads((folder / f"k{classes}.json").read_text())
    arrays = np.load(folder / f"k{classes}.npz", allow_pickle=False)
    logits = torch.from_numpy(arrays["logits"]).requires_grad_()
    target = torch.from_numpy(arrays["target"])
    checked = 0
    for case in cases:
        if case["loss"] not in LOSSES:
            continue
        hyperparameters = dict(case["hyperparameters"])
        epoch, epochs = hyperparameters.pop("epoch", 0), hyperparameters.pop("epochs", 1)
        loss = build(case["loss"], **hyperparameters)
        loss.progress = epoch / epochs
        value = loss(logits, target)
        (gradient,) = torch.autograd.grad(value, logits)
        number = f"{case['case']:02d}"
        assert value.item() == pytest.approx(float(arrays[f"value_{number}"]), rel=1e-4)
        np.testing.assert_allclose(gradient.numpy(), arrays[f"grad_{number}"], atol=1e-4)
        checked += 1
    assert checked >= 7


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("gce", {"q": -0.1}),
        ("gce", {"q": math.nan}),
        ("dal", {"q_start": -1.0}),
        ("dal", {"q_end": math.inf}),
        ("dal", {"lambda_end": -0.5}),
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
    assert (
        functional.dynamics_aware(torch.zeros(2, 1), torch.tensor([0, 0]), q=1.5, lamb=1.0)
        .eq(0)
        .all()
    )


@pytest.mark.parametrize("case", CASES)
def test_survives_copies(case, batch):
    loss = make(case, weight=torch.arange(1.0, 6.0).double())
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert twin.progress == loss.progress
        assert torch.equal(twin(*batch), loss(*batch))


def test_repr_shows_hyperparameters_only():
    loss = build("dal", q_start=0.8)
    loss.progress = 0.5
    assert repr(loss) == "DynamicsAwareLoss(q_start=0.8, q_end=1.5, lambda_end=1.0)"
    assert repr(build("ce")) == "CrossEntropyLoss()"


def test_autocast_computes_in_float32(batch):
    logits, target = batch
    loss = make("dal late")
    half = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = loss(half, target)
    assert under.dtype is torch.float32
    torch.testing.assert_close(under, loss(half.float(), target))
