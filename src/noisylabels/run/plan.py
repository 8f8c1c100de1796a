"""A configuration, checked: everything that it names is found, and its identity is known."""

import dataclasses
import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, NoneType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from noisylabels.data.augment import AUGMENTS, STREAMED
from noisylabels.data.datasets import ALIASES, SOURCES
from noisylabels.data.decoding import default_workers
from noisylabels.data.digests import file_digest
from noisylabels.data.images import SMALL
from noisylabels.data.poison import POISONS, Poison
from noisylabels.data.source import Facts, Source, check_source
from noisylabels.data.stream import batch_of_one
from noisylabels.errors import ConfigError, NoisyLabelsError, check_range, unknown
from noisylabels.features import FEATURES, Features
from noisylabels.losses import LOSSES, Loss
from noisylabels.methods import METHODS, Method, MethodContext, SingleProcess, Task
from noisylabels.methods.optimizers import OPTIMIZERS, with_lr_factors
from noisylabels.models import MODELS
from noisylabels.noise import NOISES
from noisylabels.run import config
from noisylabels.run.config import Component, RunConfig
from noisylabels.schedules import SCHEDULES

T = TypeVar("T")

RESULTS_VERSION = 1
"""Raised when a default, or the numbers that a configuration gives, change."""
INVARIANT = frozenset(
    [
        "checkpoint_minutes",
        "evaluate_every",
        "on_nan",
        "save_model",
        "trackers",
        "workers",
    ]
)
"""Settings that a run is not known by: what it has learnt does not depend on them.

What is kept beside that can: its weights, and the means over the epochs that were evaluated."""
LABEL_FILES = ("validation_labels", "test_labels")
"""Settings that name a file of labels: the result depends on what it holds."""
# `on_nan` among them: a run that met a step that is not finite has no result with "raise".
RUN_ID_LENGTH = 12
TINY = 16
"""Sides below which images are for a perceptron: a crop or a flip would make other ones of them."""
MOST_CHECKED = 10_000
"""Epochs whose learning rate and momentum are checked beforehand."""
LOSS_RESERVED = ("weight", "ignore_index", "reduction")
NOISE_RESERVED = ("num_classes", "features")
SEEDED = ("noise", "poison")
"""Components that take the run's seed where they are not given one of their own."""


@dataclass(frozen=True)
class Plan:
    """A checked configuration: everything that it names is found, every parameter is valid.

    Making a plan reads label files and hashes data files, but makes nothing.

    Args:
        config: The configuration with every default filled in.
        identity: All that the result depends on, see :func:`identify`.
        source: Where the data comes from.
        noise: ``(labels, num_classes, features) -> given labels``.
        poison: What is done to the training images; None where they stay as they are.
        features: What turns inputs into vectors; None where they stay as they are.
        network: ``(input_shape, num_classes) -> network``.
        method: ``context -> method``.
        loss: Makes the loss.
        optimizer: ``parameters -> optimizer``.
        lr_factor: ``progress -> factor on the learning rate``.
        momentum_factor: ``progress -> factor on the momentum``.
        augment: ``(images, generator) -> images``, for images in memory.
        stream: ``size -> (image -> image of that size)``, for images that stream.
    """

    config: RunConfig
    identity: Mapping[str, Any]
    source: Source
    noise: Callable[..., Tensor]
    poison: Poison | None
    features: Features | None
    network: Callable[..., nn.Module]
    method: Callable[..., Method]
    loss: Callable[[], Loss]
    optimizer: Callable[..., torch.optim.Optimizer]
    lr_factor: Callable[[float], float]
    momentum_factor: Callable[[float], float]
    augment: Callable[[Tensor, torch.Generator], Tensor]
    stream: Callable[[tuple[int, int]], Callable[[Tensor], Tensor]]

    @property
    def run_id(self) -> str:
        """Hash of all that the result depends on."""
        return run_id(self.identity)

    @property
    def name(self) -> str:
        """A short name for people: data, method (unless it is ``single``), loss and seed."""
        run = self.config
        method = "" if run.method.name == "single" else f"{run.method.name} "
        return f"{run.data.name} {method}{run.loss.name} seed {run.seed}"

    @property
    def workers(self) -> int:
        """How many processes decode images."""
        given = self.config.workers
        return default_workers() if given is None else given


