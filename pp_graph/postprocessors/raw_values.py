"""Check the raw outputs that a caller hands to a post-processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.postprocessors.layout import RAW_MAP, RAW_SCORE

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pp_graph.steps import Array


def checked_values(raw: Mapping[str, ArrayLike | None] | object, *, classes: bool) -> dict[str, Array]:
    """Raw outputs of a batch as float32 arrays, under `raw_score` and `raw_map`.

    Args:
        raw: A mapping with `pred_score` and `anomaly_map`, or an object with attributes of these names.
        classes: Whether (N,C) and (N,C,H,W) are taken.

    Raises:
        PostProcessorError: Neither is given, or one has another shape or element type.
    """
    given: Mapping[str, Any] = raw if isinstance(raw, Mapping) else _attributes(raw)
    unknown = set(given) - {"pred_score", "anomaly_map"}
    if unknown:
        raise PostProcessorError(
            f"Raw outputs hold {', '.join(sorted(map(repr, unknown)))}, expected 'pred_score' and 'anomaly_map'. "
            "Rename or leave out the others."
        )
    score, anomaly_map = given.get("pred_score"), given.get("anomaly_map")
    if score is None and anomaly_map is None:
        raise PostProcessorError(
            "Raw outputs hold neither 'pred_score' nor 'anomaly_map', expected at least one of them. "
            "Give what the raw model returns."
        )
    values: dict[str, Array] = {}
    if score is not None:
        values[RAW_SCORE] = _checked_score(score, classes)
    if anomaly_map is not None:
        values[RAW_MAP] = _checked_map(anomaly_map, classes)
    if len(values) == 2 and len(values[RAW_SCORE]) != len(values[RAW_MAP]):
        raise PostProcessorError(
            f"'pred_score' holds {len(values[RAW_SCORE])} images and 'anomaly_map' {len(values[RAW_MAP])}, "
            "expected the same batch."
        )
    return values


def _attributes(raw: object) -> dict[str, Any]:
    found = {name: getattr(raw, name) for name in ("pred_score", "anomaly_map") if hasattr(raw, name)}
    if not found:
        raise PostProcessorError(
            f"Raw outputs are {type(raw).__name__}, expected a mapping or an object with 'pred_score' and "
            "'anomaly_map'. Give the scores by name: post({'pred_score': scores})."
        )
    return found


def _floating(value: ArrayLike, name: str) -> Array:
    # A torch tensor may need its gradient and its device left behind.
    detach = getattr(value, "detach", None)
    array = np.asarray(value if detach is None else detach().cpu())
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise PostProcessorError(
            f"'{name}' holds {array.dtype}, expected floating-point numbers. Give the raw output of the model."
        )
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def _checked_score(value: ArrayLike, classes: bool) -> Array:
    array = _floating(value, "pred_score")
    if array.ndim == 1 or (array.ndim == 2 and (array.shape[1] == 1 or (classes and array.shape[1]))):
        return array
    raise PostProcessorError(
        f"'pred_score' has rank {array.ndim} and shape {array.shape}, expected (N,) or (N,1): one number an image."
    )


def _checked_map(value: ArrayLike, classes: bool) -> Array:
    array = _floating(value, "anomaly_map")
    one_channel = array.ndim == 3 or (array.ndim == 4 and (classes or 1 in (array.shape[1], array.shape[3])))
    if one_channel and 0 not in array.shape[1:]:
        return array
    raise PostProcessorError(
        f"'anomaly_map' has rank {array.ndim} and shape {array.shape}, expected (N,H,W), (N,1,H,W) or (N,H,W,1) "
        "with at least one pixel."
    )
