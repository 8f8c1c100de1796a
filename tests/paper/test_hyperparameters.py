import pytest

from noisylabels.losses import build
from noisylabels.paper.hyperparameters import DATASETS, HYPERPARAMETERS


@pytest.mark.parametrize("key", HYPERPARAMETERS)
def test_every_value_fits_its_loss(key):
    for dataset, values in HYPERPARAMETERS[key].items():
        assert dataset in DATASETS
        loss = build(key, **values)
        for name, value in values.items():
            assert getattr(loss, name) == value


def test_every_tuned_loss_has_values_for_both_cifar():
    for values in HYPERPARAMETERS.values():
        assert {"CIFAR-10", "CIFAR-100"} <= set(values)
