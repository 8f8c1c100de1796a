"""Two networks that choose a batch's examples by their small losses: Co-teaching and JoCoR.

Both train on the share of each batch whose losses are smallest. The share falls linearly from 1 to
1 - ``forget_rate`` over the first epochs. It is chosen from the whole batch, over all processes.
"""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from noisylabels.data.batches import Batch
from noisylabels.errors import ConfigError, check_count, check_range
from noisylabels.estimation import estimate_noise_rate
from noisylabels.methods.base import Method, Parts
from noisylabels.methods.engine import Engine, gather_shares


class Pair(Method):
    """Trains two networks on the examples of small loss.

    Without ``forget_rate`` it is estimated from the hold-out, see
    :func:`noisylabels.estimation.estimate_noise_rate`, at the beginning of every epoch whose
    networks predict the hold-out's labels better than before: a network that has learnt little
    takes right labels for wrong ones.

    Args:
        engine: Runs the networks.
        parts: What the method is made of.
        forget_rate: Share of the examples to leave out in the end, in [0, 1).
        ramp_epochs: Epochs in which the share grows from 0 to that, at least 1.

    Raises:
        ConfigError: A hyper-parameter is out of its range; ``forget_rate`` is not given and there
            is no hold-out; or batches are computed in parts, from which nothing could be chosen.
    """

    losses = 1
    """How many losses an example has, each with a choice of its own."""

    def __init__(
        self, engine: Engine, parts: Parts, *, forget_rate: float | None, ramp_epochs: int
    ) -> None:
        if forget_rate is not None:
            check_range("forget_rate", forget_rate, high=1.0, below=True)
        if forget_rate is None and parts.task.held_out is None:
            raise ConfigError(
                "forget_rate is not given, and there is no hold-out to estimate it from: give it "
                "(the noise rate), or set validation = 0.1"
            )
        if parts.accumulate > 1:
            raise ConfigError(
                f"examples are chosen from whole batches: accumulate must be 1, got "
                f"{parts.accumulate}"
            )
        self._ramp_epochs = check_count("ramp_epochs", ramp_epochs, low=1)
        self._given_rate = forget_rate
        self._rate = forget_rate or 0.0
        self._best = 0.0
        super().__init__(engine, parts, networks=2)

    @abstractmethod
    def _losses(self, logits: list[Tensor], target: Tensor) -> list[Tensor]:
        """Return what examples are chosen by, and trained with: for each choice one per example."""

    @abstractmethod
    def _swap(self, chosen: list[Tensor]) -> list[Tensor]:
        """Return for each of the losses the examples that it is to be minimised on."""

    def begin_epoch(self) -> None:
        """Start an epoch; estimate the rate if it is not given."""
        super().begin_epoch()
        if self._given_rate is None:
            if self._epoch:
                self._estimate()
            elif self._epochs == 1:
                self._say(
                    "forget_rate is not given, and one epoch is too few to estimate it: no "
                    "example is left out"
                )

    def _estimate(self) -> None:
        labels = self._task.held_out
        assert labels is not None, "checked when the method was made"
        own = self.predict(self._task.inputs("validation")).mean(0)
        whole = gather_shares(self._engine, own.to(self._device), len(labels)).cpu()
        right = float((whole.argmax(1) == labels).double().mean())
        if right > self._best:
            self._best = right
            self._rate = estimate_noise_rate(whole, labels)
        last = self._epochs - 1
        if self._epoch in (min(self._ramp_epochs, last), last):
            when = "in the end" if self._epoch == last else "so far"
            self._say(
                f"forget_rate is not given: estimated from {len(labels)} held-out examples, of "
                f"whose labels the networks predict {100 * self._best:.0f} %, {when} "
                f"{self._rate:.3f}; the fewer they predict, the higher above the truth"
            )

    def set_epoch(self, epoch: int, epochs: int) -> float:
        """Set the learning rates, the momenta and the loss's progress; say if the ramp cannot end.

        Args:
            epoch: The epoch, counted from 0.
            epochs: How many there will be.

        Returns:
            The learning rate of the first parameter group.
        """
        lr = super().set_epoch(epoch, epochs)
        if not epoch and epochs < self._ramp_epochs:
            self._say(
                f"{epochs} epochs end before the share of examples that are left out has grown to "
                f"forget_rate, in epoch {self._ramp_epochs}"
            )
        return lr

    @property
    def forget(self) -> float:
        """The share of examples that the present epoch leaves out."""
        # The first epoch keeps all of them, the last of the ramp is the first of the full rate.
        ramp = self._epoch / max(1, self._ramp_epochs - 1)
        return self._rate * min(1.0, ramp)

    def metrics(self) -> dict[str, float]:
        """Return ``forget``, the share that the present epoch leaves out, and ``forget_rate``.

        The latter is what the former grows to, as given or as estimated so far.
        """
        return {"forget": self.forget, "forget_rate": self._rate}

    def train_epoch(self, batches: Iterable[Batch]) -> None:
        """Train on one epoch's batches, or on what is left of them."""
        for network in self._networks:
            network.train()
        keep = 1 - self.forget

        def loss(batch: Batch) -> Tensor:
            logits = [network(batch.input) for network in self._networks]
            losses = self._losses(logits, batch.target)
            size = self._whole_size(batch)
            # What is 3 on paper may be a little less for a computer.
            count = max(1, int(keep * size + 1e-9))
            # All losses in one message, where there are several processes.
            whole = gather_shares(self._engine, torch.stack(losses, 1).detach(), size)
            chosen = [self._smallest(values, count) for values in whole.unbind(1)]
            total = torch.stack(
                [values[own].sum() for values, own in zip(losses, self._swap(chosen), strict=True)]
            ).sum()
            # A mean over what all processes chose, for each has its own number of them.
            return total * (size / (len(batch.target) * count))

        for batch in batches:
            self._descend(batch, loss, networks=(0, 1), losses=self.losses)

    def _smallest(self, whole: Tensor, count: int) -> Tensor:
        """Return which of this process's examples have the ``count`` smallest losses of all."""
        chosen = whole.argsort(stable=True)[:count]
        world, rank = self._engine.world_size, self._engine.global_rank
        return chosen if world == 1 else chosen[chosen % world == rank] // world

    def state_dict(self) -> dict[str, Any]:
        """Return all state that training changes: tensors and plain values."""
        return super().state_dict() | {"rate": self._rate, "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self._rate, self._best = state["rate"], state["best"]


@final
class CoTeaching(Pair):
    """Each network chooses the examples that the other one learns from.

    Args:
        engine: Runs the networks.
        parts: What the method is made of; its loss stands where the paper has cross entropy, both
            to choose by and to train with.
        forget_rate: As for :class:`Pair`; the paper has the noise rate.
        ramp_epochs: As for :class:`Pair`.

    Raises:
        ConfigError: As for :class:`Pair`.

    References:
        Han, Yao, Yu, Niu, Xu, Hu, Tsang, Sugiyama, "Co-teaching: Robust Training of Deep Neural
        Networks with Extremely Noisy Labels", 2018. Its released code divides the mean loss by the
        number of examples once more; here it is the mean.
    """

    losses = 2

    def __init__(
        self,
        engine: Engine,
        parts: Parts,
        *,
        forget_rate: float | None = None,
        ramp_epochs: int = 10,
    ) -> None:
        super().__init__(engine, parts, forget_rate=forget_rate, ramp_epochs=ramp_epochs)

    def _losses(self, logits: list[Tensor], target: Tensor) -> list[Tensor]:
        return [self._loss.per_example(z, target) for z in logits]

    def _swap(self, chosen: list[Tensor]) -> list[Tensor]:
        return chosen[::-1]


@final
class JoCoR(Pair):
    r"""Both networks learn from the examples on which they jointly do best and agree most.

    .. math::
        \ell_i = (1 - c) \bigl[\ell(z_i^{(1)}, y_i) + \ell(z_i^{(2)}, y_i)\bigr]
        + c \bigl[KL(p_i^{(1)} \| p_i^{(2)}) + KL(p_i^{(2)} \| p_i^{(1)})\bigr]

    Args:
        engine: Runs the networks.
        parts: What the method is made of; its loss stands where the paper has cross entropy, both
            to choose by and to train with.
        forget_rate: As for :class:`Pair`; the paper has the noise rate, and half of it for
            asymmetric noise.
        ramp_epochs: As for :class:`Pair`.
        c: Weight of the agreement, in [0, 1].

    Raises:
        ConfigError: As for :class:`Pair`, or ``c`` is out of its range.

    References:
        Wei, Feng, Chen, An, "Combating Noisy Labels by Agreement: A Joint Training Method with
        Co-Regularization", 2020, where c is called lambda.
    """

    def __init__(
        self,
        engine: Engine,
        parts: Parts,
        *,
        forget_rate: float | None = None,
        ramp_epochs: int = 10,
        c: float = 0.9,
    ) -> None:
        self._c = check_range("c", c, high=1.0)
        super().__init__(engine, parts, forget_rate=forget_rate, ramp_epochs=ramp_epochs)

    def _losses(self, logits: list[Tensor], target: Tensor) -> list[Tensor]:
        fit = self._loss.per_example(logits[0], target) + self._loss.per_example(logits[1], target)
        log_p, log_q = (F.log_softmax(z, dim=1, dtype=torch.float32) for z in logits)
        apart = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1)
        return [(1 - self._c) * fit + self._c * apart]

    def _swap(self, chosen: list[Tensor]) -> list[Tensor]:
        return chosen
