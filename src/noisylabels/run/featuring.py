"""A plan's inputs as vectors, computed once."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from noisylabels.data.datasets import feature_statistics
from noisylabels.data.examples import Dataset, Examples
from noisylabels.errors import ConfigError, DataError
from noisylabels.features import Compute, Features
from noisylabels.features.cache import is_kept, keep, recall
from noisylabels.features.reduction import Reduced
from noisylabels.run.device import choose_memory_format, choose_precision, default_device
from noisylabels.run.plan import Plan, build


class VectorsGoneError(DataError):
    """Kept vectors that turn out to be missing or damaged, where no inputs have been read."""


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
        VectorsGoneError: The dataset is an outline, and its vectors are not all there any more.
    """
    features = made.features
    assert features is not None, "asked of plans with features only"
    if not features.freeze:
        mean, std = build(functools.partial(features.normalisation, dataset), "features")
        return dataclasses.replace(dataset, mean=mean, std=std)
    device = default_device()
    precision = functools.partial(_precision, made)
    compute = Compute(device, made.workers, precision, choose_memory_format, say)
    parts = {"train": dataset.train, "test": dataset.test}
    identity = _identity(made, device)
    # Nothing of a test set that is to be left alone, though another run may have kept it.
    wanted = {part: examples for part, examples in parts.items() if len(examples)}
    vectors = _vectors(made, features, identity, wanted, compute)
    train = vectors["train"]
    made_parts = {
        part: dataclasses.replace(examples, inputs=vectors.get(part, train[:0]))
        for part, examples in parts.items()
    }
    digest = _kept_digest(_by_network(features, identity))
    about = {"part": "statistics"} | ({} if digest is None else {"weights": digest})
    kept = recall(identity | about)
    if kept is None:
        kept = dict(zip(("mean", "std"), feature_statistics(train), strict=True))
        keep(identity | about, kept)
    mean, std = kept["mean"], kept["std"]
    if features.common_scale:
        std = torch.full_like(std, float((train - mean).square().mean().sqrt()) or 1.0)
    return dataclasses.replace(
        dataset, train=made_parts["train"], test=made_parts["test"], mean=mean, std=std
    )


INPUT_NOISES = ("instance", "margin")
"""Noises that look at the inputs."""
PARTS = ("train", "test")


def recall_outline(made: Plan) -> Dataset | None:
    """Return a plan's dataset without its inputs, where nothing is left to be done with these.

    Args:
        made: A plan.

    Returns:
        The dataset as the source has it, but for inputs of no width; None where its frozen vectors
        are not all in the cache, or its noise looks at the inputs, or files of clean labels may
        find examples by them.
    """
    noise = made.config.noise.name
    if noise in INPUT_NOISES or ":" in noise or made.features is None or not made.features.freeze:
        return None
    if (made.config.test_labels or made.config.validation_labels) and made.source.facts().texts:
        return None
    identity = _identity(made, default_device())
    parts = PARTS if made.config.test else PARTS[:1]
    kept = [*parts, *(("learnt",) if made.features.learns else ())]
    if not all(is_kept(identity | {"part": part}) for part in kept):
        return None
    found = recall(_outline_identity(made))
    if found is None:
        return None
    told = json.loads(found["told"].numpy().tobytes())
    train, test = (
        Examples(
            torch.empty(len(found[part]), 0),
            found[part],
            None if (places := told["places"][part]) is None else np.array(places),
            targets=found.get(f"{part}_targets"),
        )
        for part in PARTS
    )
    return Dataset(
        train,
        test,
        classes=tuple(told["classes"]),
        mean=found["mean"],
        std=found["std"],
        notes=tuple(told["notes"]),
        skipped=tuple((place, reason) for place, reason in told["skipped"]),
        test_is_given=told["test_is_given"],
    )


