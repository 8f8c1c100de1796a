"""What predictions tell of the labels: how many are wrong, and which class is taken for which."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from noisylabels.errors import DataError, check_choice
from noisylabels.labels import check

DEFAULT_ESTIMATOR = "confident joint"
"""The estimate that is made where nobody names another; :func:`estimate_noise_rate` says why."""
STEPS = 50
"""Most steps of expectation and maximisation."""
LARGEST_FIT = 2**21
"""Numbers (examples times classes) that a matrix is fitted to."""
SETTLED = 1e-5
"""Greatest change of a probability in the step after which there is no other."""
SHARPNESS = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Exponents, as their inverses, that predictions are brought to the scale of probabilities with."""
FIRST_RIGHT = 0.7
"""Share of right labels that the first step supposes."""
LEAST = 1e-6
"""Least probability that a prediction is taken for: no class is impossible."""
FEW_WRONG = 0.03
"""Wrong labels of a class that are supposed beforehand, in sizes of a class."""
EVEN = 1.0
"""One-sidedness of wrong labels below which they are taken to be spread evenly."""
DIRECTED = 1.25
"""One-sidedness at which evenly spread ones weigh one size of a class."""
SHARPLY = 6
"""Power of the one-sidedness with which that weight falls."""
ALL_EVEN = 1e6
"""A weight beside which nothing else counts."""
CHANCE = 2.0
"""How often what chance makes of one-sidedness is taken off: its mean, and as much for safety."""
RESAMPLES = 50
LARGEST_RESAMPLE = 2**18
"""Numbers (examples times classes) in one resample of a bootstrap."""
ROUNDING = 1e-3
"""How far from [0, 1] a mean of probabilities in half precision may be."""
WITHIN = 1.96
"""Standard deviations on either side of an interval of 95 %."""


def estimate_noise_rate(
    probabilities: Tensor, labels: Tensor, *, estimator: str = DEFAULT_ESTIMATOR
) -> float:
    r"""Estimate which share of labels is wrong, from predictions for examples not trained on.

    This is the mass off the diagonal of an estimated joint distribution of given and true labels.
    No estimator is best, see ``docs/results/audit.md`` for the error of each on ten kinds of noise.
    On held-out examples :func:`confident_joint`, the default, counts some of the network's own
    mistakes too, :func:`disagreement` all of them: little of a network that predicts 95 %, 7 and
    12 points of one that predicts 85 %. :func:`posterior_joint` counts fewer, and is 4 points off
    there in the mean; but it takes predictions for probabilities, and where they are too sure or
    too unsure it misses half of the wrong labels or more. Of 9 and 17 % that were mistaken on hard
    examples alone the default finds 92 and 54 %, the posterior a fifth; but for such mistakes
    its error is upwards and at most the network's own error rate, which is why it is the default.
    On examples that were trained on, none tells much where wrong labels were learnt (with CE), and
    all are alike where they were not.

    Args:
        probabilities: Predicted class probabilities, of shape (N, K).
        labels: Given labels, int64 in [0, K), of shape (N).
        estimator: A key of ``ESTIMATORS``.

    Returns:
        The rate, in [0, 1]; of the confident joint 0 where no example reaches a threshold.

    Raises:
        ConfigError: There is no such estimator.
        DataError: The shapes do not fit each other, a label is outside [0, K), or a row holds no
            probabilities.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
        >>> labels = torch.tensor([0, 0, 1, 1, 1])
        >>> round(estimate_noise_rate(p, labels), 2)
        0.2
        >>> round(estimate_noise_rate(p, labels, estimator="posterior"), 2)
        0.14

    References:
        Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
        2021.
    """
    check_choice("estimator", estimator, ESTIMATORS)
    return wrong_share(ESTIMATORS[estimator](probabilities, labels))


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
        Counts, float64 on the CPU, of shape (K, K): given labels in rows, true ones in columns.

    Raises:
        DataError: The shapes do not fit each other, a label is outside [0, K), or a row holds no
            probabilities.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
        >>> confident_joint(p, torch.tensor([0, 0, 1, 1, 1]))
        tensor([[2., 0.],
                [1., 2.]], dtype=torch.float64)

    References:
        Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
        2021.
    """
    p, labels = _checked(probabilities, labels)
    classes = p.shape[1]
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


def disagreement(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Count how many examples have each pair of given label and likeliest class.

    The share off the diagonal is that of the labels which are not predicted. A network's own
    mistakes count as wrong labels; wrong labels that it has learnt do not.

    Args:
        probabilities: Predicted class probabilities, of shape (N, K).
        labels: Given labels, int64 in [0, K), of shape (N).

    Returns:
        Counts, float64 on the CPU, of shape (K, K): given labels in rows, likeliest classes in
        columns.

    Raises:
        DataError: The shapes do not fit each other, a label is outside [0, K), or a row holds no
            probabilities.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
        >>> disagreement(p, torch.tensor([0, 0, 1, 1, 1]))
        tensor([[2., 0.],
                [1., 2.]], dtype=torch.float64)
    """
    p, labels = _checked(probabilities, labels)
    classes = p.shape[1]
    cells = labels * classes + p.argmax(1)
    return torch.bincount(cells, minlength=classes**2).double().reshape(classes, classes)


