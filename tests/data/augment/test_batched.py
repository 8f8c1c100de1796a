import pytest
import torch
from torchvision.transforms import v2

from noisylabels.data.augment import AUGMENTS
from noisylabels.data.augment.batched import (
    ADJUST,
    _boxes,
    _operations,
    adjust_colours,
    cut_out,
    jitter_colours,
)
from noisylabels.data.augment.parameters import ADJUSTMENTS
from noisylabels.errors import ConfigError
from pictures import generator, smooth_images


@pytest.fixture
def images():
    return torch.randint(1, 256, (200, 3, 8, 6), dtype=torch.uint8, generator=generator(1))


STRONG = {
    "none": {},
    "crop-flip": {"mode": "reflect", "cutout": 5, "jitter": (0.4, 0.4, 0.4, 0.1)},
    "randaugment": {"num_ops": 2, "magnitude": 9, "jitter": (0.4, 0.4, 0.4, 0.1), "cutout": 5},
    "resized-crop": {"jitter": (0.4, 0.4, 0.4, 0.1)},
}


def distance(a, b):
    return (a.int() - b.int()).abs().max().item()


def test_every_image_is_one_of_its_own_crops(images):
    padding = 2
    out = AUGMENTS["crop-flip"](images, generator(), padding=padding)
    assert out.shape == images.shape
    assert out.dtype is torch.uint8
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    seen = set()
    for number, image in enumerate(out):
        matches = [
            (top, left, flip)
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            for flip in (False, True)
            if torch.equal(
                image.flip(2) if flip else image, padded[number, :, top : top + 8, left : left + 6]
            )
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    # 200 draws from 50 possibilities: each has its own, and all places occur.
    assert len(seen) > 40
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(5))
    assert sum(not torch.equal(a, b) for a, b in zip(out, images, strict=True)) > 60


def test_same_state_same_result(images):
    crop_flip = AUGMENTS["crop-flip"]
    assert torch.equal(crop_flip(images, generator()), crop_flip(images, generator()))
    assert not torch.equal(crop_flip(images, generator()), crop_flip(images, generator(5)))


