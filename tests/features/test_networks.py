import hashlib
import pickle
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import hub
from noisylabels.data.examples import Examples
from noisylabels.data.source import Facts
from noisylabels.errors import ConfigError, MissingExtraError
from noisylabels.features import FEATURES, Compute, networks
from noisylabels.features.networks import Backbone, Preprocessed, read_weights, resize
from pictures import smooth_images

pytest.importorskip("timm")
PHOTOS = Facts((3, 20, 24), images=True)


def compute(precision="32"):
    return Compute(
        torch.device("cpu"),
        0,
        precision=lambda network, device: precision,
        memory_format=lambda network, precision: torch.contiguous_format,
    )


def features(backbone, **changes):
    parameters = {key: value for key, value in (backbone | changes).items() if key != "name"}
    if parameters.get("weights"):
        parameters["weights"] = Path(parameters["weights"])
    return FEATURES[backbone["name"]](PHOTOS, **parameters)


def test_vectors_are_those_of_the_library(backbone):
    """Computed anew: timm's own network and Pillow's resizing, image by image."""
    import timm

    images = smooth_images(count=5, height=40, width=40)
    network = timm.create_model("test_resnet", pretrained=False).eval()
    network.load_state_dict(load_file(backbone["weights"]))
    network.reset_classifier(0)
    config = network.pretrained_cfg
    mean, std = (torch.tensor(config[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    rows = []
    for image in images:
        pillow = Image.fromarray(image.permute(1, 2, 0).numpy())
        small = torch.tensor(np.array(pillow.resize((32, 32), Image.Resampling.BICUBIC)))
        pixels = small.float().permute(2, 0, 1) / 255
        with torch.no_grad():
            rows.append(network(((pixels - mean) / std)[None])[0])
    examples = Examples(images, torch.zeros(5, dtype=torch.int64))
    found = features(backbone).extract({"train": examples}, examples, compute())["train"]
    assert found.shape == (5, 96)
    # Pillow rounds pixels to whole numbers.
    torch.testing.assert_close(found, torch.stack(rows), atol=0.02, rtol=0.02)


def test_module_is_what_extracts(backbone):
    images = smooth_images(count=70)
    made = features(backbone)
    examples = Examples(images, torch.zeros(70, dtype=torch.int64))
    parts = {"train": examples, "test": examples.take(torch.arange(0))}
    found = made.extract(parts, examples, compute())
    with torch.no_grad():
        expected = made.module().eval()(images)
    torch.testing.assert_close(found["train"], expected, atol=1e-5, rtol=1e-4)
    assert found["test"].shape == (0, 96)
    rough = made.extract({"train": examples}, examples, compute("bf16"))["train"]
    assert rough.dtype == torch.float32
    assert 0 < (rough - expected).abs().max() < 0.05 * expected.abs().max()


def test_gray_images_are_shown_in_colour(backbone):
    gray = smooth_images(count=3, channels=1)
    module = features(backbone).module().eval()
    with torch.no_grad():
        torch.testing.assert_close(module(gray), module(gray.expand(-1, 3, -1, -1)))


def test_resizing_is_pillows():
    images = smooth_images(count=4, height=50, width=33)
    found = resize(images.float(), 21).clamp(0, 255)
    for image, small in zip(images, found, strict=True):
        pillow = Image.fromarray(image.permute(1, 2, 0).numpy())
        expected = pillow.resize((21, 21), Image.Resampling.BICUBIC)
        given = torch.tensor(np.array(expected)).permute(2, 0, 1)
        # Pillow rounds twice: after the columns, and after the rows.
        assert (small - given).abs().max() < 2
    assert resize(found, 21) is found


# Larger, as large in height, and one of each.
@pytest.mark.parametrize("size", [71, 51, 50, 40])
def test_enlarging_is_the_same_filter(size):
    images = smooth_images(count=4, height=50, width=33).float()
    options = {"mode": "bicubic", "antialias": True, "align_corners": False}
    expected = nn.functional.interpolate(images, (size, size), **options)
    torch.testing.assert_close(resize(images, size), expected, rtol=1e-5, atol=1e-3)


def test_enlarging_in_inference_leaves_gradients_possible():
    images = torch.rand(1, 3, 5, 4)
    with torch.inference_mode():
        seen = resize(images, 17)
    torch.testing.assert_close(resize(images.requires_grad_(), 17), seen)
    resize(images, 17).sum().backward()
    assert images.grad.sum().item() == pytest.approx(3 * 17 * 17, rel=1e-5)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_network_gets_its_images_in_the_format_in_which_they_came(layout):
    class Look(nn.Module):
        def forward(self, images):
            self.strides = images.stride()
            return images

    network = Look()
    images = smooth_images(count=2, height=8, width=8).contiguous(memory_format=layout)
    Preprocessed(Backbone(network, 3, 16, (0.5,) * 3, (0.5,) * 3), 16)(images)
    assert network.strides == torch.empty(2, 3, 16, 16, memory_format=layout).stride()


def test_pixels_are_normalised_in_units_of_one():
    backbone = Backbone(nn.Identity(), 3, 2, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2).expand(1, 3, 2, 2)
    values = Preprocessed(backbone, 2)(images)
    assert values[0, :, 0].tolist() == [[-1, 1], [-1, 3], [0, 1]]


def test_faint_images_are_as_bright_as_their_white_says(backbone):
    """Digits have values 0..16: taken for 0..255 they would all be nearly black."""
    shades = smooth_images(count=4, channels=1) // 16
    faint, bright = (
        Examples(images, torch.zeros(4, dtype=torch.int64)) for images in (shades, shades * 17)
    )
    parameters = {key: value for key, value in backbone.items() if key != "name"}
    parameters["weights"] = Path(parameters["weights"])

    def extracted(examples, highest):
        facts = Facts((1, 32, 24), images=True, highest=highest)
        made = FEATURES[backbone["name"]](facts, **parameters)
        return made.extract({"train": examples}, examples, compute())["train"]

    found = extracted(faint, 15)
    torch.testing.assert_close(found, extracted(bright, 255), atol=1e-3, rtol=1e-3)
    assert (found - extracted(faint, 255)).abs().max() > 0.1


def test_weights_are_read_without_unpickling_code(backbone, tmp_path):
    tensors = load_file(backbone["weights"])
    plain = tmp_path / "plain.pth"
    for saved in (tensors, {"state_dict": tensors, "epoch": 3}, {"model": tensors}):
        torch.save(saved, plain)
        assert read_weights(plain).keys() == tensors.keys()
    torch.save({f"module.{name}": value for name, value in tensors.items()}, plain)
    features(backbone, weights=plain, size=33).check()
    torch.save({"network": nn.Linear(1, 1)}, plain)
    with pytest.raises(ConfigError, match=r"plain\.pth: expected weights, without pickled code$"):
        read_weights(plain)
    # Of a protocol that torch warns of, beside advice to run the code.
    plain.write_bytes(pickle.dumps(Path("anything"), protocol=4))
    with warnings.catch_warnings(action="error"), pytest.raises(ConfigError, match="code$"):
        read_weights(plain)
    torch.save([1, 2], plain)
    with pytest.raises(ConfigError, match=r"plain\.pth: expected named tensors, got list"):
        read_weights(plain)
    for name in ("bad.safetensors", "bad.pth"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(ConfigError, match=f"{name}: expected weights"):
            read_weights(tmp_path / name)


def test_weights_of_another_network_are_refused(backbone, tmp_path):
    tensors = load_file(backbone["weights"])
    first = next(name for name in tensors if not name.endswith("num_batches_tracked"))
    path = tmp_path / "w.safetensors"
    save_file({name: value for name, value in tensors.items() if name != first}, path)
    with pytest.raises(ConfigError, match=rf"another network than 'test_resnet' \(no {first} in"):
        features(backbone, weights=path).check()
    save_file(tensors | {first: torch.zeros(2, 3)}, path)
    with pytest.raises(ConfigError, match=rf"{first} \(2, 3\) instead of"):
        features(backbone, weights=path).check()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "timm",
            {"model": "test_resnt"},
            "unknown model of timm 'test_resnt': did you mean",
        ),
        ("torchvision", {"model": "resnet5"}, "unknown model of torchvision 'resnet5': did you me"),
        (
            "torchvision",
            {"model": "resnet18", "tag": "IMAGENET1K_V9"},
            "unknown weights of 'resnet18' 'IMAGENET1K_V9': did you mean 'IMAGENET1K_V1'",
        ),
        ("torchvision", {"model": "squeezenet1_1"}, "has no linear layer in the end"),
    ],
)
def test_unknown_networks_are_named(backbone, name, changes, message):
    given = {"name": name, "model": "", "weights": backbone["weights"]} | changes
    with pytest.raises(ConfigError, match=message):
        features(given).check()


def test_data_without_images_is_refused(backbone):
    with pytest.raises(ConfigError, match="'test_resnet' is a network for images, and the data"):
        FEATURES["timm"](Facts((3,), images=False), model="test_resnet")


def test_a_network_of_one_size_says_so(tmp_path):
    import timm

    path = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit3", pretrained=False).state_dict(), path)
    vit = {"name": "timm", "model": "test_vit3", "weights": path}
    features(vit).check()
    with pytest.raises(ConfigError, match=r"'test_vit3' fails on images of 64x64 .* 160x160"):
        features(vit, size=64).check()


def test_width_is_that_of_the_vectors(tmp_path):
    """Which timm's ``num_features`` is not, where a layer follows the pooling."""
    import timm

    path = tmp_path / "w.safetensors"
    network = timm.create_model("test_mambaout", pretrained=False)
    assert network.num_features == 64
    save_file(network.state_dict(), path)
    given = {"name": "timm", "model": "test_mambaout", "weights": path, "size": 32}
    features(given).check()
    head = lambda shape, classes: nn.Linear(*shape, classes)  # noqa: E731
    made = features(given, freeze=False).network((3, 20, 24), 5, head)
    assert made(torch.randn(2, 3, 20, 24)).shape == (2, 5)


def test_torchvision_loses_its_classifier(tmp_path):
    from torchvision.models import resnet18

    path = tmp_path / "w.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = resnet18().eval()
    torch.save(network.state_dict(), path)
    given = {"name": "torchvision", "model": "resnet18", "weights": path, "size": 32}
    images = smooth_images(count=3)
    with torch.no_grad():
        vectors = features(given).module().eval()(images)
        assert vectors.shape == (3, 512)
        module = features(given).module()
        pixels = (resize(images.float(), 32).clamp(0, 255) - module.mean) / module.std
        torch.testing.assert_close(network.fc(vectors), network(pixels))


def test_weights_need_not_have_counted_batches(tmp_path):
    from torchvision.models import resnet18

    path = tmp_path / "weights.pth"
    state = resnet18(weights=None).state_dict()
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, path)
    given = {"name": "torchvision", "model": "resnet18", "weights": path, "size": 32}
    found = features(given).module().network.state_dict()
    torch.testing.assert_close(found["conv1.weight"], state["conv1.weight"], rtol=0, atol=0)
    assert found["bn1.num_batches_tracked"] == 0


