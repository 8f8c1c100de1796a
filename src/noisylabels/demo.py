"""The main job on data that everyone has: handwritten digits with 40 % symmetric noise."""

from noisylabels.errors import check_count
from noisylabels.run.config import Component, RunConfig, parse


def runs(seeds: int = 3) -> list[RunConfig]:
    """Return the demo's runs: cross entropy, GCE and DAL.

    Args:
        seeds: Runs of each loss, at least 1.

    Returns:
        Ordinary configurations, loss by loss.

    Raises:
        ConfigError: ``seeds`` is below 1.

    Example:
        >>> [(run.loss.name, run.seed) for run in runs()][:4]
        [('ce', 0), ('ce', 1), ('ce', 2), ('gce', 0)]
    """
    base = parse(
        {
            "data": "digits",
            "noise": {"name": "symmetric", "rate": 0.4},
            "model": {"name": "mlp", "hidden": [512, 512]},
            "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
            "lr_schedule": "cosine",
            "batch_size": 64,
            "epochs": 150,
        }
    )
    losses = (
        Component("ce"),
        Component("gce", {"q": 0.7}),
        Component("dal", {"q_start": 0.6, "q_end": 1.5}),
    )
    check_count("seeds", seeds, low=1)
    return [base.replace(loss=loss, seed=seed) for loss in losses for seed in range(seeds)]
