import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import hub
from noisylabels.__main__ import main
from noisylabels.errors import ConfigError, DataError
from noisylabels.features import texts
from noisylabels.inference.classifier import load
from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.labelling import label
from noisylabels.run.plan import plan
from noisylabels.run.trainer import train

GOOD, BAD = ["fine", "splendid", "great", "lovely"], ["dull", "boring", "bad", "poor"]


@pytest.fixture
def reviews(tmp_path):
    """Texts of two kinds of words; of the training labels a fifth is wrong."""
    draw = np.random.default_rng(0)
    lines = ["text,label,split"]
    for number in range(300):
        good = bool(draw.integers(2))
        words = " ".join([*draw.choice(GOOD if good else BAD, 3), *draw.choice(GOOD + BAD, 1)])
        test = number % 3 == 0
        given = good if test or draw.random() > 0.2 else not good
        lines.append(f"{words},{'good' if given else 'bad'},{'test' if test else 'train'}")
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(lines) + "\n")
    return {
        "data": {"name": "text", "path": str(path)},
        "features": {"name": "tfidf", "dimensions": 8},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "loss": "gce",
        "epochs": 30,
    }


def test_vectors_are_those_of_scikit_learn_and_learnt_from_training_texts(reviews):
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    made = plan(parse(reviews))
    data, _ = label(made)
    raw = made.source.load()
    weights = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    found = weights.fit_transform(raw.train.inputs.values)
    reduce = TruncatedSVD(8, random_state=0).fit(found)
    for part in ("train", "test"):
        texts = getattr(raw, part).inputs.values
        vectors = torch.from_numpy(reduce.transform(weights.transform(texts)))
        vectors /= vectors.norm(dim=1, keepdim=True)
        ours = getattr(data, part).inputs
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, vectors.float())
    assert made.config.model.name == "linear"
    assert made.config.augment.name == "none"


def test_a_linear_layer_learns_from_texts_with_wrong_labels(reviews, tmp_path):
    result = RunFolder(train(parse(reviews), tmp_path / "runs")).result()
    assert result["test_accuracy"] > 0.95


def test_what_was_learnt_is_kept_with_the_vectors(reviews, monkeypatch, own_cache):
    """Or nothing but the run's own texts could ever be turned into vectors."""
    first = plan(parse(reviews))
    vectors, _ = label(first)
    learnt = first.features.learnt()
    assert bytes(learnt["words"].numpy()).decode().split("\n")[:2] == ["bad", "bad bad"]
    calls = []
    monkeypatch.setattr(type(first.features), "_learn", lambda *_: calls.append(1))
    again = plan(parse(reviews | {"seed": 1}))
    same, _ = label(again)
    assert not calls
    assert torch.equal(same.train.tensor(), vectors.train.tensor())
    for name, tensor in again.features.learnt().items():
        assert torch.equal(tensor, learnt[name])
    with pytest.raises(DataError, match="tfidf: expected directions, idf among what was learnt"):
        again.features.restore({"words": learnt["words"]})


def test_damaged_vectors_are_made_anew(reviews, own_cache):
    sound, _ = label(plan(parse(reviews)))
    kept = sorted((own_cache / "features").iterdir())
    # Of both parts, of their statistics, of what was learnt, and the outline.
    assert len(kept) == 5
    for path in kept:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        again, _ = label(plan(parse(reviews)))
        assert torch.equal(again.train.tensor(), sound.train.tensor())
        assert torch.equal(again.test.tensor(), sound.test.tensor())
        assert path.read_bytes() == content


@pytest.mark.parametrize(("key", "part"), [("test_labels", "test"), ("validation_labels", "train")])
def test_clean_labels_find_texts_where_their_vectors_are_kept(
    reviews, tmp_path, own_cache, key, part
):
    first = getattr(plan(parse(reviews)).source.load(), part).inputs.values[0]
    clean = tmp_path / "clean.csv"
    clean.write_text(f"text,label\n{first},good\n")
    found = [label(plan(parse(reviews | {key: str(clean)}), trial=False))[0] for _ in range(2)]
    for data in found:
        known = data.test_clean if key == "test_labels" else data.validation_clean
        assert (known == data.classes.index("good")).sum() >= 1
    assert torch.equal(found[0].train.tensor(), found[1].train.tensor())


