r"""How far gradients are clipped, from a mixture of two kinds of losses.

The losses of right and of wrong labels are taken for two normal distributions. The more of the
gradient comes from the wrong ones, the lower it is clipped. The functions are pure; the loss that
uses them holds what it has seen, see
:class:`~noisylabels.losses.OptimizedGradientClippingLoss`.
"""

import math

import torch
from torch import Tensor

LEAST_PROBABILITY = 1e-7
"""The least probability of a label that counts, and one less it the greatest."""
POINTS = 1000
"""Losses at which the distributions are compared."""
STEPS = 10
"""Steps of expectation and maximisation."""
HALVINGS = 50
LEAST_VARIANCE = 1e-3


def fit_two_normals(values: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a mixture of two normal distributions.

    The start are two means (Lloyd's algorithm, from the least and the greatest value); nothing is
    drawn.

    Args:
        values: At least two numbers, of shape (N).

    Returns:
        Means, in rising order, and variances; float64, of shape (2).

    Example:
        >>> means, variances = fit_two_normals(torch.tensor([0.0, 0.2, 0.1, 4.0, 4.2]))
        >>> [round(mean, 3) for mean in means.tolist()]
        [0.1, 4.1]
    """
    x = values.detach().cpu().double()
    means = torch.stack([x.min(), x.max()])
    for _ in range(STEPS):
        upper = (x - means[0]).abs() > (x - means[1]).abs()
        means = torch.stack([_mean(x, ~upper, means[0]), _mean(x, upper, means[1])])
    weights = torch.stack([~upper, upper]).double()
    for _ in range(STEPS):
        total = weights.sum(1).clamp(min=1e-12)
        means = (weights * x).sum(1) / total
        variances = (weights * (x - means[:, None]) ** 2).sum(1) / total + LEAST_VARIANCE
        log_density = -((x - means[:, None]) ** 2) / (2 * variances[:, None])
        log_share = torch.log(total / len(x)) - variances.log() / 2
        weights = (log_density + log_share[:, None]).softmax(0)
    order = means.argsort()
    return means[order], variances[order]


def clipping_threshold(values: Tensor, *, q: float, epsilon: float) -> float:
    r"""Find the probability of a label below which the gradient is clipped.

    With :math:`g(p) = p^{q - 1}` the gradient, it is the least :math:`p` at which wrong labels have
    no more of the clipped gradient than :math:`1 + \epsilon` times what right ones have:

    .. math::
        E_{\text{wrong}} \min(g, g(p)) \le (1 + \epsilon) \, E_{\text{right}} \min(g, g(p))

    where :math:`-\log` of a label's probability follows the two normal distributions that
    :func:`fit_two_normals` finds, the greater being that of wrong labels.

    Args:
        values: :math:`-\log p_y` of examples, at least two, of shape (N).
        q: Exponent, in [0, 1).
        epsilon: How much more the wrong ones may have, above 0.

    Returns:
        The probability, in [1e-7, 1); 1e-7 where nothing has to be clipped.

    Example:
        >>> values = torch.cat([torch.linspace(0.0, 0.4, 50), torch.linspace(3.0, 5.0, 50)])
        >>> round(clipping_threshold(values, q=0.0, epsilon=2.0), 3)
        0.268

    References:
        Ye, Wu, Zhang, Li, Chen, Jin, "Optimized Gradient Clipping for Noisy Label Learning", 2025.
        The released code searches the probability in ten halvings and draws the start of the
        mixture; here :math:`\log p` is halved :data:`HALVINGS` times, and nothing is drawn.
    """
    means, variances = fit_two_normals(values)
    least = -math.log1p(-LEAST_PROBABILITY)
    points = torch.linspace(least, -math.log(LEAST_PROBABILITY), POINTS, dtype=torch.float64)
    right, wrong = (-((points - means[:, None]) ** 2) / (2 * variances[:, None])).softmax(1)
    gradient = torch.exp((1 - q) * points)

    def enough(log_p: float) -> bool:
        clipped = gradient.clamp(max=math.exp((q - 1) * log_p))
        return bool((wrong * clipped).sum() <= (1 + epsilon) * (right * clipped).sum())

    low, high = math.log(LEAST_PROBABILITY), -least
    if enough(low):
        return LEAST_PROBABILITY
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return math.exp(high)


def _mean(values: Tensor, chosen: Tensor, otherwise: Tensor) -> Tensor:
    return values[chosen].mean() if bool(chosen.any()) else otherwise
