"""Processes of the command line that start warm: forked from one that has imported what runs need.

A new interpreter takes seconds of a core to import torch and Fabric, in which nothing that a test
looks at can happen. What is forked is as real: a process of its own, with an exit status, that can
be signalled and killed. Its start alone is not a user's: `test_processes.py` and `test_cli.py` have
that too.
"""

import multiprocessing
import os
import subprocess
import sys

IMPORTS = [
    "noisylabels.cli",
    "noisylabels.display",
    "noisylabels.run.trainer",
    "sklearn.datasets",
    "sklearn.model_selection",
    "tensorboard.summary.writer.record_writer",
    "torch.nn.parallel",
    "torchvision.transforms.v2",
]
# Where there is no fork, each starts cold.
KIND = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


class Job:
    """A process of one's own, as `subprocess.Popen` has it; what it shows goes to files.

    Args:
        target: A function of a module that can be imported, run with `words`.
        words: Its arguments.
        shown: The two files of what it writes; their folder exists.
        group: Whether it leads a group and a session.
        environment: Added to this process's own.
    """

    def __init__(self, target, *words, shown, group=False, **environment):
        context = multiprocessing.get_context(KIND)
        context.set_forkserver_preload(IMPORTS)
        self._shown = shown
        arguments = (target, words, shown, group, os.environ | environment)
        self._process = context.Process(target=_begin, args=arguments)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self._process.kill()

    def communicate(self, timeout=120):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return tuple(path.read_text(encoding="utf-8") for path in self._shown)


def _begin(target, words, shown, group, environment):
    # Its own processes, such as those that load images, start as in a new interpreter.
    multiprocessing.set_start_method(None, force=True)
    if group:
        os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(shown, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.exit(target(*words))


def command_line(*words):
    """Do what `python -m noisylabels` does."""
    import noisylabels.__main__ as module

    # By which Fabric knows how to start the other processes.
    sys.modules["__main__"] = module
    sys.argv[:] = ["noisylabels", *words]
    return module.main()


def code(text, *words):
    """Do what `python -c` does."""
    sys.argv[:] = ["-c", *words]
    exec(text, {"__name__": "__main__"})


def saving(*words):
    """Do the same, with a checkpoint after every epoch, however short."""
    from noisylabels.run import loop

    loop.SECONDS_BETWEEN_SAVES = 0
    return command_line(*words)


def keeping(*words):
    """Do the same, and leave the last checkpoint of a finished run."""
    from noisylabels.run.folder import RunFolder

    RunFolder.discard_checkpoints = lambda folder: None
    return saving(*words)
