"""The epochs of one run, from wherever its checkpoint stands to the end."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from noisylabels.atomic import replacing, write_json
from noisylabels.data.batches import Batch, Batches, derive_seed
from noisylabels.data.examples import Dataset
from noisylabels.errors import CheckpointError, MissingExtraError, NoisyLabelsError
from noisylabels.losses import Loss
from noisylabels.methods import Method
from noisylabels.methods.engine import Engine, gather_shares
from noisylabels.methods.guard import NonFiniteError
from noisylabels.run import checkpoint
from noisylabels.run.config import RunConfig
from noisylabels.run.interruption import Request, StoppedError
from noisylabels.run.tracking import SERVICES, Metrics, Observer, Tracker

Predictions = dict[str, Tensor]
SECONDS_BETWEEN_TELLING = 5.0
AGREEMENT = 16
"""Steps between two agreements of several processes on whether to stop or save."""


@dataclass(frozen=True)
class Job:
    """A run with its data and its networks in memory.

    Args:
        config: The configuration with every default filled in.
        run_id: Hash of what affects the result.
        name: A short name for people.
        dataset: The dataset with given labels.
        true: True labels of the training set, where they are known.
        method: The method.
        loss: Its loss.
        batches: The dataset as batches.
        processes: The processes that train together.
        device: Where they train.
    """

    config: RunConfig
    run_id: str
    name: str
    dataset: Dataset
    true: Tensor | None
    method: Method
    loss: Loss
    batches: Batches
    processes: Engine
    device: torch.device


@dataclass
class Seconds:
    """Where a run's time went.

    Attributes:
        total: From start to end, without the time between a cut and its continuation.
        training: In training steps and their data.
        evaluation: In predictions and accuracies.
        saving: In checkpoints.
    """

    total: float = 0.0
    training: float = 0.0
    evaluation: float = 0.0
    saving: float = 0.0


class Loop:
    """Trains, evaluates, saves; continues bit for bit on a CPU.

    Args:
        job: The run.
        folder: Its folder.
        observer: Whoever looks on.
        request: Whether somebody asked to stop.
        started: When the run was started, by ``time.perf_counter``.

    Attributes:
        history: Every epoch's metrics so far.
        seconds: What time went into.

    Raises:
        CheckpointError: No checkpoint can be read, it does not fit, or the processes have read
            different ones.
    """

    def __init__(
        self, job: Job, folder: Path, observer: Observer, request: Request, started: float
    ) -> None:
        self._job = job
        self._folder = folder
        self._observer = observer
        self._request = request
        self._path = folder / "checkpoint.pt"
        self._epoch = 0
        self._step = 0
        self.history: list[Metrics] = []
        self._predictions: Predictions | None = None
        self.seconds = Seconds()
        self._load()
        self._check_place()
        self._started = started - self.seconds.total
        self._begun = started
        self._told = -math.inf
        self._saved = time.monotonic()

    def run(self) -> Predictions:
        """Train to the end.

        Returns:
            The last epoch's predictions.

        Raises:
            StoppedError: Somebody asked to stop.
            NoisyLabelsError: The loss is not finite any more.
            CheckpointError: The checkpoint does not fit, or the folder cannot be written.
        """
        job, epochs = self._job, self._job.config.epochs
        self._observer.started(job.name, self._folder, self._epoch, epochs)
        tracker = self._tracker() if self._leads else None
        try:
            while self._epoch < epochs:
                metrics = self._train_epoch()
                if tracker:
                    for complaint in tracker.log(metrics):
                        self._observer.noted(complaint)
                self._save()
                self._observer.advanced(metrics)
                self._stop_if_asked(self._agree(False)[1])
        except StoppedError:
            if tracker:
                tracker.close()
            # A process that ended before the first has written all would have it killed.
            self._job.processes.barrier()
            raise
        finally:
            if tracker:
                tracker.close()
        return self._predictions or self._predict()

    def _tracker(self) -> Tracker:
        settings = self._job.config.tables()
        services = []
        for name in self._job.config.trackers:
            try:
                services.append(SERVICES[name](self._folder, self._job.name, settings))
            except MissingExtraError:
                raise
            except Exception as error:  # a service can fail in any way
                raise NoisyLabelsError(f"trackers: {name} cannot be started: {error}") from error
        return Tracker(self._folder, self.history, services)

    def _rank(self) -> tuple[int, ...]:
        """Return this process's number, if there are several."""
        processes = self._job.processes
        return (processes.global_rank,) if processes.world_size > 1 else ()

    @property
    def _leads(self) -> bool:
        return self._job.processes.global_rank == 0

    def _train_epoch(self) -> Metrics:
        job, epoch = self._job, self._epoch
        lr = job.method.set_epoch(epoch, job.config.epochs)
        if self._step == 0:
            job.method.begin_epoch()
            torch.manual_seed(derive_seed(job.config.seed, "step", epoch, *self._rank()))
        self._begun = time.perf_counter()
        try:
            job.method.train_epoch(self._steps())
            mean_loss = job.method.end_epoch()
        except NonFiniteError as error:
            raise self._explain(error, lr) from error
        self.seconds.training += time.perf_counter() - self._begun
        self._epoch, self._step = epoch + 1, 0
        metrics: Metrics = {"epoch": epoch, "loss": mean_loss, "lr": lr}
        metrics |= self._evaluate() | job.loss.dynamic() | job.method.metrics()
        if skipped := job.method.skipped:
            metrics["skipped_steps"] = skipped
            self._observer.noted(f"steps left out so far, for they were not finite: {skipped}")
        self.history.append(metrics)
        return metrics

    def _steps(self) -> Iterator[Batch]:
        """Yield the epoch's batches; between two of them the method is whole and can be saved."""
        first = self._step
        for step, batch in enumerate(self._batches(first), start=first):
            if step > first:
                self._between_steps(step)
            yield batch
            self._step = step + 1
        # Before an evaluation that may take long.
        self._between_steps(self._step, last=True)

    def _batches(self, start: int) -> Iterator[Batch]:
        """Yield the epoch's batches from a step on, as the method wants them."""
        method = self._job.method
        return self._job.batches.epoch(self._epoch, start, order=method.order(), views=method.views)

    def _between_steps(self, step: int, *, last: bool = False) -> None:
        if self._job.processes.world_size > 1 and step % AGREEMENT and not last:
            return
        minutes = self._job.config.checkpoint_minutes
        due, asked = self._agree(time.monotonic() - self._saved > 60 * minutes)
        if due or asked:
            self.seconds.training += time.perf_counter() - self._begun
            self._job.method.settle()
            self._save()
            self._begun = time.perf_counter()
            self._stop_if_asked(asked)

    def _agree(self, due: bool) -> tuple[bool, bool]:
        """Return whether any process wants to save, and whether any was asked to stop.

        All must do so after the same step, or the rest would wait for ever.
        """
        asked = self._request.number > 0
        if self._job.processes.world_size == 1:
            return due, asked
        flags = torch.tensor([float(due), float(asked)], device=self._job.device)
        due, asked = (
            value > 0 for value in self._job.processes.all_reduce(flags, reduce_op="sum").tolist()
        )
        return due, asked

    def _stop_if_asked(self, asked: bool) -> None:
        if asked and self._epoch < self._job.config.epochs:
            where = f"epoch {self._epoch + 1} of {self._job.config.epochs}"
            after = f", after step {self._step}" if self._step else ""
            said = (
                f"stopped in {where}{after}; {self._folder} has a checkpoint: "
                f"the same command continues"
            )
            raise StoppedError(self._request.number or 15, said if self._leads else "")

    def _evaluate(self) -> Metrics:
        every, epochs = self._job.config.evaluate_every, self._job.config.epochs
        if self._epoch % every and self._epoch < epochs:
            return {}
        begun = time.perf_counter()
        self._predictions = self._predict()
        found = accuracies(self._predictions, self._job)
        self.seconds.evaluation += time.perf_counter() - begun
        if not all(bool(each.isfinite().all()) for each in self._predictions.values()):
            raise NoisyLabelsError(
                f"{self._folder}: predictions are not finite after epoch {self._epoch} "
                f"({self._circumstances()})"
            )
        return found

    def _predict(self) -> Predictions:
        method = self._job.method
        return {part: method.predict(part).exp() for part in method.context.task.sizes}

    def _save(self) -> None:
        begun = time.perf_counter()
        self.seconds.total = begun - self._started
        if self._leads:
            state = {
                "epoch": self._epoch,
                "step": self._step,
                "random": random_state(self._job.device) if self._step else None,
                "seconds": vars(self.seconds),
                "metrics": self.history,
                "method": self._job.method.state_dict(),
                "loss": self._job.loss.state_dict(),
            }
            checkpoint.save(self._path, self._job.run_id, state)
            self._tell()
        self._saved = time.monotonic()
        self.seconds.saving += time.perf_counter() - begun

    def _tell(self) -> None:
        """Write how far the run is: not among the metrics, which no cut must change."""
        last = self._epoch == self._job.config.epochs
        if last or time.monotonic() - self._told > SECONDS_BETWEEN_TELLING:
            progress = {"epoch": self._epoch, "step": self._step, **vars(self.seconds)}
            write_json(self._folder / "progress.json", progress)
            self._told = time.monotonic()

    def _load(self) -> None:
        state, doubt = checkpoint.load_latest(self._path, self._job.run_id)
        if doubt:
            self._observer.noted(doubt)
            if self._leads:
                checkpoint.set_aside(self._path)
        if state is None:
            return
        try:
            self._job.method.load_state_dict(state["method"])
            self._job.loss.load_state_dict(state["loss"])
            self._epoch, self._step = state["epoch"], state["step"]
            self.history = state["metrics"]
            self.seconds = Seconds(**state["seconds"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self._path}: does not fit this run ({error})") from error
        if state["random"] is not None:
            restore_random_state(state["random"], self._job.device)
            if not self._leads:
                # The state is the first process's; this one's draws are its own.
                place = (self._epoch, self._step, *self._rank())
                torch.manual_seed(derive_seed(self._job.config.seed, "step", *place))

    def _check_place(self) -> None:
        """Make sure that all processes continue from the same epoch and step.

        Raises:
            CheckpointError: They do not: each has read a folder of its own.
        """
        if self._job.processes.world_size == 1:
            return
        own = torch.tensor([[self._epoch, self._step]], device=self._job.device)
        places = gather_shares(self._job.processes, own, self._job.processes.world_size).tolist()
        if any(place != places[0] for place in places):
            found = ", ".join(f"epoch {epoch + 1} step {step + 1}" for epoch, step in places)
            raise CheckpointError(
                f"{self._folder}: the processes would continue from different places ({found}): "
                f"expected a folder that all of them share"
            )

    def _circumstances(self) -> str:
        dynamic = "".join(f", {k} {v:g}" for k, v in self._job.loss.dynamic().items())
        return f"{self._job.config.loss.name}{dynamic}"

    def _explain(self, error: NonFiniteError, lr: float) -> NoisyLabelsError:
        """Save the batch of a step that is not finite, and say all that is known of it."""
        name = "".join(f".{rank}" for rank in self._rank())
        path = self._folder / f"nonfinite{name}.npz"
        # Made anew: it is the same, and the error may have come without its inputs.
        batch = next(self._batches(error.step))
        index = batch.index.cpu()
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                index=index.numpy(),
                input=batch.input.float().cpu().numpy(),
                target=batch.target.cpu().numpy(),
            )
        shown = ", ".join(map(str, index[:8].tolist()))
        where = f"epoch {self._epoch + 1} of {self._job.config.epochs}, step {error.step + 1}"
        more = ", ..." if len(index) > 8 else ""
        return NoisyLabelsError(
            f"loss or gradients are not finite in {where} (loss {error.loss:g}, "
            f"{self._circumstances()}, learning rate {lr:g}, examples {shown}{more}): {path} has "
            f'the batch; with on_nan = "skip" the run continues and leaves such steps out'
        )


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's generators: the CPU's, and the device's where it has one."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state()
    return states


