"""Label noise: pure functions from true labels and a seed to given labels.

``NOISES`` names every kind. All take ``noise(labels, *, rate, seed, num_classes=None,
features=None)``, use of it what they need, and say what is missing. All draw on the CPU and in
float64.
"""

from collections.abc import Callable, Iterator, Sequence, Sized
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from noisylabels import labels as label_files
from noisylabels.errors import ConfigError, DataError, check_range, unknown

SUPERCLASSES = (
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11),
    *(6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5),
    *(5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17),
    *(10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13),
    *(16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
)
"""The superclass of each of CIFAR-100's 100 classes."""


def next_within(groups: Sequence[int]) -> tuple[int, ...]:
    """Map each class to the next one of its group, and the last one to the first.

    Args:
        groups: Each class's group, in the order of the classes.

    Returns:
        Each class's target; a class that is alone in its group is its own.

    Example:
        >>> next_within([0, 1, 0, 1, 0])
        (2, 3, 4, 1, 0)
    """
    members: dict[int, list[int]] = {}
    for label, group in enumerate(groups):
        members.setdefault(group, []).append(label)
    targets = list(range(len(groups)))
    for labels in members.values():
        for label, following in zip(labels, labels[1:] + labels[:1], strict=True):
            targets[label] = following
    return tuple(targets)


MAPS: dict[str, tuple[int, ...]] = {
    # truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog
    "cifar10": (0, 1, 0, 5, 7, 3, 6, 7, 8, 1),
    "cifar100": next_within(SUPERCLASSES),
    "digits": (0, 1, 7, 8, 4, 6, 5, 1, 8, 9),
}
"""The usual maps of asymmetric noise: the class that each class is mistaken for, or itself."""

BLOCK = 5
"""How many consecutive classes a block of ``asymmetric_block5`` has."""

