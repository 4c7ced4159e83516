"""`write_gallery`: predictions of any family as one self-contained HTML page."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from html import escape
from typing import TYPE_CHECKING, Any, Final

from pp_graph.report.page import check_page, page, table, warning_list, write_page
from pp_graph.report.shown_images import rgb_image
from pp_graph.sketching import draw, sketched

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from pp_graph.report.page import Row
    from pp_graph.report.prediction_folder import WrittenPredictions
    from pp_graph.report.prediction_table import ImagePrediction
    from pp_graph.running import Runner, Source

MOST_IMAGES: Final = 200
_LONGER_SIDE: Final = 448
_LISTED: Final = 6
"""Numbers of a list that a card shows; the tables of the run hold all."""
_STYLE: Final = """
.cards { list-style: none; margin: 1rem 0; padding: 0; display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(min(240px, 100%), 1fr)); }
.cards li { background: var(--raised); border: 1px solid var(--grid); border-radius: 4px; padding: .5rem; }
.cards li.flagged { border-color: var(--anomalous); }
.cards img { display: block; width: 100%; height: auto; border-radius: 3px; }
.cards h3 { font-size: 1rem; margin: .3rem 0; overflow-wrap: anywhere; }
.cards dl { display: grid; grid-template-columns: minmax(0, auto) minmax(45%, 1fr); gap: 0 .8rem; margin: 0;
  font-size: .9rem; }
.cards dt { color: var(--faint); overflow-wrap: anywhere; }
.cards dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
"""


def write_gallery(
    written: WrittenPredictions,
    runner: Runner,
    source: Source,
    path: str | Path,
    *,
    overwrite: bool = False,
    inputs: Iterable[Path] = (),
) -> Path:
    """Write a card for each image: its overlay, or the image where none was drawn, with its predictions.

    Anomalous images come first, those with the highest scores ahead. Other families keep the order of the images.

    Args:
        written: What `write_predictions` returned.
        runner: The model.
        source: The images.
        path: The `.html` file to write.
        overwrite: Replace the file if it exists.
        inputs: Files that are never replaced.

    Raises:
        OutputFileError: The path has another ending, is an input, exists, or cannot be written.
        DataError: An image cannot be read.
    """
    path = check_page(path)
    order = sorted(range(len(written.predictions)), key=lambda index: _rank(written.predictions[index]))
    cards = "".join(_card(written, runner, source, index) for index in order[:MOST_IMAGES])
    facts = [(name.replace("_", " "), _fact(value)) for name, value in written.about.items() if value is not None]
    more = len(order) - MOST_IMAGES
    note = f"<p>{more:,} more images are not shown; the tables of the run list all.</p>\n" if more > 0 else ""
    body = (
        f'{warning_list(written.warnings)}<ul class="cards">{cards}</ul>\n{note}'
        f'<h2>Model and run</h2>\n<div class="sources">{table("Model and run", facts)}</div>'
        f"\n<h2>The end of the graph</h2>\n{draw(sketched(runner.provenance))}"
    )
    text = page(f"Predictions of {runner.name}", body, style=_STYLE, pictures=True)
    return write_page(path, text, overwrite=overwrite, inputs=inputs)


def _fact(value: Any) -> str:
    return ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)


def _rank(row: ImagePrediction) -> tuple[float, float]:
    if row.pred_score is None or not row.anomalies:
        return 0.0, 0.0
    return -float(bool(row.pred_label)), -math.inf if math.isnan(row.pred_score) else -row.pred_score


def _card(written: WrittenPredictions, runner: Runner, source: Source, index: int) -> str:
    from PIL import Image

    row = written.predictions[index]
    if row.overlay is not None:
        with Image.open(written.folder / row.overlay) as overlay:
            picture = overlay.convert("RGB")
    else:
        picture = rgb_image(source, index, runner.inputs)
    picture.thumbnail((_LONGER_SIDE, _LONGER_SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    content = base64.b64encode(stream.getvalue()).decode("ascii")
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _facts(row))
    flagged = ' class="flagged"' if row.pred_label else ""
    return (
        f'<li{flagged}><img alt="" loading="lazy" width="{picture.width}" height="{picture.height}" '
        f'src="data:image/jpeg;base64,{content}"><h3>{escape(row.image)}</h3><dl>{facts}</dl></li>\n'
    )


def _facts(row: ImagePrediction) -> Iterator[Row]:
    named = any(name.startswith("pixels_") for name in row.cells)  # the same as the areas of classes
    for name, value in row.cells.items():
        if value is None or name in ("image", "mask", "overlay", "map") or _is_file(value) or _is_nested(value):
            continue
        if named and name == "class_area":
            continue
        count = row.cells.get("region_count")
        # The rest of a table of regions is empty.
        filled = name.startswith("region_") and isinstance(value, list) and isinstance(count, int)
        yield name.removeprefix("pred_").replace("_", " "), _text(name, value[:count] if filled else value)


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and value.endswith((".png", ".jpg", ".tiff"))


def _is_nested(value: Any) -> bool:
    """True for a list of lists, such as boxes, which are drawn."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], list)


def _text(name: str, value: Any) -> str:
    if name == "pred_label" and isinstance(value, bool):
        return "anomalous" if value else "normal"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        counts = Counter(str(each.get("class_name", "region")) for each in value)
        return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    if isinstance(value, list):
        more = f", … {len(value) - _LISTED:,} more" if len(value) > _LISTED else ""
        return ", ".join(_text(name, each) for each in value[:_LISTED]) + more or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
