import hashlib
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from noisylabels.data import digests
from noisylabels.data.digests import cache_folder, file_digest, file_digests, tree_digest
from noisylabels.errors import DataError
from pictures import change_one_byte

OLD = 10**18
"""A time, in nanoseconds, long before the tests run."""


def write(path, content=b"abc", mtime=OLD):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(mtime, mtime))
    return path


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def read(monkeypatch):
    """The files that were read, in order."""
    names, found = [], digests._hash

    def counting(name):
        names.append(name)
        return found(name)

    monkeypatch.setattr(digests, "_hash", counting)
    return names


def test_digests_are_those_of_the_contents(tmp_path, own_cache):
    contents = [b"", b"abc", bytes(range(256)) * 10_000]
    paths = [write(tmp_path / str(n), content) for n, content in enumerate(contents)]
    assert file_digests(paths) == [sha256(content) for content in contents]
    assert file_digests([str(path) for path in paths]) == file_digests(paths)
    assert file_digests([]) == []


def test_many_files_come_back_in_order(tmp_path, own_cache, read, monkeypatch):
    monkeypatch.setattr(digests, "TOGETHER", 3)
    paths = [write(tmp_path / f"{n}.bin", b"%d" % n) for n in range(20)]
    # Some are remembered, the others are not.
    file_digests(paths[::3])
    assert file_digests(paths) == [sha256(b"%d" % n) for n in range(20)]
    assert sorted(read) == sorted(map(str, paths))


def test_a_file_is_read_once(tmp_path, own_cache, read, monkeypatch):
    path = write(tmp_path / "a.bin")
    monkeypatch.chdir(tmp_path)
    assert file_digest(path) == file_digest(path) == sha256(b"abc")
    assert file_digests([os.path.relpath(path)]) == [sha256(b"abc")]
    assert read == [str(path)]


@pytest.mark.parametrize(
    "change",
    [
        lambda path: write(path, b"abcd"),
        lambda path: write(path, b"xyz", OLD + 1),
        # As a copy with the original's times.
        lambda path: write(path.with_name("b"), b"xyz").replace(path),
    ],
)
def test_a_changed_file_is_read_again(tmp_path, own_cache, change):
    path = write(tmp_path / "a")
    file_digest(path)
    change(path)
    assert file_digest(path) == sha256(path.read_bytes()) != sha256(b"abc")


def test_a_touched_file_keeps_its_digest(tmp_path, own_cache, read):
    path = write(tmp_path / "a")
    before = file_digest(path)
    os.utime(path, ns=(OLD + 5, OLD + 5))
    assert file_digest(path) == before
    assert len(read) == 2


def test_a_young_file_is_not_remembered(tmp_path, own_cache, read):
    """It may change again without a new time."""
    path = write(tmp_path / "a", mtime=2**62)
    assert file_digest(path) == file_digest(path)
    assert len(read) == 2


def test_names_of_any_bytes(tmp_path, own_cache, read):
    names = ["ä'\"", "line\nbreak", os.fsdecode(b"\xff"), "\u2028"]
    paths = [write(tmp_path / name, name.encode(errors="surrogateescape")) for name in names]
    assert file_digests(paths) == file_digests(paths)
    assert len(read) == len(names)


def damage_head(content):
    return b"no database" + content[11:]


def damage_pages(content):
    return content[:100] + b"\xff" * (len(content) - 100)


