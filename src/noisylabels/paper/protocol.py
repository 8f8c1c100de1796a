"""How the paper's experiments are done: its settings of noise, and the recipes of each scale."""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from noisylabels.errors import ConfigError, DataError, unknown
from noisylabels.noise import MAPS

Tables = Mapping[str, Any]
SCALES = ("paper", "small", "features", "digits")
DATASETS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "animal10n": "Animal-10N",
    "webvision": "WebVision",
    "digits": "digits",
}
"""What people call the datasets, by the names of their sources."""
NETWORKS: dict[str, Tables] = {
    "resnet34": {"name": "resnet34"},
    "cnn": {"name": "cnn"},
}
"""Networks of the paper's appendix, which take the place of a scale's own."""
INSTANCE = ("instance", "margin")
"""Kinds of noise that depend on what an example looks like; the first is the paper's."""


@dataclass(frozen=True)
class Setting:
    """A kind of noise and its rate.

    Args:
        kind: A key of ``noisylabels.noise.NOISES``.
        rate: The nominal rate.
    """

    kind: str
    rate: float

    @property
    def key(self) -> str:
        """Its short name."""
        return f"{self.kind}:{self.rate:g}"

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.kind} {100 * self.rate:g} %"


SETTINGS = tuple(
    Setting(kind, rate)
    for kind, rates in (
        ("symmetric", (0.2, 0.4, 0.6, 0.8)),
        ("asymmetric", (0.2, 0.4)),
        ("instance", (0.2, 0.4)),
    )
    for rate in rates
)
"""The columns of the paper's tables 2, 3 and 5."""


@dataclass(frozen=True)
class Protocol:
    """What an experiment is done with.

    Args:
        scale: One of ``SCALES``.
        data: Folder of the datasets. Each is looked for in a folder of its own name, then here: as
            torchvision has it, or as Parquet files of Hugging Face. CIFAR that is in neither is
            downloaded.
        labels: Folder of published label files, ``KIND/DATASET_PERCENT.npy``; a setting that has no
            file there, and every one without a folder, is made.
        weights: File of the weights of the pretrained network at scale ``"features"``; by default
            they are downloaded.
        network: A key of ``NETWORKS`` in place of the scale's own network.
        instance: The kind of noise in place of the paper's instance-dependent one.

    Raises:
        ConfigError: A name is unknown, or an option does not belong to the scale.
        DataError: The folder of labels is missing.
    """

    scale: str
    data: Path = Path("data")
    labels: Path | None = None
    weights: Path | None = None
    network: str | None = None
    instance: str = INSTANCE[0]

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.scale not in SCALES:
            raise ConfigError(unknown("scale", self.scale, SCALES))
        if self.labels is not None and not self.labels.is_dir():
            raise DataError(f"{self.labels}: expected a folder of label files")
        if self.weights is not None and self.scale != "features":
            raise ConfigError(f"--weights is of scale 'features', got scale {self.scale!r}")
        if self.network is not None:
            if self.network not in NETWORKS:
                raise ConfigError(unknown("network", self.network, NETWORKS))
            if self.scale not in ("paper", "small"):
                raise ConfigError(
                    f"--network is of scales 'paper' and 'small', got scale {self.scale!r}"
                )
        if self.instance not in INSTANCE:
            raise ConfigError(unknown("instance-dependent noise", self.instance, INSTANCE))

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets that the scale has."""
        return tuple(name for name in _scale(self.scale) if name in DATASETS)

    @property
    def seeds(self) -> int:
        """How many seeds the scale has."""
        return int(_scale(self.scale)["seeds"])

    def base(self, dataset: str) -> dict[str, Any]:
        """Return the recipe that all runs on a dataset share, as tables of a run's file.

        Args:
            dataset: One of :attr:`datasets`.

        Raises:
            ConfigError: The scale does not have the dataset.
        """
        scale = _scale(self.scale)
        if dataset not in self.datasets:
            there = ", ".join(self.datasets)
            raise ConfigError(
                f"scale {self.scale!r} has no {DATASETS.get(dataset, dataset)} (it has: {there})"
            )
        tables = dict(scale[dataset])
        tables["data"] = tables["data"] | self._place(dataset)
        if self.weights is not None:
            tables["features"] = tables["features"] | {"weights": str(self.weights)}
        if self.network is not None:
            own = tables["model"]
            width = {"width": own["width"]} if isinstance(own, Mapping) else {}
            tables["model"] = {**NETWORKS[self.network], **width}
        return tables

    def _place(self, dataset: str) -> dict[str, Any]:
        """Say where a dataset lies."""
        if dataset == "digits":
            return {}
        own = self.data / dataset
        root = own if own.is_dir() else self.data
        if dataset.startswith("cifar") and any(root.glob("*.parquet")):
            label = {"label": "fine_label"} if dataset == "cifar100" else {}
            return {"name": "parquet", "root": str(root), **label}
        return {"root": str(root)}

    def noise(self, dataset: str, setting: Setting) -> dict[str, Any]:
        """Return the noise of a setting, as it stands in a run's file.

        Args:
            dataset: The dataset.
            setting: The setting.
        """
        kind = self.instance if setting.kind == "instance" else setting.kind
        if self.labels is not None and kind == setting.kind:
            file = self.labels / kind / f"{dataset}_{100 * setting.rate:.0f}.npy"
            if file.exists():
                return {"name": "file", "path": str(file)}
        # Files of CIFAR need not say what its classes are called.
        named = {"map": dataset} if kind == "asymmetric" and dataset in MAPS else {}
        return {"name": kind, "rate": setting.rate, **named}

    def tuned(self, dataset: str, *, either_decay: bool = False) -> Mapping[str, dict[str, Any]]:
        """Return the values that were tuned at this scale, see ``docs/reproduction.md``.

        Args:
            dataset: The dataset.
            either_decay: Whether they are the better of two lots of trials, one with an L2 penalty
                on the weights and one with an L1 penalty.

        Returns:
            Values by dotted key of a run's file, by what they were tuned for: a loss's key, or
            ``experiments.host_key`` of a bigger method. Nothing where nothing was tuned.
        """
        name = f"{self.scale}-either" if either_decay else self.scale
        found: Mapping[str, dict[str, Any]] = _tuned(name).get(dataset, {})
        return found


@functools.cache
def _scale(name: str) -> dict[str, Any]:
    text = resources.files(__package__).joinpath("scales", f"{name}.toml").read_text("utf-8")
    return tomllib.loads(text)


@functools.cache
def _tuned(name: str) -> dict[str, Any]:
    file = resources.files(__package__).joinpath("tuned", f"{name}.toml")
    return tomllib.loads(file.read_text("utf-8")) if file.is_file() else {}


@functools.cache
def recipe(method: str, dataset: str) -> dict[str, Any]:
    """Return a bigger method's recipe by its authors, as tables of a run's file.

    Args:
        method: Its name.
        dataset: ``"cifar10"`` or ``"cifar100"``.
    """
    file = resources.files(__package__).joinpath("recipes", f"{method}-{dataset}.toml")
    return tomllib.loads(file.read_text("utf-8"))
