"""Trials in a storage that several machines can share: the one place that knows Optuna."""

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from noisylabels.data.batches import derive_seed
from noisylabels.errors import ConfigError, DataError, MissingExtraError
from noisylabels.studies.space import Choices, Parameter, Space
from noisylabels.studies.tuning import Stage, Trial, mark

try:
    import optuna
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
    from optuna.exceptions import OptunaError, UpdateFinishedTrialError
    from optuna.storages import BaseStorage, JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import FrozenTrial, TrialState
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError
except ImportError as error:
    raise MissingExtraError("optuna", "tune") from error

STATES: dict[TrialState, Stage] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
TRIALS_BEFORE_PRUNING = 5
"""How many trials there must be for others to be compared with their median."""
SECONDS_FOR_A_TURN = 60
DRIVERS = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}
"""What to install for a module that a database needs, where it is called otherwise."""


class Trials:
    """The trials of one study.

    Args:
        storage: An address such as ``sqlite:///tune.db`` or ``postgresql://...``, or the path of a
            journal.
        name: The study's name.
        space: What is chosen; it must have been fitted.
        seed: Seed of what is proposed. It depends on this, on a trial's number and on what has
            become of the trials before, and on nothing else.
        warmup: Epochs before which no trial is pruned.

    Raises:
        ConfigError: The storage cannot be reached.
    """

    def __init__(self, storage: str, name: str, space: Space, *, seed: int, warmup: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.storage = hide_password(storage)
        self._space = space
        self._distributions = {each.key: _distribution(each) for each in space.parameters}
        with _reaching(self.storage, ConfigError):
            self._study = optuna.create_study(
                storage=_open(storage),
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                sampler=_Sampler(seed),
                pruner=optuna.pruners.MedianPruner(TRIALS_BEFORE_PRUNING, warmup),
            )

    def list(self) -> "list[Trial]":
        """Return all trials, in the order of their numbers."""
        with _reaching(self.storage):
            found = self._study.get_trials(deepcopy=False)
        return [self._read(each) for each in found]

    def suggest(self, points: Iterable[Mapping[str, Any]]) -> None:
        """Have values tried before others, unless they are known already.

        Args:
            points: Values by key; what they lack is proposed as for any other trial.
        """
        parameters = {each.key: each for each in self._space.parameters}
        with _reaching(self.storage):
            for point in points:
                stored = {key: parameters[key].encode(value) for key, value in point.items()}
                self._study.enqueue_trial(stored, skip_if_exists=True)

    def ask(self) -> Trial:
        """Begin the next trial."""
        with _reaching(self.storage):
            asked = self._study.ask(self._distributions)
            return self._read(self._frozen(asked.number + 1))

    def assign(self, trial: Trial, runs: Sequence[str], out: Path) -> None:
        """Remember which runs a trial has, and that they are made here.

        Args:
            trial: The trial.
            runs: Their ids.
            out: The folder of their run folders.
        """
        here = {"host": socket.gethostname(), "process": os.getpid(), "out": str(out.resolve())}
        self._note(trial, runs=list(runs), place=mark(out), **here)

    def report(self, trial: Trial, epoch: int, accuracy: float) -> bool:
        """Take the hold-out accuracy of an epoch.

        Args:
            trial: The trial.
            epoch: How many epochs are done.
            accuracy: The accuracy, a fraction in [0, 1].

        Returns:
            Whether the trial is worse than the median of the others at that epoch.
        """
        with _reaching(self.storage):
            frozen = self._frozen(trial.number)
            if epoch in frozen.intermediate_values or frozen.state.is_finished():
                return False
            handle = self._handle(frozen)
            handle.report(accuracy, epoch)
            return handle.should_prune()

    def finish(self, trial: Trial, accuracies: Sequence[float], seconds: float) -> None:
        """Write what came of a trial, unless somebody has.

        Args:
            trial: The trial.
            accuracies: Hold-out accuracy of each run.
            seconds: What its runs took together.
        """
        self._note(trial, accuracies=list(accuracies), seconds=seconds)
        self._tell(trial, TrialState.COMPLETE, sum(accuracies) / len(accuracies))

    def prune(self, trial: Trial) -> None:
        """Write that a trial was given up."""
        self._tell(trial, TrialState.PRUNED)

    def fail(self, trial: Trial, error: str) -> None:
        """Write why a trial failed."""
        self._note(trial, error=error)
        self._tell(trial, TrialState.FAIL)

    def _tell(self, trial: Trial, state: TrialState, value: float | None = None) -> None:
        with _reaching(self.storage):
            self._study.tell(trial.number - 1, value, state, skip_if_finished=True)

    def _note(self, trial: Trial, **attributes: Any) -> None:
        with _reaching(self.storage):
            handle = self._handle(self._frozen(trial.number))
            try:
                for name, value in attributes.items():
                    handle.set_user_attr(name, value)
            except UpdateFinishedTrialError:
                # Another process was faster; what it wrote is the same.
                return

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number - 1]

    def _handle(self, frozen: FrozenTrial) -> optuna.Trial:
        # A trial that another process has begun has no handle but this.
        return optuna.Trial(self._study, frozen._trial_id)

    def _read(self, frozen: FrozenTrial) -> Trial:
        noted = frozen.user_attrs
        return Trial(
            number=frozen.number + 1,
            state=STATES[frozen.state],
            values=self._space.decode(frozen.params),
            runs=tuple(noted.get("runs", ())),
            host=noted.get("host", ""),
            process=noted.get("process", 0),
            out=Path(noted.get("out", "")),
            place=noted.get("place", ""),
            accuracies=tuple(noted.get("accuracies", ())),
            accuracy=frozen.value if frozen.state is TrialState.COMPLETE else None,
            seconds=noted.get("seconds"),
            error=noted.get("error", ""),
            began=frozen.datetime_start,
        )


