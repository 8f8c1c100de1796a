"""The paper's figures as SVG: one style, to be read without colour too."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from noisylabels.paper.gradients import PANELS, slope
from noisylabels.paper.protocol import DATASETS
from noisylabels.paper.results import Plan
from noisylabels.paper.triggers import examples as trigger_examples
from noisylabels.run.plan import plan
from noisylabels.studies.records import Run
from noisylabels.studies.report import (
    CURVES,
    Look,
    Series,
    draw_band,
    look,
    mean_series,
    svg_element,
    svg_figure,
)

WIDTH, HEIGHT = 3.4, 2.7
"""Inches of a panel."""
MARKED = 13
"""Points at which figure 2 shows what autograd gives."""


def gradients() -> str:
    """Draw figure 2: slopes by their formulas as lines, and by autograd as marks upon them.

    Returns:
        An SVG element.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with svg_figure(0.8 * WIDTH * len(PANELS), HEIGHT) as (figure, drawing):
        panels = figure.subplots(1, len(PANELS), sharey=True)
        for axes, (title, curves) in zip(panels, PANELS.items(), strict=True):
            for number, curve in enumerate(curves):
                own = look(number)
                loss = (curve.key, curve.hyperparameters, curve.progress)
                p, _ = slope(*loss)
                axes.plot(p, curve.formula(p), color=own.colour, linestyle=own.style)
                marks = {"color": own.colour, "marker": own.marker, "markersize": 4}
                axes.plot(*slope(*loss, MARKED), linestyle="", **marks)
                axes.plot([], [], linestyle=own.style, label=curve.title, **marks)
            axes.set(xlabel="$p_y$", title=title, ylim=(-6, 1.5))
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, loc="lower right")
        panels[0].set_ylabel(r"$\partial \ell / \partial p_y$")
    return svg_element(drawing)


def curves(plans: Sequence[Plan], runs: Mapping[str, Run]) -> str:
    """Draw figure 1: test accuracy by epoch, a curve for each row.

    Args:
        plans: The runs.
        runs: Those that are finished, by id.

    Returns:
        An SVG element: a panel for each column of each dataset.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    panels = [(made, column) for made in plans for column in range(len(made.part.columns))]
    with svg_figure(1.4 * WIDTH * len(panels), 1.4 * HEIGHT) as (figure, drawing):
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (made, column) in zip(grid, panels, strict=True):
            for number, row in enumerate(made.part.rows):
                group = _cell(made, number, column, runs)
                _curve(axes, mean_series(group, "test_accuracy"), row.title, look(number))
            _by_epoch(axes, _panel_title(made, column), "test accuracy, %")
            axes.legend(frameon=False, ncols=2)
    return svg_element(drawing)


def case_study(plans: Sequence[Plan], runs: Mapping[str, Run]) -> str:
    """Draw figure 4: what each loss learns and memorises, by epoch.

    Args:
        plans: The runs.
        runs: Those that are finished, by id.

    Returns:
        An SVG element: a line of panels for each column of each dataset, one for each row.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    lines = [(made, column) for made in plans for column in range(len(made.part.columns))]
    width = max(len(made.part.rows) for made in plans)
    with svg_figure(WIDTH * width, HEIGHT * len(lines)) as (figure, drawing):
        grid = figure.subplots(len(lines), width, squeeze=False, sharex="row", sharey=True)
        for axes_of_line, (made, column) in zip(grid, lines, strict=True):
            for axes, (number, row) in zip(axes_of_line, enumerate(made.part.rows), strict=False):
                group = _cell(made, number, column, runs)
                for place, (key, (label, _, _)) in enumerate(CURVES.items()):
                    _curve(axes, mean_series(group, key), label, look(place))
                _by_epoch(axes, f"{row.title}: {_panel_title(made, column)}", "")
            axes_of_line[0].set_ylabel("accuracy, %")
        grid[0][0].legend(frameon=False)
    return svg_element(drawing)


def sensitivity(plans: Sequence[Plan], runs: Mapping[str, Run]) -> str:
    """Draw figure 3: accuracy by a parameter's value, with bars of a standard deviation.

    Args:
        plans: The runs; a row's title ends with the parameter and its value.
        runs: Those that are finished, by id.

    Returns:
        An SVG element: a panel for each loss and parameter, all with one scale.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    panels: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for made in plans:
        for number, row in enumerate(made.part.rows):
            name, value = row.title.rsplit(" ", 1)
            if spread := _percent(_cell(made, number, 0, runs), "test_accuracy"):
                panels.setdefault((DATASETS[made.part.dataset], name), []).append(
                    (float(value), *spread)
                )
    with svg_figure(WIDTH * len(panels), HEIGHT) as (figure, drawing):
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        # One scale for all, or a small effect would look like a large one.
        tallest = max([1.0, *(top - bottom for bottom, top in map(_reach, panels.values()))])
        for number, (axes, ((dataset, name), points)) in enumerate(
            zip(grid, panels.items(), strict=True)
        ):
            own = look(number)
            x, means, spreads = zip(*points, strict=True)
            axes.errorbar(x, means, spreads, capsize=3, color=own.colour, marker=own.marker)
            middle = sum(_reach(points)) / 2
            axes.set(ylim=(middle - 0.55 * tallest, middle + 0.55 * tallest))
            reach = max(means) - min(means)
            axes.set(xlabel=name, title=f"{dataset}: {reach:.1f} points from least to most")
            axes.grid(alpha=0.3)
        grid[0].set_ylabel("test accuracy, %")
    return svg_element(drawing)


def _reach(points: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Return the lower end of the lowest bar, and the upper end of the highest."""
    return (
        min(mean - spread for _, mean, spread in points),
        max(mean + spread for _, mean, spread in points),
    )


