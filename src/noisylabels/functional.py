r"""The losses as pure functions: logits and targets in, one loss per example out.

Every function takes ``input`` (logits, classes at dim 1, or at dim 0 without a batch) and
``target`` (class indices, or class probabilities of the shape of ``input``) and works in log
space: with ``log_p`` from one log-softmax there is nothing to clamp, so a vanishing :math:`p_y`
has the formula's gradient, not zero. Half precision is computed in float32; float64 stays.

With class probabilities :math:`\eta` a loss is its expectation
:math:`\sum_k \eta_k \, \ell(z, k)`, as in the paper's theory.

A ``target`` of truth values, of the shape of ``input``, is a set of candidates, of which one is the
label. Where a loss sees the label through :math:`p_y` alone, the set's total probability
:math:`\sum_{k \in S} p_k` takes its place, see :func:`log_total_probability`.

``reduce`` is the one place that knows reductions, class weights and ``ignore_index``.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from noisylabels.errors import ConfigError, DataError

HALF = (torch.float16, torch.bfloat16)
LOG_RCE = math.log(1e-4)
"""What reverse cross entropy takes for log 0."""
LEAST_Q = 1e-12
"""An exponent below this is 0, its limit; dividing by it would lose all digits."""
LEAST_NORM = 1e-12
"""Logits that are shorter have no direction."""
LEAST_LOG_P = -1e30
"""Stands for log 0 where p log p must be 0 and not NaN; exp of it is 0."""


def cross_entropy(input: Tensor, target: Tensor) -> Tensor:
    r"""Cross entropy per example.

    .. math:: \ell = -\log p_y

    Args:
        input: Logits.
        target: Class indices in [0, C), or class probabilities.

    Returns:
        The loss of each example, in [0, inf).

    Shape:
        ``input``: (C), (N, C) or (N, C, d1, ...); ``target``: the same without C, or the same
        as ``input`` for probabilities; output: ``input`` without C.

    Raises:
        RuntimeError, ValueError, IndexError: As ``torch.nn.functional.cross_entropy`` does for
            shapes that do not fit and indices out of range.

    Example:
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor([1.3863, 1.3863])
    """
    input = _at_least_float32(input)
    if target.is_floating_point() or holds_candidates(input, target):
        return _expectation(lambda log_p: -log_p, input, target)
    return F.cross_entropy(input, target, reduction="none")


def mean_absolute_error(input: Tensor, target: Tensor) -> Tensor:
    r"""Mean absolute error per example, scaled to [0, 1].

    .. math:: \ell = 1 - p_y

    Args:
        input: Logits.
        target: Class indices in [0, C), or class probabilities.

    Returns:
        The loss of each example, in [0, 1].

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> mean_absolute_error(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor([0.7500, 0.7500])

    References:
        Ghosh, Kumar, Sastry, "Robust Loss Functions under Label Noise for Deep Neural Networks",
        2017, where it is :math:`2(1 - p_y)`; here without the factor, as limit of GCE at q = 1.
    """
    return _expectation(_rest, input, target)


def generalized_cross_entropy(input: Tensor, target: Tensor, *, q: float) -> Tensor:
    r"""Generalized cross entropy per example.

    .. math:: \ell = \frac{1 - p_y^q}{q}

    with the limit :math:`-\log p_y` at q = 0 and :math:`1 - p_y` at q = 1.

    Args:
        input: Logits.
        target: Class indices in [0, C), or class probabilities.
        q: Exponent, at least 0; above 1 easy examples weigh more than hard ones.

    Returns:
        The loss of each example, in [0, 1/q].

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> generalized_cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]), q=0.5)
        tensor([1., 1.])

    References:
        Zhang, Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with
        Noisy Labels", 2018; here without their truncation.
    """
    if q < LEAST_Q:
        return cross_entropy(input, target)
    return _expectation(lambda log_p: generalized_cross_entropy_of(log_p, q=q), input, target)


def generalized_cross_entropy_of(log_p: Tensor, *, q: float) -> Tensor:
    r"""Compute :func:`generalized_cross_entropy` from the label's log-probability.

    Args:
        log_p: :math:`\log p_y`.
        q: Exponent, at least 0.

    Returns:
        The loss of each example, of the shape of ``log_p``.

    Example:
        >>> generalized_cross_entropy_of(torch.tensor([0.25]).log(), q=0.5)
        tensor([1.])
    """
    if q < LEAST_Q:
        return -log_p
    # Not pow: with a changing exponent torch.compile gives wrong values for it.
    return _rest(q * log_p) / q


def taylor_cross_entropy(
    input: Tensor, target: Tensor, *, order: float, max_order: int | None = None
) -> Tensor:
    r"""Taylor cross entropy per example.

    .. math:: \ell = \sum_{i=1}^{\text{order}} \frac{(1 - p_y)^i}{i}

    Order 1 is mean absolute error, an infinite order cross entropy. Between two whole orders the
    loss is interpolated linearly: order 2.3 is the sum to 2 plus 0.3 times the third term.

    Args:
        input: Logits.
        target: Class indices in [0, C), or class probabilities.
        order: At least 1.
        max_order: Number of terms that are computed, at least ``order``; a fixed number lets a
            compiled graph serve every order. By default ``order`` rounded up.

    Returns:
        The loss of each example, in [0, 1 + 1/2 + ... + 1/order].

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> taylor_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), order=2.5)
        tensor([0.6458])

    References:
        Feng, Shu, Lin, Lv, Li, An, "Can Cross Entropy Loss Be Robust to Label Noise?", 2020,
        with whole orders only.
    """
    count = math.ceil(order) if max_order is None else max_order

    def series(log_p: Tensor) -> Tensor:
        exponent = torch.arange(1, count + 1, dtype=log_p.dtype, device=log_p.device)
        coefficient = (1 - exponent + order).clamp(0, 1) / exponent
        return (_rest(log_p).unsqueeze(-1) ** exponent * coefficient).sum(-1)

    return _expectation(series, input, target)


def jensen_shannon(input: Tensor, target: Tensor, *, pi: float) -> Tensor:
    r"""Scaled Jensen-Shannon divergence per example between the label and the prediction.

    .. math::
        \ell = Z \bigl[\pi \, KL(e_y \| m) + (1 - \pi) \, KL(p \| m)\bigr], \qquad
        m = \pi e_y + (1 - \pi) p, \qquad Z = \frac{-1}{(1 - \pi) \log(1 - \pi)}

    with the limit cross entropy at pi = 0 and mean absolute error at pi = 1.

    Args:
        input: Logits.
        target: Class indices in [0, C), or class probabilities.
        pi: Weight of the label, in [0, 1].

    Returns:
        The loss of each example, at least 0.

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> jensen_shannon(torch.zeros(1, 2), torch.tensor([0]), pi=0.5)
        tensor([0.6226])

    References:
        Englesson, Azizpour, "Generalized Jensen-Shannon Divergence Loss for Learning with Noisy
        Labels", 2021, where class probabilities stand for :math:`e_y` itself.
    """
    return _expectation(lambda log_p: _jensen_shannon_of(log_p, pi), input, target)


def generalized_jensen_shannon(input: Tensor, target: Tensor, *, pi: float) -> Tensor:
    r"""Scaled generalized Jensen-Shannon divergence of the label and several predictions.

    The predictions :math:`p^{(v)}` of V augmented views share the weight :math:`1 - \pi`:

    .. math::
        \ell = Z \Bigl[\pi \, KL(e_y \| m) + \frac{1 - \pi}{V} \sum_v KL(p^{(v)} \| m)\Bigr],
        \qquad m = \pi e_y + (1 - \pi) \bar p

    With :math:`\bar p` the mean prediction this is :func:`jensen_shannon` of :math:`\bar p` plus
    :math:`-1/\log(1 - \pi)` times the views' mean divergence from :math:`\bar p`.

    Args:
        input: Logits of each view.
        target: Class indices in [0, C).
        pi: Weight of the label, in (0, 1].

    Returns:
        The loss of each example, at least 0.

    Shape:
        ``input``: (V, N, C); ``target``: (N); output: (N).

    Raises:
        TypeError: ``target`` holds class probabilities.
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> views = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]])
        >>> generalized_jensen_shannon(views, torch.tensor([0]), pi=0.5)
        tensor([0.6226])

    References:
        Englesson, Azizpour, "Generalized Jensen-Shannon Divergence Loss for Learning with Noisy
        Labels", 2021.
    """
    require_indices("generalized_jensen_shannon", target)
    mean_log_p, divergence = consensus(input)
    fit = _jensen_shannon_of(-F.nll_loss(mean_log_p, target, reduction="none"), pi)
    return fit - divergence / torch.log1p(-_scalar(pi, mean_log_p))


def consensus(input: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean prediction of several views, and how far the views are from it.

    .. math::
        \bar p = \frac{1}{V} \sum_v p^{(v)}, \qquad
        D = \frac{1}{V} \sum_v KL(p^{(v)} \| \bar p)

    Args:
        input: Logits of each view.

    Returns:
        :math:`\log \bar p`, which are logits of the mean prediction, and :math:`D`, in
        [0, log V].

    Shape:
        ``input``: (V, N, C); output: (N, C) and (N).

    Raises:
        ValueError: ``input`` has another shape.

    Example:
        >>> mean_log_p, divergence = consensus(torch.tensor([[[9.0, -9.0]], [[-9.0, 9.0]]]))
        >>> mean_log_p.exp(), divergence
        (tensor([[0.5000, 0.5000]]), tensor([0.6931]))

    References:
        Englesson, Azizpour, "Generalized Jensen-Shannon Divergence Loss for Learning with Noisy
        Labels", 2021, of whose loss it is the part without a label.
    """
    if input.ndim != 3:
        raise ValueError(f"expected input of shape (views, N, C), got {tuple(input.shape)}")
    log_p = F.log_softmax(_at_least_float32(input), dim=-1).clamp(min=LEAST_LOG_P)
    mean_log_p = log_p.logsumexp(0) - math.log(len(log_p))
    return mean_log_p, (log_p.exp() * (log_p - mean_log_p)).sum(-1).mean(0)


