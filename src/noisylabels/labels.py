"""Label files: read without running anything that is in them.

A ``.npy`` file holds one array of labels. A ``.pt`` file, the form in which CIFAR-10N and
CIFAR-100N are published, holds several by name: a dict that ``torch.save`` wrote, with NumPy arrays
in it. It is a pickle, so what it asks NumPy for is answered by stand-ins of ours, and NumPy itself
is needed for ``.npy`` files only.
"""

import pickle
import re
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisylabels.errors import DataError, MissingExtraError, unknown

INTEGERS = {
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "u2": torch.uint16,
    "u4": torch.uint32,
    "u8": torch.uint64,
}
"""The integer types by NumPy's code."""


def read(path: Path, key: str | None = None) -> Tensor:
    """Read a label file.

    Args:
        path: A ``.npy`` file of one one-dimensional integer array, or a ``.pt`` file of several by
            name.
        key: Which of a ``.pt`` file's labels; by default the only ones that are not clean, that is,
            whose key does not begin with ``clean``.

    Returns:
        Labels as they stand in the file, int64, of shape (N).

    Raises:
        DataError: The file is missing, damaged, of another form or asks for code to be run; or
            there is no such key, or no key was given and there are several to choose from.
        MissingExtraError: NumPy is not installed, and the file is no ``.pt`` file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "human.pt")
        ...     torch.save({"clean_label": [0, 1, 2], "noisy_label": [0, 1, 1]}, path)
        ...     read(path)
        tensor([0, 1, 1])

    References:
        Wei, Zhu, Cheng, Liu, Niu, Liu, "Learning with Noisy Labels Revisited: A Study Using
        Real-World Human Annotations", 2022, published the files of CIFAR-10N and CIFAR-100N.
    """
    return read_with_clean(path, key)[0]


def read_with_clean(path: Path, key: str | None = None) -> tuple[Tensor, Tensor | None]:
    """Read a label file, and the true labels where it holds them too.

    Args:
        path: As for :func:`read`.
        key: As for :func:`read`.

    Returns:
        The labels, and the clean ones that go with them: ``clean_label``, or for
        ``noisy_coarse_label`` ``clean_coarse_label``; None where there are none. Each is int64, of
        shape (N).

    Raises:
        DataError: As :func:`read`; or the clean labels are of another number.
        MissingExtraError: NumPy is not installed, and the file is no ``.pt`` file.
    """
    if is_named(path):
        stored = _stored(path)
        name = choose(path, stored if key else _names_of_labels(stored), key)
        own = name.replace("noisy", "clean")
        clean_name = own if own != name else "clean_label"
        given = _labels(stored[name], f"{path}: {name}")
        if clean_name not in stored:
            return given, None
        clean = _labels(stored[clean_name], f"{path}: {clean_name}")
        check(clean, f"{path}: {clean_name}", count=len(given))
        return given, clean
    if key is not None:
        raise DataError(f"{path}: got key {key!r}, but only a .pt file has keys")
    array = read_array(path, "integer labels")
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"{path}: expected a one-dimensional array of integer labels, "
            f"got shape {array.shape} of {array.dtype}"
        )
    if array.dtype.kind == "u" and array.size and array.max() >= 2**63:
        raise DataError(f"{path}: expected labels below 2^63, got {array.max()}")
    return torch.from_numpy(array.astype("int64")), None


def read_clean(path: Path) -> Tensor:
    """Read true labels: a ``.npy`` file, or the ``clean_label`` of a ``.pt`` file.

    Args:
        path: The file.

    Returns:
        Labels, int64, of shape (N).

    Raises:
        DataError: As :func:`read`.
    """
    if is_named(path) and "clean_label" in (stored := _stored(path)):
        return _labels(stored["clean_label"], f"{path}: clean_label")
    return read(path)


def read_all(path: Path) -> dict[str, Tensor]:
    """Read all labels of a ``.pt`` file.

    Args:
        path: A dict of one-dimensional integer arrays, tensors or lists that ``torch.save`` wrote,
            with whatever version of NumPy and in either of its file formats.

    Returns:
        Labels by key, each int64, of shape (N); what is something else is left out.

    Raises:
        DataError: The file is missing or damaged, asks for code to be run, is no dict, or holds no
            labels.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "human.pt")
        ...     torch.save({"clean_label": [0, 1], "noisy_label": torch.tensor([0, 0])}, path)
        ...     read_all(path)
        {'clean_label': tensor([0, 1]), 'noisy_label': tensor([0, 0])}
    """
    stored = _stored(path)
    names = _names_of_labels(stored)
    if not names:
        key, value = next(iter(stored.items()))
        _labels(value, f"{path}: {key}")
    return {key: _labels(stored[key], f"{path}: {key}") for key in names}


def _names_of_labels(stored: dict[str, Any]) -> list[str]:
    names = []
    for key, value in stored.items():
        with suppress(DataError):
            _labels(value, key)
            names.append(key)
    return names or list(stored)


