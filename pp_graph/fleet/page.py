"""`fleet_page`: all artifacts of a fleet in one table, to sort, filter and open."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from pp_graph.fleet.manifest import DECIDED
from pp_graph.report.page import page
from pp_graph.summary import size_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pp_graph.fleet.manifest import FleetReport

_STYLE: Final = """
body { max-width: none; }
.filters { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; margin: 1rem 0; align-items: end; }
.filters label { display: grid; font-size: .9em; color: var(--faint); }
.filters input, .filters select { font: inherit; color: var(--ink); background: var(--raised);
  border: 1px solid var(--grid); padding: .2rem .4rem; }
.wide { max-height: 85vh; overflow: auto; }
#fleet { border-collapse: separate; border-spacing: 0; } /* collapsed borders do not move with sticky cells */
thead th { position: sticky; top: 0; z-index: 1; background: var(--back); vertical-align: bottom; line-height: 1.25; }
tbody tr > :first-child, thead tr > :first-child { position: sticky; left: 0; background: var(--back); }
thead tr > :first-child { z-index: 2; }
thead button { all: unset; cursor: pointer; }
thead button:focus-visible { outline: 2px solid var(--curve); }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
td.number { text-align: right; white-space: nowrap; }
td.old { color: var(--faint); font-style: italic; }
td.old small { display: inline-block; max-width: 6rem; white-space: normal; line-height: 1.2; }
td.failed, td.error, td.not-here, td.retuned { color: var(--anomalous); font-weight: 600; }
td.problem { min-width: min(24rem, 60vw); max-width: 36rem; overflow-wrap: anywhere; }
a { color: inherit; }
"""
_HEADS: Final = {
    "model": "model", "device": "device", "precision": "weights", "inference_precision": "runs in", "status": "status",
    "problem": "problem", "plan": "chosen precision", "f1_image": "F1 of images", "f1_pixel": "F1 of pixels",
    "f1_class": "F1 of classes", "class_accuracy": "right classes", "f1_box": "F1 of boxes",
    "average_precision_50": "AP50", "average_precision_50_95": "AP50-95",
    "image_threshold": "image threshold", "pixel_threshold": "pixel threshold",
    "image_sensitivity": "image sensitivity", "pixel_sensitivity": "pixel sensitivity",
    "postprocessing_flips": "flips by post-processing", "drift_label_flips": "labels flipped by drift",
    "drift_pixel_flips": "pixels flipped by drift", "latency_ratio": "latency over raw", "latency_ms": "latency, ms",
    "bytes": "size", "seconds": "seconds",
}  # fmt: skip
_CHOSEN: Final = ("status", "device", "precision")


def fleet_page(report: FleetReport) -> str:
    """Return the page of a fleet as HTML. Reports of its artifacts are linked, so it belongs into the output folder."""
    rows = report.rows
    tags = list(dict.fromkeys(name for row in rows for name in row if name.startswith("tag_")))
    heads = {**{name: name.removeprefix("tag_") for name in tags}, **_HEADS}
    # What no model has is left out.
    shown = [name for name in heads if name in ("model", "status") or any(row.get(name) is not None for row in rows)]
    shown.sort(key=lambda name: name != "model")
    failed = "" if report.passed else " failed"
    body = [
        f'<p class="verdict{failed}">{escape(report.verdict)}</p>\n',
        *(f'<p class="note">{escape(note)}</p>\n' for note in report.remarks),
        _filters(rows, [name for name in (*tags, *_CHOSEN) if name in shown], heads),
        '<p id="count" role="status"></p>\n<div class="wide"><table id="fleet"><thead><tr>',
        *(f'<th scope="col" data-name="{escape(name)}"><button type="button">{escape(heads[name])}</button></th>'
          for name in shown),
        "</tr></thead>\n<tbody>\n",
        *(_row(row, shown, report.folder) for row in rows),
        "</tbody></table></div>",
    ]  # fmt: skip
    script = files("pp_graph.fleet").joinpath("assets/fleet.js").read_text("utf-8")
    return page(f"Fleet {report.folder.name}", "".join(body), style=_STYLE, scripts=[script])


def _filters(rows: Sequence[Mapping[str, Any]], names: Sequence[str], heads: Mapping[str, str]) -> str:
    found = ['<form class="filters"><label>contains<input type="search" id="text"></label>']
    for name in names:
        values = sorted({row.get(name) for row in rows if row.get(name) is not None}, key=_order)
        if len(values) > 1:
            options = "".join(f"<option>{escape(str(value))}</option>" for value in values)
            found.append(
                f'<label>{escape(heads[name])}<select data-name="{escape(name)}"><option value="">all</option>{options}'
                "</select></label>"
            )
    return "".join([*found, "</form>\n"])


def _order(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)


def _row(row: Mapping[str, Any], names: Sequence[str], folder: Path) -> str:
    cells = []
    for name in names:
        value = row.get(name)
        text = escape(_text(name, value))
        if name == "latency_ratio" and value is not None:
            text += f" <small>({row['latency_ratio_low']:.3f} to {row['latency_ratio_high']:.3f})</small>"
        if name == "model" and row["artifact"] is not None:
            text += _links(row, folder)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        kind = "number" if number else ""
        if name in ("status", "problem"):
            kind = str(value).replace(" ", "-") if name == "status" else name
        if name in DECIDED and value is not None and row["measured"] is not None:
            text += f"<br><small>{escape(row['measured'])}</small>"
            kind += " old"
        sort = f' data-value="{value!r}"' if number else f' data-value="{escape(str(value or ""))}"'
        cells.append(f'<td class="{kind}"{sort}>{text}</td>')
    return f"<tr>{''.join(cells)}</tr>\n"


def _links(row: Mapping[str, Any], folder: Path) -> str:
    parent = row["artifact"].rpartition("/")[0]
    found = []
    for name in ("verification", "benchmark"):
        if (folder / parent / f"{name}.html").is_file():
            old = f", {row['measured']}" if name == "verification" and row["measured"] is not None else ""
            found.append(f'<br><small><a href="{escape(parent)}/{name}.html">{name}</a>{old}</small>')
    return "".join(found)


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "bytes":
        return size_text(value)
    if isinstance(value, float):
        return f"{value:.3f}" if name == "latency_ratio" or name in DECIDED else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not name.startswith("tag_") else str(value)
