import csv
import html
import io
import itertools
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

import noisylabels
from browser import browse
from folders import alter
from noisylabels.__main__ import main
from noisylabels.errors import ConfigError, DataError
from noisylabels.run.config import parse
from noisylabels.run.trainer import train
from noisylabels.studies import formats, records, table

BASE = {"data": "digits", "model": {"name": "mlp", "hidden": [8]}, "epochs": 1}
CE, DAL = {"name": "ce"}, {"name": "dal", "q_start": 0.6, "q_end": 1.5, "lambda_end": 1.0}
GCE = {"name": "gce", "q": 0.7}
FORMATS = list(formats.FORMATS)


def symmetric(rate):
    return {"name": "symmetric", "rate": rate}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A real run, which others are made of."""
    run = BASE | {"loss": "ce", "noise": symmetric(0.4)}
    return train(parse(run), tmp_path_factory.mktemp("one"))


@pytest.fixture
def make(one, tmp_path):
    """Make a run with some settings and results, as if it had been trained."""
    number = itertools.count()

    def made(accuracy=0.5, *, loss=CE, seed=0, result=None, **settings):
        result = {"test_accuracy": accuracy} | (result or {})
        settings |= {"loss": loss, "seed": seed}
        name = f"{next(number):012x}"
        return alter(one, tmp_path / "runs" / name, result=result, **settings)

    return made


@pytest.fixture
def pivot(tmp_path):
    def made(rows="loss", columns="noise", value="test_accuracy", **options):
        runs = records.read([tmp_path / "runs"])
        return table.pivot(runs, table.keys(rows), table.keys(columns), value, **options)

    return made


def by_title(made, what=lambda cell: cell):
    """Return the cells by the titles of row and column."""
    return {
        (made.rows[row].title, made.columns[column].title): what(cell)
        for (row, column), cell in made.cells.items()
    }


def notes(made):
    return "\n".join(made.grids()[0].notes())


def test_cells_are_what_pandas_computes(tmp_path):
    for loss, rate, seed in itertools.product(("ce", GCE), (0.2, 0.4), (0, 1)):
        run = BASE | {"loss": loss, "noise": symmetric(rate), "seed": seed}
        train(parse(run), tmp_path)
    runs = records.read([tmp_path])
    made = table.pivot(runs, ["loss"], ["noise", "noise.rate"], "test_accuracy")
    wanted = noisylabels.runs(tmp_path).groupby(["loss", "noise", "noise.rate"])["test_accuracy"]
    wanted = wanted.agg(["mean", "std", "count"])
    assert len(made.cells) == len(wanted) == 4
    for (row, column), cell in made.cells.items():
        loss, (noise, rate) = made.rows[row].texts[0], made.columns[column].texts
        mean, std, count = wanted.loc[(loss, noise, float(rate))]
        assert (cell.mean, cell.std, len(cell.values)) == pytest.approx((mean, std, count))
    assert made.heading == "test_accuracy, %: mean ± standard deviation over 2 seeds"
    shown = {
        (row[0], n): cell
        for row, cells in made.grids()[0].rows
        for n, (cell, _) in enumerate(cells)
    }
    mean, std, _ = wanted.loc[("gce", "symmetric", 0.4)]
    assert shown["gce", 1] == f"{100 * mean:.1f} ± {100 * std:.1f}"
    frame = noisylabels.runs(tmp_path)
    for rate in (0.2, 0.4):
        actual = (
            100 * frame[frame["noise.rate"] == rate].drop_duplicates("seed")["actual_noise_rate"]
        )
        said = f"{actual.mean():.1f} ± {actual.std():.1f} % (nominal {100 * rate:g} %)"
        assert f"symmetric, noise.rate {rate}: {said}" in notes(made)


def test_components_are_told_apart_by_what_differs(make, pivot):
    make(loss=CE)
    make(loss=DAL)
    make(loss=GCE)
    make(loss={"name": "gce", "q": 0.9})
    make(loss={"name": "gce", "q": 10})
    schedule = {"schedule": "linear", "start": 0.6, "end": 1.5}
    make(loss={"name": "gce", "q": schedule})
    made = pivot()
    assert [row.title for row in made.rows] == [
        "ce",
        "gce (q 0.7)",
        "gce (q 0.9)",
        "gce (q 10)",
        "gce (q linear (start 0.6, end 1.5))",
        "dal",
    ]
    assert [column.title for column in made.columns] == ["symmetric"]
    assert "loss dal (q_start 0.6, q_end 1.5, lambda_end 1)" in made.remarks
    assert "noise symmetric (rate 0.4);" in made.remarks[0]
    assert "noise symmetric (rate 0.4)" not in made.remarks
    assert not any(remark.startswith("loss gce") for remark in made.remarks)


def test_a_parameter_with_a_key_of_its_own_is_not_in_its_components(make, pivot):
    for rate in (0.4, 0.1, 0.25):
        make(noise=symmetric(rate))
    make(noise={"name": "pairflip", "rate": 0.1})
    assert [c.title for c in pivot().columns] == [
        "symmetric (rate 0.1)",
        "symmetric (rate 0.25)",
        "symmetric (rate 0.4)",
        "pairflip",
    ]
    made = pivot(columns="noise,noise.rate")
    assert [column.texts for column in made.columns] == [
        ("symmetric", "0.1"),
        ("symmetric", "0.25"),
        ("symmetric", "0.4"),
        ("pairflip", "0.1"),
    ]
    assert made.grids()[0].heads() == [
        [("symmetric", 3), ("pairflip", 1)],
        [(f"noise.rate {rate}", 1) for rate in (0.1, 0.25, 0.4, 0.1)],
    ]
    nested = pivot(rows="noise.rate,noise", columns="")
    assert [row.texts for row in nested.rows] == [
        ("0.1", "symmetric"),
        ("0.1", "pairflip"),
        ("0.25", "symmetric"),
        ("0.4", "symmetric"),
    ]
    assert nested.grids()[0].columns == [("test_accuracy",)]


def test_what_a_component_has_not_is_a_dash(make, pivot):
    make(loss=CE)
    make(loss=GCE)
    assert [row.texts for row in pivot(rows="loss,loss.q").rows] == [("ce", "–"), ("gce", "0.7")]


def test_a_components_name_is_a_key(make, pivot):
    half = {"name": "gce", "q": 0.5}
    for loss, rate in itertools.product((DAL, GCE, CE), (0.4, 0.2)):
        make(loss=loss, noise=symmetric(rate))
    made = pivot(rows="loss.name,method.name", columns="noise.name,noise.rate", against="ce")
    # In the order of the lists, as the components themselves are.
    assert [row.title for row in made.rows] == ["ce, single", "gce, single", "dal, single"]
    assert [c.texts for c in made.columns] == [("symmetric", "0.2"), ("symmetric", "0.4")]
    assert made.grids()[0].corner == ("loss.name", "method.name")
    assert made.against == 0
    assert "loss gce (q 0.7)" in notes(made)
    assert "noise" not in notes(made).replace("noise.rate", "").partition("all runs")[0]
    assert pivot(rows="loss.name", columns="noise", against="loss.name=gce").against == 1
    make(loss=half, noise=symmetric(0.2))
    with pytest.raises(DataError, match=r"differ in more than the seed, in loss.q \(0.5, 0.7\)"):
        pivot(rows="loss.name", columns="noise.rate")
    both = pivot(rows="loss.name,loss.q", columns="noise.rate", against="loss.q=0.5")
    assert [row.texts for row in both.rows] == [
        ("ce", "–"),
        ("gce", "0.5"),
        ("gce", "0.7"),
        ("dal", "–"),
    ]
    assert both.against == 1
    assert "loss dal (q_start 0.6, q_end 1.5, lambda_end 1)" in notes(both)
    assert "loss gce" not in notes(both)


def test_label_files_are_told_apart_by_what_they_hold(tmp_path):
    for seed in (0, 1):
        np.save(tmp_path / f"{seed}.npy", np.random.default_rng(seed).integers(10, size=1437))
        noise = {"name": "file", "path": str(tmp_path / f"{seed}.npy")}
        train(parse(BASE | {"loss": "ce", "noise": noise}), tmp_path / "runs")
    runs = records.read([tmp_path / "runs"])
    made = table.pivot(runs, ["loss"], ["noise"], "test_accuracy")
    titles = [column.title for column in made.columns]
    assert len(titles) == 2
    assert all(re.fullmatch(r"file \(contents of noise.path [0-9a-f]{8}\)", t) for t in titles)
    assert sum(f"{tmp_path}/{seed}.npy" in notes(made) for seed in (0, 1)) == 2
    paths = table.pivot(runs, ["noise.path"], ["noise"], "test_accuracy")
    assert [row.texts for row in paths.rows] == [(f"{tmp_path}/{seed}.npy",) for seed in (0, 1)]
    assert [column.title for column in paths.columns] == ["file"]
    with pytest.raises(DataError, match=r"in contents of noise\.path \("):
        table.pivot(runs, ["loss"], [], "test_accuracy")


def test_best_are_those_within_the_standard_error_of_the_best(make, pivot):
    accuracies = {
        "best": (CE, [0.90, 0.94, 0.95]),
        "near": (GCE, [0.92, 0.92, 0.92]),
        "far": (DAL, [0.90, 0.91, 0.92]),
    }
    for loss, values in accuracies.values():
        for seed, value in enumerate(values):
            make(value, loss=loss, seed=seed)
    means = {name: np.mean(values) for name, (_, values) in accuracies.items()}
    error = np.std(accuracies["best"][1], ddof=1) / math.sqrt(3)
    assert means["best"] - error < means["near"]
    assert means["best"] - error > means["far"]
    best = by_title(pivot(), lambda cell: cell.best)
    assert best == {
        ("ce", "symmetric"): True,
        ("gce", "symmetric"): True,
        ("dal", "symmetric"): False,
    }
    assert "bold: the highest mean of a column" in notes(pivot())
    low = by_title(pivot(best="low"), lambda cell: cell.best)
    assert list(low.values()) == [False, False, True]
    none = pivot(best="none")
    assert not any(cell.best for cell in none.cells.values())
    assert "mean of a column" not in notes(none)


def test_one_seed_has_one_best_and_one_row_has_none(make, pivot):
    make(0.9, loss=CE)
    assert [cell.best for cell in pivot().cells.values()] == [False]
    make(0.9001, loss=GCE)
    made = pivot()
    assert [cell.best for cell in made.cells.values()] == [False, True]
    assert made.heading == "test_accuracy, %: one seed each"
    assert made.grids()[0].rows[0][1] == [("90.0", False)]


@pytest.mark.parametrize(
    ("value", "direction"),
    [
        ("test_accuracy", "high"),
        ("test_accuracy_ensemble", "high"),
        ("train_accuracy_wrong", "low"),
        ("seconds", "low"),
        ("images_per_second", "high"),
        ("peak_memory_bytes", "low"),
        ("skipped_steps", "low"),
        ("actual_noise_rate", "none"),
        ("threads", "none"),
    ],
)
def test_what_is_better_follows_the_name(make, pivot, value, direction):
    result = {"test_accuracy_ensemble": 0.5}
    make(loss=CE, result=result)
    make(loss=GCE, result=result)
    assert pivot(value=value).direction == direction


def test_differences_are_paired_by_seed(make, pivot):
    ours = {0: 0.81, 1: 0.85, 2: 0.80, 5: 0.99}
    theirs = {0: 0.80, 1: 0.82, 2: 0.79, 3: 0.10}
    for loss, values in ((GCE, ours), (DAL, theirs)):
        for seed, value in values.items():
            make(value, loss=loss, seed=seed)
    make(0.7, loss=CE, seed=1)
    make(0.7, loss={"name": "mae"}, seed=9)
    made = pivot(against="dal")
    found = {row: cell.difference for (row, _), cell in by_title(made).items()}
    gaps = np.array([ours[seed] - theirs[seed] for seed in (0, 1, 2)])
    t = gaps.mean() / (gaps.std(ddof=1) / math.sqrt(3))
    gce = found["gce"]
    assert gce.seeds == 3
    assert (gce.mean, gce.std) == pytest.approx((gaps.mean(), gaps.std(ddof=1)))
    assert gce.p == pytest.approx(2 * stats.t.sf(abs(t), 2))
    assert found["ce"] == table.Difference(1, pytest.approx(0.7 - 0.82))
    assert found["mae"] is None
    assert found["dal"] is None
    grid = made.grids()[1]
    assert grid.heading == "test_accuracy, difference to dal, percentage points"
    assert {texts[0]: cells[0][0] for texts, cells in grid.rows} == {
        "ce": "-12.0, p –",
        "mae": "–",
        "gce": f"+1.7 ± 1.2, p {gce.p:.3f}",
    }


def test_differences_without_variance_are_the_same_or_not(make, pivot):
    for seed, value in enumerate((0.8, 0.7, 0.6)):
        make(value, loss=CE, seed=seed)
        make(value, loss=GCE, seed=seed)
        # 0.1 more, but for what binary fractions round.
        make(value + 0.1, loss=DAL, seed=seed)
    made = pivot(against="ce")
    found = {row: cell.difference for (row, _), cell in by_title(made).items()}
    assert found["gce"] == table.Difference(3, 0.0, 0.0, 1.0)
    assert found["dal"] == table.Difference(3, pytest.approx(0.1), 0.0, None)
    rows = {texts[0]: cells[0][0] for texts, cells in made.grids()[1].rows}
    assert rows == {"gce": "0.0 ± 0.0, p 1.000", "dal": "+10.0 ± 0.0, p –"}


def test_the_row_to_compare_with_is_called_by_title_or_by_name(make, pivot):
    make(loss=GCE)
    make(loss={"name": "gce", "q": 0.9})
    make(loss=CE)
    assert pivot(against="gce (q 0.9)").against == 2
    assert pivot(against="ce").against == 0
    assert pivot(rows="loss.q,loss", against="0.7").against == 1
    with pytest.raises(ConfigError, match=r"--against gce: expected one row, such as 'gce \(q 0.7"):
        pivot(against="gce")
    with pytest.raises(ConfigError, match=r"unknown row of --against 'gec': did you mean 'gce'"):
        pivot(against="gec")
    assert pivot(rows="loss.q,loss", against="loss.q=0.7").against == 1
    with pytest.raises(ConfigError, match=r"unknown row of --against 'loss=gec'"):
        pivot(against="loss=gec")


def test_seeds_that_are_missing_are_said(make, pivot):
    for seed in (0, 1, 2):
        make(0.5 + 0.1 * seed, loss=CE, seed=seed)
    make(loss=GCE, seed=1)
    made = pivot()
    assert made.heading.endswith("over up to 3 seeds")
    assert "seeds: gce × symmetric lacks 0, 2" in made.remarks
    assert made.grids()[0].rows[1][1] == [("50.0 (n 1)", False)]
    assert not any(remark.startswith("seeds") for remark in pivot(columns="seed").remarks)


def test_what_shares_a_cell_differs_in_the_seed_alone(make, pivot):
    for epochs, lr in ((1, 0.1), (2, 0.02), (10, 0.1)):
        make(epochs=epochs, optimizer={"name": "sgd", "lr": lr})
    message = (
        r"ce × symmetric: runs of one cell differ in more than the seed, in "
        r"optimizer.lr \(0.02, 0.1\); epochs \(1, 2, 10\): add what tells them apart to --rows or "
        r"--columns, or choose, such as with --where 'optimizer.lr=0.1'"
    )
    with pytest.raises(DataError, match=message):
        pivot()
    made = pivot(rows="epochs")
    # Each cell has one rate, but they are not comparable without a word.
    assert "optimizer.lr differs between cells: 0.02, 0.1" in made.remarks
    assert [row.texts for row in made.rows] == [("1",), ("2",), ("10",)]
    assert "all runs: loss ce; data digits; noise symmetric (rate 0.4);" in made.remarks[0]
    assert "epochs" not in made.remarks[0]


def test_precision_as_it_was_computed_is_no_seed(make, pivot):
    make(loss=CE)
    make(loss=CE, seed=1, result={"precision": "bf16"})
    with pytest.raises(DataError, match=r"in precision \(bfloat16, float32\)"):
        pivot()
    made = pivot(rows="precision")
    assert [row.title for row in made.rows] == ["precision bfloat16", "precision float32"]


def test_numbers_that_are_missing_or_not_finite(make, pivot):
    make(loss=CE, seed=0, result={"auc": 0.5})
    bad = make(loss=CE, seed=1, result={"auc": float("nan")})
    make(loss=CE, seed=2, result={"auc": None})
    make(loss=GCE, seed=0)
    made = pivot(value="auc")
    assert by_title(made, lambda cell: dict(cell.values)) == {("ce", "symmetric"): {0: 0.5}}
    assert made.grids()[0].rows[1][1] == [("–", False)]
    assert f"not finite, and left out: {bad.name}" in made.remarks
    with pytest.raises(DataError, match="test_labels: expected a number in some run's result.json"):
        pivot(value="test_labels")
    shutil.rmtree(bad.parent)
    make(loss=CE, result={"auc": float("inf")})
    with pytest.raises(DataError, match="auc: expected a finite number in some run, got none"):
        pivot(value="auc")


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([75.31, 70.0], ["75.3", "70.0"]),
        ([1234567.8, 3.2], ["1,234,568", "3"]),
        ([0.01234, 0.1], ["0.012", "0.100"]),
        ([0, 0], ["0", "0"]),
    ],
)
def test_what_is_no_fraction_has_three_digits(make, pivot, values, shown):
    for loss, value in zip((CE, GCE), values, strict=True):
        make(loss=loss, result={"seconds": value})
    grid = pivot(value="seconds").grids()[0]
    assert [cells[0][0] for _, cells in grid.rows] == shown
    assert "%" not in grid.heading


def test_the_word_rate_alone_makes_no_percentage(make, pivot):
    make(result={"generated": 0.5, "rate": 3.0})
    assert not pivot(value="generated").in_percent
    assert not pivot(value="rate").in_percent
    assert pivot(value="actual_noise_rate").in_percent


def test_of_an_attacks_success_less_is_better(make, pivot):
    make(loss=CE, result={"attack_success": 0.9})
    make(loss=GCE, result={"attack_success": 0.1})
    grid = pivot(value="attack_success").grids()[0]
    assert [cells for _, cells in grid.rows] == [[("90.0", False)], [("10.0", True)]]


@pytest.mark.parametrize("all_given", [True, False])
def test_accuracies_against_given_labels_say_so(make, pivot, all_given):
    given = {"test_labels": "given"}
    make(loss=CE, result=given)
    make(loss=GCE, result=given if all_given else {})
    made = pivot()
    assert ("test_accuracy against given labels, %" in made.heading) is all_given
    assert ("against given labels: ce × symmetric" in made.remarks) is not all_given
    assert "against given" not in pivot(value="train_accuracy").heading


def test_estimates_are_told_where_the_noise_is_not_known(make, pivot):
    unknown = {"actual_noise_rate": None, "estimated_noise_rate": 0.2}
    make(loss=CE, result=unknown | {"reachable_test_accuracy": 0.75})
    make(loss=CE, seed=1, result=unknown | {"estimated_noise_rate": 0.3})
    told = " ".join(pivot().remarks)
    assert "labels that are estimated to be wrong: symmetric: 25.0 ± 7.1 %" in told
    assert "a perfect model would have against given test labels about: symmetric: 75.0 %" in told
    assert "really wrong" not in told


def test_runs_are_chosen_by_their_settings(make, tmp_path):
    make(loss=GCE, epochs=1, model={"name": "mlp", "hidden": [16, 8]})
    make(loss={"name": "gce", "q": 0.9}, epochs=2)
    make(loss=CE, epochs=2, compile=True)
    runs = records.read([tmp_path / "runs"])

    def chosen(where):
        return [records.describe(run.settings["loss"]) for run in table.select(runs, where)]

    everything = ["gce (q 0.7)", "gce (q 0.9)", "ce"]
    assert chosen("") == everything
    assert chosen("loss=gce") == chosen("loss.name=gce") == everything[:2]
    assert chosen("loss=gce (q 0.9)") == everything[1:2]
    assert chosen("loss=gce (q 0.7),model=mlp (hidden [16, 8]), epochs=1,") == everything[:1]
    assert chosen("loss=gce, epochs=2") == everything[1:2]
    assert chosen("model.hidden=[16, 8],epochs=1") == everything[:1]
    assert chosen("model.hidden=8") == everything[1:]
    assert chosen("compile=true") == everything[2:]
    assert chosen("precision=float32") == everything
    with pytest.raises(DataError, match=r"epochs=3: no run has it \(there are: 1, 2\)"):
        chosen("epochs=3")
    with pytest.raises(DataError, match=r"epochs=1: no run has it \(there are: 2\)"):
        chosen("loss=ce,epochs=1")
    with pytest.raises(ConfigError, match="--where: expected key=value, got 'epochs'"):
        chosen("epochs")
    with pytest.raises(ConfigError, match="unknown key of --where 'epoch': did you mean 'epochs'"):
        chosen("epoch=3")


def test_bad_keys_are_named(make, pivot):
    make()
    for options, message in [
        ({"rows": "los"}, "unknown key 'los': did you mean 'loss'"),
        ({"columns": "noise.rte"}, "unknown key 'noise.rte': did you mean 'noise.rate'"),
        ({"value": "test_acc"}, "unknown value 'test_acc': did you mean 'test_accuracy'"),
        ({"rows": ""}, "--rows: expected a key such as loss, got none"),
        ({"columns": "loss"}, "loss is given twice"),
        ({"best": "most"}, "--best must be 'auto' or"),
    ]:
        with pytest.raises(ConfigError, match=message):
            pivot(**options)


ODD = r"""my:A_B&50%$#{x}~^\|"<b>*`±"""


