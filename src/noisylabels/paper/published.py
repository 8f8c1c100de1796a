"""The numbers that the paper prints, as data with their source."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Published:
    """A number of the paper.

    Args:
        mean: Over seeds, in percent.
        std: Their standard deviation; None where it is not printed.
    """

    mean: float
    std: float | None

    def __str__(self) -> str:
        """Write it as the paper does."""
        return f"{self.mean:.1f}" if self.std is None else f"{self.mean:.1f} ± {self.std:.1f}"


@functools.cache
def _read() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("published.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def source() -> str:
    """Return where the numbers stand."""
    return str(_read()["source"])


def find(experiment: str, dataset: str, value: str) -> Mapping[str, Mapping[str, Published]]:
    """Find the numbers of a table.

    Args:
        experiment: The table, such as ``"table2"``.
        dataset: The dataset that they are of.
        value: The key of ``result.json`` that is called what they are.

    Returns:
        The numbers by row, then by column; nothing where the paper has none.

    Example:
        >>> str(find("table2", "cifar10", "test_accuracy")["DAL"]["symmetric:0.8"])
        '72.5 ± 0.2'
    """
    for table in _read()["tables"]:
        if (table["experiment"], table["dataset"], table["value"]) == (experiment, dataset, value):
            return {
                row: {
                    column: Published(*numbers)
                    for column, numbers in zip(table["columns"], cells, strict=True)
                }
                for row, cells in table["rows"].items()
            }
    return {}
