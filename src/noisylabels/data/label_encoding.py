"""Labels as they stand in a user's file, as class numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from noisylabels.data.examples import LoadReport

SPARSE = 10
"""How many times as great as there are different labels a number may be and still be a class."""


def encode_labels(
    values: Sequence[object],
    places: Sequence[str],
    classes: Sequence[str] | None,
    report: LoadReport,
) -> tuple[Tensor, tuple[str, ...], Tensor]:
    """Turn labels as they stand in a file into class numbers.

    Args:
        values: Numbers, strings of numbers, or names; None, "" or NaN where one is missing.
        places: Where each stands, for the message.
        classes: Class names, if they are known: labels may be names or numbers then. By default the
            names in alphabetical order, or "0", "1", ... up to the greatest number, if most labels
            are numbers.
        report: Decides about labels that are missing or out of range.

    Returns:
        int64 labels of those that are sound, the class names, and which are sound (bool).

    Raises:
        DataError: A label is not sound, and bad rows are not to be skipped.

    Example:
        >>> encode_labels(["bee", "ant", "bee"], ["a", "b", "c"], None, LoadReport("raise"))[:2]
        (tensor([1, 0, 1]), ('ant', 'bee'))
    """
    cleaned = [_cleaned(value) for value in values]
    known = [value for value in cleaned if value is not None]
    wholes = [_whole(value) for value in cleaned]
    ids = {name: index for index, name in enumerate(classes or ())}
    # A typing error among numbers is an error, not a class called "l".
    numbers = 2 * sum(whole is not None for whole in wholes) > len(known)
    if classes is None and not numbers:
        classes = sorted({str(value) for value in known})
        ids = {name: index for index, name in enumerate(classes)}
    # Nor must a mistyped number make thousands of classes.
    limit = len(classes) if classes else SPARSE * max(1, len(set(known)))
    found = [
        # What a file has as a number is one; a string may be the name of a class.
        ids[value]
        if isinstance(value, str) and value in ids
        else whole
        if whole is not None and 0 <= whole < limit
        else None
        for value, whole in zip(cleaned, wholes, strict=True)
    ]
    if classes and not numbers:
        expected = f"among {', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}"
    else:
        expected = f"in 0..{limit - 1}" if classes else f"in 0, 1, ... (at most {limit - 1} here)"
    greatest = max((label for label in found if label is not None), default=0)
    names = tuple(classes or (str(index) for index in range(greatest + 1)))
    sound = torch.ones(len(values), dtype=torch.bool)
    for index, label in enumerate(found):
        if label is None:
            got = "none" if cleaned[index] is None else f"{values[index]!r:.80}"
            report.reject(places[index], f"expected a label {expected}, got {got}")
            sound[index] = False
    return torch.tensor([label for label in found if label is not None]).long(), names, sound


def note_empty(labels: Tensor, classes: Sequence[str], what: str, report: LoadReport) -> None:
    """Say which classes have no example.

    Args:
        labels: int64 in [0, K), of shape (N).
        classes: The K class names.
        what: What the examples are, for the sentence.
        report: Remembers it.
    """
    counts = torch.bincount(labels, minlength=len(classes))
    empty = [f"{i} ({classes[i]})" for i in (counts == 0).nonzero().squeeze(1).tolist()]
    if empty:
        shown = ", ".join(empty[:8]) + (", ..." if len(empty) > 8 else "")
        report.note(f"classes without {what}: {len(empty)} of {len(classes)}: {shown}")


def _cleaned(value: object) -> object:
    """Return a label without what file formats add: spaces, the .0 of whole numbers, NaN."""
    if isinstance(value, str):
        value = value.strip()
        if not value or value.lower() == "nan":
            return None
        head, dot, tail = value.partition(".")
        return head if dot and head.isdigit() and not tail.strip("0") else value
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return value


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    try:
        return int(value) if isinstance(value, str) else None
    except ValueError:
        return None
