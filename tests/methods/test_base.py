import copy
import inspect
import math
import re

import pytest
import torch
from torch import nn

from noisylabels.data.batches import Batch
from noisylabels.errors import ConfigError
from noisylabels.losses import build
from noisylabels.methods import METHODS, Method, MethodContext, SingleProcess
from noisylabels.methods.base import map_batches
from noisylabels.methods.guard import Guard, NonFiniteError
from noisylabels.schedules import cosine
from tiny import (
    COUNT,
    PARTS,
    assert_same_state,
    batches,
    context,
    inputs,
    network,
    task,
    train,
    weights,
)

single = METHODS["single"]
OPTIONS = {
    "coteaching": {"ramp_epochs": 3},
    "jocor": {"ramp_epochs": 2},
    "dividemix": {"warmup": 1, "agreement": 1, "history": 2, "lambda_u": 1.0},
}
EVERY_METHOD = pytest.mark.parametrize("name", METHODS)


def make(name, **changes):
    return METHODS[name](context("dal", momentum=0.9, **changes), **OPTIONS.get(name, {}))


def made(**changes):
    return single(context("dal", lr=0.5, momentum=0.9, lr_factor=cosine, **changes))


def start(method, epoch=1, epochs=5):
    method.set_epoch(epoch, epochs)
    method.begin_epoch()
    return method


class Counted(nn.Module):
    """A network with batch norm and dropout that counts how often it is evaluated."""

    def __init__(self, number, calls):
        super().__init__()
        torch.manual_seed(number)
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)
        )
        self.calls = calls

    def forward(self, x):
        if not self.training and torch.is_inference_mode_enabled():
            self.calls.append(len(x))
        return self.layers(x)


def counted(name, **changes):
    calls = []
    return make(name, network=lambda number: Counted(number, calls), **changes), calls


@EVERY_METHOD
def test_a_query_changes_nothing_and_is_answered_alike(name):
    def answers(method):
        return [method.order(), method.views, method.metrics(), method.skipped]

    method, again = counted(name)[0], counted(name)[0]
    for epoch in range(4):
        start(method, epoch, 4)
        torch.manual_seed(epoch)
        steps = batches(method.order(), method.views)
        method.train_epoch(steps[:2])
        before = copy.deepcopy(method.state_dict())
        random = torch.get_rng_state()
        first = answers(method)
        modes = [net.training for net in method.networks]
        for part in PARTS:
            method.combine(method.predict(part).exp())
        assert_same_state(answers(method), first)
        assert_same_state(method.state_dict(), before)
        assert [net.training for net in method.networks] == modes
        assert torch.equal(torch.get_rng_state(), random)
        again.set_epoch(epoch, 4)
        again.load_state_dict(before)
        assert_same_state(answers(again), first)
        method.train_epoch(steps[2:])
        method.end_epoch()


@EVERY_METHOD
def test_what_was_predicted_at_an_epochs_end_is_not_predicted_again(name):
    method, calls = counted(name)
    for epoch in range(5):
        start(method, epoch, 5)
        torch.manual_seed(epoch)
        method.train_epoch(batches(method.order(), method.views))
        method.end_epoch()
        # Each part once by each network, and nothing at the beginning of the epoch.
        found = {part: method.predict(part) for part in PARTS}
        assert sum(calls) == len(PARTS) * COUNT * len(method.networks)
        assert all(method.predict(part) is each for part, each in found.items())
        calls.clear()
        again, _ = counted(name)
        again.load_state_dict(copy.deepcopy(method.state_dict()))
        for part, each in found.items():
            assert torch.equal(again.predict(part), each)


@EVERY_METHOD
def test_training_is_the_same_whether_it_was_evaluated_or_cut(name):
    evaluated, not_evaluated = counted(name)[0], counted(name)[0]
    means = train(evaluated, 5, evaluate=PARTS)
    assert train(not_evaluated, 5) == means
    assert_same_state(not_evaluated.state_dict(), evaluated.state_dict())
    for cut in (1, 2, 3, 4):
        first, second = counted(name)[0], counted(name)[0]
        train(first, cut, of=5, evaluate=PARTS)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        assert train(second, 5, first=cut) == means[cut:]
        assert_same_state(second.state_dict(), evaluated.state_dict())


