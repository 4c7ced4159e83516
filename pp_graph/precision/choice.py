"""`PrecisionChoice`: the artifact that was chosen, and everything that was measured."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pp_graph.errors import OutputFileError, counted
from pp_graph.files import written_together
from pp_graph.precision.decisions import RECALIBRATED
from pp_graph.precision.measured import drop
from pp_graph.summary import Line, Summarised, Table

if TYPE_CHECKING:
    from pp_graph.openvino import OpenVINOModel
    from pp_graph.precision.decisions import Decided
    from pp_graph.precision.measured import Limits, Measured
    from pp_graph.summary import Block
    from pp_graph.verification import VerificationReport

F1_LEVELS: Final = {"image": "F1 of labels", "mask": "F1 of mask pixels"}
"""Rates of anomaly models, for people. Those of other families are named as they are."""
_WIDTH, _HEIGHT, _MARGIN = 720, 420, 60


@dataclass(frozen=True, repr=False)
class PrecisionChoice(Summarised):
    """The fastest artifact within the limits, and the plans it was chosen from.

    Attributes:
        artifact: The chosen artifact. Compile it with `inference_precision`.
        inference_precision: `f32`, `bf16` or `f16`.
        chosen: Measurements of its plan.
        plans: Measurements of all plans that were timed, the fastest first.
        allowed: True for each of `plans` that is within the limits.
        blocks: Description of each block, in order.
        base: F1 of the f32 model, where there is ground truth.
        limits: The limits.
        verification: Report of `verify` on the artifact, under the same limits.
        images: Number of images.
        complete: False if the budget was spent before the search ended.
        notes: Remarks for the user.
    """

    artifact: OpenVINOModel
    inference_precision: str
    chosen: Measured
    plans: tuple[Measured, ...]
    allowed: tuple[bool, ...]
    blocks: tuple[str, ...]
    base: Decided
    limits: Limits
    verification: VerificationReport
    images: int
    complete: bool
    notes: tuple[str, ...]

    @property
    def _rates(self) -> tuple[str, ...]:
        return tuple(self.base.f1) if set(self.base.f1) - set(F1_LEVELS) else tuple(F1_LEVELS)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table."""
        rates = [f"F1 {name}" if name in F1_LEVELS else name.replace("_", " ") for name in self._rates]
        return ("plan", "labels flipped", "pixels flipped", *rates, "ms", "of f32", "remarks")

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of the table, see `columns`."""
        frontier = self.frontier()
        rows = []
        for each, allowed in zip(self.plans, self.allowed, strict=True):
            found, timing = each.decided, each.timing
            assert timing is not None
            marks = [
                *(["chosen"] if each.plan == self.chosen.plan else []),
                *(["frontier"] if each in frontier else []),
                *([] if allowed else ["over the limits"]),
                *([found.thresholds] if found.thresholds == RECALIBRATED else []),
            ]
            rows.append(
                (
                    str(each.plan),
                    f"{found.label_flips:,} of {found.labels:,}",
                    f"{found.pixel_flips:,} of {found.pixels:,}",
                    *(f"{found.f1[name]:.4f}" if name in found.f1 else "-" for name in self._rates),
                    f"{timing.milliseconds:.2f}",
                    f"{timing.ratio:.3f} ({timing.ratio_low:.3f}–{timing.ratio_high:.3f})",
                    ", ".join(marks),
                )
            )
        return rows

    def frontier(self) -> list[Measured]:
        """Return the plans for which no faster one flips as few labels and pixels."""
        found: list[Measured] = []
        for each in self.plans:  # the fastest first
            flips = (each.decided.label_flips, each.decided.pixel_flips)
            if all(flips < (other.decided.label_flips, other.decided.pixel_flips) for other in found):
                found.append(each)
        return found

    def summary(self) -> list[Block]:
        """Return the plans that count as a table, the chosen one, the frontier and f32, and the blocks."""
        rows = [
            row
            for row, each in zip(self.rows(), self.plans, strict=True)
            if each.plan.is_base or each.plan == self.chosen.plan or each in self.frontier()
        ]
        lines = [f"  {number}: {block}" for number, block in enumerate(self.blocks, 1)]
        if len(rows) < len(self.plans):
            lines.append(
                f"{len(self.plans):,} plans were measured. Those not shown are slower than one that flips as little, "
                "and in the JSON."
            )
        title = f"Precisions, {counted(self.images, 'image')}, limits: {self.limits}"
        return [Table(title, self.columns, rows), Line("\n".join(lines) + "\n")]

    def __repr__(self) -> str:
        """Return the chosen plan in a line."""
        return (
            f"<PrecisionChoice {self.chosen.plan}, run in {self.inference_precision}: {len(self.plans)} plans measured>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "plan": str(self.chosen.plan),
            "inference_precision": self.inference_precision,
            "limits": str(self.limits),
            "images": self.images,
            "complete": self.complete,
            "blocks": list(self.blocks),
            "f1_f32": self.base.f1,
            "verified": self.verification.passed,
            "frontier": [str(each.plan) for each in self.frontier()],
            "plans": [
                {
                    "name": str(each.plan),
                    **each.to_dict(),
                    "drop": drop(each.decided, self.base),
                    "allowed": allowed,
                    "recalibrated": each.decided.thresholds == RECALIBRATED,
                }
                for each, allowed in zip(self.plans, self.allowed, strict=True)
            ],
            "notes": list(self.notes),
        }

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write all measurements as JSON, or the frontier as a picture.

        Args:
            path: A `.json` or `.svg` file.
            overwrite: Replace an existing file.

        Raises:
            OutputFileError: The ending is another one, or the file cannot be written.
        """
        path = Path(path)
        check_report(path)
        with written_together(path, overwrite=overwrite) as (draft,):
            if path.suffix == ".svg":
                draft.write_text(self.to_svg(), encoding="utf-8")
            else:
                draft.write_bytes(msgspec.json.format(msgspec.json.encode(self.to_dict()), indent=1))
        return path

    def _repr_html_(self) -> str:
        return super()._repr_html_() + self.to_svg()

    def to_svg(self) -> str:
        """Draw flipped pixels (labels, without masks) against time: the closer to the lower left, the better.

        Times are ratios to the f32 model, times its milliseconds, because the load may change during a search.
        """
        pixels = any(each.decided.pixels for each in self.plans)
        f32 = next(each.timing.milliseconds for each in self.plans if each.timing and each.plan.is_base)
        points = [
            (each.timing.ratio * f32, each.decided.pixel_flips if pixels else each.decided.label_flips, each, allowed)
            for each, allowed in zip(self.plans, self.allowed, strict=True)
            if each.timing is not None
        ]
        right = max(point[0] for point in points) * 1.08
        top = max(point[1] for point in points) * 1.08 or 1

        def place(x: float, y: float) -> tuple[float, float]:
            width, height = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
            return _MARGIN + x / right * width, _HEIGHT - _MARGIN - y / top * height

        low, (end, _), (_, up) = place(0, 0), place(right, 0), place(0, top)
        steps = sorted((each for each in points if each[2] in self.frontier()), key=lambda point: point[0])
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point[:2]) for point in steps))
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">',
            "<style>text { font: 11px sans-serif }</style>",
            '<rect width="100%" height="100%" fill="white"/>',
            f'<path d="M{low[0]},{up} V{low[1]} H{end}" fill="none" stroke="#444"/>',
            f'<text x="{end}" y="{low[1] + 30}" text-anchor="end">ms (0 to {right:.3g})</text>',
            f'<text x="{low[0]}" y="{up - 12}">{"pixels" if pixels else "labels"} flipped (0 to {top:,.0f})</text>',
            f'<polyline points="{line}" fill="none" stroke="#888" stroke-dasharray="4 3"/>',
        ]
        for milliseconds, flips, each, allowed in points:
            x, y = place(milliseconds, flips)
            chosen = each.plan == self.chosen.plan
            colour = "#1a7f37" if chosen else "#2a5db0" if allowed else "#c33"
            name = html.escape(str(each.plan))
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if chosen else 4}" fill="{colour}">'
                f"<title>{name}: {milliseconds:.2f} ms, {flips:,} flipped</title></circle>"
            )
            if chosen or len(set(each.plan.precisions)) == 1:
                parts.append(f'<text x="{x:.1f}" y="{y - 9:.1f}" text-anchor="middle">{name}</text>')
        return "\n".join([*parts, "</svg>\n"])


def check_report(path: Path) -> None:
    """Raise `OutputFileError` unless the file ends in `.json` or `.svg`."""
    if path.suffix not in (".json", ".svg"):
        raise OutputFileError(
            f"File '{path}' ends in '{path.suffix}', expected .json for the measurements or .svg for a picture. Rename "
            "it."
        )
