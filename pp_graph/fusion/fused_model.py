"""`FusedModel`: a raw model with its post-processing written in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pp_graph.errors import ProvenanceError
from pp_graph.fusion.provenance import Provenance
from pp_graph.model import RawModel

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import onnx


@dataclass(frozen=True)
class FusedModel:
    """A model that returns predictions, not raw scores.

    Attributes:
        opened: The graph, with external weights still on disk. Its `source` is the file that the
            weights belong to: the raw model right after fusing, the fused file after loading.
        provenance: What was fused.
        notes: What a person should know about how the raw model was read: a size that was left open
            and taken as 1, a declaration that contradicts the graph. Empty after loading.
    """

    opened: RawModel
    provenance: Provenance
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> FusedModel:
        """Open a fused model.

        Raises:
            ModelError: The file cannot be used.
            ProvenanceError: It was not written by `fuse`.
        """
        opened = RawModel.open(path)
        provenance = Provenance.from_metadata(opened.model.metadata_props)
        if provenance is None:
            raise ProvenanceError(
                f"Model '{path}' carries no pp_graph provenance, expected a model written by pp_graph. "
                "Fuse it first: pp-graph fuse MODEL --stats STATS.json -o FUSED.onnx, or give --stats to pp-graph "
                "convert."
            )
        return cls(opened, provenance)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(output.name or "" for output in self.opened.model.graph.outputs)

    def to_proto(self) -> onnx.ModelProto:
        """The model as protobuf; external weights stay references."""
        return self.opened.to_proto()

    def save(
        self,
        path: str | Path,
        *,
        overwrite: bool = True,
        copy_weights: bool = False,
        inputs: Iterable[Path] = (),
    ) -> Path:
        """Write the model to a file, whole or not at all; arguments and errors are those of `RawModel.save`."""
        return self.opened.save(path, overwrite=overwrite, copy_weights=copy_weights, inputs=inputs)
