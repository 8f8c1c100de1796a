"""The layer and the loss as one against the layer, then the loss: values and every gradient."""

import json
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import warm
from noisylabels import linear
from noisylabels.candidates import CandidateLoss
from noisylabels.errors import ConfigError, MissingExtraError
from noisylabels.integrations import set_progress
from noisylabels.linear import LinearLoss
from noisylabels.losses import LOSSES, DynamicsAwareLoss, Loss, build

KEYS = ("ce", "mae", "gce", "dgce", "rce", "sce", "dal")


def late(key, **options):
    loss = build(key, **options)
    loss.progress = 0.8
    return loss


def batch(count=7, width=5, classes=11, dtype=torch.float64, seed=0):
    """Make leaves that need gradients, and labels of which two are alike."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"input": (count, width), "linear_weight": (classes, width), "linear_bias": (classes,)}
    made = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, shape in shapes.items()
    }
    target = torch.randint(classes, (count,), generator=generator)
    return {name: tensor.requires_grad_() for name, tensor in made.items()}, target


def composed(loss, leaves, target):
    return loss(F.linear(leaves["input"], leaves["linear_weight"], leaves["linear_bias"]), target)


def compare(loss, leaves, target, tile, **tolerance):
    value = LinearLoss(loss, tile=tile)(**leaves, target=target)
    wanted = composed(loss, leaves, target)
    assert value.dtype == wanted.dtype
    torch.testing.assert_close(value, wanted, **tolerance)
    outer = torch.linspace(0.5, 2, value.numel()).view_as(value).to(value)
    ours, theirs = (torch.autograd.grad(x, leaves.values(), outer) for x in (value, wanted))
    for name, our, their in zip(leaves, ours, theirs, strict=True):
        assert our.dtype == leaves[name].dtype
        torch.testing.assert_close(our, their, msg=lambda m, name=name: f"{name}: {m}", **tolerance)


@pytest.fixture
def tiled(monkeypatch):
    """Let no batch be small enough to be composed, and count the calls."""
    monkeypatch.setattr(linear, "HELD_TILES", 0)
    calls = []
    original = linear._Prediction.apply
    monkeypatch.setattr(
        linear._Prediction, "apply", lambda *args: calls.append(args) or original(*args)
    )
    return calls


@pytest.mark.parametrize("tile", [1, 8, 1000])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("key", KEYS)
def test_equals_the_layer_then_the_loss(key, reduction, tile, tiled):
    leaves, target = batch()
    compare(late(key, reduction=reduction), leaves, target, tile)
    weight = torch.linspace(0.1, 3, 11, dtype=torch.float64)
    some = target.clone()
    some[2] = -100
    compare(late(key, weight=weight, reduction=reduction), leaves, some, tile)
    number = int(target[0])
    compare(late(key, ignore_index=number, reduction=reduction), leaves, target, tile)
    assert len(tiled) == 3


@pytest.mark.parametrize("key", KEYS)
def test_gradients(key, tiled):
    leaves, target = batch(count=4, width=3, classes=7)
    loss = LinearLoss(late(key, reduction="none"), tile=6)
    assert torch.autograd.gradcheck(
        lambda *layer: loss(layer[0], layer[1], target, linear_bias=layer[2]),
        tuple(leaves.values()),
    )


def test_every_loss_is_taken_or_refused():
    for key in LOSSES:
        if key in KEYS:
            assert LinearLoss(build(key)).loss.training
        else:
            with pytest.raises(ConfigError, match="of the label's probability and") as said:
                LinearLoss(build(key))
            assert type(build(key)).__name__ in str(said.value)
            assert len(str(said.value).splitlines()) == 1
    for other in (nn.CrossEntropyLoss(), CandidateLoss(build("ce")), "dal"):
        with pytest.raises(ConfigError, match="takes a loss of noisylabels.losses.*, got "):
            LinearLoss(other)
    layer = torch.randn(4, 3), torch.randn(5, 3), torch.zeros(4, dtype=torch.int64)
    for shape in ((1,), (4,), (5, 1)):
        with pytest.raises(ValueError, match=r"linear_bias of shape \(5\), .* got \("):
            LinearLoss(build("ce"), tile=1)(*layer, linear_bias=torch.zeros(shape))
    with pytest.raises(ConfigError, match="label_smoothing must be 0, got 0.1"):
        LinearLoss(build("ce", label_smoothing=0.1))
    with pytest.raises(ConfigError, match=r"tile must be in \[1, inf\), got 0"):
        LinearLoss(build("ce"), tile=0)


def test_a_loss_of_ones_own(tiled):
    class Focal(Loss):
        formula = "-(1 - p_y)^2 log p_y"

        def per_example(self, input, target):
            return self.of_log_p(-F.cross_entropy(input, target, reduction="none"))

        def of_log_p(self, log_p):
            return -((1 - log_p.exp()) ** 2) * log_p

        def entropy_weight(self, classes):
            return 0.0

    compare(Focal(), *batch(), 8)


def test_a_subclass_with_another_loss_of_each_example():
    class Doubled(DynamicsAwareLoss):
        def per_example(self, input, target):
            return 2 * super().per_example(input, target)

    with pytest.raises(ConfigError, match="takes a loss of noisylabels.losses.*, got Doubled"):
        LinearLoss(Doubled())


def test_the_progress_is_the_losses():
    loss = LinearLoss(build("dal"))
    loss.progress = 0.5
    assert (loss.loss.progress, loss.loss.q) == (0.5, pytest.approx(1.05))
    set_progress(loss, 0.9)
    assert loss.progress == 0.9
    with pytest.raises(ConfigError, match="progress must be in"):
        loss.progress = 2.0


def test_q_moves_with_progress(tiled):
    leaves, target = batch()
    loss = LinearLoss(build("dal"), tile=8)
    values = set()
    for progress in (0.0, 0.3, 0.7, 1.0):
        loss.progress = progress
        value = loss(**leaves, target=target)
        torch.testing.assert_close(value, composed(loss.loss, leaves, target))
        values.add(round(value.item(), 6))
    assert len(values) == 4
    assert [args[-1] for args in tiled] == [False, False, True, True]  # whether H is asked for


def test_schedules_that_are_never_told_are_missed(tiled):
    leaves, target = batch()
    loss = LinearLoss(build("dal"), tile=8)
    loss.loss._calls = 998
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(**leaves, target=target)
    with pytest.warns(UserWarning, match="never told the progress"):
        loss(**leaves, target=target)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("key", ["gce", "dal"])
def test_precisions(key, dtype, tiled):
    """Half precision: as near to double precision as the composed loss is."""
    leaves, target = batch(count=40, width=16, classes=300, dtype=dtype)
    loss = late(key)
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in leaves.items()}
    truth = torch.autograd.grad(composed(loss, exact, target), exact.values())
    value = LinearLoss(loss, tile=500)(**leaves, target=target)
    assert value.dtype == torch.float32
    ours = torch.autograd.grad(value, leaves.values())
    theirs = torch.autograd.grad(composed(loss, leaves, target), leaves.values())
    for our, their, true in zip(ours, theirs, truth, strict=True):
        assert our.dtype == their.dtype == dtype
        error, usual = ((x.double() - true).norm() / true.norm() for x in (our, their))
        assert error < max(1.1 * usual, 1e-6)


@pytest.mark.parametrize("key", ["ce", "dal"])
def test_autocast_gives_what_it_gives_the_layer(key, tiled):
    leaves, target = batch(count=20, width=16, classes=60, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        compare(late(key), leaves, target, 100, rtol=0.02, atol=1e-3)
        assert tiled[-1][0].dtype == tiled[-1][1].dtype == torch.bfloat16
    double, _ = batch(count=20, width=16, classes=60)
    with torch.autocast("cpu", torch.bfloat16):
        LinearLoss(late(key), tile=100)(**double, target=target)
    assert tiled[-1][0].dtype == torch.float64


@pytest.mark.parametrize("key", ["ce", "dal"])
def test_excluded_classes_and_vanishing_probabilities(key, tiled):
    leaves, target = batch(count=6, classes=12)
    with torch.no_grad():
        leaves["linear_bias"][:4] = -torch.inf  # whole tiles of them
        leaves["linear_bias"][5] = 1e4
    target = target.clamp(min=5)
    target[:2] = 5
    assert composed(late(key), leaves, target).isfinite()
    compare(late(key), leaves, target, 6)


def test_one_example_one_class_and_none(tiled):
    leaves, target = batch()
    alone = leaves | {"input": leaves["input"][0]}
    for reduction in ("mean", "none"):
        value = LinearLoss(late("dal", reduction=reduction), tile=8)(**alone, target=target[0])
        torch.testing.assert_close(value, composed(late("dal"), alone, target[0]))
    compare(late("dal"), *batch(classes=1), 8)
    empty = leaves | {"input": leaves["input"][:0]}
    assert LinearLoss(late("dal"))(**empty, target=target[:0]).isnan()
    value = LinearLoss(late("dal", reduction="sum"))(**empty, target=target[:0])
    value.backward()
    assert (leaves["linear_weight"].grad == 0).all()


def test_a_layer_without_bias_and_labels_of_bytes(tiled):
    leaves, target = batch()
    layer = leaves["input"], leaves["linear_weight"]
    value = LinearLoss(late("dal"), tile=8)(*layer, target.byte())
    wanted = late("dal")(F.linear(*layer), target)
    torch.testing.assert_close(value, wanted)
    for our, their in zip(
        torch.autograd.grad(value, layer), torch.autograd.grad(wanted, layer), strict=True
    ):
        torch.testing.assert_close(our, their)


@pytest.mark.parametrize("needing", ["input", "linear_weight", "linear_bias"])
def test_makes_the_gradients_that_are_asked_for(needing, tiled, monkeypatch):
    leaves, target = batch()
    some = {name: x if name == needing else x.detach() for name, x in leaves.items()}
    products = []
    add = linear._add_product
    monkeypatch.setattr(linear, "_add_product", lambda *a: products.append(1) or add(*a))
    LinearLoss(late("dal"), tile=1000)(**some, target=target).backward()
    wanted = torch.autograd.grad(composed(late("dal"), leaves, target), leaves[needing])[0]
    torch.testing.assert_close(some[needing].grad, wanted)
    assert len(products) == (needing != "linear_bias")


def test_without_gradients(tiled):
    leaves, target = batch()
    with torch.no_grad():
        value = LinearLoss(late("dal"), tile=8)(**leaves, target=target)
    assert not value.requires_grad
    torch.testing.assert_close(value, composed(late("dal"), leaves, target).detach())


def test_backward_may_run_again_and_second_derivatives_are_refused(tiled):
    leaves, target = batch()
    value = LinearLoss(late("dal"), tile=8)(**leaves, target=target)
    first = torch.autograd.grad(value, leaves.values(), retain_graph=True)
    again = torch.autograd.grad(value, leaves.values(), retain_graph=True)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(RuntimeError, match="LinearLoss has no second derivatives: compose"):
        torch.autograd.grad(value, leaves.values(), create_graph=True)


def test_small_batches_are_composed(monkeypatch):
    monkeypatch.setattr(linear._Prediction, "apply", None)
    leaves, target = batch()
    for tile in (None, 10):  # 77 logits: at most eight tiles
        value = LinearLoss(late("dal"), tile=tile)(**leaves, target=target)
        assert torch.equal(value, composed(late("dal"), leaves, target))
    with pytest.raises(TypeError, match="not callable"):
        LinearLoss(late("dal"), tile=9)(**leaves, target=target)


def test_transforms_are_left_to_the_composed_loss(tiled):
    leaves, target = batch()
    loss = LinearLoss(late("dal"), tile=8)

    def of_input(input):
        return loss(input, leaves["linear_weight"].detach(), target)

    (theirs,) = torch.autograd.grad(of_input(leaves["input"]), leaves["input"])
    torch.testing.assert_close(torch.func.grad(of_input)(leaves["input"].detach()), theirs)


@pytest.mark.parametrize("tile", [8, None])
def test_targets_that_do_not_fit(tile, request):
    if tile:
        request.getfixturevalue("tiled")
    leaves, target = batch()
    loss = LinearLoss(late("dal"), tile=tile)
    for number in (11, -1):
        wrong = target.clone()
        wrong[3] = number
        with pytest.raises(IndexError, match=f"Target {number} is out of bounds"):
            loss(**leaves, target=wrong)
    with pytest.raises(ValueError, match=r"target of shape \(N\), got \(7, 5\) and \(6,\)"):
        loss(**leaves, target=target[:6])
    with pytest.raises(ValueError, match="expected input of shape"):
        loss(**(leaves | {"input": leaves["input"][None]}), target=target[None])
    # Composed, the words are torch's, which has others in each version.
    with pytest.raises(RuntimeError, match="target" if tile else "target|Int"):
        loss(**leaves, target=target.int())
    with pytest.raises(TypeError, match="LinearLoss is not defined for class probabilities"):
        loss(**leaves, target=torch.full((7, 11), 1 / 11))
    weighted = LinearLoss(late("dal", weight=torch.ones(5)), tile=tile)
    with pytest.raises(RuntimeError, match="one for each of 11 classes"):
        weighted(**leaves, target=target)


def test_state_is_the_losses():
    loss = LinearLoss(late("dal", weight=torch.ones(3)))
    again = LinearLoss(build("dal", weight=torch.zeros(3)))
    again.load_state_dict(loss.state_dict())
    assert again.progress == 0.8
    assert torch.equal(again.loss.weight, torch.ones(3))


@pytest.mark.parametrize("key", KEYS)
def test_liger_gives_the_same(key):
    pytest.importorskip("liger_kernel.ops")
    leaves, target = batch(dtype=torch.float32)
    layer = leaves["input"], leaves["linear_weight"]
    target[2] = -100
    for reduction in ("mean", "none"):
        loss = late(key, reduction=reduction, weight=torch.linspace(0.1, 3, 11))
        value, wanted = LinearLoss(loss, liger=True)(*layer, target), loss(F.linear(*layer), target)
        torch.testing.assert_close(value, wanted)
        ours, theirs = (torch.autograd.grad(x.sum(), layer) for x in (value, wanted))
        for our, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(our, their)
    with pytest.raises(ValueError, match="Liger's kernel is for layers without bias"):
        LinearLoss(loss, liger=True)(**leaves, target=target)


def test_liger_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    monkeypatch.setitem(sys.modules, "liger_kernel.ops", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'noisylabels\[liger\]'"):
        LinearLoss(build("dal"), liger=True)


PEAK = """
import json, torch
from noisylabels.linear import LinearLoss
from noisylabels.losses import build

