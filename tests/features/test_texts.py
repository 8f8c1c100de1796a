import numpy as np
import pytest
import torch

from noisylabels.__main__ import main
from noisylabels.errors import ConfigError, DataError
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


def test_what_was_learnt_is_kept_with_the_vectors(reviews, tmp_path, monkeypatch):
    """Or nothing but the run's own texts could ever be turned into vectors."""
    monkeypatch.setenv("NOISYLABELS_CACHE", str(tmp_path / "cache"))
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


def test_the_command_computes_vectors_beforehand(reviews, tmp_path, monkeypatch, capsys):
    path = tmp_path / "run.toml"
    data, features = reviews["data"]["path"], reviews["features"]["dimensions"]
    path.write_text(
        f'data = {{name = "text", path = "{data}"}}\n'
        f'features = {{name = "tfidf", dimensions = {features}}}\n'
    )
    assert main(["features", str(path)]) == 0
    assert capsys.readouterr().out == "200 training and 100 test vectors of 8 numbers\n"
    monkeypatch.setattr("noisylabels.features.texts.Tfidf.extract", None)
    assert main(["features", str(path)]) == 0
    path.write_text('data = "digits"\n')
    assert main(["features", str(path)]) == 2
    assert "expected frozen features" in capsys.readouterr().err


def test_texts_without_words_and_features_of_another_kind(reviews, tmp_path, digits):
    (tmp_path / "reviews.csv").write_text("text,label\n" + "!,a\n?,b\n" * 10)
    with pytest.raises(DataError, match="tfidf: the training texts have no words"):
        label(plan(parse(reviews)))
    with pytest.raises(ConfigError, match="'tfidf' is for texts, and the data has none"):
        plan(parse(digits | {"features": "tfidf"}))
    images = {"name": "timm", "model": "resnet18"}
    with pytest.raises(ConfigError, match="'resnet18' is a network for images"):
        plan(parse(reviews | {"features": images}))
