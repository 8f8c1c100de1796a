import pytest
import torch

from noisylabels.data import batches as module
from noisylabels.data.augment import AUGMENTS
from noisylabels.data.batches import InMemory, derive_seed
from noisylabels.data.examples import Dataset, Examples, channel_statistics


def dataset(count=10_000):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 5, (count,), generator=generator)
    train, test = Examples(images, labels), Examples(images[:300], labels[:300])
    return Dataset(train, test, tuple("abcde"), *channel_statistics(images))


def batches(augment="none", **options):
    settings = {"batch_size": 128, "seed": 0, "device": torch.device("cpu")} | options
    return InMemory(dataset(), AUGMENTS[augment], **settings)


def collect(source, epoch):
    found = list(source.epoch(epoch))
    return [torch.cat([getattr(b, name) for b in found]) for name in ("index", "input", "target")]


def test_an_epoch_holds_every_example_once_with_its_label():
    data = dataset()
    index, inputs, target = collect(batches(), 0)
    assert torch.equal(index.sort().values, torch.arange(10_000))
    assert torch.equal(target, data.train.labels[index])
    images = data.train.inputs[index].float()
    expected = (images - data.mean[:, None, None]) / data.std[:, None, None]
    torch.testing.assert_close(inputs, expected)
    assert abs(inputs.mean()) < 1e-3
    assert abs(inputs.std() - 1) < 1e-3


def test_batches_have_the_batch_size_and_the_last_what_is_left():
    sizes = [len(batch.target) for batch in batches(batch_size=96).epoch(3)]
    assert sizes == [96] * 104 + [16]


def test_a_single_example_that_is_left_joins_the_step_before(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 48 * 5000)
    for size, expected in ((9_999, [10_000]), (3_333, [3333, 3333, 3334]), (10_000, [10_000])):
        source = batches(batch_size=size)
        assert [len(batch.target) for batch in source.epoch(0)] == expected
        assert torch.equal(collect(source, 0)[0].sort().values, torch.arange(10_000))