def reverse_cross_entropy(input: Tensor, target: Tensor, *, A: float = LOG_RCE) -> Tensor:
    r"""Reverse cross entropy per example.

    .. math:: \ell = -A \, (1 - p_y)

    Args:
        input: Logits.
        target: Class indices in [0, C), or class probabilities.
        A: What stands for log 0, at most 0.

    Returns:
        The loss of each example, in [0, -A].

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> reverse_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), A=-4.0)
        tensor([2.])

    References:
        Wang, Ma, Chen, Luo, Yi, Bailey, "Symmetric Cross Entropy for Robust Learning with Noisy
        Labels", 2019. The paper prints A = -4; its code, and ours by default, use log 1e-4.
    """
    return _expectation(lambda log_p: -A * _rest(log_p), input, target)


def symmetric_cross_entropy(
    input: Tensor, target: Tensor, *, alpha: float, beta: float, A: float = LOG_RCE
) -> Tensor:
    r"""Symmetric cross entropy per example.

    .. math:: \ell = -\alpha \log p_y - \beta A \, (1 - p_y)

    Args:
        input: Logits.
        target: Class indices in [0, C), or class probabilities.
        alpha: Weight of cross entropy, at least 0.
        beta: Weight of reverse cross entropy, at least 0.
        A: What stands for log 0, at most 0.

    Returns:
        The loss of each example, in [0, inf).

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> symmetric_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), alpha=0.0, beta=1.0, A=-4)
        tensor([2.])

    References:
        Wang, Ma, Chen, Luo, Yi, Bailey, "Symmetric Cross Entropy for Robust Learning with Noisy
        Labels", 2019, with A as in :func:`reverse_cross_entropy`.
    """

    def both(log_p: Tensor) -> Tensor:
        return symmetric_cross_entropy_of(log_p, alpha=alpha, beta=beta, A=A)

    return _expectation(both, input, target)


def symmetric_cross_entropy_of(
    log_p: Tensor, *, alpha: float, beta: float, A: float = LOG_RCE
) -> Tensor:
    r"""Compute :func:`symmetric_cross_entropy` from the label's log-probability.

    Args:
        log_p: :math:`\log p_y`.
        alpha: Weight of cross entropy, at least 0.
        beta: Weight of reverse cross entropy, at least 0.
        A: What stands for log 0, at most 0.

    Returns:
        The loss of each example, of the shape of ``log_p``.

    Example:
        >>> symmetric_cross_entropy_of(torch.tensor([0.5]).log(), alpha=0.0, beta=1.0, A=-4)
        tensor([2.])
    """
    reverse = -beta * A * _rest(log_p)
    # Of a -inf logit, 0 times infinity would be left.
    if not torch.compiler.is_compiling() and alpha == 0:
        return reverse
    return reverse - alpha * log_p


def normalized_cross_entropy(input: Tensor, target: Tensor) -> Tensor:
    r"""Normalized cross entropy per example.

    .. math:: \ell = \frac{\log p_y}{\sum_k \log p_k}

    Args:
        input: Logits of at least two classes.
        target: Class indices in [0, C), or class probabilities.

    Returns:
        The loss of each example, in [0, 1]; where n classes have probability 0 it is 1/n if the
        label is one of them, and 0 if not.

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> normalized_cross_entropy(torch.zeros(1, 4), torch.tensor([0]))
        tensor([0.2500])

    References:
        Ma, Huang, Wang, Romano, Erfani, Bailey, "Normalized Loss Functions for Deep Learning with
        Noisy Labels", 2020.
    """
    log_p, dim = _log_softmax(input), _class_dim(input)
    # Of a label that is excluded it would be infinite by infinite.
    excluded = (_picked(log_p.detach(), target) == -math.inf).unsqueeze(dim)
    log_p = torch.where(excluded, log_p.clamp(min=LEAST_LOG_P), log_p)
    return _picked(log_p, target) / log_p.sum(dim)


def active_passive(input: Tensor, target: Tensor, *, alpha: float, beta: float) -> Tensor:
    r"""Active passive loss per example: normalized and reverse cross entropy.

    .. math::
        \ell = \alpha \frac{\log p_y}{\sum_k \log p_k} - \beta A \, (1 - p_y), \quad
        A = \log 10^{-4}

    Args:
        input: Logits of at least two classes.
        target: Class indices in [0, C), or class probabilities.
        alpha: Weight of normalized cross entropy, at least 0.
        beta: Weight of reverse cross entropy, at least 0.

    Returns:
        The loss of each example, in [0, alpha - beta A].

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> active_passive(torch.zeros(1, 4), torch.tensor([0]), alpha=1.0, beta=0.0)
        tensor([0.2500])

    References:
        Ma, Huang, Wang, Romano, Erfani, Bailey, "Normalized Loss Functions for Deep Learning with
        Noisy Labels", 2020.
    """
    active = normalized_cross_entropy(input, target)
    return alpha * active + beta * reverse_cross_entropy(input, target)


def asymmetric_generalized_cross_entropy(
    input: Tensor, target: Tensor, *, a: float, q: float
) -> Tensor:
    r"""Asymmetric generalized cross entropy per example.

    .. math:: \ell = \frac{(a + 1)^q - (a + p_y)^q}{q}

    Args:
        input: Logits.
        target: Class indices in [0, C), or class probabilities.
        a: Shift of the probability, at least 0; 0 is generalized cross entropy.
        q: Exponent, at least 0; at 0 the limit :math:`\log((a + 1) / (a + p_y))`.

    Returns:
        The loss of each example, at least 0.

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> x, y = torch.zeros(1, 2), torch.tensor([0])
        >>> asymmetric_generalized_cross_entropy(x, y, a=1.0, q=2.0)
        tensor([0.8750])

    References:
        Zhou, Liu, Jiang, Gao, Ji, "Asymmetric Loss Functions for Learning with Noisy Labels",
        2021.
    """
    if a == 0:
        return generalized_cross_entropy(input, target, q=q)

    def shifted(log_p: Tensor) -> Tensor:
        rest = _rest(log_p)
        # torch.compile would make a graph of every value for math.
        top = torch.log1p(_scalar(a, log_p)) if torch.compiler.is_compiling() else math.log1p(a)
        # log((a + p)/(a + 1)): either form loses digits where the other keeps them.
        ratio = torch.where(
            rest < 0.5, torch.log1p(-rest / (a + 1)), torch.log(a + log_p.exp()) - top
        )
        return -ratio if q == 0 else (a + 1) ** q * _rest(q * ratio) / q

    return _expectation(shifted, input, target)


