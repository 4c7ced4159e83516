"""`PostProcessor`: the abstract base that composes steps, eagerly in NumPy or as an ONNX subgraph."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.postprocessors.compilation import (
    OUTPUT_NAMES,
    CompiledSteps,
    check_result,
    check_steps,
    compile_steps,
    named,
)
from pp_graph.postprocessors.layout import DECISION_NAMES, RAW_MAP, RAW_SCORE, RawLayout, layout_of
from pp_graph.postprocessors.packing import PACKED_NAME, check_packable, emit_packed
from pp_graph.postprocessors.predictions import Predictions
from pp_graph.postprocessors.raw_values import checked_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir
    from numpy.typing import ArrayLike

    from pp_graph.statistics import Statistics
    from pp_graph.steps import Array, DecidingStep, Emitter, Step
    from pp_graph.steps.form import Level

POSTPROCESSED_NAMES: Final = (*OUTPUT_NAMES, PACKED_NAME)
"""Every name that a post-processed output can have."""


class PostProcessor(ABC):
    """Turns raw scores and maps into predictions.

    Subclasses say which steps to take; this class checks them, compiles their decisions to cutoffs and runs them,
    eagerly (`post(raw)`) or as ONNX operators (`pp_graph.fuse`). Both see the same steps, so they cannot drift apart.
    A subclass is a frozen dataclass whose first field is `statistics`; its other fields hold plain JSON values, from
    which it is built again when a model is verified or retuned.

    Attributes:
        statistics: The calibrated numbers; None until they are known.
        pack: Whether a fused model returns all predictions in one tensor, (N,H,W,4) (see `packing`).
        takes_classes: Whether scores (N,C) and maps (N,C,H,W) are taken.
    """

    statistics: Statistics | None
    pack: bool = False
    takes_classes: bool = False

    def __post_init__(self) -> None:
        """Try the steps out on raw models that could come, so that what does not fit shows now.

        Raises:
            PostProcessorError: The steps fit no raw model: one reads what is not there or does not fit.
        """
        check_steps(self.steps, classes=self.takes_classes)

    @abstractmethod
    def steps(self, layout: RawLayout) -> Sequence[Step]:
        """Steps to take, in order.

        Each reads `raw_score`, `raw_map` or earlier steps' targets. Targets named in `OUTPUT_NAMES` become outputs.

        Args:
            layout: What the raw model gives.

        Raises:
            StatisticsError: A number that a step needs is not known.
        """

    def parameters(self) -> dict[str, Any]:
        """Everything but the statistics that is needed to build this post-processor again; plain JSON values.

        Raises:
            PostProcessorError: The class is no dataclass, so that its parameters cannot be told.
        """
        described: object = self
        if not dataclasses.is_dataclass(described):
            raise PostProcessorError(
                f"{type(self).__name__} is no dataclass, expected one, or a method parameters() that returns all but "
                "the statistics. Write @dataclass(frozen=True) above it."
            )
        names = [field.name for field in dataclasses.fields(described) if field.init and field.name != "statistics"]
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_parameters(cls, statistics: Statistics | None, parameters: Mapping[str, Any]) -> Self:
        """Build a post-processor from what `parameters` returned."""
        return cls(statistics=statistics, **parameters)  # type: ignore[call-arg]

    def with_statistics(self, statistics: Statistics | None) -> Self:
        """The same post-processor with other calibrated numbers."""
        return self.from_parameters(statistics, self.parameters())

    def bound(self, layout: RawLayout) -> Self:
        """This post-processor with everything settled that depends on the raw model."""
        del layout
        return self

    def compiled(self, layout: RawLayout) -> CompiledSteps:
        """The steps, checked against the raw model, with decisions compiled.

        Args:
            layout: What the raw model gives.

        Raises:
            StatisticsError: A number that a step needs is not known.
            PostProcessorError: The steps do not fit each other or the raw model.
        """
        return compile_steps(self.steps(layout), layout)

    def values_to_calibrate(self, values: Mapping[str, Array], layout: RawLayout) -> dict[Level, Array]:
        """The values whose threshold and range the statistics of each level are; raw ones, unless a subclass says else.

        Args:
            values: Float32 arrays under `raw_score` and `raw_map`, and under the names of inner values.
            layout: What the raw model gives.

        Returns:
            Arrays under `image` and `pixel`, as far as there are such values.
        """
        del layout
        names: tuple[tuple[Level, str], ...] = (("image", RAW_SCORE), ("pixel", RAW_MAP))
        return {level: values[name] for level, name in names if name in values}

    def decisions(self, layout: RawLayout) -> dict[str, DecidingStep | None]:
        """The outputs that decide; see `CompiledSteps.decisions`."""
        return self.compiled(layout).decisions

    def __call__(self, raw: Mapping[str, ArrayLike | None] | object) -> Predictions:
        """Post-process the raw outputs of a batch in NumPy, float32 throughout.

        Args:
            raw: `pred_score` of shape (N,) or (N,1), `anomaly_map` of shape (N,H,W), (N,1,H,W) or
                (N,H,W,1), or both; floating point. A mapping, or an object with attributes of these names.

        Returns:
            The predictions.

        Raises:
            ValueError: Neither is given, or one has another shape or element type.
            StatisticsError: A number that is needed is not known.
        """
        return self.predict(checked_values(raw, classes=self.takes_classes))

    def predict(self, values: Mapping[str, Array], layout: RawLayout | None = None) -> Predictions:
        """Post-process raw values as a model returns them.

        Args:
            values: Float32 arrays under `raw_score` and `raw_map`, and under the names of inner values where these are
                known already; they are then not computed anew.
            layout: What the raw model gives; None to tell from the values.

        Returns:
            The predictions.

        Raises:
            StatisticsError: A number that is needed is not known.
        """
        return self.predictions(self.run(values, layout))

    def predictions(self, values: Mapping[str, Array]) -> Predictions:
        """The outputs among the values that `run` returned."""
        found = {name: values[name] for name in OUTPUT_NAMES if name in values}
        if self.pack:
            # Inside the packed tensor they are numbers.
            found = {name: array > 0 if name in DECISION_NAMES else array for name, array in found.items()}
        return Predictions(**found)

    def run(self, values: Mapping[str, Array], layout: RawLayout | None = None) -> dict[str, Array]:
        """Every value that is needed for the outputs, by name, and those given; arguments as of `predict`."""
        layout = layout_of(values) if layout is None else layout
        compiled = self.bound(layout).compiled(layout)
        found = dict(values)
        for step in compiled.needed(OUTPUT_NAMES, values):
            found[step.target] = step.reference(*(found[name] for name in step.reads))
            check_result(step, found[step.target], compiled.forms[step.target])
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
            PostProcessorError: The steps do not fit, or the predictions cannot be packed.
        """
        values = dict(raw)
        compiled = self.compiled(layout)
        for step in compiled.steps:
            read = [values[name] for name in step.reads]
            with op.scope(step.target):
                emitted = step.emit(op, *read)
                if emitted is None:
                    raise PostProcessorError(f"{named(step)} emits nothing, expected emit() to return a value.")
                # A value that is handed on needs a name of its own: that of the raw model must survive.
                values[step.target] = op.unchanged(emitted) if any(emitted is each for each in read) else emitted
        outputs: dict[str, ir.Value] = {name: values.pop(name) for name in OUTPUT_NAMES if name in values}
        if self.pack:
            check_packable(compiled.forms, layout)
            with op.scope(PACKED_NAME):
                outputs = {name: _as_number(op, value) for name, value in outputs.items()}
                outputs = {PACKED_NAME: emit_packed(op, outputs, layout)}
        return {**outputs, **values}


def _as_number(op: Emitter, value: ir.Value) -> ir.Value:
    """A decision as 0 or 1; numbers stay what they are."""
    if value.dtype is None or value.dtype.numpy() != np.bool_:
        return value
    return op.where(value, op.constant(np.float32(1), "anomalous"), op.constant(np.float32(0), "normal"))
