import copy
import math

import pytest
import torch

from noisylabels.errors import ConfigError
from noisylabels.estimation import estimate_noise_rate
from noisylabels.losses import LOSSES, build
from noisylabels.methods import METHODS
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
)

coteaching, jocor = METHODS["coteaching"], METHODS["jocor"]


def kept(epoch, ramp, rate, size):
    forget = rate * min(1, epoch / max(1, ramp - 1))
    return max(1, math.floor(round((1 - forget) * size, 9)))


def smallest(losses, count):
    return sorted(range(len(losses)), key=lambda i: losses[i])[:count]


def loss_of(key, progress):
    loss = build(key, reduction="none")
    loss.progress = progress
    return loss


def naive_coteaching(epochs, rate, ramp, key="ce"):
    nets = [network(0), network(1)]
    means = []
    for epoch in range(epochs):
        loss, total = loss_of(key, epoch / epochs), 0.0
        for batch in batches():
            each = [loss(net(batch.input), batch.target) for net in nets]
            count = kept(epoch, ramp, rate, len(batch.target))
            small = [smallest(values.tolist(), count) for values in each]
            # Each learns from what the other one chose.
            values = [each[0][small[1]].mean(), each[1][small[0]].mean()]
            for net, value in zip(nets, values, strict=True):
                descend(net, torch.autograd.grad(value, list(net.parameters())))
            total += sum(value.item() for value in values) / 2 * len(batch.target)
        means.append(total / COUNT)
    return nets, means


def naive_jocor(epochs, rate, ramp, c, key="ce"):
    nets = [network(0), network(1)]
    means = []
    for epoch in range(epochs):
        loss, total = loss_of(key, epoch / epochs), 0.0
        for batch in batches():
            p, q = (net(batch.input).softmax(1) for net in nets)
            fit = sum(loss(net(batch.input), batch.target) for net in nets)
            apart = (p * (p / q).log()).sum(1) + (q * (q / p).log()).sum(1)
            joint = (1 - c) * fit + c * apart
            count = kept(epoch, ramp, rate, len(batch.target))
            value = joint[smallest(joint.tolist(), count)].mean()
            parameters = [list(net.parameters()) for net in nets]
            gradients = torch.autograd.grad(value, parameters[0] + parameters[1])
            descend(nets[0], gradients[:2])
            descend(nets[1], gradients[2:])
            total += value.item() * len(batch.target)
        means.append(total / COUNT)
    return nets, means


@pytest.mark.parametrize("key", ["ce", "dal"])
def test_coteaching_exchanges_selections(key):
    method = coteaching(context(key), forget_rate=0.4, ramp_epochs=3)
    means = train(method, 5)
    nets, expected = naive_coteaching(5, 0.4, 3, key)
    assert means == pytest.approx(expected, rel=1e-4)
    for number, net in enumerate(nets):
        assert_same_weights(method, net, number, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("key", "c"), [("ce", 0.9), ("ce", 0.65), ("dal", 0.5)])
def test_jocor_chooses_by_the_joint_loss(key, c):
    method = jocor(context(key), forget_rate=0.3, ramp_epochs=2, c=c)
    means = train(method, 4)
    nets, expected = naive_jocor(4, 0.3, 2, c, key)
    assert means == pytest.approx(expected, rel=1e-4)
    for number, net in enumerate(nets):
        assert_same_weights(method, net, number, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [coteaching, jocor])
def test_networks_start_differently_and_stay_different(make):
    method = make(context(), forget_rate=0.4)
    for _ in range(2):
        first, second = (method.state_dict()["networks"][i]["weight"] for i in (0, 1))
        assert (first - second).abs().max() > 0.05
        train(method, 20)


def test_share_grows_over_the_ramp():
    method = coteaching(context(), forget_rate=0.45, ramp_epochs=10)
    shares = []
    for epoch in range(12):
        method.set_epoch(epoch, 12)
        shares.append(method.metrics()["forget"])
    assert shares == pytest.approx([0.05 * min(epoch, 9) for epoch in range(12)])


def test_predictions_of_both_and_of_the_first_alone():
    method = jocor(context(), forget_rate=0.1)
    each = method.predict("train")
    assert each.shape == (2, COUNT, 3)
    with torch.no_grad():
        expected = torch.stack([network(i)(inputs()).log_softmax(1) for i in (0, 1)])
    torch.testing.assert_close(each, expected)
    assert torch.equal(method.combine(each), each[0])


