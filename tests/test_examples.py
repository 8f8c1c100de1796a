from pathlib import Path

import numpy as np
import pytest

from noisylabels import config
from noisylabels.trainer import plan

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = tmp_path / "label/symmetric/cifar10_40.npy"
    labels.parent.mkdir(parents=True)
    np.save(labels, np.zeros(50_000, dtype=np.int64))
    made = plan(config.load(path))
    assert made.config.loss.name == "dal"
    assert made.config.noise.parameters["rate"] == 0.4


def test_there_are_examples():
    assert len(EXAMPLES) >= 2
