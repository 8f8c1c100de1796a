import numpy as np
import pytest
import torch

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


def test_texts_without_words_and_features_of_another_kind(reviews, tmp_path, digits):
    (tmp_path / "reviews.csv").write_text("text,label\n" + "!,a\n?,b\n" * 10)
    with pytest.raises(DataError, match="tfidf: the training texts have no words"):
        label(plan(parse(reviews)))
    with pytest.raises(ConfigError, match="'tfidf' is for texts, and the data has none"):
        plan(parse(digits | {"features": "tfidf"}))
    images = {"name": "timm", "model": "resnet18"}
    with pytest.raises(ConfigError, match="'resnet18' is a network for images"):
        plan(parse(reviews | {"features": images}))
