"""Jobs of Slurm, one for each run."""

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

from noisylabels.errors import ConfigError, MissingExtraError, check_choice, check_count
from noisylabels.studies.launchers.jobs import Ended, describe
from noisylabels.studies.launchers.remote import Lost, Remote, Task

CLUSTERS = ("slurm", "local")
"""Where jobs may go; ``"local"`` is this machine, to try it without Slurm."""
ARRAY = 256
"""How many jobs of an array submitit lets run at once, where nobody says."""
GENERIC = ("name", "mem_gb", "cpus_per_task", "gpus_per_node", "stderr_to_stdout")
"""Options that submitit calls the same for every cluster; others get Slurm's name before them."""
SECONDS_TO_BE_KILLED = 120.0
"""How long a run that Slurm has told to end waits for what Slurm will do with its job."""
SECONDS_OF_DELAY = 15.0
"""How long a result may take to appear on a file system that several machines share."""


class Slurm(Remote):
    """Jobs of Slurm, those that are known at once as one array.

    A job that is preempted, or whose time is up, finishes its step, saves and is requeued, as often
    as it takes. The folder of run folders must be one that the machines share. Where this process
    is killed, the jobs go on; the same command then makes only what is missing. A run whose job
    still waits gets a second one, of which the later to start finds the run finished or being made.

    What submitit writes lies in ``logs/slurm`` of the folder of run folders until all runs of an
    array are finished, and stays where one fails.

    Args:
        jobs: How many runs are made at once, at least 1; without Slurm 1 by default.
        cluster: ``"slurm"``, or ``"local"`` for this machine.
        time: Minutes, at least 1, after which a job is requeued.
        max_num_timeout: How often, at least 0.
        **options: Others of submitit's parameters, such as ``partition``, ``gpus_per_node``,
            ``cpus_per_task``, ``mem_gb``, ``setup`` and ``additional_parameters``.

    Raises:
        ConfigError: There is no Slurm here, or submitit does not take an option.
        MissingExtraError: submitit is not installed.
    """

    def __init__(
        self,
        *,
        jobs: int | None = None,
        cluster: str = "slurm",
        time: int = 60,
        max_num_timeout: int = 100,
        **options: Any,
    ) -> None:
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("submitit", "slurm") from error
        super().__init__("slurm", jobs)
        self._cluster = check_choice("slurm: cluster", cluster, CLUSTERS)
        if cluster == "local" and jobs is None:
            self._jobs = 1
        for name in ("nodes", "tasks_per_node", "ntasks_per_node"):
            if name in options:
                raise ConfigError(f"slurm: {name}: a run of a study has one process")
        missing = [name for name in ("sbatch", "srun") if shutil.which(name) is None]
        if cluster == "slurm" and missing:
            raise ConfigError(
                f"slurm: {' and '.join(missing)} not found on the PATH: start it where Slurm's "
                f'jobs are submitted, or set cluster = "local" in [slurm] to try it here'
            )
        options = {key if key in GENERIC else f"slurm_{key}": options[key] for key in options}
        self._options = {
            "name": "noisylabels",
            "timeout_min": check_count("slurm: time", time, low=1),
            "slurm_array_parallelism": self._jobs or ARRAY,
            **options,
        }
        self._timeouts = check_count("slurm: max_num_timeout", max_num_timeout)
        self._missed: dict[str, float] = {}
        # Now, and not when the first runs are submitted, it shows that an option is none.
        with tempfile.TemporaryDirectory() as folder:
            self._executor(Path(folder))

    @property
    def width(self) -> int:
        """How many jobs run at once at most."""
        return self._jobs or ARRAY

    @property
    def room(self) -> int:
        """How many more jobs there may be: Slurm has a queue of its own."""
        return super().room if self._cluster == "local" else sys.maxsize

    def _start(self, tasks: Sequence[Task], folder: Path) -> Sequence[Any]:
        executor = self._executor(folder)
        with _named_errors(), _without_interrupts(), executor.batch():
            return [executor.submit(SlurmTask(**vars(task))) for task in tasks]

    def _outcome(self, handle: Any) -> Ended | Lost | None:
        from submitit.core.utils import pickle_load

        if not handle.done():
            return None
        path = handle.paths.result_pickle
        if path.exists():
            kind, result = pickle_load(path)
            if kind == "success":
                return cast(Ended, result)
            return Lost(f"its job failed: {result.strip().splitlines()[-1]}", result)
        missed = self._missed.setdefault(handle.job_id, time.monotonic())
        if self._cluster == "slurm" and time.monotonic() - missed < SECONDS_OF_DELAY:
            return None
        state = f"job {handle.job_id} ended without a result (state {handle.state})"
        printed = handle.stderr() or handle.stdout() or ""
        return Lost(f"its {state}", printed)

    def _cancel(self, handle: Any) -> None:
        handle.cancel(check=False)

    def _executor(self, folder: Path) -> Any:
        from submitit import AutoExecutor

        limits = {f"{cluster}_max_num_timeout": self._timeouts for cluster in CLUSTERS}
        with _named_errors():
            executor = AutoExecutor(folder, cluster=self._cluster, **limits)
            executor.update_parameters(**self._options)
        return executor


@dataclass
class SlurmTask(Task):
    """A task that ends its step, and saves, before submitit requeues its job.

    Args:
        preempted: Whether its machine is wanted for something else, or its time is up.
    """

    preempted: bool = False

    def __call__(self) -> Ended:
        """Do the job, or as much of it as there is time for.

        Returns:
            How it ended; of a job that is requeued nothing comes back.
        """
        from submitit import JobEnvironment

        self.preempted = False
        number = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]
        requeue = signal.signal(number, self._preempt)
        ended = super().__call__()
        if ended.state == "stopped" and super().wanted:
            # Slurm sends SIGTERM first, and then submitit's signal, or kills the job, whether it
            # cancels or requeues it: a result would say that it is over.
            end = time.monotonic() + SECONDS_TO_BE_KILLED
            while not self.preempted and time.monotonic() < end:
                time.sleep(0.1)
            if self.preempted and callable(requeue):
                requeue(number, None)
        return ended

    def checkpoint(self) -> Any:
        """Return what submitit requeues: the same, for all that counts is in the run folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    @property
    def wanted(self) -> bool:
        """Whether the run is to go on here."""
        return not self.preempted and super().wanted

    def _preempt(self, number: int, frame: FrameType | None) -> None:
        self.preempted = True


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Leave Ctrl-C to this process: those that it starts meanwhile never hear of it.

    submitit's own process on this machine would kill a run a second later, in whatever step it is.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _named_errors() -> Iterator[None]:
    """Say in one line what submitit does not take."""
    try:
        yield
    except (NameError, ValueError, TypeError, AssertionError, RuntimeError) as error:
        raise ConfigError(f"slurm: {describe(error)}") from error
