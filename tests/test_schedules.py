import functools
import itertools
import sys
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from following import Following
from noisylabels import schedules
from noisylabels.errors import ConfigError

unit = st.floats(0, 1)
exponent = st.floats(0, 5)


@pytest.mark.parametrize("schedule", [schedules.linear, schedules.cosine])
def test_ends(schedule):
    assert schedule(0.0, start=0.3, end=2.0) == pytest.approx(0.3)
    assert schedule(1.0, start=0.3, end=2.0) == pytest.approx(2.0)
    assert schedule(0.5, start=0.3, end=2.0) == pytest.approx(1.15)


def test_cosine_starts_and_ends_flat():
    assert 1 - schedules.cosine(0.01) < 0.001
    assert schedules.cosine(0.99) < 0.001


@settings(derandomize=True)
@given(unit, exponent, exponent, st.floats(0, 10))
def test_bootstrapping_is_bounded_and_waits_for_q_one(progress, q_start, q_end, lambda_end):
    lamb = schedules.bootstrapping(progress, q_start=q_start, q_end=q_end, lambda_end=lambda_end)
    assert 0 <= lamb <= lambda_end
    q = schedules.linear(progress, start=q_start, end=q_end)
    if q < 1 - 1e-9 and q_start < 1:
        assert lamb <= 1e-6 * (1 + lambda_end)
    if q_end <= 1:
        assert lamb == 0


@pytest.mark.parametrize(
    ("q_start", "q_end", "expected"),
    [
        (0.6, 1.5, 1.0),  # the paper's
        (0.5, 1.0, 0.0),  # the released code divides by zero
        (0.5, 0.9, 0.0),  # the released code grows past lambda_end
        (1.2, 1.2, 1.0),
        (1.0, 1.5, 1.0),
        (2.0, 1.5, 1.0),
        (0.0, 1.5, 1.0),
        (1.5, 0.5, 0.0),
    ],
)
def test_bootstrapping_at_the_end(q_start, q_end, expected):
    lamb = schedules.bootstrapping(1.0, q_start=q_start, q_end=q_end)
    assert lamb == pytest.approx(expected)


def test_bootstrapping_is_linear_from_where_q_passes_one():
    t0 = (1 - 0.6) / (1.5 - 0.6)
    for share in (0.0, 0.25, 0.5, 1.0):
        lamb = schedules.bootstrapping(
            t0 + share * (1 - t0), q_start=0.6, q_end=1.5, lambda_end=2.0
        )
        assert lamb == pytest.approx(2 * share, abs=1e-12)


def test_bootstrapping_starts_at_once_where_q_starts_above_one():
    assert schedules.bootstrapping(0.25, q_start=1.5, q_end=2.0) == pytest.approx(0.25)


def test_exponential_is_a_factor_per_epoch():
    end = 0.97**250
    values = [schedules.exponential(epoch / 250, end=end) for epoch in range(251)]
    assert values[0] == 1
    assert values[-1] == pytest.approx(end)
    for before, after in itertools.pairwise(values):
        assert after / before == pytest.approx(0.97)
    with pytest.raises(ConfigError, match="end must be in"):
        schedules.exponential(0.5, end=0.0)


def test_linear_waits():
    values = [schedules.linear(epoch / 200, begin=0.4) for epoch in (0, 79, 80, 81, 140, 200)]
    assert values == pytest.approx([1, 1, 1, 1 - 1 / 120, 0.5, 0])
    for begin in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="begin must be in"):
            schedules.linear(0.5, begin=begin)


@pytest.mark.parametrize("epochs", [30, 150, 200])
def test_steps_come_at_their_epochs_for_all_that_computers_round(epochs):
    for milestone in range(1, epochs):
        share = milestone / epochs
        values = [
            schedules.multistep(epoch / epochs, milestones=(share,), factor=0.5)
            for epoch in (milestone - 1, milestone)
        ]
        assert values == [1, 0.5]
    with pytest.raises(ConfigError, match="milestones must be in"):
        schedules.multistep(0.5, milestones=(80,))


class Falling:
    """A schedule that goes down a step with every bad epoch."""

    def __init__(self, value=1.0):
        self.value = value

    def __call__(self, progress):
        return self.value - progress

    def update(self, metrics):
        self.value /= 2

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


