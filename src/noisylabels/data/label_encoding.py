"""Labels as people write them into files, as class numbers."""

import datetime
import math
import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

import torch
from torch import Tensor

from noisylabels.data.examples import LoadReport
from noisylabels.errors import ConfigError

LabelKind = Literal["auto", "names", "numbers"]
"""What labels are: names, class numbers, or numbers only where all of them are whole."""

WHOLE = re.compile(r"(0|[1-9][0-9]*)(\.0+)?")
"""A plain decimal whole number; with zeros behind a point, as spreadsheets write them."""
PADDED = re.compile(r"0*([0-9]+)(\.0+)?")
"""The same with zeros before it, which only numbers that are said to be such may have."""
NOT_AVAILABLE = ("na", "n/a", "#n/a", "<na>", "none", "null")
"""Words, in any case, that programs write for a missing value; they may be names as well."""
INFINITE = (math.inf, -math.inf)
"""Numbers that are no label."""
SPARSE = 10
"""How many times as great as there are different labels a number may be and still be a class."""
MOST_CLASSES = 1_000_000
"""The most classes that numbers can stand for where they are said to be numbers."""


def encode_labels(
    values: Sequence[object],
    places: Sequence[str],
    classes: Sequence[str] | None,
    report: LoadReport,
    kind: LabelKind = "auto",
    rows: Sequence[int] | None = None,
) -> tuple[Tensor, tuple[str, ...], Tensor]:
    """Turn labels as they stand in a file into class numbers.

    Args:
        values: Numbers, text, truth values, dates or bytes of text; None, "", NaN or infinite where
            one is missing.
        places: Where each stands, for the message.
        classes: Class names, if they are known: labels may be names or numbers then.
        report: Decides about labels that are missing or out of range.
        kind: ``"names"`` takes every label as text; ``"numbers"`` as a class number; ``"auto"`` as
            a number where all of them are plain decimal whole numbers: not ``01``, ``1_0``,
            ``+1`` or ``1.5``, which make all of them text. "nan" as text is a label of
            ``"names"`` only.
        rows: Which row each belongs to: of a row's bad labels the first is reported. By default
            each is a row of its own.

    Returns:
        int64 labels of those that are sound, the class names, and which are sound (bool). Names are
        in alphabetical order, numbers make the classes "0", "1", ... up to the greatest.

    Raises:
        DataError: A label is not sound, and bad rows are not to be skipped.

    Example:
        >>> encode_labels(["bee", "ant", "bee"], ["a", "b", "c"], None, LoadReport("raise"))[:2]
        (tensor([1, 0, 1]), ('ant', 'bee'))
        >>> encode_labels(["1_0", "10"], ["a", "b"], None, LoadReport("raise"))[:2]
        (tensor([1, 0]), ('10', '1_0'))
    """
    texts = [label_text(value, kind) for value in values]
    known = {text for text in texts if text is not None}
    odd = sorted(text for text in known if not _is_whole(text))
    if kind == "auto" and classes is None and len(odd) < len(known) and all(map(_is_na, odd)):
        # Among numbers such a word is no class.
        known = known.difference(odd)
        texts, odd = [text if text in known else None for text in texts], []
    numbers = kind == "numbers" or (kind == "auto" and not odd)
    fractions = any(isinstance(value, float) for value in values)
    if kind == "auto" and classes is None and odd and (len(odd) < len(known) or fractions):
        shown = ", ".join(f"{text!r:.80}" for text in odd[:5]) + (", ..." if len(odd) > 5 else "")
        report.note(
            f"labels are text, for {len(odd)} of {len(known)} different ones are no plain decimal "
            f'whole numbers: {shown} (labels = "numbers" refuses such)'
        )
    names = None if classes is None else [unicodedata.normalize("NFC", name) for name in classes]
    if names is None and not numbers:
        names = sorted(known)
    ids = {} if names is None else {name: number for number, name in enumerate(names)}
    if names is not None:
        limit = len(names)
    else:
        limit = MOST_CLASSES if kind == "numbers" else SPARSE * max(1, len(known))
    pattern = PADDED if kind == "numbers" else WHOLE
    found = [
        None
        if text is None
        # What a file has as a number is a position; text may be the name of a class.
        else _number(text, limit, pattern)
        if classes is not None and type(value) is int and kind != "names"
        else ids.get(text, None if kind == "names" else _number(text, limit, pattern))
        for value, text in zip(values, texts, strict=True)
    ]
    expected = _expected(names, numbers, limit, kind) if known else "at least one label"
    sound = torch.ones(len(values), dtype=torch.bool)
    reported: set[int] = set()
    for index, label in enumerate(found):
        if label is not None:
            continue
        sound[index] = False
        row = index if rows is None else rows[index]
        if row not in reported:
            reported.add(row)
            value = values[index]
            wanted = "a label in UTF-8" if _is_unread(value) else expected
            report.reject(places[index], f"expected {wanted}, got {_shown(value, texts[index])}")
    encoded = torch.tensor([label for label in found if label is not None]).long()
    greatest = int(encoded.max()) if len(encoded) else 0
    made = tuple(names if names is not None else map(str, range(greatest + 1)))
    note_lookalikes(made, report)
    if kind == "auto" and classes is None and (missing := [name for name in made if _is_na(name)]):
        first = next(place for place, text in zip(places, texts, strict=True) if text in missing)
        report.note(
            f"classes called as programs write a missing label: "
            f"{', '.join(map(repr, missing))}, the first at {first} (leave the cell empty if that "
            f"is meant)"
        )
    return encoded, made, sound


