import pytest
import torch

from noisylabels.data.augment import AUGMENTS
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