def peak(step):
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    now = highest = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    return highest

loss = build("dal")
loss.progress = 0.8
tiled = LinearLoss(loss, tile=2**16)
head = torch.nn.Linear(16, 20000)
made = []
for count in (256, 512):
    input, target = torch.randn(count, 16, requires_grad=True), torch.randint(20000, (count,))
    def step():
        tiled(input, head.weight, target, linear_bias=head.bias).backward()
    step()
    head.zero_grad()
    input.grad = None
    made.append(peak(step))
print(json.dumps(made))
"""


def test_memory_does_not_grow_with_the_batch(begin):
    out, err = begin(PEAK, target=warm.code).communicate(timeout=120)
    few, many = json.loads(out) if out else pytest.fail(err)
    gradients = 4 * (20000 * 17)
    tiles = 4 * 2**16
    assert gradients < few < 1.2 * gradients + 3 * tiles  # 512 rows of logits are 41 MB
    assert many - few < 4 * 256 * (16 + 20)  # input's gradient, a few numbers an example


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own
def test_a_compiled_step_is_interrupted_and_goes_on(tiled):
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 5).double(), nn.Linear(5, 11).double()
            self.loss = LinearLoss(build("dal"), tile=8)

        def forward(self, input, target):
            hidden = self.body(input).relu()
            return 2 * self.loss(hidden, self.head.weight, target, linear_bias=self.head.bias)

    torch._dynamo.reset()
    torch.manual_seed(0)
    step, input = Step(), torch.randn(7, 4, dtype=torch.float64)
    target = torch.randint(11, (7,))
    compiled = torch.compile(step, backend="aot_eager")
    for progress in (0.0, 0.8):
        step.loss.progress = progress
        for run in (compiled, step):
            step.zero_grad()
            run(input, target).backward()
            made = [parameter.grad for parameter in step.parameters()]
            if run is compiled:
                ours = made
        for our, their in zip(ours, made, strict=True):
            torch.testing.assert_close(our, their)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(step, backend="aot_eager", fullgraph=True)(input, target)
    torch._dynamo.reset()
