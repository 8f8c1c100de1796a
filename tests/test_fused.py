"""The fused pass against the composed loss: same values, same gradients, taken where it can be."""

import sys
import weakref

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

import warm
from noisylabels import _fused, functional
from noisylabels.losses import build

USUAL = {
    "lamb": 0.7,
    "weight": None,
    "ignore_index": -100,
    "reduction": "mean",
    "label_smoothing": 0.0,
}


def late(**options):
    loss = build("dal", **options)
    loss.progress = 0.8
    return loss


def batch(count=37, classes=11, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(count, classes, generator=generator, dtype=dtype)
    return logits.requires_grad_(), torch.randint(classes, (count,), generator=generator)


def composed(logits, target, reduction="mean", **hyperparameters):
    each = functional.dynamics_aware(logits, target, **hyperparameters)
    return each.mean() if reduction == "mean" else each.sum()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("block", [1, 30, 200, 2**18])
@pytest.mark.parametrize("outer", [1.0, 3.5])
def test_equals_the_composed_loss(reduction, block, outer, monkeypatch):
    monkeypatch.setattr(_fused, "BLOCK", block)
    logits, target = batch()
    settings = {"q": 1.3, "lamb": 0.7, "reduction": reduction}
    value = outer * _fused.dynamics_aware(logits, target, **settings)
    wanted = outer * composed(logits, target, **settings)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(value, logits)[0], torch.autograd.grad(wanted, logits)[0]
    )


def test_excluded_classes_and_vanishing_probabilities():
    logits = torch.tensor(
        [[0.0, -torch.inf, 2.0], [1e4, -1e4, 0.0], [-40.0, 0.0, 0.0]], requires_grad=True
    )
    target = torch.tensor([0, 1, 0])
    value = _fused.dynamics_aware(logits, target, q=1.2, lamb=1.0, reduction="mean")
    wanted = composed(logits, target, q=1.2, lamb=1.0)
    torch.testing.assert_close(value, wanted)
    for ours, theirs in zip(
        torch.autograd.grad(value, logits), torch.autograd.grad(wanted, logits), strict=True
    ):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs)


def test_backward_may_run_twice_and_again():
    logits, target = batch()
    hidden = logits * 1.0
    value = late()(hidden, target)
    first = torch.autograd.grad(value, logits, retain_graph=True)[0]
    value.backward(retain_graph=True)
    value.backward()
    torch.testing.assert_close(logits.grad, 2 * first)
    assert torch.autograd.gradcheck(late(), (logits.detach().requires_grad_(), target))
    assert torch.autograd.gradgradcheck(late(), (logits.detach().requires_grad_(), target))


def test_logits_may_change_in_place_once_the_loss_is_there():
    logits, target = batch()
    hidden = logits * 1.0
    (wanted,) = torch.autograd.grad(late()(hidden, target), logits, retain_graph=True)
    value = late()(hidden, target)
    hidden.detach().exp_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(value, logits, create_graph=True)
    (gradient,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(gradient, wanted)


def test_a_loss_that_is_kept_keeps_no_logits():
    logits, target = batch()
    hidden = logits * 1.0
    value, seen = late()(hidden, target), weakref.ref(hidden)
    del hidden
    assert seen() is not None
    value.backward(retain_graph=True)
    assert seen() is None
    with pytest.raises(RuntimeError, match="its logits are gone"):
        torch.autograd.grad(value, logits, create_graph=True)


def test_several_gradients_at_once_and_forward_mode_are_those_of_the_composed_loss():
    logits, target = batch()
    loss, several = late(), torch.tensor([1.0, 2.0, -0.5], dtype=logits.dtype)
    for batched in (False, True):
        value = loss(logits, target)
        weights = several if batched else several[0]
        (gradient,) = torch.autograd.grad(value, logits, weights, is_grads_batched=batched)
        (wanted,) = torch.autograd.grad(composed(logits, target, q=loss.q, lamb=loss.lamb), logits)
        torch.testing.assert_close(gradient, several[:, None, None] * wanted if batched else wanted)
    direction = torch.randn_like(logits)
    with forward_ad.dual_level():
        value = loss(forward_ad.make_dual(logits, direction), target)
        slope = forward_ad.unpack_dual(value).tangent
    torch.testing.assert_close(slope, (wanted * direction).sum())


def test_strided_logits():
    wide, target = batch(classes=22)
    logits = wide[:, ::2]
    target = target % 11
    value, wanted = late()(logits, target), late()(logits.contiguous(), target)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(value, wide)[0], torch.autograd.grad(wanted, wide)[0]
    )


