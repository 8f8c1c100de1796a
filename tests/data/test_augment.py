import inspect
import math
import pickle
import statistics

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from noisylabels.data.augment import (
    ADJUSTMENTS,
    AUGMENTS,
    STREAMED,
    _boxes,
    _operations,
    adjust_colours,
    centre,
    cut_out,
    jitter_colours,
)
from noisylabels.errors import ConfigError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.randint(1, 256, (200, 3, 8, 6), dtype=torch.uint8, generator=generator(1))


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


def pictures(count=64, channels=3, height=32, width=24, seed=1):
    """Smooth coloured images with both flat black and flat white in them, and some noise."""
    coarse = torch.rand(count, channels, 4, 4, generator=generator(seed)) * 1.4 - 0.2
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    smooth += 0.05 * torch.randn(smooth.shape, generator=generator(seed + 1))
    return (smooth.clamp(0, 1) * 255).to(torch.uint8)


def distance(a, b):
    return (a.int() - b.int()).abs().max().item()


def parameters(function):
    return {
        name: (parameter.default, parameter.annotation)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def test_both_forms_have_the_same_names_and_parameters():
    assert list(AUGMENTS) == list(STREAMED)
    for name, augment in AUGMENTS.items():
        assert parameters(augment) == parameters(STREAMED[name]), name


STRONG = {
    "none": {},
    "crop-flip": {"mode": "reflect", "cutout": 5, "jitter": (0.4, 0.4, 0.4, 0.1)},
    "randaugment": {"num_ops": 2, "magnitude": 9, "jitter": (0.4, 0.4, 0.4, 0.1), "cutout": 5},
    "resized-crop": {"jitter": (0.4, 0.4, 0.4, 0.1)},
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", AUGMENTS)
def test_batched_result(name, channels):
    images = pictures(channels=channels)
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
    images = pictures(1).expand(50, -1, -1, -1)
    out = AUGMENTS[name](images, generator(), **change)
    # Of 162 results of crop-flip; the others have many more.
    assert len(out.flatten(1).unique(dim=0)) > 35


@pytest.mark.parametrize("size", [(32, 24), (40, 40)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", STREAMED)
def test_streamed_result(name, channels, size):
    image = pictures(1, channels)[0]
    before = image.clone()
    # Workers are given the augmentation by pickle on some platforms.
    augment = pickle.loads(pickle.dumps(STREAMED[name](size, **STRONG[name])))
    out = []
    for seed in (0, 0, *range(1, 5)):
        torch.manual_seed(seed)
        out.append(augment(image))
        assert out[-1].shape == (channels, *size)
        assert out[-1].dtype is torch.uint8
    assert torch.equal(image, before)
    assert torch.equal(out[0], out[1])
    assert len(torch.stack(out).flatten(1).unique(dim=0)) == (1 if name == "none" else 5)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_batched_and_streamed_crops_are_the_same_set(mode):
    """Both draw all 5 x 5 x 2 crops of the padded image, about equally often."""
    image = pictures(1, height=8, width=6)[0]
    padded = np.pad(image.numpy(), ((0, 0), (2, 2), (2, 2)), mode=mode)
    crops = {
        np.ascontiguousarray(crop).tobytes()
        for top in range(5)
        for left in range(5)
        for crop in [padded[:, top : top + 8, left : left + 6]]
        for crop in (crop, crop[:, :, ::-1])
    }
    assert len(crops) == 50
    options = {"padding": 2, "mode": mode}
    torch.manual_seed(0)
    augment = STREAMED["crop-flip"]((8, 6), **options)
    for results in (
        AUGMENTS["crop-flip"](image.expand(1500, -1, -1, -1), generator(), **options),
        [augment(image) for _ in range(1500)],
    ):
        seen = [result.numpy().tobytes() for result in results]
        counts = [seen.count(crop) for crop in crops]
        assert sum(counts) == 1500
        # Chi-squared with 49 degrees of freedom: 85 is its 99.9 per cent point.
        assert sum((count - 30) ** 2 / 30 for count in counts) < 85


def test_crop_without_flip(images):
    out = AUGMENTS["crop-flip"](images, generator(), padding=0, flip=False)
    assert torch.equal(out, images)
    torch.manual_seed(0)
    augment = STREAMED["crop-flip"]((8, 6), padding=0, flip=False)
    assert all(torch.equal(augment(image), image) for image in images)


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


def test_streamed_cutout_is_a_square_of_its_own():
    augment = STREAMED["crop-flip"]((16, 16), padding=0, cutout=6)
    image = torch.ones(3, 16, 16, dtype=torch.uint8)
    torch.manual_seed(0)
    areas = [(augment(image) == 0).sum().item() / 3 for _ in range(400)]
    # A side has its full length for 11 of 16 centres, and 3, 3, 4, 4, 5 at the border.
    expected = ((6 * 11 + 3 + 4 + 5 + 5 + 4) / 16) ** 2
    assert max(areas) == 36
    assert min(areas) == 9
    assert statistics.mean(areas) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("magnitude", [0, 3, 9, 10, 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_are_torchvisions(monkeypatch, magnitude, channels):
    images = pictures(16, channels)
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
    image = pictures(1)[0]
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
    images = pictures(40)
    monkeypatch.setattr(
        torch, "randint", lambda high, size, generator: torch.arange(40).expand(size) % high
    )
    out = AUGMENTS["randaugment"](images, generator(), **plain)
    for number, result in enumerate(out):
        assert torch.equal(result, _operations(9, 32, 24)[number % 28](images[number][None])[0])


def test_randaugment_without_operations_is_crop_flip():
    images = pictures()
    expected = AUGMENTS["crop-flip"](images, generator(), cutout=16)
    assert torch.equal(AUGMENTS["randaugment"](images, generator(), num_ops=0), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ADJUSTMENTS)
def test_adjustments_are_torchvisions(name, channels):
    images = pictures(21, channels)
    amounts = torch.linspace(-0.5, 0.5, 21) if name == "hue" else torch.linspace(0.0, 2.0, 21)
    out = adjust_colours(images, {name: amounts})
    for image, amount, result in zip(images, amounts.tolist(), out, strict=True):
        expected = getattr(v2.functional, f"adjust_{name}")(image, amount)
        assert distance(result, expected) <= (2 if name == "hue" else 1), amount
    if channels == 1 and name in ("saturation", "hue"):
        assert torch.equal(out, images)


def test_adjustments_come_in_the_given_order():
    images = pictures(8)
    factor = torch.full((8,), 2.0)
    one = adjust_colours(images, {"brightness": factor, "contrast": factor})
    other = adjust_colours(images, {"contrast": factor, "brightness": factor})
    expected = v2.functional.adjust_contrast(v2.functional.adjust_brightness(images, 2.0), 2.0)
    assert distance(one, expected) <= 2
    assert distance(one, other) > 10
    with pytest.raises(ConfigError, match="unknown adjustment 'colour'"):
        adjust_colours(images, {"colour": factor})


def test_neutral_adjustments_change_nothing():
    images = pictures(8)
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
    count = 4000
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
        # Kolmogorov-Smirnov: 0.0436 is the 99.9 per cent point for two samples of 4,000.
        gap = ((mine <= grid).double().mean(1) - (other <= grid).double().mean(1)).abs().max()
        assert gap < 0.0436, name


def test_boxes_are_resampled_as_torchvisions(monkeypatch):
    images = pictures(200)
    out = AUGMENTS["resized-crop"](images, generator())
    draws = generator()
    boxes = torch.stack(_boxes(200, (32, 24), (0.08, 1.0), (3 / 4, 4 / 3), draws), dim=1).tolist()
    flipped = torch.rand(200, generator=draws) < 0.5
    for number, box in enumerate(boxes):
        expected = v2.functional.resized_crop(images[number], *box, [32, 24], antialias=True)
        expected = expected.flip(2) if flipped[number] else expected
        assert distance(out[number], expected) <= 1
    # Small enough slices that the batch takes several.
    monkeypatch.setattr("noisylabels.data.augment.SLICE", 3 * 32 * 24 * 7)
    assert distance(out, AUGMENTS["resized-crop"](images, generator())) == 0
    amounts = {"hue": torch.linspace(-0.5, 0.5, 200), "contrast": torch.linspace(0.5, 1.5, 200)}
    sliced = adjust_colours(images, amounts)
    monkeypatch.undo()
    assert distance(sliced, adjust_colours(images, amounts)) == 0


def test_whole_image_is_the_largest_box():
    images = pictures()
    options = {"scale": (1.0, 1.0), "ratio": (24 / 32, 24 / 32), "flip": False}
    assert torch.equal(AUGMENTS["resized-crop"](images, generator(), **options), images)


def test_streamed_resized_crop_sees_the_whole_image():
    """What a centre crop would have thrown away is in some of the boxes."""
    image = torch.zeros(1, 64, 128, dtype=torch.uint8)
    image[:, :, :16] = 255
    torch.manual_seed(0)
    augment = STREAMED["resized-crop"]((16, 16))
    seen = sum(augment(image).max().item() > 0 for _ in range(200))
    assert 10 < seen < 190


def triangle(image, dim, count):
    """Shrink one axis with weights that fall linearly with the distance: a slow second form."""
    length = image.shape[dim]
    factor = length / count
    weights = np.zeros((count, length))
    for number in range(count):
        middle = (number + 0.5) * factor
        for place in range(length):
            weights[number, place] = max(0.0, 1 - abs(place + 0.5 - middle) / max(1.0, factor))
    weights /= weights.sum(1, keepdims=True)
    return np.moveaxis(np.tensordot(weights, image, (1, dim)), 0, dim)


@pytest.mark.parametrize(
    ("shape", "size", "resized"),
    [
        ((50, 70), (28, 28), (32, 44)),
        ((70, 50), (28, 28), (44, 32)),
        ((20, 14), (28, 28), (45, 32)),
        ((60, 60), (28, 14), (32, 32)),
        ((60, 100), (14, 28), (19, 32)),
    ],
)
def test_centre_covers_and_cuts_the_middle(shape, size, resized):
    image = pictures(1, 3, *shape)[0]
    out = centre(size)(image)
    expected = triangle(triangle(image.double().numpy(), 1, resized[0]), 2, resized[1])
    top, left = ((a - b) / 2 for a, b in zip(resized, size, strict=True))
    expected = expected[:, round(top) :, round(left) :][:, : size[0], : size[1]]
    assert np.abs(out.numpy() - expected).max() <= 1.01
    assert out.shape == (3, *size)
    same = pictures(1, 3, *size)[0]
    assert centre(size)(same) is same


def test_centre_is_the_usual_evaluation():
    image = pictures(1, 3, 300, 401)[0]
    usual = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    assert torch.equal(centre((224, 224))(image), usual(image))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("crop-flip", {"padding": -1}, r"padding must be in \[0, 8\], got -1"),
        ("crop-flip", {"padding": 9}, r"padding must be in \[0, 8\], got 9"),
        ("crop-flip", {"padding": 6, "mode": "reflect"}, r"padding must be in \[0, 5\], got 6"),
        ("crop-flip", {"mode": "reflekt"}, "unknown mode 'reflekt': did you mean 'reflect'"),
        ("crop-flip", {"cutout": -1}, "cutout must be in"),
        ("crop-flip", {"jitter": (-0.1, 0, 0, 0)}, "jitter: brightness must be in"),
        ("crop-flip", {"jitter": (0, math.inf, 0, 0)}, "jitter: contrast must be in"),
        ("crop-flip", {"jitter": (0, 0, math.nan, 0)}, "jitter: saturation must be in"),
        ("crop-flip", {"jitter": (0, 0, 0, 0.6)}, r"jitter: hue must be in \[0, 0.5\], got 0.6"),
        ("crop-flip", {"jitter": (0.1, 0.1, 0.1)}, "jitter must be the four strengths of"),
        ("randaugment", {"num_ops": -1}, "num_ops must be in"),
        ("randaugment", {"magnitude": 31}, r"magnitude must be in \[0, 30\], got 31"),
        ("randaugment", {"magnitude": -1}, "magnitude must be in"),
        ("randaugment", {"padding": 6, "mode": "reflect"}, "padding must be in"),
        ("randaugment", {"cutout": -1}, "cutout must be in"),
        ("resized-crop", {"scale": (0.0, 1.0)}, r"scale\[0\] must be in \(0, 1\], got 0"),
        ("resized-crop", {"scale": (0.5, 0.4)}, r"scale\[1\] must be in \[0.5, 1\], got 0.4"),
        ("resized-crop", {"scale": (0.5, 1.1)}, r"scale\[1\] must be in"),
        ("resized-crop", {"ratio": (0.0, 1.0)}, r"ratio\[0\] must be in"),
        ("resized-crop", {"ratio": (2.0, 1.0)}, r"ratio\[1\] must be in"),
        ("resized-crop", {"jitter": (0, 0, 0, -0.1)}, "jitter: hue must be in"),
    ],
)
def test_both_forms_refuse_the_same_values(images, name, change, message):
    with pytest.raises(ConfigError, match=message):
        AUGMENTS[name](images, generator(), **change)
    with pytest.raises(ConfigError, match=message):
        STREAMED[name]((8, 6), **change)


@pytest.mark.parametrize("name", AUGMENTS)
def test_other_tensors_are_refused(images, name):
    streamed = STREAMED[name]((8, 6))
    for bad in (images.float(), images[0]):
        if name == "none":
            assert AUGMENTS[name](bad, generator()) is bad
            continue
        with pytest.raises(ConfigError, match="images must be uint8 of shape"):
            AUGMENTS[name](bad, generator())
    for bad in (images[0].float(), images):
        with pytest.raises(ConfigError, match="image must be uint8 of shape"):
            streamed(bad)
    with pytest.raises(ConfigError, match=r"size\[1\] must be in"):
        STREAMED[name]((8, 0))
    with pytest.raises(ConfigError, match="size must be a height and a width"):
        STREAMED[name]((8,))


@pytest.mark.parametrize("name", sorted(set(AUGMENTS) - {"none"}))
def test_colour_changes_need_gray_or_red_green_blue(name):
    four = pictures(2, channels=4)
    options = {"jitter": (0.1, 0, 0, 0)}
    with pytest.raises(ConfigError, match="must have 1 or 3 channels, got 4"):
        AUGMENTS[name](four, generator(), **options)
    with pytest.raises(ConfigError, match="must have 1 or 3 channels, got 4"):
        STREAMED[name]((32, 24), **options)(four[0])
    if name != "randaugment":
        assert AUGMENTS[name](four, generator()).shape == four.shape
        assert STREAMED[name]((32, 24))(four[0]).shape == four[0].shape
