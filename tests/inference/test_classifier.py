import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import noisylabels
from noisylabels.__main__ import main
from noisylabels.data.datasets import Digits
from noisylabels.errors import ConfigError, DataError
from noisylabels.inference.classifier import load
from noisylabels.run.folder import RunFolder
from noisylabels.run.trainer import train
from pictures import class_folders, pixels, save

# A probability near 1 is kept to within 2^-12 by float16.
STORED = 3e-4
SMALL = {"model": {"name": "resnet18", "width": 4}, "batch_size": 8, "epochs": 2, "precision": "32"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("photos"))


def files(photos, **options):
    data = {"name": "folder", "root": str(photos), "test_share": 0.5, "size": 16} | options
    return {"data": data, "workers": 0}


def make(photos, out, **changes):
    return train(files(photos) | SMALL | changes, out)


def assert_reproduces(folder, inputs):
    """The classifier says of the test set what the run has stored of it."""
    run, classifier = RunFolder(folder), load(folder)
    stored, found = run.predictions()["test_probabilities"], classifier.predict_proba(inputs)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, stored, atol=STORED)
    right = found.argmax(1) == run.labels()["test"]
    assert right.mean() == pytest.approx(run.result()["test_accuracy"], abs=1e-9)
    return classifier


def places(folder):
    return RunFolder(folder).labels()["test_places"].tolist()


@pytest.mark.parametrize(
    ("method", "shares"),
    [
        ("single", [1]),
        ({"name": "coteaching", "forget_rate": 0.3}, [1, 0]),
        ("dividemix", [0.5, 0.5]),
    ],
)
def test_says_of_the_test_set_what_the_run_does(digits, tmp_path, method, shares):
    folder = train(digits | {"method": method}, tmp_path)
    images = Digits().load().test.tensor()
    classifier = assert_reproduces(folder, images)
    assert classifier.described.shares == tuple(shares)
    assert classifier.classes == tuple("0123456789")
    assert len(classifier.network.networks) == sum(share > 0 for share in shares)
    best = classifier.predict_proba(images[:20]).argmax(1)
    assert classifier.predict(images[:20]) == [str(number) for number in best]


@pytest.mark.parametrize("storage", ["memory", "stream"])
@pytest.mark.parametrize("features", ["none", "frozen", "tuned"])
def test_decodes_files_as_the_run_does(photos, backbone, tmp_path, storage, features):
    changes = {"none": {}, "frozen": {"features": backbone, "model": "linear"}}
    changes["tuned"] = {"features": backbone | {"freeze": False}, "model": "linear"}
    run = SMALL | files(photos, storage=storage) | changes[features]
    classifier = assert_reproduces(folder := train(run, tmp_path), places(folder))
    assert classifier.input_shape == (3, 16, 16)


def test_takes_what_people_have(photos, tmp_path, monkeypatch):
    classifier = load(make(photos, tmp_path))
    paths = sorted((photos / "bright").iterdir())
    expected = classifier.predict_proba(paths)
    opened = [Image.open(path) for path in paths]
    arrays = np.stack([np.array(image) for image in opened])
    tensor = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    monkeypatch.chdir(photos)
    for inputs in (photos / "bright", "bright", list(map(str, paths)), opened, arrays, tensor):
        np.testing.assert_array_equal(classifier.predict_proba(inputs), expected)
    np.testing.assert_array_equal(classifier.predict_proba(opened[3]), expected[3:4])
    np.testing.assert_array_equal(classifier.predict_proba(paths[3]), expected[3:4])
    ready = classifier.inputs(paths)
    assert (ready.dtype, ready.shape) == (torch.uint8, (8, 3, 16, 16))
    np.testing.assert_allclose(classifier.network(ready), expected, atol=1e-6)


