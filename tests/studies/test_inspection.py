import hashlib
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

import noisylabels
from noisylabels.errors import DataError
from noisylabels.noise import NOISES
from noisylabels.studies.inspection import (
    cells,
    draw,
    guess,
    inspect,
    transition_counts,
    verify,
    write,
)


def counts_of(kind, classes, rate, seed=0, **own):
    true = torch.arange(10_000) % classes
    given = NOISES[kind](true, rate=rate, seed=seed, **own)
    return transition_counts(true, given, classes)


def test_counts():
    true, given = torch.tensor([0, 0, 2, 1]), torch.tensor([0, 2, 2, 2])
    counts = transition_counts(true, given, 4)
    assert counts.dtype is torch.int64
    assert counts.to_dense().tolist() == [[1, 0, 1, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0] * 4]
    assert cells(counts) == [[0, 0, 1], [0, 2, 1], [1, 2, 1], [2, 2, 1]]
    with pytest.raises(DataError, match="given labels: expected 4 labels, .* got 3"):
        transition_counts(true, given[:3], 4)
    with pytest.raises(DataError, match=r"true labels: row 2: expected a label in 0..1, got 2"):
        transition_counts(true, given, 2)


@pytest.mark.parametrize("rate", [0.05, 0.4, 0.8])
@pytest.mark.parametrize(
    ("kind", "classes", "own", "words"),
    [
        ("symmetric", 10, {}, "symmetric-exclusive at rate"),
        ("symmetric", 100, {}, "symmetric-exclusive at rate"),
        ("asymmetric", 10, {}, "map 'cifar10'"),
        ("asymmetric", 10, {"map": "digits"}, "map 'digits'"),
        ("asymmetric", 100, {}, "map 'cifar100'"),
        ("asymmetric-block5", 10, {}, "next of its block"),
        ("asymmetric-block5", 100, {}, "next of its block"),
        ("pairflip", 3, {}, "next class"),
        ("pairflip", 10, {}, "next class"),
    ],
)
def test_guess_finds_kind_and_rate(kind, classes, own, words, rate):
    for seed in range(5):
        found = guess(counts_of(kind, classes, rate, seed, **own))
        assert found.kind == kind
        assert found.rate == pytest.approx(rate, abs=0.04)
        assert words in found.text


@pytest.mark.parametrize("kind", ["asymmetric", "asymmetric-block5", "pairflip"])
def test_guess_where_every_eligible_label_flips(kind):
    found = guess(counts_of(kind, 10, 1.0))
    assert (found.kind, found.rate) == (kind, 1.0)


def test_symmetric_kinds_are_told_apart_only_where_they_can_be():
    found = guess(counts_of("symmetric-exclusive", 10, 0.36))
    assert found.kind == "symmetric"
    assert found.rate == pytest.approx(0.4, abs=0.02)
    assert guess(counts_of("symmetric", 10, 1.0)).kind == "symmetric"
    assert guess(counts_of("symmetric", 10, 1.0)).rate <= 1
    found = guess(counts_of("symmetric-exclusive", 10, 0.98))
    assert found.kind == "symmetric-exclusive"
    assert found.rate == pytest.approx(0.98, abs=0.01)


def test_guess_of_uneven_noise():
    features = torch.randn(10_000, 20, generator=torch.Generator().manual_seed(0)) + 1
    found = guess(counts_of("instance", 10, 0.4, features=features))
    assert found.kind == "instance or transition"
    assert "do not tell" in found.text
    # Flips are spread evenly, but at each class's own rate.
    matrix = tuple(
        tuple(1 - 0.1 * y if k == y else 0.1 * y / 4 for k in range(5)) for y in range(5)
    )
    assert guess(counts_of("transition", 5, 1.0, matrix=matrix)).kind == "instance or transition"
    # The pattern of pairflip, but at each class's own rate.
    matrix = ((0.9, 0.1, 0.0), (0.0, 0.5, 0.5), (0.3, 0.0, 0.7))
    assert guess(counts_of("transition", 3, 1.0, matrix=matrix)).kind == "instance or transition"


def test_guess_of_few_flips():
    none = guess(torch.eye(3).long() * 5)
    assert (none.kind, none.rate) == ("none", 0.0)
    few = torch.eye(3).long() * 100
    few[0, 1] = 3
    assert guess(few).kind == "unknown"
    assert "only 3 labels are wrong" in guess(few).text


