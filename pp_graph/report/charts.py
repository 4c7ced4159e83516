"""Bar charts in the colours of the page."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PARTS: Final = ("normal", "anomalous", "curve", "unlabelled")
"""Colours of the page, in the order in which parts of a bar take them."""


@dataclass(frozen=True)
class Bar:
    """A bar.

    Attributes:
        name: What it shows.
        parts: Lengths of its parts, from left to right, by name; at least 0.
        text: The number to print.
        interval: Ends of its confidence interval; None for none.
        mark: A number to draw a line at, in the place of the chart's.
    """

    name: str
    parts: Mapping[str, float]
    text: str
    interval: tuple[float, float] | None = None
    mark: float | None = None


def bar_chart(title: str, bars: Sequence[Bar], *, mark: float | None = None) -> str:
    """Draw bars with a common scale that starts at 0, and a legend if they have several parts.

    Args:
        title: Accessible name.
        bars: The bars; at least one.
        mark: A number to draw a line at.
    """
    ends = [max(sum(bar.parts.values()), bar.mark or 0.0, *(bar.interval or ())) for bar in bars]
    whole = max(*ends, mark or 0.0) or 1.0
    names = list(dict.fromkeys(part for bar in bars for part in bar.parts))
    colors = {name: PARTS[place % len(PARTS)] for place, name in enumerate(names)}

    def across(start: float, end: float) -> str:
        return f"left:{100 * start / whole:.2f}%;width:{100 * (end - start) / whole:.2f}%"

    drawn = []
    for bar in bars:
        inner, start = "", 0.0
        for part, length in bar.parts.items():
            inner += (
                f'<i title="{escape(part)}" style="{across(start, start + length)};--fill:var(--{colors[part]})"></i>'
            )
            start += length
        if bar.interval is not None:
            inner += f'<s style="{across(*bar.interval)}"></s>'
        at = mark if bar.mark is None else bar.mark
        if at is not None:
            inner += f'<u style="{across(at, at)}"></u>'
        label = f"<span>{escape(bar.name)}</span><span>{escape(bar.text)}</span>"
        drawn.append(f'<div class="bar"><div>{label}</div><div class="track" aria-hidden="true">{inner}</div></div>')
    keys = "".join(f'<span><b style="--fill:var(--{colors[name]})"></b>{escape(name)}</span>' for name in names)
    legend = f"<figcaption>{keys}</figcaption>" if len(names) > 1 else ""
    return f'<figure class="chart" aria-label="{escape(title)}">{"".join(drawn)}{legend}</figure>\n'
