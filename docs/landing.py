"""The landing page's pictures and tables, from what is committed below docs/results."""

import json
import statistics
from pathlib import Path
from typing import Any

from noisylabels.data.datasets import SOURCES
from noisylabels.noise import symmetric
from noisylabels.paper.claims import LEVEL
from noisylabels.studies import records
from noisylabels.studies.records import Run
from noisylabels.studies.report import draw_band, look, mean_series, svg_element, svg_figure
from noisylabels.studies.table import difference

RESULTS = Path(__file__).parent / "results"
LOSSES = {"ce": "cross entropy", "gce": "GCE", "dal": "DAL"}
ORDER = ("ce", "gce", "dgce", "dal")
NOISES = ("symmetric", "asymmetric", "instance")
PANELS = {
    "fitted": ("train_accuracy_correct", "Right labels learnt, %"),
    "accuracy": ("test_accuracy", "Test accuracy, %"),
    "memorised": ("train_accuracy_wrong", "Wrong labels learnt by heart, %"),
}


def draw_all(folder: Path) -> None:
    """Draw the pictures: digits with their labels, and what three losses make of them.

    Args:
        folder: Where to; it is made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.svg").write_text(_labels(), encoding="utf-8")
    runs = records.read([RESULTS / "demo.jsonl"])
    for name, (metric, title) in PANELS.items():
        with svg_figure(3.6, 3.0) as (figure, drawing):
            _curves(figure.subplots(), runs, metric, title)
        (folder / f"{name}.svg").write_text(svg_element(drawing), encoding="utf-8")
    with svg_figure(8.4, 3.0) as (figure, drawing):
        for axes, panel in zip(figure.subplots(1, len(PANELS)), PANELS.values(), strict=True):
            _curves(axes, runs, *panel)
    (folder / "memorisation.svg").write_text(svg_element(drawing), encoding="utf-8")


def _labels() -> str:
    train = SOURCES["digits"]().load().train
    given = symmetric(train.labels, num_classes=10, rate=0.4, seed=0, features=None)
    with svg_figure(3.6, 3.0) as (figure, drawing):
        for number, axes in enumerate(figure.subplots(4, 6).flat):
            label, right = int(given[number]), given[number] == train.labels[number]
            axes.imshow(train.tensor()[number, 0], cmap="gray_r", interpolation="nearest")
            colour, weight = ("black", "normal") if right else ("#D55E00", "bold")
            axes.set_title(label, color=colour, fontweight=weight, pad=2)
            axes.set_axis_off()
    return svg_element(drawing)


def _curves(axes: Any, runs: list[Run], metric: str, title: str) -> None:
    for number, (loss, name) in enumerate(LOSSES.items()):
        series = mean_series([run for run in runs if run.config["loss"]["name"] == loss], metric)
        own = look(number)
        axes.plot(series[0], series[1], color=own.colour, linestyle=own.style, label=name)
        draw_band(axes, series, own.colour)
    axes.set(xlabel="epoch", title=title, ylim=(0, 102))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def digits() -> str:
    """Return the last epoch of the runs that the curves are of."""
    runs = records.read([RESULTS / "demo.jsonl"])
    rows = []
    for loss in LOSSES:
        row = [f"`{loss}`"]
        for metric, _ in PANELS.values():
            of_loss = [run for run in runs if run.config["loss"]["name"] == loss]
            _, means, deviations = mean_series(of_loss, metric)
            row.append(f"{means[-1]:.1f} ± {deviations[-1]:.1f}")
        rows.append(row)
    return _markdown(["loss", *(title for _, title in PANELS.values())], rows)


def cifar10() -> str:
    """Return the test accuracies on CIFAR-10."""
    return _means(_accuracies("table2-features"), {})


def fair() -> str:
    """Return the test accuracies of every loss on digits, what its step costs, and DAL's losses."""
    found = _accuracies("fair-digits")
    seconds = json.loads((RESULTS / "paper" / "steps-digits-digits.json").read_text())["seconds"]
    steps = {loss: seconds[loss] / seconds["ce"] for loss, _ in found}
    return f"{_means(found, steps)}\n\n{_where_dal_loses(found)}"


Accuracies = dict[tuple[str, str], dict[int, float]]
"""Test accuracies in % by seed, by the loss and the noise."""


