import pytest
import torch

from noisylabels.features import cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISYLABELS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_vectors_are_found_by_all_that_they_depend_on():
    vectors = torch.randn(4, 3).T
    cache.keep({"a": 1, "b": {"c": 2}}, vectors)
    assert torch.equal(cache.recall({"b": {"c": 2}, "a": 1}), vectors)
    for other in ({"a": 1}, {"a": 1, "b": {"c": 3}}, {"a": "1", "b": {"c": 2}}):
        assert cache.recall(other) is None


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"\xff" * 100])
def test_a_damaged_file_is_as_good_as_none(own_cache, content):
    cache.keep({}, torch.ones(1, 2))
    (file,) = (own_cache / "features").iterdir()
    file.write_bytes(content)
    assert cache.recall({}) is None
    cache.keep({}, torch.ones(1, 2))
    assert cache.recall({}).tolist() == [[1, 1]]


def test_a_cache_that_cannot_be_written_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NOISYLABELS_CACHE", str(tmp_path / "file"))
    cache.keep({}, torch.ones(1, 2))
    assert cache.recall({}) is None