@pytest.fixture
def odd(make, pivot):
    make(0.25, loss={"name": ODD})
    make(0.5, loss={"name": "two\nlines"})
    return pivot(against="two\nlines")


def test_names_are_escaped_in_latex(odd):
    shown = formats.latex([odd])
    assert r"my:A\_B\&50\%\$\#\{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in shown
    assert r"\textbar{}\textquotedbl{}\textless{}b\textgreater{}*`$\pm$ & 25.0 \\" in shown
    assert r"two lines & \textbf{50.0} \\" in shown
    assert "$-$25.0" in shown
    outside = [line for line in shown.splitlines() if line and not re.match(r"%|\\|.*\\\\$", line)]
    assert outside == []


def test_names_are_escaped_in_markdown(odd):
    rows = [line for line in formats.markdown([odd]).splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]
    assert {len(row) for row in cells} == {2}
    assert r"my:A\_B&50%$#{x}~^\\\|" in rows[2]
    assert r"\<b\>\*\`±" in rows[2]
    assert rows[3] == "| two lines | **50.0** |"


def test_names_are_escaped_in_html(odd):
    shown = formats.html([odd])
    assert html.escape(ODD).replace("&quot;", "&#34;") in shown
    assert "<b>" not in shown
    assert "<strong>50.0</strong>" in shown
    assert not re.search(r"<script|<link|<img|src=|href=", shown)


