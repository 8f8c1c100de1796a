"""The command line, its bfloat16 convolutions and linear layers emulated, at a usable speed.

For comparing precisions on a CPU without bfloat16 products, where torch's own bfloat16 convolutions
take minutes an epoch: each product is computed in float32 on values rounded to bfloat16, and its
result rounded again, as hardware does that multiplies in bfloat16 and adds in float32. Everything
else is in the run's precision, so that `--precision bf16` is what this changes:

    python benchmarks/emulated.py train examples/cifar10_dal_small.toml --precision bf16
    python benchmarks/emulated.py --float32-logits train ... --precision bf16

The second form pools features and computes the ResNet's last layer in float32.
"""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisylabels.__main__ import main
from noisylabels.models import ResNet


def rounded(values: Tensor) -> Tensor:
    """Round float32 values, and their gradients, to bfloat16."""
    return values.bfloat16().float()


def convolve(layer: nn.Conv2d, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Stand in for `nn.Conv2d._conv_forward`."""
    geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
    if not torch.is_autocast_enabled("cpu"):
        return F.conv2d(input, weight, bias, *geometry)
    if bias is not None:
        raise NotImplementedError("convolutions with a bias are not emulated")
    with torch.autocast("cpu", enabled=False):
        return F.conv2d(rounded(input), rounded(weight), None, *geometry).bfloat16()


def multiply(layer: nn.Linear, input: Tensor) -> Tensor:
    """Stand in for `nn.Linear.forward`."""
    if not torch.is_autocast_enabled("cpu"):
        return F.linear(input, layer.weight, layer.bias)
    with torch.autocast("cpu", enabled=False):
        return F.linear(rounded(input), rounded(layer.weight), rounded(layer.bias)).bfloat16()


def float32_logits(network: ResNet, input: Tensor) -> Tensor:
    """Stand in for `ResNet.forward`."""
    features = network.stages(F.relu(network.norm(network.conv(input))))
    with torch.autocast("cpu", enabled=False):
        pooled = features.mean((2, 3), dtype=torch.float32)
        return F.linear(pooled, network.head.weight, network.head.bias)


if __name__ == "__main__":
    words = sys.argv[1:]
    nn.Conv2d._conv_forward = convolve
    nn.Linear.forward = multiply
    if "--float32-logits" in words:
        words.remove("--float32-logits")
        ResNet.forward = float32_logits
    sys.exit(main(words))
