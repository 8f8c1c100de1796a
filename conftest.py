"""What all tests share, the examples in docstrings included."""

import gc
import os
from collections.abc import Iterator

import pytest

# Tests run side by side, and so do the processes that some of them start: threads of several would
# wait for each other. Torch reads it when it is imported.
os.environ["OMP_NUM_THREADS"] = "1"


# Their libraries take seconds to import; their own tests run the examples in their docstrings.
collect_ignore = [
    "src/noisylabels/integrations/lightning.py",
    "src/noisylabels/integrations/transformers.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow tests: a long one at the end would keep one process busy alone.

    They also come to one process that way, which starts warm ones for all of them.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Let the collector leave out what was imported, hundreds of thousands of objects, for good."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the user's own cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOISYLABELS_CACHE", str(tmp_path_factory.mktemp("cache")))
        # Not at the top: the process that only hands tests out needs no torch.
        import torch

        torch.set_num_threads(1)
        yield
