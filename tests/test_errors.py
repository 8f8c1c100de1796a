import math

import numpy as np
import pytest

from noisylabels import errors


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.ConfigError, ValueError),
        (errors.DataError, ValueError),
        (errors.CheckpointError, RuntimeError),
        (errors.MissingExtraError, ImportError),
    ],
)
def test_errors_are_ours_and_pythons(kind, builtin):
    assert issubclass(kind, errors.NoisyLabelsError)
    assert issubclass(kind, builtin)


def test_unknown_offers_no_far_name():
    assert errors.unknown("loss", "zzz", ["ce", "gce"]) == "unknown loss 'zzz' (known: ce, gce)"


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_range_returns_what_lies_in_it(value):
    assert errors.check_range("rate", value, high=1.0) == value


@pytest.mark.parametrize("value", [-1e-9, 1 + 1e-9, math.nan, math.inf, -math.inf])
def test_range_refuses_what_does_not(value):
    with pytest.raises(errors.ConfigError, match=r"^rate must be in \[0, 1\], got "):
        errors.check_range("rate", value, high=1.0)


def test_open_range_without_end():
    with pytest.raises(errors.ConfigError, match=r"lr must be in \(0, inf\), got 0"):
        errors.check_range("lr", 0, open=True)
    with pytest.raises(errors.ConfigError, match=r"lr must be in \(0, inf\), got inf"):
        errors.check_range("lr", math.inf, open=True)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5)])
def test_numbers_become_floats(value):
    assert type(errors.check_number("q", value)) is float
    assert errors.check_number("q", value) == value


@pytest.mark.parametrize("value", ["0.5", True, None, [0.5], 1j])
def test_what_is_no_number(value):
    with pytest.raises(errors.ConfigError, match="q must be a number, got "):
        errors.check_number("q", value)


def test_a_long_list_of_names_is_cut():
    names = [f"net{number:04}" for number in range(1234)]
    message = errors.unknown("model", "net1200x", names)
    assert message.startswith("unknown model 'net1200x': did you mean 'net1200'? (known: net0000, ")
    assert message.endswith("net0039, and 1,194 more)")
