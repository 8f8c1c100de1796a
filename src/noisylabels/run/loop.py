"""The epochs of one run, from wherever its checkpoint stands to the end."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from noisylabels.data.batches import Batch, Batches, derive_seed
from noisylabels.data.examples import Dataset, Examples
from noisylabels.errors import CheckpointError, NoisyLabelsError
from noisylabels.losses import Loss
from noisylabels.methods import Method
from noisylabels.methods.engine import Engine, gather_shares
from noisylabels.methods.guard import NonFiniteError
from noisylabels.run.callbacks import Callback, Start
from noisylabels.run.config import RunConfig
from noisylabels.run.folder import Metrics, RunFolder
from noisylabels.run.interruption import Request, StoppedError
from noisylabels.run.trajectory import Trajectory

Predictions = dict[str, Tensor]
TRIGGERED = "triggered"
"""The test examples with the trigger of a poisoned training set, which are predicted at the end."""
SECONDS_BETWEEN_SAVES = 4.5
"""How old a checkpoint must be for the end of an epoch to bring the next one.

With epochs of up to half a second no cut costs more than five.
"""
AGREEMENT = 16
"""Steps between two agreements of several processes on whether to stop or save."""


@dataclass(frozen=True)
class RunState:
    """A run with its data and its networks in memory.

    Args:
        config: The configuration with every default filled in.
        name: A short name for people.
        dataset: The dataset with given labels.
        true: True labels of the training set, where they are known.
        method: The method.
        loss: Its loss.
        batches: The dataset as batches.
        engine: The processes that train together.
        device: Where they train.
    """

    config: RunConfig
    name: str
    dataset: Dataset
    true: Tensor | None
    method: Method
    loss: Loss
    batches: Batches
    engine: Engine
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
        state: The run.
        folder: Its folder.
        callbacks: Whoever follows it; whoever made them ends them.
        request: Whether somebody asked to stop.
        started: When the run was started, by ``time.perf_counter``.

    Attributes:
        history: Every epoch's metrics so far.
        seconds: What time went into.
        trajectories: What was predicted in the epochs so far for each part with given labels.

    Raises:
        CheckpointError: No checkpoint can be read, it does not fit, or the processes have read
            different ones.
    """

    def __init__(
        self,
        state: RunState,
        folder: RunFolder,
        callbacks: Callback,
        request: Request,
        started: float,
    ) -> None:
        self._state = state
        self._folder = folder
        self._callbacks = callbacks
        self._request = request
        self._epoch = 0
        self._step = 0
        self.history: list[Metrics] = []
        self._predictions: Predictions | None = None
        self._collapse_said = False
        self.seconds = Seconds()
        self.trajectories = _trajectories(state.dataset)
        self._load()
        self._check_place()
        self._started = started - self.seconds.total
        self._begun = started
        self._saved = time.monotonic()

    def run(self) -> Predictions:
        """Train to the end.

        Returns:
            The last epoch's predictions, see :func:`accuracies`; and where the training set is
            poisoned, those of the test examples with the trigger, ``"triggered"``.

        Raises:
            StoppedError: Somebody asked to stop.
            NoisyLabelsError: The loss is not finite any more.
            CheckpointError: The checkpoint does not fit, or the folder cannot be written.
        """
        state, epochs = self._state, self._state.config.epochs
        start = Start(
            name=state.name,
            folder=self._folder.path,
            epoch=self._epoch,
            epochs=epochs,
            settings=state.config.tables(),
            history=self.history,
        )
        self._callbacks.on_start(start)
        try:
            while self._epoch < epochs:
                metrics = self._train_epoch()
                try:
                    self._callbacks.on_epoch(metrics)
                finally:
                    # The epoch is whole, whatever a callback makes of it.
                    due, asked = self._agree(time.monotonic() - self._saved >= self._interval)
                    if due or asked:
                        self._save()
                self._stop_if_asked(asked)
        except StoppedError:
            self._callbacks.on_end()
            # A process that ended before the first has written all would have it killed.
            state.engine.barrier()
            raise
        predictions = self._predictions or self._predict()
        if state.dataset.triggered is not None:
            begun = time.perf_counter()
            predictions = predictions | {TRIGGERED: state.method.predict(TRIGGERED).exp()}
            self.seconds.evaluation += time.perf_counter() - begun
        self.seconds.total = time.perf_counter() - self._started
        return predictions

    @property
    def _interval(self) -> float:
        """Seconds that a checkpoint must be old for the end of an epoch to bring the next one."""
        return min(SECONDS_BETWEEN_SAVES, 60 * self._state.config.checkpoint_minutes)

    def _rank(self) -> tuple[int, ...]:
        """Return this process's number, if there are several."""
        engine = self._state.engine
        return (engine.global_rank,) if engine.world_size > 1 else ()

    def _train_epoch(self) -> Metrics:
        state, epoch = self._state, self._epoch
        lr = state.method.set_epoch(epoch, state.config.epochs)
        if self._step == 0:
            state.method.begin_epoch()
            seed(derive_seed(state.config.seed, "step", epoch, *self._rank()), state.device)
        self._begun = time.perf_counter()
        try:
            state.method.train_epoch(self._steps())
            mean_loss = state.method.end_epoch()
        except NonFiniteError as error:
            raise self._explain(error, lr) from error
        self.seconds.training += time.perf_counter() - self._begun
        self._epoch, self._step = epoch + 1, 0
        trained = {"epoch": epoch, "loss": mean_loss, "lr": lr}
        hyperparameters = state.loss.dynamic()
        evaluated = self._evaluate()
        own = state.method.metrics()
        # Without what evaluation found: no schedule may follow it, and it can be rarer.
        self._update_schedules(trained | hyperparameters | own)
        metrics = trained | evaluated | hyperparameters | own
        if skipped := state.method.skipped:
            metrics["skipped_steps"] = skipped
            self._callbacks.on_message(
                f"steps skipped so far because the loss or its gradients were not finite: {skipped}"
            )
        self.history.append(metrics)
        return metrics

    def _update_schedules(self, metrics: dict[str, float]) -> None:
        try:
            self._state.loss.update(metrics)
        except Exception as error:  # the user's own schedule can fail in any way
            raise NoisyLabelsError(
                f"loss: a schedule's update failed ({error!r:.200}); it is given "
                f"{', '.join(metrics)}"
            ) from error

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
        method = self._state.method
        return self._state.batches.epoch(
            self._epoch, start, order=method.order(), views=method.views
        )

    def _between_steps(self, step: int, *, last: bool = False) -> None:
        if self._state.engine.world_size > 1 and step % AGREEMENT and not last:
            return
        minutes = self._state.config.checkpoint_minutes
        due, asked = self._agree(time.monotonic() - self._saved > 60 * minutes)
        if due or asked:
            self.seconds.training += time.perf_counter() - self._begun
            self._state.method.settle()
            self._save()
            self._begun = time.perf_counter()
            self._stop_if_asked(asked)

    def _agree(self, due: bool) -> tuple[bool, bool]:
        """Return whether any process wants to save, and whether any was asked to stop.

        All must do so after the same step, or the rest would wait for ever.
        """
        asked = self._request.number > 0
        engine = self._state.engine
        if engine.world_size == 1:
            return due, asked
        flags = torch.tensor([float(due), float(asked)], device=self._state.device)
        due, asked = (value > 0 for value in engine.all_reduce(flags, reduce_op="sum").tolist())
        return due, asked

    def _stop_if_asked(self, asked: bool) -> None:
        if asked and self._epoch < self._state.config.epochs:
            where = f"epoch {self._epoch + 1} of {self._state.config.epochs}"
            after = f", after step {self._step}" if self._step else ""
            said = (
                f"stopped in {where}{after}; {self._folder.path} has a checkpoint: "
                f"the same command continues"
            )
            leads = self._state.engine.is_global_zero
            raise StoppedError(self._request.number or 15, said if leads else "")

    def _evaluate(self) -> Metrics:
        every, epochs = self._state.config.evaluate_every, self._state.config.epochs
        if self._epoch % every and self._epoch < epochs:
            return {}
        begun = time.perf_counter()
        self._predictions = self._predict()
        found = accuracies(self._predictions, self._state)
        self._notice_collapse(self._predictions["train"])
        self.seconds.evaluation += time.perf_counter() - begun
        if not all(bool(each.isfinite().all()) for each in self._predictions.values()):
            raise NoisyLabelsError(
                f"{self._folder.path}: predictions are not finite after epoch {self._epoch} "
                f"({self._circumstances()})"
            )
        for part, trajectory in self.trajectories.items():
            trajectory.add(self._state.method.combine(self._predictions[part]))
        return found

    def _notice_collapse(self, probabilities: Tensor) -> None:
        """Say once that the method predicts one class for examples of several."""
        train = self._state.dataset.train
        predicted = self._state.method.combine(probabilities).argmax(1)
        late = self._epoch > 1 or self._state.config.epochs == 1
        only = int(predicted[0])
        if self._collapse_said or not late or bool((predicted != only).any()):
            return
        if bool(train.allows(predicted).double().mean() < 0.5):
            self._collapse_said = True
            self._callbacks.on_message(
                f"after epoch {self._epoch} of {self._state.config.epochs} every training example "
                f"is predicted as class {self._state.dataset.classes[only]!r}: the network has "
                f"learnt nothing yet, or has forgotten it. Train longer, with another learning "
                f"rate, or with a loss that starts nearer to cross entropy"
                + (" (q_start 0.0)" if self._state.config.loss.name == "dal" else "")
            )

    def _predict(self) -> Predictions:
        method = self._state.method
        parts = [part for part in method.context.task.sizes if part != TRIGGERED]
        return {part: method.predict(part).exp() for part in parts}

    def _save(self) -> None:
        begun = time.perf_counter()
        self.seconds.total = begun - self._started
        if self._state.engine.is_global_zero:
            self._folder.save_checkpoint(
                {
                    "epoch": self._epoch,
                    "step": self._step,
                    "random": random_state(self._state.device) if self._step else None,
                    "seconds": vars(self.seconds),
                    "metrics": self.history,
                    "method": self._state.method.state_dict(),
                    "loss": self._state.loss.state_dict(),
                    "trajectories": {
                        part: each.state_dict() for part, each in self.trajectories.items()
                    },
                }
            )
            # Not among the metrics, which no cut must change.
            progress = {"epoch": self._epoch, "step": self._step, **vars(self.seconds)}
            self._folder.write_progress(progress)
        self._saved = time.monotonic()
        self.seconds.saving += time.perf_counter() - begun

    def _load(self) -> None:
        leads = self._state.engine.is_global_zero
        stored, doubt = self._folder.load_checkpoint(repair=leads)
        if doubt:
            self._callbacks.on_message(doubt)
        if stored is None:
            return
        try:
            self._state.method.load_state_dict(stored["method"])
            self._state.loss.load_state_dict(stored["loss"])
            self._epoch, self._step = stored["epoch"], stored["step"]
            self.history = stored["metrics"]
            self.seconds = Seconds(**stored["seconds"])
            # A checkpoint of an older version has none: it then tells of the epochs from here on.
            for part, own in stored.get("trajectories", {}).items():
                self.trajectories[part].load_state_dict(own)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self._folder.path}: its checkpoint does not fit this run ({error})"
            ) from error
        if stored["random"] is not None:
            restore_random_state(stored["random"], self._state.device)
            if not leads:
                # The state is the first process's; this one's draws are its own.
                place = (self._epoch, self._step, *self._rank())
                seed(derive_seed(self._state.config.seed, "step", *place), self._state.device)

    def _check_place(self) -> None:
        """Make sure that all processes continue from the same epoch and step.

        Raises:
            CheckpointError: They do not: each has read a folder of its own.
        """
        engine = self._state.engine
        if engine.world_size == 1:
            return
        own = torch.tensor([[self._epoch, self._step]], device=self._state.device)
        places = gather_shares(engine, own, engine.world_size).tolist()
        if any(place != places[0] for place in places):
            found = ", ".join(f"epoch {epoch + 1} step {step + 1}" for epoch, step in places)
            raise CheckpointError(
                f"{self._folder.path}: the processes would continue from different places "
                f"({found}): expected a folder that all of them share"
            )

    def _circumstances(self) -> str:
        dynamic = "".join(f", {k} {v:g}" for k, v in self._state.loss.dynamic().items())
        return f"{self._state.config.loss.name}{dynamic}"

    def _explain(self, error: NonFiniteError, lr: float) -> NoisyLabelsError:
        """Save the batch of a step that is not finite, and say all that is known of it."""
        # Made anew: it is the same, and the error may have come without its inputs.
        batch = next(self._batches(error.step))
        index = batch.index.cpu()
        arrays = {
            "index": index.numpy(),
            "input": batch.input.float().cpu().numpy(),
            "target": batch.target.cpu().numpy(),
        }
        path = self._folder.write_nonfinite(arrays, *self._rank())
        shown = ", ".join(map(str, index[:8].tolist()))
        where = f"epoch {self._epoch + 1} of {self._state.config.epochs}, step {error.step + 1}"
        more = ", ..." if len(index) > 8 else ""
        return NoisyLabelsError(
            f"loss or gradients are not finite in {where} (loss {error.loss:g}, "
            f"{self._circumstances()}, learning rate {lr:g}, examples {shown}{more}): {path} has "
            f'the batch; with on_nan = "skip" the run continues and skips such steps'
        )


