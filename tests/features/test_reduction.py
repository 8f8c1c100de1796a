from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from noisylabels.data.examples import Examples
from noisylabels.data.source import Facts
from noisylabels.errors import ConfigError, DataError
from noisylabels.features import FEATURES, Compute, Features
from noisylabels.features.reduction import Reduced, principal_components
from pictures import smooth_images

CPU = Compute(
    torch.device("cpu"),
    0,
    precision=lambda network, device: "32",
    memory_format=lambda network, precision: torch.contiguous_format,
)


class Pixels(Features):
    """Features of the user's own, which learn nothing and are no network."""

    def check(self):
        pass

    def extract(self, parts, train, compute):
        return {part: each.tensor().flatten(1).float() for part, each in parts.items()}


def examples(count, generator=None):
    images = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)
    return Examples(images, torch.zeros(count, dtype=torch.int64))


@pytest.fixture
def parts():
    generator = torch.Generator().manual_seed(0)
    return {"train": examples(60, generator), "test": examples(20, generator)}


def test_directions_are_those_of_scikit_learn(parts):
    train, test = (Pixels().extract(parts, None, None)[part] for part in ("train", "test"))
    found = Reduced(Pixels(), 5).extract(parts, parts["train"], CPU)
    expected = PCA(5, svd_solver="full").fit(train.double().numpy())
    for part, rows in (("train", train), ("test", test)):
        other = expected.transform(rows.double().numpy())
        signs = np.sign((other * found[part].numpy()).sum(0))
        np.testing.assert_allclose(found[part].numpy(), signs * other, atol=2e-3)


def test_the_greatest_entry_of_each_direction_is_positive(parts):
    vectors = Pixels().extract(parts, None, None)["train"]
    directions = principal_components(vectors, 7)["directions"]
    assert torch.equal(directions.max(1).values, directions.abs().max(1).values)
    torch.testing.assert_close(directions @ directions.T, torch.eye(7), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("count", "length", "expected"), [(4, 9, 3), (20, 6, 6), (20, 9, 8)])
def test_there_are_no_more_directions_than_there_can_be(count, length, expected):
    assert principal_components(torch.randn(count, length), 8)["directions"].shape == (
        expected,
        length,
    )


def test_what_was_learnt_is_learnt_once(parts):
    first = Reduced(Pixels(), 4)
    expected = first.extract(parts, parts["train"], CPU)
    again = Reduced(Pixels(), 4)
    again.restore(first.learnt())
    other = {"train": parts["test"]}
    found = again.extract(other, parts["test"], CPU)
    torch.testing.assert_close(found["train"], expected["test"])
    with pytest.raises(DataError, match="dimensions: expected centre, directions among what was"):
        Reduced(Pixels(), 4).restore({})


def reduced_network(backbone, **changes):
    pytest.importorskip("timm")
    parameters = backbone | {"weights": Path(backbone["weights"])} | changes
    del parameters["name"]
    return FEATURES["timm"](Facts((3, 20, 24), images=True), **parameters)


def test_module_projects_as_well(backbone):
    images = smooth_images(count=30)
    given = Examples(images, torch.zeros(30, dtype=torch.int64))
    made = reduced_network(backbone, dimensions=6)
    vectors = made.extract({"train": given}, given, CPU)["train"]
    assert vectors.shape == (30, 6)
    with torch.no_grad():
        torch.testing.assert_close(made.module().eval()(images), vectors, atol=1e-4, rtol=1e-4)


def test_what_is_fine_tuned_is_not_reduced(backbone):
    with pytest.raises(ConfigError, match="dimensions: expected freeze = true"):
        reduced_network(backbone, dimensions=6, freeze=False)