def test_arrays_of_any_making(photos, tmp_path):
    classifier = load(make(photos, tmp_path))
    array = np.stack([pixels(seed, (20, 24, 3)) for seed in range(4)])
    expected = classifier.predict_proba(array)
    frozen = array.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(classifier.predict_proba(frozen), expected)
    np.testing.assert_array_equal(classifier.predict_proba(array[::-1]), expected[::-1])
    gray = array[..., 0]
    colour = np.repeat(gray[..., None], 3, 3)
    found = classifier.predict_proba(colour)
    for same in (gray, gray[..., None], gray[:, None]):
        np.testing.assert_array_equal(classifier.predict_proba(same), found)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I;16B", "I", "HSV"])
def test_images_of_every_mode_are_what_their_files_are(photos, tmp_path, mode):
    classifier = load(make(photos, tmp_path))
    image = Image.fromarray(pixels(5, (20, 24, 3)))
    if mode.startswith("I"):
        kind = {"I": "i4", "I;16": "<u2", "I;16B": ">u2"}[mode]
        deep = 257 * np.array(image.convert("L"), dtype=np.int32)
        image = Image.frombytes(mode, image.size, deep.astype(kind).tobytes())
    else:
        image = image.convert(mode)
    suffix = "tiff" if mode in ("CMYK", "I;16B", "I") else "png"
    path = tmp_path / f"image.{suffix}"
    (image.convert("RGB") if mode == "HSV" else image).save(path)
    np.testing.assert_array_equal(classifier.inputs(image), classifier.inputs(path))


def test_integers_of_more_bits_are_refused(photos, tmp_path):
    image = Image.fromarray(np.full((20, 24), 70_000, dtype=np.int32))
    with pytest.raises(DataError, match=r"values in 70000\.\.70000, more than 16 bits"):
        load(make(photos, tmp_path)).predict(image)


def test_photographs_are_turned(photos, tmp_path):
    classifier = load(make(photos, tmp_path))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.jpg", pixels(1, (20, 24, 3)), kind="JPEG", exif=exif)
    np.testing.assert_array_equal(classifier.inputs(Image.open(path)), classifier.inputs(path))


def test_batches_are_of_no_matter(digits, tmp_path):
    """Nor are inputs that cannot be used: the rest keep their places."""
    classifier = load(train(digits, tmp_path))
    images = Digits().load().train.tensor()[:150]
    whole = classifier.predict_proba(images)
    ones = np.concatenate([classifier.predict_proba(image[None]) for image in images])
    np.testing.assert_allclose(whole, ones, atol=1e-6)


def test_features_are_standardised(tmp_path):
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) * 100 + 7
    np.savez(tmp_path / "rows.npz", x=x, y=np.where(x[:, 0] > 7, "more", "less"))
    data = {"name": "arrays", "path": str(tmp_path / "rows.npz")}
    folder = train({"data": data, "optimizer": {"lr": 0.1}, "epochs": 5}, tmp_path / "runs")
    classifier = load(folder)
    expected = ["more" if row[0] > 7 else "less" for row in x]
    predicted = classifier.predict(x)
    assert sum(a == b for a, b in zip(predicted, expected, strict=True)) > 50
    assert classifier.predict(x.double().numpy()) == predicted
    rough = classifier.predict(x.bfloat16())
    assert sum(a == b for a, b in zip(rough, predicted, strict=True)) > 55
    assert classifier.predict(tmp_path / "rows.npz") == predicted
    for bad, message in [
        (x[:, :2], r"shape \(N, 3\).*got \(60, 2\)"),
        (x.masked_fill(x == x[4, 1], float("nan")), "row 4: expected finite numbers"),
        (x[None], "expected uint8 images"),
        (x[:0], "expected inputs, got an array of shape"),
        ([Image.new("L", (8, 8))], r"expected numbers of shape \(N, 3\).*, got image files"),
        (tmp_path / "none.npz", r"none\.npz: no such file"),
        ([1, 2], "expected paths, images of Pillow's, or a tensor or array"),
        ([], "expected paths"),
        (None, "expected paths"),
    ]:
        with pytest.raises(DataError, match=message):
            classifier.predict(bad)