def test_rate_is_estimated_from_the_hold_out_where_it_is_best_predicted():
    said = []
    method = coteaching(context(say=said.append), ramp_epochs=4)
    best, rate = 0.0, 0.0
    for epoch in range(8):
        with torch.no_grad():
            each = torch.stack([net(inputs(1)).softmax(1) for net in method.networks]).mean(0)
        right = (each.argmax(1) == labels(1)).double().mean().item()
        if epoch and right > best:
            best, rate = right, estimate_noise_rate(each, labels(1), estimator="confident joint")
        method.set_epoch(epoch, 8)
        method.begin_epoch()
        assert method.forget == pytest.approx(rate * min(1, epoch / 3))
        method.train_epoch(batches())
    assert 0 < rate < 1
    assert len(said) == 2
    assert "estimated from 30 held-out examples, of whose labels" in said[0]
    assert "so far" in said[0]
    assert f"predict {100 * best:.0f} %, in the end {rate:.3f};" in said[1]
    assert method.metrics()["forget_rate"] == pytest.approx(rate)
    state = copy.deepcopy(method.state_dict())
    again = coteaching(context(), ramp_epochs=4)
    again.load_state_dict(state)
    again.set_epoch(7, 8)
    assert again.forget == method.forget


def test_one_epoch_is_too_few_to_estimate_and_said():
    said = []
    method = coteaching(context(say=said.append), ramp_epochs=1)
    train(method, 1)
    assert method.forget == 0
    assert len(said) == 1
    assert "one epoch is too few to estimate it" in said[0]


def test_epochs_that_end_in_the_ramp_are_said():
    said = []
    method = coteaching(context(say=said.append), forget_rate=0.2, ramp_epochs=3)
    train(method, 2)
    assert said == [
        "training ends after 2 epochs, before the share of examples that are left out has grown to "
        "forget_rate, in epoch 3"
    ]
    train(method, 3)
    assert len(said) == 1


@pytest.mark.parametrize("make", [coteaching, jocor])
def test_bad_values_are_named(make):
    without = task(held_out=None)
    with pytest.raises(ConfigError, match=r"give it .the noise rate., or set validation = 0.1"):
        make(context(task=without))
    with pytest.raises(ConfigError, match=r"forget_rate must be in \[0, 1\), got 1"):
        make(context(), forget_rate=1)
    with pytest.raises(ConfigError, match="ramp_epochs must be in"):
        make(context(), forget_rate=0.2, ramp_epochs=0)
    with pytest.raises(ConfigError, match="ramp_epochs must be a whole number, got 2.5"):
        make(context(), forget_rate=0.2, ramp_epochs=2.5)
    with pytest.raises(ConfigError, match="accumulate must be 1, got 2"):
        make(context(accumulate=2), forget_rate=0.2)
    with pytest.raises(ConfigError, match="c must be in"):
        jocor(context(), forget_rate=0.2, c=1.5)


BEYOND = {
    "label_smoothing": {"loss": "ce", "label_smoothing": 0.1},
    "weight": {"loss": "gce", "weight": torch.ones(3)},
    "lamb": {"loss": "anl-ce", "lamb": 0.5},
    "threshold": {"loss": "ogc"},
    "matrix": {"loss": "backward"},
    "pairs": {"loss": "peer"},
}


@pytest.mark.parametrize("make", [coteaching, jocor])
@pytest.mark.parametrize("name", BEYOND)
def test_what_is_no_part_of_an_examples_loss_is_refused(make, name):
    options = dict(BEYOND[name])
    with pytest.raises(ConfigError, match=f"and {name} of .* is no part of these"):
        make(context(build(options.pop("loss"), **options)), forget_rate=0.2)


@pytest.mark.parametrize("make", [coteaching, jocor])
@pytest.mark.parametrize("key", sorted(set(LOSSES) - {"ogc", "forward", "backward", "peer"}))
def test_all_other_losses_are_an_examples_own(make, key):
    assert math.isfinite(train(make(context(key), forget_rate=0.2), 1)[0])
    given = build("forward", matrix=torch.eye(3).tolist())
    assert math.isfinite(train(make(context(given), forget_rate=0.2), 1)[0])
