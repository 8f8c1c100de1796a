from types import SimpleNamespace

import torch

from noisylabels.run.loop import random_state, restore_random_state, seed

CPU = torch.device("cpu")


def test_the_state_of_random_numbers_is_restored():
    state = random_state(CPU)
    first = torch.rand(3)
    restore_random_state(state, CPU)
    assert torch.equal(torch.rand(3), first)


def test_seeding_draws_what_torch_draws_and_leaves_nothing_behind():
    torch.manual_seed(2**40 + 7)
    expected = torch.rand(3)
    queued = len(torch.cuda._queued_calls)
    seed(2**40 + 7, CPU)
    assert torch.equal(torch.rand(3), expected)
    assert len(torch.cuda._queued_calls) == queued


def test_a_devices_own_generator_is_seeded_too(monkeypatch):
    seeds = []
    module = SimpleNamespace(manual_seed=seeds.append)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    seed(7, torch.device("cuda", 0))
    assert seeds == [7]


def test_a_devices_own_generator_is_kept_too(monkeypatch):
    """No GPU is needed to see that its generator is asked."""
    kept = {}
    module = SimpleNamespace(
        get_rng_state=lambda: torch.tensor([7], dtype=torch.uint8),
        set_rng_state=lambda state: kept.update(state=state),
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    device = torch.device("cuda", 0)
    state = random_state(device)
    assert set(state) == {"cpu", "cuda"}
    restore_random_state(state, device)
    assert kept["state"].tolist() == [7]
    restore_random_state({"cpu": state["cpu"]}, device)
