import os

import pytest
import torch

from noisylabels.features import cache

pytestmark = pytest.mark.usefixtures("own_cache")


def test_vectors_are_found_by_all_that_they_depend_on():
    vectors = torch.randn(4, 3).T
    cache.keep({"a": 1, "b": {"c": 2}}, {"vectors": vectors, "others": vectors + 1})
    found = cache.recall({"b": {"c": 2}, "a": 1})
    assert torch.equal(found["vectors"], vectors)
    assert torch.equal(found["others"], vectors + 1)
    for other in ({"a": 1}, {"a": 1, "b": {"c": 3}}, {"a": "1", "b": {"c": 2}}):
        assert cache.recall(other) is None


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"\xff" * 100])
def test_a_damaged_file_is_as_good_as_none(own_cache, content):
    cache.keep({}, {"x": torch.ones(1, 2)})
    (file,) = (own_cache / "features").iterdir()
    file.write_bytes(content)
    assert cache.recall({}) is None
    assert not cache.is_kept({})
    cache.keep({}, {"x": torch.ones(1, 2)})
    assert cache.recall({})["x"].tolist() == [[1, 1]]


def test_a_cache_that_cannot_be_written_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NOISYLABELS_CACHE", str(tmp_path / "file"))
    cache.keep({}, {"x": torch.ones(1, 2)})
    assert cache.recall({}) is None


def test_what_was_not_used_for_longest_goes_first(own_cache, monkeypatch):
    for number in range(4):
        cache.keep({"number": number}, {"x": torch.zeros(1000)})
    files = sorted((own_cache / "features").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for age, path in enumerate(files):
        os.utime(path, (age, age))
    each = files[0].stat().st_size
    assert cache.size() == 4 * each
    assert cache.recall({"number": 0}) is not None
    assert cache.prune(2 * each) == 2 * each
    # The oldest was used just now.
    left = [number for number in range(4) if cache.recall({"number": number}) is not None]
    assert left == [0, 3]
    # What is kept is kept, though alone it is too large; the others make room.
    monkeypatch.setattr(cache.prune, "__defaults__", (each, None))
    cache.keep({"number": 5}, {"x": torch.zeros(2000)})
    left = [number for number in range(6) if cache.recall({"number": number}) is not None]
    assert left == [5]
    assert cache.prune(0) > 8000
    assert cache.size() == 0


def test_what_a_killed_process_left_is_deleted_after_a_day(own_cache):
    cache.keep({"number": 0}, {"x": torch.zeros(10)})
    old, young = (own_cache / "features" / f".{name}.safetensors.9.tmp" for name in "ab")
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.prune()
    assert not old.exists()
    assert young.exists()
    assert cache.recall({"number": 0}) is not None


def test_nothing_to_delete(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISYLABELS_CACHE", str(tmp_path / "nowhere"))
    assert (cache.size(), cache.prune(0)) == (0, 0)
