"""Early-learning regularisation: predictions of early epochs hold the later ones back."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from noisylabels.data.batches import Batch
from noisylabels.errors import check_choice, check_range
from noisylabels.methods.base import Method, MethodContext
from noisylabels.methods.functional import early_learning_penalty, early_learning_targets


class EarlyLearningRegularization(Method):
    r"""Adds a term that keeps predictions near a moving average of earlier ones.

    .. math::
        t_i \leftarrow \beta t_i + (1 - \beta) \, p_i, \qquad
        L = \frac{1}{N} \sum_i \bigl[\ell(z_i, y_i) + \lambda \log(1 - \langle p_i, t_i \rangle)
        \bigr]

    See :func:`noisylabels.methods.functional.early_learning_targets` and
    :func:`noisylabels.methods.functional.early_learning_penalty`. The targets t are N x K numbers,
    the same in all processes, and part of the checkpoint.

    Args:
        context: What the method is given; its loss stands where the paper has cross entropy.
        beta: Weight of the past in the targets, in [0, 1).
        lamb: Weight of the regularisation, at least 0.
        memory_dtype: What the targets are kept in; they are computed in float32.
        memory_device: Where the targets are kept: on the network's ``"device"``, or on the
            ``"cpu"``, from and to which each batch's rows are then copied.

    Raises:
        ConfigError: A hyper-parameter is out of its range.

    References:
        Liu, Niles-Weed, Razavian, Fernandez-Granda, "Early-Learning Regularization Prevents
        Memorization of Noisy Labels", 2020. A step that is skipped because it is not finite leaves
        the targets as they were.
    """

    def __init__(
        self,
        context: MethodContext,
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
        super().__init__(context, networks=1)
        shape = len(context.task.labels), context.task.num_classes
        dtype = torch.float16 if memory_dtype == "float16" else torch.float32
        place = torch.device("cpu") if memory_device == "cpu" else self.device
        size = shape[0] * shape[1] * dtype.itemsize / 2**10
        amount = f"{size / 2**10:,.1f} MiB" if size >= 2**10 else f"{size:,.1f} KiB"
        context.say(
            f"elr: targets of {shape[0]} x {shape[1]} in {memory_dtype} on {place.type}: {amount}"
        )
        self._targets = torch.zeros(shape, dtype=dtype, device=place)

    def train_epoch(self, batches: Iterable[Batch]) -> None:
        """Train on the batches of an epoch, or on those that are left of it."""
        (network,) = self.networks
        network.train()
        new: list[Tensor] = []

        def loss(part: Batch) -> Tensor:
            logits = network(part.input)
            past = self._targets[part.index.to(self._targets.device)]
            targets = early_learning_targets(
                logits, past.to(logits.device, torch.float32), beta=self._beta
            )
            new.append(targets)
            penalty = early_learning_penalty(logits, targets).mean()
            value: Tensor = self.context.loss(logits, part.target) + self._lamb * penalty
            return value

        for batch in batches:
            new.clear()
            if self.optimize(batch, loss):
                index, rows = self.gather(batch, torch.cat(new))
                place = self._targets.device
                self._targets[index.to(place)] = rows.to(place, self._targets.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Return all state that training changes: tensors and plain values."""
        return super().state_dict() | {"targets": self._targets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self._targets.copy_(state["targets"])
