"""The dynamics-aware loss on GPUs: a Triton kernel that :mod:`noisylabels._fused` launches there.

Triton comes with torch where there is a GPU to use it on, so this module alone imports it, and is
imported by the first loss that it computes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
"""Logits of a row that are worked on at once, at most."""


@triton.jit
def _kernel(
    logits,
    target,
    scale,
    gradient,
    log_p,
    entropy,
    classes,
    stride,
    ignore_index,
    q,
    weight,
    BLOCK: tl.constexpr,
):
    # Rows of more than 2^31 logits in all.
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    gradient += row * classes
    label = tl.load(target + row)
    if label == ignore_index:
        tl.store(log_p + row, 0.0)
        tl.store(entropy + row, 0.0)
        for start in range(0, classes, BLOCK):
            column = start + tl.arange(0, BLOCK)
            zero = tl.zeros([BLOCK], dtype=gradient.dtype.element_ty)
            tl.store(gradient + column, zero, mask=column < classes)
        return
    # The running maximum of the row, and the sums of exp(z - maximum) and of exp(z - maximum)
    # times (z - maximum). 0 log 0 is 0: an exponent below -1000 counts as -1000.
    top = -3.0e38
    total = 0.0
    moment = 0.0
    for start in range(0, classes, BLOCK):
        column = start + tl.arange(0, BLOCK)
        z = tl.load(logits + column, mask=column < classes, other=float("-inf")).to(tl.float32)
        highest = tl.maximum(top, tl.max(z, 0))
        fall = tl.maximum(top - highest, -1000.0)
        exponential = tl.exp(z - highest)
        here = tl.sum(exponential * tl.maximum(z - highest, -1000.0), 0)
        decay = tl.exp(fall)
        moment = decay * (moment + fall * total) + here
        total = decay * total + tl.sum(exponential, 0)
        top = highest
    log_total = tl.log(total)
    # A label that is no class makes the loss NaN.
    known = (label >= 0) & (label < classes)
    own = tl.load(logits + label, mask=known, other=float("nan")).to(tl.float32)
    own = own - top - log_total
    bits = log_total - moment / total
    tl.store(log_p + row, own)
    tl.store(entropy + row, bits)
    share = tl.load(scale)
    hit = tl.exp(q * own)
    for start in range(0, classes, BLOCK):
        column = start + tl.arange(0, BLOCK)
        z = tl.load(logits + column, mask=column < classes, other=float("-inf")).to(tl.float32)
        log_each = z - top - log_total
        p = tl.exp(log_each)
        slope = p * (hit - weight * (bits + tl.maximum(log_each, -1000.0)))
        slope = share * (slope - tl.where(column == label, hit, 0.0))
        tl.store(gradient + column, slope.to(gradient.dtype.element_ty), mask=column < classes)


def value_and_gradient(
    input: Tensor, target: Tensor, *, q: float, weight: float, scale: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Compute the sum of the dynamics-aware losses times ``scale``, and its gradient.

    Args:
        input: Logits (N, C) in float32 or bfloat16.
        target: Class indices (N), int64; the loss is NaN where one is no class.
        q: Exponent, above 0.
        weight: Weight of the entropy, see :func:`noisylabels.functional.entropy_weight`.
        scale: What every loss is multiplied with, a float32 scalar on the device of ``input``.
        ignore_index: Class index whose examples count for nothing.

    Returns:
        A float32 scalar, and the gradient in the dtype of ``input``.
    """
    if input.stride(1) != 1:
        input = input.contiguous()
    count, classes = input.shape
    gradient = torch.empty_like(input, memory_format=torch.contiguous_format)
    log_p = torch.empty(count, dtype=torch.float32, device=input.device)
    entropy = torch.empty_like(log_p)
    with torch.cuda.device_of(input):
        _kernel[(count,)](
            input,
            target.contiguous(),
            scale,
            gradient,
            log_p,
            entropy,
            classes,
            input.stride(0),
            ignore_index,
            q,
            weight,
            BLOCK=min(BLOCK, triton.next_power_of_2(classes)),
            num_warps=8,
        )
    # Here and not in the kernel, which has no expm1.
    return scale * (weight * entropy - torch.expm1(q * log_p) / q).sum(), gradient
