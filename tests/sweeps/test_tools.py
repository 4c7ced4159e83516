"""Fused models through tools of others; the page about them lists every tool and every dependency."""

from __future__ import annotations

import re

import pytest

from tests.sweeps.support import requirements
from tests.sweeps.tool_list import TOOLS
from tests.sweeps.tools import COLUMNS, KINDS, PAGE, failures, sweep, table


def _rows(section: str, heading: str) -> list[list[str]]:
    """Cells of the rows of a generated table."""
    text = PAGE.read_text("utf-8").split(f"<!-- {section} -->")[1].split(f"<!-- end of {section} -->")[0]
    (found,) = [each for each in text.strip().split("\n\n") if each.startswith(f"| {heading} |")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()]
    assert all(len(row) == len(head) for row in rows)
    return [head, *rows]


def test_the_page_lists_every_tool() -> None:
    head, *rows = _rows("tools", "tool | version")
    hint = "python -m tests.sweeps.tools --write"
    assert head == ["tool", "version", *COLUMNS], hint
    assert [row[0] for row in rows] == [tool.name for tool in TOOLS], hint
    said = {re.sub(r" \(.*", "", each).strip("*") for row in rows for each in row[2].split("; ")}
    known = {"equal", "drift", "wrong", "tool fails", "does not run", "outputs lost", "not run: not installed"}
    assert said <= known, hint
    for row in rows:
        assert "**" not in "".join(row[3:]), f"strip, retune and verify are never wrong: {row}"


def test_the_page_lists_every_dependency() -> None:
    _, *rows = _rows("versions", "package")
    listed = {row[0]: row[1] for row in rows}
    assert listed == requirements(), "python -m tests.sweeps.support --write"


def test_a_tool_that_keeps_decisions() -> None:
    records = sweep("saved at basic", ("anomaly", "runtime thresholds"))
    assert [record["decisions"] for record in records] == ["equal", "equal"], table(records)
    assert not failures(records)


@pytest.mark.sweep
def test_every_tool() -> None:
    records = sweep()
    print(table(records))
    assert len(records) == len(TOOLS) * len(KINDS)
    assert not failures(records)
    # Whatever decides wrongly is found.
    for record in records:
        if record["decisions"] == "**wrong**":
            assert record["verify"] in ("fails", "refused"), record