def test_a_step_even_a_skipped_one_forgets_the_predictions():
    method, _ = counted("single", guard=Guard("skip"))
    first, second, *_ = batches()
    before = method.predict("test")
    start(method)
    bad = Batch(second.index, torch.full_like(second.input, math.nan), second.target)
    for batch in (first, bad):
        method.train_epoch([batch])
        after = method.predict("test")
        assert not torch.equal(after, before), "running statistics have moved"
        before = after
    assert method.skipped == 1


class Halved(Method):
    """Two networks in turns, the second at half the loss, with public names only."""

    def __init__(self, context: MethodContext, *, factor: float = 0.5):
        super().__init__(context, networks=2)
        self.factor = factor
        self.seen = torch.zeros((), device=self.device)

    def train_epoch(self, batches):
        for net in self.networks:
            net.train()
        for batch in batches:
            made = self.optimize(batch, self.both, networks=(0, 1), losses=2)
            self.seen += made * self.whole_size(batch)

    def both(self, part):
        first, second = (self.context.loss(net(part.input), part.target) for net in self.networks)
        return first + self.factor * second

    def state_dict(self):
        return super().state_dict() | {"seen": self.seen}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.seen = state["seen"].to(self.device)


class OwnSteps(Halved):
    """Steps its optimisers itself."""

    def train_epoch(self, batches):
        for batch in batches:
            for net, optimizer in zip(self.networks, self.optimizers, strict=True):
                optimizer.zero_grad()
                self.context.loss(net(batch.input), batch.target).backward()
                optimizer.step()


def test_the_end_of_an_epoch_forgets_the_predictions():
    method, twin = OwnSteps(context()), single(context())
    method.predict("test")
    train(method, 1)
    train(twin, 1)
    assert torch.equal(method.predict("test")[0], twin.predict("test")[0])


def test_a_restored_state_forgets_the_predictions():
    method, other = made(), made()
    train(other, 1)
    method.predict("test")
    method.load_state_dict(copy.deepcopy(other.state_dict()))
    assert torch.equal(method.predict("test"), other.predict("test"))


class Share(SingleProcess):
    """One of two processes; what it sends comes back as it is."""

    world_size = 2

    def __init__(self, rank):
        self.global_rank = rank


def test_predictions_of_several_processes_are_put_in_order():
    whole = make("coteaching").predict("test")
    halves = []
    for rank in (0, 1):
        share = task(inputs=lambda part, r=rank: iter(inputs(2)[r::2].split(8)))
        halves.append(make("coteaching", engine=Share(rank), task=share).predict("test"))
    assert halves[0].shape == (2, COUNT, 3)
    torch.testing.assert_close(halves[0] + halves[1], whole)
    assert (halves[0][:, 1::2] == 0).all()


def test_predictions_are_log_probabilities_in_evaluation_mode():
    method, _ = counted("single")
    found = method.predict("test")
    assert found.shape == (1, COUNT, 3)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.exp().sum(2), torch.ones(1, COUNT))
    (net,) = method.networks
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(found[0], net(inputs(2)).softmax(1).log())
    found += 0.0  # could not be changed if it came from inference mode


def test_values_are_mapped_in_evaluation_mode_and_modes_are_kept():
    nets = [nn.Dropout(0.5), nn.Dropout(0.5).eval()]
    found = map_batches(nets, inputs().split(7), lambda net, x: net(x).sum(1))
    assert torch.equal(found, inputs().sum(1).expand(2, -1))
    assert [net.training for net in nets] == [True, False]


def test_a_method_of_ones_own_needs_public_names_only():
    method, twin = Halved(context()), single(context())
    means, expected = train(method, 3, evaluate=PARTS), train(twin, 3)
    for ours, theirs in zip(weights(method), weights(twin), strict=True):
        assert torch.equal(ours, theirs)
    slow = single(context(network=lambda _: network(1), lr=0.15))
    halves = train(slow, 3)
    for ours, theirs in zip(weights(method, 1), weights(slow), strict=True):
        torch.testing.assert_close(ours, theirs)
    both = [(a + 0.5 * b) / 2 for a, b in zip(expected, halves, strict=True)]
    assert means == pytest.approx(both, rel=1e-5)
    assert (method.epoch, method.epochs, method.step) == (2, 3, 4)
    assert method.seen.item() == 3 * COUNT
    assert [o.param_groups[0]["lr"] for o in method.optimizers] == [0.3, 0.3]
    again = Halved(context())
    again.load_state_dict(copy.deepcopy(method.state_dict()))
    assert_same_state(again.state_dict(), method.state_dict())
    assert not re.search(r"\._(?!_)", inspect.getsource(Halved))


