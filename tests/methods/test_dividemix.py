import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from noisylabels.data.batches import derive_seed
from noisylabels.errors import ConfigError
from noisylabels.losses import build
from noisylabels.methods import METHODS
from noisylabels.methods.functional import clean_probability
from tiny import (
    COUNT,
    assert_same_weights,
    batches,
    context,
    descend,
    inputs,
    labels,
    network,
    task,
    train,
    weights,
)

dividemix = METHODS["dividemix"]


def batches_of(method):
    return batches(method.order(), method.views)


def divided(method, seed=0):
    """Give a method a division of its own, at the beginning of its first epoch of mixing."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(2, COUNT, generator=generator)
    state = method.state_dict() | {"clean": clean, "labelled": clean > 0.5}
    method.load_state_dict(copy.deepcopy(state))
    return clean


def sharpen(p, temperature):
    powers = [v ** (1 / temperature) for v in p]
    return [v / sum(powers) for v in powers]


def softmax_rows(net, x):
    return net(x).softmax(1).tolist()


@pytest.mark.parametrize(("number", "prior"), [(0, "given"), (1, "given"), (1, "uniform")])
def test_a_step_that_mixes_is_the_papers_step_by_step(number, prior):
    """Co-refinement, co-guessing, mixing and the three terms, in Python numbers."""
    method = dividemix(
        context(), warmup=1, alpha=0.75, lambda_u=10.0, rampup=4.0, T=0.5, prior=prior
    )
    method.set_epoch(3, 9)
    clean = divided(method)
    steps = method.plan_epoch()
    position = next(i for i, step in enumerate(steps) if step.network == number)
    batch, step = batches_of(method)[position], steps[position]
    nets = [network(0), network(1)]
    mine, other = nets[number], nets[1 - number]
    count = step.labelled
    views = batch.views

    refined = []
    for i in range(count):
        p = [sum(softmax_rows(mine, v[i : i + 1])[0][k] for v in views) / 2 for k in range(3)]
        w = clean[number, batch.index[i]].item()
        label = [float(k == batch.target[i]) for k in range(3)]
        refined.append(sharpen([w * a + (1 - w) * b for a, b in zip(label, p, strict=True)], 0.5))
    guessed = []
    for i in range(count, len(batch.target)):
        rows = [softmax_rows(net, v[i : i + 1])[0] for net in (mine, other) for v in views]
        guessed.append(sharpen([sum(row[k] for row in rows) / 4 for k in range(3)], 0.5))
    targets = torch.tensor(refined * 2 + guessed * 2)
    x = torch.cat([views[0][:count], views[1][:count], views[0][count:], views[1][count:]])

    torch.manual_seed(5)
    share = torch.distributions.Beta(0.75, 0.75).sample().item()
    share = max(share, 1 - share)
    partner = torch.randperm(len(x))
    mixed_x = share * x + (1 - share) * x[partner]
    mixed_t = share * targets + (1 - share) * targets[partner]
    log_p = mine(mixed_x).log_softmax(1)
    fit = -sum((mixed_t[i] * log_p[i]).sum() for i in range(2 * count)) / (2 * count)
    rest = range(2 * count, len(x))
    apart = sum(((log_p[i].exp() - mixed_t[i]) ** 2).mean() for i in rest) / len(rest)
    weight = 10.0 * min(1.0, (3 - 1 + step.done) / 4.0)
    given = torch.bincount(labels(), minlength=3) / COUNT
    expected = given if prior == "given" else torch.full((3,), 1 / 3)
    mean = log_p.exp().mean(0)
    balance = sum(expected[k] * (expected[k] / mean[k]).log() for k in range(3))
    value = fit + weight * apart + balance

    method.step = position
    before = [tensor.clone() for tensor in weights(method, 1 - number)]
    torch.manual_seed(5)
    method.train_epoch([batch])
    assert method.end_epoch() == pytest.approx(value.item(), rel=1e-5)
    descend(mine, torch.autograd.grad(value, list(mine.parameters())))
    assert_same_weights(method, mine, number, rtol=1e-4, atol=1e-6)
    for ours, kept in zip(weights(method, 1 - number), before, strict=True):
        assert torch.equal(ours, kept)


def test_labels_look_clean_to_the_other_network():
    method = dividemix(context(), warmup=1)
    train(method, 1, of=4)
    losses = []
    for number in (0, 1):
        net = network(number)
        net.load_state_dict(method.state_dict()["networks"][number])
        with torch.no_grad():
            losses.append(F.cross_entropy(net(inputs()), labels(), reduction="none"))
    method.set_epoch(1, 4)
    method.begin_epoch()
    state = method.state_dict()
    for number in (0, 1):
        probability, _ = clean_probability(losses[1 - number], seed=mixture_seed(1, 1 - number))
        torch.testing.assert_close(state["clean"][number], probability.float(), atol=1e-4, rtol=0)
        own, _ = clean_probability(losses[number], seed=mixture_seed(1, number))
        assert (own - probability).abs().max() > 0.01


def mixture_seed(epoch, number):
    return derive_seed(0, "mixture", epoch, number)


def test_losses_are_averaged_over_the_history():
    method = dividemix(context(), warmup=1, history=2)
    train(method, 2, of=9)
    (first,) = method.state_dict()["past"]
    method.set_epoch(2, 9)
    method.begin_epoch()
    before, second = method.state_dict()["past"]
    assert torch.equal(before, first)
    both = torch.stack([first[1], second[1]])
    probability, _ = clean_probability(both, seed=mixture_seed(2, 1))
    torch.testing.assert_close(
        method.state_dict()["clean"][0], probability.float(), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("penalty", [False, True])
def test_warm_up_is_plain_training_of_each_network_on_batches_of_its_own(penalty):
    method = dividemix(context("dal"), warmup=4, confidence_penalty=penalty)
    method.set_epoch(2, 9)
    method.begin_epoch()
    made = batches_of(method)
    assert [len(batch.target) for batch in made] == [16, 14, 16, 14]
    assert method.views == 1
    orders = [torch.cat([b.index for b in made[i : i + 2]]) for i in (0, 2)]
    assert [order.sort().values.tolist() for order in orders] == [list(range(COUNT))] * 2
    assert not torch.equal(*orders)
    loss = build("dal")
    loss.progress = 0.5
    for number in (0, 1):
        net = network(number)
        for batch in made[2 * number : 2 * number + 2]:
            value = loss(net(batch.input), batch.target)
            if penalty:
                p = net(batch.input).softmax(1)
                value = value + (p * p.log()).sum(1).mean()
            descend(net, torch.autograd.grad(value, list(net.parameters())))
        if number == 0:
            method.train_epoch(made)
        assert_same_weights(method, net, number, rtol=1e-4, atol=1e-6)


def test_after_another_loss_come_epochs_on_predicted_labels():
    method = dividemix(context("dal"), warmup=2, agreement=2)
    train(method, 2, of=9)
    nets = [network(0), network(1)]
    for number, net in enumerate(nets):
        net.load_state_dict(method.state_dict()["networks"][number])
    method.set_epoch(2, 9)
    method.begin_epoch()
    made = batches_of(method)
    steps = method.plan_epoch()
    method.train_epoch(made)
    for number, net in enumerate(nets):
        own = [b for b, step in zip(made, steps, strict=True) if step.network == number]
        with torch.no_grad():
            predicted = net(inputs()).argmax(1) == labels()
        assert torch.cat([b.index for b in own]).sort().values.tolist() == (
            predicted.nonzero().squeeze(1).tolist()
        )
        for batch in own:
            value = F.cross_entropy(net(batch.input), batch.target)
            descend(net, torch.autograd.grad(value, list(net.parameters())))
        assert_same_weights(method, net, number, rtol=1e-4, atol=1e-6)
    method.set_epoch(4, 9)
    assert method.views == 2


@pytest.mark.parametrize(("loss", "start"), [("ce", 3), ("gce", 8)])
def test_cross_entropy_has_no_such_epochs_by_default(loss, start):
    method = dividemix(context(loss), warmup=3)
    for epoch in range(10):
        method.set_epoch(epoch, 10)
        assert method.views == (2 if epoch >= start else 1)


def test_every_labelled_example_comes_once_and_unlabelled_ones_fill_up():
    method = dividemix(context(), warmup=1)
    method.set_epoch(1, 9)
    clean = divided(method)
    steps = method.plan_epoch()
    for number in (0, 1):
        mine = [step for step in steps if step.network == number]
        with_label = torch.cat([s.positions[: s.labelled] for s in mine])
        without = torch.cat([s.positions[s.labelled :] for s in mine])
        expected = (clean[number] > 0.5).nonzero().squeeze(1).tolist()
        assert with_label.sort().values.tolist() == expected
        assert not set(without.tolist()) & set(expected)
        assert all(len(s.positions) - s.labelled == min(8, COUNT - len(expected)) for s in mine)
        assert [s.done for s in mine] == [i / len(mine) for i in range(len(mine))]
    assert [o.tolist() for o in method.order()] == [s.positions.tolist() for s in steps]


def labelled_of(method, clean, number=0):
    """Let a method choose by given probabilities."""
    return method._label(number, torch.as_tensor(clean, dtype=torch.float32))


def test_a_small_labelled_set_is_filled_up_and_said():
    said = []
    method = dividemix(context(say=said.append), prior="given")
    clean = torch.linspace(0, 0.4, COUNT)
    clean[7] = 0.9
    labelled = labelled_of(method, clean)
    likeliest = {7, *range(COUNT - 7, COUNT)}
    assert likeliest <= set(labelled.nonzero().squeeze(1).tolist())
    assert said[0] == (
        "dividemix: network 1: labels that look clean: only 1; the 8 likeliest are used"
    )
    labelled_of(method, clean)
    assert len(said) == len(set(said))


def test_a_class_without_clean_labels_keeps_its_likeliest_hundredth():
    said = []
    method = dividemix(context(say=said.append), prior="given")
    clean = torch.where(labels() == 1, 0.1, 0.9)
    best = (labels() == 1).nonzero().squeeze(1)[2]
    clean[best] = 0.2
    labelled = labelled_of(method, clean)
    assert (labelled & (labels() == 1)).nonzero().squeeze(1).tolist() == [best.item()]
    assert "classes without a label that looks clean: 1; the likeliest hundredth" in said[0]


def test_nothing_to_guess_is_said_and_trains():
    said = []
    method = dividemix(context(say=said.append), warmup=1, prior="given")
    method.set_epoch(1, 9)
    clean = torch.ones(2, COUNT)
    method.load_state_dict(
        copy.deepcopy(method.state_dict() | {"clean": clean, "labelled": clean > 0})
    )
    assert labelled_of(method, clean[0]).all()
    assert "every example is used with its label, which leaves none to guess" in said[0]
    before = [w.clone() for w in weights(method)]
    method.train_epoch(batches_of(method))
    assert math.isfinite(method.end_epoch())
    assert not torch.equal(weights(method)[0], before[0])


def test_one_unlabelled_example_is_enough_and_said():
    said = []
    method = dividemix(context(say=said.append), warmup=1, prior="given")
    method.set_epoch(1, 9)
    clean = torch.ones(2, COUNT)
    clean[:, 4] = 0
    assert labelled_of(method, clean[0]).sum() == COUNT - 1
    assert said == [
        "dividemix: network 1: examples used without their labels: only 1, fewer than a batch; "
        "every step guesses all of them"
    ]
    method.load_state_dict(
        copy.deepcopy(method.state_dict() | {"clean": clean, "labelled": clean > 0})
    )
    assert all(s.positions[s.labelled :].tolist() == [4] for s in method.plan_epoch())
    method.train_epoch(batches_of(method))
    assert math.isfinite(method.end_epoch())


def test_few_predicted_labels_leave_all_examples():
    said = []
    never = task(labels=torch.full((COUNT,), 2))
    method = dividemix(context(task=never, say=said.append), warmup=1, agreement=1, prior="given")
    for number in (0, 1):
        with torch.no_grad():
            method.networks[number].bias[2] = -50
    method.set_epoch(1, 9)
    method.begin_epoch()
    assert method.state_dict()["labelled"].all()
    assert "predicts fewer than 8 labels" in said[0]


def test_epochs_that_end_in_the_warm_up_are_said():
    said = []
    method = dividemix(context("dal", say=said.append), prior="given")
    method.set_epoch(0, 15)
    assert said == ["dividemix: training ends after 15 epochs, before mixing begins in epoch 16"]


def test_state_between_any_two_batches_continues_to_the_same_end():
    def fresh():
        return dividemix(
            context("dal", momentum=0.9), warmup=1, agreement=1, lambda_u=1.0, history=2
        )

    whole = fresh()
    epochs = 5
    for epoch in range(epochs):
        whole.set_epoch(epoch, epochs)
        torch.manual_seed(epoch)
        whole.begin_epoch()
        steps = len(whole.order())
        cut = copy.deepcopy(whole.state_dict())
        for stop in (0, 1, steps - 1):
            first, second = fresh(), fresh()
            for method in (first, second):
                method.set_epoch(epoch, epochs)
            first.load_state_dict(copy.deepcopy(cut))
            torch.manual_seed(100 + epoch)
            first.train_epoch(batches_of(first)[:stop])
            random = torch.get_rng_state()
            second.load_state_dict(copy.deepcopy(first.state_dict()))
            second_batches = batches_of(second)[stop:]
            torch.set_rng_state(random)
            second.train_epoch(second_batches)
            whole_again = fresh()
            whole_again.set_epoch(epoch, epochs)
            whole_again.load_state_dict(copy.deepcopy(cut))
            torch.manual_seed(100 + epoch)
            whole_again.train_epoch(batches_of(whole_again))
            assert second.end_epoch() == whole_again.end_epoch()
            for number in (0, 1):
                for a, b in zip(weights(second, number), weights(whole_again, number), strict=True):
                    assert torch.equal(a, b)
        whole.train_epoch(batches_of(whole))


def test_networks_start_differently_and_stay_different():
    method = dividemix(context(lr=0.1), warmup=2)
    train(method, 12)
    first, second = (weights(method, number)[0] for number in (0, 1))
    assert (first - second).abs().max() > 1e-3


def test_prediction_is_the_mean_of_both():
    method = dividemix(context())
    each = method.predict("test").exp()
    torch.testing.assert_close(method.combine(each), each.mean(0))


def test_metrics_tell_the_labelled_shares():
    method = dividemix(context(), warmup=1)
    clean = divided(method)
    expected = (clean > 0.5).double().mean(1).tolist()
    assert method.metrics() == pytest.approx({"labelled_1": expected[0], "labelled_2": expected[1]})


def test_classes_of_different_size_are_said():
    uneven = torch.tensor([0] * 15 + [1] * 8 + [2] * 7)
    for given, prior, expected in [
        (uneven, "uniform", ["7 to 15 given labels"]),
        (uneven, "given", []),
        (torch.arange(COUNT) % 3, "uniform", []),
    ]:
        said = []
        dividemix(context(task=task(labels=given), say=said.append), prior=prior)
        assert len(said) == len(expected)
        assert all(part in sentence for part, sentence in zip(expected, said, strict=True))


def test_classes_without_clean_labels_are_one_sentence():
    said = []
    many = task(labels=torch.arange(COUNT), num_classes=COUNT, batch_size=4)
    method = dividemix(context(task=many, say=said.append))
    clean = torch.zeros(COUNT)
    clean[:4] = 0.9
    assert labelled_of(method, clean).all()
    assert "looks clean: 4, 5, 6" in said[0]
    assert "23, ...; the likeliest hundredth of each is used" in said[0]
    assert len(said) == 2


@pytest.mark.parametrize(("augmented", "sentences"), [(True, 0), (False, 1)])
def test_views_that_are_the_same_are_said(augmented, sentences):
    said = []
    dividemix(context(task=task(augmented=augmented), say=said.append), prior="given")
    assert len(said) == sentences
    assert all("all views of an example are identical" in sentence for sentence in said)


class Watched(nn.Module):
    """A network with batch norm and dropout that writes down how it is called."""

    def __init__(self, number, calls):
        super().__init__()
        torch.manual_seed(number)
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)
        )
        self.number, self.calls = number, calls

    def forward(self, x):
        modes = {module.training for module in self.modules()}
        self.calls.append((self.number, modes.pop() if len(modes) == 1 else None))
        return self.layers(x)


def test_the_trained_network_is_in_training_mode_the_other_in_evaluation_mode():
    calls = []
    method = dividemix(
        context(network=lambda number: Watched(number, calls)), warmup=1, agreement=0
    )
    method.set_epoch(0, 9)
    method.begin_epoch()
    method.train_epoch(batches_of(method))
    assert calls == [(0, True)] * 2 + [(1, True)] * 2

    calls.clear()
    method.set_epoch(1, 9)
    method.begin_epoch()
    assert {mode for _, mode in calls} == {False}, "to look at the losses"
    clean = divided(method)
    assert (clean <= 0.5).any(1).all(), "each network has examples to guess"
    steps = method.plan_epoch()
    for position, (batch, step) in enumerate(zip(batches_of(method), steps, strict=True)):
        other = 1 - step.network
        before = [tensor.clone() for tensor in weights(method, other)]
        calls.clear()
        method.step = position
        method.train_epoch([batch])
        assert calls == [(step.network, True), (other, False), (step.network, True)]
        # Its running statistics too.
        for kept, tensor in zip(before, weights(method, other), strict=True):
            assert torch.equal(kept, tensor)


def test_wrong_kinds_of_values_are_named():
    with pytest.raises(ConfigError, match="prior must be 'uniform' or 'given', got 'flat'"):
        dividemix(context(), prior="flat")
    with pytest.raises(ConfigError, match=r"warmup must be a whole number, got 1\.5"):
        dividemix(context(), warmup=1.5)


@pytest.mark.parametrize(
    "bad",
    [
        {"warmup": 0},
        {"agreement": -1},
        {"alpha": 0.0},
        {"lambda_u": -1.0},
        {"rampup": 0.0},
        {"T": 0.0},
        {"T": 1.5},
        {"threshold": 1.0},
        {"history": 0},
    ],
)
def test_bad_values_are_named(bad):
    with pytest.raises(ConfigError, match=f"{next(iter(bad))} must be in"):
        dividemix(context(), **bad)


def test_a_loss_that_follows_learning_keeps_what_it_saw_through_the_warm_up():
    method = dividemix(context("adaptive-dal"), warmup=40)
    loss, logits = method.context.loss, 9 * torch.randn(8, 3)
    for epoch in range(4):
        method.set_epoch(epoch, 100)
        assert loss.progress == epoch / 40
        assert (loss.began is None) == (epoch == 0)
        loss(logits.requires_grad_(), torch.zeros(8, dtype=torch.int64))
    assert loss.began == 1 / 40
    # As it goes on where it was: the same epoch begins again.
    method.set_epoch(3, 100)
    assert loss.began == 1 / 40


def test_batches_in_parts_are_refused():
    with pytest.raises(ConfigError, match="accumulate must be 1, got 2"):
        dividemix(context(accumulate=2))
