import pytest
import torch
from torch import nn

from noisylabels.run.device import (
    allow_tf32,
    choose_memory_format,
    choose_precision,
    default_device,
    flushing_denormals,
)


def test_auto_precision_is_bf16_only_for_convolutions_on_devices_that_have_it(monkeypatch):
    cpu = torch.device("cpu")
    convolution = nn.Sequential(nn.Conv2d(1, 1, 3))
    for native, expected in ((True, "bf16"), (False, "32")):
        told = {"avx512_bf16": native}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda told=told: told, raising=False)
        assert choose_precision(convolution, cpu) == expected
        assert choose_precision(nn.Linear(2, 2), cpu) == "32"
    assert choose_precision(convolution, torch.device("mps")) == "32"


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [
        (True, False, torch.device("cuda", 0)),
        (True, True, torch.device("cuda", 0)),
        (False, True, torch.device("mps", 0)),
        (False, False, torch.device("cpu")),
    ],
)
def test_a_gpu_is_taken_where_there_is_one(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert default_device() == expected


def test_tf32_is_allowed_to_products_and_convolutions_or_to_neither():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        for allowed in (True, False):
            allow_tf32(allowed)
            assert torch.backends.cuda.matmul.allow_tf32 is allowed
            assert torch.backends.cudnn.allow_tf32 is allowed
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_narrow_convolutions_keep_the_ordinary_memory_format():
    """Elsewhere oneDNN corrupts memory, which no test can catch in its own process."""
    from noisylabels.models import resnet18

    def chosen(width, precision):
        return choose_memory_format(resnet18((3, 8, 8), 10, width=width), precision)

    assert chosen(16, "bf16") is torch.channels_last
    assert chosen(15, "bf16") is torch.contiguous_format
    assert chosen(64, "32") is torch.contiguous_format


def test_numbers_below_the_normal_ones_are_zero_within_a_run_and_only_there():
    small = torch.tensor([1e-39])
    for before in (False, True):
        torch.set_flush_denormal(before)
        try:
            with flushing_denormals():
                assert (small * 0.5).item() == 0
            assert ((small * 0.5).item() == 0) is before
        finally:
            torch.set_flush_denormal(False)
