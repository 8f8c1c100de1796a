"""A warm worker process: it imports torch once and makes one run folder after the other.

Lines of JSON come in, each a job, and lines of JSON go out, each an event. Whatever a run prints
goes to a file that becomes part of its log if it fails.
"""

import dataclasses
import faulthandler
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

from noisylabels.run.interruption import StoppedError
from noisylabels.run.labelling import keeping_data
from noisylabels.studies.launchers.jobs import Advanced, Ended, Event, Job, Said, fail, make

EVENTS: dict[str, Callable[..., Event]] = {"said": Said, "advanced": Advanced, "ended": Ended}
READY = "ready"


def encode(event: Event) -> str:
    """Write an event as a line of JSON.

    Example:
        >>> decode(encode(Ended("0123", "finished")))
        Ended(run_id='0123', state='finished', error='')
    """
    kind = type(event).__name__.lower()
    return json.dumps({"kind": kind, **dataclasses.asdict(event)}) + "\n"


def decode(line: str) -> Event | None:
    """Read what :func:`encode` wrote; None stands for the word that the worker is ready."""
    values = json.loads(line)
    kind = values.pop("kind")
    return None if kind == READY else EVENTS[kind](**values)


def encode_job(job: Job, output: Path) -> str:
    """Write a job as a line of JSON.

    Args:
        job: The job.
        output: The file that gets what the run prints.
    """
    return json.dumps({**vars(job), "output": output}, default=str) + "\n"


def main() -> None:
    """Do the jobs that come in; end when there is nobody to give any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    # What is printed is no event.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    inbox: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
    busy = threading.Event()
    # A process that is forked here, to decode images, closes its sys.stdin first. Of what a thread
    # reads from it would wait for the lock for ever, so that is another file.
    lines, sys.stdin = sys.stdin, Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - for good
    threading.Thread(target=_listen, args=(lines, inbox, busy), daemon=True).start()

    def tell(event: Event) -> None:
        send(encode(event))

    def send(line: str) -> None:
        # Where nobody listens any more, the end of what comes in ends the run, whole.
        with suppress(BrokenPipeError):
            events.write(line)
            events.flush()

    send(json.dumps({"kind": READY}) + "\n")
    try:
        with keeping_data():
            while (given := inbox.get()) is not None:
                job = Job(given["run_id"], given["title"], given["tables"], Path(given["out"]))
                output = Path(given["output"])
                busy.set()
                with _printing_into(output):
                    ended = make(job, tell)
                busy.clear()
                if ended.state == "failed":
                    printed = output.read_text(encoding="utf-8", errors="replace")
                    log = job.folder.log.read_text(encoding="utf-8")
                    fail(job, ended.error, f"{log.partition(chr(10))[2]}\n{printed}")
                output.unlink(missing_ok=True)
                tell(ended)
    except StoppedError:
        # Nobody gives any more.
        pass
    with suppress(BrokenPipeError):
        events.close()


def _listen(
    lines: IO[str],
    inbox: "queue.SimpleQueue[Mapping[str, Any] | None]",
    busy: threading.Event,
) -> None:
    for line in lines:
        inbox.put(json.loads(line))
    inbox.put(None)
    if busy.is_set():
        # Whoever gave the job is gone, however it went: the step is finished and saved.
        os.kill(os.getpid(), signal.SIGTERM)


def _stop(number: int, frame: FrameType | None) -> None:
    raise StoppedError(number, "")


@contextmanager
def _printing_into(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    before = os.dup(2)
    with path.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(before, 1)
        os.dup2(before, 2)
        os.close(before)
