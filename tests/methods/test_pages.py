"""The code in the documentation of methods."""

import copy
from pathlib import Path

import pytest
import torch

from noisylabels.errors import ConfigError
from noisylabels.methods import METHODS
from tiny import assert_same_state, context, labels, train

PAGES = Path(__file__).parents[2] / "docs" / "methods"


def run_code(page, number):
    """Run one of a page's Python blocks, and return what it defines."""
    blocks = [part.split("```")[0] for part in (PAGES / page).read_text().split("```python\n")[1:]]
    defined = {}
    exec(compile(blocks[number], page, "exec"), defined)
    return defined


def test_the_page_on_ones_own_method_has_one_that_trains_and_continues():
    relabel = run_code("own.md", 0)["Relabel"]
    never, single = relabel(context(), warmup=6), METHODS["single"](context())
    assert train(never, 6) == train(single, 6)
    assert never.metrics() == {"relabelled": 0.0}

    method = relabel(context(), warmup=2, threshold=0.6)
    train(method, 4, of=6)
    method.set_epoch(4, 6)
    confidence, predicted = method.predict("train")[0].exp().max(1)
    method.begin_epoch()
    sure = confidence > 0.6
    assert torch.equal(method.labels[sure], predicted[sure])
    assert torch.equal(method.labels[~sure], labels()[~sure])
    changed = (method.labels != labels()).double().mean().item()
    assert method.metrics() == {"relabelled": changed}
    assert 0 < changed < 1

    again = relabel(context(), warmup=2, threshold=0.6)
    again.load_state_dict(copy.deepcopy(method.state_dict()))
    assert train(again, 6, first=4) == train(method, 6, first=4)
    assert_same_state(again.state_dict(), method.state_dict())
    with pytest.raises(ConfigError, match=r"threshold must be in \[0, 1\], got 2"):
        relabel(context(), threshold=2)


def test_a_method_trains_outside_the_runner():
    torch.manual_seed(0)
    defined = run_code("own.md", 1)
    assert defined["method"].epoch == 9
    right = (defined["predictions"] == defined["y"]).double().mean()
    assert right > 0.6


def test_steps_make_a_loop_of_ones_own():
    torch.manual_seed(0)
    defined = run_code("functional.md", 0)
    (first, second), (of_first, of_second) = defined["losses"], defined["selections"]
    assert len(of_first) == len(of_second) == 76
    # Each has learnt what the other one selected.
    assert first[of_first].mean() < first.mean()
    assert second[of_second].mean() < second.mean()
