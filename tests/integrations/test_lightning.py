"""The callback in real Trainers of both packages, on scikit-learn's digits."""

import doctest
import importlib
import pickle
import re
import sys
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from noisylabels.errors import ConfigError, MissingExtraError
from noisylabels.losses import DynamicsAwareLoss, build

ROOT = Path(__file__).parents[2]
BATCHES = 10
PACKAGES = ("lightning.pytorch", "pytorch_lightning")

pytestmark = [
    # Processes that load data would take longer to start than these tests take.
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    # Lightning asks for it with a name that torch has deprecated.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning"),
]


@pytest.fixture(params=PACKAGES)
def package(request):
    return importlib.import_module(request.param)


@pytest.fixture
def lightning():
    return importlib.import_module(PACKAGES[0])


class Resumable(DataLoader):
    """Goes on within an epoch, by Lightning's protocol."""

    passed, skipped = 0, 0

    def __iter__(self):
        skipped, self.skipped = self.skipped, 0
        for self.passed, batch in enumerate(super().__iter__(), start=1):
            if self.passed > skipped:
                yield batch

    def state_dict(self):
        return {"passed": self.passed % len(self)}

    def load_state_dict(self, state):
        self.skipped = state["passed"]


def digits(loader=DataLoader, batches=BATCHES):
    images, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(images).float()[: 32 * batches] / 16
    return loader(TensorDataset(images, torch.from_numpy(labels)[: 32 * batches]), batch_size=32)


class Seen:
    """What a training step notes, and the optimiser's steps until it."""

    def note(self):
        trainer = self.trainer
        self.noted.append((trainer.global_step, self.loss.progress, self.loss.q))


def classifier(package, loss=None, optimizers=1):
    class Classifier(Seen, package.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = nn.Linear(64, 10)
            self.loss = DynamicsAwareLoss(q_start=0.6, q_end=1.5) if loss is None else loss
            self.automatic_optimization = optimizers == 1
            self.noted = []

        def training_step(self, batch, batch_idx):
            self.note()
            if self.automatic_optimization:
                return self.loss(self.network(batch[0]), batch[1])
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(self.loss(self.network(batch[0]), batch[1]))
                optimizer.step()
            return None

        def configure_optimizers(self):
            made = [torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9) for _ in range(2)]
            return made[0] if self.automatic_optimization else made

    torch.manual_seed(0)
    return Classifier()


def make_trainer(package, *callbacks, loss_progress=True, **limits):
    from noisylabels.integrations.lightning import LossProgress

    own = [LossProgress()] if loss_progress else []
    return package.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[*own, *callbacks],
        **limits,
    )


@pytest.mark.parametrize(
    "limits",
    [
        {"max_epochs": 3},
        {"max_epochs": 3, "accumulate_grad_batches": 4},
        {"max_epochs": -1, "max_steps": 25},
        {"max_steps": 25},
        {"max_epochs": 4, "max_steps": 25},
        {"max_epochs": 2, "max_steps": 25},
        {"max_epochs": 3, "limit_train_batches": 0.5, "accumulate_grad_batches": 2},
    ],
    ids=str,
)
def test_progress_is_the_share_of_the_estimated_steps(package, limits):
    module = classifier(package)
    trainer = make_trainer(package, **limits)
    trainer.fit(module, digits())
    total = trainer.estimated_stepping_batches
    steps, progress, q = zip(*module.noted, strict=True)
    assert steps[-1] == total - 1
    assert progress == pytest.approx([step / total for step in steps])
    assert q == pytest.approx([0.6 + 0.9 * step / total for step in steps])


def test_a_changing_accumulation_moves_progress_evenly_over_the_epochs(lightning):
    """Where Lightning's own estimate of the steps jumps."""
    module = classifier(lightning)
    scheduler = lightning.callbacks.GradientAccumulationScheduler({0: 5, 1: 1})
    make_trainer(lightning, scheduler, max_epochs=2).fit(module, digits())
    progress = [progress for _, progress, _ in module.noted]
    first = [0.0] * 5 + [0.25] * 5
    assert progress == pytest.approx(first + [0.5 + 0.05 * batch for batch in range(10)])


def test_several_optimizers_count_by_batches_or_by_the_limit_on_their_steps(package):
    module = classifier(package, optimizers=2)
    make_trainer(package, max_epochs=2).fit(module, digits())
    progress = [progress for _, progress, _ in module.noted]
    assert module.noted[-1][0] == 2 * (2 * BATCHES - 1)
    assert progress == pytest.approx([batch / 20 for batch in range(20)])
    module = classifier(package, optimizers=2)
    make_trainer(package, max_steps=12).fit(module, digits())
    progress = [progress for _, progress, _ in module.noted]
    assert progress == pytest.approx([batch / 6 for batch in range(6)])


