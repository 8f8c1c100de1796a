import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import noisylabels
from noisylabels.__main__ import main
from noisylabels.errors import ConfigError
from noisylabels.run.folder import RunFolder
from pictures import save

RUN = """
epochs = 2
data = { name = "digits" }
noise = { name = "symmetric", rate = 0.4 }
model = { name = "mlp", hidden = [16] }
loss = { name = "dal", q_start = 0.6, q_end = 1.5 }
"""


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    return path


@pytest.mark.parametrize(("rank", "shown"), [("0", True), ("1", False)])
def test_only_the_first_process_shows_progress(run, capsys, monkeypatch, rank, shown):
    def train(made, out, callbacks):
        callbacks[0].on_message("something")
        return out

    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr("noisylabels.run.trainer.train", train)
    assert main(["train", "run.toml", "--devices", "2"]) == 0
    seen = capsys.readouterr()
    assert ("something" in seen.err) is shown
    assert bool(seen.out) is shown


def test_train_prints_the_folder_and_then_does_nothing(run, capsys):
    assert main(["train", "run.toml", "--loss.name", "gce", "--loss.q", "0.7"]) == 0
    first = capsys.readouterr()
    folder = Path(first.out.strip())
    assert folder.parent == Path("runs")
    assert json.loads((folder / "config.json").read_text())["loss"] == {"name": "gce", "q": 0.7}
    assert "epoch 2 of 2" in first.err
    assert main(["train", "--loss.name=gce", "--loss.q=0.7", "run.toml"]) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert "finished already, nothing to do" in again.err
    assert "it was made with" not in again.err


def test_what_a_finished_run_was_made_without_is_said(run, capsys):
    assert main(["train", "run.toml", "--save_model", "false", "--evaluate_every", "2"]) == 0
    folder = capsys.readouterr().out.strip()
    assert main(["train", "run.toml"]) == 0
    said = f"made with save_model = false and evaluate_every = 2: delete {folder} to make it again"
    assert said in capsys.readouterr().err
    assert main(["train", "run.toml", "--save_model", "false", "--evaluate_every", "5"]) == 0
    assert "it was made with" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "export"])
def test_a_file_that_cannot_be_written_is_refused_before_any_work(run, capsys, command):
    Path("file").write_text("")
    inputs = ["no-images"] if command == "predict" else []
    assert main([command, "no-run", *inputs, "--out", "file/out"]) == 2
    assert f"file/out: cannot be written in {Path('file').absolute()}" in capsys.readouterr().err


def test_losses_show_one_of_the_users_own(tmp_path, monkeypatch, capsys, own_module):
    own_module(
        "own_margin",
        "from typing import final\nfrom noisylabels.losses import Loss\n\n\n@final\n"
        'class Margin(Loss):\n    """A margin."""\n\n    formula = "max(0, m - z_y)"\n\n'
        "    def per_example(self, input, target):\n        return input.sum(1)\n",
    )
    assert main(["losses", "own_margin:Margin"]) == 0
    said = capsys.readouterr().out
    assert "own_margin:Margin max(0, m - z_y)" in said
    assert "A margin." in said
    assert main(["losses", "own_margi:Margin"]) == 2
    assert "own_margi" in capsys.readouterr().err


