r"""The last linear layer and the loss as one, for more classes than logits find room for.

Of N examples' K logits each, cross entropy and its robust kin need two numbers an example:
the label's log-probability and the entropy of the prediction,

.. math:: \ell = f(\log p_y) + c \, H(p).

So the logits are made a tile at a time (some examples by some classes), used and overwritten. The
forward pass keeps each example's running maximum :math:`m`, :math:`S = \sum_k e^{z_k - m}` and
:math:`T = \sum_k e^{z_k - m} (z_k - m)`, whence

.. math:: \log p_y = z_y - m - \log S, \qquad H(p) = \log S - T/S.

The backward pass makes each tile again and turns it into the gradient of the logits,

.. math::
    \frac{\partial \ell}{\partial z_k} =
    f'(\log p_y) \, ([k = y] - p_k) - c \, p_k \, (\log p_k + H(p)),

which goes into the gradients of ``input``, layer and bias before the next tile. Nothing of size
N x K is ever held, every reduction has its own incoming gradient, and tiles that stay in the cache
make up for the product that is computed twice.
"""

import math
from collections.abc import Iterator
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from noisylabels import functional
from noisylabels.errors import ConfigError, MissingExtraError, check_count
from noisylabels.losses import Loss, LossWrapper

TILE_CPU = 2**19
TILE = 2**22
"""Logits in a tile where ``tile`` is not given: 2 MiB in float32 on the CPU (so that it stays in
the cache), 16 MiB elsewhere."""
HELD_TILES = 8
"""Logits of so many tiles are made at once, as there is nothing to be saved."""
LEAST_EXPONENT = -1000.0
"""Stands for log 0 where 0 times it must be 0 and not NaN; exp of it is 0 in float64 too."""


