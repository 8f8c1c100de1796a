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
from noisylabels.features import hub as hub_of_networks
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


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    """Let the hub be where nothing takes connections: at the first port."""
    monkeypatch.setattr(hub_of_networks, "getproxies", dict)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_weights_out_of_reach_are_asked_for_once(photos, no_hub, tmp_path, caplog):
    message = r"'test_resnet': its weights cannot be downloaded \(.*http://127.0.0.1:1 cannot be"
    with pytest.raises(ConfigError, match=message):
        train(parse(photos), tmp_path / "runs")
    assert "Retrying" not in caplog.text
    assert constants.HF_HUB_OFFLINE is False


def test_a_network_for_sentences_out_of_reach_is_asked_for_once(no_hub, tmp_path, caplog):
    (tmp_path / "texts.csv").write_text("text,label\n" + "good,yes\nbad,no\n" * 4)
    data = {"name": "text", "path": str(tmp_path / "texts.csv")}
    features = {"name": "sentence", "model": "owner/network"}
    with pytest.raises(ConfigError, match="'owner/network': expected a folder of sentence-trans"):
        train(parse({"data": data, "features": features}), tmp_path / "runs")
    assert "Retrying" not in caplog.text


@pytest.mark.parametrize("scheme", ["http", "all"])
def test_a_proxy_is_trusted_to_reach_the_hub(scheme, no_hub, monkeypatch):
    monkeypatch.setattr(hub_of_networks, "getproxies", lambda: {scheme: "http://proxy:1"})
    with hub_of_networks.without_retries():
        assert constants.HF_HUB_OFFLINE is False