def keep_outline(made: Plan, dataset: Dataset) -> None:
    """Keep all that a plan's source says but the inputs, beside their vectors.

    Args:
        made: A plan.
        dataset: The dataset as its source has it.
    """
    if made.features is None or not made.features.freeze:
        return
    identity = _outline_identity(made)
    if is_kept(identity):
        return
    if not made.config.test:
        # Which is left alone.
        none = dataset.train.take(torch.arange(0))
        dataset = dataclasses.replace(dataset, test=none, test_is_given=False)
    places = {part: getattr(dataset, part).places for part in PARTS}
    told = {
        "classes": dataset.classes,
        "notes": dataset.notes,
        "skipped": dataset.skipped,
        "test_is_given": dataset.test_is_given,
        "places": {k: None if each is None else each.tolist() for k, each in places.items()},
    }
    targets = {
        f"{part}_targets": own
        for part in PARTS
        if (own := getattr(dataset, part).targets) is not None
    }
    keep(
        identity,
        targets
        | {
            "train": dataset.train.labels,
            "test": dataset.test.labels,
            "mean": dataset.mean,
            "std": dataset.std,
            # ASCII, for places need not be UTF-8.
            "told": _as_tensor(json.dumps(told)),
        },
    )


def _outline_identity(made: Plan) -> dict[str, Any]:
    identity = features_identity(made)
    settings = {"data": identity["settings"]["data"]}
    contents = {k: v for k, v in identity["contents"].items() if k.startswith("data")}
    # With where they lie: what examples are called by depends on it.
    about = {"part": "outline", "test": made.config.test, "data": made.config.data.table()}
    return about | {"settings": settings, "contents": contents}


def _vectors(
    made: Plan,
    features: Features,
    identity: dict[str, Any],
    parts: Mapping[str, Examples],
    compute: Compute,
) -> dict[str, Tensor]:
    """Find vectors in the cache, or compute and keep them; those of the training set are asked."""
    found = {part: recall(identity | {"part": part}) for part in parts}
    learnt = recall(identity | {"part": "learnt"}) if features.learns else None
    lacking = any(kept is None for kept in found.values())
    if lacking and features.weights_digest() != _kept_digest(_by_network(features, identity)):
        # What was computed by other weights does not go with what will be.
        found, learnt = dict.fromkeys(parts), None
    if features.learns:
        if learnt is None:
            # What was learnt is wanted, too, or nothing but these inputs could ever be predicted.
            found = dict.fromkeys(parts)
        else:
            features.restore(learnt)
    vectors = {part: kept["vectors"] for part, kept in found.items() if kept is not None}
    missing = {part: examples for part, examples in parts.items() if part not in vectors}
    if missing:
        if any(examples.shape == (0,) for examples in missing.values()):
            raise VectorsGoneError("vectors have just gone from the cache")
        if isinstance(features, Reduced):
            # Vectors of any length come from the same ones.
            needed = {"train": parts["train"], **missing}
            whole = _vectors(made, features.whole, _whole_identity(identity), needed, compute)
            computed = features.reduce(whole)
        else:
            extract = functools.partial(features.extract, missing, parts["train"], compute)
            computed = build(extract, "features", made.config.features)
            if (digest := features.weights_digest()) is not None:
                keep(identity | {"part": "weights"}, {"digest": _as_tensor(digest)})
        for part, examples in missing.items():
            _check_vectors(made, computed[part], examples)
            keep(identity | {"part": part}, {"vectors": computed[part]})
            vectors[part] = computed[part]
        if features.learns:
            keep(identity | {"part": "learnt"}, features.learnt())
    return vectors


def weights_digest(made: Plan) -> str | None:
    """Return the digest of the downloaded weights that a plan's vectors were computed by.

    Args:
        made: A plan whose vectors were computed.

    Returns:
        None where there are no such weights, or it is not known.
    """
    if made.features is None or not made.features.freeze:
        return None
    return _kept_digest(_by_network(made.features, _identity(made, default_device())))


def _by_network(features: Features, identity: dict[str, Any]) -> dict[str, Any]:
    """Return the identity of the vectors that a network computes, of whatever length others are."""
    return _whole_identity(identity) if isinstance(features, Reduced) else identity


def _kept_digest(identity: dict[str, Any]) -> str | None:
    found = recall(identity | {"part": "weights"})
    return None if found is None else found["digest"].numpy().tobytes().decode()


def _as_tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


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


def _precision(made: Plan, network: nn.Module, device: torch.device) -> str:
    asked = made.config.precision
    return choose_precision(network, device) if asked == "auto" else asked


def _identity(made: Plan, device: torch.device) -> dict[str, Any]:
    """Return all that a plan's vectors depend on."""
    precision = _precision(made, nn.Conv2d(1, 1, 1), device)
    return features_identity(made) | {"device": device.type, "precision": precision}


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
