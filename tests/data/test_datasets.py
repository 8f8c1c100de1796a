import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from noisylabels.data.datasets import ALIASES, SOURCES, feature_statistics
from noisylabels.data.source import Facts
from noisylabels.errors import ConfigError, DataError
from pictures import change_one_byte, pixels


def test_digits_are_the_published_ones_split_by_class():
    data = SOURCES["digits"]().load()
    assert data.train.inputs.shape == (1437, 1, 8, 8)
    assert data.test.inputs.shape == (360, 1, 8, 8)
    assert data.train.inputs.max() == 16
    shares = torch.bincount(data.test.labels) / torch.bincount(
        torch.cat([data.train.labels, data.test.labels])
    )
    assert (shares - 0.2).abs().max() < 0.01
    again = SOURCES["digits"]().load()
    assert torch.equal(again.test.inputs, data.test.inputs)
    assert SOURCES["digits"]().facts() == Facts(data.train.shape, True, "digits", highest=16)


def test_cifar10_without_files_or_network_leaves_nothing(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    root = tmp_path / "new" / "data"
    with pytest.raises(DataError, match="expected the published cifar-10-batches-py there"):
        SOURCES["cifar10"](root=root).load()
    assert not (tmp_path / "new").exists()


def test_cifar10_with_a_changed_batch_is_not_read(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list, ("batches.meta", "")]:
        (folder / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(DataError, match="with its checksums"):
        SOURCES["cifar10"](root=tmp_path).load()
    assert not (tmp_path / "pwned").exists()


@pytest.mark.slow
@pytest.mark.long
def test_cifar10_is_the_same_from_both_layouts(shared, tmp_path):
    tool = shared / "tools" / "make_cifar10.py"
    subprocess.run([sys.executable, str(tool), str(tmp_path)], check=True, capture_output=True)
    published = SOURCES["cifar10"](root=tmp_path).load()
    parquet = SOURCES["parquet"](root=shared / "data" / "cifar10").load()
    assert published.classes[:3] == ("airplane", "automobile", "bird")
    for ours, theirs in ((parquet.train, published.train), (parquet.test, published.test)):
        assert torch.equal(ours.inputs, theirs.inputs)
        assert torch.equal(ours.labels, theirs.labels)
    # The constants that every CIFAR-10 recipe writes down.
    torch.testing.assert_close(
        published.mean / 255, torch.tensor([0.4914, 0.4822, 0.4465]), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        published.std / 255, torch.tensor([0.2470, 0.2435, 0.2616]), atol=1e-4, rtol=0
    )


def arrays(tmp_path, **parts):
    np.savez(tmp_path / "a.npz", **parts)
    return SOURCES["arrays"](path=tmp_path / "a.npz")


def test_arrays_of_features_are_split_and_standardised(tmp_path):
    x = np.random.default_rng(0).normal(5, 3, (200, 4))
    x[:, 2] = 8
    source = arrays(tmp_path, x=x, y=np.arange(200) % 4, classes=np.array(["a", "b", "c", "d"]))
    data = source.load()
    assert (len(data.train), len(data.test)) == (160, 40)
    assert torch.bincount(data.test.labels).tolist() == [10] * 4
    assert data.classes == ("a", "b", "c", "d")
    mean, std = feature_statistics(data.train.inputs)
    assert torch.equal(data.mean, mean)
    assert std[2] == 1
    torch.testing.assert_close(std[0], data.train.inputs[:, 0].std(correction=0))
    assert "no test set given: 40 of 200" in data.notes[0]
    assert source.facts() == Facts((4,), images=False)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3), (3, 6, 5), (6, 5, 1)])
