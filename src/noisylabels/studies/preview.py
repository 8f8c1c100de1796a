"""A dataset to look at: its classes, how many examples each has, and some of its images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from noisylabels.data.examples import Dataset, Examples
from noisylabels.studies import thumbnails
from noisylabels.studies.pages import write_page

SAMPLES = 8
SHOWN_CLASSES = 200


@dataclass(frozen=True)
class Sample:
    """One example on the page.

    Args:
        image: The image as a ``data:`` address, or "" for features.
        text: What it is: its place, or its number and features.
    """

    image: str
    text: str


@dataclass(frozen=True)
class Row:
    """One class on the page.

    Args:
        number: Its number.
        name: Its name.
        train: Training examples, as given.
        test: Test examples.
        samples: Some of its training examples.
    """

    number: int
    name: str
    train: int
    test: int
    samples: Sequence[Sample]


def write(path: Path, title: str, dataset: Dataset, seed: int = 0) -> None:
    """Write the page.

    Args:
        path: The HTML file to make or replace; it needs no other file and no network.
        title: What the dataset is called.
        dataset: The dataset. Features need no image: their first numbers are shown.
        seed: Seed of the choice of samples.

    Raises:
        MissingExtraError: Jinja is not installed.
        DataError: A chosen image cannot be decoded, or the file cannot be written.
    """
    train, test = (
        torch.bincount(part.labels, minlength=len(dataset.classes)).tolist()
        for part in (dataset.train, dataset.test)
    )
    rows = [
        Row(number, name, train[number], test[number], _samples(dataset.train, number, seed))
        for number, name in enumerate(dataset.classes[:SHOWN_CLASSES])
    ]
    write_page(
        path,
        "data.html",
        title=title,
        rows=rows,
        hidden=len(dataset.classes) - len(rows),
        shape="x".join(map(str, dataset.train.shape)),
        train=len(dataset.train),
        test=len(dataset.test),
        most=max(1, *train),
        notes=dataset.notes,
        skipped=dataset.skipped,
        side=thumbnails.SIDE,
    )


def _samples(train: Examples, number: int, seed: int) -> list[Sample]:
    of_class = (train.labels == number).nonzero().squeeze(1)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(of_class), generator=generator)[:SAMPLES]
    index = of_class[order.sort().values]
    places = [
        str(example) if train.places is None else str(train.places[example])
        for example in index.tolist()
    ]
    return [
        Sample(drawn.image, f"{place}: {drawn.text}" if drawn.text else place)
        for place, drawn in zip(places, thumbnails.draw(train, index), strict=True)
    ]
