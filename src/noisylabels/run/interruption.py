"""Being asked to stop: the step is finished, a checkpoint is written, then the process ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from noisylabels.errors import NoisyLabelsError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(NoisyLabelsError):
    """The run was asked to stop, and has stopped where it can continue.

    Args:
        number: The signal.
        message: Where it stopped; empty where another process of the run says so.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        # What shells expect: 130 for SIGINT, 143 for SIGTERM.
        self.status = 128 + number


class Request:
    """Whether somebody asked to stop.

    Attributes:
        number: The signal, or 0.
    """

    def __init__(self) -> None:
        self.number = 0


@contextmanager
def listening() -> Iterator[Request]:
    """Turn SIGINT and SIGTERM into a request.

    A second SIGINT interrupts at once. Outside the main thread, where Python delivers no signals,
    nothing is changed.

    Yields:
        The request.
    """
    request = Request()

    def ask(number: int, frame: FrameType | None) -> None:
        if request.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.number = number

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
