"""What predictions tell of the labels: how many are wrong, and which classes are taken for which."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

STEPS = 50
"""Steps of expectation and maximisation; the rate has settled to three digits before."""
PRIOR_DIAGONAL = 0.7
"""Share of right labels that the first step supposes."""
RESAMPLES = 50
LARGEST_RESAMPLE = 2**16
"""Numbers (examples times classes) in one resample of a bootstrap."""
WITHIN = 1.96
"""Standard deviations on either side of an interval of 95 %."""


def estimate_noise_rate(probabilities: Tensor, labels: Tensor) -> float:
    r"""Estimate which share of labels is wrong, from predictions for examples not trained on.

    This is the mass off the diagonal of :func:`confident_joint`. From predictions of a network for
    its own training examples, :func:`posterior_joint` is nearer to the truth (``docs/results``).

    Args:
        probabilities: Predicted class probabilities, of shape (N, K).
        labels: Given labels, int64 in [0, K), of shape (N).

    Returns:
        The rate, in [0, 1]; 0 where no example reaches a threshold.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
        >>> round(estimate_noise_rate(p, torch.tensor([0, 0, 1, 1, 1])), 4)
        0.2

    References:
        Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
        2021.
    """
    return wrong_share(confident_joint(probabilities, labels))


def confident_joint(probabilities: Tensor, labels: Tensor) -> Tensor:
    r"""Estimate how many examples have each pair of given and true label, by confident learning.

    An example counts as of class j if its :math:`p_j` reaches :math:`t_j`, the mean :math:`p_j` of
    the examples with label j (of several such classes the one of greatest :math:`p_j`). The counts
    by label and such class are scaled to how often each label is given. Examples that reach no
    threshold count for nothing.

    Args:
        probabilities: Predicted class probabilities, of shape (N, K).
        labels: Given labels, int64 in [0, K), of shape (N).

    Returns:
        Counts, float64, of shape (K, K): given labels in rows, true ones in columns.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
        >>> confident_joint(p, torch.tensor([0, 0, 1, 1, 1]))
        tensor([[2., 0.],
                [1., 2.]], dtype=torch.float64)

    References:
        Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
        2021.
    """
    classes = probabilities.shape[1]
    p = probabilities.double()
    given = torch.bincount(labels, minlength=classes).double()
    own = p.gather(1, labels[:, None]).squeeze(1)
    sums = torch.zeros(classes, dtype=torch.float64).index_add_(0, labels, own)
    # No example has the label of an absent class, so none can be taken for it.
    threshold = torch.where(given > 0, sums / given.clamp(min=1), torch.inf)
    reached = p >= threshold - 1e-12
    confident = reached.any(1)
    taken_for = p.masked_fill(~reached, -1).argmax(1)
    cells = (labels * classes + taken_for)[confident]
    joint = torch.bincount(cells, minlength=classes**2).double().reshape(classes, classes)
    rows = joint.sum(1)
    return joint * (given / rows.clamp(min=1))[:, None]


def posterior_joint(probabilities: Tensor, labels: Tensor) -> Tensor:
    r"""Estimate how many examples have each pair of given and true label, by maximum likelihood.

    The predictions are taken for each example's probabilities of the true class, and the given
    label for a draw from the row :math:`T_j` of an unknown matrix. Its most likely value is found
    by expectation, :math:`q_{ij} \propto p_{ij} T_{j y_i}`, and maximisation,
    :math:`T_{jk} \propto \sum_{i: y_i = k} q_{ij}`. What is counted in the end are the
    :math:`q_{ij}`, so that every example counts, the doubtful ones in part.

    The predictions must not be those of a network that has learnt the wrong labels too: of such the
    most likely matrix is that of no noise.

    Args:
        probabilities: Predicted class probabilities, of shape (N, K).
        labels: Given labels, int64 in [0, K), of shape (N).

    Returns:
        Expected counts, float64, of shape (K, K): given labels in rows, true ones in columns.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
        >>> round(wrong_share(posterior_joint(p, torch.tensor([0, 0, 1, 1, 1]))), 2)
        0.16

    References:
        Dempster, Laird, Rubin, "Maximum Likelihood from Incomplete Data via the EM Algorithm",
        1977, for the method; the application is our own.
    """
    classes = probabilities.shape[1]
    p = probabilities.double().clamp(min=1e-6)
    rest = (1 - PRIOR_DIAGONAL) / max(1, classes - 1)
    matrix = torch.full((classes, classes), rest, dtype=torch.float64)
    matrix.fill_diagonal_(PRIOR_DIAGONAL)
    joint = matrix
    for _ in range(STEPS):
        q = p * matrix.T[labels]
        q /= q.sum(1, keepdim=True)
        joint = torch.zeros(classes, classes, dtype=torch.float64).index_add_(0, labels, q)
        sizes = joint.sum(0)
        matrix = (joint / sizes.clamp(min=1e-12)).T
    return joint


def wrong_share(joint: Tensor) -> float:
    """Return the share of a joint distribution that is off its diagonal; 0 where it is empty.

    Args:
        joint: Counts, of shape (K, K).

    Example:
        >>> wrong_share(torch.tensor([[3.0, 1.0], [0.0, 4.0]]))
        0.125
    """
    total = joint.sum()
    return float(1 - joint.trace() / total) if total else 0.0


def wrong_share_interval(
    probabilities: Tensor,
    labels: Tensor,
    joint: Callable[[Tensor, Tensor], Tensor] = confident_joint,
    *,
    seed: int = 0,
) -> tuple[float, float]:
    """Return an interval of 95 % for an estimated share of wrong labels, by bootstrap.

    It says how much the estimate would change with other examples of the same kind, not how far it
    is off because the predictions are: that is in ``docs/results``.

    Args:
        probabilities: Predicted class probabilities, of shape (N, K).
        labels: Given labels, int64 in [0, K), of shape (N).
        joint: The estimator.
        seed: Seed of the draws.

    Returns:
        Its ends, in [0, 1].
    """
    count, classes = probabilities.shape
    # Of very many examples only some are drawn each time, and the deviation is scaled.
    drawn = min(count, max(1, LARGEST_RESAMPLE // classes))
    generator = torch.Generator().manual_seed(seed)
    shares = []
    for _ in range(RESAMPLES):
        index = torch.randint(count, (drawn,), generator=generator)
        shares.append(wrong_share(joint(probabilities[index], labels[index])))
    deviation = float(torch.tensor(shares, dtype=torch.float64).std()) * math.sqrt(drawn / count)
    centre = wrong_share(joint(probabilities, labels))
    return max(0.0, centre - WITHIN * deviation), min(1.0, centre + WITHIN * deviation)