def test_an_epoch_depends_on_seed_and_number_alone():
    source = batches("crop-flip")
    collect(source, 0)
    again = collect(source, 1)
    for ours, theirs in zip(again, collect(batches("crop-flip"), 1), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(again[0], collect(source, 2)[0])
    assert not torch.equal(again[0], collect(batches("crop-flip", seed=1), 1)[0])


def test_evaluation_is_in_order_and_not_augmented():
    source = batches("crop-flip")
    data = dataset()
    plain = (data.train.inputs.float() - data.mean[:, None, None]) / data.std[:, None, None]
    torch.testing.assert_close(torch.cat(list(source.inputs("train"))), plain)
    torch.testing.assert_close(torch.cat(list(source.inputs("test"))), plain[:300])


def test_memory_format_is_kept():
    batch = next(batches(memory_format=torch.channels_last).epoch(0))
    assert batch.input.is_contiguous(memory_format=torch.channels_last)


def test_seeds_differ_by_purpose():
    seeds = {
        derive_seed(seed, purpose, epoch)
        for seed in range(3)
        for purpose in ("order", "augment")
        for epoch in range(3)
    }
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
@pytest.mark.parametrize("start", [1, 5, 30, 78, 79])
def test_an_epoch_can_begin_in_its_middle(monkeypatch, augment, start):
    monkeypatch.setattr(module, "CHUNK", 48 * 128 * 7)
    whole = list(batches(augment).epoch(3))
    rest = list(batches(augment).epoch(3, start))
    assert len(whole) == 79
    assert len(rest) == 79 - start
    for ours, theirs in zip(rest, whole[start:], strict=True):
        assert torch.equal(ours.index, theirs.index)
        assert torch.equal(ours.input, theirs.input)
        assert torch.equal(ours.target, theirs.target)


def test_processes_share_each_batch():
    whole = list(batches(batch_size=96).epoch(0))
    shares = [list(batches(batch_size=96, rank=rank, world=3).epoch(0)) for rank in range(3)]
    for batch, *parts in zip(whole, *shares, strict=True):
        together = torch.cat([part.index for part in parts])
        assert torch.equal(together.sort().values, batch.index.sort().values)
        weights = [part.weight for part in parts]
        sizes = [len(part.index) for part in parts]
        assert weights == pytest.approx([3 * size / len(batch.index) for size in sizes])
    inputs = [torch.cat(list(batches(rank=rank, world=3).inputs("test"))) for rank in range(3)]
    merged = torch.stack(inputs, 1).flatten(0, 1)
    assert torch.equal(merged, torch.cat(list(batches().inputs("test"))))


def test_no_process_gets_fewer_than_two_examples_of_the_last_batch():
    source = batches(batch_size=9_997, rank=1, world=2)
    assert [len(batch.target) for batch in source.epoch(0)] == [5_000]


def test_parts_of_a_batch_weigh_what_they_hold():
    batch = next(batches(batch_size=10).epoch(0))
    assert batch.split(1) == [batch]
    parts = batch.split(4)
    assert [len(part.target) for part in parts] == [3, 3, 2, 2]
    assert [part.weight for part in parts] == pytest.approx([0.3, 0.3, 0.2, 0.2])
    assert torch.equal(torch.cat([part.input for part in parts]), batch.input)
    assert len(batch.split(64)) == 10


def test_inputs_in_memory_are_not_changed_by_being_used():
    data = dataset()
    floats = Examples(data.train.inputs.flatten(1).float(), data.train.labels)
    before = floats.inputs.clone()
    mean, std = floats.inputs.mean(0), floats.inputs.std(0)
    whole = Dataset(floats, floats, data.classes, mean, std)
    source = InMemory(whole, AUGMENTS["none"], batch_size=64, seed=0, device=torch.device("cpu"))
    normalised = torch.cat(list(source.inputs("train")))
    list(source.epoch(0))
    assert torch.equal(floats.inputs, before)
    torch.testing.assert_close(normalised, (before - mean) / std)


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_batches_are_made_on_whatever_device(augment):
    """The meta device has shapes and no values: what left it, or mixed with a CPU, would fail."""
    device = torch.device("meta")
    made = list(batches(augment, device=device, memory_format=torch.channels_last).epoch(0, 70))
    assert [len(batch.target) for batch in made] == [128] * 8 + [16]
    for batch in made:
        assert batch.input.device == batch.target.device == batch.index.device == device
        assert batch.input.shape[1:] == (3, 4, 4)
        assert batch.input.is_contiguous(memory_format=torch.channels_last)
    source = batches(augment, device=device)
    assert {inputs.device for part in ("train", "test") for inputs in source.inputs(part)} == {
        device
    }


def test_views_are_drawn_anew_and_the_first_is_the_same_however_many():
    one, three = batches("crop-flip"), batches("crop-flip")
    for alone, batch in zip(one.epoch(2), three.epoch(2, views=3), strict=True):
        assert torch.equal(alone.index, batch.index)
        assert torch.equal(alone.input, batch.input)
        assert alone.others == ()
        assert len(batch.views) == 3
        assert all(view.shape == batch.input.shape for view in batch.views)
        assert not torch.equal(batch.views[1], batch.input)
        assert not torch.equal(batch.views[1], batch.views[2])


def test_an_order_of_ones_own_is_followed_from_any_step():
    source = batches("crop-flip", batch_size=3)
    order = [torch.tensor(p) for p in ([5, 1], [5, 5, 7, 2], [9_999], [0, 3])]
    whole = list(source.epoch(1, order=order, views=2))
    assert [batch.index.tolist() for batch in whole] == [o.tolist() for o in order]
    for start in range(4):
        rest = list(source.epoch(1, start, order=order, views=2))
        assert len(rest) == 4 - start
        for ours, theirs in zip(rest, whole[start:], strict=True):
            for a, b in zip(ours.views, theirs.views, strict=True):
                assert torch.equal(a, b)


def test_parts_of_a_batch_have_its_views():
    (batch, *_) = batches("crop-flip").epoch(0, views=2)
    parts = batch.split(3)
    assert sum(part.weight for part in parts) == pytest.approx(1)
    for view in range(2):
        assert torch.equal(torch.cat([part.views[view] for part in parts]), batch.views[view])
    assert torch.equal(torch.cat([part.index for part in parts]), batch.index)
