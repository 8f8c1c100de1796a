import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from noisylabels.data.examples import Dataset, Examples, StreamedImages
from noisylabels.data.poison import (
    POISONS,
    Poison,
    Trigger,
    add_patch,
    add_waves,
    apply,
    attack_success,
)
from noisylabels.errors import ConfigError, DataError
from pictures import generator, smooth_images

BOARD = np.array([[255, 0, 255], [0, 255, 0], [255, 0, 255]])


def dataset(train=500, test=40, classes=5):
    inputs = smooth_images(train + test, height=16, width=12)
    labels = torch.randint(classes, (train + test,), generator=generator())
    parts = [
        Examples(inputs[i], labels[i]) for i in torch.arange(train + test).split([train, test])
    ]
    return Dataset(*parts, tuple("abcde"[:classes]), torch.zeros(3), torch.ones(3))


@pytest.mark.parametrize(
    ("height", "width", "cell"), [(8, 8, 1), (32, 24, 1), (32, 32, 1), (63, 90, 1), (64, 70, 2)]
)
def test_the_patch_is_a_checkerboard_in_the_corner_and_nothing_else(height, width, cell):
    images = smooth_images(3, height=height, width=width)
    before = images.clone()
    marked = add_patch(images).numpy()
    assert torch.equal(images, before)
    side = 3 * cell
    expected = np.kron(BOARD, np.ones((cell, cell)))
    assert (marked[:, :, height - side :, width - side :] == expected).all()
    marked[:, :, height - side :, width - side :] = 0
    before[:, :, height - side :, width - side :] = 0
    assert (marked == before.numpy()).all()


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [((3, 32, 32), 6, 6), ((1, 8, 8), 2, 2), ((3, 30, 50), 6, 6), ((1, 3, 12), 1, 3)],
)
def test_the_waves_are_of_at_most_eight_all_over_the_image(shape, rows, columns):
    channels, height, width = shape
    images = smooth_images(4, channels, height, width)
    before = images.clone()
    marked = add_waves(images).numpy().astype(int)
    assert torch.equal(images, before)
    old = before.numpy().astype(int)
    for y, x in itertools.product(range(height), range(width)):
        down, across = (y + 0.5) / height, (x + 0.5) / width
        add = round(8 * math.sin(math.tau * rows * down) * math.cos(math.tau * columns * across))
        assert (marked[:, :, y, x] == np.clip(old[:, :, y, x] + add, 0, 255)).all()
    assert 3 < abs(marked - old).max() <= 8
    assert (add_waves(images.flip(3)) == add_waves(images).flip(3)).all()


def test_what_is_no_image_gets_no_trigger():
    for images in (
        torch.zeros(2, 3, 8, 8),
        torch.zeros(2, 8).byte(),
        torch.zeros(2, 3, 8, 2).byte(),
    ):
        for add in (add_patch, add_waves):
            with pytest.raises(DataError, match=r"uint8 images of shape \(N, C, H, W\), at least"):
                add(images)


@pytest.mark.parametrize(
    ("share", "count", "poisoned"),
    [(0.002, 50_000, 100), (0.002, 5000, 10), (0.002, 20, 1), (0.3, 11, 3), (1.0, 7, 7)],
)
def test_as_many_as_the_share_says_are_chosen(share, count, poisoned):
    rows = Trigger(share=share, seed=0).choose(count)
    assert len(set(rows.tolist())) == len(rows) == poisoned
    assert rows.tolist() == sorted(rows.tolist())
    assert 0 <= rows.min() <= rows.max() < count


def test_the_draw_is_the_seeds_and_grows_with_the_share():
    few, more = (Trigger(share=share, seed=4).choose(1000) for share in (0.01, 0.05))
    assert torch.equal(few, Trigger(share=0.01, seed=4, kind="global", target=3).choose(1000))
    assert set(few.tolist()) < set(more.tolist())
    assert not torch.equal(few, Trigger(share=0.01, seed=5).choose(1000))