@dataclass(frozen=True)
class Found:
    """A component whose name was found.

    Args:
        component: Its name, and its parameters with every default filled in.
        target: The function or class.
        defaults: The defaults of its parameters.
        contents: Digests of the files that its parameters name, and of the user's own source.
        folders: Parameters that name a folder, which is among these.
    """

    component: Component
    target: Callable[..., Any]
    defaults: Mapping[str, Any]
    contents: Mapping[str, str]
    folders: Collection[str] = ()

    def settings(self) -> dict[str, Any]:
        """Return the component's name and the parameters that differ from their defaults.

        A path says where something lies, not what it is, so paths do not count.
        """
        return {"name": self.component.name} | {
            name: value
            for name, value in self.component.parameters.items()
            if not isinstance(value, Path)
            and name not in self.folders
            and (name not in self.defaults or self.defaults[name] != value)
        }


class Sources:
    """Data sources that plans share, so that what is said of many runs' data is read once."""

    def __init__(self) -> None:
        self._opened: list[tuple[Component, Source]] = []

    def open(self, data: Component, make: Callable[[], Source]) -> Source:
        """Return the source that a component describes.

        Args:
            data: The component, with every default filled in.
            make: Makes it, if no plan has yet.
        """
        for described, source in self._opened:
            if described == data:
                return source
        self._opened.append((data, make()))
        return self._opened[-1][1]


def plan(run: RunConfig, *, trial: bool = True, sources: Sources | None = None) -> Plan:
    """Check a configuration and find everything that it names.

    Args:
        run: The configuration.
        trial: Whether one of everything that trains is made in small, so that a bad value is
            refused before any work; who wants the labels alone need not wait for that.
        sources: Those of plans that are made together with this one.

    Returns:
        The plan of the run.

    Raises:
        ConfigError: A component or parameter is unknown, or a value is out of its range.
        DataError: A file that the configuration names is missing.
    """
    data = find("data", Component(ALIASES.get(run.data.name, run.data.name), run.data.parameters))
    source = (sources or Sources()).open(data.component, functools.partial(_source, data))
    facts = build(source.facts, "data", data.component)
    wanted = find("features", run.features)
    features = build(
        lambda: wanted.target(facts, **wanted.component.parameters),
        "features",
        wanted.component,
        Features if wanted.component.name != "none" else NoneType,
    )
    if features is None and facts.texts:
        raise ConfigError('features: texts need features, such as features = {name = "tfidf"}')
    if features is not None:
        digests = build(features.contents, "features", wanted.component)
        named = {f"features.{name}": digest for name, digest in digests.items()}
        if features.common_scale:
            # Runs from before it was common are others; their vectors are the same.
            named["scale of features"] = "common"
        wanted = dataclasses.replace(wanted, contents={**wanted.contents, **named}, folders=digests)
    model = choose_model(facts) if features is None else "linear"
    frozen = features is not None and features.freeze
    if frozen and run.augment.name in {*AUGMENTS} - {"none"}:
        raise ConfigError(
            f"augment: {run.augment.name!r} is for images, and the features are frozen: they are "
            f'computed once, of the images as they are; expected "none", or freeze = false in '
            f"features"
        )
    augment = "none" if frozen else choose_augment(facts)
    if run.validation and run.validation_labels is not None:
        raise ConfigError(
            f"validation_labels says which examples are held out: validation must be left out, got "
            f"{run.validation!r}"
        )
    found = {
        "noise": find("noise", _with_map(run.noise, facts)),
        "poison": find("poison", run.poison),
        "features": wanted,
        "model": find("model", _chosen(run.model, model)),
        "augment": find("augment", _chosen(run.augment, augment)),
        **{
            what: find(what, getattr(run, what))
            for what in ("method", "optimizer", "lr_schedule", "momentum_schedule")
        },
        "loss": _with_epochs(find("loss", run.loss), run),
    }
    parts = {
        what: functools.partial(each.target, **each.component.parameters)
        for what, each in found.items()
    }
    if features is not None and not features.freeze:
        parts["model"] = functools.partial(features.network, head=parts["model"])
    for what in SEEDED:
        each = found[what]
        if "seed" in inspect.signature(each.target).parameters:
            # What has no seed of its own follows the run's.
            parts[what] = functools.partial(
                each.target, **{"seed": run.seed, **each.component.parameters}
            )
    poisons = found["poison"].component.name != "none"
    poison = build(
        parts["poison"], "poison", found["poison"].component, Poison if poisons else NoneType
    )
    if poisons and (frozen or not facts.images):
        got = "frozen features" if frozen else "texts" if facts.texts else "features"
        raise ConfigError(f"poison: a trigger is added to images that are learnt from, got {got}")
    components = {what: each.component for what, each in (found | {"data": data}).items()}
    made = Plan(
        config=run.replace(**components),
        identity=identify(run, source, data, found),
        source=source,
        noise=parts["noise"],
        poison=poison,
        features=features,
        network=parts["model"],
        method=parts["method"],
        loss=parts["loss"],
        optimizer=functools.partial(with_lr_factors, parts["optimizer"]),
        lr_factor=parts["lr_schedule"],
        momentum_factor=parts["momentum_schedule"],
        augment=parts["augment"],
        stream=_streamed(components["augment"], parts["augment"]),
    )
    rate = made.config.noise.parameters.get("rate")
    if rate is not None:
        build(lambda: check_range("rate", rate, high=1.0), "noise")
    if trial:
        _try_out(made)
    return made