def test_texts_are_read_with_the_words_of_the_run(tmp_path):
    lines = [f"{'fine great' if n % 2 else 'dull bad'} number{n % 7},{n % 2}" for n in range(60)]
    table = tmp_path / "reviews.csv"
    table.write_text("\n".join(["text,label", *lines]))
    run = {
        "data": {"name": "text", "path": str(table), "labels": "names"},
        "features": {"name": "tfidf", "dimensions": 4},
        "optimizer": {"lr": 0.1},
        "epochs": 20,
    }
    folder = train(run, tmp_path / "runs")
    places = RunFolder(folder).labels()["test_places"].tolist()
    rows = [int(place.rpartition("row ")[2]) for place in places]
    classifier = assert_reproduces(folder, [lines[row - 2].partition(",")[0] for row in rows])
    assert classifier.predict("a great and fine day") == ["1"]
    assert classifier.predict(["bad, bad", "great"]) == ["0", "1"]
    new = tmp_path / "new.csv"
    new.write_text("id;review\n7;fine\n8;\n9;dull\n")
    probabilities, bad = classifier.predict_listed(classifier.listed([new], column="review"))
    assert probabilities.argmax(1)[[0, 2]].tolist() == [1, 0]
    assert bad == {1: "expected a text, got none"}
    for inputs, message in [
        ([" "], "row 0: expected a text, got none"),
        ([3], "expected texts, or the Path of a table of texts"),
        (None, "expected texts, or the Path"),
        ([], "expected texts, or the Path"),
        (new, "expected a column 'text', got 'id;review'"),
        (tmp_path, "expected a table of texts"),
    ]:
        with pytest.raises(DataError, match=message):
            classifier.predict(inputs)
    with pytest.raises(ConfigError, match="'tfidf' are no network"):
        classifier.network  # noqa: B018
    weights, described = RunFolder(folder).model()
    assert sum(name.startswith("features/") for name in weights) == 3
    rest = {name: tensor for name, tensor in weights.items() if "idf" not in name}
    metadata = {"noisylabels": json.dumps(described)}
    save_file(rest, folder / "model.safetensors", metadata)
    with pytest.raises(DataError, match="tfidf: expected idf among what was learnt"):
        load(folder)


def test_a_run_that_leaves_its_test_set_alone(digits, tmp_path):
    folder = train(digits | {"test": False, "validation": 0.1}, tmp_path)
    assert load(folder).predict_proba(Digits().load().test.tensor()).shape == (360, 10)


def test_digits_of_files_would_have_other_values(digits, tmp_path):
    folder = train(digits, tmp_path)
    path = save(tmp_path / "seven.png", pixels(0, (8, 8)))
    with pytest.raises(
        DataError, match=r"expected arrays of shape \(N, 1, 8, 8\).*, got image files"
    ):
        load(folder).predict(path)


def test_network_is_part_of_other_code(digits, tmp_path):
    network = load(train(digits, tmp_path)).network
    assert isinstance(network, nn.Module)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    images = Digits().load().test.tensor()[:5]
    probabilities = nn.Sequential(nn.Identity(), network)(images)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5))


@pytest.mark.parametrize("frozen", [False, True])
def test_loading_draws_nothing(photos, backbone, tmp_path, frozen):
    folder = make(photos, tmp_path, **({"features": backbone, "model": "linear"} if frozen else {}))
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    load(folder)
    assert torch.equal(torch.rand(1), expected)


