"""What a run is: TOML in, typed and frozen, every part checked against what it names.

A component (a dataset, a loss, ...) is a table with a ``name`` and the parameters of what the name
stands for: ``loss = {name = "dal", q_start = 0.6}``. The parameters are checked against the
signature of that function or class, so there is no second list of hyper-parameters anywhere.
"""

import dataclasses
import importlib
import inspect
import json
import sys
import textwrap
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Unpack, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from noisylabels.errors import ConfigError, unknown
from noisylabels.losses import LOSSES, BaseLoss, hyperparameters
from noisylabels.schedules import SCHEDULES, Hyperparameter

SEVERAL = "several runs are made by noisylabels sweep"
LONGEST_EXPECTATION = 200
"""In characters: an enumeration of a library's can go on for pages."""


@dataclasses.dataclass(frozen=True)
class Component:
    """A part of a run: what it is called and the parameters it is made with.

    Args:
        name: A key of the part's registry, or ``"module:attr"`` for the user's own.
        parameters: Keyword arguments for what the name stands for.

    Example:
        >>> Component.parse({"name": "gce", "q": 0.7})
        Component(name='gce', parameters={'q': 0.7})
        >>> Component.parse("ce").table()
        {'name': 'ce'}
    """

    name: str
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(cls, value: object) -> "Component":
        """Read a component from a table with a ``name``, or from a bare name.

        Raises:
            ValueError: The value is neither.
        """
        if isinstance(value, Component):
            return value
        table = {"name": value} if isinstance(value, str) else value
        if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
            raise ValueError('expected a table with a name, such as {name = "..."}')
        return cls(table["name"], {k: v for k, v in table.items() if k != "name"})

    def table(self) -> dict[str, Any]:
        """Return the component as a flat table, as it stands in a file."""
        return {"name": self.name, **self.parameters}


def _plain(value: Any) -> Any:
    """Read the words of a command line, which are no plain values."""
    if isinstance(value, Component):
        value = value.table()
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return value.read() if isinstance(value, Word) else value


Part = Annotated[Component, PlainValidator(Component.parse), PlainSerializer(_plain)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Workers = Annotated[int, Field(ge=0, le=1024)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=0.5)]


def parse_fold(text: str) -> tuple[int, int]:
    """Read which part of how many is held out.

    Args:
        text: As ``"1/5"``, the first of five.

    Returns:
        The part, counted from 0, and how many there are.

    Raises:
        ValueError: It is no such thing.

    Example:
        >>> parse_fold("1/5")
        (0, 5)
    """
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) > 1):
        raise ValueError("expected a share, or a part such as '1/5'")
    return int(number) - 1, int(count)


def _check_fold(text: str) -> str:
    parse_fold(text)
    return text


