"""The page of an audit: pictures of suspects, and a person's keys to keep or change labels."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noisylabels.data.examples import Dataset
from noisylabels.errors import NoisyLabelsError
from noisylabels.run import config
from noisylabels.run.folder import RunFolder
from noisylabels.run.labelling import label
from noisylabels.run.plan import plan
from noisylabels.studies import thumbnails
from noisylabels.studies.audit import Audit, Suspect
from noisylabels.studies.decisions import FORMAT
from noisylabels.studies.pages import write_page
from noisylabels.studies.thumbnails import SIDE, Thumbnail

PHOTOS = 500
"""Suspects on the page; the file of suspects has all."""
MATRIX_CLASSES = 20
"""Classes up to which the matrix is shown whole; of more, the largest cells are listed."""
LISTED = 30
BINS = 25


def write(
    audit: Audit,
    path: Path,
    *,
    photos: int = PHOTOS,
    say: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Write the page.

    Args:
        audit: What was found.
        path: The HTML file to make or replace; it needs no other file and no network.
        photos: How many suspects it shows, at least 0.
        say: Tells the user where pictures cannot be shown.

    Raises:
        MissingExtraError: Jinja is not installed.
        DataError: The file cannot be written.
    """
    listed = audit.listed()
    shown = listed[:photos]
    classes = list(audit.evidence.classes)
    pictures = draw(audit, shown, say)
    write_page(
        path,
        "audit.html",
        title=f"Audit of {len(audit.evidence):,} labels",
        folders=[str(folder) for folder in audit.evidence.folders],
        sentences=audit.sentences(),
        estimates=audit.estimates,
        score=audit.score_name,
        matrix=_matrix(audit),
        classes=classes,
        confusions=audit.confusions()[:LISTED],
        overlaps=audit.overlaps(),
        bars=_bars(audit),
        suspects=len(listed),
        shown=len(shown),
        side=SIDE,
        data={
            "format": FORMAT,
            "examples": len(audit.evidence),
            "classes": classes,
            "items": [
                _item(suspect, picture, classes)
                for suspect, picture in zip(shown, pictures, strict=True)
            ],
        },
        pairs=_pairs(shown),
    )


def draw(
    audit: Audit, suspects: Sequence[Suspect], say: Callable[[str], None] = lambda sentence: None
) -> list[Thumbnail]:
    """Make pictures of suspects: from their files, or else from the data that the run names.

    Args:
        audit: The audit that they are of.
        suspects: The suspects.
        say: Tells the user why there are none, where the data is not there any more.

    Returns:
        A picture of each, an empty one where it cannot be had.
    """
    if not suspects:
        return []
    files = thumbnails.read([suspect.place for suspect in suspects])
    if files is not None:
        return files
    made = [Thumbnail()] * len(suspects)
    try:
        tables = RunFolder(audit.evidence.folders[0]).config()
        if audit.evidence.out_of_fold:
            tables = tables | {"validation": 0.0}
        dataset, _ = label(plan(config.parse(tables), trial=False), vectors=False)
        _check_same(audit, dataset)
        for part in {suspect.part for suspect in suspects}:
            examples = getattr(dataset, part)
            numbers = [n for n, suspect in enumerate(suspects) if suspect.part == part]
            index = torch.tensor([suspects[number].row for number in numbers])
            for number, one in zip(numbers, thumbnails.draw(examples, index), strict=True):
                made[number] = one
    except NoisyLabelsError as error:
        say(f"no pictures: {error}")
    return made


def _check_same(audit: Audit, dataset: Dataset) -> None:
    """Refuse data that has changed since the run, whose pictures would be of other examples."""
    evidence = audit.evidence
    for part in sorted(set(evidence.parts.tolist())):
        examples = getattr(dataset, part)
        kept = evidence.labels[evidence.parts == part]
        if examples is None or not np.array_equal(examples.labels.numpy(), kept):
            raise NoisyLabelsError(f"the {part} labels are not those that the run was given")


def _item(suspect: Suspect, picture: Thumbnail, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "rank": suspect.rank,
        "part": suspect.part,
        "row": suspect.row,
        "path": suspect.place,
        "given": classes.index(suspect.given),
        "suggested": classes.index(suspect.suggested),
        "score": round(suspect.score, 4),
        "pGiven": round(suspect.p_given, 4),
        "pSuggested": round(suspect.p_suggested, 4),
        "differing": round(suspect.epochs_differing, 4),
        "image": picture.image,
        "text": picture.text,
    }


def _pairs(suspects: Sequence[Suspect]) -> list[tuple[str, str, int]]:
    """Count suspects by given and suggested class, the most frequent pair first."""
    counts = Counter((suspect.given, suspect.suggested) for suspect in suspects)
    return [(given, suggested, count) for (given, suggested), count in counts.most_common()]


def _matrix(audit: Audit) -> list[list[tuple[str, float]]]:
    """Return the joint's cells as text and shade, by given class; nothing where they are many."""
    joint = audit.joint
    if len(joint) > MATRIX_CLASSES:
        return []
    off = joint * (1 - np.eye(len(joint)))
    most = max(1.0, float(off.max()))
    return [
        [
            (f"{round(float(value)):,}" if value >= 0.5 else "", float(off[row, column] / most))
            for column, value in enumerate(values)
        ]
        for row, values in enumerate(joint)
    ]


def _bars(audit: Audit) -> list[tuple[float, float, int]]:
    """Return the distribution of scores: lower end, height in [0, 1] and count of each bar."""
    counts, ends = np.histogram(audit.score, bins=BINS, range=(0.0, 1.0))
    # Most labels are right: on an even scale nothing else would be seen.
    heights = [math.log1p(count) / math.log1p(max(1, counts.max())) for count in counts]
    return list(zip(ends[:-1].tolist(), heights, counts.tolist(), strict=True))
