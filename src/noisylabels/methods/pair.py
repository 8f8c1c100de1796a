"""Two networks that select a batch's examples by their small losses: Co-teaching and JoCoR.

Both train on the share of each batch whose losses are smallest. The share falls linearly from 1 to
1 - ``forget_rate`` over the first epochs. It is selected from the whole batch, over all processes.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from noisylabels.data.batches import Batch
from noisylabels.errors import ConfigError, check_count, check_range
from noisylabels.estimation import estimate_noise_rate
from noisylabels.methods.base import Method, MethodContext
from noisylabels.methods.engine import gather_shares, pick_own
from noisylabels.methods.functional import (
    exchange_selections,
    joint_loss,
    ramp,
    select_agreeing,
    select_small_losses,
)

ESTIMATOR = "confident joint"
"""What finds the noise rate where it is not given; a key of ``noisylabels.estimation.ESTIMATORS``.

Named here, whatever the default there comes to be, for results were published with it."""


class Pair(Method):
    """Trains two networks on the examples of small loss.

    Without ``forget_rate`` it is estimated from the hold-out, see
    :func:`noisylabels.estimation.confident_joint`, at the beginning of every epoch whose
    networks predict the hold-out's labels better than ever before: a network that has learnt little
    takes right labels for wrong ones.

    Args:
        context: What the method is given.
        forget_rate: Share of the examples to leave out in the end, in [0, 1).
        ramp_epochs: Epochs in which the share grows from 0 to that, at least 1.

    Raises:
        ConfigError: A hyper-parameter is out of its range; ``forget_rate`` is not given and there
            is no hold-out; the gradients of a batch are computed in parts, from which nothing
            could be selected; or the loss has what is no part of an example's, see
            :meth:`noisylabels.losses.Loss.beyond_examples`.
    """

    losses: ClassVar[int] = 1
    """How many losses an example has, each with a selection of its own."""

    def __init__(
        self, context: MethodContext, *, forget_rate: float | None, ramp_epochs: int
    ) -> None:
        if forget_rate is not None:
            check_range("forget_rate", forget_rate, high=1.0, below=True)
        if forget_rate is None and context.task.held_out is None:
            raise ConfigError(
                "forget_rate is not given, and there is no hold-out to estimate it from: give it "
                "(the noise rate), or set validation = 0.1"
            )
        if context.accumulate > 1:
            raise ConfigError(
                f"examples are selected from whole batches: accumulate must be 1, got "
                f"{context.accumulate}"
            )
        if beyond := context.loss.beyond_examples():
            raise ConfigError(
                f"examples are selected by their own losses, and {', '.join(beyond)} of "
                f"{type(context.loss).__name__} is no part of these: take a loss without, or "
                f'method = "single"'
            )
        self._ramp_epochs = check_count("ramp_epochs", ramp_epochs, low=1)
        self._given_rate = forget_rate
        self._rate = forget_rate or 0.0
        self._best = 0.0
        super().__init__(context, networks=2)

    @abstractmethod
    def per_example(self, logits: Sequence[Tensor], target: Tensor) -> list[Tensor]:
        """Compute the losses of each example: what it is selected by, and trained with.

        Args:
            logits: Logits by each network, of shape (n, K).
            target: Given labels, of shape (n).

        Returns:
            :attr:`losses` tensors of shape (n).
        """

    @abstractmethod
    def select(self, losses: Sequence[Tensor]) -> Sequence[Tensor]:
        """Select the examples that each of the losses is minimised on.

        Args:
            losses: :attr:`losses` tensors, each of one loss per example of the whole batch.

        Returns:
            Positions in the whole batch for each of the losses, as many for each.
        """

    def set_epoch(self, epoch: int, epochs: int) -> float:
        """Set the epoch; tell the user if the ramp cannot end.

        Args:
            epoch: As for :meth:`Method.set_epoch`.
            epochs: As for :meth:`Method.set_epoch`.

        Returns:
            As :meth:`Method.set_epoch`.
        """
        lr = super().set_epoch(epoch, epochs)
        if not epoch and epochs < self._ramp_epochs:
            self.context.say(
                f"training ends after {epochs} epochs, before the share of examples that are left "
                f"out has grown to forget_rate, in epoch {self._ramp_epochs}"
            )
        return lr

    def begin_epoch(self) -> None:
        """Start an epoch; estimate the rate if it is not given."""
        super().begin_epoch()
        if self._given_rate is None:
            if self.epoch:
                self._estimate()
            elif self.epochs == 1:
                self.context.say(
                    "forget_rate is not given, and one epoch is too few to estimate it: no "
                    "example is left out"
                )

    def _estimate(self) -> None:
        labels = self.context.task.held_out
        assert labels is not None, "checked when the method was made"
        probabilities = self.predict("validation").exp().mean(0)
        right = float(select_agreeing(probabilities, labels).double().mean())
        if right > self._best:
            self._best = right
            self._rate = estimate_noise_rate(probabilities, labels, estimator=ESTIMATOR)
        last = self.epochs - 1
        if self.epoch in (min(self._ramp_epochs, last), last):
            when = "in the end" if self.epoch == last else "so far"
            self.context.say(
                f"forget_rate is not given: estimated from {len(labels)} held-out examples, of "
                f"whose labels the networks predict {100 * self._best:.0f} %, {when} "
                f"{self._rate:.3f}; the fewer they predict, the more it overestimates"
            )

    @property
    def forget(self) -> float:
        """The share of examples that the present epoch leaves out."""
        # The first epoch keeps all of them, the last of the ramp is the first of the full rate.
        return self._rate * ramp(self.epoch, length=max(1, self._ramp_epochs - 1))

    def metrics(self) -> dict[str, float]:
        """Return ``forget``, the share that the present epoch leaves out, and ``forget_rate``.

        The latter is what the former grows to, as given or as estimated so far.
        """
        return {"forget": self.forget, "forget_rate": self._rate}

    def train_epoch(self, batches: Iterable[Batch]) -> None:
        """Train on the batches of an epoch, or on those that are left of it."""
        for network in self.networks:
            network.train()
        for batch in batches:
            self.optimize(batch, self._selected_mean, networks=(0, 1), losses=self.losses)

    def _selected_mean(self, batch: Batch) -> Tensor:
        engine = self.context.engine
        losses = self.per_example([net(batch.input) for net in self.networks], batch.target)
        size = self.whole_size(batch)
        # All losses in one message, where there are several processes.
        whole = gather_shares(engine, torch.stack(losses, 1).detach(), size)
        selected = self.select(whole.unbind(1))
        sums = [
            values[pick_own(engine, rows)].sum()
            for values, rows in zip(losses, selected, strict=True)
        ]
        # A mean over what all processes selected, for each has its own number of them.
        return torch.stack(sums).sum() * (size / (len(batch.target) * len(selected[0])))

    def state_dict(self) -> dict[str, Any]:
        """Return all state that training changes: tensors and plain values."""
        return super().state_dict() | {"rate": self._rate, "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self._rate, self._best = state["rate"], state["best"]


@final
class CoTeaching(Pair):
    """Each network selects the examples that the other one learns from.

    See :func:`noisylabels.methods.functional.exchange_selections`.

    Args:
        context: What the method is given; its loss stands where the paper has cross entropy, both
            to select by and to train with.
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
        context: MethodContext,
        *,
        forget_rate: float | None = None,
        ramp_epochs: int = 10,
    ) -> None:
        super().__init__(context, forget_rate=forget_rate, ramp_epochs=ramp_epochs)

    def per_example(self, logits: Sequence[Tensor], target: Tensor) -> list[Tensor]:
        """Compute each network's loss of each example."""
        return [self.context.loss.per_example(z, target) for z in logits]

    def select(self, losses: Sequence[Tensor]) -> Sequence[Tensor]:
        """Select for each network the examples of small loss to the other one."""
        first, second = losses
        return exchange_selections(first, second, forget_rate=self.forget)


@final
class JoCoR(Pair):
    """Both networks learn from the examples that they jointly fit best and agree on most.

    See :func:`noisylabels.methods.functional.joint_loss`.

    Args:
        context: What the method is given; its loss stands where the paper has cross entropy, both
            to select by and to train with.
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
        context: MethodContext,
        *,
        forget_rate: float | None = None,
        ramp_epochs: int = 10,
        c: float = 0.9,
    ) -> None:
        self._c = check_range("c", c, high=1.0)
        super().__init__(context, forget_rate=forget_rate, ramp_epochs=ramp_epochs)

    def per_example(self, logits: Sequence[Tensor], target: Tensor) -> list[Tensor]:
        """Compute the joint loss of each example."""
        first, second = logits
        loss = self.context.loss.per_example
        return [joint_loss(first, second, target, c=self._c, loss=loss)]

    def select(self, losses: Sequence[Tensor]) -> Sequence[Tensor]:
        """Select the examples of small joint loss."""
        return [select_small_losses(losses[0], forget_rate=self.forget)]
