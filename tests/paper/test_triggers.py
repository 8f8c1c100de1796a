"""The runs of table 6 and figure 5, and the pictures of the triggers."""

import numpy as np
import pytest
import torch

from noisylabels.data.poison import add_patch, add_waves
from noisylabels.errors import ConfigError
from noisylabels.paper import experiments, figures, published, results
from noisylabels.paper.protocol import Protocol
from noisylabels.paper.results import Choice
from noisylabels.paper.triggers import examples
from noisylabels.run.folder import RunFolder
from noisylabels.run.trainer import train
from noisylabels.studies import formats
from noisylabels.studies.records import Run
from pictures import encode, pixels, smooth_images, write

TINY = ["--data.limit=40", "--epochs=1", "--model.name=mlp", "--augment.name=none"]


@pytest.fixture
def protocol(tmp_path):
    """CIFAR in small: its files have as many images as the tests need, of two classes."""
    for name, label in (("cifar10", "label"), ("cifar100", "fine_label")):
        (tmp_path / name).mkdir()
        for part, count in (("train", 40), ("test", 12)):
            labels = np.arange(count) % 2
            images = [encode(pixels(n, (8, 8, 3))) for n in range(count)]
            write(tmp_path / name / f"{part}.parquet", images, labels, label=label)
    return Protocol("small", data=tmp_path)


def parts(name, scale="small"):
    return {part.dataset: part for part in experiments.find(name).parts(Protocol(scale))}


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_table_6_has_both_triggers_and_the_papers_numbers(scale):
    found = parts("table6", scale)
    assert set(found) == {"cifar10", "cifar100"}
    for dataset, part in found.items():
        assert [row.title for row in part.rows] == ["CE", "GCE", "DAL"]
        for column, kind in zip(part.columns, ("local", "global"), strict=True):
            assert (column.key, column.setting) == (kind, None)
            assert column.changes == {
                "poison.name": "trigger",
                "poison.kind": kind,
                "poison.share": 0.002,
            }
        for value in ("test_accuracy", "attack_success"):
            printed = published.find("table6", dataset, value)
            assert {row.title for row in part.rows} == set(printed)
            assert {column.key for column in part.columns} == set(printed["DAL"])
    assert str(published.find("table6", "cifar10", "attack_success")["CE"]["local"]) == "99.9 ± 0.0"


def test_figure_5_begins_with_the_runs_of_table_6(protocol, tmp_path):
    runs = {}
    for name in ("table6", "figure5"):
        plans = results.prepare(
            experiments.find(name), protocol, Choice(seeds=1, overrides=TINY), tmp_path / "out"
        )
        runs[name] = [
            {(slot.row, slot.column, slot.seed): slot.run_id for slot in made.slots}
            for made in plans
        ]
    for table, figure in zip(runs["table6"], runs["figure5"], strict=True):
        assert len(set(table.values())) == 3 * 2
        assert len(set(figure.values())) == 6 * 5
        for (row, column, seed), run_id in table.items():
            assert figure[(3 * column + row, 0, seed)] == run_id
    titles = [row.title for row in parts("figure5")["cifar100"].rows]
    assert titles[:4] == ["CE local", "GCE local", "DAL local", "CE global"]
    shares = [column.changes["poison.share"] for column in parts("figure5")["cifar10"].columns]
    assert shares == sorted(shares)
    assert shares[0] == 0.002


def test_table_6_shows_accuracy_and_success_beside_the_papers(protocol, tmp_path):
    experiment = experiments.find("table6")
    choice = Choice(rows=["ce", "gce"], columns=["local"], seeds=1, overrides=TINY)
    plans = results.prepare(experiment, protocol, choice, tmp_path / "out")
    folder = tmp_path / "out" / "runs"
    stored = [RunFolder(train(point.run, folder)) for point in plans[0].study.points]
    runs = results.collect(plans, [], folder)
    accuracy, success = results.tabulate(experiment, protocol, plans[0], runs)
    assert (accuracy.value, success.value) == ("test_accuracy", "attack_success")
    assert (accuracy.direction, success.direction) == ("high", "low")
    for row, run in enumerate(stored):
        assert len(run.labels()["poisoned"]) == 1
        assert success.cells[(row, 0)].values == {0: run.result()["attack_success"]}
        assert accuracy.cells[(row, 0)].values == {0: run.result()["test_accuracy"]}
    shown = formats.text([success])
    assert "local trigger" in shown
    assert "attack_success, %" in shown
    assert "99.9 ± 0.0" in shown
    assert "noise" not in formats.csv([success]).splitlines()[0]


def test_triggers_are_of_images_alone(tmp_path):
    for name in ("table6", "figure5"):
        with pytest.raises(ConfigError, match=f"{name} is of scale 'paper' or 'small', got 'dig"):
            results.prepare(experiments.find(name), Protocol("digits"), Choice(), tmp_path)


def test_examples_are_the_images_with_and_without_and_what_differs():
    images = smooth_images(5, height=32, width=32)
    rows = examples(images, gain=3)
    assert list(rows) == ["clean", "local", "local, difference", "global", "global, difference"]
    assert torch.equal(rows["clean"], images)
    assert torch.equal(rows["local"], add_patch(images))
    assert torch.equal(rows["global"], add_waves(images))
    for kind in ("local", "global"):
        difference = 3 * (rows[kind].double() - images.double())
        expected = (128 + difference).clamp(0, 255).byte()
        assert torch.equal(rows[f"{kind}, difference"], expected)
    assert (rows["local, difference"][:, :, :-3] == 128).all()


def test_figure_5_shows_triggers_and_success_by_share(protocol, tmp_path):
    plans = results.prepare(
        experiments.find("figure5"), protocol, Choice(("CE local", "DAL local"), seeds=2), tmp_path
    )
    runs = {
        slot.run_id: Run(tmp_path, {}, {}, {"attack_success": slot.column / 10 + slot.seed / 50})
        for made in plans
        for slot in made.slots
    }
    drawing = figures.triggers(plans, runs)
    for said in (
        "CIFAR-100: test images",
        "local, difference",
        "CE local",
        "success of the trigger",
    ):
        assert said in drawing
    assert drawing.count("<image") == 2
