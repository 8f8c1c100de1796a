from pathlib import Path

import pytest

from noisylabels.errors import ConfigError
from noisylabels.paper.hyperparameters import HYPERPARAMETERS
from noisylabels.run.config import parse
from noisylabels.run.plan import plan
from noisylabels.studies import space
from noisylabels.studies.tune import first_values

BASE = {
    "data": "digits",
    "noise": {"name": "symmetric", "rate": 0.4},
    "model": {"name": "mlp", "hidden": [16]},
    "loss": {"name": "gce", "q": 0.7},
    "epochs": 2,
}
SPACES = sorted((Path(__file__).parents[2] / "benchmarks/spaces").glob("*.toml"))


def base(**changes):
    return plan(parse(BASE | changes)).config


def fit(tables, **changes):
    return space.fit(space.parse(tables), base(**changes))


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "space.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_both_ends_of_what_the_benchmarks_search_are_values(path):
    hosts = ("coteaching", "dividemix", "elr", "jocor")
    own = {"method": path.stem} if path.stem in hosts else {"loss": path.stem}
    if path.stem in ("coteaching", "jocor"):
        own = {"method": {"name": path.stem, "forget_rate": 0.4}}
    read = space.read(path)
    fitted = space.fit(read, base(**own))
    assert {each.key for each in fitted.parameters} == set(read.tables())


def test_keys_with_and_without_quotes_mean_the_same(file):
    quoted = '"loss.q" = {low = 0.1, high = 1.0}\n"optimizer.lr" = [0.1, 1.0]\nbatch_size = [32]'
    nested = "loss.q = {low = 0.1, high = 1.0}\noptimizer.lr = [0.1, 1.0]\nbatch_size = [32]"
    tables = "batch_size = [32]\n[loss.q]\nlow = 0.1\nhigh = 1.0\n[optimizer]\nlr = [0.1, 1.0]"
    read = [space.read(file(text)).tables() for text in (quoted, nested, tables)]
    assert read[0] == read[1]
    assert sorted(read[0].items(), key=str) == sorted(read[2].items(), key=str)
    assert read[0] == {
        "loss.q": {"low": 0.1, "high": 1.0},
        "optimizer.lr": [0.1, 1.0],
        "batch_size": [32],
    }


def test_whether_a_range_is_of_whole_numbers_the_parameter_says():
    fitted = fit(
        {
            "loss.q": {"low": 0, "high": 1},
            "batch_size": {"low": 32, "high": 256, "step": 32},
            "epochs": {"low": 1, "high": 100, "log": True},
            "optimizer.lr": {"low": 0.1, "high": 1.0},
        }
    )
    assert [each.whole for each in fitted.parameters] == [False, True, True, False]
    assert [type(each.low) for each in fitted.parameters] == [float, int, int, float]