def _stored(path: Path) -> dict[str, Any]:
    """Load what a ``.pt`` file holds by name; nothing in it is run."""
    # On leaving, torch forgets all of the list, even what was allowed before.
    allowed = [entry for entry in STAND_INS if entry not in torch.serialization.get_safe_globals()]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            # Torch says twice what is wrong with a pickle: first as a warning.
            warnings.simplefilter("ignore")
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such label file") from error
    except Exception as error:  # a damaged or hostile pickle can raise anything
        raise DataError(f"{path}: {_refusal(error)}") from error
    if not isinstance(stored, dict):
        raise DataError(f"{path}: expected a dict of labels by name, got {_describe(stored)}")
    if not stored:
        raise DataError(f"{path}: expected a dict of labels by name, got an empty one")
    for key in stored:
        if not isinstance(key, str):
            raise DataError(f"{path}: expected names as keys, got {key!r:.80}")
    return stored


def choose(path: Path, keys: Collection[str], key: str | None) -> str:
    """Choose among the keys of a ``.pt`` file.

    Args:
        path: The file, for the message.
        keys: Its keys.
        key: The one that is wanted; by default the only one that does not begin with ``clean``.

    Returns:
        One of ``keys``.

    Raises:
        DataError: ``key`` is not among them, or it is not given and there is not exactly one.

    Example:
        >>> choose(Path("a.pt"), ["clean_label", "noisy_label"], None)
        'noisy_label'
        >>> choose(Path("a.pt"), ["clean_label", "worse_label", "aggre_label"], None)
        Traceback (most recent call last):
        noisylabels.errors.DataError: a.pt: holds aggre_label, clean_label, worse_label: ...
    """
    if key is not None:
        if key not in keys:
            raise DataError(f"{path}: {unknown('key', key, keys)}")
        return key
    given = [name for name in keys if not name.startswith("clean")]
    if len(given) != 1:
        raise DataError(
            f"{path}: holds {', '.join(sorted(keys))}: choose one of them with key, such as "
            f"key = {min(given or keys, key=lambda name: ('coarse' in name, name))!r}"
        )
    return given[0]


def check(
    labels: Tensor, path: Path | str, *, count: int | None = None, num_classes: int | None = None
) -> None:
    """Check how many labels there are and that each is a class.

    Args:
        labels: Labels, int64, of shape (N).
        path: Where they come from, for the message.
        count: How many there must be; any number by default.
        num_classes: K, which all must be below; any number by default.

    Raises:
        DataError: There are more or fewer than ``count``, or a label is outside [0, K).

    Example:
        >>> check(torch.tensor([0, 2, 3]), "a.npy", num_classes=3)
        Traceback (most recent call last):
        noisylabels.errors.DataError: a.npy: row 2: expected a label in 0..2, got 3 (1 such rows)
    """
    if count is not None and len(labels) != count:
        raise DataError(
            f"{path}: expected {count} labels, one per training example, got {len(labels)}"
        )
    outside = labels < 0
    if num_classes is not None:
        outside = outside | (labels >= num_classes)
    wrong = outside.nonzero().flatten()
    if len(wrong):
        known = "0, 1, ..." if num_classes is None else f"0..{num_classes - 1}"
        raise DataError(
            f"{path}: row {int(wrong[0])}: expected a label in {known}, "
            f"got {int(labels[wrong[0]])} ({len(wrong)} such rows)"
        )


def is_named(path: Path) -> bool:
    """Return whether a label file is of the form that holds several labels by name.

    Example:
        >>> is_named(Path("CIFAR-10_human.pt")), is_named(Path("labels.npy"))
        (True, False)
    """
    return Path(path).suffix.lower() in (".pt", ".pth")


def read_array(path: Path, what: str) -> Any:
    """Read a NumPy array from a ``.npy`` file; nothing in it is unpickled.

    Args:
        path: The file.
        what: What it should hold, for the message.

    Returns:
        The array, of any shape and type but objects.

    Raises:
        DataError: The file is missing, damaged, an archive of arrays, or holds objects.
        MissingExtraError: NumPy is not installed.
    """
    try:
        import numpy as np
    except ImportError as error:
        raise MissingExtraError("numpy", "train") from error
    try:
        # Given a path, NumPy would leave the file of a damaged archive open.
        with Path(path).open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such label file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        # NumPy's own advice would be to unpickle it.
        pickled = "allow_pickle" in str(error)
        reason = "no array of plain numbers" if pickled else error or "too large for the memory"
        raise DataError(f"{path}: expected a .npy file of {what} ({reason})") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path}: expected one .npy array of {what}, got an .npz archive")
    return array


DAMAGED_ARCHIVE = (
    OSError,
    ValueError,
    EOFError,
    AttributeError,
    TypeError,
    KeyError,
    zipfile.BadZipFile,
    zlib.error,
    MemoryError,
    NotImplementedError,
)
"""What NumPy and ``zipfile`` raise, the last where the compression is one that it does not know."""


