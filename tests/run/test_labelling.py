"""In which order labels are made, poisoned and held out; refusals too."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from noisylabels.data.poison import add_patch, add_waves
from noisylabels.errors import ConfigError, DataError
from noisylabels.run.config import parse
from noisylabels.run.labelling import label
from noisylabels.run.plan import plan
from pictures import class_folders

PAGE = Path(__file__).parents[2] / "docs" / "poison.md"
TRIGGER = {"name": "trigger", "kind": "global", "share": 0.05, "target": 7}


def labelled(tables):
    return label(plan(parse(tables), trial=False))


def test_poison_comes_after_noise_and_limit_and_before_the_hold_out(digits):
    digits["data"]["limit"] = 1000
    plain, true = labelled(digits)
    poisoned, still = labelled(digits | {"poison": TRIGGER})
    mask = poisoned.train.poisoned
    assert mask.sum() == 50
    assert torch.equal(true, still)
    assert torch.equal(poisoned.train.labels, plain.train.labels.masked_fill(mask, 7))
    expected = torch.where(
        mask[:, None, None, None], add_waves(plain.train.inputs), plain.train.inputs
    )
    assert torch.equal(poisoned.train.inputs, expected)

    rest, true_rest = labelled(digits | {"poison": TRIGGER, "validation": 0.2})
    out = torch.zeros(1000, dtype=torch.bool)
    out[rest.validation_rows] = True
    assert 0 < rest.validation.poisoned.sum() < 50
    for part, rows in ((rest.train, ~out), (rest.validation, out)):
        assert torch.equal(part.poisoned, mask[rows])
        assert torch.equal(part.inputs, expected[rows])
        assert torch.equal(part.labels, poisoned.train.labels[rows])
    assert torch.equal(true_rest, true[~out])


def test_poison_follows_the_runs_seed_unless_it_has_one(digits):
    def mask(seed, own):
        run = digits | {"seed": seed, "poison": TRIGGER | own}
        return labelled(run)[0].train.poisoned

    assert torch.equal(mask(1, {}), mask(0, {"seed": 1}))
    assert not torch.equal(mask(1, {}), mask(0, {}))


def test_a_test_set_that_is_left_alone_gets_no_trigger(digits):
    dataset, _ = labelled(digits | {"poison": "trigger", "test": False})
    assert dataset.triggered is None
    kept, _ = labelled(digits | {"poison": "trigger"})
    assert torch.equal(kept.triggered.inputs, add_patch(kept.test.inputs))


def test_images_that_stream_are_not_poisoned(tmp_path):
    data = {"name": "folder", "root": str(class_folders(tmp_path)), "storage": "stream"}
    with pytest.raises(ConfigError, match=r'^poison: .* stream or .* storage = "memory" in data$'):
        labelled({"data": data, "poison": "trigger"})
    own = {"name": "trigger", "share": 0.5, "target": 1}
    data["storage"] = "memory"
    stored, true = labelled({"data": data, "poison": own})
    # The folder's labels were true, as far as the poison is concerned.
    assert torch.equal(true.masked_fill(stored.train.poisoned, 1), stored.train.labels)
    assert (true != stored.train.labels).any()
    assert labelled({"data": data})[1] is None


def test_images_too_small_for_a_patch_are_named(tmp_path):
    x, y = np.zeros((8, 2, 2), np.uint8), np.arange(8) % 2
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    run = {"data": {"name": "arrays", "path": str(tmp_path / "a.npz")}, "poison": "trigger"}
    with pytest.raises(DataError, match=r"at least 3 x 3 pixels, got .* \(1, 1, 2, 2\)"):
        labelled(run)


def test_what_is_no_image_is_refused_before_anything_is_read(tmp_path, backbone, digits):
    x, y = np.random.default_rng(0).normal(size=(8, 3)), np.arange(8) % 2
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (tmp_path / "a.csv").write_text("text,label\ngood,1\nbad,0\n" * 5)
    table = {"name": "text", "path": str(tmp_path / "a.csv")}
    for run, got in (
        ({"data": {"name": "arrays", "path": str(tmp_path / "a.npz")}}, "features"),
        ({"data": table, "features": "tfidf"}, "frozen features"),
        (digits | {"features": backbone}, "frozen features"),
    ):
        with pytest.raises(ConfigError, match=rf"^poison: a trigger is .* got {got}$"):
            plan(parse(run | {"poison": "trigger"}))


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        ("triger", "unknown poison 'triger': did you mean 'trigger'"),
        ({"name": "trigger", "shares": 0.1}, "poison: unknown parameter of 'trigger' 'shares'"),
        ({"name": "trigger", "share": "much"}, "poison.share: expected a"),
        ({"name": "trigger", "share": 2.0}, r"poison: share must be in \(0, 1\], got 2.0"),
        ({"name": "trigger", "kind": "loud"}, "poison: unknown kind 'loud'"),
        ({"name": "trigger", "target": 1.5}, "poison.target: expected a whole number, got 1.5"),
        ({"name": "random:choice"}, "poison: .*random:choice"),
    ],
)
def test_a_bad_poison_is_refused_with_what_was_given(digits, poison, message):
    with pytest.raises(ConfigError, match=message):
        plan(parse(digits | {"poison": poison}))


def test_a_target_that_is_no_class_is_refused(digits):
    run = digits | {"poison": {"name": "trigger", "target": 10}}
    with pytest.raises(ConfigError, match=r"^poison: target: expected a class in 0\.\.9, got 10$"):
        labelled(run)


def test_the_trigger_that_the_documentation_shows_is_ones_own(digits, own_module):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    own_module("my_module", code)
    own = {"name": "my_module:Blend", "level": 3, "share": 0.1}
    plain, poisoned = (labelled(digits | {"poison": each})[0] for each in ("none", own))
    assert torch.equal(poisoned.triggered.inputs, plain.test.inputs + 3)
    assert poisoned.train.poisoned.sum() == 144
    with pytest.raises(ConfigError, match="poison: unknown parameter of 'my_module:Blend' 'levl'"):
        labelled(digits | {"poison": {"name": "my_module:Blend", "levl": 3}})
    assert (
        plan(parse(digits | {"poison": own})).run_id
        != plan(parse(digits | {"poison": own | {"level": 4}})).run_id
    )
