r"""The dynamics-aware loss on the CPU: value and gradient in one pass over the logits.

Written out with autograd, the loss keeps several N x K intermediates and walks through memory once
for each. Here the logits are taken a block of rows at a time, small enough to stay in the cache,
and the forward pass forms the gradient too. With :math:`c = \lambda/(q \log K)` it is

.. math::
    \frac{\partial \ell}{\partial z_k} =
    p_k \bigl(p_y^q - c \, (H(p) + \log p_k)\bigr) - p_y^q \, [k = y]

so that nothing of size N x K is kept but the gradient itself.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisylabels import functional

BLOCK = 2**18
"""Logits in a block: 1 MiB in float32."""


def applies(
    input: Tensor, target: Tensor, *, weight: Tensor | None, ignore_index: int, reduction: str
) -> bool:
    """Say whether :func:`dynamics_aware` can take the place of the composed loss.

    It can for the common case: (N, C) float32 or float64 logits on the CPU that need a gradient,
    class indices of which none is ignored, no class weights, a mean or a sum; and neither
    ``torch.compile``, which fuses the composed loss itself, nor a ``torch.func`` transform.

    Args:
        input: Logits.
        target: Class indices or class probabilities.
        weight: Weight of each class.
        ignore_index: Class index whose examples count for nothing.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        Whether it can.
    """
    return (
        not torch.compiler.is_compiling()
        and type(input) in (Tensor, nn.Parameter)
        and input.is_cpu
        and input.requires_grad
        and torch.is_grad_enabled()
        and input.ndim == 2
        and input.dtype in (torch.float32, torch.float64)
        and input.numel() > 0
        and target.dtype == torch.int64
        and target.shape == input.shape[:1]
        and weight is None
        and reduction != "none"
        # There is no public way to ask; autograd.Function.apply asks the same.
        and not torch._C._are_functorch_transforms_active()
        and not bool((target == ignore_index).any())
    )


def dynamics_aware(
    input: Tensor, target: Tensor, *, q: float, lamb: float, reduction: str
) -> Tensor:
    """Compute the reduced dynamics-aware loss, see :func:`noisylabels.functional.dynamics_aware`.

    Args:
        input: Logits for which :func:`applies` holds.
        target: Class indices in [0, C).
        q: Exponent, above 0.
        lamb: Weight of the bootstrapping term, at least 0.
        reduction: ``"mean"`` or ``"sum"``.

    Returns:
        A scalar.

    Shape:
        ``input``: (N, C); ``target``: (N).

    Raises:
        IndexError: A target is no class.

    Example:
        >>> logits = torch.zeros(1, 4, requires_grad=True)
        >>> dynamics_aware(logits, torch.tensor([0]), q=2.0, lamb=1.0, reduction="mean")
        tensor(0.9688, grad_fn=<_DynamicsAwareBackward>)
    """
    scale = 1 / len(input) if reduction == "mean" else 1.0
    value: Tensor = _DynamicsAware.apply(input, target, q, lamb, scale)
    return value


class _DynamicsAware(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, q: float, lamb: float, scale: float
    ) -> Tensor:
        value, gradient = _value_and_gradient(input, target, q, lamb, scale)
        ctx.save_for_backward(input, target, gradient)
        ctx.q, ctx.lamb, ctx.scale = q, lamb, scale
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None, None]:
        input, target, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():
            # The gradient is to be differentiated again: compose it.
            each = functional.dynamics_aware(input, target, q=ctx.q, lamb=ctx.lamb)
            (gradient,) = torch.autograd.grad(
                ctx.scale * each.sum(), input, grad_output, create_graph=True
            )
        elif grad_output != 1:
            gradient = gradient * grad_output
        return gradient, None, None, None, None


def _value_and_gradient(
    input: Tensor, target: Tensor, q: float, lamb: float, scale: float
) -> tuple[Tensor, Tensor]:
    count, classes = input.shape
    weight = lamb / (q * math.log(classes)) if classes > 1 else 0.0
    gradient = torch.empty_like(input, memory_format=torch.contiguous_format)
    total = input.new_zeros(())
    rows = max(1, BLOCK // classes)
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        log_p = torch.log_softmax(input[part], 1).clamp_(min=functional.LEAST_LOG_P)
        p = torch.exp(log_p, out=gradient[part])
        negentropy = torch.linalg.vecdot(p, log_p)
        exponent = F.nll_loss(log_p, target[part], reduction="none").mul_(-q)
        hit = exponent.exp()
        total += exponent.expm1_().sum() * (-1 / q) - negentropy.sum() * weight
        row = torch.add(hit, negentropy, alpha=weight).unsqueeze_(1)
        p.mul_(torch.sub(row, log_p, alpha=weight, out=log_p))
        p.scatter_add_(1, target[part].unsqueeze(1), hit.neg_().unsqueeze_(1))
        if scale != 1:
            p.mul_(scale)
    return total.mul_(scale), gradient
