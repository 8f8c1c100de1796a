import pytest

from noisylabels.data.examples import LoadReport
from noisylabels.data.label_encoding import encode_labels, note_empty
from noisylabels.errors import DataError


def encode(values, classes=None, on_error="raise"):
    report = LoadReport(on_error)
    places = [f"row {row}" for row in range(len(values))]
    return *encode_labels(values, places, classes, report), report


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


@pytest.mark.parametrize("bad", [None, "", "nan", float("nan"), -1, "900", True])
def test_a_label_that_is_none_is_refused_or_skipped(bad):
    values = [0, 1, bad, 1]
    with pytest.raises(DataError, match="row 2: expected a label in 0, 1, .* got "):
        encode(values)
    found, names, sound, report = encode(values, on_error="skip")
    assert found.tolist() == [0, 1, 1]
    assert names == ("0", "1")
    assert sound.tolist() == [True, True, False, True]
    assert [place for place, _ in report.skipped] == ["row 2"]


def test_classes_without_examples_are_said():
    found, names, _, report = encode([0, 3, 3])
    note_empty(found, names, "training examples", report)
    assert report.notes() == ("classes without training examples: 2 of 4: 1 (1), 2 (2)",)
