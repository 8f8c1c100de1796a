import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
