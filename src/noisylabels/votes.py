"""Labels by several people: what they say together, and how far each of them can be relied on.

Votes are class indices of shape (N, R), one column for each rater, -1 where a rater gave none.
Where every example has raters of its own, a column is a vote, and ``raters`` of that shape says
whose.
:func:`consensus` makes class probabilities of them, which losses take as targets.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from noisylabels.errors import ConfigError, DataError, check_choice, check_count, check_range

Consensus = Literal["soft", "majority", "dawid-skene"]
"""What can become of votes."""
TINY = 1e-10
"""Votes that every cell of a confusion matrix has, so that none is impossible."""
CONSENSUSES: tuple[str, ...] = get_args(Consensus)


@dataclass(frozen=True)
class Raters:
    """What :func:`dawid_skene` found.

    Args:
        probabilities: Of each example's classes, float64, of shape (N, K).
        confusion: How likely each rater gives which label (column) to which true class (row),
            float64, of shape (R, K, K).
        prior: Share of each class, float64, of shape (K).
        log_likelihood: Of the votes, before each iteration's change of the probabilities. Without
            smoothing it never falls.
    """

    probabilities: Tensor
    confusion: Tensor
    prior: Tensor
    log_likelihood: tuple[float, ...]

    @property
    def reliability(self) -> Tensor:
        """The probability that a rater's label is right, float64, of shape (R)."""
        return (self.confusion.diagonal(dim1=1, dim2=2) * self.prior).sum(1)


def count_votes(votes: Tensor, *, num_classes: int | None = None) -> Tensor:
    """Count each example's votes for each class.

    Args:
        votes: Class indices, int64, of shape (N, R), -1 where a rater gave none.
        num_classes: K; by default one more than the greatest vote.

    Returns:
        Counts, int64, of shape (N, K).

    Raises:
        DataError: The votes are of another form, one is no class, or an example has none; the
            message names row and column.

    Example:
        >>> count_votes(torch.tensor([[0, 0, 1], [2, -1, 2]]))
        tensor([[2, 1, 0],
                [0, 0, 2]])
    """
    if votes.ndim != 2 or votes.dtype is not torch.int64:
        raise DataError(
            f"votes: expected int64 of shape (N, R), got {votes.dtype} of shape "
            f"{tuple(votes.shape)}"
        )
    if num_classes is None and not votes.numel():
        raise DataError("votes: expected at least one vote, or num_classes, got neither")
    classes = num_classes if num_classes is not None else int(votes.max()) + 1
    outside = ((votes < -1) | (votes >= classes)).nonzero()
    if len(outside):
        row, rater = outside[0].tolist()
        raise DataError(
            f"votes: row {row}: expected a class in 0..{classes - 1}, or -1 for no vote, got "
            f"{int(votes[row, rater])} in column {rater}"
        )
    empty = (votes < 0).all(1).nonzero()
    if len(empty):
        raise DataError(f"votes: row {int(empty[0])}: expected at least one vote, got none")
    counts = torch.zeros(len(votes), classes + 1, dtype=torch.int64, device=votes.device)
    # What is no vote goes to a class of its own.
    counts.scatter_add_(1, votes.where(votes >= 0, classes), torch.ones_like(votes))
    return counts[:, :classes]


def consensus(
    votes: Tensor,
    *,
    num_classes: int | None = None,
    by: Consensus = "soft",
    raters: Tensor | None = None,
) -> Tensor:
    """Make class probabilities of votes.

    Args:
        votes: Class indices, int64, of shape (N, R), -1 where a rater gave none.
        num_classes: K; by default one more than the greatest vote.
        by: ``"soft"`` takes the shares of the votes; ``"majority"`` gives the commonest class all
            of the probability, the first of several; ``"dawid-skene"`` believes raters by how
            reliable they seem, see :func:`dawid_skene`.
        raters: Who gave each vote, for the last of these; see there. None for the others, which do
            not ask.

    Returns:
        Class probabilities, float32, of shape (N, K): a loss's ``target``, or by ``argmax(1)``
        labels.

    Raises:
        ConfigError: ``by`` is none of these, or does not look at ``raters``, which are given.
        DataError: As :func:`count_votes`; or ``raters`` are of another form.

    Example:
        >>> consensus(torch.tensor([[0, 0, 1], [1, -1, 1]]))
        tensor([[0.6667, 0.3333],
                [0.0000, 1.0000]])
    """
    check_choice("by", by, CONSENSUSES)
    if by == "dawid-skene":
        found = dawid_skene(votes, num_classes=num_classes, raters=raters)
        return found.probabilities.float().to(votes.device)
    if raters is not None:
        raise ConfigError(f"raters must be left out where by is not 'dawid-skene', got by {by!r}")
    counts = count_votes(votes, num_classes=num_classes)
    if by == "majority":
        return torch.nn.functional.one_hot(counts.argmax(1), counts.shape[1]).float()
    return counts.float() / counts.sum(1, keepdim=True)