def test_what_lies_in_a_range():
    whole = space.Range("batch_size", 32, 256, step=32, whole=True)
    assert [value for value in (0, 32, 33, 64, 64.0, True, 256, 288) if whole.holds(value)] == [
        32,
        64,
        256,
    ]
    stepped = space.Range("loss.q", 0.1, 0.7, step=0.2)
    assert stepped.holds(0.3)
    assert not stepped.holds(0.4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected at least one key"),
        ("q = ", "not valid TOML"),
        ("bach_size = [1]", "unknown key 'bach_size': did you mean 'batch_size'?"),
        ("seed = [1, 2]", "seed cannot be chosen: --seeds repeats each trial"),
        ("data.name = ['digits']", "data cannot be chosen: what is chosen is compared on"),
        ("'noise.rate' = [0.1]", "noise.rate cannot be chosen"),
        ("validation = [0.1]", "validation cannot be chosen: the hold-out is what trials"),
        ("test = [true]", "test cannot be chosen: no trial sees the test set"),
        ("workers = [1]", "workers cannot be chosen: the result does not depend on it"),
        ("batch_size = 7", "batch_size: expected a range { low = ..., high = ... } or a list"),
        ("batch_size = []", "batch_size: expected at least one choice, got none"),
        ("batch_size = [8, 8]", "batch_size: the choice 8 is given twice"),
        ("epochs = {low = 1, hihg = 2}", "unknown word of a range 'hihg': did you mean 'high'?"),
        ("epochs = {low = 1}", "epochs: a range needs high"),
        ("epochs = {low = 1, high = '2'}", "epochs: high: expected a number, got '2'"),
        ("'loss.q' = {low = 0.1, high = inf}", "loss.q: high: expected a number, got inf"),
        ("epochs = {low = 1, high = true}", "epochs: high: expected a number, got True"),
        ("epochs = {low = 2, high = 2}", "expected low below high, got low 2 and high 2"),
        ("epochs = {low = 0, high = 2, log = true}", "low must be above 0, got 0"),
        ("epochs = {low = 1, high = 2, log = 1}", "log: expected true or false, got 1"),
        ("epochs = {low = 1, high = 9, log = true, step = 2}", "expected log or step, got both"),
        ("epochs = {low = 1, high = 9, step = 0}", "step must be above 0, got 0"),
        (
            "batch_size = {low = 32, high = 100, step = 32}",
            "high 100 is no number of steps from low: the last is 96",
        ),
        ("loss = ['ce']\nloss.name = ['ce']", "not valid TOML"),
        ("loss = ['ce']\n'loss.name' = ['ce']", "loss and loss.name set the same"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(file, text, message):
    path = file(text)
    with pytest.raises(ConfigError, match=r"(?s).*") as refused:
        space.read(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"optimizer.momentum": {"low": 0.5, "high": 1.5}},
            "optimizer.momentum: high 1.5 does not fit: ",
        ),
        (
            {"loss.q": {"low": -0.5, "high": 1.0}},
            "loss.q: low -0.5 does not fit: loss: q must be in [0, inf), got -0.5",
        ),
        (
            {"batch_size": {"low": 0, "high": 64}},
            "batch_size: low 0 does not fit: batch_size: expected a value greater than or equal to "
            "1, got 0",
        ),
        (
            {"batch_size": {"low": 32.5, "high": 64}},
            "batch_size: low 32.5 does not fit: batch_size: expected a whole number, got 32.5",
        ),
        (
            {"loss.p": {"low": 0.1, "high": 1.0}},
            "loss.p: low 0.1 does not fit: loss: unknown parameter of 'gce' 'p'",
        ),
        (
            {"loss.name": ["gce", "gec"]},
            "loss.name: choice 2 'gec' does not fit: unknown loss 'gec': did you mean 'gce'?",
        ),
        (
            {"optimizer.nesterov": {"low": 0, "high": 1}},
            "optimizer.nesterov: low 0 does not fit: optimizer.nesterov: expected a boolean",
        ),
        (
            {"loss.name": ["gce", "ce"], "loss.q": {"low": 0.1, "high": 0.9}},
            "loss.q: low 0.1 with loss.name ce does not fit: loss: unknown parameter of 'ce' 'q'",
        ),
        (
            {"epochs.of": {"low": 1, "high": 2}},
            "epochs.of: low 1 does not fit: epochs.of: expected",
        ),
    ],
)
def test_every_end_and_choice_must_fit_its_parameter(tables, message):
    with pytest.raises(ConfigError) as refused:
        fit(tables)
    assert str(refused.value).startswith(f"space: {message}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="none.toml: cannot be read"):
        space.read(tmp_path / "none.toml")


def test_choices_are_kept_as_numbers_or_text_and_come_back():
    values = [{"name": "gce", "q": 0.5}, "ce", {"name": "dal"}]
    choices = space.Choices("loss", values)
    stored = [choices.encode(value) for value in values]
    assert all(isinstance(each, str) for each in stored)
    assert [choices.decode(each) for each in stored] == values
    assert space.Choices("batch_size", [32, 64]).encode(64) == 64


def test_the_runs_own_values_come_first_and_then_the_papers():
    fitted = fit({"loss.q": {"low": 0.1, "high": 1.0}, "optimizer.lr": [0.01, 0.1]}, loss="gce")
    own = plan(parse(BASE)).config.optimizer.parameters["lr"]
    assert own == 0.01
    points = first_values(base(loss={"name": "gce", "q": 0.4}), fitted, HYPERPARAMETERS)
    assert points == [
        {"loss.q": 0.4, "optimizer.lr": 0.01},
        {"loss.q": 0.9, "optimizer.lr": 0.01},
        {"loss.q": 0.7, "optimizer.lr": 0.01},
    ]
    # What does not lie in the space is left to be drawn, and what is the same comes once.
    narrow = fit({"loss.q": {"low": 0.6, "high": 0.8}, "batch_size": [32]})
    assert first_values(base(), narrow, HYPERPARAMETERS) == [{"loss.q": 0.7}]
    assert first_values(base(), fit({"batch_size": [32]}), HYPERPARAMETERS) == []


def test_a_choice_of_components_knows_the_runs_own():
    fitted = fit({"loss": ["ce", {"name": "gce", "q": 0.7}, {"name": "gce", "q": 0.5}]})
    points = first_values(base(), fitted, HYPERPARAMETERS)
    assert points == [{"loss": {"name": "gce", "q": 0.7}}]
    assert plan(space.apply(base(), points[0])).run_id == plan(base()).run_id


def test_naming_another_component_starts_from_its_defaults():
    made = space.apply(base(), {"loss.name": "dal", "loss.q_start": 0.5})
    assert made.loss.table() == {"name": "dal", "q_start": 0.5}
