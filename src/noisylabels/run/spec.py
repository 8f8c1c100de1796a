"""A dataset in one word, as it is given on the command line."""

import inspect
from pathlib import Path
from typing import Any

from noisylabels.data.datasets import ALIASES, SOURCES
from noisylabels.data.files import LISTS, image_columns
from noisylabels.data.source import Source, check_source
from noisylabels.data.tables import TABLES, read_names, read_schema
from noisylabels.errors import ConfigError, unknown
from noisylabels.run import config
from noisylabels.run.config import Component

# A table has both: the file is what it is, the root only where its images lie.
PLACES = ("path", "root")


def parse(spec: str) -> Component:
    """Read a dataset's name and parameters.

    Args:
        spec: A source's name (``digits``); a name and where it lies (``parquet:data/cifar``);
            either with more parameters (``folder:photos,size=64``); a folder or file, whose kind
            is seen by what it holds; or a run's TOML file, of which ``data`` is taken.

    Returns:
        The component, not checked yet.

    Raises:
        ConfigError: It is none of these.

    Example:
        >>> parse("digits,limit=100")
        Component(name='digits', parameters={'limit': 100})
        >>> parse("table:labels.csv").parameters
        {'path': 'labels.csv'}
    """
    path = Path(spec)
    if path.suffix == ".toml":
        return config.load(path).data
    word, *settings = [spec] if path.exists() else spec.split(",")
    if word in {*SOURCES, *ALIASES} and path.exists():
        raise ConfigError(
            f"{word!r} is a file or folder here, and a source of data: ./{word} is the first, "
            f"{word}: the second"
        )
    if Path(word).exists():
        name = _kind(Path(word))
        word = f"{name}:{word}"
    name, colon, where = word.partition(":")
    name = ALIASES.get(name, name)
    # "module:attr" names the user's own source.
    if colon and name not in SOURCES:
        name, where = word, ""
    if name not in SOURCES and ":" not in name:
        raise ConfigError(f"{unknown('data', name, SOURCES)}; nor is {name} a file or folder here")
    target = config.find(name, SOURCES, "data")
    parameters: dict[str, object] = {_place(target): where} if where else {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"data: expected key=value after the comma, got {setting!r}")
        parameters[key] = config.Word(value)
    return Component(name, parameters)


def source(component: Component) -> Source:
    """Make the source that a component names.

    Raises:
        ConfigError: There is none, or a parameter does not fit.
    """
    name = ALIASES.get(component.name, component.name)
    target = config.find(name, SOURCES, "data")
    return check_source(target(**config.bind(component, target, "data")), name)


def _kind(path: Path) -> str:
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix in LISTS:
            return "table"
        if suffix in TABLES:
            return _kind_of_table(path)
        if suffix == ".npz":
            return "arrays"
        raise ConfigError(
            f"{path}: expected a .csv, .txt, .parquet, .npz or .toml file, or a folder"
        )
    patterns = ("*.parquet", "data/*.parquet", "train/*.parquet", "*.arrow", "train/*.arrow")
    if any(True for pattern in patterns for _ in path.glob(pattern)):
        return "parquet"
    if (path / "info" / "train_filelist_google.txt").exists():
        return "webvision"
    published = [path / "training", path / "testing"]
    if all(p.is_dir() and any(p.glob("[0-9]_*")) for p in published):
        return "animal10n"
    return "folder"


def _kind_of_table(path: Path) -> str:
    names = read_names(path)
    # What neither has is said by the one that tables are mostly read by.
    if "path" in names:
        return "table"
    if "text" in names:
        return "text"
    images = path.suffix.lower() == ".parquet" and names and image_columns(read_schema(path))
    return "parquet" if images else "table"


def _place(target: Any) -> str:
    """Return the parameter that says where a source lies."""
    parameters = inspect.signature(target).parameters
    for name in PLACES:
        if name in parameters:
            return name
    raise ConfigError(f"data: {target.__name__} lies nowhere, so it takes no path")
