import copy
import math

import pytest
import torch

from noisylabels.data.batches import Batch
from noisylabels.errors import ConfigError
from noisylabels.losses import build
from noisylabels.methods import METHODS
from noisylabels.methods.guard import Guard
from tiny import (
    CLASSES,
    COUNT,
    assert_same_weights,
    batches,
    context,
    descend,
    network,
    task,
    train,
)

elr = METHODS["elr"]


def naive(epochs, beta, lamb, loss=None):
    """The paper's recursion, an example at a time, in Python numbers where no gradient flows."""
    net = network(0)
    targets = [[0.0] * CLASSES for _ in range(COUNT)]
    means = []
    for epoch in range(epochs):
        total = 0.0
        if loss is not None:
            loss.progress = epoch / epochs
        for batch in batches():
            terms = []
            for i, x, y in zip(batch.index.tolist(), batch.input, batch.target, strict=True):
                p = net(x).softmax(0)
                seen = [min(max(v, 1e-4), 1 - 1e-4) for v in p.tolist()]
                seen = [v / sum(seen) for v in seen]
                targets[i] = [
                    beta * t + (1 - beta) * v for t, v in zip(targets[i], seen, strict=True)
                ]
                agreement = sum(p[k] * targets[i][k] for k in range(CLASSES))
                fit = -p[y].log() if loss is None else loss(net(x)[None], y[None])
                terms.append(fit + lamb * (1 - agreement).log())
            value = torch.stack(terms).mean()
            descend(net, torch.autograd.grad(value, list(net.parameters())))
            total += value.item() * len(terms)
        means.append(total / COUNT)
    return net, targets, means


def test_targets_follow_the_recursion_over_epochs():
    method = elr(context(), beta=0.7, lamb=3.0)
    means = train(method, 4)
    net, targets, expected = naive(4, 0.7, 3.0)
    assert means == pytest.approx(expected, abs=1e-5)
    assert_same_weights(method, net, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        method.state_dict()["targets"], torch.tensor(targets), rtol=1e-4, atol=1e-5
    )


def test_another_loss_takes_the_place_of_cross_entropy():
    method = elr(context("dal"), beta=0.9, lamb=1.0)
    means = train(method, 3)
    _, _, expected = naive(3, 0.9, 1.0, build("dal"))
    assert means == pytest.approx(expected, abs=1e-5)


def test_without_weight_it_is_single():
    method, single = elr(context(), lamb=0.0), METHODS["single"](context())
    assert train(method, 3) == train(single, 3)


def test_a_certain_prediction_stays_finite():
    sure = Batch(torch.arange(2), torch.full((2, 4), 1e4), torch.tensor([0, 1]))
    method = elr(context(), beta=0.0)
    method.begin_epoch()
    method.train_epoch([sure, sure])
    assert math.isfinite(method.end_epoch())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_memory_is_said_kept_as_asked_and_restored(dtype):
    said = []
    method = elr(context(say=said.append), memory_dtype=dtype, memory_device="cpu")
    size = {"float32": "0.4 KiB", "float16": "0.2 KiB"}[dtype]
    assert said == [f"elr: targets of 30 x 3 in {dtype} on cpu: {size}"]
    train(method, 2)
    state = copy.deepcopy(method.state_dict())
    assert state["targets"].dtype is getattr(torch, dtype)
    again = elr(context(), memory_dtype=dtype)
    again.load_state_dict(state)
    assert train(method, 2) == train(again, 2)
    exact = elr(context())
    train(exact, 4)
    torch.testing.assert_close(
        method.state_dict()["targets"].float(), exact.state_dict()["targets"], rtol=0, atol=2e-3
    )


def test_size_of_the_memory_is_that_of_the_data():
    said = []
    large = task(labels=torch.zeros(2**16, dtype=torch.int64), num_classes=16)
    elr(context(task=large, say=said.append))
    assert said == ["elr: targets of 65536 x 16 in float32 on cpu: 4.0 MiB"]


def test_parts_of_a_batch_remember_every_example():
    whole, cut = elr(context()), elr(context(accumulate=3))
    assert train(whole, 2) == pytest.approx(train(cut, 2), rel=1e-5)
    torch.testing.assert_close(whole.state_dict()["targets"], cut.state_dict()["targets"])


def test_a_skipped_step_is_not_remembered():
    first, second, *_ = batches()
    bad = Batch(second.index, torch.full_like(second.input, math.nan), second.target)
    method = elr(context(guard=Guard("skip")))
    method.begin_epoch()
    method.train_epoch([first, bad])
    targets = method.state_dict()["targets"]
    assert (targets[second.index] == 0).all()
    assert (targets[first.index] > 0).all()


@pytest.mark.parametrize("bad", [{"beta": 1.0}, {"beta": -0.1}, {"lamb": -1.0}])
def test_bad_values_are_named(bad):
    with pytest.raises(ConfigError, match=f"{next(iter(bad))} must be in"):
        elr(context(), **bad)


def test_an_unknown_memory_is_named():
    with pytest.raises(ConfigError, match="memory_dtype must be 'float32' or 'float16', got 'int"):
        elr(context(), memory_dtype="int8")
    with pytest.raises(ConfigError, match="memory_device must be 'device' or 'cpu', got 'cuda'"):
        elr(context(), memory_device="cuda")