def test_arrays_of_images(tmp_path, shape):
    x = pixels(0, (12, *shape))
    y = np.array(["bee", "ant", "cow"] * 4)
    source = arrays(tmp_path, x_train=x, y_train=y, x_test=x[:3], y_test=y[:3])
    data = source.load()
    expected = {(6, 5): (1, 6, 5), (6, 5, 1): (1, 6, 5)}.get(shape, (3, 6, 5))
    assert data.train.shape == expected
    assert data.classes == ("ant", "bee", "cow")
    assert data.test.labels.tolist() == [1, 0, 2]
    assert source.facts() == Facts(expected, images=True)
    plain = torch.from_numpy(x)
    plain = plain.permute(0, 3, 1, 2) if shape[-1] in (1, 3) and len(shape) == 3 else plain
    assert torch.equal(data.train.inputs, plain.reshape(12, *expected))


@pytest.mark.parametrize("names", ["{0}_{1}", "{2}_{3}"])
def test_val_is_the_test_set_of_arrays_that_have_no_other(tmp_path, names):
    def named(part, count):
        x, y = pixels(count, (count, 6, 5)), np.arange(count) % 2
        return {
            names.format("x", part, part, "images"): x,
            names.format("y", part, part, "labels"): y[:, None],
        }

    parts = named("train", 8) | named("val", 4)
    data = arrays(tmp_path, **parts).load()
    assert (len(data.train), len(data.test)) == (8, 4)
    assert not any("not read" in note for note in data.notes)
    data = arrays(tmp_path, **parts, **named("test", 6)).load()
    assert (len(data.train), len(data.test)) == (8, 6)
    unread = ", ".join(named("val", 4))
    assert any(f"arrays that are not read: {unread}" in note for note in data.notes)
    x, y = pixels(0, (10, 6, 5)), np.arange(10) % 2
    data = arrays(tmp_path, x=x, y=y, **named("val", 4)).load()
    assert (len(data.train), len(data.test)) == (8, 2)
    assert any(f"arrays that are not read: {unread}" in note for note in data.notes)


X, Y = np.ones((6, 2), dtype=np.float32), np.array([0, 1] * 3)
NAN = np.array([[1, 2], [3, np.nan], [5, 6]] * 2)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"x": X}, "expected arrays x and y, or x_train.* got x"),
        ({"x_train": X, "y_train": Y}, "expected arrays x and y, or x_train"),
        ({"x_train": X, "train_images": X, "y_train": Y}, "x_train or train_images, got both"),
        ({"x_train": X, "y_train": Y, "x_val": X}, "expected arrays x and y, or x_train"),
        ({"x": X, "y": Y[:3]}, r"y: expected 6 class numbers .* got shape \(3,\) of int64"),
        ({"x": X, "y": Y + 0.0 - 1}, "y: row 0: expected a label in 0, 1, .* got -1.0"),
        ({"x": X, "y": [0, 1, np.nan] * 2}, "y: row 2: expected a label in 0, 1, .* got none"),
        ({"x": X, "y": [np.nan] * 6}, "y: row 0: expected at least one label, got none"),
        ({"x": X[:, :, None], "y": Y}, r"x: expected uint8 images .* shape \(6, 2, 1\) of float32"),
        ({"x": NAN, "y": Y}, "x: row 1: expected finite numbers, got NaN or inf"),
        ({"x": X, "y": Y - 1}, "y: row 0: expected a label in 0, 1, .* got -1"),
        ({"x": X, "y": Y * 10**9}, "y: row 1: expected a label in 0, 1, .* got 1000000000"),
        ({"x": X, "y": Y * 0}, "expected training examples of at least two classes"),
        (
            {"x": X, "y": Y, "classes": np.array(["a"])},
            r"y: row 1: expected a label in 0\.\.0, got 1",
        ),
        (
            {"x_train": X, "y_train": Y, "x_test": X[:, :1], "y_test": Y},
            r"expected test inputs of the training inputs' shape \(2,\), got \(1,\)",
        ),
        ({"x": np.array([{}] * 6), "y": Y}, "expected an .npz file of plain arrays"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, parts, message):
    with pytest.raises(DataError, match=message) as error:
        arrays(tmp_path, **parts).load()
    assert "a.npz" in str(error.value)


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        ([0.0, 1.0], "auto", ("0", "1")),
        ([1.0, 1.5, 2.0], "auto", ("1.0", "1.5", "2.0")),
        ([1.0, 1.5, 2.0], "names", ("1.0", "1.5", "2.0")),
        ([0.0, 1.0, 1.0, np.nan], "auto", ("0", "1")),
        (
            np.array([0, 1, "NaT"], "M8[ns]"),
            "auto",
            tuple(f"1970-01-01T00:00:00.{n:09}" for n in (0, 1)),
        ),
    ],
)
def test_labels_of_arrays_may_be_fractions_or_missing(tmp_path, values, kind, classes):
    y = np.resize(values, 24)
    np.savez(tmp_path / "a.npz", x=np.ones((24, 2)), y=y)
    data = SOURCES["arrays"](path=tmp_path / "a.npz", labels=kind, on_error="skip").load()
    assert data.classes == classes
    assert len(data.skipped) == np.count_nonzero(y != y)


