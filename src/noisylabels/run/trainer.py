"""One run: a configuration in, a run folder out."""

import dataclasses
import functools
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import noisylabels
from noisylabels.data.augment import centre
from noisylabels.data.batches import Batches, InMemory, derive_seed
from noisylabels.data.examples import Dataset, Examples, StreamedImages
from noisylabels.data.poison import attack_success
from noisylabels.data.stream import Stream
from noisylabels.errors import CheckpointError, ConfigError, NoisyLabelsError
from noisylabels.features.base import WEIGHTS
from noisylabels.methods import Method, MethodContext, Task
from noisylabels.methods.guard import Guard
from noisylabels.models import synchronise_batchnorm
from noisylabels.run.advice import on_short_training
from noisylabels.run.callbacks import Callback, Callbacks, Start
from noisylabels.run.config import Component, RunConfig, load, parse
from noisylabels.run.device import (
    Setup,
    allow_tf32,
    choose_memory_format,
    choose_precision,
    default_device,
    flushing_denormals,
    peak_memory,
    reset_peak_memory,
)
from noisylabels.run.featuring import weights_digest
from noisylabels.run.folder import RunFolder
from noisylabels.run.interruption import StoppedError, listening
from noisylabels.run.labelling import label
from noisylabels.run.launch import ending_others, is_global_zero, launch
from noisylabels.run.loop import TRIGGERED, Loop, Predictions, RunState, accuracies
from noisylabels.run.noise_rates import noise_rates
from noisylabels.run.plan import Plan, build, plan
from noisylabels.run.tracking import MetricsFile, Service, TensorBoard

PARTS = ("model", "features")
"""Components that a trained classifier is built from."""


def train(
    run: RunConfig | Plan | Mapping[str, Any] | Path | str,
    out: Path | str = Path("runs"),
    callbacks: Iterable[Callback] = (),
) -> Path:
    """Make a run, continue it, or find it finished.

    Args:
        run: The configuration, as it is, as plain tables (``{"data": "digits", "epochs": 10}``), or
            as a TOML file; or its plan.
        out: Folder of run folders.
        callbacks: Whoever follows the run.

    Returns:
        The run folder; ``noisylabels.load`` makes a classifier of it.

    Raises:
        ConfigError: The configuration is not valid.
        DataError: The data or the labels are missing or damaged.
        CheckpointError: No checkpoint to continue from can be read, or they are of another run;
            another process is making this run; or the folder cannot be written.
        StoppedError: SIGINT or SIGTERM came; the last step has been saved.
        NoisyLabelsError: The loss is not finite any more.

    Example:
        >>> import tempfile
        >>> noise = {"name": "symmetric", "rate": 0.4}
        >>> run = {"data": "digits", "noise": noise, "epochs": 1}
        >>> with tempfile.TemporaryDirectory() as out:
        ...     result = RunFolder(train(run, Path(out))).result()
        >>> round(result["actual_noise_rate"], 4)
        0.3709
    """
    made = _planned(run)
    first_process = is_global_zero(made.config)
    followers = list(callbacks) if first_process else []
    folder = RunFolder(Path(out) / made.run_id)
    if folder.finished:
        # A process that died just after it had finished the run may have left them.
        folder.discard_checkpoints()
        _tell_finished(made, folder, Callbacks(followers))
        return folder.path
    check_writable(folder.path.parent)
    with folder.held() if first_process else nullcontext():
        if folder.finished and made.config.devices * made.config.nodes == 1:
            # By another process, between the look above and the lock.
            _tell_finished(made, folder, Callbacks(followers))
        else:
            # Before anything is computed: threads that are started later do as this one does.
            with flushing_denormals():
                _make(made, folder, followers)
    return folder.path


def _planned(run: RunConfig | Plan | Mapping[str, Any] | Path | str) -> Plan:
    if isinstance(run, Plan):
        return run
    if isinstance(run, str | Path):
        configured = load(Path(run))
        try:
            return plan(configured)
        except ConfigError as error:
            raise ConfigError(f"{run}: {error}") from error
    return plan(parse(run) if isinstance(run, Mapping) else run)


