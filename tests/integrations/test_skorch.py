"""skorch's nets with the losses, on real digits."""

import pickle
import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, Checkpoint, EpochScoring, LoadInitState
from skorch.dataset import Dataset
from torch import nn

from noisylabels.errors import ConfigError, DataError
from noisylabels.integrations.skorch import Progress, RobustNetClassifier, probabilities
from noisylabels.losses import LOSSES, CrossEntropyLoss, GeneralizedCrossEntropyLoss, build

NAMES = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])


class Perceptron(nn.Sequential):
    def __init__(self, width: int = 32) -> None:
        super().__init__(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


class Heard(Callback):
    """Notes the loss's progress in every epoch."""

    def on_train_begin(self, net, **kwargs):
        self.progress_ = getattr(self, "progress_", [])

    def on_epoch_end(self, net, **kwargs):
        self.progress_.append(net.criterion_.progress)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32)[:600], NAMES[y[:600]]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def net(**options) -> RobustNetClassifier:
    defaults = {"module": Perceptron, "lr": 0.5, "max_epochs": 8, "batch_size": 32, "verbose": 0}
    return RobustNetClassifier(**defaults | {"criterion__q_start": 0.0} | options)


def test_predictions_are_labels_and_probabilities(digits):
    x, y = digits
    fitted = net().fit(x, y)
    assert accuracy_score(y, fitted.predict(x)) == fitted.score(x, y) > 0.8
    p = fitted.predict_proba(x)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    logits = fitted.module_(torch.from_numpy(x))
    np.testing.assert_allclose(p, logits.softmax(1).detach(), atol=1e-6)
    assert list(fitted.classes_) == sorted(NAMES)
    assert (fitted.classes_[p.argmax(1)] == fitted.predict(x)).all()


def test_scores_while_training_are_those_of_the_labels(digits):
    """skorch scores with the batches' numbers, so that predictions have to be numbers then."""
    x, y = digits
    f1 = EpochScoring("f1_macro", on_train=True, lower_is_better=False, name="f1")
    fitted = net(callbacks=[f1]).fit(x, y)
    _, valid = fitted.get_split_datasets(x, fitted._encode(y))
    held = valid.indices
    assert fitted.history[-1, "valid_acc"] == fitted.score(x[held], y[held]) > 0.7
    assert fitted.history[-1, "f1"] > 0.7


def test_progress_is_told_in_every_epoch(digits):
    x, y = digits
    heard = Heard()
    fitted = net(max_epochs=4, callbacks=[heard]).fit(x, y)
    assert heard.progress_ == [0, 0.25, 0.5, 0.75]
    fitted.partial_fit(x, y)
    assert heard.progress_[4:] == [1, 1, 1, 1]
    whole = net(max_epochs=2, callbacks=[heard], callbacks__progress__epochs=4).fit(x, y)
    whole.partial_fit(x, y)
    assert heard.progress_[8:] == [0, 0.25, 0.5, 0.75]


def test_a_net_of_ones_own_needs_two_arguments(digits):
    x, y = digits
    own = NeuralNetClassifier(
        Perceptron,
        criterion=LOSSES["dal"],
        criterion__q_start=0.0,
        predict_nonlinearity=probabilities,
        callbacks=[Progress()],
        max_epochs=2,
        verbose=0,
    )
    numbers = np.searchsorted(np.sort(NAMES), y)
    own.fit(x, numbers)
    assert own.criterion_.progress == 0.5
    np.testing.assert_allclose(own.predict_proba(x).sum(1), 1, rtol=1e-5)


def test_hyperparameters_are_searched_for_with_labels_that_are_strings(digits):
    x, y = digits
    grid = {"criterion__q": [0.0, 0.3], "criterion": ["gce", GeneralizedCrossEntropyLoss]}
    base = RobustNetClassifier(
        Perceptron,
        criterion="gce",
        lr=0.5,
        max_epochs=5,
        batch_size=32,
        verbose=0,
        train_split=None,
    )
    search = GridSearchCV(base, grid, cv=2, error_score="raise").fit(x, y)
    assert set(search.predict(x)) <= set(NAMES)
    assert search.best_estimator_.criterion_.q == search.best_params_["criterion__q"]
    assert (search.cv_results_["mean_test_score"] > 0.5).all()


def test_it_goes_into_a_pipeline(digits):
    x, y = digits
    single = FunctionTransformer(np.float32)
    pipeline = make_pipeline(StandardScaler(), single, net(criterion__q_end=1.0))
    found = cross_val_predict(pipeline, x, y, cv=2)
    assert accuracy_score(y, found) > 0.7


def test_labels_survive_pickling_and_cloning(digits):
    x, y = digits
    fitted = net().fit(x, y)
    again = pickle.loads(pickle.dumps(fitted))
    assert (again.predict(x) == fitted.predict(x)).all()
    assert again.criterion_.progress == fitted.criterion_.progress
    copied = clone(fitted)
    assert not copied.initialized_
    other = np.where(y == "one", "uno", y)
    assert "uno" in copied.fit(x, other).predict(x)


def test_labels_survive_saved_parameters(digits, tmp_path):
    x, y = digits
    fitted = net().fit(x, y)
    fitted.save_params(f_params=tmp_path / "params.pt", f_criterion=tmp_path / "loss.pt")
    loaded = net().initialize()
    loaded.load_params(f_params=tmp_path / "params.pt", f_criterion=tmp_path / "loss.pt")
    assert (loaded.predict(x) == fitted.predict(x)).all()
    assert loaded.criterion_.progress == fitted.criterion_.progress
    # And they are the module's own parameters still.
    state = torch.load(tmp_path / "params.pt", weights_only=True)
    assert isinstance(state, Mapping)
    assert set(state) == set(Perceptron().state_dict())
    Perceptron().load_state_dict(state)


