"""Small parts for methods: a linear network, thirty examples, three classes."""

from dataclasses import replace

import torch
from torch import nn

from noisylabels.data.batches import Batch
from noisylabels.losses import build
from noisylabels.methods.base import Parts, Task
from noisylabels.schedules import constant

COUNT, FEATURES, CLASSES = 30, 4, 3


def inputs(seed=0):
    return torch.randn(COUNT, FEATURES, generator=torch.Generator().manual_seed(seed))


def labels(seed=0):
    return torch.randint(CLASSES, (COUNT,), generator=torch.Generator().manual_seed(seed))


def network(number):
    torch.manual_seed(number)
    return nn.Linear(FEATURES, CLASSES)


def parts(loss="ce", lr=0.3, momentum=0.0, **changes):
    shown = {"train": inputs(), "validation": inputs(1)}
    made = Parts(
        network=network,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum),
        loss=build(loss) if isinstance(loss, str) else loss,
        lr_factor=constant,
        task=Task(
            labels(), CLASSES, lambda part: iter(shown[part].split(8)), labels(1), batch_size=8
        ),
    )
    return replace(made, **changes)


def batches(order=None, views=1):
    """Batches of eight, the last of six; each further view is the first with its sign turned."""
    x, y = inputs(), labels()
    order = torch.arange(COUNT).split(8) if order is None else order
    return [Batch(i, x[i], y[i], 1.0, tuple(-x[i] for _ in range(views - 1))) for i in order]


def train(method, epochs, views=1):
    """Train as the runner does."""
    means = []
    for epoch in range(epochs):
        method.set_epoch(epoch, epochs)
        method.begin_epoch()
        method.train_epoch(batches(method.order(), views))
        means.append(method.end_epoch())
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
