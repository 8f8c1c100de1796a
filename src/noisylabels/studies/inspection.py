"""What a set of given labels holds: counts, flips, and the kind of noise that explains them."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import noisylabels
from noisylabels import labels as label_files
from noisylabels.atomic import replacing, write_json
from noisylabels.errors import DataError, MissingExtraError
from noisylabels.noise import BLOCK, MAPS, next_within

FEWEST_FLIPS = 10
"""With fewer wrong labels than this the kind of noise is not guessed."""

REJECTED = 6.0
"""The z-score from which counts do not fit a kind of noise."""

MOST_CLASSES = 10_000
"""The most classes that are counted where nothing says how many there are."""

PRINTED_CLASSES = 20
"""The most classes whose matrix is printed in full, and the most flips that are listed else."""

LISTED_CLASSES = 200
"""The most classes that are listed with their counts."""


@dataclass(frozen=True)
class Guess:
    """The kind of noise that explains how often which class was given for which.

    Args:
        kind: A key of ``noisylabels.noise.NOISES``; ``"instance or transition"``, which labels
            alone cannot tell apart; or ``"unknown"`` where too few labels are wrong.
        rate: The nominal rate of that kind, in [0, 1]; the share of wrong labels where the kind
            has none.
        text: A sentence or two for people.
    """

    kind: str
    rate: float
    text: str


@dataclass(frozen=True, eq=False)
class Inspection:
    """What is known of a set of given labels.

    Args:
        count: How many labels there are.
        classes: The K class names.
        given: How often each class is given.
        true: How often each class is true; None, as all below, where that is not known.
        rate: Share of wrong labels, in [0, 1].
        rates: The same for each true class; 0 for a class without examples.
        counts: How often which class (column) is given for which (row), int64 of shape (K, K),
            sparse.
        guess: The kind of noise.
    """

    count: int
    classes: tuple[str, ...]
    given: tuple[int, ...]
    true: tuple[int, ...] | None = None
    rate: float | None = None
    rates: tuple[float, ...] | None = None
    counts: Tensor | None = None
    guess: Guess | None = None

    def tables(self) -> dict[str, Any]:
        """Return everything as plain values, as they stand in a JSON file.

        Of ``counts`` these are the cells that are not 0, as :func:`cells` has them.
        """
        guess = self.guess
        return {
            "count": self.count,
            "classes": list(self.classes),
            "given": list(self.given),
            "true": None if self.true is None else list(self.true),
            "rate": self.rate,
            "rates": None if self.rates is None else list(self.rates),
            "counts": None if self.counts is None else cells(self.counts),
            "guess": guess and {"kind": guess.kind, "rate": guess.rate, "text": guess.text},
        }

    def text(self) -> str:
        """Return everything as lines for people."""
        size = len(self.classes)
        if self.counts is None or self.true is None or self.rates is None:
            lines = [f"{self.count} labels of {size} classes; the true ones are not known", ""]
            table = _listed(["class", "given"], [self.classes, self.given], self.given)
            return "\n".join([*lines, *table])
        assert self.rate is not None
        assert self.guess is not None
        wrong = round(self.rate * self.count)
        shares = [f"{100 * rate:.1f} %" for rate in self.rates]
        columns = [self.classes, self.true, self.given, shares]
        return "\n".join(
            [
                f"{self.count} labels of {size} classes, {wrong} wrong ({100 * self.rate:.2f} %)",
                self.guess.text,
                "",
                *_listed(["class", "true", "given", "wrong"], columns, self.rates),
                "",
                *_flips(self.counts, self.classes),
            ]
        )


def transition_counts(true: Tensor, given: Tensor, num_classes: int) -> Tensor:
    """Count how often which class is given for which.

    Args:
        true: True labels, int64 in [0, K), of shape (N).
        given: Given labels, int64 in [0, K), of shape (N).
        num_classes: K.

    Returns:
        Counts, int64 of shape (K, K): row ``true``, column ``given``; sparse and coalesced, for of
        10,000 classes' cells almost all are 0.

    Raises:
        DataError: There are not as many of either, or a label is outside [0, K).

    Example:
        >>> transition_counts(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2).to_dense()
        tensor([[1, 1],
                [0, 1]])
    """
    true, given = true.cpu(), given.cpu()
    label_files.check(true, "true labels", num_classes=num_classes)
    label_files.check(given, "given labels", count=len(true), num_classes=num_classes)
    flat, counts = torch.unique(true * num_classes + given, return_counts=True)
    places = torch.stack([flat // num_classes, flat % num_classes])
    shape = (num_classes, num_classes)
    return torch.sparse_coo_tensor(places, counts, shape, is_coalesced=True, check_invariants=False)


def cells(counts: Tensor) -> list[list[int]]:
    """List the cells of a matrix of counts that are not 0.

    Args:
        counts: Counts, int64 of shape (K, K), sparse or not: row ``true``, column ``given``.

    Returns:
        ``[true, given, count]`` of each, in order.

    Example:
        >>> cells(torch.tensor([[3, 0], [1, 2]]))
        [[0, 0, 3], [1, 0, 1], [1, 1, 2]]
    """
    sparse = counts.to_sparse().coalesce()
    rows: list[list[int]] = torch.cat([sparse.indices(), sparse.values()[None]]).T.tolist()
    return rows


@dataclass(frozen=True)
class _Flips:
    """The wrong labels among counts.

    Args:
        sizes: Examples of each true class, float64 of shape (K).
        wrong: Wrong labels of each true class, float64 of shape (K).
        true: True class of each cell that is neither 0 nor on the diagonal, of shape (M).
        given: Its given class.
        counts: Its count, float64.
    """

    sizes: Tensor
    wrong: Tensor
    true: Tensor
    given: Tensor
    counts: Tensor

    @classmethod
    def among(cls, counts: Tensor) -> "_Flips":
        sparse = counts.to("cpu", torch.float64).to_sparse().coalesce()
        (true, given), values = sparse.indices(), sparse.values()
        empty = torch.zeros(len(counts), dtype=torch.float64)
        off = true != given
        return cls(
            sizes=empty.index_add(0, true, values),
            wrong=empty.index_add(0, true[off], values[off]),
            true=true[off],
            given=given[off],
            counts=values[off],
        )


def guess(counts: Tensor) -> Guess:
    r"""Find the kind of noise that explains how often which class is given for which.

    A map of classes fits if no other flip occurs and the classes that it maps flip at one rate;
    symmetric noise fits if each class's flips are spread evenly and all classes flip at one rate.
    Both are chi-squared tests, whose score :math:`(\chi^2 - f) / \sqrt{2 f}` with :math:`f`
    degrees of freedom must not exceed 6. Of all that fit, the likeliest is taken.

    Args:
        counts: Counts, int64 of shape (K, K), sparse or not: row ``true``, column ``given``.

    Returns:
        The guess.

    Example:
        >>> guess(torch.tensor([[80, 0, 20], [20, 80, 0], [0, 20, 80]])).kind
        'instance or transition'
        >>> print(guess(torch.tensor([[80, 20, 0], [0, 80, 20], [20, 0, 80]])).text)
        pairflip at rate 0.200: every wrong label is the next class
    """
    size, flips = len(counts), _Flips.among(counts)
    sizes = flips.sizes
    total, wrong = sizes.sum().item(), flips.counts.sum().item()
    if wrong == 0:
        return Guess("none", 0.0, f"none: all {total:.0f} labels are the true ones")
    share = wrong / total
    if wrong < FEWEST_FLIPS:
        few = f"only {wrong:.0f} labels are wrong, too few to tell the kind of noise"
        return Guess("unknown", share, few)
    if size == 2:
        return _guess_of_two(sizes, flips.wrong, share)
    found: list[tuple[float, Guess]] = []
    if _is_uniform(flips):
        likelihood = _likelihood(wrong, total) - wrong * math.log(size - 1)
        found.append((likelihood, _symmetric(size, share, total)))
    for kind, text, targets in _maps(size):
        target = torch.tensor(targets)
        mapped = target != torch.arange(size)
        if bool((target[flips.true] == flips.given).all()) and _is_one_rate(
            sizes[mapped], flips.wrong[mapped]
        ):
            eligible = sizes[mapped].sum().item()
            rate = wrong / eligible
            words = f"{kind} at rate {rate:.3f}: {text}"
            if eligible < total:
                words += f" ({100 * share:.1f} % of all labels are wrong)"
            found.append((_likelihood(wrong, eligible), Guess(kind, rate, words)))
    if found:
        return max(found, key=lambda pair: pair[0])[1]
    return _uneven(share)


def inspect(
    given: Tensor,
    true: Tensor | None = None,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> Inspection:
    """Count given labels, and compare them with the true ones where these are known.

    Args:
        given: Given labels, int64 in [0, K), of shape (N).
        true: True labels, int64 in [0, K), of shape (N).
        classes: The K class names; numbers by default.
        num_classes: K; by default as many as there are names, or one more than the greatest label.

    Returns:
        What was found.

    Raises:
        DataError: There are not as many of either, no labels at all, or a label is outside [0, K);
            or ``classes`` are not K.

    Example:
        >>> found = inspect(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1]), ["cat", "dog"])
        >>> found.rate, found.rates
        (0.25, (0.5, 0.0))
    """
    given = given.cpu()
    if not len(given):
        raise DataError("given labels: expected at least one, got none")
    if num_classes is None:
        # A single damaged label must not make a matrix of billions of classes.
        label_files.check(given, "given labels", num_classes=None if classes else MOST_CLASSES)
        greatest = int(given.max()) if true is None else max(int(given.max()), int(true.max()))
        num_classes = greatest + 1 if classes is None else len(classes)
    names = tuple(map(str, range(num_classes))) if classes is None else tuple(classes)
    if len(names) != num_classes:
        raise DataError(f"expected {num_classes} class names, got {len(names)}")
    label_files.check(given, "given labels", num_classes=num_classes)
    given_counts = tuple(torch.bincount(given, minlength=num_classes).tolist())
    if true is None:
        return Inspection(len(given), names, given_counts)
    counts = transition_counts(true, given, num_classes)
    sizes = torch.bincount(true.cpu(), minlength=num_classes)
    correct = torch.bincount(given[given == true.cpu()], minlength=num_classes)
    return Inspection(
        count=len(given),
        classes=names,
        given=given_counts,
        true=tuple(sizes.tolist()),
        rate=1 - int(correct.sum()) / len(given),
        rates=tuple(((sizes - correct) / sizes.clamp(min=1)).tolist()),
        counts=counts,
        guess=guess(counts),
    )


def draw(inspection: Inspection, path: Path) -> None:
    """Draw how often which class is given for which, in percent of the true class.

    The colours are those of wrong labels alone, beside which the right ones would drown them. Up
    to 20 classes have their numbers in the cells.

    Args:
        inspection: What was found, with true labels.
        path: The SVG file to make or replace.

    Raises:
        DataError: The true labels are not known, or the file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    if inspection.counts is None:
        raise DataError(f"{path}: expected labels whose true ones are known, to draw their flips")
    size = len(inspection.classes)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "noisylabels", "font.size": 9}):
        side = max(4.6, 1.6 + 0.36 * min(size, PRINTED_CLASSES))
        figure = Figure(figsize=(side + 0.6, side), layout="constrained")
        axes = figure.subplots()
        axes.set(xlabel="given class", ylabel="true class")
        shares = _shares(inspection.counts)
        if size <= PRINTED_CLASSES:
            image = _draw_numbers(axes, shares.to_dense().numpy(), inspection.classes)
        else:
            image = _draw_flips(axes, shares)
        figure.colorbar(image, ax=axes, label="wrong labels, % of the true class", shrink=0.8)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                figure.savefig(temporary, format="svg", metadata={"Date": None})
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror})") from error


