"""Random steps on candidates and boxes with their inputs, and a graph of one step with several inputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import strategies as st

from pp_graph.model import NameScope
from pp_graph.steps import (
    AnchorBoxes,
    BestClass,
    BestScore,
    ConvertBoxes,
    CountPassing,
    CountPlaces,
    CropMasks,
    DistanceBoxes,
    DivideIndices,
    Emitter,
    ExceedsConfidence,
    ExpectedDistances,
    FlattenMap,
    FlattenScores,
    FoundPlaces,
    GatherCandidates,
    GridBoxes,
    JoinCandidates,
    JoinDetections,
    JoinParts,
    KeepPeaks,
    KeyPoints,
    MaskLogits,
    MaskScores,
    OrientBoxes,
    OrientedDistances,
    PadCandidates,
    PlacesOfPassing,
    ScaleScores,
    SelectCandidates,
    Sigmoid,
    Step,
    SuppressClose,
    SuppressOverlaps,
    TakeDetections,
    TakeParts,
    TakeRows,
)
from pp_graph.steps.candidates import NO_SCORE
from pp_graph.values import ValueType

F32 = np.float32
Arrays = tuple[np.ndarray, ...]


def bound(step: Step, axes: list[str], arrays: Arrays) -> Step:
    """Bind a step to arrays of these axes."""
    names = {"float32": "float32", "bool": "bool", "int64": "int64"}
    kinds = [
        ValueType(name, (None, *array.shape[1:]), names[array.dtype.name])  # type: ignore[arg-type]
        for name, array in zip(axes, arrays, strict=True)
    ]
    return step.bind(*kinds)


def emit(step: Step, arrays: Arrays, opset: int = 17) -> onnx.ModelProto:
    values = [
        ir.Value(
            name=f"x{place}",
            shape=ir.Shape(["N", *array.shape[1:]]),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        )
        for place, array in enumerate(arrays)
    ]
    graph = ir.Graph(values, [], nodes=[], opset_imports={"": opset}, name="step")
    op = Emitter(graph, opset=opset, ir_version=8, names=NameScope(graph), prefix="pp_graph")
    with op.scope(step.target):
        value = step.emit(op, *values)
        # A program gives a step that returns its input a value of its own.
        value = op.unchanged(value) if value in values else value
    graph.outputs.append(value)
    value.name = "y"
    proto = ir.to_proto(ir.Model(graph, ir_version=8))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def scores(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Scores that often tie, with NaN and infinities."""
    x = (rng.integers(0, 9, shape) / 8).astype(F32)
    x[rng.random(shape) < 0.3] = rng.random()
    x[rng.random(shape) < 0.05] = rng.choice(np.array([np.nan, np.inf, -np.inf, -0.0], F32))
    return x