def active_asymmetric(
    input: Tensor, target: Tensor, *, alpha: float, beta: float, a: float, q: float
) -> Tensor:
    r"""Normalized and asymmetric generalized cross entropy per example.

    .. math::
        \ell = \alpha \frac{\log p_y}{\sum_k \log p_k}
        + \beta \frac{(a + 1)^q - (a + p_y)^q}{q}

    Args:
        input: Logits of at least two classes.
        target: Class indices in [0, C), or class probabilities.
        alpha: Weight of normalized cross entropy, at least 0.
        beta: Weight of asymmetric generalized cross entropy, at least 0.
        a: Shift of the probability, at least 0.
        q: Exponent, at least 0.

    Returns:
        The loss of each example, at least 0.

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> x, y = torch.zeros(1, 2), torch.tensor([0])
        >>> active_asymmetric(x, y, alpha=0.0, beta=1.0, a=1.0, q=2.0)
        tensor([0.8750])

    References:
        Zhou, Liu, Jiang, Gao, Ji, "Asymmetric Loss Functions for Learning with Noisy Labels",
        2021.
    """
    passive = asymmetric_generalized_cross_entropy(input, target, a=a, q=q)
    return alpha * normalized_cross_entropy(input, target) + beta * passive


def sparse_regularized_cross_entropy(
    input: Tensor, target: Tensor, *, tau: float, lamb: float, p: float
) -> Tensor:
    r"""Cross entropy with sparse regularization per example.

    .. math::
        \ell = -\log s_y + \lambda \sum_k s_k^p, \qquad
        s = \operatorname{softmax}\Bigl(\frac{z}{\tau \|z\|_2}\Bigr)

    Args:
        input: Logits; -inf logits stand for excluded classes and count for no norm.
        target: Class indices in [0, C), or class probabilities.
        tau: Temperature, above 0.
        lamb: Weight of the regularization :math:`\lambda`, at least 0.
        p: Exponent, above 0; small values ask for sparse predictions.

    Returns:
        The loss of each example, at least 0.

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([1])
        >>> sparse_regularized_cross_entropy(x, y, tau=1.0, lamb=0.0, p=0.1)
        tensor([0.5981])

    References:
        Zhou, Liu, Wang, Zhai, Jiang, Ji, "Learning with Noisy Labels via Sparse Regularization",
        2021.
    """
    input, dim = _at_least_float32(input), _class_dim(input)
    excluded = input == -math.inf
    finite = input.masked_fill(excluded, 0)
    norm = torch.linalg.vector_norm(finite, dim=dim, keepdim=True)
    # Of a new last layer of zeros, whose first step would be next to infinite.
    scaled = finite / norm.masked_fill(norm < LEAST_NORM, 1) / tau
    scaled = scaled.masked_fill(excluded, -math.inf)
    spread = torch.exp(p * _log_softmax(scaled)).sum(dim)
    if target.is_floating_point():
        spread = spread * target.sum(dim).to(spread.dtype)
    return cross_entropy(scaled, target) + lamb * spread


def bi_tempered_logistic(
    input: Tensor, target: Tensor, *, t1: float, t2: float, num_iters: int = 5
) -> Tensor:
    r"""Bi-tempered logistic loss per example.

    .. math::
        \ell = -\log_{t_1} p_y - \frac{1 - \sum_k p_k^{2 - t_1}}{2 - t_1}, \qquad
        p_k = \exp_{t_2}(z_k - \lambda(z))

    with :math:`\log_t x = (x^{1-t} - 1)/(1-t)`, its inverse :math:`\exp_t`, and the normalisation
    :math:`\lambda` from a fixed-point iteration. At t1 = t2 = 1 it is cross entropy.

    Args:
        input: Logits; -inf logits stand for excluded classes.
        target: Class indices in [0, C), or class probabilities.
        t1: Temperature of the logarithm, in [0, 2); below 1 the loss is bounded.
        t2: Temperature of the softmax, at least 1; above 1 its tails are heavy.
        num_iters: Fixed-point steps, at least 1.

    Returns:
        The loss of each example. After few steps p sums to 1 only nearly, so it can fall a little
        below 0.

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> bi_tempered_logistic(torch.zeros(1, 4), torch.tensor([0]), t1=1.0, t2=1.0)
        tensor([1.3863])

    References:
        Amid, Warmuth, Anil, Koren, "Robust Bi-Tempered Logistic Loss Based on Bregman
        Divergences", 2019; t2 below 1 (light tails) is left out, and the gradient is that of the
        computed value, through the steps.
    """
    dim = _class_dim(input)
    log_p = _log_softmax(input) if t2 == 1 else _tempered_log_softmax(input, t2, num_iters)
    picked = _expectation_of(lambda x: _tempered_log(x, t1), log_p, target)
    rest = 1 - torch.exp((2 - t1) * log_p).sum(dim)
    if target.is_floating_point():
        rest = rest * target.sum(dim).to(rest.dtype)
    return -picked - rest / (2 - t1)


def negative_learning(
    input: Tensor, target: Tensor, *, complement: Tensor, class_weight: Tensor | None = None
) -> Tensor:
    r"""Negative learning loss per example: what the example is said not to be.

    .. math:: \ell = -\sum_{c \in \text{complement}} w_c \log(1 - p_c)

    Args:
        input: Logits of at least two classes.
        target: Class indices in [0, C); only their shape counts.
        complement: Complementary class indices of each example, see
            :func:`draw_complement`.
        class_weight: Weight of each class :math:`w`, by default 1.

    Returns:
        The loss of each example, at least 0.

    Shape:
        ``input``: (C), (N, C) or (N, C, d1, ...); ``target``: the same without C; ``complement``:
        as ``target`` with n at the end; ``class_weight``: (C); output: as ``target``.

    Raises:
        TypeError: ``target`` holds class probabilities.
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> x, y = torch.zeros(1, 4), torch.tensor([0])
        >>> negative_learning(x, y, complement=torch.tensor([[1, 2]]))
        tensor([0.5754])

    References:
        Kim, Yim, Yun, Kim, "NLNL: Negative Learning for Noisy Labels", 2019; only its negative
        stage. The released code divides by the drawn weights' sum, we by nothing, so that an
        example's loss does not depend on its batch.
    """
    require_indices("negative_learning", target)
    dim = _class_dim(input)
    log_p = _log_softmax(input)
    F.nll_loss(log_p, target, reduction="none")  # raises what torch raises
    log_rest = _log_rest(log_p, dim)
    drawn = log_rest.movedim(dim, -1).gather(-1, complement)
    if class_weight is not None:
        drawn = drawn * class_weight.to(drawn.dtype)[complement]
    return -drawn.sum(-1)


def draw_complement(target: Tensor, *, num_classes: int, n: int) -> Tensor:
    """Draw complementary labels uniformly, with replacement, from the classes that are not given.

    The draw is torch's own (``torch.randint``): ``torch.manual_seed`` fixes it, and
    ``torch.func.vmap`` asks for its argument ``randomness``.

    Args:
        target: Class indices in [0, ``num_classes``), of any shape.
        num_classes: At least 2.
        n: Labels to draw for each example, at least 1.

    Returns:
        Class indices, int64, of the shape of ``target`` with ``n`` at the end.

    Raises:
        ConfigError: There is only one class.

    Example:
        >>> draw_complement(torch.tensor([0, 1]), num_classes=2, n=3)
        tensor([[1, 1, 1],
                [0, 0, 0]])
    """
    if num_classes < 2:
        raise ConfigError(f"complementary labels need at least 2 classes, got {num_classes}")
    offset = torch.randint(1, num_classes, (*target.shape, n), device=target.device)
    return (target.long().unsqueeze(-1) + offset) % num_classes


def poly1(input: Tensor, target: Tensor, *, epsilon: float) -> Tensor:
    r"""Poly-1 loss per example.

    .. math:: \ell = -\log p_y + \epsilon \, (1 - p_y)

    Args:
        input: Logits.
        target: Class indices in [0, C), or class probabilities.
        epsilon: Added weight of the first term of cross entropy's Taylor series, at least -1.

    Returns:
        The loss of each example, in [0, inf).

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> poly1(torch.zeros(1, 2), torch.tensor([0]), epsilon=2.0)
        tensor([1.6931])

    References:
        Leng, Tan, Liu, Cubuk, Shi, Cheng, Anguelov, "PolyLoss: A Polynomial Expansion Perspective
        of Classification Loss Functions", 2022.
    """
    return _expectation(lambda log_p: epsilon * _rest(log_p) - log_p, input, target)