def encode_candidates(
    values: Sequence[object],
    places: Sequence[str],
    classes: Sequence[str] | None,
    report: LoadReport,
    kind: LabelKind = "auto",
    separator: str | None = None,
    rows: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor | None, tuple[str, ...], Tensor]:
    """Turn labels, or sets of candidates such as ``cat|dog``, into class numbers.

    Args:
        values: As for :func:`encode_labels`.
        places: As for :func:`encode_labels`.
        classes: As for :func:`encode_labels`.
        report: As for :func:`encode_labels`.
        kind: As for :func:`encode_labels`.
        separator: What stands between the candidates of a set; None where each value is one label.
        rows: As for :func:`encode_labels`.

    Returns:
        int64 labels of those that are sound, of each set the candidate that is written first; the
        sets, bool, of shape (N, K), or None without a separator; the class names; and which values
        are sound (bool).

    Raises:
        ConfigError: The separator is empty.
        DataError: A label is not sound, and bad rows are not to be skipped.

    Example:
        >>> rows = ["dog|cat", "cat"]
        >>> encode_candidates(rows, ["a", "b"], None, LoadReport("raise"), separator="|")[:2]
        (tensor([1, 0]), tensor([[ True,  True],
                [ True, False]]))
    """
    if separator is None:
        labels, names, sound = encode_labels(values, places, classes, report, kind, rows)
        return labels, None, names, sound
    if not separator:
        raise ConfigError("candidate_separator must not be empty")
    split = [value.split(separator) if isinstance(value, str) else [value] for value in values]
    sizes = torch.tensor([len(each) for each in split], dtype=torch.int64)
    owner = torch.arange(len(split)).repeat_interleave(sizes)
    numbers, names, good = encode_labels(
        [part for each in split for part in each],
        [places[index] for index in owner.tolist()],
        classes,
        report,
        kind,
        [index if rows is None else rows[index] for index in owner.tolist()],
    )
    sound = torch.ones(len(split), dtype=torch.bool)
    sound[owner[~good]] = False
    sets = torch.zeros(len(split), len(names), dtype=torch.bool)
    sets[owner[good], numbers] = True
    found = torch.full((len(owner),), -1)
    found[good] = numbers
    firsts = found[sizes.cumsum(0) - sizes]
    return firsts[sound], sets[sound], names, sound


