"""How many labels of a run seem to be wrong, and what accuracy can be had against them at most."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from noisylabels.data.examples import Dataset, Examples
from noisylabels.estimation import (
    DEFAULT_ESTIMATOR,
    ESTIMATORS,
    WITHIN,
    some_rows,
    wrong_share,
    wrong_share_interval,
)
from noisylabels.run.trajectory import Trajectory

LARGEST = 2**24
"""Numbers (examples times classes) that an estimate is made of: some of very many are enough."""
STRONG = 0.6
"""Accuracy above chance, as a share of all above chance, from which on few of a model's own
mistakes are among what it takes for wrong labels; from ``docs/results/audit.md``."""


@dataclass(frozen=True)
class NoiseRate:
    """Which share of some labels is wrong.

    Args:
        rate: The share, in [0, 1].
        low: Lower end of its interval of 95 %.
        high: Upper end.
        by: How it was found, in words.
    """

    rate: float
    low: float
    high: float
    by: str


def measure(examples: Examples, clean: Tensor, whose: str) -> NoiseRate:
    """Count how many given labels are not the right ones, or how many sets lack them.

    Args:
        examples: N examples with given labels.
        clean: Right ones, -1 where they are not known.
        whose: Which they are, in words.

    Returns:
        The share, with the interval of Wilson's score. It holds for the others only as far as
        those whose labels are known were drawn at random.

    Example:
        >>> import torch
        >>> examples = Examples(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))
        >>> measure(examples, torch.tensor([0, 1, 1, -1]), "test").by
        '3 clean labels of test examples'
    """
    known = clean >= 0
    count = int(known.sum())
    wrong = ~examples.allows(clean.clamp(min=0))
    rate = float(wrong[known].double().mean())
    z = WITHIN**2 / count
    centre = (rate + z / 2) / (1 + z)
    half = WITHIN / (1 + z) * math.sqrt(rate * (1 - rate) / count + z / (4 * count))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return NoiseRate(rate, low, high, f"{count} clean labels of {whose} examples")


def estimate(probabilities: Tensor, given: Tensor, whose: str) -> NoiseRate:
    """Estimate how many given labels are wrong, from predictions.

    Args:
        probabilities: Class probabilities, of shape (N, K).
        given: Given labels, int64, of shape (N).
        whose: Which they are, in words.
    """
    some = some_rows(probabilities, LARGEST)
    p, labels = probabilities[some].float(), given[some]
    joint = ESTIMATORS[DEFAULT_ESTIMATOR]
    low, high = wrong_share_interval(p, labels, joint)
    return NoiseRate(
        wrong_share(joint(p, labels)), low, high, f"{DEFAULT_ESTIMATOR} on {whose} examples"
    )


def noise_rates(
    dataset: Dataset,
    true: Tensor | None,
    trajectories: Mapping[str, Trajectory],
    last: Mapping[str, Tensor],
) -> dict[str, float | str]:
    """Find how many labels of a run are wrong, as far as its predictions and clean labels tell.

    Of training labels this is told by examples that were not trained on, where there are such with
    the same kind of labels: those held out, or test examples that were split off. A network that
    has learnt wrong labels by heart finds fewer of them. Of sets of candidates nothing is
    estimated: only labels that are known to be right tell how many lack the true one.

    Args:
        dataset: The dataset with given labels.
        true: True labels of the training set; None where they are not known.
        trajectories: What was predicted over all epochs, by part.
        last: Class probabilities of the last epoch, by part.

    Returns:
        Entries of ``result.json``: ``commonest_class``, the share of the training labels that is of
        it; ``estimated_noise_rate`` of the training labels, with ``_low``, ``_high`` and ``_by``;
        and of test labels that may be wrong ``test_noise_rate`` likewise,
        with ``reachable_test_accuracy``, one less it.
    """

    def predicted(part: str) -> Tensor:
        means = trajectories[part].means() if part in trajectories else {}
        return means.get("mean_probabilities", last[part])

    test: NoiseRate | None = None
    if dataset.test_clean is not None:
        test = measure(dataset.test, dataset.test_clean, "test")
    elif dataset.test_is_given and dataset.test.candidates is None:
        test = estimate(predicted("test"), dataset.test.labels, "test")
    held_out = dataset.validation
    train: NoiseRate | None = None
    if held_out is not None and dataset.validation_clean is not None:
        train = measure(held_out, dataset.validation_clean, "held-out")
    elif dataset.train.candidates is not None:
        pass
    elif held_out is not None:
        train = estimate(predicted("validation"), held_out.labels, "held-out")
    elif test is not None and dataset.test_is_given and true is None:
        train = test
    else:
        train = estimate(predicted("train"), dataset.train.labels, "training")
    commonest = dataset.train.labels.bincount().max() / max(1, len(dataset.train))
    found: dict[str, float | str] = {"commonest_class": float(commonest)}
    if train is not None:
        found |= _entries("estimated_noise_rate", train)
    if test is not None:
        found |= _entries("test_noise_rate", test) | {"reachable_test_accuracy": 1 - test.rate}
    return found


def _entries(name: str, found: NoiseRate) -> dict[str, float | str]:
    return {
        name: found.rate,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
        f"{name}_by": found.by,
    }


def tell(result: Mapping[str, Any], num_classes: int) -> list[str]:
    """Say what a result tells of wrong labels, where the true ones are not known.

    Args:
        result: The content of a run's ``result.json``.
        num_classes: K.

    Returns:
        Sentences.

    Example:
        >>> tell({"actual_noise_rate": 0.2}, 10)
        []
    """
    said = []
    unknown = result["actual_noise_rate"] is None and "estimated_noise_rate" in result
    if unknown:
        said.append(
            f"about {_percent(result, 'estimated_noise_rate')} of the training labels seem wrong, "
            f"by {result['estimated_noise_rate_by']}"
        )
    if "clean_validation_labels" in result:
        said.append(_against_clean(result, "validation", "hold-out accuracy"))
    if result.get("test_labels") == "clean":
        said.append(_against_clean(result, "test", "test accuracy"))
    if "reachable_test_accuracy" in result:
        said.append(_reached(result))
    by = result["estimated_noise_rate_by"] if unknown else ""
    if "mean_candidates" in result:
        said.append(_of_sets(result))
    by += result.get("test_noise_rate_by", "")
    if DEFAULT_ESTIMATOR in by and _skill(result, num_classes) < STRONG:
        said.append(
            "a model this weak takes its own mistakes for wrong labels: there may be fewer (a few "
            "labels known to be right, as test_labels, would tell)"
        )
    return said


def _reached(result: Mapping[str, Any]) -> str:
    given = result["test_labels"] == "given"
    accuracy = result["test_accuracy" if given else "test_accuracy_given"]
    reachable = result["reachable_test_accuracy"]
    wrong = f"about {_percent(result, 'test_noise_rate')} of them seem wrong"
    if accuracy > reachable:
        # What is wrong cannot be predicted but by learning it.
        conclusion = f"{wrong}, which so many right predictions leave no room for"
    else:
        conclusion = f"a perfect model would have about {100 * reachable:.0f} %, for {wrong}"
    return (
        f"test accuracy {100 * accuracy:.1f} % against given labels: {conclusion}, by "
        f"{result['test_noise_rate_by']}"
    )


def _of_sets(result: Mapping[str, Any]) -> str:
    missing, tested = result["actual_noise_rate"], result.get("test_mean_candidates")
    without = "" if missing is None else f"; {100 * missing:.1f} % of the sets lack the true label"
    test = "" if tested is None else f", and so does one of a test set's {tested:.2f}"
    return (
        f"trained on sets of {result['mean_candidates']:.2f} candidates on average: a training "
        f"prediction counts as right where it is one of them{test}{without}"
    )


def _skill(result: Mapping[str, Any], num_classes: int) -> float:
    """Return the share of what is above chance, of examples that were not trained on if any are."""
    keys = ("test_accuracy", "validation_accuracy", "train_accuracy")
    accuracy = next(value for key in keys if (value := result.get(key)) is not None)
    # Whoever predicts the commonest class alone is right so often.
    chance = result.get("commonest_class", 1 / num_classes)
    return float(accuracy - chance) / (1 - chance) if chance < 1 else 0.0


def _against_clean(result: Mapping[str, Any], part: str, title: str) -> str:
    return (
        f"{title} {100 * result[f'{part}_accuracy']:.1f} % on the "
        f"{result[f'clean_{part}_labels']} examples with clean labels"
    )


def _percent(result: Mapping[str, Any], name: str) -> str:
    rate, low, high = (100 * result[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{rate:.1f} % ({low:.1f} to {high:.1f})"
