"""`explore_page`: the page to explore, self-contained."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pp_graph.exploring.encoding import encode_numbers
from pp_graph.report.page import page

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pp_graph.exploring.collecting import Collected
    from pp_graph.exploring.models import ExploredModel

_BODY = """
{notes}
<p id="about">{about}</p>
<noscript><p class="warnings">This page needs JavaScript to decide about the images.</p></noscript>
<script type="application/json" id="meta">{meta}</script>
<div class="layout">
<aside aria-label="Settings">
<div id="edited"></div>
<div id="levels"></div>
<details id="result" aria-live="polite"></details>
<details id="take"><summary>Take these settings</summary></details>
</aside>
<main>
<div class="toolbar" role="toolbar" aria-label="Gallery"></div>
<p id="count" role="status"></p>
<ul id="gallery"></ul>
</main>
</div>
<dialog id="viewer" aria-label="Image"></dialog>
"""


def explore_page(models: Sequence[ExploredModel], collected: Collected, notes: Sequence[str]) -> str:
    """Return the page of anomaly models as HTML."""
    return self_contained(
        [model.name for model in models],
        [model.session.description for model in models],
        notes,
        _meta(models, collected),
        ("state.js", "explore.js", "maps.js"),
        _data(models, collected),
    )


def self_contained(
    names: Iterable[str],
    about: Iterable[str],
    notes: Sequence[str],
    meta: Mapping[str, Any],
    scripts: Sequence[str],
    data: Iterable[str],
) -> str:
    """Return a page as HTML.

    Args:
        names: Name of each model.
        about: Runtime of each model.
        notes: Remarks.
        meta: What the page's scripts know.
        scripts: Scripts of the family, in `assets`.
        data: One script for each image.
    """
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return page(
        f"Explore {' and '.join(dict.fromkeys(names))}",
        _BODY.format(
            notes=f'<ul class="notes">{listed}</ul>' if listed else "",
            about=escape("; ".join(dict.fromkeys(about))),
            meta=json.dumps(meta, allow_nan=False).replace("<", "\\u003c"),
        ),
        style=_asset("explore.css"),
        pictures=True,
        scripts=[*map(_asset, ("decide.js", "common.js", *scripts, "gallery.js")), *data, "receivedAll()"],
    )


def _asset(name: str) -> str:
    return files("pp_graph.exploring").joinpath("assets", name).read_text(encoding="utf-8")


def _meta(models: Sequence[ExploredModel], collected: Collected) -> dict[str, Any]:
    return {
        "images": collected.images,
        "shown": list(collected.shown),
        "names": list(collected.names),
        "labels": encode_numbers(collected.labels),
        "scores": None if collected.scores is None else [encode_numbers(each) for each in collected.scores],
        "models": [
            {
                "name": model.name,
                "command": model.command,
                "ending": model.ending,
                "needsStatistics": model.given,
                "statistics": model.statistics,
                "levels": model.levels(),
                "maps": [[*maps[index].size, maps[index].least, maps[index].most] for index in collected.shown]
                if maps
                else None,
                "masks": [place for place, index in enumerate(collected.shown) if index in masks],
            }
            for model, maps, masks in zip(models, collected.maps, collected.masks, strict=True)
        ],
    }


def _data(models: Sequence[ExploredModel], collected: Collected) -> Iterator[str]:
    """Yield one script for each image, so that the page shows the first ones while it is still loading."""
    for place, index in enumerate(collected.shown):
        maps = [maps[index].text for maps in collected.maps if maps]
        masks = [masks.get(index, "") for masks in collected.masks]
        yield f"received({json.dumps([place, collected.pictures[place], maps, masks])})"
