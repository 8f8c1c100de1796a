import pytest

from noisylabels.run.advice import on_short_training
from noisylabels.run.config import parse
from noisylabels.run.plan import plan


def advice(examples=1437, **changes):
    run = {"data": "digits", "batch_size": 64, "optimizer": {"lr": 0.1}, "epochs": 3}
    return on_short_training(plan(parse(run | changes)).config, examples)


@pytest.mark.parametrize(
    ("q_start", "epochs", "short"),
    [(0.6, 3, True), (0.6, 5, True), (0.6, 20, False), (0.0, 3, True), (0.0, 10, False)],
)
def test_short_training_is_said_where_it_was_measured_to_fail(q_start, epochs, short):
    said = advice(loss={"name": "dal", "q_start": q_start}, epochs=epochs)
    assert (said is not None) is short
    if said:
        assert f"q_start {q_start:g}" in said
        assert "docs/losses/dal.md" in said
        assert ("a lower q_start (0.0)" in said) is (q_start > 0)


def test_what_counts_is_the_steps_and_their_size():
    assert advice(epochs=10) is None
    assert "too few" in advice(epochs=10, batch_size=256)
    assert "too few" in advice(epochs=10, optimizer={"lr": 0.01})
    assert "too few" in advice(300, epochs=10)
    assert advice(50_000, epochs=10, optimizer={"lr": 0.01}) is None


def test_other_losses_methods_and_optimisers_are_not_spoken_of():
    assert advice(loss="gce") is None
    assert advice(optimizer={"name": "adam"}) is None
    assert advice(method={"name": "coteaching", "forget_rate": 0.4}) is None