def dynamics_aware(input: Tensor, target: Tensor, *, q: float, lamb: float) -> Tensor:
    r"""Dynamics-aware loss per example at one moment of training.

    .. math::
        \ell = \frac{1 - p_y^q}{q} + \lambda \frac{H(p)}{q \log K}, \qquad
        H(p) = -\sum_k p_k \log p_k

    The first term has range [0, 1/q], the second [0, lambda/q]. The gradient flows through both
    factors of H.

    Args:
        input: Logits.
        target: Class indices in [0, C), or class probabilities.
        q: Exponent, at least 0.
        lamb: Weight of the bootstrapping term :math:`\lambda`, at least 0; 0 where q is 0.

    Returns:
        The loss of each example, in [0, (1 + lamb)/q].

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.
        ConfigError: ``lamb`` is not 0 where q is 0.

    Example:
        >>> dynamics_aware(torch.zeros(1, 4), torch.tensor([0]), q=2.0, lamb=1.0)
        tensor([0.9688])

    References:
        Li, Xia, Zhu, Liu, Zhang, Liu, "Dynamics-Aware Loss for Learning with Label Noise", 2023;
        without the released code's clamps.
    """
    loss = generalized_cross_entropy(input, target, q=q)
    classes = input.shape[_class_dim(input)]
    # A compiled graph serves every weight, so it must not ask whether this one is 0.
    if classes == 1 or (not torch.compiler.is_compiling() and lamb == 0):
        return loss
    if q == 0 and lamb == 0:
        return loss
    scaled = _entropy(input) * entropy_weight(classes, q=q, lamb=lamb)
    if target.is_floating_point():
        scaled = scaled * target.sum(_class_dim(input)).to(scaled.dtype)
    return loss + scaled


def entropy_weight(classes: int, *, q: float, lamb: float) -> float:
    r"""Compute the weight of the entropy in :func:`dynamics_aware`, :math:`\lambda/(q \log K)`.

    Args:
        classes: Number of classes K, at least 2.
        q: Exponent, at least 0.
        lamb: Weight of the bootstrapping term :math:`\lambda`, at least 0; 0 where q is 0.

    Returns:
        The weight.

    Raises:
        ConfigError: ``lamb`` is not 0 where q is 0.

    Example:
        >>> round(entropy_weight(10, q=1.5, lamb=0.5), 4)
        0.1448
    """
    if q == 0:
        raise ConfigError(f"lamb must be 0 where q is 0, got {lamb!r}")
    return lamb / (q * math.log(classes))


def relative_entropy(input: Tensor) -> Tensor:
    r"""Compute how undecided predictions are: their entropy, of the greatest that there is.

    .. math:: H(p) / \log K = -\sum_k p_k \log p_k / \log K

    Args:
        input: Logits.

    Returns:
        The share of each example, in [0, 1]: 1 where all classes are alike, 0 where one is
        certain, or the only one.

    Shape:
        Of :func:`cross_entropy`'s target.

    Example:
        >>> relative_entropy(torch.tensor([[2.0, 2.0], [2.0, 0.0]]))
        tensor([1.0000, 0.5271])
    """
    return _entropy(input) / math.log(max(2, input.shape[_class_dim(input)]))


def active_negative(
    input: Tensor, target: Tensor, *, alpha: float, beta: float, min_prob: float = 1e-7
) -> Tensor:
    r"""Active negative loss per example: normalized and normalized negative cross entropy.

    .. math::
        \ell = \alpha \frac{\log p_y}{\sum_k \log p_k}
        + \beta \Bigl(1 - \frac{A + \log p_y}{\sum_k (A + \log p_k)}\Bigr), \qquad
        A = -\log p_{\min}

    The second part turns cross entropy upside down: it asks for a high loss of the other classes,
    and its gradient grows with :math:`p_y`. In it, and nowhere else, no :math:`p_k` counts for
    less than :math:`p_{\min}`, at which a class has the whole of what it can be asked for.

    Args:
        input: Logits of at least two classes.
        target: Class indices in [0, C), or class probabilities.
        alpha: Weight of normalized cross entropy, at least 0.
        beta: Weight of normalized negative cross entropy, at least 0.
        min_prob: The probability :math:`p_{\min}`, in (0, 1/C).

    Returns:
        The loss of each example, in [0, alpha + beta].

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.
        ConfigError: ``min_prob`` is not below 1/C.

    Example:
        >>> active_negative(torch.zeros(1, 4), torch.tensor([0]), alpha=1.0, beta=1.0)
        tensor([1.])

    References:
        Ye, Li, Dai, Liu, Sun, Tong, "Active Negative Loss Functions for Learning with Noisy
        Labels", 2023, as ANL-CE.
    """
    return _active_negative(lambda log_p: -log_p, input, target, alpha, beta, min_prob)


def active_negative_focal(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float,
    beta: float,
    gamma: float,
    min_prob: float = 1e-7,
) -> Tensor:
    r"""Active negative loss per example: normalized and normalized negative focal loss.

    .. math::
        \ell = \alpha \frac{F(p_y)}{\sum_k F(p_k)}
        + \beta \Bigl(1 - \frac{A - F(p_y)}{\sum_k (A - F(p_k))}\Bigr), \qquad
        F(p) = -(1 - p)^\gamma \log p, \quad A = F(p_{\min})

    At gamma = 0 it is :func:`active_negative`.

    Args:
        input: Logits of at least two classes.
        target: Class indices in [0, C), or class probabilities.
        alpha: Weight of normalized focal loss, at least 0.
        beta: Weight of normalized negative focal loss, at least 0.
        gamma: Exponent of the focal loss, at least 0.
        min_prob: Least probability that counts in the second part, in (0, 1/C).

    Returns:
        The loss of each example, in [0, alpha + beta].

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.
        ConfigError: ``min_prob`` is not below 1/C.

    Example:
        >>> x, y = torch.zeros(1, 4), torch.tensor([0])
        >>> active_negative_focal(x, y, alpha=1.0, beta=1.0, gamma=0.5)
        tensor([1.])

    References:
        Ye, Li, Dai, Liu, Sun, Tong, "Active Negative Loss Functions for Learning with Noisy
        Labels", 2023, as ANL-FL. The released code takes :math:`(1 - p)^\gamma` for a constant
        where it differentiates; here the gradient is the formula's.
    """
    return _active_negative(_focal(gamma), input, target, alpha, beta, min_prob)


