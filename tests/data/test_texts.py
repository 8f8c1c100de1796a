import csv
import re
from typing import ClassVar

import pytest
import torch

from noisylabels.data import tables
from noisylabels.data.datasets import SOURCES
from noisylabels.data.examples import LoadReport
from noisylabels.data.unlabelled import read_texts
from noisylabels.errors import ConfigError, DataError
from noisylabels.run.config import parse
from noisylabels.run.plan import plan
from noisylabels.votes import consensus

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
        (("fine", "", "test", ""), "row 7: expected a label"),
        (("fine", "good", "test", ""), "row 7: true: expected a label"),
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


def test_a_row_needs_the_label_of_its_split(table):
    rows = [
        (text, "" if split == "test" else label, split, true if split == "test" else "")
        for text, label, split, true in ROWS
    ]
    whole, halves = (load(table(each), test_label_column="true") for each in (ROWS, rows))
    assert halves.train.labels.tolist() == whole.train.labels.tolist()
    assert halves.test.labels.tolist() == whole.test.labels.tolist()
    assert halves.classes == whole.classes
    # Where any row may become a test example, each needs both.
    rows = [(*row[:2], row[3]) for row in [*ROWS, ("fine", "good", "train", "")]]
    path = table(rows, ("text", "label", "true"))
    with pytest.raises(DataError, match="row 7: true: expected a label"):
        load(path, test_label_column="true")


@pytest.mark.parametrize("options", [{}, {"test_label_column": "true"}])
def test_a_bad_row_is_left_out_once(table, options):
    path = table([*ROWS, ("fine", "", "train", "")])
    data = load(path, on_error="skip", **options)
    assert [place for place, _ in data.skipped] == [f"{path}: row 7"]
    assert any("left out: 1 (the first: " in note for note in data.notes)


def test_what_is_no_class_of_the_rows_that_are_left(table):
    """39 of four labels is a class, at most ten times as great, but not of three."""
    rows = [(str(n), label, "train") for n, label in enumerate(["0", "39", "1", "0", "900", "1"])]
    path = table([*rows, ("last", "1", "test")], ("text", "label", "split"))
    data = load(path, on_error="skip")
    assert data.train.inputs.values.tolist() == ["0", "2", "3", "5"]
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    voted = load(path, on_error="skip", votes=("label",), consensus="majority")
    assert voted.train.labels.equal(data.train.labels)
    assert voted.train.inputs.values.tolist() == data.train.inputs.values.tolist()


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("closed_at", [None, 60])
def test_a_quote_that_does_not_end_takes_in_no_rows(tmp_path, suffix, closed_at):
    path, between = tmp_path / f"reviews.{suffix}", "," if suffix == "csv" else "\t"
    rows = [f"good{between}film {number}" for number in range(100)]
    rows[20] = f'good{between}"Great" said he'
    if closed_at is not None:
        rows[closed_at] = f'bad{between}no "film'
    path.write_text("\n".join([f"label{between}text", *rows]) + "\n")
    with pytest.raises(DataError, match=r"row 22: not valid CSV .* must end with one"):
        load(path)
    rows[20] = f'good{between}"Great, said he'
    path.write_text("\n".join([f"label{between}text", *rows]) + "\n")
    with pytest.raises(DataError, match=r"row 22: not valid CSV .* must end with one"):
        load(path)


