"""Trials in a real Postgres, where there is one to start; other storages are in `test_tune.py`."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

import warm
from noisylabels.errors import ConfigError, DataError
from noisylabels.studies.space import parse
from noisylabels.studies.trials import Trials

SPACE = parse({"loss.q": {"low": 0.1, "high": 1.0}})


def find_programs():
    """Return the folder of Postgres's programs: that of its tool, or where Debian puts them."""
    found = shutil.which("pg_ctl")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


class Server:
    """A Postgres of its own, with a password, that keeps nothing safe."""

    def __init__(self, programs, folder, account):
        self._programs, self._folder, self._account = programs, folder, account
        (folder / "password").write_text("secret")
        if account:
            shutil.chown(folder, account)
        self._run("initdb", "-A", "scram-sha-256", "-U", "me", "--pwfile=password", "--no-sync")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def _run(self, program, *words):
        subprocess.run(
            [self._programs / program, "-D", "data", *words],
            cwd=self._folder,
            user=self._account,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )

    def start(self):
        options = f"-F -p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1"
        self._run("pg_ctl", "-w", "-l", "log", "-o", options, "start")

    def stop(self):
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def address(self, database="postgres", password="secret"):
        return f"postgresql+psycopg://me:{password}@127.0.0.1:{self.port}/{database}"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("psycopg")
    programs = find_programs()
    if programs is None:
        pytest.skip("Postgres is not installed")
    # It refuses to run as root.
    account = "nobody" if getpass.getuser() == "root" else None
    folder = tmp_path_factory.mktemp("postgres")
    if account:
        for parent in (folder, *folder.parents):
            if parent.stat().st_uid == os.getuid() and parent.name.startswith("pytest-"):
                parent.chmod(0o755)
    server = Server(programs, folder, account)
    server.start()
    yield server
    server.stop()


def open_trials(address):
    return Trials(address, "study", SPACE, seed=0, warmup=1)


@pytest.fixture
def opened():
    """Open trials whose connections are closed in the end."""
    with contextlib.ExitStack() as stack:

        def made(address):
            trials = open_trials(address)
            stack.callback(trials._study._storage._backend.engine.dispose)
            return trials

        yield made


ASK = """
import os, signal, sys
from pathlib import Path
from noisylabels.studies.space import parse
from noisylabels.studies.trials import Trials

space = parse({"loss.q": {"low": 0.1, "high": 1.0}})
trials = Trials(sys.argv[1], "study", space, seed=0, warmup=1)
trials.assign(trials.ask(), ["0123"], Path(sys.argv[2]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_two_processes_share_an_empty_database_and_are_killed(server, opened, begin, tmp_path):
    both = [begin(ASK, server.address(), tmp_path, target=warm.code) for _ in range(2)]
    for process in both:
        process.communicate()
    assert [process.returncode for process in both] == [-signal.SIGKILL] * 2
    trials = opened(server.address())
    left = trials.list()
    assert [trial.number for trial in left] == [1, 2]
    assert [(trial.state, trial.host) for trial in left] == [("running", socket.gethostname())] * 2
    assert {trial.process for trial in left} == {process.pid for process in both}
    trials.finish(left[0], [0.5, 0.75], 3.0)
    trials.fail(left[1], "diverged")
    first, second = opened(server.address()).list()
    assert (first.state, first.accuracy, first.accuracies) == ("finished", 0.625, (0.5, 0.75))
    assert (second.state, second.error) == ("failed", "diverged")
    assert first.values != second.values


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"password": "wrong"}, "password authentication failed for user"),
        ({"database": "none"}, 'database "none" does not exist'),
    ],
)
def test_what_a_server_refuses_is_one_line(server, options, message):
    with pytest.raises(ConfigError, match=message) as refused:
        open_trials(server.address(**options))
    assert "\n" not in str(refused.value)
    assert "wrong" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_server_that_is_down_is_one_line_before_and_in_between(server, opened):
    trials = opened(server.address())
    count = len(trials.list())
    server.stop()
    try:
        with pytest.raises(DataError, match="the same command continues") as lost:
            trials.ask()
        with pytest.raises(ConfigError, match="cannot be reached or used") as refused:
            open_trials(server.address())
    finally:
        server.start()
    assert "\n" not in f"{lost.value}{refused.value}"
    assert len(opened(server.address()).list()) == count