@pytest.mark.parametrize(
    ("batches", "accumulated", "optimizers"),
    [(3, 1, 1), (7, 1, 1), (10, 1, 1), (6, 2, 1), (10, 2, 1), (13, 1, 2)],
)
def test_training_resumed_within_an_epoch_is_as_if_never_cut(
    package, tmp_path, batches, accumulated, optimizers
):
    """After 10 batches, that is by a checkpoint of the last batch of an epoch, not of its end."""

    class Cut(package.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.fit_loop.total_batch_idx + 1 == batches:
                trainer.save_checkpoint(tmp_path / "cut.ckpt")
                raise InterruptedError

    class Start(package.Callback):
        def on_train_start(self, trainer, module):
            self.progress = module.loss.progress

    limits = {"max_epochs": 3, "accumulate_grad_batches": accumulated}
    whole, cut, resumed = (classifier(package, optimizers=optimizers) for _ in range(3))
    make_trainer(package, **limits).fit(whole, digits(Resumable))
    with pytest.raises(InterruptedError):
        make_trainer(package, Cut(), **limits).fit(cut, digits(Resumable))
    torch.nn.init.zeros_(resumed.network.weight)
    start = Start()
    trainer = make_trainer(package, start, **limits)
    trainer.fit(resumed, digits(Resumable), ckpt_path=tmp_path / "cut.ckpt")
    assert start.progress == resumed.noted[0][1] == pytest.approx(batches / 30)
    assert cut.noted + resumed.noted == whole.noted
    assert torch.equal(resumed.network.weight, whole.network.weight)
    assert torch.equal(resumed.network.bias, whole.network.bias)


def test_a_checkpoint_after_an_epoch_resumes_with_the_next(package, tmp_path):
    class Save(package.Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "epoch.ckpt")

    whole = classifier(package)
    make_trainer(package, Save(), max_epochs=3).fit(whole, digits())
    resumed = classifier(package)
    trainer = make_trainer(package, max_epochs=3)
    trainer.fit(resumed, digits(), ckpt_path=tmp_path / "epoch.ckpt")
    assert resumed.noted == whole.noted[BATCHES:]
    assert torch.equal(resumed.network.weight, whole.network.weight)


def test_every_loss_at_any_depth_is_told(lightning):
    losses = nn.ModuleList([build("dgce"), nn.ModuleDict({"deep": build("djs")})])
    module = classifier(lightning)
    module.others = losses
    make_trainer(lightning, max_epochs=2).fit(module, digits())
    assert losses[0].progress == losses[1]["deep"].progress == 0.95


def test_a_module_without_a_loss_is_refused_before_it_trains(lightning):
    module = classifier(lightning, loss=nn.CrossEntropyLoss())
    with pytest.raises(ConfigError, match="Classifier holds no loss of noisylabels"):
        make_trainer(lightning, max_epochs=1).fit(module, digits())
    assert module.noted == []


class Endless(IterableDataset):
    """Has no length."""

    def __iter__(self):
        return map(digits(batches=1).dataset.__getitem__, range(32))


def test_no_limit_is_refused_unless_the_steps_are_told(package):
    from noisylabels.integrations.lightning import LossProgress

    module = classifier(package)
    with pytest.raises(ConfigError, match=r"max_epochs=-1, max_steps=-1 and no max_time.*total_st"):
        make_trainer(package, max_epochs=-1).fit(module, digits())
    assert module.noted == []

    class Stop(package.Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step == 25

    trainer = make_trainer(
        package, LossProgress(total_steps=20), Stop(), max_epochs=-1, loss_progress=False
    )
    trainer.fit(module, digits())
    progress = [progress for _, progress, _ in module.noted]
    assert progress == pytest.approx([min(step / 20, 1) for step in range(25)])
    with pytest.raises(ConfigError, match="total_steps must be in"):
        LossProgress(total_steps=0)


def test_data_without_a_length_move_it_from_epoch_to_epoch(lightning):
    loader = DataLoader(Endless(), batch_size=8)
    module = classifier(lightning)
    make_trainer(lightning, max_epochs=4).fit(module, loader)
    progress = [progress for _, progress, _ in module.noted]
    assert progress == [0.0] * 4 + [0.25] * 4 + [0.5] * 4 + [0.75] * 4
    with pytest.raises(ConfigError, match="max_epochs=1, max_steps=-1 .* has inf batches"):
        make_trainer(lightning, max_epochs=1).fit(module, loader)


def test_a_limit_of_time_counts_where_it_is_the_only_one(package, monkeypatch):
    class Clock(package.Callback):
        now = 0.0

        def monotonic(self):
            return self.now

        def on_train_batch_start(self, *args):
            self.now += 60

    for limits in ({}, {"max_epochs": 2}):
        clock, module = Clock(), classifier(package)
        timer = sys.modules[f"{package.__name__}.callbacks.timer"]
        monkeypatch.setattr(timer, "time", clock)
        make_trainer(package, clock, max_time="00:00:10:00", **limits).fit(module, digits())
        progress = [progress for _, progress, _ in module.noted]
        total = BATCHES * limits.get("max_epochs", 1)
        assert progress == pytest.approx([batch / total for batch in range(10)])


def test_processes_that_are_spawned_can_take_it():
    from noisylabels.integrations.lightning import LossProgress

    assert pickle.loads(pickle.dumps(LossProgress(total_steps=5))).total_steps == 5


def test_the_page_shows_a_module_and_a_callback_that_train(lightning, monkeypatch, tmp_path):
    text = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(import lightning\n.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    told = [call for call in names["trainer"].callbacks if isinstance(call, names["LossProgress"])]
    module = names["Classifier"]()
    make_trainer(lightning, *told, loss_progress=False, max_epochs=2).fit(module, digits())
    assert module.loss.progress == 0.95


def test_the_examples_in_docstrings():
    failed, tried = doctest.testmod(importlib.import_module("noisylabels.integrations.lightning"))
    assert tried > 0 == failed


@pytest.mark.parametrize("there", [(), PACKAGES[1:]])
def test_either_package_does_and_without_both_the_extra_is_named(monkeypatch, there):
    for package in PACKAGES:
        if package not in there:
            monkeypatch.setitem(sys.modules, package, None)
    name = "noisylabels.integrations.lightning"
    monkeypatch.delitem(sys.modules, name, raising=False)
    if there:
        found = importlib.import_module(name).Callback
        assert found is importlib.import_module(there[0]).Callback
    else:
        with pytest.raises(MissingExtraError, match=r"pip install 'noisylabels\[lightning\]'"):
            importlib.import_module(name)
