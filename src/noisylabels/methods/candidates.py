"""Sets of candidates: which of them is the label shows as the network learns."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from noisylabels.candidates import CandidateLoss
from noisylabels.data.batches import Batch
from noisylabels.errors import ConfigError
from noisylabels.functional import candidate_weights
from noisylabels.methods.base import Method, MethodContext


class Candidates(Method):
    """Minimises the loss of a set's candidates, each weighed by what the network thinks of it.

    See :class:`noisylabels.candidates.CandidateLoss`. The sharpness of the weights moves linearly
    with progress, from ``start`` to ``end``: 0 and 0 average over the candidates, 1 and 1 believe
    the network from the first step on. Cross entropy is the loss to take: a robust one can learn
    nothing at all where sets are large, see ``docs/results/candidates.md``.

    Args:
        context: What the method is given; its loss is that of a label.
        start: Sharpness at the beginning, at least 0.
        end: Sharpness at the end, at least 0.
        memory: Weigh by what was predicted at an example's last visit, all alike at the first: with
            ``start`` and ``end`` 1 and cross entropy that is PRODEN. The N x K logits are the same
            in all processes, and part of the checkpoint. By default the present prediction weighs.

    Raises:
        ConfigError: A sharpness is out of its range, or class probabilities do not define the loss.

    References:
        Lv, Xu, Feng, Niu, Geng, Sugiyama, "Progressive Identification of True Labels for
        Partial-Label Learning", 2020, for the memory. A step that is skipped because it is not
        finite leaves it as it was.
    """

    def __init__(
        self,
        context: MethodContext,
        *,
        start: float = 0.0,
        end: float = 2.0,
        memory: bool = False,
    ) -> None:
        self._loss = CandidateLoss(context.loss, start=start, end=end)
        super().__init__(context, networks=1)
        shape = len(context.task.labels), context.task.num_classes
        self._last = torch.zeros(shape, device=self.device) if memory else None

    def check_target(self, target: Tensor) -> None:
        """Refuse targets that are no sets of candidates.

        Args:
            target: Some targets.

        Raises:
            ConfigError: They are none.
        """
        if target.dtype is not torch.bool:
            got = "class probabilities" if target.is_floating_point() else "one label"
            raise ConfigError(
                f'expected sets of candidates, got {got} for each example: method = "single" is '
                f'for such; noise = {{name = "candidates", rate = 0.3}} makes sets of them'
            )

    def train_epoch(self, batches: Iterable[Batch]) -> None:
        """Train on the batches of an epoch, or on those that are left of it."""
        (network,) = self.networks
        network.train()
        new: list[Tensor] = []

        def loss(part: Batch) -> Tensor:
            logits, target = network(part.input), part.target
            if self._last is not None:
                new.append(logits.detach())
                past = self._last[part.index.to(self.device)]
                target = candidate_weights(past, target, sharpness=self._loss.sharpness)
            value: Tensor = self._loss(logits, target)
            return value

        for batch in batches:
            new.clear()
            if self.optimize(batch, loss) and self._last is not None:
                index, rows = self.gather(batch, torch.cat(new).float())
                self._last[index.to(self.device)] = rows

    def metrics(self) -> dict[str, float]:
        """Return the sharpness of the present epoch."""
        return {"sharpness": self._loss.sharpness}

    def state_dict(self) -> dict[str, Any]:
        """Return all state that training changes: tensors and plain values."""
        memory = {} if self._last is None else {"last": self._last}
        return super().state_dict() | memory

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        if self._last is not None:
            self._last.copy_(state["last"])
