"""Which labels are clean, by the losses of the examples: a mixture of two Gaussians."""

import warnings

import torch
from torch import Tensor

from noisylabels.errors import NoisyLabelsError

SAME = 1e-6
"""Losses, or means of normalised losses, that are no farther apart are the same."""


def clean_probability(losses: Tensor, *, seed: int) -> tuple[Tensor, str | None]:
    r"""Fit a mixture of two Gaussians to normalised losses; wrong labels have the larger ones.

    The losses are scaled to [0, 1], those of several epochs each by themselves, and averaged. The
    result is the posterior of the component with the smaller mean, which is not always falling:
    far out on the left the wider component can win.

    Args:
        losses: One per example, of shape (N), or several, of shape (epochs, N).
        seed: Seed of the fit's start.

    Returns:
        The probability of each label to be clean, float64 of shape (N), 0 where a loss is not
        finite; and what is odd about the mixture, if anything: losses that are not finite, or that
        are all the same, in which case all labels count as clean.

    Raises:
        NoisyLabelsError: No loss is finite.

    Example:
        >>> probability, _ = clean_probability(torch.tensor([0.1, 0.2, 0.1, 4.0, 4.1]), seed=0)
        >>> probability.round().tolist()
        [1.0, 1.0, 1.0, 0.0, 0.0]

    References:
        Li, Socher, Hoi, "DivideMix: Learning with Noisy Labels as Semi-supervised Learning", 2020;
        its released code's tolerance (0.01), iterations (10) and least variance (0.0005).
        Permuter, Francos, Jermyn, "A study of Gaussian mixture models of color and texture
        features for image classification and segmentation", 2006.
    """
    from sklearn.mixture import GaussianMixture

    values = losses.detach().double().cpu().reshape(-1, losses.shape[-1])
    finite = values.isfinite().all(0)
    if not finite.any():
        raise NoisyLabelsError("no example's loss is finite: the network has diverged")
    odd = None if finite.all() else f"{int((~finite).sum())} losses are not finite"
    probability = finite.double()
    known = values[:, finite]
    low, high = known.amin(1, keepdim=True), known.amax(1, keepdim=True)
    same = high - low < SAME
    if same.all():
        return probability, odd or "all losses are the same"
    scaled = ((known - low) / (high - low)).masked_fill(same, 0.0)
    column = scaled.mean(0).unsqueeze(1).numpy()
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=seed % 2**32)
    with warnings.catch_warnings():
        # Ten iterations are enough for this, converged or not.
        warnings.simplefilter("ignore")
        mixture.fit(column)
    means = mixture.means_.ravel()
    if abs(means[0] - means[1]) < SAME:
        return probability, odd or "both components are the same"
    posterior = mixture.predict_proba(column)[:, means.argmin()]
    probability[finite] = torch.from_numpy(posterior)
    return probability, odd