class _Sampler(optuna.samplers.BaseSampler):
    """Optuna's own sampler (TPE), seeded anew for each trial and parameter.

    One generator from the start would propose the same again after every interruption, and the
    same on every machine.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def _fresh(self, trial: FrozenTrial, *purpose: str) -> optuna.samplers.TPESampler:
        seed = derive_seed(self._seed, "tune", trial.number, *purpose) % 2**32
        return optuna.samplers.TPESampler(seed=seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._fresh(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._fresh(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = self._fresh(trial, param_name)
        return sampler.sample_independent(study, trial, param_name, param_distribution)


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Choices):
        return CategoricalDistribution([parameter.encode(value) for value in parameter.values])
    low, high, log = parameter.low, parameter.high, parameter.log
    if parameter.whole:
        return IntDistribution(int(low), int(high), log, int(parameter.step or 1))
    return FloatDistribution(low, high, log, parameter.step)


def _open(storage: str) -> BaseStorage:
    if "://" in storage:
        address = make_url(storage)
        if address.drivername.startswith("sqlite") and address.database in (None, "", ":memory:"):
            raise ConfigError(
                f"storage {storage}: expected a file, as in sqlite:///tune.db: what is in memory "
                f"is lost"
            )
        return _open_database(storage, address.drivername.startswith("sqlite"))
    # A lock that a dead process has left is looked up through this path, from the file's folder.
    path = Path(storage).expanduser().absolute()
    if path.exists():
        _check_journal(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


def _open_database(address: str, sqlite: bool) -> RDBStorage:
    # A file has one writer at a time; the others wait for their turn.
    options = {"connect_args": {"timeout": SECONDS_FOR_A_TURN}} if sqlite else {}
    for wait in (0.2, 1.0):
        try:
            return RDBStorage(address, options)
        except DBAPIError:
            # Two processes that make the tables at once get into each other's way.
            time.sleep(wait)
    return RDBStorage(address, options)


def _check_journal(path: Path) -> None:
    """Refuse a file that is no journal: Optuna would write into it all the same."""
    with path.open("rb") as file:
        line = file.readline()
    if line and "op_code" not in json.loads(line):
        raise ValueError(f"{line[:80]!r}")


def hide_password(storage: str) -> str:
    """Return a storage's address as it can be shown.

    Args:
        storage: An address or a path.

    Example:
        >>> hide_password("postgresql://me:secret@host/db")
        'postgresql://me:***@host/db'
    """
    if "://" not in storage:
        return storage
    try:
        return make_url(storage).render_as_string(hide_password=True)
    except (SQLAlchemyError, ValueError) as error:
        scheme = storage.partition("://")[0]
        raise ConfigError(
            f"storage: expected an address such as sqlite:///tune.db or "
            f"postgresql://USER:PASSWORD@HOST/DATABASE, or a path, got {scheme}://..."
        ) from error


@contextmanager
def _reaching(storage: str, kind: type[ConfigError | DataError] = DataError) -> Iterator[None]:
    """Name a storage that cannot be reached, or does not hold what it should."""
    lost = "" if kind is ConfigError else "; every run folder stays, the same command continues"
    try:
        yield
    except ConfigError:
        raise
    except ImportError as error:
        cause = error.__cause__ or error
        module = str(getattr(cause, "name", None) or cause)
        raise kind(
            f"storage {storage}: {module} is not installed: pip install "
            f"'{DRIVERS.get(module, module)}'"
        ) from error
    except (SQLAlchemyError, OptunaError, OSError) as error:
        cause = error.__cause__ or error if isinstance(error, OptunaError) else error
        text = str(getattr(cause, "orig", None) or getattr(cause, "strerror", None) or cause)
        raise kind(
            f"storage {storage}: cannot be reached or used ({' '.join(text.split())}){lost}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise kind(
            f"storage {storage}: expected what Optuna has written ({error!r:.200}){lost}"
        ) from error