def test_line_breaks_within_cells_are_said(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text('text,label\nfine,good\n"dull\nindeed",bad\na,good\n"b\r\nc",bad\n')
    notes = load(path, test_share=0.5).notes
    assert f"{path}: 2 rows have line breaks within a quoted cell, the first is row 3" in notes


def test_a_column_of_two_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    rows = [("a film", "ant", "x"), ("another", "bee", "y")] * 4
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(map(",".join, [("text", "label", "label"), *rows])) + "\n")
    with pytest.raises(DataError, match="reviews.csv: expected one column 'label', got 2"):
        load(path)
    path = tmp_path / "reviews.parquet"
    columns = [pa.array(column) for column in zip(*rows, strict=True)]
    parquet.write_table(pa.table(columns, names=["text", "label", "label"]), path)
    with pytest.raises(DataError, match="reviews.parquet: expected one column 'label', got 2"):
        load(path)
    # What nobody looks at may be there twice.
    path = tmp_path / "more.csv"
    path.write_text("\n".join(map(",".join, [("text", "label", "label"), *rows])) + "\n")
    parquet.write_table(
        pa.table(columns, names=["text", "note", "note"]), path.with_suffix(".parquet")
    )
    _, numbered = tables.read_table(
        path.with_suffix(".parquet"), ["text"], "text", LoadReport("raise")
    )
    assert [row for _, row in numbered] == [{"text": text} for text, *_ in rows]


