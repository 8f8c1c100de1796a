"""What methods are tested on: a linear network, thirty examples, three classes."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from noisylabels.data.batches import Batch
from noisylabels.losses import build
from noisylabels.methods import MethodContext, SingleProcess, Task
from noisylabels.schedules import constant

COUNT, FEATURES, CLASSES = 30, 4, 3
PARTS = ("train", "validation", "test")


def inputs(seed=0):
    return torch.randn(COUNT, FEATURES, generator=torch.Generator().manual_seed(seed))


def labels(seed=0):
    return torch.randint(CLASSES, (COUNT,), generator=torch.Generator().manual_seed(seed))


def network(number):
    torch.manual_seed(number)
    return nn.Linear(FEATURES, CLASSES)


def task(**changes):
    made = Task(
        labels=labels(),
        num_classes=CLASSES,
        inputs=lambda part: iter(inputs(PARTS.index(part)).split(8)),
        sizes=dict.fromkeys(PARTS, COUNT),
        held_out=labels(1),
        batch_size=8,
    )
    return replace(made, **changes)


def context(loss="ce", lr=0.3, momentum=0.0, **changes):
    loss = build(loss) if isinstance(loss, str) else loss
    # As the runner has it.
    loss.warns = False
    made = MethodContext(
        engine=SingleProcess(),
        network=network,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum),
        loss=loss,
        lr_factor=constant,
        task=task(),
    )
    return replace(made, **changes)


def batches(order=None, views=1):
    """Batches of eight, the last of six; each further view is the first with its sign turned."""
    x, y = inputs(), labels()
    order = torch.arange(COUNT).split(8) if order is None else order
    return [Batch(i, x[i], y[i], 1.0, tuple(-x[i] for _ in range(views - 1))) for i in order]


def train(method, epochs, first=0, of=None, evaluate=()):
    """Train as the runner does, and predict the parts to evaluate after every epoch."""
    means = []
    for epoch in range(first, epochs):
        method.set_epoch(epoch, of or epochs)
        method.begin_epoch()
        torch.manual_seed(epoch)
        method.train_epoch(batches(method.order(), method.views))
        means.append(method.end_epoch())
        for part in evaluate:
            method.predict(part)
    return means


def weights(method, number=0):
    return list(method.state_dict()["networks"][number].values())


def descend(network, gradients, lr=0.3):
    with torch.no_grad():
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter.sub_(lr * gradient)


def assert_same_weights(method, network, number=0, **tolerance):
    for ours, naive in zip(weights(method, number), network.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, naive, **tolerance)


def assert_same_state(ours, theirs):
    """Compare states bit by bit."""
    assert type(ours) is type(theirs)
    if isinstance(ours, Tensor):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key, value in ours.items():
            assert_same_state(value, theirs[key])
    elif isinstance(ours, list | tuple):
        for one, other in zip(ours, theirs, strict=True):
            assert_same_state(one, other)
    else:
        assert ours == theirs
