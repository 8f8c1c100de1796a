import csv

import numpy as np
import pytest

from noisylabels.data.clean_labels import read_clean_labels
from noisylabels.data.datasets import SOURCES
from noisylabels.errors import DataError
from pictures import pixels, save, split_folders

TEXTS = [
    ("fine", "good"),
    ("dull", "bad"),
    ("fine", "bad"),
    ("splendid", "good"),
    ("a bore", "bad"),
]


def write(path, header, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def digits():
    return SOURCES["digits"]().load()


@pytest.fixture
def photos(tmp_path):
    """Twelve photos of two classes, the last of each in a test set."""
    return SOURCES["folder"](root=split_folders(tmp_path / "photos")).load()


@pytest.fixture
def texts(tmp_path):
    rows = [(text, label, "test" if n > 2 else "train") for n, (text, label) in enumerate(TEXTS)]
    return SOURCES["text"](path=write(tmp_path / "t.csv", ("text", "label", "split"), *rows)).load()


def known(labels):
    return {n: label for n, label in enumerate(labels.tolist()) if label >= 0}


def test_rows_are_positions_in_the_part(digits, tmp_path):
    path = write(tmp_path / "c.csv", ("row", "label"), (0, 7), (359, "2"))
    clean, said = read_clean_labels(path, digits, "test")
    assert len(clean) == len(digits.test)
    assert known(clean) == {0: 7, 359: 2}
    assert said == f"{path}: clean labels of 2 of 360 test examples"


@pytest.mark.parametrize("column", ["part", "split"])
def test_rows_of_other_parts_are_left_out_and_counted(digits, tmp_path, column):
    rows = (("train", 3, 1), ("test", 3, 2), ("validation", 3, 4))
    path = write(tmp_path / "c.csv", (column, "row", "label"), *rows)
    for part, label in (("train", 1), ("test", 2)):
        clean, said = read_clean_labels(path, digits, part)
        assert known(clean) == {3: label}
        assert said.endswith("; rows of other parts of the data: 2, left out")


def test_paths_are_relative_to_the_table_or_the_data_or_as_they_are(photos, tmp_path, monkeypatch):
    root, table = tmp_path / "photos", tmp_path / "labels" / "c.csv"
    table.parent.mkdir()
    monkeypatch.chdir(tmp_path)
    for path in (
        "test/ant/10.png",
        "../photos/test/ant/10.png",
        "photos/test/ant/10.png",
        str(root / "test" / "ant" / "10.png"),
    ):
        write(table, ("path", "label"), (path, "bee"), ("train/ant/00.png", "bee"))
        clean, said = read_clean_labels(table, photos, "test", [root])
        assert known(clean) == {photos.test.places.tolist().index(f"{root}/test/ant/10.png"): 1}
        assert "other parts of the data: 1" in said


def test_paths_through_links_are_found(tmp_path, photos):
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    table = write(tmp_path / "c.csv", ("path", "label"), ("link/test/bee/11.png", "ant"))
    assert list(known(read_clean_labels(table, photos, "test")[0]).values()) == [0]


def test_a_text_has_one_label_wherever_it_stands(texts, tmp_path):
    rows = [("fine", "good"), ("fine", "good"), ("splendid", "bad")]
    path = write(tmp_path / "c.csv", ("text", "label"), *rows)
    assert known(read_clean_labels(path, texts, "train")[0]) == {0: 1, 2: 1}
    assert known(read_clean_labels(path, texts, "test")[0]) == {0: 0}
    # As `apply` writes them, where one may be in both parts.
    rows = [("fine", "good", "train"), ("fine", "bad", "test"), ("dull", "bad", "train")]
    write(path, ("text", "label", "split"), *rows)
    assert known(read_clean_labels(path, texts, "train")[0]) == {0: 1, 1: 0, 2: 1}


def test_texts_are_found_by_their_place_too(texts, tmp_path):
    path = write(tmp_path / "c.csv", ("path", "label"), (f"{tmp_path / 't.csv'}: row 5", "bad"))
    assert known(read_clean_labels(path, texts, "test")[0]) == {0: 0}


def test_a_parquet_table_says_the_same(digits, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path = tmp_path / "c.parquet"
    parquet.write_table(pa.table({"row": [4, 2], "label": [3, 9]}), path)
    assert known(read_clean_labels(path, digits, "train")[0]) == {4: 3, 2: 9}


def test_numbers_that_are_class_names_are_meant_as_names(tmp_path):
    for name in ("3", "7"):
        for number in range(4):
            save(tmp_path / "photos" / name / f"{number}.png", pixels(number, (8, 8, 3)))
    data = SOURCES["folder"](root=tmp_path / "photos", test_share=0.5).load()
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path = tmp_path / "c.parquet"
    for labels, expected in (([3, 7], [0, 1]), ([0, 1], [0, 1]), ([3.0, 7.0], [0, 1])):
        parquet.write_table(pa.table({"row": [0, 1], "label": labels}), path)
        assert list(known(read_clean_labels(path, data, "test")[0]).values()) == expected


@pytest.mark.parametrize("labels", [("1", "2"), ("1.0", "2.00"), ("3.0", "2")])
def test_numbers_with_zeros_behind_a_point_are_the_same_names(tmp_path, labels):
    for name in ("1", "2", "3"):
        for number in range(4):
            save(tmp_path / "photos" / name / f"{number}.png", pixels(number, (8, 8, 3)))
    data = SOURCES["folder"](root=tmp_path / "photos", test_share=0.5).load()
    path = write(tmp_path / "c.csv", ("row", "label"), *enumerate(labels))
    clean = known(read_clean_labels(path, data, "test")[0])
    assert clean == {row: int(float(label)) - 1 for row, label in enumerate(labels)}
    # In a file that names none of them they are positions.
    write(path, ("row", "label"), (0, "0.0"), (1, "0"))
    assert known(read_clean_labels(path, data, "test")[0]) == {0: 0, 1: 0}


@pytest.mark.parametrize("name", ["y_test", "labels", None])
def test_arrays_have_a_label_for_each_example(digits, tmp_path, name):
    labels = np.full(360, -1)
    labels[[5, 9]] = 2, 0
    path = tmp_path / ("c.npz" if name else "c.npy")
    if name:
        np.savez(path, **{name: labels})
    else:
        np.save(path, labels)
    assert known(read_clean_labels(path, digits, "test")[0]) == {5: 2, 9: 0}


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (
            ("row", "label"),
            [(360, 1)],
            "row 2: expected a row of the test set, in 0..359, got '360'",
        ),
        (("row", "label"), [(1, 1), (-1, 1)], "row 3: expected a row of the test set"),
        (("row", "label"), [(1, 10)], "row 2: expected a label in 0..9, got .10"),
        (("row", "label"), [(1, "")], "row 2: expected .* label, got none"),
        (
            ("row", "label"),
            [(1, 1), (2, 1), (1, 1)],
            "row 4: expected each example once, got '1' ag",
        ),
        (("row", "part", "label"), [(1, "tset", 1)], "row 2: expected a part .*'tset'"),
        (("row", "part", "label"), [(1, "train", 1)], "a test example, got rows of other .*: 1"),
        (("row", "label"), [], "expected the label of a test example, got none"),
        (("row", "label"), [("", 1)], "row 2: expected a row, got none"),
        (
            ("row", "given"),
            [(1, 1)],
            "expected a column 'label' and 'path' or 'row', got 'row', 'giv",
        ),
        (("number", "label"), [(1, 1)], "expected a column 'label' and 'path' or 'row'"),
        (("row", "label"), [(1, 1, 1)], "row 2: expected 2 columns, got 3"),
        (("path", "label"), [("a.png", 1)], "row 2: expected the path of an example, got 'a.png'"),
    ],
)
def test_what_does_not_fit_is_named(digits, tmp_path, header, rows, message):
    path = write(tmp_path / "c.csv", header, *rows)
    with pytest.raises(DataError, match=rf"^{path}.*{message}") as error:
        read_clean_labels(path, digits, "test")
    assert "\n" not in str(error.value)
    assert "on_error" not in str(error.value)