Fold = Annotated[str, AfterValidator(_check_fold)]
Precision = Annotated[
    Literal["auto", "32", "bf16"],
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RunConfig:
    """Everything that decides what a run does.

    Args:
        data: Where the examples come from, see ``noisylabels.data.datasets.SOURCES``.
        noise: What is done to the training labels, see ``noisylabels.noise.NOISES``.
        poison: What an attacker does to the training images and their labels, see
            ``noisylabels.data.poison.POISONS``.
        features: What turns inputs into vectors before the model, see
            ``noisylabels.features.FEATURES``.
        model: The network, see ``noisylabels.models.MODELS``; ``"auto"`` is what suits ``data``.
        method: How a batch becomes an update, see ``noisylabels.methods.METHODS``.
        loss: The loss, see ``noisylabels.losses.LOSSES``.
        optimizer: See ``noisylabels.methods.optimizers.OPTIMIZERS``.
        lr_schedule: Factor on the learning rate by progress, see
            ``noisylabels.schedules.SCHEDULES``.
        momentum_schedule: Factor on the momentum (of SGD) or the first beta (of Adam) by progress,
            likewise.
        augment: Augmentation of training images, see ``noisylabels.data.augment.AUGMENTS``;
            ``"auto"`` is what suits ``data``.
        epochs: Passes over the training set, at least 1.
        batch_size: Examples per step, at least 1.
        seed: Seed of initial weights, order, augmentation and (unless they have their own)
            noise and poison.
        precision: ``"32"``, ``"bf16"`` (mixed) or ``"auto"``: bf16 for convolutional networks on
            devices that compute it natively, else 32.
        validation: Share of the training set that is held out, with its given labels, to choose
            hyper-parameters by; in [0, 0.5]. Or a part of it: ``"1/5"`` is the first of five that
            have no example in common. The test set is never touched.
        validation_labels: A file of training examples' labels that are known to be right, see
            :func:`noisylabels.data.clean_labels.read_clean_labels`: these examples are held out,
            and the hold-out's accuracy is counted against them.
        test_labels: The same of some or all test examples: test accuracy is counted on these alone.
        test: Whether the test set is predicted and scored; ``noisylabels tune`` leaves it alone,
            lest anything be chosen by it.
        compile: Whether networks are compiled by ``torch.compile``.
        clip_norm: Norm that a step's gradients are scaled down to, above 0; by default they are
            left as they are.
        accumulate: Parts that a batch is computed in, one after the other, to save memory.
        on_nan: What becomes of a step whose loss or gradients are not finite: ``"raise"`` stops the
            run, ``"skip"`` leaves the step out and counts it.
        devices: Processes on each machine that share each batch, one per GPU or, without GPUs, on
            the CPU.
        nodes: Machines.
        sync_batchnorm: Whether batch norm takes its statistics from all processes.
        workers: Processes that decode images, at least 0; one per core (at most 8) by default. The
            result does not depend on it, nor on what follows.
        evaluate_every: Epochs from one evaluation to the next; the last epoch always has one. What
            a run keeps as means over its epochs, for ``noisylabels audit``, is over those that were
            evaluated.
        checkpoint_minutes: Minutes after which a checkpoint is written within a long epoch, above
            0; there is one after every epoch, unless the last is only seconds old.
        trackers: Services that get the metrics beside TensorBoard: ``"wandb"``, ``"mlflow"``.
        save_model: Whether a finished run keeps its weights.
    """

    data: Part
    noise: Part = Component("none")
    poison: Part = Component("none")
    features: Part = Component("none")
    model: Part = Component("auto")
    method: Part = Component("single")
    loss: Part = Component("dal")
    optimizer: Part = Component("sgd")
    lr_schedule: Part = Component("cosine")
    momentum_schedule: Part = Component("constant")
    augment: Part = Component("auto")
    epochs: Count = 150
    batch_size: Count = 128
    seed: Seed = 0
    precision: Precision = "auto"
    validation: Share | Fold = 0.0
    validation_labels: Path | None = None
    test_labels: Path | None = None
    test: bool = True
    compile: bool = False
    clip_norm: Positive | None = None
    accumulate: Count = 1
    on_nan: Literal["raise", "skip"] = "raise"
    devices: Count = 1
    nodes: Count = 1
    sync_batchnorm: bool = False
    workers: Workers | None = None
    evaluate_every: Count = 1
    checkpoint_minutes: Positive = 10.0
    trackers: tuple[Literal["wandb", "mlflow"], ...] = ()
    save_model: bool = True

    @property
    def holds_out(self) -> bool:
        """Whether some of the training examples are held out."""
        return bool(self.validation) or self.validation_labels is not None

    def replace(self, **changes: Any) -> "RunConfig":
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def tables(self) -> dict[str, Any]:
        """Return the configuration as plain tables, as they stand in a file."""
        tables: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return tables


_ADAPTER = TypeAdapter(RunConfig)
_TYPES = get_type_hints(RunConfig, include_extras=True)
FIELDS = {field.name: field for field in dataclasses.fields(RunConfig)}


def parse(tables: Mapping[str, Any]) -> RunConfig:
    """Check plain tables and make a configuration of them.

    A component's table without a ``name`` keeps the default's name.

    Args:
        tables: What a TOML file holds.

    Returns:
        The configuration; its components' parameters are not checked yet, see :func:`bind`.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type.

    Example:
        >>> parse({"data": "digits", "epochs": 10, "loss": {"q_start": 0.8}}).loss
        Component(name='dal', parameters={'q_start': 0.8})
        >>> parse({"data": "digits", "epoch": 10})
        Traceback (most recent call last):
        noisylabels.errors.ConfigError: unknown key 'epoch': did you mean 'epochs'? (known: ...)
    """
    for key in tables:
        if key not in FIELDS:
            raise ConfigError(unknown("key", key, FIELDS))
    filled = dict(tables)
    for key, value in tables.items():
        default = FIELDS[key].default
        if isinstance(default, Component) and isinstance(value, Mapping) and "name" not in value:
            filled[key] = {"name": default.name, **value}
    if "data" not in filled:
        raise ConfigError('no data given: expected data = {name = "..."}')
    return RunConfig(**{key: _field(key, value) for key, value in filled.items()})


def is_component(key: str) -> bool:
    """Return whether a key's value is a component, a table with a name.

    Args:
        key: A key of a run's file, or any other word.
    """
    return _TYPES.get(key) is Part


def _field(key: str, value: object) -> Any:
    if not is_component(key):
        return _typed(value, _TYPES[key], key)
    try:
        return Component.parse(value.read() if isinstance(value, Word) else value)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}, got {value!r}") from error


