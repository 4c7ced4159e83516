"""Options of `--task detection`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pp_graph.cli.classification import parse_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.postprocessors import DetectionPostProcessor

_HEADS: Final = (
    "auto",
    "yolov8",
    "yolov8-pose",
    "yolov8-obb",
    "yolov8-split",
    "yolov8-seg",
    "yolov5",
    "yolox",
    "end2end",
    "torchvision",
    "torchvision-keypoints",
    "tensorflow",
    "efficient-nms",
    "rtdetr-deploy",
    "mmdeploy",
    "detection-output",
    "yolov7-end2end",
    "yolo-nas-flat",
    "detr",
    "rtdetr",
    "rfdetr",
    "ssd",
    "yolo-nas",
    "picodet",
    "nanodet-plus",
    "ultraface",
    "ultraface-raw",
    "retinaface",
    "scrfd",
    "yunet",
    "blazeface",
    "blazeface-joined",
    "palm",
    "pose",
    "centerface",
    "centernet",
)


def _confidence(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> float | tuple[float, ...] | Path | None:
    """Parse numbers; JSON of `calibrate --boxes` is read when the names of the classes are known."""
    if text is not None and Path(text).is_file() and Path(text).read_bytes().lstrip().startswith(b"{"):
        return Path(text)
    return parse_numbers(context, parameter, text)


def _key_points(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = text.split(",")
    if len(found) != 2 or not all(each.strip().isdecimal() for each in found):
        raise click.BadParameter(f"is {text!r}, expected two whole numbers, such as 17,3.", context, parameter)
    return int(found[0]), int(found[1])


def confidence_of(given: float | Sequence[float] | Path, class_names: Sequence[str]) -> float | Sequence[float]:
    """Return the confidence of each class, read by name if it is given as JSON."""
    if not isinstance(given, Path):
        return given
    from pp_graph.postprocessors.confidence_file import read_confidence

    return read_confidence(given, class_names)


RETUNED: Final = (
    click.option("--confidence", metavar="T[,T...]|FILE", callback=_confidence,
                 help="detection: score that a detection exceeds; one for all classes, one for each, or JSON of "
                      "calibrate --boxes.  "
                      "[default: 0.25]"),
    click.option("--iou", type=float, metavar="T",
                 help="detection: overlap above which the box of the smaller score is suppressed.  [default: 0.45]"),
)  # fmt: skip
FUSED: Final = (
    click.option("--head", type=click.Choice(_HEADS),
                 help="detection: form in which the model returns boxes; auto tells it by axes and sizes.  "
                      "[default: auto]"),
    *RETUNED,
    click.option("--class-agnostic", is_flag=True, default=None,
                 help="detection: boxes of different classes suppress each other, too."),
    click.option("--every-class", is_flag=True, default=None,
                 help="detection: a box for each class that passes, instead of the best one of a candidate."),
    click.option("--max-detections", type=int, metavar="D",
                 help="detection: number of boxes in the outputs.  "
                      "[default: 300; with masks 100, or 20 of the input's size]"),
    click.option("--candidates", type=int, metavar="K",
                 help="detection: number of candidates that suppression sees.  [default: 1000]"),
    click.option("--box-format", type=click.Choice(["xyxy", "xywh", "cxcywh"]),
                 help="detection: two corners, a corner and sizes, or centre and sizes.  [default: xyxy]"),
    click.option("--key-points", metavar="J,P", callback=_key_points,
                 help="detection: number of key points of yolov8-pose, and numbers of each, 2 or 3.  "
                      "[default: as the model says]"),
    click.option("--names", type=click.Choice(["own", "efficient-nms", "model-api"]),
                 help="detection: names of the outputs; efficient-nms: num_dets, det_boxes, det_scores, "
                      "det_classes, as TensorRT's plugin; model-api: bboxes, labels, as Intel's Model API reads.  "
                      "[default: own]"),
    click.option("--mask-size", type=click.Choice(["prototypes", "input"]),
                 help="detection: size of the masks of yolov8-seg.  [default: prototypes]"),
    click.option("--anchors", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
                 help="detection: .npy or .npz of ssd's anchors, centre and size as shares of the image, (K,4)."),
    click.option("--background", type=click.Choice(["first", "last", "none"]),
                 help="detection: score of ssd that means no object.  [default: first]"),
    click.option("--variances", nargs=2, type=float,
                 help="detection: factors of ssd's deltas, of centres and of sizes.  [default: 0.1 0.2]"),
    click.option("--loop-free", is_flag=True, default=None,
                 help="detection: suppress without the operator Loop; at most 100 detections, and 100 by default."),
)  # fmt: skip
NAMES: Final = (
    "head", "confidence", "iou", "class_agnostic", "every_class", "max_detections", "candidates", "box_format",
    "loop_free", "key_points", "names", "mask_size", "anchors", "background", "variances",
)  # fmt: skip
SHARED: Final = ("thresholds", "outputs", "pack")
"""Options of anomaly models that detectors have, too."""
RETUNED_NAMES: Final = ("confidence", "iou")


def post_processor(options: Mapping[str, Any], settings: Mapping[str, Any]) -> DetectionPostProcessor:
    """Build the post-processor from the options."""
    from pp_graph.postprocessors import DetectionPostProcessor
    from pp_graph.postprocessors.class_names import read_class_names
    from pp_graph.steps.overlaps import MOST_UNROLLED

    file = options.get("labels")
    given = {name: options[name] for name in NAMES if options[name] is not None}
    if given.pop("class_agnostic", False):
        given["class_aware"] = False
    if given.get("loop_free"):
        given.setdefault("max_detections", MOST_UNROLLED)
    labels = () if file is None else read_class_names(file)
    if "confidence" in given:
        given["confidence"] = confidence_of(given["confidence"], labels)
    if "anchors" in given:
        from pp_graph.postprocessors.detection_anchors import read_anchors

        given["anchors"] = read_anchors(given["anchors"])
    shared = {name: settings[name] for name in SHARED}
    return DetectionPostProcessor(labels=labels, **shared, **given)