@pytest.mark.parametrize("kind", ["binary", "large_binary"])
def test_text_that_is_kept_as_bytes_is_text(tmp_path, kind):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    columns = {
        "text": [f"café {number}" for number in range(6)],
        "label": ["ant", "bee"] * 3,
        "split": ["train", "train", "train", "train", "test", "test"],
    }
    kept = {
        name: pa.array([value.encode() for value in values], getattr(pa, kind)())
        for name, values in columns.items()
    }
    path = tmp_path / "reviews.parquet"
    parquet.write_table(pa.table(kept), path)
    data = load(path)
    assert data.train.inputs.values.tolist() == columns["text"][:4]
    assert data.classes == ("ant", "bee")
    assert len(data.test) == 2
    assert read_texts(path).inputs.values.tolist() == columns["text"]
    kept["text"] = pa.array([b"caf\xe9"] * 6, getattr(pa, kind)())
    parquet.write_table(pa.table(kept), path)
    with pytest.raises(DataError, match="row 2: expected UTF-8 text"):
        load(path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_other_encodings_of_spreadsheets_are_named(tmp_path, encoding):
    path = tmp_path / "reviews.csv"
    path.write_bytes(("\ufefftext,label\na film,good\n").encode(encoding))
    with pytest.raises(DataError, match="reviews.csv: expected UTF-8 text, .*it is UTF-16"):
        load(path)


def test_a_number_may_be_a_text(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path = tmp_path / "reviews.parquet"
    columns = {"text": [0, 1, 2, 3, 0, None], "label": ["a", "b", "a", "b", "a", "b"]}
    parquet.write_table(pa.table(columns | {"split": ["train"] * 4 + ["test"] * 2}), path)
    with pytest.raises(DataError, match="row 7: expected a text, got none"):
        load(path)
    data = load(path, on_error="skip")
    assert data.train.inputs.values.tolist() == ["0", "1", "2", "3"]


def test_torn_rows_are_said_each_time(tmp_path):
    path = tmp_path / "reviews.csv"
    lines = ["text,label", *["fine,good", "dull,bad"] * 5, "so, so,bad", "splendid"]
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match="row 12: expected 2 columns, got 3"):
        load(path)
    source = SOURCES["text"](path=path, on_error="skip")
    for _ in range(2):
        data = source.load()
        assert [place.rpartition(": ")[2] for place, _ in data.skipped] == ["row 12", "row 13"]
        assert any("left out: 2 (the first: " in note for note in data.notes)


def test_texts_may_be_long(table, monkeypatch):
    long = "word " * 40_000
    before = csv.field_size_limit()
    assert before < len(long)
    path = table([(long, *ROWS[0][1:]), *ROWS[1:]])
    assert load(path).train.inputs.values[0] == long
    assert csv.field_size_limit() == before
    monkeypatch.setattr(tables, "LONGEST", before)
    if path.suffix == ".csv":
        with pytest.raises(DataError, match="not valid CSV .field larger than field limit"):
            load(path)


@pytest.mark.parametrize("column", range(3))
def test_what_is_no_utf_8_is_named_or_skipped(tmp_path, column):
    path = tmp_path / "reviews.csv"
    rows = [["fine", "good", "good"], ["dull", "bad", "bad"], *[["so so", "bad", "bad"]] * 8]
    rows[2] = [*rows[2][:column], "caf\xe9", *rows[2][column + 1 :]]
    lines = [",".join(row) for row in (("text", "label", "true"), *rows)]
    path.write_text("\n".join(lines), encoding="cp1252")
    for each in ({"test_label_column": "true"}, {"votes": ("label", "true")}):
        with pytest.raises(DataError, match=r"row 4: expected UTF-8 .* as that; got .*caf\\udce9"):
            load(path, **each)
        data = load(path, on_error="skip", **each)
        assert data.classes == ("bad", "good")
        assert len(data.train) + len(data.test) == 9
        assert [place for place, _ in data.skipped] == [f"{path}: row 4"]


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


class TestCandidates:
    ROWS = (
        ("a fine film", "good|bad", "train", "good"),
        ("dull", "bad", "train", "bad"),
        ("well", "fair|good|fair", "train", "good"),
        ("splendid", "good", "test", "good"),
        ("a bore", "bad", "test", "bad"),
    )

    def test_several_labels_in_a_row(self, table):
        data = load(table(self.ROWS), candidate_separator="|")
        assert data.classes == ("bad", "fair", "good")
        # What is written first stands for the set.
        assert data.train.labels.tolist() == [2, 0, 1]
        assert data.train.candidates.tolist() == [
            [True, False, True],
            [True, False, False],
            [False, True, True],
        ]
        assert data.test.targets is None
        assert data.test.labels.tolist() == [2, 0]

    def test_a_bar_is_part_of_a_name_unless_it_is_said_to_part_them(self, table):
        data = load(table(self.ROWS))
        assert data.train.targets is None
        assert "good|bad" in data.classes

    def test_better_labels_of_test_examples_are_labels(self, table):
        rows = [*self.ROWS[:4], ("a bore", "bad|good", "test", "bad")]
        sets = load(table(rows), candidate_separator="|").test
        assert sets.candidates.tolist()[1] == [True, False, True]
        better = load(table(rows), candidate_separator="|", test_label_column="true").test
        assert better.targets is None
        assert better.labels.tolist() == [2, 0]

    def test_an_empty_candidate_is_named_or_left_out(self, table):
        rows = [*self.ROWS, ("hm", "good||bad", "train", "bad")]
        with pytest.raises(DataError, match="row 7: expected a label"):
            load(table(rows), candidate_separator="|")
        data = load(table(rows), candidate_separator="|", on_error="skip")
        assert len(data.train) == 3
        assert data.train.targets.shape == (3, 3)
        rows[-1] = ("hm", "|", "train", "")
        for options in ({}, {"test_label_column": "true"}):
            data = load(table(rows), candidate_separator="|", on_error="skip", **options)
            assert len(data.skipped) == 1

    def test_an_empty_separator(self, table):
        with pytest.raises(ConfigError, match="candidate_separator must not be empty"):
            load(table(self.ROWS), candidate_separator="")


class TestVotes:
    NAMES = ("text", "ann", "bob", "eve", "split", "true")
    ROWS = (
        ("a fine film", "good", "good", "bad", "train", "good"),
        ("dull", "bad", "", "bad", "train", "bad"),
        ("well", "fair", "good", "good", "train", "good"),
        ("splendid", "good", "good", "bad", "test", "good"),
        ("a bore", "bad", "bad", "", "test", "fair"),
    )
    VOTES = ("ann", "bob", "eve")
    NUMBERED = (
        ("a fine film", "1", "1", "", "train", "1"),
        ("dull", "0", "0", "", "train", "0"),
        ("splendid", "1", "1", "", "test", "1"),
        ("a bore", "0", "1", "", "test", "0"),
    )
    NAMED = ("text", "a", "b", "of_a", "of_b", "split")
    RATERS: ClassVar = {"votes": ("a", "b"), "raters": ("of_a", "of_b")}

    def test_shares_are_learnt(self, table):
        data = load(table(self.ROWS, self.NAMES), votes=self.VOTES)
        assert data.classes == ("bad", "fair", "good")
        assert data.train.labels.tolist() == [2, 0, 2]
        expected = [[1 / 3, 0, 2 / 3], [1, 0, 0], [0, 1 / 3, 2 / 3]]
        assert data.train.targets.flatten().tolist() == pytest.approx(
            [x for row in expected for x in row]
        )
        assert data.test.labels.tolist() == [2, 0]
        assert data.test.targets is None
        assert "the soft consensus of 13 votes by 3 raters, 2.6 for each example" in data.notes[-2]

    def test_a_majority_is_labels(self, table):
        data = load(table(self.ROWS, self.NAMES), votes=self.VOTES, consensus="majority")
        assert data.train.labels.tolist() == [2, 0, 2]
        assert data.train.targets is None

    def test_better_labels_of_test_examples(self, table):
        path = table(self.ROWS, self.NAMES)
        data = load(path, votes=self.VOTES, test_label_column="true")
        assert data.test.labels.tolist() == [2, 1]

    @pytest.mark.parametrize("by", ["soft", "majority", "dawid-skene"])
    def test_votes_on_training_rows_and_better_labels_on_test_rows(self, table, by):
        rows = [
            (text, *(("", "", "") if split == "test" else votes), split, better)
            for text, *votes, split, true in self.ROWS
            for better in [true if split == "test" else ""]
        ]
        path = table(rows, self.NAMES)
        data = load(path, votes=self.VOTES, consensus=by, test_label_column="true")
        training = [row for row in self.ROWS if row[4] == "train"]
        alone = consensus(
            torch.tensor(
                [
                    [["bad", "fair", "good"].index(v) if v else -1 for v in row[1:4]]
                    for row in training
                ]
            ),
            num_classes=3,
            by=by,
        )
        assert data.train.labels.tolist() == alone.argmax(1).tolist()
        if by != "majority":
            torch.testing.assert_close(data.train.targets, alone)
        assert data.test.labels.tolist() == [2, 1]
        assert any("of 8 votes by 3 raters, 2.7 for each example" in note for note in data.notes)
        with pytest.raises(DataError, match="row 2: expected a vote in ann, bob, eve, got none"):
            load(table([("a", "", "", "", "train", "good"), *rows], self.NAMES), votes=self.VOTES)
        with pytest.raises(DataError, match="row 7: true: expected a label .* got none"):
            load(
                table([*rows, ("a", "bad", "bad", "", "test", "")], self.NAMES),
                votes=self.VOTES,
                test_label_column="true",
            )

    @pytest.mark.parametrize("named", [False, True])
    def test_raters_of_rows(self, table, named):
        """Bob is always wrong, and sits in the second column first, then in the third."""
        rows = []
        for number in range(80):
            true, wrong = ("good", "bad") if number % 2 else ("bad", "good")
            own = (true, wrong, true) if number < 40 else (true, true, wrong)
            who = ("ann", "bob", "eve") if number < 40 else ("ann", "eve", "bob")
            rows.append((f"text {number}", *own, *who, "test" if number < 4 else "train"))
        names = ("text", "a", "b", "c", "of_a", "of_b", "of_c", "split")
        options = {"raters": ("of_a", "of_b", "of_c")} if named else {}
        path = table(rows, names)
        data = load(path, votes=("a", "b", "c"), consensus="dawid-skene", **options)
        assert "by 3 raters" in data.notes[-1]
        found = data.train.labels.tolist() == [number % 2 for number in range(4, 80)]
        # Unless it is told, one of the last two columns seems always right, and the other wrong.
        assert found is named
        assert data.train.targets.dtype is torch.float32

    def test_raters_are_named_as_labels_are(self, table):
        who = [("ann", " ann"), ("Zo\u00eb", "Zoe\u0308"), ("7", "7.0"), ("bob", ""), ("nan", " ")]
        rows = []
        for n, (first, second) in enumerate(who):
            label = ("good", "bad")[n % 2]
            both = (label, label if second.strip() else "")
            rows.append((f"text {n}", *both, first, second, "train" if n else "test"))
        path = table(rows, self.NAMED)
        data = load(path, consensus="dawid-skene", **self.RATERS)
        assert any("of 8 votes by 5 raters" in note for note in data.notes)

    @pytest.mark.parametrize("nobody", ["", " "])
    def test_a_vote_by_nobody(self, table, nobody):
        rows = [
            ("fine", "good", "good", "ann", "bob", "train"),
            ("dull", "bad", "", "ann", nobody, "train"),
            ("so so", "bad", "good", "ann", nobody, "train"),
            ("splendid", "good", "good", "ann", "bob", "test"),
        ]
        path = table(rows, self.NAMED)
        with pytest.raises(DataError, match="row 4: of_b: expected who gave the vote, got none"):
            load(path, **self.RATERS)
        data = load(path, on_error="skip", **self.RATERS)
        assert [place for place, _ in data.skipped] == [f"{path}: row 4: of_b"]
        assert any("of 5 votes by 2 raters" in note for note in data.notes)

    @pytest.mark.parametrize(
        ("missing", "labels"), [("", "auto"), (" ", "names"), ("nan", "auto"), ("NaN", "numbers")]
    )
    def test_what_is_no_vote(self, table, missing, labels):
        rows = [(*row[:3], missing, *row[4:]) for row in self.NUMBERED]
        data = load(table(rows, self.NAMES), votes=self.VOTES, labels=labels)
        assert data.classes == ("0", "1")
        assert any("of 8 votes by 2 raters" in note for note in data.notes)

    def test_nan_is_a_label_among_names(self, table):
        rows = [(*row[:3], "nan", *row[4:]) for row in self.NUMBERED]
        data = load(table(rows, self.NAMES), votes=self.VOTES, labels="names")
        assert data.classes == ("0", "1", "nan")

    def test_cells_of_parquet_that_are_empty(self, tmp_path):
        import pyarrow as pa
        import pyarrow.parquet as parquet

        path = tmp_path / "reviews.parquet"
        none = float("nan")
        columns = {
            "text": ["fine", "dull", "so so", "splendid"],
            "a": [1.0, 0.0, none, 1.0],
            "b": [1.0, none, 0.0, 0.0],
            "of_a": [7, 8, None, 7],
            "of_b": [8.0, none, 7.0, 8.0],
            "c": [none, 2.0, 1.0, 0.0],
            "split": ["train", "train", "train", "test"],
        }
        parquet.write_table(pa.table(columns), path)
        data = load(path, **self.RATERS)
        assert data.classes == ("0", "1")
        assert data.train.labels.tolist() == [1, 0, 0]
        assert any("of 6 votes by 2 raters" in note for note in data.notes)
        counted = load(path, vote_counts=("a", "c")).train.targets
        torch.testing.assert_close(counted, torch.tensor([[1.0, 0], [0, 1], [0, 1]]))
        columns["of_a"] = [b"ann", b"caf\xe9", None, b"ann"]
        columns["of_b"] = ["ann", None, "ann", "ann"]
        parquet.write_table(pa.table(columns), path)
        with pytest.raises(DataError, match="row 3: expected UTF-8 text"):
            load(path, **self.RATERS)
        columns["a"] = [1.0, float("inf"), 0.0, 0.0]
        parquet.write_table(pa.table(columns), path)
        with pytest.raises(DataError, match="row 3: a: expected a label .* got inf"):
            load(path, votes=("a", "b"))

    def test_a_row_with_several_bad_votes_is_left_out_once(self, table):
        path = table([*self.NUMBERED, ("hm", "-1", "-2", "-3", "train", "-4")], self.NAMES)
        for options in ({}, {"test_label_column": "true"}):
            data = load(path, votes=self.VOTES, on_error="skip", **options)
            assert [place for place, _ in data.skipped] == [f"{path}: row 6: ann"]
        rows = [(f"text {n}", str(n % 2), "1", "train" if n else "test", "b") for n in range(4)]
        rows += [("hm", "many", "few", "train", "cow"), ("hm", "0", "0", "train", "cow")]
        rows[1] = ("text 1", "5", "1", "train", "a")
        path = table(rows, ("text", "a", "b", "split", "true"))
        options = {"vote_counts": ("a", "b"), "test_label_column": "true", "on_error": "skip"}
        places = [place for place, _ in load(path, **options).skipped]
        assert places == [f"{path}: row 6: a", f"{path}: row 7"]

    def test_counts(self, table):
        rows = [
            ("a fine film", "0", "3", "train", "good"),
            ("dull", "2", "1", "train", "bad"),
            ("splendid", "1", "4", "test", "good"),
            ("a bore", "1", "4", "test", "bad"),
        ]
        names = ("text", "bad", "good", "split", "true")
        halves = [
            ("a fine film", "0", "3", "train", ""),
            ("dull", "2", "1", "train", ""),
            ("splendid", "", "", "test", "good"),
            ("a bore", "", "", "test", "bad"),
        ]
        for each in (rows, halves):
            data = load(table(each, names), vote_counts=("bad", "good"), test_label_column="true")
            torch.testing.assert_close(data.train.targets, torch.tensor([[0, 1], [2 / 3, 1 / 3]]))
            assert data.test.labels.tolist() == [1, 0]
        rows[0] = (*rows[0][:-1], "fair")
        with pytest.raises(DataError, match="row 2: true: expected .* got 'fair'"):
            load(table(rows, names), vote_counts=("bad", "good"), test_label_column="true")
        halves[2] = (*halves[2][:-1], "")
        with pytest.raises(DataError, match="row 4: expected a vote in bad, good, got none"):
            load(table(halves, names), vote_counts=("bad", "good"), test_label_column="true")

    def test_a_text_without_a_vote(self, table):
        rows = [*self.ROWS, ("hm", "", "", "", "train", "bad")]
        with pytest.raises(DataError, match="row 7: expected a vote in ann, bob, eve, got none"):
            load(table(rows, self.NAMES), votes=self.VOTES)
        data = load(table(rows, self.NAMES), votes=self.VOTES, on_error="skip")
        assert len(data.train) == 3

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"consensus": "mean"}, "consensus must be 'soft'"),
            ({"candidate_separator": "|"}, "candidate_separator must be left out"),
            ({"raters": ("ann",)}, "raters: expected a column for each of 3"),
            ({"raters": ("a", "b", "a")}, "expected each column once, got 'a' more than once"),
            ({"raters": ("a", "b", "eve")}, "expected each column once, got 'eve' more than"),
            ({"votes": ("ann", "bob", "ann")}, "expected each column once, got 'ann' more than"),
            ({"label_column": "true"}, "label_column must be left out .* got 'true'"),
            ({"votes": (), "consensus": "majority"}, "consensus must be left out .* 'majority'"),
            ({"votes": (), "raters": ("ann",)}, "raters: expected a column for each of 0"),
        ],
    )
    def test_settings_that_do_not_fit(self, table, options, message):
        with pytest.raises(ConfigError, match=message):
            load(table(self.ROWS, self.NAMES), **{"votes": self.VOTES, **options})

    def test_a_column_that_is_not_there(self, table):
        with pytest.raises(DataError, match="expected a column 'joe'"):
            load(table(self.ROWS, self.NAMES), votes=("ann", "joe"))
