import io
import math

import numpy as np
import pytest
import torch

from noisylabels.errors import ConfigError, DataError
from noisylabels.noise import NOISES

LABELS = torch.arange(20_000) % 10


def test_none_changes_nothing_and_returns_a_copy():
    given = NOISES["none"](LABELS)
    assert torch.equal(given, LABELS)
    assert given is not LABELS
    with pytest.raises(ConfigError, match="expected rate 0, got 0.1"):
        NOISES["none"](LABELS, rate=0.1)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.8, 1.0])
def test_symmetric_is_binomial_over_all_classes(rate):
    given = NOISES["symmetric"](LABELS, rate=rate, seed=3)
    share = (given != LABELS).double().mean().item()
    expected = rate * 9 / 10
    assert abs(share - expected) <= 5 * math.sqrt(expected * (1 - expected) / len(LABELS)) + 1e-12
    wrong = given[given != LABELS]
    if rate:
        counts = torch.bincount(wrong, minlength=10).double()
        assert (counts / counts.sum() - 0.1).abs().max() < 5 * math.sqrt(0.09 / len(wrong))


def test_same_seed_same_labels_other_seed_others():
    first = NOISES["symmetric"](LABELS, rate=0.4, seed=1)
    assert torch.equal(first, NOISES["symmetric"](LABELS, rate=0.4, seed=1))
    assert not torch.equal(first, NOISES["symmetric"](LABELS, rate=0.4, seed=2))


def test_symmetric_draws_classes_that_no_label_has():
    given = NOISES["symmetric"](torch.zeros(1000).long(), rate=1.0, seed=0, num_classes=4)
    assert set(given.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("rate", [-0.1, 1.5, math.nan])
def test_rates_outside_the_unit_interval(rate):
    with pytest.raises(ConfigError, match=r"rate must be in \[0, 1\]"):
        NOISES["symmetric"](LABELS, rate=rate, seed=0)


def test_file_is_read_in_order(tmp_path):
    path = tmp_path / "labels.npy"
    np.save(path, np.array([1, 0, 2, 2], dtype=np.uint8))
    given = NOISES["file"](torch.tensor([0, 1, 2, 0]), path=path)
    assert given.tolist() == [1, 0, 2, 2]
    assert given.dtype is torch.int64


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a label file was unpickled",))


def saved(array, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (saved(np.zeros(3, dtype=np.int64)), "expected 4 labels, one per training example, got 3"),
        (saved(np.zeros(4)), "integer labels, got shape .* of float64"),
        (saved(np.zeros((4, 1), dtype=np.int64)), r"one-dimensional .* got shape \(4, 1\)"),
        (saved(np.array([0, 1, 3, 9])), r"row 2: expected a label in 0..2, got 3 \(2 such rows\)"),
        (saved(np.array([0, -1, 1, 1])), "row 1: expected a label in 0..2, got -1"),
        (saved(np.array([Bomb()] * 4, dtype=object), allow_pickle=True), "expected a .npy file"),
        (saved(np.zeros(4, dtype=np.int64))[:-9], "expected a .npy file"),
        (b"0 1 2 0", "expected a .npy file"),
        (b"", "expected a .npy file"),
    ],
)
def test_files_that_do_not_fit(tmp_path, content, message):
    path = tmp_path / "labels.npy"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        NOISES["file"](torch.tensor([0, 1, 2, 0]), path=path)
    assert str(path) in str(error.value)


def test_missing_file_and_archive(tmp_path):
    with pytest.raises(DataError, match="no such label file"):
        NOISES["file"](LABELS, path=tmp_path / "no.npy")
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(DataError, match="got an .npz archive"):
        NOISES["file"](LABELS, path=tmp_path / "two.npz")


def test_published_file_fits_cifar(shared):
    labels = torch.arange(50_000) % 10
    given = NOISES["file"](labels, path=shared / "data/label/symmetric/cifar10_40.npy")
    assert given.shape == (50_000,)