@pytest.mark.parametrize(
    "damage", [damage_head, damage_pages, lambda content: content[: len(content) // 2]]
)
def test_a_damaged_database_is_made_anew(tmp_path, own_cache, read, damage):
    paths = [write(tmp_path / str(n)) for n in range(300)]
    file_digests(paths)
    database = own_cache / "digests.sqlite3"
    database.write_bytes(damage(database.read_bytes()))
    for _ in range(3):
        assert file_digests(paths) == [sha256(b"abc")] * 300
    assert len(read) == 600


def test_no_cache_is_no_error(tmp_path, monkeypatch, read, capsys):
    write(tmp_path / "file")
    monkeypatch.setenv("NOISYLABELS_CACHE", str(tmp_path / "file" / "cache"))
    assert file_digest(tmp_path / "file") == file_digest(tmp_path / "file") == sha256(b"abc")
    assert len(read) == 2
    assert capsys.readouterr() == ("", "")


def test_a_database_that_cannot_be_written_is_done_without(tmp_path, own_cache, read):
    (own_cache / "digests.sqlite3").mkdir(parents=True)
    path = write(tmp_path / "a")
    assert file_digest(path) == file_digest(path)
    assert len(read) == 2


def test_a_database_that_another_process_holds_is_done_without(
    tmp_path, own_cache, read, monkeypatch
):
    monkeypatch.setattr(digests, "PATIENCE", 0.0)
    file_digest(write(tmp_path / "a"))
    other = sqlite3.connect(own_cache / "digests.sqlite3")
    other.execute("BEGIN EXCLUSIVE")
    assert file_digest(tmp_path / "a") == sha256(b"abc")
    other.close()
    assert file_digest(tmp_path / "a") == sha256(b"abc")
    # What was known before is known again.
    assert len(read) == 2


def test_several_may_use_it_at_once(tmp_path, own_cache, read):
    paths = [write(tmp_path / str(n), b"%d" % n) for n in range(50)]
    expected = [sha256(b"%d" % n) for n in range(50)]
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(lambda _: file_digests(paths), range(16)):
            assert found == expected
    read.clear()
    assert file_digests(paths) == expected
    assert read == []


def test_what_cannot_be_read_is_named(tmp_path, own_cache):
    with pytest.raises(DataError, match=r"a: cannot be read \(No such file or directory\)"):
        file_digest(tmp_path / "a")
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        file_digest(tmp_path)
    found = file_digests([write(tmp_path / "b"), tmp_path / "a"])
    assert found[0] == sha256(b"abc")
    assert isinstance(found[1], FileNotFoundError)


def test_a_folder_is_its_names_and_contents(tmp_path, own_cache):
    for root in ("one", "two"):
        write(tmp_path / root / "a")
        write(tmp_path / root / "deep" / "er" / "b", b"x")
    digest = tree_digest(tmp_path / "one")
    assert tree_digest(tmp_path / "two") == digest
    # Links that go round lead to nothing new.
    (tmp_path / "two" / "round").symlink_to(tmp_path / "two")
    (tmp_path / "two" / "deep" / "er" / "back").symlink_to(tmp_path / "two" / "deep")
    assert tree_digest(tmp_path / "two") == digest
    change_one_byte(tmp_path / "two" / "deep" / "er" / "b")
    changed = tree_digest(tmp_path / "two")
    (tmp_path / "two" / "a").rename(tmp_path / "two" / "c")
    renamed = tree_digest(tmp_path / "two")
    assert len({digest, changed, renamed}) == 3
    # What a link leads to counts: training reads it.
    write(tmp_path / "away" / "x")
    (tmp_path / "two" / "link").symlink_to(tmp_path / "away")
    linked = tree_digest(tmp_path / "two")
    change_one_byte(tmp_path / "away" / "x")
    assert len({renamed, linked, tree_digest(tmp_path / "two")}) == 3
    assert tree_digest(tmp_path / "one" / "a") == sha256(b"abc")


@pytest.mark.parametrize(
    ("platform", "given", "expected"),
    [
        ("linux", {"NOISYLABELS_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, "/c"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/noisylabels"),
        ("darwin", {}, "/home/me/.cache/noisylabels"),
        ("win32", {"LOCALAPPDATA": "/local", "XDG_CACHE_HOME": "/x"}, "/local/noisylabels"),
        ("win32", {}, "/home/me/AppData/Local/noisylabels"),
    ],
)
def test_the_cache_lies_where_the_platform_keeps_caches(monkeypatch, platform, given, expected):
    for name in ("NOISYLABELS_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **given}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(digests.sys, "platform", platform)
    assert cache_folder().as_posix() == expected
