from pathlib import Path

import pytest

from noisylabels.run.callbacks import Callback, Callbacks, Start

START = Start("name", Path("runs/abc"), 0, 2, {}, ())


class Noted(Callback):
    def __init__(self, calls, name, fails=None):
        self.calls, self.name, self.fails = calls, name, fails

    def _note(self, what):
        self.calls.append(f"{self.name} {what}")
        if what == self.fails:
            raise RuntimeError(self.name)

    def on_start(self, start):
        self._note("start")

    def on_end(self):
        self._note("end")


def test_all_are_ended_once_even_where_another_ones_end_fails():
    calls = []
    callbacks = Callbacks([Noted(calls, "a"), Noted(calls, "b", fails="end")])
    callbacks.on_start(START)
    with pytest.raises(RuntimeError, match="b"):
        callbacks.on_end()
    callbacks.on_end()
    assert calls == ["a start", "b start", "b end", "a end"]


def test_what_was_not_started_is_not_ended():
    calls = []
    callbacks = Callbacks([Noted(calls, "a"), Noted(calls, "b", fails="start"), Noted(calls, "c")])
    with pytest.raises(RuntimeError, match="b"):
        callbacks.on_start(START)
    callbacks.on_end()
    assert calls == ["a start", "b start", "a end"]


def test_a_callback_need_not_follow_anything():
    silent = Callback()
    silent.on_start(START)
    silent.on_message("something")
    silent.on_epoch({"epoch": 0})
    silent.on_end()
