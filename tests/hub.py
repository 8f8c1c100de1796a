"""A hub of networks on this machine: it speaks as much of Hugging Face's protocol as is asked."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "0" * 40


@contextmanager
def serve(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the folders `owner/name` of a folder as repositories.

    Args:
        root: The folder.

    Yields:
        The hub's address; and the paths of the files that have been downloaded so far.
    """
    downloads: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self._answer()

        def do_GET(self):
            self._answer()

        def log_message(self, *values):
            """Say nothing."""

        def _answer(self):
            words = unquote(urlparse(self.path).path).strip("/").split("/")
            if words[:2] == ["api", "models"]:
                self._list("/".join(words[2:4]), words[4:])
            elif words[2:3] == ["resolve"]:
                self._file("/".join(words[:2]), "/".join(words[4:]))
            else:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

        def _list(self, name, asked):
            repository = root / name
            if not repository.is_dir():
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
                return
            files = sorted(each for each in repository.rglob("*") if each.is_file())
            paths = [str(each.relative_to(repository)) for each in files]
            if asked[:1] == ["tree"]:
                found = [
                    {"type": "file", "path": path, "size": each.stat().st_size, "oid": digest(each)}
                    for path, each in zip(paths, files, strict=True)
                ]
            else:
                siblings = [{"rfilename": path} for path in paths]
                found = {"id": name, "sha": COMMIT, "siblings": siblings}
            self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

        def _file(self, name, path):
            file = root / name / path
            if not file.is_file():
                code = "EntryNotFound" if (root / name).is_dir() else "RepoNotFound"
                self._send(404, b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT})
                return
            if self.command == "GET":
                downloads.append(f"{name}/{path}")
            headers = {"ETag": f'"{digest(file)}"', "X-Repo-Commit": COMMIT}
            self._send(200, file.read_bytes(), headers)

        def _send(self, status, body, headers):
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", downloads
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def digest(file: Path) -> str:
    """Return what tells one content of a file from another."""
    return hashlib.sha1(file.read_bytes()).hexdigest()
