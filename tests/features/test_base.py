import pytest
import torch

from noisylabels.errors import ConfigError
from noisylabels.features import Features
from noisylabels.models import linear


class Means(Features):
    """Features of the user's own, which are no network."""

    def check(self):
        pass

    def extract(self, parts, train, compute):
        return {name: torch.zeros(len(each), 1) for name, each in parts.items()}


def test_what_is_no_network_cannot_be_fine_tuned():
    with pytest.raises(ConfigError, match="freeze must be true: these features are not part of"):
        Means().network((1, 8, 8), 10, linear)
    assert Means().module() is None
