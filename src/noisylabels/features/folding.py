"""Batch normalisation folded into the convolutions before it, for networks that are frozen."""

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3
"""Greatest difference in what comes out, as a share of the greatest number of it."""


def fold_batch_norms(network: nn.Module, images: Tensor) -> int:
    """Fold batch normalisation into the convolutions before it, in place.

    In evaluation mode both are linear, and together one convolution. What follows what is seen as
    images go through, so that a network need not be written in any special way; and the network is
    left as it was where its output is another one afterwards.

    Args:
        network: In evaluation mode.
        images: Inputs to try it with, float of shape (N, channels, height, width); noise shows
            more than a blank.

    Returns:
        How many were folded.
    """
    with torch.no_grad():
        pairs, expected = _pairs(network, images)
        if not pairs:
            return 0
        before = {name: network.get_submodule(name) for pair in pairs.items() for name in pair}
        for norm, conv in pairs.items():
            convolution, normalisation = before[conv], before[norm]
            assert isinstance(convolution, nn.Conv2d), "as found"
            assert isinstance(normalisation, nn.BatchNorm2d), "as found"
            network.set_submodule(conv, fuse_conv_bn_eval(convolution, normalisation))
            network.set_submodule(norm, _rest(normalisation))
        if _is_close(network, images, expected):
            return len(pairs)
        for name, module in before.items():
            network.set_submodule(name, module)
        return 0


def _pairs(network: nn.Module, images: Tensor) -> tuple[dict[str, str], Tensor]:
    """Return which normalisation alone reads which convolution; and what comes of the images."""
    # Held until the end: the number of a tensor that is gone may be another's.
    outputs: dict[int, tuple[str, Tensor]] = {}
    calls: dict[str, int] = {}
    read: dict[str, str] = {}
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):

            def wrote(_: nn.Module, __: object, output: Tensor, name: str = name) -> None:
                calls[name] = calls.get(name, 0) + 1
                outputs[id(output)] = name, output

            handles.append(module.register_forward_hook(wrote))
        elif _can_be_folded(module):

            def reads(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                calls[name] = calls.get(name, 0) + 1
                if id(inputs[0]) in outputs:
                    read[name] = outputs[id(inputs[0])][0]

            handles.append(module.register_forward_pre_hook(reads))
    try:
        result: Tensor = network(images)
    finally:
        for handle in handles:
            handle.remove()
    readers = list(read.values())
    once = {
        norm: conv
        for norm, conv in read.items()
        if calls[conv] == calls[norm] == readers.count(conv) == 1
    }
    return once, result


def _can_be_folded(module: nn.Module) -> bool:
    if not isinstance(module, nn.BatchNorm2d) or module.running_mean is None:
        return False
    return type(module) is nn.BatchNorm2d or _has_activation(module)


def _has_activation(module: nn.Module) -> bool:
    """Return whether it is timm's, with what comes after it inside."""
    return all(isinstance(getattr(module, name, None), nn.Module) for name in ("drop", "act"))


def _rest(normalisation: nn.BatchNorm2d) -> nn.Module:
    if not _has_activation(normalisation):
        return nn.Identity()
    return nn.Sequential(*(normalisation.get_submodule(name) for name in ("drop", "act")))


def _is_close(network: nn.Module, images: Tensor, expected: Tensor) -> bool:
    try:
        found: Tensor = network(images)
    except Exception:  # it looks at a layer that is another one now, in whatever way
        return False
    difference = (found - expected).abs().max()
    return bool(difference <= TOLERANCE * expected.abs().max())
