"""Run folders in, a table and curves out.

Runs that differ in nothing but the seed are one row: mean ± sample standard deviation of the last
epoch. What all rows share stands once above the table.
"""

import io
import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisylabels.errors import DataError, MissingExtraError
from noisylabels.losses import LOSSES
from noisylabels.run.config import FIELDS
from noisylabels.run.tracking import Metrics, read_metrics
from noisylabels.studies.pages import write_page

ENGINE = {
    key: list(field.default) if isinstance(field.default, tuple) else field.default
    for key, field in FIELDS.items()
    if key not in ("epochs", "batch_size", "precision")
}
"""What is said only of runs that differ from it."""
CURVES = {
    "test_accuracy": ("test", "#0072B2", "-"),
    "train_accuracy_correct": ("training, correctly labelled", "#009E73", "--"),
    "train_accuracy_wrong": ("training, wrongly labelled", "#D55E00", "-."),
}
RESULTS = (
    "run_id",
    "test_accuracy",
    "train_accuracy_correct",
    "train_accuracy_wrong",
    "actual_noise_rate",
    "nominal_noise_rate",
    "seconds",
    "device",
    "versions",
)
UNKNOWN = "unknown"
HEADER = (
    "loss",
    "seeds",
    "test accuracy",
    "wrong labels memorised",
    "correct labels fitted",
    "noise, actual / nominal",
)


@dataclass(frozen=True)
class Run:
    """A run folder as it was read.

    Args:
        folder: The run folder.
        config: What ``config.json`` holds.
        metrics: The lines of ``metrics.jsonl``.
        result: What ``result.json`` holds; None while the run is not finished.
    """

    folder: Path
    config: Mapping[str, Any]
    metrics: Sequence[Metrics]
    result: Mapping[str, Any] | None


@dataclass(frozen=True)
class Group:
    """Finished runs that differ in nothing but the seed.

    Args:
        title: What tells the group from the others.
        runs: Its runs, by seed.
    """

    title: str
    runs: Sequence[Run]

    def row(self) -> tuple[str, ...]:
        """Return the group's cells, in the order of ``HEADER``."""
        nominal = self.runs[0].result["nominal_noise_rate"] if self.runs[0].result else None
        actual = self._percent("actual_noise_rate")
        noise = actual if nominal is None else f"{actual.removesuffix(' %')} / {100 * nominal:g} %"
        accuracy, both = self._percent("test_accuracy"), self._percent("test_accuracy_ensemble")
        return (
            self.title,
            str(len(self.runs)),
            accuracy if both == UNKNOWN else f"{accuracy} (both networks {both})",
            self._percent("train_accuracy_wrong"),
            self._percent("train_accuracy_correct"),
            noise,
        )

    def _percent(self, key: str) -> str:
        results = [run.result or {} for run in self.runs]
        values = [value for result in results if (value := result.get(key)) is not None]
        if not values:
            return UNKNOWN
        mean = f"{100 * statistics.fmean(values):.1f}"
        return (
            f"{mean} ± {100 * statistics.stdev(values):.1f} %" if len(values) > 1 else f"{mean} %"
        )


@dataclass(frozen=True)
class Report:
    """Runs, grouped and ready to be shown.

    Args:
        shared: What all groups have in common.
        legend: What names in the groups' titles stand for, e.g. ``"method elr (beta 0.7, lamb
            3)"``: those that have one set of values in all runs.
        groups: The groups, in the order of ``LOSSES``.
        unfinished: The runs that are not finished; they count in no group.
    """

    shared: str
    legend: Sequence[str]
    groups: Sequence[Group]
    unfinished: Sequence[Run]


