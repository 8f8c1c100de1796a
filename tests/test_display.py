import io
import re
from pathlib import Path

from rich.console import Console

from noisylabels import display
from noisylabels.display import Display
from noisylabels.run.callbacks import Start


def start(name, folder, epoch, epochs):
    return Start(name, Path(folder), epoch, epochs, settings={}, history=())


def test_plain_lines_without_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=False, width=120)
    with Display(runs=2, epochs=4, console=console) as shown:
        shown.on_start(start("digits ce seed 0", "runs/abc", 1, 2))
        shown.on_epoch({"epoch": 1, "loss": 0.5, "test_accuracy": 0.25})
        shown.on_start(start("digits dal seed 0", "runs/xyz", 2, 2))
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "run 1 of 2: digits ce seed 0 (runs/abc): continues after epoch 1 of 2"
    assert lines[1].startswith("  epoch 2 of 2: loss 0.5000, test accuracy 25.0 %, 0 s left")
    assert lines[2] == ("run 2 of 2: digits dal seed 0 (runs/xyz): finished already, nothing to do")
    assert len(lines) == 3


def test_what_holds_for_all_runs_is_said_once():
    console = Console(file=io.StringIO(), force_terminal=False, width=120)
    with Display(runs=2, epochs=2, console=console) as shown:
        for run in ("runs/abc", "runs/xyz"):
            shown.on_message("3 images could not be read")
            shown.on_start(start("digits ce", run, 0, 1))
            shown.on_message("every example is predicted as class 7")
            shown.on_end()
    told = console.file.getvalue()
    assert told.count("3 images could not be read") == 1
    # What has happened to one run says nothing of the other.
    assert told.count("every example is predicted as class 7") == 2


def test_bar_on_a_terminal_shows_run_epochs_and_accuracy():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with Display(runs=9, epochs=1350, console=console) as shown:
        shown.on_start(start("digits dal seed 0", "runs/abc", 149, 150))
        shown.on_epoch({"epoch": 149, "loss": 0.5, "test_accuracy": 0.25})
    text = console.file.getvalue()
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).rstrip().rpartition("\n")[2]
    # 149 epochs were there before and are not to be waited for.
    assert re.search(r"1/9 digits dal seed 0 25\.0 % \S+ +1/1201 epochs .* left", last), last


def test_lines_are_spaced_in_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    console = Console(file=io.StringIO(), force_terminal=False, width=120)
    with Display(runs=1, epochs=100, console=console) as shown:
        shown.on_start(start("run", "x", 0, 100))
        for epoch in range(100):
            clock[0] += 1
            shown.on_epoch({"epoch": epoch, "loss": 0.5, "test_accuracy": 0.5})
    lines = console.file.getvalue().splitlines()[1:]
    assert len(lines) == 10
    assert lines[0].endswith("1 min 29 s left")
