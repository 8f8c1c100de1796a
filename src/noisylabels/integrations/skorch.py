"""The losses in skorch's nets: probabilities, progress, and labels of any kind.

skorch turns logits into probabilities for torch's own criteria alone, tells no criterion how far
training is, and wants labels to be numbers from 0. :class:`RobustNetClassifier` does all three;
:class:`Progress` and :func:`probabilities` are for a net of one's own.
"""

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn

from noisylabels.errors import ConfigError, DataError, MissingExtraError
from noisylabels.integrations import set_progress
from noisylabels.losses import Loss, make

try:
    import numpy as np
    from skorch import NeuralNetClassifier
    from skorch.callbacks import Callback
except ImportError as error:
    raise MissingExtraError("skorch", "skorch") from error

__all__ = ["Progress", "RobustNetClassifier", "probabilities"]

Array = np.ndarray[Any, Any]
CLASSES = "noisylabels_classes"
"""The attribute of a net's module that its classes are kept in, and their name in its state."""


def probabilities(logits: Tensor) -> Tensor:
    """Turn logits into class probabilities, as a net's ``predict_nonlinearity``.

    Args:
        logits: Of shape (N, K).

    Returns:
        Probabilities, of shape (N, K).
    """
    return logits.softmax(1)


class Progress(Callback):  # type: ignore[misc]
    """Tells a net's criterion the progress of training at the start of every epoch.

    One of torch's own has none, and is left alone.

    Epochs are counted by the net's history, so that a training that goes on from a checkpoint, or
    by ``partial_fit``, does so from where it stopped.

    Args:
        epochs: The epoch at which progress is 1, where it stays; by default the net's
            ``max_epochs``.
    """

    def __init__(self, epochs: int | None = None) -> None:
        self.epochs = epochs

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Set the progress: the epochs that are behind, by how many there will be."""
        # Torch's own losses are there to be compared with.
        if type(net.criterion_).__module__.partition(".")[0] == "torch":
            return
        epochs = net.max_epochs if self.epochs is None else self.epochs
        # The history has the epoch that begins already.
        set_progress(net.criterion_, min(1.0, (len(net.history) - 1) / epochs))


class RobustNetClassifier(NeuralNetClassifier):  # type: ignore[misc]
    """A ``skorch.NeuralNetClassifier`` that is trained with one of this library's losses.

    The module gives logits. Labels may be strings, or numbers with gaps: the module's outputs are
    the sorted classes of the first ``y``, or ``classes`` in their order, and ``predict`` gives
    labels back as they were given. Pickling keeps the classes, and so does ``save_params`` with the
    parameters (``f_params``), except as safetensors, which hold tensors alone: pass ``classes``
    then. To callbacks, while the net is being fitted, ``predict`` gives the classes' numbers, for
    these are what the batches have.

    Args:
        module: The module's class, or a module.
        *args: As for ``skorch.NeuralNetClassifier``.
        criterion: A key of ``noisylabels.losses.LOSSES``, or a loss's class, one of torch's too.
            ``criterion__q`` and so on are its hyper-parameters. (Of a loss that is made already,
            skorch would make another one with these alone, so that is refused.)
        predict_nonlinearity: What turns the module's output into probabilities.
        **kwargs: As for ``skorch.NeuralNetClassifier``. The callback :class:`Progress` is there by
            default, as ``callbacks__progress``.

    Attributes:
        classes_: The K classes.

    Raises:
        ConfigError: ``criterion`` is a loss beside hyper-parameters, or an unknown key, or has no
            such hyper-parameter.
        DataError: A label is none of the classes.

    Example:
        >>> import torch
        >>> from sklearn.datasets import load_iris
        >>> iris = load_iris()
        >>> X, y = iris.data.astype("float32"), iris.target_names[iris.target]
        >>> _ = torch.manual_seed(0)
        >>> net = RobustNetClassifier(nn.Linear(4, 3), criterion="gce", criterion__q=0.3, lr=0.1,
        ...                           max_epochs=20, verbose=0).fit(X, y)
        >>> print(net.predict(X[:2]))
        ['setosa' 'setosa']
    """

    _fitting = False

    def __init__(
        self,
        module: type[nn.Module] | nn.Module,
        *args: Any,
        criterion: str | Callable[..., Loss] = "dal",
        predict_nonlinearity: Callable[[Tensor], Tensor] | str | None = probabilities,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            module, *args, criterion=criterion, predict_nonlinearity=predict_nonlinearity, **kwargs
        )

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        return [("progress", Progress()), *super()._default_callbacks]

    @property
    def classes_(self) -> Array:
        """The K classes: those that were passed, or those of the labels."""
        found = None if self.classes is not None else getattr(self.module_, CLASSES, None)
        return np.asarray(super().classes_ if found is None else found)

    def initialize_criterion(self) -> Self:
        """Make the loss."""
        kwargs = self.get_params_for("criterion")
        if isinstance(self.criterion, Loss) and kwargs:
            raise ConfigError(
                f"criterion: expected a loss's key or class beside "
                f"{', '.join(f'criterion__{name}' for name in kwargs)}, got a loss that is made: "
                f"{self.criterion!r}"
            )
        is_class = isinstance(self.criterion, type)
        if isinstance(self.criterion, nn.Module) or (
            is_class and not issubclass(self.criterion, Loss)
        ):
            # One that is made, or another library's.
            super().initialize_criterion()
        else:
            self.criterion_ = make(self.criterion, kwargs)
        return self

    def initialize_module(self) -> Self:
        """Make the module; its state holds the classes."""
        super().initialize_module()
        if not hasattr(self.module_, CLASSES):
            self.module_.register_state_dict_post_hook(_write_classes)
            self.module_.register_load_state_dict_pre_hook(_read_classes)
        # A module that was made beforehand may have been fitted to other classes.
        setattr(self.module_, CLASSES, None)
        return self

    def check_data(self, X: Any, y: Any) -> None:
        """Refuse data without labels; a dataset's are the classes' numbers already."""
        if y is not None:
            return
        super().check_data(X, y)
        if hasattr(self, "classes_inferred_"):
            self._keep_classes(range(int(self.classes_inferred_.max()) + 1))

    def partial_fit(self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any) -> Self:
        """Go on training.

        Args:
            X: As for ``skorch.NeuralNet.partial_fit``.
            y: Labels, all of the classes; those of the first call say what these are.
            classes: All classes, where the first ``y`` does not have all of them.
            **fit_params: As for ``skorch.NeuralNet.partial_fit``.

        Returns:
            The net.

        Raises:
            DataError: A label is none of the classes.
        """
        if not self.initialized_:
            self.initialize()
        if classes is not None:
            self._keep_classes(classes)
        super().partial_fit(X, y, **fit_params)
        return self

    def fit_loop(self, X: Any, y: Any = None, *args: Any, **kwargs: Any) -> Self:
        """Train on numbers in the place of labels."""
        if y is not None:
            y = np.asarray(y)
            self._keep_classes(y)
            y = self._encode(y)
        self._fitting = True
        try:
            super().fit_loop(X, y, *args, **kwargs)
        finally:
            self._fitting = False
        return self

    def predict(self, X: Any) -> Array:
        """Predict labels.

        Args:
            X: As for ``skorch.NeuralNetClassifier.predict``.

        Returns:
            Labels as they were given, of shape (N).
        """
        numbers: Array = self.predict_proba(X).argmax(1)
        return numbers if self._fitting else np.asarray(self.classes_[numbers])

    def _keep_classes(self, labels: Any) -> None:
        if self.classes is None and getattr(self.module_, CLASSES) is None:
            setattr(self.module_, CLASSES, np.unique(np.asarray(labels)).tolist())

    def _encode(self, y: Array) -> Array:
        classes = self.classes_
        order = np.argsort(classes)
        places = np.searchsorted(classes, y, sorter=order).clip(max=len(classes) - 1)
        numbers = order[places]
        unknown = classes[numbers] != y
        if unknown.any():
            raise DataError(
                f"y: row {int(unknown.argmax())}: {y[unknown][0]} is none of the classes "
                f"({', '.join(map(str, classes))})"
            )
        return np.asarray(numbers)


# Functions, for a module that holds them can be pickled; and metadata, for the parameters are then
# those of the module without a net.
def _write_classes(module: nn.Module, state: Any, prefix: str, metadata: dict[str, Any]) -> None:
    metadata[CLASSES] = getattr(module, CLASSES)


def _read_classes(
    module: nn.Module, state: Any, prefix: str, metadata: dict[str, Any], *args: Any
) -> None:
    if CLASSES in metadata:
        setattr(module, CLASSES, metadata[CLASSES])
