import pytest
import torch

from noisylabels.methods import SingleProcess
from noisylabels.methods.engine import broadcast_first, gather_shares, pick_own


class OneOfMany(SingleProcess):
    """One process of several; what it sends is kept, and added up by the test."""

    def __init__(self, rank, world_size):
        self.global_rank, self.world_size = rank, world_size
        self.is_global_zero = rank == 0
        self.sent = None

    def all_reduce(self, data, group=None, reduce_op="mean"):
        assert reduce_op == "sum"
        self.sent = data
        return data


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_are_gathered_in_order_and_found_again(world):
    whole = torch.arange(14).reshape(7, 2)
    processes = [OneOfMany(rank, world) for rank in range(world)]
    shares = [whole[rank::world] for rank in range(world)]
    sums = sum(gather_shares(p, share, 7) for p, share in zip(processes, shares, strict=True))
    assert torch.equal(sums, whole)
    rows = torch.tensor([5, 0, 3, 2])
    own = [pick_own(p, rows) for p in processes]
    found = torch.cat([share[each] for share, each in zip(shares, own, strict=True)])
    assert sorted(found[:, 0].tolist()) == sorted(whole[rows, 0].tolist())
    assert all(
        share[each][:, 0].tolist() == [2 * r for r in rows.tolist() if r % world == rank]
        for rank, (share, each) in enumerate(zip(shares, own, strict=True))
    )


def test_the_first_process_decides():
    processes = [OneOfMany(rank, 3) for rank in range(3)]
    values = [torch.full((2,), rank + 0.5) for rank in range(3)]
    sent = [broadcast_first(p, own) for p, own in zip(processes, values, strict=True)]
    assert torch.equal(sum(sent), values[0])
    assert broadcast_first(SingleProcess(), values[2]) is values[2]
