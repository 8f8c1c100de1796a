"""One run: a configuration in, a run folder out.

A run folder ``<out>/<run_id>`` holds

* ``config.json``: the configuration with every default filled in;
* ``metrics.jsonl``: a line per epoch;
* ``result.json``: the last epoch's numbers; it is there if and only if the run is finished;
* ``labels.npz``: ``given``, and ``true`` where it is known, in the order of the training set, and
  ``test``;
* ``predictions.npz``: ``train_probabilities`` and ``test_probabilities``, float16, N x K;
* ``checkpoint.pt``: all that is needed to continue;
* ``events.*``: TensorBoard.
"""

import dataclasses
import functools
import inspect
import logging
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import noisylabels
from noisylabels import checkpoint, config
from noisylabels.config import Component, RunConfig
from noisylabels.data.augment import AUGMENTS
from noisylabels.data.batches import Batches, derive_seed
from noisylabels.data.datasets import SOURCES, Dataset, Examples, Source, file_digest, first
from noisylabels.errors import CheckpointError, ConfigError, NoisyLabelsError, check_range
from noisylabels.losses import LOSSES, Loss
from noisylabels.methods import METHODS, Method
from noisylabels.methods.base import Parts
from noisylabels.methods.optimizers import OPTIMIZERS
from noisylabels.models import MODELS
from noisylabels.noise import NOISES
from noisylabels.schedules import SCHEDULES
from noisylabels.tracking import Metrics, Observer, Silent, Tracker

T = TypeVar("T")

LOSS_RESERVED = ("weight", "ignore_index", "reduction")
NOISE_RESERVED = ("num_classes", "features")


@dataclass(frozen=True)
class Plan:
    """A checked configuration: everything that it names is found, every parameter is valid.

    Making a plan reads label files and hashes data files, but makes nothing.

    Args:
        config: The configuration with every default filled in.
        run_id: Hash of what affects the result.
        source: Where the data comes from.
        noise: ``(labels, num_classes, features) -> given labels``.
        network: ``(input_shape, num_classes) -> network``.
        method: ``(engine, parts) -> method``.
        loss: Makes the loss.
        optimizer: ``parameters -> optimizer``.
        lr_factor: ``progress -> factor on the learning rate``.
        augment: ``(images, generator) -> images``.
    """

    config: RunConfig
    run_id: str
    source: Source
    noise: Callable[..., Tensor]
    network: Callable[..., nn.Module]
    method: Callable[..., Method]
    loss: Callable[[], Loss]
    optimizer: Callable[..., torch.optim.Optimizer]
    lr_factor: Callable[[float], float]
    augment: Callable[[Tensor, torch.Generator], Tensor]

    @property
    def name(self) -> str:
        """A short name for people: data, loss and seed."""
        return f"{self.config.data.name} {self.config.loss.name} seed {self.config.seed}"


def plan(run: RunConfig) -> Plan:
    """Check a configuration and find everything that it names.

    Args:
        run: The configuration.

    Returns:
        The plan of the run.

    Raises:
        ConfigError: A component or parameter is unknown, or a value is out of its range.
        DataError: A file that the configuration names is missing.
    """
    source_class, data = _bind(run.data, SOURCES, "data")
    source: Source = _call(lambda: source_class(**data), "data")
    parts: dict[str, tuple[Component, Mapping[str, Any], tuple[str, ...]]] = {
        "noise": (run.noise, NOISES, NOISE_RESERVED),
        "model": (_named(run.model, source.model), MODELS, ()),
        "method": (run.method, METHODS, ()),
        "loss": (run.loss, LOSSES, LOSS_RESERVED),
        "optimizer": (run.optimizer, OPTIMIZERS, ()),
        "lr_schedule": (run.lr_schedule, SCHEDULES, ()),
        "augment": (_named(run.augment, source.augment), AUGMENTS, ()),
    }
    components = {"data": Component(run.data.name, data)}
    found: dict[str, Callable[..., Any]] = {}
    contents = {"data": source.digest()}
    for what, (part, registry, reserved) in parts.items():
        # A noise that follows the run's seed has none of its own.
        optional = ("seed",) if what == "noise" else ()
        target, parameters = _bind(part, registry, what, reserved, optional)
        components[what] = Component(part.name, parameters)
        if what == "noise" and "seed" in inspect.signature(target).parameters:
            parameters = {"seed": run.seed} | parameters
        found[what] = functools.partial(target, **parameters)
        contents |= _contents(what, part, target, parameters)
    made = Plan(
        config=run.replace(**components),
        run_id="",
        source=source,
        noise=found["noise"],
        network=found["model"],
        method=found["method"],
        loss=found["loss"],
        optimizer=found["optimizer"],
        lr_factor=found["lr_schedule"],
        augment=found["augment"],
    )
    _try_out(made)
    settings = {
        name: {"name": part.name, **part.parameters} if isinstance(part, Component) else part
        for name, part in vars(made.config).items()
        if name in config.FIELDS
    }
    return dataclasses.replace(made, run_id=config.run_id(settings, contents))


