"""Progress in a loop without an adapter."""

import pytest
import torch
from torch import nn

from noisylabels.errors import ConfigError
from noisylabels.integrations import set_progress
from noisylabels.losses import DynamicsAwareLoss, build


class Holder(nn.Module):
    def __init__(self, held):
        super().__init__()
        self.held = held


def test_every_loss_at_any_depth_is_told():
    first, second, third = build("dal"), build("dgce"), build("ce")
    set_progress(Holder(nn.ModuleList([first, Holder(second), nn.Linear(2, 2), third])), 0.5)
    assert [loss.progress for loss in (first, second, third)] == [0.5] * 3
    assert first.q == second.q == 1.05
    set_progress(first, 1)
    assert first.progress == 1


def test_a_wrapped_module_is_told_too():
    holder = Holder(DynamicsAwareLoss())
    set_progress(torch.compile(holder), 0.25)
    assert holder.held.progress == 0.25


def test_a_module_that_hides_its_losses_is_refused():
    for held in ([DynamicsAwareLoss()], nn.CrossEntropyLoss()):
        with pytest.raises(ConfigError, match="Holder holds no loss of noisylabels: expected one"):
            set_progress(Holder(held), 0.5)


def test_progress_out_of_its_range_is_refused():
    with pytest.raises(ConfigError, match=r"progress must be in \[0, 1\], got 1.5"):
        set_progress(DynamicsAwareLoss(), 1.5)