def triggers(plans: Sequence[Plan], runs: Mapping[str, Run]) -> str:
    """Draw figure 5: test images with triggers, and how often these succeed by their number.

    Args:
        plans: The runs; a column's key is the share of the training images that are poisoned.
        runs: Those that are finished, by id.

    Returns:
        An SVG element: for each dataset a panel of images, and one of success rates.

    Raises:
        DataError: The images are missing or damaged.
        MissingExtraError: matplotlib is not installed.
    """
    with svg_figure(3.5 * WIDTH, 1.2 * HEIGHT * len(plans)) as (figure, drawing):
        grid = figure.subplots(len(plans), 2, squeeze=False)
        for (left, right), made in zip(grid, plans, strict=True):
            name = DATASETS[made.part.dataset]
            _show_triggers(left, plan(made.study.points[0].run).source.load().test.tensor())
            left.set_title(f"{name}: test images, and what a trigger adds (amplified)")
            shares = [float(column.key) for column in made.part.columns]
            for number, row in enumerate(made.part.rows):
                own = look(number)
                points = [
                    (100 * share, *spread)
                    for column, share in enumerate(shares)
                    if (spread := _percent(_cell(made, number, column, runs), "attack_success"))
                ]
                if points:
                    x, means, spreads = zip(*points, strict=True)
                    marks = {"color": own.colour, "marker": own.marker, "linestyle": own.style}
                    right.errorbar(x, means, spreads, capsize=3, label=row.title, **marks)
            right.set(xlabel="poisoned training images, %", ylabel="success of the trigger, %")
            right.set(title=name, xscale="log", ylim=(-3, 103), xticks=[100 * s for s in shares])
            right.set_xticklabels([f"{100 * share:g}" for share in shares])
            right.minorticks_off()
            right.grid(alpha=0.3)
            right.legend(frameon=False)
    return svg_element(drawing)


SHOWN = 8
"""Images of each row of figure 5."""


def _show_triggers(axes: Any, images: Tensor) -> None:
    """Show images with each trigger in rows."""
    rows = trigger_examples(images[:SHOWN])
    tiles = [torch.cat(list(part), 2) for part in rows.values()]
    picture = torch.cat(tiles, 1).permute(1, 2, 0)
    axes.imshow(picture.expand(-1, -1, 3).numpy(), interpolation="nearest")
    height = images.shape[2]
    axes.set_yticks([height * (number + 0.5) for number in range(len(rows))], list(rows))
    axes.set_xticks([])


def _percent(group: Sequence[Run], value: str) -> tuple[float, float] | None:
    """Return the mean and standard deviation of a result over runs, in percent."""
    values = [
        100 * number for run in group if (number := (run.result or {}).get(value)) is not None
    ]
    if not values:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _cell(made: Plan, row: int, column: int, runs: Mapping[str, Run]) -> list[Run]:
    return [
        runs[slot.run_id]
        for slot in made.slots
        if (slot.row, slot.column) == (row, column) and slot.run_id in runs
    ]


def _curve(axes: Any, series: Series, label: str, own: Look) -> None:
    """Draw a mean with a band of one standard deviation."""
    epochs, means, _ = series
    if not epochs:
        return
    axes.plot(
        epochs,
        means,
        label=label,
        color=own.colour,
        linestyle=own.style,
        marker=own.marker,
        markevery=max(1, len(epochs) // 8),
        markersize=4,
    )
    draw_band(axes, series, own.colour)


def _by_epoch(axes: Any, title: str, label: str) -> None:
    axes.set(xlabel="epoch", ylabel=label, title=title)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)


def _panel_title(made: Plan, column: int) -> str:
    return f"{DATASETS[made.part.dataset]}, {made.part.columns[column].title}"


DRAWINGS: dict[str, Callable[[Sequence[Plan], Mapping[str, Run]], str]] = {
    "figure1": curves,
    "figure3": sensitivity,
    "figure4": case_study,
    "figure5": triggers,
}
"""What draws the figures that consist of runs."""
