"""Which runs are the same, and what a plan chooses; what it refuses is in test_trainer."""

import shutil

import numpy as np
import pytest

from noisylabels.errors import ConfigError
from noisylabels.losses import LOSSES, GeneralizedCrossEntropyLoss
from noisylabels.run import plan as planning
from noisylabels.run.config import FIELDS, Component, parse
from noisylabels.run.plan import INVARIANT, plan
from pictures import encode, pixels, save

SOURCE = """
from dataclasses import dataclass

import torch

from noisylabels.data.examples import Dataset, Examples
from noisylabels.data.source import Facts, Source

COUNT = 12


@dataclass(frozen=True, kw_only=True)
class Mine(Source):
    scale: float = 1.0

    def facts(self):
        return Facts(shape=(3,), images=False, class_map=None)

    def load(self, workers=0):
        y = torch.arange(COUNT) % 2
        part = Examples(self.scale * torch.randn(COUNT, 3), y)
        return Dataset(part, part, ("a", "b"), torch.zeros(3), torch.ones(3))
"""


@pytest.fixture
def mine(own_module):
    return own_module("planned_source", SOURCE)


@pytest.fixture
def photos(tmp_path):
    for number in range(12):
        name = ("cat", "dog")[number % 2]
        save(tmp_path / "photos" / name / f"{number}.bmp", encode(pixels(number, (8, 8, 3)), "BMP"))
    return {"data": {"name": "folder", "root": str(tmp_path / "photos")}}


def run_id(tables):
    return plan(parse(tables)).run_id


def test_an_edited_source_of_the_users_own_is_another_run(mine):
    data = {"data": {"name": "planned_source:Mine"}}
    first = run_id(data)
    assert run_id({"data": {"name": "planned_source:Mine", "scale": 1.0}}) == first
    assert run_id({"data": {"name": "planned_source:Mine", "scale": 2.0}}) != first
    mine.write_text(SOURCE.replace("COUNT = 12", "COUNT = 14"))
    assert run_id(data) != first


def test_code_beside_it_that_a_component_uses_counts_too(digits, tmp_path, monkeypatch):
    """A base class, and a function that it calls, each in a file of its own."""
    files = {
        "planned_helper.py": "def scale():\n    return 1.0\n",
        "planned_base.py": (
            "from torch import nn\n\nimport planned_helper\n\n"
            "class Base(nn.Module):\n"
            "    def __init__(self, shape, num_classes):\n"
            "        super().__init__()\n"
            "        self.linear = nn.Linear(64, num_classes)\n"
            "    def forward(self, input):\n"
            "        return planned_helper.scale() * self.linear(input.flatten(1))\n"
        ),
        "planned_model.py": "from planned_base import Base\n\nclass Mine(Base):\n    pass\n",
        "planned_stranger.py": "value = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    tables = digits | {"model": "planned_model:Mine"}
    seen = [run_id(tables)]
    for name in ("planned_model.py", "planned_base.py", "planned_helper.py"):
        (tmp_path / name).write_text(files[name] + "# changed\n")
        seen.append(run_id(tables))
    assert len(set(seen)) == 4
    (tmp_path / "planned_stranger.py").write_text("value = 2\n")
    assert run_id(tables) == seen[-1]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert run_id(tables) == seen[0]


def test_images_replaced_by_others_of_the_same_size_are_another_run(photos, tmp_path):
    first = run_id(photos)
    path = tmp_path / "photos/cat/0.bmp"
    before = path.read_bytes()
    path.write_bytes(encode(pixels(99, (8, 8, 3)), "BMP"))
    assert len(path.read_bytes()) == len(before)
    assert run_id(photos) != first
    path.write_bytes(before)
    assert run_id(photos) == first


def test_one_set_under_two_roots_is_one_run(photos, tmp_path):
    shutil.copytree(tmp_path / "photos", tmp_path / "elsewhere")
    moved = {"data": {"name": "folder", "root": str(tmp_path / "elsewhere")}}
    assert run_id(moved) == run_id(photos)


def test_an_alias_is_what_it_stands_for(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [
        {"img": {"bytes": encode(pixels(n, (8, 8, 3))), "path": None}, "label": n % 2}
        for n in range(8)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    made = {
        name: plan(parse({"data": {"name": name, "root": str(tmp_path)}}))
        for name in ("hf", "parquet")
    }
    assert made["hf"].run_id == made["parquet"].run_id
    assert made["hf"].config == made["parquet"].config


def test_only_what_differs_from_the_defaults_counts(digits, monkeypatch):
    bare = plan(parse({"data": "digits"}))
    assert bare.identity["settings"] == {
        "data": {"name": "digits"},
        "model": {"name": "mlp"},
        "augment": {"name": "none"},
    }
    spelled = {key: value for key, value in bare.config.tables().items() if key != "data"}
    assert run_id({"data": "digits"} | spelled) == bare.run_id
    digits["loss"] = {"name": "gce", "q": 0.5}
    before = run_id(digits)

    def longer(weight=None, *, q: float = 0.7, news: int = 3, **options):
        return GeneralizedCrossEntropyLoss(weight, q=q)

    monkeypatch.setitem(LOSSES, "gce", longer)
    assert run_id(digits) == before, "a new option with a default is no other run"
    assert run_id(digits | {"loss": {"name": "gce", "q": 0.5, "news": 4}}) != before


@pytest.mark.parametrize("key", sorted(INVARIANT))
def test_what_a_result_does_not_depend_on_does_not_count(digits, key):
    other = {
        "checkpoint_minutes": 3.0,
        "evaluate_every": 2,
        "on_nan": "skip",
        "save_model": False,
        "trackers": ["mlflow"],
        "workers": 3,
    }[key]
    assert FIELDS[key].default != other
    assert run_id(digits | {key: other}) == run_id(digits)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 4},
        {"seed": 1},
        {"precision": "bf16"},
        {"validation": 0.1},
        {"test": False},
        {"loss": {"name": "dal", "q_start": 0.7}},
        {"loss": {"name": "gce", "q": {"schedule": "linear", "start": 0.1, "end": 0.9}}},
        {"loss": {"name": "dal", "label_smoothing": 0.1}},
        {"data": {"name": "digits", "limit": 100}},
        {"noise": {"name": "symmetric", "rate": 0.4, "seed": 0}},
        {"method": "elr"},
        {"poison": "trigger"},
    ],
)
def test_what_a_result_depends_on_counts(digits, change):
    assert run_id(digits | change) != run_id(digits)