@final
class LinearLoss(LossWrapper):
    """A linear layer and a loss of its logits, which are never all held at once.

    ``LinearLoss(loss)(input, linear_weight, target, linear_bias=bias)`` is
    ``loss(F.linear(input, linear_weight, bias), target)``, value and gradients. The layer is an
    argument, as for ``torch.nn.functional.linear_cross_entropy``, from which order and names are:
    so the network keeps its last layer, for predictions and checkpoints, and ``weight`` remains
    the classes' weight, a part of the loss. (Liger's losses take the layer first.)

    Memory beyond arguments and gradients is about two tiles, whatever N and K are, and three for
    half precision, which is computed in float32. At most eight tiles of logits are composed
    instead: for a few thousand classes ``loss(layer(input), target)`` is as good. The layer's
    product is computed twice, so on CPUs wide inputs (d of 768 and more) can take a third more time
    than with all logits held.

    Second derivatives, forward mode and ``torch.func`` are for the composed loss. A compiled
    function is interrupted here (so ``fullgraph=True`` is refused) and goes on after.
    A loss here warns of a progress that is never told, not of predictions that have shrunk to one
    class.

    Args:
        loss: A loss that :meth:`noisylabels.losses.Loss.of_log_p` defines: ``ce``, ``mae``,
            ``gce``, ``dgce``, ``rce``, ``sce``, ``dal``, or one of your own; with its schedules,
            ``weight``, ``ignore_index`` and ``reduction``, without ``label_smoothing``.
        tile: Logits that are made at once, at least 1; by default ``TILE_CPU`` on the CPU and
            ``TILE`` elsewhere. Smaller takes less memory and, far below that, more time.
        liger: Leave the log-probability and the entropy to Liger's kernel (``pip install
            'noisylabels[liger]'``), which is one of its own on GPUs of compute capability 9.0 and
            blocks of 512 examples elsewhere; ``tile`` then has no meaning, and the layer no bias.

    Shape:
        ``input``: (N, d) or (d); ``linear_weight``: (K, d); ``target``: (N) or (), class indices;
        ``linear_bias``: (K); output: a scalar, or as ``target`` with ``reduction="none"``.

    Raises:
        ConfigError: The loss needs all logits at once, or smooths labels.
        MissingExtraError: Liger is asked for and not installed.

    Example:
        >>> from noisylabels.losses import DynamicsAwareLoss
        >>> head = torch.nn.Linear(8, 1000)
        >>> loss = LinearLoss(DynamicsAwareLoss(q_start=0.4))
        >>> loss.progress = 0.5
        >>> features, target = torch.randn(16, 8), torch.randint(1000, (16,))
        >>> loss(features, head.weight, target, linear_bias=head.bias).backward()
    """

    def __init__(self, loss: Loss, *, tile: int | None = None, liger: bool = False) -> None:
        if not isinstance(loss, Loss) or not _is_of_log_p(type(loss)):
            raise ConfigError(
                f"LinearLoss takes a loss of noisylabels.losses, of the label's probability and "
                f"the entropy alone (ce, mae, gce, dgce, rce, sce, dal), got "
                f"{type(loss).__name__ if isinstance(loss, Loss) else repr(loss)[:80]}"
            )
        super().__init__(loss)
        if loss.label_smoothing:
            raise ConfigError(
                f"LinearLoss is not defined for class probabilities: label_smoothing must be 0, "
                f"got {loss.label_smoothing!r}"
            )
        self.tile = None if tile is None else check_count("tile", tile, low=1)
        self.liger = liger
        if liger:
            _liger()

    def forward(
        self,
        input: Tensor,
        linear_weight: Tensor,
        target: Tensor,
        *,
        linear_bias: Tensor | None = None,
    ) -> Tensor:
        """Compute the reduced loss of a batch.

        Args:
            input: What the layer is given.
            linear_weight: The layer's weight.
            target: Class indices.
            linear_bias: The layer's bias.

        Returns:
            The loss.

        Raises:
            TypeError: ``target`` holds class probabilities.
            RuntimeError, ValueError, IndexError: Shapes do not fit, indices are out of range.
        """
        functional.require_indices(type(self).__name__, target)
        if input.ndim not in (1, 2) or target.shape != input.shape[:-1]:
            raise ValueError(
                f"expected input of shape (N, d) and target of shape (N), "
                f"got {tuple(input.shape)} and {tuple(target.shape)}"
            )
        if linear_bias is not None and linear_bias.shape != linear_weight.shape[:1]:
            raise ValueError(
                f"expected linear_bias of shape ({len(linear_weight)}), one number for each row of "
                f"linear_weight, got {tuple(linear_bias.shape)}"
            )
        if self.liger and linear_bias is not None:
            raise ValueError("Liger's kernel is for layers without bias: expected no linear_bias")
        tile = self.tile or (TILE_CPU if input.is_cpu else TILE)
        held = input.shape[:-1].numel() * len(linear_weight) <= HELD_TILES * tile
        if (held and not self.liger) or torch._C._are_functorch_transforms_active():
            value: Tensor = self.loss(F.linear(input, linear_weight, linear_bias), target)
            return value
        tiled = self._tiled
        if torch.compiler.is_compiling():
            tiled = torch.compiler.disable(tiled)  # type: ignore[no-untyped-call]
        return tiled(input, linear_weight, linear_bias, target, tile)

    def _tiled(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, tile: int
    ) -> Tensor:
        loss, classes = self.loss, len(weight)
        if loss.training and loss.warns:
            loss._count_call()
        entropy_weight = loss.entropy_weight(classes)
        input, weight = _as_autocast_has_it(input), _as_autocast_has_it(weight)
        bias = None if bias is None else _as_autocast_has_it(bias)

        def per_example(_: Tensor, known: Tensor) -> Tensor:
            _require_known(known, classes)
            rows, labels = input.reshape(-1, input.shape[-1]), known.reshape(-1).long()
            if self.liger:
                log_p, entropy = _by_liger(rows, weight, labels)
            else:
                log_p, entropy = _Prediction.apply(
                    rows, weight, bias, labels, tile, entropy_weight != 0
                )
            each = loss.of_log_p(log_p)
            if entropy_weight:
                each = each + entropy_weight * entropy
            return each.view(known.shape)

        return functional.reduce(
            per_example,
            # The shape of the logits is all that is asked of them.
            input.detach().new_empty(1).expand(*target.shape, classes),
            target,
            weight=loss.weight,
            ignore_index=loss.ignore_index,
            reduction=loss.reduction,
        )


