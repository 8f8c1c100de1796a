"""DivideMix: examples whose labels look wrong are learnt from without their labels."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from noisylabels.data.batches import Batch, cut_into_batches, derive_generator, derive_seed
from noisylabels.errors import ConfigError, check_choice, check_count, check_range
from noisylabels.losses import CrossEntropyLoss
from noisylabels.methods.base import Method, MethodContext
from noisylabels.methods.engine import broadcast_first
from noisylabels.methods.functional import (
    balance_penalty,
    clean_probability,
    co_guess,
    co_refine,
    fill_up,
    fill_up_classes,
    missing_classes,
    mix,
    negative_entropy,
    ramp,
    select_agreeing,
)

AGREEMENT_EPOCHS = 5
CLASSES_SHOWN = 20


@dataclass(frozen=True, eq=False)
class Step:
    """One step of an epoch.

    Args:
        network: Number of the network that it trains.
        positions: The examples, over all processes: positions in the training set, int64 on the
            CPU.
        labelled: How many of them, the first ones, are labelled.
        done: How far the network is in its epoch, in [0, 1).
    """

    network: int
    positions: Tensor
    labelled: int
    done: float


class DivideMix(Method):
    r"""Divides the examples by their losses, and mixes the halves semi-supervised.

    For each of two networks, after a warm-up of plain training: a mixture of two Gaussians on the
    *other* network's losses tells how likely each label is clean, :math:`w`. Examples with
    :math:`w` above ``threshold`` are labelled, the others not. In a step, of two views of each
    example,

    .. math::
        \hat y = w y + (1 - w) \frac{1}{2} \sum_v p(x_v), \qquad
        \hat u = \frac{1}{4} \sum_v [p(u_v) + p'(u_v)]

    are sharpened, :math:`\hat y_k^{1/T} / \sum_j \hat y_j^{1/T}`; all views and targets are mixed
    with a permutation of themselves by :math:`\max(l, 1 - l)`, :math:`l \sim Beta(\alpha,
    \alpha)`; and the network minimises the cross entropy of the labelled part, plus
    :math:`\lambda_u` times the mean squared difference of the other, plus the divergence of the
    mean prediction from the prior. Each of these steps is a function of
    :mod:`noisylabels.methods.functional`.

    The loss is that of the warm-up, in which its progress runs from 0 to 1. Another loss than cross
    entropy is followed by epochs of cross entropy on the examples whose labels the network then
    predicts, each network by itself: the mixture wants losses that tell clean from wrong.

    What would stop the original is handled, and the user is told: a labelled set smaller than a
    batch is filled up with the likeliest clean examples, a class without any labelled example gets
    the likeliest hundredth of its own, and without unlabelled examples that term is left out.

    With several processes the division is the same in all of them; each mixes its own part of a
    batch, and its mean prediction is that of its part.

    Args:
        context: What the method is given.
        warmup: Epochs of plain training, at least 1; batches are twice as large in them.
        agreement: Epochs of cross entropy on predicted labels, at least 0; by default 0 with cross
            entropy, else 5.
        alpha: Parameter of the Beta distribution, above 0.
        lambda_u: Weight of the unlabelled part, at least 0.
        rampup: Epochs in which it grows from 0 to that, above 0.
        T: Temperature of sharpening, in (0, 1].
        threshold: Probability above which a label is taken for clean, in [0, 1).
        history: Epochs over which an example's loss, scaled to [0, 1] in each, is averaged, at
            least 1; the released code has 5 for 90 % noise.
        confidence_penalty: Whether the warm-up also maximises the predictions' entropy, as for
            asymmetric noise.
        prior: What the mean prediction is held to: ``"uniform"`` as published, or ``"given"``, the
            frequencies of the given labels, for classes of different size.

    Raises:
        ConfigError: A hyper-parameter is out of its range, or the gradients of a batch are computed
            in parts, which could not be mixed.

    References:
        Li, Socher, Hoi, "DivideMix: Learning with Noisy Labels as Semi-supervised Learning", 2020.
        As in its released code, the guesses of the network that is being trained come from it in
        training mode; here all views go through it at once.
        Li, Xia, Zhu, Liu, Zhang, Liu, "Dynamics-Aware Loss for Learning with Label Noise", 2023,
        for other losses in the warm-up.
    """

    def __init__(
        self,
        context: MethodContext,
        *,
        warmup: int = 10,
        agreement: int | None = None,
        alpha: float = 4.0,
        lambda_u: float = 25.0,
        rampup: float = 16.0,
        T: float = 0.5,
        threshold: float = 0.5,
        history: int = 1,
        confidence_penalty: bool = False,
        prior: Literal["uniform", "given"] = "uniform",
    ) -> None:
        if context.accumulate > 1:
            raise ConfigError(
                f"whole batches are mixed: accumulate must be 1, got {context.accumulate}"
            )
        self._threshold = check_range("threshold", threshold, high=1.0, below=True)
        self._warmup = check_count("warmup", warmup, low=1)
        default = 0 if isinstance(context.loss, CrossEntropyLoss) else AGREEMENT_EPOCHS
        self._start = self._warmup + check_count(
            "agreement", default if agreement is None else agreement
        )
        self._alpha = check_range("alpha", alpha, open=True)
        self._lambda_u = check_range("lambda_u", lambda_u)
        self._rampup = check_range("rampup", rampup, open=True)
        self._temperature = check_range("T", T, high=1.0, open=True)
        self._history = check_count("history", history, low=1)
        self._confidence_penalty = confidence_penalty
        check_choice("prior", prior, ["uniform", "given"])
        super().__init__(context, networks=2)
        labels, classes = context.task.labels, context.task.num_classes
        counts = torch.bincount(labels, minlength=classes).double()
        even = torch.full((classes,), 1 / classes)
        shares = (counts / counts.sum()).float() if prior == "given" else even
        self._prior = shares.to(self.device)
        # Of each network: past losses, how likely each label is clean by the other's, which
        # examples it trains on with their labels.
        self._past: list[Tensor] = []
        self._clean = torch.ones(2, len(labels), device=self.device)
        self._labelled = torch.ones(2, len(labels), dtype=torch.bool)
        self._said: set[str] = set()
        self.say_if_views_are_equal()
        least, most = int(counts.min()), int(counts.max())
        if prior == "uniform" and most > 2 * least:
            self._tell(
                f"classes have {least} to {most} given labels, and the mean prediction is held to "
                f'equal shares: if your classes differ in size, set prior = "given"'
            )

    @property
    def views(self) -> int:
        """Two where views are mixed, one before."""
        return 2 if self._mixes else 1

    @property
    def _mixes(self) -> bool:
        return self.epoch >= self._start

    def set_epoch(self, epoch: int, epochs: int) -> float:
        """Set the loss's progress, the learning rates and the momenta.

        Args:
            epoch: As for :meth:`Method.set_epoch`.
            epochs: As for :meth:`Method.set_epoch`.

        Returns:
            As :meth:`Method.set_epoch`.
        """
        lr = super().set_epoch(epoch, epochs)
        if self._start >= epochs:
            self._tell(
                f"training ends after {epochs} epochs, before mixing begins in epoch "
                f"{self._start + 1}"
            )
        return lr

    def loss_progress(self, epoch: int, epochs: int) -> float:
        """Return how much of the warm-up is behind, in which alone the loss is used.

        Args:
            epoch: As for :meth:`Method.loss_progress`.
            epochs: As for :meth:`Method.loss_progress`.
        """
        return min(1.0, epoch / self._warmup)

    def _tell(self, sentence: str, *, once: str = "") -> None:
        """Say something of a kind that has not been said before."""
        if (once or sentence) not in self._said:
            self._said.add(once or sentence)
            self.context.say(f"dividemix: {sentence}")

    def begin_epoch(self) -> None:
        """Start an epoch: find out which labels look clean."""
        super().begin_epoch()
        if self._mixes:
            self._divide()
        elif self.epoch == self._warmup:
            self._agree()

    def _agree(self) -> None:
        """Choose for each network the examples whose labels it predicts."""
        task = self.context.task
        self._labelled = select_agreeing(self.predict("train"), task.labels)
        for number in range(2):
            if int(self._labelled[number].sum()) < task.batch_size:
                self._tell(
                    f"network {number + 1} predicts fewer than {task.batch_size} labels after the "
                    f"warm-up: it continues with all examples"
                )
                self._labelled[number] = True

    def _divide(self) -> None:
        """Choose for each network the examples whose labels look clean to the other one."""
        task = self.context.task
        losses = [F.nll_loss(p, task.labels, reduction="none") for p in self.predict("train")]
        self._past = [*self._past, torch.stack(losses)][-self._history :]
        past = torch.stack(self._past, 1)
        found = torch.empty(2, len(task.labels))
        for number in range(2):
            seed = derive_seed(task.seed, "mixture", self.epoch, number)
            found[1 - number], odd = clean_probability(past[number], seed=seed)
            if odd:
                self._tell(
                    f"network {number + 1}: {odd}", once=f"{number} {odd.lstrip('0123456789')}"
                )
        self._clean = broadcast_first(self.context.engine, found.to(self.device))
        clean = self._clean.cpu()
        self._labelled = torch.stack([self._label(number, clean[number]) for number in range(2)])

    def _label(self, number: int, clean: Tensor) -> Tensor:
        """Choose the examples that one network trains on with their labels.

        Args:
            number: Number of the network.
            clean: How likely each label is clean, of shape (N), on the CPU.

        Returns:
            Whether each example is trained on with its label, of shape (N).
        """
        who, labels = f"network {number + 1}", self.context.task.labels
        least = min(self.context.task.batch_size, len(labels))
        labelled = clean > self._threshold
        count = int(labelled.sum())
        if count < least:
            self._tell(
                f"{who}: labels that look clean: only {count}; the {least} likeliest are used",
                once=f"{who} few",
            )
            labelled = fill_up(labelled, clean, least=least)
        missing = missing_classes(labelled, labels)
        if missing:
            names = ", ".join(map(str, missing[:CLASSES_SHOWN]))
            more = ", ..." if len(missing) > CLASSES_SHOWN else ""
            self._tell(
                f"{who}: classes without a label that looks clean: {names}{more}; the likeliest "
                f"hundredth of each is used",
                once=f"{who} classes",
            )
            labelled = fill_up_classes(labelled, clean, labels)
        left = len(labels) - int(labelled.sum())
        if not left:
            self._tell(
                f"{who}: every example is used with its label, which leaves none to guess",
                once=f"{who} all",
            )
        elif left < least:
            self._tell(
                f"{who}: examples used without their labels: only {left}, fewer than a batch; "
                f"every step guesses all of them",
                once=f"{who} almost all",
            )
        return labelled

    def order(self) -> list[Tensor]:
        """Return the examples of the present epoch's steps, see :meth:`plan_epoch`."""
        return [step.positions for step in self.plan_epoch()]

    def plan_epoch(self) -> list[Step]:
        """Return the present epoch's steps: those of the first network, then of the second.

        Asking changes nothing: they follow from the seed, the epoch and the division.
        """
        make = self._mixed_batches if self._mixes else self._plain_batches
        steps = []
        for number in range(2):
            generator = derive_generator(self.context.task.seed, "order", self.epoch, number)
            batches = make(self._labelled[number], generator)
            steps += [
                Step(number, positions, labelled, done=place / len(batches))
                for place, (positions, labelled) in enumerate(batches)
            ]
        return steps

    def _plain_batches(
        self, labelled: Tensor, generator: torch.Generator
    ) -> list[tuple[Tensor, int]]:
        """Cut the labelled examples into batches of twice the usual size."""
        size, world = self.context.task.batch_size, self.context.engine.world_size
        order = _shuffled(labelled.nonzero().squeeze(1), generator)
        return [(batch, len(batch)) for batch in cut_into_batches(order, 2 * size, world)]

    def _mixed_batches(
        self, labelled: Tensor, generator: torch.Generator
    ) -> list[tuple[Tensor, int]]:
        """Cut the labelled examples into batches, and add to each as many unlabelled ones."""
        size, world = self.context.task.batch_size, self.context.engine.world_size
        order = _shuffled(labelled.nonzero().squeeze(1), generator)
        batches = cut_into_batches(order, size, world)
        without = (~labelled).nonzero().squeeze(1)
        each = min(size, len(without))
        rounds = ceil(len(batches) * each / len(without)) if each else 0
        others = torch.cat([without[:0], *(_shuffled(without, generator) for _ in range(rounds))])
        return [
            (torch.cat([batch, others[place * each : (place + 1) * each]]), len(batch))
            for place, batch in enumerate(batches)
        ]

    def train_epoch(self, batches: Iterable[Batch]) -> None:
        """Train on the batches of an epoch, or on those that are left of it."""
        steps = self.plan_epoch()
        loss = self._mixed_loss if self._mixes else self._plain_loss
        trained = None
        for batch in batches:
            step = steps[self.step]
            if trained != step.network:
                trained = step.network
                self.networks[trained].train()
                self.networks[1 - trained].eval()
            self.optimize(batch, partial(loss, step=step), networks=(trained,))

    def _plain_loss(self, batch: Batch, step: Step) -> Tensor:
        logits = self.networks[step.network](batch.input)
        if self.epoch >= self._warmup:
            return F.cross_entropy(logits.float(), batch.target)
        value: Tensor = self.context.loss(logits, batch.target)
        if self._confidence_penalty:
            value = value + negative_entropy(logits).mean()
        return value

    def _mixed_loss(self, batch: Batch, step: Step) -> Tensor:
        rank, world = self.context.engine.global_rank, self.context.engine.world_size
        # This process has every world-th example of a batch whose first ones are labelled.
        count = len(range(rank, step.labelled, world))
        with torch.no_grad():
            input, target = self._mixed(batch, step, count)
        log_p = F.log_softmax(self.networks[step.network](input), dim=1, dtype=torch.float32)
        views = len(batch.views)
        fit = -(target[: views * count] * log_p[: views * count]).sum()
        apart = (log_p[views * count :].exp() - target[views * count :]).square().sum()
        # Means over all processes, for each may have its own number of either kind.
        share = world / batch.weight
        value = fit * (share / (views * step.labelled))
        others = self.whole_size(batch) - step.labelled
        if others:
            value = value + apart * (self._weight_of_unlabelled(step) * share) / (
                views * others * log_p.shape[1]
            )
        return value + balance_penalty(log_p, self._prior) / batch.weight

    def _weight_of_unlabelled(self, step: Step) -> float:
        elapsed = self.epoch - self._start + step.done
        return self._lambda_u * ramp(elapsed, length=self._rampup)

    def _mixed(self, batch: Batch, step: Step, count: int) -> tuple[Tensor, Tensor]:
        """Give all views targets, and mix them with a permutation of themselves.

        Args:
            batch: The batch, of which the first ``count`` examples are labelled.
            step: Its step.
            count: How many are labelled.

        Returns:
            Inputs and class probabilities: each view of all labelled examples, then each view of
            all unlabelled ones.
        """
        labelled = torch.cat([view[:count] for view in batch.views])
        unlabelled = torch.cat([view[count:] for view in batch.views])
        input = torch.cat([labelled, unlabelled])
        target = self._targets(batch, step, count, input, unlabelled)
        share = float(torch.distributions.Beta(self._alpha, self._alpha).sample())
        partner = torch.randperm(len(input)).to(input.device, non_blocking=True)
        return mix(input, target, share=share, partner=partner)

    def _targets(
        self, batch: Batch, step: Step, count: int, input: Tensor, unlabelled: Tensor
    ) -> Tensor:
        """Refine the labels of the labelled examples, guess those of the others."""
        views, temperature = len(batch.views), self._temperature
        own = self.networks[step.network](input).softmax(1, dtype=torch.float32)
        classes = own.shape[1]
        refined = co_refine(
            own[: views * count].reshape(views, count, classes),
            batch.target[:count],
            self._clean[step.network, batch.index[:count]],
            T=temperature,
        ).repeat(views, 1)
        if not len(unlabelled):
            return refined
        other = self.networks[1 - step.network](unlabelled).softmax(1, dtype=torch.float32)
        both = torch.stack([own[views * count :], other])
        guessed = co_guess(both.reshape(2, views, -1, classes), T=temperature)
        return torch.cat([refined, guessed.repeat(views, 1)])

    def combine(self, probabilities: Tensor) -> Tensor:
        """Return the mean of both networks' predictions, as the method's authors report.

        Args:
            probabilities: As for :meth:`Method.combine`.

        Returns:
            Probabilities of shape (N, K).
        """
        return probabilities.mean(0)

    def metrics(self) -> dict[str, float]:
        """Return the share of examples that each network trains on with their labels."""
        shares = self._labelled.double().mean(1).tolist()
        return {f"labelled_{number}": share for number, share in enumerate(shares, 1)}

    def state_dict(self) -> dict[str, Any]:
        """Return all state that training changes: tensors and plain values."""
        return super().state_dict() | {
            "past": self._past,
            "clean": self._clean,
            "labelled": self._labelled,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self._past = list(state["past"])
        self._clean, self._labelled = state["clean"].to(self.device), state["labelled"]


def _shuffled(members: Tensor, generator: torch.Generator) -> Tensor:
    return members[torch.randperm(len(members), generator=generator)]
