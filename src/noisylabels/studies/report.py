"""Run folders in, a table and curves out.

Runs that differ in nothing but the seed are one row: mean ± sample standard deviation of the last
epoch. What all rows share stands once above the table, what differs has a column of its own.
"""

import hashlib
import io
import json
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisylabels.errors import DataError, MissingExtraError
from noisylabels.losses import LOSSES, Loss
from noisylabels.run import config
from noisylabels.run.device import PRECISIONS
from noisylabels.run.folder import Metrics, RunFolder
from noisylabels.run.plan import INVARIANT
from noisylabels.studies.pages import write_page
from noisylabels.studies.status import AGAINST_GIVEN

CURVES = {
    "test_accuracy": ("test", "#0072B2", "-"),
    "train_accuracy_correct": ("training, correctly labelled", "#009E73", "--"),
    "train_accuracy_wrong": ("training, wrongly labelled", "#D55E00", "-."),
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES = {"-": "", "--": "6 3", "-.": "8 3 2 3", ":": "2 2"}
"""Line styles, and the same as dashes of an SVG line."""
MARKERS = {
    "o": "●",
    "s": "■",
    "^": "▲",
    "D": "◆",
    "v": "▼",
    "P": "✚",
    "X": "✖",
    "*": "★",
    "<": "◀",
}
"""Markers, and the same as signs."""
# Their numbers have no common divisor, so that each curve has a look of its own.
ALWAYS_SAID = ("epochs", "batch_size")
"""Settings that are said even where they are the defaults."""
UNKNOWN = "unknown"
NUMBERS = (
    "seeds",
    "test accuracy",
    "wrong labels memorised",
    "correct labels fitted",
    "noise, actual / nominal",
)
"""The columns that follow those of the settings."""
DIGEST_LENGTH = 8


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
        title: What tells the group from the others, in one line.
        settings: The same by column, the loss first.
        runs: Its runs, by seed.
    """

    title: str
    settings: Sequence[str]
    runs: Sequence[Run]

    @property
    def against_given(self) -> bool:
        """Whether the labels that its test accuracy is counted against may be wrong themselves."""
        return any((run.result or {}).get("test_labels") == "given" for run in self.runs)

    def numbers(self) -> tuple[str, ...]:
        """Return the group's results, in the order of ``NUMBERS``."""
        nominal = self.runs[0].result["nominal_noise_rate"] if self.runs[0].result else None
        actual = self._percent("actual_noise_rate")
        noise = actual if nominal is None else f"{actual.removesuffix(' %')} / {100 * nominal:g} %"
        accuracy, both = self._percent("test_accuracy"), self._percent("test_accuracy_ensemble")
        return (
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
        settings: The columns of what they have not, the loss first.
        legend: What stands for more in the table, e.g. ``"method elr (beta 0.7, lamb 3)"`` for
            ``elr`` where it has one set of values in all runs.
        groups: The groups, in the order of ``LOSSES``.
        unfinished: The runs that are not finished; they count in no group.
    """

    shared: str
    settings: Sequence[str]
    legend: Sequence[str]
    groups: Sequence[Group]
    unfinished: Sequence[Run]

    @property
    def header(self) -> tuple[str, ...]:
        """The table's columns: those of the settings, then those of the results."""
        given = f"test accuracy {AGAINST_GIVEN}"
        return (
            *self.settings,
            *(given if name == "test accuracy" and self._all_given else name for name in NUMBERS),
        )

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table's cells by group, in the order of ``header``.

        Where the test labels of some groups alone may be wrong, their accuracies say so.
        """
        place = NUMBERS.index("test accuracy")
        rows = []
        for group in self.groups:
            numbers = list(group.numbers())
            if group.against_given and not self._all_given:
                numbers[place] += f" {AGAINST_GIVEN}"
            rows.append((*group.settings, *numbers))
        return rows

    @property
    def _all_given(self) -> bool:
        return all(group.against_given for group in self.groups)


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
        same = (result["run_id"], _computed(result)) if result else folder
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
    by_key: dict[str, list[Run]] = {}
    for run in runs:
        if run.result is not None:
            by_key.setdefault(_key(run), []).append(run)
    if not by_key:
        raise DataError(f"expected at least one finished run, got {len(runs)} unfinished")
    groups = list(by_key.values())
    shared, columns = _compare([_settings(group[0]) for group in groups])
    shown = {name: [_describe(value) for value in values] for name, values in columns.items()}
    legend = _abbreviate(shown)
    made = []
    for number, group in enumerate(groups):
        cells = [values[number] for values in shown.values()]
        said = [
            cell if name == "loss" else f"{name} {cell}"
            for name, cell in zip(shown, cells, strict=True)
            if cell
        ]
        seeds = sorted(group, key=lambda run: run.config["seed"])
        made.append(Group(", ".join(said), cells, seeds))
    return Report(
        shared="; ".join(f"{name} {_describe(value)}" for name, value in shared.items()),
        settings=list(shown),
        legend=legend + _places(columns, groups),
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
        overlay=draw_overlay(report),
        looks=[(look(number), group.title) for number, group in enumerate(report.groups)],
        curves=[(group.title, draw_curves(group)) for group in report.groups],
        runs=[run for group in report.groups for run in group.runs],
    )


def mean_curve(group: Group, key: str) -> tuple[list[int], list[float], list[float]]:
    """Average a metric over seeds, epoch by epoch.

    Args:
        group: The runs.
        key: The metric, a fraction in [0, 1].

    Returns:
        The epochs, counted from 1, of which every run knows the metric; and its mean and sample
        standard deviation in them, in percent. One run has deviation 0.
    """
    series = [
        {
            int(line["epoch"] or 0) + 1: 100 * value
            for line in run.metrics
            if (value := line.get(key)) is not None
        }
        for run in group.runs
    ]
    epochs = sorted(set.intersection(*map(set, series)))
    points = [[each[epoch] for each in series] for epoch in epochs]
    means = [statistics.fmean(point) for point in points]
    several = len(series) > 1
    return epochs, means, [statistics.stdev(point) if several else 0.0 for point in points]


def draw_curves(group: Group) -> str:
    """Draw accuracy by epoch, the mean over seeds with a band of one standard deviation.

    Args:
        group: The runs.

    Returns:
        An SVG element.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with svg_figure(4.6, 3.0) as (figure, drawing):
        axes = figure.subplots()
        for key, (label, colour, style) in CURVES.items():
            epochs, means, deviations = mean_curve(group, key)
            if not epochs:
                continue
            if key == "test_accuracy" and group.against_given:
                label = f"{label}, {AGAINST_GIVEN}"
            axes.plot(epochs, means, color=colour, linestyle=style, label=label)
            low = [mean - std for mean, std in zip(means, deviations, strict=True)]
            high = [mean + std for mean, std in zip(means, deviations, strict=True)]
            axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel="epoch", ylabel="accuracy, %", ylim=(0, 102))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return svg_element(drawing)


@dataclass(frozen=True)
class Look:
    """What tells a curve from the others, also without its colour.

    Args:
        colour: Its colour.
        style: A key of ``STYLES``.
        marker: A key of ``MARKERS``.
    """

    colour: str
    style: str
    marker: str

    @property
    def dashes(self) -> str:
        """The line style as dashes of an SVG line."""
        return STYLES[self.style]

    @property
    def sign(self) -> str:
        """The marker as a sign."""
        return MARKERS[self.marker]


def look(number: int) -> Look:
    """Return the look of a curve.

    Args:
        number: Its number, from 0; 36 curves differ in line style or marker.

    Example:
        >>> look(1)
        Look(colour='#D55E00', style='--', marker='s')
    """
    styles, markers = list(STYLES), list(MARKERS)
    return Look(
        COLOURS[number % len(COLOURS)],
        styles[number % len(styles)],
        markers[number % len(markers)],
    )


def draw_overlay(report: Report) -> str:
    """Draw the mean test accuracy of every group by epoch, in one picture.

    Args:
        report: The groups; the curve of each has the :func:`look` of its place.

    Returns:
        An SVG element, without a legend.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with svg_figure(4.6, 3.0) as (figure, drawing):
        axes = figure.subplots()
        for number, group in enumerate(report.groups):
            epochs, means, _ = mean_curve(group, "test_accuracy")
            apart = max(1, len(epochs) // 10)
            own = look(number)
            axes.plot(
                epochs,
                means,
                color=own.colour,
                linestyle=own.style,
                marker=own.marker,
                markevery=(number % apart, apart),
                markersize=4,
            )
        axes.set(xlabel="epoch", ylabel=f"{report.header[len(report.settings) + 1]}, %")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    return svg_element(drawing)


@contextmanager
def svg_figure(width: float, height: float) -> Iterator[tuple[Any, io.StringIO]]:
    """Give a figure, and where its SVG text will be when the block has ended.

    Args:
        width: In inches.
        height: Likewise.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    drawing = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "noisylabels", "font.size": 9}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, drawing
        figure.savefig(drawing, format="svg", metadata={"Date": None})