def test_the_command_computes_vectors_beforehand(reviews, tmp_path, monkeypatch, capsys):
    path = tmp_path / "run.toml"
    data, features = reviews["data"]["path"], reviews["features"]["dimensions"]
    path.write_text(
        f'data = {{name = "text", path = "{data}"}}\n'
        f'features = {{name = "tfidf", dimensions = {features}}}\n'
    )
    assert main(["features", str(path)]) == 0
    assert capsys.readouterr().out == "200 training and 100 test vectors of 8 numbers\n"
    with monkeypatch.context() as patched:
        patched.setattr("noisylabels.features.texts.Tfidf.extract", None)
        assert main(["features", str(path)]) == 0
    assert main(["features", "--features.dimensions", "5", str(path)]) == 0
    assert "vectors of 5 numbers" in capsys.readouterr().out
    path.write_text('data = "digits"\n')
    assert main(["features", str(path)]) == 2
    assert "expected frozen features" in capsys.readouterr().err
    assert main(["features"]) == 2
    assert "expected a run's TOML file, or --prune GIB" in capsys.readouterr().err
    assert main(["features", "--prun", "2"]) == 2
    assert "unknown option of features '--prun': did you mean '--prune'?" in capsys.readouterr().err


def test_texts_without_words_and_features_of_another_kind(reviews, tmp_path, digits):
    (tmp_path / "reviews.csv").write_text("text,label\n" + "!,a\n?,b\n" * 10)
    with pytest.raises(DataError, match="tfidf: the training texts have no words"):
        label(plan(parse(reviews)))
    with pytest.raises(ConfigError, match="'tfidf' is for texts, and the data has none"):
        plan(parse(digits | {"features": "tfidf"}))
    images = {"name": "timm", "model": "resnet18"}
    with pytest.raises(ConfigError, match="'resnet18' is a network for images"):
        plan(parse(reviews | {"features": images}))


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """A real folder of sentence-transformers: sixteen numbers for each of eight words."""
    library = pytest.importorskip("sentence_transformers", reason="the extra text is not installed")
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(
        models.WordLevel(
            {word: number for number, word in enumerate(["?", *GOOD, *BAD])}, unk_token="?"
        )
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    embedding = StaticEmbedding(words, embedding_weights=vectors.numpy())
    folder = tmp_path_factory.mktemp("sentences") / "model"
    network = library.SentenceTransformer(modules=[embedding, Normalize()], device="cpu")
    network.save(str(folder))
    return folder, network


@pytest.fixture
def told(sentences, reviews, tmp_path):
    """The run on reviews with a copy of that folder, which a test can spoil."""
    folder = shutil.copytree(sentences[0], tmp_path / "model")
    return reviews | {"features": {"name": "sentence", "model": str(folder)}}


@pytest.mark.slow
def test_sentences_are_encoded_as_their_library_does(told, sentences, monkeypatch):
    monkeypatch.setattr(texts, "TOGETHER", 7)
    made = plan(parse(told))
    said = []
    data, _ = label(made, said.append)
    raw = made.source.load()
    for part in ("train", "test"):
        values = getattr(raw, part).inputs.values.tolist()
        expected = sentences[1].encode(values, convert_to_tensor=True).cpu()
        torch.testing.assert_close(getattr(data, part).inputs, expected)
    assert said[-1].startswith("features of 300 texts computed in")


@pytest.mark.slow
def test_a_run_on_sentences_trains_predicts_and_is_exported(told, tmp_path, capsys):
    folder = train(parse(told), tmp_path / "runs")
    assert RunFolder(folder).result()["test_accuracy"] > 0.95
    new = tmp_path / "new.csv"
    new.write_text('text\nfine and lovely\ndull and poor\n""\n')
    out, exported = tmp_path / "out.csv", tmp_path / "run.safetensors"
    assert main(["export", str(folder), "--format", "safetensors", "--out", str(exported)]) == 0
    assert "compared on 9 test inputs of the run" in capsys.readouterr().err
    for run in (folder, exported):
        assert main(["predict", str(run), str(new), "--out", str(out)]) == 0
        rows = list(csv.DictReader(out.read_text().splitlines()))
        assert [row["class"] for row in rows] == ["good", "bad", ""]
        assert rows[2]["error"] == "expected a text, got none"
    stored = load(exported)
    expected = load(folder).predict_proba(["fine", "boring"])
    np.testing.assert_array_equal(stored.predict_proba(["fine", "boring"]), expected)
    assert "SentenceTransformer(" in stored.recipe


@pytest.mark.long
def test_a_network_for_sentences_is_downloaded_once(told, tmp_path):
    shutil.copytree(tmp_path / "model", tmp_path / "served/someone/words")
    local = train(parse(told), tmp_path / "local")
    run = tmp_path / "run.toml"
    run.write_text(
        f'data = {{ name = "text", path = "{told["data"]["path"]}" }}\n'
        'features = { name = "sentence", model = "someone/words" }\n'
        'optimizer = { name = "sgd", lr = 0.1 }\nloss = "gce"\nepochs = 30\n'
    )

    def trained(name):
        """Train in a new process, without the vectors that another has kept."""
        own = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
        own |= {"NOISYLABELS_CACHE": str(tmp_path / name / "cache"), "HF_ENDPOINT": address}
        words = [sys.executable, "-m", "noisylabels", "train", str(run)]
        subprocess.run(
            [*words, "--out", str(tmp_path / name)], env=os.environ | own, check=True, timeout=300
        )
        (result,) = (tmp_path / name).glob("*/result.json")
        return RunFolder(result.parent).predictions()["test_probabilities"]

    with hub.serve(tmp_path / "served") as (address, downloads):
        first = trained("first")
        assert "someone/words/model.safetensors" in downloads
        assert len(downloads) == len(set(downloads))
    # The hub is gone.
    second = trained("second")
    for found in (first, second):
        np.testing.assert_array_equal(found, RunFolder(local).predictions()["test_probabilities"])


@pytest.mark.slow
def test_a_folder_counts_by_what_it_holds(told, tmp_path):
    model = tmp_path / "model"
    first = plan(parse(told)).run_id
    run = train(parse(told), tmp_path / "runs")
    moved = shutil.move(model, tmp_path / "elsewhere")
    features = {"name": "sentence", "model": str(moved)}
    assert plan(parse(told | {"features": features})).run_id == first
    with pytest.raises(
        DataError, match=r"features\.model: expected the folder .*model, which is no"
    ):
        load(run)
    shutil.copytree(moved, model)
    assert load(run).predict(["fine"]) == ["good"]
    description = model / "README.md"
    description.write_text("another one")
    assert plan(parse(told)).run_id != first
    with pytest.raises(DataError, match="is not the folder that it was when the run was made"):
        load(run)


@pytest.mark.slow
def test_what_is_no_such_folder_is_refused_and_runs_no_code(told, tmp_path):
    model = tmp_path / "model"
    (model / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Module: ...\n")
    modules = json.loads((model / "modules.json").read_text())
    modules[0]["type"] = "evil.Module"
    (model / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match="expected a folder of sentence-transformers"):
        plan(parse(told))
    assert not (tmp_path / "ran").exists()
    missing = {"name": "sentence", "model": str(tmp_path / "none")}
    with pytest.raises(
        ConfigError, match=r"features: '.*none': expected a folder of sent"
    ) as error:
        plan(parse(told | {"features": missing}))
    assert "\n" not in str(error.value)
