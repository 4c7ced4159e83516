"""The steps of `DetectionPostProcessor`, from raw candidates to lists of boxes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from pp_graph.errors import PostProcessorError
from pp_graph.postprocessors.cell_heads import RAW_OBJECTS
from pp_graph.postprocessors.detection_anchors import anchors_in_pixels
from pp_graph.postprocessors.detection_heads import HEADS
from pp_graph.postprocessors.detection_parts import (
    PRIOR_VARIANCES,
    blazeface_anchors,
    default_detections,
    further_parts,
    part_steps,
    priors,
)
from pp_graph.postprocessors.head_finding import (
    RAW_BOXES,
    RAW_CANDIDATES,
    RAW_CLASSES,
    RAW_COUNT,
    RAW_HEAT,
    RAW_OFFSETS,
    RAW_POINTS,
    RAW_SCORES,
    RAW_SIZES,
    grid_levels,
)
from pp_graph.steps import (
    AnchorBoxes,
    BestClass,
    BestScore,
    ConvertBoxes,
    CountPassing,
    CountPlaces,
    DistanceBoxes,
    DivideIndices,
    ExceedsConfidence,
    ExpectedDistances,
    FlattenMap,
    FlattenScores,
    GatherCandidates,
    GridBoxes,
    JoinCandidates,
    JoinDetections,
    JoinParts,
    KeepPeaks,
    MaskScores,
    OrientBoxes,
    OrientedDistances,
    PadCandidates,
    PlacesOfPassing,
    ScaleScores,
    SelectCandidates,
    Sigmoid,
    Softmax,
    SquareRoot,
    Step,
    SuppressClose,
    SuppressOverlaps,
    TakeDetections,
    TakeParts,
    TakeRows,
)
from pp_graph.steps.candidates import NO_SCORE

if TYPE_CHECKING:
    from pp_graph.postprocessors.detection import DetectionPostProcessor
    from pp_graph.program import Signature

COCO_IDS: Final = 91
"""Scores of a detector whose classes are the ids of COCO, from 1 to 90: the last one is a class."""
_FEW: Final = 4
"""Share of the candidates up to which gathering their scores is quicker than finding the class of all: 1/4."""


def detection_steps(post: DetectionPostProcessor, raw: Signature) -> tuple[Step, ...]:
    """Choose the best candidates by their raw scores, decode these, and suppress overlaps."""
    head = HEADS[post.head]
    steps, sources = _joined(post, raw)
    scored = RAW_CANDIDATES if RAW_CANDIDATES in sources else RAW_SCORES
    if activation_of(post) == "softmax":
        steps.append(Softmax(sources[scored], "all_probabilities"))
        sources[scored] = "all_probabilities"
    steps += _masked(post, sources[scored], "")
    first = raw.get(scored) or raw.get(f"{scored}_0")
    candidates_last = RAW_HEAT in raw or (not head.order and first is not None and first.axes in ("NPK", "NCK"))
    class_first = False
    if post.every_class:
        steps += _chosen_pairs(post, raw, candidates_last=candidates_last)
    else:
        # Scores of one candidate lie far apart then: unless few are chosen, finding the class of all is quicker.
        count = raw[scored].size("K") if scored in raw else None
        class_first = candidates_last and (count is None or _FEW * post.candidates >= count)
        steps += _chosen(post, sources, scored, class_first=class_first)
    if RAW_CANDIDATES in sources:
        # Only the boxes of the chosen candidates are needed, and their scores if one candidate's lie side by side.
        start, gathered = head.box_start + (post.class_count or 0 if head.bins else 0), f"chosen_{RAW_CANDIDATES}"
        stop = None if head.bins else start + 4
        if class_first or post.every_class:
            steps.append(TakeParts(sources[scored], "box_parts", start, stop))
            steps.append(GatherCandidates("box_parts", f"chosen_{RAW_BOXES}", "order"))
        else:
            steps.append(TakeParts(gathered, f"chosen_{RAW_BOXES}", start, stop))
    else:
        steps.append(GatherCandidates(sources[RAW_BOXES], f"chosen_{RAW_BOXES}", "order"))
    if head.oriented:
        place = (head.class_start or 0) + (post.class_count or 0)
        steps.append(TakeParts(sources[scored], "angles", place, place + 1))
        steps.append(GatherCandidates("angles", "chosen_angles", "order"))
    return (*steps, *_boxes(post, raw), *_kept(post), *part_steps(post, raw, sources))


def _chosen(post: DetectionPostProcessor, sources: dict[str, str], scored: str, *, class_first: bool) -> list[Step]:
    """Choose the best candidates, and find their classes, before or after choosing."""
    head = HEADS[post.head]
    steps: list[Step] = []
    best = "scores_that_pass"
    if head.class_part is None:
        best = "best"
        steps.append(BestScore("scores_that_pass", best))
    steps += [
        CountPassing(best, "candidates"),
        SelectCandidates(best, "order", post.candidates),
        GatherCandidates(best, "chosen_best", "order"),
    ]
    if class_first:
        steps.append(BestClass("scores_that_pass", "best_classes", "best"))
        return [*steps, GatherCandidates("best_classes", "chosen_classes", "order")]
    steps.append(GatherCandidates(sources[scored], f"chosen_{scored}", "order"))
    if head.class_part is not None:
        part = head.class_part
        return [*steps, TakeParts(f"chosen_{scored}", "chosen_classes", part, part + 1)]
    steps += _masked(post, f"chosen_{scored}", "chosen_")
    return [*steps, BestClass("chosen_scores_that_pass", "chosen_classes", "chosen_best")]


def _kept(post: DetectionPostProcessor) -> list[Step]:
    """Suppress overlaps among the chosen boxes, and write the outputs."""
    head, most = HEADS[post.head], post.max_detections or default_detections(post)
    steps: list[Step] = []
    scores = "chosen_best"
    if activation_of(post) == "sigmoid" and not head.root:
        scores = "chosen_scores"
        steps.append(Sigmoid("chosen_best", scores, "normal"))
    if head.root:
        scores = "chosen_scores"
        steps.append(SquareRoot("chosen_best", scores))
    classes = "chosen_classes" if post.class_aware else None
    if head.oriented:
        steps += [
            OrientedDistances("chosen_boxes", "chosen_distances"),
            SuppressClose("chosen_distances", "kept", "chosen_boxes", "chosen_best", most, post.iou, classes),
        ]
    elif head.overlapping:
        steps.append(
            SuppressOverlaps(
                "chosen_boxes",
                "kept",
                "chosen_best",
                most,
                post.iou,
                classes,
                post.loop_free,
                runtime=post.thresholds == "runtime",
            )
        )
    else:
        steps.append(PlacesOfPassing("chosen_best", "kept", most))
    corners = "boxes" if post.box_format == "xyxy" else "corners"
    steps += [
        TakeDetections("chosen_boxes", corners, "kept"),
        TakeDetections(scores, "scores", "kept"),
        TakeDetections("chosen_classes", "classes", "kept", padding=-1.0, whole=True),
        CountPlaces("kept", "count"),
    ]
    if post.box_format != "xyxy":
        steps.append(ConvertBoxes(corners, "boxes", "xyxy", post.box_format))
    return steps


def activation_of(post: DetectionPostProcessor) -> str:
    """Function that turns scores into probabilities."""
    return post.activation or HEADS[post.head].activation


def class_count(post: DetectionPostProcessor, raw: Signature) -> int | None:
    """Number of class scores of a candidate; None if open."""
    head = HEADS[post.head]
    role = next(name for name in (RAW_CANDIDATES, RAW_SCORES, f"{RAW_SCORES}_0", RAW_HEAT) if name in raw)
    found = raw[role].size("P" if head.class_start is not None else "C")
    further = further_parts(post, raw)
    unknown = found is None or further is None
    background = background_of(post) != "none"
    count = None if unknown else found - (head.class_start or 0) - background - further  # type: ignore[operator]
    given = post.class_count
    return given if given is not None and count is not None and given <= count else count


def background_of(post: DetectionPostProcessor) -> str:
    """Which of the class scores means that there is no object: `first`, `last` or `none`."""
    background = HEADS[post.head].background
    return post.background if background == "option" else background


def _chosen_pairs(post: DetectionPostProcessor, raw: Signature, *, candidates_last: bool) -> list[Step]:
    """Choose the best pairs of candidate and class."""
    divisor = class_count(post, raw)
    if candidates_last:
        sizes = [value.map_size or (value.size("K"),) for value in raw.values()]
        divisor = None if None in sizes[0] else math.prod(size or 0 for size in sizes[0])
    if divisor is None:
        raise PostProcessorError(
            f"every_class is True, and the number of candidates of {next(iter(raw.values()))} is open, expected a "
            "known one. Export the model with fixed sizes."
        )
    return [
        FlattenScores("scores_that_pass", "pairs"),
        CountPassing("pairs", "candidates"),
        SelectCandidates("pairs", "order_of_pairs", post.candidates),
        GatherCandidates("pairs", "chosen_best", "order_of_pairs"),
        DivideIndices("order_of_pairs", "order", divisor, remainder=candidates_last),
        DivideIndices("order_of_pairs", "chosen_classes", divisor, remainder=not candidates_last, number=True),
    ]


def _joined(post: DetectionPostProcessor, raw: Signature) -> tuple[list[Step], dict[str, str]]:
    """Join levels and maps to one list of candidates; return its values by role."""
    head = HEADS[post.head]
    if RAW_HEAT in raw:
        order = (1, 0, 3, 2) if head.exponential else (0, 1, 2, 3)
        peaks: list[Step] = [KeepPeaks(RAW_HEAT, "peaks")] if head.peaks else []
        return [
            *peaks,
            FlattenMap("peaks" if head.peaks else RAW_HEAT, "scores_of_pixels"),
            FlattenMap(RAW_OFFSETS, "offsets_of_pixels", parts=True),
            FlattenMap(RAW_SIZES, "sizes_of_pixels", parts=True),
            JoinParts("offsets_of_pixels", "boxes_of_pixels", "sizes_of_pixels", order),
        ], {RAW_SCORES: "scores_of_pixels", RAW_BOXES: "boxes_of_pixels"}
    if f"{RAW_SCORES}_0" in raw:
        joined: list[Step] = []
        sources = {}
        for role in (RAW_SCORES, RAW_BOXES, RAW_OBJECTS, RAW_POINTS):
            levels = [name for name in raw if name.startswith(f"{role}_")]
            if levels:
                joined.append(JoinCandidates(levels[0], f"{role[4:]}_of_levels", tuple(levels[1:])))
                sources[role] = f"{role[4:]}_of_levels"
        if head.root and activation_of(post) == "sigmoid":
            for role in (RAW_SCORES, RAW_OBJECTS):
                joined.append(Sigmoid(sources[role], f"{role[4:]}_probabilities", "normal"))
                sources[role] = f"{role[4:]}_probabilities"
        if RAW_OBJECTS in sources:
            joined.append(TakeParts(sources[RAW_OBJECTS], "objectness", 0, 1))
            joined.append(ScaleScores(sources[RAW_SCORES], "products", "objectness"))
            sources[RAW_SCORES] = "products"
        return joined, sources
    if head.order:
        return _listed(post, raw)
    if all(value.size("K") is not None for value in raw.values()):
        return [], {name: name for name in raw}
    if activation_of(post) == "softmax":
        raise PostProcessorError(
            f"The number of candidates of {next(iter(raw.values()))} is open, expected a known one for head "
            f"'{head.name}'. Export the model with its output shapes."
        )
    # An open number of candidates may be smaller than the number to select.
    padding = 0.0 if activation_of(post) == "none" else float(NO_SCORE)
    padded: list[Step] = [PadCandidates(name, f"{name}_padded", post.candidates, padding) for name in raw]
    return padded, {name: f"{name}_padded" for name in raw}


def _listed(post: DetectionPostProcessor, raw: Signature) -> tuple[list[Step], dict[str, str]]:
    """Arrange what a model lists after its own suppression as (N,K,6), and pad it: there may be no detection at all."""
    order = HEADS[post.head].order
    rows = RAW_CANDIDATES in raw
    count, points = (name if name in raw else None for name in (RAW_COUNT, RAW_POINTS))
    arranged: Step = (
        TakeRows(RAW_CANDIDATES, "listed", order)
        if rows
        else JoinDetections(
            RAW_BOXES, "listed", RAW_SCORES if RAW_SCORES in raw else None, RAW_CLASSES, count, points, order
        )
    )
    one_image = HEADS[post.head].one_image
    known = raw[RAW_CANDIDATES if rows else RAW_BOXES].size("K")
    if known is not None and not one_image:
        return [arranged], {RAW_CANDIDATES: "listed"}
    return [arranged, PadCandidates("listed", "padded", post.candidates)], {RAW_CANDIDATES: "padded"}


def _masked(post: DetectionPostProcessor, source: str, prefix: str) -> list[Step]:
    """Find the passing scores among the parts of candidates."""
    head = HEADS[post.head]
    steps: list[Step] = []
    scores = f"{prefix}class_scores"
    if head.class_part is not None:
        steps.append(TakeParts(source, scores, head.class_part - 1, head.class_part))
    elif head.class_start is not None:
        stop = None if post.class_count is None else head.class_start + post.class_count
        steps.append(TakeParts(source, scores, head.class_start, stop, classes=True))
    elif background_of(post) == "first":
        steps.append(TakeParts(source, scores, 1, classes=True))
    elif background_of(post) == "last":
        steps.append(TakeParts(source, scores, 0, -1, classes=True))
    elif head.spare and post.class_count is not None:
        steps.append(TakeParts(source, scores, 0, post.class_count, classes=True))
    else:
        scores = source
    if head.objectness is not None:
        steps.append(TakeParts(source, f"{prefix}objectness", head.objectness, head.objectness + 1))
        steps.append(ScaleScores(scores, f"{prefix}products", f"{prefix}objectness"))
        scores = f"{prefix}products"
    compared = scores
    if activation_of(post) == "sigmoid" and not head.root:
        compared = f"{prefix}probabilities"
        steps.append(Sigmoid(scores, compared, "normal"))
    if head.root:
        compared = f"{prefix}roots"
        steps.append(SquareRoot(scores, compared))
    levels = post.confidence if isinstance(post.confidence, tuple) else (post.confidence,)
    runtime = post.thresholds == "runtime"
    steps.append(ExceedsConfidence(compared, f"{prefix}passing", levels, runtime=runtime))
    steps.append(MaskScores(scores, f"{prefix}scores_that_pass", f"{prefix}passing"))
    return steps


def _boxes(post: DetectionPostProcessor, raw: Signature) -> list[Step]:
    """Decode the boxes of the chosen candidates."""
    head = HEADS[post.head]
    source = f"chosen_{RAW_BOXES}"
    if head.oriented:
        return [OrientBoxes(source, "chosen_boxes", "chosen_angles")]
    steps: list[Step] = []
    if head.decode == "distances":
        steps.append(ExpectedDistances(source, "chosen_distances"))
        source = "chosen_distances"
    elif head.decode == "anchors":
        steps.append(TakeParts(source, "chosen_parts", head.box_start, head.box_start + 4))
        source = "chosen_parts"
    if raw.input_size is None and (head.decode != "corners" or head.normalised):
        raise PostProcessorError(
            f"The size of the model's images is unknown, expected a known one: head '{head.name}' returns boxes "
            "relative to it. Give it with input_size=(640, 640) (--input-size 640x640), or export the model with a "
            "fixed height and width."
        )
    height, width = raw.input_size or (1, 1)
    if head.decode == "corners":
        scale = (float(width), float(height)) if head.normalised else (1.0, 1.0)
        return [*steps, ConvertBoxes(source, "chosen_boxes", head.form, scale=scale)]
    if head.decode == "deltas":
        if post.anchors is None:
            raise PostProcessorError(
                f"anchors are missing, expected those of head '{head.name}': centre and size of each as shares of the "
                "image. Give anchors=numpy.load(...) (--anchors FILE.npy)."
            )
        given = anchors_in_pixels(post.anchors, height, width)
        _check_count(post, raw, len(given))
        listed = tuple((float(x), float(y), float(w), float(h)) for x, y, w, h in given)
        return [*steps, AnchorBoxes(source, "chosen_boxes", "order", listed, post.variances)]
    if head.decode == "anchors":
        anchors = tuple((x, y, 1.0, 1.0) for x, y in blazeface_anchors(head, height))
        _check_count(post, raw, len(anchors))
        return [*steps, AnchorBoxes(source, "chosen_boxes", "order", anchors, (1.0, 1.0), exponential=False)]
    count = sum(name.startswith(f"{RAW_SCORES}_") for name in raw) or len(head.strides)
    levels = grid_levels((height, width), head.strides[:count])
    counts = [rows * columns * each for (rows, columns, _), each in zip(levels, head.per_cell, strict=False)]
    _check_count(post, raw, sum(counts))
    if head.decode == "priors":
        listed = tuple((float(x), float(y), float(w), float(h)) for x, y, w, h in priors(head, (height, width)))
        return [*steps, AnchorBoxes(source, "chosen_boxes", "order", listed, PRIOR_VARIANCES)]
    if head.decode in ("sides", "distances"):
        return [*steps, DistanceBoxes(source, "chosen_boxes", "order", levels, head.centre, head.per_cell[0])]
    if RAW_HEAT in raw:
        # The parts are in the order (N,4,K).
        steps.append(ConvertBoxes(source, "chosen_parts", "xyxy"))
        source = "chosen_parts"
    return [*steps, GridBoxes(source, "chosen_boxes", "order", levels, head.centre, head.exponential)]


def _check_count(post: DetectionPostProcessor, raw: Signature, cells: int) -> None:
    """Raise unless there are as many candidates as cells of a grid."""
    scored = [value for name, value in raw.items() if name.startswith((RAW_SCORES, RAW_CANDIDATES, RAW_HEAT))]
    counts = [value.size("K") if value.map_size is None else math.prod(value.map_size) for value in scored]
    found = None if None in counts else sum(count or 0 for count in counts)
    if found != cells:
        height, width = raw.input_size or (0, 0)
        number = "an open number of" if found is None else f"{found:,}"
        raise PostProcessorError(
            f"{', '.join(map(str, scored))} holds {number} candidates, expected {cells:,} of head '{post.head}' "
            f"for images of {height}x{width} pixels. Export the model with fixed sizes, or name the head that it "
            "has (--head)."
        )
