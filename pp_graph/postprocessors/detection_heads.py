"""Heads of detectors as data: which outputs they have, how boxes and scores are read from them, and how to tell them.

To add one, write an entry in `HEADS`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from pp_graph.postprocessors.cell_heads import (
    DFL_BINS,
    FACE_PRIORS,
    NANODET,
    ONE_A_CELL,
    RAW_OBJECTS,
    RETINAFACE,
    TWO_A_CELL,
    ULTRAFACE,
    ULTRAFACE_PRIORS,
    face_levels,
)
from pp_graph.postprocessors.head_finding import (
    PICODET_STRIDES,
    RAW_BOXES,
    RAW_CANDIDATES,
    RAW_HEAT,
    RAW_OFFSETS,
    RAW_POINTS,
    RAW_PROTOTYPES,
    RAW_SCORES,
    RAW_SIZES,
    STRIDES,
    Reading,
    Size,
    find_apart,
    find_deltas,
    find_final,
    find_levels,
    find_maps,
    find_named_queries,
    find_parts_first,
    find_parts_last,
    find_prototypes,
    find_queries,
)
from pp_graph.postprocessors.listed_heads import (
    ANCHORED,
    CAFFE_ROWS,
    EFFICIENT_NMS,
    LISTED_QUERIES,
    SCORED_BOXES,
    TENSORFLOW,
    TORCHVISION,
    TORCHVISION_POINTS,
    YOLO_ROWS,
    find_anchored,
    find_caffe_rows,
    find_efficient_nms,
    find_flat_rows,
    find_listed_queries,
    find_scored_boxes,
    find_tensorflow,
    find_torchvision,
    find_torchvision_points,
    find_yolo_rows,
)
from pp_graph.program import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pp_graph.model import OutputInfo
    from pp_graph.steps import BoxForm


@dataclass(frozen=True)
class Head:
    """A form in which detectors return boxes.

    Attributes:
        name: Name of the head, such as `yolov8`.
        title: Models that have it, with the shapes of their outputs.
        roles: Outputs that it reads.
        find: Finds these outputs among those of a model with images of a size; None if they do not fit.
        decode: How boxes are stored: as numbers of `form`, relative to cells of a grid, as offsets from the centres of
            cells in pixels, as deltas of anchors that the user gives or of `priors`, or as distances of their sides
            from cells: in strides, or as distributions of them.
        form: Form of a decoded box.
        box_start: First of the four numbers of the box among a candidate's parts.
        class_start: First class score among a candidate's parts; None if scores are an output of their own.
        objectness: Part that multiplies the scores; None without one.
        class_part: Part that holds the class index, if there is one score a candidate; None otherwise.
        activation: Function that turns the outputs into probabilities, if the model does not end in it.
        background: Which class score means that there is no object; `option` if the user says.
        strides: Strides of the levels; those that a model has, if there are fewer.
        per_cell: Number of candidates in each cell of a level.
        cells: Number of cells in a row of each level, if it is the same for each size of images.
        centre: Centre of a cell from its corner, in strides.
        exponential: True if sizes relative to a grid are logarithms, and pairs of a map are of y, then x.
        peaks: True if only local maxima of the heat map are candidates.
        priors: Sides of the square anchors of each level in pixels.
        bins: Distances of which there are logits, where one output holds scores, then distributions; 0 otherwise.
        root: True if scores are the square root of the product of two outputs.
        normalised: True if boxes are shares of the image's width and height.
        overlapping: True if overlapping boxes must be suppressed.
        order: Place of the numbers of a detection in the outputs of a model that suppresses overlaps itself: of
            corners in its boxes, or of corners, score and class in its rows. Empty for other models.
        from_one: True if classes count from 1, and 0 is the background.
        spare: True if the last score means no object where there is one label less than scores.
        points: Where the key points of a candidate are: after its scores, after its box as offsets from its anchor, in
            a map of their own as shares of its box, y before x, or in outputs of their own as offsets from its cell in
            strides or from its prior. None without.
        oriented: True if the angle of a box comes after the scores.
        masks: True if coefficients of mask prototypes come after the scores.
        extends: Head of the same outputs without what this one returns besides boxes; None if there is none.
        task: Task in the metadata of a model of Ultralytics, if sizes alone do not tell the head.
    """

    name: str
    title: str
    roles: tuple[Role, ...]
    find: Callable[[Sequence[OutputInfo], Size], Reading | None]
    decode: Literal["corners", "grid", "anchors", "deltas", "priors", "sides", "distances"] = "corners"
    form: BoxForm = "cxcywh"
    box_start: int = 0
    class_start: int | None = 4
    objectness: int | None = None
    class_part: int | None = None
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    background: Literal["none", "first", "last", "option"] = "none"
    strides: tuple[int, ...] = ()
    per_cell: tuple[int, ...] = (1, 1, 1, 1)
    cells: tuple[int, ...] = ()
    centre: float = 0.0
    exponential: bool = True
    peaks: bool = False
    priors: tuple[tuple[int, ...], ...] = ()
    bins: int = 0
    root: bool = False
    normalised: bool = False
    overlapping: bool = True
    order: tuple[int, ...] = ()
    from_one: bool = False
    spare: bool = False
    points: Literal["parts", "anchors", "shares", "offsets"] | None = None
    oriented: bool = False
    masks: bool = False
    extends: str | None = None
    task: str | None = None

    @property
    def one_image(self) -> bool:
        """True if the outputs list the detections of one image."""
        return self.roles[0].axes[0] in ("KP", "NCKP")


def _level_roles(levels: int) -> tuple[Role, ...]:
    return tuple(
        role
        for level in range(levels)
        for role in (
            Role(f"{RAW_SCORES}_{level}", ("NKC",), required=level < 2, noun=f"class scores of level {level + 1}"),
            Role(f"{RAW_BOXES}_{level}", ("NKP",), required=level < 2, noun=f"boxes of level {level + 1}"),
        )
    )


_MAPS: Final = (
    Role(RAW_HEAT, ("NCHW",), required=True, noun="heat map"),
    Role(RAW_SIZES, ("NCHW",), {"C": 2}, required=True, noun="map of sizes"),
    Role(RAW_OFFSETS, ("NCHW",), {"C": 2}, required=True, noun="map of offsets"),
)


_LANDMARKS: Final = Role(RAW_POINTS, ("NCHW",), {"C": 10}, noun="map of key points")


_PROTOTYPES: Final = Role(RAW_PROTOTYPES, ("NCHW",), required=True, noun="prototypes of masks")


def _one_output(axes: str, pattern: str) -> tuple[Role, ...]:
    names = frozenset({"output", "output0", "outputs", "predictions", "detections"})
    return (Role(RAW_CANDIDATES, (axes,), required=True, names=names, noun="candidates", meaning=pattern),)


_QUERIES: Final = (
    Role(RAW_SCORES, ("NKC",), required=True, names=frozenset({"logits", "pred_logits", "scores"}), noun="class scores",
         meaning="a number for each candidate and class"),
    Role(RAW_BOXES, ("NKP",), {"P": 4}, required=True, names=frozenset({"boxes", "pred_boxes", "dets"}), noun="boxes",
         meaning="a box for each candidate"),
)  # fmt: skip

_APART: Final = (
    Role(RAW_SCORES, ("NCK",), required=True, noun="class scores", meaning="a number for each class and candidate"),
    Role(RAW_BOXES, ("NPK",), {"P": 4}, required=True, noun="boxes", meaning="a box for each candidate"),
)


def _listed(
    name: str,
    title: str,
    roles: tuple[Role, ...],
    find: Callable[[Sequence[OutputInfo], Size], Reading | None],
    order: tuple[int, ...],
    **further: Any,
) -> Head:
    """Head of a model that suppresses overlaps itself: its detections are joined to corners, score, class."""
    return Head(name, title, roles, find, form="xyxy", class_start=None, class_part=5, overlapping=False, order=order,
                **further)  # fmt: skip


def _anchored(name: str, title: str, cells: tuple[int, ...], per_cell: tuple[int, ...], parts: int) -> Head:
    """Head of MediaPipe: boxes and key points as offsets from the centres of cells, in pixels."""
    return Head(name, title, ANCHORED, find_anchored(cells, per_cell, parts), decode="anchors", class_start=None,
                activation="sigmoid", per_cell=per_cell, cells=cells, centre=0.5, points="anchors")  # fmt: skip


HEADS: Final[dict[str, Head]] = {
    head.name: head
    for head in (
        Head("yolov8", "YOLOv8, YOLOv9, YOLO11: (N,4+C,K)", _one_output("NPK", "parts of each candidate"),
             find_parts_first),
        Head("yolov8-pose", "YOLOv8-pose, YOLO11-pose: (N,4+C+3*J,K), J key points, as the metadata says (kpt_shape)",
             _one_output("NPK", "parts of each candidate"), find_parts_first, points="parts", extends="yolov8",
             task="pose"),
        Head("yolov8-obb", "YOLOv8-obb, YOLO11-obb: (N,4+C+1,K), the angle last, as the metadata says (task)",
             _one_output("NPK", "parts of each candidate"), find_parts_first, oriented=True, extends="yolov8",
             task="obb"),
        Head("yolov8-split", "YOLOv8, YOLOv9, YOLO11 before their Sigmoid: boxes (N,4,K) and logits (N,C,K)", _APART,
             find_apart, class_start=None, activation="sigmoid"),
        Head("yolov8-seg", "YOLOv8-seg, YOLO11-seg: (N,4+C+M,K) and prototypes of masks (N,M,H/4,W/4)",
             (*_one_output("NPK", "parts of each candidate"), _PROTOTYPES), find_prototypes, masks=True,
             extends="yolov8"),
        Head("yolov5", "YOLOv5, YOLOv7: (N,K,5+C)", _one_output("NKP", "parts of each candidate"),
             find_parts_last(3, 6), class_start=5, objectness=4),
        Head("yolox", "YOLOX: (N,K,5+C), relative to a grid", _one_output("NKP", "parts of each candidate"),
             find_parts_last(1, 6), decode="grid", class_start=5, objectness=4, strides=STRIDES),
        Head("end2end", "YOLOv10, YOLO26: (N,300,6)", _one_output("NKP", "corners, score and class of each box"),
             find_final, form="xyxy", class_start=None, class_part=5, overlapping=False),
        _listed("torchvision", "FasterRCNN, RetinaNet, SSD, FCOS of torchvision: boxes (D,4), labels, scores (D)",
                TORCHVISION, find_torchvision, (0, 1, 2, 3), from_one=True),
        _listed("torchvision-keypoints", "KeypointRCNN of torchvision: also key points (D,J,3)", TORCHVISION_POINTS,
                find_torchvision_points, (0, 1, 2, 3), from_one=True, points="parts", extends="torchvision"),
        _listed("tensorflow", "TensorFlow's Object Detection API: boxes (N,D,4), scores and classes (N,D), number (N)",
                TENSORFLOW, find_tensorflow, (1, 0, 3, 2), from_one=True, normalised=True),
        _listed("efficient-nms", "EfficientNMS: number (N,1), boxes (N,D,4), scores and classes (N,D)", EFFICIENT_NMS,
                find_efficient_nms, (0, 1, 2, 3)),
        _listed("rtdetr-deploy", "RT-DETR, D-FINE, DEIM as deployed: labels (N,D), boxes (N,D,4), scores (N,D)",
                LISTED_QUERIES, find_listed_queries, (0, 1, 2, 3)),
        _listed("mmdeploy", "RTMDet and others of MMDeploy: corners and score (N,D,5), labels (N,D)", SCORED_BOXES,
                find_scored_boxes, (0, 1, 2, 3, 4)),
        _listed("detection-output", "DetectionOutput of Caffe and OpenVINO: (1,1,D,7)", CAFFE_ROWS, find_caffe_rows,
                (3, 4, 5, 6, 2, 1), normalised=True),
        _listed("yolov7-end2end", "YOLOv7 with suppression inside: (D,7)", YOLO_ROWS, find_yolo_rows,
                (1, 2, 3, 4, 6, 5)),
        _listed("yolo-nas-flat", "YOLO-NAS with suppression inside, flat: (D,7) called flat_predictions", YOLO_ROWS,
                find_flat_rows, (1, 2, 3, 4, 5, 6)),
        Head("detr", "DETR: logits (N,K,C+1) and boxes (N,K,4), with a class for no object", _QUERIES, find_queries,
             class_start=None, activation="softmax", background="last", normalised=True, overlapping=False),
        Head("rtdetr", "RT-DETR, Deformable DETR: logits (N,K,C) and boxes (N,K,4)", _QUERIES, find_queries,
             class_start=None, activation="sigmoid", normalised=True, overlapping=False),
        Head("rfdetr", "RF-DETR: boxes (N,K,4) called dets and logits (N,K,C) called labels", _QUERIES,
             find_named_queries, class_start=None, activation="sigmoid", spare=True, normalised=True,
             overlapping=False),
        Head("ssd", "SSD: scores (N,K,C) with a background class, deltas (N,K,4) of anchors that are given", _QUERIES,
             find_deltas, decode="deltas", class_start=None, activation="softmax", background="option"),
        Head("yolo-nas", "YOLO-NAS, DAMO-YOLO: boxes (N,K,4) and scores (N,K,C)", _QUERIES, ONE_A_CELL.find_joined,
             form="xyxy", class_start=None),
        Head("picodet", "PicoDet, NanoDet: scores (N,K,C) and distances (N,K,4*B) of each level", _level_roles(4),
             find_levels("picodet"), decode="distances", class_start=None, strides=PICODET_STRIDES, centre=0.5),
        Head("nanodet-plus", "NanoDet-Plus: (N,K,C+32), scores and distances",
             _one_output("NKP", "parts of each candidate"), NANODET.find_rows, decode="distances", class_start=0,
             strides=PICODET_STRIDES, bins=DFL_BINS),
        Head("ultraface", "UltraFace: boxes (N,K,4) and scores (N,K,2)", _QUERIES, ULTRAFACE.find_ultraface,
             form="xyxy", class_start=None, activation="softmax", background="first", normalised=True),
        Head("ultraface-raw", "UltraFace without its decoding: deltas (N,K,4) and scores (N,K,2)", _QUERIES,
             ULTRAFACE.find_ultraface, decode="priors", class_start=None, activation="softmax", background="first",
             strides=PICODET_STRIDES, per_cell=ULTRAFACE.per_cell, centre=0.5, priors=ULTRAFACE_PRIORS),
        Head("retinaface", "RetinaFace: boxes (N,K,4), scores (N,K,2), key points (N,K,10)", RETINAFACE,
             TWO_A_CELL.find_retinaface, decode="priors", class_start=None, activation="softmax", background="first",
             strides=STRIDES, per_cell=(2, 2, 2), centre=0.5, priors=FACE_PRIORS, points="offsets"),
        Head("scrfd", "SCRFD: scores (N,K,1), distances (N,K,4), perhaps key points (N,K,10) of each level",
             face_levels(RAW_SCORES), TWO_A_CELL.find_scrfd, decode="sides", class_start=None, strides=STRIDES,
             per_cell=(2, 2, 2), points="offsets"),
        Head("yunet", "YuNet: scores, objectness (N,K,1), boxes (N,K,4), key points (N,K,10) of each level",
             face_levels(RAW_SCORES, RAW_OBJECTS), ONE_A_CELL.find_yunet, decode="grid", class_start=None,
             strides=STRIDES, root=True, points="offsets"),
        Head("blazeface", "BlazeFace: logits (N,512,1), (N,384,1) and boxes (N,512,16), (N,384,16)", _level_roles(2),
             find_levels("blazeface"), decode="anchors", class_start=None, activation="sigmoid", per_cell=(2, 6),
             cells=(16, 8), centre=0.5, points="anchors"),
        _anchored("blazeface-joined", "BlazeFace with its levels joined: logits (N,896,1) and boxes (N,896,16)",
                  (16, 8), (2, 6), 16),
        _anchored("palm", "MediaPipe's palm detection: logits (N,2016,1) and boxes (N,2016,18)", (24, 12), (2, 6), 18),
        _anchored("pose", "MediaPipe's pose detection: logits (N,2254,1) and boxes (N,2254,12)", (28, 14, 7),
                  (2, 2, 6), 12),
        Head("centerface", "CenterFace: heat map (N,1,H/4,W/4), sizes and offsets (N,2,H/4,W/4)", (*_MAPS, _LANDMARKS),
             functools.partial(find_maps, faces=True), decode="grid", class_start=None, strides=(4,), centre=0.5,
             points="shares"),
        Head("centernet", "CenterNet: heat map (N,C,H/4,W/4), sizes and offsets (N,2,H/4,W/4)", _MAPS,
             functools.partial(find_maps, faces=False), decode="grid", class_start=None, activation="sigmoid",
             strides=(4,), exponential=False, peaks=True, overlapping=False),
    )
}  # fmt: skip
"""All heads, by name."""