def _accuracies(name: str) -> Accuracies:
    """Read those of the seeds that all cells have."""
    found: Accuracies = {}
    for run in records.read([RESULTS / "paper" / f"{name}.jsonl"]):
        assert run.result is not None
        key = run.config["loss"]["name"], _noise(run.config["noise"])
        found.setdefault(key, {})[run.seed] = 100 * run.result["test_accuracy"]
    seeds = set.intersection(*map(set, found.values()))
    return {key: {seed: by_seed[seed] for seed in seeds} for key, by_seed in found.items()}


def _means(found: Accuracies, steps: dict[str, float]) -> str:
    """Return a table of means, and beside them what a step costs where that is known."""
    means = {key: statistics.fmean(by_seed.values()) for key, by_seed in found.items()}
    losses = sorted({loss for loss, _ in found}, key=_rank)
    noises = _noises(found)
    best = {noise: max(means[loss, noise] for loss in losses) for noise in noises}
    rows = []
    for loss in losses:
        texts = {noise: f"{means[loss, noise]:.1f}" for noise in noises}
        bold = [f"**{t}**" if means[loss, n] == best[n] else t for n, t in texts.items()]
        rows.append([f"`{loss}`", *bold, *([f"{steps[loss]:.2f}"] if steps else [])])
    seeds = len(next(iter(found.values())))
    said = "one seed" if seeds == 1 else f"mean over {seeds} seeds"
    head = ["loss", *noises, *(["a step, times `ce`'s"] if steps else [])]
    return _markdown(head, rows) + f"\n\nBold: the highest of a column; {said}."


def _where_dal_loses(found: Accuracies) -> str:
    """Say for each noise which loss is the best and which are ahead of DAL by more than chance."""
    lines = []
    for noise in _noises(found):
        dal = found["dal", noise]
        gaps = {
            loss: difference(by_seed, dal)
            for (loss, other), by_seed in found.items()
            if other == noise and loss != "dal"
        }
        ahead = {loss: gap for loss, gap in gaps.items() if gap is not None and gap.mean > 0}
        ranked = sorted(ahead, key=lambda loss: -ahead[loss].mean)
        if not ranked:
            lines.append(f"* {noise}: nowhere, it is the highest.")
            continue
        shown = [loss for loss in ranked if (p := ahead[loss].p) is not None and p < LEVEL]
        beyond = ", ".join(f"`{loss}` by {ahead[loss].mean:.1f}" for loss in shown)
        most = f"`{ranked[0]}` by the most, {ahead[ranked[0]].mean:.1f} points"
        lines.append(
            f"* {noise}: {len(ranked)} of {len(gaps)} losses are higher, {most}; by more than "
            f"chance {beyond or 'none'}."
        )
    said = f"Where `dal` loses (paired over seeds; by more than chance: p < {LEVEL}, of each pair):"
    return "\n".join([said, "", *lines])


def _noises(found: Accuracies) -> list[str]:
    return sorted({noise for _, noise in found}, key=_place)


def _rank(loss: str) -> tuple[int, str]:
    return (ORDER.index(loss) if loss in ORDER else len(ORDER)), loss


def _noise(noise: dict[str, Any]) -> str:
    if noise["name"] != "file":
        return f"{noise['name']} {100 * noise['rate']:.0f} %"
    path = Path(noise["path"])
    return f"{path.parent.name} {path.stem.rpartition('_')[2]} %"


def _place(noise: str) -> tuple[int, str]:
    return NOISES.index(noise.split()[0]), noise


def suspects() -> str:
    """Return how well wrong labels are found, by noise and by the loss that was trained with."""
    rows = json.loads((RESULTS / "audit.json").read_text())["rows"]
    found = {
        (row["noise"], row["loss"]): row["scores"]["posterior"]
        for row in rows
        if row["head"] == "linear" and "scores" in row
    }
    noises = [noise for noise in dict.fromkeys(noise for noise, _ in found) if "%" in noise]
    return _markdown(
        ["noise", *(f"{name}, found" for name in LOSSES.values())],
        [
            [noise, *(f"{100 * found[noise, loss]['precision at k']:.0f} %" for loss in LOSSES)]
            for noise in noises
            if all((noise, loss) in found for loss in LOSSES)
        ],
    )


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
