import ast
import inspect
import math

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

import mps
from noisylabels.errors import ConfigError, NoisyLabelsError
from noisylabels.losses import build
from noisylabels.methods import functional
from noisylabels.methods.functional import (
    balance_penalty,
    clean_probability,
    co_guess,
    co_refine,
    early_learning_penalty,
    early_learning_targets,
    exchange_selections,
    fill_up,
    fill_up_classes,
    joint_loss,
    missing_classes,
    mix,
    negative_entropy,
    ramp,
    select_agreeing,
    select_small_losses,
    sharpen,
)


def random(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax(row):
    powers = [math.exp(z) for z in row]
    return [power / sum(powers) for power in powers]


def clamped(row):
    return [min(max(p, 1e-4), 1 - 1e-4) for p in softmax(row)]


def naive_sharpen(p, T):
    powers = [value ** (1 / T) for value in p]
    return [power / sum(powers) for power in powers]


def test_nothing_of_the_runner_is_needed():
    top = ast.parse(inspect.getsource(functional)).body
    rooms = {node.module for node in top if isinstance(node, ast.ImportFrom)}
    ours = {room for room in rooms if room.startswith("noisylabels")}
    assert ours == {"noisylabels.errors", "noisylabels.functional"}


def test_targets_move_towards_clamped_and_normalised_predictions():
    logits, past = random(20, 3, scale=20.0), random(20, 3, seed=1).softmax(1)
    expected = []
    for row, old in zip(logits.tolist(), past.tolist(), strict=True):
        p = clamped(row)
        expected.append([0.7 * t + 0.3 * v / sum(p) for t, v in zip(old, p, strict=True)])
    new = early_learning_targets(logits.requires_grad_(), past, beta=0.7)
    torch.testing.assert_close(new, torch.tensor(expected))
    assert not new.requires_grad
    assert (torch.tensor([clamped(row) for row in logits.tolist()]) == 1e-4).any()


def test_penalty_and_its_gradient_are_those_of_the_formula():
    logits, targets = random(20, 3).requires_grad_(), random(20, 3, seed=1).softmax(1)
    expected = [
        math.log(1 - sum(p * t for p, t in zip(clamped(row), target, strict=True)))
        for row, target in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    penalty = early_learning_penalty(logits, targets)
    torch.testing.assert_close(penalty, torch.tensor(expected))
    (ours,) = torch.autograd.grad(penalty.sum(), logits)
    naive = (1 - (logits.softmax(1) * targets).sum(1)).log().sum()
    (theirs,) = torch.autograd.grad(naive, logits)
    assert ours.abs().max() > 0.1
    inside = (logits.softmax(1) > 1e-4).all(1)
    torch.testing.assert_close(ours[inside], theirs[inside])


def test_the_lowest_penalty_is_finite():
    logits = torch.tensor([[1e4, 0.0, 0.0]])
    targets = early_learning_targets(logits, torch.zeros(1, 3), beta=0.0)
    assert -9.22 < early_learning_penalty(logits, targets).item() < -8


def test_a_ramp_is_linear_and_then_flat():
    assert [ramp(i, length=2.5) for i in range(5)] == pytest.approx([0, 0.4, 0.8, 1, 1])


@pytest.mark.parametrize("forget_rate", [0.0, 0.1, 0.3, 0.49, 0.7, 0.999])
def test_the_smallest_losses_are_selected(forget_rate):
    losses = random(10)
    count = max(1, math.floor(round((1 - forget_rate) * 10, 9)))
    expected = sorted(range(10), key=lambda i: losses[i].item())[:count]
    assert select_small_losses(losses, forget_rate=forget_rate).tolist() == expected


def test_equal_losses_are_selected_in_order_and_nan_last():
    losses = torch.tensor([math.nan, 1.0, 0.5, 1.0, 1.0, math.inf])
    assert select_small_losses(losses, forget_rate=0.5).tolist() == [2, 1, 3]
    assert select_small_losses(losses, forget_rate=0.0).tolist() == [2, 1, 3, 4, 5, 0]


def test_selections_are_exchanged():
    first, second = random(12), random(12, seed=1)
    small = [select_small_losses(losses, forget_rate=0.4) for losses in (first, second)]
    of_first, of_second = exchange_selections(first, second, forget_rate=0.4)
    assert of_first.tolist() == small[1].tolist()
    assert of_second.tolist() == small[0].tolist()
    assert of_first.tolist() != of_second.tolist()


@pytest.mark.parametrize("key", ["ce", "gce"])
def test_joint_loss_is_the_papers_in_python_numbers(key):
    first, second = random(9, 4), random(9, 4, seed=1)
    target = torch.arange(9) % 4
    loss = build(key, reduction="none")
    fit = (loss(first, target) + loss(second, target)).tolist()
    expected = []
    for i in range(9):
        p, q = softmax(first[i].tolist()), softmax(second[i].tolist())
        there = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        back = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
        expected.append(0.3 * fit[i] + 0.7 * (there + back))
    found = joint_loss(first, second, target, c=0.7, loss=loss.per_example)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-4)
    if key == "ce":
        assert torch.equal(found, joint_loss(first, second, target, c=0.7))


def test_negative_entropy_is_its_formula():
    logits = random(9, 4)
    expected = [sum(p * math.log(p) for p in softmax(row)) for row in logits.tolist()]
    torch.testing.assert_close(negative_entropy(logits), torch.tensor(expected))


def test_agreement_is_with_the_likeliest_class():
    logits, target = random(2, 30, 3), torch.arange(30) % 3
    expected = [
        [max(range(3), key=lambda k: row[k]) == y for row, y in zip(each, target, strict=True)]
        for each in logits.tolist()
    ]
    assert select_agreeing(logits, target).tolist() == expected
    assert select_agreeing(logits.log_softmax(-1), target).tolist() == expected


def test_sharpening_is_a_normalised_power_and_stays_finite_at_any_temperature():
    p = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    for temperature in (1.0, 0.5, 1e-3):
        sharp = sharpen(p, T=temperature)
        torch.testing.assert_close(sharp.sum(1), torch.ones(2))
        assert sharp[1].tolist() == [1, 0, 0]
    assert sharp[0].tolist() == [0, 1, 0]
    torch.testing.assert_close(sharpen(p, T=1.0), p)
    expected = torch.tensor(naive_sharpen(p[0].tolist(), 0.5))
    torch.testing.assert_close(sharpen(p[0], T=0.5), expected)


def test_labels_are_refined_as_far_as_they_are_not_clean():
    views, target = random(2, 5, 3).softmax(-1), torch.arange(5) % 3
    clean = torch.linspace(0, 1, 5)
    expected = []
    for i in range(5):
        mean = ((views[0, i] + views[1, i]) / 2).tolist()
        w = clean[i].item()
        mixed = [w * (k == target[i]) + (1 - w) * mean[k] for k in range(3)]
        expected.append(naive_sharpen([float(value) for value in mixed], 0.5))
    refined = co_refine(views, target, clean, T=0.5)
    torch.testing.assert_close(refined, torch.tensor(expected))
    assert refined[4].tolist() == [0, 1, 0]


def test_guesses_are_the_sharpened_mean_over_networks_and_views():
    each = random(2, 2, 5, 3).softmax(-1)
    expected = []
    for i in range(5):
        mean = [sum(each[m, v, i, k].item() for m in (0, 1) for v in (0, 1)) / 4 for k in range(3)]
        expected.append(naive_sharpen(mean, 0.5))
    torch.testing.assert_close(co_guess(each, T=0.5), torch.tensor(expected))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_a_mixed_example_stays_nearer_to_its_own_place(share):
    x, t, partner = random(4, 2, 2), random(4, 3, seed=1).softmax(1), torch.tensor([2, 0, 3, 1])
    larger = max(share, 1 - share)
    mixed_x, mixed_t = mix(x, t, share=share, partner=partner)
    for i, j in enumerate(partner.tolist()):
        torch.testing.assert_close(mixed_x[i], larger * x[i] + (1 - larger) * x[j])
        torch.testing.assert_close(mixed_t[i], larger * t[i] + (1 - larger) * t[j])


@pytest.mark.parametrize("prior", [[0.5, 0.3, 0.2], [0.6, 0.4, 0.0]])
def test_balance_is_the_divergence_of_the_mean_prediction(prior):
    logits = random(6, 3)
    p = [softmax(row) for row in logits.tolist()]
    mean = [sum(row[k] for row in p) / 6 for k in range(3)]
    expected = sum(a * math.log(a / b) for a, b in zip(prior, mean, strict=True) if a)
    found = balance_penalty(logits.log_softmax(1), torch.tensor(prior))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_labelled_set_is_filled_up_only_if_it_is_too_small():
    clean = torch.tensor([0.1, 0.9, 0.3, 0.2, 0.3])
    labelled = clean > 0.5
    assert fill_up(labelled, clean, least=1).tolist() == labelled.tolist()
    # The earlier of two that are equally likely.
    assert fill_up(labelled, clean, least=2).nonzero().squeeze(1).tolist() == [1, 2]
    assert fill_up(labelled, clean, least=9).all()
    assert labelled.sum() == 1, "what was given is left as it was"


def test_missing_classes_get_their_likeliest_hundredth():
    labels = torch.tensor([0] * 10 + [2] * 250 + [5] * 3)
    clean = torch.rand(263, generator=torch.Generator().manual_seed(0)) / 2
    clean[:10] = 0.9
    labelled = clean > 0.5
    assert missing_classes(labelled, labels) == [2, 5]
    filled = fill_up_classes(labelled, clean, labels)
    assert filled[:10].all()
    likeliest = sorted(range(10, 260), key=lambda i: -clean[i])[:3]
    assert sorted(likeliest) == (filled[10:260].nonzero().squeeze(1) + 10).tolist()
    assert filled[260:].sum() == 1
    assert filled[260 + int(clean[260:].argmax())]
    assert missing_classes(filled, labels) == []
    assert labelled.sum() == 10, "what was given is left as it was"


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_computed_in_float32_and_float64_stays(given, computed):
    z, y = random(4, 3).to(given), torch.arange(4) % 3
    past = torch.zeros(4, 3, dtype=computed)
    assert early_learning_targets(z, past, beta=0.7).dtype is computed
    assert early_learning_penalty(z, past).dtype is computed
    assert joint_loss(z, z.flip(0), y, c=0.9).dtype is computed
    assert negative_entropy(z).dtype is computed


def test_bad_values_are_named():
    z, y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    p = z.softmax(1)
    for call, message in [
        (lambda: early_learning_targets(z, p, beta=1.0), r"beta must be in \[0, 1\), got 1"),
        (lambda: ramp(-1, length=2), "elapsed must be in"),
        (lambda: ramp(1, length=0), "length must be in"),
        (lambda: select_small_losses(p[0], forget_rate=1.0), "forget_rate must be in"),
        (lambda: exchange_selections(p[0], p[0], forget_rate=-0.1), "forget_rate must be in"),
        (lambda: joint_loss(z, z, y, c=1.5), "c must be in"),
        (lambda: fill_up(p[0] > 1, p[0], least=1.5), "least must be a whole number"),
        (lambda: sharpen(p, T=0.0), "T must be in"),
        (lambda: mix(z, p, share=1.1, partner=y), "share must be in"),
    ]:
        with pytest.raises(ConfigError, match=message):
            call()
    for call, message in [
        (lambda: early_learning_targets(z, p[:1], beta=0.5), r"got \(2, 3\) and \(1, 3\)"),
        (lambda: early_learning_penalty(z, p[0]), r"got \(2, 3\) and \(3,\)"),
        (lambda: joint_loss(z, z[:1], y, c=0.5), r"got \(2, 3\) and \(1, 3\)"),
        (lambda: co_refine(p, y, p[:, 0], T=0.5), r"shape \(views, N, K\), got \(2, 3\)"),
        (lambda: co_guess(p, T=0.5), r"shape \(networks, views, N, K\), got \(2, 3\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


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
    single = losses.float()
    found, _ = clean_probability(single.as_subclass(mps.SingleOnly), seed=3)
    assert torch.equal(found, clean_probability(single, seed=3)[0])


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