REGISTRIES: dict[str, Mapping[str, Any]] = {
    "data": SOURCES,
    "noise": NOISES,
    "poison": POISONS,
    "features": FEATURES,
    "model": MODELS,
    "method": METHODS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "lr_schedule": SCHEDULES,
    "momentum_schedule": SCHEDULES,
    "augment": AUGMENTS,
}
"""What a component's name may be, by the component's key in a configuration."""
RESERVED: dict[str, tuple[str, ...]] = {"loss": LOSS_RESERVED, "noise": NOISE_RESERVED}


def find(what: str, component: Component) -> Found:
    """Find what a component names and check its parameters.

    Args:
        what: The component's key in a configuration.
        component: The component.

    Returns:
        What was found.

    Raises:
        ConfigError: There is no such thing, or a parameter is unknown or of the wrong type.
        DataError: A file that a parameter names cannot be read.
    """
    if what == "data" and component.name not in SOURCES and ":" not in component.name:
        name = component.name
        hint = f'a folder of images is data = {{name = "folder", root = "{name}"}}'
        if not Path(name).exists():
            hint += f", but {Path(name).absolute()} does not exist"
        raise ConfigError(f"{unknown(what, name, [*SOURCES, *ALIASES])}; {hint}")
    target = config.find(component.name, REGISTRIES[what], what)
    optional = ("seed",) if what in SEEDED else ()
    parameters = config.bind(
        component, target, what, reserved=RESERVED.get(what, ()), optional=optional
    )
    # Those of the data are the source's own business.
    named = {} if what == "data" else parameters
    base = named.get("base")
    of_base = base.get("matrix") if what == "loss" and isinstance(base, Mapping) else None
    if isinstance(of_base, str):
        # The table of another loss, in which a file is a string.
        named = named | {"base.matrix": Path(of_base)}
    contents = {
        f"{what}.{name}": file_digest(value)
        for name, value in named.items()
        if isinstance(value, Path)
    }
    schedules = [
        (value["schedule"], config.find(value["schedule"], SCHEDULES, "schedule"))
        for value in named.values()
        if isinstance(value, Mapping) and ":" in str(value.get("schedule"))
    ]
    for name, own in [(component.name, target), *schedules]:
        if ":" in name:
            contents[f"{what} {name}"] = source_digest(own)
    # What all losses take stands in few signatures, and is said only where it is set.
    shared = config.defaults(Loss) if what == "loss" else {}
    parameters = {k: v for k, v in parameters.items() if k not in shared or v != shared[k]}
    defaults = shared | config.defaults(target)
    return Found(Component(component.name, parameters), target, defaults, contents)