def test_bad_rows_of_arrays_are_skipped_and_counted(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.tile(NAN, (10, 1)), y=np.array([0, 0, 1, 0, 1, 1] * 10))
    data = SOURCES["arrays"](path=tmp_path / "a.npz", on_error="skip").load()
    assert len(data.train) + len(data.test) == 40
    assert len(data.skipped) == 20
    place, reason = data.skipped[0]
    assert place.endswith("a.npz: x: row 1")
    assert reason == "expected finite numbers, got NaN or inf"


def test_integers_are_positions_even_where_names_are_numbers(tmp_path):
    y = np.array([0, 1, 2] * 6)
    data = arrays(tmp_path, x=np.ones((18, 2)), y=y, classes=np.array(["2", "0", "1"])).load()
    assert data.classes == ("2", "0", "1")
    assert torch.bincount(torch.cat([data.train.labels, data.test.labels])).tolist() == [6, 6, 6]


def test_classes_without_training_examples_are_said(tmp_path):
    data = arrays(tmp_path, x=np.ones((18, 2)), y=np.array([0, 2, 4] * 6)).load()
    assert "classes without training examples: 2 of 5: 1 (1), 3 (3)" in data.notes


@pytest.mark.parametrize("x", [np.float32(3), np.zeros((0, 3)), np.zeros((6, 0))])
def test_empty_arrays(tmp_path, x):
    with pytest.raises(DataError, match="x: expected examples, got an array of shape"):
        arrays(tmp_path, x=x, y=Y).load()