def test_no_padding_only_flips(images):
    out = AUGMENTS["crop-flip"](images, generator(), padding=0)
    flipped = [torch.equal(a, b.flip(2)) for a, b in zip(out, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(out, images, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 70 < sum(flipped) < 130


def test_none_keeps_and_negative_padding_is_refused(images):
    assert AUGMENTS["none"](images, generator()) is images
    with pytest.raises(ConfigError, match="padding must be in"):
        AUGMENTS["crop-flip"](images, generator(), padding=-1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", AUGMENTS)
def test_batched_result(name, channels):
    images = smooth_images(channels=channels)
    before = images.clone()
    out = AUGMENTS[name](images, generator(), **STRONG[name])
    assert torch.equal(images, before)
    assert out.shape == images.shape
    assert out.dtype is torch.uint8
    assert torch.equal(out, AUGMENTS[name](images, generator(), **STRONG[name]))
    assert AUGMENTS[name](images[:0], generator(), **STRONG[name]).shape == images[:0].shape
    if name != "none":
        assert not torch.equal(out, AUGMENTS[name](images, generator(5), **STRONG[name]))


@pytest.mark.parametrize("name", sorted(set(AUGMENTS) - {"none"}))
@pytest.mark.parametrize("change", [{}, {"jitter": (0.4, 0.4, 0.4, 0.1)}])
def test_every_image_has_its_own_draw(name, change):
    images = smooth_images(1).expand(50, -1, -1, -1)
    out = AUGMENTS[name](images, generator(), **change)
    # Of 162 results of crop-flip; the others have many more.
    assert len(out.flatten(1).unique(dim=0)) > 35


def test_new_parameters_leave_the_crops_as_they_were(images):
    """A run from before has the same batches: the first draws are the crop's."""
    plain = AUGMENTS["crop-flip"](images, generator())
    holed = AUGMENTS["crop-flip"](images, generator(), cutout=3)
    assert torch.equal(torch.where(holed == 0, 0, plain), holed)
    draws = generator()
    top, left = torch.randint(9, (2, 200), generator=draws)
    flipped = torch.rand(200, generator=draws) < 0.5
    padded = torch.nn.functional.pad(images, (4,) * 4)
    for number in range(200):
        crop = padded[number, :, top[number] : top[number] + 8, left[number] : left[number] + 6]
        assert torch.equal(plain[number], crop.flip(2) if flipped[number] else crop)


@pytest.mark.parametrize("side", [1, 3, 4, 20])
def test_cutout_is_one_clipped_square_anywhere(side):
    height, width = 8, 6
    black = cut_out(torch.ones(4000, 2, height, width, dtype=torch.uint8), generator(), side) == 0
    assert torch.equal(black[:, 0], black[:, 1])
    rows, columns = black[:, 0].any(2), black[:, 0].any(1)
    assert torch.equal(black[:, 0], rows[:, :, None] & columns[:, None])
    for inside, length in ((rows, height), (columns, width)):
        expected = []
        for middle in range(length):
            square = range(middle - side // 2, middle - side // 2 + side)
            expected.append([place in square for place in range(length)])
        kinds, counts = inside.unique(dim=0, return_counts=True)
        assert {tuple(kind) for kind in kinds.tolist()} == {tuple(kind) for kind in expected}
        share = torch.tensor(expected, dtype=torch.float64).mean(0)
        assert (inside.double().mean(0) - share).abs().max() < 0.03
        assert counts.sum() == 4000


@pytest.mark.parametrize("magnitude", [0, 3, 9, 10, 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_are_torchvisions(monkeypatch, magnitude, channels):
    images = smooth_images(16, channels)
    operations = _operations(magnitude, 32, 24)
    space = v2.RandAugment._AUGMENTATION_SPACE
    assert len(operations) == 2 * len(space)
    reference = v2.RandAugment(1, magnitude, 31)
    for number, operation in enumerate(operations):
        item = list(space.items())[number % len(space)]
        sign = torch.tensor(1.0 if number < len(space) else 0.0)
        with monkeypatch.context() as patch:
            patch.setattr(reference, "_get_random_item", lambda space, item=item: item)
            patch.setattr(torch, "rand", lambda size, sign=sign: sign)
            expected = torch.stack([reference(image) for image in images])
        assert torch.equal(operation(images), expected), (item[0], sign)


def test_randaugment_draws_every_operation_for_every_image_alone(monkeypatch):
    image = smooth_images(1)[0]
    plain = {"padding": 0, "flip": False, "cutout": 0, "magnitude": 9}
    alone = [operation(image[None])[0] for operation in _operations(9, 32, 24)]
    distinct = torch.stack(alone).flatten(1).unique(dim=0)
    # Five operations have no second direction.
    assert len(distinct) == 28 - 5
    out = AUGMENTS["randaugment"](image.expand(2800, -1, -1, -1), generator(), **plain)
    found, counts = out.flatten(1).unique(dim=0, return_counts=True)
    assert torch.equal(found, distinct)
    assert sorted(count > 150 for count in counts.tolist()) == [False] * 18 + [True] * 5
    assert 60 < counts.min() < counts.max() < 260
    # Each image's own operation, not its neighbour's.
    images = smooth_images(40)
    monkeypatch.setattr(
        torch, "randint", lambda high, size, generator: torch.arange(40).expand(size) % high
    )
    out = AUGMENTS["randaugment"](images, generator(), **plain)
    for number, result in enumerate(out):
        assert torch.equal(result, _operations(9, 32, 24)[number % 28](images[number][None])[0])


def test_randaugment_without_operations_is_crop_flip():
    images = smooth_images()
    expected = AUGMENTS["crop-flip"](images, generator(), cutout=16)
    assert torch.equal(AUGMENTS["randaugment"](images, generator(), num_ops=0), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ADJUSTMENTS)
def test_adjustments_are_torchvisions(name, channels):
    images = smooth_images(21, channels)
    amounts = torch.linspace(-0.5, 0.5, 21) if name == "hue" else torch.linspace(0.0, 2.0, 21)
    out = adjust_colours(images, {name: amounts})
    for image, amount, result in zip(images, amounts.tolist(), out, strict=True):
        expected = getattr(v2.functional, f"adjust_{name}")(image, amount)
        assert distance(result, expected) <= (2 if name == "hue" else 1), amount
    if channels == 1 and name in ("saturation", "hue"):
        assert torch.equal(out, images)


def test_adjustments_come_in_the_given_order():
    images = smooth_images(8)
    factor = torch.full((8,), 2.0)
    one = adjust_colours(images, {"brightness": factor, "contrast": factor})
    other = adjust_colours(images, {"contrast": factor, "brightness": factor})
    expected = v2.functional.adjust_contrast(v2.functional.adjust_brightness(images, 2.0), 2.0)
    assert distance(one, expected) <= 2
    assert distance(one, other) > 10
    with pytest.raises(ConfigError, match="unknown adjustment 'colour'"):
        adjust_colours(images, {"colour": factor})


def test_strengths_and_adjustments_are_in_one_order():
    assert tuple(ADJUST) == ADJUSTMENTS


def test_neutral_adjustments_change_nothing():
    images = smooth_images(8)
    neutral = {name: torch.full((8,), float(name != "hue")) for name in ADJUSTMENTS}
    assert distance(adjust_colours(images, neutral), images) == 0
    turns = {"hue": torch.full((8,), 1.0)}
    assert distance(adjust_colours(images, turns), images) <= 1
    assert jitter_colours(images, generator(), (0, 0, 0, 0)) is images


def test_jitter_is_uniform_in_its_range():
    images = torch.full((4000, 3, 1, 1), 100, dtype=torch.uint8)
    factors = jitter_colours(images, generator(), (0.4, 0, 0, 0))[:, 0].double() / 100
    assert factors.min() == pytest.approx(0.6, abs=0.006)
    assert factors.max() == pytest.approx(1.4, abs=0.006)
    assert factors.mean() == pytest.approx(1.0, abs=0.02)
    assert factors.var() == pytest.approx(0.8**2 / 12, rel=0.1)
    # A strength above 1 stops at black, as factors below 0 would be negatives.
    factors = jitter_colours(images, generator(), (1.5, 0, 0, 0))[:, 0].double() / 100
    assert factors.min() < 0.01
    assert factors.mean() == pytest.approx(1.25, abs=0.05)
    assert factors.max() == pytest.approx(2.5, abs=0.006)


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [
        ((32, 24), (0.08, 1.0), (3 / 4, 4 / 3)),
        ((32, 32), (0.3, 0.6), (0.5, 0.5)),
        ((32, 32), (1.0, 1.0), (3.0, 4.0)),
        ((32, 32), (1.0, 1.0), (0.2, 0.25)),
        ((48, 20), (1.0, 1.0), (3 / 4, 4 / 3)),
        ((20, 48), (1.0, 1.0), (3 / 4, 4 / 3)),
        ((3, 1), (0.01, 0.02), (3 / 4, 4 / 3)),
    ],
)
def test_boxes_are_distributed_as_torchvisions(size, scale, ratio):
    count = 2000
    ours = torch.stack(_boxes(count, size, scale, ratio, generator()))
    torch.manual_seed(0)
    reference = v2.RandomResizedCrop(size, scale=scale, ratio=ratio)
    image = torch.zeros(1, *size, dtype=torch.uint8)
    drawn = [reference.make_params([image]) for _ in range(count)]
    theirs = torch.tensor([[box[k] for box in drawn] for k in ("top", "left", "height", "width")])
    assert ours.shape == theirs.shape
    assert (ours >= 0).all()
    assert (ours[:2] + ours[2:] <= torch.tensor(size)[:, None]).all()
    for mine, other, name in zip(ours, theirs, ("top", "left", "height", "width"), strict=True):
        grid = torch.arange(49)[:, None]
        # Kolmogorov-Smirnov: 0.0617 is the 99.9 per cent point for two samples of 2,000.
        gap = ((mine <= grid).double().mean(1) - (other <= grid).double().mean(1)).abs().max()
        assert gap < 0.0617, name


def test_boxes_are_resampled_as_torchvisions(monkeypatch):
    images = smooth_images(200)
    out = AUGMENTS["resized-crop"](images, generator())
    draws = generator()
    boxes = torch.stack(_boxes(200, (32, 24), (0.08, 1.0), (3 / 4, 4 / 3), draws), dim=1).tolist()
    flipped = torch.rand(200, generator=draws) < 0.5
    for number, box in enumerate(boxes):
        expected = v2.functional.resized_crop(images[number], *box, [32, 24], antialias=True)
        expected = expected.flip(2) if flipped[number] else expected
        assert distance(out[number], expected) <= 1
    # Small enough slices that the batch takes several.
    monkeypatch.setattr("noisylabels.data.augment.batched.SLICE", 3 * 32 * 24 * 7)
    assert distance(out, AUGMENTS["resized-crop"](images, generator())) == 0
    amounts = {"hue": torch.linspace(-0.5, 0.5, 200), "contrast": torch.linspace(0.5, 1.5, 200)}
    sliced = adjust_colours(images, amounts)
    monkeypatch.undo()
    assert distance(sliced, adjust_colours(images, amounts)) == 0


def test_whole_image_is_the_largest_box():
    images = smooth_images()
    options = {"scale": (1.0, 1.0), "ratio": (24 / 32, 24 / 32), "flip": False}
    assert torch.equal(AUGMENTS["resized-crop"](images, generator(), **options), images)
