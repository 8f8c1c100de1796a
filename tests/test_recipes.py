from pathlib import Path

import pytest

from noisylabels.methods import METHODS
from noisylabels.run import config
from noisylabels.run.plan import plan

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
RECIPES = sorted((ROOT / "src/noisylabels/paper/recipes").glob("*.toml"))
DAL = ["--loss.name", "dal", "--loss.q_start", "0.0", "--loss.q_end", "1.0"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = plan(config.load(path))
    assert made.config.loss.name == "dal"
    assert made.config.noise.parameters["rate"] == 0.4


def test_there_are_examples_and_a_recipe_of_each_method_and_dataset():
    assert len(EXAMPLES) >= 2
    expected = {
        f"{m}-{d}"
        for m in METHODS
        for d in ("cifar10", "cifar100")
        if m not in ("single", "candidates")
    }
    assert {path.stem for path in RECIPES} == expected


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes_are_valid_with_either_loss(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    method, data = path.stem.split("-")
    published = plan(config.load(path))
    assert published.config.data.name == data
    assert published.config.method.name == method
    assert published.config.loss.name == ("js" if method == "gjs" else "ce")
    with_dal = plan(config.load(path, DAL))
    assert with_dal.config.loss.parameters == {"q_start": 0.0, "q_end": 1.0, "lambda_end": 1.0}
    assert with_dal.config.method == published.config.method


def factors(made, epochs):
    return [
        (
            made.lr_factor(epoch / made.config.epochs),
            made.momentum_factor(epoch / made.config.epochs),
        )
        for epoch in epochs
    ]


def recipe(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return plan(config.load(ROOT / "src/noisylabels/paper/recipes" / f"{name}.toml"))


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("elr-cifar100", {79: 1, 80: 0.01, 119: 0.01, 120: 1e-4}),
        ("elr-cifar10", {39: 1, 40: 0.01, 79: 0.01, 80: 1e-4}),
        ("gjs-cifar100", {99: 1, 100: 0.1, 149: 0.1, 150: 0.01}),
        ("dividemix-cifar100", {149: 1, 150: 0.1, 199: 0.1}),
        ("coteaching-cifar10", {79: 1, 80: 1, 140: 0.5}),
        ("coteaching-cifar100", {100: 1, 150: 0.5}),
        ("jocor-cifar10", {80: 1, 140: 0.5}),
        ("jocor-cifar100", {100: 1, 150: 0.5}),
    ],
)
def test_learning_rates_change_in_the_epochs_that_the_authors_name(
    name, steps, monkeypatch, tmp_path
):
    made = recipe(name, monkeypatch, tmp_path)
    assert [lr for lr, _ in factors(made, steps)] == pytest.approx(list(steps.values()))


@pytest.mark.parametrize(
    ("name", "change"), [("coteaching-cifar10", 80), ("coteaching-cifar100", 100)]
)
def test_beta1_falls_to_a_tenth(name, change, monkeypatch, tmp_path):
    made = recipe(name, monkeypatch, tmp_path)
    (_, before), (_, after) = factors(made, (change - 1, change))
    assert [0.9 * before, 0.9 * after] == pytest.approx([0.9, 0.1], abs=1e-4)