def load(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration from a TOML file.

    Args:
        path: The file.
        overrides: Words such as ``["--loss.name", "gce", "--epochs=10"]``, which win over the
            file. Naming another component starts from that component's defaults.

    Returns:
        The configuration.

    Raises:
        ConfigError: The file is missing or no TOML, or :func:`parse` refuses what it holds.
    """
    tables = read_toml(path)
    try:
        return parse(override(tables, overrides))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read the tables of a TOML file.

    Args:
        path: The file, UTF-8.

    Raises:
        ConfigError: It is missing or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def override(tables: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Let words of a command line win over a file.

    Args:
        tables: What the file holds.
        words: The words, see :func:`load`.

    Returns:
        The tables of both.

    Raises:
        ConfigError: A word is no override, or has no value.
    """
    return _merge(tables, override_tables(words))


def find(name: str, registry: Mapping[str, Any], what: str) -> Any:
    """Return what a component's name stands for.

    Args:
        name: A key of ``registry``, or ``"module:attr"`` (modules in the working directory count).
        registry: The known names.
        what: What is looked for, for the message.

    Returns:
        The function or class.

    Raises:
        ConfigError: There is no such thing.
    """
    if name in registry:
        return registry[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        names = name.split(",")
        if len(names) > 1 and any(each in registry for each in names):
            raise ConfigError(f"{what}: expected one name, got {name!r}; {SEVERAL}")
        raise ConfigError(unknown(what, name, registry))
    if "" not in sys.path:
        sys.path.append("")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{what} {name!r} cannot be imported: {error}") from error


def bind(
    component: Component,
    target: Callable[..., Any],
    what: str,
    *,
    reserved: Collection[str] = (),
    optional: Collection[str] = (),
) -> dict[str, Any]:
    """Check a component's parameters against a signature and fill in the defaults.

    Positional parameters are the runner's to give; keyword-only ones are the user's, and so are
    those that ``**options: Unpack[...]`` takes.

    Args:
        component: The component.
        target: The function or class that its name stands for.
        what: What the component is in the configuration, for the message.
        reserved: Keyword-only parameters that are the runner's all the same.
        optional: Keyword-only parameters that the runner gives where the user does not.

    Returns:
        Keyword arguments for ``target``: every keyword-only parameter that was given or has a
        default.

    Raises:
        ConfigError: A parameter is unknown, missing or has the wrong type.

    Example:
        >>> def gce(input, *, q: float = 0.7): ...
        >>> bind(Component("gce"), gce, "loss")
        {'q': 0.7}
        >>> bind(Component("gce", {"p": 1}), gce, "loss")
        Traceback (most recent call last):
        noisylabels.errors.ConfigError: loss: unknown parameter of 'gce' 'p' (known: q)
    """
    try:
        signature = inspect.signature(target, eval_str=True)
    except (TypeError, ValueError, NameError) as error:
        raise ConfigError(
            f"{what}: expected a function or class behind {component.name!r} ({error})"
        ) from error
    kinds = inspect.Parameter
    options = _options(signature)
    own = {
        name: parameter
        for name, parameter in {**signature.parameters, **options}.items()
        if parameter.kind is kinds.KEYWORD_ONLY and name not in reserved
    }
    takes_any = not options and any(
        p.kind is kinds.VAR_KEYWORD for p in signature.parameters.values()
    )
    bound = {
        name: parameter.default
        for name, parameter in own.items()
        if parameter.default is not kinds.empty and name not in optional
    }
    for name, value in component.parameters.items():
        if name in signature.parameters and name not in own and name not in reserved:
            raise ConfigError(
                f"{what}: {name!r} of {component.name!r} is the runner's to give: "
                f"only keyword-only parameters can be set"
            )
        if name not in own and not takes_any:
            raise ConfigError(f"{what}: {unknown(f'parameter of {component.name!r}', name, own)}")
        annotation = own[name].annotation if name in own else Any
        bound[name] = _typed(value, annotation, f"{what}.{name}")
    for name in own:
        if name not in bound and name not in optional and name not in options:
            raise ConfigError(f"{what}: {component.name!r} needs {name}")
    return bound


def _options(signature: inspect.Signature) -> dict[str, inspect.Parameter]:
    """Return what ``**options: Unpack[TypedDict]`` takes, none of which has to be given."""
    kinds = inspect.Parameter
    for parameter in signature.parameters.values():
        if parameter.kind is kinds.VAR_KEYWORD and get_origin(parameter.annotation) is Unpack:
            hints = get_type_hints(*get_args(parameter.annotation))
            return {n: kinds(n, kinds.KEYWORD_ONLY, annotation=hint) for n, hint in hints.items()}
    return {}


def defaults(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of the parameters that a user can set.

    Args:
        target: The function or class that a component names.

    Returns:
        Values by name, of those keyword-only parameters that have a default.

    Example:
        >>> def gce(input, *, q: float = 0.7, path: str): ...
        >>> defaults(gce)
        {'q': 0.7}
    """
    return {
        name: parameter.default
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
    }


def _explain(error: Any, value: object) -> str:
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
    else:
        wanted = error["msg"].removeprefix("Input should be ").partition(", got")[0]
        wanted = textwrap.shorten(wanted, LONGEST_EXPECTATION, placeholder=" ...")
        for word, plain in (("integer", "whole number"), ("array", "list"), ("tuple", "list")):
            wanted = wanted.replace(f"a valid {word}", f"a {plain}")
        wanted = wanted.replace("valid ", "")
        message = f"expected {'a value ' if wanted.startswith('greater') else ''}{wanted}"
    return f"{message}, got {value!r}"


def _typed(value: object, annotation: Any, place: str) -> Any:
    if annotation is inspect.Parameter.empty or annotation is Any:
        return value.read() if isinstance(value, Word) else value
    if annotation == Hyperparameter:
        if isinstance(value, Word) and isinstance(value.read(), Mapping):
            value = value.read()
        if isinstance(value, Mapping):
            return _typed_schedule(value, place)
        annotation = float
    if annotation == BaseLoss:
        if isinstance(value, Word):
            value = value.read()
        if isinstance(value, Mapping):
            return _typed_base(value, place)
        annotation = str
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    refusals = []
    for reading in value.readings() if isinstance(value, Word) else [value]:
        try:
            # In JSON mode strict still lets a string be a path, but never a string be a number.
            typed = adapter.validate_json(json.dumps(reading, default=str), strict=True)
        except ValidationError as error:
            found = error.errors()
            # Of several kinds of values that could be meant, the one that has a word of its own.
            own = next((each for each in found if each["type"] == "value_error"), found[0])
            refusals.append((own, reading))
        else:
            if isinstance(typed, Path) and not reading:
                raise ConfigError(f"{place}: expected a path, got {reading!r}")
            return typed.expanduser() if isinstance(typed, Path) else typed
    # The only item of a list may be at fault, not that it is no list.
    first, reading = next((r for r in refusals if r[0]["loc"]), refusals[0])
    refusal = f"{place}: {_explain(first, reading)}"
    if isinstance(value, Word) and "," in value.text:
        listed = f"several are written {json.dumps(value.text.split(','))}"
        refusal += f"; {listed if first['loc'] else SEVERAL}"
    raise ConfigError(refusal)


def _typed_schedule(table: Mapping[str, Any], place: str) -> dict[str, Any]:
    name = table.get("schedule")
    if isinstance(name, Word):
        name = name.text
    if not isinstance(name, str):
        raise ConfigError(
            f"{place}: expected a number or a table such as "
            f'{{schedule = "linear", start = 0.6, end = 1.5}}, got {dict(table)!r}'
        )
    try:
        target = find(name, SCHEDULES, "schedule")
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    arguments = {key: value for key, value in table.items() if key != "schedule"}
    return {"schedule": name, **bind(Component(name, arguments), target, place)}


def _typed_base(table: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Type what a table says of a loss; what it may not say is refused where the loss is made."""
    name = table.get("name")
    if not isinstance(name, str) or name not in LOSSES:
        return dict(table)
    own = hyperparameters(LOSSES[name])
    given = {key: value for key, value in table.items() if key in own}
    bound = bind(Component(name, given), LOSSES[name], place)
    return dict(table) | {
        key: str(bound[key]) if isinstance(bound[key], Path) else bound[key] for key in given
    }


def override_tables(words: Sequence[str]) -> dict[str, Any]:
    """Read words such as ``["--loss.name", "gce"]`` as tables; values are read as TOML is.

    In a key a hyphen is an underscore, as in the options of commands.

    Raises:
        ConfigError: A word is no override, or has no value.
    """
    tables: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        key, equals, text = word.partition("=")
        if not key.startswith("--") or len(key) == 2:
            meant = f"--{word}" if word.partition("=")[0].partition(".")[0] in FIELDS else None
            hint = f": did you mean {meant}?" if meant else ""
            raise ConfigError(f"expected an override such as --epochs 10, got {word!r}{hint}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"{key} needs a value")
            text = rest.pop(0)
        *parents, leaf = key[2:].replace("-", "_").split(".")
        table = tables
        for parent in parents:
            below = table.setdefault(parent, {})
            # A bare name came before the component's parameters.
            table[parent] = table = {"name": below.text} if isinstance(below, Word) else below
        if isinstance(table.get(leaf), dict):
            # Or after them.
            table, leaf = table[leaf], "name"
        if leaf in table:
            raise ConfigError(
                f"{key} is given twice, as {table[leaf]!r} and {text!r}: a run has one value of "
                f"it; {SEVERAL}"
            )
        table[leaf] = text if leaf == "name" else Word(text)
    return tables


@dataclasses.dataclass(frozen=True, eq=False)
class Word:
    """A value as it stands on a command line: what it is shows only where it is used.

    ``2024`` may be a number or a folder, ``mlflow`` a string or the only one of several. It equals
    what TOML reads it as.

    Args:
        text: The word.

    Example:
        >>> Word("2024").readings()
        [2024, '2024', [2024], ['2024']]
        >>> Word("0.5") == 0.5
        True
    """

    text: str

    def read(self) -> Any:
        """Read the value as TOML does; what TOML cannot read is a string."""
        try:
            value = tomllib.loads(f"value = {self.text}")
        except tomllib.TOMLDecodeError:
            return self.text
        return value["value"] if len(value) == 1 else self.text

    def readings(self) -> list[Any]:
        """Return what the value may be, the likeliest first."""
        value = self.read()
        return [value, self.text, [value], [self.text]]

    def __eq__(self, other: object) -> bool:
        """Return whether it is the same word, or what TOML reads it as."""
        return bool(self.read() == (other.read() if isinstance(other, Word) else other))

    def __hash__(self) -> int:
        """Return a hash of the word."""
        return hash(self.text)

    def __repr__(self) -> str:
        """Show what TOML reads it as."""
        return repr(self.read())


def _merge(tables: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Let changes win over tables; what names another component or schedule starts anew."""
    merged = dict(tables)
    for key, change in changes.items():
        before = tables.get(key)
        if isinstance(before, str):
            before = {"name": before}
        if isinstance(before, Mapping) and isinstance(change, Mapping):
            same = all(before.get(k) == change.get(k, before.get(k)) for k in ("name", "schedule"))
            merged[key] = _merge(before, change) if same else change
        else:
            merged[key] = change
    return merged
