import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from noisylabels.errors import CheckpointError, NoisyLabelsError
from noisylabels.run.config import parse
from noisylabels.run.launch import ending_others, is_global_zero


@pytest.mark.parametrize(
    ("error", "saves"),
    [
        (NoisyLabelsError("not finite"), True),
        (CheckpointError("disk full"), False),
        (OSError("of a callback"), False),
    ],
)
def test_other_processes_may_save_only_where_all_fail_alike(tmp_path, error, saves):
    code = "import sys, time; print(flush=True); time.sleep(1); open(sys.argv[1], 'w')"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "batch")], stdout=subprocess.PIPE
    )
    other.stdout.readline()
    launcher = SimpleNamespace(procs=[other])
    processes = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
    with pytest.raises(type(error)), ending_others(processes):
        raise error
    assert launcher.procs == [], "nobody watches what was ended on purpose"
    assert other.wait(10) == (0 if saves else -signal.SIGKILL)
    assert (tmp_path / "batch").exists() is saves
    other.stdout.close()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        # torchrun's second machine, srun's second task, a second process within a Slurm shell.
        ({"RANK": "4", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "1"}, False),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),
    ],
)
def test_one_process_is_global_zero(digits, monkeypatch, environment, expected):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_global_zero(parse(digits | {"devices": 2})) is expected
    assert is_global_zero(parse(digits))


def test_fabric_comes_without_what_takes_seconds_and_nothing_uses():
    """In this environment it would bring torchmetrics, which can still be imported after."""
    code = (
        "import importlib.util, sys, noisylabels.run.launch; print(*sys.modules)\n"
        "print(importlib.util.find_spec('torchmetrics').name)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    brought, later = run.stdout.splitlines()
    assert "lightning_fabric" in brought.split()
    assert not {"torchmetrics", "transformers", "scipy"} & set(brought.split())
    assert later == "torchmetrics"
