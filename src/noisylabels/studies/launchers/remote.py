"""Runs in processes that a library starts, on this machine or on others that share its files.

A ticket goes with each run: a file that the run writes what happens on, and that is taken away to
stop it. So a run is stopped in the same way wherever it is, after its step and however long that
takes, which no library's own way of ending processes grants.
"""

import json
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from noisylabels.errors import check_count
from noisylabels.run.folder import writing
from noisylabels.run.interruption import StoppedError
from noisylabels.studies.launchers.jobs import (
    Ended,
    Event,
    Job,
    Launcher,
    check_one_process,
    fail,
    make,
)
from noisylabels.studies.launchers.worker import READY, decode, encode

SECONDS_BETWEEN_LOOKS = 1.0
"""How often a run looks for its ticket, and its launcher at what stands there."""
SHARE_OF_LOOKING = 0.1
"""How much of its time a launcher may look at tickets, where there are very many."""
FAILED = ".failed"
"""What the name of a run's file in its batch's folder ends with, once it has failed there."""
PATIENCE = 60.0
"""Seconds in which runs that were asked to stop may finish their step."""


@dataclass
class Task:
    """A job as another process gets it, which does it by calling this in its main thread.

    Args:
        job: The job; its folder is an absolute path.
        ticket: The run goes on as long as this file is there, and writes on it what happens.
        directory: Where relative paths in the configuration start.
        modules: Where Python looks for modules, the user's own among them.
    """

    job: Job
    ticket: Path
    directory: Path
    modules: tuple[str, ...]

    @classmethod
    def issue(cls, job: Job, folder: Path) -> Self:
        """Make the task of a job, with its ticket.

        Args:
            job: The job.
            folder: Where its ticket is kept.
        """
        ticket = folder / f"{job.run_id}.ticket"
        with writing(ticket):
            ticket.touch()
        modules = tuple(str(Path(place).absolute()) for place in sys.path)
        return cls(replace(job, out=job.out.absolute()), ticket, Path.cwd(), modules)

    def __call__(self) -> Ended:
        """Do the job.

        Returns:
            How it ended; ``"stopped"`` where its ticket was taken away or SIGTERM came.
        """
        with suppress(OSError):
            os.chdir(self.directory)
        sys.path += [place for place in self.modules if place not in sys.path]
        try:
            with self._stoppable():
                self._write(json.dumps({"kind": READY}) + "\n")
                return make(self.job, lambda event: self._write(encode(event)))
        except StoppedError:
            return Ended(self.job.run_id, "finished" if self.job.folder.finished else "stopped")

    @property
    def wanted(self) -> bool:
        """Whether the run is to go on: the ticket is there."""
        try:
            # A network's file system looks again when a file is opened, not when it is asked for.
            self.ticket.open("rb").close()
        except FileNotFoundError:
            return False
        return True

    def _write(self, line: str) -> None:
        # Made by the launcher alone: what was taken away stays away.
        with suppress(FileNotFoundError), self.ticket.open("r+", encoding="utf-8") as file:
            file.seek(0, os.SEEK_END)
            file.write(line)

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Stop what this process makes, by SIGTERM, as soon as it is not wanted any more."""
        over = threading.Event()

        def stop(number: int, frame: FrameType | None) -> None:
            # While it trains, the run itself listens; before, there is nothing to lose.
            if not over.is_set():
                raise StoppedError(number, "")

        def watch() -> None:
            while self.wanted:
                if over.wait(SECONDS_BETWEEN_LOOKS):
                    return
            if not over.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

        before = signal.signal(signal.SIGTERM, stop)
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class Lost:
    """What a library says of a process that has ended without a result.

    Args:
        error: Why, in one line.
        details: What the log is to say.
    """

    error: str
    details: str = ""


class Remote(Launcher):
    """What launchers share that give their runs to a library.

    Args:
        name: Its name, which its folder of tickets has too.
        jobs: How many runs are made at once, at least 1; as many as the library can where None.

    Raises:
        ConfigError: ``jobs`` is below 1.
    """

    def __init__(self, name: str, jobs: int | None) -> None:
        self._name = name
        self._jobs = None if jobs is None else check_count("jobs", jobs, low=1)
        self._runs: dict[str, _Run] = {}
        self._next_look = 0.0

    @abstractmethod
    def _start(self, tasks: Sequence[Task], folder: Path) -> Sequence[Any]:
        """Give tasks to the library.

        Args:
            tasks: The tasks.
            folder: A folder for what the library writes; if a run fails, it stays until another
                attempt has finished it.

        Returns:
            What the library knows each of them by.
        """

    @abstractmethod
    def _outcome(self, handle: Any) -> Ended | Lost | None:
        """Return how a task ended; None while it has not."""

    @abstractmethod
    def _cancel(self, handle: Any) -> None:
        """End a task, which may still wait for its turn."""

    def _waits(self, handle: Any, begun: bool) -> bool:
        """Return whether a task waits for its turn.

        Args:
            handle: What the library knows it by.
            begun: Whether a process has begun with it.
        """
        return not begun

    @property
    def room(self) -> int:
        """How many more runs there may be; who has to wait for whom is the library's to say."""
        return sys.maxsize if self._jobs is None else self._jobs - len(self._runs)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Give the jobs to the library, all at once."""
        for job in jobs:
            check_one_process(job)
        folder = _new_folder(jobs[0].folder.log.parent.absolute() / self._name)
        batch = _Batch(folder, len(jobs))
        tasks = [Task.issue(job, folder) for job in jobs]
        try:
            handles = self._start(tasks, folder)
        except BaseException:
            batch.remove()
            raise
        for job, task, handle in zip(jobs, tasks, handles, strict=True):
            self._runs[job.run_id] = _Run(job, task, handle, batch)

    def events(self, seconds: float) -> list[Event]:
        """Return what stands on the tickets, and the ends that the library knows of."""
        now = time.monotonic()
        time.sleep(min(seconds, max(0.0, self._next_look - now)))
        begun = time.monotonic()
        if begun < self._next_look:
            return []
        found = [event for run in list(self._runs.values()) for event in self._look(run)]
        ended = time.monotonic()
        pause = max(SECONDS_BETWEEN_LOOKS, (ended - begun) / SHARE_OF_LOOKING)
        self._next_look = ended + pause
        return found

    def stop(self, run_ids: Sequence[str] | None = None) -> None:
        """Take the tickets of these runs away; those that wait for their turn end at once."""
        for run in self._runs.values():
            if run_ids is None or run.job.run_id in run_ids:
                run.asked, run.begun = True, run.begun or run.started
                run.task.ticket.unlink(missing_ok=True)
                self._drop(run)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the runs end after their step, and end those that do not."""
        self.stop()
        end = time.monotonic() + PATIENCE
        while self._runs and time.monotonic() < end:
            self.events(SECONDS_BETWEEN_LOOKS)
        for run in self._runs.values():
            self._cancel(run.handle)
        self._runs.clear()

    def _drop(self, run: "_Run") -> None:
        """Cancel a run that was asked to stop, if it waits for its turn."""
        if not run.cancelled and self._waits(run.handle, run.begun):
            run.cancelled = True
            self._cancel(run.handle)

    def _look(self, run: "_Run") -> Iterator[Event]:
        if run.asked:
            # It may have been put back just when it was asked.
            self._drop(run)
        # Asked before the last events are read.
        outcome = self._outcome(run.handle)
        yield from run.events()
        if outcome is None:
            return
        ended = run.ended(outcome)
        del self._runs[run.job.run_id]
        run.batch.leave(run.task.ticket, ended)
        yield ended


