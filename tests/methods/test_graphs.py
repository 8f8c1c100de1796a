import copy
import math
import pickle
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from noisylabels import models
from noisylabels.data.batches import Batch
from noisylabels.losses import LOSSES, DynamicsAwareLoss, Loss, build
from noisylabels.methods import METHODS, SingleProcess
from noisylabels.methods.graphs import StepGraph, _Held, is_capturable
from noisylabels.methods.guard import Guard, NonFiniteError
from noisylabels.methods.single import Single
from noisylabels.run.config import parse
from noisylabels.run.launch import launch
from tiny import assert_same_state, context, task, train, weights

PURE = [key for key in LOSSES if vars(type(build(key))).get("pure")]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that has CUDA")


def sgd(network, **options):
    return torch.optim.SGD(network.parameters(), lr=0.1, **options)


def quiet(key, **options):
    loss = build(key, **options)
    loss.warns = False
    return loss


def test_the_losses_of_the_paper_are_pure_but_the_one_that_draws_labels():
    assert {"ce", "mae", "gce", "tce", "js", "sce", "nce+rce", "nce+agce", "ce+sr"} <= set(PURE)
    assert {"btl", "poly1", "dal"} <= set(PURE)
    assert not {"nlnl", "adaptive-dal", "forward", "backward", "peer", "ogc"} & set(PURE)


@pytest.mark.parametrize("progress", [0.0, 0.9])
@pytest.mark.parametrize("key", PURE)
def test_a_pure_loss_decides_nothing_by_its_values(key, progress):
    """Tensors on the meta device have none."""
    loss = quiet(key)
    loss.progress = progress
    logits = torch.zeros(4, 3, device="meta", requires_grad=True)
    loss(logits, torch.zeros(4, dtype=torch.int64, device="meta")).backward()
    assert logits.grad.shape == (4, 3)