def label_text(value: object, kind: LabelKind) -> str | None:
    """Return a label as text, in Unicode's composed form, without white space around it.

    Args:
        value: As for :func:`encode_labels`.
        kind: As for :func:`encode_labels`.

    Returns:
        The text; None where the label is missing, infinite or bytes that are no UTF-8.

    Example:
        >>> label_text(" bee ", "auto"), label_text(1.0, "auto"), label_text("nan", "auto")
        ('bee', '1.0', None)
    """
    if value is None or value != value or value in INFINITE or _is_unread(value):
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    # All digits: a zero of ten decimal places is "0E-10" otherwise.
    digits = f"{value:f}" if isinstance(value, Decimal) else str(value)
    text = unicodedata.normalize("NFC", digits).strip()
    return None if not text or (text.lower() == "nan" and kind != "names") else text


def _is_na(text: str) -> bool:
    return text.casefold() in NOT_AVAILABLE


def is_missing(value: object, kind: LabelKind) -> bool:
    """Return whether a cell is empty: None, NaN, white space, or text that says that it is.

    Args:
        value: As for :func:`encode_labels`.
        kind: As for :func:`encode_labels`. "nan" as text says so, but among ``"names"``.

    Example:
        >>> [is_missing(value, "auto") for value in (" ", float("nan"), "nan", "bee", bytes([255]))]
        [True, True, True, False, False]
    """
    return label_text(value, kind) is None and value not in INFINITE and not _is_unread(value)


def several(sets: Tensor | None) -> Tensor | None:
    """Return what test examples have beside labels: sets of candidates, where one has several.

    Args:
        sets: The sets of a part of the data, bool, of shape (N, K), or class probabilities; None
            where it has neither.
    """
    if sets is None or sets.is_floating_point():
        return None
    return sets if bool((sets.sum(1) > 1).any()) else None


def note_lookalikes(classes: Sequence[str], report: LoadReport) -> None:
    """Say which classes have names that differ in nothing that a person would see, or in case.

    Args:
        classes: The class names.
        report: Remembers it.

    Example:
        >>> report = LoadReport("raise")
        >>> note_lookalikes(["Cat", "cat", "dog"], report)
        >>> report.notes()
        ("classes whose names differ only in case or in what cannot be seen: 'Cat', 'cat'",)
    """
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(_appearance(name), []).append(name)
    groups = [names for names in alike.values() if len(names) > 1]
    if groups:
        shown = "; ".join(", ".join(ascii(name) for name in names) for names in groups[:5])
        more = f"; and {len(groups) - 5} more" if len(groups) > 5 else ""
        report.note(
            f"classes whose names differ only in case or in what cannot be seen: {shown}{more}"
        )


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


def _appearance(name: str) -> str:
    """Return a name without what cannot be seen, and without case."""
    compatible = unicodedata.normalize("NFKC", name)
    # Cf: soft hyphens, zero-width spaces and joiners, marks of direction and of byte order.
    visible = "".join(c for c in compatible if unicodedata.category(c) not in ("Cf", "Cc"))
    return " ".join(visible.split()).casefold()


def _shown(value: object, text: str | None) -> str:
    if text is None and isinstance(value, str) and value.strip():
        return f'{value!r}, which says that there is none (labels = "names" takes it as text)'
    told = text is not None or value in INFINITE or _is_unread(value)
    return f"{value!r:.80}" if told else "none"


def _is_unread(value: object) -> bool:
    """Return whether a value is bytes that are no text in UTF-8."""
    if isinstance(value, bytes):
        try:
            value.decode("utf-8")
        except UnicodeDecodeError:
            return True
    return False


def _is_whole(text: str) -> bool:
    # -1, which often says that there is none, is a number too, but no class.
    return WHOLE.fullmatch(text.removeprefix("-")) is not None


def _number(text: str, limit: int, pattern: re.Pattern[str]) -> int | None:
    """Return the class number that a text is, if it is one below a limit."""
    match = pattern.fullmatch(text)
    # Not of thousands of digits, which Python refuses to read.
    if match is None or len(match[1]) > len(str(limit)):
        return None
    number = int(match[1])
    return number if number < limit else None


def _expected(names: Sequence[str] | None, numbers: bool, limit: int, kind: LabelKind) -> str:
    if names is not None and not numbers:
        return f"a label among {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
    if names is not None:
        return f"a label in 0..{limit - 1}"
    return f'a label in 0, 1, ... (at most {limit - 1} here; labels = "names" takes any text)'
