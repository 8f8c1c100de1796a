"""One run: a configuration in, a run folder out.

A run folder ``<out>/<run_id>`` holds

* ``config.json``: the configuration with every default filled in;
* ``metrics.jsonl``: a line per epoch;
* ``result.json``: the last epoch's numbers; it is there if and only if the run is finished;
* ``data.json``: the classes, how many examples, what was found and done while reading them, and
  the place and reason of each that was left out;
* ``labels.npz``: ``given``, and ``true`` where it is known, in the order of the training set, and
  ``test``; ``validation`` (as given) where examples are held out; and for examples from files the
  ``places`` that they come from (``test_places``, ``validation_places``);
* ``predictions.npz``: ``train_probabilities``, ``test_probabilities`` and, with a hold-out,
  ``validation_probabilities``, float16, N x K; of methods with several networks also those of each,
  ``train_networks``, ..., networks x N x K;
* ``checkpoint.pt`` and ``checkpoint.previous.pt``: all that is needed to continue;
* ``setup.json``: device, precision and memory format, chosen once;
* ``progress.json``: where the last checkpoint stands, and the seconds spent;
* ``events.*``: TensorBoard.
"""

import dataclasses
import functools
import inspect
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

import noisylabels
from noisylabels.atomic import replacing, write_json
from noisylabels.data.augment import AUGMENTS, STREAMED, centre
from noisylabels.data.batches import Batches, InMemory, derive_seed
from noisylabels.data.datasets import ALIASES, SOURCES
from noisylabels.data.decoding import default_workers
from noisylabels.data.digests import file_digest
from noisylabels.data.examples import Dataset, StreamedImages, first, hold_out
from noisylabels.data.images import SMALL
from noisylabels.data.source import Facts, Source, check_source
from noisylabels.data.stream import Stream, batch_of_one
from noisylabels.errors import CheckpointError, ConfigError, NoisyLabelsError, check_range
from noisylabels.losses import LOSSES, GeneralizedJensenShannonLoss, Loss
from noisylabels.methods import METHODS, Method
from noisylabels.methods.base import Parts, Task
from noisylabels.methods.engine import Alone, Engine
from noisylabels.methods.guard import Guard
from noisylabels.methods.optimizers import OPTIMIZERS
from noisylabels.models import MODELS, synchronise_batchnorm
from noisylabels.noise import NOISES
from noisylabels.run import config, lock
from noisylabels.run.config import Component, RunConfig
from noisylabels.run.interruption import StoppedError, listening
from noisylabels.run.lock import locked
from noisylabels.run.loop import Job, Loop, Predictions, accuracies
from noisylabels.run.tracking import Observer, Silent
from noisylabels.schedules import SCHEDULES

T = TypeVar("T")