def test_images_that_were_reduced_are_said_to_be_enlarged(backbone):
    said = []
    images = Examples(torch.zeros(2, 3, 224, 224, dtype=torch.uint8), torch.zeros(2).long())
    for size in (224, 240):
        telling = replace(compute(), say=said.append)
        features(backbone, size=size).extract({"train": images}, images, telling)
    (sentence,) = [each for each in said if "enlarged" in each]
    assert "read at a side of 224 and enlarged to 240" in sentence
    assert sentence.endswith("set data.size = 240")


@pytest.mark.slow
def test_weights_of_torchvision_are_downloaded_once(tmp_path, monkeypatch):
    """By the library's own code, checked by the digest in the file's name, from this machine."""
    from torchvision.models import ResNet18_Weights, resnet18

    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = resnet18()
    served = tmp_path / "served/pytorch/models"
    served.mkdir(parents=True)
    path = served / "weights.pth"
    torch.save(network.state_dict(), path)
    name = f"resnet18-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"
    path.rename(served / name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    given = {"name": "torchvision", "model": "resnet18"}
    with hub.serve(tmp_path / "served") as (address, downloads):
        published = ResNet18_Weights.DEFAULT.value
        url = f"{address}/pytorch/models/resolve/main/{name}"
        monkeypatch.setattr(ResNet18_Weights.DEFAULT, "_value_", replace(published, url=url))
        found = [features(given, size=32).module() for _ in range(2)]
        assert downloads == [f"pytorch/models/{name}"]
    expected = network.state_dict()
    for made in found:
        for key, value in made.network.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


def test_missing_library_is_named(backbone, monkeypatch, own_cache):
    # What was checked once in a process is not checked again.
    networks._check.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"noisylabels\[features\]"):
        features(backbone, size=40).check()


def test_checked_network_needs_no_library_to_be_checked_again(
    backbone, tmp_path, monkeypatch, own_cache
):
    networks._check.cache_clear()
    features(backbone, size=40).check()
    networks._check.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    features(backbone, size=40).check()
    other = tmp_path / "other.safetensors"
    weights = load_file(backbone["weights"])
    save_file({name: value * 1.1 for name, value in weights.items()}, other)
    for changed in ({"size": 48}, {"weights": other}):
        with pytest.raises(MissingExtraError):
            features(backbone, **({"size": 40} | changed)).check()
