"""Calibrations of classifiers and detectors as tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from pp_graph.errors import counted
from pp_graph.summary import Block, Fields, Remark, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pp_graph.calibration.box_thresholds import BoxCalibration, ClassConfidence
    from pp_graph.calibration.classification import ClassifierCalibration

_WORDS: Final = {
    "accuracy": "accuracy",
    "nll_before": "negative log-likelihood before",
    "nll_after": "negative log-likelihood after",
    "ece_before": "expected calibration error before",
    "ece_after": "expected calibration error after",
    "false_accepts": "images to reject, called known",
    "kept": "right images, called known",
}
"""Metrics, as people read them."""


def classifier_blocks(result: ClassifierCalibration, labels: Sequence[str] = ()) -> Iterator[Block]:
    """Yield the calibration of a classifier as tables.

    Args:
        result: The calibration.
        labels: Names of the classes; none for their indices.
    """
    fields = {"temperature": f"{result.temperature:g}"}
    if result.unknown_below is not None:
        fields["unknown below"] = f"a probability of {result.unknown_below:.9g}"
    fields |= {words: f"{result.metrics[name]:.4f}" for name, words in _WORDS.items() if name in result.metrics}
    yield Fields(f"Calibrated on {counted(result.metrics['images'], 'image')}", fields)
    if result.multi_label is not None:
        names = labels or tuple(map(str, range(len(result.multi_label))))
        rates = ("f1", "precision", "recall")
        rows = [
            (name, f"{level:.6g}", *(_rate(result.metrics[rate][place]) for rate in rates))
            for place, (name, level) in enumerate(zip(names, result.multi_label, strict=True))
        ]
        yield Table("Classes", ("class", "threshold", *rates), rows)
    yield from (Remark(f"Note: {remark}.") for remark in result.notes)


def detector_blocks(result: BoxCalibration) -> Iterator[Block]:
    """Yield the calibration of a detector as tables."""
    listed = (*result.classes, result.total)
    yield Fields(
        f"Calibrated on {counted(result.images, 'image')} with {counted(result.total.marked, 'box')}",
        {
            **({} if result.model is None else {"model": result.model}),
            "confidence": f"of the {result.goal}, with matches of an overlap of at least {result.overlap:g}",
            "AP50": f"{result.ap50:.4f}",
            "AP50-95": f"{result.ap50_95:.4f}",
        },
    )
    yield Table(
        "Classes, with metrics at this confidence on this data",
        ("class", "confidence", "precision", "recall", "F1", "AP50", "AP50-95"),
        [_rates(each) for each in listed],
    )
    yield Table("Boxes at this confidence", ("class", "boxes", "right", "wrong"), [_counts(each) for each in listed])
    if result.truncated:
        yield Remark(
            f"Warning: {result.truncated:,} of {result.images:,} images have more candidates than the post-processing "
            "compares at this low confidence, so boxes of low scores may be missing in these figures."
        )
    yield from (Remark(f"Note: {remark}.") for remark in result.notes)


def _rates(each: ClassConfidence) -> tuple[str, ...]:
    rates = (each.precision, each.recall, each.f1, each.ap50, each.ap50_95)
    confidence = f"{each.confidence:.6g}" if math.isfinite(each.confidence) else "-"
    return (each.name, confidence, *map(_rate, rates))


def _counts(each: ClassConfidence) -> tuple[str, ...]:
    return (each.name, *(f"{count:,}" for count in (each.marked, each.right, each.wrong)))


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
