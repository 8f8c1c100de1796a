"""How a run is computed: device, precision, memory format; and what that costs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

PRECISIONS = {"32": "float32", "bf16": "bfloat16"}
"""What precisions are called for people."""
WIDTH_OF_A_KERNEL = 16


@dataclass(frozen=True)
class Setup:
    """How a run is computed, chosen once and kept when it continues.

    Args:
        device: Kind of device, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        precision: ``"32"`` or ``"bf16"``.
        channels_last: Whether images and convolutions are in that memory format.
        tf32: Whether products of float32 may be computed in TensorFloat-32.
        compile: Whether networks are compiled.
        processes: How many train together.
        threads: Threads of each.
        torch: Its version.
    """

    device: str
    precision: str
    channels_last: bool
    tf32: bool
    compile: bool
    processes: int
    threads: int
    torch: str

    def sentence(self) -> str:
        """Say it in a line."""
        chosen = [
            f"{self.processes} x {self.device}",
            PRECISIONS[self.precision] + " where it pays (mixed)" * (self.precision == "bf16"),
            "TF32" if self.tf32 else "",
            "channels last" if self.channels_last else "",
            "compiled" if self.compile else "",
            f"{self.threads} threads",
            f"torch {self.torch}",
        ]
        return ", ".join(filter(None, chosen))


def default_device() -> torch.device:
    """Return the device that a run of this machine trains on: a GPU where there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("mps", 0) if torch.backends.mps.is_available() else torch.device("cpu")


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Let the CPU take numbers that are too small to be normal (below 1e-38) for zero meanwhile.

    Weights that a strong weight decay or a dead unit brings there would make every product with
    them a hundred times slower.
    """
    before = not torch.tensor(1e-39).mul(0.5).item()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def choose_precision(network: nn.Module, device: torch.device) -> str:
    """Choose the precision that ``"auto"`` stands for.

    bfloat16 pays where convolutions meet a device that multiplies it natively; small dense
    networks spend their time in dispatch, which the casts of mixed precision only add to.

    Args:
        network: The network to train.
        device: The device to train it on.

    Returns:
        ``"bf16"`` or ``"32"``.
    """
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return "32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    # Older torch cannot tell; nor can MPS.
    tell: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = tell() if device.type == "cpu" else {}
    native = any(capabilities.get(key) for key in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bf16" if native else "32"


def choose_memory_format(network: nn.Module, precision: str) -> torch.memory_format:
    """Choose the memory format of images and convolutions.

    Channels-last makes bfloat16 convolutions about twice as fast. Where a convolution has fewer
    than 16 output channels, oneDNN's channels-last kernels write past the end of their buffers in
    the backward pass (torch 2.14.1 on AVX-512, batches of odd sizes): a run would end in "corrupted
    size vs. prev_size", or worse, not end.

    Args:
        network: The network to train.
        precision: ``"32"`` or ``"bf16"``.

    Returns:
        ``torch.channels_last`` or ``torch.contiguous_format``.
    """
    narrow = any(
        module.out_channels < WIDTH_OF_A_KERNEL
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    )
    fast = precision == "bf16" and not narrow
    return torch.channels_last if fast else torch.contiguous_format


def allow_tf32(allowed: bool) -> None:
    """Let CUDA compute products and convolutions of float32 in TensorFloat-32, or not.

    Args:
        allowed: Whether both may; torch's own default is convolutions only.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def reset_peak_memory() -> None:
    """Start measuring :func:`peak_memory` anew, where that is possible."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # Linux only; elsewhere the peak is that of the whole process.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Return the most memory that was in use at once, in bytes; None where nobody knows.

    Args:
        device: Where the run trains: on CUDA its memory counts, elsewhere the process's.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
