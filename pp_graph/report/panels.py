"""Panels of a calibration report: scores by class, precision and recall, F1 over the threshold.

They use matplotlib's objects rather than pyplot, which would change the caller's figures and settings.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.extras import require_extra
from pp_graph.report.curves import BINS, f1_over_threshold, precision_recall, score_histogram, score_range

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pp_graph.calibration import CalibrationResult, LevelResult

# Okabe and Ito's palette, which suits colour-blind readers, and line styles for printing without colour.
INK: Final = "#222222"
GRID: Final = "#d8d8d8"
COLORS: Final = {"normal": "#0072b2", "anomalous": "#d55e00", "unlabelled": "#7a7a7a", "curve": "#008262"}
_LINES: Final = {"normal": "-", "anomalous": "--", "unlabelled": ":"}

_PANEL_SIZE: Final = (5.0, 4.1)
"""Inches."""
_DOTS: Final = 150
"""Per inch, in a PNG."""
_TITLE_LENGTH: Final = 120
_LOG_FROM: Final = 500.0
"""Ratio of the largest share to the smallest above which the axis is logarithmic."""


def number(value: float) -> str:
    """Format a float32 as the shortest text that reads back as the same number."""
    return str(np.float32(value))


def draw_histogram(axes: Axes, name: str, level: LevelResult) -> None:
    """Draw the scores of each class, with the threshold."""
    histogram = score_histogram(level.counts)
    drawn = np.concatenate(list(histogram.shares.values()))
    # Spreading an interval over its bins can leave less than one score per bin; such tiny shares must not decide
    # whether the axis is logarithmic.
    smallest = max(float(drawn[drawn > 0].min()), 1 / (BINS[1] * int(level.counts.total.sum())))
    largest = float(drawn.max())
    logarithmic = largest > _LOG_FROM * smallest
    for kind, shares in histogram.shares.items():
        total = int(getattr(level.counts, kind).sum())
        color = COLORS[kind]
        axes.stairs(shares, histogram.edges, fill=True, color=color, alpha=0.25)
        axes.stairs(
            shares, histogram.edges, color=color, linestyle=_LINES[kind], linewidth=1.3, label=f"{kind} ({total:,})"
        )
    _draw_threshold(axes, level)
    _frame(axes, f"{name.capitalize()} level: scores", "raw score")
    axes.set_ylabel("share of the class in the bin" + (", log scale" if logarithmic else ""))
    if logarithmic:
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(smallest / 2, largest * 2)
    else:
        axes.set_ylim(0, largest * 1.05)
    _limit_to_scores(axes, level)
    _legend(axes)


def draw_precision_recall(axes: Axes, name: str, level: LevelResult) -> None:
    """Draw precision over recall, with the point of the threshold."""
    _frame(axes, f"{name.capitalize()} level: precision and recall", "recall")
    if _explained_missing(axes, level):
        return
    counts, metrics = level.counts, level.metrics
    curve = precision_recall(counts).thinned()
    # Extend the curve from the highest threshold to a recall of 0.
    axes.plot([*curve.x, 0.0], [*curve.y, curve.y[-1]], drawstyle="steps-post", color=COLORS["curve"])
    base = counts.anomalies / (counts.anomalies + counts.normals)
    axes.axhline(base, color=INK, linestyle=":", linewidth=1.2, label=f"share of anomalous, {base:.3g}")
    if metrics is not None and metrics.precision is not None and metrics.recall is not None:
        label = f"at the threshold: precision {metrics.precision:.3f}, recall {metrics.recall:.3f}"
        axes.plot(metrics.recall, metrics.precision, "D", color=INK, markersize=6, clip_on=False, zorder=5, label=label)
    axes.set_ylabel("precision")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.04)
    _legend(axes, columns=1)


def draw_f1(axes: Axes, name: str, level: LevelResult) -> None:
    """Draw F1 over the threshold, with its maximum, the calibrated threshold and its interval."""
    _frame(axes, f"{name.capitalize()} level: F1 over the threshold", "threshold")
    if _explained_missing(axes, level):
        return
    _draw_threshold(axes, level)
    intervals = (level.metrics and level.metrics.intervals) or {}
    bands = {"its 95 % interval": intervals.get("threshold"), "where the exact one lies": level.record.threshold_bound}
    for label, band in bands.items():
        if band is not None and np.isfinite(band).all():
            axes.axvspan(*band, color=INK, alpha=0.12, linewidth=0, label=label)
    curve = f1_over_threshold(level.counts)
    where, largest = curve.x[curve.best], curve.y[curve.best]
    curve = curve.thinned()
    axes.plot(curve.x, curve.y, color=COLORS["curve"])
    label = f"largest F1, {largest:.3f}, at {number(where)}"
    axes.plot(where, largest, "o", color=COLORS["curve"], markersize=6, label=label)
    axes.set_ylabel("F1")
    axes.set_ylim(0, 1.04)
    _limit_to_scores(axes, level)
    _legend(axes)


PANELS: Final[tuple[Callable[[Axes, str, LevelResult], None], ...]] = (draw_histogram, draw_precision_recall, draw_f1)


def save_png(result: CalibrationResult, path: Path, title: str) -> None:
    """Write all panels as one picture, one row per level.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    rows = len(result.levels)
    figure = _figure((len(PANELS) * _PANEL_SIZE[0], rows * _PANEL_SIZE[1] + 0.4))
    grid = figure.subplots(rows, len(PANELS), squeeze=False)
    for row, (name, level) in zip(grid, result.levels.items(), strict=True):
        for axes, draw in zip(row, PANELS, strict=True):
            draw(axes, name, level)
    shown = " ".join(title.encode("utf-8", "replace").decode().split())
    shown = shown if len(shown) <= _TITLE_LENGTH else shown[: _TITLE_LENGTH - 1] + "…"
    figure.suptitle(shown, color=INK, parse_math=False)
    with warnings.catch_warnings():
        # The title may contain characters that the font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(path, format="png", dpi=_DOTS, facecolor="white")