def best(rng: np.random.Generator, count: int) -> np.ndarray:
    x = np.nan_to_num(scores(rng, (3, count)), nan=0.5, neginf=-4)
    x[rng.random(x.shape) < 0.3] = NO_SCORE
    x[0] = NO_SCORE if rng.random() < 0.2 else x[0]
    return x


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Corners of boxes that often touch, repeat, have no area, or hold NaN."""
    low = rng.integers(0, 12, (3, count, 2)).astype(F32)
    size = rng.integers(0, 8, (3, count, 2)).astype(F32) * F32(rng.choice([1.0, 1 / 3]))
    found = np.concatenate([low, low + size], axis=2)
    found[rng.random(found.shape) < 0.01] = rng.choice(np.array([np.nan, np.inf, -np.inf, 1e30], F32))
    return found


def places(rng: np.random.Generator, count: int, found: int) -> np.ndarray:
    return rng.integers(-1, count, (3, found))


Draw = Callable[[st.DataObject, np.random.Generator], tuple[Step, Arrays]]


def _layout(data: st.DataObject, second: str) -> str:
    return data.draw(st.sampled_from([f"NK{second}", f"N{second}K"]))


def _shaped(axes: str, **sizes: int) -> tuple[int, ...]:
    return tuple({"N": 3, **sizes}[axis] for axis in axes)


def take_parts(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = _layout(data, "P")
    start = data.draw(st.integers(0, 5))
    stop = data.draw(st.none() | st.integers(start + 1, 6))
    x = rng.normal(0, 1, _shaped(axes, K=7, P=6)).astype(F32)
    return bound(TakeParts("x", "y", start, stop, data.draw(st.booleans())), [axes], (x,)), (x,)


def scale(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = _layout(data, "C")
    arrays = scores(rng, _shaped(axes, K=9, C=4)), rng.random((3, 9)).astype(F32)
    return bound(ScaleScores("x", "y", "f"), [axes, "NK"], arrays), arrays


def exceeds(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = data.draw(st.sampled_from(["NKC", "NCK", "NK"]))
    one = st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0]) | st.floats(0, 1, width=32, allow_subnormal=False)
    confidence = data.draw(st.lists(one, min_size=4, max_size=4) if axes != "NK" and rng.random() < 0.5 else one)
    given = tuple(confidence) if isinstance(confidence, list) else (confidence,)
    normalizer = data.draw(st.sampled_from([None, Sigmoid("x", "y", "normal")]))
    x = scores(rng, _shaped(axes, K=9, C=4))
    step = bound(ExceedsConfidence("x", "y", given, normalizer), [axes], (x,))
    cutoffs = np.broadcast_to(np.nan_to_num(step.cutoffs, nan=1.0), x.shape[1:])  # type: ignore[attr-defined]
    x[0], x[1] = cutoffs, np.nextafter(cutoffs, F32(-np.inf))
    x[np.abs(x) < 1.2e-38] = 0
    return step, (x,)


def mask_scores(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = data.draw(st.sampled_from(["NKC", "NCK", "NK"]))
    x = scores(rng, _shaped(axes, K=9, C=4))
    arrays = x, x > F32(0.3)
    return bound(MaskScores("x", "y", "p"), [axes, axes], arrays), arrays


def _masked(axes: str, rng: np.random.Generator) -> np.ndarray:
    x = scores(rng, _shaped(axes, K=9, C=4))
    return np.where(x > F32(0.3), x, NO_SCORE)


def best_score(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = _layout(data, "C")
    x = _masked(axes, rng)
    return bound(BestScore("x", "y"), [axes], (x,)), (x,)


def best_class(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = _layout(data, "C")
    x = _masked(axes, rng)
    arrays = x, x.max(axis=axes.index("C"))
    return bound(BestClass("x", "y", "b"), [axes, "NK"], arrays), arrays


def count_passing(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    del data
    x = best(rng, 9)
    return bound(CountPassing("x", "y"), ["NK"], (x,)), (x,)


def select(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    x = best(rng, data.draw(st.sampled_from([1, 5, 60, 300])))
    return bound(SelectCandidates("x", "y", data.draw(st.integers(1, 70))), ["NK"], (x,)), (x,)


def gather(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = data.draw(st.sampled_from(["NK", "NKP", "NPK", "NKC", "NCK"]))
    arrays = rng.normal(0, 1, _shaped(axes, K=9, P=4, C=3)).astype(F32), rng.integers(0, 9, (3, 5))
    return bound(GatherCandidates("x", "y", "p"), [axes, "NK"], arrays), arrays


def convert(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = _layout(data, "P")
    forms = st.sampled_from(["xyxy", "xywh", "cxcywh"])
    scale = data.draw(st.sampled_from([(1.0, 1.0), (640.0, 480.0)]))
    x = rng.normal(5, 9, _shaped(axes, K=9, P=4)).astype(F32)
    return bound(ConvertBoxes("x", "y", data.draw(forms), data.draw(forms), scale), [axes], (x,)), (x,)


def suppress(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    count = data.draw(st.sampled_from([1, 8, 40]))
    arrays: Arrays = boxes(rng, count), -np.sort(-best(rng, count), axis=1)
    classes = data.draw(st.sampled_from([None, "classes"]))
    if classes is not None:
        arrays = (*arrays, rng.integers(0, 3, (3, count)).astype(F32))
    iou = data.draw(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1, width=32, allow_subnormal=False))
    loop_free = data.draw(st.booleans())
    most = data.draw(st.integers(1, 6 if loop_free else 50))
    step = SuppressOverlaps("x", "y", "s", most, iou, classes, loop_free)
    return bound(step, ["NKP", *["NK"] * (len(arrays) - 1)], arrays), arrays


def passing_places(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    x = -np.sort(-best(rng, 9), axis=1)
    return bound(PlacesOfPassing("x", "y", data.draw(st.integers(1, 12))), ["NK"], (x,)), (x,)


def take_detections(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = data.draw(st.sampled_from(["NK", "NKP"]))
    whole = data.draw(st.booleans())
    x = rng.normal(0, 30, _shaped(axes, K=9, P=4)).astype(F32)
    arrays = np.round(x) if whole else x, places(rng, 9, 6)
    padding = data.draw(st.sampled_from([0.0, -1.0]))
    return bound(TakeDetections("x", "y", "p", padding, whole), [axes, "NK"], arrays), arrays


def count_places(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    del data
    x = places(rng, 9, 6)
    return bound(CountPlaces("x", "y"), ["NK"], (x,)), (x,)


def join(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = data.draw(st.sampled_from(["NKP", "NPK", "NKC", "NCK"]))
    counts = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    if data.draw(st.booleans()):
        axes = data.draw(st.sampled_from(["KP", "KC"]))
        listed = tuple(rng.normal(0, 1, (count, 4)).astype(F32) for count in counts)
        others = tuple(f"x{place}" for place in range(1, len(counts)))
        return bound(JoinCandidates("x", "y", others), [axes] * len(counts), listed), listed
    arrays = tuple(rng.normal(0, 1, _shaped(axes, K=count, P=4, C=3)).astype(F32) for count in counts)
    others = tuple(f"x{place}" for place in range(1, len(counts)))
    return bound(JoinCandidates("x", "y", others), [axes] * len(counts), arrays), arrays


def pad(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = data.draw(st.sampled_from(["NKP", "NPK", "NKC", "NCK"]))
    x = rng.normal(0, 1, _shaped(axes, K=7, P=4, C=3)).astype(F32)
    return bound(PadCandidates("x", "y", 5, data.draw(st.sampled_from([0.0, -(2.0**126)]))), [axes], (x,)), (x,)


def join_detections(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    count = data.draw(st.sampled_from([0, 7]))
    if data.draw(st.booleans()):
        arrays: Arrays = boxes(rng, 7), scores(rng, (3, 7)), rng.integers(0, 9, (3, 7))
        if data.draw(st.booleans()):
            arrays = np.concatenate([arrays[0], arrays[1][..., None]], 2), arrays[2]
            return bound(JoinDetections("x", "y", None, "c", order=(0, 1, 2, 3, 4)), ["NKP", "NK"], arrays), arrays
        counts = rng.integers(0, 9, 3).astype(F32)
        return bound(JoinDetections("x", "y", "s", "c", "n", None, (1, 0, 3, 2)), ["NKP", "NK", "NK", "N"],
                     (*arrays, counts)), (*arrays, counts)  # fmt: skip
    arrays = boxes(rng, count)[0], scores(rng, (count,)), rng.integers(0, 9, count).astype(F32)
    if data.draw(st.booleans()):
        return bound(JoinDetections("x", "y", "s", "c"), ["KP", "K", "K"], arrays), arrays
    arrays = (*arrays, rng.normal(0, 9, (count, 5, 3)).astype(F32))
    return bound(JoinDetections("x", "y", "s", "c", None, "p"), ["KP", "K", "K", "KJP"], arrays), arrays


def take_rows(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    x = rng.normal(0, 9, (3, 1, 8, 7)).astype(F32)
    x[..., 0] = rng.choice(np.array([0, 0, 0, -1], F32), (3, 1, 8))
    axes = data.draw(st.sampled_from(["NCKP", "KP"]))
    x = x if axes == "NCKP" else x[0, 0, : data.draw(st.sampled_from([0, 8]))]
    return bound(TakeRows("x", "y", (3, 4, 5, 6, 2, 1)), [axes], (x,)), (x,)


LEVELS = ((4, 6, 8), (2, 3, 16))


def _placed(step: Step, rng: np.random.Generator) -> tuple[Step, Arrays]:
    arrays = rng.normal(0, 1, (3, 9, 4)).astype(F32), rng.integers(0, 30, (3, 9))
    return bound(step, ["NKP", "NK"], arrays), arrays


def grid_boxes(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    return _placed(GridBoxes("x", "y", "p", LEVELS, exponential=data.draw(st.booleans())), rng)


def anchor_boxes(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    anchors = tuple(map(tuple, rng.uniform(1, 40, (30, 4)).tolist()))
    return _placed(AnchorBoxes("x", "y", "p", anchors, exponential=data.draw(st.booleans())), rng)


def distance_boxes(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    centre, per_cell = data.draw(st.sampled_from([0.0, 0.5])), data.draw(st.sampled_from([1, 2]))
    return _placed(DistanceBoxes("x", "y", "p", LEVELS, centre, per_cell), rng)


def expected_distances(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = _layout(data, "P")
    x = rng.normal(0, 4, _shaped(axes, K=7, P=4 * data.draw(st.integers(2, 9)))).astype(F32)
    return bound(ExpectedDistances("x", "y"), [axes], (x,)), (x,)


def flatten(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    x = rng.normal(0, 1, (3, 4, 5, 6)).astype(F32)
    return bound(FlattenMap("x", "y", data.draw(st.booleans())), ["NCHW"], (x,)), (x,)


def join_parts(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = _layout(data, "P")
    arrays = tuple(rng.normal(0, 1, _shaped(axes, K=7, P=parts)).astype(F32) for parts in (2, 3))
    return bound(JoinParts("x", "y", "z", (1, 0, 4)), [axes, axes], arrays), arrays


def flatten_scores(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = _layout(data, "C")
    x = scores(rng, _shaped(axes, K=9, C=4))
    return bound(FlattenScores("x", "y"), [axes], (x,)), (x,)


def divide_indices(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    divisor = data.draw(st.integers(1, 90))
    x = rng.integers(0, 2**22, (3, 9))
    x[0] = divisor * rng.integers(0, 2**22 // divisor, 9) - rng.integers(0, 2, 9) * (divisor > 1)
    x = np.maximum(x, 0)
    step = DivideIndices("x", "y", divisor, data.draw(st.booleans()), data.draw(st.booleans()))
    return bound(step, ["NK"], (x,)), (x,)


def peaks(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    del data
    x = scores(rng, (3, 2, 7, 5))
    return bound(KeepPeaks("x", "y"), ["NCHW"], (x,)), (x,)


def found_places(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    del data
    arrays = rng.integers(0, 90, (3, 9)), places(rng, 9, 6)
    return bound(FoundPlaces("x", "y", "k"), ["NK", "NK"], arrays), arrays


def key_points(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = _layout(data, "P")
    kind = data.draw(st.sampled_from(["plain", "boxes", "places"]))
    numbers = data.draw(st.sampled_from([2, 3])) if kind == "plain" else 2
    arrays: Arrays = rng.normal(0, 30, _shaped(axes, K=6, P=5 * numbers)).astype(F32), places(rng, 9, 6)
    y_first = numbers == 2 and data.draw(st.booleans())
    if kind == "plain":
        return bound(KeyPoints("x", "y", "k", numbers, y_first), [axes, "NK"], arrays), arrays
    if kind == "boxes":
        arrays = (*arrays, rng.normal(0, 30, (3, 6, 4)).astype(F32))
        return bound(KeyPoints("x", "y", "k", y_first=y_first, boxes="b"), [axes, "NK", "NKP"], arrays), arrays
    # x, y, and possibly a unit.
    anchors = tuple(map(tuple, rng.normal(0, 30, (30, data.draw(st.sampled_from([2, 3])))).tolist()))
    arrays = (*arrays, rng.integers(0, 30, (3, 6)))
    step = KeyPoints("x", "y", "k", y_first=y_first, places="p", anchors=anchors)
    return bound(step, [axes, "NK", "NK"], arrays), arrays


def mask_logits(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = _layout(data, "P")
    arrays = rng.normal(0, 1, _shaped(axes, K=6, P=12)).astype(F32), rng.normal(0, 1, (3, 8, 5, 7)).astype(F32)
    return bound(MaskLogits("x", "y", "p", data.draw(st.integers(0, 4))), [axes, "NCHW"], arrays), arrays


def crop_masks(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    x = rng.integers(-2, 3, (3, 6, 9, 12)).astype(F32)
    x[rng.random(x.shape) < 0.1] = np.nan
    scale = data.draw(st.sampled_from([(1.0, 1.0), (0.25, 0.25), (12 / 50, 9 / 37)]))
    arrays = x, np.nan_to_num(boxes(rng, 6))
    return bound(CropMasks("x", "y", "b", scale), ["NKHW", "NKP"], arrays), arrays


def oriented(rng: np.random.Generator, count: int) -> np.ndarray:
    """Oriented boxes around few objects, some equal, of moderate size."""
    centre, size = rng.uniform(0, 60, (3, count, 2)), rng.uniform(3, 30, (3, count, 2))
    found = np.concatenate([centre, size, rng.uniform(-0.78, 2.35, (3, count, 1))], 2).astype(F32)
    found[:, ::3] = found[:, :1]
    return found


def orient(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    axes = _layout(data, "P")
    arrays = rng.normal(5, 9, _shaped(axes, K=9, P=4)).astype(F32), rng.uniform(-7, 7, (3, 9)).astype(F32)
    arrays[1][0, :2] = 0, np.nan
    return bound(OrientBoxes("x", "y", "a"), [axes, "NK"], arrays), arrays


def oriented_distances(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    del data
    x = oriented(rng, 12)
    return bound(OrientedDistances("x", "y"), ["NKP"], (x,)), (x,)


def suppress_close(data: st.DataObject, rng: np.random.Generator) -> tuple[Step, Arrays]:
    count = data.draw(st.sampled_from([1, 8, 40]))
    x, scored = oriented(rng, count), -np.sort(-best(rng, count), axis=1)
    x[rng.random(x.shape) < 0.01] = np.nan
    iou = data.draw(st.floats(0, 1, width=32, allow_subnormal=False))
    distances = OrientedDistances("x", "y").reference(x)
    distances[rng.random(distances.shape) < 0.1] = SuppressClose("x", "y", "b", "s", 1, iou).limit
    arrays: Arrays = distances, x, scored
    classes = data.draw(st.sampled_from([None, "classes"]))
    if classes is not None:
        arrays = (*arrays, rng.integers(0, 3, (3, count)).astype(F32))
    step = SuppressClose("x", "y", "b", "s", data.draw(st.integers(1, 50)), iou, classes)
    return bound(step, ["NKP", "NKP", *["NK"] * (len(arrays) - 2)], arrays), arrays


def assert_agrees(step: Step, arrays: list[np.ndarray] | tuple[np.ndarray, ...], found: np.ndarray) -> None:
    """Compare a runtime's output with the reference: to the bit, or where exponentials are decoded, to 1e-5."""
    expected = step.reference(*arrays)
    assert found.dtype == expected.dtype
    if step.exact:
        assert np.array_equal(found, expected, equal_nan=found.dtype.kind == "f")
    else:
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-4, equal_nan=True)


DETECTION_STEPS: dict[type[Step], Draw] = {
    TakeParts: take_parts,
    ScaleScores: scale,
    ExceedsConfidence: exceeds,
    MaskScores: mask_scores,
    BestScore: best_score,
    BestClass: best_class,
    CountPassing: count_passing,
    SelectCandidates: select,
    GatherCandidates: gather,
    ConvertBoxes: convert,
    SuppressOverlaps: suppress,
    PlacesOfPassing: passing_places,
    TakeDetections: take_detections,
    CountPlaces: count_places,
    JoinCandidates: join,
    JoinDetections: join_detections,
    TakeRows: take_rows,
    PadCandidates: pad,
    GridBoxes: grid_boxes,
    AnchorBoxes: anchor_boxes,
    DistanceBoxes: distance_boxes,
    ExpectedDistances: expected_distances,
    FlattenMap: flatten,
    JoinParts: join_parts,
    FlattenScores: flatten_scores,
    DivideIndices: divide_indices,
    KeepPeaks: peaks,
    FoundPlaces: found_places,
    KeyPoints: key_points,
    MaskLogits: mask_logits,
    CropMasks: crop_masks,
    OrientBoxes: orient,
    OrientedDistances: oriented_distances,
    SuppressClose: suppress_close,
}
