"""The commands of the tutorials, without seconds of imports before each.

While pages are made, `noisylabels` on the path is a client of a process that has imported what runs
need: for each command it forks one of its own, with the client's folder and output.
"""

import json
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

IMPORTS = ("noisylabels.cli", "noisylabels.display", "noisylabels.run.trainer", "sklearn.datasets")
BASH = """
import subprocess

from IPython.core.magic import register_cell_magic


@register_cell_magic
def bash(line, cell):
    done = subprocess.run(
        ["bash", "-c", cell], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(done.stdout, end="")
    done.check_returncode()
"""
CLIENT = """#!{python} -ISB
import json, os, socket, sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = json.dumps([os.getcwd(), sys.argv[1:]]).encode()
    socket.send_fds(server, [asked], [1, 2])
    sys.exit(int(server.recv(16) or 1))
"""


class _Command(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        asked, outputs, _, _ = socket.recv_fds(self.request, 1 << 16, 2)
        folder, words = json.loads(asked)
        for name, output in zip(("stdout", "stderr"), outputs, strict=True):
            setattr(sys, name, os.fdopen(output, "w", buffering=1, encoding="utf-8"))
            # For the processes that it starts.
            os.dup2(output, getattr(sys, f"__{name}__").fileno())
        os.chdir(folder)
        # What lies in the folder can be named, as with `python -m noisylabels`.
        sys.path.insert(0, folder)
        sys.argv[:] = ["noisylabels", *words]
        try:
            status = import_module("noisylabels.__main__").main(words)
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()
        self.request.sendall(str(status or 0).encode())


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    parent = os.getppid()

    def service_actions(self) -> None:
        super().service_actions()
        if os.getppid() != self.parent:
            sys.exit("the build has ended without a word")

    def process_request(self, request: Any, client_address: Any) -> None:
        # Where no page has to be made again, nobody asks.
        for name in IMPORTS:
            import_module(name)
        super().process_request(request, client_address)


def _start(app: Sphinx) -> None:
    folder = Path(tempfile.mkdtemp(prefix="noisylabels-docs-"))
    address = str(folder / "socket")
    client = folder / "noisylabels"
    client.write_text(CLIENT.format(python=sys.executable, address=address), encoding="utf-8")
    client.chmod(0o755)
    # IPython's own `%%bash` tears lines apart, and errors from the place where they came.
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "bash.py").write_text(BASH, encoding="utf-8")
    os.environ["IPYTHONDIR"] = str(folder)
    os.environ["PATH"] = os.pathsep.join([str(folder), os.environ["PATH"]])
    server = subprocess.Popen([sys.executable, __file__, address])

    def stop(app: Sphinx, error: Exception | None) -> None:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)

    app.connect("build-finished", stop)


def setup(app: Sphinx) -> dict[str, Any]:
    """Have the command while pages are read."""
    app.connect("builder-inited", _start)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    with suppress(KeyboardInterrupt), _Server(sys.argv[1], _Command) as serving:
        serving.serve_forever()