class Copies(TorchDispatchMode):
    """Counts copies from the CPU to another device, each of which is waited for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = [each for each in args if isinstance(each, torch.Tensor) and each.ndim]
        if isinstance(made, torch.Tensor) and not made.is_cpu:
            self.count += any(each.is_cpu for each in given) or (
                "_to_copy" in str(func) and args[0].is_cpu
            )
        return made


@pytest.mark.parametrize("progress", [0.0, 0.9])
@pytest.mark.parametrize("targets", ["indices", "probabilities", "candidates"])
@pytest.mark.parametrize("key", [*PURE, "forward", "backward"])
def test_a_loss_copies_nothing_to_its_device(key, targets, progress):
    matrix = {"matrix": [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]}
    loss = quiet(key, **(matrix if key in ("forward", "backward") else {}))
    loss.progress = progress
    if targets == "candidates" and not loss.takes_candidates:
        pytest.skip("not defined")
    kinds = {"indices": torch.int64, "probabilities": torch.float32, "candidates": torch.bool}
    shape = (4,) if targets == "indices" else (4, 3)
    # Tensors that say that they are on a GPU, where there is none to go backward on.
    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = torch.empty(4, 3, device="cuda", requires_grad=True)
        target = torch.empty(shape, dtype=kinds[targets], device="cuda")
        # What is made only once is made in the first step.
        loss(logits, target)
        with Copies() as copies:
            loss(logits, target)
    assert copies.count == 0


def leaves_traces(key, progress):
    """Say whether a call of a loss draws anything or changes the loss."""
    loss = quiet(key)
    loss.progress = progress
    logits, labels = torch.randn(8, 5), torch.arange(8) % 5

    def state():
        drawn = torch.get_rng_state().tolist(), random.getstate()
        # Pickled, for tensors and objects deep within.
        return drawn, pickle.dumps(vars(loss))

    before = state()
    values = [loss(logits.clone().requires_grad_(), labels) for _ in range(2)]
    return state() != before or not torch.equal(*values)


@pytest.mark.parametrize("progress", [0.0, 0.9])
@pytest.mark.parametrize("key", PURE)
def test_a_pure_loss_draws_and_remembers_nothing(key, progress):
    assert not leaves_traces(key, progress)


@pytest.mark.parametrize("key", ["nlnl", "adaptive-dal", "peer"])
def test_other_losses_draw_or_remember(key):
    assert leaves_traces(key, 0.0)


def test_what_a_graph_can_hold():
    network = models.resnet18((3, 8, 8), 3, width=2)
    assert is_capturable(network, sgd(network), quiet("dal"))
    assert not is_capturable(network, torch.optim.Adam(network.parameters()), quiet("dal"))
    assert not is_capturable(network, sgd(network), build("dal"))
    assert not is_capturable(network, sgd(network), quiet("nlnl"))

    class Remembering(DynamicsAwareLoss):
        """As it may."""

    own = Remembering()
    own.warns = False
    assert not is_capturable(network, sgd(network), own)

    class Drawing(nn.Module):
        """May draw by Python."""

    assert not is_capturable(nn.Sequential(network, Drawing()), sgd(network), quiet("dal"))
    counting = nn.Sequential(network, nn.BatchNorm1d(3, momentum=None))
    assert not is_capturable(counting, sgd(counting), quiet("dal"))
    network.register_forward_pre_hook(lambda module, given: None)
    assert not is_capturable(network, sgd(network), quiet("dal"))


class FakeGraph:
    """Stands for a CUDA graph: remembers the step that it has captured, and repeats it."""

    capturing = None

    def pool(self):
        return self

    def capture_begin(self, *, pool, capture_error_mode):
        self.before = pool
        FakeGraph.capturing = self

    def capture_end(self):
        FakeGraph.capturing = None

    def replay(self):
        self.repeat()


class FakeStream:
    device = torch.device("cpu")

    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass


class NoContext:
    def __init__(self, stream):
        pass

    def __enter__(self):
        pass

    def __exit__(self, *error):
        pass


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(StepGraph, "works", True)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", NoContext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream())


def batch(value, count=4, **changes):
    made = Batch(torch.arange(count), torch.full((count, 2), value), torch.zeros(count))
    return replace(made, **changes)


class Sums:
    """A step that sums its inputs, whose numbers are frozen by a graph."""

    def __init__(self, factor=1.0):
        self.factor = factor
        self.by_hand = self.by_graph = 0

    def __call__(self, given):
        loss, finite, factor = torch.zeros(()), torch.zeros((), dtype=torch.bool), self.factor

        def work():
            loss.copy_(factor * given.input.sum())
            finite.copy_(loss.isfinite())

        def repeat():
            self.by_graph += 1
            work()

        if FakeGraph.capturing is not None:
            FakeGraph.capturing.repeat = repeat
        else:
            self.by_hand += 1
            work()
        return loss, finite


def test_every_step_is_made_once_on_its_own_batch(without_gpu):
    said = []
    graph, step = StepGraph(torch.device("cpu"), said.append), Sums()
    given = [1.0, 2.0, 3.0, 4.0, math.inf]
    found = [graph(step, batch(value)) for value in given]
    assert [float(loss) for loss, _ in found] == [8 * value for value in given]
    assert [bool(finite) for _, finite in found] == [True] * 4 + [False]
    assert (step.by_hand, step.by_graph) == (2, 3)
    # An epoch's last batch is smaller; others have a share of a step, or several views.
    for odd in (batch(5.0, 3), batch(5.0, weight=0.5), batch(5.0, others=(torch.ones(4, 2),))):
        assert float(graph(step, odd)[0]) == 5.0 * odd.input.numel()
    assert (step.by_hand, step.by_graph) == (5, 3)
    assert float(graph(step, batch(6.0))[0]) == 48.0
    assert (step.by_hand, step.by_graph) == (5, 4)
    assert not said


def test_an_epoch_has_a_graph_of_its_own(without_gpu):
    graph, step = StepGraph(torch.device("cpu"), print), Sums()
    for epoch in range(3):
        step.factor = float(epoch)
        graph.forget()
        assert not graph.captured
        assert [float(graph(step, batch(1.0))[0]) for _ in range(4)] == [8.0 * epoch] * 4
        assert graph.captured
    assert (step.by_hand, step.by_graph) == (6, 6)
    # Each takes the memory of the one before.
    assert graph._graph.before.before.before is None


def test_a_step_that_waits_is_made_by_hand_and_said_so_once(without_gpu, monkeypatch):
    said = []
    graph, step = StepGraph(torch.device("cpu"), said.append), Sums()

    def refuse(self, **options):
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA error")

    monkeypatch.setattr(FakeGraph, "capture_begin", refuse)
    monkeypatch.setattr(FakeGraph, "capture_end", lambda self: None)
    for _ in range(2):
        graph.forget()
        assert [float(graph(step, batch(1.0))[0]) for _ in range(4)] == [8.0] * 4
    assert (step.by_hand, step.by_graph) == (8, 0)
    assert said == [
        "the training step cannot be made a CUDA graph, so it is slower (operation not permitted "
        "when stream is capturing)"
    ]
    # Nor does the next training of the process try: the allocator may not be what it was.
    other, step = StepGraph(torch.device("cpu"), said.append), Sums()
    assert [float(other(step, batch(1.0))[0]) for _ in range(4)] == [8.0] * 4
    assert (step.by_hand, len(said)) == (4, 1)


class Repeating(StepGraph):
    """Does by Python what a CUDA graph does: makes the captured step again on its own batch."""

    replays = 0

    def _capture(self, step, batch):
        self._held = held = _Held(
            Batch(batch.index, batch.input.clone(), batch.target.clone()),
            torch.zeros(()),
            torch.zeros((), dtype=torch.bool),
        )

        def replay():
            self.replays += 1
            for kept, found in zip(held[1:], step(held.batch), strict=True):
                kept.copy_(found)

        self._graph = SimpleNamespace(replay=replay)


def test_a_method_trains_the_same_by_a_graph(without_gpu):
    """Three batches of eight an epoch, and one of six; momentum, clipping, a rate that falls."""
    plain, graphed = (
        Single(context("dal", momentum=0.9, clip_norm=0.5, lr_factor=lambda progress: 1 - progress))
        for _ in range(2)
    )
    graphed._graph = Repeating(torch.device("cpu"), print)
    assert train(graphed, 4) == train(plain, 4)
    assert graphed._graph.replays == 4
    assert_same_state(graphed.state_dict(), plain.state_dict())


def test_methods_that_look_beyond_the_batch_have_no_graph(without_gpu, monkeypatch):
    made = context()
    monkeypatch.setattr("noisylabels.methods.base.StepGraph", lambda device, say: "graph")
    monkeypatch.setattr("noisylabels.methods.base._is_gpu", lambda device: True, raising=True)
    assert Single(made)._graph == "graph"
    assert METHODS["elr"](made)._graph is None

    class Own(Single):
        """May look at anything."""

    assert Own(made)._graph is None
    assert Single(replace(made, accumulate=2))._graph is None
    assert Single(replace(made, guard=Guard("skip")))._graph is None
    several = SingleProcess()
    several.world_size = 2
    assert Single(replace(made, engine=several))._graph is None


COUNT = 70
"""Examples: four batches of sixteen, and one of six."""


def images(seed=0):
    return torch.randn(COUNT, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def on_gpu(loss, *, precision="32", graphed=True, **changes):
    """A method of a small network on a GPU, and its batches, as a run has them."""
    device = torch.device("cuda", 0)
    run = parse({"data": {"name": "digits"}})
    labels = torch.arange(COUNT) % 3

    def network(number):
        torch.manual_seed(number)
        return models.resnet18((3, 16, 16), 3, width=8)

    own = task(labels=labels, inputs=lambda part: iter([images(1).to(device)]), batch_size=16)
    made = context(
        quiet(loss) if isinstance(loss, str) else loss,
        lr=0.05,
        momentum=0.9,
        engine=launch(run, device, precision),
        network=network,
        lr_factor=lambda progress: 1 - progress,
        task=own,
        **changes,
    )
    made.loss.to(device)
    method = Single(made)
    assert method._graph is not None
    if not graphed:
        method._graph = None
    x = images().to(device)
    order = torch.arange(COUNT, device=device).split(16)
    return method, [Batch(i, x[i], labels.to(device)[i]) for i in order]


def trained(method, batches, epochs=3):
    means = []
    for epoch in range(epochs):
        method.set_epoch(epoch, epochs)
        method.begin_epoch()
        method.train_epoch(batches)
        means.append(method.end_epoch())
    return means


def follow(method, plain, batches, precision):
    """Make each step from the same state by both, for a GPU's sums have no fixed order."""
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if precision == "32" else {"rtol": 2e-2, "atol": 2e-3}
    for batch in batches:
        before = copy.deepcopy(method.state_dict())
        # Not load_state_dict: the graph of the epoch is to be used.
        plain.load_state_dict(before)
        method.train_epoch([batch])
        plain.train_epoch([batch])
        torch.testing.assert_close(method._total, plain._total, **tolerance)
        for ours, theirs in zip(weights(method), weights(plain), strict=True):
            torch.testing.assert_close(ours, theirs, **tolerance)


