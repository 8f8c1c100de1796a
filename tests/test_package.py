"""What is published: the source distribution, the wheel, and what the wheel alone can do."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import noisylabels

ROOT = Path(__file__).parents[1]


def run(*words, **options):
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=300, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of both, the wheel made from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run("-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The folder that the wheel alone is installed in; what it needs is the environment's."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = built.glob("*.whl")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, wheel)
    return folder


@pytest.mark.slow
def test_what_is_published_has_the_version_and_a_page_that_renders(built):
    names = sorted(path.name for path in built.iterdir())
    version = noisylabels.__version__
    assert names == [f"noisylabels-{version}-py3-none-any.whl", f"noisylabels-{version}.tar.gz"]
    checked = run("-m", "twine", "check", "--strict", *built.iterdir())
    assert checked.count("PASSED") == 2


@pytest.mark.slow
def test_each_holds_what_it_is_for(built):
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        packed = {name for name in file.namelist() if ".dist-info/" not in name}
    here = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src/noisylabels").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert packed == here
    with tarfile.open(source) as file:
        top = {name.split("/")[1] for name in file.getnames()}
    assert {"src", "tests", "docs", "LICENSE", "README.md", "CHANGELOG.md"} <= top


COMMANDS = """
import sys
import noisylabels
from noisylabels.__main__ import main

assert noisylabels.__file__.startswith(sys.argv[1]), noisylabels.__file__
for command in (
    "train run.toml --out runs",
    "report runs --out report.html",
    "audit runs --out audit",
    "paper table2 --scale digits --rows ce --columns symmetric:0.4 --seeds 1 --dry-run",
):
    assert main(command.split()) == 0, command
"""


@pytest.mark.slow
def test_the_wheel_alone_trains_and_writes_its_pages(installed, tmp_path):
    (tmp_path / "run.toml").write_text('data = "digits"\nmodel = "mlp"\nepochs = 1\n')
    environment = os.environ | {"PYTHONPATH": str(installed)}
    run("-c", COMMANDS, installed, cwd=tmp_path, env=environment)
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "audit/audit.html").exists()


SCRIPT = """
from pathlib import Path

import numpy as np
from torch import nn
from transformers import TrainerCallback

import noisylabels
from noisylabels.integrations import set_progress
from noisylabels.integrations.lightning import LossProgress as Lightning
from noisylabels.integrations.skorch import Progress, RobustNetClassifier
from noisylabels.integrations.transformers import LossFunction, LossProgress
from noisylabels.losses import DynamicsAwareLoss
from noisylabels.sklearn import LabelIssues, RobustClassifier

loss = DynamicsAwareLoss(q_start=0.6)
loss.progress = 0.5
q: float = loss.q
set_progress(nn.ModuleList([loss]), 0.7)
classifier = noisylabels.load("runs/1")
names: tuple[str, ...] = classifier.classes
run: Path = noisylabels.train({"data": "digits"})
x, y = np.zeros((4, 2)), np.array([0, 1, 0, 1])
issues: LabelIssues = RobustClassifier(loss, epochs=5).fit(x, y).find_label_issues()
rate: float = issues.noise_rate
net = RobustNetClassifier(nn.Linear(2, 2), criterion="gce", callbacks=[Progress(epochs=5)])
callbacks: list[TrainerCallback] = [LossProgress(loss)]
function, callback = LossFunction(loss), Lightning()
"""


@pytest.mark.long
def test_a_script_is_checked_against_its_types(installed, tmp_path):
    (tmp_path / "right.py").write_text(SCRIPT)
    (tmp_path / "wrong.py").write_text(SCRIPT + 'DynamicsAwareLoss(q_start="high")\n')
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "right.py", "wrong.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    error, summary = checked.stdout.splitlines()
    place = f"wrong.py:{len(SCRIPT.splitlines()) + 1}"
    assert error.startswith(f'{place}: error: Argument "q_start" to "DynamicsAwareLoss" has')
    assert summary == "Found 1 error in 1 file (checked 2 source files)"


def test_the_oldest_torch_is_the_lowest_that_installs_and_ci_tries_it():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (needed,) = settings["project"]["dependencies"]
    lowest = needed.removeprefix("torch>=")
    makefile = (ROOT / "Makefile").read_text()
    assert f"torch=={lowest}.0" in makefile
    workflow = (ROOT / ".github/workflows/tests.yml").read_text()
    assert "run: make ${{ matrix.target }}\n" in workflow
    (targets,) = re.findall(r"target: \[(.*)\]", workflow)
    assert targets == "test, long, oldest"
    assert {*targets.split(", ")} <= {*re.findall(r"^(\w+):", makefile, re.MULTILINE)}
    (python,) = re.findall(r'python-version: "(.*)"', workflow)
    assert settings["project"]["requires-python"] == f">={python}"
