"""DivideMix: examples whose labels look wrong are learnt from without their labels."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil, log
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from noisylabels.data.batches import Batch, cut_into_batches, derive_generator, derive_seed
from noisylabels.errors import ConfigError, check_choice, check_count, check_range
from noisylabels.losses import CrossEntropyLoss
from noisylabels.methods.base import Method, Parts, evaluate
from noisylabels.methods.engine import Engine, gather_shares
from noisylabels.methods.mixture import clean_probability

AGREEMENT_EPOCHS = 5


@dataclass(frozen=True)
class Step:
    """One step of an epoch.

    Args:
        network: The network that it trains.
        labelled: How many of the batch's examples, the first ones, are labelled.
        done: How far the network is in its epoch, in [0, 1).
    """

    network: int
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
    mean prediction from the prior.

    The loss is that of the warm-up, in which its progress runs from 0 to 1. Another loss than cross
    entropy is followed by epochs of cross entropy on the examples whose labels the network then
    predicts, each network by itself: the mixture wants losses that tell clean from wrong.

    What would stop the original is mended and said: a labelled set smaller than a batch is filled
    up with the likeliest clean examples, a class without any labelled example gets the likeliest
    hundredth of its own, and without unlabelled examples that term is left out.

    With several processes the division is the same in all of them; each mixes its own part of a
    batch, and its mean prediction is that of its part.

    Args:
        engine: Runs the networks.
        parts: What the method is made of.
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
        ConfigError: A hyper-parameter is out of its range, or batches are computed in parts, which
            could not be mixed.

    References:
        Li, Socher, Hoi, "DivideMix: Learning with Noisy Labels as Semi-supervised Learning", 2020.
        As in its released code, the guesses of the network that is being trained come from it in
        training mode; here all views go through it at once.
        Li, Xia, Zhu, Liu, Zhang, Liu, "Dynamics-Aware Loss for Learning with Label Noise", 2023,
        for other losses in the warm-up.
    """

    def __init__(
        self,
        engine: Engine,
        parts: Parts,
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
        if parts.accumulate > 1:
            raise ConfigError(
                f"whole batches are mixed: accumulate must be 1, got {parts.accumulate}"
            )
        self._threshold = check_range("threshold", threshold, high=1.0, below=True)
        self._warmup = check_count("warmup", warmup, low=1)
        default = 0 if isinstance(parts.loss, CrossEntropyLoss) else AGREEMENT_EPOCHS
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
        super().__init__(engine, parts, networks=2)
        labels, classes = self._task.labels, self._task.num_classes
        counts = torch.bincount(labels, minlength=classes).double()
        even = torch.full((classes,), 1 / classes)
        shares = (counts / counts.sum()).float() if prior == "given" else even
        self._prior = shares.to(self._device)
        # Of each network: past losses, whether its labels are clean by the other's, which examples
        # it trains on with their labels.
        self._past: list[Tensor] = []
        self._clean = torch.ones(2, len(labels))
        self._clean_there = self._clean.to(self._device)
        self._labelled = torch.ones(2, len(labels), dtype=torch.bool)
        self._steps: list[Step] = []
        self._said: set[str] = set()
        self._warn_of_equal_views()
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
        return self._epoch >= self._start

    def set_epoch(self, epoch: int, epochs: int) -> float:
        """Set the learning rates and momenta, and the loss's progress within the warm-up."""
        lr = super().set_epoch(epoch, epochs)
        self._loss.progress = min(1.0, epoch / self._warmup)
        if self._start >= epochs:
            self._tell(f"{epochs} epochs end before the mixing begins, in epoch {self._start + 1}")
        return lr

    def _tell(self, sentence: str, *, once: str = "") -> None:
        """Say something of a kind that has not been said before."""
        if (once or sentence) not in self._said:
            self._said.add(once or sentence)
            self._say(f"dividemix: {sentence}")

    def begin_epoch(self) -> None:
        """Start an epoch: find out which labels look clean."""
        super().begin_epoch()
        if self._mixes:
            self._divide()
        elif self._epoch == self._warmup:
            self._agree()

    def _look(self, values: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Compute something of every training example, without augmentation.

        Args:
            values: ``(logits of shape (n, K), given labels) -> float32 of shape (n)``.

        Returns:
            By each network, of shape (2, N), on the CPU, the same in all processes.
        """
        engine = self._engine
        own = self._task.labels[engine.global_rank :: engine.world_size].to(self._device)

        def with_labels() -> Iterator[tuple[Tensor, Tensor]]:
            start = 0
            for batch in self._task.inputs("train"):
                yield batch, own[start : start + len(batch)]
                start += len(batch)

        found = evaluate(
            self._networks, with_labels(), lambda network, pair: values(network(pair[0]), pair[1])
        )
        whole = gather_shares(engine, found.T.to(self._device), len(self._task.labels))
        return whole.T.cpu()

    def _agree(self) -> None:
        """Choose for each network the examples whose labels it predicts."""
        hits = self._look(lambda logits, labels: (logits.argmax(1) == labels).float()) > 0
        for number in range(2):
            if int(hits[number].sum()) < self._task.batch_size:
                self._tell(
                    f"network {number + 1} predicts fewer than {self._task.batch_size} labels "
                    f"after the warm-up: it goes on with all examples"
                )
                hits[number] = True
        self._labelled = hits

    def _divide(self) -> None:
        """Choose for each network the examples whose labels look clean to the other one."""
        losses = self._look(
            lambda logits, labels: F.cross_entropy(logits.float(), labels, reduction="none")
        )
        self._past = [*self._past, losses][-self._history :]
        past = torch.stack(self._past, 1)
        for number in range(2):
            seed = derive_seed(self._task.seed, "mixture", self._epoch, number)
            probability, odd = clean_probability(past[number], seed=seed)
            if odd:
                self._tell(
                    f"network {number + 1}: {odd}", once=f"{number} {odd.lstrip('0123456789')}"
                )
            self._clean[1 - number] = self._of_the_first(probability.float())
        for number in range(2):
            self._labelled[number] = self._fill_up(number, self._clean[number] > self._threshold)

    def _of_the_first(self, values: Tensor) -> Tensor:
        """Return the first process's values: another kind of processor may round otherwise."""
        if self._engine.world_size == 1:
            return values
        own = values if self._engine.global_rank == 0 else torch.zeros_like(values)
        shared: Tensor = self._engine.all_reduce(own.to(self._device), reduce_op="sum")
        return shared.cpu()

    def _fill_up(self, number: int, labelled: Tensor) -> Tensor:
        """Guard against labelled sets that are too small, or without a class."""
        who, clean, labels = f"network {number + 1}", self._clean[number], self._task.labels
        least = min(self._task.batch_size, len(labels))
        if int(labelled.sum()) < least:
            self._tell(
                f"{who}: labels that look clean: only {int(labelled.sum())}; the likeliest {least} "
                f"are taken",
                once=f"{who} few",
            )
            labelled = labelled.clone()
            labelled[clean.argsort(descending=True, stable=True)[:least]] = True
        without = sorted(set(labels.tolist()) - set(labels[labelled].tolist()))
        if without:
            names = ", ".join(map(str, without[:20])) + (", ..." if len(without) > 20 else "")
            self._tell(
                f"{who}: classes without a label that looks clean: {names}; the likeliest "
                f"hundredth of each is taken",
                once=f"{who} classes",
            )
        for missing in without:
            members = (labels == missing).nonzero().squeeze(1)
            count = ceil(len(members) / 100)
            labelled[members[clean[members].argsort(descending=True, stable=True)[:count]]] = True
        left = int((~labelled).sum())
        if not left:
            self._tell(
                f"{who}: every example is taken with its label, none is left to guess",
                once=f"{who} all",
            )
        elif left < least:
            self._tell(
                f"{who}: examples that are left without their labels: only {left}, fewer than a "
                f"batch; every step guesses all of them",
                once=f"{who} almost all",
            )
        return labelled

    def order(self) -> list[Tensor]:
        """Return the present epoch's batches: those of the first network, then of the second.

        Returns:
            Positions in the training set, int64 on the CPU, for each step, over all processes; in
            a step that mixes, the labelled ones come first.
        """
        self._clean_there = self._clean.to(self._device)
        self._steps, batches = [], []
        for number in range(2):
            generator = derive_generator(self._task.seed, "order", self._epoch, number)
            made, counts = (
                self._mixed_batches(number, generator)
                if self._mixes
                else self._plain_batches(number, generator)
            )
            batches += made
            self._steps += [
                Step(number, count, step / len(made)) for step, count in enumerate(counts)
            ]
        return batches

    def _plain_batches(
        self, number: int, generator: torch.Generator
    ) -> tuple[list[Tensor], list[int]]:
        members = self._labelled[number].nonzero().squeeze(1)
        order = members[torch.randperm(len(members), generator=generator)]
        world = self._engine.world_size
        batches = cut_into_batches(order, 2 * self._task.batch_size, world)
        return batches, [len(batch) for batch in batches]

    def _mixed_batches(
        self, number: int, generator: torch.Generator
    ) -> tuple[list[Tensor], list[int]]:
        size, world = self._task.batch_size, self._engine.world_size
        with_label = self._labelled[number].nonzero().squeeze(1)
        without = (~self._labelled[number]).nonzero().squeeze(1)
        order = with_label[torch.randperm(len(with_label), generator=generator)]
        labelled = cut_into_batches(order, size, world)
        each = min(size, len(without))
        rounds = ceil(len(labelled) * each / len(without)) if each else 0
        shuffled = [
            without[torch.randperm(len(without), generator=generator)] for _ in range(rounds)
        ]
        unlabelled = torch.cat([without[:0], *shuffled])
        batches = [
            torch.cat([part, unlabelled[step * each : (step + 1) * each]])
            for step, part in enumerate(labelled)
        ]
        return batches, [len(part) for part in labelled]

    def train_epoch(self, batches: Iterable[Batch]) -> None:
        """Train on one epoch's batches, or on what is left of them."""
        training = None
        for batch in batches:
            step = self._steps[self._step]
            if training != step.network:
                training = step.network
                self._networks[training].train()
                self._networks[1 - training].eval()
            loss = self._mixed_loss if self._mixes else self._plain_loss
            self._descend(batch, lambda part: loss(part, step), networks=(training,))  # noqa: B023

    def _plain_loss(self, batch: Batch, step: Step) -> Tensor:
        logits = self._networks[step.network](batch.input)
        if self._epoch >= self._warmup:
            return F.cross_entropy(logits.float(), batch.target)
        value: Tensor = self._loss(logits, batch.target)
        if self._confidence_penalty:
            log_p = F.log_softmax(logits, dim=1, dtype=torch.float32)
            value = value + (log_p.exp() * log_p).sum(1).mean()
        return value

    def _mixed_loss(self, batch: Batch, step: Step) -> Tensor:
        network = self._networks[step.network]
        rank, world = self._engine.global_rank, self._engine.world_size
        # This process has every world-th example of a batch whose first ones are labelled.
        count = len(range(rank, step.labelled, world))
        labelled = torch.cat([view[:count] for view in batch.views])
        unlabelled = torch.cat([view[count:] for view in batch.views])
        inputs = torch.cat([labelled, unlabelled])
        with torch.no_grad():
            targets = self._targets(batch, step, count, inputs, unlabelled)
            inputs, targets = self._mix(inputs, targets)
        log_p = F.log_softmax(network(inputs), dim=1, dtype=torch.float32)
        views = len(batch.views)
        fit = -(targets[: views * count] * log_p[: views * count]).sum()
        apart = (log_p[views * count :].exp() - targets[views * count :]).square().sum()
        # Means over all processes, for each may have its own number of either kind.
        share = world / batch.weight
        value = fit * (share / (views * step.labelled))
        others = self._whole_size(batch) - step.labelled
        if others:
            value = value + apart * (self._weight_of_unlabelled(step) * share) / (
                views * others * log_p.shape[1]
            )
        mean_log_p = log_p.logsumexp(0) - log(len(log_p))
        balance = (torch.xlogy(self._prior, self._prior) - self._prior * mean_log_p).sum()
        return value + balance / batch.weight

    def _weight_of_unlabelled(self, step: Step) -> float:
        ramp = (self._epoch - self._start + step.done) / self._rampup
        return self._lambda_u * min(1.0, ramp)

    def _targets(
        self, batch: Batch, step: Step, count: int, inputs: Tensor, unlabelled: Tensor
    ) -> Tensor:
        """Refine the labels of the labelled examples, guess those of the others.

        Returns:
            Class probabilities in the order of ``inputs``: each view of all labelled examples, then
            each view of all unlabelled ones.
        """
        network, other = (self._networks[i] for i in (step.network, 1 - step.network))
        views = len(batch.views)
        p = network(inputs).softmax(1, dtype=torch.float32)
        own = p[: views * count].reshape(views, count, -1).mean(0)
        clean = self._clean_there[step.network, batch.index[:count]].unsqueeze(1)
        label = F.one_hot(batch.target[:count], p.shape[1])
        refined = self._sharpen(clean * label + (1 - clean) * own).repeat(views, 1)
        if not len(unlabelled):
            return refined
        q = other(unlabelled).softmax(1, dtype=torch.float32)
        both = torch.stack([p[views * count :], q]).mean(0)
        guessed = self._sharpen(both.reshape(views, -1, p.shape[1]).mean(0))
        return torch.cat([refined, guessed.repeat(views, 1)])

    def _sharpen(self, p: Tensor) -> Tensor:
        # Not a power, which would be 0 for every class at a low temperature.
        return (p.log() / self._temperature).softmax(1)

    def _mix(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix inputs and targets with a permutation of themselves."""
        share = float(torch.distributions.Beta(self._alpha, self._alpha).sample())
        share = max(share, 1 - share)
        partner = torch.randperm(len(inputs)).to(inputs.device, non_blocking=True)
        return (
            torch.lerp(inputs[partner], inputs, share),
            torch.lerp(targets[partner], targets, share),
        )

    def combine(self, probabilities: Tensor) -> Tensor:
        """Return the mean of both networks' predictions, as the method's authors report."""
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
        self._clean, self._labelled = state["clean"], state["labelled"]
