"""`page`: the frame and the style that all HTML reports share."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pp_graph.errors import OutputFileError
from pp_graph.files import written_together
from pp_graph.report.panels import COLORS, GRID, INK
from pp_graph.summary import html_of
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pp_graph.summary import Summarised

# Colours of the panels on white, and lighter ones of the same palette on a dark background.
_LIGHT: Final = {"ink": INK, "grid": GRID, "back": "#ffffff", "faint": "#5f6368", "raised": "#f5f6f7", **COLORS}
_DARK: Final = {
    "ink": "#e8e6e3",
    "grid": "#3c4043",
    "back": "#17191c",
    "faint": "#a0a4a8",
    "raised": "#22252a",
    "normal": "#56b4e9",
    "anomalous": "#f0a030",
    "unlabelled": "#9aa0a6",
    "curve": "#2fc49b",
}
_STYLE: Final = """
body { margin: 0 auto; max-width: 1280px; padding: 1rem 1.5rem; color: var(--ink); background: var(--back);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { margin-top: 2rem; border-bottom: 1px solid var(--grid); }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 1rem; }
.panels svg { width: 100%; height: auto; }
.tables { display: flex; flex-wrap: wrap; gap: 1rem 3rem; align-items: flex-start; }
.tables > *, .wide { max-width: 100%; overflow-x: auto; }
figure { margin: 0; }
table { border-collapse: collapse; margin: .5rem 0; }
caption { text-align: left; font-weight: 600; padding: .2rem 0; }
th, td { padding: .2rem 1rem .2rem 0; border-bottom: 1px solid var(--grid); text-align: left; vertical-align: top;
  font-weight: normal; }
th { color: var(--faint); }
td { font-variant-numeric: tabular-nums; }
.sources th, .sources td { overflow-wrap: anywhere; }
.wide th[scope=row] { min-width: 7rem; max-width: 24rem; overflow-wrap: anywhere; }
.verdict { border-left: 4px solid var(--curve); padding: .4rem 0 .4rem 1rem; font-weight: 600; }
.verdict.failed { border-color: var(--anomalous); }
.warnings { border-left: 4px solid var(--anomalous); padding: .2rem 0 .2rem 1rem; margin-bottom: 1rem; }
.warnings ul { margin: .2rem 0; }
.chart { max-width: 720px; margin-bottom: 1rem; }
.bar > div:first-child { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.track { position: relative; height: 16px; margin: .1rem 0 .6rem; background: var(--raised); }
.track > * { position: absolute; top: 0; bottom: 0; }
.track i { background: var(--fill); }
.track s { border: solid var(--ink); border-width: 0 2px; top: 3px; bottom: 3px; box-sizing: border-box;
  background: linear-gradient(var(--ink), var(--ink)) center / 100% 2px no-repeat; }
.track u { border-left: 2px dashed var(--ink); top: -3px; bottom: -3px; }
.chart figcaption span { margin-right: 1rem; }
.chart figcaption b { display: inline-block; width: .8em; height: .8em; margin-right: .3em; background: var(--fill); }
footer { margin-top: 2rem; color: var(--faint); }
@media (max-width: 600px) { body { padding: .5rem .75rem; } th, td { padding-right: .6rem; }
  .wide th[scope=row] { max-width: 9rem; } }
"""

Row = tuple[str, ...]


def page(title: str, body: str, *, style: str = "", pictures: bool = False, scripts: Iterable[str] = ()) -> str:
    """Return a self-contained HTML page. Colours follow the reader's system, light or dark.

    Args:
        title: Heading and title.
        body: HTML below the heading.
        style: Further CSS.
        pictures: Allow embedded pictures.
        scripts: JavaScript to run after the body, in order. Without any, the page allows none.
    """
    code = list(scripts)
    allowed = "default-src 'none'; style-src 'unsafe-inline'"
    if code:
        allowed += "; script-src 'unsafe-inline'"
    if pictures:
        allowed += "; img-src data:"
    run = "".join(f"<script>{each}</script>\n" for each in code)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{allowed}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
:root {{ color-scheme: light dark; {_variables(_LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(_DARK)} }} }}
{_STYLE}{style}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{body}
<footer>pp_graph {escape(__version__)}</footer>
{run}</body>
</html>
"""


def tables_page(result: Summarised) -> str:
    """Return a page with the tables of a result, headed by the name of its class."""
    title = re.sub(r"(?<!^)(?=[A-Z])", " ", type(result).__name__).capitalize()
    return page(title, f'<div class="wide">{html_of(result.summary())}</div>')


def _variables(colors: dict[str, str]) -> str:
    return " ".join(f"--{name}: {color};" for name, color in colors.items())


def sources(rows: Iterable[Row]) -> str:
    """Return the section that names data and model."""
    return f'\n<h2>Where the scores come from</h2>\n<div class="sources">{table("Data and model", rows)}</div>'


def check_page(path: str | Path) -> Path:
    """Return the path of a page.

    Raises:
        OutputFileError: It does not end in `.html`.
    """
    path = Path(path)
    if path.suffix.lower() != ".html":
        raise OutputFileError(f"Report '{path}' ends in '{path.suffix}', expected '.html'. Name it report.html.")
    return path


def write_page(path: Path, text: str, *, overwrite: bool, inputs: Iterable[Path]) -> Path:
    """Write a page that `check_page` accepted, atomically.

    Raises:
        OutputFileError: The path is an input, exists, or cannot be written.
    """
    with written_together(path, overwrite=overwrite, inputs=inputs) as (draft,):
        draft.write_bytes(text.encode("utf-8", "replace"))
    return path


def warning_list(warnings: Sequence[str], title: str = "Warnings") -> str:
    """Return warnings as a list; nothing if there are none."""
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<div class="warnings"><strong>{title}</strong><ul>{items}</ul></div>\n'


def table(caption: str, rows: Iterable[Row], heads: Sequence[str] = ()) -> str:
    """Return a table whose first column holds headings; an empty last column is left out."""
    lines = list(rows)
    if heads and not any(line[-1] for line in lines):
        lines, heads = [line[:-1] for line in lines], ()
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(line[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in line[1:])}</tr>\n'
        for line in lines
    )
    return f"<table><caption>{escape(caption)}</caption>\n{f'<tr>{top}</tr>' if top else ''}\n{body}</table>\n"