def restore_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Restore what :func:`random_state` returned; a device that it does not have is left alone."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type != "cpu" and device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type].cpu())


def accuracies(predictions: Predictions, job: Job) -> Metrics:
    """Compare predictions with labels.

    Args:
        predictions: Class probabilities of each part by every network, of shape (networks, N, K).
        job: The run.

    Returns:
        ``test_accuracy`` of the method's own prediction; ``train_accuracy`` with respect to the
        given labels, and its values on correctly and on wrongly labelled examples where the true
        labels are known; with a hold-out, ``validation_accuracy``; and with several networks,
        ``test_accuracy_1``, ... of each and ``test_accuracy_ensemble`` of their mean prediction.
        Fractions in [0, 1]; None where there is no such example.
    """
    hits = {name: _hits(job.method.combine(each), job, name) for name, each in predictions.items()}
    correct = None if job.true is None else job.dataset.train.labels == job.true
    metrics: Metrics = {
        "test_accuracy": _mean(hits["test"]),
        "train_accuracy": _mean(hits["train"]),
        "train_accuracy_correct": None if correct is None else _mean(hits["train"][correct]),
        "train_accuracy_wrong": None if correct is None else _mean(hits["train"][~correct]),
    }
    if "validation" in hits:
        metrics["validation_accuracy"] = _mean(hits["validation"])
    each = predictions["test"]
    if len(each) > 1:
        for number, probabilities in enumerate(each, 1):
            metrics[f"test_accuracy_{number}"] = _mean(_hits(probabilities, job, "test"))
        metrics["test_accuracy_ensemble"] = _mean(_hits(each.mean(0), job, "test"))
    return metrics


def _hits(probabilities: Tensor, job: Job, part: str) -> Tensor:
    """Return where a prediction is the label, as 0 and 1."""
    labels: Tensor = getattr(job.dataset, part).labels
    return (probabilities.argmax(1) == labels).double()


def _mean(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None
