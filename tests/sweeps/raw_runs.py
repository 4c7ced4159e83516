"""Raw models in onnxruntime, onnx's evaluator and OpenVINO, without pp_graph, and how their values compare."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper

Values = dict[str, Any]
Run = Callable[[Mapping[str, Any]], Values]

_READ_AS: Final = "read_as_"


def runner(path: Path, runtime: str) -> Run:
    """Load a model into `onnxruntime`, `reference` or `openvino`."""
    return {"onnxruntime": _onnxruntime, "reference": _reference, "openvino": _openvino}[runtime](path)


def _reference(path: Path) -> Run:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))

    def run(feeds: Mapping[str, Any]) -> Values:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return dict(zip(evaluator.output_names, evaluator.run(None, dict(feeds)), strict=True))

    return run


def _onnxruntime(path: Path) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _openvino(path: Path) -> Run:
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(feeds: Mapping[str, Any]) -> Values:
        request = compiled.create_infer_request()
        for port in compiled.inputs:
            name = next((name for name in feeds if name in port.get_names()), "")
            request.set_tensor(port, _tensor(feeds.get(name), port.get_element_type()))
        request.infer()
        return {name: _array(request.get_tensor(port)) for port in compiled.outputs for name in port.get_names()}

    return run


def _tensor(value: Any, kind: Any) -> Any:
    """Return a tensor of an element type; those that NumPy lacks are given by their bits."""
    import openvino as ov

    if not isinstance(value, np.ndarray) or value.dtype.kind in "OUS":
        raise TypeError("an input is no numeric tensor")
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    tensor = ov.Tensor(kind, list(array.shape))
    if tensor.data.nbytes != array.nbytes:
        raise TypeError(f"{array.dtype} cannot be given as {kind}")
    tensor.data.reshape(-1).view(np.uint8)[:] = array.reshape(-1).view(np.uint8)
    return tensor


def _array(tensor: Any) -> Any:
    import openvino as ov

    if tensor.element_type != ov.Type.bf16:
        return np.array(tensor.data)
    return (tensor.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def steady(path: Path, runtime: str, feeds: Mapping[str, Any], runs: int = 2) -> Values:
    """Return the outputs that a raw model has again in each of some sessions, with different memory between them."""
    first = runner(path, runtime)(feeds)
    for turn in range(1, runs):
        # What a kernel leaves unwritten then has other numbers.
        junk = [np.full(value.size, turn, value.dtype) for value in first.values() if isinstance(value, np.ndarray)]
        session = runner(path, runtime)
        del junk
        again = session(feeds)
        first = {name: value for name, value in first.items() if equal(value, again[name])}
    return first


def read_values(path: Path, runtime: str, feeds: Mapping[str, Any], roles: Mapping[str, tuple[str, str]]) -> Values:
    """Return the values that an operator reads where a raw model has an output, which the runtime may round or clip.

    Args:
        path: The raw model.
        runtime: The runtime.
        feeds: Its inputs.
        roles: Output and element type in which it is read, by role.

    Returns:
        The values by role, from outputs that a Cast adds to the raw model.
    """
    model = onnx.load(path, load_external_data=False)
    for role, (output, dtype) in roles.items():
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        # Two operators read it, as in a fused model: for one alone, onnxruntime may leave the rounding in.
        model.graph.node.append(helper.make_node("Cast", [output], [f"{_READ_AS}{role}_cast"], to=kind))
        model.graph.node.append(helper.make_node("Identity", [f"{_READ_AS}{role}_cast"], [f"{_READ_AS}{role}"]))
        if dtype == "float32":
            model.graph.node.append(helper.make_node("Neg", [f"{_READ_AS}{role}_cast"], [f"{_READ_AS}{role}_other"]))
            model.graph.output.append(helper.make_tensor_value_info(f"{_READ_AS}{role}_other", kind, None))
        model.graph.output.append(helper.make_tensor_value_info(f"{_READ_AS}{role}", kind, None))
    extended = path.with_name("extended.onnx")
    extended.write_bytes(model.SerializeToString())
    found = runner(extended, runtime)(feeds)
    return {role: found[f"{_READ_AS}{role}"] for role in roles}


def equal(one: Any, other: Any) -> bool:
    """True if two values have the same element type, shape and numbers; NaN equals NaN."""
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        if isinstance(one, list) and isinstance(other, list):
            return len(one) == len(other) and all(map(equal, one, other))
        return bool(one is None and other is None) or bool(np.all(one == other))
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    same = one == other
    return bool(np.all(same | ((one != one) & (other != other))))


def close(one: Any, other: Any) -> bool:
    """True if numbers agree within the tolerance of `pp.verify`, 1e-5 of the largest one."""
    if one.shape != other.shape:
        return False
    numbers = np.abs(other[np.isfinite(other)]) if other.dtype.kind == "f" else np.abs(other)
    scale = float(numbers.max()) if numbers.size else 1.0
    return bool(np.allclose(one, other, rtol=1e-5, atol=1e-5 * scale, equal_nan=True))


def difference(one: Any, other: Any) -> str:
    """Describe the first difference."""
    if not (isinstance(one, np.ndarray) and isinstance(other, np.ndarray)):
        return f"{type(one).__name__} for {type(other).__name__}"
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"{one.dtype} {one.shape} for {other.dtype} {other.shape}"
    places = np.flatnonzero(((one != other) & ~((one != one) & (other != other))).ravel())
    return f"{places.size} of {one.size} differ, {one.ravel()[places[:1]]} for {other.ravel()[places[:1]]}"


def brief(error: BaseException) -> str:
    """Return the line of an error that says most."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1] if 'openvino' in str(error) else lines[0]}"[:300]
