"""`OnnxPostProcessor`: post-processing given as an ONNX model, such as a traced torch module."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pp_graph.errors import PostProcessorError
from pp_graph.model.packed_messages import unpack_message
from pp_graph.postprocessors.anomaly import OUTPUT_NAMES, RAW_MAP, RAW_SCORE
from pp_graph.postprocessors.post_processor import PostProcessor
from pp_graph.steps import Array, Compare, GraphStep, Step
from pp_graph.steps.opset_adaptation import run_model

if TYPE_CHECKING:
    from collections.abc import Hashable

    import onnx

    from pp_graph.program import Signature
    from pp_graph.statistics import Statistics
    from pp_graph.values import ValueType

"""Largest size of an embedded model in bytes, decompressed; a few kilobytes of text can decompress to any size."""

Reference = Callable[[str, Sequence[Array]], Array]
"""Function that computes one output from the values it depends on, in the code from which the model was exported; used
as the NumPy reference."""

REFERENCES: Final[dict[str, Reference]] = {}
"""Reference of each model exported in this process, by its text (`OnnxPostProcessor.model`)."""


@dataclass(frozen=True)
class OnnxPostProcessor(PostProcessor):
    """Post-processing given as an ONNX model, carried in the fused model's provenance.

    Attributes:
        statistics: None; the model holds its numbers.
        model: The ONNX model as text; see `pack_message`. Inputs are `raw_score` and `raw_map`, or one of them.
            Outputs are some of `pred_score`, `anomaly_map` (float32), `pred_label`, `pred_mask` (bool).
        decisions: Decisions that compare one raw value with one number: `{"pred_label": {"reads": "raw_score",
            "level": 6.1, "on_nan": "normal"}}` is `raw_score > 6.1`. They are compiled to cutoffs, so every runtime
            makes the same ones. Other outputs are computed by the model.

    Raises:
        PostProcessorError: `model` is not such text, or has other inputs or outputs.
    """

    statistics: Statistics | None = None
    model: str = ""
    decisions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check names. Steps are checked against the raw model, since the model fits one kind of it."""
        graph = decode_model(self.model).graph
        for what, names, known in (
            ("input", [each.name for each in graph.input], (RAW_SCORE, RAW_MAP)),
            ("output", [each.name for each in graph.output], OUTPUT_NAMES),
        ):
            unknown = next((name for name in names if name not in known), None)
            if unknown is not None or not names:
                raise PostProcessorError(
                    f"The post-processing model has {f'an {what} {unknown!r}' if names else f'no {what}'}, expected "
                    f"some of: {', '.join(known)}. Rename it."
                )

    def __hash__(self) -> int:
        """Equal post-processors carry the same model."""
        return hash(self.model)

    def steps(self, raw: Signature) -> Sequence[Step]:
        """Return a step for each output.

        Raises:
            PostProcessorError: The raw model lacks a value that the post-processing reads.
        """
        found: list[Step] = []
        for name in sorted(_outputs(self.model), key=OUTPUT_NAMES.index):
            reads = inputs_of(self.model, name)
            missing = next((each for each in reads if each not in raw), None)
            if missing is not None:
                raise PostProcessorError(
                    f"The post-processing of '{name}' reads '{missing}', and the raw model gives only "
                    f"{', '.join(map(repr, raw))}. Trace it for this model again."
                )
            decision = self.decisions.get(name)
            if decision is not None:
                found.append(Compare(decision["reads"], name, decision["level"], on_nan=decision["on_nan"]))
            else:
                found.append(_ModelStep(reads[0], name, self.model, others=tuple(reads[1:])))
        return found


@dataclass(frozen=True)
class _ModelStep(GraphStep):
    """One output of a carried model. Its reference is the code that was exported, or else the model in onnxruntime.

    Attributes:
        text: The model; see `pack_message`.
    """

    text: str = field(repr=False)
    # OpenVINO rewrites comparisons so that NaN decides otherwise.
    defines_nan: ClassVar[bool] = False

    def content(self) -> Hashable:
        """Return the model and the output."""
        return self.text, self.target

    def model(self, types: Sequence[ValueType], example: tuple[Array, ...]) -> onnx.ModelProto:
        """Return the part of the model that computes this output."""
        del types, example
        return part_of(self.text, self.target)

    def reference(self, *arrays: Array) -> Array:
        """Run the code that the model was exported from; in another process, the model itself."""
        reference = REFERENCES.get(self.text)
        if reference is not None:
            return reference(self.target, arrays)
        return run_model(part_of(self.text, self.target), arrays)


@functools.lru_cache(maxsize=16)
def decode_model(text: str) -> onnx.ModelProto:
    """Decode a model that `pack_message` encoded.

    Raises:
        PostProcessorError: The text is damaged, or the model is too large.
    """
    import onnx

    try:
        return unpack_message(onnx.ModelProto, text)
    except ValueError as error:
        raise PostProcessorError(
            f"The post-processing model cannot be decoded ({error}), expected the text that was noted. Fuse again."
        ) from error


def _outputs(text: str) -> list[str]:
    return [output.name for output in decode_model(text).graph.output]


@functools.lru_cache(maxsize=64)
def part_of(text: str, output: str) -> onnx.ModelProto:
    """Return the part of a model that computes one output, with the inputs that it depends on."""
    import onnx

    whole = decode_model(text)
    producers = {name: node for node in whole.graph.node for name in node.output}
    pending, reached = [output], set[str]()
    while pending:
        name = pending.pop()
        if name in reached:
            continue
        reached.add(name)
        if name in producers:
            pending += producers[name].input
    part = onnx.ModelProto()
    part.CopyFrom(whole)
    for values, kept in (
        (part.graph.node, [node for node in whole.graph.node if reached & set(node.output)]),
        (part.graph.output, [value for value in whole.graph.output if value.name == output]),
        (part.graph.input, [value for value in whole.graph.input if value.name in reached]),
        (part.graph.initializer, [tensor for tensor in whole.graph.initializer if tensor.name in reached]),
    ):
        del values[:]
        values.extend(kept)
    return part


def inputs_of(text: str, output: str) -> list[str]:
    """Return the names of the inputs that an output depends on."""
    return [value.name for value in part_of(text, output).graph.input]
