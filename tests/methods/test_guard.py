import math

import pytest
import torch
from torch import nn

from noisylabels.methods.guard import Guard, NonFiniteError, are_finite
from tiny import batches


def test_flags_of_other_devices_are_read_together():
    """A tensor on the meta device cannot be read, so none may be before the guard settles."""
    guard, (batch, *_) = Guard(), batches()
    parameter = nn.Parameter(torch.zeros(2, device="meta"))
    parameter.grad = torch.zeros(2, device="meta")
    for step in range(31):
        loss = torch.zeros((), device="meta")
        assert guard.passes(step, batch, loss, are_finite(loss, [parameter]))
    # They are kept without their inputs, which would fill a device.
    assert all(kept.input.untyped_storage().nbytes() == 0 for _, kept, _, _ in guard._waiting)
    with pytest.raises(RuntimeError, match="meta"):
        guard.settle()


def test_several_processes_decide_by_their_gradients_and_name_their_own_loss():
    guard, (batch, *_), parameter = Guard(), batches(), nn.Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(2)
    loss = torch.tensor(math.inf)
    assert guard.passes(0, batch, loss, are_finite(loss, [parameter], loss_counts=False))
    assert not are_finite(loss, [parameter])
    parameter.grad[1] = math.nan
    loss = torch.tensor(1.5)
    finite = are_finite(loss, [parameter], loss_counts=False)
    with pytest.raises(NonFiniteError) as error:
        guard.passes(0, batch, loss, finite)
    assert error.value.loss == 1.5
