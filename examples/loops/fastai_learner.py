"""A Learner of fastai: a loss that it can reduce, activate and decode, and a callback."""

import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import BaseLoss
from fastai.metrics import accuracy
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from noisylabels.losses import DynamicsAwareLoss
from noisylabels.noise import symmetric


class RobustLoss(BaseLoss):
    """Without `activation`, `get_preds` would return logits; without `decodes`, no classes."""

    def activation(self, logits):
        """Return probabilities."""
        return logits.softmax(self.axis)

    def decodes(self, logits):
        """Return classes."""
        return logits.argmax(self.axis)


class LossProgress(Callback):
    """Sets the progress of the loss before every batch."""

    def before_batch(self):
        """Set it, but not for validation."""
        if self.training:
            self.loss_func.func.progress = min(1.0, self.pct_train)


# Your data, with the labels that you have: here 40 % are drawn anew.
images, labels = load_digits(return_X_y=True)
x, true = torch.from_numpy(images).float() / 16, torch.from_numpy(labels)
y = symmetric(true, rate=0.4, seed=0)
test = torch.arange(len(x)) % 4 == 0

torch.manual_seed(0)
loaders = DataLoaders(
    DataLoader(TensorDataset(x[~test], y[~test]), bs=64, shuffle=True),
    DataLoader(TensorDataset(x[test], true[test]), bs=64),
)
network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
loss = RobustLoss(DynamicsAwareLoss, q_start=0.4, q_end=1.5)
learner = Learner(loaders, network, loss_func=loss, metrics=accuracy, cbs=LossProgress())
with learner.no_logging():
    learner.fit(20, 0.005)

# The loss of each example, for which it sets the loss's `reduction` to "none" meanwhile.
probabilities, targets, classes, losses = learner.get_preds(with_decoded=True, with_loss=True)
assert probabilities.sum(1).allclose(torch.ones(1))
assert len(losses) == len(targets)
assert loss.reduction == "mean"
right = (classes == targets).float().mean().item()
print(f"q {loss.func.q:.2f}, test accuracy {right:.1%}")