def test_names_are_whole_in_csv(odd):
    read = list(csv.DictReader(io.StringIO(formats.csv([odd]))))
    assert [row["loss"] for row in read] == [ODD, "two\nlines"]
    assert read[0]["difference"] == "-0.25"
    assert read[0]["p"] == read[0]["std"] == ""


def test_csv_is_a_line_for_each_cell(make, pivot):
    for rate, seed in itertools.product((0.2, 0.4), (0, 1)):
        make(0.5 + seed / 3, loss=CE, seed=seed, noise=symmetric(rate))
        make(0.1 + rate * (1 + seed), loss=GCE, seed=seed, noise=symmetric(rate))
    options = {"columns": "noise,noise.rate", "against": "ce"}
    made = [pivot(value=value, **options) for value in ("test_accuracy", "seconds")]
    frame = pd.read_csv(io.StringIO(formats.csv(made)))
    assert list(frame.columns) == [
        *("loss", "noise", "noise.rate", "value", "n", "mean", "std", "best"),
        *("difference", "difference_std", "difference_n", "p"),
    ]
    assert len(frame) == 8
    for row in frame[frame["value"] == "test_accuracy"].to_dict("records"):
        ce = np.array([0.5, 0.5 + 1 / 3])
        gce = 0.1 + row["noise.rate"] * np.array([1, 2])
        own = ce if row["loss"] == "ce" else gce
        assert (row["mean"], row["std"], row["n"]) == pytest.approx(
            (own.mean(), own.std(ddof=1), 2)
        )
        if row["loss"] == "gce":
            wanted = ((gce - ce).mean(), stats.ttest_rel(gce, ce).pvalue)
            assert (row["difference"], row["p"]) == pytest.approx(wanted)
        else:
            assert math.isnan(row["p"])
    assert frame["best"].dtype == bool