def test_texts_that_are_not_there_or_contradict_each_other_are_named(texts, tmp_path):
    path = write(tmp_path / "c.csv", ("text", "label"), ("unheard", "good"))
    with pytest.raises(DataError, match="row 2: expected the text of an example, got 'unheard'"):
        read_clean_labels(path, texts, "train")
    write(path, ("text", "label"), ("fine", "good"), ("fine", "bad"))
    with pytest.raises(DataError, match="row 3: expected each example once, got 'fine' again"):
        read_clean_labels(path, texts, "train")


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("c.npy", np.zeros(7, int), "expected 360 labels, one per test example .*got 7"),
        ("c.npy", np.full(360, 10), r"row 0: expected a label in 0\.\.9, or -1 .*got 10"),
        ("c.npy", np.full(360, -2), "row 0: .*got -2"),
        ("c.npy", np.full(360, -1), "expected the label of a test example, got none"),
        ("c.npy", np.zeros(360), "integer labels"),
        (
            "c.npz",
            {"y_train": np.zeros(360, int)},
            "expected an array y_test or labels, got y_train",
        ),
        ("c.npz", {"labels": np.zeros(360)}, "labels: expected a one-dimensional array of integer"),
        ("c.txt", None, r"expected clean labels in a \.csv"),
    ],
)
def test_arrays_that_do_not_fit_are_named(digits, tmp_path, name, arrays, message):
    path = tmp_path / name
    if isinstance(arrays, dict):
        np.savez(path, **arrays)
    elif arrays is not None:
        np.save(path, arrays)
    with pytest.raises(DataError, match=rf"^{path}.*{message}"):
        read_clean_labels(path, digits, "test")
