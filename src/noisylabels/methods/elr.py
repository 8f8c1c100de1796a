"""Early-learning regularisation: predictions of early epochs hold the later ones back."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from noisylabels.data.batches import Batch
from noisylabels.errors import check_choice, check_range
from noisylabels.methods.base import Method, Parts
from noisylabels.methods.engine import Engine, gather_shares

LEAST = 1e-4
"""Probabilities are kept in [1e-4, 1 - 1e-4]."""


class EarlyLearningRegularization(Method):
    r"""Adds a term that keeps predictions near a moving average of earlier ones.

    .. math::
        t_i \leftarrow \beta t_i + (1 - \beta) \, p_i, \qquad
        L = \frac{1}{N} \sum_i \bigl[\ell(z_i, y_i) + \lambda \log(1 - \langle p_i, t_i \rangle)
        \bigr]

    The targets t start at 0; no gradient flows through them. They are N x K numbers, the same in
    all processes, and part of the checkpoint.

    Args:
        engine: Runs the network.
        parts: What the method is made of; its loss stands where the paper has cross entropy.
        beta: Weight of the past in the targets, in [0, 1).
        lamb: Weight of the regularisation, at least 0.
        memory_dtype: What the targets are kept in; they are computed in float32.
        memory_device: Where the targets are kept: on the network's ``"device"``, or on the
            ``"cpu"``, from and to which each batch's rows are then copied.

    Raises:
        ConfigError: A hyper-parameter is out of its range.

    References:
        Liu, Niles-Weed, Razavian, Fernandez-Granda, "Early-Learning Regularization Prevents
        Memorization of Noisy Labels", 2020; as in its released code, p is clamped to [1e-4,
        1 - 1e-4] and, for the targets, divided by its sum. A step that is left out because it is
        not finite leaves the targets as they were.
    """

    def __init__(
        self,
        engine: Engine,
        parts: Parts,
        *,
        beta: float = 0.7,
        lamb: float = 3.0,
        memory_dtype: Literal["float32", "float16"] = "float32",
        memory_device: Literal["device", "cpu"] = "device",
    ) -> None:
        self._beta = check_range("beta", beta, high=1.0, below=True)
        self._lamb = check_range("lamb", lamb)
        check_choice("memory_dtype", memory_dtype, ["float32", "float16"])
        check_choice("memory_device", memory_device, ["device", "cpu"])
        super().__init__(engine, parts, networks=1)
        shape = len(self._task.labels), self._task.num_classes
        dtype = torch.float16 if memory_dtype == "float16" else torch.float32
        place = torch.device("cpu") if memory_device == "cpu" else self._device
        size = shape[0] * shape[1] * dtype.itemsize / 2**10
        amount = f"{size / 2**10:,.1f} MiB" if size >= 2**10 else f"{size:,.1f} KiB"
        self._say(
            f"elr: targets of {shape[0]} x {shape[1]} in {memory_dtype} on {place.type}: {amount}"
        )
        self._targets = torch.zeros(shape, dtype=dtype, device=place)

    def train_epoch(self, batches: Iterable[Batch]) -> None:
        """Train on one epoch's batches, or on what is left of them."""
        (network,) = self._networks
        network.train()
        new: list[Tensor] = []

        def loss(part: Batch) -> Tensor:
            logits = network(part.input)
            p = logits.softmax(1, dtype=torch.float32).clamp(LEAST, 1 - LEAST)
            kept = self._targets[part.index.to(self._targets.device)].to(p.device, torch.float32)
            seen = p.detach()
            target = self._beta * kept + (1 - self._beta) * seen / seen.sum(1, keepdim=True)
            new.append(target)
            early = torch.log1p(-(target * p).sum(1)).mean()
            value: Tensor = self._loss(logits, part.target) + self._lamb * early
            return value

        for batch in batches:
            new.clear()
            if self._descend(batch, loss):
                self._remember(batch, torch.cat(new))

    def _remember(self, batch: Batch, targets: Tensor) -> None:
        """Keep the targets of a batch, those of all processes in each of them."""
        size = self._whole_size(batch)
        index = gather_shares(self._engine, batch.index, size)
        rows = gather_shares(self._engine, targets, size)
        place = self._targets.device
        self._targets[index.to(place)] = rows.to(place, self._targets.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Return all state that training changes: tensors and plain values."""
        return super().state_dict() | {"targets": self._targets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self._targets.copy_(state["targets"])
