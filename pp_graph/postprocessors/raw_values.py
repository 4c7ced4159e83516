"""Check the raw outputs that a caller hands to a post-processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.model.shapes import format_shape
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
    given = given_values(raw)
    values: dict[str, Array] = {}
    if given.get("pred_score") is not None:
        values[RAW_SCORE] = _floating(given["pred_score"], "pred_score")
        check_score_shape(values[RAW_SCORE].shape, classes)
    if given.get("anomaly_map") is not None:
        values[RAW_MAP] = _floating(given["anomaly_map"], "anomaly_map")
        check_map_shape(values[RAW_MAP].shape, classes)
    if len(values) == 2:
        check_same_batch(len(values[RAW_SCORE]), len(values[RAW_MAP]))
    return values


def given_values(raw: Mapping[str, Any] | object) -> Mapping[str, Any]:
    """What was given as `pred_score` and `anomaly_map`, in whatever kind of array.

    Raises:
        PostProcessorError: Neither is given, or something else is.
    """
    given: Mapping[str, Any] = raw if isinstance(raw, Mapping) else _attributes(raw)
    unknown = set(given) - {"pred_score", "anomaly_map"}
    if unknown:
        raise PostProcessorError(
            f"Raw outputs hold {', '.join(sorted(map(repr, unknown)))}, expected 'pred_score' and 'anomaly_map'. "
            "Rename or leave out the others."
        )
    if given.get("pred_score") is None and given.get("anomaly_map") is None:
        raise PostProcessorError(
            "Raw outputs hold neither 'pred_score' nor 'anomaly_map', expected at least one of them. "
            "Give what the raw model returns."
        )
    return given


def check_same_batch(scores: int, maps: int) -> None:
    """Make sure that scores and maps belong together.

    Raises:
        PostProcessorError: There are more of one than of the other.
    """
    if scores != maps:
        raise PostProcessorError(
            f"'pred_score' holds {scores} images and 'anomaly_map' {maps}, expected the same batch."
        )


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


def check_score_shape(shape: Sequence[int | None], classes: bool) -> None:
    """Make sure that scores have one number an image.

    Args:
        shape: Their shape; None for a size that is not known.
        classes: Whether (N,C) is taken.

    Raises:
        PostProcessorError: They have another shape.
    """
    if len(shape) == 1 or (len(shape) == 2 and (shape[1] == 1 or (classes and shape[1] != 0))):
        return
    raise PostProcessorError(
        f"'pred_score' has rank {len(shape)} and shape {format_shape(tuple(shape))}, expected (N,) or (N,1): one "
        "number an image."
    )


def check_map_shape(shape: Sequence[int | None], classes: bool) -> None:
    """Make sure that maps have one channel.

    Args:
        shape: Their shape; None for a size that is not known.
        classes: Whether (N,C,H,W) is taken.

    Raises:
        PostProcessorError: They have another shape.
    """
    one_channel = len(shape) == 3 or (len(shape) == 4 and (classes or 1 in (shape[1], shape[3])))
    if one_channel and 0 not in shape[1:]:
        return
    raise PostProcessorError(
        f"'anomaly_map' has rank {len(shape)} and shape {format_shape(tuple(shape))}, expected (N,H,W), (N,1,H,W) or "
        "(N,H,W,1) with at least one pixel."
    )
