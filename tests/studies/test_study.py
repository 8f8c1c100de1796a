import re

import pytest

from noisylabels.errors import ConfigError
from noisylabels.run.config import Component, parse
from noisylabels.studies import study
from noisylabels.studies.study import grid

BASE = {"data": "digits", "noise": {"name": "symmetric", "rate": 0.4}}
ISSUE = """
base = "run.toml"
[axes]
seed = [0, 1, 2]
"noise.rate" = [0.2, 0.4, 0.6]
loss = [ { name = "ce" }, { name = "gce", q = 0.7 }, { name = "dal" } ]
[[axes.setting]]
"noise.name" = "asymmetric"
"noise.rate" = 0.4
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "run.toml").write_text(
        'data = "digits"\nnoise = {name = "symmetric", rate = 0.5}\nepochs = 3\n'
    )

    def file(text):
        path = tmp_path / "study.toml"
        path.write_text(text)
        return path

    return file


def test_axes_that_set_the_same_key_stand_side_by_side(write):
    found = study.read(write(ISSUE))
    assert found.notes == [
        "noise.rate and setting both set noise.rate: a run has a point of one of them"
    ]
    noises = [("symmetric", 0.2), ("symmetric", 0.4), ("symmetric", 0.6), ("asymmetric", 0.4)]
    expected = [
        (seed, noise, loss)
        for seed in range(3)
        for noise in noises
        for loss in ("ce", "gce", "dal")
    ]
    runs = [point.run for point in found.points]
    assert expected == [
        (run.seed, (run.noise.name, run.noise.parameters["rate"]), run.loss.name) for run in runs
    ]
    assert {run.epochs for run in runs} == {3}
    assert found.points[1].title == "seed 0, noise.rate 0.2, loss gce (q 0.7)"


def test_a_component_sets_its_parameters_however_it_is_written(write):
    """Keys without quotes, as TOML users write them, are the same study."""
    quoted = """
    "noise.rate" = [0.2, 0.6]
    [[axes.setting]]
    "noise.name" = "symmetric"
    "noise.rate" = 0.8
    [[axes.setting]]
    "noise.name" = "asymmetric"
    "noise.rate" = 0.4
    """
    wanted = [("symmetric", 0.2), ("symmetric", 0.6), ("symmetric", 0.8), ("asymmetric", 0.4)]
    for text in (
        quoted,
        quoted.replace('"noise.name"', "noise.name")
        .replace('"noise.', "noise.")
        .replace('rate"', "rate"),
    ):
        found = study.read(write(f'base = "run.toml"\n[axes]\n{text}'))
        noises = [point.run.noise for point in found.points]
        assert [(noise.name, noise.parameters["rate"]) for noise in noises] == wanted
        assert [note.rpartition(": ")[2] for note in found.notes] == [
            "a run has a point of one of them"
        ]
    both = grid(BASE, loss=["ce", {"name": "gce", "q": 0.7}], **{"loss.q": [0.1]}, epochs=[1])
    assert len(both) == 3


def test_the_same_in_python(write):
    both = [{"noise.name": "asymmetric", "noise.rate": 0.4}]
    losses = ["ce", Component("gce", {"q": 0.7}), {"name": "dal"}]
    rates = {"noise.rate": (0.2, 0.4, 0.6)}
    runs = grid(parse(BASE | {"epochs": 3}), seed=range(3), **rates, loss=losses, setting=both)
    assert runs == [point.run for point in study.read(write(ISSUE)).points]
    assert grid(write(ISSUE).with_name("run.toml"), seed=[4])[0].seed == 4
    assert grid(BASE) == [parse(BASE)]
    assert grid(BASE, seed=[1, 1]) == [parse(BASE | {"seed": 1})]


def test_a_component_is_replaced_and_a_parameter_is_set():
    base = BASE | {"loss": {"name": "dal", "q_start": 0.2, "q_end": 1.0}}
    whole = grid(base, loss=[{"name": "dal", "q_end": 1.5}])
    assert [run.loss for run in whole] == [Component("dal", {"q_end": 1.5})]
    single = grid(base, **{"loss.q_end": [1.5]})
    assert [run.loss.parameters for run in single] == [{"q_start": 0.2, "q_end": 1.5}]
    renamed = grid(base, **{"loss.q": [0.7], "loss.name": ["gce"]})
    assert [run.loss for run in renamed] == [Component("gce", {"q": 0.7})]
    bare = grid(BASE, **{"optimizer.lr": [0.1]})
    assert bare[0].optimizer.parameters == {"lr": 0.1}
    moving = {"schedule": "linear", "start": 0.6, "end": 1.5}
    nested = grid({**BASE, "loss": {"name": "gce", "q": moving}}, **{"loss.q.end": [1.0]})
    assert nested[0].loss.parameters == {"q": moving | {"end": 1.0}}


def test_dotted_keys_without_quotes_and_named_points(write):
    quoted = '[axes]\n"noise.rate" = [0.2]\n"loss.name" = ["ce", "mae"]'
    bare = "[axes]\nnoise.rate = [0.2]\nloss.name = ['ce', 'mae']"
    runs = [study.read(write(f'base = "run.toml"\n{text}')).points for text in (quoted, bare)]
    assert runs[0] == runs[1]
    points = """
    base = "run.toml"
    [axes.setting.asym]
    noise.name = "asymmetric"
    noise.rate = 0.4
    [axes.setting.none]
    noise = "none"
    """
    found = study.read(write(points)).points
    assert [point.run.noise.name for point in found] == ["asymmetric", "none"]
    assert [point.title for point in found] == ["setting asym", "setting none"]


def test_a_base_in_the_study_itself_and_what_wins_over_it(write):
    path = write('[base]\ndata = "digits"\nepochs = 7\n[axes]\nseed = [3]\n[slurm]\ntime = 5\n')
    found = study.read(path, ["--epochs", "2", "--loss", "gce"])
    (run,) = [point.run for point in found.points]
    assert (run.epochs, run.seed, run.loss.name) == (2, 3, "gce")
    assert found.options == {"slurm": {"time": 5}}


def test_any_iterable_is_an_axis_and_any_base_is_checked():
    runs = grid(BASE, setting=({"seed": seed} for seed in (1, 2)), epochs=iter([3]))
    assert [(run.seed, run.epochs) for run in runs] == [(1, 3), (2, 3)]
    with pytest.raises(ConfigError, match="base: expected a configuration, tables or a file"):
        grid(3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[axes]\nlos = ['ce']", "unknown axis 'los': did you mean 'loss'?"),
        ("[axes]\nlos = [{name = 'ce'}]", "unknown axis 'los': did you mean 'loss'?"),
        ("[[axes.setting]]\nnois.rate = 0.4", "setting.*unknown key 'nois': did you mean 'noise'"),
        ("[axes]\nseed = []", "axis seed: expected at least one value"),
        ("[axes]\nsetting = []", "axis setting: expected at least one point"),
        ("[axes]\nsetting = [{}]", "axis setting: a point sets no key"),
        ("[axes]\nseed = 3", "axis seed: expected a list of values, got 3"),
        ("[axes]\nloss = 'ce'", "axis loss: expected a list of values, got 'ce'"),
        ("[axes]\nloss = {name = 'ce'}", "axis loss: expected a list of values"),
        ("[axes]\nseed = [0, 'one']", "seed one: seed: expected a whole number, got 'one'"),
        ("[axes]\n'epochs.more' = [1]", "epochs.more: expected a table to set more in, got 3"),
        ("axis = 1", "unknown key of a study 'axis': did you mean 'axes'?"),
        ("axes = 1", "axes: expected a table, got 1"),
    ],
)
def test_bad_axes(write, text, said):
    path = write(f'base = "run.toml"\n{text}' if "\naxes" not in text else text)
    with pytest.raises(ConfigError, match=f"{re.escape(str(path))}: .*{said}"):
        study.read(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[axes]\nseed = [0]", r"expected base = \"run.toml\" or a table \[base\] with a run"),
        ("base = 3", "expected base = "),
        ('base = "no.toml"', "no.toml: cannot be read"),
        ("[base]\nepochs = 3", "no data given"),
        ("base = ", "not valid TOML"),
    ],
)
def test_bad_files(write, text, said):
    with pytest.raises(ConfigError, match=said):
        study.read(write(text))
    with pytest.raises(ConfigError, match=r"none.toml: cannot be read"):
        study.read(write(text).with_name("none.toml"))
