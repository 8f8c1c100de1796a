import json

import pytest

from noisylabels.paper import published

# As they are printed.
PRINTED = {
    ("table2", "cifar10", "test_accuracy", "CE", "symmetric:0.6"): (47.79, 0.42),
    ("table2", "cifar10", "test_accuracy", "DAL", "symmetric:0.8"): (72.51, 0.20),
    ("table3", "cifar100", "test_accuracy", "DAL", "instance:0.4"): (60.38, 0.54),
    ("table3", "cifar100", "test_accuracy", "GCE", "asymmetric:0.2"): (62.21, 0.32),
    ("table5", "cifar100", "test_accuracy", "ELR + DAL", "symmetric:0.8"): (34.16, None),
    ("table6", "cifar100", "attack_success", "GCE", "local"): (98.84, 0.73),
    ("table6", "cifar10", "test_accuracy", "DAL", "global"): (92.33, 0.16),
}


@pytest.mark.parametrize("cell", PRINTED, ids=lambda cell: " ".join(cell))
def test_numbers_are_the_papers(cell):
    experiment, dataset, value, row, column = cell
    found = published.find(experiment, dataset, value)[row][column]
    assert (found.mean, found.std) == PRINTED[cell]


def test_a_number_is_written_as_the_paper_does():
    assert str(published.Published(34.16, None)) == "34.2"
    assert str(published.Published(47.79, 0.42)) == "47.8 ± 0.4"
    assert "2303.11562" in published.source()


def test_there_are_no_numbers_of_what_the_paper_does_not_have():
    assert published.find("table2", "cifar100", "test_accuracy") == {}
    assert published.find("table4", "animal10n", "test_accuracy") == {}


def test_every_number_is_that_of_the_transcript(shared):
    """Against a transcript that somebody else has made."""
    tables = json.loads((shared / "reference/paper_tables.json").read_text())
    compared = 0
    for name in ("table2", "table3", "table5"):
        found = published.find(name, tables[name]["dataset"], "test_accuracy")
        assert found.keys() == tables[name]["rows"].keys()
        for row, cells in tables[name]["rows"].items():
            for column, expected in cells.items():
                own = found[row][column]
                both = (own.mean, own.std)
                assert both == (
                    (expected["mean"], expected["std"])
                    if isinstance(expected, dict)
                    else (expected, None)
                )
                compared += 1
    for dataset, rows in tables["table6"]["rows"].items():
        for row, cells in rows.items():
            for key, expected in cells.items():
                column, _, kind = key.partition("_")
                value = {"accuracy": "test_accuracy", "success_rate": "attack_success"}[kind]
                own = published.find("table6", dataset, value)[row][column]
                assert (own.mean, own.std) == (expected["mean"], expected["std"])
                compared += 1
    assert compared == 13 * 8 * 2 + 14 * 8 + 2 * 3 * 4