@needs_gpu
@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("key", PURE)
def test_graphs_make_the_same_steps(key, precision):
    method, batches = on_gpu(key, precision=precision)
    plain, _ = on_gpu(key, precision=precision, graphed=False)
    for epoch in range(3):
        for each in (method, plain):
            each.set_epoch(epoch, 3)
            each.begin_epoch()
        follow(method, plain, batches, precision)
        assert method._graph.captured


@needs_gpu
def test_graphs_continue_within_an_epoch():
    cut, batches = on_gpu("dal")
    cut.set_epoch(0, 1)
    cut.begin_epoch()
    cut.train_epoch(batches[:4])
    method, plain = on_gpu("dal")[0], on_gpu("dal", graphed=False)[0]
    for each in (method, plain):
        each.load_state_dict(copy.deepcopy(cut.state_dict()))
        each.set_epoch(0, 1)
        assert each.step == 4
    follow(method, plain, [*batches[:4], batches[4]], "32")
    assert method._graph.captured


@needs_gpu
def test_a_step_of_a_graph_that_is_not_finite_is_named():
    method, batches = on_gpu("ce")
    bad = replace(batches[3], input=torch.full_like(batches[3].input, math.nan))
    method.set_epoch(0, 1)
    method.begin_epoch()
    method.train_epoch([*batches[:3], bad, batches[0]])
    with pytest.raises(NonFiniteError) as error:
        method.end_epoch()
    assert error.value.step == 3
    assert method._graph.captured


@needs_gpu
def test_a_loss_that_waits_for_the_gpu_is_trained_without_a_graph(monkeypatch):
    said = []
    monkeypatch.setattr(StepGraph, "works", True)
    loss = quiet("ce")
    compute = Loss._reduced
    monkeypatch.setattr(
        Loss, "_reduced", lambda self, x, y: compute(self, x, y) * (1 + 0 * float(x.sum()))
    )
    method, batches = on_gpu(loss, say=said.append)
    means = trained(method, batches)
    assert not method._graph.captured
    assert len(said) == 1
    assert "cannot be made a CUDA graph" in said[0]
    assert means[-1] < means[0]


@needs_gpu
def test_training_leaves_no_memory_behind_by_epoch():
    method, batches = on_gpu("dal", precision="bf16")
    trained(method, batches, 2)
    torch.cuda.synchronize()
    before = torch.cuda.memory_reserved()
    trained(method, batches, 30)
    assert torch.cuda.memory_reserved() <= before + 2**24