def _shares(counts: Tensor) -> Tensor:
    """Return counts in percent of the true class, float64 and sparse."""
    sizes = _Flips.among(counts).sizes
    shares = 100 * counts.values() / sizes[counts.indices()[0]]
    return torch.sparse_coo_tensor(
        counts.indices(), shares, counts.shape, is_coalesced=True, check_invariants=False
    )


def _draw_numbers(axes: Any, shares: Any, classes: Sequence[str]) -> Any:
    """Draw every cell with its number; the colours are the wrong labels' alone."""
    import numpy as np

    own = np.eye(len(shares), dtype=bool)
    wrong = np.ma.masked_array(shares, mask=own)
    most = max(float(shares[~own].max(initial=0)), 1.0)
    colours = "Blues"
    image = axes.imshow(wrong, vmin=0, vmax=most, cmap=colours, interpolation="nearest")
    axes.set_facecolor("#eeeeee")
    for (row, column), share in np.ndenumerate(shares):
        if share:
            dark = row != column and share > 0.6 * most
            text = f"{share:.0f}" if share >= 9.95 else f"{share:.1f}"
            options = {"ha": "center", "va": "center", "fontsize": 7}
            axes.text(column, row, text, color="white" if dark else "#222222", **options)
    # A dollar sign in a name is not the beginning of a formula.
    names = [name.replace("$", r"\$") for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    return image


def _draw_flips(axes: Any, shares: Tensor) -> Any:
    """Draw a mark for every cell of wrong labels, the most frequent last."""
    (true, given), values = shares.indices(), shares.values()
    off = true != given
    order = values[off].argsort()
    places = (given[off][order].numpy(), true[off][order].numpy())
    size = len(shares)
    area = max(1.0, 30_000 / size**2)
    shown = values[off][order].numpy()
    options = {"s": area, "cmap": "viridis_r", "marker": "s", "vmin": 0}
    image = axes.scatter(*places, c=shown, **options)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    return image


def write(path: Path, given: Tensor, *, manifest: Mapping[str, Any]) -> None:
    """Write given labels, and beside them how they came about.

    The manifest is ``path`` with ``.json`` in place of ``.npy``. It also gets the labels' number,
    the SHA-256 of their file and the version of this library.

    Args:
        path: The ``.npy`` file to make or replace.
        given: Given labels, int64, of shape (N).
        manifest: Plain values, such as the kind of noise, its rate and seed.

    Raises:
        DataError: ``path`` does not end in ``.npy``, or a file cannot be written.
        MissingExtraError: NumPy is not installed.
    """
    try:
        import numpy as np
    except ImportError as error:
        raise MissingExtraError("numpy", "train") from error
    if path.suffix != ".npy":
        raise DataError(f"{path}: expected a name that ends in .npy")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            with temporary.open("wb") as file:
                np.save(file, given.to("cpu", torch.int64).numpy())
            digest = _digest(temporary)
        own = {
            "labels": len(given),
            "sha256": digest,
            "noisylabels": noisylabels.__version__,
        }
        write_json(path.with_suffix(".json"), {**manifest, **own})
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error


def verify(path: Path) -> str | None:
    """Compare a label file with the manifest beside it.

    Args:
        path: The label file.

    Returns:
        A sentence if the file is not the one that the manifest is of; None if it is, or if there
        is no manifest.

    Raises:
        DataError: The label file cannot be read.
    """
    beside = path.with_suffix(".json")
    try:
        manifest = json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return f"{beside}: expected the manifest of {path.name}, but it cannot be read as JSON"
    if not isinstance(manifest, dict) or "sha256" not in manifest:
        return None
    try:
        digest = _digest(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if digest == manifest["sha256"]:
        return None
    return (
        f"{path}: not the file that {beside.name} describes: expected SHA-256 "
        f"{manifest['sha256']!s:.64}, got {digest}"
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _maps(size: int) -> list[tuple[str, str, tuple[int, ...]]]:
    maps = [
        ("asymmetric", f"every wrong label follows map {name!r}", targets)
        for name, targets in MAPS.items()
        if len(targets) == size
    ]
    # With five classes a block is all of them, and the simpler name is pairflip.
    if size % BLOCK == 0 and size > BLOCK:
        blocks = next_within([label // BLOCK for label in range(size)])
        maps.append(("asymmetric-block5", "every wrong label is the next of its block", blocks))
    maps.append(("pairflip", "every wrong label is the next class", next_within([0] * size)))
    return maps


def _score(statistic: float, freedom: float) -> float:
    return (statistic - freedom) / math.sqrt(2 * freedom) if freedom > 0 else 0.0


def _is_one_rate(sizes: Tensor, flips: Tensor) -> bool:
    sizes, flips = sizes[sizes > 0], flips[sizes > 0]
    rate = (flips.sum() / sizes.sum()).item()
    if rate in (0.0, 1.0):
        return True
    statistic = ((flips - sizes * rate).square() / (sizes * rate * (1 - rate))).sum().item()
    return _score(statistic, len(sizes) - 1) <= REJECTED


def _is_uniform(flips: _Flips) -> bool:
    others = len(flips.sizes) - 1
    wrong = flips.wrong[flips.wrong > 0]
    # Of a class with f flips over n others, sum (c - f/n)^2 / (f/n) is n/f sum c^2 - f.
    squares = (flips.counts.square() / flips.wrong[flips.true]).sum()
    statistic = others * squares - wrong.sum()
    even = _score(statistic.item(), len(wrong) * (others - 1)) <= REJECTED
    return even and _is_one_rate(flips.sizes, flips.wrong)


def _likelihood(flips: float, total: float) -> float:
    """Return the greatest log-likelihood of so many flips under one rate."""
    kept = total - flips
    likelihood = flips * math.log(flips / total)
    return likelihood + kept * math.log(kept / total) if kept else likelihood


def _symmetric(size: int, share: float, total: float) -> Guess:
    rate = share * size / (size - 1)
    # Above 1 by no more than chance is a rate of 1.
    slack = 5 * math.sqrt(share * (1 - share) / total) * size / (size - 1)
    if rate > 1 + slack:
        text = f"symmetric-exclusive at rate {share:.3f}: more labels are wrong than by pure chance"
        return Guess("symmetric-exclusive", share, text)
    rate = min(rate, 1.0)
    text = (
        f"symmetric at rate {rate:.3f} or, which is the same, symmetric-exclusive at rate "
        f"{share:.3f}: wrong labels are spread evenly"
    )
    return Guess("symmetric", rate, text)


def _guess_of_two(sizes: Tensor, flips: Tensor, share: float) -> Guess:
    if not _is_one_rate(sizes, flips):
        rates = (flips / sizes.clamp(min=1)).tolist()
        text = (
            f"instance or transition: the two classes flip at different rates, {rates[0]:.3f} and "
            f"{rates[1]:.3f}; labels alone do not tell whether examples do too"
        )
        return Guess("instance or transition", share, text)
    found = _symmetric(2, share, sizes.sum().item())
    text = f"{found.text}; with two classes pairflip at rate {share:.3f} is the same again"
    return Guess(found.kind, found.rate, text)


def _uneven(share: float) -> Guess:
    text = (
        f"instance or transition, {100 * share:.1f} % wrong: some flips are more frequent than "
        "others, in no usual pattern; labels alone do not tell noise that depends on the example "
        "from noise that depends on the class"
    )
    return Guess("instance or transition", share, text)


def _columns(header: Sequence[str], columns: Sequence[Sequence[object]]) -> list[str]:
    """Lay out a table: the first column to the left, numbers to the right."""
    table = [header, *zip(*columns, strict=True)]
    widths = [max(len(str(row[index])) for row in table) for index in range(len(header))]
    return [
        "  ".join(
            [
                str(row[0]).ljust(widths[0]),
                *(str(cell).rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in table
    ]


def _listed(
    header: Sequence[str], columns: Sequence[Sequence[object]], order: Sequence[float]
) -> list[str]:
    """Lay out a table of classes: of very many those with the greatest ``order``."""
    if len(order) <= LISTED_CLASSES:
        return _columns(header, columns)
    first = sorted(range(len(order)), key=lambda row: -order[row])[:LISTED_CLASSES]
    table = _columns(header, [[column[row] for row in first] for column in columns])
    left = len(order) - LISTED_CLASSES
    return [*table, f"... and {left} classes with fewer in the last column; --json lists them all"]


def _flips(counts: Tensor, classes: Sequence[str]) -> list[str]:
    size = len(classes)
    if size <= PRINTED_CLASSES:
        columns = [list(classes), *counts.to_dense().T.tolist()]
        rows = _columns(["true \\ given", *map(str, range(size))], columns)
        return ["columns are the given classes in the order of the rows", *rows]
    flips = [cell for cell in cells(counts) if cell[0] != cell[1]]
    frequent = sorted(flips, key=lambda cell: -cell[2])[:PRINTED_CLASSES]
    rows_ = [[classes[true], classes[given], count] for true, given, count in frequent]
    columns = [list(column) for column in zip(*rows_, strict=True)] or [[], [], []]
    return [
        f"the {len(frequent)} most frequent flips",
        *_columns(["true", "given", "labels"], columns),
    ]
