"""Networks: ``(input_shape, num_classes, *, the user's parameters) -> nn.Module``."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from noisylabels.errors import ConfigError, check_range

InputShape = tuple[int, ...]


def linear(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Build one linear layer over the flattened inputs.

    Args:
        input_shape: Channels, height and width of an image, or the number of features.
        num_classes: Number of logits.

    Returns:
        The network.

    Shape:
        Input (N, channels, height, width) or (N, D), output (N, ``num_classes``).

    Example:
        >>> sum(p.numel() for p in linear((1280,), 10).parameters())
        12810
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), num_classes))


def mlp(
    input_shape: InputShape, num_classes: int, *, hidden: tuple[int, ...] = (512, 512)
) -> nn.Module:
    """Build a multi-layer perceptron with ReLU over the flattened pixels.

    Args:
        input_shape: Channels, height and width of an image, or the number of features.
        num_classes: Number of logits.
        hidden: Width of each hidden layer.

    Returns:
        The network.

    Shape:
        Input (N, channels, height, width) or (N, D), output (N, ``num_classes``).

    Raises:
        ConfigError: A width is less than 1.

    Example:
        >>> sum(p.numel() for p in mlp((1, 8, 8), 10).parameters())
        301066
    """
    for width in hidden:
        check_range("hidden", width, low=1)
    widths = [math.prod(input_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in zip(widths, hidden, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))


def cnn(input_shape: InputShape, num_classes: int, *, width: int = 64) -> nn.Module:
    """Build a plain network of six 3x3 convolutions and two dense layers, without shortcuts.

    Three pairs of convolutions of ``width``, twice and four times as many channels, each with batch
    norm and ReLU, each pair with 2x2 max pooling; then 256 hidden units.

    Args:
        input_shape: Channels, height and width of an image, sides of at least 8 pixels.
        num_classes: Number of logits.
        width: Channels of the first pair, at least 1.

    Returns:
        The network.

    Shape:
        Input (N, channels, height, width), output (N, ``num_classes``).

    Raises:
        ConfigError: ``width`` is less than 1, or images are smaller.

    Example:
        >>> sum(p.numel() for p in cnn((3, 32, 32), 10).parameters())
        2197706

    References:
        Ma, Huang, Wang, Romano, Erfani, Bailey, "Normalized Loss Functions for Deep Learning with
        Noisy Labels", 2020, whose network for CIFAR-10 has eight layers as well; its widths are
        not ours.
    """
    channels = _channels(input_shape)
    check_range("width", width, low=1)
    height, breadth = (side // 8 for side in input_shape[1:])
    if not height * breadth:
        raise ConfigError(f"cnn: expected images of at least 8x8 pixels, got {input_shape[1:]}")
    layers: list[nn.Module] = []
    for out in (width, 2 * width, 4 * width):
        for before in (channels, out):
            convolution = nn.Conv2d(before, out, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(out), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        channels = out
    hidden = nn.Linear(channels * height * breadth, 256)
    return nn.Sequential(*layers, nn.Flatten(), hidden, nn.ReLU(), nn.Linear(256, num_classes))


def resnet18(input_shape: InputShape, num_classes: int, *, width: int = 64) -> nn.Module:
    """Build ResNet-18 in its CIFAR form: 3x3 first convolution of stride 1, no max pooling.

    Args:
        input_shape: Channels, height and width of an image.
        num_classes: Number of logits.
        width: Channels of the first stage, at least 1; 16 gives a quarter-width network.

    Returns:
        The network.

    Shape:
        Input (N, channels, height, width), output (N, ``num_classes``).

    Raises:
        ConfigError: ``width`` is less than 1.

    Example:
        >>> sum(p.numel() for p in resnet18((3, 32, 32), 10).parameters())
        11173962

    References:
        He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2016, which has a
        7x7 first convolution and max pooling for ImageNet.
    """
    return ResNet(_channels(input_shape), num_classes, blocks=(2, 2, 2, 2), width=width)


def resnet34(input_shape: InputShape, num_classes: int, *, width: int = 64) -> nn.Module:
    """Build ResNet-34 in its CIFAR form, otherwise as :func:`resnet18`.

    Args:
        input_shape: Channels, height and width of an image.
        num_classes: Number of logits.
        width: Channels of the first stage, at least 1.

    Returns:
        The network.

    Shape:
        Input (N, channels, height, width), output (N, ``num_classes``).

    Raises:
        ConfigError: ``width`` is less than 1.

    Example:
        >>> sum(p.numel() for p in resnet34((3, 32, 32), 100).parameters())
        21328292

    References:
        He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2016.
    """
    return ResNet(_channels(input_shape), num_classes, blocks=(3, 4, 6, 3), width=width)


def preact_resnet18(input_shape: InputShape, num_classes: int, *, width: int = 64) -> nn.Module:
    """Build pre-activation ResNet-18 in its CIFAR form, otherwise as :func:`resnet18`.

    Args:
        input_shape: Channels, height and width of an image.
        num_classes: Number of logits.
        width: Channels of the first stage, at least 1.

    Returns:
        The network.

    Shape:
        Input (N, channels, height, width), output (N, ``num_classes``).

    Raises:
        ConfigError: ``width`` is less than 1.

    Example:
        >>> sum(p.numel() for p in preact_resnet18((3, 32, 32), 10).parameters())
        11172170

    References:
        He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", 2016. As in the paper,
        the last block is followed by batch norm and ReLU, which some released code leaves out.
    """
    return PreActResNet(_channels(input_shape), num_classes, blocks=(2, 2, 2, 2), width=width)


def preact_resnet34(input_shape: InputShape, num_classes: int, *, width: int = 64) -> nn.Module:
    """Build pre-activation ResNet-34 in its CIFAR form, otherwise as :func:`preact_resnet18`.

    Args:
        input_shape: Channels, height and width of an image.
        num_classes: Number of logits.
        width: Channels of the first stage, at least 1.

    Returns:
        The network.

    Shape:
        Input (N, channels, height, width), output (N, ``num_classes``).

    Raises:
        ConfigError: ``width`` is less than 1.

    Example:
        >>> sum(p.numel() for p in preact_resnet34((3, 32, 32), 100).parameters())
        21326500

    References:
        He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", 2016.
    """
    return PreActResNet(_channels(input_shape), num_classes, blocks=(3, 4, 6, 3), width=width)


def resnet50(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Build ResNet-50 as torchvision has it, for images of about 224 pixels.

    Args:
        input_shape: Channels, height and width of an image.
        num_classes: Number of logits.

    Returns:
        The network, with random weights.

    Shape:
        Input (N, channels, height, width), output (N, ``num_classes``).

    Raises:
        ConfigError: ``input_shape`` is not that of an image.

    References:
        He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2016.
    """
    import torchvision.models

    network = torchvision.models.resnet50(num_classes=num_classes)
    if _channels(input_shape) != 3:
        network.conv1 = nn.Conv2d(input_shape[0], 64, 7, stride=2, padding=3, bias=False)
    return cast("nn.Module", network)