def posterior(probabilities: Tensor, labels: Tensor) -> Tensor:
    r"""Estimate each example's probabilities of the true class, given its label too.

    The predictions :math:`p_{ij}` are taken for probabilities of the true class before the label
    :math:`y_i` is known, and the label for a draw from row j of an unknown matrix :math:`T`. That
    matrix is found by expectation, :math:`q_{ij} \propto p_{ij} T_{j y_i}`, and maximisation,
    :math:`T_{jk} \propto \sum_{i: y_i = k} q_{ij}`, with two priors: a few labels of each class are
    wrong; and wrong labels are spread evenly, which counts unless the estimated ones go one way
    (cats are called dogs, and not as often dogs cats). With the first, a network that has learnt
    the wrong labels too, of which the most likely T is that of no noise, still ranks them. With the
    second, labels are ranked by their own probability where noise is even, where two classes are
    taken for each other because they are alike (the network's probabilities say so already), and
    where examples are so few that chance alone may have made some go one way.

    Args:
        probabilities: Predicted class probabilities, of shape (N, K).
        labels: Given labels, int64 in [0, K), of shape (N).

    Returns:
        The :math:`q_{ij}`, float64 on the CPU, of shape (N, K). One less that of the given label is
        the probability that the label is wrong.

    Raises:
        DataError: The shapes do not fit each other, a label is outside [0, K), or a row holds no
            probabilities.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
        >>> posterior(p, torch.tensor([0, 0, 1, 1, 1]))[:, 1].round(decimals=2)
        tensor([0.0200, 0.0400, 0.9800, 0.9600, 0.4000], dtype=torch.float64)

    References:
        Dempster, Laird, Rubin, "Maximum Likelihood from Incomplete Data via the EM Algorithm",
        1977, for the method; the priors are our own, see ``docs/results/audit.md``.
    """
    p, labels = _checked(probabilities, labels)
    p = p.clamp(min=LEAST)
    return _given_label(p, _fit(p, labels), labels)


def wrong_probability(probabilities: Tensor, labels: Tensor) -> Tensor:
    r"""Estimate, for each label, the probability that it is wrong.

    This is one less :func:`posterior` of the given label, in the same order, brought to the scale
    of probabilities: means over epochs are less sure than the networks were in the end. With
    :math:`p^{1/\tau}` in place of p the likelihood of the labels is greatest at some
    :math:`\tau`; the logarithms of the odds are divided by it, but for the part of them that says
    how frequent wrong labels are.

    Args:
        probabilities: Predicted class probabilities, of shape (N, K).
        labels: Given labels, int64 in [0, K), of shape (N).

    Returns:
        Probabilities, float64 on the CPU, of shape (N).

    Raises:
        DataError: The shapes do not fit each other, a label is outside [0, K), or a row holds no
            probabilities.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
        >>> wrong_probability(p, torch.tensor([0, 0, 1, 1, 1])).round(decimals=2)
        tensor([0.0000, 0.0100, 0.0000, 0.0100, 0.9000], dtype=torch.float64)
    """
    p, labels = _checked(probabilities, labels)
    p = p.clamp(min=LEAST)
    matrix = _fit(p, labels)
    own = _given_label(p, matrix, labels).gather(1, labels[:, None]).squeeze(1)
    odds = torch.logit(1 - own, eps=1e-12)
    _, tau, rate = max(_try(p ** (1 / tau), labels, tau) for tau in SHARPNESS)
    others = max(1, p.shape[1] - 1)
    prior = torch.logit(torch.tensor(rate / (others * (1 - rate) + rate + 1e-12)), eps=1e-12)
    return torch.sigmoid((odds - prior) / tau + prior)


