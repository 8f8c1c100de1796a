import pytest

from noisylabels.run import timing
from noisylabels.run.config import parse
from noisylabels.run.plan import plan
from noisylabels.run.timing import seconds_per_epoch


class Clock:
    """A clock on which every look takes a second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("method", ["single", "elr", "coteaching", "dividemix"])
def test_an_epoch_is_as_many_steps_as_it_has_and_its_evaluation(digits, monkeypatch, method):
    options = {"forget_rate": 0.4} if method == "coteaching" else {}
    views = {"augment": {"name": "crop-flip", "padding": 1}} if method == "dividemix" else {}
    made = plan(parse(digits | views | {"method": {"name": method, **options}}))
    monkeypatch.setattr(timing.time, "perf_counter", Clock())
    # Two steps take a second: 1437 examples are 22.5 steps of 64, and 1797 predictions as many
    # examples' forward passes.
    expected = (1437 + 1797 / 3) / 64 / 2
    assert seconds_per_epoch(made) == pytest.approx(expected)
    rarely = plan(parse(digits | views | {"method": {"name": method, **options}} | EVERY_TENTH))
    assert seconds_per_epoch(rarely) == pytest.approx((1437 + 179.7 / 3) / 64 / 2)


EVERY_TENTH = {"evaluate_every": 10}


def test_of_a_set_of_two_steps_these_are_timed(digits, monkeypatch):
    made = plan(parse(digits | {"data": {"name": "digits", "limit": 100}}))
    monkeypatch.setattr(timing.time, "perf_counter", Clock())
    assert seconds_per_epoch(made) == pytest.approx((100 + 460 / 3) / 64 / 2)
