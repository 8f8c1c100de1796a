import copy

import pytest
import torch
from torch import nn

from noisylabels.data.batches import Batch
from noisylabels.losses import build
from noisylabels.methods import METHODS
from noisylabels.methods.base import Parts
from noisylabels.schedules import cosine


class PlainEngine:
    def setup(self, module, *optimizers):
        return module, *optimizers

    def backward(self, tensor):
        tensor.backward()


def parts(lr=0.5):
    def network(number):
        torch.manual_seed(number)
        return nn.Linear(4, 3)

    return Parts(
        network=network,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
        loss=build("dal"),
        lr_factor=cosine,
    )


@pytest.fixture
def epoch():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(10, 4, generator=generator)
    target = torch.randint(3, (10,), generator=generator)
    return [Batch(i, inputs[i], target[i]) for i in torch.arange(10).split(4)]


def test_an_epoch_is_plain_gradient_descent(epoch):
    method = METHODS["single"](PlainEngine(), parts())
    lr = method.begin_epoch(0.5)
    assert lr == pytest.approx(0.25)
    mean = method.train_epoch(epoch)

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
    first = METHODS["single"](PlainEngine(), parts())
    first.begin_epoch(0.0)
    first.train_epoch(epoch)
    state = copy.deepcopy(first.state_dict())
    second = METHODS["single"](PlainEngine(), parts(lr=0.5))
    second.load_state_dict(state)
    for method in (first, second):
        method.begin_epoch(0.3)
    assert first.train_epoch(epoch) == second.train_epoch(epoch)


def test_predictions_are_probabilities_in_evaluation_mode(epoch):
    made = parts()
    dropout = Parts(
        network=lambda _: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)),
        optimizer=made.optimizer,
        loss=made.loss,
        lr_factor=made.lr_factor,
    )
    method = METHODS["single"](PlainEngine(), dropout)
    inputs = [batch.input for batch in epoch]
    first = method.predict(inputs)
    assert first.shape == (10, 3)
    torch.testing.assert_close(first.sum(1), torch.ones(10))
    assert torch.equal(first, method.predict(inputs))
