"""A real browser, for tests of pages."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time

import pytest

PATIENCE = 100
"""Seconds after which a browser that does not answer is given up."""
# The browser reads commands from descriptor 3 and answers on 4.
ON_PIPES = "import os, sys; os.dup2({}, 3); os.dup2({}, 4); os.execv(sys.argv[1], sys.argv[1:])"


def _command(folder):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    return [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
    ]


def browse(folder, *arguments):
    """Run Chromium without a window and return what it prints; skip where there is none."""
    command = [*_command(folder), *arguments]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
    return run.stdout


@contextlib.contextmanager
def open_tab(folder):
    """Start Chromium once, for many pages; skip where there is none.

    Args:
        folder: For its profile.

    Yields:
        A :class:`Tab`.
    """
    command = [*_command(folder), "--remote-debugging-pipe"]
    with contextlib.ExitStack() as stack:
        ends = []
        for end in (*os.pipe(), *os.pipe()):
            # Out of the way of descriptors 3 and 4.
            ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
            os.close(end)
            stack.callback(_close, ends[-1])
        commands, to, answers, into = ends[0], ends[1], ends[2], ends[3]
        process = subprocess.Popen(
            [sys.executable, "-c", ON_PIPES.format(commands, into), *command],
            pass_fds=(commands, into),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(process.wait, PATIENCE)
        stack.callback(process.terminate)
        _close(commands)
        _close(into)
        yield Tab(answers, to)


def _close(end):
    with contextlib.suppress(OSError):
        os.close(end)


class Tab:
    """A page's worth of a browser, driven by the DevTools protocol.

    Args:
        answers: Descriptor that the browser writes to.
        commands: Descriptor that it reads from.
    """

    def __init__(self, answers, commands):
        self.answers, self.commands = answers, commands
        self.buffer, self.number, self.session = b"", 0, None
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Send a command and return its result; events that come before it are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def read(self):
        """Return the next message, and keep it if it is an event."""
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.answers], [], [], end - time.monotonic())
            assert ready, f"the browser has not answered for {PATIENCE} seconds"
            received = os.read(self.answers, 1 << 20)
            assert received, "the browser has ended"
            self.buffer += received
        line, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    def visit(self, url):
        """Open a page and wait until all that it consists of is there; forget earlier events."""
        self.events.clear()
        failed = self.call("Page.navigate", url=url).get("errorText")
        assert failed is None, (url, failed)
        while not self.of("Page.loadEventFired"):
            self.read()

    def of(self, method):
        """Return the parameters of the events of a kind since the page was opened."""
        return [event["params"] for event in self.events if event["method"] == method]

    def resize(self, width, height=900):
        """Make the window so many pixels wide."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def evaluate(self, script):
        """Return the value of an expression, or of the promise that it gives."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")
