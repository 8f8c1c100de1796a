"""A dataset to look at: its classes, how many examples each has, and some of its images."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from noisylabels.data.decoding import decode_examples
from noisylabels.data.examples import Dataset, Examples, LoadReport, StreamedImages
from noisylabels.studies.pages import write_page

SAMPLES = 8
SHOWN_CLASSES = 200
FAINT = 31
"""Greatest value up to which images are shown brighter than they are."""
SIDE = 96
"""Pixels that a sample has on the page."""


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
        side=SIDE,
    )


def _samples(train: Examples, number: int, seed: int) -> list[Sample]:
    of_class = (train.labels == number).nonzero().squeeze(1)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(of_class), generator=generator)[:SAMPLES]
    index = of_class[order.sort().values]
    chosen = train.take(index)
    places = [
        str(example) if chosen.places is None else str(chosen.places[position])
        for position, example in enumerate(index.tolist())
    ]
    if isinstance(chosen.inputs, StreamedImages):
        encoded, spec = chosen.inputs.encoded, chosen.inputs.spec
        chosen = decode_examples(
            encoded, chosen.labels, spec, LoadReport("raise"), stream=False, workers=0
        )
    inputs = chosen.tensor()
    if inputs.ndim == 2:
        return [
            Sample("", f"{place}: {', '.join(f'{value:.4g}' for value in row[:8].tolist())}")
            for place, row in zip(places, inputs, strict=True)
        ]
    # Digits have values 0..16: as they are they would all be black.
    brightest = max(1, int(inputs.max())) if len(inputs) else 1
    stretch = 255 // brightest if brightest <= FAINT else 1
    return [
        Sample(_address(image * stretch), place)
        for place, image in zip(places, inputs, strict=True)
    ]


def _address(pixels: Tensor) -> str:
    array = pixels.permute(1, 2, 0).squeeze(2) if len(pixels) == 1 else pixels.permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(array.contiguous().numpy()).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
