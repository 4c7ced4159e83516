"""Results as tables for people: as text for terminals and `print`, and as HTML for notebooks."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_GAP: Final = 3
_NARROW_GAP: Final = 2
_LEAST_WIDTH: Final = 24
_MOST_LINES: Final = 6
"""Lines of a cell, above which a table is stacked."""


@dataclass(frozen=True)
class Fields:
    """Names and values.

    Attributes:
        title: Heading; empty for none.
        values: Value of each name.
    """

    title: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """Rows of cells.

    Attributes:
        title: Heading.
        columns: Heading of each column.
        rows: Cells of each row.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Line:
    """A sentence, or several lines.

    Attributes:
        text: The text.
        bold: True for what matters most.
    """

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Remark:
    """A note or warning; the command line writes it to standard error.

    Attributes:
        text: The text, which begins with its kind: `Note: ...`, `Warning: ...`.
    """

    text: str


Block = Fields | Table | Line | Remark


@dataclass(frozen=True)
class Rendered:
    """A line of text.

    Attributes:
        text: The text, without formatting.
        bold: True for headings.
    """

    text: str
    bold: bool = field(default=False)


def lines_of(block: Block, width: int | None) -> list[Rendered]:
    """Lay a block out as lines.

    Args:
        block: The block.
        width: Columns of the terminal, None for no limit. Cells of a wider table break between words. If that does
            not suffice, the table is stacked: a heading for each row, and a line for each cell.
    """
    if isinstance(block, Line):
        return [Rendered(part, block.bold) for text in block.text.split("\n") for part in _indented(text, width)]
    if isinstance(block, Remark):
        return [Rendered(text) for text in wrap_text(block.text, width).split("\n")]
    heading = [Rendered(block.title, bold=True)] if block.title else []
    if isinstance(block, Fields):
        return [*heading, *_pairs(dict(block.values), width), Rendered("")]
    widths = [max(map(len, column)) for column in zip(block.columns, *block.rows, strict=True)]
    gap = _GAP
    if width is not None and _total(widths, gap) > width:
        gap = _NARROW_GAP
        fitted = _fitted(block, widths, width)
        if fitted is None:
            return [*heading, *_stacked(block, width), Rendered("")]
        widths = fitted
    first, *others = [_aligned(cells, widths, gap) for cells in (block.columns, *block.rows)]
    return [
        *heading,
        *(Rendered(text, bold=True) for text in first),
        Rendered(" " + "─" * (_total(widths, gap) - 2)),
        *(Rendered(text) for row in others for text in row),
        Rendered(""),
    ]


def _total(widths: Sequence[int], gap: int) -> int:
    return sum(widths) + gap * (len(widths) - 1) + 2


def _fitted(table: Table, widths: Sequence[int], width: int) -> list[int] | None:
    """Narrow the widest columns until a table fits; None if words or too many lines forbid it."""
    columns = list(zip(table.columns, *table.rows, strict=True))
    least = [max((len(word) for cell in column for word in cell.split()), default=0) for column in columns]
    found = list(widths)
    while _total(found, _NARROW_GAP) > width:
        narrower = [place for place, size in enumerate(found) if size > least[place]]
        if not narrower:
            return None
        found[max(narrower, key=found.__getitem__)] -= 1
    cells = (len(_wrapped(cell, size)) for column, size in zip(columns, found, strict=True) for cell in column)
    return found if max(cells) <= _MOST_LINES else None


def _aligned(cells: Sequence[str], widths: Sequence[int], gap: int) -> list[str]:
    columns = [_wrapped(cell, width) for cell, width in zip(cells, widths, strict=True)]
    return [
        " " + (" " * gap).join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in itertools.zip_longest(*columns, fillvalue="")
    ]