def test_latex_nests_its_heads(make, pivot):
    for noise in (symmetric(0.2), symmetric(0.4), {"name": "pairflip", "rate": 0.4}):
        make(0.25, noise=noise)
    lines = formats.latex([pivot(columns="noise,noise.rate")]).splitlines()
    assert lines[1:9] == [
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r" & \multicolumn{2}{c}{symmetric} & pairflip \\",
        r"\cmidrule(lr){2-3}",
        r"loss & noise.rate 0.2 & noise.rate 0.4 & noise.rate 0.4 \\",
        r"\midrule",
        r"ce & 25.0 & 25.0 & 25.0 \\",
        r"\bottomrule",
    ]
    assert all(line.startswith("%") for line in (lines[0], *lines[10:]))


def test_plain_text_marks_the_best_and_a_terminal_has_them_bold(make, pivot):
    make(0.25, loss=CE)
    make(0.5, loss=GCE)
    made = [pivot()]
    shown = formats.text(made)
    assert re.search(r"^ ce +25\.0$", shown, re.MULTILINE)
    assert re.search(r"^ gce +50\.0\*$", shown, re.MULTILINE)
    assert "\n*: the highest mean of a column, and what is within its standard error\n" in shown
    console = Console(file=io.StringIO(), force_terminal=True, width=30, legacy_windows=False)
    formats.show(made, console)
    seen = console.file.getvalue()
    assert re.search(r"\x1b\[1m *50\.0\x1b\[0m", seen)
    assert "*" not in seen
    assert "bold: the highest mean" in seen