LOSS_RESERVED = ("weight", "ignore_index", "reduction")
NOISE_RESERVED = ("num_classes", "features")
WIDTH_OF_A_KERNEL = 16
DIGIT = 16
PATIENCE = 30
"""Seconds in which the other processes of a run that failed may end by themselves."""
# What a run needs to get on, and its result does not depend on.
EFFORT = ("workers", "evaluate_every", "checkpoint_minutes", "trackers", "on_nan")


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
        momentum_factor: ``progress -> factor on the momentum``.
        augment: ``(images, generator) -> images``, for images in memory.
        stream: ``size -> (image -> image of that size)``, for images that stream.
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
    momentum_factor: Callable[[float], float]
    augment: Callable[[Tensor, torch.Generator], Tensor]
    stream: Callable[[tuple[int, int]], Callable[[Tensor], Tensor]]

    @property
    def name(self) -> str:
        """A short name for people: data, method (unless it is ``single``), loss and seed."""
        run = self.config
        method = "" if run.method.name == "single" else f"{run.method.name} "
        return f"{run.data.name} {method}{run.loss.name} seed {run.seed}"

    @property
    def workers(self) -> int:
        """How many processes decode images."""
        set_ = self.config.workers
        return default_workers() if set_ is None else set_


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
    named = Component(ALIASES.get(run.data.name, run.data.name), run.data.parameters)
    source_class, data = _bind(named, SOURCES, "data")
    source = check_source(_call(lambda: source_class(**data), "data"), named.name)
    facts = source.facts()
    parts: dict[str, tuple[Component, Mapping[str, Any], tuple[str, ...]]] = {
        "noise": (_mapped(run.noise, facts.class_map), NOISES, NOISE_RESERVED),
        "model": (_named(run.model, _choose_model(facts)), MODELS, ()),
        "method": (run.method, METHODS, ()),
        "loss": (run.loss, LOSSES, LOSS_RESERVED),
        "optimizer": (run.optimizer, OPTIMIZERS, ()),
        "lr_schedule": (run.lr_schedule, SCHEDULES, ()),
        "momentum_schedule": (run.momentum_schedule, SCHEDULES, ()),
        "augment": (_named(run.augment, _choose_augment(facts)), AUGMENTS, ()),
    }
    components = {"data": Component(named.name, data)}
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
        momentum_factor=found["momentum_schedule"],
        augment=found["augment"],
        stream=_streamed(components["augment"], found["augment"]),
    )
    _try_out(made)
    settings = {
        name: {"name": part.name, **part.parameters} if isinstance(part, Component) else part
        for name, part in vars(made.config).items()
        if name in config.FIELDS and name not in EFFORT
    }
    settings["data"] = {"name": named.name, **source.identity()}
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
        CheckpointError: No checkpoint to continue from can be read, or they are of another run;
            another process is making this run; or the folder cannot be written.
        StoppedError: SIGINT or SIGTERM came; the last step has been saved.
        NoisyLabelsError: The loss is not finite any more.

    Example:
        >>> import json, tempfile
        >>> from noisylabels.run.config import parse
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
    if not leads(made.config):
        observer = Silent()
    try:
        with _held(folder, made.config):
            before = _read_setup(folder)
            job, setup = assemble(made, *label(made), before=before, say=observer.noted)
            with ending_others(job.processes):
                for note in job.dataset.notes:
                    observer.noted(note)
                observer.noted(setup.sentence())
                if leads(made.config):
                    _open_folder(folder, job, setup)
                # Before this there is nothing that a signal could lose.
                with listening() as request:
                    loop = Loop(job, folder, observer, request, started)
                    predictions = loop.run()
                    if leads(made.config):
                        _write_result(job, folder, predictions, loop, setup)
                    # A process that ended before the first has written all could have it killed.
                    job.processes.barrier()
                if request.number:
                    said = f"stopped; {folder} was just finished" if leads(made.config) else ""
                    raise StoppedError(request.number, said)
    except OSError as error:
        place = Path(str(error.filename or folder))
        own = folder in (place, *place.parents)
        what = "cannot be written" if own else "cannot be used"
        raise CheckpointError(f"{place}: {what} ({error.strerror or error})") from error
    return folder


@dataclass(frozen=True)
class Setup:
    """How a run is computed, chosen once and kept when it continues.

    Args:
        device: Kind of device, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        precision: ``"32"`` or ``"bf16"``.
        channels_last: Whether images and convolutions are in that memory format.
        tf32: Whether products of float32 may be computed in TensorFloat-32.
        compile: Whether networks are compiled.
        processes: How many train together.
        threads: Threads of each.
        torch: Its version.
    """

    device: str
    precision: str
    channels_last: bool
    tf32: bool
    compile: bool
    processes: int
    threads: int
    torch: str

    def sentence(self) -> str:
        """Say it in a line."""
        chosen = [
            f"{self.processes} x {self.device}",
            {"32": "float32", "bf16": "bfloat16 where it pays (mixed)"}[self.precision],
            "TF32" if self.tf32 else "",
            "channels last" if self.channels_last else "",
            "compiled" if self.compile else "",
            f"{self.threads} threads",
            f"torch {self.torch}",
        ]
        return ", ".join(filter(None, chosen))