def read(paths: Iterable[Path]) -> list[Run]:
    """Read run folders, or folders of run folders.

    Args:
        paths: The folders; a run that is reached twice counts once.

    Returns:
        The runs.

    Raises:
        DataError: There is no path, a path is no run folder and holds none, or a file in it is
            damaged.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        found = (
            [path]
            if (path / "config.json").exists()
            else sorted(child.parent for child in path.glob("*/config.json"))
        )
        if not found:
            raise DataError(
                f"{path}: expected a run folder (with config.json), or a folder of them"
            )
        folders.update(dict.fromkeys(found))
    if not folders:
        raise DataError("expected run folders, or folders of them")
    runs: dict[object, Run] = {}
    for folder in {folder.resolve(): folder for folder in folders}.values():
        finished = (folder / "result.json").exists()
        run = Run(
            folder=folder,
            config=_read_json(folder / "config.json", ("loss", "seed", "epochs")),
            metrics=read_metrics(folder / "metrics.jsonl"),
            result=_read_json(folder / "result.json", RESULTS) if finished else None,
        )
        # A copy of a run is no other seed.
        runs.setdefault(run.result["run_id"] if run.result else folder, run)
    return list(runs.values())


def summarise(runs: Sequence[Run]) -> Report:
    """Group runs by everything but the seed.

    Args:
        runs: The runs, see :func:`read`.

    Returns:
        The report.

    Raises:
        DataError: No run is finished.
    """
    finished = [run for run in runs if run.result is not None]
    if not finished:
        raise DataError(f"expected at least one finished run, got {len(runs)} unfinished")
    settings = [_settings(run.config) for run in finished]
    common = {
        key: value
        for key, value in settings[0].items()
        if key != "loss" and all(other.get(key) == value for other in settings)
    }
    own = [
        {key: value for key, value in setting.items() if key not in {*common, "loss"}}
        for setting in settings
    ]
    values: dict[tuple[str, str], set[str]] = {}
    for rest in own:
        for key, value in rest.items():
            values.setdefault((key, _name(value)), set()).add(value)
    unique = {named: full.pop() for named, full in values.items() if len(full) == 1}
    groups: dict[str, list[Run]] = {}
    for run, setting, rest in zip(finished, settings, own, strict=True):
        parts = [
            f"{key} {_name(value) if (key, _name(value)) in unique else value}"
            for key, value in rest.items()
        ]
        groups.setdefault(", ".join([setting["loss"], *parts]), []).append(run)
    return Report(
        shared="; ".join(f"{key} {value}" for key, value in common.items()),
        legend=sorted(f"{key} {full}" for (key, name), full in unique.items() if full != name),
        groups=[
            Group(title, sorted(groups[title], key=lambda run: run.config["seed"]))
            for title in sorted(groups, key=_by_loss)
        ],
        unfinished=[run for run in runs if run.result is None],
    )


def write_html(report: Report, path: Path) -> None:
    """Write a report as one self-contained HTML file, whole or not at all.

    Args:
        report: The report.
        path: The file to make or replace.

    Raises:
        MissingExtraError: Jinja or matplotlib is not installed.
        DataError: The file cannot be written.
    """
    write_page(
        path,
        "report.html",
        report=report,
        header=HEADER,
        curves=[(group.title, draw_curves(group)) for group in report.groups],
        runs=[run for group in report.groups for run in group.runs],
    )


def mean_curve(group: Group, key: str) -> tuple[list[float], list[float]]:
    """Average a metric over seeds, epoch by epoch.

    Args:
        group: The runs.
        key: The metric, a fraction in [0, 1].

    Returns:
        Mean and sample standard deviation by epoch, in percent; nothing where the metric is
        unknown. One run has deviation 0.
    """
    points = list(zip(*(_series(run, key) for run in group.runs), strict=False))
    means = [100 * statistics.fmean(point) for point in points]
    several = len(group.runs) > 1
    return means, [100 * statistics.stdev(point) if several else 0.0 for point in points]


def draw_curves(group: Group) -> str:
    """Draw accuracy by epoch, the mean over seeds with a band of one standard deviation.

    Args:
        group: The runs.

    Returns:
        An SVG element.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "noisylabels", "font.size": 9}):
        figure = Figure(figsize=(4.6, 3.0), layout="constrained")
        axes = figure.subplots()
        for key, (label, colour, style) in CURVES.items():
            means, deviations = mean_curve(group, key)
            if not means:
                continue
            epochs = range(1, len(means) + 1)
            axes.plot(epochs, means, color=colour, linestyle=style, label=label)
            low = [mean - std for mean, std in zip(means, deviations, strict=True)]
            high = [mean + std for mean, std in zip(means, deviations, strict=True)]
            axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel="epoch", ylabel="accuracy, %", ylim=(0, 102))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        drawing = io.StringIO()
        figure.savefig(drawing, format="svg", metadata={"Date": None})
    text = drawing.getvalue()
    return text[text.index("<svg") :]


def _series(run: Run, key: str) -> list[float]:
    return [float(value) for line in run.metrics if (value := line.get(key)) is not None]


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: _describe(value) if isinstance(value, Mapping) else str(value)
        for key, value in config.items()
        if key != "seed" and not _goes_without_saying(key, value)
    }


def _goes_without_saying(key: str, value: object) -> bool:
    """Return whether a setting of the engine is as in most runs."""
    return key in ENGINE and value == ENGINE[key]


def _describe(part: Mapping[str, Any]) -> str:
    own = [
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in part.items()
        if key != "name" and value is not None
    ]
    return f"{part['name']} ({', '.join(own)})" if own else str(part["name"])


def _name(value: str) -> str:
    """Return a described component's name; any other value has no parameters to leave out."""
    return value.partition(" (")[0]


def _by_loss(title: str) -> tuple[int, list[str | int]]:
    key = title.partition(" ")[0].partition(",")[0]
    # Numbers inside sort as numbers: 64 before 128.
    parts = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", title)]
    return (list(LOSSES).index(key) if key in LOSSES else len(LOSSES), parts)


def _read_json(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(value).__name__}")
    missing = [key for key in keys if key not in value]
    if missing:
        raise DataError(f"{path}: expected {', '.join(missing)} in it")
    return value
