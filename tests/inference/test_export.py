import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from noisylabels.data.datasets import Digits
from noisylabels.errors import CheckpointError, ConfigError, DataError
from noisylabels.inference import export as exports
from noisylabels.inference.classifier import load
from noisylabels.inference.export import FORMATS, SUFFIXES, describe, export, sample
from noisylabels.run.folder import RunFolder
from noisylabels.run.trainer import train
from pictures import class_folders


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two networks whose mean is the prediction."""
    tables = {
        "data": "digits",
        "noise": {"name": "symmetric", "rate": 0.4},
        "model": {"name": "mlp", "hidden": [8]},
        "method": {"name": "dividemix", "warmup": 1},
        "optimizer": {"lr": 0.1},
        "epochs": 2,
    }
    return train(tables, tmp_path_factory.mktemp("runs"))


def outside(code, *words):
    """Run code that knows nothing of this library."""
    blocked = "import sys; sys.modules['noisylabels'] = None\n"
    command = [sys.executable, "-c", blocked + code, *map(str, words)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(made.stdout)


def made(run, path, format):
    classifier = load(run)
    inputs, kind = sample(RunFolder(run), classifier)
    assert kind == "test inputs of the run"
    assert export(classifier, path, format, inputs) <= 2e-5
    return classifier


ONNX = """
import json, sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
found = session.run(None, {"input": numpy.load(sys.argv[2])})[0].tolist()
print(json.dumps([found, session.get_modelmeta().custom_metadata_map]))
"""
TORCH = """
import json, sys, numpy, torch
said = {"classes": "", "preprocessing": "", "noisylabels": "", "input": "", "output": ""}
network = torch.export.load(sys.argv[1], extra_files=said).module()
found = network(torch.from_numpy(numpy.load(sys.argv[2]))).tolist()
print(json.dumps([found, said]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("format", "code"), [("onnx", ONNX), ("torch-export", TORCH)])
def test_exports_work_without_the_library(run, tmp_path, format, code):
    pytest.importorskip("onnxruntime" if format == "onnx" else "torch")
    path = tmp_path / f"model{SUFFIXES[format]}"
    classifier = made(run, path, format)
    images = Digits().load().test.tensor()
    np.save(tmp_path / "images.npy", images.numpy())
    found, said = outside(code, path, tmp_path / "images.npy")
    np.testing.assert_allclose(found, classifier.predict_proba(images), atol=1e-5)
    assert json.loads(said["classes"]) == list("0123456789")
    assert said["input"] == "uint8 images (N, 1, 8, 8)"
    assert json.loads(said["noisylabels"])["mean"] == [0]
    # No image of the run's data is in it: weights are 8 kB, and torch adds some of its own.
    assert path.stat().st_size < 100_000


def test_safetensors_are_loaded_like_a_run(run, tmp_path):
    path = tmp_path / "model.safetensors"
    classifier = made(run, path, "safetensors")
    images = Digits().load().test.tensor()
    again = load(path)
    assert again.classes == classifier.classes
    np.testing.assert_array_equal(again.predict_proba(images), classifier.predict_proba(images))
    with pytest.raises(DataError, match="expected a run folder, or what noisylabels export"):
        load(run / "model.safetensors")
    with pytest.raises(DataError, match="expected a run folder, or what noisylabels export"):
        load(run / "config.json")


@pytest.fixture(scope="module")
def frozen(backbone, tmp_path_factory):
    root = class_folders(tmp_path_factory.mktemp("photos"))
    data = {"name": "folder", "root": str(root), "size": 24}
    tables = {"data": data, "features": backbone, "epochs": 2, "precision": "32"}
    return train(tables, tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_frozen_features_are_inside(frozen, tmp_path, format):
    """Their antialiased resizing too: from 24 to 32 pixels here."""
    path = tmp_path / f"model{SUFFIXES[format]}"
    classifier = made(frozen, path, format)
    described = json.loads(describe(classifier)["preprocessing"])
    assert described["resizing"] == (
        "resized to cover the size, bilinear with antialiasing, and cropped at the centre"
    )
    assert (described["height"], described["margin"]) == (24, False)


def test_exported_safetensors_need_no_other_weights(frozen, backbone, tmp_path, monkeypatch):
    classifier = made(frozen, tmp_path / "model.safetensors", "safetensors")
    places = RunFolder(frozen).labels()["test_places"].tolist()
    expected = classifier.predict_proba(places)
    # The file that the features came from.
    monkeypatch.setattr("noisylabels.features.networks.load_weights", None)
    again = load(tmp_path / "model.safetensors").predict_proba(places)
    np.testing.assert_array_equal(again, expected)


@pytest.fixture
def texts(tmp_path):
    """A run on texts with TF-IDF, and the table that they are in."""
    table = tmp_path / "reviews.csv"
    good, bad = "a fine and moving film {}", "dull, and far too long {}"
    rows = [f'"{(good, bad)[n % 2].format(n // 2)}",{("good", "bad")[n % 2]}' for n in range(60)]
    table.write_text("\n".join(["text,label", *rows]))
    tables = {
        "data": {"name": "text", "path": str(table)},
        "features": {"name": "tfidf", "dimensions": 6},
        "loss": "ce",
        "optimizer": {"lr": 0.1},
        "epochs": 30,
    }
    return train(tables, tmp_path / "runs"), table


def test_texts_are_exported_with_what_their_vectors_are_made_of(texts, tmp_path):
    run, table = texts
    path = tmp_path / "model.safetensors"
    classifier = made(run, path, "safetensors")
    new = ["a moving film", "far too long", "words that nobody has ever seen"]
    expected = classifier.predict_proba(new)
    np.testing.assert_array_equal(load(path).predict_proba(new), expected)
    assert load(path).predict(new[:2]) == ["good", "bad"]
    # Its own vectors and those that the metadata describes, made without this library.
    code = """
import json, sys, numpy
from safetensors import safe_open
from sklearn.feature_extraction.text import TfidfVectorizer
file = safe_open(sys.argv[1], "np")
said = file.metadata()
get = file.get_tensor
words = TfidfVectorizer(
    sublinear_tf=True, ngram_range=(1, 2), strip_accents="unicode",
    vocabulary=get("features/words").tobytes().decode().split("\\n"),
)
words.idf_ = get("features/idf")
x = words.transform(json.loads(sys.argv[2])) @ get("features/directions").T
x = x / numpy.maximum(numpy.linalg.norm(x, axis=1, keepdims=True), 1e-12)
x = (x - get("mean")) / get("std")
x = x @ get("networks.0.1.weight").T + get("networks.0.1.bias")
p = numpy.exp(x) / numpy.exp(x).sum(1, keepdims=True)
print(json.dumps([p.tolist(), said]))
"""
    found, said = outside(code, path, json.dumps(new))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert json.loads(said["classes"]) == ["bad", "good"]
    assert said["input"] == "texts (N)"
    assert "TfidfVectorizer(sublinear_tf=True" in said["features"]
    # Without the run's texts others are compared.
    table.unlink()
    inputs, kind = sample(RunFolder(run), classifier)
    assert kind == "sentences, for the run's data is not there"
    assert export(classifier, path, "safetensors", inputs) <= 2e-5


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_texts_are_refused_by_formats_of_networks(texts, tmp_path, format):
    classifier = load(texts[0])
    inputs, _ = sample(RunFolder(texts[0]), classifier)
    message = f"{format} holds networks alone, .*'tfidf' are none: expected --format safetensors"
    with pytest.raises(ConfigError, match=message):
        export(classifier, tmp_path / "model", format, inputs)
    assert not (tmp_path / "model").exists()


def test_an_export_that_predicts_something_else_is_not_kept(run, tmp_path, monkeypatch):
    def write(classifier, network, path, example):
        path.write_bytes(b"wrong")
        return lambda inputs: network(inputs).numpy() + 2e-4

    monkeypatch.setitem(FORMATS, "onnx", write)
    classifier = load(run)
    inputs, _ = sample(RunFolder(run), classifier)
    with pytest.raises(DataError, match=r"m\.onnx: not kept, .* differ by 0\.0002 from the run's"):
        export(classifier, tmp_path / "m.onnx", "onnx", inputs)
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(FORMATS, "onnx", lambda *_: lambda inputs: np.full((1, 10), np.nan))
    with pytest.raises(DataError, match="not kept"):
        export(classifier, tmp_path / "m.onnx", "onnx", inputs)


def test_what_cannot_be_exported(run, tmp_path, monkeypatch, own_module, digits):
    classifier = load(run)
    inputs, _ = sample(RunFolder(run), classifier)
    with pytest.raises(ConfigError, match="format must be 'onnx' or 'torch-export' or"):
        export(classifier, tmp_path / "m", "pickle", inputs)
    export(classifier, tmp_path / "new" / "m.safetensors", "safetensors", inputs)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.safetensors"]
    with pytest.raises(CheckpointError, match="cannot be written"):
        export(classifier, tmp_path / "new/m.safetensors/m", "safetensors", inputs)
    own_module("untraceable", UNTRACEABLE)
    own = load(train(digits | {"model": "untraceable:network"}, tmp_path / "runs"))
    with pytest.raises(DataError, match="the network cannot be exported in this format"):
        export(own, tmp_path / "m.pt2", "torch-export", inputs)
    assert not (tmp_path / "m.pt2").exists()


UNTRACEABLE = """
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        return self.linear(x.flatten(1) if x.sum().item() > 0 else x.flatten(1) + 1)

def network(input_shape, num_classes):
    return Network()
"""


def test_without_the_data_random_inputs_are_compared(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(5, 2, (40, 3)), y=[0, 1] * 20)
    data = {"name": "arrays", "path": str(tmp_path / "x.npz")}
    folder = train({"data": data, "model": "linear", "epochs": 1}, tmp_path)
    classifier = load(folder)
    inputs, kind = sample(RunFolder(folder), classifier)
    assert (len(inputs), kind) == (8, "test inputs of the run")
    (tmp_path / "x.npz").unlink()
    inputs, kind = sample(RunFolder(folder), classifier)
    assert (len(inputs), kind) == (9, "random inputs, for the run's data is not there")
    assert export(classifier, tmp_path / "m.safetensors", "safetensors", inputs) == 0


def test_a_library_that_is_missing_is_named(run, tmp_path, monkeypatch):
    classifier = load(run)
    for name in ("onnx", "onnxruntime", "onnxscript"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(ImportError, match=rf"{name} is not installed: .*\[export\]"):
                export(classifier, tmp_path / "m.onnx", "onnx", torch.zeros(2, 1, 8, 8))
    assert exports.SUFFIXES.keys() == FORMATS.keys()
