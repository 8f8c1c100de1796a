r"""The losses as pure functions: logits and targets in, one loss per example out.

Every function takes ``input`` (logits, classes at dim 1, or at dim 0 without a batch) and
``target`` (class indices, or class probabilities of the shape of ``input``) and works in log
space: with ``log_p`` from one log-softmax there is nothing to clamp, so a vanishing :math:`p_y`
has the formula's gradient, not zero. Half precision is computed in float32; float64 stays.

With class probabilities :math:`\eta` a loss is its expectation
:math:`\sum_k \eta_k \, \ell(z, k)`, as in the paper's theory.

``reduce`` is the one place that knows reductions, class weights and ``ignore_index``.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from noisylabels.errors import ConfigError

HALF = (torch.float16, torch.bfloat16)


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
    if input.dtype in HALF:
        input = input.float()
    if target.is_floating_point():
        target = target.to(input.dtype)
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
    return generalized_cross_entropy(input, target, q=1.0)


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
    if q == 0:
        return cross_entropy(input, target)
    if target.is_floating_point():
        log_p = _log_softmax(input)
        return (target.to(log_p.dtype) * (-torch.expm1(q * log_p) / q)).sum(_class_dim(input))
    # Not pow: with a changing exponent torch.compile gives wrong values for it.
    return -torch.expm1(-q * cross_entropy(input, target)) / q


def dynamics_aware(input: Tensor, target: Tensor, *, q: float, lamb: float) -> Tensor:
    r"""Dynamics-aware loss per example at one moment of training.

    .. math::
        \ell = \frac{1 - p_y^q}{q} + \lambda \frac{H(p)}{q \log K}, \qquad
        H(p) = -\sum_k p_k \log p_k

    Both terms have range [0, 1/q]. The gradient flows through both factors of H.

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
    if lamb == 0 or classes == 1:
        return loss
    if q == 0:
        raise ConfigError(f"lamb must be 0 where q is 0, got {lamb!r}")
    scaled = _entropy(input) * (lamb / (q * math.log(classes)))
    if target.is_floating_point():
        scaled = scaled * target.sum(_class_dim(input))
    return loss + scaled


def reduce(
    function: Callable[[Tensor, Tensor], Tensor],
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Apply a per-example loss and reduce it as ``torch.nn.CrossEntropyLoss`` does.

    For class indices the mean is :math:`\sum_n w_{y_n} \ell_n / \sum_n w_{y_n}` over the examples
    that are not ignored; for class probabilities the weights scale the probabilities and the mean
    is over all examples.

    Args:
        function: ``(input, target) -> per-example loss``.
        input: Logits.
        target: Class indices or class probabilities.
        weight: Weight of each class, of shape (C).
        ignore_index: Class index whose examples count for nothing; not used for probabilities.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or the loss of each example for ``"none"`` (0 where ignored). The mean of
        nothing is NaN, as torch has it.

    Shape:
        As for :func:`cross_entropy`.

    Raises:
        RuntimeError, ValueError, IndexError: As :func:`cross_entropy`.

    Example:
        >>> x, y = torch.zeros(3, 4), torch.tensor([0, 3, -100])
        >>> reduce(mean_absolute_error, x, y)
        tensor(0.7500)
    """
    if target.is_floating_point():
        if weight is not None:
            shape = [-1 if d == _class_dim(input) else 1 for d in range(input.ndim)]
            target = target * weight.view(shape)
        loss = function(input, target)
        count = loss.new_tensor(loss.numel())
    else:
        valid = target != ignore_index
        known = target.where(valid, 0)
        loss = function(input, known)
        scale = valid.to(loss.dtype) if weight is None else weight.to(loss.dtype)[known] * valid
        loss = loss.where(valid, 0) * scale
        count = scale.sum()
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / count


def _class_dim(input: Tensor) -> int:
    return 0 if input.ndim == 1 else 1


def _log_softmax(input: Tensor) -> Tensor:
    # CPU autocast leaves log_softmax in bfloat16, so the dtype is asked for.
    dtype = torch.float32 if input.dtype in HALF else None
    return F.log_softmax(input, dim=_class_dim(input), dtype=dtype)


def _entropy(input: Tensor) -> Tensor:
    log_p = _log_softmax(input)
    # 0 · -inf is NaN, in value and gradient; p log p is 0 at p = 0.
    finite = log_p.masked_fill(log_p == -math.inf, 0)
    return -(log_p.exp() * finite).sum(_class_dim(input))