def test_no_number_is_cut_on_a_narrow_terminal(make, pivot):
    for number in range(12):
        make(0.5, loss=DAL, noise=symmetric((number + 1) / 20))
        make(
            0.5,
            loss={"name": "my_module:a_loss_with_a_long_name"},
            noise=symmetric((number + 1) / 20),
        )
    console = Console(file=io.StringIO(), width=40)
    formats.show([pivot(columns="noise.rate")], console)
    assert console.file.getvalue().count("50.0") == 24


def test_html_has_every_cell(make, pivot):
    for noise in (symmetric(0.2), symmetric(0.4)):
        for loss in (CE, GCE):
            for seed in (0, 1):
                make(0.5 + seed / 4, loss=loss, noise=noise, seed=seed)
    made = pivot(columns="noise,noise.rate", against="ce")
    shown = formats.html([made])
    assert shown.count("<table>") == 2
    assert 'colspan="2">symmetric</th>' in shown
    assert 'data-label="symmetric, noise.rate 0.2"' in shown
    assert shown.count("<strong>62.5\xa0±\xa017.7</strong>") == 4
    for note in made.remarks:
        assert f"<li>{html.escape(note)}</li>" in shown


MEASURE = """
<body>%s<script>
addEventListener("load", () => {
  const seen = [...document.querySelectorAll("iframe")].map(({contentDocument: page}) => {
    const cells = [...page.querySelectorAll("td, th, li")].filter((cell) => cell.offsetParent);
    const edge = page.defaultView.innerWidth;
    return {
      width: edge,
      page: page.documentElement.scrollWidth,
      cut: cells.filter((cell) => cell.scrollWidth > cell.clientWidth + 1 ||
        cell.getBoundingClientRect().right > edge).map((cell) => cell.textContent),
      listed: getComputedStyle(page.querySelector("td"), "::before").content !== "none",
    };
  });
  document.body.textContent = JSON.stringify(seen);
});
</script></body>
"""


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 6])
def test_the_page_fits_windows_of_any_width(make, pivot, tmp_path, columns):
    for number in range(columns):
        for loss in (CE, {"name": "my_module:a_loss_of_ones_own_with_a_long_name" + "q" * 40}):
            for seed in (0, 1):
                noise = symmetric((number + 1) / 10)
                make(0.5 + seed / 4, loss=loss, noise=noise, seed=seed)
    source = html.escape(formats.html([pivot(columns="noise,noise.rate", against="ce")]))
    frames = [
        f'<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{source}"></iframe>'
        for width in (390, 1400)
    ]
    (tmp_path / "frames.html").write_text(MEASURE % "".join(frames), encoding="utf-8")
    shown = browse(tmp_path, "--dump-dom", (tmp_path / "frames.html").as_uri())
    narrow, wide = json.loads(html.unescape(re.search(r"<body>(\[.*\])", shown)[1]))
    for seen in (narrow, wide):
        assert seen["page"] <= seen["width"]
        assert seen["cut"] == []
    assert narrow["listed"] is (columns > 1)
    assert not wide["listed"]


