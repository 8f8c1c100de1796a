"""Training steps as CUDA graphs: hundreds of kernels that are started as one.

A network's step starts several hundred kernels, which a GPU works off faster than Python can start
them. A graph holds them all, with the numbers that went into them as they were: the learning rate
and the loss's hyper-parameters change from epoch to epoch, so each epoch has a graph of its own,
captured at the third step in a row of one shape.
"""

import gc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from noisylabels.data.batches import Batch
from noisylabels.losses import Loss

WARM_UP = 2
"""Steps that are made one kernel after the other first: they make what is made only once."""

Step = Callable[[Batch], tuple[Tensor, Tensor]]
"""A whole step of a batch: its loss, and whether it and the gradients are finite, both scalars."""

Form = tuple[Any, ...]
"""Shapes, strides and types of a batch."""


class _Held(NamedTuple):
    """What a graph reads, and what it writes."""

    batch: Batch
    loss: Tensor
    finite: Tensor


def is_capturable(network: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss) -> bool:
    """Say whether a step does the same on every batch of a shape, as long as an epoch lasts.

    What Python decides or draws anew at each step would be done once and repeated.

    Args:
        network: The network, as it was made.
        optimizer: Its optimiser, as it was made.
        loss: The loss.

    Returns:
        Whether the network is made of torch's and this library's modules only, without hooks, the
        optimiser is SGD, which needs no numbers of the CPU, and the loss is :attr:`~Loss.pure` and
        does not look at its batches to warn.
    """
    return (
        all(map(_is_plain, network.modules()))
        and type(optimizer) is torch.optim.SGD
        # Not inherited: a subclass may well remember something.
        and vars(type(loss)).get("pure", False)
        and not loss.warns
    )


def _is_plain(module: nn.Module) -> bool:
    """Say whether a module is of torch or this library, and does nothing at a step but compute."""
    hooks = (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    )
    # Without a momentum batch norm reads how many batches there were.
    counts = isinstance(module, nn.modules.batchnorm._NormBase) and module.momentum is None
    own = type(module).__module__.startswith(("torch.nn.modules.", "noisylabels.models"))
    return own and not any(hooks) and not counts and module._compiled_call_impl is None


class StepGraph:
    """Makes steps one kernel after the other at first, then by a graph.

    Args:
        device: The GPU.
        say: Tells the user a sentence.

    Attributes:
        works: Whether no capture has failed in this process: before torch 2.12 the allocator does
            not get over it.
    """

    works: ClassVar[bool] = True

    def __init__(self, device: torch.device, say: Callable[[str], None]) -> None:
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._say = say
        self._graph: torch.cuda.CUDAGraph | None = None
        self._held: _Held | None = None
        self._form: Form | None = None
        self._made = 0

    @property
    def captured(self) -> bool:
        """Whether there is a graph for the present epoch."""
        return self._held is not None

    def forget(self) -> None:
        """Take note that something changes which a graph holds: the next steps make a new one."""
        self._held, self._form, self._made = None, None, 0

    def __call__(self, step: Step, batch: Batch) -> tuple[Tensor, Tensor]:
        """Make a step.

        Args:
            step: The step, in which nothing waits for the GPU.
            batch: The batch. Those of another shape than what was captured, such as an epoch's
                last, are worked off one kernel after the other.

        Returns:
            What the step returns.
        """
        form = _form(batch)
        if self._held is None and StepGraph.works:
            self._made = self._made + 1 if form == self._form else 1
            self._form = form
            if form is not None and self._made > WARM_UP:
                self._capture(step, batch)
        held = self._held
        if held is None or form != self._form:
            return self._beside(step, batch)
        assert self._graph is not None
        held.batch.input.copy_(batch.input)
        held.batch.target.copy_(batch.target)
        self._graph.replay()
        # The next step writes into them.
        return held.loss.clone(), held.finite.clone()

    def _beside(self, step: Step, batch: Batch) -> tuple[Tensor, Tensor]:
        """Make a step on the stream that graphs are captured on, as capturing wants it."""
        present = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(present)
        with torch.cuda.stream(self._stream):
            found = step(batch)
        present.wait_stream(self._stream)
        return found

    def _capture(self, step: Step, batch: Batch) -> None:
        """Capture a step of a batch's shape, or give up for good."""
        graph = torch.cuda.CUDAGraph()
        static = Batch(batch.index, batch.input.clone(), batch.target.clone())
        present = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(present)
        collects = gc.isenabled()
        # What the collector frees on the way would be part of the graph.
        gc.disable()
        try:
            with torch.cuda.stream(self._stream):
                # In the memory of the graph before, which is still there.
                pool = None if self._graph is None else self._graph.pool()
                graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                try:
                    loss, finite = step(static)
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            # The graph before, too: its memory may be what is wanted.
            StepGraph.works, self._graph = False, None
            reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
            self._say(f"the training step cannot be made a CUDA graph, so it is slower ({reason})")
        else:
            self._graph, self._held = graph, _Held(static, loss, finite)
        finally:
            if collects:
                gc.enable()
            present.wait_stream(self._stream)


def _form(batch: Batch) -> Form | None:
    """Return what batches have in common that one graph can serve, or None for those of none."""
    if batch.weight != 1 or batch.others:
        return None
    input, target = batch.input, batch.target
    return input.shape, input.stride(), input.dtype, target.shape, target.dtype
