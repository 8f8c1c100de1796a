"""The scripts in examples/loops, in processes of their own: what they print is what they reach."""

import re
from pathlib import Path

import pytest

import warm

LOOPS = Path(__file__).parents[1] / "examples" / "loops"
MARKS = {"fastai_learner": "slow", "keras_model": "slow", "timm_train": "long"}
"""Of those whose libraries alone take seconds to import; one starts further processes."""
NAMES = [path.stem for path in sorted(LOOPS.glob("*.py"))]


def marked(name):
    marks = [getattr(pytest.mark, MARKS[name])] if name in MARKS else []
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [marked(name) for name in NAMES])
def test_a_script_reaches_its_accuracy_and_moves_its_loss(begin, name):
    job = begin((LOOPS / f"{name}.py").read_text(encoding="utf-8"), target=warm.code)
    shown, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors
    (line,) = shown.splitlines()
    *moved, accuracy = map(float, re.findall(r"(\d+\.\d+)", line))
    # 36 % of the labels are wrong.
    assert accuracy > 90
    if name == "elr":
        assert moved[0] > 90
    else:
        # It started at 0.6 or below.
        assert 1.25 < moved[0] <= 1.5


def test_the_page_speaks_of_every_script():
    page = LOOPS.parents[1] / "docs" / "integrations.md"
    named = set(re.findall(r"examples/loops/(\w+)\.py", page.read_text(encoding="utf-8")))
    assert named == set(NAMES)
