import pickle
import statistics

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from noisylabels.data.augment import STREAMED, centre
from pictures import smooth_images

STRONG = {
    "none": {},
    "crop-flip": {"mode": "reflect", "cutout": 5, "jitter": (0.4, 0.4, 0.4, 0.1)},
    "randaugment": {"num_ops": 2, "magnitude": 9, "jitter": (0.4, 0.4, 0.4, 0.1), "cutout": 5},
    "resized-crop": {"jitter": (0.4, 0.4, 0.4, 0.1)},
}


@pytest.mark.parametrize("size", [(32, 24), (40, 40)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", STREAMED)
def test_streamed_result(name, channels, size):
    image = smooth_images(1, channels)[0]
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
    image = smooth_images(1, 3, *shape)[0]
    out = centre(size)(image)
    expected = triangle(triangle(image.double().numpy(), 1, resized[0]), 2, resized[1])
    top, left = ((a - b) / 2 for a, b in zip(resized, size, strict=True))
    expected = expected[:, round(top) :, round(left) :][:, : size[0], : size[1]]
    assert np.abs(out.numpy() - expected).max() <= 1.01
    assert out.shape == (3, *size)
    same = smooth_images(1, 3, *size)[0]
    assert centre(size)(same) is same


@pytest.mark.parametrize("shape", [(20_000, 1), (1, 20_000), (3, 5_000)])
@pytest.mark.parametrize("size", [(224, 224), (28, 60)])
def test_the_centre_of_a_thin_image_costs_no_more_than_its_crop(shape, size, monkeypatch):
    sides = []
    resize = v2.functional.resize

    def watched(image, size, **options):
        sides.extend(size)
        return resize(image, size, **options)

    monkeypatch.setattr(v2.functional, "resize", watched)
    image = torch.full((3, *shape), 9, dtype=torch.uint8)
    middle = [side // 2 for side in shape]
    image[:, middle[0] - 1 : middle[0] + 1, middle[1] - 1 : middle[1] + 1] = 200
    out = centre(size)(image)
    assert out.shape == (3, *size)
    assert max(sides) <= 5 * 256 / 224 * max(size)
    assert out[:, size[0] // 2, size[1] // 2].min() > 100


def test_centre_is_the_usual_evaluation():
    image = smooth_images(1, 3, 300, 401)[0]
    usual = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    assert torch.equal(centre((224, 224))(image), usual(image))
