"""The GPU kernel without a GPU: run by Triton's interpreter, and compiled to machine code."""

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="torch without Triton"),
]

INTERPRETED = """
import math
import torch
from noisylabels import _fused, _kernel, functional
from noisylabels.losses import build

assert "Interpreted" in type(_kernel._kernel).__name__
calls = []
original = _kernel.value_and_gradient
_kernel.value_and_gradient = lambda *a, **k: calls.append(1) or original(*a, **k)
_fused._has_kernel = lambda input: input.dtype in _fused.KERNEL_DTYPES
generator = torch.Generator().manual_seed(0)
made = 0

def batch(count, classes, dtype=torch.float32):
    logits = (4 * torch.randn(count, classes, generator=generator)).to(dtype).requires_grad_()
    return logits, torch.randint(classes, (count,), generator=generator)

def late(**options):
    loss = build("dal", **options)
    loss.progress = 0.8
    return loss

def check(logits, target, outer=1.0, **options):
    global made
    loss = late(**options)
    value = outer * loss(logits, target)
    made += 1
    assert len(calls) == made, "not by the kernel"
    wanted = outer * functional.reduce(
        loss.per_example, logits, target,
        ignore_index=loss.ignore_index, reduction=loss.reduction,
    )
    assert value.dtype == wanted.dtype == torch.float32
    torch.testing.assert_close(value, wanted)
    ours, theirs = (torch.autograd.grad(x, logits)[0] for x in (value, wanted))
    assert ours.dtype == logits.dtype and ours.isfinite().all()
    torch.testing.assert_close(ours, theirs)

for dtype in (torch.float32, torch.bfloat16):
    for count, classes in ((5, 3), (4, 100), (2, 10007), (2, 1)):
        for reduction in ("mean", "sum"):
            check(*batch(count, classes, dtype), reduction=reduction)
check(*batch(3, 50), outer=3.5)

# A scale of the loss keeps small gradients from rounding to 0 in float16.
def zeros(dtype):
    draws = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(16, 1000, generator=draws)).to(dtype).requires_grad_()
    value = 2.0**15 * late()(logits, torch.arange(16))
    return int((torch.autograd.grad(value, logits)[0] == 0).sum())

calls.clear()
assert zeros(torch.float32) == zeros(torch.bfloat16) == 0 and len(calls) == 2
assert zeros(torch.float16) < 100 and len(calls) == 2
calls.clear()
made = 0

logits, target = batch(6, 5000)
target[1], target[4] = -100, 7
check(logits, target)
check(logits, target.where(target != -100, 7), ignore_index=7)

# Classes that are excluded (a whole block of them first), and probabilities that vanish.
logits, target = batch(4, 9000)
with torch.no_grad():
    logits[0, :4500] = -math.inf
    logits[1, 17], logits[2, 8999] = 1e4, -1e4
target[0], target[1], target[2] = 8000, 17, 8999
check(logits, target)

wide, target = batch(4, 60)
check(wide.detach()[:, ::2].requires_grad_(), target % 30)

# All ignored: the mean of nothing. No class: NaN and no number.
logits, target = batch(2, 4)
value = late()(logits, torch.full((2,), -100))
assert value.isnan() and (torch.autograd.grad(value, logits)[0] == 0).all()
assert late()(logits, torch.tensor([0, 4])).isnan()

calls.clear()
assert _fused._works(torch.device("cpu"), torch.float32) and len(calls) == 1
assert _fused._works(torch.device("cpu"), torch.float32) and len(calls) == 1

# Second derivatives are composed.
logits, target = batch(3, 5)
target[1] = -100
loss = late()
(first,) = torch.autograd.grad(loss(logits, target), logits, create_graph=True)
(second,) = torch.autograd.grad(first.square().sum(), logits)
composed = functional.reduce(loss.per_example, logits, target)
(theirs,) = torch.autograd.grad(composed, logits, create_graph=True)
torch.testing.assert_close(second, torch.autograd.grad(theirs.square().sum(), logits)[0])
print("same")
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from noisylabels import _kernel

pointers = {"target": "*i64", "scale": "*fp32", "log_p": "*fp32", "entropy": "*fp32"}
numbers = {"classes": "i32", "stride": "i64", "ignore_index": "i32", "q": "fp32", "weight": "fp32"}
for dtype in ("fp32", "bf16"):
    types = pointers | numbers | {"logits": f"*{dtype}", "gradient": f"*{dtype}"}
    order = {name: types.get(name, "constexpr") for name in _kernel._kernel.arg_names}
    source = ASTSource(fn=_kernel._kernel, signature=order, constexprs={"BLOCK": _kernel.BLOCK})
    made = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 8})
    assert len(made.asm["cubin"]) > 1000
print("compiled")
"""


def run(code: str, tmp_path, **variables: str) -> str:
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)} | variables
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_equals_the_composed_loss(tmp_path):
    assert run(INTERPRETED, tmp_path, TRITON_INTERPRET="1") == "same\n"


def test_compiles_for_gpus(tmp_path):
    assert run(COMPILED, tmp_path) == "compiled\n"


def test_is_not_imported_before_it_is_needed(tmp_path):
    code = """
import sys, torch
from noisylabels import _fused, losses
before = "triton" in sys.modules
loss = losses.build("dal")
loss.progress = 0.8
loss(torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0])).backward()
print(before, "triton" in sys.modules, "noisylabels._kernel" in sys.modules)
"""
    assert run(code, tmp_path) == "False False False\n"
