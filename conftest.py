"""What all tests share, the examples in docstrings included."""

import os

# Tests run side by side, and so do the processes that some of them start: threads of several would
# wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the user's own cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOISYLABELS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
