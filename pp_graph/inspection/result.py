"""`Inspection`: what was found in a model file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from pp_graph.model import Port
from pp_graph.saving import indented, save_result
from pp_graph.sketching import draw
from pp_graph.summary import Summarised

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pp_graph.fusion import Provenance
    from pp_graph.fusion.tail import TailRecord
    from pp_graph.inspection.output_values import OutputValues
    from pp_graph.packaging.manifest import Manifest
    from pp_graph.postprocessors.hints import Family
    from pp_graph.sketching import Part
    from pp_graph.statistics.anomalib_onnx import GraphStatistics
    from pp_graph.summary import Block


@dataclass(frozen=True)
class InspectedPort(Port):
    """An input or output, and for an output how post-processing relates to it.

    Attributes:
        role: `score` or `map` if post-processing would read this output; for other families what it likely holds, such
            as `logits`; None otherwise.
        why: Reason for the role or for its absence; the meaning of a post-processed output.
        note: A contradiction between the declared and the inferred shape; None without one.
    """

    role: str | None = None
    why: str = ""
    note: str | None = None


@dataclass(frozen=True)
class MissedRewrite:
    """A part of the tail that a rule targets but cannot rewrite.

    Attributes:
        rule: Name of the rule.
        target: Name of the value that is not rewritten.
        what: The operators that compute it.
        why: Reason why the rule does not apply.
    """

    rule: str
    target: str
    what: str
    why: str


@dataclass(frozen=True)
class TailInspection:
    """Effect of fusing on a raw model's tail.

    Attributes:
        rewrites: Rewritten parts, with the estimated time before and after.
        missed: Parts that no rule can rewrite, with reasons.
    """

    rewrites: tuple[TailRecord, ...]
    missed: tuple[MissedRewrite, ...]


@dataclass(frozen=True, repr=False)
class Inspection(Summarised):
    """Contents of a model file.

    Attributes:
        path: The file; None for a model in memory.
        kind: `raw ONNX`, `fused ONNX`, `Anomalib ONNX export` or `OpenVINO IR`.
        inputs: Inputs that a caller must feed.
        outputs: Outputs, with roles.
        problem: Reason why roles could not be assigned; None if they could, or if none are needed.
        opset: Version of the default ONNX domain; None for an IR.
        domains: Other operator domains and their versions.
        ir_version: Version of the file format.
        producer: Program that wrote the file.
        nodes: Number of operators in the main graph.
        functions: Number of local functions.
        weight_bytes: Size of all weights.
        weight_files: Files with external weights.
        metadata: Keys of other metadata entries.
        provenance: Provenance of the post-processing; None if pp_graph fused none.
        tail: Effect of fusing on the raw model's tail; None unless requested.
        post_processing: Post-processing that Anomalib exported with the model; None if there is none.
        families: Families of models that a raw model's outputs fit, the likeliest first.
        values: Values of each output on images; empty without images.
        end: The end of the graph, as `sketch` draws it.
        package: The package that holds the model; None for a model file.
    """

    path: str | None
    kind: str
    inputs: tuple[InspectedPort, ...]
    outputs: tuple[InspectedPort, ...]
    problem: str | None
    opset: int | None
    domains: dict[str, int]
    ir_version: int
    producer: str
    nodes: int
    functions: int
    weight_bytes: int
    weight_files: tuple[str, ...]
    metadata: tuple[str, ...]
    provenance: Provenance | None = field(repr=False)
    tail: TailInspection | None = None
    post_processing: GraphStatistics | None = None
    families: tuple[Family, ...] = ()
    values: tuple[OutputValues, ...] = ()
    end: tuple[Part, ...] = field(default=(), repr=False)
    package: Manifest | None = None

    def sketch(self) -> str:
        """Return the end of the graph as SVG: last layers, raw outputs, steps of the post-processing, outputs."""
        return draw(self.end)

    def save(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> Path:
        """Write JSON, an HTML page, or the sketch alone as SVG, by the ending of the path.

        Raises:
            OutputFileError: The path has another ending, is an input, exists, or cannot be written.
        """
        from pp_graph.report.page import page
        from pp_graph.summary import html_of

        def whole() -> str:
            tables = f'<div class="wide">{html_of(self.summary())}</div>'
            return page(
                f"Inspection of {self.path or 'a model'}", f"{tables}<h2>The end of the graph</h2>{self.sketch()}"
            )

        forms = {".json": lambda: indented(self.to_dict()), ".html": whole, ".svg": self.sketch}
        return save_result(path, forms, overwrite=overwrite, inputs=inputs)

    def _repr_html_(self) -> str:
        return super()._repr_html_() + self.sketch()

    def summary(self) -> list[Block]:
        """Return what was found as tables."""
        from pp_graph.inspection.summary import blocks_of

        return list(blocks_of(self))

    def __repr__(self) -> str:
        """Return kind and outputs in a line."""
        outputs = ", ".join(port.name for port in self.outputs)
        return f"<Inspection of {self.path or 'a model in memory'}: {self.kind} -> {outputs}>"

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values."""
        result: dict[str, Any] = msgspec.to_builtins(self)
        return result
