import pytest
import torch

from noisylabels.data.datasets import SOURCES
from noisylabels.data.examples import (
    Dataset,
    Examples,
    channel_statistics,
    first,
    hold_out,
    hold_out_fold,
)
from noisylabels.errors import ConfigError, DataError
from pictures import pixels


def test_limit_keeps_the_first():
    data = SOURCES["digits"]().load()
    assert first(data, None) is data
    assert torch.equal(first(data, 3).train.inputs, data.train.inputs[:3])
    assert torch.equal(first(data, 3).train.labels, data.train.labels[:3])
    assert len(first(data, 3).test) == 360
    with pytest.raises(DataError, match="limit 1438: the dataset has 1437 training examples"):
        first(data, 1438)
    with pytest.raises(ConfigError, match="limit must be at least 1, got 0"):
        SOURCES["digits"](limit=0)


def test_statistics_are_per_channel():
    images = torch.from_numpy(pixels(0, (50, 2, 7, 3)))
    images[:, 1] = 9
    mean, std = channel_statistics(images)
    torch.testing.assert_close(mean, images.float().mean((0, 2, 3)))
    assert std[0].item() == pytest.approx(images[:, 0].float().std(correction=0).item(), rel=1e-5)
    assert std[1] == 1


def test_the_hold_out_is_stratified_by_given_labels_and_leaves_the_test_set():
    data = SOURCES["digits"]().load()
    reduced, kept = hold_out(data, 0.1, seed=3)
    assert len(reduced.validation) == 144
    assert len(reduced.train) == len(kept) == 1437 - 144
    assert torch.equal(reduced.train.inputs, data.train.inputs[kept])
    shares = torch.bincount(reduced.validation.labels) / torch.bincount(data.train.labels)
    assert (shares - 0.1).abs().max() < 0.01
    assert reduced.test is data.test
    assert torch.equal(hold_out(data, 0.1, seed=3)[1], kept)
    assert not torch.equal(hold_out(data, 0.1, seed=4)[1], kept)
    with pytest.raises(DataError, match=r"validation 0.0003: of 1437 training examples that is n"):
        hold_out(data, 0.0003, seed=3)


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_folds_are_parts_of_the_training_set(folds):
    labels = torch.tensor([0] * 23 + [1] * 11 + [2] * 4)
    inputs = torch.arange(38.0)[:, None]
    whole = Dataset(
        Examples(inputs, labels), Examples(inputs, labels), ("a", "b", "c"), *[torch.zeros(1)] * 2
    )
    seen = []
    for fold in range(folds):
        reduced, kept = hold_out_fold(whole, fold, folds, seed=3)
        out = reduced.validation_rows
        assert torch.equal(reduced.validation.tensor()[:, 0].long(), out)
        assert torch.equal(reduced.train.labels, labels[kept])
        assert sorted([*kept.tolist(), *out.tolist()]) == list(range(38))
        counts = torch.bincount(reduced.validation.labels, minlength=3)
        for count, of_class in zip(counts.tolist(), (23, 11, 4), strict=True):
            assert count in (of_class // folds, of_class // folds + 1)
        seen += out.tolist()
    assert sorted(seen) == list(range(38))
    with pytest.raises(DataError, match=r"validation 1/39: expected an example for each part"):
        hold_out_fold(whole, 0, 39, seed=3)
