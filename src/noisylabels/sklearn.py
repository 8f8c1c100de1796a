"""The robust losses and methods as a classifier of scikit-learn, for tables and embeddings.

:class:`RobustClassifier` is fitted, cloned, searched and put into pipelines like any other
estimator, and says which of the labels that it was given are probably wrong. A row of numbers is
an example: columns of a table, or vectors that another network has computed.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from noisylabels.data.batches import (
    Batch,
    cut_into_batches,
    derive_generator,
    derive_seed,
    evaluation_batch,
)
from noisylabels.errors import (
    ConfigError,
    DataError,
    MissingExtraError,
    check_choice,
    check_count,
    check_range,
    unknown,
)
from noisylabels.estimation import estimate_noise_rate, wrong_probability
from noisylabels.losses import Loss, make
from noisylabels.methods import METHODS, Method, MethodContext, SingleProcess, Task
from noisylabels.methods.optimizers import sgd
from noisylabels.methods.pair import Pair
from noisylabels.methods.single import Single
from noisylabels.models import mlp
from noisylabels.schedules import cosine

try:
    import numpy as np
    from scipy.sparse import issparse
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import check_cv
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils import check_random_state, check_X_y, compute_sample_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise MissingExtraError("scikit-learn", "sklearn") from error

if TYPE_CHECKING:
    import pandas

__all__ = ["LabelIssues", "RobustClassifier"]

Array = np.ndarray[Any, Any]

ONE_VIEW = ("single", "elr", "coteaching", "jocor")
"""The methods that want one view of an example: a row of numbers has no other."""
FEW_ROWS, WIDTH = 1000, 256
"""Rows below which ``hidden_layer_sizes="auto"`` is a linear model, and the layer's width else."""
STEPS = 1500
"""Steps that ``epochs="auto"`` makes at least; see docs/losses/dal.md on short training."""
LEAST_EPOCHS = 30
EVALUATIONS = 50
"""Epochs, spread over training, whose predictions are the evidence of wrong labels."""
HELD_OUT = 0.1
"""Share of the examples from which a method estimates the noise rate that it is not given."""
SINGLE_ONLY = ("mps",)
"""Types of devices that have no float64."""
ACCEPTED: Mapping[str, Any] = {"accept_sparse": "csr", "dtype": (np.float64, np.float32)}


