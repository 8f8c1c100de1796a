import copy
import math

import pytest
import torch

from noisylabels.errors import ConfigError
from noisylabels.losses import GeneralizedJensenShannonLoss, build
from noisylabels.methods import METHODS
from tiny import COUNT, assert_same_weights, batches, context, descend, network, task, train

gjs = METHODS["gjs"]


def entropy(p):
    return -(p * p.log()).sum(1)


def naive(epochs, pi, views):
    """The published divergence, as the entropy of a mean less the mean of entropies."""
    net, means = network(0), []
    weights = [pi] + [(1 - pi) / views] * views
    for _ in range(epochs):
        total = 0.0
        for batch in batches(views=views):
            label = torch.nn.functional.one_hot(batch.target, 3).double()
            predictions = [net(view).softmax(1).double() for view in batch.views]
            mean = sum(w * p for w, p in zip(weights, [label, *predictions], strict=True))
            own = sum(w * entropy(p) for w, p in zip(weights[1:], predictions, strict=True))
            value = ((entropy(mean) - own) / (-(1 - pi) * math.log(1 - pi))).mean()
            descend(net, torch.autograd.grad(value, list(net.parameters())))
            total += value.item() * len(batch.target)
        means.append(total / COUNT)
    return net, means


@pytest.mark.parametrize(("pi", "views"), [(0.5, 2), (0.1, 2), (0.9, 3)])
def test_with_js_it_is_the_published_divergence(pi, views):
    method = gjs(context(build("js", pi=pi)), pi=pi, views=views)
    assert method.views == views
    means = train(method, 3)
    net, expected = naive(3, pi, views)
    assert means == pytest.approx(expected, rel=1e-5)
    assert_same_weights(method, net, rtol=1e-4, atol=1e-5)


def test_with_js_it_is_the_loss_gjs():
    method = gjs(context(build("js", pi=0.3)), pi=0.3)
    method.begin_epoch()
    (first, *_) = batches(views=2)
    with torch.no_grad():
        logits = torch.stack([network(0)(view) for view in first.views])
    method.train_epoch([first])
    assert method.end_epoch() == pytest.approx(
        GeneralizedJensenShannonLoss(pi=0.3)(logits, first.target).item(), rel=1e-6
    )


def test_another_loss_fits_the_mean_prediction_and_the_views_still_agree():
    method = gjs(context("dal"), pi=0.5)
    method.set_epoch(2, 4)
    method.begin_epoch()
    (first, *_) = batches(views=2)
    net = network(0)
    p, q = (net(view).softmax(1) for view in first.views)
    mean = (p + q) / 2
    apart = (entropy(mean) - (entropy(p) + entropy(q)) / 2).mean()
    loss = build("dal")
    loss.progress = 0.5
    value = loss(mean.log(), first.target) + apart / math.log(2)
    method.train_epoch([first])
    assert method.end_epoch() == pytest.approx(value.item(), rel=1e-5)


def test_views_that_are_alike_cost_nothing():
    method, single = (
        gjs(context("gce"), pi=0.5),
        METHODS["single"](context("gce")),
    )
    for made, alike in ((method, True), (single, False)):
        made.begin_epoch()
        for batch in batches():
            more = (batch.input,) if alike else ()
            made.train_epoch([type(batch)(batch.index, batch.input, batch.target, 1.0, more)])
    assert method.end_epoch() == pytest.approx(single.end_epoch(), rel=1e-5)


@pytest.mark.parametrize("bad", [{"pi": 0.0}, {"pi": 1.1}, {"views": 1}])
def test_bad_values_are_named(bad):
    with pytest.raises(ConfigError, match=f"{next(iter(bad))} must be in"):
        gjs(context(), **bad)


def test_pi_is_that_of_the_loss_js_unless_given():
    loss = build("js", pi=0.3)
    method, told = gjs(context(loss)), gjs(context(build("js", pi=0.3)), pi=0.3)
    assert method.pi == 0.3
    assert train(method, 2) == train(told, 2)
    # As where a schedule moves it.
    loss.pi = 0.6
    assert method.pi == 0.6
    told = gjs(context(loss), pi=0.6)
    told.load_state_dict(copy.deepcopy(method.state_dict()))
    assert train(method, 2) == train(told, 2)
    assert gjs(context("dal")).pi == 0.5
    with pytest.raises(ConfigError, match=r"the loss's pi must be in \(0, 1\], got 0"):
        gjs(context(build("js", pi=0)))


@pytest.mark.parametrize(
    ("pi", "augmented", "expected"),
    [
        (0.5, True, []),
        (None, True, []),
        (0.5, False, ["all views of an example are identical"]),
        (0.3, True, ["the method's pi 0.3 and the loss's 0.5 differ"]),
    ],
)
def test_what_is_not_the_published_method_is_said(pi, augmented, expected):
    said = []
    loss = build("js", pi=0.5)
    gjs(context(loss, task=task(augmented=augmented), say=said.append), pi=pi)
    assert len(said) == len(expected)
    assert all(part in sentence for part, sentence in zip(expected, said, strict=True))
