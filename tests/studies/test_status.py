import re
import sys
from pathlib import Path

import pytest

from noisylabels.__main__ import main
from noisylabels.errors import DataError
from noisylabels.run import loop
from noisylabels.run.callbacks import Callback
from noisylabels.run.config import parse
from noisylabels.run.trainer import train
from noisylabels.studies import study, sweep
from noisylabels.studies.status import find
from waiting import wait_for


class Stop(Callback):
    def on_epoch(self, metrics):
        raise KeyboardInterrupt


@pytest.fixture
def runs(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0)
    out = tmp_path / "runs"
    train(parse(digits), out)
    with pytest.raises(KeyboardInterrupt):
        train(parse(digits | {"seed": 1}), out, [Stop()])
    return out


def test_finished_and_stopped_runs(runs, capsys):
    by_seed = {status.seed: status for status in find([runs])}
    assert by_seed[0].state == "finished"
    assert (by_seed[0].epoch, by_seed[0].epochs) == (3, 3)
    assert by_seed[0].left is None
    assert by_seed[1].state == "stopped"
    assert by_seed[1].epoch == 1
    assert by_seed[1].left == pytest.approx(2 * by_seed[1].seconds)
    assert 0 < by_seed[1].accuracy < 1
    assert main(["status", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert "finished" in shown
    assert "1/3" in shown


@pytest.mark.parametrize("width", [60, 200])
def test_no_word_is_broken_on_a_narrow_terminal(runs, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["status", str(runs)]) == 0
    # Without what makes heads bold.
    lines = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= width
    words = re.findall(r"[^\s│,:]+", "\n".join(lines))
    for found in find([runs]):
        for value in found.row():
            assert all(word in words for word in value.split()), value
    if width == 60:
        (first,) = (line for line in lines if line.startswith(find([runs])[0].folder.name))
        assert first.startswith(f"{find([runs])[0].folder.name}: data digits, method single, loss")


def test_a_running_run_is_running(tmp_path, begin):
    out = tmp_path / "runs"
    path = tmp_path / "run.toml"
    path.write_text('data = "digits"\nepochs = 5000\nmodel = { name = "mlp", hidden = [16] }\n')
    process = begin("train", path, "--out", out)
    try:
        wait_for(lambda: any(out.glob("*/progress.json")), process)
        (status,) = find([out])
        assert status.state == "running"
        assert status.left > 0
    finally:
        process.kill()
        process.communicate()
    (status,) = find([out])
    assert status.state == "stopped"


def test_a_study_stands_as_it_was_last_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(
        "[base]\ndata = 'digits'\nmodel.hidden = [8]\nepochs = 2\n[axes]\nseed = [0, 1]\n"
    )
    assert main(["status", "study.toml"]) == 0
    assert "study.toml: 2 runs: 2 not started" in capsys.readouterr().out
    read = study.read(Path("study.toml"), ["--epochs", "1"])
    sweep.write_manifest(sweep.prepare(read, Path("runs")))
    for point in read.points:
        train(point.run, Path("runs"))
    assert main(["status", "study.toml"]) == 0
    said = capsys.readouterr().out
    assert "study.toml: as it was last made, with --epochs 1" in said
    assert "study.toml: 2 runs: 2 finished" in said
    assert "no longer" not in said


def test_what_is_no_run_is_named(tmp_path, runs):
    with pytest.raises(DataError, match="nowhere: expected a run folder"):
        find([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: expected a run folder"):
        find([tmp_path / "empty"])
    (folder,) = (path.parent for path in runs.glob("*/checkpoint.pt"))
    (folder / "progress.json").write_text("{")
    with pytest.raises(DataError, match="progress.json: expected JSON"):
        find([folder])
    damaged, whole = sorted(find([runs]), key=lambda status: status.folder != folder)
    assert damaged.state.startswith("damaged: ")
    assert damaged.row()[-1] == ""
    assert whole.epochs == 3
    (folder / "config.json").write_text("{}")
    with pytest.raises(DataError, match="config.json: expected data, method, loss"):
        find([folder])
