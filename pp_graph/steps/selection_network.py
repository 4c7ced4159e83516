"""The median of a window by minima and maxima alone, for all windows of a map at once.

A window of `size` by `size` pixels holds `size` columns, each of which belongs to `size` windows. So columns are
sorted once for the whole map, and merged by doubling: two beside each other, two such pairs, and so on; the second of
two is the first, moved. The network is written out with all ranks of each merged list, and `in_order` goes back from
the median: what it does not follow from is never computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["rows", "columns", "min", "max"]


@dataclass(frozen=True, eq=False)
class Node:
    """A map that can be computed from a padded map.

    Attributes:
        kind: `rows`: the padded map from row `start` on, of the height of the map. `columns`: its part from column
            `start` on. `min`, `max`: the smaller or larger of its two parts, pixel by pixel.
        parts: What it is computed from; none for `rows`.
        start: Where a cut begins.
        lost: How many columns fewer it has than the padded map.
    """

    kind: Kind
    parts: tuple[Node, ...] = ()
    start: int = 0
    lost: int = 0


def median_network(size: int) -> list[Node]:
    """What is computed for the median of each window, the median last.

    Args:
        size: Height and width of the window, odd, at least 3; the map is padded by `size // 2` at each side.
    """
    column = _sorted([Node("rows", start=start) for start in range(size)])
    merged = {1: column}
    while 2 * max(merged) <= size:
        span = max(merged)
        merged[2 * span] = _merged(*(_cut(merged[span], start, 2 * span - 1) for start in (0, span)))
    # The window is put together from spans of columns, the widest first.
    start, lists = 0, []
    for span in sorted(merged, reverse=True):
        if start + span <= size:
            lists.append(_cut(merged[span], start, size - 1))
            start += span
    while len(lists) > 2:
        lists = [_merged(lists[0], lists[1]), *lists[2:]]
    middle = (size * size - 1) // 2
    return _in_order(_ranked(lists[0], lists[1], middle))


def _in_order(last: Node) -> list[Node]:
    """All that a node is computed from, each after its parts, itself last."""
    found: dict[Node, None] = {}
    pending = [last]
    while pending:
        missing = [part for part in pending[-1].parts if part not in found]
        if missing:
            pending += missing
        else:
            found.setdefault(pending.pop())
    return list(found)


def _cut(nodes: Sequence[Node], start: int, lost: int) -> list[Node]:
    return [Node("columns", (node,), start, lost) if node.lost != lost else node for node in nodes]


def _smaller(a: Node, b: Node) -> Node:
    return Node("min", (a, b), lost=a.lost)


def _larger(a: Node, b: Node) -> Node:
    return Node("max", (a, b), lost=a.lost)


def _sorted(nodes: Sequence[Node]) -> list[Node]:
    if len(nodes) < 2:
        return list(nodes)
    half = len(nodes) // 2
    return _merged(_sorted(nodes[:half]), _sorted(nodes[half:]))


def _merged(a: Sequence[Node], b: Sequence[Node]) -> list[Node]:
    """Two sorted lists as one, by Batcher's odd-even merge (Knuth, The Art of Computer Programming, 5.3.4)."""
    if not a or not b:
        return [*a, *b]
    if len(a) == len(b) == 1:
        return [_smaller(a[0], b[0]), _larger(a[0], b[0])]
    even, odd = _merged(a[::2], b[::2]), _merged(a[1::2], b[1::2])
    found = [even[0]]
    for low, high in zip(odd, even[1:], strict=False):
        found += [_smaller(low, high), _larger(low, high)]
    paired = min(len(odd), len(even) - 1)
    return [*found, *odd[paired:], *even[1 + paired :]]


def _ranked(a: Sequence[Node], b: Sequence[Node], rank: int) -> Node:
    """The number at one place of two sorted lists as one: the smallest of what lies above some of each."""
    found: Node | None = None
    for from_a in range(max(0, rank + 1 - len(b)), min(len(a), rank + 1) + 1):
        from_b = rank + 1 - from_a
        if from_a == 0:
            above = b[from_b - 1]
        elif from_b == 0:
            above = a[from_a - 1]
        else:
            above = _larger(a[from_a - 1], b[from_b - 1])
        found = above if found is None else _smaller(found, above)
    assert found is not None, "the rank lies in the lists"
    return found