def test_predict_and_export_use_a_finished_run(run, capsys):
    assert main(["train", "run.toml"]) == 0
    folder = capsys.readouterr().out.strip()
    np.savez("new.npz", x=np.zeros((3, 8, 8), np.uint8))
    assert main(["predict", folder, "new.npz", "--all"]) == 0
    assert capsys.readouterr().out == "predictions.csv\n"
    lines = Path("predictions.csv").read_text().splitlines()
    assert lines[0].startswith("row,class,probability,p_0,p_1,")
    assert len(lines) == 4
    assert main(["predict", folder, "none.npz", "--out", "none.csv"]) == 2
    assert capsys.readouterr().err == "noisylabels: none.npz: no such file\n"
    assert main(["predict", folder, "--out", "none.csv"]) == 2
    assert "expected a folder, files, a table or an .npz file, got none" in capsys.readouterr().err
    for option in ("column", "root"):
        save(Path("new/0.png"), np.zeros((8, 8), np.uint8))
        for place in ("new", "new/0.png", "new.npz"):
            assert main(["predict", folder, place, f"--{option}", "a", "--out", "none.csv"]) == 2
            said = f"noisylabels: {place}: {option} is for a table of paths, and this is none"
            assert capsys.readouterr().err.startswith(said)
    assert not Path("none.csv").exists()
    assert main(["export", folder, "--format", "safetensors"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{Path(folder).name}.safetensors\n"
    (differ,) = re.findall(r"compared on 9 test inputs .* differ by at most (\S+)\n", shown.err)
    # How many are predicted at once can change the last digits.
    assert float(differ) < 1e-6
    assert main(["predict", shown.out.strip(), "new.npz", "--out", "again.csv", "--all"]) == 0
    assert Path("again.csv").read_text().splitlines() == lines
    capsys.readouterr()
    assert main(["export", f"{Path(folder).name}.safetensors", "--format", "safetensors"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{Path(folder).name}.safetensors\n"
    assert "compared on 9 random inputs, for the run's data is not there" in shown.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "none", "new.npz"], "none: expected a run folder (with config.json), which"),
        (["predict", "runs", "new.npz", "--epochs", "3"], "unknown option of predict '--epochs'"),
        (["export", "runs", "--format", "onx"], "--format must be 'onnx' or 'torch-export' or"),
        (["export", "runs"], "runs: expected a run folder (with config.json), got none"),
    ],
)
def test_what_predict_and_export_refuse(run, capsys, words, message):
    Path("runs").mkdir()
    np.savez("new.npz", x=np.zeros((3, 8, 8), np.uint8))
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"noisylabels: {message}")
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_predict_reads_texts_and_names_what_it_cannot_use(run, capsys):
    lines = [f"{'fine' if n % 2 else 'dull'} n{n % 7},{'ab'[n % 2]}" for n in range(40)]
    Path("texts.csv").write_text("\n".join(["review,label", *lines]))
    Path("texts.toml").write_text(
        'data = {name = "text", path = "texts.csv", text_column = "review"}\n'
        'features = {name = "tfidf", dimensions = 3}\noptimizer = {lr = 0.1}\nepochs = 20\n'
    )
    assert main(["train", "texts.toml"]) == 0
    folder = capsys.readouterr().out.strip()
    Path("new.csv").write_text('review\nfine\n" "\ndull\n')
    assert main(["predict", folder, "new.csv", "--root", "."]) == 2
    assert "root is for a table of paths: expected none of texts" in capsys.readouterr().err
    assert main(["predict", folder, "new.csv", "--column", "review"]) == 0
    assert capsys.readouterr().err == "row 3: expected a text, got none\n"
    written = [line.split(",") for line in Path("predictions.csv").read_text().splitlines()]
    assert [(row, name) for row, name, *_ in written[1:]] == [("2", "b"), ("3", ""), ("4", "a")]
    assert main(["export", folder]) == 2
    assert "the features 'tfidf' are none: expected --format safetensors" in capsys.readouterr().err