def panel_svg(draw: Callable[[Axes, str, LevelResult], None], name: str, level: LevelResult) -> str:
    """Return one panel as an SVG element for a page that defines its colours.

    Args:
        draw: One of `PANELS`.
        name: `image` or `pixel`.
        level: The level.

    Returns:
        The element. Its colours are the CSS variables `--ink`, `--grid`, `--normal`, `--anomalous`, `--unlabelled`
        and `--curve`. Its ids are unique among the panels of a page, and reproducible.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    figure = _figure(_PANEL_SIZE)
    axes = figure.subplots()
    draw(axes, name, level)
    buffer = io.StringIO()
    unnamed = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=unnamed)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{axes.get_title(loc="left")}"', 1)
    for variable, color in {"ink": INK, "grid": GRID, **COLORS}.items():
        svg = svg.replace(color, f"var(--{variable})")
    ids: dict[str, str] = {}
    prefix = f"{name}-{draw.__name__}-"
    return re.sub(
        r'( id="|href="#|url\(#)([^")]+)', lambda found: found[1] + ids.setdefault(found[2], f"{prefix}{len(ids)}"), svg
    )


def _figure(size: tuple[float, float]) -> Figure:
    purpose = ("report", "a calibration report")
    layout = require_extra("matplotlib.layout_engine", *purpose).ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure: Figure = require_extra("matplotlib.figure", *purpose).Figure(figsize=size, layout=layout)
    return figure


def _frame(axes: Axes, title: str, x_label: str) -> None:
    """Set title, ticks and grid."""
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(x_label, color=INK)
    axes.yaxis.label.set_color(INK)
    axes.tick_params(colors=INK, which="both")
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.locator_params(axis="x", nbins=6)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_color(INK)


def _legend(axes: Axes, columns: int = 2) -> None:
    """Add a legend below the axes."""
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=2.4,
        columnspacing=1.2,
    )


def _draw_threshold(axes: Axes, level: LevelResult) -> None:
    threshold = level.statistics.threshold
    if threshold is not None:
        axes.axvline(threshold, color=INK, linestyle="-.", linewidth=1.3, label=f"threshold {number(threshold)}")


def _limit_to_scores(axes: Axes, level: LevelResult) -> None:
    """Limit the x axis to the scores and the threshold."""
    low, high = score_range(level.counts)
    threshold = level.statistics.threshold
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold)
    margin = 0.02 * (high - low)
    axes.set_xlim(low - margin, high + margin)


def _explained_missing(axes: Axes, level: LevelResult) -> bool:
    """If a class has no scores, write the reason for the missing curve and return True."""
    counts = level.counts
    if counts.anomalies and counts.normals:
        return False
    if counts.anomalies:
        why = "No score is normal:\nnothing can be flagged wrongly."
    elif counts.normals:
        why = "No score is anomalous:\nthere is nothing to find."
    else:
        why = "No score has a label:\nthere is nothing to measure by."
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=INK)
    return True