def test_package_trains_and_loads(digits, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('data = "digits"\nmodel = "linear"\nepochs = 1\n')
    folder = noisylabels.train(file, tmp_path)
    tables = {"data": "digits", "model": "linear", "epochs": 1}
    assert noisylabels.train(tables, str(tmp_path)) == folder
    assert noisylabels.train(str(file), tmp_path) == folder
    assert noisylabels.load(str(folder)).predict(np.zeros((1, 8, 8), np.uint8))[0].isdigit()
    file.write_text("data = 'digits'\nnoise = {name = 'symmetric', rate = 2}")
    with pytest.raises(ConfigError, match=r"run\.toml: noise: rate must be in"):
        noisylabels.train(file, tmp_path)


def test_refuses_what_is_no_finished_run(digits, tmp_path):
    for path, message in [
        (tmp_path / "none", "expected a run folder .* which does not exist"),
        (tmp_path, "expected a run folder .* got none"),
    ]:
        with pytest.raises(DataError, match=message):
            load(path)
    bare = train(digits | {"save_model": False}, tmp_path / "bare")
    with pytest.raises(DataError, match="it was made with save_model = false"):
        load(bare)
    folder = train(digits, tmp_path)
    weights = folder / "model.safetensors"
    kept = weights.read_bytes()
    for damaged in (kept[:-9], b"", b"\x80\x04."):
        weights.write_bytes(damaged)
        with pytest.raises(DataError, match=r"model\.safetensors: expected the weights"):
            load(folder)
    weights.unlink()
    with pytest.raises(DataError, match=r"model\.safetensors is missing"):
        load(folder)
    weights.write_bytes(kept)
    (folder / "result.json").unlink()
    with pytest.raises(DataError, match="expected a finished run, this one is stopped"):
        load(folder)


def test_refuses_weights_of_another_network(digits, tmp_path):
    folder = train(digits, tmp_path)
    path = folder / "model.safetensors"
    weights, described = RunFolder(folder).model()

    def rewrite(tensors, said):
        save_file(tensors, path, {"noisylabels": json.dumps(said)})

    rewrite(weights, described | {"model": {"name": "mlp", "hidden": [33]}})
    with pytest.raises(DataError, match="its weights do not fit its network .*size mismatch"):
        load(folder)
    rewrite(dict(list(weights.items())[1:]), described)
    with pytest.raises(DataError, match="its weights do not fit its network .*Missing key"):
        load(folder)
    rewrite(weights, described | {"model": {"name": "mpl"}})
    with pytest.raises(ConfigError, match="unknown .*model 'mpl': did you mean 'mlp'"):
        load(folder)
    for name, value, message in [
        ("shape", ["sh", 8, 8], "its weights' shape.0: Input should be a valid integer"),
        ("mean", [0, 1], "shape, mean, std and shares do not fit together"),
        ("shares", [0.5, 0.5], "shape, mean, std and shares do not fit together"),
        ("classes", "abc", "its weights' classes: Input should be a valid tuple"),
    ]:
        rewrite(weights, described | {name: value})
        with pytest.raises(DataError, match=message):
            load(folder)
    # A file can come from anywhere, and is not to start programs.
    rewrite(weights, described | {"model": {"name": "subprocess:run", "shell": True}})
    with pytest.raises(ConfigError, match="'subprocess:run' is no network of anyone's"):
        load(folder)
    rewrite(weights, {"classes": ["a"], "model": {}})
    with pytest.raises(DataError, match="its weights are of an older version, which does not say"):
        load(folder)


OWN = """
import torch
from torch import nn

def network(input_shape, num_classes, *, width: int = 4):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, num_classes))
"""


def test_own_network_is_found_unless_it_has_changed(digits, own_module, tmp_path):
    file = own_module("own_network", OWN)
    folder = train(digits | {"model": {"name": "own_network:network", "width": 5}}, tmp_path)
    assert_reproduces(folder, Digits().load().test.tensor())
    file.write_text(OWN + "\n# changed\n")
    with pytest.raises(
        ConfigError, match=r"'own_network:network' is not what it was .*has changed"
    ):
        load(folder)


OWN_FEATURES = """
import torch
from noisylabels.features import Features

class Means(Features):
    def __init__(self, facts, *, rows: bool = False):
        self.dim = 3 if rows else 2

    def check(self):
        pass

    def extract(self, parts, train, compute):
        return {name: part.tensor().float().mean(self.dim).flatten(1)
                for name, part in parts.items()}
"""


def test_own_features_need_be_no_network(digits, own_module, tmp_path):
    own_module("own_features", OWN_FEATURES)
    features = {"name": "own_features:Means", "rows": True}
    folder = train(digits | {"features": features, "model": "linear"}, tmp_path)
    classifier = assert_reproduces(folder, Digits().load().test.tensor())
    with pytest.raises(ConfigError, match="'own_features:Means' are no network"):
        classifier.network  # noqa: B018


OWN_METHOD = """
from noisylabels.methods.single import Single

class Sharp(Single):
    def combine(self, probabilities):
        sharp = probabilities[0] ** 2
        return sharp / sharp.sum(1, keepdim=True)
"""


def test_own_way_of_combining_is_refused(digits, own_module, tmp_path):
    own_module("own_method", OWN_METHOD)
    folder = train(digits | {"method": "own_method:Sharp"}, tmp_path)
    with pytest.raises(ConfigError, match="combines the predictions of its networks in a way"):
        load(folder)


@pytest.fixture
def published(monkeypatch):
    """Weights that torchvision publishes, such as they are; they become others by ``release``."""
    from torchvision import models

    get_model = models.get_model

    class Published:
        release = 1

        def get(self, name, weights=None, **options):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0 if weights is None else self.release)
                return get_model(name, weights=None, **options)

    found = Published()
    monkeypatch.setattr(models, "get_model", found.get)
    return found


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("dimensions", [{}, {"dimensions": 8}])
def test_published_weights_are_those_of_the_training(photos, published, tmp_path, dimensions):
    features = {"name": "torchvision", "model": "resnet18", "size": 32} | dimensions
    changes = {"features": features, "model": "linear"}
    folder = make(photos, tmp_path / "first", **changes)
    assert_reproduces(folder, places(folder))
    whole = tmp_path / "model.safetensors"
    words = ["export", str(folder), "--format", "safetensors", "--out", str(whole)]
    assert main(words) == 0
    published.release = 2
    with pytest.raises(DataError, match=r"published weights of its features \('torchvision'\) are"):
        load(folder)
    # An export has them inside.
    load(whole)
    # Kept vectors are those of the first ones, and so are these runs.
    with pytest.raises(DataError, match="published weights"):
        load(make(photos, tmp_path / "again", **changes))


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("dimensions", [{}, {"dimensions": 8}])
def test_vectors_of_other_weights_do_not_stand_beside_each_other(
    photos, published, tmp_path, monkeypatch, dimensions
):
    features = {"name": "torchvision", "model": "resnet18", "size": 32} | dimensions
    changes = {"features": features, "model": "linear"}
    make(photos, tmp_path / "without", test=False, **changes)
    published.release = 2
    folder = make(photos, tmp_path / "with", **changes)
    assert_reproduces(folder, places(folder))
    # As if nothing had been kept.
    fresh = load(folder)
    monkeypatch.setenv("NOISYLABELS_CACHE", str(tmp_path / "fresh"))
    again = load(make(photos, tmp_path / "again", **changes))
    found, expected = (each.predict_proba(places(folder)) for each in (fresh, again))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_frozen_features_need_their_weights_as_they_were(photos, backbone, tmp_path):
    weights = Path(shutil.copy(backbone["weights"], tmp_path / "weights.safetensors"))
    features = backbone | {"weights": str(weights)}
    frozen = make(photos, tmp_path, features=features, model="linear")
    tuned = make(photos, tmp_path, features=features | {"freeze": False}, model="linear")
    assert_reproduces(frozen, places(frozen))
    other = load_file(weights)
    save_file({name: value + 1 for name, value in other.items()}, weights)
    with pytest.raises(DataError, match=r"features\.weights: .* is not the file that it was"):
        load(frozen)
    weights.unlink()
    with pytest.raises(DataError, match=r"features\.weights: .*weights\.safetensors"):
        load(frozen)
    # The run's own file has those of a fine-tuned one.
    assert_reproduces(tuned, places(tuned))
