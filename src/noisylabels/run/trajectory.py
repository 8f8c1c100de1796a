"""What a run's predictions for examples with given labels were, over all epochs evaluated."""

from typing import Any

import torch
from torch import Tensor

MOST = 2**26
"""Numbers of examples times classes beyond which the other classes' means are not kept."""


class Trajectory:
    """Sums, over a run's evaluations, of what tells wrongly labelled examples from others.

    A label that is wrong is learnt late, or never: what a network thinks of it throughout training
    says more than what it thinks in the end. The sums are added in the order of the epochs, so that
    a run that was cut has the same as one that was not.

    Args:
        labels: Given labels of one part of the data, int64 in [0, K), of shape (N).
        num_classes: K.
        candidates: Which classes are in each example's set, bool, of shape (N, K): what is added is
            then of the set as a whole, in place of the label; None where each has one label.

    Attributes:
        evaluations: How many predictions were added.

    Example:
        >>> trajectory = Trajectory(torch.tensor([0, 1]), num_classes=2)
        >>> trajectory.add(torch.tensor([[0.75, 0.25], [0.75, 0.25]]))
        >>> trajectory.add(torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
        >>> trajectory.means()["mean_given"]
        tensor([0.7500, 0.5000])
        >>> trajectory.means()["disagreements"]
        tensor([0, 1], dtype=torch.int32)
    """

    def __init__(self, labels: Tensor, num_classes: int, candidates: Tensor | None = None) -> None:
        self._labels = labels
        self._candidates = candidates
        self.evaluations = 0
        count = len(labels)
        self._given = torch.zeros(count, dtype=torch.float64)
        self._margin = torch.zeros(count, dtype=torch.float64)
        self._disagreements = torch.zeros(count, dtype=torch.int32)
        whole = count * num_classes <= MOST
        # Single precision: checkpoints hold it.
        self._all = torch.zeros(count, num_classes) if whole else None

    def add(self, probabilities: Tensor) -> None:
        """Add the predictions of one more epoch.

        Args:
            probabilities: Class probabilities of the examples, of shape (N, K).
        """
        predicted = probabilities.argmax(1)
        if self._candidates is None:
            target = self._labels[:, None]
            given = probabilities.gather(1, target).squeeze(1)
            other = probabilities.scatter(1, target, -1.0).amax(1)
            self._margin += given - other
            # Where two are equal, the first is what is predicted.
            self._disagreements += predicted != self._labels
        else:
            given = probabilities.masked_fill(~self._candidates, 0.0).sum(1)
            within = probabilities.masked_fill(~self._candidates, -1.0).amax(1)
            # Of a set of all classes there is no other.
            other = probabilities.masked_fill(self._candidates, 0.0).amax(1)
            self._margin += within - other
            self._disagreements += ~self._candidates.gather(1, predicted[:, None]).squeeze(1)
        self._given += given
        if self._all is not None:
            self._all += probabilities
        self.evaluations += 1

    def means(self) -> dict[str, Tensor]:
        """Return the means over the evaluations; in ``predictions.npz`` the part's name precedes.

        Returns:
            ``mean_given`` and ``mean_margin``, float32, of shape (N); ``mean_probabilities``,
            float16, of shape (N, K), unless N times K is too large; ``disagreements``, int32, of
            shape (N); and ``evaluations``, int64. Nothing where there was no evaluation.
        """
        if not self.evaluations:
            return {}
        means = {
            "mean_given": (self._given / self.evaluations).float(),
            "mean_margin": (self._margin / self.evaluations).float(),
            "disagreements": self._disagreements.clone(),
            "evaluations": torch.tensor(self.evaluations),
        }
        if self._all is not None:
            means["mean_probabilities"] = (self._all / self.evaluations).half()
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return the sums: tensors and plain values."""
        return {
            "evaluations": self.evaluations,
            "given": self._given,
            "margin": self._margin,
            "disagreements": self._disagreements,
            "all": self._all,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.evaluations = state["evaluations"]
        self._given, self._margin = state["given"], state["margin"]
        self._disagreements, self._all = state["disagreements"], state["all"]