def _channels(input_shape: InputShape) -> int:
    if len(input_shape) != 3:
        raise ConfigError(
            f"expected images (channels, height, width), got inputs of shape {input_shape}: "
            f"'mlp' takes any"
        )
    return input_shape[0]


class ResNet(nn.Module):
    """A residual network of basic blocks in four stages, for small images.

    Args:
        channels: Channels of an image.
        num_classes: Number of logits.
        blocks: Basic blocks in each stage.
        width: Channels of the first stage; each later stage doubles them and halves the sides.

    Raises:
        ConfigError: ``width`` is less than 1.
    """

    def __init__(self, channels: int, num_classes: int, *, blocks: Sequence[int], width: int):
        super().__init__()
        check_range("width", width, low=1)
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.stages = _stages(BasicBlock, blocks, width)
        self.head = nn.Linear(width * 2 ** (len(blocks) - 1), num_classes)

    def forward(self, input: Tensor) -> Tensor:
        """Compute the logits, of shape (N, num_classes)."""
        features = self.stages(F.relu(self.norm(self.conv(input))))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


class PreActResNet(nn.Module):
    """A residual network of pre-activation blocks in four stages, for small images.

    Args:
        channels: Channels of an image.
        num_classes: Number of logits.
        blocks: Blocks in each stage.
        width: Channels of the first stage; each later stage doubles them and halves the sides.

    Raises:
        ConfigError: ``width`` is less than 1.
    """

    def __init__(self, channels: int, num_classes: int, *, blocks: Sequence[int], width: int):
        super().__init__()
        check_range("width", width, low=1)
        last = width * 2 ** (len(blocks) - 1)
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.stages = _stages(PreActBlock, blocks, width)
        self.norm = nn.BatchNorm2d(last)
        self.head = nn.Linear(last, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        """Compute the logits, of shape (N, num_classes)."""
        features = F.relu(self.norm(self.stages(self.conv(input))))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def _stages(block: Callable[..., nn.Module], counts: Sequence[int], width: int) -> nn.Sequential:
    """Build the stages; each after the first doubles the channels and halves the sides."""
    blocks: list[nn.Module] = []
    before = width
    for stage, count in enumerate(counts):
        after = width * 2**stage
        for number in range(count):
            blocks.append(block(before, after, stride=2 if stage and not number else 1))
            before = after
    return nn.Sequential(*blocks)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes.

    Args:
        before: Input channels.
        after: Output channels.
        stride: Stride of the first convolution.
    """

    def __init__(self, before: int, after: int, *, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and before == after
            else nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )
        )

    def forward(self, input: Tensor) -> Tensor:
        """Compute the block's features."""
        features = F.relu(self.norm1(self.conv1(input)))
        return F.relu(self.norm2(self.conv2(features)) + self.shortcut(input))


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, and a shortcut.

    Where the shape changes, the shortcut is a convolution of what the first ReLU lets through.

    Args:
        before: Input channels.
        after: Output channels.
        stride: Stride of the first convolution.
    """

    def __init__(self, before: int, after: int, *, stride: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut = (
            None
            if stride == 1 and before == after
            else nn.Conv2d(before, after, 1, stride=stride, bias=False)
        )

    def forward(self, input: Tensor) -> Tensor:
        """Compute the block's features."""
        active = F.relu(self.norm1(input))
        kept: Tensor = input if self.shortcut is None else self.shortcut(active)
        features: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return features + kept


class _SumOverProcesses(torch.autograd.Function):
    """A sum over all processes, and of its gradients."""

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        summed = input.clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        summed = grad_output.clone()
        distributed.all_reduce(summed)
        return summed


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics are those of all processes, on any device.

    torch's own needs CUDA.

    Shape:
        Input and output (N, channels, height, width).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise with the mean and variance over all processes' examples."""
        if not self.training or not distributed.is_initialized():
            return super().forward(input)
        values = input.float()
        count = values.new_tensor([values.numel() / values.shape[1]])
        sums = torch.cat([values.sum((0, 2, 3)), (values * values).sum((0, 2, 3)), count])
        total, squares, whole = torch.split(
            _SumOverProcesses.apply(sums),
            [*[self.num_features] * 2, 1],
        )
        mean = total / whole
        variance = squares / whole - mean * mean
        self._follow(mean.detach(), variance.detach(), whole.detach())
        shape = (1, -1, 1, 1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (values * scale.view(shape) + shift.view(shape)).to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1), momentum)


def synchronise_batchnorm(network: nn.Module, device: torch.device) -> nn.Module:
    """Make a network's batch norms take their statistics from all processes.

    Args:
        network: The network; it is changed.
        device: Where it will train.

    Returns:
        The network, with torch's ``SyncBatchNorm`` on CUDA and :class:`SyncBatchNorm2d` elsewhere.
    """
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            # Same parameters and buffers, another forward.
            module.__class__ = SyncBatchNorm2d
    return network


MODELS: dict[str, Callable[..., nn.Module]] = {
    "linear": linear,
    "mlp": mlp,
    "cnn": cnn,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "preact-resnet18": preact_resnet18,
    "preact-resnet34": preact_resnet34,
    "resnet50": resnet50,
}
