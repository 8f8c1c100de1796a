"""What several tests share."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from safetensors.torch import save_file

import warm

# A busy machine is no reason to fail, and every draw comes again.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture
def shared() -> Path:
    """The folder of real data and oracles that lies beside a developer's checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not on this machine")
    return SHARED


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    """A test's own folder of what is remembered between runs, which does not exist yet."""
    monkeypatch.setenv("NOISYLABELS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def own_module(tmp_path, monkeypatch) -> Callable[[str, str], Path]:
    """Write a user's own module, named and with a text, that this test alone can import."""

    def write(name: str, text: str) -> Path:
        file = tmp_path / f"{name}.py"
        file.write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return file

    return write


@pytest.fixture(scope="session")
def backbone(tmp_path_factory) -> dict:
    """Features of a tiny network of timm, with a file of weights."""
    timm = pytest.importorskip("timm")
    path = tmp_path_factory.mktemp("backbone") / "weights.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_resnet", pretrained=False)
    save_file(network.state_dict(), path)
    return {"name": "timm", "model": "test_resnet", "weights": str(path), "size": 32}


@pytest.fixture
def digits() -> dict:
    """The smallest ordinary run, as it stands in a TOML file."""
    return {
        "data": {"name": "digits"},
        "noise": {"name": "symmetric", "rate": 0.4},
        "model": {"name": "mlp", "hidden": [32]},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "batch_size": 64,
        "epochs": 3,
    }


@pytest.fixture
def begin(tmp_path) -> Iterator[Callable[..., warm.Job]]:
    """Start warm processes of the command line, which do not outlive the test."""
    jobs = []

    def begin(*words: object, target: Callable = warm.saving, **options) -> warm.Job:
        number = len(jobs)
        shown = [tmp_path / f".job{number}.{name}" for name in ("out", "err")]
        jobs.append(warm.Job(target, *map(str, words), shown=shown, **options))
        return jobs[-1]

    yield begin
    for job in jobs:
        job.kill()
        job.communicate()
