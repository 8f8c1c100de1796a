"""Draw the gradient of each loss with respect to p_y, the paper's figure 2, for every page."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from noisylabels.losses import OptimizedGradientClippingLoss, build
from noisylabels.paper.gradients import slope_of

# Of 40 % of labels another is given.
SYMMETRIC = [[0.6 if k == j else 0.4 / 9 for j in range(10)] for k in range(10)]
# page: (key, hyper-parameters, progress) of each curve
CURVES: dict[str, list[tuple[str, dict[str, Any], float]]] = {
    "ce": [("ce", {}, 0), ("poly1", {"epsilon": 2.0}, 0), ("poly1", {"epsilon": 10.0}, 0)],
    "gce": [
        ("mae", {}, 0),
        *(("gce", {"q": q}, 0) for q in (0.3, 0.7, 0.9, 1.5)),
        ("truncated-gce", {"k": 0.5}, 1),
    ],
    "tce": [("tce", {"order": order}, 0) for order in (1, 3, 6, 18)],
    "js": [("js", {"pi": pi}, 0) for pi in (0.1, 0.5, 0.9)],
    "sce": [("rce", {}, 0), ("sce", {"alpha": 0.1, "beta": 1.0}, 0), ("ce", {}, 0)],
    "nce": [("nce", {}, 0), ("nce+rce", {"alpha": 1.0, "beta": 0.1}, 0)],
    "agce": [("agce", {"a": a, "q": q}, 0) for a, q in ((6.0, 1.5), (3.0, 3.0), (1e-5, 0.7))],
    "sr": [("ce+sr", {"lamb": lamb}, 0) for lamb in (0.0, 1.5, 4.0)],
    "btl": [("btl", {"t1": t1, "t2": t2}, 0) for t1, t2 in ((1, 1), (0.7, 1.5), (0.7, 3.0))],
    "nlnl": [("nlnl", {"n": 100}, 0)],
    "anl": [
        *(("anl-ce", {"alpha": a, "beta": b}, 0) for a, b in ((1, 0), (0, 1), (5, 5))),
        ("anl-fl", {"gamma": 2.0}, 0),
    ],
    "jal": [
        *(("jal-ce", {"alpha": 0, "beta": 5 / a, "a": a}, 0) for a in (1, 5, 30)),
        ("jal-ce", {"beta": 0.1}, 0),
    ],
    "epsilon": [("eps-softmax", {"alpha": 0.3, "beta": 0.5, "m": m}, 0) for m in (0, 10, 1e4)],
    "ldr": [("ldr-kl", {"lamb": lamb}, 0) for lamb in (0.5, 1, 10)],
    "logitclip": [("logit-clip", {"delta": delta}, 0) for delta in (0.5, 1, 2.5)],
    "corrections": [(key, {"matrix": SYMMETRIC}, 0) for key in ("forward", "backward")],
    # Its threshold is no hyper-parameter, but what it has found.
    "ogc": [("ogc", {"threshold": t}, 0) for t in (0.02, 0.1, 0.3)],
    "dal": [("dal", {}, progress) for progress in (0.0, 0.4, 0.7, 1.0)],
}


def draw_all(folder: Path) -> None:
    """Write one SVG per page.

    Args:
        folder: Where to; it is made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for page, curves in CURVES.items():
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "noisylabels", "font.size": 9}):
            figure = Figure(figsize=(5.2, 3.2), layout="constrained")
            axes = figure.subplots()
            for key, hyperparameters, progress in curves:
                numbers = {k: v for k, v in hyperparameters.items() if not isinstance(v, list)}
                settings = ", ".join(f"{k} {v:g}" for k, v in numbers.items())
                when = f"t = {progress:g}" if key == "dal" else settings
                axes.plot(*_slope(key, hyperparameters, progress), label=f"{key} {when}".strip())
            axes.set(xlabel="$p_y$", ylabel=r"$\partial \ell / \partial p_y$")
            axes.set_ylim(bottom=max(axes.get_ylim()[0], -14))
            axes.grid(alpha=0.3)
            axes.legend(frameon=False)
            figure.savefig(folder / f"{page}.svg", metadata={"Date": None})


def _slope(key: str, hyperparameters: dict[str, Any], progress: float) -> tuple[Tensor, Tensor]:
    own = dict(hyperparameters)
    found = own.pop("threshold", None)
    loss = build(key, **own, reduction="sum")
    loss.progress = progress
    if isinstance(loss, OptimizedGradientClippingLoss) and found is not None:
        loss.threshold = found
    return slope_of(loss)


def gallery() -> str:
    """Return the Markdown of a page with all plots, each with a link to its loss's page."""
    return "\n\n".join(
        f"## {' and '.join(f'`{key}`' for key in dict.fromkeys(key for key, *_ in curves))}\n\n"
        f"```{{image}} ../losses/plots/{page}.svg\n"
        f":alt: Slopes over p_y\n:target: ../losses/{page}.html\n```"
        for page, curves in CURVES.items()
    )
