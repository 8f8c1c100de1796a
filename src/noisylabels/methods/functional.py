r"""The steps of the methods as pure functions, for a training loop of your own.

Tensors in, tensors out: nothing here knows a network, an optimiser or the runner, and nothing
draws random numbers. Logits and probabilities have their classes in the last dimension; logits in
half precision are computed in float32, float64 stays. Losses as functions are in
:mod:`noisylabels.functional`, and so is :func:`noisylabels.functional.consensus`, the step of GJS.
"""

import math
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from noisylabels.errors import NoisyLabelsError, check_count, check_range
from noisylabels.functional import cross_entropy

LEAST_P = 1e-4
"""Early-learning regularisation keeps probabilities in [1e-4, 1 - 1e-4]."""
SAME = 1e-6
"""Losses, or means of normalised losses, that are no further apart count as equal."""


def early_learning_targets(input: Tensor, targets: Tensor, *, beta: float) -> Tensor:
    r"""Move the targets of early-learning regularisation towards the present predictions.

    .. math:: t \leftarrow \beta t + (1 - \beta) \, p / \textstyle\sum_k p_k

    with :math:`p` clamped to [1e-4, 1 - 1e-4].

    Args:
        input: Logits; no gradient flows through them.
        targets: The examples' targets so far; they start at 0.
        beta: Weight of the past, in [0, 1).

    Returns:
        The new targets.

    Shape:
        ``input``, ``targets`` and output: (N, K).

    Raises:
        ConfigError: ``beta`` is out of its range.
        ValueError: The shapes differ.

    Example:
        >>> early_learning_targets(torch.zeros(1, 2), torch.tensor([[0.0, 0.8]]), beta=0.5)
        tensor([[0.2500, 0.6500]])

    References:
        Liu, Niles-Weed, Razavian, Fernandez-Granda, "Early-Learning Regularization Prevents
        Memorization of Noisy Labels", 2020; clamped and normalised as in its released code.
    """
    check_range("beta", beta, high=1.0, below=True)
    _check_equal_shapes(input, targets)
    p = _clamped_softmax(input.detach())
    return beta * targets + (1 - beta) * p / p.sum(1, keepdim=True)


def early_learning_penalty(input: Tensor, targets: Tensor) -> Tensor:
    r"""Early-learning regularisation per example.

    .. math:: \log(1 - \langle p, t \rangle)

    with :math:`p` clamped to [1e-4, 1 - 1e-4]. It falls as prediction and target agree.

    Args:
        input: Logits.
        targets: What :func:`early_learning_targets` returned.

    Returns:
        The penalty of each example, in [log 1e-4, 0] with such targets.

    Shape:
        ``input`` and ``targets``: (N, K); output: (N).

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> early_learning_penalty(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
        tensor([-0.6931])

    References:
        Liu, Niles-Weed, Razavian, Fernandez-Granda, "Early-Learning Regularization Prevents
        Memorization of Noisy Labels", 2020; clamped as in its released code.
    """
    _check_equal_shapes(input, targets)
    return torch.log1p(-(targets * _clamped_softmax(input)).sum(1))


def ramp(elapsed: float, *, length: float) -> float:
    r"""Grow linearly from 0 to 1, then stay there.

    .. math:: \min(1, \text{elapsed} / \text{length})

    Co-teaching and JoCoR multiply their forget rate by ``ramp(epoch, length=ramp_epochs - 1)``, so
    that the last epoch of the ramp is the first with the full rate; DivideMix multiplies
    :math:`\lambda_u` by ``ramp(epochs since the warm-up, length=rampup)``.

    Args:
        elapsed: Time since the beginning, at least 0, in any unit.
        length: Time that the growth takes, above 0, in the same unit.

    Returns:
        A factor in [0, 1].

    Raises:
        ConfigError: A value is out of its range.

    Example:
        >>> [ramp(epoch, length=4) for epoch in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
    """
    check_range("elapsed", elapsed)
    return min(1.0, elapsed / check_range("length", length, open=True))


