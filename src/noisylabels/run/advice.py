"""What a run's settings are known to lead to, said before it trains."""

from collections.abc import Mapping

from noisylabels.run.config import RunConfig

# On digits with 40 % noise, whatever the batch size, the learning rate and the number of examples,
# accuracy was within about five points of the best from here on: docs/results/short.md.
LEAST_TRAVEL = {0.0: 60, 0.2: 60, 0.4: 90, 0.6: 100, 0.8: 450}
"""By ``q_start``, the sum of all steps' learning rates, over 1 - momentum, that DAL needs."""


def on_short_training(run: RunConfig, examples: int) -> str | None:
    """Say that a run may be too short for the dynamics-aware loss.

    Args:
        run: The run, every default filled in.
        examples: How many training examples it has.

    Returns:
        A sentence, or None where there is nothing to say.
    """
    rates: Mapping[str, float] = run.optimizer.parameters
    if run.loss.name != "dal" or run.optimizer.name != "sgd" or run.method.name != "single":
        return None
    steps = run.epochs * max(1, round(examples / run.batch_size))
    # A cosine's mean is half of where it starts; of other schedules this is a fair guess.
    travel = steps * rates["lr"] / 2 / max(0.01, 1 - rates["momentum"])
    q_start = run.loss.parameters["q_start"]
    least = LEAST_TRAVEL[min(LEAST_TRAVEL, key=lambda known: abs(known - q_start))]
    if q_start > max(LEAST_TRAVEL) + 0.1 or travel >= least:
        return None
    lower = "a lower q_start (0.0)" if q_start > 0.3 else "a higher learning rate"
    return (
        f"short training: {steps} steps at a learning rate of {rates['lr']:g} may be too few for "
        f"dal with q_start {q_start:g}, which on digits needed {round(steps * least / travel)}; "
        f"{lower} needs fewer, see docs/losses/dal.md"
    )