def _is_of_log_p(kind: type[Loss]) -> bool:
    """Say whether ``of_log_p`` is all of a kind of loss: not where a subclass has changed it."""
    owners = [
        next(owner for owner in kind.__mro__ if name in vars(owner))
        for name in ("of_log_p", "per_example")
    ]
    return kind.of_log_p is not Loss.of_log_p and issubclass(*owners)


def _as_autocast_has_it(tensor: Tensor) -> Tensor:
    """Cast what a linear layer would be given under autocast."""
    device = tensor.device.type
    if tensor.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))


def _require_known(target: Tensor, classes: int) -> None:
    """Refuse what torch's own losses refuse in a target."""
    if target.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(f"expected target of dtype int64 or uint8, got {target.dtype}")
    # Other devices would have to be waited for; the loss is NaN there.
    if target.is_cpu and target.numel():
        for bound in target.aminmax():
            if not 0 <= bound < classes:
                raise IndexError(f"Target {bound} is out of bounds.")


def _liger() -> Any:
    try:
        from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction
    except ImportError as error:
        raise MissingExtraError("liger_kernel", "liger") from error
    return LigerFusedLinearScaledCrossEntropyFunction


def _by_liger(input: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Compute what :class:`_Prediction` does."""
    temperature, ignore_index, tiles_per_cluster, return_entropy = 1.0, -100, 1, True
    nll, entropy = _liger().apply(
        input, weight, target, temperature, ignore_index, tiles_per_cluster, return_entropy
    )
    return -nll, entropy.to(nll.dtype)


class _Prediction(torch.autograd.Function):
    """The label's log-probability and, if asked for, the entropy of each example's prediction."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        tile: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        tiles = _Tiles(input, weight, bias, target, tile)
        dtype, count = tiles.dtype, len(input)
        top = input.new_full((count,), torch.finfo(dtype).min, dtype=dtype)
        total, moment = torch.zeros_like(top), torch.zeros_like(top)
        own = torch.full_like(top, math.nan)
        for examples, _, logits, place, inside in tiles:
            picked = logits.gather(1, place).squeeze(1)
            own[examples] = torch.where(inside, picked, own[examples])
            highest = torch.maximum(top[examples], logits.amax(1))
            fall = (top[examples] - highest).clamp_(min=LEAST_EXPONENT)
            decay = fall.exp()
            logits.sub_(highest.unsqueeze(1))
            if with_entropy:
                exponential = torch.exp(logits.clamp_(min=LEAST_EXPONENT), out=tiles.spare(logits))
                here = logits.mul_(exponential).sum(1)
                moment[examples] = decay * (moment[examples] + fall * total[examples]) + here
            else:
                exponential = logits.exp_()
            total[examples] = decay * total[examples] + exponential.sum(1)
            top[examples] = highest
        log_total = total.log()
        entropy = log_total - moment / total if with_entropy else None
        ctx.save_for_backward(input, weight, bias, target, top, log_total, entropy)
        ctx.tile = tile
        ctx.set_materialize_grads(False)
        return own - top - log_total, entropy

    @staticmethod
    def backward(
        ctx: Any, grad_log_p: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "LinearLoss has no second derivatives: compose the loss with the layer, "
                "loss(layer(input), target)"
            )
        input, weight, bias, target, top, log_total, entropy = ctx.saved_tensors
        if grad_log_p is None:
            grad_log_p = torch.zeros_like(top)
        tiles = _Tiles(input, weight, bias, target, ctx.tile)
        wanted = ctx.needs_input_grad[:3]
        of_input = torch.zeros_like(input, dtype=tiles.dtype) if wanted[0] else None
        of_weight = torch.zeros_like(weight, dtype=tiles.dtype) if wanted[1] else None
        of_bias = torch.zeros_like(bias, dtype=tiles.dtype) if wanted[2] else None
        # dz = exp(z - m) (constant + slope (z - m)) + [k = y] grad_log_p
        share = torch.exp(-log_total)
        if grad_entropy is None:
            constant, slope = -grad_log_p * share, None
        else:
            constant = -(grad_log_p + grad_entropy * (entropy - log_total)) * share
            slope = -grad_entropy * share
        for examples, classes, logits, place, inside in tiles:
            logits.sub_(top[examples].unsqueeze(1))
            here = constant[examples].unsqueeze(1)
            if slope is None:
                of_logits = logits.exp_().mul_(here)
            else:
                exponential = torch.exp(logits.clamp_(min=LEAST_EXPONENT), out=tiles.spare(logits))
                # Not addcmul, which is slow where it broadcasts.
                of_logits = logits.mul_(slope[examples].unsqueeze(1)).add_(here).mul_(exponential)
            own = torch.where(inside, grad_log_p[examples], 0).unsqueeze(1)
            of_logits.scatter_add_(1, place, own)
            if of_bias is not None:
                of_bias[classes] += of_logits.sum(0)
            of_logits = of_logits.to(weight.dtype)
            if of_input is not None:
                _add_product(of_input[examples], of_logits, weight[classes])
            if of_weight is not None:
                _add_product(of_weight[classes], of_logits.t(), input[examples])
        return (
            None if of_input is None else of_input.to(input.dtype),
            None if of_weight is None else of_weight.to(weight.dtype),
            None if of_bias is None else of_bias.to(bias.dtype),
            None,
            None,
            None,
        )


class _Tiles:
    """The logits of a layer, tile by tile, in float32 or better and in memory that is used again.

    A tile is about twice as many examples as classes, or all examples. Classes come in the outer
    loop, so that a layer's part is in the cache for all examples.
    """

    def __init__(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, tile: int
    ) -> None:
        self.input, self.weight, self.bias, self.target = input, weight, bias, target
        self.dtype = torch.float32 if weight.dtype in functional.HALF else weight.dtype
        self._height = max(1, min(len(input), math.isqrt(2 * tile)))
        self._width = max(1, min(len(weight), tile // self._height))
        size = self._height * self._width
        self._product = input.new_empty(size)
        self._logits = self._product
        if self.dtype != weight.dtype:
            self._logits = input.new_empty(size, dtype=self.dtype)
        self._spare: Tensor | None = None

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor]]:
        """Yield examples, classes, logits, each label's column (any, if outside), and if inside."""
        for classes in _slices(len(self.weight), self._width):
            layer = self.weight[classes].t()
            for examples in _slices(len(self.input), self._height):
                shape = examples.stop - examples.start, classes.stop - classes.start
                product = self._product[: math.prod(shape)].view(shape)
                if self.bias is None:
                    torch.mm(self.input[examples], layer, out=product)
                else:
                    torch.addmm(self.bias[classes], self.input[examples], layer, out=product)
                logits = self._logits[: math.prod(shape)].view(shape)
                if logits.dtype != product.dtype:
                    logits.copy_(product)
                place = self.target[examples] - classes.start
                inside = (place >= 0) & (place < shape[1])
                yield examples, classes, logits, place.clamp_(0, shape[1] - 1).unsqueeze(1), inside

    def spare(self, like: Tensor) -> Tensor:
        """Return room for another tile."""
        if self._spare is None:
            self._spare = torch.empty_like(self._logits)
        return self._spare[: like.numel()].view(like.shape)


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a matrix product in the precision of the total."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
