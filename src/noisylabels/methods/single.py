"""One network, one loss: what every robust loss is meant for."""

from collections.abc import Iterable

import torch
from torch import Tensor

from noisylabels.data.batches import Batch
from noisylabels.methods.base import Engine, Method, Parts, probabilities


class Single(Method):
    """Minimises the loss of one network by gradient descent.

    Args:
        engine: Runs the network.
        parts: What the method is made of.
    """

    def __init__(self, engine: Engine, parts: Parts) -> None:
        super().__init__(engine, parts, networks=1)

    def train_epoch(self, batches: Iterable[Batch]) -> float:
        """Train on one epoch's batches.

        Returns:
            The mean training loss per example.
        """
        (network,), (optimizer,) = self._networks, self._optimizers
        network.train()
        total: Tensor | float = 0.0
        count = 0
        for batch in batches:
            loss = self._loss(network(batch.input), batch.target)
            optimizer.zero_grad()
            self._engine.backward(loss)
            optimizer.step()
            # Summed on the device: reading the value here would wait for it at every step.
            total = total + loss.detach() * len(batch.target)
            count += len(batch.target)
        return float(torch.as_tensor(total)) / count

    def predict(self, inputs: Iterable[Tensor]) -> Tensor:
        """Predict class probabilities.

        Returns:
            Probabilities, float32 on the CPU, of shape (N, K).
        """
        return probabilities(self._networks[0], inputs)