def _pairs(values: Mapping[str, str], width: int | None, indent: str = "  ") -> list[Rendered]:
    longest = max(map(len, values), default=0)
    found = []
    for name, value in values.items():
        beginning = f"{indent}{name.ljust(longest)}  "
        room = None if width is None else max(width - len(beginning), _LEAST_WIDTH)
        first, *others = _wrapped(value, room)
        found.append(Rendered(f"{beginning}{first}".rstrip()))
        found += [Rendered(" " * len(beginning) + text) for text in others]
    return found


def _wrapped(text: str, width: int | None) -> list[str]:
    """Break lines between words; paths and commands stay whole."""
    if width is None or len(text) <= width:
        return text.split("\n")
    import textwrap

    lines = [
        part
        for line in text.split("\n")
        for part in textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]
    ]
    return lines or [""]


def _indented(text: str, width: int | None) -> list[str]:
    """Break a line between words, with its indentation; a command stays whole, so that it can be copied."""
    plain = text.lstrip()
    if plain.startswith(("pp-graph ", "Next: ", "Next, ")):
        return [text]
    indent = text[: len(text) - len(plain)]
    further = indent + "  " if indent or plain.startswith("- ") else ""
    room = None if width is None else max(width - len(further), _LEAST_WIDTH)
    first, *others = _wrapped(plain, room)
    return [indent + first, *(further + part for part in others)]


def _stacked(table: Table, width: int) -> list[Rendered]:
    found: list[Rendered] = []
    for first, *others in table.rows:
        found.append(Rendered(f" {first}", bold=True))
        found += _pairs(dict(zip(table.columns[1:], others, strict=True)), width, indent="   ")
    return found


def wrap_text(text: str, width: int | None) -> str:
    """Break lines between words; commands that fill a line stay whole."""
    return "\n".join(part for line in text.split("\n") for part in _indented(line, width))


def terminal_width(*, err: bool = False) -> int | None:
    """Columns of the terminal; None if standard output is a pipe or file, where lines are written whole.

    Args:
        err: True asks for standard error.
    """
    stream = sys.stderr if err else sys.stdout
    if stream is None or not stream.isatty():
        return None
    try:
        # shutil.get_terminal_size looks at standard output only, which may be a pipe.
        return int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return shutil.get_terminal_size().columns


def size_text(count: int) -> str:
    """Write a number of bytes in MiB, small ones in KiB."""
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 / 10 else f"{count / 2**10:,.1f} KiB"


def text_of(blocks: Sequence[Block], width: int | None = None) -> str:
    """Return blocks as text."""
    return "\n".join(line.text for block in blocks for line in lines_of(block, width)).rstrip() + "\n"


def html_of(blocks: Sequence[Block]) -> str:
    """Return blocks as HTML without scripts, for notebooks."""
    return '<div class="pp-graph">' + "".join(map(_html, blocks)) + "</div>"


def _html(block: Block) -> str:
    if isinstance(block, Line | Remark):
        text = escape(block.text).replace("\n", "<br>")
        return f"<p>{f'<b>{text}</b>' if isinstance(block, Line) and block.bold else text}</p>"
    heading = f"<p><b>{escape(block.title)}</b></p>" if block.title else ""
    if isinstance(block, Fields):
        rows = [(f"<b>{escape(name)}</b>", escape(value).replace("\n", "<br>")) for name, value in block.values.items()]
        head = ""
    else:
        rows = [tuple(map(escape, cells)) for cells in block.rows]  # type: ignore[misc]
        head = "<thead><tr>" + "".join(f"<th>{escape(name)}</th>" for name in block.columns) + "</tr></thead>"
    style = 'style="text-align:left"'
    body = "".join("<tr>" + "".join(f"<td {style}>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"{heading}<table>{head}<tbody>{body}</tbody></table>"


class Summarised(ABC):
    """A result that `print` and notebooks show as tables, and whose `repr` fits in a line."""

    @abstractmethod
    def summary(self) -> list[Block]:
        """The result as tables."""

    @abstractmethod
    def __repr__(self) -> str:
        """One line."""

    def __str__(self) -> str:
        """The tables as text."""
        return text_of(self.summary())

    def _repr_html_(self) -> str:
        return html_of(self.summary())
