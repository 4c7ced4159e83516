"""Options of `--task detection`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from pp_graph.cli.classification import numbers_option

if TYPE_CHECKING:
    from pp_graph.postprocessors import DetectionPostProcessor

_Function = TypeVar("_Function", bound=Callable[..., Any])

_HEADS: Final = (
    "auto",
    "yolov8",
    "yolov5",
    "yolox",
    "end2end",
    "detr",
    "rtdetr",
    "picodet",
    "blazeface",
    "centerface",
    "centernet",
)

_RETUNED = (
    click.option("--confidence", metavar="T[,T...]|FILE", callback=numbers_option,
                 help="detection: score that a detection exceeds; one for all classes, or one for each.  "
                      "[default: 0.25]"),
    click.option("--iou", type=float, metavar="T",
                 help="detection: overlap above which the box of the smaller score is suppressed.  [default: 0.45]"),
)  # fmt: skip
_FUSED = (
    click.option("--head", type=click.Choice(_HEADS),
                 help="detection: form in which the model returns boxes; auto tells it by axes and sizes.  "
                      "[default: auto]"),
    *_RETUNED,
    click.option("--class-agnostic", is_flag=True, default=None,
                 help="detection: boxes of different classes suppress each other, too."),
    click.option("--every-class", is_flag=True, default=None,
                 help="detection: a box for each class that passes, instead of the best one of a candidate."),
    click.option("--max-detections", type=int, metavar="D",
                 help="detection: number of boxes in the outputs.  [default: 300]"),
    click.option("--candidates", type=int, metavar="K",
                 help="detection: number of candidates that suppression sees.  [default: 1000]"),
    click.option("--box-format", type=click.Choice(["xyxy", "xywh", "cxcywh"]),
                 help="detection: two corners, a corner and sizes, or centre and sizes.  [default: xyxy]"),
    click.option("--loop-free", is_flag=True, default=None,
                 help="detection: suppress without the operator Loop; at most 100 detections."),
)  # fmt: skip
NAMES: Final = (
    "head", "confidence", "iou", "class_agnostic", "every_class", "max_detections", "candidates", "box_format",
    "loop_free",
)  # fmt: skip
RETUNED_NAMES: Final = ("confidence", "iou")


def detection_options(function: _Function) -> _Function:
    """Add the options of detection to a verb that fuses; `--labels` is added by the verb."""
    for option in reversed(_FUSED):
        function = option(function)
    return function


def retuned_detection_options(function: _Function) -> _Function:
    """Add the options of detection that can be retuned."""
    for option in reversed(_RETUNED):
        function = option(function)
    return function


def detector(options: Mapping[str, Any]) -> DetectionPostProcessor:
    """Build the post-processor from the options."""
    from pp_graph.postprocessors import DetectionPostProcessor
    from pp_graph.postprocessors.class_names import read_class_names

    file = options.get("labels")
    settings = {name: options[name] for name in NAMES if options[name] is not None}
    if settings.pop("class_agnostic", False):
        settings["class_aware"] = False
    return DetectionPostProcessor(labels=() if file is None else read_class_names(file), **settings)
