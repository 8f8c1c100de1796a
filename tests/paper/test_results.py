import dataclasses
import json
import shutil
import sys

import pytest

from noisylabels.__main__ import main
from noisylabels.paper import figures, results
from noisylabels.paper import protocol as protocols
from noisylabels.paper.experiments import find
from noisylabels.paper.protocol import Protocol
from noisylabels.paper.results import Choice
from noisylabels.run.folder import RunFolder
from noisylabels.run.plan import plan
from noisylabels.studies import formats, records, study

DIGITS = Protocol("digits")
WORDS = ["--epochs", "2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Eight runs, made by the command."""
    out = tmp_path_factory.mktemp("paper")
    choice = ["--rows", "ce,dal", "--columns", "symmetric:0.4,instance:0.4", "--seeds", "2"]
    words = ["paper", "table2", "--scale", "digits", "--out", str(out), *choice, *WORDS]
    assert main(words) == 0
    return out, words


def plans(out, rows=("CE", "DAL"), columns=("symmetric:0.4", "instance:0.4"), seeds=2):
    return results.prepare(find("table2"), DIGITS, Choice(rows, columns, seeds, WORDS), out)


def test_every_run_stands_in_its_own_cell(made):
    out, _ = made
    (whole,) = plans(out)
    assert len(whole.slots) == 8
    for slot in whole.slots:
        folder = RunFolder(out / "runs" / slot.run_id)
        run = folder.config()
        assert folder.finished
        assert run["seed"] == slot.seed
        assert run["loss"]["name"] == ("ce", "dal")[slot.row]
        assert run["noise"]["name"] == ("symmetric", "instance")[slot.column]
        assert run["epochs"] == 2
        evaluated = [line.get("test_accuracy") is not None for line in folder.metrics()]
        assert evaluated == [False, True]


def test_cells_are_means_over_seeds(made):
    out, _ = made
    (whole,) = plans(out)
    runs = results.collect([whole], [], out / "runs")
    (table,) = results.tabulate(find("table2"), DIGITS, whole, runs)
    for (row, column), cell in table.cells.items():
        expected = {
            slot.seed: runs[slot.run_id].result["test_accuracy"]
            for slot in whole.slots
            if (slot.row, slot.column) == (row, column)
        }
        assert cell.values == expected
    text = formats.text([table])
    assert "paper, CIFAR-10" in text
    # The paper's 67.85 and 88.73, in the column of symmetric noise.
    lines = [line.split() for line in text.splitlines() if line.strip().startswith("paper,")]
    assert [line[2] for line in lines[:2]] == ["67.8", "88.7"]
    rates = [
        runs[slot.run_id].result["actual_noise_rate"] for slot in whole.slots if slot.column == 0
    ]
    assert f"symmetric 40 % is {100 * sum(rates) / len(rates):.1f} % (made here)" in text


def test_the_study_is_a_file_that_sweep_takes(made):
    out, _ = made
    read = study.read(out / "table2-digits-digits.toml")
    ids = {plan(point.run).run_id for point in read.points}
    assert ids == {slot.run_id for slot in plans(out)[0].slots}


def test_an_archive_stands_in_for_the_runs(made, tmp_path, capsys):
    out, words = made
    words = [*words]
    words[words.index(str(out))] = str(tmp_path / "elsewhere")
    assert main([*words, "--results", str(out / "table2-digits.jsonl")]) == 0
    assert "8 runs, 8 of them finished" in capsys.readouterr().out
    assert not (tmp_path / "elsewhere" / "runs").exists()
    tables = [(place / "table2-digits.md").read_text() for place in (out, tmp_path / "elsewhere")]
    assert tables[0] == tables[1]


def test_what_is_missing_is_said(made):
    out, _ = made
    (more,) = plans(out, rows=("CE", "GCE", "DAL"))
    runs = results.collect([more], [], out / "runs")
    assert len(more.run_ids - runs.keys()) == 4
    assert results.describe(more, runs).endswith("12 runs, 8 of them finished")
    (table,) = results.tabulate(find("table2"), DIGITS, more, runs)
    assert "runs that are missing: 4 of 12" in table.remarks
    assert (1, 0) not in table.cells


def test_runs_of_other_precision_are_said(made, tmp_path):
    out, _ = made
    lines = (out / "table2-digits.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["result"]["precision"] = "bf16"
    (tmp_path / "mixed.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]))
    (whole,) = plans(tmp_path)
    runs = results.collect([whole], [tmp_path / "mixed.jsonl"], tmp_path / "runs")
    (table,) = results.tabulate(find("table2"), DIGITS, whole, runs)
    assert "runs computed in different precision: bfloat16, float32" in table.remarks


def test_values_that_are_not_tuned_at_a_scale_are_said(made, monkeypatch):
    out, _ = made
    (whole,) = plans(out)
    runs = results.collect([whole], [], out / "runs")

    def remarks():
        (part,) = find("table2").parts(DIGITS)
        rows = [row for row in part.rows if row.title in ("CE", "DAL")]
        again = dataclasses.replace(whole, part=dataclasses.replace(whole.part, rows=rows))
        (table,) = results.tabulate(find("table2"), DIGITS, again, runs)
        return [remark for remark in table.remarks if "not tuned" in remark]

    assert remarks() == []
    monkeypatch.setattr(protocols, "_tuned", {"digits": {"digits": {"ce": {}}}}.get)
    assert remarks() == ["not tuned for this, values as published or by default: DAL"]


@pytest.mark.long
def test_curves_are_evaluated_in_every_epoch_and_drawn(tmp_path, capsys):
    words = ["--scale", "digits", "--seeds", "1", "--rows", "ce,dal", "--out", str(tmp_path)]
    assert main(["paper", "figure4", *words, "--epochs", "3"]) == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "figure4-digits.svg") in printed
    drawing = (tmp_path / "figure4-digits.svg").read_text()
    for said in ("CE: digits, symmetric 40 %", "training, wrongly labelled", "accuracy, %"):
        assert said in drawing
    for run in records.read([tmp_path / "figure4-digits.jsonl"]):
        assert [line["epoch"] for line in run.metrics if "test_accuracy" in line] == [0, 1, 2]


def test_sensitivity_has_a_panel_for_each_parameter(tmp_path):
    # One dataset, and so one file, which has all of its runs.
    (made,) = results.prepare(
        find("figure3"), DIGITS, Choice(seeds=2, overrides=["--epochs", "1"]), tmp_path
    )
    runs = {
        slot.run_id: records.Run(
            tmp_path, {}, {}, {"test_accuracy": 0.5 + slot.row % 10 / 100 + slot.seed / 10}
        )
        for slot in made.slots
    }
    drawing = figures.sensitivity([made], runs)
    for name in ("GCE q", "DAL q_start", "DAL q_end", "DAL lambda_end"):
        assert f">{name}<" in drawing
    assert "4.0 points from least to most" in drawing


def test_gradients_are_drawn_without_runs(tmp_path, capsys):
    assert main(["paper", "figure2", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "figure2.svg")
    assert "JS, pi 0.5" in (tmp_path / "figure2.svg").read_text()


def test_a_dry_run_makes_nothing(tmp_path, capsys):
    words = ["--scale", "digits", "--seeds", "1", "--rows", "ce", "--columns", "symmetric:0.2"]
    assert main(["paper", "table2", *words, "--out", str(tmp_path / "p"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "1 run; expected time: about" in printed
    assert "not started" in printed
    assert not (tmp_path / "p").exists()


def test_a_part_leaves_the_other_runs_in_the_archive(made, tmp_path, capsys):
    out, words = made
    at = words.index("--rows")
    words = [str(tmp_path) if word == str(out) else word for word in words[:at] + words[at + 2 :]]
    shutil.copytree(out / "runs", tmp_path / "runs")
    archive = tmp_path / "table2-digits.jsonl"
    for rows, count in (("ce", 4), ("dal", 8)):
        assert main([*words, "--rows", rows]) == 0
        assert len(records.read([archive])) == count


def test_the_whole_study_is_known_however_much_of_it_is_finished(made, tmp_path, capsys):
    out, words = made
    words = [str(tmp_path) if word == str(out) else word for word in words]
    archive = tmp_path / "half.jsonl"
    lines = (out / "table2-digits.jsonl").read_text().splitlines(keepends=True)
    archive.write_text("".join(lines[:6]))
    assert main([*words, "--results", str(archive), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("finished") - printed.count("of them finished") == 6
    assert printed.count("not started") == 2
    assert main([*words, "--results", str(archive)]) == 0
    assert "no longer" not in capsys.readouterr().out
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == 2
    assert main(["status", str(tmp_path / "runs")]) == 0
    assert "table2-digits-digits.toml: 8 runs: " in capsys.readouterr().out
    assert main([*words, "--results", str(archive)]) == 0
    assert "no longer" not in capsys.readouterr().out


def test_what_draws_is_asked_for_before_any_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for figure in (["figure4", "--scale", "digits"], ["figure2"]):
        assert main(["paper", *figure, "--out", str(tmp_path / "p")]) == 2
        assert capsys.readouterr().err.endswith("pip install 'noisylabels[report]'\n")
    assert not (tmp_path / "p").exists()


def test_fewer_seeds_leave_the_other_runs_in_the_archive(made, tmp_path, capsys):
    out, words = made
    words = [str(tmp_path) if word == str(out) else word for word in words]
    words[words.index("--seeds") + 1] = "1"
    archive = tmp_path / "table2-digits.jsonl"
    shutil.copy(out / archive.name, archive)
    assert main([*words, "--results", str(archive)]) == 0
    assert "4 runs, 4 of them finished" in capsys.readouterr().out
    assert len(records.read([archive])) == 8


def test_a_damaged_archive_is_said_before_any_run(made, tmp_path, capsys):
    out, words = made
    words = [str(tmp_path) if word == str(out) else word for word in words]
    (tmp_path / "table2-digits.jsonl").write_text('{"run_id": "0')
    assert main(words) == 2
    assert "table2-digits.jsonl: line 1: expected a run as JSON" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_runs_without_curves_are_not_taken_for_a_figure_of_curves(made, tmp_path):
    out, _ = made
    choice = Choice(("CE", "DAL"), seeds=2, overrides=WORDS)
    curves = results.prepare(find("figure4"), DIGITS, choice, tmp_path)
    for place in (out / "table2-digits.jsonl", out / "runs"):
        assert len(results.collect(curves, [place], tmp_path / "curves")) == 4
        assert results.collect(curves, [place], tmp_path / "curves", curves=True) == {}


def test_what_all_runs_follow_is_said(made, tmp_path):
    out, _ = made
    (whole,) = plans(out)
    (table,) = results.tabulate(
        find("table2"), DIGITS, whole, results.collect([whole], [], out / "runs")
    )
    assert table.remarks[0] == f"in all runs: {' '.join(WORDS)}"
    other = Protocol("small", network="cnn", instance="margin")
    (table,) = results.tabulate(
        find("table2"), other, whole, results.collect([whole], [], out / "runs")
    )
    assert table.remarks[1:3] == ("network: cnn", "instance-dependent noise: margin")


def test_a_dry_run_of_a_figure_without_runs_draws_nothing(tmp_path, capsys):
    assert main(["paper", "figure2", "--out", str(tmp_path / "p"), "--dry-run"]) == 0
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["table2", "--scale", "digits", "--seed", "5"],
            "--seed: must be left out: --seeds chooses",
        ),
        (
            ["table2", "--scale", "digits", "--noise.rate", "0.5"],
            "--noise: must be left out: --col",
        ),
        (["table2", "--scale", "digits", "--loss", "gce"], "--loss.name: must be left out: --rows"),
        (["figure2", "--scale", "small"], "figure2 is drawn without any run: --scale must be left"),
        (["figure2", "--epochs", "3"], "figure2 is drawn without any run: --epochs must be left"),
        (["table4", "--scale", "digits"], "table4 is of scale 'paper', got 'digits': choose"),
        (
            ["fair"],
            "fair is of scale 'small' or 'features' or 'digits', got 'paper': choose by --sc",
        ),
        (["table2", "--scale", "digits", "--rows", "cee"], "unknown row 'cee' (known: "),
        (["table2", "--scale", "digits", "--columns", "symmetric:0.5"], "unknown column 'symmetri"),
        (
            ["table2", "--scale", "digits", "--datasets", "cifar"],
            "unknown dataset 'cifar' (known: ",
        ),
        (
            ["figure4", "--scale", "digits", "--instance", "margin"],
            "--instance margin: must be left out where no column is of instance-dependent noise",
        ),
        (
            ["table2", "--scale", "digits", "--instance", "margin", "--columns", "symmetric:0.4"],
            "--instance margin: must be left out where",
        ),
        (["table9"], "unknown experiment 'table9'"),
        (["table2", "--scale", "digits", "--labels", "none"], "none: expected a folder of label"),
        (["table2", "--scale", "digits", "--seeds", "0"], "seeds must be in [1, inf), got 0"),
        (["table2", "--scale", "digits", "--results", "none.jsonl"], "none.jsonl: cannot be read"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["paper", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_rows_are_chosen_by_their_losses_keys_too(tmp_path):
    chosen = Choice(("poly1", "adaptive-dal", "EPS-softmax", "LogitClip", "truncated GCE"))
    (only,) = results.prepare(find("fair"), DIGITS, chosen, tmp_path)
    titles = ["Poly-1", "adaptive DAL", "ε-softmax", "LogitClip", "truncated GCE"]
    assert [row.title for row in only.part.rows] == titles


def test_a_part_without_the_rows_asked_for_is_left_out(tmp_path):
    (only,) = results.prepare(find("figure3"), DIGITS, Choice(("DAL q_end 1.5",)), tmp_path)
    assert [row.title for row in only.part.rows] == ["DAL q_end 1.5"]
