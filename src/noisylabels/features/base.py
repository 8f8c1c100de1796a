"""What turns inputs into vectors, and the cache of what came out."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from noisylabels.data.examples import Dataset, Examples
from noisylabels.errors import ConfigError

SECONDS_BETWEEN_SENTENCES = 10.0


class Meter:
    """Says how far computing features has come, and how fast.

    Args:
        total: How many inputs there are.
        noun: What they are.
        say: Tells the user.
    """

    def __init__(self, total: int, noun: str, say: Callable[[str], None]) -> None:
        self._total, self._noun, self._say, self._done = total, noun, say, 0
        self._begun = self._spoke = time.monotonic()

    def add(self, count: int) -> None:
        """Count some more, and say now and then where it stands."""
        self._done += count
        now = time.monotonic()
        if now - self._spoke > SECONDS_BETWEEN_SENTENCES:
            self._spoke = now
            pace = self._done / (now - self._begun)
            self._say(
                f"features of {self._done:,} of {self._total:,} {self._noun}, {pace:.0f} a second, "
                f"{(self._total - self._done) / pace:.0f} s left"
            )

    def end(self) -> None:
        """Say how long it took."""
        seconds = max(time.monotonic() - self._begun, 1e-9)
        self._say(
            f"features of {self._total:,} {self._noun} computed in {seconds:.0f} s, "
            f"{self._total / seconds:.0f} a second"
        )


@dataclass(frozen=True)
class Compute:
    """How features are computed.

    Args:
        device: Where.
        workers: Processes that decode images beside an accelerator; on the CPU its threads do that
            between batches, unless there are 0.
        precision: ``(network, device) -> "32" or "bf16"``.
        memory_format: ``(network, precision) -> memory format``.
        say: Tells the user how far it has come.
    """

    device: torch.device
    workers: int
    precision: Callable[[nn.Module, torch.device], str]
    memory_format: Callable[[nn.Module, str], torch.memory_format]
    say: Callable[[str], None] = lambda sentence: None


WEIGHTS = "features weights"
"""What the digest of downloaded weights is called among the contents that a run depends on."""


class Features(ABC):
    """Turns the inputs of a dataset into vectors, frozen or as the first part of the network.

    Made with ``(facts, *, the user's parameters)``, where ``facts`` are the source's; making one is
    cheap and reads nothing.

    Attributes:
        freeze: Whether vectors are computed once, and only what follows is trained.
        learns: Whether something is learnt from the training inputs, without which others cannot
            be turned into vectors: :meth:`learnt` returns it, and :meth:`restore` takes it.
        common_scale: Whether all numbers of a vector are divided by one standard deviation, the
            root mean square of their own, before anything is trained on them. Else each is by its
            own, which makes the last principal components as large as the first.
        recipe: How inputs become vectors, in words, for who reads an exported file without this
            library; "" where :meth:`module` says it.
    """

    freeze: bool = True
    learns: bool = False
    common_scale: bool = False
    recipe: str = ""

    @abstractmethod
    def check(self) -> None:
        """Refuse what cannot be had, before any work.

        Raises:
            ConfigError: There is no such network, or its weights do not fit.
            MissingExtraError: A library is not installed.
        """

    def contents(self) -> dict[str, str]:
        """Return digests of the folders that parameters name, by parameter.

        What a folder holds counts then, not where it lies. Files that a parameter of type ``Path``
        names count without this.
        """
        return {}

    def weights_digest(self) -> str | None:
        """Return a digest of weights that are downloaded, and may be others by tomorrow.

        Returns:
            None where there are none: those of a file, or of a folder, are known by what that
            holds, and those that are fine-tuned are the run's own.

        Raises:
            ConfigError: They cannot be had.
        """
        return None

    @abstractmethod
    def extract(
        self, parts: Mapping[str, Examples], train: Examples, compute: Compute
    ) -> dict[str, Tensor]:
        """Compute the vectors of some parts of a dataset.

        Args:
            parts: Examples by part.
            train: The training examples, for features that are learnt from the inputs.
            compute: How.

        Returns:
            float32 by part, each of shape (N, D).

        Raises:
            DataError: The inputs are of another kind, or cannot be read.
        """

    def learnt(self) -> dict[str, Tensor]:
        """Return what :meth:`extract` has learnt from the training inputs, by name."""
        return {}

    def restore(self, learnt: Mapping[str, Tensor]) -> None:  # noqa: B027 - most learn nothing
        """Let :meth:`extract` use what was learnt before, and learn nothing anew.

        Args:
            learnt: What :meth:`learnt` returned.
        """

    def module(self, *, filled: bool = True) -> nn.Module | None:
        """Build what computes the vectors as one network, for use outside this library.

        Args:
            filled: Whether it gets its weights; they can be loaded into it later.

        Returns:
            ``inputs as the source has them (uint8 images, say) -> vectors``; None where these
            features are no network.
        """
        return None

    def network(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        head: Callable[..., nn.Module],
        *,
        filled: bool = True,
    ) -> nn.Module:
        """Build the network that is fine-tuned, with a head over its vectors.

        Args:
            input_shape: Channels, height and width.
            num_classes: Number of logits.
            head: ``(input_shape, num_classes) -> network``.
            filled: Whether it gets its weights, to start from; trained ones can be loaded into it
                later.

        Raises:
            ConfigError: These features are not part of a network.
        """
        raise ConfigError("freeze must be true: these features are not part of a network")

    def normalisation(self, dataset: Dataset) -> tuple[Tensor, Tensor]:
        """Return the mean and standard deviation of inputs, in their own units, for fine-tuning.

        Args:
            dataset: The dataset.
        """
        return dataset.mean, dataset.std
