"""What goes into a post-processor in torch, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from pp_graph.errors import PostProcessorError
from pp_graph.model.shapes import channels_are_last, classes_of, map_size_of
from pp_graph.postprocessors.layout import RAW_MAP, RAW_SCORE, RawLayout
from pp_graph.postprocessors.raw_values import check_map_shape, check_same_batch, check_score_shape, given_values
from pp_graph.targets.torch_eager import is_jit_traced, is_traced, known_sizes


class InferenceBatch(NamedTuple):
    """Predictions of a batch; the fields of Anomalib 2.x's `InferenceBatch`, in its order.

    Attributes:
        pred_score: Score an image, float32, (N,) or (N,1); in [0, 1] when normalised.
        pred_label: Whether each image is anomalous, bool, shape of `pred_score`.
        anomaly_map: Score a pixel, float32, of the shape of the raw map; in [0, 1] when normalised.
        pred_mask: Whether each pixel is anomalous, shape of `anomaly_map`.
    """

    pred_score: torch.Tensor | None = None
    pred_label: torch.Tensor | None = None
    anomaly_map: torch.Tensor | None = None
    pred_mask: torch.Tensor | None = None


def raw_tensors(score: object, anomaly_map: torch.Tensor | None, *, classes: bool) -> dict[str, torch.Tensor]:
    """Raw outputs of a batch as float32 tensors without gradients, under `raw_score` and `raw_map`.

    Args:
        score: The scores; or a mapping, or an object with attributes, with `pred_score` and `anomaly_map`.
        anomaly_map: The map.
        classes: Whether (N,C) and (N,C,H,W) are taken.

    Raises:
        PostProcessorError: Neither is given, or one has another shape or element type.
    """
    if score is not None and not isinstance(score, torch.Tensor):
        if anomaly_map is not None:
            raise PostProcessorError(
                f"pred_score is {type(score).__name__}, expected a tensor next to anomaly_map. Give both as tensors, "
                "or one object that holds both."
            )
        given = given_values(_without_labels(score))
    else:
        given = given_values({"pred_score": score, "anomaly_map": anomaly_map})
    values: dict[str, torch.Tensor] = {}
    for name, role, check in (("pred_score", RAW_SCORE, check_score_shape), ("anomaly_map", RAW_MAP, check_map_shape)):
        if given.get(name) is not None:
            values[role] = _number_tensor(given[name], name)
            check(known_sizes(values[role]), classes)
    if len(values) == 2 and not is_traced():
        check_same_batch(len(values[RAW_SCORE]), len(values[RAW_MAP]))
    return values


def _without_labels(batch: object) -> object:
    """A mapping without what post-processing writes, and with what it does not know left for the error."""
    if not isinstance(batch, Mapping):
        return batch
    return {name: value for name, value in batch.items() if value is not None or name in ("pred_score", "anomaly_map")}


def _number_tensor(value: object, name: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise PostProcessorError(f"'{name}' is {type(value).__name__}, expected a torch.Tensor. Convert it first.")
    if value.dtype == torch.bool or value.is_complex():
        raise PostProcessorError(
            f"'{name}' holds {value.dtype}, expected floating-point numbers. Give the raw output of the model."
        )
    return value.detach().to(torch.float32)


def layout_of_tensors(values: Mapping[str, torch.Tensor], input_size: tuple[int, int] | None) -> RawLayout:
    """The layout of a batch of raw values; sizes that an export leaves open are not known."""
    score = known_sizes(values[RAW_SCORE]) if RAW_SCORE in values else None
    anomaly_map = known_sizes(values[RAW_MAP]) if RAW_MAP in values else None
    return RawLayout(
        score=score is not None,
        map=anomaly_map is not None,
        map_rank=None if anomaly_map is None else len(anomaly_map),
        score_rank=None if score is None else len(score),
        channels_last=channels_are_last(anomaly_map),
        # What torch.jit.trace writes down is run on maps of any size, and no size in it is checked.
        map_size=None if is_jit_traced() else map_size_of(anomaly_map),
        input_size=input_size,
        score_classes=1 if score is None else classes_of(score),
        map_classes=1 if anomaly_map is None else classes_of(anomaly_map),
    )