def class_imbalance(input: Tensor, counts: Tensor | None = None) -> Tensor:
    r"""How unevenly a batch is predicted to be spread over the classes.

    .. math::
        R = \log C + \sum_k \bar p_k \log \bar p_k, \qquad
        \bar p = \frac{1}{N} \sum_n p^{(n)}

    Args:
        input: Logits.
        counts: Which examples count; all by default.

    Returns:
        A scalar in [0, log C]: 0 where the mean prediction is uniform. Of no examples it is log C.

    Shape:
        ``input``: (C), (N, C) or (N, C, d1, ...); ``counts``: bool, the same without C.

    Example:
        >>> class_imbalance(torch.tensor([[9.0, -9.0], [-9.0, 9.0]]))
        tensor(0.)

    References:
        Ye, Wu, Xu, Li, Zhang, Chen, "Active Negative Loss: A Robust Framework for Learning with
        Noisy Labels", 2024, as the entropy regularization of ANL.
    """
    dim = _class_dim(input)
    if counts is None:
        p = _log_softmax(input).exp()
        number: int | Tensor = max(1, input.numel() // input.shape[dim])
    else:
        # What does not count may be anything, not finite too.
        outside = ~counts.unsqueeze(dim)
        p = _log_softmax(input.masked_fill(outside, 0)).exp().masked_fill(outside, 0)
        number = counts.sum().clamp(min=1)
    rows = p.movedim(dim, -1).reshape(-1, p.shape[dim])
    mean = rows.sum(0) / number
    log_mean = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()
    return math.log(len(mean)) + (mean * log_mean).sum()


def joint_asymmetric(
    input: Tensor, target: Tensor, *, alpha: float, beta: float, a: float
) -> Tensor:
    r"""Joint asymmetric loss per example: normalized cross entropy and asymmetric square error.

    .. math::
        \ell = \alpha \frac{\log p_y}{\sum_k \log p_k}
        + \frac{\beta}{C} \sum_k (p_k - a \, 1[k = y])^2

    At a = 1 the second part is the mean square error.

    Args:
        input: Logits of at least two classes.
        target: Class indices in [0, C), or class probabilities.
        alpha: Weight of normalized cross entropy, at least 0.
        beta: Weight of the asymmetric mean square error, at least 0.
        a: Where the probability of the label is drawn to, at least 1.

    Returns:
        The loss of each example, at least 0.

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> joint_asymmetric(torch.zeros(1, 2), torch.tensor([0]), alpha=0.0, beta=1.0, a=2.0)
        tensor([1.2500])

    References:
        Wang, Liu, Zhou, Hu, Zhai, Jiang, Ji, "Joint Asymmetric Loss for Learning with Noisy
        Labels", 2025, as JAL-CE.
    """
    active = normalized_cross_entropy(input, target)
    return alpha * active + beta * _asymmetric_square_error(input, target, a)


def joint_asymmetric_focal(
    input: Tensor, target: Tensor, *, alpha: float, beta: float, a: float, gamma: float
) -> Tensor:
    r"""Joint asymmetric loss per example: normalized focal loss and asymmetric square error.

    .. math::
        \ell = \alpha \frac{F(p_y)}{\sum_k F(p_k)}
        + \frac{\beta}{C} \sum_k (p_k - a \, 1[k = y])^2, \qquad
        F(p) = -(1 - p)^\gamma \log p

    At gamma = 0 it is :func:`joint_asymmetric`.

    Args:
        input: Logits of at least two classes.
        target: Class indices in [0, C), or class probabilities.
        alpha: Weight of normalized focal loss, at least 0.
        beta: Weight of the asymmetric mean square error, at least 0.
        a: Where the probability of the label is drawn to, at least 1.
        gamma: Exponent of the focal loss, at least 0.

    Returns:
        The loss of each example, at least 0.

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> x, y = torch.zeros(1, 2), torch.tensor([0])
        >>> joint_asymmetric_focal(x, y, alpha=1.0, beta=0.0, a=2.0, gamma=0.5)
        tensor([0.5000])

    References:
        Wang, Liu, Zhou, Hu, Zhai, Jiang, Ji, "Joint Asymmetric Loss for Learning with Noisy
        Labels", 2025, as JAL-FL.
    """
    each = _focal(gamma)(_log_softmax(input).clamp(min=LEAST_LOG_P))
    active = _picked(each, target) / each.sum(_class_dim(input))
    return alpha * active + beta * _asymmetric_square_error(input, target, a)


def epsilon_softmax(
    input: Tensor, target: Tensor, *, alpha: float, beta: float, m: float
) -> Tensor:
    r"""Cross entropy of an epsilon-softmax and mean absolute error, per example.

    .. math::
        \ell = -\alpha \log \frac{p_y + m \, 1[y = \arg\max_k p_k]}{m + 1} + 2 \beta (1 - p_y)

    The likeliest class is given m more, so that predictions are nearly one-hot: the absolute
    differences add up to less than 2/(m + 1). At m = 0 the first part is cross entropy.

    Args:
        input: Logits.
        target: Class indices in [0, C), or class probabilities.
        alpha: Weight of the cross entropy, at least 0.
        beta: Weight of mean absolute error, at least 0.
        m: What the likeliest class is given, at least 0.

    Returns:
        The loss of each example, in [0, inf).

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> x, y = torch.tensor([[0.0, 1.0]]), torch.tensor([1])
        >>> epsilon_softmax(x, y, alpha=1.0, beta=0.0, m=1e4)
        tensor([2.6892e-05])

    References:
        Wang, Zhou, Zhai, Jiang, Ji, Liu, "epsilon-Softmax: Approximating One-Hot Vectors for
        Mitigating Label Noise", 2024, as CE_eps + MAE; its mean absolute error is twice ours.
        The released code takes no probability for less than 1e-8, we all as they are.
    """
    dim = _class_dim(input)
    log_p = _log_softmax(input)
    likeliest = log_p.argmax(dim, keepdim=True)
    own, added = log_p.gather(dim, likeliest), _scalar(m, log_p)
    rest = _rest(own)
    # log((p + m)/(1 + m)): either form loses digits where the other keeps them.
    raised = torch.where(
        rest < 0.5 * (1 + added),
        torch.log1p(-rest / (1 + added)),
        torch.log(own.exp() + added) - torch.log1p(added),
    )
    near_one_hot = (log_p - torch.log1p(added)).scatter(dim, likeliest, raised)
    passive = 2 * beta * mean_absolute_error(input, target)
    # As in symmetric_cross_entropy_of.
    if not torch.compiler.is_compiling() and alpha == 0:
        return passive
    return passive - alpha * _picked(near_one_hot, target)


def truncated_generalized_cross_entropy(
    input: Tensor, target: Tensor, *, q: float, k: float
) -> Tensor:
    r"""Truncated generalized cross entropy per example.

    .. math:: \ell = \frac{1 - \max(p_y, k)^q}{q}

    An example whose label is no likelier than k is taken for a wrong one: it has no gradient. At
    k = 0 it is :func:`generalized_cross_entropy`.

    Args:
        input: Logits.
        target: Class indices in [0, C), or class probabilities.
        q: Exponent, at least 0.
        k: Probability up to which the loss stays the same, in [0, 1).

    Returns:
        The loss of each example, in [0, (1 - k^q)/q].

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> x, y = torch.zeros(1, 4), torch.tensor([0])
        >>> truncated_generalized_cross_entropy(x, y, q=1.0, k=0.5)
        tensor([0.5000])

    References:
        Zhang, Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with
        Noisy Labels", 2018. They leave examples out for ten epochs by what the best network so far
        predicts; here the prediction that the gradient is taken of decides.
    """

    def truncated(log_p: Tensor) -> Tensor:
        kept = torch.maximum(log_p, torch.log(_scalar(k, log_p)))
        return -kept if q < LEAST_Q else _rest(q * kept) / q

    return _expectation(truncated, input, target)


def label_distributionally_robust(
    input: Tensor, target: Tensor, *, lamb: float, margin: float, normalize: bool = True
) -> Tensor:
    r"""Label-distributionally robust loss with KL regularization (LDR-KL), per example.

    .. math::
        \ell = \lambda \log \frac{1}{C} \sum_k
        \exp \frac{s_k - s_y + c \, 1[k \ne y]}{\lambda}, \qquad
        s = C \, \frac{\operatorname{softplus}(z)}{\sum_k \operatorname{softplus}(z_k)}

    A small :math:`\lambda` counts the worst class alone, as a support vector machine does, a large
    one all alike. At :math:`\lambda = 1` with c = 0 and s = z it is cross entropy less log C.

    Args:
        input: Logits; -inf logits stand for excluded classes.
        target: Class indices in [0, C), or class probabilities.
        lamb: Weight of the regularization :math:`\lambda`, above 0.
        margin: How far the label's score should be above the others :math:`c`, at least 0.
        normalize: Whether scores are nonnegative and have mean 1, as in the formula; if not, they
            are the logits.

    Returns:
        The loss of each example, at least :math:`-\lambda \log C`.

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> x, y = torch.zeros(1, 2), torch.tensor([0])
        >>> label_distributionally_robust(x, y, lamb=1.0, margin=0.0)
        tensor([0.])

    References:
        Zhu, Ying, Yang, "Label Distributionally Robust Losses for Multi-class Classification:
        Consistency, Robustness and Adaptivity", 2023; without its adaptive ALDR-KL.
    """
    scores = _normalized_scores(input) if normalize else _at_least_float32(input)
    dim = _class_dim(input)
    temperature, above = _scalar(lamb, scores), _scalar(margin, scores)
    # The weights of the worst case, as if no class had a margin: the label loses its own.
    log_p = F.log_softmax(scores / temperature, dim=dim)
    worst = torch.logaddexp(_log_rest(log_p, dim), log_p - above / temperature) - log_p
    return _picked(above + temperature * (worst - math.log(input.shape[dim])), target)


def clipped_gradient(input: Tensor, target: Tensor, *, q: float, threshold: float) -> Tensor:
    r"""Generalized cross entropy with a clipped gradient, per example.

    .. math::
        \ell = \begin{cases}
        (1 - p_y^q)/q & p_y > t \\
        (1 - t^q)/q + t^{q - 1} (t - p_y) & p_y \le t
        \end{cases}

    Below the threshold t it goes on as a line: there, no gradient by :math:`p_y` is greater. At
    q = 0 it is that of cross entropy, whose limit at a threshold of 0 it is.

    Args:
        input: Logits.
        target: Class indices in [0, C), or class probabilities.
        q: Exponent, in [0, 1).
        threshold: The probability t, in (0, 1].

    Returns:
        The loss of each example, at least 0.

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> clipped_gradient(torch.zeros(1, 4), torch.tensor([0]), q=0.0, threshold=0.5)
        tensor([1.1931])

    References:
        Ye, Wu, Zhang, Li, Chen, Jin, "Optimized Gradient Clipping for Noisy Label Learning", 2025,
        of whose OGC it is one step; Menon, Rawat, Reddi, Kumar, "Can Gradient Clipping Mitigate
        Label Noise?", 2020, for a threshold that stays. The released code has 1 in place of
        :math:`t^q`, which is the same for cross entropy.
    """

    def clipped(log_p: Tensor) -> Tensor:
        limit = _scalar(threshold, log_p)
        kept = torch.maximum(log_p, limit.log())
        steep = torch.exp((q - 1) * limit.log()) * (limit - log_p.exp()).clamp(min=0)
        return steep + (-kept if q < LEAST_Q else _rest(q * kept) / q)

    return _expectation(clipped, input, target)


def forward_corrected(input: Tensor, target: Tensor, *, matrix: Tensor) -> Tensor:
    r"""Cross entropy of the labels that a prediction lets expect, per example.

    .. math:: \ell = -\log \sum_k T_{ky} \, p_k

    Args:
        input: Logits.
        target: Class indices in [0, C), or class probabilities; with these it takes C times the
            memory.
        matrix: Probabilities :math:`T` of each given label (columns) for each true one (rows).

    Returns:
        The loss of each example, in [0, inf).

    Shape:
        As for :func:`cross_entropy`; ``matrix``: (C, C).

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> matrix = torch.tensor([[0.7, 0.3], [0.3, 0.7]])
        >>> forward_corrected(torch.tensor([[0.0, 99.0]]), torch.tensor([0]), matrix=matrix)
        tensor([1.2040])

    References:
        Patrini, Rozza, Menon, Nock, Qu, "Making Deep Neural Networks Robust to Label Noise: a Loss
        Correction Approach", 2017.
    """
    dim = _class_dim(input)
    log_p = _log_softmax(input)
    given = matrix.to(log_p).log()
    if target.is_floating_point():
        joint = log_p.movedim(dim, -1).unsqueeze(-1) + given
        expected = _logsumexp(joint, -2).movedim(-1, dim)
        return _expectation_of(lambda log_q: -log_q, expected, target)
    F.nll_loss(log_p, target, reduction="none")  # raises what torch raises
    return -_logsumexp(log_p.movedim(dim, -1) + given.T[target.long()], -1)


def backward_corrected(input: Tensor, target: Tensor, *, inverse: Tensor) -> Tensor:
    r"""Cross entropy of the true labels as it is to be expected from the given ones, per example.

    .. math:: \ell = -\sum_k (T^{-1})_{yk} \log p_k

    Its mean over given labels that follow the matrix is cross entropy's mean over the true ones.

    Args:
        input: Logits; classes of -inf logits count for nothing.
        target: Class indices in [0, C), or class probabilities.
        inverse: The inverse of the probabilities :math:`T` of each given label (columns) for each
            true one (rows).

    Returns:
        The loss of each example; it can be negative without bound.

    Shape:
        As for :func:`cross_entropy`; ``inverse``: (C, C).

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> inverse = torch.tensor([[0.7, 0.3], [0.3, 0.7]]).inverse()
        >>> backward_corrected(torch.zeros(1, 2), torch.tensor([0]), inverse=inverse)
        tensor([0.6931])

    References:
        Patrini, Rozza, Menon, Nock, Qu, "Making Deep Neural Networks Robust to Label Noise: a Loss
        Correction Approach", 2017.
    """
    dim = _class_dim(input)
    log_p = _log_softmax(input)
    log_p = log_p.masked_fill(log_p == -math.inf, 0)
    weights = inverse.to(log_p)
    if target.is_floating_point():
        if target.shape != log_p.shape:
            F.cross_entropy(log_p, target)  # raises what torch raises
        # A matrix product, which autocast would take in bfloat16.
        with torch.autocast(log_p.device.type, enabled=False):
            share = target.to(log_p.dtype).movedim(dim, -1) @ weights
    else:
        F.nll_loss(log_p, target, reduction="none")  # raises what torch raises
        share = weights[target.long()]
    return -(share * log_p.movedim(dim, -1)).sum(-1)


def peer(
    function: Callable[[Tensor, Tensor], Tensor],
    input: Tensor,
    target: Tensor,
    *,
    alpha: float,
    pairs: Tensor,
) -> Tensor:
    r"""Peer loss per example: a loss less that of examples with the labels of others.

    .. math:: \ell_n = \ell(z_n, y_n) - \alpha \, \ell(z_{i_n}, y_{j_n})

    What a network says of any example, whatever its label is, is taken off. A pair of which the
    loss is infinite, for a -inf logit, counts for nothing.

    Args:
        function: ``(input, target) -> per-example loss``, the loss on the right.
        input: Logits.
        target: Class indices in [0, C).
        alpha: Weight of the pairs, at least 0.
        pairs: For each example the indices i and j of the two that make its pair.

    Returns:
        The loss of each example; without bound below if the loss has none above.

    Shape:
        ``input`` and ``target`` as for :func:`cross_entropy`; ``pairs``: (2, N d1 ...), indices
        into the places of ``target`` in order; output: as ``target``.

    Raises:
        TypeError: ``target`` holds class probabilities.
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> x, y = torch.tensor([[0.0, 9.0], [9.0, 0.0]]), torch.tensor([1, 0])
        >>> pairs = torch.tensor([[0, 1], [1, 1]])
        >>> peer(mean_absolute_error, x, y, alpha=1.0, pairs=pairs)
        tensor([-0.9998,  0.0000])

    References:
        Liu, Guo, "Peer Loss Functions: Learning from Noisy Labels without Knowing Noise Rates",
        2020; both of a pair are of the batch.
    """
    require_indices("peer", target)
    own = function(input, target)
    if target.numel() == 0:
        return own
    rows = input.movedim(_class_dim(input), -1).reshape(-1, input.shape[_class_dim(input)])
    first, second = pairs
    others = function(rows[first], target.reshape(-1)[second])
    others = others.masked_fill(others.isinf(), 0)
    return own - alpha * others.reshape(own.shape)


def clip_logits(input: Tensor, *, delta: float) -> Tensor:
    r"""Scale logits down to a greatest norm.

    .. math:: z \mapsto z \min\Bigl(1, \frac{\delta}{\|z\|_2}\Bigr)

    Args:
        input: Logits; -inf logits stand for excluded classes and count for no norm.
        delta: The greatest norm :math:`\delta`, above 0.

    Returns:
        Logits, in float32 for half precision.

    Shape:
        ``input``: (C), (N, C) or (N, C, d1, ...); output: the same.

    Example:
        >>> clip_logits(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), delta=1.0)
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])

    References:
        Wei, Zhuang, Xie, Feng, Niu, An, Li, "Mitigating Memorization of Noisy Labels by Clipping
        the Model Prediction", 2023, as LogitClip.
    """
    input, dim = _at_least_float32(input), _class_dim(input)
    excluded = input == -math.inf
    finite = input.masked_fill(excluded, 0)
    norm = torch.linalg.vector_norm(finite, dim=dim, keepdim=True)
    # Where nothing is clipped the norm must have no gradient, which it has not at 0.
    longer = norm > delta
    scale = torch.where(longer, delta / norm.masked_fill(~longer, 1), 1)
    return (finite * scale).masked_fill(excluded, -math.inf)


def holds_candidates(input: Tensor, target: Tensor) -> bool:
    """Return whether targets are sets of candidates: truth values, one for each class."""
    return target.dtype is torch.bool and target.ndim == input.ndim


def log_total_probability(input: Tensor, candidates: Tensor) -> Tensor:
    r"""Log-probability that the class is one of each example's candidates.

    .. math:: \log \sum_{k \in S} p_k = -\log\Bigl(1 + \exp\bigl(
        \operatorname{logsumexp}_{k \notin S} z_k - \operatorname{logsumexp}_{k \in S} z_k
        \bigr)\Bigr)

    Nothing cancels where the set has almost all of the probability, and the gradient is
    :math:`p_k - p_k [k \in S] / \sum_{j \in S} p_j` with its sign turned. Where all candidates have
    a logit of -inf it is the limit in which they are equally likely.

    Args:
        input: Logits.
        candidates: Which classes are in each example's set, bool.

    Returns:
        The log-probability of each example's set, at most 0: 0 for the set of all classes; NaN for
        an empty one on devices that one would have to wait for.

    Shape:
        ``input``: (C), (N, C) or (N, C, d1, ...); ``candidates``: the same; output: without C.

    Raises:
        ValueError: ``candidates`` are of another shape.
        DataError: A set is empty; the message names the row (on a CPU, outside of compiled code).

    Example:
        >>> sets = torch.tensor([[True, True, False, False], [True, True, True, True]])
        >>> log_total_probability(torch.zeros(2, 4), sets).exp()
        tensor([0.5000, 1.0000])
    """
    dim = _class_dim(input)
    sizes = _set_sizes(input, candidates)
    log_p = _log_softmax(input)
    within = _logsumexp(log_p.masked_fill(~candidates, -math.inf), dim)
    without = _logsumexp(log_p.masked_fill(candidates, -math.inf), dim)
    # No candidate has any probability: the gradient is that of their mean, the value -inf as well.
    lost = (within == -math.inf) & (sizes > 0)
    mean = log_p.masked_fill(~candidates, 0).sum(dim) / sizes
    return torch.where(lost, mean, F.logsigmoid(within - without)).masked_fill(sizes == 0, math.nan)


def candidate_weights(input: Tensor, candidates: Tensor, *, sharpness: float = 1.0) -> Tensor:
    r"""What each candidate seems worth by the network's own predictions, without a gradient.

    .. math:: w_k = \frac{p_k^\tau}{\sum_{j \in S} p_j^\tau} \text{ for } k \in S, \quad
        w_k = 0 \text{ for others}

    Args:
        input: Logits.
        candidates: Which classes are in each example's set, bool.
        sharpness: :math:`\tau`, at least 0: 0 takes all candidates alike, 1 believes the
            predictions, and more than 1 goes towards the likeliest candidate alone.

    Returns:
        Class probabilities, to be a loss's ``target``.

    Shape:
        ``input`` and ``candidates``: (C), (N, C) or (N, C, d1, ...); output: the same.

    Raises:
        ValueError: ``candidates`` are of another shape.
        DataError: A set is empty; the message names the row (on a CPU, outside of compiled code).

    Example:
        >>> logits, sets = torch.tensor([[2.0, 1.0, 5.0]]), torch.tensor([[True, True, False]])
        >>> candidate_weights(logits, sets)
        tensor([[0.7311, 0.2689, 0.0000]])
        >>> candidate_weights(logits, sets, sharpness=0.0)
        tensor([[0.5000, 0.5000, 0.0000]])

    References:
        Lv, Xu, Feng, Niu, Geng, Sugiyama, "Progressive Identification of True Labels for
        Partial-Label Learning", 2020, for the weights at sharpness 1, which it takes from an
        example's last visit; here they are those of the present logits.
    """
    _set_sizes(input, candidates)
    # A logit of -inf says nothing of its candidate at sharpness 0, and 0 times it would be NaN.
    log_p = _log_softmax(input.detach()).clamp(min=LEAST_LOG_P)
    return (sharpness * log_p).masked_fill(~candidates, -math.inf).softmax(_class_dim(input))


def reduce(
    function: Callable[[Tensor, Tensor], Tensor],
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    class_dim: int | None = None,
) -> Tensor:
    r"""Apply a per-example loss and reduce it as ``torch.nn.CrossEntropyLoss`` does.

    For class indices the mean is :math:`\sum_n w_{y_n} \ell_n / \sum_n w_{y_n}` over the examples
    that are not ignored; for class probabilities the weights scale the probabilities and the mean
    is over all examples. Smoothed class indices are class probabilities that keep the mean of
    class indices. Sets of candidates have neither weights nor smoothing, and none is ignored.

    Args:
        function: ``(input, target) -> per-example loss``.
        input: Logits.
        target: Class indices, class probabilities or sets of candidates.
        weight: Weight of each class, of shape (C).
        ignore_index: Class index whose examples count for nothing; not used for probabilities.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        label_smoothing: How far each target is moved to the uniform distribution, in [0, 1].
        class_dim: Dimension of the classes; by default 1, or 0 without a batch.

    Returns:
        A scalar, or the loss of each example for ``"none"`` (0 where ignored). The mean of
        nothing is NaN, as torch has it.

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.
        RuntimeError: ``weight`` is not of shape (C).
        TypeError: There are weights, or smoothing, for sets of candidates.

    Example:
        >>> x, y = torch.zeros(3, 4), torch.tensor([0, 3, -100])
        >>> reduce(mean_absolute_error, x, y)
        tensor(0.7500)
    """
    dim = _class_dim(input) if class_dim is None else class_dim
    if weight is not None and weight.shape != (input.shape[dim],):
        raise RuntimeError(
            f"weight must be of shape (C), one for each of {input.shape[dim]} classes, "
            f"got {tuple(weight.shape)}"
        )
    if holds_candidates(input, target):
        if weight is not None or label_smoothing:
            raise TypeError("weight and label_smoothing are not defined for sets of candidates")
        loss = function(input, target)
        count: int | Tensor = loss.numel()
    elif target.is_floating_point():
        if label_smoothing:
            target = (1 - label_smoothing) * target + label_smoothing / input.shape[dim]
        loss = function(input, _weighted(target, weight, input.ndim, dim))
        count = loss.numel()
    else:
        ignored = is_ignored(target, ignore_index)
        known = target.masked_fill(ignored, 0)
        if label_smoothing:
            smoothed = _smoothed(input, known, label_smoothing, dim)
            loss = function(input, _weighted(smoothed, weight, input.ndim, dim))
        else:
            loss = function(input, known)
        loss = loss.masked_fill(ignored, 0)
        if weight is None:
            count = target.numel() - ignored.sum()
        else:
            scale = weight.to(loss.dtype)[known.long()].masked_fill(ignored, 0)
            loss, count = loss if label_smoothing else loss * scale, scale.sum()
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / count


def is_ignored(target: Tensor, ignore_index: int) -> Tensor:
    """Say which class indices are the one whose examples count for nothing.

    Args:
        target: Class indices.
        ignore_index: That index.

    Returns:
        bool, of the shape of ``target``.
    """
    # Of bytes any number would be taken modulo 256: -100 would be class 156.
    whole = target.long() if target.dtype is torch.uint8 else target
    return whole == ignore_index


def _weighted(target: Tensor, weight: Tensor | None, ndim: int, dim: int) -> Tensor:
    """Scale class probabilities by the classes' weights."""
    if weight is None:
        return target
    shape = [1] * ndim
    shape[dim] = -1
    return target * weight.view(shape)


def _smoothed(input: Tensor, target: Tensor, smoothing: float, dim: int) -> Tensor:
    """Make class probabilities of class indices: (1 - s) one-hot + s/C."""
    logits = _at_least_float32(input)
    F.nll_loss(logits, target, reduction="none")  # raises what torch raises
    rest = smoothing / input.shape[dim]
    spread = torch.full_like(logits, rest, requires_grad=False)
    return spread.scatter(dim, target.long().unsqueeze(dim), 1 - smoothing + rest)


def _class_dim(input: Tensor) -> int:
    return 0 if input.ndim == 1 else 1


def _at_least_float32(input: Tensor) -> Tensor:
    return input.float() if input.dtype in HALF else input


def _log_softmax(input: Tensor) -> Tensor:
    # CPU autocast leaves log_softmax in bfloat16, so the dtype is asked for.
    dtype = torch.float32 if input.dtype in HALF else None
    return F.log_softmax(input, dim=_class_dim(input), dtype=dtype)


def _entropy(input: Tensor) -> Tensor:
    log_p = _log_softmax(input).clamp(min=LEAST_LOG_P)
    return -(log_p.exp() * log_p).sum(_class_dim(input))


def _expectation(function: Callable[[Tensor], Tensor], input: Tensor, target: Tensor) -> Tensor:
    """Apply a function of log p_y, or take its expectation under class probabilities."""
    if holds_candidates(input, target):
        return function(log_total_probability(input, target))
    if not target.is_floating_point():
        # Torch's own kernel: it checks the shapes, and forms no log_p but the label's.
        return function(-F.cross_entropy(_at_least_float32(input), target, reduction="none"))
    return _expectation_of(function, _log_softmax(input), target)


def _expectation_of(function: Callable[[Tensor], Tensor], log_p: Tensor, target: Tensor) -> Tensor:
    """Apply a function of log p_y, or take its expectation, where all log p are at hand."""
    if not target.is_floating_point():
        return function(_picked(log_p, target))
    if target.shape != log_p.shape:
        F.cross_entropy(log_p, target)  # raises what torch raises
    target = target.to(log_p.dtype)
    # A class of probability 0 counts for nothing, even where the function is infinite.
    return (target * function(log_p)).masked_fill(target == 0, 0).sum(_class_dim(log_p))


def _picked(log_p: Tensor, target: Tensor) -> Tensor:
    if target.is_floating_point():
        return _expectation_of(lambda x: x, log_p, target)
    return -F.nll_loss(log_p, target, reduction="none")


def _logsumexp(log_p: Tensor, dim: int) -> Tensor:
    """Sum probabilities, with a gradient of 0 and not NaN where all of them are 0."""
    top = log_p.detach().amax(dim, keepdim=True)
    none = top == -math.inf
    # Torch's gradient is exp(log_p - result), which loses its digits where both are large.
    below = (log_p - top).masked_fill(none, 0)
    return (below.logsumexp(dim) + top.squeeze(dim)).masked_fill(none.squeeze(dim), -math.inf)


def _set_sizes(input: Tensor, candidates: Tensor) -> Tensor:
    """Count each set's candidates; an empty one is refused where no device is waited for."""
    if candidates.shape != input.shape or candidates.dtype is not torch.bool:
        raise ValueError(
            f"expected candidates, bool, of the input's shape {tuple(input.shape)}, got "
            f"{candidates.dtype} of shape {tuple(candidates.shape)}"
        )
    sizes = candidates.sum(_class_dim(input))
    looks = not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active()
    if looks and sizes.is_cpu and not bool(sizes.all()):
        row = int((sizes.reshape(-1) == 0).nonzero()[0])
        raise DataError(f"row {row}: expected at least one candidate class, got none")
    return sizes


def require_indices(name: str, target: Tensor) -> None:
    """Refuse class probabilities for a loss that they do not define.

    Raises:
        TypeError: ``target`` holds class probabilities.
    """
    if target.is_floating_point():
        raise TypeError(f"{name} is not defined for class probabilities: expected class indices")


def _rest(log_x: Tensor) -> Tensor:
    """Compute 1 - x from log x, exactly in value and gradient.

    Autograd takes expm1's derivative as its result plus 1, which loses a small x altogether.
    """
    return torch.where(log_x < -1, 1 - log_x.exp(), -torch.expm1(log_x))


def _log_rest(log_p: Tensor, dim: int) -> Tensor:
    """Compute log(1 - p) of every class."""
    # That of the likeliest class would lose all digits: it is the others' logsumexp.
    top = log_p.argmax(dim, keepdim=True)
    others = _logsumexp(log_p.scatter(dim, top, -math.inf), dim).unsqueeze(dim)
    return torch.log1p(-log_p.scatter(dim, top, -math.inf).exp()).scatter(dim, top, others)


def _scalar(value: float, like: Tensor) -> Tensor:
    """Make a tensor of a hyper-parameter, so that its infinities follow IEEE, not Python."""
    # Not torch.full, for which torch.compile would make a graph of every value.
    return like.new_zeros(()) + value


def _focal(gamma: float) -> Callable[[Tensor], Tensor]:
    """Return the focal loss of log p, which must be finite."""

    def focal(log_p: Tensor) -> Tensor:
        # A power of 0 has no gradient to multiply a log of 1 with.
        rest = _rest(log_p).clamp(min=torch.finfo(log_p.dtype).tiny)
        return -log_p * torch.exp(gamma * torch.log(rest))

    return focal


def _active_negative(
    cost: Callable[[Tensor], Tensor],
    input: Tensor,
    target: Tensor,
    alpha: float,
    beta: float,
    min_prob: float,
) -> Tensor:
    """Join a normalized loss with its normalized negative, from the loss of log p."""
    dim = _class_dim(input)
    if min_prob * input.shape[dim] >= 1:
        raise ConfigError(
            f"min_prob must be below 1/C, the probability of a class at chance: with "
            f"{input.shape[dim]} classes below {1 / input.shape[dim]:.4g}, got {min_prob!r}"
        )
    log_p = _log_softmax(input).clamp(min=LEAST_LOG_P)
    least = math.log(min_prob)
    each, limited = cost(log_p), cost(log_p.clamp(min=least))
    flipped = cost(_scalar(least, log_p)) - limited
    active = _picked(each, target) / each.sum(dim)
    negative = _picked(flipped, target) / flipped.sum(dim)
    total = target.sum(dim).to(log_p.dtype) if target.is_floating_point() else 1
    return alpha * active + beta * (total - negative)


def _asymmetric_square_error(input: Tensor, target: Tensor, a: float) -> Tensor:
    dim = _class_dim(input)
    p = _log_softmax(input).exp()
    squares = (p * p).sum(dim, keepdim=True)
    drawn = _scalar(a, p)
    # (a - p_y)^2 in place of p_y^2.
    each = (squares + drawn * (drawn - 2 * p)) / input.shape[dim]
    return _picked(each, target)


def _normalized_scores(input: Tensor) -> Tensor:
    """Divide softplus of logits by its mean, in log space so that it never vanishes."""
    input, dim = _at_least_float32(input), _class_dim(input)
    low = input < -15
    # log(softplus(z)) is z - exp(z)/2 there.
    log_softplus = torch.where(
        low, input - input.clamp(max=-15).exp() / 2, F.softplus(input.clamp(min=-15)).log()
    )
    scores = input.shape[dim] * log_softplus.softmax(dim)
    return scores.masked_fill(input == -math.inf, -math.inf)


def _jensen_shannon_of(log_p: Tensor, pi: float) -> Tensor:
    """Compute the scaled Jensen-Shannon divergence of a label and a prediction from log p_y.

    With r = 1 - p_y and w = -log(1 - pi) it is
    r + [-pi log(1 - (1 - pi) r)/(1 - pi) - p_y log(1 + pi r/p_y)]/w, where nothing cancels.
    """
    if pi == 0:
        return -log_p
    rest = _rest(log_p)
    weight = _scalar(pi, log_p)
    other = (1 - weight).clamp(min=torch.finfo(log_p.dtype).tiny)
    # log m_y: the one form loses p_y beside pi, the other 1 - pi beside 1.
    log_mean = torch.where(
        other * rest < 0.5, torch.log1p(-other * rest), torch.log(log_p.exp() + weight * rest)
    )
    # Below exp(-80) the product with p_y is 0 to every digit, and the quotient would overflow.
    gain = log_p.exp() * torch.log1p(weight * rest * torch.exp(-log_p.clamp(min=-80)))
    return rest + (-weight * log_mean / other - gain) / -torch.log1p(-weight)


def _tempered_log(log_x: Tensor, t: float) -> Tensor:
    return log_x if t == 1 else -_rest((1 - t) * log_x) / (1 - t)


def _tempered_log_softmax(input: Tensor, t: float, num_iters: int) -> Tensor:
    """Compute log p of the tempered softmax with t above 1 by fixed-point iteration."""
    input, dim = _at_least_float32(input), _class_dim(input)
    excluded = input == -math.inf
    top = input.amax(dim, keepdim=True)
    below = (top - input.masked_fill(excluded, 0)).masked_fill(excluded, 0)
    slope = t - 1

    def total(scale: Tensor | float) -> Tensor:
        tempered = torch.exp(-torch.log1p(slope * below * scale) / slope)
        return tempered.masked_fill(excluded, 0).sum(dim, keepdim=True)

    scale: Tensor | float = 1.0
    for _ in range(num_iters):
        scale = torch.exp(-slope * torch.log(total(scale)))
    # lambda - max(z) = -log_t(1/Z) = (Z^(t-1) - 1)/(t-1)
    level = torch.expm1(slope * torch.log(total(scale))) / slope
    log_p = -torch.log1p(slope * (below + level)) / slope
    return log_p.masked_fill(excluded, -math.inf)
