"""Processes of this machine, started once and used for many runs."""

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import torch

from noisylabels.errors import NoisyLabelsError, check_count
from noisylabels.studies.launchers.jobs import Ended, Event, Job, Launcher, check_one_process, fail
from noisylabels.studies.launchers.worker import decode, encode_job, main

PATIENCE = 60.0
"""Seconds in which a worker that was asked to stop may finish its step."""


class Local(Launcher):
    """A pool of warm worker processes, which pay the import of torch once.

    Each has its share of the cores, and a GPU of its own while there are enough. A worker that dies
    takes its run with it, not the others; ``kill -9`` of this process leaves none behind.

    Args:
        jobs: How many runs are made at once, at least 1; by default one per GPU, else 1.

    Raises:
        ConfigError: ``jobs`` is below 1.
    """

    def __init__(self, *, jobs: int | None = None) -> None:
        self._jobs = default_jobs() if jobs is None else check_count("jobs", jobs, low=1)
        self._heard: queue.SimpleQueue[tuple[_Worker, str | None]] = queue.SimpleQueue()
        self._workers: list[_Worker] = []

    @property
    def width(self) -> int:
        """How many worker processes there are at most."""
        return self._jobs

    @property
    def room(self) -> int:
        """How many workers have nothing to do, or are not started yet."""
        return self._jobs - sum(worker.job is not None for worker in self._workers)

    def warm_up(self, jobs: int) -> None:
        """Start workers, which take seconds to import torch."""
        while len(self._workers) < min(jobs, self._jobs):
            self._start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Give each job to an idle worker, or start one for it."""
        for job in jobs:
            idle = next((worker for worker in self._workers if worker.idle), None)
            (idle or self._start()).give(self._shared_out(job))

    def events(self, seconds: float) -> list[Event]:
        """Return what the workers have told."""
        return list(self._events(seconds))

    def _events(self, seconds: float) -> Iterator[Event]:
        while True:
            try:
                worker, line = self._heard.get(timeout=seconds)
            except queue.Empty:
                return
            seconds = 0.0
            if line is None:
                self._workers.remove(worker)
                yield from worker.buried()
            elif (event := decode(line)) is not None:
                if isinstance(event, Ended):
                    worker.end(event)
                yield event
            else:
                worker.ready = True

    def stop(self, run_ids: Sequence[str] | None = None) -> None:
        """Ask the workers of these runs to stop; each needs no second asking."""
        for worker in self._workers:
            if worker.job is not None and (run_ids is None or worker.job.run_id in run_ids):
                worker.stop()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the workers end: the idle ones at once, the others after their step."""
        for worker in self._workers:
            worker.dismiss()
        for worker in self._workers:
            worker.wait()
        self._workers.clear()

    def _start(self) -> "_Worker":
        used = {worker.number for worker in self._workers}
        # One that is on its way out still has its own.
        number = next(n for n in itertools.count() if n not in used)
        worker = _Worker(number, environment(number, self._jobs), self._heard)
        self._workers.append(worker)
        return worker

    def _shared_out(self, job: Job) -> Job:
        """Give a run its share of the processes that decode images."""
        check_one_process(job)
        if self._jobs == 1 or job.tables.get("workers") is not None:
            return job
        tables = {**job.tables, "workers": max(1, cores() // self._jobs)}
        return Job(job.run_id, job.title, tables, job.out)


class _Worker:
    """A worker process.

    Args:
        number: Its number among those that run.
        variables: Its environment.
        heard: Gets its lines, and None when it has ended.

    Attributes:
        job: What it does.
        ready: Whether it has ever been ready.
    """

    def __init__(
        self,
        number: int,
        variables: Mapping[str, str],
        heard: "queue.SimpleQueue[tuple[_Worker, str | None]]",
    ) -> None:
        self.number = number
        self.job: Job | None = None
        self.ready = False
        self._stopping = False
        self._process = subprocess.Popen(
            python(main),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=dict(variables),
            # Ctrl-C comes to this process alone, which asks each worker once.
            start_new_session=True,
        )
        self._write(json.dumps(sys.path) + "\n")
        self._reader = threading.Thread(target=self._read, args=(heard,), daemon=True)
        self._reader.start()

    def give(self, job: Job) -> None:
        self.job = job
        self._write(encode_job(job, self._output(job)))

    @property
    def idle(self) -> bool:
        return self.job is None and not self._stopping

    def end(self, event: Ended) -> None:
        self.job = None
        if event.state == "stopped":
            self._stopping = False
        elif self._stopping:
            # The signal may still be on its way, and would take the next run.
            self.dismiss()

    def stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._process.terminate()

    def dismiss(self) -> None:
        # With nobody to give more, it ends.
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self) -> None:
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def buried(self) -> Iterator[Event]:
        """Yield the end of the run that the process took with it."""
        self.dismiss()
        code = self._process.wait()
        if not self.ready and not self._stopping:
            raise NoisyLabelsError(f"a worker process could not start (exit status {code})")
        if self.job is None:
            return
        output = self._output(self.job)
        if self._stopping:
            output.unlink(missing_ok=True)
            yield Ended(self.job.run_id, "stopped")
            return
        printed = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        memory = " (out of memory?)" if code == -getattr(signal, "SIGKILL", 9) else ""
        yield fail(self.job, f"its process {cause}{memory}", printed)
        output.unlink(missing_ok=True)

    def _output(self, job: Job) -> Path:
        log = job.folder.log
        return log.with_name(f".{log.stem}.{self._process.pid}.tmp")

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        # Where it has died, its last word says so.
        with suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _read(self, heard: "queue.SimpleQueue[tuple[_Worker, str | None]]") -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                heard.put((self, line))
        heard.put((self, None))


def python(main: Callable[[], None]) -> list[str]:
    """Return the command of a process that looks for modules where this one does.

    Args:
        main: What it does, once it has read a line of JSON with the places to look in.
    """
    places = "import json, sys; sys.path[:] = json.loads(sys.stdin.readline())"
    # -P: not what lies in the working directory, which may be called like one of Python's.
    return [sys.executable, "-P", "-c", f"{places}; from {main.__module__} import main; main()"]


def default_jobs() -> int:
    """Return how many runs are made at once where nobody says: one per GPU, else one."""
    return max(1, torch.cuda.device_count())


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment(number: int, jobs: int) -> dict[str, str]:
    """Return the environment of a worker: its share of the cores, and a GPU.

    Args:
        number: Its number, from 0.
        jobs: How many there are.
    """
    variables = dict(os.environ)
    # More threads than cores would wait for each other, spinning.
    if not variables.get("OMP_NUM_THREADS"):
        variables["OMP_NUM_THREADS"] = str(max(1, cores() // jobs))
    gpus = torch.cuda.device_count()
    if jobs > 1 and gpus:
        visible = variables.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(gpu) for gpu in range(gpus)]
        variables["CUDA_VISIBLE_DEVICES"] = names[number % len(names)]
    return variables
