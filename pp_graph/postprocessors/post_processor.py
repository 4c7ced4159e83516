"""`PostProcessor`: the abstract base that composes steps, eagerly in NumPy or as an ONNX subgraph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.postprocessors.layout import DECISION_NAMES, RAW_MAP, RAW_SCORE, RawLayout, layout_of
from pp_graph.postprocessors.packing import PACKED_NAME, emit_packed
from pp_graph.postprocessors.predictions import Predictions
from pp_graph.steps import Array, Compare, Emitter, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir
    from numpy.typing import ArrayLike

    from pp_graph.statistics import Statistics

OUTPUT_NAMES: Final = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
"""Names of the outputs, in the order in which a fused model lists them."""

POSTPROCESSED_NAMES: Final = (*OUTPUT_NAMES, PACKED_NAME)
"""Every name that a post-processed output can have."""


class PostProcessor(ABC):
    """Turns raw scores and maps into predictions.

    Subclasses say which steps to take; this class runs them, eagerly (`post(raw)`) or as ONNX
    operators (`pp_graph.fuse`). Both see the same steps, so they cannot drift apart.

    Attributes:
        statistics: The calibrated numbers; None until they are known.
        pack: Whether a fused model returns all predictions in one tensor, (N,H,W,4) (see `packing`).
    """

    statistics: Statistics | None
    pack: bool = False

    @abstractmethod
    def steps(self, layout: RawLayout) -> tuple[Step, ...]:
        """Steps to take, in order.

        Each reads `raw_score`, `raw_map` or an earlier step's target. Targets named in
        `OUTPUT_NAMES` become outputs.

        Args:
            layout: What the raw model gives.

        Raises:
            StatisticsError: A number that a step needs is not known.
        """

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Everything but the statistics that is needed to build this post-processor again; plain JSON values."""

    @classmethod
    def from_parameters(cls, statistics: Statistics | None, parameters: Mapping[str, Any]) -> Self:
        """Build a post-processor from what `parameters` returned."""
        return cls(statistics, **parameters)  # type: ignore[call-arg]

    def bound(self, layout: RawLayout) -> Self:
        """This post-processor with everything settled that depends on the raw model."""
        del layout
        return self

    def inner(self, layout: RawLayout) -> tuple[str, ...]:
        """Values that runtimes round differently and from which decisions follow; see `Step.exact`."""
        return tuple(step.target for step in self.steps(layout) if not step.exact)

    def decisions(self, layout: RawLayout) -> dict[str, Compare]:
        """The steps that decide, by the name of their output."""
        return {step.target: step for step in self.steps(layout) if isinstance(step, Compare)}

    def __call__(self, raw: Mapping[str, ArrayLike | None]) -> Predictions:
        """Post-process the raw outputs of a batch in NumPy, float32 throughout.

        Args:
            raw: `pred_score` of shape (N,) or (N,1), `anomaly_map` of shape (N,H,W), (N,1,H,W) or
                (N,H,W,1), or both; floating point.

        Returns:
            The predictions.

        Raises:
            ValueError: Neither is given, or one has another shape or element type.
            StatisticsError: A number that is needed is not known.
        """
        unknown = set(raw) - {"pred_score", "anomaly_map"}
        if unknown:
            raise PostProcessorError(
                f"Raw outputs hold {', '.join(sorted(map(repr, unknown)))}, expected 'pred_score' and 'anomaly_map'. "
                "Rename or leave out the others."
            )
        score, anomaly_map = raw.get("pred_score"), raw.get("anomaly_map")
        if score is None and anomaly_map is None:
            raise PostProcessorError(
                "Raw outputs hold neither 'pred_score' nor 'anomaly_map', expected at least one of them. "
                "Give what the raw model returns."
            )
        values: dict[str, Array] = {}
        if score is not None:
            values[RAW_SCORE] = _checked_score(score)
        if anomaly_map is not None:
            values[RAW_MAP] = _checked_map(anomaly_map)
        if len(values) == 2 and len(values[RAW_SCORE]) != len(values[RAW_MAP]):
            raise PostProcessorError(
                f"'pred_score' holds {len(values[RAW_SCORE])} images and 'anomaly_map' {len(values[RAW_MAP])}, "
                "expected the same batch."
            )
        return self.predict(values)

    def predict(self, values: Mapping[str, Array]) -> Predictions:
        """Post-process raw values as a model returns them.

        Args:
            values: Float32 arrays under `raw_score` and `raw_map`, and under the names of `inner` where these are known
                already; they are then not computed anew.

        Returns:
            The predictions.

        Raises:
            StatisticsError: A number that is needed is not known.
        """
        found = self.run(values)
        if self.pack:
            # Inside the packed tensor they are numbers.
            found = {name: array > 0 if name in DECISION_NAMES else array for name, array in found.items()}
        return Predictions(**{name: found[name] for name in OUTPUT_NAMES if name in found})

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Every value that the steps compute, by name, and those given."""
        layout = layout_of(values)
        found = dict(values)
        for step in self.bound(layout).steps(layout):
            if step.target not in found:
                found[step.target] = step.reference(found[step.source])
        return found

    def emit(self, op: Emitter, raw: Mapping[str, ir.Value], layout: RawLayout) -> dict[str, ir.Value]:
        """Write the steps into a graph.

        Args:
            op: The vocabulary, at the graph's opset.
            raw: Float32 values of the graph under `raw_score` and `raw_map`, as far as `layout` has them.
            layout: What the raw model gives.

        Returns:
            Every value by name, those given included; outputs are those named in `OUTPUT_NAMES`, in that order, or
            with `pack` the one named `PACKED_NAME`.

        Raises:
            StatisticsError: A number that a step needs is not known.
            PostProcessorError: The predictions cannot be packed.
        """
        values = dict(raw)
        for step in self.steps(layout):
            with op.scope(step.target):
                values[step.target] = step.emit(op, values[step.source])
        outputs: dict[str, ir.Value] = {name: values.pop(name) for name in OUTPUT_NAMES if name in values}
        if self.pack:
            with op.scope(PACKED_NAME):
                outputs = {PACKED_NAME: emit_packed(op, outputs, layout)}
        return {**outputs, **values}


def _floating(value: ArrayLike, name: str) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise PostProcessorError(
            f"'{name}' holds {array.dtype}, expected floating-point numbers. Give the raw output of the model."
        )
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def _checked_score(value: ArrayLike) -> Array:
    array = _floating(value, "pred_score")
    if array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1):
        return array
    raise PostProcessorError(
        f"'pred_score' has rank {array.ndim} and shape {array.shape}, expected (N,) or (N,1): one number an image."
    )


def _checked_map(value: ArrayLike) -> Array:
    array = _floating(value, "anomaly_map")
    one_channel = array.ndim == 3 or (array.ndim == 4 and 1 in (array.shape[1], array.shape[3]))
    if one_channel and 0 not in array.shape[1:]:
        return array
    raise PostProcessorError(
        f"'anomaly_map' has rank {array.ndim} and shape {array.shape}, expected (N,H,W), (N,1,H,W) or (N,H,W,1) "
        "with at least one pixel."
    )
