import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import noisylabels
from noisylabels.__main__ import main
from noisylabels.data.datasets import SOURCES
from noisylabels.errors import ConfigError, DataError
from noisylabels.features import networks
from noisylabels.run import device, featuring, loop
from noisylabels.run.callbacks import Callback
from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.labelling import label
from noisylabels.run.plan import plan
from noisylabels.run.trainer import assemble, train
from pictures import class_folders, encode, pixels, save, write

pytest.importorskip("timm")

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def run(backbone, tmp_path):
    root = class_folders(tmp_path / "photos", count=10)
    data = {"name": "folder", "root": str(root), "size": 16, "test_share": 0.2}
    return {
        "data": data,
        "features": dict(backbone),
        "noise": {"name": "symmetric", "rate": 0.2},
        "epochs": 2,
        "batch_size": 8,
        "precision": "32",
        "workers": 0,
    }


@pytest.fixture
def seen(monkeypatch):
    """How many images the network has been given in each call."""
    calls = []
    forward = networks.Preprocessed.forward

    def counting(self, images):
        calls.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(networks.Preprocessed, "forward", counting)
    return calls


def vectors(run):
    return label(plan(parse(run)))[0]


def test_vectors_are_computed_once(run, seen, tmp_path):
    folder = train(run, tmp_path / "runs")
    assert seen == [16, 4]
    data = RunFolder(folder).data()
    assert data["shape"] == [96]
    assert len(data["mean"]) == 96
    first = vectors(run)
    torch.testing.assert_close(first.mean, first.train.tensor().double().mean(0).float())
    # Whatever does not change the vectors shares them.
    for changes in (
        {"seed": 1},
        {"noise": {"name": "pairflip", "rate": 0.3}},
        {"loss": "gce", "epochs": 3, "model": {"name": "mlp", "hidden": [8]}},
        {"method": {"name": "coteaching", "forget_rate": 0.2}},
    ):
        train(run | changes, tmp_path / "runs")
    held_out = vectors(run | {"validation": 0.25})
    # Nor is a test set that is left alone taken from the cache.
    assert len(vectors(run | {"test": False, "validation": 0.25}).test.tensor()) == 0
    assert seen == [16, 4]
    assert (len(held_out.train), len(held_out.validation)) == (12, 4)
    both = torch.cat([held_out.train.tensor(), held_out.validation.tensor()])
    assert torch.equal(both.sort(0).values, first.train.tensor().sort(0).values)
    assert torch.equal(held_out.mean, first.mean)


def test_images_are_not_even_read_where_their_vectors_are_kept(run, tmp_path, monkeypatch):
    first = label(plan(parse(run)))
    label(plan(parse(run | {"test": False})))
    source = type(plan(parse(run)).source)

    def refuse(self, workers=0):
        raise AssertionError("read again")

    monkeypatch.setattr(source, "load", refuse)
    for again in (run, run | {"loss": "ce", "seed": 3}, run | {"test": False}):
        dataset, true = label(plan(parse(again)))
        assert torch.equal(dataset.train.inputs, first[0].train.inputs)
        assert torch.equal(true, first[1])
        assert dataset.train.places.tolist() == first[0].train.places.tolist()
        assert dataset.classes == first[0].classes
        assert torch.equal(dataset.mean, first[0].mean)
        assert len(dataset.test) == (len(first[0].test) if again.get("test", True) else 0)
        if again.get("test", True):
            assert torch.equal(dataset.test.inputs, first[0].test.inputs)
            assert torch.equal(dataset.test.labels, first[0].test.labels)
            assert dataset.test_is_given == first[0].test_is_given
            assert dataset.notes == first[0].notes
    # What looks at the images, or has no vectors yet, needs them.
    fewer = run["features"] | {"dimensions": 3}
    for other in ({"noise": {"name": "margin", "rate": 0.2}}, {"features": fewer}):
        with pytest.raises(AssertionError, match="read again"):
            label(plan(parse(run | other)))


def test_principal_components_keep_their_proportions(run):
    """One scale for all; whitened, the last of them would be as large as the first."""
    fewer = run | {"features": run["features"] | {"dimensions": 3}}
    dataset, _ = label(plan(parse(fewer)))
    spread = dataset.train.inputs.std(0, correction=0)
    assert spread[0] > 1.2 * spread[2]
    expected = spread.square().mean().sqrt().expand(3)
    torch.testing.assert_close(dataset.std, expected)
    whole, _ = label(plan(parse(run)))
    assert len(whole.std.unique()) > 3