def read_archive(path: Path) -> dict[str, Any]:
    """Read all NumPy arrays of an ``.npz`` file; nothing in it is unpickled.

    Args:
        path: The file.

    Returns:
        Arrays by name, of any shape and type but objects.

    Raises:
        DataError: The file is missing, damaged, or holds objects.
        MissingExtraError: NumPy is not installed.
    """
    try:
        import numpy as np
    except ImportError as error:
        raise MissingExtraError("numpy", "train") from error
    try:
        # Given a path, NumPy would leave the file of a damaged archive open.
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except DAMAGED_ARCHIVE as error:
        reason = "it holds objects" if "allow_pickle" in str(error) else error or "too large"
        raise DataError(f"{path}: expected an .npz file of plain arrays ({reason})") from error


class _Type:
    """What a pickle gets for ``numpy.dtype``."""

    def __init__(self, code: object, *_: object) -> None:
        self.code, self.order = str(code), "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def integers(self, raw: object) -> Tensor | None:
        """Return what the bytes stand for, or None if they are no whole integers."""
        kind = INTEGERS.get(self.code)
        if kind is None or not isinstance(raw, bytes) or not raw or len(raw) % kind.itemsize:
            return None
        values = torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(-1, kind.itemsize)
        if self.order == {"little": ">", "big": "<"}[sys.byteorder]:
            values = values.flip(1)
        return values.view(kind).flatten().to(torch.int64)


class _Array:
    """What a pickle gets for a NumPy array, which without a state is an empty one."""

    shape: object = (0,)
    type: object = None
    raw: object = b""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.type, _, self.raw = state

    def integers(self) -> Tensor | None:
        """Return the integers in it, or None if there is anything else."""
        found = self.type.integers(self.raw) if isinstance(self.type, _Type) else None
        return found if found is not None and self.shape == (len(found),) else None


class _Scalar:
    """What a pickle gets for a NumPy number."""

    def __init__(self, type: object, raw: object = b"") -> None:
        self.type, self.raw = type, raw

    def integer(self) -> int | None:
        """Return the integer that it is, or None if it is anything else."""
        found = self.type.integers(self.raw) if isinstance(self.type, _Type) else None
        return int(found) if found is not None and len(found) == 1 else None


# NumPy 1 and 2 keep these two functions in different modules. Torch itself allows `_codecs.encode`,
# with which a pickle of protocol 2 spells bytes.
STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Array, "numpy.core.multiarray._reconstruct"),
    (_Array, "numpy._core.multiarray._reconstruct"),
    (_Scalar, "numpy.core.multiarray.scalar"),
    (_Scalar, "numpy._core.multiarray.scalar"),
    (_Array, "numpy.ndarray"),
    (_Type, "numpy.dtype"),
]
"""All that a label file may ask for beside torch's own tensors, and what it gets instead."""


def _refusal(error: Exception) -> str:
    text = " ".join(str(error).split())
    wanted = re.search(r"GLOBAL (\S+) (?:was not|whose)", text)
    if isinstance(error, pickle.UnpicklingError) and wanted:
        return f"refused: it asks for {wanted[1]}, which no label file needs; nothing was run"
    return (
        "expected a whole .pt file of labels that torch.save wrote "
        # Torch's own words end in advice how to load it all the same.
        f"({type(error).__name__ if 'eights' in text else text[:80]})"
    )


def _describe(value: object) -> str:
    if isinstance(value, _Array | _Scalar):
        code = value.type.code if isinstance(value.type, _Type) else "unknown"
        form = f"array of shape {value.shape!s:.40}" if isinstance(value, _Array) else "number"
        return f"a NumPy {form}, type {code:.20}"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} of {value.dtype}"
    if isinstance(value, bool | int | float | str | None):
        return f"{value!r:.80}"
    return f"a {type(value).__name__}"


def _labels(value: object, place: str) -> Tensor:
    found = None
    if isinstance(value, _Array):
        found = value.integers()
    elif isinstance(value, Tensor):
        whole = value.dtype in INTEGERS.values() and value.layout is torch.strided
        if whole and value.ndim == 1 and not value.is_meta:
            found = value.to(torch.int64, copy=True)
    elif isinstance(value, list | tuple):
        numbers = [_number(item, f"{place}: row {row}") for row, item in enumerate(value)]
        found = torch.tensor(numbers, dtype=torch.int64)
    if found is None:
        raise DataError(
            f"{place}: expected a one-dimensional array of integer labels, got {_describe(value)}"
        )
    return found


def _number(value: object, place: str) -> int:
    number = value.integer() if isinstance(value, _Scalar) else value
    # A bool is an int too, but no label.
    if type(number) is int and abs(number) < 2**63:
        return number
    raise DataError(f"{place}: expected an integer, got {_describe(value)}")