CHUNK = 2**22
"""How many numbers of the features have a float64 copy at a time."""


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
        DataError: ``labels`` are not int64 of shape (N), or one is outside [0, K).

    Example:
        >>> symmetric(torch.zeros(8, dtype=torch.int64), rate=0.5, seed=0, num_classes=3)
        tensor([0, 0, 2, 0, 0, 0, 2, 2])

    References:
        Li, Xia, Zhu, Liu, Zhang, Liu, "Dynamics-Aware Loss for Learning with Label Noise", 2023.
        Other papers leave the true class out: :func:`symmetric_exclusive`.
    """
    true, classes = _checked(labels, num_classes)
    generator = _generator(rate, seed)
    redrawn = torch.rand(len(true), generator=generator, dtype=torch.float64) < rate
    drawn = torch.randint(classes, true.shape, generator=generator)
    return torch.where(redrawn, drawn, true).to(labels.device)


def symmetric_exclusive(
    labels: Tensor,
    *,
    rate: float,
    seed: int,
    num_classes: int | None = None,
    features: Tensor | None = None,
) -> Tensor:
    r"""With probability ``rate`` redraw each label uniformly over the other classes.

    The share of wrong labels is about ``rate``.

    Args:
        labels: True labels, int64 in [0, K), of shape (N).
        rate: Probability of a flip, in [0, 1].
        seed: Seed of the draw, at least 0; the same seed gives the same labels on every device.
        num_classes: K; by default one more than the greatest label.
        features: Not used.

    Returns:
        Given labels, int64, of shape (N).

    Raises:
        ConfigError: ``rate`` is outside [0, 1], ``seed`` is negative, or there is
            one class only.
        DataError: ``labels`` are not int64 of shape (N), or one is outside [0, K).

    Example:
        >>> symmetric_exclusive(torch.zeros(8, dtype=torch.int64), rate=0.5, seed=0, num_classes=3)
        tensor([0, 0, 1, 0, 0, 0, 2, 1])

    References:
        Patrini, Rozza, Menon, Nock, Qu, "Making Deep Neural Networks Robust to Label Noise: A Loss
        Correction Approach", 2017. Flips are drawn per example: their number varies, as it does
        there.
    """
    true, classes = _checked(labels, num_classes, fewest=2)
    generator = _generator(rate, seed)
    flipped = torch.rand(len(true), generator=generator, dtype=torch.float64) < rate
    steps = torch.randint(1, classes, true.shape, generator=generator)
    return torch.where(flipped, (true + steps) % classes, true).to(labels.device)


def asymmetric(
    labels: Tensor,
    *,
    rate: float,
    seed: int,
    map: str | tuple[int, ...] = "auto",
    num_classes: int | None = None,
    features: Tensor | None = None,
) -> Tensor:
    r"""With probability ``rate`` turn each label into the class that its class is mistaken for.

    A class that is mistaken for none keeps its labels, so that the share of wrong labels is
    smaller: about half of ``rate`` with the map of CIFAR-10.

    Args:
        labels: True labels, int64 in [0, K), of shape (N).
        rate: Probability of a flip, in [0, 1].
        seed: Seed of the draw, at least 0; the same seed gives the same labels on every device.
        map: A key of ``MAPS``, or K target classes, where a class that does not flip has itself;
            ``"auto"`` is ``"cifar10"`` for K = 10 and ``"cifar100"`` for K = 100.
        num_classes: K; by default one more than the greatest label.
        features: Not used.

    Returns:
        Given labels, int64, of shape (N).

    Raises:
        ConfigError: ``rate`` is outside [0, 1], ``seed`` is negative, or ``map``
            is unknown or does not fit the K classes.
        DataError: ``labels`` are not int64 of shape (N), or one is outside [0, K).

    Example:
        >>> asymmetric(torch.arange(3), rate=1.0, seed=0, map=(0, 2, 1))
        tensor([0, 2, 1])

    References:
        Patrini, Rozza, Menon, Nock, Qu, "Making Deep Neural Networks Robust to Label Noise: A Loss
        Correction Approach", 2017, for the maps; that of CIFAR-100 goes to the next class, in the
        order of the class numbers, of the true superclass. Much published code takes blocks of
        five consecutive numbers instead: :func:`asymmetric_block5`.
    """
    true, classes = _checked(labels, num_classes)
    flipped = _flip(true, _targets(map, classes), rate, seed)
    return flipped.to(labels.device)


def asymmetric_block5(
    labels: Tensor,
    *,
    rate: float,
    seed: int,
    num_classes: int | None = None,
    features: Tensor | None = None,
) -> Tensor:
    r"""With probability ``rate`` turn each label into the next of its block of five classes.

    Blocks are of consecutive class numbers, 0 to 4, 5 to 9 and so on, and the last class of a
    block turns into its first.

    Args:
        labels: True labels, int64 in [0, K), of shape (N).
        rate: Probability of a flip, in [0, 1].
        seed: Seed of the draw, at least 0; the same seed gives the same labels on every device.
        num_classes: K; by default one more than the greatest label.
        features: Not used.

    Returns:
        Given labels, int64, of shape (N).

    Raises:
        ConfigError: ``rate`` is outside [0, 1], ``seed`` is negative, or K is no
            multiple of 5.
        DataError: ``labels`` are not int64 of shape (N), or one is outside [0, K).

    Example:
        >>> asymmetric_block5(torch.arange(10), rate=1.0, seed=0)
        tensor([1, 2, 3, 4, 0, 6, 7, 8, 9, 5])

    References:
        Zhang, Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
        Labels", 2018, flip inside the superclasses of CIFAR-100. Published code takes blocks as if
        the classes were sorted by superclass, which they are not; the true superclasses are
        :func:`asymmetric`'s.
    """
    true, classes = _checked(labels, num_classes)
    if classes % BLOCK:
        raise ConfigError(f"expected a multiple of {BLOCK} classes, got {classes}")
    targets = next_within([label // BLOCK for label in range(classes)])
    return _flip(true, targets, rate, seed).to(labels.device)


def pairflip(
    labels: Tensor,
    *,
    rate: float,
    seed: int,
    num_classes: int | None = None,
    features: Tensor | None = None,
) -> Tensor:
    r"""With probability ``rate`` turn each label into the next class, the last into the first.

    Args:
        labels: True labels, int64 in [0, K), of shape (N).
        rate: Probability of a flip, in [0, 1].
        seed: Seed of the draw, at least 0; the same seed gives the same labels on every device.
        num_classes: K; by default one more than the greatest label.
        features: Not used.

    Returns:
        Given labels, int64, of shape (N).

    Raises:
        ConfigError: ``rate`` is outside [0, 1], ``seed`` is negative, or there is
            one class only.
        DataError: ``labels`` are not int64 of shape (N), or one is outside [0, K).

    Example:
        >>> pairflip(torch.arange(4), rate=1.0, seed=0)
        tensor([1, 2, 3, 0])

    References:
        Han, Yao, Yu, Niu, Xu, Hu, Tsang, Sugiyama, "Co-teaching: Robust Training of Deep Neural
        Networks with Extremely Noisy Labels", 2018.
    """
    true, classes = _checked(labels, num_classes, fewest=2)
    return _flip(true, next_within([0] * classes), rate, seed).to(labels.device)


def instance(
    labels: Tensor,
    *,
    rate: float,
    seed: int,
    std: float = 0.1,
    pixels: str = "standardised",
    num_classes: int | None = None,
    features: Tensor | None = None,
) -> Tensor:
    r"""Flip labels by what the examples look like: each has its own rate, about ``rate``.

    Example :math:`x` of class :math:`y` gets a rate from a normal distribution and chances of the
    other classes from a standard normal matrix :math:`W_y \in R^{d \times K}` of its class:

    .. math:: r_x \sim N(r, \sigma^2) \text{ within } [0, 1], \quad
        P(k) = r_x \, softmax(s)_k \text{ for } k \ne y, \quad P(y) = 1 - r_x

    with :math:`s = x^T W_y` and :math:`s_y = -\infty`. Where ``rate`` is within a few ``std`` of 0
    or 1 the mean of :math:`r_x` is nearer to 0.5 than ``rate``; at 0 itself no label flips.

    Args:
        labels: True labels, int64 in [0, K), of shape (N).
        rate: Mean of the examples' probabilities of a flip, in [0, 1].
        seed: Seed of the draw, at least 0; the same seed gives the same labels on every device.
        std: Standard deviation of the examples' rates before they are cut to [0, 1], above 0.
        pixels: What is done to images of integers: ``"standardised"``, channel by channel, as the
            paper describes it; or ``"tenths"``, brought to [0, 0.1] and not centred, with which
            flips concentrate on as few classes as in the paper's published file for CIFAR-10.
        num_classes: K; by default one more than the greatest label.
        features: What the examples look like, of shape (N, ...). Integers are taken for images
            (N, C, H, W), see ``pixels``; floats are taken as they are.

    Returns:
        Given labels, int64, of shape (N).

    Raises:
        ConfigError: ``rate`` is outside [0, 1], ``seed`` is negative,
            ``features`` are missing, or there is one class only.
        DataError: ``labels`` are not int64 of shape (N), or one is outside [0, K); or
            ``features`` are of another length or shape, or not finite.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(4, 1)
        >>> instance(torch.zeros(8, dtype=torch.int64), rate=0.5, seed=0, num_classes=3, features=x)
        tensor([1, 0, 0, 0, 0, 2, 0, 0])

    References:
        Xia, Liu, Han, Wang, Gong, Liu, Niu, Tao, Sugiyama, "Part-dependent Label Noise: Towards
        Instance-dependent Label Noise", 2020, algorithm 2. Examples of a class are multiplied
        together rather than one by one, in float64, and drawn from another generator: same
        distribution, other labels.
    """
    true, classes = _checked(labels, num_classes, fewest=2)
    check_range("std", std, open=True)
    if pixels not in PIXELS:
        raise ConfigError(unknown("pixels", pixels, PIXELS))
    generator = _generator(rate, seed)
    if features is None:
        raise ConfigError(
            "instance noise needs features: pass features=, what the examples look like, N images "
            "or vectors in the order of the labels"
        )
    given = true.clone()
    if rate == 0:
        return given.to(labels.device)
    rates = _truncated_normal(len(true), rate, std, generator)
    draws = torch.rand(len(true), generator=generator, dtype=torch.float64)
    for rows, chances in instance_chances(true, classes, rates, features, generator, pixels):
        given[rows] = _drawn(chances, draws[rows])
    return given.to(labels.device)


def margin(
    labels: Tensor,
    *,
    rate: float,
    seed: int = 0,
    num_classes: int | None = None,
    features: Tensor | None = None,
) -> Tensor:
    r"""Mislabel the examples that look most like another class, as that class.

    A linear classifier is fitted to features and true labels by least squares. Its scores :math:`s`
    give each example the class :math:`k \ne y` that it is most likely to be mistaken for, and a
    margin :math:`s_y - s_k`; the share ``rate`` of all examples with the smallest margins is
    mislabelled.

    Args:
        labels: True labels, int64 in [0, K), of shape (N).
        rate: Share of the labels that become wrong, in [0, 1].
        seed: Not used: nothing is drawn.
        num_classes: K; by default one more than the greatest label.
        features: What the examples look like, of shape (N, ...), at most 8,192 numbers each.
            Integers are taken for images (N, C, H, W), which are standardised channel by channel;
            floats are taken as they are.

    Returns:
        Given labels, int64, of shape (N).

    Raises:
        ConfigError: ``rate`` is outside [0, 1], ``features`` are missing or longer, or there is one
            class only.
        DataError: ``labels`` are not int64 of shape (N), or one is outside [0, K); or ``features``
            are of another length or shape, or not finite.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [4.0], [7.0], [8.0], [9.0]])
        >>> margin(torch.tensor([0, 0, 0, 1, 1, 1]), rate=0.2, features=x)
        tensor([0, 0, 1, 1, 1, 1])

    References:
        Chen, Ye, Chen, Zhao, Heng, "Beyond Class-Conditional Assumption: A Primary Attempt to
        Combat Instance-Dependent Label Noise", 2021, where examples are ranked by the predictions
        of a network over its epochs; ours need no training.
    """
    true, classes = _checked(labels, num_classes, fewest=2)
    check_range("rate", rate, high=1.0)
    if features is None:
        raise ConfigError(
            "margin noise needs features: pass features=, what the examples look like, N images or "
            "vectors in the order of the labels"
        )
    size = features.shape[1:].numel()
    if size > LONGEST:
        raise ConfigError(f"margin noise: expected at most {LONGEST} numbers each, got {size}")
    if not len(true):
        return labels.clone()
    read = _reader(features, len(true), "standardised")
    rows = torch.arange(len(true))

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        for part in _chunks(rows, size):
            yield part, F.pad(read(part), (0, 1), value=1.0)

    squares = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    products = torch.zeros(size + 1, classes, dtype=torch.float64)
    for part, x in blocks():
        squares += x.T @ x
        products += x.T @ F.one_hot(true[part], classes).double()
    squares.diagonal().add_(RIDGE * len(true))
    weights = torch.linalg.solve(squares, products)
    margins = torch.empty(len(true), dtype=torch.float64)
    others = torch.empty_like(true)
    for part, x in blocks():
        scores = x @ weights
        own = scores.gather(1, true[part, None]).squeeze(1)
        best, others[part] = scores.scatter(1, true[part, None], -torch.inf).max(1)
        margins[part] = own - best
    mistaken = margins.argsort(stable=True)[: round(rate * len(true))]
    given = true.clone()
    given[mistaken] = others[mistaken]
    return given.to(labels.device)


LONGEST = 8192
"""Numbers of an example that a linear classifier can be fitted to by least squares."""
RIDGE = 1e-3
"""What is added to the mean square of each feature, which are about 1, in that fit."""


def transition(
    labels: Tensor,
    *,
    rate: float = 1.0,
    seed: int,
    matrix: Path | Sequence[Sequence[float]],
    num_classes: int | None = None,
    features: Tensor | None = None,
) -> Tensor:
    r"""With probability ``rate`` redraw each label from its class's row of a matrix.

    Args:
        labels: True labels, int64 in [0, K), of shape (N).
        rate: Probability of a redraw, in [0, 1].
        seed: Seed of the draw, at least 0; the same seed gives the same labels on every device.
        matrix: K rows of K probabilities, row ``true`` and column ``given``; or a ``.npy`` or
            ``.csv`` file of them.
        num_classes: K; by default one more than the greatest label.
        features: Not used.

    Returns:
        Given labels, int64, of shape (N).

    Raises:
        ConfigError: ``rate`` is outside [0, 1], ``seed`` is negative, or the
            matrix is not K x K, or a row of it is no distribution.
        DataError: ``labels`` are not int64 of shape (N), or one is outside [0, K); or the
            matrix's file cannot be read.

    Example:
        >>> matrix = ((0.0, 1.0), (0.0, 1.0))
        >>> transition(torch.tensor([0, 1, 0]), matrix=matrix, seed=0)
        tensor([1, 1, 1])

    References:
        Patrini, Rozza, Menon, Nock, Qu, "Making Deep Neural Networks Robust to Label Noise: A Loss
        Correction Approach", 2017.
    """
    true, classes = _checked(labels, num_classes)
    generator = _generator(rate, seed)
    rows_of = read_matrix(matrix, classes)
    redrawn = torch.rand(len(true), generator=generator, dtype=torch.float64) < rate
    draws = torch.rand(len(true), generator=generator, dtype=torch.float64)
    given = true.clone()
    for label, rows in enumerate(_by_class(true, classes)):
        given[rows] = _drawn(rows_of[label].expand(len(rows), -1), draws[rows])
    return torch.where(redrawn, given, true).to(labels.device)


def file(
    labels: Tensor,
    *,
    path: Path,
    key: str | None = None,
    rate: float | None = None,
    corrects: bool = False,
    seed: int = 0,
    num_classes: int | None = None,
    features: Tensor | None = None,
) -> Tensor:
    """Read the given labels from a ``.npy`` file, or by name from a ``.pt`` file.

    Args:
        labels: True labels, int64 in [0, K), of shape (N); they fix the length and the classes.
        path: N labels in the order of ``labels``; the forms are :func:`noisylabels.labels.read`'s.
        key: Which of a ``.pt`` file's labels; by default the only ones that are not clean.
        rate: The nominal rate, if it is known; only recorded, in [0, 1].
        corrects: Whether the file puts wrong labels right, so that ``labels`` are not the true
            ones; only recorded.
        seed: Not used.
        num_classes: K; by default one more than the greatest of ``labels``.
        features: Not used.

    Returns:
        Given labels, int64, of shape (N).

    Raises:
        ConfigError: ``rate`` is outside [0, 1].
        DataError: The file is missing, damaged or of another form, has another length than the
            dataset, or holds a label outside [0, K); or it also holds the true labels, and they
            are not ``labels``. Nothing in it is run.
        MissingExtraError: NumPy is not installed, and the file is no ``.pt`` file.

    References:
        Wei, Zhu, Cheng, Liu, Niu, Liu, "Learning with Noisy Labels Revisited: A Study Using
        Real-World Human Annotations", 2022, published the files of CIFAR-10N and CIFAR-100N.
    """
    if rate is not None:
        check_range("rate", rate, high=1.0)
    true, classes = _checked(labels, num_classes)
    given, clean = label_files.read_with_clean(path, key)
    label_files.check(given, path, count=len(true), num_classes=classes)
    if clean is not None:
        different = int((clean != true).sum())
        if different:
            raise DataError(
                f"{path}: its clean labels differ from the dataset's in {different} of {len(true)} "
                f"rows: it belongs to another order of the examples or to another dataset"
            )
    return given.to(labels.device)


def candidates(
    labels: Tensor,
    *,
    rate: float,
    missing: float = 0.0,
    seed: int,
    num_classes: int | None = None,
    features: Tensor | None = None,
) -> Tensor:
    r"""Hide each label in a set: every other class joins it with probability ``rate``.

    A set has :math:`1 + r (K - 1)` candidates on average; with ``missing``, that share of the sets
    lacks the true one.

    Args:
        labels: True labels, int64 in [0, K), of shape (N).
        rate: Probability that a class joins a set, in [0, 1].
        missing: Probability that the true label is left out of its set, in [0, 1]. A set that
            would be empty then gets one wrong class.
        seed: Seed of the draw, at least 0; the same seed gives the same sets on every device.
        num_classes: K; by default one more than the greatest label.
        features: Not used.

    Returns:
        Which classes are in each example's set, bool, of shape (N, K): sets of candidates, which
        take the place of labels.

    Raises:
        ConfigError: ``rate`` or ``missing`` is outside [0, 1], ``seed`` is negative, or there is
            one class only.
        DataError: ``labels`` are not int64 of shape (N), or one is outside [0, K).

    Example:
        >>> candidates(torch.tensor([0, 2]), rate=0.5, seed=0)
        tensor([[ True, False,  True],
                [False, False,  True]])

    References:
        Feng, Lv, Han, Xu, Niu, Geng, An, Sugiyama, "Provably Consistent Partial-Label Learning",
        2020, and Lv, Xu, Feng, Niu, Geng, Sugiyama, "Progressive Identification of True Labels for
        Partial-Label Learning", 2020, draw sets of the kind, and see to it that no set has one
        class alone (or all of them), as ours may.
    """
    true, classes = _checked(labels, num_classes, fewest=2)
    check_range("missing", missing, high=1.0)
    generator = _generator(rate, seed)
    shape = (len(true), classes)
    sets = torch.rand(shape, generator=generator, dtype=torch.float64) < rate
    left_out = torch.rand(len(true), generator=generator, dtype=torch.float64) < missing
    steps = torch.randint(1, classes, true.shape, generator=generator)
    sets[torch.arange(len(true)), true] = ~left_out
    empty = (~sets.any(1)).nonzero().squeeze(1)
    sets[empty, ((true + steps) % classes)[empty]] = True
    return sets.to(labels.device)


PIXELS = ("standardised", "tenths")

NOISES: dict[str, Callable[..., Tensor]] = {
    "none": none,
    "symmetric": symmetric,
    "symmetric-exclusive": symmetric_exclusive,
    "asymmetric": asymmetric,
    "asymmetric-block5": asymmetric_block5,
    "pairflip": pairflip,
    "instance": instance,
    "margin": margin,
    "transition": transition,
    "candidates": candidates,
    "file": file,
}
"""Every kind of noise by name; ``"candidates"`` alone returns sets, bool of shape (N, K)."""


def instance_chances(
    labels: Tensor,
    num_classes: int,
    rates: Tensor,
    features: Tensor,
    generator: torch.Generator,
    pixels: str = "standardised",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Compute the distributions that instance noise draws the given labels from.

    Args:
        labels: True labels, int64 in [0, K), of shape (N), on the CPU.
        num_classes: K, at least 2.
        rates: Each example's probability of a flip, in [0, 1], float64, of shape (N).
        features: What the examples look like, see :func:`instance`.
        generator: Draws one matrix of standard normal numbers per class, of shape (d, K), in the
            order of the classes.
        pixels: What is done to images of integers, see :func:`instance`.

    Yields:
        Rows of examples of one class, int64 of shape (M), and their probabilities
        of the classes, float64 of shape (M, K); every example once.

    Raises:
        DataError: ``features`` are of another length or shape, or not finite.

    Example:
        >>> labels, rates = torch.tensor([1, 1]), torch.tensor([0.25, 0.5]).double()
        >>> x, generator = torch.ones(2, 3), torch.Generator().manual_seed(0)
        >>> for rows, chances in instance_chances(labels, 2, rates, x, generator):
        ...     print(rows.tolist(), chances.tolist())
        [0, 1] [[0.25, 0.75], [0.5, 0.5]]
    """
    read = _reader(features, len(labels), pixels)
    size = features.shape[1:].numel()
    for label, members in enumerate(_by_class(labels, num_classes)):
        weights = torch.randn(size, num_classes, generator=generator, dtype=torch.float64)
        for rows in _chunks(members, size):
            scores = read(rows) @ weights
            scores[:, label] = -torch.inf
            chances = scores.softmax(1).mul_(rates[rows, None])
            chances[:, label] = 1 - rates[rows]
            yield rows, chances