def test_state_restores_weights_and_momentum():
    first, second = made(), made()
    train(first, 1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert train(first, 4, first=3, of=10) == train(second, 4, first=3, of=10)


@EVERY_METHOD
def test_state_between_two_batches_continues_to_the_same_end(name):
    whole, cut, again = (make(name) for _ in range(3))
    for method in (whole, cut):
        train(method, 3, of=5)
        start(method, 3)
    steps = batches(whole.order(), whole.views)
    torch.manual_seed(0)
    whole.train_epoch(steps)
    torch.manual_seed(0)
    cut.train_epoch(steps[:1])
    again.set_epoch(3, 5)
    again.load_state_dict(copy.deepcopy(cut.state_dict()))
    again.train_epoch(batches(again.order(), again.views)[1:])
    assert again.end_epoch() == whole.end_epoch()
    assert_same_state(again.state_dict(), whole.state_dict())


def test_a_batch_in_parts_gives_the_same_step():
    def trained(**options):
        method = start(made(**options))
        method.train_epoch(batches())
        return method.end_epoch(), weights(method)

    mean, expected = trained()
    for accumulate in (2, 3, 9):
        other_mean, others = trained(accumulate=accumulate)
        assert other_mean == pytest.approx(mean, rel=1e-6)
        for ours, theirs in zip(expected, others, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_gradients_are_clipped():
    method = single(context(lr=1.0, clip_norm=1e-3))
    before = [tensor.clone() for tensor in weights(method)]
    method.begin_epoch()
    method.train_epoch(batches()[:1])
    moved = [(a - b).norm() for a, b in zip(weights(method), before, strict=True)]
    assert torch.stack(moved).norm().item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_step_changes_nothing(value):
    first, second, third, *_ = batches()
    bad = Batch(second.index, torch.full_like(second.input, value), second.target)
    method = start(made())
    method.train_epoch([first])
    before = copy.deepcopy(method.state_dict())
    with pytest.raises(NonFiniteError) as error:
        method.train_epoch([bad])
    assert error.value.step == 1
    assert error.value.batch is bad
    assert_same_state(method.state_dict(), before)
    skipping, plain = start(made(guard=Guard("skip"))), start(made())
    skipping.train_epoch([first, bad, third])
    assert skipping.skipped == 1
    plain.train_epoch([first, third])
    assert skipping.end_epoch() == plain.end_epoch()


@pytest.mark.parametrize(
    ("optimizer", "read"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.8), lambda group: group["momentum"]),
        (lambda p: torch.optim.Adam(p, lr=0.5, betas=(0.8, 0.99)), lambda group: group["betas"][0]),
    ],
)
def test_momentum_follows_its_schedule(optimizer, read):
    method = single(context(optimizer=optimizer, momentum_factor=lambda progress: 1 - progress))
    for epoch, expected in ((1, 0.6), (3, 0.2), (0, 0.8)):
        method.set_epoch(epoch, 4)
        (group,) = method.state_dict()["optimizers"][0]["param_groups"]
        assert read(group) == pytest.approx(expected)
    if "betas" in group:
        assert group["betas"][1] == 0.99


def test_class_weights_are_of_whole_batches():
    loss = build("ce", weight=torch.tensor([0.1, 1.0, 10.0]))
    single(context(loss))
    with pytest.raises(ConfigError, match=r"class weights.*accumulate must be 1, got 3"):
        single(context(loss, accumulate=3))


@pytest.mark.parametrize("key", ["anl-ce", "anl-fl"])
def test_what_is_asked_of_a_batch_is_of_whole_batches(key):
    single(context(build(key, lamb=0.0), accumulate=3))
    with pytest.raises(ConfigError, match=r"with lamb is of.*accumulate must be 1, got 3"):
        single(context(build(key, lamb=2.0), accumulate=3))
