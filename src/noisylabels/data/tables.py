"""Tables as people write them: CSV, lists without a header, Parquet and Arrow files."""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from noisylabels.data.examples import LoadReport
from noisylabels.errors import DataError, MissingExtraError

TABLES = (".csv", ".tsv", ".parquet")
"""How the names of tables with named columns end."""
LONGEST = 2**24
"""The most characters of a cell of a CSV file: more of them tell of a quote that never ends."""


def read_table(
    path: Path, wanted: Iterable[str], column: str, report: LoadReport
) -> tuple[list[str], Iterable[tuple[int, Mapping[str, Any]]]]:
    """Read a CSV file with a header, or some columns of a Parquet file.

    Args:
        path: The file, one of ``TABLES``.
        wanted: The columns that are looked at, where there are such.
        column: A column that it should have, by which a CSV file's separator is known.
        report: Decides about rows of another length than the header.

    Returns:
        The columns, and the values by column of each row; rows are counted as a spreadsheet does:
        the header is row 1.

    Raises:
        DataError: It cannot be read.
        MissingExtraError: It is a Parquet file, and pyarrow is not installed.
    """
    wanted = list(wanted)
    if path.suffix.lower() != ".parquet":
        names, numbered = read_csv(path, column, report)
        _check_once(path, names, wanted)
        return names, numbered
    names = list(read_schema(path).names)
    _check_once(path, names, wanted)
    used = [name for name in dict.fromkeys(wanted) if name in names]
    table = read_parquet(path, used)
    columns = [read_values(path, table, name) for name in used]
    rows = (dict(zip(used, row, strict=True)) for row in zip(*columns, strict=True))
    return names, enumerate(rows, start=2)


def _check_once(path: Path, names: Sequence[str], wanted: Iterable[str]) -> None:
    for name in wanted:
        if names.count(name) > 1:
            raise DataError(f"{path}: expected one column {name!r}, got {names.count(name)}")


def read_csv(
    path: Path, column: str, report: LoadReport
) -> tuple[list[str], Iterable[tuple[int, Mapping[str, Any]]]]:
    """Read a CSV file with a header; commas, semicolons or tabs part its columns.

    Args:
        path: The file.
        column: A column that it has, by which the separator is known.
        report: Decides about rows of another length than the header.

    Returns:
        The columns, and the values by column of each row; the header is row 1.

    Raises:
        DataError: It cannot be read, or is no CSV.
    """
    # Names of files are not always text; what else there is must be.
    text = read_text(path, errors="surrogateescape")
    header = next(io.StringIO(text, newline=""), "")
    # Spreadsheets of half the world write semicolons.
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    for candidate in (",", ";", "\t"):
        if column in [name.strip().strip('"') for name in header.split(candidate)]:
            delimiter = candidate
            break
    # Strict, or a cell that begins with a quote and ends without one would take in what follows.
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    numbered: list[tuple[int, Mapping[str, Any]]] = []
    broken: list[int] = []
    position = 0
    try:
        with _long_cells():
            names = [name.strip() for name in next(rows, [])]
            position = 1
            for position, row in enumerate(rows, start=2):
                if not row:
                    continue
                if any("\n" in cell or "\r" in cell for cell in row):
                    broken.append(position)
                if len(row) != len(names):
                    report.reject(
                        f"{path}: row {position}", f"expected {len(names)} columns, got {len(row)}"
                    )
                    continue
                numbered.append((position, dict(zip(names, row, strict=True))))
    except csv.Error as error:
        raise DataError(
            f"{path}: row {position + 1}: not valid CSV ({error}): a cell that "
            f"begins with a quote must end with one, and quotes within it be doubled"
        ) from error
    if broken:
        rows_are = "1 row has" if len(broken) == 1 else f"{len(broken)} rows have"
        report.note(
            f"{path}: {rows_are} line breaks within a quoted cell, the first is row {broken[0]}"
        )
    return names, numbered