def test_no_poison_is_the_run_that_it_always_was(digits):
    made = plan(parse(digits | {"poison": "none"}))
    assert "poison" not in made.identity["settings"]
    # As it was before there was any poison.
    before = {**made.identity, "contents": {"data": "0" * 64}}
    assert planning.run_id(before) == "67a00bbff059"
    trigger = {"name": "trigger", "kind": "global"}
    poisoned = plan(parse(digits | {"poison": trigger}))
    assert poisoned.identity["settings"]["poison"] == trigger
    spelled = trigger | {"share": 0.002, "target": 0}
    assert run_id(digits | {"poison": spelled}) == poisoned.run_id
    assert run_id(digits | {"poison": spelled | {"share": 0.01}}) != poisoned.run_id


def test_a_default_of_all_losses_is_no_difference(digits):
    smoothed = {"loss": {"name": "dal", "label_smoothing": 0.0}}
    assert run_id(digits | smoothed) == run_id(digits)


def test_a_loss_that_counts_epochs_is_told_how_many_there_are(digits):
    made = plan(parse(digits | {"loss": "ce+sr", "epochs": 7}))
    assert made.config.loss.parameters["epochs"] == made.loss().epochs == 7
    assert made.identity["settings"]["loss"] == {"name": "ce+sr", "epochs": 7}
    loss = made.loss()
    loss.progress = 6 / 7
    assert loss.current_lamb == pytest.approx(1.5 * 1.02**6)
    as_published = plan(parse(digits | {"loss": "ce+sr", "epochs": 150})).identity["settings"]
    assert as_published["loss"] == {"name": "ce+sr"}
    own = {"name": "ce+sr", "epochs": 9}
    assert plan(parse(digits | {"loss": own, "epochs": 7})).loss().epochs == 9


def test_other_numbers_of_ours_make_other_runs(digits, monkeypatch):
    before = run_id(digits)
    monkeypatch.setattr(planning, "RESULTS_VERSION", planning.RESULTS_VERSION + 1)
    assert run_id(digits) != before


def test_label_files_count_by_content(digits, tmp_path):
    np.save(tmp_path / "a.npy", np.arange(1437) % 10)
    np.save(tmp_path / "b.npy", np.arange(1437) % 10)
    np.save(tmp_path / "c.npy", np.arange(1, 1438) % 10)
    ids = [
        run_id(digits | {"noise": {"name": "file", "path": str(tmp_path / f"{name}.npy")}})
        for name in "abc"
    ]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("shape", "model", "augment"),
    [
        ((8, 8, 3), "mlp", "none"),
        ((28, 28, 1), "resnet18", "crop-flip"),
        ((96, 96, 3), "resnet18", "crop-flip"),
        ((97, 20, 3), "resnet50", "resized-crop"),
    ],
)
def test_what_suits_images_goes_by_their_size(tmp_path, shape, model, augment):
    x = np.zeros((4, *shape), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=[0, 1, 0, 1], x_test=x, y_test=[0, 1, 0, 1])
    made = plan(parse({"data": {"name": "arrays", "path": str(tmp_path / "a.npz")}}))
    assert made.config.model.name == model
    assert made.config.augment == Component(augment, made.config.augment.parameters)


OWN = """
def broken(shape, num_classes, **options):
    raise OSError("no network today")
"""


def test_a_users_function_that_fails_is_named(digits, tmp_path, own_module):
    own_module("broken_model", OWN)
    from noisylabels.run.trainer import train

    expected = "model: 'broken_model:broken' failed: OSError: no network today"
    with pytest.raises(ConfigError, match=expected):
        train(parse(digits | {"model": "broken_model:broken"}), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