def source_digest(target: Callable[..., Any]) -> str:
    """Hash the source that a user's own component is written in.

    Args:
        target: The function or class.

    Returns:
        A hash of the file that it is in, and of all modules beside that file or below that it uses;
        "" for what has no source, such as a function of a compiled library.
    """
    module = inspect.getmodule(target)
    if module is None or getattr(module, "__file__", None) is None:
        return ""
    folder = Path(module.__file__ or "").parent
    files: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        file = Path(getattr(current, "__file__", None) or "/")
        # Of a library only the file itself, for its version is what counts.
        beside = file.is_relative_to(folder) and "site-packages" not in file.parts
        if current.__name__ in files or not (beside or current is module):
            continue
        files[current.__name__] = file
        for value in vars(current).values():
            name = value.__name__ if isinstance(value, ModuleType) else _module_of(value)
            if name in sys.modules:
                waiting.append(sys.modules[name])
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name} {file_digest(files[name])}\n".encode())
    return total.hexdigest()


def _module_of(value: object) -> str:
    name = getattr(value, "__module__", None)
    return name if isinstance(name, str) else ""


def identify(
    run: RunConfig, source: Source, data: Found, found: Mapping[str, Found]
) -> dict[str, Any]:
    """Collect all that a run's result depends on.

    Args:
        run: The configuration.
        source: Its source.
        data: What its ``data`` names.
        found: What its other components name.

    Returns:
        Plain values: ``version``; ``settings``, those that differ from their defaults; and
        ``contents``, digests of the data, of label files and of the user's own source files.
    """
    settings: dict[str, Any] = {
        name: getattr(run, name)
        for name, field in config.FIELDS.items()
        if name not in (*REGISTRIES, *INVARIANT, *LABEL_FILES)
        and getattr(run, name) != field.default
    }
    for what, each in found.items():
        own = each.settings()
        if own != {"name": config.FIELDS[what].default.name}:
            settings[what] = own
    settings["data"] = {"name": data.component.name, **source.identity()}
    contents = {"data": source.digest()}
    for each in (data, *found.values()):
        contents |= each.contents
    for name in LABEL_FILES:
        path: Path | None = getattr(run, name)
        # Nothing looks at those of a test set that is left alone.
        if path is not None and (run.test or name != "test_labels"):
            contents[name] = file_digest(path)
    plain: dict[str, Any] = json.loads(
        json.dumps({"version": RESULTS_VERSION, "settings": settings, "contents": contents})
    )
    return plain


def run_id(identity: Mapping[str, Any]) -> str:
    """Hash all that a run's result depends on.

    Args:
        identity: See :func:`identify`.

    Returns:
        12 hexadecimal digits.

    Example:
        >>> run_id({"version": 1, "settings": {"epochs": 10}, "contents": {}})
        'ad6f3d5ea8ed'
    """
    canonical = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:RUN_ID_LENGTH]


def choose_model(facts: Facts) -> str:
    """Choose the network that ``"auto"`` stands for.

    Args:
        facts: What the source says of its data.

    Returns:
        A key of ``MODELS``: a perceptron for features and for images with sides below 16 pixels, a
        ResNet-18 in its CIFAR form for those with sides of at most 96, a ResNet-50 for larger ones.
    """
    if not facts.images or max(facts.shape[1:]) < TINY:
        return "mlp"
    return "resnet18" if max(facts.shape[1:]) <= SMALL else "resnet50"


def choose_augment(facts: Facts) -> str:
    """Choose the augmentation that ``"auto"`` stands for.

    Args:
        facts: What the source says of its data.

    Returns:
        A key of ``AUGMENTS``, by the same sizes as :func:`choose_model`.
    """
    return {"mlp": "none", "resnet18": "crop-flip", "resnet50": "resized-crop"}[choose_model(facts)]


def build(
    make: Callable[[], T],
    what: str,
    component: Component | None = None,
    kind: type[Any] = object,
) -> T:
    """Make something that a configuration describes, or say which part of it is at fault.

    Args:
        make: Makes it.
        what: Its key in the configuration.
        component: The component that describes it: whatever the user's own raises is named.
        kind: What it must be made to be.

    Returns:
        What was made.

    Raises:
        ConfigError: It cannot be made, or is not what it must be.
    """
    try:
        made = make()
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
    except NoisyLabelsError:
        raise
    except Exception as error:
        if component is not None and ":" in component.name:
            failure = f"{component.name!r} failed: {type(error).__name__}: {error}"
            raise ConfigError(f"{what}: {failure}") from error
        if isinstance(error, TypeError | ValueError | RuntimeError):
            raise ConfigError(f"{what}: {error}") from error
        raise
    if not isinstance(made, kind):
        name = what if component is None else repr(component.name)
        expected = f"{kind.__module__.partition('.')[0]} {kind.__name__}"
        raise ConfigError(f"{what}: expected {name} to make a {expected}, got {made!r:.100}")
    return made


