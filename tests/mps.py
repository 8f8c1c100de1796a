"""Tensors that have no float64 until they are copied to the CPU, as on Apple's GPUs."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class SingleOnly(Tensor):
    """A tensor of the CPU that is treated as if it were on such a device."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if func is Tensor.cpu:
            return result.as_subclass(Tensor)
        if isinstance(result, cls) and result.dtype is torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return result


class NoDoubleMoves(TorchFunctionMode):
    """Forbids moving float64 tensors by naming a device alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.to and args[0].dtype is torch.float64:
            assert not isinstance(args[1], torch.device) or len(args) > 2, "float64 is moved"
        return func(*args, **(kwargs or {}))
