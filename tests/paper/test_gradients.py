import pytest
import torch

from noisylabels.paper.gradients import PANELS, slope

CURVES = [curve for curves in PANELS.values() for curve in curves]


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.title)
def test_formulas_are_what_autograd_gives(curve):
    p, found = slope(curve.key, curve.hyperparameters, curve.progress, count=50)
    torch.testing.assert_close(found, curve.formula(p), rtol=1e-6, atol=1e-9)


def test_every_curve_differs_from_the_others():
    p = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    values = {tuple(curve.formula(p).tolist()) for curve in CURVES}
    assert len(values) == len(CURVES) == 15
