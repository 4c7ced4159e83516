"""Draw the parts of a sketch as SVG: one box a row, edges to boxes further down in lanes on the left."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Final
from unicodedata import east_asian_width

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.sketching.parts import Part

_WIDTH: Final = 400
_LINE: Final = 17
_GAP: Final = 12
_HEADING: Final = 26
_PAD: Final = 8
_MOST_LANES_WIDTH: Final = 110
_CHARACTER: Final = 7.0
"""Mean width of a character in the widest of the usual fonts."""

_TITLES: Final = {"layer": "Network", "raw": "Raw outputs", "step": "Post-processing", "output": "Outputs"}
# Colours of the pages, here once more because a sketch is also a file of its own.
_STYLE: Final = """
.pp-sketch { --ink: #222; --faint: #5f6368; --back: #fff; --box: #f5f6f7; --line: #9aa0a6; --mark: #008262;
  --marked: #e6f4ef; max-width: 560px; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { .pp-sketch { --ink: #e8e6e3; --faint: #a0a4a8; --back: #17191c; --box: #22252a;
  --line: #777c82; --mark: #2fc49b; --marked: #173029; } }
.pp-sketch .back { fill: var(--back); }
.pp-sketch text { fill: var(--ink); }
.pp-sketch .title, .pp-sketch .head { font-weight: 600; }
.pp-sketch .head, .pp-sketch .faint { fill: var(--faint); }
.pp-sketch .box { fill: var(--box); stroke: var(--line); }
.pp-sketch .step .box { fill: var(--marked); stroke: var(--mark); stroke-width: 1.5; }
.pp-sketch .raw .box, .pp-sketch .output .box { stroke-width: 1.5; }
.pp-sketch path { fill: none; stroke: var(--line); stroke-width: 1.3; }
.pp-sketch .tip { fill: var(--line); stroke: none; }
"""


def draw(parts: Sequence[Part]) -> str:
    """Return a sketch as SVG, 400 units wide; it follows the reader's system, light or dark.

    Args:
        parts: The boxes from top to bottom.
    """
    rows = {part.key: index for index, part in enumerate(parts)}
    below: dict[int, list[int]] = {}
    for row, part in enumerate(parts):
        for source in dict.fromkeys(rows[key] for key in part.reads if key in rows):
            below.setdefault(source, []).append(row)
    lanes, count = _lanes({source: [row for row in targets if row != source + 1] for source, targets in below.items()})
    spacing = min(10.0, _MOST_LANES_WIDTH / max(count, 1))
    left = _PAD + spacing * count + (6 if count else 0)
    places: list[tuple[float, float]] = []
    shapes: list[str] = []
    y = float(_PAD)
    for row, part in enumerate(parts):
        if row == 0 or parts[row - 1].kind != part.kind:
            y += _HEADING
            shapes.append(f'<text class="head" x="{left:g}" y="{y - 9:g}">{_TITLES[part.kind]}</text>')
        lines, height = _box(part, left, y)
        shapes.append(lines)
        places.append((y, y + height))
        y += height + _GAP
    paths = []
    for source, targets in below.items():
        bottom = places[source][1]
        for row in targets:
            top = places[row][0]
            if row == source + 1:
                # Beside the heading, if one stands between the boxes.
                x: float = _WIDTH - 60
                paths.append(f'<path d="M{x} {bottom:g}V{top - 5:g}"/>{_tip(x, top, down=True)}')
                continue
            x = _PAD + spacing * (count - 1 - lanes[source]) + 1
            start, end = bottom - 8, top + 10
            paths.append(
                f'<path d="M{left:g} {start:g}H{x + 4:g}Q{x:g} {start:g} {x:g} {start + 4:g}V{end - 4:g}'
                f'Q{x:g} {end:g} {x + 4:g} {end:g}H{left - 5:g}"/>{_tip(left, end, down=False)}'
            )
    return (
        f'<svg class="pp-sketch" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y:g}" '
        f'aria-label="The end of the graph"><style>{_STYLE}</style>'
        f'<rect class="back" width="{_WIDTH}" height="{y:g}"/>{"".join(paths)}{"".join(shapes)}</svg>\n'
    )


def _lanes(far: Mapping[int, Sequence[int]]) -> tuple[dict[int, int], int]:
    """Give each part with edges to rows further down a lane that is free from its row to the last of these."""
    ends: list[int] = []
    lanes: dict[int, int] = {}
    for source in sorted(source for source, rows in far.items() if rows):
        lane = next((index for index, end in enumerate(ends) if end < source), len(ends))
        ends[lane : lane + 1] = [max(far[source])]
        lanes[source] = lane
    return lanes, len(ends)


def _tip(x: float, y: float, *, down: bool) -> str:
    shape = f"M{x:g} {y:g}l-3.5 -6h7z" if down else f"M{x:g} {y:g}l-6 -3.5v7z"
    return f'<path class="tip" d="{shape}"/>'


def _box(part: Part, left: float, y: float) -> tuple[str, float]:
    width = _WIDTH - left - _PAD
    whole = int((width - 16) / _CHARACTER)
    shape = shorten(part.shape, max(whole - 12, 10))
    first = (
        f'<text class="title" x="{left + 8:g}" y="{y + _LINE - 1:g}">'
        f"{_text(shorten(part.title, whole - int(len(shape) * 0.95) - 2))}</text>"
        f'<text class="faint" text-anchor="end" x="{_WIDTH - _PAD - 8}" y="{y + _LINE - 1:g}">{_text(shape)}</text>'
    )
    details = _wrapped(part.detail, whole)
    second = "".join(
        f'<text x="{left + 8:g}" y="{y + (2 + index) * _LINE - 2:g}">{_text(line)}</text>'
        for index, line in enumerate(details)
    )
    height = _LINE * (1 + len(details)) + 7
    told = "\n".join(text for text in (f"{part.title} {part.shape}".strip(), part.detail) if text)
    return (
        f'<g class="{part.kind}"><title>{_text(told)}</title>'
        f'<rect class="box" x="{left:g}" y="{y:g}" width="{width:g}" height="{height}" rx="4"/>{first}{second}</g>'
    ), height


def _wrapped(text: str, most: int) -> list[str]:
    """Break a text into at most three lines, the last one shortened."""
    lines: list[str] = []
    while _columns(text) > most and len(lines) < 2:
        head = text[: most + 1].rpartition(" ")[0]
        if len(head) < most // 3 or _columns(head) > most:
            break
        lines.append(head)
        text = text[len(head) + 1 :]
    return [*lines, shorten(text, most)] if text else lines


def shorten(text: str, most: int) -> str:
    """Cut the middle out of a text that is longer than `most` characters; wide ones count twice."""
    if _columns(text) <= most:
        return text
    head, tail = "", ""
    for start, end in zip(text, reversed(text), strict=True):
        if _columns(head + start + tail) >= most:
            break
        head += start
        if _columns(head + end + tail) >= most:
            break
        tail = end + tail
    return f"{head}…{tail}"


def _columns(text: str) -> int:
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def _text(text: str) -> str:
    """Escape a text, without characters that XML does not allow."""
    return escape(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", text))