@pytest.mark.parametrize(("kind", "add"), [("local", add_patch), ("global", add_waves)])
def test_a_share_of_all_classes_is_marked_and_labelled_as_the_target(kind, add):
    clean = dataset()
    inputs, labels = clean.train.inputs.clone(), clean.train.labels.clone()
    made = apply(clean, Trigger(kind=kind, share=0.1, target=2, seed=0))
    assert torch.equal(clean.train.inputs, inputs)
    assert torch.equal(clean.train.labels, labels)
    poisoned = made.train.poisoned
    assert poisoned.sum() == 50
    assert set(labels[poisoned].tolist()) == set(range(5))
    assert (made.train.labels[poisoned] == 2).all()
    assert torch.equal(made.train.labels[~poisoned], labels[~poisoned])
    assert torch.equal(made.train.inputs[poisoned], add(inputs[poisoned]))
    assert torch.equal(made.train.inputs[~poisoned], inputs[~poisoned])
    assert made.test is clean.test
    said = "50 of 500 training images are poisoned: they have a trigger, and the label 'c'"
    assert made.notes == (said,)
    assert torch.equal(made.triggered.inputs, add(clean.test.inputs))
    assert torch.equal(made.triggered.labels, clean.test.labels)


def test_taken_examples_know_that_they_are_poisoned():
    train = apply(dataset(), Trigger(share=0.1, seed=0)).train
    index = torch.tensor([5, 3, 3, 499])
    assert torch.equal(train.take(index).poisoned, train.poisoned[index])


def test_without_test_images_there_are_none_with_the_trigger():
    made = apply(dataset(test=0), Trigger(seed=0))
    assert made.triggered is None
    assert made.train.poisoned.sum() == 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"share": 0.0}, r"share must be in \(0, 1\], got 0.0"),
        ({"share": 1.5}, r"share must be in \(0, 1\], got 1.5"),
        ({"target": -1}, r"target must be in \[0, inf\), got -1"),
        ({"seed": -1}, "seed must be in"),
        ({"kind": "locl"}, "unknown kind 'locl': did you mean 'local'"),
    ],
)
def test_a_value_outside_its_range_is_refused(parameters, message):
    with pytest.raises(ConfigError, match=message):
        Trigger(**{"seed": 0} | parameters)


def test_a_dataset_that_cannot_be_poisoned_is_refused():
    clean = dataset()
    with pytest.raises(ConfigError, match=r"target: expected a class in 0\.\.4, got 5"):
        apply(clean, Trigger(target=5, seed=0))
    floats = dataclasses.replace(clean.train, inputs=clean.train.inputs / 255)
    streams = dataclasses.replace(clean.train, inputs=StreamedImages(None, None))
    for train in (floats, streams):
        with pytest.raises(ConfigError, match='these stream or are no uint8 .* storage = "memory"'):
            apply(dataclasses.replace(clean, train=train), Trigger(seed=0))


class Dark(Poison):
    def mark(self, images):
        return images // 2


class Wrong(Poison):
    def mark(self, images):
        return images / 2


def test_ones_own_trigger_may_be_anything_that_makes_images():
    clean = dataset()
    made = apply(clean, Dark(share=0.1, seed=0))
    assert torch.equal(made.triggered.inputs, clean.test.inputs // 2)
    with pytest.raises(ConfigError, match=r"mark: expected torch.uint8 .*, got torch.float32 of"):
        apply(clean, Wrong(seed=0))


def test_success_leaves_out_what_is_the_target_anyway():
    random = np.random.default_rng(0)
    without, with_trigger = random.integers(0, 3, (2, 200))
    for target in range(3):
        pairs = [b == target for a, b in zip(without, with_trigger, strict=True) if a != target]
        found = attack_success(torch.from_numpy(without), torch.from_numpy(with_trigger), target)
        assert found == pytest.approx(sum(pairs) / len(pairs))
    assert attack_success(torch.zeros(3).long(), torch.ones(3).long(), 0) is None


def test_none_is_no_poison():
    assert POISONS["none"]() is None
