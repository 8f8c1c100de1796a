"""A plan's data with the labels that its training set is given."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from noisylabels.candidates import check_sets, draw_candidate
from noisylabels.data import poison
from noisylabels.data.batches import derive_seed
from noisylabels.data.clean_labels import Part, read_clean_labels
from noisylabels.data.examples import (
    Dataset,
    Examples,
    first,
    hold_out,
    hold_out_clean,
    hold_out_fold,
)
from noisylabels.errors import ConfigError, DataError
from noisylabels.run.config import parse_fold
from noisylabels.run.featuring import (
    INPUT_NOISES,
    VectorsGoneError,
    featurise,
    keep_outline,
    recall_outline,
)
from noisylabels.run.plan import Plan, build

_kept: dict[str, Dataset] | None = None


@contextmanager
def keeping_data() -> Iterator[None]:
    """Keep the dataset that was read last, for runs of one process that share it.

    Reading files again for each run of a study can take longer than training on them.
    """
    global _kept
    before, _kept = _kept, {}
    try:
        yield
    finally:
        _kept = before


def load(made: Plan) -> Dataset:
    """Read a plan's data, unless it is kept, see :func:`keeping_data`.

    Args:
        made: The plan.

    Returns:
        The dataset as the source has it.

    Raises:
        DataError: It is missing or damaged.
    """
    read = functools.partial(made.source.load, made.workers)
    if _kept is None:
        return build(read, "data", made.config.data)
    data = [made.config.data.table(), made.identity["settings"]["data"]]
    contents = {k: v for k, v in made.identity["contents"].items() if k.startswith("data")}
    key = json.dumps([data, contents], default=str)
    if key not in _kept:
        # Before the next one is read, or both would be in memory.
        _kept.clear()
        _kept[key] = build(read, "data", made.config.data)
    return _kept[key]


def label(
    made: Plan, say: Callable[[str], None] = lambda sentence: None, *, vectors: bool = True
) -> tuple[Dataset, Tensor | None]:
    """Load a plan's data and make its noise; then its frozen features, once for all runs.

    The noise is applied to the whole training set, then the limit, then the poison, then the
    hold-out. A test set that is to be left alone is put away first: nothing reads its labels.
    Labels that are known to be right stand beside the given ones, which nothing replaces. Noise
    that makes sets of candidates leaves one of each, drawn at random, as the given label.

    Args:
        made: The plan.
        say: Tells the user how far computing features has come.
        vectors: Whether features are wanted at all.

    Returns:
        The dataset with given labels; and the true labels of its training set, int64 of shape (N),
        or None where they are not known.

    Raises:
        DataError: The data or a file of clean labels is missing or damaged, or the noise needs what
            it does not have.
    """
    outline = recall_outline(made) if vectors else None
    if outline is not None:
        # What is kept can be damaged, or deleted by another process at any time.
        with suppress(VectorsGoneError):
            return _label(made, outline, say, vectors=True, outlined=True)
    return _label(made, load(made), say, vectors=vectors, outlined=False)


def _label(
    made: Plan, whole: Dataset, say: Callable[[str], None], *, vectors: bool, outlined: bool
) -> tuple[Dataset, Tensor | None]:
    """Make a dataset's noise and features, as :func:`label` does."""
    dataset = whole
    train = dataset.train
    clean, notes = read_clean(made, "train", dataset)
    if made.config.test:
        test_clean, more = read_clean(made, "test", dataset)
        notes = (*notes, *more)
        dataset = dataclasses.replace(dataset, test_clean=test_clean)
    else:
        none = train.take(torch.arange(0))
        dataset = dataclasses.replace(dataset, test=none, test_is_given=False)
    dataset = dataclasses.replace(dataset, notes=(*dataset.notes, *notes))
    # Of an outline nothing looks at the inputs.
    seen = isinstance(train.inputs, Tensor) and not outlined
    features = train.tensor() if seen else None
    if features is None and made.config.noise.name in INPUT_NOISES:
        raise ConfigError(
            f"noise: {made.config.noise.name!r} needs the images' features in memory, but they "
            'stream: storage = "memory" in data, or a label file'
        )
    if features is not None and features.is_floating_point():
        features = (features - dataset.mean) / dataset.std
    given = _mislabel(made, train.labels, len(dataset.classes), features)
    # Labels that we change ourselves count as true before, but not to put them right.
    noise = made.config.noise
    changed = noise.name != "none" and not noise.parameters.get("corrects")
    changed |= made.poison is not None
    known = made.source.clean or changed
    noisy = dataclasses.replace(dataset, train=_relabelled(made, train, given))
    limited = first(noisy, made.source.limit)
    if len(limited.train) < 2:
        raise DataError(
            f"limit {made.source.limit}: expected at least 2 training examples to learn from"
        )
    true = train.labels[: len(limited.train)]
    if made.poison is not None:
        if limited.train.targets is not None:
            raise ConfigError("poison: expected one label for each example, got several")
        apply = functools.partial(poison.apply, limited, made.poison)
        limited = build(apply, "poison", made.config.poison)
    if made.features is not None and vectors:
        limited = featurise(made, limited, say)
        if not outlined:
            keep_outline(made, whole)
    if made.config.validation:
        seed = derive_seed(made.config.seed, "validation")
        share = made.config.validation
        if isinstance(share, str):
            limited, kept = hold_out_fold(limited, *parse_fold(share), seed)
        else:
            limited, kept = hold_out(limited, share, seed)
        true = true[kept]
    elif clean is not None:
        limited, kept = hold_out_clean(limited, clean[: len(limited.train)])
        true = true[kept]
    return limited, true if known else None


