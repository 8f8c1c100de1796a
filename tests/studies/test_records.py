import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import noisylabels
from folders import alter
from noisylabels.__main__ import main
from noisylabels.errors import DataError, MissingExtraError
from noisylabels.losses import LOSSES
from noisylabels.run.config import FIELDS, parse
from noisylabels.run.trainer import train
from noisylabels.studies import records

BASE = {
    "data": "digits",
    "noise": {"name": "symmetric", "rate": 0.4},
    "model": {"name": "mlp", "hidden": [8]},
    "epochs": 1,
}
TWO_RATES = [{"name": "symmetric", "rate": rate} for rate in (0.2, 0.4)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    for loss in ("ce", {"name": "gce", "q": 0.5}):
        for seed in (1, 0):
            train(parse(BASE | {"loss": loss, "seed": seed}), out)
    return out


def stop(run, folder):
    """Copy a run folder as a run leaves it that was cut after its first epoch."""
    shutil.copytree(run, folder)
    (folder / "result.json").unlink()
    return folder


def test_a_frame_has_a_row_for_each_run_and_a_column_for_each_setting_and_result(runs):
    frame = noisylabels.runs(runs)
    assert list(frame.columns[:3]) == ["run_id", "folder", "state"]
    assert len(frame) == 4
    for row in frame.to_dict("records"):
        folder = runs / row["run_id"]
        assert row["folder"] == str(folder)
        assert row["state"] == "finished"
        config = json.loads((folder / "config.json").read_text())
        result = json.loads((folder / "result.json").read_text())
        assert row["loss"] == config["loss"]["name"]
        assert (row["noise"], row["noise.rate"]) == ("symmetric", 0.4)
        assert row["model.hidden"] == (8,)
        assert {key: row[key] for key in ("epochs", "seed", "batch_size")} == {
            "epochs": 1,
            "seed": config["seed"],
            "batch_size": 128,
        }
        for key in ("test_accuracy", "train_accuracy_wrong", "actual_noise_rate", "seconds"):
            assert row[key] == result[key]
        assert row["versions.torch"] == result["versions"]["torch"]
        assert row["precision"] == "float32"
        assert config["precision"] == "auto"
    assert set(FIELDS) <= set(frame.columns)
    assert "versions" not in frame.columns
    assert frame.columns.is_unique
    assert set(frame["loss.q"].dropna()) == {0.5}


def test_a_frame_groups_by_every_setting(runs):
    frame = noisylabels.runs(str(runs))
    assert len(frame.groupby(["model.hidden", "noise", "loss"])) == 2
    means = frame.groupby("loss")["test_accuracy"].mean()
    read = [
        run.result["test_accuracy"] for run in records.read([runs]) if "q" in run.config["loss"]
    ]
    assert means["gce"] == pytest.approx(np.mean(read))


def test_unfinished_runs_are_rows_without_results(runs, tmp_path):
    stop(next(runs.iterdir()), tmp_path / "abc")
    frame = noisylabels.runs([runs, str(tmp_path)])
    row = frame.set_index("run_id").loc["abc"]
    assert row["state"] == "stopped"
    assert row["epochs"] == 1
    assert pd.isna(row["test_accuracy"])
    assert pd.isna(row["precision"])
    alone = noisylabels.runs(tmp_path / "abc")
    assert "test_accuracy" not in alone.columns
    assert alone["loss"].tolist() == [row["loss"]]


def test_settings_that_a_run_is_older_than_have_their_defaults(runs, tmp_path):
    folder = alter(next(runs.iterdir()), tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    for name in ("clip_norm", "momentum_schedule", "accumulate"):
        del config[name]
    (folder / "config.json").write_text(json.dumps(config))
    (row,) = noisylabels.runs(folder).to_dict("records")
    assert (row["momentum_schedule"], row["accumulate"]) == ("constant", 1)


def test_a_schedule_is_its_name_and_its_parameters(runs, tmp_path):
    q = {"schedule": "linear", "start": 0.6, "end": 1.5}
    folder = alter(next(runs.iterdir()), tmp_path / "a", loss={"name": "gce", "q": q})
    (row,) = noisylabels.runs(folder).to_dict("records")
    assert (row["loss.q"], row["loss.q.start"], row["loss.q.end"]) == ("linear", 0.6, 1.5)


def test_without_pandas_the_extra_is_named(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"pandas is not installed: pip install 'noisyla"):
        noisylabels.runs(runs)


def test_the_package_knows_runs():
    assert noisylabels.runs is records.frame
    assert "runs" in dir(noisylabels)


def test_metrics_are_read_when_they_are_asked_for(runs, tmp_path):
    first = next(runs.iterdir())
    assert records.read([first])[0].metrics[0]["epoch"] == 0
    shutil.copytree(first, tmp_path / "copy")
    (tmp_path / "copy" / "metrics.jsonl").write_text("no metrics\n")
    (run,) = records.read([tmp_path / "copy"])
    assert run.result["test_accuracy"] == records.read([first])[0].result["test_accuracy"]
    with pytest.raises(DataError, match=r"metrics.jsonl: line 1: expected metrics"):
        run.metrics  # noqa: B018


def test_groups_are_by_seed_and_a_seed_counts_once(runs, tmp_path):
    groups = records.group(records.read([runs]))
    assert [[run.seed for run in group] for group in groups] == [[0, 1], [0, 1]]
    # What "auto" chose was asked for by its name too.
    for run in runs.iterdir():
        alter(run, tmp_path / run.name, precision="32", result={"run_id": run.name[::-1]})
    again = records.read([runs, tmp_path])
    assert len(again) == 8
    assert [len(group) for group in records.group(again)] == [2, 2]


def test_what_a_newer_version_counts_tells_runs_apart(runs, tmp_path):
    first = next(runs.iterdir())
    alter(first, tmp_path / "new", momentous=3)
    settings = [group[0].settings for group in records.group(records.read([first, tmp_path]))]
    assert records.differences(settings) == {("momentous",): [None, 3]}


def test_files_of_other_contents_are_told_apart_by_where_they_lay(tmp_path):
    for seed in (0, 1):
        labels = np.random.default_rng(seed).integers(10, size=1437)
        np.save(tmp_path / f"labels{seed}.npy", labels)
        noise = {"name": "file", "path": str(tmp_path / f"labels{seed}.npy")}
        train(parse(BASE | {"noise": noise, "loss": "ce"}), tmp_path / "runs")
    groups = records.group(records.read([tmp_path / "runs"]))
    apart = records.differences([group[0].settings for group in groups])
    assert set(apart) == {("contents of noise.path",)}
    for (run,) in groups:
        (own,) = [each for each in run.contents if each.title == "contents of noise.path"]
        assert (own.part, own.parameters) == ("noise", ("path",))
        assert run.place(own).startswith(run.config["noise"]["path"])
    assert len(records.places(groups, apart)) == 2


def test_components_are_ordered_as_in_their_list_and_numbers_as_numbers():
    losses = [{"name": "my:Own"}, {"name": "dal"}, {"name": "gce", "q": 0.7}, {"name": "ce"}]
    losses += [{"name": "gce", "q": 0.5}, {"name": "gce", "q": 10}]
    placed = sorted(losses, key=lambda loss: records.order(loss, LOSSES))
    assert [records.describe(loss) for loss in placed] == [
        "ce",
        "gce (q 0.5)",
        "gce (q 0.7)",
        "gce (q 10)",
        "dal",
        "my:Own",
    ]
    mixed = [[16, 2], "10", 9, {"a": 1}, None, 10.5, [16], True]
    assert sorted(mixed, key=records.order) == [None, True, 9, 10.5, "10", [16], [16, 2], {"a": 1}]


def test_values_are_described():
    assert records.describe({"a": 1, "b": {"name": "x", "c": None}}) == "(a 1, b x)"
    assert records.describe({"schedule": "linear", "start": 1.0}) == "linear (start 1)"
    assert records.describe(0.1234567) == "0.1234567"
    assert records.describe(None) == ""


def test_components_of_other_names_differ_as_a_whole():
    one, other = {"noise": {"name": "none"}}, {"noise": TWO_RATES[0]}
    assert records.differences([one, other]) == {("noise",): [one["noise"], other["noise"]]}
    assert records.differences([{"noise": noise} for noise in TWO_RATES]) == {
        ("noise", "rate"): [0.2, 0.4]
    }
    assert records.differences([one, one]) == {}


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="expected run folders"):
        noisylabels.runs([])
    with pytest.raises(DataError, match="nowhere: expected a run folder"):
        noisylabels.runs(tmp_path / "nowhere")


def test_an_archive_is_read_like_the_runs_themselves(runs, tmp_path, capsys):
    file = tmp_path / "kept" / "runs.jsonl"
    assert main(["table", str(runs), "--out", str(file)]) == 0
    assert capsys.readouterr().out.strip() == str(file)
    kept, found = ({run.run_id: run for run in records.read([p])} for p in (file, runs))
    assert kept.keys() == found.keys()
    for run_id, run in found.items():
        own = kept[run_id]
        assert (own.result, own.identity, own.config) == (run.result, run.identity, run.config)
        assert own.metrics == list(run.metrics)
        assert (own.key, own.state, own.seed) == (run.key, "finished", run.seed)
    # Beside the folders each run still counts once.
    assert len(records.read([runs, file])) == len(found)
    frames = [noisylabels.runs(place).drop(columns="folder") for place in (runs, file)]
    order = ["run_id"]
    pd.testing.assert_frame_equal(
        *(frame.sort_values(order, ignore_index=True) for frame in frames), check_like=True
    )
    words = ["--rows", "loss", "--columns", "noise"]
    tables = []
    for place in (runs, file):
        assert main(["table", str(place), *words]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]


def test_whichever_archive_comes_first_curves_are_kept(runs, tmp_path):
    found = records.read([runs])
    with_curves, without = tmp_path / "with.jsonl", tmp_path / "without.jsonl"
    records.archive(found, with_curves, metrics=True)
    records.archive(found, without)
    for order in ([with_curves, without], [without, with_curves]):
        read = records.read(order)
        assert len(read) == len(found)
        assert all(run.metrics for run in read)


@pytest.mark.parametrize("name", ["a\u2028b", "a\x85b", "caf\udce9"])
def test_an_archive_holds_any_name_of_a_file(runs, tmp_path, name):
    (run, *_) = records.read([runs])
    named = replace(run, config={**run.config, "data": {"name": "digits", "root": name}})
    file = tmp_path / "runs.jsonl"
    records.archive([named, run], file)
    read = records._unpack(file)
    assert [each.config["data"].get("root") for each in read] == [name, None]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: expected a run as JSON"),
        ("[]", "line 2: expected a run as JSON"),
        ('{"run_id": "x", "config": {}, "identity": {}}', "line 2: expected a run as JSON"),
        (
            '{"run_id": "x", "config": {"data": 1}, "identity": {}, "result": {}}',
            "line 2: expected method, loss, seed, epochs in its config.json",
        ),
    ],
)
def test_damaged_archives_are_named_by_their_line(runs, tmp_path, line, message):
    file = tmp_path / "runs.jsonl"
    records.archive(records.read([runs])[:1], file)
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(DataError, match=message):
        records.read([file])
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="runs.jsonl: cannot be read"):
        records.read([file])
    with pytest.raises(DataError, match="none.jsonl: cannot be read"):
        records.read([tmp_path / "none.jsonl"])