def _tell_finished(made: Plan, folder: RunFolder, callbacks: Callback) -> None:
    epochs, history = made.config.epochs, folder.metrics()
    settings = made.config.tables()
    try:
        callbacks.on_start(Start(made.name, folder.path, epochs, epochs, settings, history))
        lacks = _lacks(made.config, folder)
        if lacks:
            callbacks.on_message(
                f"it was made with {' and '.join(lacks)}: delete {folder.path} to make it again"
            )
    finally:
        callbacks.on_end()


def _lacks(run: RunConfig, folder: RunFolder) -> list[str]:
    """Say which settings a finished run was made with that left out what is asked for now."""
    then = folder.config()
    every = then.get("evaluate_every", 1)
    lacks = []
    if run.save_model and not then.get("save_model", True):
        lacks.append("save_model = false")
    if run.evaluate_every < every:
        lacks.append(f"evaluate_every = {every}")
    return lacks


def _make(made: Plan, folder: RunFolder, followers: Sequence[Callback]) -> None:
    """Make or continue a run, whose folder is held."""
    started = time.perf_counter()
    reset_peak_memory()
    first_process = is_global_zero(made.config)
    trackers = _trackers(made, folder, followers) if first_process else []
    callbacks = Callbacks([*trackers, *followers])
    say = callbacks.on_message
    dataset, true = label(made, say)
    state, setup = assemble(made, dataset, true, before=folder.setup(), say=say)
    with ending_others(state.engine):
        advice = on_short_training(made.config, len(dataset.train))
        against = (
            "test accuracy is against given labels" if _test_labels(state) == "given" else None
        )
        of_sets = (
            "test accuracy counts any candidate of a test example as right"
            if made.config.test and dataset.test.candidates is not None
            else None
        )
        for sentence in filter(None, (*dataset.notes, against, of_sets, setup.sentence(), advice)):
            say(sentence)
        if first_process:
            folder.open(made.config.tables(), made.identity, dataclasses.asdict(setup))
            _write_data(folder, state)
        # Before this there is nothing that a signal could lose.
        with listening() as request:
            try:
                loop = Loop(state, folder, callbacks, request, started)
                predictions = loop.run()
                if first_process:
                    _finish(folder, made, state, setup, loop, predictions)
            finally:
                callbacks.on_end()
            # A process that ended before the first has written all could have it killed.
            state.engine.barrier()
        if request.number:
            said = f"stopped; {folder.path} was just finished" if first_process else ""
            raise StoppedError(request.number, said)


def _trackers(made: Plan, folder: RunFolder, followers: Sequence[Callback]) -> list[Callback]:
    """Return what gets the metrics of every run, and the services that this one asks for."""
    say = Callbacks(followers).on_message
    services = [Service(name, say) for name in made.config.trackers]
    return [MetricsFile(folder), TensorBoard(folder), *services]


def _write_data(folder: RunFolder, state: RunState) -> None:
    dataset = state.dataset
    folder.write_data(
        {
            "classes": dataset.classes,
            "train": len(dataset.train),
            "validation": len(dataset.validation or ()),
            "test": len(dataset.test),
            "shape": dataset.train.shape,
            "mean": dataset.mean.tolist(),
            "std": dataset.std.tolist(),
            "test_labels": _test_labels(state),
            **_clean_labels(dataset),
            "notes": dataset.notes,
            "skipped": [{"place": place, "reason": reason} for place, reason in dataset.skipped],
        }
    )
    parts = {"": dataset.train, "test": dataset.test, "validation": dataset.validation}
    labels = {name or "given": part.labels.numpy() for name, part in parts.items() if part}
    for name, part in parts.items():
        if part and part.targets is not None:
            kind = "candidates" if part.candidates is not None else "shares"
            labels[f"{name}_{kind}".lstrip("_")] = part.targets.numpy()
        if part and part.places is not None:
            labels[f"{name}_places".lstrip("_")] = part.places
        if part and part.poisoned is not None:
            labels[f"{name}_poisoned".lstrip("_")] = part.poisoned.nonzero().squeeze(1).numpy()
    clean = {"test_clean": dataset.test_clean, "validation_clean": dataset.validation_clean}
    labels |= {name: each.numpy() for name, each in clean.items() if each is not None}
    if dataset.validation_rows is not None:
        labels["validation_rows"] = dataset.validation_rows.numpy()
    if state.true is not None:
        labels["true"] = state.true.numpy()
    folder.write_labels(labels)


