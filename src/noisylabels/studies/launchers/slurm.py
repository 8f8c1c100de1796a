"""Jobs of Slurm, one for each run."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
SECONDS_OF_DELAY = 60.0
"""How long a result may take to appear on a file system that several machines share."""
ANSWER = 60.0
"""Seconds that squeue may take to answer."""
SECONDS_BETWEEN_QUESTIONS = 30.0
"""How often Slurm is asked which jobs it has; what a job has done shows without asking."""
ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING")
"""States of jobs that have not ended, next to those in which Slurm requeues or completes them."""


class Slurm(Remote):
    """Jobs of Slurm, those that are known at once as one array.

    A job that is preempted, or whose time is up, finishes its step, saves and is requeued, as often
    as it takes. The folder of run folders must be one that the machines share. Where this process
    is killed, the jobs go on; the same command then makes only what is missing. A run whose job
    still waits gets a second one, of which the later to start finds the run finished or being made.

    What submitit writes lies in ``logs/slurm`` of the folder of run folders until all runs of an
    array are finished; where one fails, until another attempt has finished it.

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
        self._states: dict[str, str] = {}
        self._next_question = 0.0
        self._missed: dict[str, float] = {}
        self._cancelled: set[str] = set()
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
            handles = [executor.submit(SlurmTask(**vars(task))) for task in tasks]
        # A job is not known to have ended before Slurm has been asked of it.
        self._states |= {handle.job_id: "PENDING" for handle in handles}
        return handles

    def _outcome(self, handle: Any) -> Ended | Lost | None:
        from submitit.core.utils import pickle_load

        local = self._cluster == "local"
        if local and not handle.done():
            # Its result may be there already; nothing of it is to be left running.
            return None
        path = handle.paths.result_pickle
        if path.exists():
            kind, result = pickle_load(path)
            if kind == "success":
                return cast(Ended, result)
            return Lost(f"its job failed: {result.strip().splitlines()[-1]}", result)
        if handle.job_id in self._cancelled:
            return Lost("its job was cancelled")
        state = handle.state if local else self._state(handle.job_id)
        if state in ALIVE or state.startswith(("REQUEUE", "COMPLETING")):
            self._missed.pop(handle.job_id, None)
            return None
        missed = self._missed.setdefault(handle.job_id, time.monotonic())
        if not local and time.monotonic() - missed < SECONDS_OF_DELAY:
            return None
        printed = handle.stderr() or handle.stdout() or ""
        return Lost(f"its job {handle.job_id} ended without a result (state {state})", printed)

    def stop(self, run_ids: Sequence[str] | None = None) -> None:
        """Cancel those of these runs that are in the queue, and let the others end their step."""
        self._next_question = 0.0
        super().stop(run_ids)

    def _waits(self, handle: Any, begun: bool) -> bool:
        if self._cluster == "local":
            return super()._waits(handle, begun)
        # It may have begun, and been requeued.
        state = self._state(handle.job_id)
        return state == "PENDING" or state.startswith("REQUEUE")

    def _cancel(self, handle: Any) -> None:
        if self._cluster == "local":
            # What submitit would do here kills a run a second later, in whatever step it is.
            with suppress(ProcessLookupError):
                os.kill(int(handle.job_id), signal.SIGTERM)
        else:
            handle.cancel(check=False)
            # If it has begun all the same, it finds no ticket.
            self._cancelled.add(handle.job_id)

    def _state(self, job_id: str) -> str:
        """Return what Slurm calls a job's state; it is asked of all jobs at once, and not often.

        Not submitit's way, which is ``sacct``: many clusters keep no accounts.
        """
        if time.monotonic() >= self._next_question:
            self._ask()
            self._next_question = time.monotonic() + SECONDS_BETWEEN_QUESTIONS
        return self._states.get(job_id, "UNKNOWN")

    def _ask(self) -> None:
        ids = [run.handle.job_id for run in self._runs.values()]
        numbers = ",".join(sorted({each.partition("_")[0] for each in ids}))
        command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T"]
        command.append(f"--jobs={numbers}")
        try:
            asked = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER)
        except subprocess.TimeoutExpired:
            return
        if asked.returncode and "Invalid job id" not in asked.stderr:
            # Slurm does not answer just now.
            return
        told = dict(line.split() for line in asked.stdout.splitlines())
        self._states = {each: told.get(each, "UNKNOWN") for each in ids}

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

    submitit's process on this machine would kill a run a second later, in whatever step it is, and
    a submission that is cut would leave jobs that nobody knows of.
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