def leads(run: RunConfig) -> bool:
    """Return whether this process is the first of those that train a run together.

    Args:
        run: The run; where it has one process, that is the first.
    """
    if run.devices * run.nodes == 1:
        # Whatever started it, such as Slurm, numbers it for purposes of its own.
        return True
    # Within a Slurm job a process that another one started has a local rank, and the other's Slurm
    # rank.
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if (rank := os.environ.get(name)) is not None:
            return rank.strip() == "0"
    return True


@contextmanager
def _held(folder: Path, run: RunConfig) -> Iterator[None]:
    """Make the run folder and hold it; the first process does so for all."""
    if not leads(run):
        yield
        return
    new, new_parent = not folder.exists(), not folder.parent.exists()
    folder.mkdir(parents=True, exist_ok=True)
    held = False
    try:
        with locked(folder):
            held = True
            yield
    finally:
        # Nothing was made: the data was refused, say. Nor is it another process's folder.
        if new and held and {path.name for path in folder.glob("*")} <= {lock.NAME}:
            shutil.rmtree(folder, ignore_errors=True)
            if new_parent:
                with suppress(OSError):
                    folder.parent.rmdir()


@contextmanager
def ending_others(processes: Engine) -> Iterator[None]:
    """End the processes that this one started, should it fail: they would wait for it.

    With NCCL they would until its timeout, their GPUs taken. Errors that have a name stop all
    processes alike: then the others have 30 s to save their batches. Those that `torchrun` or Slurm
    started are theirs to end.

    Args:
        processes: Those that train together, with the launcher that started them, if one did.
    """
    try:
        yield
    except BaseException as error:
        launcher = getattr(getattr(processes, "strategy", None), "launcher", None)
        watched = getattr(launcher, "procs", [])
        started = list(watched)
        # Or whoever watches them would kill this one, before it has said why.
        watched.clear()
        patience = PATIENCE if isinstance(error, NoisyLabelsError) else 0
        end = time.monotonic() + patience
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0, end - time.monotonic()))
            process.kill()
        raise


def _read_setup(folder: Path) -> dict[str, Any]:
    """Read how the run was computed so far, if it was."""
    path = folder / "setup.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    return stored if isinstance(stored, dict) else {}


