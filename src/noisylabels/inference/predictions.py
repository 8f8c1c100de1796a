"""Predictions for many inputs as a table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from noisylabels.atomic import replacing
from noisylabels.data.tables import write_csv
from noisylabels.data.unlabelled import Unlabelled
from noisylabels.errors import DataError
from noisylabels.inference.classifier import Array, Classifier
from noisylabels.run.folder import writing

DIGITS = 6
"""Decimals of a probability."""


def write(
    classifier: Classifier,
    found: Unlabelled,
    out: Path,
    *,
    every: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Predict the classes of inputs, and write them into a CSV file, whole or not at all.

    Args:
        classifier: The classifier.
        found: The inputs, see :func:`noisylabels.data.unlabelled.read_places`.
        out: The file. It has a row for each input, in order, with the columns ``path`` (or ``row``,
            of what has no paths), ``class``, ``probability`` and ``error``, which says why an input
            cannot be used: it has no class then.
        every: Whether there is a column ``p_<class>`` for each class, too.
        say: Told of each input that cannot be used, a line each, and now and then how far it has
            come.

    Raises:
        DataError: No input can be used, or all are of another kind than the run's.
        CheckpointError: The file cannot be written.
    """
    probabilities, bad = classifier.predict_listed(found, say)
    for position, reason in sorted(bad.items()):
        say(f"{found.place(position)}: {reason}")
    if len(bad) == len(found.names):
        raise DataError(f"{len(bad)} of {len(found.names)} inputs cannot be used, nothing written")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with (
        writing(out),
        replacing(out) as temporary,
        # Names of files are not always text.
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        write_csv(file, _rows(classifier.classes, found, probabilities, bad, every))


def _rows(
    classes: Sequence[str],
    found: Unlabelled,
    probabilities: Array,
    bad: Mapping[int, str],
    every: bool,
) -> Iterator[list[str]]:
    names = [f"p_{name}" for name in classes] if every else []
    yield [found.column, "class", "probability", *names, "error"]
    blank = [""] * (2 + len(names))
    for position, row in enumerate(probabilities):
        shown = blank if position in bad else _cells(classes, row, every)
        yield [found.names[position], *shown, bad.get(position, "")]


def _cells(classes: Sequence[str], row: Array, every: bool) -> Iterator[str]:
    yield classes[int(row.argmax())]
    yield f"{row.max():.{DIGITS}f}"
    if every:
        yield from (f"{probability:.{DIGITS}f}" for probability in row)
