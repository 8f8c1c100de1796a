"""All runs of a study: checked before the first starts, shared with whoever else makes them."""

import hashlib
import importlib.util
import json
import math
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from noisylabels.atomic import write_json
from noisylabels.data.datasets import OFFLINE
from noisylabels.errors import ConfigError, DataError, MissingExtraError, NoisyLabelsError
from noisylabels.run import timing
from noisylabels.run.config import RunConfig
from noisylabels.run.folder import State, writing
from noisylabels.run.interruption import StoppedError, listening
from noisylabels.run.plan import Sources, plan
from noisylabels.run.trainer import check_writable
from noisylabels.studies.launchers.jobs import (
    Advanced,
    Ended,
    Event,
    Job,
    Launcher,
    Said,
    check_one_process,
)
from noisylabels.studies.launchers.local import environment, python
from noisylabels.studies.status import HEADER, Status, duration
from noisylabels.studies.status import read as read_status
from noisylabels.studies.study import Point, Study

SECONDS_BETWEEN_LOOKS = 1.0
"""How often to look at runs that others make."""
MANIFESTS = "studies"
"""Folder, within that of run folders, of what each study consisted of when it was last made."""
STATE_HEADER = ("run", "point", *HEADER[5:])
"""Columns of the states of a study's runs."""
COST = ("data", "model", "method", "batch_size", "epochs", "noise")
"""Keys of runs that take about as long; from the left, the more of them are equal the better."""
TIMED = 4
"""How many of these keys make a kind of run that is timed."""
MOST_KINDS = 6
"""How many kinds of runs are timed at most: a second or two each."""


class SweepError(NoisyLabelsError):
    """Some runs of a study failed; the others are finished."""

    status = 1


@dataclass(frozen=True)
class Sweep:
    """A study whose runs are all found to be valid.

    Args:
        jobs: Its runs, each once.
        out: Folder of run folders.
        notes: What the user should know before it starts: of its axes, of points that are the same
            run, of what has changed since it was last made.
        file: Its file, if it has one.
        overrides: Words that won over the file.
    """

    jobs: Sequence[Job]
    out: Path
    notes: Sequence[str] = ()
    file: Path | None = None
    overrides: Sequence[str] = ()

    def manifest(self) -> Path | None:
        """Return the file that says what the study consists of; None for one without a file."""
        return None if self.file is None else _manifest(self.file, self.out)


def _manifest(file: Path, out: Path) -> Path:
    place = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]
    return out / MANIFESTS / f"{file.stem}-{place}.json"


def last_overrides(file: Path, out: Path) -> Sequence[str]:
    """Return the words that won over a study's file when its runs were last made.

    Args:
        file: The study's file.
        out: Folder of run folders.

    Raises:
        DataError: What was written then is damaged.
    """
    path = _manifest(file, out)
    overrides: Sequence[str] = read_manifest(path)["overrides"] if path.exists() else ()
    return overrides


def prepare(study: Study | Iterable[RunConfig], out: Path) -> Sweep:
    """Check every run of a study.

    Args:
        study: The study, or configurations such as ``grid`` makes.
        out: Folder of run folders.

    Returns:
        What there is to do.

    Raises:
        ConfigError: A run is not valid; there is none.
        DataError: A file that a run names is missing.
    """
    file = study.path if isinstance(study, Study) else None
    points = study.points if isinstance(study, Study) else [Point("", run) for run in study]
    if not points:
        raise ConfigError("expected at least one run, got none")
    jobs: dict[str, Job] = {}
    same: list[str] = []
    sources = Sources()
    for point in points:
        try:
            made = plan(point.run, sources=sources)
            job = Job(made.run_id, point.title or made.name, point.run.tables(), out)
            check_one_process(job)
            check_trackers(point.run.trackers)
        except (ConfigError, DataError) as error:
            place = " ".join(filter(None, [f"{file}:" if file else "", point.title]))
            raise type(error)(f"{place}: {error}" if place else str(error)) from error
        if job.run_id in jobs:
            same.append(f"{job.title} is the same run as {jobs[job.run_id].title}")
        else:
            jobs[job.run_id] = job
    notes = list(study.notes) if isinstance(study, Study) else []
    if same:
        more = f" (and {len(same) - 1} more)" if len(same) > 1 else ""
        notes.append(f"{same[0]}{more}: made once")
    overrides = study.overrides if isinstance(study, Study) else ()
    made_once = Sweep(list(jobs.values()), out, notes, file, overrides)
    return replace(made_once, notes=[*notes, *_changes(made_once)])