def train(
    run: RunConfig | Plan, out: Path = Path("runs"), observer: Observer | None = None
) -> Path:
    """Make a run, continue it, or find it finished.

    Args:
        run: The configuration, or its plan.
        out: Folder of run folders.
        observer: Whoever looks on.

    Returns:
        The run folder.

    Raises:
        ConfigError: The configuration is not valid.
        DataError: The data or the labels are missing or damaged.
        CheckpointError: The checkpoint to continue from is damaged or of another run.
        NoisyLabelsError: The loss is not finite any more.

    Example:
        >>> import json, tempfile
        >>> from noisylabels.config import parse
        >>> noise = {"name": "symmetric", "rate": 0.4}
        >>> run = parse({"data": "digits", "noise": noise, "epochs": 1})
        >>> with tempfile.TemporaryDirectory() as out:
        ...     result = json.loads((train(run, Path(out)) / "result.json").read_text())
        >>> round(result["actual_noise_rate"], 4)
        0.3709
    """
    made = run if isinstance(run, Plan) else plan(run)
    observer = observer or Silent()
    folder = out / made.run_id
    if (folder / "result.json").exists():
        observer.started(made.name, folder, made.config.epochs, made.config.epochs)
        return folder
    _check_writable(out)
    started = time.perf_counter()
    _reset_peak_memory()
    job = _assemble(made, *_label(made))
    try:
        _open_folder(folder, job)
        predictions, seconds = _train_epochs(job, folder, observer, started)
        _write_result(job, folder, predictions, seconds)
    except OSError as error:
        place = error.filename or folder
        raise CheckpointError(f"{place}: cannot be written ({error.strerror or error})") from error
    return folder


@dataclass(frozen=True)
class _Job:
    """A plan with its data and its networks in memory."""

    plan: Plan
    dataset: Dataset
    true: Tensor | None
    method: Method
    loss: Loss
    batches: Batches
    device: torch.device
    precision: str

    def predict(self) -> tuple[Tensor, Tensor]:
        """Predict class probabilities of the training and of the test set."""
        train = self.method.predict(self.batches.train_inputs())
        return train, self.method.predict(self.batches.test_inputs())