def select_small_losses(losses: Tensor, *, forget_rate: float) -> Tensor:
    r"""Select the examples of a batch with the smallest losses.

    Args:
        losses: One loss per example; those that are NaN count as the largest.
        forget_rate: Share of the examples to leave out, in [0, 1).

    Returns:
        Positions of the :math:`\lfloor (1 - \text{forget rate}) N \rfloor` examples, but at least
        one, of smallest loss, in ascending order of the loss, int64.

    Shape:
        ``losses``: (N); output: (n).

    Raises:
        ConfigError: ``forget_rate`` is out of its range.

    Example:
        >>> select_small_losses(torch.tensor([0.3, 2.0, 0.1, 0.2]), forget_rate=0.5)
        tensor([2, 3])
    """
    check_range("forget_rate", forget_rate, high=1.0, below=True)
    # What is 3 on paper may be a little less for a computer.
    count = max(1, int((1 - forget_rate) * len(losses) + 1e-9))
    return losses.argsort(stable=True)[:count]


def exchange_selections(
    first: Tensor, second: Tensor, *, forget_rate: float
) -> tuple[Tensor, Tensor]:
    """Let each of two networks select the examples that the other one learns from.

    Args:
        first: The first network's loss of each example.
        second: The second network's.
        forget_rate: As for :func:`select_small_losses`.

    Returns:
        Positions of the examples that the first network learns from, which are those of small loss
        to the second one; and of those that the second network learns from.

    Shape:
        ``first`` and ``second``: (N); output: (n) and (n).

    Raises:
        ConfigError: ``forget_rate`` is out of its range.

    Example:
        >>> first, second = torch.tensor([0.1, 5.0]), torch.tensor([5.0, 0.1])
        >>> exchange_selections(first, second, forget_rate=0.5)
        (tensor([1]), tensor([0]))

    References:
        Han, Yao, Yu, Niu, Xu, Hu, Tsang, Sugiyama, "Co-teaching: Robust Training of Deep Neural
        Networks with Extremely Noisy Labels", 2018.
    """
    return (
        select_small_losses(second, forget_rate=forget_rate),
        select_small_losses(first, forget_rate=forget_rate),
    )


def joint_loss(
    first: Tensor,
    second: Tensor,
    target: Tensor,
    *,
    c: float,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Tensor:
    r"""Joint loss of two networks per example.

    .. math::
        (1 - c) \bigl[\ell(z^{(1)}, y) + \ell(z^{(2)}, y)\bigr]
        + c \bigl[KL(p^{(1)} \| p^{(2)}) + KL(p^{(2)} \| p^{(1)})\bigr]

    Args:
        first: The first network's logits, all of them finite.
        second: The second network's logits, all of them finite.
        target: Whatever targets ``loss`` takes.
        c: Weight of the agreement, in [0, 1].
        loss: ``(input, target) -> loss of each example``.

    Returns:
        The loss of each example.

    Shape:
        ``first`` and ``second``: (N, K); output: (N).

    Raises:
        ConfigError: ``c`` is out of its range.
        ValueError: The shapes of the logits differ.

    Example:
        >>> z, y = torch.zeros(1, 4), torch.tensor([3])
        >>> joint_loss(z, z, y, c=0.5)
        tensor([1.3863])

    References:
        Wei, Feng, Chen, An, "Combating Noisy Labels by Agreement: A Joint Training Method with
        Co-Regularization", 2020, where c is called lambda, and the loss is cross entropy.
    """
    check_range("c", c, high=1.0)
    _check_equal_shapes(first, second)
    fit = loss(first, target) + loss(second, target)
    log_p, log_q = _log_softmax(first), _log_softmax(second)
    divergence = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1)
    return (1 - c) * fit + c * divergence