def svg_element(drawing: io.StringIO) -> str:
    """Return a picture as an element of a page.

    Args:
        drawing: See :func:`svg_figure`, after its block.
    """
    text = drawing.getvalue()
    return text[text.index("<svg") :]


def _computed(result: Mapping[str, Any]) -> str:
    """Name the precision that a run was computed in, which ``"auto"`` does not tell."""
    return PRECISIONS[result["precision"]] + ", TF32" * bool(result.get("tf32"))


def _key(run: Run) -> str:
    """Return all that a run's result depends on but the seed, as one string."""
    assert run.identity is not None, "asked of finished runs only"
    assert run.result is not None, "asked of finished runs only"
    # Precision counts as it was computed, not as it was asked for.
    left_out = ("seed", "precision")
    settings = {k: v for k, v in run.identity["settings"].items() if k not in left_out}
    whole = dict(run.identity) | {"settings": settings}
    return json.dumps([whole, _computed(run.result)], sort_keys=True)


def _settings(run: Run) -> dict[str, Any]:
    """Return all that a run's result depends on but the seed, with the defaults, as plain values.

    Components are tables, without what the result does not depend on: where files lie.
    """
    assert run.identity is not None, "asked of finished runs only"
    assert run.result is not None, "asked of finished runs only"
    own = run.identity["settings"]
    unsaid = config.defaults(Loss)
    settings: dict[str, Any] = {"loss": None}
    for name, field in config.FIELDS.items():
        value = run.config.get(name, field.default)
        if name == "data":
            value = own["data"]
        elif isinstance(value, Mapping):
            counted = own.get(name, {})
            value = {
                key: each
                for key, each in value.items()
                if key in ("name", *counted)
                # What is a path is not told from other words, but no path is counted.
                or not (isinstance(each, str) or (name == "loss" and unsaid.get(key) == each))
            }
        if name not in ("seed", *INVARIANT):
            settings[name] = value
    settings["precision"] = _computed(run.result)
    contents = run.identity["contents"].items()
    return (
        settings
        | {f"contents of {name}": _short(digest) for name, digest in contents if digest}
        | {"version of results": run.identity["version"]}
    )


