"""A page about what was chosen: the choice, every trial, and how far the numbers can be trusted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noisylabels.studies.pages import write_page
from noisylabels.studies.report import svg_element, svg_figure
from noisylabels.studies.space import Choices, Parameter, show
from noisylabels.studies.status import AGAINST_GIVEN, duration
from noisylabels.studies.tuning import Outcome, percent, ranked

SYMMETRIC = ("symmetric", "symmetric-exclusive")
"""Kinds of noise that shrink every difference in accuracy by the same factor."""
ROOM_FOR_NAMES = 6
"""Choices whose names stand below a picture side by side; more are numbered."""


def write(outcome: Outcome, path: Path) -> None:
    """Write the page as one self-contained HTML file, whole or not at all.

    Args:
        outcome: What was chosen.
        path: The file to make or replace.

    Raises:
        MissingExtraError: Jinja or matplotlib is not installed.
        DataError: The file cannot be written.
    """
    chosen, accuracies = outcome.chosen, outcome.test_accuracies()
    tuning = outcome.tuning
    results = [folder.result() for folder in outcome.finals]
    write_page(
        path,
        "tune.html",
        outcome=outcome,
        chosen=chosen,
        values=[(key, _exact(value)) for key, value in chosen.trial.values.items()],
        hold_out=percent(chosen.accuracies),
        test=percent(accuracies) if accuracies else "not evaluated",
        against=AGAINST_GIVEN if results[0]["test_labels"] == "given" else "against true labels",
        signal=signal(outcome),
        keys=[parameter.key for parameter in tuning.space.parameters],
        candidates=[
            (
                each.trial.number,
                [show(each.trial.values[key]) for key in each.trial.values],
                [f"{100 * value:.1f} %" for value in each.accuracies],
                percent(each.accuracies).partition(" over ")[0],
            )
            for each in outcome.candidates
        ],
        seeds=[tuning.base.seed + number for number in range(len(chosen.accuracies))],
        trials=[
            (
                each,
                [show(each.values[key]) if key in each.values else "" for key in _keys(outcome)],
                "" if each.accuracy is None else f"{100 * each.accuracy:.1f} %",
                duration(each.seconds),
            )
            for each in outcome.trials
        ],
        pictures=[(each.key, draw(each, outcome)) for each in tuning.space.parameters],
        versions=results[0]["versions"],
        device=results[0]["device"],
    )


def _keys(outcome: Outcome) -> list[str]:
    return [parameter.key for parameter in outcome.tuning.space.parameters]


def _exact(value: Any) -> str:
    return repr(value) if isinstance(value, float) else show(value)


def signal(outcome: Outcome) -> list[str]:
    """Say how much of a difference in accuracy a hold-out of noisy labels shows.

    Args:
        outcome: What was chosen.

    Returns:
        Sentences: in general; of this noise, where its rate is known; and of this hold-out's size.
    """
    noise, rate, classes = outcome.tuning.base.noise, outcome.noise_rate, outcome.classes
    said = [
        "The labels that are held out are as noisy as the rest, so that they show less of a "
        "difference than clean ones would: with symmetric noise of 40 % about half of it, of 80 % "
        "about a tenth."
    ]
    if outcome.tuning.base.validation_labels is not None:
        said = ["The labels that are held out are known to be right."]
    elif rate is not None:
        here = (
            f"Here {100 * rate:.1f} % of the labels are wrong: a classifier that is always right "
            f"would score about {100 * (1 - rate):.0f} % on them"
        )
        if noise.name in SYMMETRIC and classes > 1:
            factor = max(0.0, 1 - rate * classes / (classes - 1))
            here += f", and a difference of 1 point shows as {factor:.2f}"
        said.append(f"{here}.")
    accuracy = outcome.chosen.mean
    error = (accuracy * (1 - accuracy) / outcome.hold_out) ** 0.5
    said.append(
        f"With {outcome.hold_out} examples held out, one accuracy has a standard error of "
        f"{100 * error:.1f} points by their number alone."
    )
    return said


def draw(parameter: Parameter, outcome: Outcome) -> str:
    """Draw hold-out accuracy against one parameter, a point for each finished trial.

    Args:
        parameter: The parameter.
        outcome: What was chosen; its trial is marked.

    Returns:
        An SVG element.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    chosen = outcome.chosen.trial
    others = [each for each in ranked(outcome.trials) if each.number != chosen.number]
    with svg_figure(4.6, 3.0) as (figure, drawing):
        axes = figure.subplots()
        for trials, look in (
            (others, {"color": "#0072B2", "s": 22, "alpha": 0.7}),
            ([chosen], {"color": "#D55E00", "s": 90, "marker": "*", "label": "chosen"}),
        ):
            places = _places(parameter, [each.values[parameter.key] for each in trials])
            axes.scatter(places, [100 * (each.accuracy or 0.0) for each in trials], **look)
        if isinstance(parameter, Choices):
            few = len(parameter.values) <= ROOM_FOR_NAMES
            names = [show(value) for value in parameter.values]
            axes.set_xticks(range(len(names)), names if few else range(1, len(names) + 1))
            if max(map(len, names)) > 6 and few:
                axes.tick_params("x", rotation=30)
            axes.set_xlim(-0.5, len(names) - 0.5)
        elif parameter.log:
            axes.set_xscale("log")
        axes.set(xlabel=parameter.key, ylabel="hold-out accuracy, %")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return svg_element(drawing)


def _places(parameter: Parameter, values: Sequence[Any]) -> list[float]:
    if isinstance(parameter, Choices):
        return [float(list(parameter.values).index(value)) for value in values]
    return [float(value) for value in values]
