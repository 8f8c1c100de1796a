"""Losses within any module are told the progress."""

import pytest
from torch import nn

from noisylabels.errors import ConfigError
from noisylabels.integrations import set_progress
from noisylabels.losses import CrossEntropyLoss, DynamicsAwareLoss


def test_every_loss_within_a_module_is_told():
    first, second = DynamicsAwareLoss(), CrossEntropyLoss()
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "losses": nn.ModuleList([first, second])})
    set_progress(model, 0.5)
    assert (first.progress, second.progress) == (0.5, 0.5)
    set_progress(first, 0.75)
    assert first.progress == 0.75
    with pytest.raises(ConfigError, match="epoch / epochs"):
        set_progress(model, 2)