def write_csv(file: TextIO, rows: Iterable[Iterable[object]]) -> None:
    """Write rows of a CSV file, each of which ends in a newline.

    Args:
        file: The file, whose newlines are not translated.
        rows: The cells of each row. Names of files may hold anything: what has a newline, a
            carriage return, a comma or a quote in it is quoted.
    """
    csv.writer(_Lines(file), lineterminator=_Lines.END).writerows(rows)


class _Lines:
    """Takes rows that end in carriage return and newline, so that cells with either are quoted."""

    END = "\r\n"

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> None:
        """Write a row, with a newline at its end."""
        self._file.write(row.removesuffix(self.END) + "\n")


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let the cells of CSV files be as long as texts are."""
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, LONGEST))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def read_names(path: Path) -> list[str]:
    """Read what a table's columns are called, whatever parts them, or nothing if it is no table."""
    try:
        if path.suffix.lower() == ".parquet":
            return list(read_schema(path).names)
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            header = file.readline()
    except (OSError, DataError):
        return []
    return [name.strip().strip('"') for name in re.split("[,;\t]", header)]


def read_list(path: Path, names: Sequence[str]) -> list[tuple[int, Mapping[str, Any]]]:
    """Read a list of a path and a label in each line, separated by a tab or else by spaces."""
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for row, line in enumerate(read_text(path, errors="surrogateescape").splitlines(), start=1):
        if line.strip():
            separator = "\t" if "\t" in line.strip() else None
            image, label = [*line.strip().rsplit(separator, maxsplit=1), ""][:2]
            rows.append((row, dict(zip(names, (image, label), strict=True))))
    return rows


def open_arrow(path: Path) -> Any:
    """Open a Parquet file, or read an Arrow file through a memory map.

    Raises:
        DataError: It is neither.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "hf") from error
    try:
        if path.suffix == ".arrow":
            with pa.memory_map(str(path)) as source:
                return pa.ipc.open_stream(source).read_all()
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as Parquet or Arrow ({error})") from error


def read_schema(path: Path) -> Any:
    """Read the columns and their types of a Parquet or Arrow file."""
    opened = open_arrow(path)
    return opened.schema if path.suffix == ".arrow" else opened.schema_arrow


def read_parquet(path: Path, columns: list[str] | None = None) -> Any:
    """Read a Parquet or Arrow file, or some of its columns, as an Arrow table."""
    opened = open_arrow(path)
    if path.suffix == ".arrow":
        return opened.select(columns)
    try:
        return opened.read(columns=columns)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error})") from error


def read_values(path: Path, table: Any, name: str) -> list[Any]:
    """Return a column of an Arrow table; times as text, which alone holds all of their digits."""
    import pyarrow as pa

    column = table.column(name)
    try:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_nested(column.type):
            raise pa.ArrowInvalid("nested")
        values: list[Any] = (
            column.cast(pa.string()) if pa.types.is_temporal(column.type) else column
        ).to_pylist()
        if any(is_kind(column.type) for is_kind in _binary_kinds()):
            # Some systems write text so. What is no UTF-8 is told by is_text.
            values = [
                None if value is None else value.decode("utf-8", "surrogateescape")
                for value in values
            ]
    except (pa.ArrowException, ValueError) as error:
        raise DataError(
            f"{path}: column {name!r}: expected text, numbers or dates, one per row, "
            f"got {column.type} ({' '.join(str(error).split()):.80})"
        ) from error
    return values


def _binary_kinds() -> Iterable[Callable[[Any], bool]]:
    from pyarrow import types

    return types.is_binary, types.is_large_binary, types.is_fixed_size_binary


def is_text(value: object) -> bool:
    """Return whether no string in a value has bytes in it that are no UTF-8.

    Args:
        value: A cell, or tuples of cells.
    """
    if isinstance(value, tuple):
        return all(map(is_text, value))
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return True


def read_text(path: Path, errors: str = "strict") -> str:
    """Read a file as UTF-8 text; lines end as they do in the file.

    Raises:
        DataError: It cannot be read, or is in another encoding.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise DataError(f"{path}: expected UTF-8 text, save it as that (it is UTF-16)")
        with path.open(encoding="utf-8-sig", errors=errors, newline="") as file:
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, save it as that ({error})") from error