def negative_entropy(input: Tensor) -> Tensor:
    r"""Negative entropy of a prediction, which a confidence penalty adds to the loss.

    .. math:: \sum_k p_k \log p_k

    Args:
        input: Logits, all of them finite.

    Returns:
        The negative entropy of each example, in [-log K, 0].

    Shape:
        ``input``: (N, K); output: (N).

    Example:
        >>> negative_entropy(torch.zeros(1, 2))
        tensor([-0.6931])

    References:
        Li, Socher, Hoi, "DivideMix: Learning with Noisy Labels as Semi-supervised Learning", 2020,
        for the warm-up under asymmetric noise.
    """
    log_p = _log_softmax(input)
    return (log_p.exp() * log_p).sum(1)


def select_agreeing(input: Tensor, target: Tensor) -> Tensor:
    """Select the examples whose labels are predicted.

    Args:
        input: Logits, probabilities or their logarithms.
        target: Given labels, int64 in [0, K).

    Returns:
        Whether each label is the likeliest class.

    Shape:
        ``input``: (..., N, K); ``target``: (N); output: (..., N).

    Example:
        >>> select_agreeing(torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([0, 1]))
        tensor([ True, False])

    References:
        Li, Xia, Zhu, Liu, Zhang, Liu, "Dynamics-Aware Loss for Learning with Label Noise", 2023,
        which trains DivideMix's networks on them after the warm-up.
    """
    return input.argmax(-1) == target


