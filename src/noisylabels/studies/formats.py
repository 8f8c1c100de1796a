"""Tables of runs as text, Markdown, CSV, LaTeX and HTML."""

import csv as comma_separated
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Drawn
from rich.text import Text

from noisylabels.studies import pages
from noisylabels.studies.table import Grid, Table

MARK = "*"
"""What marks a cell in plain text."""


def text(tables: Sequence[Table]) -> str:
    """Return tables for a terminal or a file of plain text, where an asterisk marks the best."""
    console = Console(file=io.StringIO(), width=10**4, color_system=None, legacy_windows=False)
    show(tables, console, bold=False)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().split("\n")
    return "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"


def show(tables: Sequence[Table], console: Console, *, bold: bool = True) -> None:
    """Print tables.

    Args:
        tables: The tables.
        console: Where to.
        bold: Whether the best are bold; else an asterisk marks them.
    """
    for number, grid in enumerate(_grids(tables)):
        if number:
            console.print()
        drawn = Drawn(box=box.SIMPLE, pad_edge=False)
        for name in grid.corner:
            drawn.add_column(Text(name), overflow="fold")
        for width, column in zip(grid.widths(), grid.columns, strict=True):
            # Numbers are whole, if need be beyond the edge of the terminal.
            head = Text("\n".join(column))
            drawn.add_column(head, justify="right", no_wrap=True, min_width=width + len(MARK))
        for texts, cells in grid.rows:
            shown = []
            for cell, best in cells:
                sign = "" if bold or not grid.best else MARK if best else " "
                shown.append(Text(cell + sign, style="bold" if best and bold else ""))
            drawn.add_row(*map(Text, texts), *shown)
        least = Measurement.get(console, console.options.update_width(10**6), drawn).minimum
        drawn.width = least if least > console.width else None
        console.print(grid.heading, markup=False, highlight=False, soft_wrap=True)
        console.print(drawn, crop=False)
        for note in grid.notes("bold" if bold else MARK):
            console.print(note, markup=False, highlight=False, soft_wrap=True)


def markdown(tables: Sequence[Table]) -> str:
    """Return tables in Markdown."""
    parts = []
    for grid in _grids(tables):
        heads = [*grid.corner, *(", ".join(column) for column in grid.columns)]
        lines = [heads, ["---"] * len(grid.corner) + ["---:"] * len(grid.columns)]
        for number, (texts, cells) in enumerate(grid.rows, start=2):
            lines.append(list(map(_in_markdown, texts)))
            for cell, best in cells:
                lines[number].append(f"**{_in_markdown(cell)}**" if best else _in_markdown(cell))
        lines[0] = list(map(_in_markdown, heads))
        notes = [f"- {_in_markdown(note)}" for note in grid.notes()]
        rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts += [_in_markdown(grid.heading), rows, "\n".join(notes)]
    return "\n\n".join(filter(None, parts)) + "\n"


def csv(tables: Sequence[Table]) -> str:
    """Return tables as comma-separated values, a line for each cell, numbers as they are."""
    first = tables[0]
    numbers = ("n", "mean", "std", "best", "difference", "difference_std", "difference_n", "p")
    file = io.StringIO()
    writer = comma_separated.writer(file, lineterminator="\n")
    writer.writerow([*first.row_keys, *first.column_keys, "value", *numbers])
    for table in tables:
        for (row, column), cell in table.cells.items():
            texts = (*table.rows[row].texts, *table.columns[column].texts)
            own = [len(cell.values), cell.mean, cell.std, str(cell.best).lower()]
            gap = cell.difference
            compared = [gap.mean, gap.std, gap.seeds, gap.p] if gap else [None] * 4
            writer.writerow([*texts, table.value, *own, *compared])
    return file.getvalue()


def latex(tables: Sequence[Table]) -> str:
    """Return tables for LaTeX with booktabs; what is said above and below them is in comments."""
    parts = []
    for grid in _grids(tables):
        left, right = len(grid.corner), len(grid.columns)
        heads = grid.heads()
        lines = [
            f"% {_one_line(grid.heading)}",
            rf"\begin{{tabular}}{{{'l' * left}{'r' * right}}}",
            r"\toprule",
        ]
        for number, line in enumerate(heads):
            last = number == len(heads) - 1
            corner = [_in_latex(key) if last else "" for key in grid.corner]
            spans = [
                rf"\multicolumn{{{count}}}{{c}}{{{_in_latex(said)}}}"
                if count > 1
                else _in_latex(said)
                for said, count in line
            ]
            lines.append(f"{' & '.join([*corner, *spans])} \\\\")
            if not last:
                lines += [
                    rf"\cmidrule(lr){{{start}-{end}}}" for start, end in _spans(line, left + 1)
                ]
        lines.append(r"\midrule")
        for texts, cells in grid.rows:
            shown = []
            for cell, best in cells:
                # A hyphen in a cell is a minus.
                said = _in_latex(cell.replace("-", "−"))
                shown.append(rf"\textbf{{{said}}}" if best else said)
            lines.append(f"{' & '.join([*map(_in_latex, texts), *shown])} \\\\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [f"% {_one_line(note)}" for note in grid.notes()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def html(tables: Sequence[Table]) -> str:
    """Return tables as one self-contained page.

    Raises:
        MissingExtraError: Jinja is not installed.
    """
    grids = list(_grids(tables))
    # In rem: a sign is about half of one wide.
    width = max(
        12 * len(grid.corner) + sum(0.55 * width + 1.5 for width in grid.widths()) for grid in grids
    )
    return pages.render("table.html", grids=grids, width=math.ceil(width))


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "text": text,
    "markdown": markdown,
    "csv": csv,
    "latex": latex,
    "html": html,
}
"""How tables are written, by name."""
SUFFIXES = {".txt": "text", ".md": "markdown", ".csv": "csv", ".tex": "latex", ".html": "html"}
"""The formats that names of files ask for."""


def _grids(tables: Iterable[Table]) -> Iterator[Grid]:
    for table in tables:
        yield from table.grids()


def _spans(line: Sequence[tuple[str, int]], first: int) -> list[tuple[int, int]]:
    """Return the first and the last column of heads over several, of columns from ``first``."""
    spans = []
    for _, count in line:
        if count > 1:
            spans.append((first, first + count - 1))
        first += count
    return spans


def _one_line(said: str) -> str:
    return " ".join(said.split())


def _in_markdown(said: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", _one_line(said))


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}
"""Signs that mean something else in LaTeX, or nothing to an old one."""


def _in_latex(said: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in _one_line(said))
