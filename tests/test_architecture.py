"""The rules of the house that no other test would notice."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import noisylabels

PACKAGE = Path(noisylabels.__file__).parent
CORE = (
    "candidates",
    "errors",
    "functional",
    "_fused",
    "integrations",
    "labels",
    "linear",
    "losses",
    "noise",
    "schedules",
    "votes",
    "votes",
)


def brought_beside_torch(statement: str) -> set[str]:
    code = f"import sys, torch; print(*sys.modules); {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = (
        {name.partition(".")[0] for name in line.split()} for line in run.stdout.splitlines()
    )
    return after - before


def imported(node) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").partition(".")[0]}
    return set()


def test_core_imports_torch_and_nothing_else():
    """In the text, since torch itself may bring NumPy, and in a fresh interpreter."""
    for room in CORE:
        top = ast.parse(rooms()[room].read_text()).body
        names = set().union(*map(imported, top))
        assert names <= {"torch", "noisylabels", *sys.stdlib_module_names}, room
    statement = ", ".join(f"noisylabels.{name}" for name in CORE)
    extra = brought_beside_torch(f"import {statement}")
    assert extra - set(sys.stdlib_module_names) == {"noisylabels"}


@pytest.mark.parametrize("missing", ["numpy", "pydantic"])
def test_with_torch_alone_the_packages_functions_name_their_extra(missing):
    code = f"""
import sys
sys.modules[{missing!r}] = None
import noisylabels
for name in ("load", "train", "runs", "audit", "grid"):
    try:
        getattr(noisylabels, name)
        print("found")
    except ImportError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = f"{missing} is not installed: pip install 'noisylabels[train]'"
    said = run.stdout.splitlines()
    assert len(said) == 5
    assert set(said) <= {expected, "found"}
    assert said[0] == expected


def test_help_does_not_import_torch():
    """Which alone takes seconds; how long it takes is in benchmarks/startup.py."""
    command = [sys.executable, "-X", "importtime", "-m", "noisylabels", "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "noisylabels.errors" in imported
    assert not imported & {"torch", "numpy", "pydantic"}


def test_labels_are_made_without_what_only_training_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["noise", "make", "symmetric", "digits", "--rate", "0.4"]
    code = f"import sys; from noisylabels.cli import run; run({words}); print(*sys.modules)"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(made.stdout.splitlines()[-1].split())
    assert "torch" in loaded
    assert not loaded & {"lightning_fabric", "torch._dynamo"}


def rooms() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "__init__.py"
    }


def test_only_the_launch_knows_fabric():
    knowing = {name for name, path in rooms().items() if "lightning_fabric" in path.read_text()}
    assert knowing == {"run.launch"}


def test_no_device_is_named():
    for path in rooms().values():
        assert not re.search(r"\.cuda\(|to\(.cuda|device=.cuda", path.read_text()), path


def test_package_is_typed_and_lazy():
    assert (PACKAGE / "py.typed").exists()
    assert noisylabels.losses.build("gce", q=0.5).q == 0.5
    assert {"losses", "noise"} <= set(dir(noisylabels))
    with pytest.raises(AttributeError, match="no attribute 'loses'"):
        noisylabels.loses  # noqa: B018