def _write_result(
    job: Job, folder: Path, predictions: Predictions, loop: Loop, setup: Setup
) -> None:
    true, given = job.true, job.dataset.train.labels
    seconds = loop.seconds
    last = loop.history[-1]
    arrays = {}
    for part, each in predictions.items():
        arrays[f"{part}_probabilities"] = job.method.combine(each).half().numpy()
        if len(each) > 1:
            arrays[f"{part}_networks"] = each.half().numpy()
    with replacing(folder / "predictions.npz") as path, path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    result = {
        **accuracies(predictions, job),
        # Not what the method says now: nothing of an epoch's is left where a run was cut after it.
        **{key: last[key] for key in job.method.metrics() if key in last},
        "actual_noise_rate": None if true is None else (given != true).double().mean().item(),
        "nominal_noise_rate": None if true is None else job.config.noise.parameters.get("rate"),
        "epochs": job.config.epochs,
        "skipped_steps": job.method.skipped,
        "seconds": seconds.total,
        "training_seconds": seconds.training,
        "evaluation_seconds": seconds.evaluation,
        "saving_seconds": seconds.saving,
        "images_per_second": job.config.epochs * len(given) / seconds.training,
        "peak_memory_bytes": _peak_memory(job.device),
        "run_id": job.run_id,
        **dataclasses.asdict(setup),
        "versions": {
            "noisylabels": noisylabels.__version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    write_json(folder / "result.json", result)


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


def choose_memory_format(network: nn.Module, precision: str) -> torch.memory_format:
    """Choose the memory format of images and convolutions.

    Channels-last makes bfloat16 convolutions about twice as fast. Where a convolution has fewer
    than 16 output channels, oneDNN's channels-last kernels write past the end of their buffers in
    the backward pass (torch 2.14.1 on AVX-512, batches of odd sizes): a run would end in "corrupted
    size vs. prev_size", or worse, not end.

    Args:
        network: The network to train.
        precision: ``"32"`` or ``"bf16"``.

    Returns:
        ``torch.channels_last`` or ``torch.contiguous_format``.
    """
    narrow = any(
        module.out_channels < WIDTH_OF_A_KERNEL
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    )
    fast = precision == "bf16" and not narrow
    return torch.channels_last if fast else torch.contiguous_format


def _choose_model(facts: Facts) -> str:
    if not facts.images or max(facts.shape[1:]) < DIGIT:
        return "mlp"
    return "resnet18" if max(facts.shape[1:]) <= SMALL else "resnet50"


def _choose_augment(facts: Facts) -> str:
    return {"mlp": "none", "resnet18": "crop-flip", "resnet50": "resized-crop"}[
        _choose_model(facts)
    ]


def _named(part: Component, suits: str) -> Component:
    return Component(suits, part.parameters) if part.name == "auto" else part


def _mapped(noise: Component, suits: str | None) -> Component:
    """Give asymmetric noise the class map that suits the source."""
    if noise.name != "asymmetric" or noise.parameters.get("map", "auto") != "auto":
        return noise
    if suits is None:
        raise ConfigError(
            "noise: 'asymmetric' needs map for this data: the class that each class is mistaken "
            "for, such as map = [1, 0, 2]"
        )
    return Component(noise.name, {**noise.parameters, "map": suits})


def _streamed(
    part: Component, augment: Callable[[Tensor, torch.Generator], Tensor]
) -> Callable[[tuple[int, int]], Callable[[Tensor], Tensor]]:
    if part.name in STREAMED:
        return functools.partial(STREAMED[part.name], **part.parameters)
    return functools.partial(batch_of_one, augment)


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
    run = made.config
    loss = _call(made.loss, "loss")
    if not isinstance(loss, Loss):
        raise ConfigError(
            f"loss: expected a subclass of noisylabels.losses.Loss, got {run.loss.name!r}"
        )
    if isinstance(loss, GeneralizedJensenShannonLoss):
        raise ConfigError(
            "loss: 'gjs' takes the logits of several views, which no method gives it: "
            'method = {name = "gjs"} with loss = {name = "js"} is the same'
        )
    optimizer = _call(lambda: made.optimizer([nn.Parameter(torch.zeros(1))]), "optimizer")
    check_lr = functools.partial(check_range, "factor")
    check_momentum = functools.partial(_check_momentum, optimizer.param_groups[0])
    _call(lambda: _check_every_epoch(made.lr_factor, run.epochs, check_lr), "lr_schedule")
    _call(
        lambda: _check_every_epoch(made.momentum_factor, run.epochs, check_momentum),
        "momentum_schedule",
    )
    small = Task(
        labels=torch.zeros(2, dtype=torch.int64),
        num_classes=2,
        inputs=lambda part: iter(()),
        held_out=torch.zeros(1, dtype=torch.int64) if run.validation else None,
    )
    parts = Parts(
        network=lambda number: nn.Linear(1, 2),
        optimizer=made.optimizer,
        loss=loss,
        lr_factor=made.lr_factor,
        task=small,
        accumulate=run.accumulate,
    )
    _call(lambda: made.method(Alone(), parts), "method")
    if made.config.model.name in MODELS:
        with torch.device("meta"):
            _call(lambda: made.network((1, 32, 32), 2), "model")
    processes = run.devices * run.nodes
    if run.batch_size < processes:
        raise ConfigError(
            f"batch_size: expected an example for each of {processes} processes, got "
            f"{run.batch_size}"
        )
    rate = made.config.noise.parameters.get("rate")
    if rate is not None:
        _call(lambda: check_range("rate", rate, high=1.0), "noise")


def _check_every_epoch(
    factors: Callable[[float], float], epochs: int, check: Callable[[float], object]
) -> None:
    for epoch in range(epochs):
        check(factors(epoch / epochs))


def _check_momentum(group: Mapping[str, Any], factor: float) -> None:
    """Refuse a factor below 0, or with which the momentum leaves the optimiser's range."""
    check_range("factor", factor)
    if "betas" in group:
        check_range("beta1 x factor", group["betas"][0] * factor, high=1.0, below=True)
    else:
        check_range("momentum x factor", group.get("momentum", 0.0) * factor, high=1.0)


def _check_writable(out: Path) -> None:
    """Refuse a folder that cannot be made or written before any work is done for it."""
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise CheckpointError(f"{nearest}: expected a folder that can be written")


def label(made: Plan) -> tuple[Dataset, Tensor | None]:
    """Load a plan's data and make its noise.

    The noise is applied to the whole training set, then the limit, then the hold-out.

    Args:
        made: The plan.

    Returns:
        The dataset with given labels; and the true labels of its training set, int64 of shape (N),
        or None where they are not known.

    Raises:
        DataError: The data is missing or damaged, or the noise needs what it does not have.
    """
    dataset = made.source.load(made.workers)
    train = dataset.train
    features = train.inputs if isinstance(train.inputs, Tensor) else None
    if features is None and made.config.noise.name == "instance":
        raise ConfigError(
            "noise: 'instance' needs the images' features in memory, but they stream: "
            'storage = "memory" in data, or a label file'
        )
    if features is not None and features.is_floating_point():
        features = (features - dataset.mean) / dataset.std
    try:
        given = made.noise(train.labels, num_classes=len(dataset.classes), features=features)
    except TypeError as error:
        raise ConfigError(f"noise: {error}") from error
    known = made.source.clean or made.config.noise.name != "none"
    noisy = dataclasses.replace(dataset, train=dataclasses.replace(train, labels=given))
    limited = first(noisy, made.source.limit)
    true = train.labels[: len(limited.train)]
    if made.config.validation:
        seed = derive_seed(made.config.seed, "validation")
        limited, kept = hold_out(limited, made.config.validation, seed)
        true = true[kept]
    return limited, true if known else None


def assemble(
    made: Plan,
    dataset: Dataset,
    true: Tensor | None,
    *,
    before: Mapping[str, Any] = MappingProxyType({}),
    say: Callable[[str], None] = lambda sentence: None,
) -> tuple[Job, Setup]:
    """Make a plan's networks and batches, and start its processes.

    Args:
        made: The plan.
        dataset: Its dataset, with given labels.
        true: The true labels, where they are known.
        before: The setup that the run had before it was cut, as plain values.
        say: Tells the user what the method has to say.

    Returns:
        The run in memory, and how it will be computed.

    Raises:
        ConfigError: A component does not fit the data.
    """
    shape, run = dataset.train.shape, made.config

    def network(number: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(run.seed, "weights", number))
            return _call(lambda: made.network(shape, len(dataset.classes)), "model")

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    example = network(0)
    device = Fabric(accelerator="auto", devices=1).device
    precision: str = run.precision
    if precision == "auto":
        kept = before.get("precision") if before.get("device") == device.type else None
        precision = kept if kept in ("32", "bf16") else choose_precision(example, device)
    memory_format = choose_memory_format(example, precision)
    fabric = _launch(run, device, precision)
    device = fabric.device
    tf32 = device.type == "cuda" and run.precision == "auto"
    if device.type == "cuda":
        allow_tf32(tf32)
    setup = Setup(
        device=device.type,
        precision=precision,
        channels_last=memory_format is torch.channels_last,
        tf32=tf32,
        compile=run.compile,
        processes=fabric.world_size,
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
    )
    loss = made.loss().to(device)
    logits = torch.zeros(2, len(dataset.classes), device=device)
    _call(lambda: loss(logits, dataset.train.labels[:2].to(device)), "loss")

    def prepared(number: int) -> nn.Module:
        made_network = network(number).to(memory_format=memory_format)
        if run.sync_batchnorm and fabric.world_size > 1:
            made_network = synchronise_batchnorm(made_network, device)
        return torch.compile(made_network) if run.compile else made_network  # type: ignore[return-value]

    options = {
        "batch_size": run.batch_size,
        "seed": run.seed,
        "device": device,
        "memory_format": memory_format,
        "rank": fabric.global_rank,
        "world": fabric.world_size,
    }
    inputs = dataset.train.inputs
    batches: Batches
    if isinstance(inputs, StreamedImages):
        size = (inputs.spec.height, inputs.spec.width)
        augment = _call(lambda: made.stream(size), "augment")
        batches = Stream(dataset, augment, centre(size), workers=made.workers, **options)
    else:
        _call(lambda: made.augment(inputs[:2], torch.Generator()), "augment")
        batches = InMemory(dataset, made.augment, **options)
    parts = Parts(
        network=prepared,
        optimizer=made.optimizer,
        loss=loss,
        lr_factor=made.lr_factor,
        momentum_factor=made.momentum_factor,
        task=Task(
            labels=dataset.train.labels,
            num_classes=len(dataset.classes),
            inputs=batches.inputs,
            held_out=None if dataset.validation is None else dataset.validation.labels,
            batch_size=run.batch_size,
            seed=run.seed,
            augmented=run.augment.name != "none",
        ),
        clip_norm=run.clip_norm,
        accumulate=run.accumulate,
        guard=Guard(run.on_nan),
        say=say,
    )
    job = Job(
        config=run,
        run_id=made.run_id,
        name=made.name,
        dataset=dataset,
        true=true,
        method=_call(lambda: made.method(fabric, parts), "method"),
        loss=loss,
        batches=batches,
        processes=fabric,
        device=device,
    )
    return job, setup


def _launch(run: RunConfig, device: torch.device, precision: str) -> Fabric:
    """Start the processes that train together; each comes back from here."""
    together = run.devices * run.nodes > 1
    # Running statistics are averaged at the end of each epoch, not overwritten at every step. The
    # second name is older torch's, which newer torch calls deprecated.
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    overwriting = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in known)
    options: dict[str, Any] = {overwriting: False}
    strategy = DDPStrategy(**options) if together else "auto"
    fabric = Fabric(
        accelerator=device.type,
        devices=run.devices,
        num_nodes=run.nodes,
        strategy=strategy,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    _call(fabric.launch, "devices, nodes")
    return fabric


def allow_tf32(allowed: bool) -> None:
    """Let CUDA compute products and convolutions of float32 in TensorFloat-32, or not.

    Args:
        allowed: Whether both may; torch's own default is convolutions only.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def _open_folder(folder: Path, job: Job, setup: Setup) -> None:
    for left in folder.glob(".*.tmp"):
        # A process that died while it wrote; the folder is held, so nobody is writing it.
        left.unlink()
    write_json(folder / "config.json", job.config.tables())
    write_json(folder / "setup.json", dataclasses.asdict(setup))
    dataset = job.dataset
    write_json(
        folder / "data.json",
        {
            "classes": dataset.classes,
            "train": len(dataset.train),
            "validation": len(dataset.validation or ()),
            "test": len(dataset.test),
            "shape": dataset.train.shape,
            "notes": dataset.notes,
            "skipped": [{"place": place, "reason": reason} for place, reason in dataset.skipped],
        },
    )
    parts = {"": dataset.train, "test": dataset.test, "validation": dataset.validation}
    labels = {name or "given": part.labels.numpy() for name, part in parts.items() if part}
    for name, part in parts.items():
        if part and part.places is not None:
            labels[f"{name}_places".lstrip("_")] = part.places
    if job.true is not None:
        labels["true"] = job.true.numpy()
    with replacing(folder / "labels.npz") as path, path.open("wb") as file:
        np.savez(file, **labels)  # type: ignore[arg-type]


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