def _source(data: Found) -> Source:
    made = build(lambda: data.target(**data.component.parameters), "data", data.component)
    return check_source(made, data.component.name)


def _chosen(part: Component, name: str) -> Component:
    return Component(name, part.parameters) if part.name == "auto" else part


def _with_map(noise: Component, facts: Facts) -> Component:
    """Give asymmetric noise the class map of the data."""
    if noise.name != "asymmetric" or noise.parameters.get("map", "auto") != "auto":
        return noise
    if facts.class_map is None:
        raise ConfigError(
            "noise: 'asymmetric' needs map for this data: the class that each class is mistaken "
            "for, such as map = [1, 0, 2]"
        )
    return Component(noise.name, {**noise.parameters, "map": facts.class_map})


def _with_epochs(loss: Found, run: RunConfig) -> Found:
    """Tell a loss that counts epochs how many there are, unless its user does."""
    if "epochs" not in loss.defaults or "epochs" in run.loss.parameters:
        return loss
    told = Component(run.loss.name, {**loss.component.parameters, "epochs": run.epochs})
    return dataclasses.replace(loss, component=told)


def _streamed(
    part: Component, augment: Callable[[Tensor, torch.Generator], Tensor]
) -> Callable[[tuple[int, int]], Callable[[Tensor], Tensor]]:
    if part.name in STREAMED:
        return functools.partial(STREAMED[part.name], **part.parameters)
    return functools.partial(batch_of_one, augment)


def _try_out(made: Plan) -> None:
    """Make one of everything in small, so that a bad value is refused before any work."""
    run = made.config
    loss = build(made.loss, "loss", run.loss, Loss)
    parameters = [nn.Parameter(torch.zeros(1))]
    optimizer = build(
        lambda: made.optimizer(parameters), "optimizer", run.optimizer, torch.optim.Optimizer
    )
    check_lr = functools.partial(check_range, "factor")
    check_momentum = functools.partial(_check_momentum, optimizer.param_groups[0])
    for what, factor, check in (
        ("lr_schedule", made.lr_factor, check_lr),
        ("momentum_schedule", made.momentum_factor, check_momentum),
    ):
        trial = functools.partial(_check_every_epoch, factor, run.epochs, check)
        build(trial, what, getattr(run, what))
    context = MethodContext(
        engine=SingleProcess(),
        network=lambda number: nn.Linear(1, 2),
        optimizer=made.optimizer,
        loss=loss,
        lr_factor=made.lr_factor,
        task=Task(
            labels=torch.zeros(2, dtype=torch.int64),
            num_classes=2,
            inputs=lambda part: iter(()),
            sizes={},
            held_out=torch.zeros(1, dtype=torch.int64) if run.holds_out else None,
        ),
        accumulate=run.accumulate,
    )
    build(lambda: made.method(context), "method", run.method, Method)
    if made.features is not None:
        build(made.features.check, "features", run.features)
    elif run.model.name in MODELS:
        with torch.device("meta"):
            build(lambda: made.network((1, 32, 32), 2), "model")
    processes = run.devices * run.nodes
    if run.batch_size < processes:
        raise ConfigError(
            f"batch_size: expected an example for each of {processes} processes, got "
            f"{run.batch_size}"
        )


def _check_every_epoch(
    factors: Callable[[float], float], epochs: int, check: Callable[[float], object]
) -> None:
    # Of very many some are enough: a slip of the pen is not waited for.
    for epoch in (*range(0, epochs, max(1, epochs // MOST_CHECKED)), epochs - 1):
        check(factors(epoch / epochs))


def _check_momentum(group: Mapping[str, Any], factor: float) -> None:
    """Refuse a factor below 0, or with which the momentum leaves the optimiser's range."""
    check_range("factor", factor)
    if "betas" in group:
        check_range("beta1 x factor", group["betas"][0] * factor, high=1.0, below=True)
    else:
        check_range("momentum x factor", group.get("momentum", 0.0) * factor, high=1.0)
