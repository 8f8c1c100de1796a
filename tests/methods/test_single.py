import pytest
import torch

from noisylabels.losses import build
from noisylabels.methods import METHODS
from noisylabels.schedules import cosine
from tiny import COUNT, assert_same_weights, batches, context, network


def test_an_epoch_is_plain_gradient_descent():
    method = METHODS["single"](context("dal", lr=0.5, momentum=0.9, lr_factor=cosine))
    assert method.set_epoch(1, 2) == pytest.approx(0.25)
    method.begin_epoch()
    method.train_epoch(batches())
    mean = method.end_epoch()

    naive, loss = network(0), build("dal")
    loss.progress = 0.5
    momentum = [torch.zeros_like(p) for p in naive.parameters()]
    total = 0.0
    for batch in batches():
        value = loss(naive(batch.input), batch.target)
        gradients = torch.autograd.grad(value, list(naive.parameters()))
        total += value.item() * len(batch.target)
        with torch.no_grad():
            for p, m, g in zip(naive.parameters(), momentum, gradients, strict=True):
                m.mul_(0.9).add_(g)
                p.sub_(0.25 * m)
    assert mean == pytest.approx(total / COUNT)
    assert_same_weights(method, naive)
