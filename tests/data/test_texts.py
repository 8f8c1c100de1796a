import re

import pytest

from noisylabels.data.datasets import SOURCES
from noisylabels.errors import ConfigError, DataError
from noisylabels.run.config import parse
from noisylabels.run.plan import plan

ROWS = [
    ("a fine, fine film", "good", "train", "good"),
    ("dull", "bad", "train", "bad"),
    ("not my thing", "good", "train", "bad"),
    ("splendid", "bad", "test", "good"),
    ("a bore", "bad", "test", "bad"),
]


@pytest.fixture(params=["csv", "parquet"])
def table(request, tmp_path):
    names = ("text", "label", "split", "true")

    def write(rows=ROWS, names=names):
        path = tmp_path / f"reviews.{request.param}"
        if request.param == "csv":
            lines = [",".join(f'"{value}"' for value in row) for row in (names, *rows)]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        else:
            import pyarrow as pa
            import pyarrow.parquet as parquet

            columns = zip(*rows, strict=True)
            parquet.write_table(pa.table(dict(zip(names, columns, strict=True))), path)
        return path

    return write


def load(path, **options):
    return SOURCES["text"](path=path, **options).load()


def test_texts_labels_and_parts_are_those_of_the_table(table):
    data = load(table())
    assert data.train.inputs.values.tolist() == [row[0] for row in ROWS[:3]]
    assert data.classes == ("bad", "good")
    assert data.train.labels.tolist() == [1, 0, 1]
    assert data.test.labels.tolist() == [0, 0]
    assert not data.test_is_given
    assert [place.rpartition(": ")[2] for place in data.train.places] == ["row 2", "row 3", "row 4"]


def test_better_labels_of_the_test_examples(table):
    data = load(table(), test_label_column="true")
    assert data.train.labels.tolist() == [1, 0, 1]
    assert data.test.labels.tolist() == [1, 0]


def test_a_test_set_is_split_off_where_none_is_given(table):
    rows = [row[:2] for row in ROWS] * 10
    path = table(rows, ("text", "label"))
    data = load(path)
    assert (len(data.train), len(data.test)) == (40, 10)
    assert data.test_is_given
    both = [(*row[:2], row[3]) for row in ROWS] * 10
    assert not load(table(both, ("text", "label", "true")), test_label_column="true").test_is_given


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("", "good", "train", "good"), "row 7: expected a text, got none"),
        (("fine", "good", "tset", "good"), "row 7: expected split train or test, got 'tset'"),
        (("fine", "", "train", "good"), "row 7: expected a label"),
        (("fine", "good", "train", ""), "row 7: expected a label"),
    ],
)
def test_bad_rows_are_named_or_skipped(table, row, said):
    path = table([*ROWS, row])
    with pytest.raises(DataError, match=re.escape(f"{path}: {said}")):
        load(path, test_label_column="true")
    data = load(path, test_label_column="true", on_error="skip")
    assert len(data.train) == 3
    (place, reason) = data.skipped[0]
    assert said in f"{place.removeprefix(f'{path}: ')}: {reason}"


def test_bad_tables(table, tmp_path):
    with pytest.raises(DataError, match=r"expected a column 'review', got 'text', 'label'"):
        load(table(), text_column="review")
    with pytest.raises(DataError, match="expected training texts of at least two classes"):
        load(table(ROWS[:1] + ROWS[3:]))
    with pytest.raises(ConfigError, match=r"expected a .csv, .tsv or .parquet file of texts"):
        load(tmp_path / "a.txt")


def test_texts_need_features(table):
    with pytest.raises(ConfigError, match="features: texts need features"):
        plan(parse({"data": {"name": "text", "path": str(table())}}))
