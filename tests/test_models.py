import pytest
import torch
from torch import nn

from noisylabels.errors import ConfigError
from noisylabels.models import MODELS


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8)])
def test_logits_have_a_column_per_class(name, shape):
    network = MODELS[name](shape, 7)
    assert network(torch.randn(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "convolutions"),
    [
        ("resnet18", 17),
        ("resnet34", 33),
        ("preact-resnet18", 17),
        ("preact-resnet34", 33),
    ],
)
def test_resnet_has_the_papers_depth_and_shapes(name, convolutions):
    network = MODELS[name]((3, 32, 32), 10, width=16)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert sum(m.kernel_size == (3, 3) for m in layers) == convolutions
    assert sum(m.kernel_size == (1, 1) for m in layers) == 3
    assert layers[0].stride == (1, 1)
    assert network.head.in_features == 16 * 8
    sides = []
    for block in network.stages:
        block.register_forward_hook(lambda _, __, output: sides.append(output.shape[-1]))
    network(torch.randn(1, 3, 32, 32))
    assert sides == sorted(sides, reverse=True)
    assert (sides[0], sides[-1]) == (32, 4)


def test_a_preactivation_block_by_hand():
    """Batch norm and ReLU before each convolution; the shortcut past both, or of the first ReLU."""
    torch.manual_seed(0)
    network = MODELS["preact-resnet18"]((3, 8, 8), 4, width=4).eval()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.weight)
    same, down = network.stages[1], network.stages[2]
    x = torch.randn(2, 4, 8, 8)
    first = same.conv2(same.norm2(same.conv1(same.norm1(x).clamp(min=0))).clamp(min=0)) + x
    torch.testing.assert_close(same(x), first)
    active = down.norm1(first).clamp(min=0)
    second = down.conv2(down.norm2(down.conv1(active)).clamp(min=0)) + down.shortcut(active)
    torch.testing.assert_close(down(first), second)
    features = network.stages(network.conv(images := torch.randn(2, 3, 8, 8)))
    pooled = network.norm(features).clamp(min=0).mean((2, 3))
    torch.testing.assert_close(network(images), network.head(pooled))


def test_width_scales_parameters():
    quarter = MODELS["resnet18"]((3, 32, 32), 10, width=16)
    assert sum(p.numel() for p in quarter.parameters()) == 701_466


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("mlp", {"hidden": (0,)}), ("resnet18", {"width": 0}), ("cnn", {"width": 0})],
)
def test_bad_widths_are_refused(name, wrong):
    with pytest.raises(ConfigError, match="must be in"):
        MODELS[name]((3, 32, 32), 10, **wrong)


def test_mlp_without_hidden_layer_is_linear():
    network = MODELS["mlp"]((1, 8, 8), 3, hidden=())
    assert [type(m) for m in network] == [nn.Flatten, nn.Linear]


def test_a_plain_network_has_no_shortcuts_and_wants_room_for_three_poolings():
    network = MODELS["cnn"]((3, 32, 40), 5, width=4)
    convolutions = [m.out_channels for m in network if isinstance(m, nn.Conv2d)]
    assert convolutions == [4, 4, 8, 8, 16, 16]
    assert [m.in_features for m in network if isinstance(m, nn.Linear)] == [16 * 4 * 5, 256]
    with pytest.raises(ConfigError, match=r"at least 8x8 pixels, got \(32, 7\)"):
        MODELS["cnn"]((1, 32, 7), 5)
