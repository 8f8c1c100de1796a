r"""The dynamics-aware loss: value and gradient in one pass over the logits.

Written out with autograd, the loss keeps several N x K intermediates and walks through memory once
for each. Here, on the CPU, the logits are taken a block of rows at a time, small enough to stay in
the cache, and the forward pass forms the gradient too; on GPUs a Triton kernel does so, a row at a
time, where Triton is there (it comes with torch) and works. With
:math:`c = \lambda/(q \log K)` it is

.. math::
    \frac{\partial \ell}{\partial z_k} =
    p_k \bigl(p_y^q - c \, (H(p) + \log p_k)\bigr) - p_y^q \, [k = y]

so that nothing of size N x K is kept but the gradient itself.
"""

import functools
import importlib.util
import math
import warnings
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from noisylabels import functional

BLOCK = 2**18
"""Logits in a block: 1 MiB in float32."""
LN2 = math.log(2)
KERNEL_DTYPES = (torch.float32, torch.bfloat16)
"""Logits of the kernel, which rounds gradients before a scale of the loss is multiplied in.

In float16 most of them would round to 0, which is what scales are for."""


def applies(
    input: Tensor,
    target: Tensor,
    *,
    lamb: float,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> bool:
    """Say whether :func:`dynamics_aware` can take the place of the composed loss.

    It can for the common case: a bootstrapping term, (N, C) logits that need a gradient, class
    indices without smoothing or class weights, a mean or a sum; on the CPU float32 or float64 and
    indices in [0, C) of which none is ignored, on a GPU float32 or bfloat16 and Triton; and
    neither ``torch.compile``, which fuses the composed loss itself, nor a ``torch.func`` transform,
    nor forward mode.

    Args:
        input: Logits.
        target: Class indices or class probabilities.
        lamb: Weight of the bootstrapping term.
        weight: Weight of each class.
        ignore_index: Class index whose examples count for nothing.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        label_smoothing: How far targets are moved to the uniform distribution.

    Returns:
        Whether it can.
    """
    return (
        # Asked first: a compiled graph must not ask whether the weight is 0.
        not torch.compiler.is_compiling()
        and lamb > 0
        and type(input) in (Tensor, nn.Parameter)
        and input.requires_grad
        and torch.is_grad_enabled()
        and input.ndim == 2
        and input.numel() > 0
        and target.dtype == torch.int64
        and target.shape == input.shape[:1]
        and weight is None
        and reduction != "none"
        and label_smoothing == 0
        # There is no public way to ask; autograd.Function.apply asks the same.
        and not torch._C._are_functorch_transforms_active()
        and forward_ad.unpack_dual(input).tangent is None  # type: ignore[no-untyped-call]
        and (
            _has_kernel(input)
            or (
                input.is_cpu
                and input.dtype in (torch.float32, torch.float64)
                and _all_known(target, input.shape[1], ignore_index)
            )
        )
    )


def _has_kernel(input: Tensor) -> bool:
    """Say whether the Triton kernel computes the loss of these logits."""
    return input.is_cuda and input.dtype in KERNEL_DTYPES and _works(input.device, input.dtype)


@functools.cache
def _works(device: torch.device, dtype: torch.dtype) -> bool:
    """Try the kernel on a tiny batch, and warn where Triton is there but cannot launch it.

    Triton compiles when it is first called: that takes a C compiler and Python's headers, and a GPU
    that is new enough.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    logits = torch.zeros(2, 3, device=device, dtype=dtype)
    target = torch.zeros(2, device=device, dtype=torch.int64)
    try:
        _by_kernel(logits, target, 1.5, 1.0, "mean", -100)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
        warnings.warn(
            f"Triton does not work on {device} ({reason}): the dynamics-aware loss is computed "
            f"without it, with the same result and more memory",
            stacklevel=2,
        )
        return False
    return True


def _all_known(target: Tensor, classes: int, ignore_index: int) -> bool:
    """Say whether all targets are classes and none is ignored."""
    least, greatest = target.aminmax()
    if least.item() < 0 or greatest.item() >= classes:
        return False
    return not 0 <= ignore_index < classes or not bool((target == ignore_index).any())


def dynamics_aware(
    input: Tensor,
    target: Tensor,
    *,
    q: float,
    lamb: float,
    reduction: str,
    ignore_index: int = -100,
) -> Tensor:
    """Compute the reduced dynamics-aware loss, see :func:`noisylabels.functional.dynamics_aware`.

    Args:
        input: Logits for which :func:`applies` holds.
        target: Class indices for which it does.
        q: Exponent, above 0.
        lamb: Weight of the bootstrapping term, at least 0.
        reduction: ``"mean"`` or ``"sum"``.
        ignore_index: Class index whose examples count for nothing.

    Returns:
        A scalar.

    Shape:
        ``input``: (N, C); ``target``: (N).

    Example:
        >>> logits = torch.zeros(1, 4, requires_grad=True)
        >>> dynamics_aware(logits, torch.tensor([0]), q=2.0, lamb=1.0, reduction="mean")
        tensor(0.9688, grad_fn=<_DynamicsAwareBackward>)
    """
    value: Tensor = _DynamicsAware.apply(input, target, q, lamb, reduction, ignore_index)
    return value


class _DynamicsAware(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        target: Tensor,
        q: float,
        lamb: float,
        reduction: str,
        ignore_index: int,
    ) -> Tensor:
        if _has_kernel(input):
            value, gradient = _by_kernel(input, target, q, lamb, reduction, ignore_index)
        else:
            scale = 1 / len(input) if reduction == "mean" else 1.0
            total, gradient = _value_and_gradient(input, target, q, lamb, scale)
            value = input.new_tensor(total)
        ctx.save_for_backward(target, gradient)
        # Not saved with it: as for other losses, logits may change in place once this is computed.
        ctx.kept, ctx.logits, ctx.version = input, weakref.ref(input), input._version
        ctx.settings = q, lamb, reduction, ignore_index
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        target, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():
            # The gradient is to be differentiated again: compose it.
            input = ctx.logits()
            if input is None or input._version != ctx.version:
                raise RuntimeError(
                    "the gradient of a dynamics-aware loss is to be differentiated, and its logits "
                    "are gone or have been modified by an inplace operation"
                )
            q, lamb, reduction, ignore_index = ctx.settings
            value = functional.reduce(
                functools.partial(functional.dynamics_aware, q=q, lamb=lamb),
                input,
                target,
                ignore_index=ignore_index,
                reduction=reduction,
            )
            (gradient,) = torch.autograd.grad(value, input, grad_output, create_graph=True)
            return gradient, None, None, None, None, None
        # Whoever keeps the loss of every step keeps no logits.
        ctx.kept = None
        if not _is_known_to_be_1(grad_output):
            gradient = gradient * grad_output
        return gradient, None, None, None, None, None


def _is_known_to_be_1(number: Tensor) -> bool:
    # Other devices would have to be waited for.
    if not number.is_cpu:
        return False
    try:
        return number.item() == 1
    except RuntimeError:
        # Several numbers at once, by vmap.
        return False


def _by_kernel(
    input: Tensor, target: Tensor, q: float, lamb: float, reduction: str, ignore_index: int
) -> tuple[Tensor, Tensor]:
    from noisylabels import _kernel

    classes = input.shape[1]
    scale = torch.ones((), device=input.device)
    if reduction == "mean":
        scale = scale / (target != ignore_index).sum()
    return _kernel.value_and_gradient(
        input,
        target,
        q=q,
        weight=functional.entropy_weight(classes, q=q, lamb=lamb) if classes > 1 else 0.0,
        scale=scale,
        ignore_index=ignore_index,
    )


def _value_and_gradient(
    input: Tensor, target: Tensor, q: float, lamb: float, scale: float
) -> tuple[float, Tensor]:
    count, classes = input.shape
    rows = max(1, BLOCK // classes)
    if rows >= count:
        return _block(input, target, q, lamb, scale, None)
    gradient = torch.empty_like(input, memory_format=torch.contiguous_format)
    total = 0.0
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        total += _block(input[part], target[part], q, lamb, scale, gradient[part])[0]
    return total, gradient


def _block(
    input: Tensor, target: Tensor, q: float, lamb: float, scale: float, out: Tensor | None
) -> tuple[float, Tensor]:
    """Compute the scaled loss of a block of rows, and its gradient into ``out``."""
    classes = input.shape[1]
    # Small batches cost what their operations cost to start: numbers of one row stay in Python.
    weight = functional.entropy_weight(classes, q=q, lamb=lamb) if classes > 1 else 0.0
    column = target.unsqueeze(1)
    # In powers of two, for torch's exp2 takes a third of the time of its exp.
    log2_p = torch.log_softmax(input, 1).mul_(1 / LN2)
    p = torch.exp2(log2_p, out=out)
    # Not vecdot, a matrix product, which autocast would take in bfloat16.
    negentropy = (p * log2_p).sum(1, keepdim=True)
    total = negentropy.sum().item()
    if total != total:
        # 0 log 0
        negentropy = (p * log2_p.clamp_(min=functional.LEAST_LOG_P)).sum(1, keepdim=True)
        total = negentropy.sum().item()
    exponent = log2_p.gather(1, column).mul_(q * LN2)
    hit = exponent.exp().mul_(-scale)
    row = torch.sub(negentropy.mul_(weight * scale * LN2), hit)
    p.mul_(torch.sub(row, log2_p, alpha=weight * scale * LN2, out=log2_p))
    p.scatter_add_(1, column, hit)
    missed = exponent.expm1_().sum().item()
    return -scale * (missed / q + weight * LN2 * total), p
