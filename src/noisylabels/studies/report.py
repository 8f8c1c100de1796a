"""Run folders in, a table and curves out.

Runs that differ in nothing but the seed are one row: mean ± sample standard deviation of the last
epoch. What all rows share stands once above the table, what differs has a column of its own.
"""

import io
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisylabels.errors import MissingExtraError
from noisylabels.run.plan import REGISTRIES
from noisylabels.studies import records
from noisylabels.studies.pages import write_page
from noisylabels.studies.records import Run
from noisylabels.studies.status import AGAINST_GIVEN

Series = tuple[list[int], list[float], list[float]]
"""Epochs, means and standard deviations."""
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
UNKNOWN = "unknown"
NUMBERS = (
    "seeds",
    "test accuracy",
    "wrong labels memorised",
    "correct labels fitted",
    "noise, actual / nominal",
)
"""The columns that follow those of the settings."""
FURTHER = {
    "hold-out accuracy": "validation_accuracy",
    "test accuracy against given labels": "test_accuracy_given",
    "perfect model against given labels": "reachable_test_accuracy",
    "noise, estimated": "estimated_noise_rate",
    "candidates": "mean_candidates",
}
"""Columns that follow these where some run has such a result; estimated noise only where it is not
known. Candidates are how many an example has on average."""


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
        return any(run.against_given for run in self.runs)

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

    def further(self, column: str) -> str:
        """Return the group's result of a column of ``FURTHER``."""
        key = FURTHER[column]
        if key != "mean_candidates":
            return self._percent(key)
        counts = [value for run in self.runs if (value := (run.result or {}).get(key)) is not None]
        return f"{statistics.fmean(counts):.2f}" if counts else UNKNOWN

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
            *self.further,
        )

    @property
    def further(self) -> tuple[str, ...]:
        """Those of ``FURTHER`` that are shown."""
        results = [run.result or {} for group in self.groups for run in group.runs]
        return tuple(
            column
            for column, key in FURTHER.items()
            if any(
                result.get(key) is not None
                and (key != "estimated_noise_rate" or result.get("actual_noise_rate") is None)
                for result in results
            )
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
            rows.append((*group.settings, *numbers, *map(group.further, self.further)))
        return rows

    @property
    def _all_given(self) -> bool:
        return all(group.against_given for group in self.groups)


def summarise(runs: Sequence[Run]) -> Report:
    """Group runs by everything that their results depend on but the seed.

    Args:
        runs: The runs, see :func:`noisylabels.studies.records.read`.

    Returns:
        The report. Runs that were computed in different precision are different rows.

    Raises:
        DataError: No run is finished.
    """
    groups = records.group(runs)
    settings = [group[0].settings for group in groups]
    # The loss is what is compared: it is always in the table, and in full.
    losses = [each["loss"] for each in settings]
    apart = {
        key: values for key, values in records.differences(settings).items() if key[0] != "loss"
    }
    columns = {"loss": [records.describe(loss) for loss in losses]}
    legend: list[str] = []
    for key, values in apart.items():
        name = " ".join(key)
        columns[name], full = records.describe_apart(values)
        legend += [f"{name} {each}" for each in full]

    def place(number: int) -> list[tuple[Any, ...]]:
        return [
            records.order(losses[number], REGISTRIES["loss"]),
            *(
                records.order(values[number], REGISTRIES.get(key[0], ()))
                for key, values in apart.items()
            ),
        ]

    made = []
    for number in sorted(range(len(groups)), key=place):
        cells = [values[number] for values in columns.values()]
        said = [
            cell if name == "loss" else f"{name} {cell}"
            for name, cell in zip(columns, cells, strict=True)
            if cell
        ]
        made.append(Group(", ".join(said), cells, groups[number]))
    return Report(
        shared=records.common(settings, [("loss",), *apart]),
        settings=list(columns),
        legend=sorted(legend) + records.places(groups, apart),
        groups=made,
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


def mean_series(runs: Iterable[Run], key: str) -> Series:
    """Average a metric over runs, epoch by epoch.

    Args:
        runs: The runs.
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
        for run in runs
    ]
    epochs = sorted(set.intersection(*map(set, series))) if series else []
    points = [[each[epoch] for each in series] for epoch in epochs]
    means = [statistics.fmean(point) for point in points]
    several = len(series) > 1
    return epochs, means, [statistics.stdev(point) if several else 0.0 for point in points]


def draw_band(axes: Any, series: Series, colour: str) -> None:
    """Draw a band of one standard deviation around a mean.

    Args:
        axes: matplotlib's axes.
        series: See :func:`mean_series`.
        colour: The band's colour.
    """
    epochs, means, deviations = series
    low = [mean - std for mean, std in zip(means, deviations, strict=True)]
    high = [mean + std for mean, std in zip(means, deviations, strict=True)]
    axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)


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
            series = mean_series(group.runs, key)
            epochs, means, _ = series
            if not epochs:
                continue
            if key == "test_accuracy" and group.against_given:
                label = f"{label}, {AGAINST_GIVEN}"
            axes.plot(epochs, means, color=colour, linestyle=style, label=label)
            draw_band(axes, series, colour)
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
            epochs, means, _ = mean_series(group.runs, "test_accuracy")
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
