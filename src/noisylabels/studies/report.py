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
from noisylabels.run.device import PRECISIONS
from noisylabels.run.folder import Metrics, RunFolder
from noisylabels.run.plan import INVARIANT
from noisylabels.studies.pages import write_page

CURVES = {
    "test_accuracy": ("test", "#0072B2", "-"),
    "train_accuracy_correct": ("training, correctly labelled", "#009E73", "--"),
    "train_accuracy_wrong": ("training, wrongly labelled", "#D55E00", "-."),
}
ALWAYS_SAID = ("epochs", "batch_size")
"""Settings that are said even where they are the defaults."""
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
        config: The configuration's tables.
        metrics: The metrics of each epoch.
        identity: All that the result depends on; None, as ``result``, while it is not finished.
        result: The last epoch's numbers.
    """

    folder: Path
    config: Mapping[str, Any]
    metrics: Sequence[Metrics]
    identity: Mapping[str, Any] | None
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
    folders = RunFolder.find(paths)
    if not folders:
        raise DataError("expected run folders, or folders of them")
    runs: dict[object, Run] = {}
    for folder in folders:
        result = folder.result() if folder.finished else None
        run = Run(
            folder=folder.path,
            config=folder.config(),
            metrics=folder.metrics(),
            identity=folder.identity() if result else None,
            result=result,
        )
        # A copy of a run is no other seed.
        same = (result["run_id"], result["precision"]) if result else folder
        runs.setdefault(same, run)
    return list(runs.values())


def summarise(runs: Sequence[Run]) -> Report:
    """Group runs by everything that their results depend on but the seed.

    Args:
        runs: The runs, see :func:`read`.

    Returns:
        The report. Runs that were computed in different precision are different rows.

    Raises:
        DataError: No run is finished.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.result is not None:
            groups.setdefault(_key(run), []).append(run)
    if not groups:
        raise DataError(f"expected at least one finished run, got {len(runs)} unfinished")
    settings = [_settings(group[0]) for group in groups.values()]
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
    titles = [
        ", ".join(
            [
                setting["loss"],
                *(
                    f"{key} {_name(value) if (key, _name(value)) in unique else value}"
                    for key, value in rest.items()
                ),
            ]
        )
        for setting, rest in zip(settings, own, strict=True)
    ]
    made = [
        Group(
            # What only the contents of files tell apart.
            title if titles.count(title) == 1 else f"{title} ({group[0].folder.name})",
            sorted(group, key=lambda run: run.config["seed"]),
        )
        for title, group in zip(titles, groups.values(), strict=True)
    ]
    return Report(
        shared="; ".join(f"{key} {value}" for key, value in common.items()),
        legend=sorted(f"{key} {full}" for (key, name), full in unique.items() if full != name),
        groups=sorted(made, key=lambda group: _by_loss(group.title)),
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


def _key(run: Run) -> str:
    """Return all that a run's result depends on but the seed, as one string."""
    assert run.identity is not None, "asked of finished runs only"
    assert run.result is not None, "asked of finished runs only"
    settings = {k: v for k, v in run.identity["settings"].items() if k != "seed"}
    precision = run.result["precision"]
    return json.dumps([dict(run.identity) | {"settings": settings}, precision], sort_keys=True)


def _settings(run: Run) -> dict[str, str]:
    """Describe the settings that a run's result depends on, but for the seed, for people."""
    assert run.result is not None, "asked of finished runs only"
    said = {
        key: _describe(value) if isinstance(value, Mapping) else str(value)
        for key, value in run.config.items()
        if key != "seed"
        and key not in INVARIANT
        and (key in ALWAYS_SAID or key not in FIELDS or value != FIELDS[key].default)
    }
    # As it was computed, which "auto" does not tell.
    return said | {"precision": PRECISIONS[run.result["precision"]]}


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
