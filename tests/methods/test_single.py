import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from noisylabels.data.batches import Batch
from noisylabels.losses import build
from noisylabels.methods import METHODS
from noisylabels.methods.base import Parts, Task
from noisylabels.methods.engine import Alone
from noisylabels.methods.guard import Guard, NonFiniteError
from noisylabels.schedules import cosine


def parts(lr=0.5):
    def network(number):
        torch.manual_seed(number)
        return nn.Linear(4, 3)

    return Parts(
        network=network,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
        loss=build("dal"),
        lr_factor=cosine,
        task=Task(torch.zeros(10, dtype=torch.int64), 3, lambda part: iter(())),
    )


@pytest.fixture
def epoch():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(10, 4, generator=generator)
    target = torch.randint(3, (10,), generator=generator)
    return [Batch(i, inputs[i], target[i]) for i in torch.arange(10).split(4)]


def test_an_epoch_is_plain_gradient_descent(epoch):
    method = METHODS["single"](Alone(), parts())
    lr = method.set_epoch(1, 2)
    assert lr == pytest.approx(0.25)
    method.begin_epoch()
    method.train_epoch(epoch)
    mean = method.end_epoch()

    network = parts().network(0)
    loss = build("dal")
    loss.progress = 0.5
    momentum = [torch.zeros_like(p) for p in network.parameters()]
    total = 0.0
    for batch in epoch:
        value = loss(network(batch.input), batch.target)
        gradients = torch.autograd.grad(value, list(network.parameters()))
        total += value.item() * len(batch.target)
        with torch.no_grad():
            for p, m, g in zip(network.parameters(), momentum, gradients, strict=True):
                m.mul_(0.9).add_(g)
                p.sub_(0.25 * m)
    assert mean == pytest.approx(total / 10)
    for ours, naive in zip(
        method.state_dict()["networks"][0].values(), network.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, naive)


def test_state_restores_weights_and_momentum(epoch):
    first = METHODS["single"](Alone(), parts())
    first.set_epoch(0, 1)
    first.begin_epoch()
    first.train_epoch(epoch)
    state = copy.deepcopy(first.state_dict())
    second = METHODS["single"](Alone(), parts(lr=0.5))
    second.load_state_dict(state)
    means = []
    for method in (first, second):
        method.set_epoch(3, 10)
        method.begin_epoch()
        method.train_epoch(epoch)
        means.append(method.end_epoch())
    assert means[0] == means[1]


def test_state_between_two_batches_continues_to_the_same_end(epoch):
    whole, cut, again = (METHODS["single"](Alone(), parts()) for _ in range(3))
    for method in (whole, cut):
        method.set_epoch(1, 5)
        method.begin_epoch()
    whole.train_epoch(epoch)
    cut.train_epoch(epoch[:1])
    again.set_epoch(1, 5)
    again.load_state_dict(copy.deepcopy(cut.state_dict()))
    again.train_epoch(epoch[1:])
    assert again.end_epoch() == whole.end_epoch()
    for ours, theirs in zip(
        again.state_dict()["networks"][0].values(),
        whole.state_dict()["networks"][0].values(),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_a_batch_in_parts_gives_the_same_step(epoch):
    def trained(**options):
        method = METHODS["single"](Alone(), replace(parts(), **options))
        method.set_epoch(1, 5)
        method.begin_epoch()
        method.train_epoch(epoch)
        return method.end_epoch(), list(method.state_dict()["networks"][0].values())

    mean, weights = trained()
    for accumulate in (2, 3, 9):
        other_mean, others = trained(accumulate=accumulate)
        assert other_mean == pytest.approx(mean, rel=1e-6)
        for ours, theirs in zip(weights, others, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_gradients_are_clipped(epoch):
    method = METHODS["single"](Alone(), replace(parts(lr=1.0), clip_norm=1e-3))
    before = [p.clone() for p in method.state_dict()["networks"][0].values()]
    method.begin_epoch()
    method.train_epoch(epoch[:1])
    after = method.state_dict()["networks"][0].values()
    moved = torch.stack([(a - b).norm() for a, b in zip(after, before, strict=True)]).norm()
    assert moved.item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_step_changes_nothing(epoch, value):
    bad = Batch(epoch[1].index, torch.full_like(epoch[1].input, value), epoch[1].target)
    method = METHODS["single"](Alone(), parts())
    method.begin_epoch()
    method.train_epoch(epoch[:1])
    before = copy.deepcopy(method.state_dict())
    with pytest.raises(NonFiniteError) as error:
        method.train_epoch([bad])
    assert error.value.step == 1
    assert error.value.batch is bad
    for a, b in zip(
        before["networks"][0].values(), method.state_dict()["networks"][0].values(), strict=True
    ):
        assert torch.equal(a, b)
    skipping = METHODS["single"](Alone(), replace(parts(), guard=Guard("skip")))
    skipping.begin_epoch()
    skipping.train_epoch([epoch[0], bad, epoch[2]])
    assert skipping.skipped == 1
    plain = METHODS["single"](Alone(), parts())
    plain.begin_epoch()
    plain.train_epoch([epoch[0], epoch[2]])
    assert skipping.end_epoch() == plain.end_epoch()


def test_flags_of_other_devices_are_looked_at_together(epoch):
    """A tensor on the meta device cannot be read, so none may be before the guard settles."""
    guard = Guard()
    parameter = nn.Parameter(torch.zeros(2, device="meta"))
    parameter.grad = torch.zeros(2, device="meta")
    for step in range(31):
        assert guard.passes(step, epoch[0], torch.zeros((), device="meta"), [parameter])
    # They are kept without their inputs, which would fill a device.
    assert all(kept.input.untyped_storage().nbytes() == 0 for _, kept, _, _ in guard._waiting)
    with pytest.raises(RuntimeError, match="meta"):
        guard.settle()


def test_several_processes_decide_by_their_gradients_and_name_their_own_loss(epoch):
    guard, parameter = Guard(), nn.Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(2)
    assert guard.passes(0, epoch[0], torch.tensor(math.inf), [parameter], loss_counts=False)
    parameter.grad[1] = math.nan
    with pytest.raises(NonFiniteError) as error:
        guard.passes(0, epoch[0], torch.tensor(1.5), [parameter], loss_counts=False)
    assert error.value.loss == 1.5


def test_predictions_are_probabilities_in_evaluation_mode(epoch):
    made = parts()
    dropout = Parts(
        network=lambda _: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)),
        optimizer=made.optimizer,
        loss=made.loss,
        lr_factor=made.lr_factor,
        task=made.task,
    )
    method = METHODS["single"](Alone(), dropout)
    inputs = [batch.input for batch in epoch]
    first = method.predict(inputs)
    assert first.shape == (1, 10, 3)
    torch.testing.assert_close(first.sum(2), torch.ones(1, 10))
    assert torch.equal(first, method.predict(inputs))


@pytest.mark.parametrize(
    ("optimizer", "read"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.8), lambda group: group["momentum"]),
        (lambda p: torch.optim.Adam(p, lr=0.5, betas=(0.8, 0.99)), lambda group: group["betas"][0]),
    ],
)
def test_momentum_follows_its_schedule(optimizer, read):
    made = replace(parts(), optimizer=optimizer, momentum_factor=lambda progress: 1 - progress)
    method = METHODS["single"](Alone(), made)
    for epoch, expected in ((1, 0.6), (3, 0.2), (0, 0.8)):
        method.set_epoch(epoch, 4)
        (group,) = method.state_dict()["optimizers"][0]["param_groups"]
        assert read(group) == pytest.approx(expected)
    if "betas" in group:
        assert group["betas"][1] == 0.99
