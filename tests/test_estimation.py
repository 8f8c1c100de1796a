import pytest
import torch

from noisylabels.estimation import estimate_noise_rate
from noisylabels.noise import NOISES


def predictions(true, sharpness, errors=0.0, seed=0):
    """Of a network that is right about the true class but for some errors."""
    generator = torch.Generator().manual_seed(seed)
    classes = int(true.max()) + 1
    seen = true.clone()
    wrong = torch.rand(len(true), generator=generator) < errors
    seen[wrong] = torch.randint(classes, (int(wrong.sum()),), generator=generator)
    logits = torch.randn(len(true), classes, generator=generator)
    logits[torch.arange(len(true)), seen] += sharpness
    return logits.softmax(1)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.4, 0.6])
def test_good_predictions_tell_the_rate(rate):
    true = torch.arange(5000) % 10
    given = NOISES["symmetric"](true, num_classes=10, rate=rate, seed=1)
    actual = (given != true).double().mean().item()
    assert estimate_noise_rate(predictions(true, 8.0), given) == pytest.approx(actual, abs=0.02)


def test_confusions_of_unsure_predictions_count_less_than_their_errors():
    true = torch.arange(5000) % 10
    given = NOISES["symmetric"](true, num_classes=10, rate=0.4, seed=1)
    actual = (given != true).double().mean().item()
    p = predictions(true, 3.0)
    errors = (p.argmax(1) != given).double().mean().item()
    found = estimate_noise_rate(p, given)
    assert actual < found < errors
    assert found == pytest.approx(actual, abs=0.06)


def test_by_hand():
    """The example of the docstring, and a class that no label names."""
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
    given = torch.tensor([0, 0, 1, 1, 1])
    # Thresholds 0.85 and 0.6: rows 0, 2, 3 and 4 count; 4 has label 1 and is taken for 0.
    # Class 0 is scaled from 1 to 2, class 1 stays 3: 1 of 5.
    assert estimate_noise_rate(p, given) == pytest.approx(0.2)
    wide = torch.cat([p * 0.9, torch.full((5, 1), 0.1)], 1)
    assert estimate_noise_rate(wide, given) == pytest.approx(0.2)


def test_predictions_that_say_nothing_do_not_divide_by_zero():
    p = torch.full((4, 2), 0.5)
    assert 0 <= estimate_noise_rate(p, torch.tensor([0, 1, 0, 1])) <= 1
