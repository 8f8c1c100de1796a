"""Label noise: pure functions from true labels and a seed to given labels.

``NOISES`` names every kind. All take ``noise(labels, *, rate, seed, num_classes=None,
features=None)``, use of it what they need, and say what is missing; ``file`` also takes a path, and
is the only one to need NumPy.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from noisylabels.errors import ConfigError, DataError, MissingExtraError, check_range


def none(
    labels: Tensor,
    *,
    rate: float = 0.0,
    seed: int = 0,
    num_classes: int | None = None,
    features: Tensor | None = None,
) -> Tensor:
    """Leave every label as it is.

    Args:
        labels: True labels, int64, of shape (N).
        rate: Must be 0.
        seed: Not used.
        num_classes: Not used.
        features: Not used.

    Returns:
        A copy of ``labels``.

    Raises:
        ConfigError: ``rate`` is not 0.

    Example:
        >>> none(torch.tensor([2, 0]))
        tensor([2, 0])
    """
    if rate != 0:
        raise ConfigError(f"expected rate 0, got {rate!r}: a kind such as 'symmetric' has a rate")
    return labels.clone()


def symmetric(
    labels: Tensor,
    *,
    rate: float,
    seed: int,
    num_classes: int | None = None,
    features: Tensor | None = None,
) -> Tensor:
    r"""Redraw each label with probability ``rate`` uniformly over all classes.

    The true class is among them, so that the share of wrong labels is about
    :math:`r \, (K - 1) / K`: a rate of 0.4 on 10 classes makes 36 % wrong.

    Args:
        labels: True labels, int64 in [0, K), of shape (N).
        rate: Probability of a redraw, in [0, 1].
        seed: Seed of the draw, at least 0; the same seed gives the same labels on every device.
        num_classes: K; by default one more than the greatest label.
        features: Not used.

    Returns:
        Given labels, int64, of shape (N).

    Raises:
        ConfigError: ``rate`` is outside [0, 1], or ``seed`` is negative.

    Example:
        >>> symmetric(torch.zeros(8, dtype=torch.int64), rate=0.5, seed=0, num_classes=3)
        tensor([0, 0, 2, 0, 0, 0, 2, 2])

    References:
        Li, Xia, Zhu, Liu, Zhang, Liu, "Dynamics-Aware Loss for Learning with Label Noise", 2023.
        Other papers leave the true class out.
    """
    check_range("rate", rate, high=1.0)
    check_range("seed", seed, high=2**63 - 1)
    classes = num_classes if num_classes is not None else int(labels.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    redrawn = torch.rand(labels.shape, generator=generator, dtype=torch.float64) < rate
    drawn = torch.randint(classes, labels.shape, generator=generator)
    return torch.where(redrawn, drawn, labels.cpu()).to(labels.device)


def file(
    labels: Tensor,
    *,
    path: Path,
    rate: float | None = None,
    seed: int = 0,
    num_classes: int | None = None,
    features: Tensor | None = None,
) -> Tensor:
    """Read the given labels from a NumPy ``.npy`` file.

    Args:
        labels: True labels, int64, of shape (N); they fix the length and the classes.
        path: One-dimensional integer array of length N, in the order of ``labels``.
        rate: The nominal rate, if it is known; only recorded, in [0, 1].
        seed: Not used.
        num_classes: K; by default one more than the greatest of ``labels``.
        features: Not used.

    Returns:
        Given labels, int64, of shape (N).

    Raises:
        ConfigError: ``rate`` is outside [0, 1].
        DataError: The file is missing, is no ``.npy`` file of plain integers, has another length
            than the dataset, or holds a label outside [0, K). Nothing in it is unpickled.
        MissingExtraError: NumPy is not installed.
    """
    if rate is not None:
        check_range("rate", rate, high=1.0)
    try:
        import numpy as np
    except ImportError as error:
        raise MissingExtraError("numpy", "train") from error
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such label file") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: expected a .npy file of integer labels ({error})") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path}: expected one .npy array of labels, got an .npz archive")
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"{path}: expected a one-dimensional array of integer labels, "
            f"got shape {array.shape} of {array.dtype}"
        )
    if len(array) != len(labels):
        raise DataError(
            f"{path}: expected {len(labels)} labels, one per training example, got {len(array)}"
        )
    classes = num_classes if num_classes is not None else int(labels.max()) + 1
    wrong = np.flatnonzero((array < 0) | (array >= classes))
    if len(wrong):
        raise DataError(
            f"{path}: row {wrong[0]}: expected a label in 0..{classes - 1}, "
            f"got {array[wrong[0]]} ({len(wrong)} such rows)"
        )
    return torch.from_numpy(array.astype(np.int64)).to(labels.device)


NOISES: dict[str, Callable[..., Tensor]] = {
    "none": none,
    "symmetric": symmetric,
    "file": file,
}
