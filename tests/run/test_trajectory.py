import numpy as np
import pytest
import torch

from noisylabels.run import trajectory
from noisylabels.run.callbacks import Callback
from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.interruption import StoppedError
from noisylabels.run.trainer import train
from noisylabels.run.trajectory import Trajectory


def epochs(number, count=20, classes=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, classes, generator=generator).softmax(1) for _ in range(number)]


def labels(count=20, classes=4):
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(1))


def test_means_are_those_of_all_epochs_at_once():
    made, given = Trajectory(labels(), 4), labels().numpy()
    assert made.means() == {}
    for each in epochs(5):
        made.add(each)
    p, rows = torch.stack(epochs(5)).double().numpy(), np.arange(20)
    own = p[:, rows, given]
    rest = p.copy()
    rest[:, rows, given] = 0
    found = {name: each.numpy() for name, each in made.means().items()}
    assert found["evaluations"] == 5
    np.testing.assert_allclose(found["mean_given"], own.mean(0), rtol=1e-6)
    margins = (own - rest.max(2)).mean(0)
    np.testing.assert_allclose(found["mean_margin"], margins, atol=1e-7)
    np.testing.assert_allclose(found["mean_probabilities"], p.mean(0), atol=5e-4)
    differ = (p.argmax(2) != given).sum(0)
    np.testing.assert_array_equal(found["disagreements"], differ)


def test_the_other_classes_are_left_out_where_they_are_too_many(monkeypatch):
    monkeypatch.setattr(trajectory, "MOST", 79)
    made = Trajectory(labels(), 4)
    made.add(epochs(1)[0])
    again = Trajectory(labels(), 4)
    again.load_state_dict(made.state_dict())
    assert "mean_probabilities" not in again.means()
    torch.testing.assert_close(again.means(), made.means(), rtol=0, atol=0)


class Recorder(Callback):
    """Keeps what a run predicts after each epoch."""

    def __init__(self, monkeypatch):
        self.seen = []
        add = Trajectory.add

        def spy(trajectory, probabilities):
            self.seen.append(probabilities)
            add(trajectory, probabilities)

        monkeypatch.setattr(Trajectory, "add", spy)


@pytest.mark.parametrize("every", [1, 2])
def test_a_run_keeps_the_means_of_its_evaluations(digits, tmp_path, monkeypatch, every):
    recorder = Recorder(monkeypatch)
    folder = RunFolder(train(parse(digits | {"evaluate_every": every}), tmp_path))
    kept, given = folder.predictions(), folder.labels()["given"]
    # Of three epochs the second and, as always, the last.
    assert kept["train_evaluations"] == len(recorder.seen) == (3 if every == 1 else 2)
    p = torch.stack(recorder.seen).double().numpy()
    np.testing.assert_allclose(kept["train_mean_probabilities"], p.mean(0), atol=5e-4)
    own = p[:, np.arange(len(given)), given].mean(0)
    np.testing.assert_allclose(kept["train_mean_given"], own, rtol=1e-5)
    np.testing.assert_array_equal(kept["train_disagreements"], (p.argmax(2) != given).sum(0))
    assert kept["train_mean_probabilities"].dtype == np.float16


def test_of_several_networks_it_is_what_the_method_predicts(digits, tmp_path, monkeypatch):
    recorder = Recorder(monkeypatch)
    folder = RunFolder(train(parse(digits | {"method": "dividemix", "epochs": 2}), tmp_path))
    kept = folder.predictions()
    np.testing.assert_array_equal(recorder.seen[-1].half().numpy(), kept["train_probabilities"])


def test_held_out_parts_have_them_too_where_their_labels_are_given(digits, tmp_path):
    folder = RunFolder(train(parse(digits | {"validation": 0.1, "epochs": 2}), tmp_path))
    kept, labels = folder.predictions(), folder.labels()
    assert len(kept["validation_mean_given"]) == len(labels["validation"])
    # Those of the test set are true.
    assert "test_mean_given" not in kept


class Stop(Callback):
    """Ends a run as a kill would, right after an epoch's checkpoint is due."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch(self, metrics):
        if metrics["epoch"] == self.epoch:
            raise StoppedError(15, "cut")


def test_a_checkpoint_without_them_is_continued(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("noisylabels.run.loop.SECONDS_BETWEEN_SAVES", 0.0)
    with pytest.raises(StoppedError):
        train(parse(digits), tmp_path, [Stop(0)])
    (folder,) = RunFolder.find([tmp_path])
    stored, _ = folder.load_checkpoint(repair=False)
    del stored["trajectories"]
    folder.save_checkpoint(stored)
    train(parse(digits), tmp_path)
    assert folder.predictions()["train_evaluations"] == 2
