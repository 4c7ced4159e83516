"""`OpenVINOModel`: a fused model converted to OpenVINO."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.errors import PostProcessorError, ProvenanceError, TargetError
from pp_graph.files import written_together
from pp_graph.fusion import METADATA_KEY, Artifact, Provenance
from pp_graph.model import Port
from pp_graph.openvino.core import first_line, partial_shape, port_name, rt_text
from pp_graph.openvino.ir_files import decimal_points, read_model
from pp_graph.openvino.island.exchange import with_other_program
from pp_graph.openvino.island.float32 import island_constants
from pp_graph.openvino.session import OpenVINOSession
from pp_graph.openvino.usage import usage_path, usage_text
from pp_graph.openvino.weights_file import UNKNOWN, WEIGHTS_PATH, check_weights_file, marked, weights_mark
from pp_graph.sessions.session import with_batch_axes
from pp_graph.urls import local_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import openvino as ov

    from pp_graph.program import Program

RT_INFO_PATH: Final = [METADATA_KEY, "provenance"]
_VERSION: Final = re.compile(rb'<net\b[^>]*\bversion="(\d{1,9})"')


def check_ir_path(path: str | Path) -> Path:
    """Return the path of an IR to write.

    Raises:
        TargetError: It does not end in `.xml`.
    """
    path = Path(path)
    if path.suffix != ".xml":
        raise TargetError(
            f"Output '{path}' ends in '{path.suffix}', expected '.xml' for an OpenVINO IR. Rename it, or write ONNX "
            "with pp_graph.fuse (pp-graph fuse)."
        )
    return path


@dataclass(frozen=True, repr=False)
class OpenVINOModel(Artifact):
    """A converted model, in memory until it is saved.

    Attributes:
        network: The OpenVINO model, post-processing included.
        provenance: Provenance, with the settings of the conversion.
        precision: Precision of the network's weights: `f32`, `f16` or `int8`. The post-processing is always in f32.
        file: The `.xml` it was loaded from; None if it was not loaded.
        inputs: Files it was made from, which `save` never overwrites.
        notes: Notes of `fuse` and `convert`. Empty after loading.
    """

    network: ov.Model
    provenance: Provenance
    precision: str
    file: Path | None = None
    inputs: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    _program: Program | None = field(default=None, repr=False, compare=False)

    @classmethod
    def load(cls, path: str | Path) -> OpenVINOModel:
        """Open an IR written by `save`.

        Args:
            path: The `.xml`; its `.bin` is expected beside it.

        Raises:
            TargetError: A file is missing, or the files are not an IR.
            ProvenanceError: The IR was not written by pp_graph.
        """
        path = local_file(path)
        model = _read_ir(path)
        if not model.has_rt_info(RT_INFO_PATH):
            raise ProvenanceError(
                f"IR '{path}' has no post-processing by pp_graph, expected one written by pp-graph convert. "
                "Fuse and convert the raw model."
            )
        provenance = Provenance.from_json(rt_text(model.get_rt_info(RT_INFO_PATH)))
        precision = (provenance.conversion or {}).get("precision", "f32")
        return cls(model, provenance, precision, path, (path, path.with_suffix(".bin")))

    def save(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> Path:
        """Write the IR and `model.usage.md`: all three files completely, then moved into place one after the other.

        Args:
            path: The `.xml` to write, beside a `.bin` with the weights and a `.usage.md` with the guide. Files that the
                model was made from are never overwritten.
            overwrite: Replace other files of these names.
            inputs: Further files that are never overwritten.

        Returns:
            The path of the `.xml`.

        Raises:
            OutputFileError: A file cannot be written.
            TargetError: OpenVINO cannot save the model, or would save a constant of the post-processing in another
                precision than f32.
        """
        import openvino as ov

        path = check_ir_path(path)
        weights = path.with_suffix(".bin")
        protected = (*self.inputs, *inputs)
        usage = usage_path(path)
        with written_together(weights, usage, path, overwrite=overwrite, inputs=protected) as (content, guide, draft):
            guide.write_text(usage_text(self.network, self.provenance, path.name), encoding="utf-8")
            self.network.set_rt_info(UNKNOWN, WEIGHTS_PATH)
            try:
                with decimal_points():
                    ov.save_model(self.network, str(draft), compress_to_fp16=False)
            except RuntimeError as error:
                raise TargetError(f"OpenVINO cannot save '{path}': {first_line(error)}. Is the disk full?") from error
            text = draft.read_bytes()
            draft.write_bytes(marked(text, weights_mark(content, text)))
            constants = island_constants(read_model(draft), self.provenance.prefix, self.provenance.adjustable)
            if not constants and self._decides:
                raise TargetError(
                    f"There are no constants under '{self.provenance.prefix}/', expected the cutoffs of the "
                    "post-processing. The model was changed after it was converted: convert the fused model again."
                )
            narrowed = {name: kind for name, kind in constants.items() if kind != "f32"}
            if narrowed:
                name, kind = next(iter(narrowed.items()))
                raise TargetError(
                    f"Constant '{name}' of the post-processing would be saved in {kind}, expected f32: decisions could "
                    "flip. This OpenVINO version treats precision marks differently; please report it."
                )
        return path

    def stamp(self) -> None:
        """Write the provenance into the model in memory, so that `save` writes it too."""
        self.network.set_rt_info(self.provenance.to_json(), RT_INFO_PATH)

    def session(
        self,
        device: str = "CPU",
        *,
        precision: str | None = "f32",
        probes: Sequence[str] = (),
        cache_dir: str | Path | None = None,
    ) -> OpenVINOSession:
        """Compile the model for a device, and read the precision that the post-processing runs in.

        Args:
            device: Device to run on.
            precision: Inference precision: `f32`, `bf16` or `f16`; None means the device's default.
            probes: Names of inner tensors to return as further outputs.
            cache_dir: Folder to keep the compiled model in; see `load`.

        Raises:
            DeviceError: The device is not on this machine.
            OutputFileError: The cache's folder cannot be written.
            TargetError: OpenVINO cannot compile the model, or the compiled model lacks the post-processing.
        """
        session = OpenVINOSession(
            self.network,
            device=device,
            precision=precision,
            probes=probes,
            preprocessing=self.provenance.preprocessing,
            island=self.provenance.prefix,
            decides=self._decides,
            cache_dir=cache_dir,
        )
        session.inputs = with_batch_axes(session.inputs, self.provenance.conversion)
        return session

    def with_program(self, program: Program) -> OpenVINOModel:
        """Return the same network with another program, which must have the same outputs.

        Raises:
            PostProcessorError: The program has other outputs, belongs to another post-processor, or was bound to
                another raw model.
            ProvenanceError: A constant in the model contradicts its provenance.
        """
        self.check_program(program)
        own, given = (
            [(each.name, each.dtype, each.axes, each.sizes) for each in outputs]
            for outputs in (self.provenance.outputs, program.outputs)
        )
        if own != given or program.adjustable != self.provenance.adjustable:
            listed = [
                f"{', '.join(each.name for each in outputs)} ({', '.join(adjustable) or 'fixed cutoffs'})"
                for outputs, adjustable in (
                    (program.outputs, program.adjustable),
                    (self.provenance.outputs, self.provenance.adjustable),
                )
            ]
            raise PostProcessorError(
                f"The program has the outputs {listed[0]}, expected {listed[1]} with the element types and sizes of "
                "the converted model. Change the fused model, and convert it again."
            )
        network, provenance = with_other_program(self.network, self.provenance, program)
        changed = OpenVINOModel(network, provenance, self.precision, None, self.inputs, self.notes, program)
        changed.stamp()
        return changed

    @property
    def _decides(self) -> bool:
        # A decision whose cutoff is "never" may have no operator left.
        return any(cutoff != "never" for cutoff in self.provenance.cutoffs.values())

    @property
    def conversion(self) -> dict[str, Any]:
        """Settings of the conversion."""
        return dict(self.provenance.conversion or {})


@dataclass(frozen=True)
class IRDescription:
    """Content of an IR, written by any program.

    Attributes:
        inputs: Its inputs.
        outputs: Its outputs.
        version: Version of the IR format.
        producer: Program that wrote it.
        nodes: Number of operators without constants, parameters and results.
        weight_bytes: Size of the `.bin`.
        provenance: Provenance; None if pp_graph did not write the IR.
        model: The model, not compiled.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    version: int
    producer: str
    nodes: int
    weight_bytes: int
    provenance: Provenance | None
    model: ov.Model