def _checked(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return both on the CPU, where all is counted, as float64 and int64.

    Raises:
        DataError: The shapes do not fit each other, a label is outside [0, K), or a row holds no
            probabilities.
    """
    if probabilities.ndim != 2 or labels.ndim != 1 or labels.is_floating_point():
        raise DataError(
            f"expected probabilities of shape (N, K) and whole labels of shape (N), got shapes "
            f"{tuple(probabilities.shape)} and {tuple(labels.shape)} ({labels.dtype})"
        )
    p, given = probabilities.detach().cpu().double(), labels.detach().cpu().long()
    check(given, "labels", count=len(p), num_classes=p.shape[1])
    bad = (~((p >= -ROUNDING) & (p <= 1 + ROUNDING)).all(1)).nonzero()
    if len(bad):
        row = int(bad[0])
        shown = ", ".join(f"{each:.4g}" for each in p[row, :4].tolist())
        raise DataError(
            f"probabilities: row {row}: expected numbers in [0, 1], got {shown}"
            f"{', ...' if p.shape[1] > 4 else ''}"
        )
    return p, given


def _try(p: Tensor, labels: Tensor, tau: float) -> tuple[float, float, float]:
    """Return the mean logarithm of the labels' probabilities, tau, and the rate of wrong labels."""
    p = p / p.sum(1, keepdim=True)
    matrix = _fit(p, labels)
    given = (p * matrix.T[labels]).sum(1)
    likelihood = float(given.clamp(min=1e-300).log().mean())
    right = p.gather(1, labels[:, None]).squeeze(1) * matrix.diagonal()[labels] / given
    return likelihood, tau, 1 - float(right.mean())


def some_rows(probabilities: Tensor, largest: int) -> Tensor | slice:
    """Choose rows at random, the same every time, where there are more than an estimate needs.

    Not every so-manyth: labels may follow each other in turn.

    Args:
        probabilities: Of shape (N, K).
        largest: Numbers that are enough, at least 1.

    Returns:
        What to index N rows with.
    """
    count, classes = probabilities.shape
    if count * classes <= largest:
        return slice(None)
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(count, generator=generator)[: max(1, largest // classes)]


def _fit(p: Tensor, labels: Tensor) -> Tensor:
    """Return the most likely matrix of labels by true class, see :func:`posterior`."""
    classes = p.shape[1]
    if classes < 2:
        return torch.ones(classes, classes, dtype=torch.float64)
    some = some_rows(p, LARGEST_FIT)
    p, labels = p[some], labels[some]
    # What is measured to choose the weight must not depend on it, or the first guess would decide.
    free = _maximise(p, labels, 0.0)
    directed = _one_sidedness(_given_label(p, free, labels), labels)
    weight = ALL_EVEN if directed < EVEN else (DIRECTED / directed) ** SHARPLY
    return _maximise(p, labels, weight)


def _maximise(p: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Return the matrix with evenly spread labels of some weight, in sizes of a class."""
    classes = p.shape[1]
    mean_size = len(labels) / classes
    others = (1 - torch.eye(classes, dtype=torch.float64)) / (classes - 1)
    matrix = torch.eye(classes, dtype=torch.float64) * FIRST_RIGHT + others * (1 - FIRST_RIGHT)
    for _ in range(STEPS):
        counts = _count(_given_label(p, matrix, labels), labels).T
        rate = wrong_share(counts)
        even = torch.eye(classes, dtype=torch.float64) * (1 - rate) + others * rate
        counts = counts + mean_size * (FEW_WRONG * others + weight * even)
        before, matrix = matrix, counts / counts.sum(1, keepdim=True)
        if float((matrix - before).abs().max()) < SETTLED:
            break
    return matrix


def _given_label(p: Tensor, matrix: Tensor, labels: Tensor) -> Tensor:
    q = p * matrix.T[labels]
    return q / q.sum(1, keepdim=True)


def _count(q: Tensor, labels: Tensor) -> Tensor:
    """Sum probabilities by given label."""
    return torch.zeros(q.shape[1], q.shape[1], dtype=torch.float64).index_add_(0, labels, q)


def _one_sidedness(q: Tensor, labels: Tensor) -> float:
    """Return how differently two classes are taken for each other, in squared mean rates.

    That is half the mean squared difference of the rates of j as k and of k as j, less twice what
    the draw of the labels alone would make of it on the average: of few examples chance is not to
    decide.
    """
    counts = _count(q, labels).T
    off = ~torch.eye(len(counts), dtype=torch.bool)
    sizes = counts.sum(1, keepdim=True).clamp(min=1e-12)
    rates = counts / sizes
    drawn = (_count(q.square(), labels).T / sizes.square())[off].mean()
    apart = (rates - rates.T)[off].square().mean() / 2
    return float((apart - CHANCE * drawn) / rates[off].mean().square().clamp(min=1e-24))


def posterior_joint(probabilities: Tensor, labels: Tensor) -> Tensor:
    r"""Estimate how many examples have each pair of given and true label, by maximum likelihood.

    What is counted are the :func:`posterior` probabilities, so that every example counts, the
    doubtful ones in part.

    Args:
        probabilities: Predicted class probabilities, of shape (N, K).
        labels: Given labels, int64 in [0, K), of shape (N).

    Returns:
        Expected counts, float64 on the CPU, of shape (K, K): given labels in rows, true ones in
        columns.

    Raises:
        DataError: The shapes do not fit each other, a label is outside [0, K), or a row holds no
            probabilities.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
        >>> round(wrong_share(posterior_joint(p, torch.tensor([0, 0, 1, 1, 1]))), 2)
        0.14
    """
    # Which checks both.
    found = posterior(probabilities, labels)
    return _count(found, labels.cpu().long())


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "confident joint": confident_joint,
    "disagreement": disagreement,
    "posterior": posterior_joint,
}
"""Estimates of the joint distribution of given and true labels, by name."""


def transition_matrix(joint: Tensor) -> Tensor:
    """Return how probable each given label is for each true one.

    Args:
        joint: Counts of given labels (rows) and true ones (columns), of shape (K, K).

    Returns:
        Probabilities of given labels (columns) for true ones (rows), float64, of shape (K, K). A
        class that no example is of is taken to be always given its own label.

    Example:
        >>> transition_matrix(torch.tensor([[3.0, 0.0], [1.0, 0.0]]))
        tensor([[0.7500, 0.2500],
                [0.0000, 1.0000]], dtype=torch.float64)
    """
    rows = joint.double().T
    total = rows.sum(1, keepdim=True)
    own = torch.eye(len(rows), dtype=torch.float64, device=rows.device)
    return torch.where(total > 0, rows / total.clamp(min=1e-300), own)


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

    Raises:
        DataError: There is no example, the shapes do not fit each other, or a label is outside
            [0, K).
    """
    p, labels = _checked(probabilities, labels)
    count, classes = p.shape
    if not count:
        raise DataError("expected at least one example to draw from, got none")
    # Of very many examples only some are drawn each time, and the deviation is scaled.
    drawn = min(count, max(1, LARGEST_RESAMPLE // classes))
    generator = torch.Generator().manual_seed(seed)
    shares = []
    for _ in range(RESAMPLES):
        index = torch.randint(count, (drawn,), generator=generator)
        shares.append(wrong_share(joint(p[index], labels[index])))
    deviation = float(torch.tensor(shares, dtype=torch.float64).std()) * math.sqrt(drawn / count)
    centre = wrong_share(joint(p, labels))
    return max(0.0, centre - WITHIN * deviation), min(1.0, centre + WITHIN * deviation)
