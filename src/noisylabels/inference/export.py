"""Exports of a trained classifier, each compared with it before it is kept."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisylabels.atomic import replacing
from noisylabels.data.examples import Dataset, Texts
from noisylabels.errors import (
    ConfigError,
    DataError,
    MissingExtraError,
    NoisyLabelsError,
    check_choice,
)
from noisylabels.features.texts import texts
from noisylabels.inference.classifier import Array, Classifier, load
from noisylabels.inference.metadata import KEY
from noisylabels.inference.network import Whole
from noisylabels.run import config, spec
from noisylabels.run.folder import RunFolder, writing

TOLERANCE = 1e-4
"""Greatest difference of a probability from the classifier's own."""
SAMPLES = 9
"""Inputs that both are compared on."""
SENTENCES = ("A fine film.", "It is dull, and far too long.", "The match ended in a draw.")
"""What classifiers of texts are compared on where the run's own are not there."""
SELF = "safetensors"
"""The format that this library reads itself."""
OPSET = 20
"""Of ONNX: its Resize is antialiased, as ours is."""


def export(classifier: Classifier, out: Path, format: str, samples: Tensor | list[str]) -> float:
    """Write a classifier as one file that needs no run folder, and compare it with the classifier.

    What turns texts into vectors is no network, so only ``"safetensors"``, which is read by this
    library, can hold a classifier of texts: its networks, what its features have learnt, and in its
    metadata how vectors are made.

    Args:
        classifier: The classifier.
        out: The file.
        format: A key of ``FORMATS``.
        samples: Real inputs to compare on, at least two, as the whole network takes them, or texts;
            see :func:`sample`.

    Returns:
        The greatest difference of a probability.

    Raises:
        ConfigError: There is no such format, or it is for networks alone, and the classifier is
            none as a whole.
        DataError: The network cannot be exported so, or the exported one predicts something else:
            then nothing is left of it.
        MissingExtraError: A library that the format needs is not installed.
        CheckpointError: The file cannot be written.
    """
    check_choice("format", format, FORMATS)
    write = FORMATS[format]
    name = classifier.described.features["name"]
    if classifier.apart and format != SELF:
        raise ConfigError(
            f"{format} holds networks alone, and the features {name!r} are none: expected --format "
            f"{SELF}, which noisylabels.load and noisylabels predict read"
        )
    network = classifier.head
    expected = classifier.predict_proba(samples) if classifier.apart else None
    device = next(network.parameters(), network.mean).device
    # An exported network is tied to no device.
    network.cpu()
    try:
        if expected is None:
            assert isinstance(samples, Tensor), "a network takes no texts"
            with torch.inference_mode():
                expected = network(samples).numpy()
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
        with writing(out), replacing(out) as temporary:
            # Not real ones: some formats keep the inputs that they were traced with.
            example = torch.zeros(2, *classifier.described.shape)
            if isinstance(samples, Tensor):
                example = torch.zeros_like(samples[:2])
            run: Callable[[Any], Array] = write(classifier, network, temporary, example)
            difference = max(
                float(np.abs(run(samples[:count]) - expected[:count]).max())
                for count in (1, len(samples))
            )
            if not difference <= TOLERANCE:
                raise DataError(
                    f"{out}: not kept, for its probabilities differ by {difference:.2g} from the "
                    f"run's own, more than {TOLERANCE:g}"
                )
    finally:
        network.to(device)
    return difference


def describe(classifier: Classifier) -> dict[str, str]:
    """Return what an exported file says of itself, by the keys of its metadata.

    Args:
        classifier: The classifier.

    Returns:
        ``classes``, a JSON list; ``input`` and ``output``, sentences; ``preprocessing``, JSON of
        how image files become inputs; ``run_id``; ``features``, how inputs become vectors, where
        features are no network; and ``noisylabels``, JSON of all of it.
    """
    described = classifier.described
    shape = ", ".join(map(str, described.input))
    images = described.images
    covered = "256/224 of the size" if images and images.margin else "the size"
    kind = {0: "texts (N)", 3: f"uint8 images (N, {shape})"}
    apart = {"features": classifier.recipe} if classifier.recipe else {}
    return apart | {
        "classes": json.dumps(classifier.classes),
        "input": kind.get(len(described.input), f"features (N, {shape})"),
        "output": "float32 class probabilities (N, K); the input's normalisation is inside",
        "preprocessing": json.dumps(
            images
            and {
                **dataclasses.asdict(images),
                "resizing": f"resized to cover {covered}, bilinear with antialiasing, and cropped "
                f"at the centre",
            }
        ),
        "run_id": described.run_id,
        KEY: dataclasses.replace(described, whole=True).text(),
    }