def _finish(
    folder: RunFolder,
    made: Plan,
    state: RunState,
    setup: Setup,
    loop: Loop,
    predictions: Predictions,
) -> None:
    """Write what a run ends with."""
    run, dataset, method = state.config, state.dataset, state.method
    true = state.true
    seconds, last, tested = loop.seconds, loop.history[-1], predictions.get("test")
    arrays = {}
    combined = {part: method.combine(each) for part, each in predictions.items()}
    for part, each in predictions.items():
        arrays[f"{part}_probabilities"] = combined[part].half().numpy()
        if len(each) > 1:
            arrays[f"{part}_networks"] = each.half().numpy()
    for part, trajectory in loop.trajectories.items():
        arrays |= {f"{part}_{name}": each.numpy() for name, each in trajectory.means().items()}
    result = {
        **accuracies(predictions, state),
        **_attack(made, state, predictions),
        # Not what the method says now: nothing of an epoch's is left where a run was cut after it.
        **{key: last[key] for key in method.metrics() if key in last},
        "unpredicted_classes": None if tested is None else _unpredicted(method.combine(tested)),
        "actual_noise_rate": None if true is None else _wrong_share(dataset.train, true),
        **_of_sets(dataset.train, dataset.test if run.test else None),
        "test_labels": _test_labels(state),
        **_clean_labels(dataset),
        **noise_rates(dataset, true, loop.trajectories, combined),
        "nominal_noise_rate": None
        if true is None
        else run.noise.parameters.get(_rate_name(run.noise)),
        "epochs": run.epochs,
        "skipped_steps": method.skipped,
        "seconds": seconds.total,
        "training_seconds": seconds.training,
        "evaluation_seconds": seconds.evaluation,
        "saving_seconds": seconds.saving,
        "images_per_second": run.epochs * len(dataset.train) / seconds.training,
        "peak_memory_bytes": peak_memory(state.device),
        "run_id": made.run_id,
        **dataclasses.asdict(setup),
        "versions": {
            "noisylabels": noisylabels.__version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    described = _describe(made, state, predictions["train"])
    # A compiled network's weights are those of the network within.
    networks = [getattr(network, "_orig_mod", network) for network in method.networks]
    weights = [network.state_dict() for network in networks] if run.save_model else []
    features = made.features
    learnt = features.learnt() if features is not None and features.learns else {}
    folder.finish(result, arrays, weights, described, learnt)


def _wrong_share(train: Examples, true: Tensor) -> float:
    """Return the share of wrong labels, or of sets of candidates without the true one."""
    return (~train.allows(true)).double().mean().item()


def _of_sets(train: Examples, test: Examples | None) -> dict[str, float]:
    """Return how many candidates an example has on average, where it has a set of them."""
    return {
        name: sets.sum(1).double().mean().item()
        for name, part in (("mean_candidates", train), ("test_mean_candidates", test))
        if part is not None and (sets := part.candidates) is not None
    }


def _rate_name(noise: Component) -> str:
    """Name the parameter of a noise that is its share of wrong labels."""
    return "missing" if noise.name == "candidates" else "rate"


def _attack(made: Plan, state: RunState, predictions: Predictions) -> dict[str, float | None]:
    """Return how often the trigger of a poisoned run leads to its target."""
    if made.poison is None:
        return {}
    if TRIGGERED not in predictions:
        return {"attack_success": None}
    without, with_trigger = (
        state.method.combine(predictions[part]).argmax(1) for part in ("test", TRIGGERED)
    )
    return {"attack_success": attack_success(without, with_trigger, made.poison.target)}


def _describe(made: Plan, state: RunState, probabilities: Tensor) -> dict[str, Any]:
    """Collect all that one needs, beside the weights, to predict as the run does."""
    dataset, method, features = state.dataset, state.method, made.features
    spec = made.source.image_spec()
    frozen = features is not None and features.freeze
    # Frozen features are of images decoded as those in memory are.
    streams = isinstance(dataset.train.inputs, StreamedImages)
    return {
        "classes": dataset.classes,
        **{what: made.config.tables()[what] for what in PARTS},
        "contents": {
            key: value
            for key, value in made.identity["contents"].items()
            if key.partition(".")[0].partition(" ")[0] in PARTS
        }
        | ({} if (digest := weights_digest(made)) is None else {WEIGHTS: digest}),
        "networks": len(method.networks),
        "shares": _shares(method, probabilities),
        "input": made.source.facts().shape if frozen else dataset.train.shape,
        "images": None if spec is None else dataclasses.asdict(spec) | {"margin": streams},
        "shape": dataset.train.shape,
        "mean": dataset.mean.tolist(),
        "std": dataset.std.tolist(),
        "run_id": made.run_id,
        "highest": made.source.facts().highest,
    }


def _shares(method: Method, probabilities: Tensor) -> list[float] | None:
    """Return each network's share in the method's own prediction; None where it is no such mean."""
    count = len(method.networks)
    each = torch.eye(count).reshape(count, count, 1).expand(count, count, probabilities.shape[2])
    # A method of the user's own may expect true probabilities: the run must not be lost for it.
    with suppress(Exception):
        shares = method.combine(each)[:, 0]
        combined = torch.tensordot(shares, probabilities, 1)
        if torch.allclose(combined, method.combine(probabilities), atol=1e-6):
            return [float(share) for share in shares]
    return None


def _unpredicted(probabilities: Tensor) -> int:
    """Count the classes that are predicted for no example: those that a network has given up."""
    return probabilities.shape[1] - len(set(probabilities.argmax(1).tolist()))


def _test_labels(state: RunState) -> str | None:
    """Say what a test accuracy of this run is counted against; None where it has none."""
    if not state.config.test:
        return None
    if state.dataset.test_clean is not None:
        return "clean"
    return "given" if state.dataset.test_is_given else "true"


def _clean_labels(dataset: Dataset) -> dict[str, int]:
    """Return how many labels are known to be right, of the parts that have such."""
    clean = {"test": dataset.test_clean, "validation": dataset.validation_clean}
    return {
        f"clean_{part}_labels": int((each >= 0).sum())
        for part, each in clean.items()
        if each is not None
    }


def check_writable(out: Path) -> None:
    """Refuse a folder that cannot be made or written before any work is done for it.

    Args:
        out: The folder.

    Raises:
        CheckpointError: It cannot be.
    """
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise CheckpointError(f"{nearest}: expected a folder that can be written")


def assemble(
    made: Plan,
    dataset: Dataset,
    true: Tensor | None,
    *,
    before: Mapping[str, Any] = MappingProxyType({}),
    say: Callable[[str], None] = lambda sentence: None,
) -> tuple[RunState, Setup]:
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
            make = functools.partial(made.network, shape, len(dataset.classes))
            return build(make, "model", run.model, nn.Module)

    example = network(0)
    device = default_device()
    _check_batch_norm(example, run)
    _try_network(example, run.model, shape, len(dataset.classes))
    precision: str = run.precision
    if precision == "auto":
        kept = before.get("precision") if before.get("device") == device.type else None
        precision = kept if kept in ("32", "bf16") else choose_precision(example, device)
    memory_format = choose_memory_format(example, precision)
    engine = launch(run, device, precision)
    device = engine.device
    tf32 = device.type == "cuda" and run.precision == "auto"
    if device.type == "cuda":
        allow_tf32(tf32)
    setup = Setup(
        device=device.type,
        precision=precision,
        channels_last=memory_format is torch.channels_last,
        tf32=tf32,
        compile=run.compile,
        processes=engine.world_size,
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
    )
    loss = made.loss().to(device)
    # The run says so itself.
    loss.warns = False
    logits = torch.zeros(2, len(dataset.classes), device=device)
    build(lambda: loss(logits, dataset.train.labels[:2].to(device)), "loss", run.loss)

    def prepared(number: int) -> nn.Module:
        own = network(number).to(memory_format=memory_format)
        if run.sync_batchnorm and engine.world_size > 1:
            own = synchronise_batchnorm(own, device)
        return torch.compile(own) if run.compile else own  # type: ignore[return-value]

    options = {
        "batch_size": run.batch_size,
        "seed": run.seed,
        "device": device,
        "memory_format": memory_format,
        "rank": engine.global_rank,
        "world": engine.world_size,
    }
    inputs = dataset.train.inputs
    batches: Batches
    if isinstance(inputs, StreamedImages):
        size = (inputs.spec.height, inputs.spec.width)
        augment = build(lambda: made.stream(size), "augment", run.augment)
        batches = Stream(dataset, augment, centre(size), workers=made.workers, **options)
    else:
        some = dataset.train.tensor()[:2]
        trial = functools.partial(made.augment, some, torch.Generator())
        build(trial, "augment", run.augment, Tensor)
        batches = InMemory(dataset, made.augment, **options)
    held_out = dataset.validation
    tested = dataset.test if run.test else None
    parts = {
        "train": dataset.train,
        "test": tested,
        "validation": held_out,
        TRIGGERED: dataset.triggered,
    }
    context = MethodContext(
        engine=engine,
        network=prepared,
        optimizer=made.optimizer,
        loss=loss,
        lr_factor=made.lr_factor,
        momentum_factor=made.momentum_factor,
        task=Task(
            labels=dataset.train.labels,
            num_classes=len(dataset.classes),
            inputs=batches.inputs,
            sizes={name: len(part) for name, part in parts.items() if part is not None},
            held_out=None if held_out is None else held_out.labels,
            batch_size=run.batch_size,
            seed=run.seed,
            augmented=run.augment.name != "none",
        ),
        clip_norm=run.clip_norm,
        accumulate=run.accumulate,
        guard=Guard(run.on_nan),
        say=say,
    )
    method = build(lambda: made.method(context), "method", run.method)
    targets = dataset.train.targets
    few = (dataset.train.labels if targets is None else targets)[:2].to(device)
    build(lambda: method.check_target(few), "method", run.method)
    state = RunState(
        config=run,
        name=made.name,
        dataset=dataset,
        true=true,
        method=method,
        loss=loss,
        batches=batches,
        engine=engine,
        device=device,
    )
    return state, setup


def _try_network(
    network: nn.Module, model: Component, shape: tuple[int, ...], num_classes: int
) -> None:
    """Refuse a network that does not fit the data, before anything is trained."""
    given = f"two standardised float32 inputs of shape {shape}"
    network.eval()
    try:
        with torch.no_grad():
            logits = network(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)))
    except NoisyLabelsError:
        # Being asked to stop, too.
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"model: {model.name!r} fails on {given} ({reason})") from error
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if found != (2, num_classes):
        raise ConfigError(
            f"model: {model.name!r}: expected logits of shape (2, {num_classes}) for {given}, got "
            f"{found}"
        )
    network.train()


def _check_batch_norm(network: nn.Module, run: RunConfig) -> None:
    """Refuse batches of one example for a network that normalises over the batch."""
    share = run.batch_size // (run.devices * run.nodes * run.accumulate)
    if share < 2 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules()):
        raise ConfigError(
            f"batch_size: {run.model.name!r} has batch norm, which cannot normalise a single "
            f"example: expected at least 2 per process and part of a batch, got {share}; take a "
            f"greater batch_size, or a network without batch norm such as 'mlp'"
        )