@dataclass
class _Run:
    """A run that the library has.

    Args:
        job: The job as it was given.
        task: What the library got.
        handle: What the library knows it by.
        batch: Those that it was given with.
        asked: Whether it was asked to stop.
        begun: Whether a process had begun with it by then.
        cancelled: Whether it was cancelled, for it waited for its turn.
        read: How much of its ticket has been read.
    """

    job: Job
    task: Task
    handle: Any
    batch: "_Batch"
    asked: bool = False
    begun: bool = False
    cancelled: bool = False
    read: int = 0

    @property
    def started(self) -> bool:
        """Whether a process has begun with it."""
        try:
            return self.task.ticket.stat().st_size > 0
        except FileNotFoundError:
            return False

    def events(self) -> Iterator[Event]:
        """Yield what has been written on its ticket since the last look."""
        try:
            with self.task.ticket.open("rb") as file:
                file.seek(self.read)
                # What follows the last newline is still being written.
                lines = file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            return
        for line in lines:
            self.read += len(line) + 1
            event = decode(line.decode())
            if event is not None:
                yield event

    def ended(self, outcome: Ended | Lost) -> Ended:
        """Return how it ended: what became of it stands in its folder."""
        job = self.job
        if job.folder.finished:
            return Ended(job.run_id, "finished")
        if isinstance(outcome, Lost):
            if self.asked:
                return Ended(job.run_id, "stopped")
            return fail(job, outcome.error, outcome.details)
        if outcome.state == "stopped" and not self.asked:
            return fail(job, "somebody else stopped it; the same command continues it", "")
        return outcome


class _Batch:
    """Runs that were given to a library together.

    Args:
        folder: The folder of their tickets.
        left: How many of them have not ended.
    """

    def __init__(self, folder: Path, left: int) -> None:
        self._folder = folder
        self._left = left

    def leave(self, ticket: Path, ended: Ended) -> None:
        """Remove the ticket of one that has ended, and with the last all that nobody needs."""
        self._left -= 1
        with suppress(FileNotFoundError):
            ticket.unlink()
        if ended.state == "failed":
            mark = ticket.with_suffix(FAILED)
            with writing(mark):
                mark.touch()
        elif ended.state == "finished":
            self._forget_failures(ticket.stem)
        if not self._left:
            self.remove()

    def _forget_failures(self, run_id: str) -> None:
        """Remove what was kept, in batches before too, because this run alone had failed."""
        for mark in self._folder.parent.glob(f"*/{run_id}{FAILED}"):
            mark.unlink(missing_ok=True)
            folder = mark.parent
            if not (any(folder.glob(f"*{FAILED}")) or any(folder.glob("*.ticket"))):
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder; what a library wrote stays until what failed has succeeded."""
        written = [path for path in self._folder.glob("*") if path.suffix != FAILED]
        if not written or not any(self._folder.glob(f"*{FAILED}")):
            shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):
            for folder in (self._folder, *self._folder.parents[:2]):
                if folder.exists():
                    folder.rmdir()


def _new_folder(parent: Path) -> Path:
    folder = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    with writing(folder):
        folder.mkdir(parents=True)
    return folder
