"""`Artifact`: a program written into an ONNX model or an OpenVINO IR."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

from pp_graph.errors import PostProcessorError
from pp_graph.postprocessors import PostProcessor, class_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pp_graph.fusion.provenance import Provenance
    from pp_graph.program import OutputDescription, Program
    from pp_graph.sessions import Session


class Artifact(ABC):
    """A program written into a network: the interface of a fused ONNX model and an OpenVINO IR.

    Attributes:
        network: The model that holds the program: a `RawModel`, or an `openvino.Model`.
        provenance: What was fused, and from what.
    """

    network: Any
    provenance: Provenance

    @property
    def program(self) -> Program:
        """The program in it, bound on first use.

        Raises:
            ProvenanceError: The class of its post-processor is not known, or its provenance was edited.
        """
        known: Program | None = self.__dict__.get("_program")
        if known is None:
            known = self.provenance.bind()
            self.__dict__["_program"] = known
        return known

    @property
    def outputs(self) -> tuple[OutputDescription, ...]:
        """Descriptions of the outputs, in order. They do not need the post-processor's class."""
        return tuple(self.provenance.outputs)

    @property
    @abstractmethod
    def file(self) -> Path | None:
        """The file it was read from; None for one in memory."""

    @abstractmethod
    def save(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> Path:
        """Write it to a file, whole or not at all.

        Args:
            path: The file to write. Files that it was made from are never overwritten.
            overwrite: Whether another file of that name may be replaced.
            inputs: Further files never to be overwritten.

        Returns:
            The path written.

        Raises:
            OutputFileError: The file cannot be written there.
        """

    @abstractmethod
    def session(self, device: str = "CPU", *, precision: str | None = "f32", probes: Sequence[str] = ()) -> Session:
        """Load it into its runtime.

        Args:
            device: Device to run on.
            precision: Precision to run the network in: `f32`, `bf16` or `f16`; None leaves it to the device.
            probes: Names of tensors inside to return as well.

        Raises:
            TargetError: The runtime cannot load it; `DeviceError` where the device is absent.
        """

    @abstractmethod
    def with_program(self, program: Program) -> Self:
        """Return the same network with another program, such as `program.replace(statistics)`.

        Where the operators are the same, only constants differ.

        Raises:
            PostProcessorError: The program is of another post-processor, or was bound to another raw model.
            ProvenanceError: What is in it is not what its provenance says.
        """

    def check_program(self, program: Program) -> None:
        """Raise if a program cannot replace the present one.

        Raises:
            PostProcessorError: It is of another post-processor, or was bound to another raw model.
        """
        assert isinstance(program.post, PostProcessor)
        kind, known = class_name(type(program.post)), self.provenance.post_processor
        if kind != known:
            raise PostProcessorError(
                f"The program is one of {kind}, expected {known} as in the artifact. Fuse the raw model with the other "
                "post-processor."
            )
        own, given = self.provenance.signature, program.signature
        # Other outputs may need more of the raw model, or less.
        if any(
            (own[role].axes, own[role].sizes) != (given[role].axes, given[role].sizes) for role in own if role in given
        ):
            listed = [
                ", ".join(f"{role} {value}" for role, value in each.items())
                for each in (program.signature, self.provenance.signature)
            ]
            raise PostProcessorError(
                f"The program reads {listed[0]}, expected {listed[1]} as in the artifact. Change the artifact's own "
                "program: artifact.program.replace(...)."
            )

    def __repr__(self) -> str:
        provenance = self.provenance
        outputs = ", ".join(output.name for output in provenance.outputs)
        return f"<{type(self).__name__} {self.file or '(in memory)'}: {provenance.post_processor} -> {outputs}>"
