import inspect
import math

import numpy as np
import pytest
import torch

from noisylabels.data.augment import AUGMENTS, STREAMED
from noisylabels.errors import ConfigError
from pictures import generator, smooth_images


@pytest.fixture
def images():
    return torch.randint(1, 256, (200, 3, 8, 6), dtype=torch.uint8, generator=generator(1))


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


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_batched_and_streamed_crops_are_the_same_set(mode):
    """Both draw all 5 x 5 x 2 crops of the padded image, about equally often."""
    image = smooth_images(1, height=8, width=6)[0]
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
    four = smooth_images(2, channels=4)
    options = {"jitter": (0.1, 0, 0, 0)}
    with pytest.raises(ConfigError, match="must have 1 or 3 channels, got 4"):
        AUGMENTS[name](four, generator(), **options)
    with pytest.raises(ConfigError, match="must have 1 or 3 channels, got 4"):
        STREAMED[name]((32, 24), **options)(four[0])
    if name != "randaugment":
        assert AUGMENTS[name](four, generator()).shape == four.shape
        assert STREAMED[name]((32, 24))(four[0]).shape == four[0].shape