def test_guess_of_two_classes():
    found = guess(counts_of("symmetric", 2, 0.4))
    assert found.kind == "symmetric"
    assert found.rate == pytest.approx(0.4, abs=0.03)
    assert "pairflip at rate 0.2" in found.text
    found = guess(torch.tensor([[900, 100], [300, 700]]))
    assert found.kind == "instance or transition"
    assert "0.100 and 0.300" in found.text


def test_guess_with_a_class_that_has_no_examples():
    counts = counts_of("symmetric", 10, 0.4).to_dense()
    counts[3] = 0
    assert guess(counts).kind == "symmetric"


@pytest.mark.parametrize("rate", [20, 40, 80])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("kind", ["symmetric", "asymmetric", "instance"])
def test_guess_of_the_published_files(shared, kind, name, rate):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = shared / f"data/label/{kind}/{name}_{rate}.npy"
    if not path.exists():
        pytest.skip("not among the files at hand")
    column = {"cifar10": "label", "cifar100": "fine_label"}[name]
    table = parquet.read_table(shared / f"data/{name}/train.parquet", columns=[column])
    found = inspect(torch.from_numpy(np.load(path)), torch.tensor(table[column].to_pylist()))
    expected = {"instance": "instance or transition"}.get(kind, kind)
    assert found.guess.kind == expected
    assert found.guess.rate == pytest.approx(rate / 100, abs=0.01)
    if kind == "asymmetric":
        assert f"map {name!r}" in found.guess.text


def test_inspection_of_few_classes():
    true = torch.arange(300) % 3
    given = NOISES["pairflip"](true, rate=0.3, seed=0)
    found = inspect(given, true, ["cat", "dog", "a much longer name"])
    assert found.count == 300
    assert found.true == (100, 100, 100)
    assert found.given == tuple(torch.bincount(given).tolist())
    assert found.rate == pytest.approx((given != true).double().mean().item())
    assert sum(found.rates) / 3 == pytest.approx(found.rate)
    tables = json.loads(json.dumps(found.tables()))
    assert tables["counts"] == cells(found.counts)
    assert tables["guess"]["kind"] == "pairflip"
    text = found.text()
    assert "300 labels of 3 classes" in text
    assert found.guess.text in text
    for row, name in enumerate(found.classes):
        line = text.splitlines()[-3 + row]
        assert line.startswith(name)
        assert (
            list(map(int, line.removeprefix(name).split())) == found.counts.to_dense()[row].tolist()
        )


def test_inspection_of_many_classes_lists_the_most_frequent_flips():
    true = torch.arange(3000) % 30
    given = true.clone()
    given[true == 4] = 7
    given[3] = 5
    lines = inspect(given, true).text().splitlines()
    at = lines.index("the 2 most frequent flips")
    assert [line.split() for line in lines[at + 2 :]] == [["4", "7", "100"], ["3", "5", "1"]]
    everywhere = NOISES["symmetric"](true, rate=0.5, seed=0)
    assert "the 20 most frequent flips" in inspect(everywhere, true).text()


def test_inspection_of_very_many_classes_lists_the_worst():
    true = torch.arange(3000)
    given = true.clone()
    given[[7, 2500]] = 0
    for true_labels in (true, None):
        found = inspect(given, true_labels, num_classes=3000)
        lines = found.text().splitlines()
        at = next(number for number, line in enumerate(lines) if line.startswith("class "))
        assert "... and 2800 classes with fewer in the last column; --json lists them all" in lines
        listed = [line.split()[0] for line in lines[at + 1 : at + 201]]
        assert listed[:3] == (["7", "2500", "0"] if true_labels is not None else ["0", "1", "2"])


def test_inspection_without_true_labels():
    found = inspect(torch.tensor([0, 2, 2]), num_classes=4)
    assert found.given == (1, 0, 2, 0)
    assert found.tables() == {
        "count": 3,
        "classes": ["0", "1", "2", "3"],
        "given": [1, 0, 2, 0],
        **dict.fromkeys(["true", "rate", "rates", "counts", "guess"]),
    }
    assert "the true ones are not known" in found.text()