def check_trackers(names: Iterable[str]) -> None:
    """Refuse tracking services whose package is not here, before any run is made.

    Args:
        names: Their names.

    Raises:
        MissingExtraError: One is not installed.
    """
    for name in names:
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            raise MissingExtraError(name, name)


def _changes(sweep: Sweep) -> Iterator[str]:
    """Say what is new in a study, and what belongs to it no longer."""
    path = sweep.manifest()
    if path is None or not path.exists():
        return
    before = read_manifest(path)["runs"]
    now = {job.run_id: job.title for job in sweep.jobs}
    new = [title for run_id, title in now.items() if run_id not in before]
    gone = {run_id: title for run_id, title in before.items() if run_id not in now}
    if new:
        are = "run is" if len(new) == 1 else "runs are"
        yield f"{len(new)} {are} new since {sweep.file} was last made, such as {new[0]}"
    if gone:
        run_id, title = next(iter(gone.items()))
        belong = "run belongs" if len(gone) == 1 else "runs belong"
        yield (
            f"{len(gone)} {belong} to {sweep.file} no longer, such as {title} "
            f"({sweep.out / run_id}); their folders stay"
        )


def read_manifest(path: Path) -> dict[str, Any]:
    """Read what a study consisted of when it was last made.

    Args:
        path: See :meth:`Sweep.manifest`.

    Returns:
        ``file``, its file; ``runs``, titles by run id; ``overrides``, words that won over the file.

    Raises:
        DataError: It is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        overrides = list(map(str, found.get("overrides", [])))
        return {
            "file": str(found["file"]),
            "runs": dict(found["runs"]),
            "overrides": overrides,
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected JSON with file and runs ({error!r})") from error


def write_manifest(sweep: Sweep) -> None:
    """Write what a study consists of, whole or not at all."""
    path = sweep.manifest()
    if path is None:
        return
    runs = {job.run_id: job.title for job in sweep.jobs}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            path, {"file": str(sweep.file), "runs": runs, "overrides": list(sweep.overrides)}
        )


class Follower:
    """Follows a sweep; each method does nothing until a subclass overrides it."""

    def on_start(self, progress: "Progress") -> None:
        """It starts; what is finished already counts as done."""

    def on_message(self, sentence: str) -> None:
        """A run has something to say that none has said before."""

    def on_event(self, event: Event, progress: "Progress") -> None:
        """Something has happened to a run."""


@dataclass
class Progress:
    """How far a sweep has come.

    Each of its runs is in one of the groups; :meth:`add`, :meth:`start` and :meth:`end` move it. It
    is asked at every event of every run, so nothing that it is asked goes over all of them.

    Attributes:
        jobs: Its runs, by id.
        waiting: Those that nobody is making yet, in order.
        done: Those that are finished.
        running: Those that are being made here, with the epochs that are done.
        elsewhere: Those that someone else is making.
        failed: Those that have failed, with their errors.
        stopped: Those that were stopped, and have a checkpoint.
        width: How many are made at once here.
    """

    jobs: dict[str, Job]
    width: int
    waiting: dict[str, None] = field(default_factory=dict, init=False)
    done: set[str] = field(default_factory=set, init=False)
    running: dict[str, int] = field(default_factory=dict, init=False)
    elsewhere: set[str] = field(default_factory=set, init=False)
    failed: dict[str, str] = field(default_factory=dict, init=False)
    stopped: set[str] = field(default_factory=set, init=False)
    pace: "Pace" = field(default_factory=lambda: Pace(), init=False)
    _kinds: dict[str, "Kind"] = field(default_factory=dict, init=False)
    # Epochs of those that wait.
    _to_come: Counter["Kind"] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        """Have all runs wait."""
        for job in self.jobs.values():
            self.add(job)

    def add(self, job: Job) -> None:
        """Have a run wait, a new one or one that someone else has left.

        Args:
            job: The run.
        """
        run_id = job.run_id
        self.jobs[run_id] = job
        self._leave(run_id)
        if run_id not in self._kinds:
            self._kinds[run_id] = Pace.kind(job.tables)
        self.waiting[run_id] = None
        self._to_come[self._kinds[run_id]] += job.tables["epochs"]

    def start(self, run_id: str, epoch: int = 0) -> None:
        """Count a run as being made here.

        Args:
            run_id: Its id.
            epoch: Epochs that are done.
        """
        self._leave(run_id)
        self.running[run_id] = epoch

    def end(self, ended: Ended) -> None:
        """Count a run as what has become of it.

        Args:
            ended: Its end.
        """
        self._leave(ended.run_id)
        if ended.state == "failed":
            self.failed[ended.run_id] = ended.error
        else:
            groups = {"finished": self.done, "stopped": self.stopped, "held": self.elsewhere}
            groups[ended.state].add(ended.run_id)

    def _leave(self, run_id: str) -> None:
        if run_id in self.waiting:
            del self.waiting[run_id]
            self._to_come[self._kinds[run_id]] -= self.jobs[run_id].tables["epochs"]
        for numbered in (self.running, self.failed):
            numbered.pop(run_id, None)
        for group in (self.done, self.elsewhere, self.stopped):
            group.discard(run_id)

    def seconds(self, run_id: str) -> float | None:
        """Return what a run will take from its start; None where nobody knows yet.

        Args:
            run_id: Its id.
        """
        each = self.pace.seconds_per_epoch(self._kinds[run_id])
        return None if each is None else float(each * self.jobs[run_id].tables["epochs"])

    def left(self) -> float | None:
        """Return the seconds that it will take still; None where nobody knows yet."""
        left = Counter({kind: epochs for kind, epochs in self._to_come.items() if epochs})
        for run_id, epoch in self.running.items():
            left[self._kinds[run_id]] += self.jobs[run_id].tables["epochs"] - epoch
        seconds = 0.0
        for kind, epochs in left.items():
            each = self.pace.seconds_per_epoch(kind)
            if each is None:
                return None
            seconds += each * epochs
        return seconds / max(1, min(self.width, len(self.waiting) + len(self.running)))

    def counts(self) -> str:
        """Say how many runs are in which state."""
        parts = [
            (len(self.done), "done"),
            (len(self.running), "running"),
            (len(self.elsewhere), "made by another process"),
            (len(self.failed), "failed"),
            (len(self.stopped), "stopped"),
            (len(self.waiting), "to come"),
        ]
        return ", ".join(f"{count} {name}" for count, name in parts if count)


Kind = tuple[str, ...]
"""What a run has of the keys in ``COST``; the first of them are a kind that is less close."""


class Pace:
    """How long an epoch takes, learnt from runs that are like the one asked for."""

    def __init__(self) -> None:
        self._seconds: dict[Kind, tuple[float, int]] = {}

    def learn(self, tables: Mapping[str, Any], seconds: float, epochs: int) -> None:
        """Take a run, or a part of one, as an example.

        Args:
            tables: Its configuration.
            seconds: What it took.
            epochs: How many epochs it had.
        """
        for kind in self._less_and_less_close(self.kind(tables)):
            total, count = self._seconds.get(kind, (0.0, 0))
            self._seconds[kind] = (total + seconds, count + epochs)

    @staticmethod
    def kind(tables: Mapping[str, Any]) -> Kind:
        """Return what makes a run like others.

        Args:
            tables: Its configuration.
        """
        return tuple(json.dumps(tables.get(key), sort_keys=True, default=str) for key in COST)

    def knows(self, kind: Kind) -> bool:
        """Return whether there is an example of a kind."""
        return kind in self._seconds

    def seconds_per_epoch(self, kind: Kind) -> float | None:
        """Return what an epoch of a run takes; None where no run is like it.

        Args:
            kind: See :meth:`kind`.
        """
        for each in self._less_and_less_close(kind):
            if each in self._seconds:
                total, count = self._seconds[each]
                return total / max(1, count)
        return None

    @staticmethod
    def _less_and_less_close(kind: Kind) -> Iterator[Kind]:
        """Yield the kinds that a run is of, down to its data and model."""
        for count in range(len(kind), 1, -1):
            yield kind[:count]


def begin(sweep: Sweep, width: int, elsewhere: Container[str] = ()) -> Progress:
    """Look at what is there already.

    Args:
        sweep: The sweep.
        width: How many runs will be made at once.
        elsewhere: Ids of runs that are finished in other folders, or in archives.

    Returns:
        The progress before anything is made, with the pace of the runs that are finished.
    """
    progress = Progress({job.run_id: job for job in sweep.jobs}, width)
    for job in sweep.jobs:
        if job.folder.finished:
            progress.end(Ended(job.run_id, "finished"))
            progress.pace.learn(job.tables, job.folder.result()["seconds"], job.tables["epochs"])
        elif job.run_id in elsewhere:
            progress.end(Ended(job.run_id, "finished"))
    return progress


def time_kinds(progress: Progress) -> None:
    """Time some steps of each kind of run that no finished run is like.

    Args:
        progress: Its pace learns what is found; a run that cannot be timed will say so itself.
    """
    pace = progress.pace
    kinds: dict[Kind, Mapping[str, Any]] = {}
    for run_id in progress.waiting:
        tables = progress.jobs[run_id].tables
        kind = pace.kind(tables)[:TIMED]
        if len(kinds) < MOST_KINDS and not pace.knows(kind):
            kinds.setdefault(kind, tables)
    chosen = list(kinds.values())
    for tables, seconds in zip(chosen, time_runs(chosen, progress.width), strict=False):
        if seconds is not None:
            pace.learn(tables, seconds, tables["epochs"])


def time_runs(runs: Sequence[Mapping[str, Any]], width: int) -> Iterator[float | None]:
    """Time some steps of each of some runs, in a process of their own that downloads nothing.

    Args:
        runs: Their configurations.
        width: How many runs there will be at once: as many threads as then has that process.

    Yields:
        Seconds of each run, None where a run cannot be timed; nothing more once the process died.
    """
    if not runs:
        return
    with subprocess.Popen(
        python(timing.main),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(0, width) | {OFFLINE: "1"},
    ) as process:
        lines = "".join(json.dumps(each, default=str) + "\n" for each in (sys.path, *runs))
        out, _ = process.communicate(lines)
    yield from map(json.loads, out.splitlines())


def sentence(progress: Progress) -> str:
    """Say before the start how much there is to do, and how long it will take."""
    count = len(progress.jobs)
    runs = "1 run" if count == 1 else f"{count} runs"
    there = f", {len(progress.done)} of them finished" if progress.done else ""
    if len(progress.done) == count:
        return f"{runs}, all of them finished: nothing to do"
    left = progress.left()
    time_ = "known after the first epochs" if left is None else f"about {duration(left)}"
    width = min(progress.width, count - len(progress.done))
    at_once = f" with {width} at once" if width > 1 else ""
    return f"{runs}{there}; expected time{at_once}: {time_}"


def run(
    sweep: Sweep,
    launcher: Launcher,
    follower: Follower | None = None,
    progress: Progress | None = None,
) -> Progress:
    """Make a study's runs, as far as others do not.

    Args:
        sweep: The sweep.
        launcher: Where they are made.
        follower: Told of what happens.
        progress: See :func:`begin`; it is kept up to date.

    Returns:
        The progress.

    Raises:
        CheckpointError: The folder cannot be written.
        StoppedError: SIGINT or SIGTERM came; every run was ended after its step, whole.
        SweepError: Runs have failed; every other one is finished.
    """
    progress = progress or begin(sweep, launcher.width)
    follower = follower or Follower()
    check_writable(sweep.out)
    write_manifest(sweep)
    follower.on_start(progress)
    with launcher, listening() as request:
        runner = Runner(launcher, follower, progress)
        while runner.busy:
            runner.step(stop=request.number > 0)
    if request.number:
        raise StoppedError(
            request.number, f"stopped: {progress.counts()}; the same command continues"
        )
    if progress.failed:
        raise SweepError(explain(sweep, progress))
    return progress


def explain(sweep: Sweep, progress: Progress) -> str:
    """Name the runs that have failed, each with its error and its log."""
    listed = "; ".join(
        f"{progress.jobs[run_id].title}: {error} (log: {progress.jobs[run_id].folder.log})"
        for run_id, error in progress.failed.items()
    )
    count = f"{len(progress.failed)} of {len(sweep.jobs)} runs failed"
    return f"{count}, the same command tries them again: {listed}"


def state_rows(sweep: Sweep) -> list[tuple[str, ...]]:
    """Return the state of every run of a study, see ``STATE_HEADER``.

    Args:
        sweep: The study.

    Raises:
        DataError: A file of a run is damaged.
    """
    rows = []
    for job in sweep.jobs:
        known = (job.folder.path / "config.json").exists()
        found = read_status(job.folder) if known else Status(job.folder.path, "not started")
        _, _, _, _, _, *rest = found.row()
        rows.append((job.run_id, job.title, *rest))
    return rows


def summary(jobs: Iterable[Job]) -> str:
    """Say how many of some runs are in which state, in a line."""
    states = Counter(job.folder.state() for job in jobs)
    parts = [f"{states[state]} {state}" for state in get_args(State) if states[state]]
    count = sum(states.values())
    return f"{count} run{'s' * (count != 1)}: {', '.join(parts)}"


def failures(jobs: Iterable[Job]) -> Iterator[str]:
    """Say of every run that has failed why, and where its log is."""
    for job in jobs:
        if job.folder.state() == "failed":
            # Nothing, if it is being tried again since.
            why = job.folder.failure()
            yield f"failed: {job.title}: {why.get('error', '')} (log: {job.folder.log})"


def find_studies(out: Path) -> Iterator[tuple[str, list[Job]]]:
    """Yield the studies that were made into a folder of run folders, each with its runs.

    Args:
        out: The folder.

    Raises:
        DataError: What was written of one is damaged.
    """
    for path in sorted((out / MANIFESTS).glob("*.json")):
        found = read_manifest(path)
        jobs = [Job(run_id, title, {}, out) for run_id, title in found["runs"].items()]
        yield found["file"], jobs


class Runner:
    """Gives jobs away, listens, looks at what others make.

    Where several are made at once, the longest come first as far as that is known: a long one that
    begins last would end alone.

    Args:
        launcher: Where the runs are made; whoever made it ends it.
        follower: Told of what happens.
        progress: How far the runs have come; it is kept up to date. All of its jobs are to be made
            that are not done.
    """

    def __init__(self, launcher: Launcher, follower: Follower, progress: Progress) -> None:
        self._launcher = launcher
        self._follower = follower
        self._progress = progress
        waiting = [progress.jobs[run_id] for run_id in progress.waiting]
        self._queue = deque(sorted(waiting, key=self._rank) if progress.width > 1 else waiting)
        self._heard: dict[str, float] = {}
        self._said: set[str] = set()
        self._asked = False
        self._began = time.time()
        self._looked = time.monotonic()

    def _rank(self, job: Job) -> float:
        """Return what jobs are sorted by: what takes about as long stays in its order."""
        seconds = self._progress.seconds(job.run_id)
        return -math.inf if seconds is None else -round(4 * math.log2(max(seconds, 1e-3)))

    @property
    def busy(self) -> bool:
        """Whether there is a job that has not ended; once asked to stop, one that runs here."""
        if self._asked:
            return bool(self._progress.running)
        return bool(self._queue or self._progress.running or self._progress.elsewhere)

    @property
    def room(self) -> int:
        """How many more jobs could be started now."""
        return self._launcher.room - len(self._queue)

    def add(self, job: Job) -> None:
        """Take one more job, unless its run is known already.

        Args:
            job: The job.
        """
        if job.run_id not in self._progress.jobs:
            self._progress.add(job)
            self._queue.append(job)

    def step(self, *, stop: bool = False) -> None:
        """Give away what there is room for, and take what happens within a moment.

        Args:
            stop: Whether to ask all runs to end after their step, and to start none.
        """
        if stop and not self._asked:
            self._asked = True
            self._launcher.stop()
        if not self._asked:
            self._give()
        for event in self._launcher.events(SECONDS_BETWEEN_LOOKS):
            self._take(event)
        self._look_elsewhere()

    def _give(self) -> None:
        """Give away as many jobs as there is room for, but those that someone else does."""
        given: list[Job] = []
        while self._queue and len(given) < self._launcher.room:
            job = self._queue.popleft()
            state = job.folder.state()
            if state == "finished":
                self._end(Ended(job.run_id, "finished"))
            elif state == "running":
                self._progress.end(Ended(job.run_id, "held"))
            elif job.folder.failure().get("at", 0.0) >= self._began:
                # Just now, in somebody else's hands.
                self._fail(job)
            else:
                given.append(job)
        if given:
            for job in given:
                self._progress.start(job.run_id)
            self._launcher.submit(given)

    def _take(self, event: Event) -> None:
        progress, run_id = self._progress, event.run_id
        if isinstance(event, Said):
            if event.sentence not in self._said:
                self._said.add(event.sentence)
                self._follower.on_message(event.sentence)
            return
        if isinstance(event, Advanced):
            now, before = time.monotonic(), progress.running.get(run_id, 0)
            if event.metrics and run_id in self._heard and event.epoch > before:
                seconds = now - self._heard[run_id]
                tables = progress.jobs[run_id].tables
                progress.pace.learn(tables, seconds, event.epoch - before)
            self._heard[run_id] = now
            progress.start(run_id, event.epoch)
            self._follower.on_event(event, progress)
        else:
            self._end(event)

    def _end(self, ended: Ended) -> None:
        self._progress.end(ended)
        self._follower.on_event(ended, self._progress)

    def _look_elsewhere(self) -> None:
        """See what has become of the runs that someone else makes; take up what was left."""
        if time.monotonic() - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        self._looked = time.monotonic()
        for run_id in list(self._progress.elsewhere):
            job = self._progress.jobs[run_id]
            state = job.folder.state()
            if state == "running":
                continue
            if state == "finished":
                self._end(Ended(run_id, "finished"))
            elif job.folder.failure().get("at", 0.0) >= self._began:
                self._fail(job)
            else:
                self._progress.add(job)
                self._queue.append(job)

    def _fail(self, job: Job) -> None:
        """Count a run that someone else has failed to make."""
        self._end(Ended(job.run_id, "failed", job.folder.failure().get("error", "")))