def test_vectors_are_of_what_they_come_from(run, seen, backbone, tmp_path, monkeypatch):
    first = vectors(run)
    # Of fewer examples, of another size, in another precision, of other settings.
    limited = vectors(run | {"data": run["data"] | {"limit": 6}})
    torch.testing.assert_close(limited.train.tensor(), first.train.tensor()[:6])
    for changes in (
        {"precision": "bf16"},
        {"features": run["features"] | {"size": 40}},
        {"data": run["data"] | {"size": 17}},
    ):
        before = len(seen)
        assert not torch.equal(vectors(run | changes).train.tensor(), first.train.tensor())
        assert len(seen) == before + 2
    # The same file elsewhere is the same, other contents in its place are not.
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(Path(backbone["weights"]).read_bytes())
    run["features"]["weights"] = str(moved)
    before = len(seen)
    assert torch.equal(vectors(run).train.tensor(), first.train.tensor())
    assert len(seen) == before
    save_file({name: value * 1.1 for name, value in load_file(moved).items()}, moved)
    networks._check.cache_clear()
    other = vectors(run)
    assert not torch.equal(other.train.tensor(), first.train.tensor())
    save(tmp_path / "photos" / "dark" / "3.png", pixels(99, (20, 24, 3)))
    assert not torch.equal(vectors(run).test.tensor(), other.test.tensor())
    assert len(seen) == before + 4


def test_digits_are_seen_and_are_predicted_as_they_were_trained(run, tmp_path):
    run = run | {"data": {"name": "digits", "limit": 100}, "noise": {"name": "none"}, "epochs": 3}
    folder = RunFolder(train(parse(run), tmp_path / "runs"))
    classifier = noisylabels.load(folder.path)
    test = SOURCES["digits"]().load().test
    p = classifier.predict_proba(test.tensor())
    np.testing.assert_allclose(p, folder.predictions()["test_probabilities"], atol=2e-3)
    assert classifier.described.highest == 16


def test_kept_vectors_can_be_deleted(run, tmp_path, monkeypatch, capsys, own_cache):
    path = tmp_path / "run.toml"
    tables = "".join(
        f"{key} = {{{', '.join(f'{k} = {json.dumps(v)}' for k, v in run[key].items())}}}\n"
        for key in ("data", "features")
    )
    path.write_text(tables)
    networks._check.cache_clear()
    assert main(["features", str(path)]) == 0
    assert "MiB of features are kept" in capsys.readouterr().err
    # The vectors of both parts, their statistics, what the source says but the images, and that
    # the network was checked.
    kept = own_cache / "features"
    assert len(list(kept.iterdir())) == 5
    assert main(["features", "--prune", "1"]) == 0
    assert "deleted 0.0 MiB" in capsys.readouterr().out
    assert main(["features", "--prune", "0"]) == 0
    assert list(kept.iterdir()) == []
    for words in (["features"], ["features", "--prune", "-1"]):
        assert main(words) == 2
        assert "--prune" in capsys.readouterr().err


def test_automatic_precision_is_that_of_the_device(run, seen, monkeypatch):
    run["precision"] = "auto"
    for precision in ("32", "bf16", "32"):
        monkeypatch.setattr(featuring, "choose_precision", lambda *_, p=precision: p)
        vectors(run)
    assert len(seen) == 4
    assert device.choose_precision is not featuring.choose_precision


def test_streams_gray_images_and_parquet(run, seen, tmp_path):
    first = vectors(run)
    stream = vectors(run | {"data": run["data"] | {"storage": "stream"}})
    assert torch.equal(stream.train.tensor(), first.train.tensor())
    assert stream.train.places.tolist() == first.train.places.tolist()
    gray = [encode(pixels(seed, (16, 16)) // 2 + 128 * (seed % 2)) for seed in range(12)]
    write(tmp_path / "train.parquet", gray, [0, 1] * 6)
    data = {"name": "parquet", "root": str(tmp_path)}
    assert vectors(run | {"data": data}).train.tensor().shape == (10, 96)
    assert vectors(run | {"data": "digits", "noise": "none"}).train.tensor().shape == (1437, 96)


def test_bad_images_are_named_or_left_out(run, tmp_path):
    bad = save(tmp_path / "photos" / "dark" / "3.png", b"no image")
    run["data"] |= {"storage": "stream"}
    with pytest.raises(DataError, match=f"{bad}: expected an encoded image"):
        vectors(run)
    rest = vectors(run | {"data": run["data"] | {"on_error": "skip"}})
    assert len(rest.train) + len(rest.test) == 19


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": {"name": "tim"}}, "unknown features 'tim': did you mean 'timm'"),
        ({"features": {"model": "x"}}, "features: unknown parameter of 'none' 'model'"),
        ({"features": {"name": "timm"}}, "features: 'timm' needs model"),
        ({"features": {"name": "timm", "model": "resnt18"}}, "features: unknown model of timm"),
        ({"features.backbone_lr": -1}, "features: backbone_lr must be in"),
        ({"features.size": 8}, "features.size: expected a value greater than or equal to 16"),
        (
            {"augment": "crop-flip"},
            "augment: 'crop-flip' is for images, and the features are",
        ),
        ({"data": {"name": "arrays"}}, "features: 'test_resnet' is a network for images"),
    ],
)
def test_what_does_not_fit_is_refused(run, tmp_path, changes, message):
    np.savez(tmp_path / "x.npz", x=np.eye(8), y=[0, 1] * 4)
    for key, value in changes.items():
        whole, _, part = key.partition(".")
        run[whole] = run[whole] | {part: value} if part else value
    if run["data"]["name"] == "arrays":
        run["data"]["path"] = str(tmp_path / "x.npz")
    with pytest.raises(ConfigError) as caught:
        train(run, tmp_path / "runs")
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "runs").exists()


