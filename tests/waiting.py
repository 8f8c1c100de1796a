"""Waiting for other processes, by counted looks instead of a clock."""

import time

LOOKS = 12_000


def wait_for(condition, process=None):
    """Look until a condition holds, for a minute or more; a process that ends meanwhile fails."""
    for _ in range(LOOKS):
        if condition():
            return
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.005)
    raise AssertionError("waited in vain")