def test_damaged_archives(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(50, 4)), y=Y)
    content = (tmp_path / "a.npz").read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 3] ^= 255
    for damaged in (content[:-40], content[: len(content) // 2], bytes(flipped)):
        (tmp_path / "a.npz").write_bytes(damaged)
        with pytest.raises(DataError, match="a.npz: expected an .npz file of plain arrays"):
            SOURCES["arrays"](path=tmp_path / "a.npz").load()


def test_no_archive(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        SOURCES["arrays"](path=tmp_path / "no.npz").load()
    for content in (b"", b"PK nothing", b"\x93NUMPY"):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(DataError, match="expected an .npz file of plain arrays"):
            SOURCES["arrays"](path=tmp_path / "a.npz").load()
    np.save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(DataError, match="expected an .npz file of plain arrays"):
        SOURCES["arrays"](path=tmp_path / "b.npy").load()


@pytest.mark.parametrize("change", [{"test_share": 0.0}, {"test_share": 1.0}, {"split_seed": -1}])
def test_settings_out_of_range(tmp_path, change):
    with pytest.raises(ConfigError, match=f"{next(iter(change))} must be in"):
        SOURCES["arrays"](path=tmp_path, **change)


def test_cifar100_has_the_fine_labels(tmp_path, monkeypatch):
    """The published layout, of pictures of our own: hence without the published checksums."""
    from torchvision.datasets import cifar

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    x = pixels(0, (20, 3072))
    names = [f"class {number}" for number in range(100)]
    for part, rows in (("train", slice(0, 15)), ("test", slice(15, 20))):
        fine, coarse = list(range(100))[rows], [0] * len(x[rows])
        stored = {"data": x[rows], "fine_labels": fine, "coarse_labels": coarse}
        (folder / part).write_bytes(pickle.dumps(stored))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    source = SOURCES["cifar100"](root=tmp_path)
    data = source.load()
    assert data.classes == tuple(names)
    assert torch.equal(data.train.inputs, torch.from_numpy(x[:15].reshape(15, 3, 32, 32)))
    assert data.test.labels.tolist() == [15, 16, 17, 18, 19]
    assert source.facts() == Facts((3, 32, 32), True, "cifar100")


def test_other_names_stand_for_sources():
    assert ALIASES == {"hf": "parquet"}
    assert set(ALIASES.values()) <= set(SOURCES)
    assert not set(ALIASES) & set(SOURCES)


def test_what_is_published_needs_no_digest(tmp_path):
    for name in ("cifar10", "cifar100"):
        source = SOURCES[name](root=tmp_path / "not there yet")
        assert (source.identity(), source.digest()) == ({}, "")
    assert SOURCES["digits"](limit=5).identity() == {"limit": 5}
    assert SOURCES["digits"]().digest() == ""


def test_the_identity_of_arrays_is_how_they_were_split(tmp_path):
    source = arrays(tmp_path, x=X, y=Y)
    assert source.identity() == {"test_share": 0.2, "split_seed": 0}
    path = tmp_path / "a.npz"
    explicit = SOURCES["arrays"](path=path, test_share=0.2, split_seed=0)
    assert explicit.identity() == source.identity()
    assert SOURCES["arrays"](path=path, split_seed=1).identity()["split_seed"] == 1
    assert arrays(tmp_path, x_train=X, y_train=Y, x_test=X, y_test=Y).identity() == {}


@pytest.mark.parametrize("change", [{"test_share": 0.2}, {"split_seed": 0}])
def test_options_of_a_split_are_refused_where_arrays_have_a_test_set(tmp_path, change):
    arrays(tmp_path, x_train=X, y_train=Y, x_test=X, y_test=Y)
    source = SOURCES["arrays"](path=tmp_path / "a.npz", **change)
    for use in (source.load, source.facts, source.identity):
        with pytest.raises(ConfigError, match=f"{next(iter(change))} must be left out because the"):
            use()


def test_the_digest_of_arrays_follows_every_byte(tmp_path):
    source = arrays(tmp_path, x=X, y=Y)
    before = source.digest()
    change_one_byte(source.path)
    assert source.digest() != before


def test_arrays_under_the_names_of_medmnist_and_keras_are_read(tmp_path):
    images = np.zeros((6, 8, 8), dtype=np.uint8)
    column = Y[:, None]
    source = arrays(
        tmp_path,
        train_images=images,
        train_labels=column,
        val_images=images,
        val_labels=column,
        test_images=images,
        test_labels=column,
    )
    data = source.load()
    assert (len(data.train), len(data.test)) == (6, 6)
    assert data.train.labels.tolist() == Y.tolist()
    assert "arrays that are not read: val_images, val_labels" in data.notes
    assert not data.test_is_given
    assert arrays(tmp_path, x=X, y=column).load().test_is_given
    with pytest.raises(DataError, match=r"y: expected 6 class numbers .* got shape \(6, 2\)"):
        arrays(tmp_path, x=X, y=np.stack([Y, Y], 1)).load()


def test_whole_numbers_are_said_to_be_features(tmp_path):
    said = "inputs are whole numbers: they are standardised as features"
    assert any(said in note for note in arrays(tmp_path, x=X.astype(int), y=Y).load().notes)
    assert not any(said in note for note in arrays(tmp_path, x=X, y=Y).load().notes)


class TestCandidates:
    X = np.arange(24, dtype=np.float32).reshape(12, 2)
    Y = np.eye(3, dtype=bool)[np.arange(12) % 3] | (np.arange(3) == 0)

    def test_truth_values_are_sets(self, tmp_path):
        test = {"x_test": self.X[:6], "y_test": np.arange(6) % 3}
        data = arrays(tmp_path, x_train=self.X, y_train=self.Y, **test).load()
        assert data.test.labels.tolist() == [0, 1, 2] * 2
        assert data.test.targets is None
        assert data.classes == ("0", "1", "2")
        np.testing.assert_array_equal(data.train.candidates.numpy(), self.Y)
        assert data.train.labels.tolist() == [0] * 12

    def test_of_named_classes_and_split(self, tmp_path):
        y = self.Y.copy()
        y[::3, 0], y[1::3, 0] = False, False
        y[::3, 1] = True
        data = arrays(tmp_path, x=self.X, y=y, classes=np.array(["a", "b", "c"])).load()
        assert data.classes == ("a", "b", "c")
        kept = data.train.inputs[:, 0].long() // 2
        np.testing.assert_array_equal(data.train.candidates.numpy(), y[kept])

    @pytest.mark.parametrize("labels", ["auto", "names", "numbers"])
    def test_columns_are_classes_whatever_labels_are(self, tmp_path, labels):
        names = ["b", " a", "0"]
        parts = {"x_train": self.X, "y_train": self.Y, "x_test": self.X, "y_test": self.Y}
        source = arrays(tmp_path, **parts, classes=np.array(names))
        data = dataclasses.replace(source, labels=labels).load()
        assert data.classes == tuple(names)
        assert data.train.labels.tolist() == [0] * 12
        np.testing.assert_array_equal(data.test.candidates.numpy(), self.Y)

    @pytest.mark.parametrize("named", [False, True])
    def test_labels_for_training_and_sets_for_the_test(self, tmp_path, named):
        plain = np.arange(12) % 3
        parts = {"x_train": self.X, "x_test": self.X, "y_test": self.Y[::-1]}
        parts["y_train"] = np.array(["b", "a", "c"])[plain] if named else plain
        if named:
            parts["classes"] = np.array(["b", "a", "c"])
        data = arrays(tmp_path, **parts).load()
        assert data.train.labels.tolist() == plain.tolist()
        np.testing.assert_array_equal(data.train.candidates.numpy(), np.eye(3, dtype=bool)[plain])
        np.testing.assert_array_equal(data.test.candidates.numpy(), self.Y[::-1])

    def test_bad_rows_beside_sets_are_left_out_once(self, tmp_path):
        x, y = self.X.copy(), self.Y.copy()
        x[[2, 5]], y[[2, 7]] = np.nan, False
        plain = np.arange(12) % 3
        plain[4] = 3
        source = arrays(tmp_path, x_train=x, y_train=plain, x_test=x, y_test=y)
        data = dataclasses.replace(source, on_error="skip").load()
        kept = [row for row in range(12) if row not in (2, 4, 5)]
        assert data.train.labels.tolist() == plain[kept].tolist()
        np.testing.assert_array_equal(
            data.train.candidates.numpy(), np.eye(3, dtype=bool)[plain[kept]]
        )
        kept = [row for row in range(12) if row not in (2, 5, 7)]
        np.testing.assert_array_equal(data.test.candidates.numpy(), y[kept])
        places = sorted(place.partition("npz: ")[2] for place, _ in data.skipped)
        assert places == [
            "x_test: row 5",
            "x_train: row 2",
            "x_train: row 5",
            "y_test: row 2",
            "y_test: row 7",
            "y_train: row 4",
        ]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda parts: parts["y"].__setitem__(4, False), "y: row 4: expected a label"),
            (lambda parts: parts.update(classes=np.array(["a", "b"])), "expected 3 classes"),
            (lambda parts: parts.update(y=parts["y"][1:]), "y: expected 12 class numbers"),
            (lambda parts: parts.update(y=parts["y"][:, :0]), "y: expected 12 class numbers"),
        ],
    )
    def test_that_do_not_fit(self, tmp_path, change, message):
        parts = {"x": self.X, "y": self.Y.copy()}
        change(parts)
        with pytest.raises(DataError, match=message):
            arrays(tmp_path, **parts).load()
