"""`Artifact`: a program written into an ONNX model or an OpenVINO IR."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
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
    """A program written into a network. `FusedModel` and `OpenVINOModel` implement this interface.

    Attributes:
        network: The model with the program in it: a `RawModel` or an `openvino.Model`.
        provenance: Record of the post-processor, its parameters and the raw model.
    """

    network: Any
    provenance: Provenance
    _program: Program | None

    @cached_property
    def program(self) -> Program:
        """The fused program, bound on first use.

        Raises:
            ProvenanceError: The post-processor's class is unknown, or the provenance was edited.
        """
        return self.provenance.bind() if self._program is None else self._program

    @property
    def outputs(self) -> tuple[OutputDescription, ...]:
        """Descriptions of the outputs, in order. The post-processor's class is not needed."""
        return tuple(self.provenance.outputs)

    @property
    @abstractmethod
    def file(self) -> Path | None:
        """The file the artifact was read from; None if it exists only in memory."""

    @abstractmethod
    def save(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> Path:
        """Save the artifact atomically.

        Args:
            path: The file to write. Files the artifact was made from are never overwritten.
            overwrite: True to replace an existing file.
            inputs: Additional files that must not be overwritten.

        Returns:
            The path that was written.

        Raises:
            OutputFileError: The file cannot be written.
        """

    @abstractmethod
    def session(self, device: str = "CPU", *, precision: str | None = "f32", probes: Sequence[str] = ()) -> Session:
        """Load the artifact into its runtime.

        Args:
            device: Device to run on.
            precision: Inference precision of the network: `f32`, `bf16` or `f16`. None means the device's default.
            probes: Names of internal tensors to return in addition to the outputs.

        Raises:
            TargetError: The runtime cannot load the artifact; `DeviceError` if the device is absent.
        """

    @abstractmethod
    def with_program(self, program: Program) -> Self:
        """Return the same network with another program, such as `program.replace(statistics)`.

        If both programs emit the same operators, only constants change.

        Raises:
            PostProcessorError: The program has another post-processor, or was bound to another raw model.
            ProvenanceError: The artifact's content contradicts its provenance.
        """

    def check_program(self, program: Program) -> None:
        """Raise if a program cannot replace the current one.

        Raises:
            PostProcessorError: The program has another post-processor, or was bound to another raw model.
        """
        assert isinstance(program.post, PostProcessor)
        given_class, own_class = class_name(type(program.post)), self.provenance.post_processor
        if given_class != own_class:
            raise PostProcessorError(
                f"The program's post-processor is {given_class}, expected {own_class} as in the artifact. Fuse the raw "
                "model with the other post-processor."
            )
        own, given = self.provenance.signature, program.signature
        # A program with other outputs may read more or fewer raw values; only common roles must agree.
        if any(
            (own[role].axes, own[role].sizes) != (given[role].axes, given[role].sizes) for role in own if role in given
        ):
            listed = [", ".join(f"{role} {value}" for role, value in signature.items()) for signature in (given, own)]
            raise PostProcessorError(
                f"The program reads {listed[0]}, expected {listed[1]} as in the artifact. Derive it from the "
                "artifact's own program: artifact.program.replace(...)."
            )

    def __str__(self) -> str:
        """Return the post-processing as readable text."""
        return str(self.provenance)

    def _repr_html_(self) -> str:
        return self.provenance._repr_html_()

    def __repr__(self) -> str:
        provenance = self.provenance
        outputs = ", ".join(output.name for output in provenance.outputs)
        return f"<{type(self).__name__} {self.file or '(in memory)'}: {provenance.post_processor} -> {outputs}>"