def clean_probability(losses: Tensor, *, seed: int) -> tuple[Tensor, str | None]:
    r"""Tell clean from wrong labels by a mixture of two Gaussians on the losses.

    The losses are scaled to [0, 1], those of several epochs each by themselves, and averaged. The
    result is the posterior of the component with the smaller mean, which does not always fall with
    the loss: far out on the left the wider component can win.

    Args:
        losses: One loss per example, or one for each of several epochs.
        seed: Seed of the fit's start.

    Returns:
        The probability of each label to be clean, float64, 0 where a loss is not finite; and what
        is odd about the mixture, if anything: losses that are not finite, or that are all the
        same, in which case all labels count as clean.

    Shape:
        ``losses``: (N) or (epochs, N); output: (N).

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

    values = losses.detach().cpu().double().reshape(-1, losses.shape[-1])
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


def fill_up(labelled: Tensor, clean: Tensor, *, least: int) -> Tensor:
    """Fill a labelled set that is too small up with the examples that are likeliest clean.

    Args:
        labelled: Whether each example is in the labelled set.
        clean: How likely each label is clean.
        least: Size below which the set is too small: the ``least`` likeliest examples are added
            then.

    Returns:
        Whether each example is in the labelled set; ``labelled`` itself if it is large enough.

    Shape:
        ``labelled``, ``clean`` and output: (N).

    Raises:
        ConfigError: ``least`` is no whole number, or below 0.

    Example:
        >>> clean = torch.tensor([0.1, 0.4, 0.3])
        >>> fill_up(clean > 0.5, clean, least=2)
        tensor([False,  True,  True])
    """
    if int(labelled.sum()) >= check_count("least", least):
        return labelled
    filled = labelled.clone()
    filled[clean.argsort(descending=True, stable=True)[:least]] = True
    return filled


def missing_classes(labelled: Tensor, labels: Tensor) -> list[int]:
    """Find the classes that no labelled example is left of.

    Args:
        labelled: Whether each example is in the labelled set.
        labels: Given labels, int64.

    Returns:
        Those classes among the given labels, in ascending order.

    Shape:
        ``labelled`` and ``labels``: (N).

    Example:
        >>> missing_classes(torch.tensor([True, False]), torch.tensor([0, 3]))
        [3]
    """
    return sorted(set(labels.tolist()) - set(labels[labelled].tolist()))


def fill_up_classes(labelled: Tensor, clean: Tensor, labels: Tensor) -> Tensor:
    """Add to a labelled set, of each class that it misses, the likeliest clean hundredth.

    Args:
        labelled: Whether each example is in the labelled set.
        clean: How likely each label is clean.
        labels: Given labels, int64.

    Returns:
        Whether each example is in the labelled set, in which every given class now has at least
        one.

    Shape:
        ``labelled``, ``clean``, ``labels`` and output: (N).

    Example:
        >>> clean, labels = torch.tensor([0.9, 0.1, 0.2]), torch.tensor([0, 1, 1])
        >>> fill_up_classes(clean > 0.5, clean, labels)
        tensor([ True, False,  True])
    """
    filled = labelled.clone()
    for missing in missing_classes(labelled, labels):
        members = (labels == missing).nonzero().squeeze(1)
        count = math.ceil(len(members) / 100)
        filled[members[clean[members].argsort(descending=True, stable=True)[:count]]] = True
    return filled


def sharpen(probabilities: Tensor, *, T: float) -> Tensor:
    r"""Sharpen class probabilities.

    .. math:: p_k^{1/T} / \textstyle\sum_j p_j^{1/T}

    Args:
        probabilities: Class probabilities.
        T: Temperature, in (0, 1]: 1 leaves them as they are, towards 0 the likeliest class gets
            everything.

    Returns:
        The sharpened probabilities.

    Shape:
        ``probabilities`` and output: (..., K).

    Raises:
        ConfigError: ``T`` is out of its range.

    Example:
        >>> sharpen(torch.tensor([0.2, 0.8]), T=0.5)
        tensor([0.0588, 0.9412])

    References:
        Berthelot, Carlini, Goodfellow, Papernot, Oliver, Raffel, "MixMatch: A Holistic Approach to
        Semi-Supervised Learning", 2019.
    """
    check_range("T", T, high=1.0, open=True)
    # Not a power, which would be 0 for every class at a low temperature.
    return (probabilities.log() / T).softmax(-1)


def co_refine(probabilities: Tensor, target: Tensor, clean: Tensor, *, T: float) -> Tensor:
    r"""Refine the labels of labelled examples by the network's own predictions.

    .. math::
        \hat y = \operatorname{sharpen}\Bigl(w \, e_y
        + (1 - w) \frac{1}{V} \sum_v p^{(v)}, \; T\Bigr)

    Args:
        probabilities: The trained network's class probabilities of each view.
        target: Given labels, int64 in [0, K).
        clean: How likely each label is clean to the other network, :math:`w`, in [0, 1].
        T: Temperature of :func:`sharpen`.

    Returns:
        Class probabilities of each example.

    Shape:
        ``probabilities``: (V, N, K); ``target`` and ``clean``: (N); output: (N, K).

    Raises:
        ConfigError: ``T`` is out of its range.
        ValueError: ``probabilities`` has another number of dimensions.

    Example:
        >>> views = torch.tensor([[[0.4, 0.6]], [[0.6, 0.4]]])
        >>> co_refine(views, torch.tensor([1]), torch.tensor([0.6]), T=1.0)
        tensor([[0.2000, 0.8000]])

    References:
        Li, Socher, Hoi, "DivideMix: Learning with Noisy Labels as Semi-supervised Learning", 2020.
    """
    _check_dimensions(probabilities, "(views, N, K)")
    label = F.one_hot(target, probabilities.shape[-1])
    weight = clean.unsqueeze(1)
    return sharpen(weight * label + (1 - weight) * probabilities.mean(0), T=T)


def co_guess(probabilities: Tensor, *, T: float) -> Tensor:
    r"""Guess the labels of unlabelled examples by the predictions of several networks.

    .. math::
        \hat u = \operatorname{sharpen}\Bigl(\frac{1}{MV} \sum_{m, v} p^{(m, v)}, \; T\Bigr)

    Args:
        probabilities: Each network's class probabilities of each view.
        T: Temperature of :func:`sharpen`.

    Returns:
        Class probabilities of each example.

    Shape:
        ``probabilities``: (M, V, N, K); output: (N, K).

    Raises:
        ConfigError: ``T`` is out of its range.
        ValueError: ``probabilities`` has another number of dimensions.

    Example:
        >>> networks = torch.tensor([[[[0.1, 0.9]], [[0.3, 0.7]]], [[[0.2, 0.8]], [[0.2, 0.8]]]])
        >>> co_guess(networks, T=1.0)
        tensor([[0.2000, 0.8000]])

    References:
        Li, Socher, Hoi, "DivideMix: Learning with Noisy Labels as Semi-supervised Learning", 2020.
    """
    _check_dimensions(probabilities, "(networks, views, N, K)")
    return sharpen(probabilities.mean(0).mean(0), T=T)


def mix(input: Tensor, target: Tensor, *, share: float, partner: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mix examples and their targets with other ones.

    .. math::
        x'_i = l \, x_i + (1 - l) \, x_{j_i}, \qquad
        t'_i = l \, t_i + (1 - l) \, t_{j_i}, \qquad
        l = \max(\text{share}, 1 - \text{share})

    so that a mixed example stays nearer to the one in its place.

    Args:
        input: The examples.
        target: Class probabilities of each.
        share: Usually drawn from a distribution :math:`Beta(\alpha, \alpha)`, in [0, 1].
        partner: Which example each is mixed with, :math:`j`: usually a random permutation, int64.

    Returns:
        The mixed examples and their targets.

    Shape:
        ``input``: (N, ...); ``target``: (N, K); ``partner``: (N); output: as ``input`` and
        ``target``.

    Raises:
        ConfigError: ``share`` is out of its range.

    Example:
        >>> x, t = torch.tensor([[0.0], [1.0]]), torch.eye(2)
        >>> mix(x, t, share=0.25, partner=torch.tensor([1, 0]))
        (tensor([[0.2500],
                [0.7500]]), tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]]))

    References:
        Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", 2018.
        Berthelot, Carlini, Goodfellow, Papernot, Oliver, Raffel, "MixMatch: A Holistic Approach to
        Semi-Supervised Learning", 2019, for the maximum.
    """
    check_range("share", share, high=1.0)
    share = max(share, 1 - share)
    return (
        torch.lerp(input[partner], input, share),
        torch.lerp(target[partner], target, share),
    )