def test_safetensors_need_the_classes_said(digits, tmp_path):
    x, y = digits
    fitted = net().fit(x, y)
    fitted.save_params(f_params=tmp_path / "params.safetensors", use_safetensors=True)
    loaded = net().initialize()
    loaded.load_params(f_params=tmp_path / "params.safetensors", use_safetensors=True)
    with pytest.raises(AttributeError, match="provide the 'classes' argument"):
        loaded.predict(x)
    said = net(classes=sorted(NAMES)).initialize()
    said.load_params(f_params=tmp_path / "params.safetensors", use_safetensors=True)
    assert (said.predict(x) == fitted.predict(x)).all()


def test_training_goes_on_from_a_checkpoint(digits, tmp_path):
    x, y = digits
    heard = Heard()
    kept = Checkpoint(dirname=tmp_path, monitor=None)
    options = {"callbacks__progress__epochs": 6}
    net(max_epochs=3, callbacks=[kept], **options).fit(x, y)
    resumed = net(max_epochs=3, callbacks=[LoadInitState(kept), heard], **options).fit(x, y)
    assert heard.progress_ == [3 / 6, 4 / 6, 5 / 6]
    assert len(resumed.history) == 6
    assert resumed.score(x, y) > 0.7


def test_classes_can_be_said_in_any_order(digits):
    x, y = digits
    fitted = net(classes=NAMES[::-1].tolist()).fit(x, y)
    assert list(fitted.classes_) == list(NAMES[::-1])
    assert fitted.score(x, y) > 0.7


def test_a_part_of_the_classes_does_not_change_them(digits):
    x, y = digits
    some = np.isin(y, ["one", "two"])
    short = RobustNetClassifier(Perceptron, criterion="ce", max_epochs=1, verbose=0)
    going = short.partial_fit(x[some], y[some], classes=NAMES)
    assert list(going.classes_) == sorted(NAMES)
    going.partial_fit(x, y)
    with pytest.raises(DataError, match="y: row 1: ten is none of the classes"):
        going.partial_fit(x[:2], np.array(["one", "ten"]))


def test_refitting_forgets_the_classes(digits):
    x, y = digits
    module = Perceptron()
    fitted = net(module=module, max_epochs=1).fit(x, y)
    fitted.fit(x, np.where(y == "one", "uno", y))
    assert "uno" in fitted.classes_
    assert "one" not in fitted.classes_


def test_a_dataset_has_numbers(digits):
    x, y = digits
    numbers = np.searchsorted(np.sort(NAMES), y)
    without = numbers != 3
    fitted = net(train_split=None).fit(Dataset(x[without], numbers[without]), None)
    assert accuracy_score(numbers[without], fitted.predict(x[without])) > 0.8
    with pytest.raises(ValueError, match="No y-values are given"):
        net().fit(x, None)


def test_a_loss_that_is_made_is_refused_beside_hyperparameters(digits):
    x, y = digits
    made = CrossEntropyLoss(label_smoothing=0.1)
    fitted = RobustNetClassifier(Perceptron, criterion=made, max_epochs=1, verbose=0).fit(x, y)
    assert fitted.criterion_.label_smoothing == 0.1
    with pytest.raises(ConfigError, match=r"beside criterion__reduction, got a loss that is made"):
        fitted.set_params(criterion__reduction="sum").fit(x, y)
    with pytest.raises(ConfigError, match="unknown loss 'dall': did you mean 'dal'"):
        net(criterion="dall").initialize()
    for criterion in ("ce", CrossEntropyLoss):
        with pytest.raises(ConfigError, match="unknown parameter of loss .* 'q_start'"):
            net(criterion=criterion).initialize()
    with pytest.raises(ConfigError, match=r"q_start must be in \[0, inf\), got -1"):
        net(criterion="dal", criterion__q_start=-1).initialize()
    own = {"module": Perceptron, "criterion__reduction": "sum", "verbose": 0}
    torchs = RobustNetClassifier(**own, criterion=torch.nn.CrossEntropyLoss).initialize()
    assert torchs.criterion_.reduction == "sum"


def test_torchs_own_loss_can_be_compared_with(digits):
    x, y = digits
    own = {"optimizer__momentum": 0.9, "lr": 0.2, "max_epochs": 20, "verbose": 0}
    compared = {"criterion": [torch.nn.CrossEntropyLoss, "ce"]}
    torch.manual_seed(0)
    search = GridSearchCV(RobustNetClassifier(Perceptron, **own), compared, cv=2)
    found = search.set_params(error_score="raise").fit(x, y).cv_results_["mean_test_score"]
    assert (found > 0.8).all()
    torch.manual_seed(0)
    fitted = RobustNetClassifier(Perceptron, criterion=torch.nn.CrossEntropyLoss, **own).fit(x, y)
    np.testing.assert_allclose(fitted.predict_proba(x[:5]).sum(1), 1, rtol=1e-5)


def test_a_criterion_that_hides_its_loss_is_refused(digits):
    x, y = digits

    class Hidden(torch.nn.Module):
        def forward(self, logits, labels):
            return build("dal")(logits, labels)

    with pytest.raises(ConfigError, match="Hidden holds no loss of noisylabels"):
        RobustNetClassifier(Perceptron, criterion=Hidden, max_epochs=1, verbose=0).fit(x, y)


def test_without_skorch_the_extra_is_named():
    code = "import sys; sys.modules['skorch'] = None; import noisylabels.integrations.skorch"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stderr.endswith("skorch is not installed: pip install 'noisylabels[skorch]'\n")