def _reader(features: Tensor, count: int, pixels: str) -> Callable[[Tensor], Tensor]:
    """Return what gives rows of features as float64, of shape (M, d), on the CPU."""
    if features.ndim < 1 or len(features) != count:
        raise DataError(
            f"expected features of {count} examples, one per label, "
            f"got shape {tuple(features.shape)}"
        )
    images = not features.is_floating_point()
    if features.is_complex() or (images and features.ndim != 4):
        raise DataError(
            "expected floating-point features, or integer images of shape (N, C, H, W), "
            f"got shape {tuple(features.shape)} of {features.dtype}"
        )
    mean: Tensor | float = 0.0
    std: Tensor | float = 1.0
    if images:
        mean, std = _channel_statistics(features) if pixels == "standardised" else (0.0, 2550.0)

    def read(rows: Tensor) -> Tensor:
        x = features[rows.to(features.device)].to("cpu", torch.float64)
        if images:
            x.sub_(mean).div_(std)
        flat = x.flatten(1)
        unusable = (~flat.isfinite().all(1)).nonzero().flatten()
        if len(unusable):
            raise DataError(f"features: row {int(rows[unusable[0]])}: expected finite numbers")
        return flat

    return read


def _checked(labels: Tensor, num_classes: int | None, fewest: int = 1) -> tuple[Tensor, int]:
    """Return the labels on the CPU and K."""
    if not isinstance(labels, Tensor):
        raise DataError(f"labels: expected an int64 tensor of shape (N), got {labels!r:.50}")
    if labels.ndim != 1 or labels.dtype is not torch.int64:
        raise DataError(
            f"labels: expected int64 of shape (N), got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    if num_classes is None and not len(labels):
        raise ConfigError("expected at least one label, or num_classes, got neither")
    true = labels.cpu()
    classes = num_classes if num_classes is not None else int(true.max()) + 1
    label_files.check(true, "labels", num_classes=classes)
    if classes < fewest:
        raise ConfigError(f"expected at least {fewest} classes, got {classes}")
    return true, classes


def _generator(rate: float, seed: int) -> torch.Generator:
    check_range("rate", rate, high=1.0)
    check_range("seed", seed, high=2**63 - 1)
    return torch.Generator().manual_seed(seed)


def _flip(true: Tensor, targets: Sequence[int], rate: float, seed: int) -> Tensor:
    generator = _generator(rate, seed)
    flipped = torch.rand(len(true), generator=generator, dtype=torch.float64) < rate
    return torch.where(flipped, torch.tensor(targets)[true], true)


def _targets(map: str | tuple[int, ...], classes: int) -> tuple[int, ...]:
    name = {10: "cifar10", 100: "cifar100"}.get(classes, "auto") if map == "auto" else map
    if name == "auto":
        raise ConfigError(
            f"map 'auto' is for 10 or 100 classes, got {classes}: give a map, a tuple of the "
            f"{classes} classes that the classes turn into"
        )
    if isinstance(name, str) and name not in MAPS:
        raise ConfigError(unknown("map", name, ["auto", *MAPS]))
    targets = MAPS[name] if isinstance(name, str) else tuple(name)
    what = f"map {name!r}" if isinstance(name, str) else "map"
    if len(targets) != classes:
        raise ConfigError(f"{what}: expected a target for {classes} classes, got {len(targets)}")
    for label, target in enumerate(targets):
        if not 0 <= target < classes:
            raise ConfigError(
                f"{what}: class {label}: expected a target in 0..{classes - 1}, got {target}"
            )
    return targets


def read_matrix(
    matrix: str | Path | Sequence[Sequence[float]], classes: int | None = None
) -> Tensor:
    """Read a matrix of which label is given for which true one.

    Args:
        matrix: Rows of probabilities, row ``true`` and column ``given``; or a ``.npy`` or ``.csv``
            file of them.
        classes: How many there must be; by default as many as there are rows.

    Returns:
        The matrix, float64, of shape (K, K).

    Raises:
        ConfigError: It has another shape, or a row is no distribution.
        DataError: The file cannot be read.
    """
    place = f"matrix {matrix}" if isinstance(matrix, str | Path) else "matrix"
    stored = _stored(Path(matrix)) if isinstance(matrix, str | Path) else matrix
    # An array without dimensions has no rows either.
    if not isinstance(stored, Sized) or getattr(stored, "ndim", 1) == 0:
        raise ConfigError(f"{place}: expected rows of numbers, or their file, got {stored!r:.80}")
    classes = len(stored) if classes is None else classes
    try:
        rows = torch.as_tensor(stored, dtype=None if isinstance(stored, Tensor) else torch.float64)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{place}: expected {classes} rows of {classes} numbers") from error
    if rows.shape != (classes, classes) or rows.is_complex():
        shape = " x ".join(str(size) for size in rows.shape)
        raise ConfigError(f"{place}: expected {classes} x {classes} numbers, got {shape}")
    rows = rows.to("cpu", torch.float64)
    outside = (~((rows >= 0) & (rows <= 1))).nonzero()
    if len(outside):
        row, column = outside[0].tolist()
        raise ConfigError(
            f"{place}: row {row}: expected probabilities in [0, 1], "
            f"got {rows[row, column].item()!r} in column {column}"
        )
    sums = rows.sum(1)
    unequal = ((sums - 1).abs() > 1e-6).nonzero().flatten()
    if len(unequal):
        row = int(unequal[0])
        raise ConfigError(f"{place}: row {row}: expected a sum of 1, got {sums[row].item():.9g}")
    return rows


def _stored(path: Path) -> list[list[float]]:
    if path.suffix.lower() == ".npy":
        array = label_files.read_array(path, "probabilities")
        if array.ndim != 2 or array.dtype.kind not in "iuf":
            raise DataError(
                f"{path}: expected a matrix of probabilities, "
                f"got shape {array.shape} of {array.dtype}"
            )
        rows: list[list[float]] = array.tolist()
        return rows
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a .npy or .csv file ({error})") from error
    rows = []
    for number, line in enumerate(line for line in lines if line.strip()):
        try:
            rows.append([float(cell) for cell in line.split(",")])
        except ValueError as error:
            raise DataError(f"{path}: row {number}: {error}") from error
        if len(rows[-1]) != len(rows[0]):
            raise DataError(
                f"{path}: row {number}: expected {len(rows[0])} numbers as in the first row, "
                f"got {len(rows[-1])}"
            )
    return rows


def _by_class(labels: Tensor, classes: int) -> tuple[Tensor, ...]:
    """Return the rows of each class, in order."""
    counts: list[int] = torch.bincount(labels, minlength=classes).tolist()
    return torch.split(labels.argsort(stable=True), counts)


def _chunks(values: Tensor, size: int) -> Iterator[Tensor]:
    """Cut examples of ``size`` numbers each into chunks that are small as float64."""
    return (part for part in torch.split(values, max(1, CHUNK // max(1, size))) if len(part))


def _truncated_normal(count: int, mean: float, std: float, generator: torch.Generator) -> Tensor:
    """Draw from a normal distribution within [0, 1] by inverting its distribution function."""
    low, high = torch.special.ndtr((torch.tensor([0.0, 1.0]).double() - mean) / std)
    draws = torch.rand(count, generator=generator, dtype=torch.float64)
    # A draw of 0 is minus infinity where `low` is 0.
    normal: Tensor = torch.special.ndtri(low + draws * (high - low))
    return (mean + std * normal).clamp(0, 1)


def _drawn(chances: Tensor, draws: Tensor) -> Tensor:
    """Draw a class from each row of chances, one uniform number a row."""
    ends = chances.cumsum(1)
    # The last end is 1 but for rounding, which must not make a class without a chance come up.
    found = torch.searchsorted(ends, (draws * ends[:, -1]).unsqueeze(1), right=True)
    return found.flatten().clamp(max=chances.shape[1] - 1)


def _channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, each (C, 1, 1), without a float copy of all images."""
    total = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for chunk in _chunks(images, images.shape[1:].numel()):
        x = chunk.to("cpu", torch.float64)
        total += torch.stack([x.sum((0, 2, 3)), x.square_().sum((0, 2, 3))])
    mean, square = (total / (len(images) * images.shape[2:].numel())).view(2, -1, 1, 1)
    std = (square - mean.square()).clamp(min=0).sqrt()
    return mean, std.masked_fill(std == 0, 1)
