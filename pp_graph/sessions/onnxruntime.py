"""Run an ONNX model, raw or fused, in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pp_graph.errors import TargetError, first_line
from pp_graph.model import ModelInput, RawModel
from pp_graph.model.graphs import all_values
from pp_graph.sessions.session import Array, Session
from pp_graph.sessions.threads import thread_limit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnxruntime as ort

_DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
_ERRORS_ONLY: Final = 3


class OnnxSession(Session):
    """An ONNX model in onnxruntime on the CPU, which computes in float32.

    Args:
        model: The model. External weights are read in place.
        probes: Names of inner values to return in addition to the outputs.

    Attributes:
        output_shapes: Shape of each output as onnxruntime infers it, None for an open size; `()` if the rank is
            unknown.

    Raises:
        TargetError: onnxruntime cannot load the model.
    """

    def __init__(self, model: RawModel, *, probes: Sequence[str] = ()) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = thread_limit() or 0  # 0: onnxruntime decides
        try:
            self._session = ort.InferenceSession(
                _loadable(model, probes, options), options, providers=["CPUExecutionProvider"]
            )
        except TargetError:
            raise
        except Exception as error:
            name = "the model" if model.source is None else f"'{model.source}'"
            raise TargetError(
                f"onnxruntime cannot load {name}: {first_line(error)}. Does it use custom operators, or an opset newer "
                f"than onnxruntime {ort.__version__} knows?"
            ) from error
        # onnxruntime reports an unknown rank as rank 0.
        declared = {model_input.name: model_input.shape for model_input in model.inputs}
        self.inputs = tuple(
            ModelInput(name=node.name, dtype=_DTYPES.get(node.type), shape=declared.get(node.name))
            for node in self._session.get_inputs()
        )
        self.outputs = tuple(node.name for node in self._session.get_outputs())
        self.output_shapes = {
            node.name: tuple(size if isinstance(size, int) else None for size in node.shape)
            for node in self._session.get_outputs()
        }
        self.precision = "f32"
        self.description = f"onnxruntime on CPU, {self.precision}"
        self.island = {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch."""
        try:
            return dict(zip(self.outputs, self._session.run(self.outputs, dict(feeds)), strict=True))
        except Exception as error:
            ports = [*self._session.get_outputs(), *self._session.get_inputs()]
            narrow = [each.name for each in ports if each.type == "tensor(bfloat16)"]
            if narrow:
                raise TargetError(
                    f"'{narrow[0]}' is bfloat16, expected an element type that NumPy has, since onnxruntime cannot "
                    "exchange others with Python. Cast the raw model's output to float32."
                ) from error
            raise TargetError(
                f"onnxruntime failed on a batch: {first_line(error)}. Do the images have the model's size and layout?"
            ) from error


def require_onnxruntime(device: str, precision: str | None) -> None:
    """Raise `TargetError` for a device other than the CPU or a precision other than f32."""
    if device != "CPU" or precision not in (None, "f32"):
        raise TargetError(
            f"An ONNX file was given with device {device} and precision {precision}, expected CPU and f32, because "
            "onnxruntime runs it. Convert it to OpenVINO first."
        )


def _loadable(model: RawModel, probes: Sequence[str], options: ort.SessionOptions) -> str | bytes:
    """Return the model's path, or the serialised graph if it was edited or needs probes as outputs."""
    outputs = {output.name for output in model.model.graph.outputs}
    missing = [name for name in probes if name not in outputs]
    known = {value.name for value in all_values(model.model.graph)} if missing else set()
    lost = next((name for name in missing if name not in known), None)
    if lost is not None:
        raise TargetError(
            f"Tensor '{lost}' is not in the model, expected a tensor that the provenance names. The model was changed "
            "after it was fused: fuse the raw model again."
        )
    if not missing and model.source is not None and not model.edited:
        return str(model.source)
    proto = model.to_proto()
    for name in missing:
        proto.graph.output.add(name=name)
    external = model.external_tensors()
    if external:
        folder = str(Path(external[0].base_dir or ".").resolve())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    return bytes(proto.SerializeToString())