def dawid_skene(
    votes: Tensor,
    *,
    num_classes: int | None = None,
    raters: Tensor | None = None,
    iterations: int = 100,
    tolerance: float = 1e-5,
    smoothing: float = 10.0,
) -> Raters:
    r"""Estimate true classes and each rater's confusion of them, by expectation-maximisation.

    Raters vote independently of each other given the true class :math:`k`, each by a confusion
    matrix :math:`\pi^{(r)}` of its own:

    .. math::
        T_{nk} \propto p_k \prod_r \pi^{(r)}_{k v_{nr}}, \qquad
        \pi^{(r)}_{kl} \propto s \, \bar\pi_{kl} + \sum_{n: v_{nr} = l} T_{nk}, \qquad
        p_k \propto \sum_n T_{nk}

    It begins with the shares of the votes as :math:`T`. :math:`\bar\pi` is the matrix of all
    raters together: whoever gave few votes is taken for one of them.

    Args:
        votes: Class indices, int64, of shape (N, R), -1 where a rater gave none.
        num_classes: K; by default one more than the greatest vote.
        raters: The number of who gave each vote, int64, of shape (N, R), from 0 and below N R;
            anything where there is no vote. By default that of its column.
        iterations: The most iterations, at least 1.
        tolerance: It ends where no probability changes by more, at least 0.
        smoothing: :math:`s`, at least 0: how many votes for each class a rater is lent by all
            together; 0 estimates everybody from their own votes alone.

    Returns:
        Probabilities, confusion matrices and shares of the classes, on the CPU. Where N is 0 all
        classes are as likely as each other.

    Raises:
        ConfigError: A value is out of its range.
        DataError: As :func:`count_votes`; or ``raters`` are of another form, or out of their range
            where there is a vote.

    Example:
        >>> votes = torch.tensor([[0, 0, 1], [1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
        >>> raters = dawid_skene(votes)
        >>> raters.probabilities.argmax(1)
        tensor([0, 1, 0, 1, 0])
        >>> raters.reliability
        tensor([0.7894, 0.7894, 0.6941], dtype=torch.float64)

    References:
        Dawid, Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM
        Algorithm", 1979, without smoothing. With 30 votes by each of 13,000 raters it needs some:
        ``docs/results/candidates.md`` has what 0 to 30 come to.
    """
    check_count("iterations", iterations, low=1)
    check_range("tolerance", tolerance)
    check_range("smoothing", smoothing)
    # Not every device has float64.
    votes, raters = votes.cpu(), None if raters is None else raters.cpu()
    counts = count_votes(votes, num_classes=num_classes).double()
    classes = counts.shape[1]
    rows, columns = (votes >= 0).nonzero(as_tuple=True)
    voters, count = _voters(votes, raters, rows, columns)
    # Of each vote the rater and the label together: a row of the confusion matrices' transposes.
    labels = votes[rows, columns]
    cell = voters * classes + labels
    belief = counts / counts.sum(1, keepdim=True)
    if not len(votes):
        alike = counts.new_ones(count, classes, classes) / classes
        return Raters(belief, alike, counts.new_ones(classes) / classes, ())
    found: list[float] = []
    while True:
        prior = belief.mean(0)
        # By true class (row) and label, first of all raters, then of each.
        pooled = counts.new_zeros(classes, classes).index_add_(0, labels, belief[rows]).T + TINY
        pooled = pooled / pooled.sum(1, keepdim=True)
        own = counts.new_zeros(count * classes, classes).index_add_(0, cell, belief[rows])
        own = own.view(count, classes, classes).transpose(1, 2) + smoothing * pooled + TINY
        confusion = own / own.sum(2, keepdim=True)
        of_cell = confusion.log().transpose(1, 2).reshape(count * classes, classes)
        # A class that no example is thought to be of any more has probability 0 for good.
        joint = prior.log().expand(len(votes), -1).clone().index_add_(0, rows, of_cell[cell])
        found.append(float(joint.logsumexp(1).sum()))
        before, belief = belief, joint.softmax(1)
        if len(found) == iterations or float((belief - before).abs().max()) <= tolerance:
            return Raters(belief, confusion, prior, tuple(found))


def _voters(
    votes: Tensor, raters: Tensor | None, rows: Tensor, columns: Tensor
) -> tuple[Tensor, int]:
    """Return who gave each vote, and how many raters there are.

    Args:
        votes: As for :func:`dawid_skene`.
        raters: As for :func:`dawid_skene`.
        rows: The row of each vote.
        columns: Its column.

    Raises:
        DataError: The raters are of another form, or one is out of range.
    """
    if raters is None:
        return columns, votes.shape[1]
    if raters.shape != votes.shape or raters.dtype is not torch.int64:
        raise DataError(
            f"raters: expected int64 of the votes' shape {tuple(votes.shape)}, got {raters.dtype} "
            f"of shape {tuple(raters.shape)}"
        )
    voters = raters[rows, columns]
    limit = votes.numel()
    bad = ((voters < 0) | (voters >= limit)).nonzero()
    if len(bad):
        first = int(bad[0])
        raise DataError(
            f"raters: row {int(rows[first])}: expected who gave the vote, a number in "
            f"0..{limit - 1}, got {int(voters[first])} in column {int(columns[first])} "
            f"(torch.unique(raters, return_inverse=True)[1] numbers raters without gaps)"
        )
    return voters, int(voters.max()) + 1 if len(voters) else 0
