"""The recipes of CONTRIBUTING.md, followed from outside the package."""

import re
from pathlib import Path

import pytest

from noisylabels.run.callbacks import Callback
from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.trainer import train

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
BLOCKS = {
    re.match(r"# (\w+\.py)\n", block)[1]: block
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
}


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """The page's files, in the folder that a run is started from."""
    for name, block in BLOCKS.items():
        (tmp_path / name).write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


class Epochs(Callback):
    def __init__(self):
        self.seen = []

    def on_epoch(self, metrics):
        self.seen.append(metrics)


def test_a_loss_a_method_and_a_source_of_ones_own_train_together(outside):
    assert set(BLOCKS) == {"my_loss.py", "my_method.py", "my_source.py"}
    run = {
        "data": {"name": "my_source:Moons", "spread": 0.05},
        "noise": {"name": "symmetric", "rate": 0.3},
        "method": {"name": "my_method:Patient", "warmup": 2},
        "loss": {
            "name": "my_loss:Margin",
            "margin": {"schedule": "linear", "start": 1, "end": 0.2},
        },
        "model": {"name": "mlp", "hidden": [32]},
        "optimizer": {"lr": 0.1},
        "batch_size": 20,
        "epochs": 30,
    }
    follower = Epochs()
    folder = train(parse(run), outside / "runs", [follower])
    result = RunFolder(folder).result()
    assert result["test_accuracy"] > 0.8
    assert 0.05 < result["actual_noise_rate"] < 0.3
    margins = [metrics["margin"] for metrics in follower.seen]
    assert margins == pytest.approx([1 - 0.8 * epoch / 30 for epoch in range(30)])
    other = run | {"method": "single"}
    assert train(parse(other), outside / "runs") != folder


def test_the_page_names_files_that_there_are():
    root = PAGE.parent
    names = set(re.findall(r"`((?:docs|tests|benchmarks|src)[/\w.]*)`", PAGE.read_text()))
    inside = set(re.findall(r"`((?:run|methods|data|paper)/\w+\.py)`", PAGE.read_text()))
    assert len(names) > 5
    assert len(inside) > 5
    missing = [name for name in names if not (root / name).exists()]
    missing += [name for name in inside if not (root / "src/noisylabels" / name).exists()]
    assert missing == []