def sample(folder: RunFolder, classifier: Classifier) -> tuple[Tensor | list[str], str]:
    """Return some of a run's own test inputs, as the whole network takes them.

    Args:
        folder: The run folder.
        classifier: Its classifier.

    Returns:
        The inputs, and what they are in words; where the data is not there any more, random ones,
        or a few sentences.
    """
    shape = classifier.input_shape
    try:
        return _real(folder, classifier), "test inputs of the run"
    except (NoisyLabelsError, OSError):
        if not shape:
            return list(SENTENCES), "sentences, for the run's data is not there"
        generator = torch.Generator().manual_seed(0)
        if len(shape) == 3:
            made = torch.randint(256, (SAMPLES, *shape), generator=generator, dtype=torch.uint8)
        else:
            network = classifier.network
            drawn = torch.randn(SAMPLES, *shape, generator=generator)
            made = drawn * network.std.cpu() + network.mean.cpu()
        return made, "random inputs, for the run's data is not there"


def _real(folder: RunFolder, classifier: Classifier) -> Tensor | list[str]:
    places = folder.labels().get("test_places", np.array([]))
    files = [Path(place) for place in places[:SAMPLES].tolist() if os.path.isfile(place)]  # noqa: PTH113
    if len(files) > 1:
        return classifier.inputs(files)
    # Not files of their own, so the whole set has to be read.
    data = config.parse({"data": folder.config()["data"]}).data
    dataset: Dataset = spec.source(data).load()
    if isinstance(dataset.test.inputs, Texts):
        return texts(dataset.test.take(torch.arange(min(SAMPLES, len(dataset.test)))))
    return dataset.test.tensor()[:SAMPLES]


def _safetensors(
    classifier: Classifier, network: Whole, path: Path, example: Tensor
) -> Callable[[Tensor], Array]:
    from safetensors.torch import save

    path.write_bytes(save(classifier.tensors(), describe(classifier)))
    return load(path).predict_proba


def _torch_export(
    classifier: Classifier, network: Whole, path: Path, example: Tensor
) -> Callable[[Tensor], Array]:
    shapes = ({0: torch.export.Dim("batch")},)
    program = _traced(lambda: torch.export.export(network, (example,), dynamic_shapes=shapes))
    # A stream, for torch wants a path to end in .pt2, which a temporary one does not.
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files=describe(classifier))
    with path.open("rb") as written:
        loaded = torch.export.load(written).module()

    def run(inputs: Tensor) -> Array:
        with torch.inference_mode():
            found: Array = loaded(inputs).numpy()
        return found

    return run


def _onnx(
    classifier: Classifier, network: Whole, path: Path, example: Tensor
) -> Callable[[Tensor], Array]:
    try:
        import onnx
        import onnxruntime  # noqa: F401 - what cannot be compared is not kept
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "export") from error
    program = _traced(
        lambda: torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    )
    model = program.model_proto
    for key, value in describe(classifier).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return functools.partial(_run_onnx, path)


def _run_onnx(path: Path, inputs: Tensor) -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    found: Array = session.run(["probabilities"], {"input": inputs.numpy()})[0]
    return found


FORMATS: dict[str, Callable[[Classifier, Whole, Path, Tensor], Callable[[Tensor], Array]]] = {
    "onnx": _onnx,
    "torch-export": _torch_export,
    "safetensors": _safetensors,
}
"""What writes a format and returns how its files are run."""
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}


def _traced(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # of the user's own network anything can be wrong for a tracer
        reason = " ".join(str(error).split())
        raise DataError(
            f"the network cannot be exported in this format ({type(error).__name__}: {reason:.300})"
        ) from error