def test_the_page_of_the_documentation_has_every_word():
    page = (Path(__file__).parents[2] / "docs" / "tables.md").read_text(encoding="utf-8")
    words = {*table.LESS_IS_BETTER, *table.FRACTIONS, *formats.FORMATS, *formats.SUFFIXES}
    assert [word for word in words if f"`{word}`" not in page] == []


def unfinished(run, name):
    shutil.copytree(run, run.parent / name)
    (run.parent / name / "result.json").unlink()


def test_the_command_prints_the_table_and_names_what_is_not_finished(
    make, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    first = make(0.25, loss=CE)
    make(0.5, loss=GCE)
    unfinished(first, "half")
    assert main(["table", "--against", "ce"]) == 0
    shown = capsys.readouterr()
    assert re.search(r"^ gce +50\.0\*$", shown.out, re.MULTILINE)
    assert re.search(r"^ gce +\+25\.0, p –$", shown.out, re.MULTILINE)
    assert shown.err == "not finished, not in the table: runs/half\n"
    assert main(["table", "runs", "--where", "loss=gce", "--value", "test_accuracy,seconds"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert [line for line in shown.out.splitlines() if ": one seed" in line] == [
        "test_accuracy, %: one seed each",
        "seconds: one seed each",
    ]
    shutil.rmtree(first)
    for run in (tmp_path / "runs").iterdir():
        (run / "result.json").unlink(missing_ok=True)
    assert main(["table", "runs"]) == 2
    assert capsys.readouterr().err == (
        "noisylabels: expected at least one finished run, got 2 unfinished\n"
    )


@pytest.mark.parametrize("format", FORMATS)
def test_the_files_name_says_the_format(make, tmp_path, monkeypatch, capsys, format):
    monkeypatch.chdir(tmp_path)
    make(0.25, loss=CE)
    suffix = next(suffix for suffix, own in formats.SUFFIXES.items() if own == format)
    assert main(["table", "runs", "--out", f"new/t{suffix}"]) == 0
    assert capsys.readouterr().out == f"new/t{suffix}\n"
    assert main(["table", "runs", "--format", format]) == 0
    assert capsys.readouterr().out == (tmp_path / f"new/t{suffix}").read_text(encoding="utf-8")
    # What is said counts more than what the name would.
    assert main(["table", "runs", "--format", format, "--out", "t.csv"]) == 0
    assert (tmp_path / "t.csv").read_text() == (tmp_path / f"new/t{suffix}").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "los"], "unknown key 'los': did you mean 'loss'?"),
        (["--columns", "noise.rte"], "unknown key 'noise.rte': did you mean 'noise.rate'?"),
        (["--value", "acuracy"], "unknown value 'acuracy': did you mean 'test_accuracy'?"),
        (["--value", ","], "--value: expected a key such as test_accuracy, got none"),
        (["--where", "loss=dal"], "--where loss=dal: no run has it (there are: ce)"),
        (["--against", "cee"], "unknown row of --against 'cee': did you mean 'ce'?"),
        (["--best", "hihg"], "--best must be 'auto' or 'high' or 'low' or 'none', got 'hihg'"),
        (["--format", "pdf"], "--format must be 'text' or"),
        (["--out", "runs"], "--out runs: expected a name that ends in one of .txt, .md"),
        (["--out", "a/b.md"], "a/b.md: cannot be written"),
        (["--row", "loss"], "unknown option of table '--row': did you mean '--rows'?"),
        (["--rows", "loss", "--rows", "noise"], "--rows is given twice"),
        (["nowhere"], "nowhere: expected a run folder"),
    ],
)
def test_bad_input_is_one_line(make, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    make()
    (tmp_path / "a").touch()
    words = words if words == ["nowhere"] else ["runs", *words]
    assert main(["table", *words]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"noisylabels: {message}")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
