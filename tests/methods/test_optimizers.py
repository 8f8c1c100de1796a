import pytest
import torch
from torch import nn

from noisylabels.errors import ConfigError
from noisylabels.methods.optimizers import sgd, with_lr_factors
from noisylabels.run.config import parse
from noisylabels.run.plan import plan


def test_an_l1_penalty_is_that_of_the_sum_of_magnitudes():
    """Against the penalty in the loss, differentiated; with momentum and weight decay beside it."""
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(8, 4)
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    one = sgd(ours.parameters(), **settings, l1_decay=0.05)
    other = sgd(theirs.parameters(), **settings)
    for _ in range(5):
        for network, optimizer, penalty in ((ours, one, 0.0), (theirs, other, 0.05)):
            optimizer.zero_grad()
            loss = network(x).square().mean()
            loss = loss + penalty * sum(each.abs().sum() for each in network.parameters())
            loss.backward()
            optimizer.step()
    for mine, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, expected)


def test_an_l1_penalty_leaves_what_has_no_gradient_alone():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    used.lr_factor = 0.5
    optimizer = with_lr_factors(
        lambda groups: sgd(groups, lr=1.0, momentum=0.0, weight_decay=0.0, l1_decay=0.25),
        [used, unused],
    )
    used.grad = torch.zeros(2)
    optimizer.step()
    assert used.tolist() == [0.875, 0.875]
    assert unused.tolist() == [1.0, 1.0]


def test_a_penalty_is_at_least_0_and_none_is_the_run_that_there_was(digits):
    with pytest.raises(ConfigError, match="l1_decay must be in"):
        sgd([nn.Parameter(torch.ones(1))], l1_decay=-1.0)
    optimizer = {"name": "sgd", "lr": 0.1}
    first, same, other = (
        plan(parse(digits | {"optimizer": optimizer | changes})).run_id
        for changes in ({}, {"l1_decay": 0.0}, {"l1_decay": 1e-5})
    )
    assert first == same != other