@dataclass(frozen=True)
class LabelIssues:
    """Which labels are probably wrong, see :meth:`RobustClassifier.find_label_issues`.

    Args:
        given: The labels as they were given, of shape (N).
        predicted: The class that each example's own evidence is most for, of shape (N).
        wrong_probability: The probability that each label is wrong, see
            :func:`noisylabels.estimation.wrong_probability`, of shape (N).
        mean_probabilities: The evidence: class probabilities, means over epochs, of shape (N, K).
        noise_rate: Estimated share of wrong labels, see
            :func:`noisylabels.estimation.estimate_noise_rate`.
        out_of_fold: Whether each example was judged by a network that was not trained on it.
        index: What a frame or series of pandas calls the examples; None where they came in neither.
    """

    given: Array
    predicted: Array
    wrong_probability: Array
    mean_probabilities: Array
    noise_rate: float
    out_of_fold: bool
    index: Any = None

    def __len__(self) -> int:
        """Return the number of examples, whether their labels are wrong or not."""
        return len(self.given)

    @property
    def order(self) -> Array:
        """All rows by position (``X.iloc[order]``), the most suspicious label first."""
        return np.asarray(np.argsort(-self.wrong_probability, kind="stable"))

    @property
    def is_issue(self) -> Array:
        """Whether each label is more probably wrong than right, bool, of shape (N)."""
        return np.asarray(self.wrong_probability > 0.5)

    @property
    def rows(self) -> Array:
        """The positions of labels more probably wrong than right, the most suspicious first."""
        return self.order[: int(self.is_issue.sum())]

    def frame(self) -> "pandas.DataFrame":
        """Return a row for every example, in their order.

        Returns:
            A frame with the columns ``is_issue``, ``wrong_probability``, ``given`` and
            ``predicted``, and the index of the examples' own frame or series.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("pandas", "report") from error
        names = ("is_issue", "wrong_probability", "given", "predicted")
        columns = {name: getattr(self, name) for name in names}
        return pandas.DataFrame(columns, index=self.index)


class RobustClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A perceptron that is trained with a loss, or a method, which wrong labels mislead less.

    It is for tables of numbers and for embeddings. Columns are standardised inside, so that raw
    ones will do. Training is plain: stochastic gradient descent with a momentum of 0.9, a learning
    rate that falls to 0 as a cosine, and the loss's ``progress`` told in every epoch. The dynamics
    of a loss such as ``"dal"`` span one whole training, so there is neither ``partial_fit`` nor a
    warm start; nor is training stopped early, for which labels would be needed that are right.

    Args:
        loss: A key of ``noisylabels.losses.LOSSES`` such as ``"dal"``, ``"gce"`` or ``"ce"``; a
            loss's class; or a loss, of which a copy is trained with.
        loss_params: Hyper-parameters of the loss by name, where it is a key or a class. Each is a
            parameter of the estimator too: ``set_params(loss__q_start=0.4)``.
        method: How a batch becomes an update: ``"single"`` (one network, the loss alone),
            ``"elr"``, ``"coteaching"`` or ``"jocor"``. Of the latter two's networks the first
            predicts.
        method_params: Parameters of the method by name, ``method__forget_rate`` and so on. A
            ``forget_rate`` that is not given is estimated from a tenth of the examples.
        hidden_layer_sizes: Width of each hidden layer; ``()`` for a linear model; ``"auto"`` is one
            layer of 256, and none below 1,000 rows, whose wrong labels it would learn by heart.
            Embeddings are often better off without one, however many.
        epochs: How often the training set is gone through; ``"auto"`` is 30 times, or more often
            until there are 1,500 steps.
        batch_size: Examples per step.
        learning_rate: The learning rate of the first epoch, above 0.
        weight_decay: L2 penalty, at least 0.
        standardize: Whether columns are brought to a mean of 0 and a standard deviation of 1, by
            the training set's; of sparse columns only the latter.
        class_weight: ``"balanced"``, or weights by class, as factors on ``sample_weight``.
        device: Where to train, as torch names it, such as ``"cpu"``. The fitted network is on the
            CPU. Small networks train fastest there, too.
        random_state: A seed, a ``numpy.random.RandomState`` or None for NumPy's own. Torch's
            generators are left as they were.
        verbose: Whether to print what the method has to say.

    Attributes:
        classes_: The K classes, sorted.
        n_features_in_: Number of columns.
        feature_names_in_: Their names, where all are strings.
        network_: The trained network: standardised rows in, logits out.
        scaler_: The ``StandardScaler``; None without ``standardize``.
        epochs_: Number of epochs.
        mean_probabilities_: Class probabilities of the training examples, means over epochs,
            float32, of shape (N, K).

    Raises:
        ConfigError: A parameter is unknown or out of its range; a ``ValueError`` too.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> from noisylabels.noise import symmetric
        >>> X, y = load_wine(return_X_y=True)
        >>> given = symmetric(torch.from_numpy(y), rate=0.4, seed=0).numpy()
        >>> classifier = RobustClassifier("gce", epochs=50, random_state=0).fit(X, given)
        >>> bool(classifier.score(X, y) > 0.9)
        True
        >>> issues = classifier.find_label_issues()
        >>> bool((y != given)[issues.rows[:20]].all())
        True
    """

    def __init__(
        self,
        loss: str | Loss | Callable[..., Loss] = "dal",
        *,
        loss_params: Mapping[str, Any] | None = None,
        method: str = "single",
        method_params: Mapping[str, Any] | None = None,
        hidden_layer_sizes: Sequence[int] | int | str = "auto",
        epochs: int | str = "auto",
        batch_size: int = 128,
        learning_rate: float = 0.05,
        weight_decay: float = 1e-4,
        standardize: bool = True,
        class_weight: Mapping[Any, float] | str | None = None,
        device: str | torch.device = "cpu",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.loss = loss
        self.loss_params = loss_params
        self.method = method
        self.method_params = method_params
        self.hidden_layer_sizes = hidden_layer_sizes
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.standardize = standardize
        self.class_weight = class_weight
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name.

        Args:
            deep: Whether to return the loss's and the method's, as far as they are given, too.
        """
        found: dict[str, Any] = super().get_params(deep=deep)
        if deep:
            for part in ("loss", "method"):
                given = found[f"{part}_params"]
                if isinstance(given, Mapping):
                    found |= {f"{part}__{name}": value for name, value in given.items()}
        return found

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name.

        Args:
            **params: Among them the loss's, ``loss__q_start=0.4``, and the method's,
                ``method__forget_rate=0.2``.
        """
        whole = {name: value for name, value in params.items() if "__" not in name}
        super().set_params(**whole)
        for name in params.keys() - whole.keys():
            part, _, own = name.partition("__")
            if part not in ("loss", "method"):
                super().set_params(**{name: params[name]})  # refuses it
            given = getattr(self, f"{part}_params") or {}
            setattr(self, f"{part}_params", {**given, own: params[name]})
        return self

    def __sklearn_tags__(self) -> Any:
        """Say that rows may be sparse."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on examples and their given labels.

        Args:
            X: Numbers, of shape (N, D): an array, a frame or a sparse matrix.
            y: Labels, numbers or strings, of shape (N).
            sample_weight: Weight of each example's loss, of shape (N); an example of weight 0 is
                not trained on. Weights that differ need the method ``"single"``.

        Returns:
            The estimator.

        Raises:
            ConfigError: A parameter is unknown or out of its range.
            ValueError: The data cannot be used.
        """
        index = _index(X, y)
        inputs, given = validate_data(self, X, y, **ACCEPTED)
        self.classes_, labels = _encode(given)
        weight = _weigh(self.class_weight, given, sample_weight)
        rows = np.arange(len(given))
        trained = self._train(inputs, labels, self.classes_, weight, rows, self._seed())
        self.network_, self.scaler_, self.epochs_ = trained.network, trained.scaler, trained.epochs
        self.mean_probabilities_ = trained.means
        self._labels, self._dtype, self._index = labels, trained.dtype, index
        return self

    def predict_proba(self, X: Any) -> Array:
        """Predict class probabilities.

        A robust loss fits only as sure as it has to be, or far surer: the order of these is worth
        more than their values.

        Args:
            X: Numbers, of shape (N, D).

        Returns:
            float64, of shape (N, K), in the order of ``classes_``.
        """
        check_is_fitted(self)
        inputs = validate_data(self, X, reset=False, **ACCEPTED)
        if self.scaler_ is not None:
            inputs = self.scaler_.transform(inputs)
        table = _Table(inputs.astype(self._dtype, copy=False), torch.device("cpu"))
        with torch.inference_mode():
            logits = [self.network_(rows) for rows in table.batches(torch.arange(table.count))]
            return np.asarray(torch.cat(logits).softmax(1, dtype=torch.float64).numpy())

    def predict(self, X: Any) -> Array:
        """Predict classes.

        Args:
            X: Numbers, of shape (N, D).

        Returns:
            Labels as they were given to :meth:`fit`, of shape (N).
        """
        numbers = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[numbers])

    def find_label_issues(
        self,
        X: Any = None,
        y: Any = None,
        *,
        sample_weight: Any = None,
        cv: Any = 5,
    ) -> LabelIssues:
        """Rank labels by how probably they are wrong, and estimate how many are.

        A label that is wrong is learnt late or never, so what counts is the mean of what was
        predicted throughout training, not at its end. Without arguments the training set of
        :meth:`fit` is judged, at no further cost. With ``X`` and ``y`` networks are trained on
        parts of these, each of which judges the part that it has not seen; the estimator itself
        need not be fitted, and stays as it is. That takes ``cv`` times as long, and is worth it
        with losses that learn wrong labels by heart, such as ``"ce"``.

        Args:
            X: Numbers, of shape (N, D).
            y: Given labels, of shape (N).
            sample_weight: As for :meth:`fit`.
            cv: Number of folds, a splitter, or pairs of row numbers; each row must be held out.

        Returns:
            What was found, for each example in its place.

        Raises:
            ConfigError: ``X`` or ``y`` is missing.
            DataError: A row is never held out.
        """
        if (X is None) != (y is None):
            raise ConfigError("find_label_issues: expected both X and y, or neither, got one")
        if X is None and sample_weight is not None:
            raise ConfigError("find_label_issues: expected X and y with sample_weight, got neither")
        if X is None:
            check_is_fitted(self)
            return _judge(
                self.mean_probabilities_,
                self._labels,
                self.classes_,
                self._index,
                out_of_fold=False,
            )
        index = _index(X, y)
        inputs, given = check_X_y(X, y, **ACCEPTED)
        classes, labels = _encode(given)
        weight = _weigh(self.class_weight, given, sample_weight)
        sums = np.zeros((len(given), len(classes)), np.float32)
        times = np.zeros((len(given), 1), np.int64)
        folds, seed = check_cv(cv, given, classifier=True), self._seed()
        for number, (rows, held) in enumerate(folds.split(inputs, given)):
            fold_seed = derive_seed(seed, "fold", number)
            trained = self._train(inputs, labels, classes, weight, rows, fold_seed)
            sums[held] += trained.means[held]
            times[held] += 1
        if not times.all():
            raise DataError(f"cv: expected every row to be held out, got {(times == 0).sum()} not")
        return _judge(sums / times, labels, classes, index, out_of_fold=True)

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _train(
        self,
        inputs: Any,
        labels: Array,
        classes: Array,
        weight: Array | None,
        rows: Array,
        seed: int,
    ) -> "_Trained":
        """Train on some rows, and predict all of them throughout."""
        device = _usable(self.device)
        check_range("learning_rate", self.learning_rate, open=True)
        for name in ("loss_params", "method_params"):
            given = getattr(self, name)
            if given is not None and not isinstance(given, Mapping):
                raise ConfigError(f"{name} must be a dictionary of values by name, got {given!r}")
        if not isinstance(self.standardize, bool | np.bool_):
            raise ConfigError(f"standardize must be True or False, got {self.standardize!r}")
        if weight is not None:
            rows = rows[weight[rows] > 0]
        if len(np.unique(labels[rows])) < 2:
            raise DataError(
                f"expected training labels of at least 2 classes, got {len(rows)} examples of one "
                f"class"
            )
        parts = self._divide(rows, len(labels), seed)
        rows = parts["train"].numpy()
        own = None if weight is None or not np.ptp(weight[rows]) else weight[rows]
        scaler = None
        if self.standardize:
            # Centred, sparse rows would be sparse no more.
            scaler = StandardScaler(with_mean=not issparse(inputs))
            inputs = scaler.fit(inputs[rows], sample_weight=own).transform(inputs)
        if device.type in SINGLE_ONLY:
            inputs = inputs.astype(np.float32, copy=False)
        table, targets = _Table(inputs, device), torch.from_numpy(labels)
        task = Task(
            labels=targets[rows],
            num_classes=int(labels.max()) + 1,
            inputs=lambda part: table.batches(parts[part]),
            sizes={part: len(each) for part, each in parts.items()},
            held_out=targets[parts["validation"]] if "validation" in parts else None,
            batch_size=_whole("batch_size", self.batch_size),
            seed=seed,
            augmented=False,
        )
        epochs = self._count_epochs(task)
        means = torch.zeros(len(labels), task.num_classes)
        looks = 0
        with _seeded(derive_seed(seed, "step"), device):
            method = self._make_method(task, table, own)
            for epoch in range(epochs):
                _train_epoch(method, epoch, epochs, table.epoch(task, parts["train"], epoch))
                if (epoch + 1) % -(-epochs // EVALUATIONS) and epoch + 1 < epochs:
                    continue
                looks += 1
                for part, places in parts.items():
                    means[places] += method.combine(method.predict(part).exp())
        _warn_of_collapse(method.combine(method.predict("train")).argmax(1), task.labels, classes)
        network = method.networks[0].cpu().eval().requires_grad_(False)
        return _Trained(network, scaler, epochs, (means / looks).numpy(), inputs.dtype)

    def _divide(self, rows: Array, count: int, seed: int) -> dict[str, Tensor]:
        """Return the rows to train on, those to estimate a noise rate from, and all others."""
        train, parts = torch.from_numpy(rows), {}
        if issubclass(self._find_method(), Pair) and "forget_rate" not in (
            self.method_params or {}
        ):
            order = torch.randperm(len(rows), generator=derive_generator(seed, "hold-out"))
            held = round(HELD_OUT * len(rows))
            parts["validation"], train = train[order[:held]], train[order[held:].sort().values]
        rest = torch.ones(count, dtype=torch.bool)
        rest[torch.from_numpy(rows)] = False
        return {"train": train, **parts, "rest": rest.nonzero().squeeze(1)}

    def _count_epochs(self, task: Task) -> int:
        if not isinstance(self.epochs, str):
            return _whole("epochs", self.epochs)
        check_choice("epochs", self.epochs, ["auto"])
        steps = len(cut_into_batches(torch.arange(len(task.labels)), task.batch_size))
        return max(LEAST_EPOCHS, -(-STEPS // steps))

    def _make_loss(self) -> Loss:
        params = dict(self.loss_params or {})
        if isinstance(self.loss, Loss):
            if params:
                raise ConfigError(
                    f"loss_params: expected none beside a loss that is made, got "
                    f"{', '.join(params)}: give the loss's key or class"
                )
            loss = copy.deepcopy(self.loss)
        else:
            loss = make(self.loss, params)
        # What it would say is said after training, once.
        loss.warns = False
        loss.reduction = "mean"
        return loss

    def _find_method(self) -> type[Method]:
        check_choice("method", self.method, ONE_VIEW)
        return METHODS[self.method]

    def _make_method(self, task: Task, table: "_Table", weight: Array | None) -> Method:
        widths = self.hidden_layer_sizes
        if isinstance(widths, str):
            check_choice("hidden_layer_sizes", widths, ("auto",))
            widths = () if len(task.labels) < FEW_ROWS else WIDTH
        hidden = tuple(_whole("hidden_layer_sizes", each) for each in np.atleast_1d(widths))

        def network(number: int) -> nn.Module:
            torch.default_generator.manual_seed(derive_seed(task.seed, "weights", number))
            return mlp(tuple(table.shape), task.num_classes, hidden=hidden).to(
                table.device, table.dtype
            )

        context = MethodContext(
            engine=SingleProcess(),
            network=network,
            optimizer=partial(sgd, lr=self.learning_rate, weight_decay=self.weight_decay),
            loss=self._make_loss().to(table.device),
            lr_factor=cosine,
            task=task,
            say=print if self.verbose else lambda sentence: None,
        )
        make: Callable[..., Method] = self._find_method()
        if weight is not None:
            if self.method != "single":
                raise ConfigError(
                    f"sample_weight and class_weight: the method must be 'single', got "
                    f"{self.method!r}"
                )
            shares = torch.from_numpy(weight / weight.mean())
            make = partial(_Weighted, weight=shares.to(table.device, table.dtype))
        try:
            return make(context, **(self.method_params or {}))
        except TypeError as error:
            raise ConfigError(f"method {self.method!r}: {error}") from error


@dataclass(frozen=True)
class _Trained:
    """What training made: a network, what scales its inputs, what it predicted, and their type."""

    network: nn.Module
    scaler: Any
    epochs: int
    means: Array
    dtype: Any


class _Table:
    """Rows of numbers as a network takes them, dense on its device or sparse on the CPU."""

    def __init__(self, values: Any, device: torch.device) -> None:
        self.device = device
        self.count, *self.shape = values.shape
        self.dtype = torch.float64 if values.dtype == np.float64 else torch.float32
        self._sparse: Any = values if issparse(values) else None
        if self._sparse is None:
            self._dense = torch.from_numpy(np.require(values, requirements=("C", "W"))).to(device)

    def rows(self, places: Tensor) -> Tensor:
        """Return some rows, of shape (n, D)."""
        if self._sparse is None:
            return self._dense[places.to(self.device)]
        return torch.from_numpy(self._sparse[places.numpy()].toarray()).to(self.device)

    def batches(self, places: Tensor) -> Iterator[Tensor]:
        """Yield rows in order, some at a time."""
        return map(self.rows, torch.split(places, evaluation_batch(self.device, self.shape)))

    def epoch(self, task: Task, places: Tensor, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, every example once, shuffled."""
        generator = derive_generator(task.seed, "order", epoch)
        order = torch.randperm(len(places), generator=generator)
        for index in cut_into_batches(order, task.batch_size):
            target = task.labels[index].to(self.device)
            yield Batch(index.to(self.device), self.rows(places[index]), target)


class _Weighted(Single):
    """Minimises the mean of the losses times the examples' weights, whose mean is 1."""

    def __init__(self, context: MethodContext, *, weight: Tensor) -> None:
        context.loss.reduction = "none"
        super().__init__(context)
        self._weight = weight

    def train_epoch(self, batches: Iterable[Batch]) -> None:
        (network,) = self.networks
        network.train()

        def loss(part: Batch) -> Tensor:
            each: Tensor = self.context.loss(network(part.input), part.target)
            return (each * self._weight[part.index]).mean()

        for batch in batches:
            self.optimize(batch, loss)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators for a while: the CPU's, and the device's where it has one."""
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            module = torch.get_device_module(device)
            stack.callback(module.set_rng_state, module.get_rng_state())
            module.manual_seed(seed)
        yield


def _train_epoch(method: Method, epoch: int, epochs: int, batches: Iterator[Batch]) -> None:
    lr = method.set_epoch(epoch, epochs)
    method.begin_epoch()
    method.train_epoch(batches)
    loss = method.context.loss
    metrics = {"epoch": epoch, "loss": method.end_epoch(), "lr": lr}
    loss.update(metrics | loss.dynamic() | method.metrics())


def _usable(name: str | torch.device) -> torch.device:
    """Return a device on which something can be computed."""
    try:
        device = torch.device(name)
        float(torch.zeros((), device=device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # Some of torch's messages go on for paragraphs.
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"device: {name!r} cannot be used ({reason})") from error
    return device


def _warn_of_collapse(predicted: Tensor, labels: Tensor, classes: Array) -> None:
    only = predicted[0]
    if bool((predicted == only).all()) and bool((labels == only).double().mean() < 0.5):
        warnings.warn(
            "every training example is predicted as the same class: train longer, with another "
            "learning_rate, or with a loss that starts nearer to cross entropy, such as "
            "loss_params={'q_start': 0.0} with 'dal'",
            ConvergenceWarning,
            stacklevel=4,
        )
        return
    common = torch.bincount(labels, minlength=len(classes)) >= len(labels) / (2 * len(classes))
    lost = (common & (torch.bincount(predicted, minlength=len(classes)) == 0)).nonzero().flatten()
    if len(lost):
        names = ", ".join(repr(classes[number].item()) for number in lost)
        warnings.warn(
            f"no training example is predicted as {names}, which many are labelled as: if these "
            f"labels are not all wrong, train longer, or with a loss that starts nearer to cross "
            f"entropy, such as loss_params={{'q_start': 0.0}} with 'dal'",
            ConvergenceWarning,
            stacklevel=4,
        )


def _encode(y: Array) -> tuple[Array, Array]:
    """Return the classes, and each label's number among them."""
    check_classification_targets(y)
    classes, labels = np.unique(y, return_inverse=True)
    return classes, labels.astype(np.int64)


def _weigh(class_weight: Any, y: Array, sample_weight: Any) -> Array | None:
    """Return each example's weight, or None where all weigh the same."""
    if class_weight is None and sample_weight is None:
        return None
    weight = np.ones(len(y))
    if sample_weight is not None:
        weight = _check_sample_weight(sample_weight, y, dtype=np.float64)
        if (weight < 0).any():
            raise DataError("sample_weight: expected weights of at least 0, got negative ones")
    if isinstance(class_weight, str):
        check_choice("class_weight", class_weight, ["balanced"])
    if isinstance(class_weight, Mapping):
        known = np.unique(y).tolist()
        for name in class_weight:
            if name not in known:
                raise ConfigError(unknown("class in class_weight", str(name), map(str, known)))
    if class_weight is not None:
        weight = weight * compute_sample_weight(class_weight, y)
    return np.asarray(weight)


def _index(X: Any, y: Any) -> Any:
    """Return what pandas calls the rows, of the first of both that is pandas'."""
    return next((each.index for each in (X, y) if hasattr(each, "iloc")), None)


def _judge(
    means: Array, labels: Array, classes: Array, index: Any, *, out_of_fold: bool
) -> LabelIssues:
    p, given = torch.from_numpy(means), torch.from_numpy(labels)
    return LabelIssues(
        given=classes[labels],
        predicted=classes[means.argmax(1)],
        wrong_probability=np.asarray(wrong_probability(p, given).numpy()),
        mean_probabilities=means,
        noise_rate=estimate_noise_rate(p, given),
        out_of_fold=out_of_fold,
        index=index,
    )


def _whole(name: str, value: Any) -> int:
    """Return a whole number of at least 1; NumPy's, which a grid can be made of, will do."""
    return check_count(name, value.item() if isinstance(value, np.generic) else value, low=1)
