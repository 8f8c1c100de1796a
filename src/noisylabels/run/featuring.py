"""A plan's inputs as vectors, computed once."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from noisylabels.data.datasets import feature_statistics
from noisylabels.data.examples import Dataset, Examples
from noisylabels.errors import ConfigError, DataError
from noisylabels.features import Compute, Features
from noisylabels.features.cache import keep, recall
from noisylabels.features.reduction import Reduced
from noisylabels.run.device import choose_memory_format, choose_precision
from noisylabels.run.plan import Plan, build


def featurise(made: Plan, dataset: Dataset, say: Callable[[str], None]) -> Dataset:
    """Turn the inputs of a dataset into vectors, or prepare them for a network to be fine-tuned.

    Args:
        made: A plan with features.
        dataset: Its dataset, before any example is held out.
        say: Tells the user how far it has come.

    Returns:
        The dataset, with vectors as inputs where the features are frozen; otherwise with the mean
        and standard deviation that the network was trained with.

    Raises:
        ConfigError: There is no such network, or its weights do not fit.
        DataError: An input cannot be read.
    """
    features = made.features
    assert features is not None, "asked of plans with features only"
    if not features.freeze:
        mean, std = build(functools.partial(features.normalisation, dataset), "features")
        return dataclasses.replace(dataset, mean=mean, std=std)
    # Fabric takes a second to import, which making labels does not need.
    from noisylabels.run.launch import default_device

    device = default_device()
    asked = made.config.precision

    def precision(network: nn.Module, device: torch.device) -> str:
        return choose_precision(network, device) if asked == "auto" else asked

    compute = Compute(device, made.workers, precision, choose_memory_format, say)
    parts = {"train": dataset.train, "test": dataset.test}
    identity = features_identity(made) | {
        "device": device.type,
        "precision": precision(nn.Conv2d(1, 1, 1), device),
    }
    # Nothing of a test set that is to be left alone, though another run may have kept it.
    wanted = {part: examples for part, examples in parts.items() if len(examples)}
    vectors = _vectors(made, features, identity, wanted, compute)
    train = vectors["train"]
    made_parts = {
        part: Examples(vectors.get(part, train[:0]), examples.labels, examples.places)
        for part, examples in parts.items()
    }
    mean, std = feature_statistics(train)
    return dataclasses.replace(
        dataset, train=made_parts["train"], test=made_parts["test"], mean=mean, std=std
    )


def _vectors(
    made: Plan,
    features: Features,
    identity: dict[str, Any],
    parts: Mapping[str, Examples],
    compute: Compute,
) -> dict[str, Tensor]:
    """Find vectors in the cache, or compute and keep them; those of the training set are asked."""
    found = {part: recall(identity | {"part": part}) for part in parts}
    if features.learns:
        learnt = recall(identity | {"part": "learnt"})
        if learnt is None:
            # What was learnt is wanted, too, or nothing but these inputs could ever be predicted.
            found = dict.fromkeys(parts)
        else:
            features.restore(learnt)
    vectors = {part: kept["vectors"] for part, kept in found.items() if kept is not None}
    missing = {part: examples for part, examples in parts.items() if part not in vectors}
    if missing:
        if isinstance(features, Reduced):
            # Vectors of any length come from the same ones.
            needed = {"train": parts["train"], **missing}
            whole = _vectors(made, features.whole, _whole_identity(identity), needed, compute)
            computed = features.reduce(whole)
        else:
            extract = functools.partial(features.extract, missing, parts["train"], compute)
            computed = build(extract, "features", made.config.features)
        for part, examples in missing.items():
            _check_vectors(made, computed[part], examples)
            keep(identity | {"part": part}, {"vectors": computed[part]})
            vectors[part] = computed[part]
        if features.learns:
            keep(identity | {"part": "learnt"}, features.learnt())
    return vectors


def _whole_identity(identity: dict[str, Any]) -> dict[str, Any]:
    """Return the identity of the vectors that others are reduced from."""
    settings = identity["settings"]
    table = {key: value for key, value in settings["features"].items() if key != "dimensions"}
    return identity | {"settings": settings | {"features": table}}


def _check_vectors(made: Plan, rows: Tensor, examples: Examples) -> None:
    """Refuse vectors that nothing can be learnt from, before they are kept."""
    name = made.config.features.name
    if rows.ndim != 2 or len(rows) != len(examples) or not rows.is_floating_point():
        raise ConfigError(
            f"features: {name!r}: expected {len(examples)} vectors of floating-point numbers, got "
            f"{rows.dtype} of shape {tuple(rows.shape)}"
        )
    bad = (~rows.isfinite()).any(1).nonzero()
    if len(bad):
        row = int(bad[0])
        place = f"example {row}" if examples.places is None else str(examples.places[row])
        raise DataError(f"{place}: its features by {name!r} are not finite")


def features_identity(made: Plan) -> dict[str, Any]:
    """Return all that a plan's vectors depend on, but how they are computed.

    Args:
        made: A plan with features.
    """
    settings, contents = made.identity["settings"], made.identity["contents"]
    highest = made.source.facts().highest
    return {
        # Digests of what was kept before there was this stay as they are.
        **({} if highest == 255 else {"highest": highest}),
        "settings": {key: settings[key] for key in ("data", "features")},
        "contents": {
            key: value
            for key, value in contents.items()
            if key.partition(".")[0].partition(" ")[0] in ("data", "features")
        },
    }
