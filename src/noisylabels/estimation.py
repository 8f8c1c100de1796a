"""What predictions tell of the labels: how many are wrong."""

import torch
from torch import Tensor


def estimate_noise_rate(probabilities: Tensor, labels: Tensor) -> float:
    r"""Estimate which share of labels is wrong, from predictions for examples not trained on.

    An example counts as of class j if its :math:`p_j` reaches :math:`t_j`, the mean :math:`p_j` of
    the examples with label j (of several such classes the one of greatest :math:`p_j`). The counts
    by label and such class, scaled to how often each label is given, are the joint distribution of
    given and true labels; its mass off the diagonal is the estimate. Examples that reach no
    threshold count for nothing.

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
    scaled = joint * (given / rows.clamp(min=1))[:, None]
    total = scaled.sum()
    return float(1 - scaled.trace() / total) if total else 0.0
