"""What every launcher does: make a run folder, wherever that happens, and tell how it goes."""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from noisylabels.errors import ConfigError, NoisyLabelsError
from noisylabels.run.callbacks import Callback, Start
from noisylabels.run.config import parse
from noisylabels.run.folder import Metrics, RunFolder
from noisylabels.run.interruption import StoppedError
from noisylabels.run.lock import HeldError
from noisylabels.run.plan import plan
from noisylabels.run.trainer import train

State = Literal["finished", "failed", "stopped", "held"]
"""How a job ends: ``"held"`` where someone else is making that run."""


@dataclass(frozen=True)
class Job:
    """A run folder to be made; doing it twice does it once.

    Args:
        run_id: The run's id.
        title: A name for people.
        tables: The configuration, as it stands in a file.
        out: Folder of run folders.
    """

    run_id: str
    title: str
    tables: Mapping[str, Any]
    out: Path

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return RunFolder(self.out / self.run_id)


@dataclass(frozen=True)
class Said:
    """A sentence that the user should know.

    Args:
        run_id: Whose run says it.
        sentence: What it says.
    """

    run_id: str
    sentence: str


@dataclass(frozen=True)
class Advanced:
    """A run has started or an epoch has ended.

    Args:
        run_id: Its id.
        epoch: Epochs that are done.
        metrics: Those of the last one; empty at the start.
    """

    run_id: str
    epoch: int
    metrics: Metrics


@dataclass(frozen=True)
class Ended:
    """A job has ended.

    Args:
        run_id: Its run.
        state: How.
        error: What went wrong, in one line, where it failed.
    """

    run_id: str
    state: State
    error: str = ""


Event = Said | Advanced | Ended


class Launcher(ABC):
    """Makes run folders somewhere; a context manager, on whose exit nothing of it is left running.

    It may be entered again within; it then ends with the inner one.

    It keeps nothing that counts: what has become of a run stands in its folder.
    """

    @property
    @abstractmethod
    def width(self) -> int:
        """How many runs it makes at once."""

    @property
    @abstractmethod
    def room(self) -> int:
        """How many more jobs it can be given now."""

    def warm_up(self, jobs: int) -> None:
        """Prepare for jobs that are to come, without waiting: where there is nothing to, nothing.

        Args:
            jobs: How many they are.
        """
        return

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> None:
        """Give it jobs to do, at most ``room``."""

    @abstractmethod
    def events(self, seconds: float) -> list[Event]:
        """Return what has happened, in order; wait so long for something to happen."""

    @abstractmethod
    def stop(self, run_ids: Sequence[str] | None = None) -> None:
        """Ask runs, or all of them, to end after their step, whole; each still has its end."""

    def __enter__(self) -> Self:
        """Return the launcher."""
        return self

    @abstractmethod
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave nothing running."""


class _Teller(Callback):
    """Tells of a run as events.

    Args:
        run_id: Its id.
        tell: Takes the events.
    """

    def __init__(self, run_id: str, tell: Callable[[Event], None]) -> None:
        self._run_id = run_id
        self._tell = tell

    def on_start(self, start: Start) -> None:
        """Tell where the run stands."""
        self._tell(Advanced(self._run_id, start.epoch, {}))

    def on_message(self, sentence: str) -> None:
        """Pass the sentence on."""
        self._tell(Said(self._run_id, sentence))

    def on_epoch(self, metrics: Metrics) -> None:
        """Tell of the epoch."""
        self._tell(Advanced(self._run_id, int(metrics["epoch"] or 0) + 1, metrics))


def make(job: Job, tell: Callable[[Event], None] = lambda event: None) -> Ended:
    """Make a job's run folder, continue it, or find it finished.

    Whatever fails is written to the run folder and to the log; only being asked to stop and what
    is no ``Exception`` comes back out of here.

    Args:
        job: The job.
        tell: Takes what happens meanwhile.

    Returns:
        How it ended.
    """
    try:
        made = plan(parse(job.tables))
        if made.run_id != job.run_id:
            raise ConfigError(
                f"{job.title}: its data, labels or source have changed since it was planned "
                f"(run {made.run_id}, not {job.run_id}): start again"
            )
        train(made, job.out, [_Teller(job.run_id, tell)])
    except StoppedError:
        return Ended(job.run_id, "finished" if job.folder.finished else "stopped")
    except HeldError:
        return Ended(job.run_id, "held")
    except (Exception, SystemExit) as error:
        return fail(job, describe(error), traceback.format_exc())
    job.folder.discard_log()
    return Ended(job.run_id, "finished")


def check_one_process(job: Job) -> None:
    """Refuse a run of several processes.

    Args:
        job: The job.

    Raises:
        ConfigError: It asks for several devices or nodes.
    """
    if job.tables.get("devices", 1) * job.tables.get("nodes", 1) > 1:
        raise ConfigError(
            f"{job.title}: a run of a study has one process, got devices "
            f"{job.tables['devices']}, nodes {job.tables['nodes']}: --jobs makes several runs "
            f"at once"
        )


def fail(job: Job, error: str, details: str) -> Ended:
    """Write why a job failed.

    Args:
        job: The job.
        error: What went wrong, in one line.
        details: What the log is to say, such as a traceback.

    Returns:
        Its end.
    """
    job.folder.write_log(f"{job.title}\n{details}")
    job.folder.fail(job.tables, error)
    return Ended(job.run_id, "failed", error)


def describe(error: BaseException) -> str:
    """Write an error in one line; one without a name of ours says what it is."""
    text = " ".join(str(error).split())
    return text if isinstance(error, NoisyLabelsError) else f"{type(error).__name__}: {text}"
