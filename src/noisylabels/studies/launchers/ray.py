"""Tasks of a Ray cluster, one for each run."""

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from noisylabels.errors import ConfigError, MissingExtraError, NoisyLabelsError, check_range
from noisylabels.studies.launchers.jobs import Ended, describe
from noisylabels.studies.launchers.local import cores
from noisylabels.studies.launchers.remote import Lost, Remote, Task

LOCAL = "local"
"""The address of a cluster of this machine alone, which is started and ended with the study."""


class Ray(Remote):
    """Tasks of a Ray cluster.

    The folder of run folders must be one that the machines share. Where this process is killed, Ray
    ends its tasks; the same command then continues them from their last checkpoints.

    Args:
        jobs: How many runs are made at once, at least 1; by default as many as the cluster has
            CPUs and GPUs for.
        address: The cluster: ``"auto"`` for that which runs here, ``"HOST:PORT"``, or ``"local"``,
            one of this machine alone.
        num_cpus: CPUs that a run takes, above 0, of which each is a thread.
        num_gpus: GPUs that a run takes, at least 0, such as 0.5; by default 1 where there are any.
        **options: Others that Ray's tasks have, such as ``resources`` and ``memory``.

    Raises:
        ConfigError: Ray does not take an option.
        MissingExtraError: Ray is not installed.
    """

    def __init__(
        self,
        *,
        jobs: int | None = None,
        address: str = LOCAL,
        num_cpus: float = 1.0,
        num_gpus: float | None = None,
        **options: Any,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError("ray", "ray") from error
        super().__init__("ray", jobs)
        self._ray = ray
        self._address = address
        self._cpus = check_range("ray: num_cpus", num_cpus, open=True)
        self._gpus = None if num_gpus is None else check_range("ray: num_gpus", num_gpus)
        self._options = options
        self._owned = False
        try:
            ray.remote(**{"num_cpus": num_cpus, **options})(call)
        except (ValueError, TypeError, AssertionError) as error:
            raise ConfigError(f"ray: {describe(error)}") from error

    @property
    def width(self) -> int:
        """How many runs are made at once, as far as that is known before there is a cluster."""
        return self._jobs or max(1, int(cores() / self._cpus))

    def __enter__(self) -> Self:
        """Connect to the cluster, or start one."""
        if self._ray.is_initialized():
            return self
        with _own_signals():
            try:
                self._ray.init(address=self._address, log_to_driver=False, **self._local())
            except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
                raise NoisyLabelsError(f"ray: {self._address}: {describe(error)}") from error
        self._owned = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the runs end after their step, and leave the cluster; end it if it was started."""
        super().__exit__(kind, error, trace)
        if self._owned:
            self._ray.shutdown()
            self._owned = False

    def _local(self) -> dict[str, Any]:
        """Return what a cluster is started with."""
        options: dict[str, Any] = {"logging_level": logging.ERROR}
        if self._address == LOCAL:
            # Nobody was asked whether what is done here may be counted elsewhere.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            options["include_dashboard"] = False
            if self._jobs is not None:
                options["num_cpus"] = max(cores(), math.ceil(self._jobs * self._cpus))
        return options

    def _start(self, tasks: Sequence[Task], folder: Path) -> Sequence[Any]:
        found: dict[str, float] = self._ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = min(1.0, found.get("GPU", 0.0)) if self._gpus is None else self._gpus
        if self._address == LOCAL:
            for name, wanted in (("CPU", self._cpus), ("GPU", gpus)):
                if wanted > found.get(name, 0.0):
                    raise ConfigError(
                        f"ray: a run takes {wanted:g} {name}s, and there are "
                        f"{found.get(name, 0.0):g}"
                    )
        threads = max(1, int(self._cpus))
        environment = dict(self._options.get("runtime_env", {}))
        environment["env_vars"] = {
            "PYTHONPATH": os.pathsep.join(tasks[0].modules),
            "OMP_NUM_THREADS": str(threads),
            **environment.get("env_vars", {}),
        }
        options = {
            "num_cpus": self._cpus,
            "num_gpus": gpus,
            # A run that needs too much memory would need it again.
            "max_retries": 0,
            **self._options,
            "runtime_env": environment,
        }
        remote = self._ray.remote(**options)(call)
        return [remote.remote(_with_workers(task, threads)) for task in tasks]

    def _outcome(self, handle: Any) -> Ended | Lost | None:
        done, _ = self._ray.wait([handle], timeout=0)
        if not done:
            return None
        try:
            return cast(Ended, self._ray.get(handle))
        except self._ray.exceptions.RayError as error:
            return Lost(describe(error), str(error))

    def _cancel(self, handle: Any) -> None:
        self._ray.cancel(handle, force=True)


def call(task: Task) -> Ended:
    """Do a task."""
    return task()


def _with_workers(task: Task, count: int) -> Task:
    """Give a run its share of the processes that decode images."""
    if task.job.tables.get("workers") is not None:
        return task
    tables = {**task.job.tables, "workers": count}
    return replace(task, job=replace(task.job, tables=tables))


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's answer to SIGTERM, in whose place Ray puts its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
