import io
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch

from noisylabels.errors import DataError, MissingExtraError
from noisylabels.labels import STAND_INS, check, choose, read, read_all

FILE = {
    "clean_label": np.array([0, 1, 2, 2]),
    "aggre_label": np.array([0, 1, 2, 0], dtype=np.int32),
    "worse_label": [1, np.int64(0), 2, np.uint8(2)],
    "random_label1": torch.tensor([2, 2, 2, 2], dtype=torch.int16),
    "random_label2": np.array([300, 1, 2, 3], dtype=">u2"),
    "random_label3": (3, 2, 1, 0),
}
EXPECTED = {
    "clean_label": [0, 1, 2, 2],
    "aggre_label": [0, 1, 2, 0],
    "worse_label": [1, 0, 2, 2],
    "random_label1": [2, 2, 2, 2],
    "random_label2": [300, 1, 2, 3],
    "random_label3": [3, 2, 1, 0],
}


def rewritten(path, old, new):
    """Put other bytes of any length into the pickle inside torch's archive."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            if name.endswith("data.pkl"):
                assert old in content
                content = content.replace(old, new)
            archive.writestr(name, content)


@pytest.mark.parametrize("numpy_version", [1, 2])
@pytest.mark.parametrize("as_archive", [True, False])
def test_files_of_every_torch_and_numpy(tmp_path, numpy_version, as_archive):
    path = tmp_path / "human.pt"
    torch.save(FILE, path, _use_new_zipfile_serialization=as_archive)
    modules = {1: b"numpy.core.multiarray", 2: b"numpy._core.multiarray"}
    written = modules[int(np.__version__[0])]
    if as_archive:
        rewritten(path, written, modules[numpy_version])
    else:
        content = path.read_bytes()
        assert written in content
        path.write_bytes(content.replace(written, modules[numpy_version]))
    found = read_all(path)
    assert {key: labels.tolist() for key, labels in found.items()} == EXPECTED
    assert {labels.dtype for labels in found.values()} == {torch.int64}
    for key, labels in EXPECTED.items():
        assert read(path, key).tolist() == labels


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i8", ">i4"])
def test_every_integer_type(tmp_path, dtype):
    torch.save({"noisy_label": np.array([0, 100, 7]).astype(dtype)}, tmp_path / "a.pt")
    assert read(tmp_path / "a.pt").tolist() == [0, 100, 7]


def test_reading_a_torch_file_needs_no_numpy(tmp_path, monkeypatch):
    torch.save(FILE, tmp_path / "a.pt")
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert read(tmp_path / "a.pt", "aggre_label").tolist() == [0, 1, 2, 0]
    with pytest.raises(MissingExtraError, match="numpy is not installed"):
        read(tmp_path / "a.npy")


def test_what_torch_may_load_stays_as_it_was(tmp_path):
    torch.save(FILE, tmp_path / "a.pt")
    allowed = set(torch.serialization.get_safe_globals())
    mine = STAND_INS[0]
    with torch.serialization.safe_globals([mine]):
        read_all(tmp_path / "a.pt")
        assert set(torch.serialization.get_safe_globals()) == {mine, *allowed}
    assert set(torch.serialization.get_safe_globals()) == allowed


class Bomb:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("as_archive", [True, False])
@pytest.mark.parametrize("place", ["value", "item", "array", "top"])
def test_a_pickle_bomb_does_not_go_off(tmp_path, place, as_archive):
    mark = tmp_path / "mark"
    bomb = Bomb(os.system, f"touch '{mark}'")
    array = np.array([bomb], dtype=object)
    stored = {
        "value": {"noisy_label": bomb},
        "item": {"noisy_label": [0, bomb]},
        "array": {"noisy_label": array},
        "top": bomb,
    }[place]
    path = tmp_path / "bomb.pt"
    torch.save(stored, path, _use_new_zipfile_serialization=as_archive)
    with pytest.raises(DataError, match=r"refused: it asks for \w+\.system, .* nothing was run"):
        read(path)
    assert not mark.exists()
    assert pickle.loads(pickle.dumps(bomb)) == 0, "it would have gone off"
    assert mark.exists()


@pytest.mark.parametrize("function", [eval, exec, np.load, getattr, __import__])
def test_other_calls_are_refused(tmp_path, function):
    torch.save({"noisy_label": Bomb(function, "1")}, tmp_path / "a.pt")
    with pytest.raises(DataError, match="refused: it asks for") as error:
        read(tmp_path / "a.pt")
    assert "\n" not in str(error.value)


def saved(value, **options) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


WHOLE = saved({"noisy_label": np.arange(1000)})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"0 1 2",
        WHOLE[:100],
        WHOLE[: len(WHOLE) // 2],
        WHOLE[:-1],
        saved({"noisy_label": np.arange(9)}, _use_new_zipfile_serialization=False)[:-40],
        saved({"noisy_label": [0, 1]}, pickle_protocol=4),
        pickle.dumps({"noisy_label": [0, 1]}, protocol=2)[:-3],
    ],
)
def test_damaged_files(tmp_path, content):
    path = tmp_path / "labels.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match="expected a whole .pt file of labels") as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 200


def test_no_byte_of_a_file_can_do_more_than_raise(tmp_path):
    path = tmp_path / "labels.pt"
    whole = saved({"noisy_label": np.arange(4)}, _use_new_zipfile_serialization=False)
    generator = np.random.default_rng(0)
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= int(generator.integers(1, 256))
        path.write_bytes(content)
        try:
            assert read(path).dtype is torch.int64
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (
            torch.zeros(3),
            r"a dict of labels by name, got a tensor of shape \(3,\) of",
        ),
        (np.arange(3), r"a dict of labels by name, got a NumPy array of shape \(3,\), type i8"),
        ([0, 1], "a dict of labels by name, got a list"),
        ("labels", "a dict of labels by name, got 'labels'"),
        ({}, "got an empty one"),
        ({0: [0, 1]}, "expected names as keys, got 0"),
        ({"a": np.zeros(2)}, r"a: expected .* got a NumPy array of shape \(2,\), type f8"),
        ({"a": np.zeros(2, dtype=bool)}, "a: expected .* type b1"),
        ({"a": np.array(["0", "1"])}, "a: expected .* type U1"),
        ({"a": np.array([0, None])}, "a: expected .* type O8"),
        ({"a": np.zeros((2, 1), dtype=int)}, r"a: expected a one-.* shape \(2, 1\), type i8"),
        ({"a": np.int64(3)}, "a: expected a one-.* got a NumPy number, type i8"),
        ({"a": torch.zeros(2, 1).long()}, r"a: expected a one-.* got a tensor of shape \(2, 1\)"),
        ({"a": torch.zeros(2)}, "a: expected .* integer labels, got a tensor .* torch.float32"),
        ({"a": torch.zeros(2).bool()}, "a: expected .* torch.bool"),
        ({"a": torch.zeros(2).long().to_sparse()}, "a: expected .* got a tensor"),
        ({"a": torch.zeros(2, device="meta").long()}, "a: expected .* got a tensor"),
        ({"a": [0, True]}, "a: row 1: expected an integer, got True"),
        ({"a": [0, 1, 1.5]}, "a: row 2: expected an integer, got 1.5"),
        ({"a": [np.float64(1)]}, "a: row 0: expected an integer, got a NumPy number, type f8"),
        ({"a": [np.bool_(True)]}, "a: row 0: expected an integer, got a NumPy number, type b1"),
        ({"a": ["0"]}, "a: row 0: expected an integer, got '0'"),
        ({"a": [2**70]}, "a: row 0: expected an integer, got 1180591620717411303424"),
        ({"a": 3}, "a: expected .* got 3"),
        ({"a": {}}, "a: expected .* got a dict"),
    ],
)
def test_files_of_something_else(tmp_path, stored, message):
    path = tmp_path / "labels.pt"
    torch.save(stored, path)
    with pytest.raises(DataError, match=message) as error:
        read_all(path)
    assert str(error.value).startswith(f"{path}: ")


def test_keys(tmp_path):
    path = tmp_path / "labels.pt"
    torch.save(FILE, path)
    with pytest.raises(DataError, match="unknown key 'worst_label': did you mean 'worse_label'"):
        read(path, "worst_label")
    with pytest.raises(DataError, match="holds aggre_label, clean_label, .*: choose one of them"):
        read(path)
    assert choose(path, ["clean_label", "noisy_label"], None) == "noisy_label"
    assert choose(path, ["clean_label", "noisy_label"], "clean_label") == "clean_label"
    with pytest.raises(DataError, match="key = 'clean_label'"):
        choose(path, ["clean_label"], None)
    np.save(tmp_path / "labels.npy", np.arange(3))
    with pytest.raises(DataError, match=r"got key 'a', but only a \.pt file has keys"):
        read(tmp_path / "labels.npy", "a")
    with pytest.raises(DataError, match="no such label file"):
        read(tmp_path / "no.pt")


def test_check():
    labels = torch.tensor([0, 3, -1])
    check(labels[:2], "a.npy")
    check(labels[:2], "a.npy", count=2, num_classes=4)
    with pytest.raises(DataError, match="a.npy: expected 4 labels, .* got 3"):
        check(labels, "a.npy", count=4)
    with pytest.raises(DataError, match=r"row 1: expected a label in 0..2, got 3 \(2 such rows\)"):
        check(labels, "a.npy", num_classes=3)
    with pytest.raises(DataError, match=r"row 2: expected a label in 0, 1, ..., got -1"):
        check(labels, "a.npy")