class TestHyperparameters:
    def test_numbers_and_callables_are_held_as_they_are(self):
        assert type(schedules.parse("q", 1)) is float
        for schedule in (schedules.cosine, Falling(), lambda progress: progress):
            assert schedules.parse("q", schedule) is schedule

    @pytest.mark.parametrize("key", schedules.SCHEDULES)
    def test_a_table_names_a_schedule(self, key):
        held = schedules.parse("q", {"schedule": key})
        for progress in (0.0, 0.3, 1.0):
            assert held(progress) == schedules.SCHEDULES[key](progress)

    def test_a_table_passes_its_arguments_on(self):
        held = schedules.parse("q", {"schedule": "linear", "start": 2, "end": 3, "begin": 0.5})
        assert [held(progress) for progress in (0.0, 0.5, 0.75, 1.0)] == [2, 2, 2.5, 3]
        steps = schedules.parse("q", {"schedule": "multistep", "milestones": [0.2], "factor": 0.5})
        assert [steps(progress) for progress in (0.1, 0.2)] == [1, 0.5]

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("0.7", "q must be a number, got '0.7'"),
            (True, "q must be a number, got True"),
            ([0.7], r"q must be a number, got \[0.7\]"),
            ({}, r"q: expected a table such as \{schedule = .linear., .*, got \{\}"),
            ({"schedule": 3}, "q: expected a table such as"),
            ({"schedule": "cosin"}, "q: unknown schedule 'cosin': did you mean 'cosine'"),
            ({"schedule": "linear", "progress": 0.5}, "unknown parameter of 'linear' 'progress'"),
            (
                {"schedule": "linear", "star": 1},
                "parameter of 'linear' 'star': did you mean 'start'",
            ),
            ({"schedule": "constant", "value": True}, "q: value must be a number, got True"),
            (
                {"schedule": "multistep", "milestones": "0.5"},
                "milestones must be a list of numbers",
            ),
            ({"schedule": "multistep", "milestones": [True]}, "milestones must be a number"),
        ],
    )
    def test_anything_else_is_named(self, value, message):
        with pytest.raises(ConfigError, match=message):
            schedules.parse("q", value)

    def test_a_state_has_all_its_parts(self):
        class Half:
            def __call__(self, progress):
                return 0.5

            def update(self, metrics): ...

        assert isinstance(Falling(), schedules.StatefulSchedule)
        assert not isinstance(schedules.linear, schedules.StatefulSchedule)
        with pytest.raises(ConfigError, match="q: a schedule with update needs state_dict and"):
            schedules.parse("q", Half())

    def test_what_is_foreseen(self):
        seen = schedules.foresee(functools.partial(schedules.cosine, start=2.0, end=1.0))
        assert list(seen) == list(schedules.GRID)
        assert (seen[0.0], seen[0.5], seen[1.0]) == (2.0, 1.5, 1.0)
        assert schedules.foresee(0.7) == {0.0: 0.7}
        assert schedules.foresee(Falling(3.0)) == {0.0: 3.0}

    def test_descriptions_are_as_typed(self):
        class Told(Falling):
            def __repr__(self):
                return f"Told({self.value})"

        partial = functools.partial(schedules.multistep, milestones=(0.5,), factor=0.1)
        assert schedules.describe(partial) == "multistep(milestones=(0.5,), factor=0.1)"
        assert schedules.describe(schedules.linear) == "linear"
        assert schedules.describe(Falling()) == "Falling()"
        assert schedules.describe(Told(2)) == "Told(2)"
        assert schedules.describe(0.7) == "0.7"


class Bare:
    def __call__(self, progress, level=0.5):
        return level


def test_an_instance_in_a_module_is_a_schedule_with_its_state(monkeypatch):
    module = types.ModuleType("own_schedules")
    module.kept, module.bare, module.Kept, module.half = Following(), Bare(), Following, half
    monkeypatch.setitem(sys.modules, "own_schedules", module)
    for name in ("kept", "Kept"):
        held = schedules.parse("q", {"schedule": f"own_schedules:{name}"})
        assert isinstance(held, schedules.StatefulSchedule)
        held.update({"accuracy": 0.9})
        assert held(0.0) == 0.9
    assert schedules.parse("q", {"schedule": "own_schedules:bare"})(0.3) == 0.5
    assert schedules.parse("q", {"schedule": "own_schedules:half", "of": 0.4})(0.3) == 0.2
    with pytest.raises(ConfigError, match="is an instance, which takes no arguments.*got level"):
        schedules.parse("q", {"schedule": "own_schedules:bare", "level": 0.7})


def half(progress, of):
    return of / 2
