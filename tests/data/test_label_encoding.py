import re
from decimal import Decimal

import pytest

from noisylabels.data.examples import LoadReport
from noisylabels.data.label_encoding import encode_labels, note_empty
from noisylabels.errors import DataError


def encode(values, classes=None, on_error="raise", kind="auto"):
    report = LoadReport(on_error)
    places = [f"row {row}" for row in range(len(values))]
    return *encode_labels(values, places, classes, report, kind), report


@pytest.mark.parametrize(
    ("values", "given", "labels", "classes"),
    [
        (["bee", " ant ", "bee"], None, [1, 0, 1], ("ant", "bee")),
        ([2, 0, 1], None, [2, 0, 1], ("0", "1", "2")),
        (["2", "0.0", 1.0], None, [2, 0, 1], ("0", "1", "2")),
        (["bee", "0"], ["ant", "bee"], [1, 0], ("ant", "bee")),
        # A number is a position; a string may be the name of a class.
        ([1, "1"], ["1", "0"], [1, 0], ("1", "0")),
    ],
)
def test_labels_become_class_numbers(values, given, labels, classes):
    found, names, sound, report = encode(values, given)
    assert found.tolist() == labels
    assert names == classes
    assert sound.all()
    assert report.notes() == ()


@pytest.mark.parametrize("bad", [None, "", "nan", float("nan"), float("inf"), -1, "900"])
def test_a_label_that_is_none_is_refused_or_skipped(bad):
    values = [0, 1, bad, 1]
    with pytest.raises(DataError, match="row 2: expected a label in 0, 1, .* got "):
        encode(values)
    found, names, sound, report = encode(values, on_error="skip")
    assert found.tolist() == [0, 1, 1]
    assert names == ("0", "1")
    assert sound.tolist() == [True, True, False, True]
    assert [place for place, _ in report.skipped] == ["row 2"]


@pytest.mark.parametrize(
    ("values", "odd"),
    [
        (["0", "1", "2", "3", "4a", "4b"], "2 of 6 .*: '4a', '4b' "),
        (["0", "+1", "2", "2"], "1 of 3 .*: '[+]1' "),
        ([1.0, 1.5, 2.0], "1 of 3 .*: '1.5' "),
        ([0.5, 1.5], "2 of 2 .*: '0.5', '1.5' "),
        ([0, 1, True], "1 of 3 .*: 'True' "),
        (["-1", "1", "x"], "1 of 3 .*: 'x' "),
        (["ant", "bee", "1_0"], None),
    ],
)
def test_one_label_that_is_no_number_makes_all_of_them_text(values, odd):
    _, names, sound, report = encode(values)
    assert names == tuple(sorted(set(map(str, values))))
    assert sound.all()
    expected = "" if odd is None else f"labels are text, for {odd}"
    assert re.match(expected, "".join(report.notes()))
    assert bool(odd) == bool(report.notes())


@pytest.mark.parametrize("kind", ["auto", "names", "numbers"])
@pytest.mark.parametrize("missing", [None, "", float("nan")])
def test_a_column_without_a_label_is_refused_as_such(missing, kind):
    with pytest.raises(DataError, match="row 0: expected at least one label, got none "):
        encode([missing] * 3, kind=kind)
    assert len(encode([missing] * 3, on_error="skip", kind=kind)[3].skipped) == 3


def test_names_may_be_any_text_and_numbers_say_so():
    assert encode(["nan", "NA", ""], kind="names", on_error="skip")[1] == ("NA", "nan")
    with pytest.raises(DataError, match="got 'nan', .* none .labels = \"names\" takes it as text"):
        encode(["0", "nan"])
    with pytest.raises(DataError, match='at most 999999 here; labels = "names" takes any text'):
        encode(["0", "1000000"], kind="numbers")
    assert encode([Decimal("0E-10"), Decimal("1E+1")])[1] == tuple(map(str, range(11)))


@pytest.mark.parametrize("word", ["NA", "n/a", "#N/A", "<NA>", "None", "null"])
def test_words_for_a_missing_label_are_none_among_numbers_and_said_among_names(word):
    with pytest.raises(DataError, match=f"row 2: expected a .* got {re.escape(repr(word))}"):
        encode(["0", "1", word, "1"])
    found, names, sound, _ = encode(["0", "1", word, "1"], on_error="skip")
    assert (found.tolist(), names, sound.tolist()) == (
        [0, 1, 1],
        ("0", "1"),
        [True, True, False, True],
    )
    _, names, sound, report = encode(["dog", "cat", word, word])
    assert (word in names, sound.all()) == (True, True)
    assert any(
        f"a missing label: {word!r}, the first at row 2 (leave" in note for note in report.notes()
    )
    assert not encode(["dog", "cat", word], kind="names")[3].notes()


def test_classes_without_examples_are_said():
    found, names, _, report = encode([0, 3, 3])
    note_empty(found, names, "training examples", report)
    assert report.notes() == ("classes without training examples: 2 of 4: 1 (1), 2 (2)",)