def test_inspection_of_what_does_not_fit():
    with pytest.raises(DataError, match="expected at least one, got none"):
        inspect(torch.zeros(0).long())
    with pytest.raises(DataError, match="expected 3 class names, got 2"):
        inspect(torch.tensor([0]), classes=["a", "b"], num_classes=3)
    with pytest.raises(DataError, match="given labels: row 0: expected a label in 0..1, got 2"):
        inspect(torch.tensor([2]), classes=["a", "b"])
    with pytest.raises(DataError, match="given labels: expected 2 labels, .* got 1"):
        inspect(torch.tensor([1]), torch.tensor([1, 0]))


def test_drawing(tmp_path):
    pytest.importorskip("matplotlib")
    true = torch.arange(300) % 3
    found = inspect(NOISES["symmetric"](true, rate=0.4, seed=0), true, ["cat", "<dog>", "$5 $6"])
    path = tmp_path / "new" / "flips.svg"
    draw(found, path)
    texts = {"".join(node.itertext()) for node in ET.parse(path).getroot().iter()}
    assert {"cat", "<dog>", "$5 $6", "given class", "true class"} <= texts
    first = path.read_bytes()
    draw(found, path)
    assert path.read_bytes() == first
    assert list(path.parent.iterdir()) == [path]
    many = torch.arange(300) % 30
    draw(inspect(many, many, [f"name {k}" for k in range(30)]), path)
    assert "name 7" not in path.read_text()
    with pytest.raises(DataError, match="expected labels whose true ones are known"):
        draw(inspect(true), path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        draw(found, tmp_path / "file" / "flips.svg")


def test_writing_and_verifying(tmp_path):
    path = tmp_path / "new" / "labels.npy"
    given = torch.tensor([2, 0, 1], dtype=torch.int32)
    write(path, given, manifest={"name": "symmetric", "rate": 0.4, "seed": 0})
    array = np.load(path)
    assert array.tolist() == [2, 0, 1]
    assert array.dtype == np.int64
    assert json.loads(path.with_suffix(".json").read_text()) == {
        "name": "symmetric",
        "rate": 0.4,
        "seed": 0,
        "labels": 3,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "noisylabels": noisylabels.__version__,
    }
    assert sorted(file.name for file in path.parent.iterdir()) == ["labels.json", "labels.npy"]
    assert verify(path) is None
    np.save(path, array[::-1])
    assert "not the file that labels.json describes: expected SHA-256" in verify(path)
    path.with_suffix(".json").write_text("{")
    assert "cannot be read as JSON" in verify(path)
    path.with_suffix(".json").write_text('{"classes": 3}')
    assert verify(path) is None
    path.with_suffix(".json").unlink()
    assert verify(path) is None


def test_what_cannot_be_written_or_verified(tmp_path):
    with pytest.raises(DataError, match="expected a name that ends in .npy"):
        write(tmp_path / "labels.pt", torch.tensor([0]), manifest={})
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        write(tmp_path / "file" / "a.npy", torch.tensor([0]), manifest={})
    (tmp_path / "a.json").write_text('{"sha256": "0"}')
    with pytest.raises(DataError, match="cannot be read"):
        verify(tmp_path / "a.npy")


def test_many_classes_need_no_matrix_of_all_their_cells():
    """With 10,000 classes one of 8 bytes a cell would take 800 MB."""
    classes = 10_000
    true = torch.arange(20_000) % classes
    given = NOISES["symmetric"](true, rate=0.4, seed=0, num_classes=classes)
    found = inspect(given, true, num_classes=classes)
    assert found.counts.is_sparse
    assert found.counts.values().numel() <= 20_000
    assert found.guess.kind == "symmetric"
    assert found.guess.rate == pytest.approx(0.4, abs=0.02)
    listed = found.tables()["counts"]
    assert sum(count for *_, count in listed) == 20_000
    assert len(json.dumps(found.tables())) < 2**20


@pytest.mark.parametrize("classes", [4, 30])
def test_drawn_are_the_wrong_labels(tmp_path, classes):
    true = torch.arange(600) % classes
    given = torch.where(torch.arange(600) // classes % 10 == 3, (true + 1) % classes, true)
    draw(inspect(given, true), tmp_path / "flips.svg")
    text = (tmp_path / "flips.svg").read_text()
    assert "wrong labels, % of the true class" in text
    numbers = [
        element.text for element in ET.fromstring(text).iter() if element.tag.endswith("text")
    ]
    assert ("90" in numbers and "10" in numbers) is (classes == 4)
