"""Options of classifiers, segmentation models, regions and sequences together, all pairs of them, against NumPy.

The references start from the raw output that the same runtime returns, in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from scipy.ndimage import gaussian_filter, label

import pp_graph as pp
from pp_graph.raw_values import open_raw_values
from tests.classifiers import classifier, images
from tests.models import identity_model
from tests.pairwise import Row, described, pairwise

RUNTIMES = ("onnxruntime", "f32", "bf16", "f16")
SOFTMAX_ERROR = 1e-6
"""Documented bound of the difference of a softmax between runtimes."""
RNG = np.random.default_rng(3)


def run(proto: onnx.ModelProto, post: Any, feeds: dict[str, np.ndarray], runtime: str) -> tuple[Any, np.ndarray]:
    """Return the outputs and the raw value that the runtime decided about."""
    artifact: Any = pp.fuse(proto, post)
    precision = None if runtime == "onnxruntime" else "bf16" if runtime == "bf16" else "f32"
    if precision is not None:
        artifact = pp.convert(artifact, precision="f16" if runtime == "f16" else "f32")
    raw = open_raw_values(artifact, inference_precision=precision).run(feeds)
    (role,) = artifact.provenance.raw.read
    return artifact.session(precision=precision).run(feeds), raw[role]


def probabilities(logits: np.ndarray, activation: str, axis: int) -> np.ndarray:
    """Apply an activation in float64."""
    x = logits.astype(np.float64)
    if activation == "softmax":
        powers = np.exp(x - x.max(axis, keepdims=True))
        return np.asarray(powers / powers.sum(axis, keepdims=True))
    return np.asarray(1 / (1 + np.exp(-x)) if activation == "sigmoid" else x)


def decided(found: np.ndarray, numbers: np.ndarray, limit: Any) -> None:
    """Compare decisions `number > limit` where the number is not as near as runtimes differ."""
    limit = np.broadcast_to(np.asarray(limit, np.float32), numbers.shape)
    sure = np.abs(numbers - limit) > SOFTMAX_ERROR
    assert sure.mean() > 0.9
    assert np.array_equal(found[sure], (numbers > limit)[sure])


CLASSIFIERS: dict[str, Any] = {
    "classes": (2, 5),
    "layout": ("NC", "NHWC", "NCHW"),
    "activation": ("softmax", "sigmoid", "none"),
    "temperature": (1.0, 1.7),
    "top": (None, 1, 2),
    "multi_label": (None, 0.3, "each"),
    "unknown_below": (None, 0.55),
    "thresholds": ("fixed", "runtime"),
    "outputs": (None, ("probabilities", "pred_class"), ("pred_prob",)),
    "runtime": RUNTIMES,
}


def classifies(row: Row) -> bool:
    limited = row["multi_label"] is not None or row["unknown_below"] is not None
    return not (
        (row["activation"] == "none" and row["temperature"] != 1)
        or (row["thresholds"] == "runtime" and (not limited or row["outputs"] is not None))
    )


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("row", pairwise(CLASSIFIERS, classifies), ids=described)
def test_classifiers(row: Row) -> None:
    count, each = row["classes"], tuple(np.linspace(0.2, 0.6, row["classes"]).tolist())
    names = ("activation", "temperature", "top", "unknown_below", "thresholds", "outputs")
    levels = each if row["multi_label"] == "each" else row["multi_label"]
    post = pp.ClassificationPostProcessor(multi_label=levels, **{name: row[name] for name in names})
    proto = classifier(count, layout=row["layout"])
    outputs, raw = run(proto, post, {"image": images(20)}, row["runtime"])
    logits = raw.reshape(20, count)
    scores = probabilities(logits / np.float32(row["temperature"]), row["activation"], 1)
    order = np.argsort(-logits, axis=1, kind="stable")
    assert set(outputs) == set(row["outputs"] or expected_names(row))
    for name, found in outputs.items():
        if name == "pred_class":
            assert np.array_equal(found, order[:, 0])
        elif name == "pred_prob":
            np.testing.assert_allclose(found, scores.max(1), atol=SOFTMAX_ERROR)
        elif name == "probabilities":
            np.testing.assert_allclose(found, scores, atol=SOFTMAX_ERROR)
        elif name == "top_classes":
            assert np.array_equal(found, order[:, : row["top"]])
        elif name == "top_probs":
            wanted = np.take_along_axis(scores, order[:, : row["top"]], 1)
            np.testing.assert_allclose(found, wanted, atol=SOFTMAX_ERROR)
        elif name == "unknown":
            decided(~found, scores.max(1), row["unknown_below"])
        else:
            decided(found, scores, levels)


def expected_names(row: Row) -> set[str]:
    names = {"pred_class", "pred_prob"}
    names |= {"unknown"} if row["unknown_below"] is not None else set()
    names |= {"pred_label"} if row["multi_label"] is not None else set()
    return names | ({"top_classes", "top_probs"} if row["top"] is not None else set())


SEGMENTERS: dict[str, Any] = {
    "kind": ("logits", "one", "classes"),
    "layout": ("NCHW", "NHWC", "NHW"),
    "activation": (None, "softmax", "sigmoid", "none"),
    "thresholds": (None, 0.4, "each"),
    "areas": (True, False),
    "scores": (False, True),
    "runtime": RUNTIMES,
    "batch": (1, 2, "N"),
}


def segments(row: Row) -> bool:
    kind, chosen = row["kind"], row["activation"] is None and row["thresholds"] is None
    return not (
        (kind == "classes" and not chosen)
        or (kind == "one" and (row["activation"] == "softmax" or row["thresholds"] == "each"))
        or (kind == "logits" and row["layout"] == "NHW")
        or (row["scores"] and (kind != "logits" or not chosen))
    )


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("row", pairwise(SEGMENTERS, segments), ids=described)
def test_segmentation_models(row: Row) -> None:
    count, batch = 3 if row["kind"] == "logits" else 1, 2 if row["batch"] == "N" else row["batch"]
    axis = row["layout"].find("C")
    sizes = {"N": row["batch"], "C": count, "H": 8, "W": 10}
    shape = [sizes[name] for name in row["layout"]]
    whole = row["kind"] == "classes"
    proto = identity_model({"y": shape}, dtype=7 if whole else 1)
    values = RNG.normal(0.3, 0.5, [batch, *shape[1:]]).astype(np.float32)
    if whole:
        values = RNG.integers(0, 3, values.shape)
    labels = ("a", "b", "c") if whole or count == 3 else ()
    levels = (0.2, 0.4, 0.6) if row["thresholds"] == "each" else row["thresholds"]
    post = pp.SegmentationPostProcessor(
        activation=row["activation"],
        class_thresholds=levels,
        areas=row["areas"],
        labels=labels,
        outputs=("class_scores", "class_map") if row["scores"] else None,
    )
    outputs, raw = run(proto, post, {"y_in": values}, row["runtime"])
    classes = raw if whole and axis < 0 else raw.squeeze(axis) if whole else raw.argmax(axis)
    usual = row["activation"] or "sigmoid"
    for name, found in outputs.items():
        if name == "class_scores":
            assert np.array_equal(found, raw)
        elif name == "class_map":
            assert found.dtype == np.uint8
            assert np.array_equal(found, classes)
        elif name == "alpha":
            matte = np.clip(probabilities(raw, usual, axis), 0, 1) * 255
            assert np.abs(found - matte).max() <= 0.501
        elif name == "class_masks":
            limits = (
                np.reshape(levels, [-1 if each == axis else 1 for each in range(raw.ndim)]) if axis >= 0 else levels
            )
            decided(found, probabilities(raw, usual, axis), limits)
        else:
            masks = outputs.get("class_masks")
            if masks is None:
                wanted = (classes[..., None] == np.arange(3)).sum((1, 2))
            else:
                wanted = masks.sum(tuple(each for each in range(1, raw.ndim) if each != axis))
            assert np.array_equal(found.reshape(wanted.shape), wanted)
    assert ("class_area" in outputs) == (row["areas"] and not row["scores"] and "alpha" not in outputs)


REGIONS: dict[str, Any] = {
    "layout": ("NCHW", "NHW", "NHWC"),
    "pixel_threshold": (0.3, 0.6),
    "box_threshold": (0.0, 0.5),
    "min_area": (1, 12),
    "unclip": (0.0, 1.5),
    "regions": (2, 40),
    "mask": (True, False),
    "outputs": (None, ("region_boxes", "region_count")),
    "runtime": RUNTIMES,
    "batch": (1, 2, "N"),
}


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("row", pairwise(REGIONS), ids=described)
def test_regions(row: Row) -> None:
    sizes = {"N": row["batch"], "C": 1, "H": 40, "W": 56}
    proto = identity_model({"y": [sizes[name] for name in row["layout"]]}, opset=18)
    noise = np.random.default_rng(5).normal(0, 1, (2 if row["batch"] == "N" else row["batch"], 40, 56))
    maps = np.clip(gaussian_filter(noise, (0, 1.5, 2.5)) * 4 + 0.3, 0, 1).astype(np.float32)
    values = maps.reshape([len(maps), *(sizes[name] for name in row["layout"][1:])])
    names = ("pixel_threshold", "box_threshold", "min_area", "unclip", "regions", "mask", "outputs")
    post = pp.RegionsPostProcessor(**{name: row[name] for name in names})
    outputs, raw = run(proto, post, {"y_in": values}, row["runtime"])
    for image, map_ in enumerate(raw.reshape(maps.shape)):
        mask = map_ > np.float32(row["pixel_threshold"])
        wanted, candidates = regions_of(map_, mask, row)
        count = outputs["region_count"][image]
        assert count == len(wanted)
        for place, (box, area, mean, centre) in enumerate(wanted):
            np.testing.assert_allclose(outputs["region_boxes"][image, place], box, atol=1e-4)
            if row["outputs"] is None:
                assert outputs["region_areas"][image, place] == area
                np.testing.assert_allclose(outputs["region_scores"][image, place], mean, atol=1e-6)
                np.testing.assert_allclose(outputs["region_centroids"][image, place], centre, atol=1e-4)
        assert not outputs["region_boxes"][image, count:].any()
        assert ("pred_mask" in outputs) == (row["mask"] and row["outputs"] is None)
        if row["outputs"] is None:
            assert outputs["region_candidates"][image] == candidates
        if "pred_mask" in outputs:
            assert np.array_equal(outputs["pred_mask"][image].reshape(mask.shape), mask)


def regions_of(map_: np.ndarray, mask: np.ndarray, row: Row) -> tuple[list[Any], int]:
    """Box, area, mean and centroid of each region that is returned, and the number of all."""
    labels, candidates = label(mask, np.ones((3, 3)))
    found = []
    for number in range(1, candidates + 1):
        y, x = np.nonzero(labels == number)
        left, top, right, bottom = x.min(), y.min(), x.max() + 1, y.max() + 1
        width, height = right - left - 1, bottom - top - 1
        grow = width * height * row["unclip"] / max(2 * (width + height), 1)
        box = [max(left - grow, 0), max(top - grow, 0), min(right + grow, 56), min(bottom + grow, 40)]
        found.append((box, len(x), map_[y, x].mean(dtype=np.float64), (x.mean(), y.mean())))
    found.sort(key=lambda each: -each[1])
    kept = found[: row["regions"]]
    return [each for each in kept if each[1] >= row["min_area"] and each[2] >= row["box_threshold"]], candidates


SEQUENCES: dict[str, Any] = {
    "layout": ("NTC", "TNC"),
    "activation": ("softmax", "none"),
    "blank": (0, 2, -1),
    "labels": (False, True),
    "outputs": (None, ("token_ids", "confidence"), ("length", "token_probs")),
    "runtime": RUNTIMES,
    "batch": (1, 2, "N"),
}


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("row", pairwise(SEQUENCES), ids=described)
def test_sequences(row: Row) -> None:
    batch, times, classes = 2 if row["batch"] == "N" else row["batch"], 9, 4
    logits = RNG.normal(0, 1, (batch, times, classes)).astype(np.float32)
    proto = identity_model({"y": [row["batch"], times, classes]})
    if row["layout"] == "TNC":
        proto.graph.node[0].CopyFrom(onnx.helper.make_node("Transpose", ["y_in"], ["y"], perm=[1, 0, 2]))
        sizes = proto.graph.output[0].type.tensor_type.shape.dim
        first = onnx.TensorShapeProto.Dimension()
        first.CopyFrom(sizes[0])
        sizes[0].CopyFrom(sizes[1])
        sizes[1].CopyFrom(first)
    blank = row["blank"] % classes
    labels = tuple("" if each == blank else "abcd"[each] for each in range(classes)) if row["labels"] else ()
    post = pp.SequencePostProcessor(
        layout=row["layout"], activation=row["activation"], blank=row["blank"], labels=labels, outputs=row["outputs"]
    )
    outputs, raw = run(proto, post, {"y_in": logits}, row["runtime"])
    rows = raw.transpose(1, 0, 2) if row["layout"] == "TNC" else raw
    scores = probabilities(rows, row["activation"], 2)
    for image, path in enumerate(rows.argmax(2)):
        at = [time for time in range(times) if path[time] != blank and (time == 0 or path[time] != path[time - 1])]
        best = scores[image].max(1)[at]
        wanted = {
            "token_ids": path[at],
            "token_times": np.array(at),
            "token_probs": best,
            "length": np.array(len(at)),
            "confidence": np.array(best.mean() if at else 0.0),
        }
        assert set(outputs) == set(row["outputs"] or wanted)
        for name, found in outputs.items():
            own = found[image]
            if own.ndim:
                assert (own[len(at) :] == (0 if name == "token_probs" else -1)).all()
                own = own[: len(at)]
            np.testing.assert_allclose(own, wanted[name], atol=SOFTMAX_ERROR)


@pytest.mark.parametrize("classes", [3, 100])
def test_unknown_of_a_softmax_is_that_of_exact_probabilities_outside_its_bound(classes: int) -> None:
    rng = np.random.default_rng(classes)
    logits = (rng.normal(0, 1, (4000, classes)) * rng.uniform(0.1, 8, (4000, 1))).astype(np.float32)
    exact = probabilities(logits, "softmax", 1).max(1)
    limit = float(np.sort(exact)[2000])
    for runtime in ("onnxruntime", "f32"):
        post = pp.ClassificationPostProcessor(unknown_below=limit)
        outputs, _ = run(identity_model({"y": ["N", classes]}), post, {"y_in": logits}, runtime)
        decided(~outputs["unknown"], exact, limit)
        assert np.array_equal(outputs["unknown"], outputs["pred_prob"] < np.float32(limit))