def _trajectories(dataset: Dataset) -> dict[str, Trajectory]:
    """Follow the predictions of every part whose labels may be wrong."""
    parts = {"train": dataset.train, "validation": dataset.validation}
    if dataset.test_is_given or dataset.test_clean is not None:
        parts["test"] = dataset.test
    return {
        name: Trajectory(part.labels, len(dataset.classes), part.candidates)
        for name, part in parts.items()
        if part is not None
    }


def seed(number: int, device: torch.device) -> None:
    """Seed torch's generators: the CPU's, and the device's where it has one.

    ``torch.manual_seed`` seeds those of every kind of device; of one that was never used it keeps
    each call, with its traceback, for the day that it is, which costs an epoch a millisecond.

    Args:
        number: The seed.
        device: Where the run trains.
    """
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


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


def accuracies(predictions: Predictions, state: RunState) -> Metrics:
    """Compare predictions with labels.

    Args:
        predictions: Class probabilities of each part by every network, of shape (networks, N, K).
        state: The run.

    Returns:
        ``test_accuracy`` of the method's own prediction; ``train_accuracy`` with respect to the
        given labels, and its values on correctly and on wrongly labelled examples where the true
        labels are known (of sets of candidates, a prediction is right that is in the set, and a
        set that has the true label); with a hold-out, ``validation_accuracy``; and with several
        networks, ``test_accuracy_1``, ... of each and ``test_accuracy_ensemble`` of their mean.
        Where some labels of the test set or the hold-out are known to be right, its accuracies are
        of these examples alone, and ``test_accuracy_given`` or ``validation_accuracy_given`` is of
        all of them, with respect to the given labels. Fractions in [0, 1]; None where there is no
        such example, or the test set is left alone.
    """
    hits = {
        name: _hits(state.method.combine(each), state, name) for name, each in predictions.items()
    }
    correct = None if state.true is None else state.dataset.train.allows(state.true)
    metrics: Metrics = {
        "test_accuracy": _mean(hits["test"]) if "test" in hits else None,
        "train_accuracy": _mean(hits["train"]),
        "train_accuracy_correct": None if correct is None else _mean(hits["train"][correct]),
        "train_accuracy_wrong": None if correct is None else _mean(hits["train"][~correct]),
    }
    if "validation" in hits:
        metrics["validation_accuracy"] = _mean(hits["validation"])
    for part in hits:
        if _clean(state, part) is not None:
            predicted = state.method.combine(predictions[part]).argmax(1)
            given = getattr(state.dataset, part).allows(predicted).double()
            metrics[f"{part}_accuracy_given"] = _mean(given)
    each = predictions.get("test")
    if each is not None and len(each) > 1:
        for number, probabilities in enumerate(each, 1):
            metrics[f"test_accuracy_{number}"] = _mean(_hits(probabilities, state, "test"))
        metrics["test_accuracy_ensemble"] = _mean(_hits(each.mean(0), state, "test"))
    return metrics


def _hits(probabilities: Tensor, state: RunState, part: str) -> Tensor:
    """Return where a prediction is the label, as 0 and 1; of clean labels where there are such."""
    predicted, clean = probabilities.argmax(1), _clean(state, part)
    if clean is not None:
        known = clean >= 0
        return (predicted[known] == clean[known]).double()
    examples: Examples = getattr(state.dataset, part)
    return examples.allows(predicted).double()


def _clean(state: RunState, part: str) -> Tensor | None:
    """Return the labels of a part that are known to be right, -1 where they are not."""
    dataset = state.dataset
    return {"test": dataset.test_clean, "validation": dataset.validation_clean}.get(part)


def _mean(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None
