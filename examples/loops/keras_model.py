"""A model of Keras 3 on its torch backend."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch
from sklearn.datasets import load_digits

from noisylabels.losses import DynamicsAwareLoss
from noisylabels.noise import symmetric

robust = DynamicsAwareLoss(q_start=0.6, q_end=1.5, reduction="none")


def loss(y_true, y_pred):
    """Take the label first, as a float and perhaps in a column; one loss for each example."""
    return robust(y_pred, y_true.reshape(-1).long())


class LossProgress(keras.callbacks.Callback):
    """Sets the progress of the loss at the start of every epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        """Set it."""
        robust.progress = epoch / self.params["epochs"]


# Your data, with the labels that you have: here 40 % are drawn anew.
images, labels = load_digits(return_X_y=True)
x, true = torch.from_numpy(images).float() / 16, torch.from_numpy(labels)
y = symmetric(true, rate=0.4, seed=0)
test = torch.arange(len(x)) % 4 == 0

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((64,)),
        keras.layers.Dense(128, activation="relu"),
        # Logits: a softmax here would be taken twice.
        keras.layers.Dense(10),
    ]
)
model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss=loss, metrics=["accuracy"])
model.fit(
    x[~test].numpy(),
    y[~test].numpy(),
    batch_size=64,
    epochs=20,
    callbacks=[LossProgress()],
    verbose=0,
)
accuracy = model.evaluate(x[test].numpy(), true[test].numpy(), verbose=0, return_dict=True)
print(f"q {robust.q:.2f}, test accuracy {accuracy['accuracy']:.1%}")