def describe_ir(path: Path) -> IRDescription:
    """Describe an IR without compiling it.

    Raises:
        TargetError: A file is missing, or the files are not an IR.
    """
    model = _read_ir(path)
    provenance = None
    if model.has_rt_info(RT_INFO_PATH):
        provenance = Provenance.from_json(rt_text(model.get_rt_info(RT_INFO_PATH)))
    written = () if provenance is None else provenance.output_names
    with path.open("rb") as stream:
        version = _VERSION.search(stream.read(1 << 16))
    ports = [
        tuple(
            Port(port_name(port, written), str(np.dtype(port.get_element_type().to_dtype())), partial_shape(port))
            for port in side
        )
        for side in (model.inputs, model.outputs)
    ]
    return IRDescription(
        inputs=ports[0],
        outputs=ports[1],
        version=int(version[1]) if version else 0,
        producer=_producer(model, provenance),
        nodes=sum(node.get_type_name() not in ("Constant", "Parameter", "Result") for node in model.get_ops()),
        weight_bytes=path.with_suffix(".bin").stat().st_size,
        provenance=provenance,
        model=model,
    )


def _producer(model: ov.Model, provenance: Provenance | None) -> str:
    version = (provenance.conversion or {}).get("openvino") if provenance is not None else None
    if model.has_rt_info("Runtime_version"):
        version = rt_text(model.get_rt_info("Runtime_version"))
    return f"OpenVINO {version}" if version else "OpenVINO"


def _read_ir(path: Path) -> ov.Model:
    for file in (path, path.with_suffix(".bin")):
        if not file.is_file():
            raise TargetError(f"IR file '{file}' does not exist, expected an .xml and a .bin beside it. Copy both.")
    check_weights_file(path)
    try:
        return read_model(path)
    except RuntimeError as error:
        reason = first_line(error)
        if "weights" in reason.lower() or "bin file" in reason.lower():
            raise TargetError(
                f"Weights file '{path.with_suffix('.bin')}' does not match '{path}', expected the complete .bin that "
                f"was written with it: {reason.rstrip('.!')}. Copy both files again, or convert the model again."
            ) from error
        raise TargetError(f"File '{path}' is not an OpenVINO IR: {reason}. Convert the model again.") from error