def _train_epochs(
    job: _Job, folder: Path, observer: Observer, started: float
) -> tuple[tuple[Tensor, Tensor], dict[str, float]]:
    """Train from wherever the checkpoint stands; return predictions and seconds spent."""
    made, saved = job.plan, folder / "checkpoint.pt"
    epochs = made.config.epochs
    epoch, seconds, predictions = 0, {"total": 0.0, "training": 0.0}, None
    history: list[Metrics] = []
    if saved.exists():
        state = checkpoint.load(saved, made.run_id, job.device)
        epoch, seconds, history = state["epoch"], state["seconds"], state["metrics"]
        try:
            job.method.load_state_dict(state["method"])
            job.loss.load_state_dict(state["loss"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{saved}: does not fit this run ({error})") from error
    started -= seconds["total"]
    observer.started(made.name, folder, epoch, epochs)
    tracker = Tracker(folder, history)
    try:
        while epoch < epochs:
            lr = job.method.begin_epoch(epoch / epochs)
            torch.manual_seed(derive_seed(made.config.seed, "step", epoch))
            begun = time.perf_counter()
            mean_loss = job.method.train_epoch(job.batches.epoch(epoch))
            seconds["training"] += time.perf_counter() - begun
            dynamic = job.loss.dynamic()
            predictions = job.predict()
            if not (math.isfinite(mean_loss) and all(p.isfinite().all() for p in predictions)):
                now = "".join(f", {name} {value:g}" for name, value in dynamic.items())
                raise NoisyLabelsError(
                    f"loss or predictions are not finite in epoch {epoch} (mean loss {mean_loss}, "
                    f"{made.config.loss.name}{now}, learning rate {lr:g})"
                )
            accuracies = _accuracies(predictions, job)
            metrics: Metrics = {
                "epoch": epoch,
                "loss": mean_loss,
                "lr": lr,
                **accuracies,
                **dynamic,
            }
            history.append(metrics)
            tracker.log(metrics)
            epoch += 1
            seconds["total"] = time.perf_counter() - started
            state = {
                "epoch": epoch,
                "seconds": seconds,
                "metrics": history,
                "method": job.method.state_dict(),
                "loss": job.loss.state_dict(),
            }
            checkpoint.save(saved, made.run_id, state)
            observer.advanced(metrics)
    finally:
        tracker.close()
    return predictions or job.predict(), seconds


def _write_result(
    job: _Job, folder: Path, predictions: tuple[Tensor, Tensor], seconds: dict[str, float]
) -> None:
    made, true, given = job.plan, job.true, job.dataset.train.labels
    train, test = (probabilities.half().numpy() for probabilities in predictions)
    with checkpoint.replacing(folder / "predictions.npz") as path, path.open("wb") as file:
        np.savez(file, train_probabilities=train, test_probabilities=test)
    result = {
        **_accuracies(predictions, job),
        "actual_noise_rate": None if true is None else (given != true).double().mean().item(),
        "nominal_noise_rate": None if true is None else made.config.noise.parameters.get("rate"),
        "epochs": made.config.epochs,
        "seconds": seconds["total"],
        "images_per_second": made.config.epochs * len(given) / seconds["training"],
        "peak_memory_bytes": _peak_memory(job.device),
        "run_id": made.run_id,
        "device": str(job.device),
        "precision": job.precision,
        "threads": torch.get_num_threads(),
        "versions": {
            "noisylabels": noisylabels.__version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    checkpoint.write_json(folder / "result.json", result)


def choose_precision(network: nn.Module, device: torch.device) -> str:
    """Choose the precision that ``"auto"`` stands for.

    bfloat16 pays where convolutions meet a device that multiplies it natively; small dense
    networks spend their time in dispatch, which the casts of mixed precision only add to.

    Args:
        network: The network to train.
        device: The device to train it on.

    Returns:
        ``"bf16"`` or ``"32"``.
    """
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return "32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    # Older torch cannot tell; nor can MPS.
    tell: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = tell() if device.type == "cpu" else {}
    native = any(capabilities.get(key) for key in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bf16" if native else "32"


def _named(part: Component, suits: str) -> Component:
    return Component(suits, part.parameters) if part.name == "auto" else part


def _bind(
    part: Component,
    registry: Mapping[str, Any],
    what: str,
    reserved: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
) -> tuple[Any, dict[str, Any]]:
    target = config.find(part.name, registry, what)
    return target, config.bind(part, target, what, reserved=reserved, optional=optional)


def _contents(
    what: str, part: Component, target: Any, parameters: Mapping[str, Any]
) -> dict[str, str]:
    """Digest what a component's parameters lead to, and the source of the user's own."""
    contents = {
        f"{what}.{name}": file_digest(value)
        for name, value in parameters.items()
        if isinstance(value, Path)
    }
    if ":" in part.name:
        with suppress(TypeError):
            contents[what] = file_digest(Path(inspect.getfile(target)))
    return contents


def _call(function: Callable[[], T], what: str) -> T:
    try:
        return function()
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(f"{what}: {error}") from error


def _try_out(made: Plan) -> None:
    """Make one of everything in small, so that a bad value is refused before any work."""
    if not isinstance(_call(made.loss, "loss"), Loss):
        raise ConfigError(
            f"loss: expected a subclass of noisylabels.losses.Loss, got {made.config.loss.name!r}"
        )
    _call(lambda: made.optimizer([nn.Parameter(torch.zeros(1))]), "optimizer")
    for progress in (0.0, 0.5, 1.0):
        factor = _call(functools.partial(made.lr_factor, progress), "lr_schedule")
        _call(lambda: check_range("factor", factor), "lr_schedule")  # noqa: B023
    if made.config.model.name in MODELS:
        with torch.device("meta"):
            _call(lambda: made.network((1, 32, 32), 2), "model")
    rate = made.config.noise.parameters.get("rate")
    if rate is not None:
        _call(lambda: check_range("rate", rate, high=1.0), "noise")


def _check_writable(out: Path) -> None:
    """Refuse a folder that cannot be made or written before any work is done for it."""
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise CheckpointError(f"{nearest}: expected a folder that can be written")


def _label(made: Plan) -> tuple[Dataset, Tensor | None]:
    """Load the data, apply the noise to the whole training set, then the limit."""
    dataset = made.source.load()
    true = dataset.train.labels
    try:
        given = made.noise(true, num_classes=len(dataset.classes), features=dataset.train.images)
    except TypeError as error:
        raise ConfigError(f"noise: {error}") from error
    known = made.source.clean or made.config.noise.name != "none"
    noisy = dataclasses.replace(dataset, train=Examples(dataset.train.images, given))
    limit = made.source.limit
    return first(noisy, limit), true[:limit] if known else None


def _assemble(made: Plan, dataset: Dataset, true: Tensor | None) -> _Job:
    shape = tuple(dataset.train.images.shape[1:])

    def network(number: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(made.config.seed, "weights", number))
            return made.network(shape, len(dataset.classes))

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    device = Fabric(accelerator="auto", devices=1).device
    precision: str = made.config.precision
    if precision == "auto":
        precision = choose_precision(network(0), device)
    half = precision == "bf16"
    fabric = Fabric(
        accelerator=device.type, devices=1, precision="bf16-mixed" if half else "32-true"
    )
    memory_format = torch.channels_last if half else torch.contiguous_format
    loss = made.loss().to(device)
    logits = torch.zeros(2, len(dataset.classes), device=device)
    _call(lambda: loss(logits, dataset.train.labels[:2].to(device)), "loss")
    _call(lambda: made.augment(dataset.train.images[:2], torch.Generator()), "augment")
    parts = Parts(
        network=lambda number: network(number).to(memory_format=memory_format),
        optimizer=made.optimizer,
        loss=loss,
        lr_factor=made.lr_factor,
    )
    batches = Batches(
        dataset,
        made.augment,
        batch_size=made.config.batch_size,
        seed=made.config.seed,
        device=device,
        memory_format=memory_format,
    )
    return _Job(
        plan=made,
        dataset=dataset,
        true=true,
        method=made.method(fabric, parts),
        loss=loss,
        batches=batches,
        device=device,
        precision=precision,
    )


def _open_folder(folder: Path, job: _Job) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(folder / "config.json", job.plan.config.tables())
    labels = {"given": job.dataset.train.labels.numpy(), "test": job.dataset.test.labels.numpy()}
    if job.true is not None:
        labels["true"] = job.true.numpy()
    with checkpoint.replacing(folder / "labels.npz") as path, path.open("wb") as file:
        np.savez(file, **labels)  # type: ignore[arg-type]


def _accuracies(predictions: tuple[Tensor, Tensor], job: _Job) -> Metrics:
    train, test = (probabilities.argmax(1) for probabilities in predictions)
    given = job.dataset.train.labels
    hit = (train == given).double()
    correct = None if job.true is None else given == job.true
    return {
        "test_accuracy": (test == job.dataset.test.labels).double().mean().item(),
        "train_accuracy": hit.mean().item(),
        "train_accuracy_correct": None if correct is None else _mean(hit[correct]),
        "train_accuracy_wrong": None if correct is None else _mean(hit[~correct]),
    }


def _mean(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None


def _reset_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # Linux only; elsewhere the peak is that of the whole process.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