def read_clean(made: Plan, part: Part, dataset: Dataset) -> tuple[Tensor | None, tuple[str, ...]]:
    """Read the labels of a part that a plan says are right.

    Args:
        made: The plan.
        part: The part.
        dataset: Its dataset, before anything is left out.

    Returns:
        As :func:`noisylabels.data.clean_labels.read_clean_labels`; None and nothing to say where
        the plan names no such labels.

    Raises:
        DataError: They are missing or damaged, or do not fit.
    """
    run = made.config
    path = run.test_labels if part == "test" else run.validation_labels
    if path is None:
        return None, ()
    source = made.source
    named = [getattr(source, field.name) for field in dataclasses.fields(source)]
    paths = [each for each in named if isinstance(each, Path)]
    roots = [each if each.is_dir() else each.parent for each in paths]
    clean, note = read_clean_labels(path, dataset, part, roots)
    return clean, (note,)


def _relabelled(made: Plan, train: Examples, given: Tensor) -> Examples:
    """Return the training examples with given labels, or with sets of candidates."""
    if train.targets is not None and made.config.noise.name != "none":
        raise ConfigError(
            f"noise: {made.config.noise.name!r} is for data with one label for each example, and "
            f"these have several"
        )
    if given.dtype is not torch.bool:
        return dataclasses.replace(train, labels=given)
    # What wants one label, such as a stratified hold-out, gets none that tells the true one.
    drawn = draw_candidate(given, seed=derive_seed(made.config.seed, "candidate"))
    return dataclasses.replace(train, labels=drawn, targets=given)


def _mislabel(made: Plan, true: Tensor, num_classes: int, features: Tensor | None) -> Tensor:
    noise = made.config.noise
    make = functools.partial(made.noise, true, num_classes=num_classes, features=features)
    given = build(make, "noise", noise, Tensor)
    if given.dtype is torch.bool and given.shape == (len(true), num_classes):
        build(lambda: check_sets(given, len(true)), "noise", noise)
        return given
    if given.shape != true.shape or given.dtype != true.dtype:
        raise ConfigError(
            f"noise: {noise.name!r}: expected {true.dtype} labels of shape {tuple(true.shape)}, "
            f"got {given.dtype} of shape {tuple(given.shape)}"
        )
    outside = (given < 0) | (given >= num_classes)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise ConfigError(
            f"noise: {noise.name!r}: expected labels from 0 to {num_classes - 1}, got "
            f"{int(given[row])} for example {row}"
        )
    return given