def test_a_file_of_weights_is_looked_for_first(run, tmp_path):
    run["features"]["weights"] = str(tmp_path / "none.pth")
    with pytest.raises(DataError, match=r"none\.pth"):
        plan(parse(run))
    torch.save({"code": Path}, tmp_path / "none.pth")
    with pytest.raises(ConfigError, match=r"features: .*none\.pth: expected weights, without pick"):
        plan(parse(run))


OWN = """
import torch
from noisylabels.features import Features

calls = []

class Edges(Features):
    def __init__(self, facts, *, shift: float = 0.0, broken: str = ""):
        self.shift, self.broken = shift, broken

    def check(self):
        pass

    def extract(self, parts, train, compute):
        calls.append(list(parts))
        rows = {name: part.tensor().float().flatten(1)[:, :7] + self.shift
                for name, part in parts.items()}
        if self.broken == "rows":
            rows["train"] = rows["train"][1:]
        if self.broken == "nan":
            rows["train"][3, 2] = torch.nan
        return rows
"""


def test_own_features(run, own_module, tmp_path):
    file = own_module("edges", OWN)
    run["features"] = {"name": "edges:Edges", "shift": 2.5}
    folder = train(run, tmp_path / "runs")
    assert RunFolder(folder).data()["shape"] == [7]
    import edges

    train(run | {"seed": 5}, tmp_path / "runs")
    assert edges.calls == [["train", "test"]]
    file.write_text(OWN + "# changed\n")
    assert plan(parse(run)).run_id != folder.name
    vectors(run)
    assert len(edges.calls) == 2


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        ("rows", ConfigError, "features: 'edges:Edges': expected 16 vectors .* got .* [(]15, 7[)]"),
        ("nan", DataError, "png: its features by 'edges:Edges' are not finite"),
    ],
)
def test_vectors_of_no_use_are_refused_and_not_kept(
    run, own_module, own_cache, broken, error, message
):
    own_module("edges", OWN)
    run["features"] = {"name": "edges:Edges", "broken": broken}
    with pytest.raises(error, match=message):
        vectors(run)
    assert not (own_cache / "features").exists()


def tuned(run, **changes):
    features = run["features"] | {"freeze": False, "backbone_lr": 0.25}
    return run | {"features": features, "optimizer": {"lr": 0.08}} | changes


def test_fine_tuning_has_a_smaller_rate_for_the_backbone(run, backbone, tmp_path, seen):
    made = plan(parse(tuned(run)))
    dataset, true = label(made)
    assert dataset.train.tensor().dtype == torch.uint8
    state, _ = assemble(made, dataset, true)
    method = state.method
    groups = method.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == [0.08, 0.02]
    assert method.set_epoch(1, 2) == pytest.approx(0.04)
    assert [group["lr"] for group in groups] == pytest.approx([0.04, 0.01])
    counts = [sum(p.numel() for p in group["params"]) for group in groups]
    assert counts[0] == 97 * 2
    assert sum(counts) == sum(p.numel() for p in method.networks[0].parameters())
    folder = train(tuned(run), tmp_path / "runs")
    assert [line["lr"] for line in RunFolder(folder).metrics()] == pytest.approx([0.08, 0.04])
    weights, described = RunFolder(folder).model()
    before = load_file(backbone["weights"])
    convolution = "conv1.weight" if "conv1.weight" in before else "conv1.0.weight"
    moved = (weights[f"0.network.{convolution}"] - before[convolution]).abs().max()
    assert 1e-6 < moved < 0.5
    assert not seen
    assert described["mean"] == pytest.approx([255 * 0.5] * 3, rel=0.2)


def test_fine_tuning_continues_exactly_where_it_was_cut(run, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0)

    class Cut(Callback):
        def on_epoch(self, metrics):
            raise KeyboardInterrupt

    whole = train(tuned(run), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tuned(run), tmp_path / "cut", [Cut()])
    cut = train(tuned(run), tmp_path / "cut")
    assert (whole / "metrics.jsonl").read_bytes() == (cut / "metrics.jsonl").read_bytes()
    ours, theirs = (RunFolder(folder).model()[0] for folder in (whole, cut))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_frozen_runs_continue_exactly_where_they_were_cut(run, seen, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0)

    class Cut(Callback):
        def on_epoch(self, metrics):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "cut", [Cut()])
    cut, whole = train(run, tmp_path / "cut"), train(run, tmp_path / "whole")
    assert (whole / "metrics.jsonl").read_bytes() == (cut / "metrics.jsonl").read_bytes()
    assert seen == [16, 4]