def balance_penalty(log_p: Tensor, prior: Tensor) -> Tensor:
    r"""Divergence of a batch's mean prediction from the classes' prior.

    .. math:: KL\Bigl(\pi \,\Big\|\, \frac{1}{N} \sum_i p_i\Bigr)

    Args:
        log_p: Log-probabilities of the classes.
        prior: The share of each class, :math:`\pi`; zeros count for nothing.

    Returns:
        A scalar, at least 0.

    Shape:
        ``log_p``: (N, K); ``prior``: (K); output: ().

    Example:
        >>> log_p = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
        >>> round(balance_penalty(log_p, torch.tensor([0.5, 0.5])).item(), 4)
        0.0

    References:
        Tanaka, Ikami, Yamasaki, Aizawa, "Joint Optimization Framework for Learning with Noisy
        Labels", 2018.
        Li, Socher, Hoi, "DivideMix: Learning with Noisy Labels as Semi-supervised Learning", 2020.
    """
    mean_log_p = log_p.logsumexp(0) - math.log(len(log_p))
    return (torch.xlogy(prior, prior) - prior * mean_log_p).sum()


def _log_softmax(input: Tensor) -> Tensor:
    return input.log_softmax(-1, dtype=torch.promote_types(input.dtype, torch.float32))


def _clamped_softmax(input: Tensor) -> Tensor:
    p = input.softmax(-1, dtype=torch.promote_types(input.dtype, torch.float32))
    return p.clamp(LEAST_P, 1 - LEAST_P)


def _check_equal_shapes(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"expected tensors of the same shape, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )


def _check_dimensions(probabilities: Tensor, shape: str) -> None:
    if probabilities.ndim != shape.count(",") + 1:
        raise ValueError(
            f"expected probabilities of shape {shape}, got {tuple(probabilities.shape)}"
        )