def _compare(
    settings: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Part what all have in common from what differs.

    Args:
        settings: The settings of each group.

    Returns:
        What is common and has to be said, by name; and what differs, the values of all groups by
        name. The loss is always in the second. Components of one name are compared by parameter.
    """
    shared: dict[str, Any] = {}
    columns: dict[str, list[Any]] = {}
    for name in dict.fromkeys(name for each in settings for name in each):
        values: list[Any] = [each.get(name) for each in settings]
        first, others = values[0], values[1:]
        if name == "loss":
            columns[name] = values
        elif all(value == first for value in others):
            default = config.FIELDS[name].default if name in config.FIELDS else first
            if name in ALWAYS_SAID or name == "precision" or first != default:
                shared[name] = first
        elif all(isinstance(v, Mapping) and v["name"] == first["name"] for v in values):
            parameters = dict.fromkeys(key for value in values for key in value)
            apart = [key for key in parameters if any(v.get(key) != first.get(key) for v in others)]
            shared[name] = {key: value for key, value in first.items() if key not in apart}
            columns |= {f"{name} {key}": [value.get(key) for value in values] for key in apart}
        else:
            columns[name] = values
    return shared, columns


def _describe(value: Any) -> str:
    """Write a setting for people; nothing where there is none."""
    if isinstance(value, Mapping):
        # A component, or the schedule of a hyper-parameter.
        name = next(value[key] for key in ("name", "schedule") if key in value)
        own = [
            f"{key} {_describe(each)}"
            for key, each in value.items()
            if key not in ("name", "schedule") and each is not None
        ]
        return f"{name} ({', '.join(own)})" if own else str(name)
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return "" if value is None else str(value)


def _abbreviate(shown: dict[str, list[str]]) -> list[str]:
    """Shorten components that have one set of parameters in all rows to their names, in place.

    The loss stays as it is: it is what is compared.

    Args:
        shown: The cells by column.

    Returns:
        What the names stand for.
    """
    legend = []
    for column, cells in shown.items():
        if column != "loss":
            full: dict[str, set[str]] = {}
            for cell in cells:
                full.setdefault(_name(cell), set()).add(cell)
            shown[column] = [n if len(full[n := _name(cell)]) == 1 else cell for cell in cells]
            legend += [f"{column} {cell}" for cell in sorted(set(cells) - set(shown[column]))]
    return sorted(legend)


def _places(columns: Mapping[str, Sequence[Any]], groups: Sequence[Sequence[Run]]) -> list[str]:
    """Say where the contents that tell groups apart lay when their first run was made."""
    said: dict[str, str] = {}
    for column, digests in columns.items():
        if column.startswith("contents of "):
            part, _, parameter = column.removeprefix("contents of ").partition(".")
            for digest, group in zip(digests, groups, strict=True):
                if digest is None:
                    continue
                run = group[0]
                table = run.config.get(part, {})
                names = [parameter] if parameter else ["root", "path"]
                places = [str(table[name]) for name in names if name in table]
                where = ", ".join([*places, f"as run {run.folder.name} found it"])
                said.setdefault(f"{column} {digest}", where)
    return [f"{contents}: {where}" for contents, where in said.items()]


def _short(digest: str) -> str:
    """Return a few digits for a digest, which may be those of several files in a row."""
    return hashlib.sha256(digest.encode()).hexdigest()[:DIGEST_LENGTH]


def _name(value: str) -> str:
    """Return a described component's name; any other value has no parameters to leave out."""
    return value.partition(" (")[0]


def _by_loss(title: str) -> tuple[int, list[str | int]]:
    key = title.partition(" ")[0].partition(",")[0]
    # Numbers inside sort as numbers: 64 before 128.
    parts = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", title)]
    return (list(LOSSES).index(key) if key in LOSSES else len(LOSSES), parts)
