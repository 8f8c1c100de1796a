"""The command line: parse, call, print."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from noisylabels.errors import ConfigError, MissingExtraError, unknown

try:
    import tyro
except ImportError as error:
    raise MissingExtraError("tyro", "train") from error

OPTIONS = {
    "demo": ("--out", "--report"),
    "train": ("--out",),
    "report": ("--out",),
    "losses": (),
}


@dataclass(frozen=True)
class Demo:
    """Train on digits with 40 % label noise: CE, GCE and DAL, three seeds each; show the table.

    Real handwritten digits, nothing to download, about a minute on two cores. Running it again
    continues what is not finished.
    """

    out: Path = Path("runs")
    """Folder of run folders."""
    report: Path = Path("report.html")
    """The report to write: table and curves in one file."""


@dataclass(frozen=True)
class Train:
    """Make one run from a TOML file, or continue it, or find it finished.

    Any key of the file can be set here too, typed like in the file: --epochs 10
    --loss.name gce --loss.q 0.7. Naming another component starts from its own defaults. Keys: data
    (required), noise, model, method, loss, optimizer, lr_schedule, augment, epochs, batch_size,
    seed, precision.
    """

    config: tyro.conf.Positional[Path]
    """The run's TOML file."""
    out: Path = Path("runs")
    """Folder of run folders."""


@dataclass(frozen=True)
class Report:
    """Make the table and the curves of any runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, or folders of run folders."""
    out: Path = Path("report.html")
    """The report to write: table and curves in one file."""


@dataclass(frozen=True)
class Losses:
    """List every loss: key, formula, hyper-parameters, the paper's values for each dataset."""


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Losses, tyro.conf.subcommand("losses")]
)


def run(words: Sequence[str]) -> None:
    """Run a command.

    Args:
        words: The command and its arguments.

    Raises:
        NoisyLabelsError: What the user gave cannot be used.
        SystemExit: There is no such command or option, or help was asked for.
    """
    rest, overrides = _split(words) if words[:1] == ["train"] else (list(words), [])
    _check_words(rest)
    command = tyro.cli(
        Command,
        prog="noisylabels",
        description="Train classifiers on data whose labels are partly wrong. "
        "Also: --version; --debug shows the traceback of an error.",
        args=rest,
    )
    if isinstance(command, Demo):
        _demo(command)
    elif isinstance(command, Train):
        _train(command, overrides)
    elif isinstance(command, Report):
        _report(command.runs, command.out)
    else:
        _losses()


def _check_words(words: Sequence[str]) -> None:
    if not words or words[0].startswith("-"):
        return
    name, *rest = words
    if name not in OPTIONS:
        raise ConfigError(unknown("command", name, OPTIONS))
    for option in (word.partition("=")[0] for word in rest if word.startswith("--")):
        if option not in (*OPTIONS[name], "--help"):
            raise ConfigError(unknown(f"option of {name}", option, OPTIONS[name]))


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the command's own words from overrides and their values."""
    own, overrides = [], []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word.partition("=")[0] in ("--out", "--help"):
            own.append(word)
            if word == "--out" and rest:
                own.append(rest.pop(0))
        else:
            overrides.append(word)
            if "=" not in word and rest and not rest[0].startswith("--"):
                overrides.append(rest.pop(0))
    return own, overrides


def _train(command: Train, overrides: Sequence[str]) -> None:
    from noisylabels import config
    from noisylabels.display import Display
    from noisylabels.trainer import plan, train

    run = config.load(command.config, overrides)
    try:
        made = plan(run)
    except ConfigError as error:
        raise ConfigError(f"{command.config}: {error}") from error
    with Display(runs=1, epochs=run.epochs) as display:
        folder = train(made, command.out, display)
    print(folder)


def _demo(command: Demo) -> None:
    from noisylabels import demo
    from noisylabels.display import Display
    from noisylabels.trainer import plan, train

    plans = [plan(run) for run in demo.runs()]
    with Display(runs=len(plans), epochs=sum(made.config.epochs for made in plans)) as display:
        folders = [train(made, command.out, display) for made in plans]
    _report(folders, command.report)


def _losses() -> None:
    from noisylabels.losses import LOSSES, hyperparameters
    from noisylabels.paper.hyperparameters import HYPERPARAMETERS, describe

    for key, loss in LOSSES.items():
        print(f"{key:9} {loss.formula}")
        defaults = describe(hyperparameters(loss))
        print(f"          {loss.__name__}({defaults})")
        for dataset, values in HYPERPARAMETERS.get(key, {}).items():
            print(f"          {dataset}: {describe(values)}")


def _report(runs: Sequence[Path], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from noisylabels import report

    summary = report.summarise(report.read(runs))
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title=summary.shared, title_justify="left")
    for name in report.HEADER:
        table.add_column(name, justify="left" if name == "loss" else "right", overflow="fold")
    for group in summary.groups:
        table.add_row(*group.row())
    console.print(table)
    for run in summary.unfinished:
        print(f"not finished, not in the table: {run.folder}", file=sys.stderr)
    report.write_html(summary, out)
    print(out)
