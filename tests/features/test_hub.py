"""Networks by their names alone: what they weigh comes from a hub, once."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub import constants

import hub
from noisylabels.errors import ConfigError
from noisylabels.features.hub import without_retries
from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.trainer import train
from pictures import class_folders

pytestmark = pytest.mark.slow


@pytest.fixture
def photos(tmp_path, backbone):
    """A short run on photos, which names a network of timm and no file of its weights."""
    named = {key: value for key, value in backbone.items() if key != "weights"}
    return {
        "data": {"name": "folder", "root": str(class_folders(tmp_path / "photos"))},
        "features": named,
        "model": "linear",
        "epochs": 2,
    }


@pytest.fixture
def command(tmp_path):
    """Train a run in a new process that knows a hub by its address; return what it says."""
    path = tmp_path / "run.toml"

    def command(run, address, runs):
        tables = [key for key, value in run.items() if isinstance(value, dict)]
        lines = [f"{key} = {json.dumps(run[key])}" for key in run if key not in tables]
        for key in tables:
            lines += [f"[{key}]", *(f"{k} = {json.dumps(v)}" for k, v in run[key].items())]
        path.write_text("\n".join(lines))
        own = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub")}
        own |= {"HF_HUB_DISABLE_XET": "1", "NOISYLABELS_CACHE": str(tmp_path / runs / "cache")}
        words = ["train", str(path), "--out", str(tmp_path / runs)]
        done = subprocess.run(
            [sys.executable, "-m", "noisylabels", *words],
            env=os.environ | own,
            capture_output=True,
            text=True,
        )
        return done.stderr, done.returncode

    return command


def predicted(folder):
    return RunFolder(folder).predictions()["test_probabilities"]


def only(runs):
    (folder,) = (path.parent for path in runs.glob("*/result.json"))
    return folder


def test_weights_of_a_network_are_downloaded_once(photos, backbone, command, tmp_path):
    repository = tmp_path / "served/timm/test_resnet.r160_in1k"
    repository.mkdir(parents=True)
    shutil.copy(backbone["weights"], repository / "model.safetensors")
    with hub.serve(tmp_path / "served") as (address, downloads):
        said, status = command(photos, address, "first")
        assert status == 0, said
        assert downloads == ["timm/test_resnet.r160_in1k/model.safetensors"]
    # Neither the hub is there any more nor what was kept of the vectors.
    said, status = command(photos, address, "second")
    assert status == 0, said
    assert "Retrying" not in said
    local = train(parse(photos | {"features": backbone}), tmp_path / "local")
    for runs in ("first", "second"):
        np.testing.assert_array_equal(predicted(only(tmp_path / runs)), predicted(local))


@pytest.mark.long
def test_a_network_that_cannot_be_had_is_named(photos, command, tmp_path):
    (tmp_path / "served").mkdir()
    with hub.serve(tmp_path / "served") as (address, _):
        said, status = command(photos, address, "runs")
    assert status == 2
    assert "'test_resnet': its weights cannot be downloaded" in said
    assert "weights = FILE takes a local file" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "runs").glob("*/result.json"))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"name": "timm", "model": "test_resnet"}, r"downloaded \(.*http://127.0.0.1:1 cannot"),
        ({"name": "sentence", "model": "owner/network"}, "expected a folder of sentence-trans"),
    ],
)
def test_a_hub_that_is_out_of_reach_is_asked_once(
    features, message, photos, tmp_path, monkeypatch, caplog
):
    pytest.importorskip({"timm": "timm", "sentence": "sentence_transformers"}[features["name"]])
    (tmp_path / "texts.csv").write_text("text,label\n" + "good,yes\nbad,no\n" * 4)
    texts = {"name": "text", "path": str(tmp_path / "texts.csv")}
    monkeypatch.setattr("noisylabels.features.hub.getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    # Nothing takes connections at the first port.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    data = texts if features["name"] == "sentence" else photos["data"]
    with pytest.raises(ConfigError, match=message):
        train(parse(photos | {"data": data, "features": features}), tmp_path / "runs")
    assert "Retrying" not in caplog.text
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("proxies", [{"http": "http://proxy:1"}, {"all": "http://proxy:1"}])
def test_a_proxy_is_trusted_to_reach_the_hub(proxies, monkeypatch):
    monkeypatch.setattr("noisylabels.features.hub.getproxies", lambda: proxies)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    before = constants.HF_HUB_OFFLINE
    with without_retries():
        assert before == constants.HF_HUB_OFFLINE
