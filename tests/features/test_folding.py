import copy

import pytest
import torch
from torch import nn

from noisylabels.features.folding import fold_batch_norms


def noise(seed=0, count=2, side=16):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64)


def convolution(inputs=3, outputs=3):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Twice(nn.Module):
    """Its convolution is read by the normalisation and beside it."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = convolution(), nn.BatchNorm2d(3)

    def forward(self, images):
        found = self.convolution(images)
        return (found + self.norm(found)).mean((2, 3))


class Reused(nn.Module):
    """Its layers are used twice, each time after what the last one made."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = convolution(), nn.BatchNorm2d(3)

    def forward(self, images):
        return self.norm(self.convolution(self.norm(self.convolution(images)))).mean((2, 3))


class Curious(nn.Module):
    """It looks at its normalisation."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = convolution(), nn.BatchNorm2d(3)

    def forward(self, images):
        return self.norm(self.convolution(images)).mean((2, 3)) / self.norm.num_features


class Changed(nn.Module):
    """What its convolution made is changed in place before it is normalised."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = convolution(), nn.BatchNorm2d(3)

    def forward(self, images):
        return self.norm(torch.relu_(self.convolution(images))).mean((2, 3))


def plain(*layers):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def prepared(network):
    """Give a network statistics as training leaves them."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.3, 3, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, 0.3, 3, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
    # Deep networks of random weights make much of how float32 rounds.
    return network.eval().double()


def timm_model(name):
    return pytest.importorskip("timm").create_model(name, num_classes=0)


def torchvision_model(name):
    return pytest.importorskip("torchvision").models.get_model(name)


@pytest.mark.parametrize(
    ("make", "folded"),
    [
        (lambda: plain(convolution(), nn.BatchNorm2d(3), nn.ReLU()), 1),
        (lambda: plain(convolution(), nn.BatchNorm2d(3, affine=False)), 1),
        (lambda: plain(nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6)), 1),
        # Nothing is linear between them, or no statistics are kept.
        (lambda: plain(convolution(), nn.ReLU(), nn.BatchNorm2d(3)), 0),
        (lambda: plain(nn.BatchNorm2d(3), convolution()), 0),
        (lambda: plain(convolution(), nn.BatchNorm2d(3, track_running_stats=False)), 0),
        (Twice, 0),
        (Reused, 0),
        (Curious, 0),
        (Changed, 0),
        # Activations inside of what normalises, "same" padding, branches.
        (lambda: timm_model("tf_efficientnet_lite0"), 49),
        (lambda: timm_model("test_resnet"), 15),
        (lambda: timm_model("densenet121"), 59),
        (lambda: timm_model("test_vit2"), 0),
        (lambda: torchvision_model("mobilenet_v3_small"), 34),
    ],
)
def test_what_comes_out_stays(make, folded):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = prepared(make())
    side = 64 if "VisionTransformer" in type(network).__name__ else 32
    whole = copy.deepcopy(network)
    layers = [type(module) for module in network.modules()]
    assert fold_batch_norms(network, noise(side=side)) == folded
    left = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert left == sum(isinstance(module, nn.BatchNorm2d) for module in whole.modules()) - folded
    assert folded or [type(module) for module in network.modules()] == layers
    images = noise(seed=7, count=3, side=side)
    with torch.no_grad():
        expected = whole(images)
        found = network(images)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * scale if folded else 0)


def test_hooks_do_not_stay():
    network = prepared(plain(convolution(), nn.BatchNorm2d(3), convolution()))
    fold_batch_norms(network, noise())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