def test_applies_to_the_common_case_and_nothing_else():
    logits, target = batch()
    assert _fused.applies(logits, target, **USUAL)
    assert _fused.applies(nn.Parameter(logits.detach()), target, **USUAL)
    below, above = target.clone(), target.clone()
    below[3], above[36] = -100, 11
    others = {
        "no bootstrapping": (logits, target, {"lamb": 0.0}),
        "smoothed": (logits, target, {"label_smoothing": 0.1}),
        "no class": (logits, above, {}),
        "ignored below": (logits, below, {}),
        "no gradient": (logits.detach(), target, {}),
        "weights": (logits, target, {"weight": torch.ones(11)}),
        "none": (logits, target, {"reduction": "none"}),
        "ignored": (logits, target, {"ignore_index": int(target[3])}),
        "probabilities": (logits, torch.full((37, 11), 1 / 11), {}),
        "places": (logits.view(37, 11, 1), target.view(37, 1), {}),
        "half": (logits.bfloat16(), target, {}),
        "empty": (logits[:0], target[:0], {}),
        "wrong shape": (logits, target[:5], {}),
        "meta": (logits.to("meta"), target.to("meta"), {}),
    }
    for name, (z, y, options) in others.items():
        assert not _fused.applies(z, y, **(USUAL | options)), name
    assert _fused.applies(logits, target % 10, **(USUAL | {"ignore_index": 10}))
    with torch.no_grad():
        assert not _fused.applies(logits, target, **USUAL)


def test_ignored_and_impossible_targets_are_left_to_the_composed_loss():
    logits, target = batch()
    some = target.clone()
    some[:5] = -100
    torch.testing.assert_close(late()(logits, some), late()(logits[5:], target[5:]))
    some[7] = 11
    with pytest.raises(IndexError, match="Target 11 is out of bounds"):
        late()(logits, some)


def test_a_failure_of_its_own_is_not_hidden(monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(_fused, "_value_and_gradient", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        late()(*batch())


class OnGpu:
    """Says that logits are on a GPU."""

    is_cuda = True

    def __init__(self, logits):
        self.device, self.dtype = logits.device, logits.dtype


def test_a_kernel_that_cannot_be_launched_is_tried_once(monkeypatch, request):
    """As without a C compiler: Triton is there, and raises when it is first called."""
    request.addfinalizer(_fused._works.cache_clear)
    tried = []

    def fail(logits, *_):
        tried.append(logits.dtype)
        raise RuntimeError("Failed to find C compiler.\nPlease specify one.")

    monkeypatch.setattr(_fused, "_by_kernel", fail)
    monkeypatch.setattr(_fused.importlib.util, "find_spec", lambda name: name)
    _fused._works.cache_clear()
    own = _fused._has_kernel
    monkeypatch.setattr(_fused, "_has_kernel", lambda logits: own(OnGpu(logits)))
    logits, target = batch(dtype=torch.float32)
    wanted = composed(logits, target, q=late().q, lamb=late().lamb)
    loss = late()
    with pytest.warns(UserWarning, match="C compiler.*without it, with the same result"):
        value = loss(logits, target)
    for each in (value, loss(logits, target), loss(logits, target)):
        torch.testing.assert_close(each, wanted)
    assert tried == [torch.float32]
    monkeypatch.setattr(_fused.importlib.util, "find_spec", lambda name: None)
    _fused._works.cache_clear()
    assert not _fused._has_kernel(logits)


def test_the_kernel_takes_what_a_scale_need_not_save(monkeypatch):
    monkeypatch.setattr(_fused, "_works", lambda device, dtype: True)
    logits, _ = batch()
    taken = [torch.float32, torch.bfloat16]
    for dtype in (torch.float64, torch.float16, *taken):
        assert _fused._has_kernel(OnGpu(logits.to(dtype))) == (dtype in taken)


def test_smoothed_targets_are_left_to_the_composed_loss():
    logits, target = batch()
    smoothed = 0.9 * nn.functional.one_hot(target, 11).double() + 0.1 / 11
    torch.testing.assert_close(late(label_smoothing=0.1)(logits, target), late()(logits, smoothed))


def test_is_used_by_the_module(monkeypatch):
    calls = []
    monkeypatch.setattr(
        _fused,
        "_value_and_gradient",
        lambda *a, f=_fused._value_and_gradient: calls.append(1) or f(*a),
    )
    logits, target = batch()
    late()(logits, target)
    build("dal")(logits, target)  # lambda is still 0: plain GCE
    assert len(calls) == 1


def test_keeps_one_buffer_of_the_size_of_the_logits():
    """Beyond the input and its gradient nothing of size N x K may be made."""
    logits, target = batch(512, 4096, torch.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        late()(logits, target).backward()
    now = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    size = logits.numel() * 4
    assert size <= peak < 2.3 * size


WORKER = """
import sys, torch, torch.distributed as dist
from torch import nn
from noisylabels.losses import build
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
network = nn.parallel.DistributedDataParallel(nn.Linear(4, 3))
inputs, target = torch.randn(8, 4), torch.randint(3, (8,))
for progress in (0.0, 0.5, 0.9):
    for key in ("gce", "dal", "djs", "nlnl"):
        loss = build(key)
        loss.progress = progress
        network.zero_grad()
        loss(network(inputs[rank::2]), target[rank::2]).backward()
        if key != "nlnl":
            alone = nn.Linear(4, 3)
            alone.load_state_dict(network.module.state_dict())
            loss(alone(inputs), target).backward()
            torch.testing.assert_close(network.module.weight.grad, alone.weight.grad)
dist.barrier()
dist.destroy_process_group()
print("same")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file")
def test_ddp_gives_the_gradient_of_the_whole_batch(tmp_path, begin):
    store = tmp_path / "store"
    workers = [begin(WORKER, rank, store, target=warm.code) for rank in range(2)]
    for worker in workers:
        out, err = worker.communicate(timeout=120)
        assert out == "same\n", err
