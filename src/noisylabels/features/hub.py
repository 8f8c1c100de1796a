"""The hub that pretrained networks are downloaded from, where it can be reached."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

PATIENCE = 5.0
"""Seconds in which a hub takes a connection, or counts as out of reach."""


@contextmanager
def without_retries() -> Iterator[None]:
    """Take Hugging Face's hub for offline, while something is loaded, where it cannot be reached.

    Its library tries each file six times first, a minute in all, also where every file has been
    downloaded before.

    Raises:
        ConnectionError: What is loaded has not been downloaded before.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _is_reachable(constants.ENDPOINT)
    try:
        yield
    except LocalEntryNotFoundError as error:
        reason = "HF_HUB_OFFLINE is set" if before else f"{constants.ENDPOINT} cannot be reached"
        raise ConnectionError(reason) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _is_reachable(address: str) -> bool:
    """Say whether something takes connections there; a proxy is trusted to know."""
    parts = urlsplit(address)
    if parts.hostname is None or getproxies().keys() & {parts.scheme, "all"}:
        return True
    try:
        port = parts.port or socket.getservbyname(parts.scheme)
        with socket.create_connection((parts.hostname, port), PATIENCE):
            return True
    except OSError:
        return False
