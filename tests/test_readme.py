"""What README.md shows is tried as it stands: its commands, files and snippets."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from noisylabels.__main__ import main
from noisylabels.run import config
from noisylabels.run.folder import RunFolder
from noisylabels.run.plan import plan
from noisylabels.run.trainer import train
from pictures import encode, pixels, save, write

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


def blocks(language):
    return [block for name, block in BLOCKS if name == language]


def commands():
    """Return the words of every command of the console blocks, without comments."""
    lines = "".join(blocks("console")).replace("\\\n", " ").splitlines()
    assert all(line.startswith("$ ") for line in lines), "commands alone, no output"
    return [shlex.split(line[2:], comments=True) for line in lines]


COMMANDS = commands()


def is_study(text):
    return "base" in tomllib.loads(text)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A clone, with the user's files that the README speaks of, and one short run."""
    clone = tmp_path_factory.mktemp("clone")
    tracked = ["Makefile", "README.md", "pyproject.toml", "docs", "examples", "src"]
    for name in tracked:
        (clone / name).symlink_to(ROOT / name)
    for number in range(20):
        save(
            clone / "photos" / ("ant", "bee")[number % 2] / f"{number}.png",
            pixels(number, (32, 32, 3)),
        )
    images = [encode(pixels(number, (32, 32, 3))) for number in range(20)]
    (clone / "cifar10").mkdir()
    for part in ("train", "test"):
        write(clone / "cifar10" / f"{part}.parquet", images, [*range(10)] * 2)
    np.save(clone / "cifar10_40.npy", np.zeros(50_000, dtype=np.int64))
    folder = f"folder:{clone / 'photos'}"
    labels = ["--out", str(clone / "labels.npy")]
    assert main(["noise", "make", "symmetric", folder, "--rate", "0.2", *labels]) == 0
    (clone / "run.toml").write_text(blocks("toml")[0])
    (study,) = (text for text in blocks("toml") if is_study(text))
    (clone / "study.toml").write_text(study)
    run = tomllib.loads(blocks("toml")[0])
    train(config.parse(run | {"epochs": 1}), clone / "runs")
    (clone / "weights").mkdir()
    torch.manual_seed(0)
    weights = timm.create_model("test_resnet", pretrained=False).state_dict()
    torch.save(weights, clone / "weights" / "tiny.pth")
    fit = ["fit", folder, "--out", str(clone / "fit")]
    assert main([*fit, "--backbone", "test_resnet", "--weights", f"{clone}/weights/tiny.pth"]) == 0
    return clone


@pytest.fixture
def clone(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def test_the_readme_has_what_is_tried_here():
    assert len(COMMANDS) >= 15
    assert {words[0] for words in COMMANDS} == {"make", "noisylabels", "source"}
    tried = {words[1] for words in COMMANDS if words[0] == "noisylabels"}
    assert tried == {"fit", "apply", "train", "sweep", "report", "table", "paper", "data", "noise"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_can_be_run_from_a_clone(clone, monkeypatch, words):
    def plan_only(made, out, callbacks):
        plans.append(made)
        return Path(out, made.run_id)

    plans = []
    # Hours of training, and downloads: all that comes before them is tried.
    monkeypatch.setattr("noisylabels.run.trainer.train", plan_only)
    if words[0] == "make":
        assert len(words) == 2
        dry = subprocess.run(["make", "--dry-run", words[1]], capture_output=True, text=True)
        assert dry.returncode == 0, dry.stderr
        assert ".venv/bin" in dry.stdout
    elif words[0] == "source":
        # What `make demo` makes.
        assert words[1:] == [".venv/bin/activate"]
        assert "-m venv .venv" in (clone / "Makefile").read_text(encoding="utf-8")
    else:
        # Without a network there are no published weights.
        local = ["--backbone", "test_resnet", "--weights", "weights/tiny.pth"]
        dry = {"sweep": ["--dry-run"], "paper": ["--dry-run"], "fit": local}.get(words[1], [])
        assert main([*words[1:], *dry]) == 0
        assert len(plans) == (words[1] == "train")


@pytest.mark.parametrize("text", [text for text in blocks("toml") if not is_study(text)])
def test_every_file_is_a_run(clone, text):
    assert plan(config.parse(tomllib.loads(text))).run_id


@pytest.mark.parametrize("text", blocks("python"))
def test_every_snippet_runs(text):
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 3)
    before = network.weight.clone()
    names = {
        "epochs": 2,
        "network": network,
        "loader": [(torch.randn(8, 4), torch.arange(8) % 3)] * 3,
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.1),
    }
    exec(text, names)
    assert not torch.equal(network.weight, before)
    assert names["loss"].progress == 0.5


def test_a_run_folder_holds_what_is_listed(clone):
    (listing,) = (block for block in blocks("") if "<run_id>/" in block)
    listed = re.findall(r"^    (\S+)  ", listing, flags=re.MULTILINE)
    assert len(listed) >= 7
    (folder,) = RunFolder.find([clone / "runs"])
    assert set(listed) <= {path.name for path in folder.path.iterdir()}


def test_every_file_that_is_named_is_there():
    named = re.findall(r"\b(?:docs|examples|src|benchmarks)/[\w./-]*\w", TEXT)
    assert len(named) > 10
    for name in named:
        place = ROOT / name
        assert place.exists() or place.with_suffix(".md").exists(), name
    assert shutil.which("make")
