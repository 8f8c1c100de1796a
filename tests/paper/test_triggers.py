import torch

from noisylabels.data.poison import add_patch, add_waves
from noisylabels.paper.triggers import examples
from pictures import smooth_images


def test_examples_are_the_images_with_and_without_and_what_differs():
    images = smooth_images(5, height=32, width=32)
    rows = examples(images, gain=3)
    assert list(rows) == ["clean", "local", "local, difference", "global", "global, difference"]
    assert torch.equal(rows["clean"], images)
    assert torch.equal(rows["local"], add_patch(images))
    assert torch.equal(rows["global"], add_waves(images))
    for kind in ("local", "global"):
        difference = 3 * (rows[kind].double() - images.double())
        expected = (128 + difference).clamp(0, 255).byte()
        assert torch.equal(rows[f"{kind}, difference"], expected)
    assert (rows["local, difference"][:, :, :-3] == 128).all()
