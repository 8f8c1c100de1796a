import subprocess
import sys
from pathlib import Path
from typing import TypedDict, Unpack

import pytest

from noisylabels.data.datasets import Folder
from noisylabels.errors import ConfigError
from noisylabels.losses import LOSSES
from noisylabels.run.config import Component, bind, find, load, override, parse
from noisylabels.run.plan import plan
from noisylabels.schedules import Hyperparameter

RUN = """
epochs = 150
data = { name = "digits" }
loss = { name = "dal", q_start = 0.6, q_end = 1.5 }
augment = "none"
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    return path


def test_defaults_are_the_papers(file):
    run = load(file)
    assert (run.epochs, run.batch_size, run.seed, run.precision) == (150, 128, 0, "auto")
    assert run.noise == Component("none")
    assert run.method == Component("single")
    assert parse({"data": "digits"}).loss == Component("dal")


def test_overrides_are_typed_and_win(file):
    run = load(file, ["--epochs", "10", "--loss.q_start=0.8", "--precision", "32", "--seed=3"])
    assert (run.epochs, run.precision, run.seed) == (10, "32", 3)
    assert run.loss == Component("dal", {"q_start": 0.8, "q_end": 1.5})


def test_hyphens_in_keys_are_underscores(file):
    run = load(file, ["--batch-size", "32", "--loss.q-end=1.2", "--features", "timm-of-mine:make"])
    assert run.batch_size == 32
    assert run.loss.parameters["q_end"] == 1.2
    assert run.features.name == "timm-of-mine:make"
    with pytest.raises(ConfigError, match="--batch-size is given twice"):
        load(file, ["--batch_size", "32", "--batch-size", "64"])


def test_another_component_starts_from_its_own_defaults(file):
    gce = Component("gce", {"q": 0.7})
    assert load(file, ["--loss.name", "gce", "--loss.q", "0.7"]).loss == gce
    assert load(file, ["--loss", "gce", "--loss.q", "0.7"]).loss == gce
    assert load(file, ["--loss", "ce"]).loss == Component("ce")


def test_override_reaches_into_a_bare_name_and_a_default(file):
    run = load(file, ["--augment.name", "crop-flip", "--augment.padding", "2", "--noise.rate", "0"])
    assert run.augment == Component("crop-flip", {"padding": 2})
    assert run.noise == Component("none", {"rate": 0})


def test_a_name_may_come_after_its_parameters(file):
    assert load(file, ["--loss.q", "0.7", "--loss", "gce"]).loss == Component("gce", {"q": 0.7})


def test_a_word_is_what_its_place_takes(file, tmp_path):
    def place(*, title: str = "", count: int = 0, sizes: tuple[int, ...] = ()): ...

    words = ["--data.title", "2024", "--data.count", "2024", "--data.sizes", "3"]
    bound = bind(load(file, words).data, place, "data")
    assert bound == {"title": "2024", "count": 2024, "sizes": (3,)}
    assert load(file, ["--trackers", "mlflow"]).trackers == ("mlflow",)
    assert load(file, ["--trackers", '["wandb", "mlflow"]']).trackers == ("wandb", "mlflow")
    root = load(file, ["--data.root", "2024"]).data
    assert bind(root, lambda *, root: None, "data") == {"root": 2024}

    def folder(*, root: Path): ...

    for text in ("2024", "1_000", "true", "1.50", "2024-01-01"):
        component = load(file, [f"--data.root={text}"]).data
        assert bind(component, folder, "data") == {"root": Path(text)}
    with pytest.raises(ConfigError, match=r"trackers.*: expected 'wandb' or 'mlflow'"):
        load(file, ["--trackers", "wanb"])
    with pytest.raises(ConfigError, match=r'; several are written \["mlflow", "wandb"\]'):
        load(file, ["--trackers", "mlflow,wandb"])
    with pytest.raises(ConfigError, match="data.root: expected a path, got ''"):
        bind(Component("folder", {"root": ""}), Folder, "data")
    with pytest.raises(ConfigError, match="got 'epochs=3': did you mean --epochs=3"):
        load(file, ["epochs=3"])


def test_a_parameter_of_a_schedule_can_be_changed(tmp_path):
    path = tmp_path / "run.toml"
    table = '{ name = "gce", q = { schedule = "linear", start = 0.6, end = 1.5 } }'
    path.write_text(f'data = "digits"\nloss = {table}\n')
    q = {"schedule": "linear", "start": 0.6, "end": 1.2}
    assert load(path, ["--loss.q.end", "1.2"]).loss == Component("gce", {"q": q})
    constant = {"schedule": "constant"}
    assert load(path, ["--loss.q.schedule", "constant"]).loss == Component("gce", {"q": constant})


def test_a_schedule_is_a_table_on_the_command_line_too(file):
    q = {"schedule": "linear", "start": 0.6, "end": 1.5}
    text = '{schedule = "linear", start = 0.6, end = 1.5}'
    loss = load(file, ["--loss.name", "gce", "--loss.q", text]).loss
    assert bind(loss, LOSSES["gce"], "loss") == {"q": {**q, "begin": 0.0}}


@pytest.mark.parametrize(
    "words",
    [
        ["--loss", "ce", "--loss", "gce"],
        ["--loss.name", "ce", "--loss", "gce"],
        ["--seed=1", "--seed", "2"],
        ["--loss.q_start", "0.1", "--loss.q_start", "0.2"],
    ],
)
def test_what_is_given_twice_is_refused(file, words):
    with pytest.raises(ConfigError, match=r"is given twice, as .* a run has one value of it"):
        load(file, words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "0,1,2"], "seed: expected a whole number, got '0,1,2'"),
        (["--loss", "ce,gce"], "loss: expected one name, got 'ce,gce'"),
        (["--loss.name", "gce", "--loss.q", "0.7,0.8"], "loss.q: expected a number, got '0.7,0.8'"),
        (["--loss", "ce", "--loss", "gce"], "is given twice"),
    ],
)
def test_several_values_name_the_command_that_makes_several_runs(file, words, said):
    with pytest.raises(ConfigError, match=rf"{said}.*; several runs are made by noisylabels sweep"):
        plan(load(file, words))


def test_tables_round_trip(file):
    run = load(file)
    assert parse(run.tables()) == run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epoch", "10"], r"unknown key 'epoch': did you mean 'epochs'\?"),
        (["--epochs", "ten"], "epochs: expected a whole number, got 'ten'"),
        (["--epochs", "0"], "epochs: expected a value greater than or equal to 1, got 0"),
        (["--epochs", "1.5"], "epochs: expected a whole number, got 1.5"),
        (
            ["--seed", "-1"],
            "seed: expected a value greater than or equal to 0, got -1",
        ),
        (["--precision", "fp8"], "precision: expected 'auto', '32' or 'bf16', got 'fp8'"),
        (["--loss", "3"], r"loss: expected a table with a name, such as .*, got 3"),
        (["--epochs"], "--epochs needs a value"),
        (["epochs", "3"], "expected an override such as --epochs 10, got 'epochs'"),
    ],
)
def test_bad_settings_are_named(file, words, message):
    with pytest.raises(ConfigError, match=message) as error:
        load(file, words)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ]", "not valid TOML: .*line 1"),
        ("epochs = 10", "no data given"),
        ('data = "digits"\nepochs = "10"', "epochs: expected a whole number, got '10'"),
        ('data = "digits"\nepochs = true', "epochs: expected a whole number, got True"),
        ('data = "digits"\nseed = 2024-01-01', "seed: expected a whole number, got"),
        ("data = {root = 1}", "data: expected a table with a name"),
        ("epochs = " + 5000 * "9", "not valid TOML"),
        ("epochs = " + 3000 * "[", "not valid TOML"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(path)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.toml: cannot be read"):
        load(tmp_path / "no.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(tmp_path / "binary.toml")


def component(image, *, q: float = 0.7, path: Path | None = None, sizes: tuple[int, ...] = ()):
    """Stand for any component."""


def test_bind_fills_in_defaults_and_types():
    parameters = {"q": 1, "path": "~/a", "sizes": [3, 4]}
    bound = bind(Component("c", parameters), component, "part")
    assert bound == {"q": 1.0, "path": Path("~/a").expanduser(), "sizes": (3, 4)}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"p": 1}, "part: unknown parameter of 'c' 'p'"),
        ({"q": "0.7"}, "part.q: expected a number, got '0.7'"),
        ({"q": True}, "part.q: expected a number, got True"),
        ({"sizes": [1.5]}, "part.sizes: expected a whole number"),
        ({"image": 1}, "part: 'image' of 'c' is the runner's to give"),
    ],
)
def test_bind_refuses(parameters, message):
    with pytest.raises(ConfigError, match=message):
        bind(Component("c", parameters), component, "part")


def test_bind_asks_for_what_is_missing():
    def needs(labels, *, rate: float, seed: int = 0): ...

    with pytest.raises(ConfigError, match="noise: 'needs' needs rate"):
        bind(Component("needs"), needs, "noise", reserved=["seed"])
    with pytest.raises(ConfigError, match="unknown parameter of 'needs' 'seed'"):
        bind(Component("needs", {"rate": 0.1, "seed": 1}), needs, "noise", reserved=["seed"])


class Options(TypedDict, total=False):
    share: float


def scheduled(weight=None, *, q: Hyperparameter = 0.7, **options: Unpack[Options]):
    """Stand for a loss."""


def test_bind_takes_options_and_schedules():
    assert bind(Component("c"), scheduled, "loss") == {"q": 0.7}
    table = {"schedule": "linear", "start": 0.6, "end": 1}
    bound = bind(Component("c", {"share": 1, "q": table}), scheduled, "loss")
    assert bound == {"share": 1.0, "q": table | {"begin": 0.0}}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"shares": 1}, "loss: unknown parameter of 'c' 'shares': did you mean 'share'"),
        ({"share": "1"}, "loss.share: expected a number, got '1'"),
        ({"q": "0.7"}, "loss.q: expected a number, got '0.7'"),
        ({"q": True}, "loss.q: expected a number, got True"),
        ({"q": {"end": 1}}, "loss.q: expected a number or a table such as .*, got {'end': 1}"),
        ({"q": {"schedule": "liner"}}, "loss.q: unknown schedule 'liner': did you mean 'linear'"),
        ({"q": {"schedule": "linear", "ends": 1}}, "loss.q: unknown parameter of 'linear' 'ends'"),
        ({"q": {"schedule": "linear", "end": "1"}}, "loss.q.end: expected a number, got '1'"),
        ({"q": {"schedule": "linear", "end": True}}, "loss.q.end: expected a number, got True"),
    ],
)
def test_bind_refuses_options_and_schedules(parameters, message):
    with pytest.raises(ConfigError, match=message):
        bind(Component("c", parameters), scheduled, "loss")


def test_find_knows_the_users_own(tmp_path, monkeypatch):
    assert find("ce", {"ce": 1}, "loss") == 1
    assert find("math:sqrt", {}, "loss") is __import__("math").sqrt
    for name in ("math:sqroot", "no_such_module:x", ":x"):
        with pytest.raises(ConfigError, match=f"loss '{name}' cannot be imported"):
            find(name, {}, "loss")
    (tmp_path / "mine.py").write_text("thing = 5")
    code = "from noisylabels.run.config import find; print(find('mine:thing', {}, 'loss'))"
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout == "5\n"


def test_tables_hold_plain_values_also_where_a_command_line_gave_them():
    words = ["--loss.name", "gce", "--loss.q", "0.5", "--loss.label_smoothing=0.1", "--epochs", "3"]
    tables = parse(override({"data": "digits"}, words)).tables()
    assert tables["loss"] == {"name": "gce", "q": 0.5, "label_smoothing": 0.1}
    assert parse(tables).tables() == tables
    moving = ["--loss.q_start.schedule", "linear", "--loss.q_start.end", "1.0"]
    table = parse(override({"data": "digits"}, moving)).tables()["loss"]
    assert table["q_start"] == {"schedule": "linear", "end": 1.0}


def test_a_fold_is_held_out_by_its_number(file):
    assert load(file, ["--validation", "2/5"]).validation == "2/5"
    assert load(file, ["--validation", "0.1"]).validation == 0.1


@pytest.mark.parametrize("value", ["0/5", "6/5", "1/1", "1/", "a/b", "1/5/2", 0.6])
def test_what_is_no_share_and_no_fold_is_refused(file, value):
    wanted = "a share, or a part such as '1/5', got" if isinstance(value, str) else ""
    with pytest.raises(ConfigError, match=rf"validation: expected {wanted}"):
        load(file, [f"--validation={value}"])