def test_report_prints_the_table_and_writes_the_page(run, capsys):
    for seed in "01":
        assert main(["train", "run.toml", "--seed", seed, "--out", "mine"]) == 0
    capsys.readouterr()
    assert main(["report", "mine", "--out", "page.html"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"dal \(q_start 0\.6.*2 .* ± ", shown)
    assert shown.endswith("page.html\n")
    assert Path("page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_no_word_of_the_table_is_cut_where_runs_differ_in_much(run, capsys):
    for number, words in enumerate(
        [
            ["--optimizer.lr", "0.02", "--batch_size", "100", "--clip_norm", "1.5"],
            ["--optimizer.weight_decay", "0.002", "--model.hidden", "[20]"],
            ["--lr_schedule.end", "0.5", "--accumulate", "2", "--noise.rate", "0.3"],
        ]
    ):
        assert main(["train", "run.toml", "--seed", str(number), "--out", "mine", *words]) == 0
    capsys.readouterr()
    assert main(["report", "mine", "--out", "page.html"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    words = {word for line in lines for word in re.findall(r"\w+", line)}
    assert {"clip_norm", "weight_decay", "batch_size", "accumulate", "memorised"} <= words
    assert not any("data None" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epoch", "3"], "run.toml: unknown key 'epoch': did you mean 'epochs'?"),
        (["--epochs", "x"], "run.toml: epochs: expected a whole number, got 'x'"),
        (["--loss.name", "gec"], "run.toml: unknown loss 'gec': did you mean 'gce'?"),
        (["--loss.p", "1"], "run.toml: loss: unknown parameter of 'dal' 'p'"),
        (["--noise.rate", "1.5"], "run.toml: noise: rate must be in [0, 1], got 1.5"),
        (["--noise.rate", "nan"], "run.toml: noise: rate must be in [0, 1], got nan"),
        (["--noise.name=file", "--noise.path=short.npy"], "short.npy: expected 1437 labels"),
        (["--noise.name=file", "--noise.path=float.npy"], "float.npy: expected a one-dimensional"),
        (["--noise.name=file", "--noise.path=range.npy"], "range.npy: row 0: expected a label in"),
        (["--data.name=parquet", "--data.root=none"], "none: no such folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(run, capsys, words, message):
    np.save("short.npy", np.zeros(3, dtype=np.int64))
    np.save("float.npy", np.zeros(1437))
    np.save("range.npy", np.full(1437, 10))
    assert main(["train", "run.toml", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"noisylabels: {message}")
    assert shown.err.count("\n") == 1
    assert not Path("runs").exists()


def test_debug_shows_the_traceback(run, capsys):
    words = ["train", "run.toml", "--epochs", "x"]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("noisylabels: run.toml: epochs: ")
    with pytest.raises(ConfigError) as error:
        main([*words, "--debug"])
    assert error.traceback[-1].path.name == "config.py"


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"noisylabels {noisylabels.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command 'trian': did you mean 'train'?"),
        (["demo", "--reprot", "x"], "unknown option of demo '--reprot': did you mean '--report'?"),
        (
            ["report", "runs", "--outt=x"],
            "unknown option of report '--outt': did you mean '--out'?",
        ),
        (["report"], "runs: expected a run folder"),
        (["train", "run.toml", "b.toml"], "run.toml: expected an override such as --epochs 10"),
        (["losses", "gec"], "unknown loss 'gec': did you mean 'gce'?"),
        (["demo", "--seeds", "0"], "seeds must be in [1, inf), got 0"),
        (["demo", "--out", "file"], "file: expected a folder that can be written"),
    ],
)
def test_bad_commands_are_one_line(words, message, run, capsys):
    Path("file").touch()
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert f"noisylabels: {message}" in shown


@pytest.mark.parametrize("words", [[], ["train"], ["-x", "--report"]])
def test_missing_and_spare_words_exit_with_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert "--help" in shown.out + shown.err


def test_every_key_is_in_the_help(capsys):
    from noisylabels.run.config import FIELDS

    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(key in shown for key in FIELDS)


@pytest.mark.long
def test_demo_gives_the_published_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--seeds", "1"]) == 0
    done = capsys.readouterr()
    results = {}
    for folder in RunFolder.find([Path("runs")]):
        results.setdefault(folder.config()["loss"]["name"], []).append(folder.result())
    assert {name: len(found) for name, found in results.items()} == {"ce": 1, "gce": 1, "dal": 1}
    (plain,) = results["ce"]
    assert plain["test_accuracy"] < 0.80
    assert plain["train_accuracy_wrong"] > 0.99
    for name in ("gce", "dal"):
        (robust,) = results[name]
        assert robust["test_accuracy"] > 0.92
        assert robust["train_accuracy_wrong"] < 0.12
    assert done.out.endswith("report.html\n")
    assert Path("report.html").exists()
    assert main(["demo", "--seeds", "1"]) == 0
    again = capsys.readouterr()
    assert again.err.count("finished already") == 3
    assert again.out == done.out


def test_without_the_extra_the_command_says_what_to_install():
    code = (
        "import sys; sys.modules['tyro'] = None\n"
        "from noisylabels.__main__ import main\n"
        "sys.exit(main(['demo']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == ("noisylabels: tyro is not installed: pip install 'noisylabels[train]'\n")


def test_losses_lists_keys_formulas_and_the_papers_values(capsys):
    from noisylabels.losses import LOSSES

    assert main(["losses"]) == 0
    shown = capsys.readouterr().out
    for key, loss in LOSSES.items():
        assert re.search(rf"^{re.escape(key)} +{re.escape(loss().formula)}$", shown, re.M)
    assert "DynamicsAwareLoss(q_start 0.6, q_end 1.5, lambda_end 1)" in shown
    assert "WebVision: q_start 0.4, q_end 1.5, lambda_end 1" in shown
    assert "CIFAR-100, asymmetric 40 %: alpha 0.004, beta 1, m 100" in shown


def test_one_loss_is_shown_in_full(capsys):
    assert main(["losses", "gce"]) == 0
    shown = capsys.readouterr().out
    assert re.match(r"gce +\(1 - p_y\^q\)/q\n", shown)
    assert "q: Exponent, at least 0" in shown
    assert "``" not in shown
    assert ":func:" not in shown


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("gbk", ["--help"]),
        ("cp437", ["train", "--help"]),
        ("ascii", ["--help"]),
        ("ascii", ["losses", "dal"]),
        ("gbk", ["status", "runs"]),
        ("ascii", ["table", "runs"]),
    ],
)
def test_any_console_shows_what_it_can(run, encoding, words):
    if words[-1] == "runs":
        assert main(["train", "run.toml", "--epochs", "1", "--loss", "ce"]) == 0
    command = [sys.executable, "-m", "noisylabels", *words]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Error" not in done.stderr
    assert len(done.stdout.splitlines()) > 3


def test_a_reader_that_stops_reading_is_no_error():
    command = f"{sys.executable} -m noisylabels losses | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert re.fullmatch(r"ce +-log p_y\n", done.stdout)
    assert done.stderr == ""


def test_noise_is_made_inspected_and_trained_on(run, capsys):
    words = ["noise", "make", "asymmetric", "digits", "--rate", "0.4", "--seed", "3"]
    assert main([*words, "--out", "a.npy"]) == 0
    shown = capsys.readouterr().out
    assert "asymmetric at rate 0.38" in shown
    assert shown.endswith("a.npy\n")
    manifest = json.loads(Path("a.json").read_text())
    assert manifest["kind"] == "asymmetric"
    assert manifest["parameters"]["map"] == "digits"
    assert (manifest["nominal_rate"], manifest["seed"]) == (0.4, 3)
    assert manifest["data"]["examples"] == manifest["labels"] == 1437
    counts = manifest["transition_counts"]
    wrong = sum(count for true, given, count in counts if true != given)
    assert wrong / 1437 == pytest.approx(manifest["actual_rate"])
    assert {given for true, given, _ in counts if true == 2} == {2, 7}
    assert manifest["sha256"] == hashlib.sha256(Path("a.npy").read_bytes()).hexdigest()

    assert main(["noise", "inspect", "a.npy", "--data", "digits", "--json", "--out", "x.svg"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == counts
    assert found["guess"]["kind"] == "asymmetric"
    assert "<svg" in Path("x.svg").read_text()
    # A run that reads the file sees the labels that a run with the noise makes.
    train = ["train", "run.toml", "--epochs", "1", "--seed", "3"]
    assert main([*train, "--noise.name", "file", "--noise.path", "a.npy"]) == 0
    ours = Path(capsys.readouterr().out.strip()) / "labels.npz"
    assert main([*train, "--noise.name", "asymmetric", "--noise.rate", "0.4"]) == 0
    theirs = Path(capsys.readouterr().out.strip()) / "labels.npz"
    assert np.array_equal(np.load(ours)["given"], np.load(theirs)["given"])


def test_a_changed_label_file_is_doubted(run, capsys):
    assert main(["noise", "make", "symmetric", "digits", "--rate", "0.2"]) == 0
    np.save("labels.npy", np.load("labels.npy")[::-1])
    capsys.readouterr()
    assert main(["noise", "inspect", "labels.npy"]) == 0
    shown = capsys.readouterr()
    assert "the true ones are not known" in shown.out
    assert "labels.npy: not the file that labels.json describes" in shown.err


def test_labels_of_a_pt_file_by_key(run, capsys):
    from sklearn.datasets import load_digits

    true = load_digits().target
    worse = (true + (np.arange(len(true)) % 4 == 0)) % 10
    torch.save({"clean_label": true, "worse_label": worse, "aggre_label": true}, "human.pt")
    assert main(["noise", "inspect", "human.pt"]) == 2
    assert "worse_label" in capsys.readouterr().err
    assert main(["noise", "inspect", "human.pt", "--key", "worse_label", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rate"] == pytest.approx(0.25, abs=0.001)
    assert found["guess"]["kind"] == "pairflip"


def test_superclasses_are_compared_with_superclasses(run, capsys):
    fine, coarse = np.arange(200) % 20, np.arange(200) % 4
    stored = {"clean_label": fine, "noisy_label": fine, "clean_coarse_label": coarse}
    torch.save(stored | {"noisy_coarse_label": (coarse + (fine == 0)) % 4}, "human.pt")
    assert main(["noise", "inspect", "human.pt", "--key", "noisy_coarse_label", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rate"] == pytest.approx(0.05)
    np.save("given.npy", fine)
    assert main(["noise", "inspect", "given.npy", "--clean", "human.pt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rate"] == 0


def test_every_kind_of_noise_is_listed(capsys):
    from noisylabels.noise import NOISES

    assert main(["noise", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(NOISES)
    assert all(line.endswith(".") for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["noise", "mak"], "unknown command of noise 'mak': did you mean 'make'?"),
        (["noise", "make", "symetric", "digits"], "unknown noise 'symetric': did you mean"),
        (["noise", "make", "symmetric", "digits"], "noise: 'symmetric' needs rate"),
        (
            ["noise", "make", "symmetric", "digits", "--rate", "2"],
            "noise: rate must be in [0, 1], got 2",
        ),
        (
            ["noise", "make", "symmetric", "digits", "--rate", "0.4", "--noise.rate", "0.2"],
            "--noise.rate: must be left out beside --rate",
        ),
        (
            ["noise", "make", "symmetric", "digits", "--noise.name", "pairflip"],
            "--noise.name: must be left out beside the kind",
        ),
        (["noise", "make", "none", "digits", "--rat", "1"], "unknown option of noise make '--rat'"),
        (
            ["noise", "make", "pairflip", "digits", "--rate", "0.1", "--out", "a.txt"],
            "a.txt: expected a name that ends in .npy",
        ),
        (
            ["noise", "make", "pairflip", "digits", "--rate", "0.1", "--noise.map", "x"],
            "noise: unknown parameter of 'pairflip' 'map'",
        ),
        (["noise", "inspect", "no.npy"], "no.npy: no such label file"),
        (
            ["noise", "inspect", "short.npy", "--data", "digits"],
            "short.npy: expected 1437 labels, one per training example, got 3",
        ),
        (
            ["noise", "inspect", "range.npy", "--data", "digits"],
            "range.npy: row 0: expected a label in 0..9, got 10",
        ),
        (["noise", "inspect", "float.npy"], "float.npy: expected a one-dimensional array"),
        (
            ["noise", "inspect", "short.npy", "--clean", "range.npy"],
            "short.npy: expected 1437 labels, one per training example, got 3",
        ),
        (["noise", "inspect", "short.npy", "--out", "x.svg"], "x.svg: expected labels whose true"),
        (["noise", "inspect", "huge.npy"], "given labels: row 1: expected a label in 0..9999"),
        (
            ["noise", "inspect", "huge.npy", "--clean", "short.npy"],
            "huge.npy: row 1: expected a label in 0..0, got 1000000000000",
        ),
        (["noise", "inspect", "zip.npy"], "zip.npy: expected a .npy file of integer labels"),
        (["noise", "inspect", "claim.npy"], "claim.npy: expected a .npy file of integer labels"),
        (
            ["noise", "inspect", "order.pt", "--data", "digits"],
            "order.pt: its clean labels differ from the dataset's in",
        ),
        (
            ["noise", "make", "symmetric", "digits", "--rate", "0.4", "--seed", "-1"],
            "seed: expected a value greater than or equal to 0, got -1",
        ),
        (["data", "show", "digit"], "unknown data 'digit': did you mean 'digits'?"),
        (["data", "show", "photos2"], "unknown data 'photos2' (known: "),
        (
            ["data", "show", "digits", "--out", "a.html", "--out=b.html"],
            "--out is given twice: a command has one value of it",
        ),
        (["data", "show", "folder:nowhere"], "nowhere: expected a folder"),
        (["data", "check", "cifar10", "."], "unknown dataset to check 'cifar10'"),
        (["data", "check", "webvision", "."], "info/train_filelist_google.txt: cannot be read"),
    ],
)
def test_bad_words_of_noise_and_data(run, capsys, words, message):
    np.save("short.npy", np.zeros(3, dtype=np.int64))
    np.save("float.npy", np.zeros(1437))
    np.save("range.npy", np.full(1437, 10))
    np.save("huge.npy", np.array([0, 10**12, 0]))
    Path("zip.npy").write_bytes(b"PK\3\4 and no more")
    claim = np.lib.format.magic(1, 0) + b"\x76\0{'descr': '<i8', 'fortran_order': False, "
    Path("claim.npy").write_bytes(claim + b"'shape': (100000000000,), }".ljust(118 - 44) + b"\n")
    order = np.arange(1437) % 10
    torch.save({"clean_label": order, "noisy_label": order, "meta": "x"}, "order.pt")
    before = sorted(Path().iterdir())
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"noisylabels: {message}")
    assert shown.err.count("\n") == 1
    assert sorted(Path().iterdir()) == before


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_page_table_and_run_of_a_file_whose_name_is_no_text(run, capsys):
    odd = os.fsdecode(b"caf\xe9")
    for number in range(12):
        array = np.full((8, 8, 3), 20 * number, dtype=np.uint8)
        name = f"{odd if number < 2 else ''}{number}.png"
        try:
            save(Path("photos", ("dark", "light")[number > 5], name), array)
        except OSError:
            pytest.skip("this file system takes UTF-8 only")
    assert main(["data", "show", "photos", "--out", "page.html"]) == 0
    assert "caf\\udce9" in Path("page.html").read_text(encoding="utf-8")
    Path("run.toml").write_text(
        'epochs = 1\ndata = { name = "folder", root = "photos" }\n'
        'model = { name = "mlp", hidden = [4] }\n'
    )
    assert main(["train", "run.toml"]) == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    places = np.load(folder / "labels.npz")
    names = [Path(place).name for key in ("places", "test_places") for place in places[key]]
    assert sum(name.startswith(odd) for name in names) == 2
    assert main(["report", "runs"]) == 0
    assert main(["status", "runs"]) == 0
    lines = ["path,label"]
    for path in sorted(Path("photos").glob("*/*.png")):
        lines.append(f"{path},{path.parent.name}")
    Path("table.csv").write_bytes(os.fsencode("\n".join(lines)))
    assert main(["data", "show", "table.csv", "--out", "table.html"]) == 0
    assert "12 images" in capsys.readouterr().out
    broken = b"path,label\n" + os.fsencode(lines[1]).replace(b"dark", b"d\xe4rk") + b"\n"
    Path("latin.csv").write_bytes(broken)
    assert main(["data", "show", "latin.csv"]) == 2
    assert "latin.csv: row 2: expected a label in UTF-8" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_run_of_a_class_whose_name_is_no_text(run, capsys):
    for number in range(20):
        array = np.full((8, 8, 3), 10 * number, dtype=np.uint8)
        try:
            save(
                Path("photos", (os.fsdecode(b"caf\xe9"), "tea")[number % 2], f"{number}.png"), array
            )
        except OSError:
            pytest.skip("this file system takes UTF-8 only")
    Path("run.toml").write_text(
        'epochs = 1\ndata = { name = "folder", root = "photos" }\n'
        'model = { name = "mlp", hidden = [4] }\n'
    )
    assert main(["train", "run.toml"]) == 0
    assert main(["report", "runs"]) == 0
    assert main(["data", "show", "photos", "--out", "page.html"]) == 0
    assert "caf\\udce9" in Path("page.html").read_text(encoding="utf-8")
