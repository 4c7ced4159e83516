"""Compile models, read the precision they run in, and manage infer requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import TargetError
from pp_graph.openvino.core import first_line, openvino_core, port_name
from pp_graph.openvino.devices import PRECISION_HINT, device_profile, precision_properties
from pp_graph.openvino.island.float32 import executed_precision
from pp_graph.sessions.threads import thread_limit

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Mapping

    import openvino as ov

    from pp_graph.sessions.session import Array

INFERENCE_PRECISIONS: Final = ("f32", "bf16", "f16")


def require_inference_precision(precision: str | None) -> None:
    """Raise if the inference precision is unknown. None means the device's default.

    Raises:
        TargetError: The precision is unknown.
    """
    if precision is not None and precision not in INFERENCE_PRECISIONS:
        raise TargetError(
            f"Inference precision '{precision}' is not known, expected one of: {', '.join(INFERENCE_PRECISIONS)}."
        )


def compile_for(
    model: ov.Model, device: str, precision: str | None, settings: Mapping[str, object]
) -> ov.CompiledModel:
    """Compile a model for a device.

    Args:
        model: The model.
        device: Device or meta device.
        precision: `f32`, `bf16` or `f16`; None means the device's default.
        settings: Further properties. They override the device's own.

    Raises:
        TargetError: OpenVINO cannot compile the model, or `f32` is requested and the device does not run in it.
    """
    hint = precision_properties(device, precision)
    threads = thread_limit()
    if threads is not None and device == "CPU":
        settings = {**settings, "INFERENCE_NUM_THREADS": threads}
    try:
        compiled = openvino_core().compile_model(model, device, {**device_profile(device).always, **settings, **hint})
    except RuntimeError as error:
        raise TargetError(
            f"OpenVINO cannot compile the model for {device}{'' if precision is None else ' in ' + precision}: "
            f"{first_line(error)}. Try another device or precision, or fix the input shape when converting."
        ) from error
    running = running_precision(compiled, precision)
    if precision == "f32" and running not in ("f32", _asked(precision)):
        raise TargetError(
            f"Device '{device}' runs in {running}, expected f32 as requested: decisions could differ. Use another "
            "device, or the device's default precision (inference_precision=None, --inference-precision default)."
        )
    return compiled


def running_precision(compiled: ov.CompiledModel, asked: str | None) -> str:
    """Return the precision that a compiled model runs in, which may differ from the requested one.

    Returns:
        `f32`, `bf16` or `f16`; with device names if members of a meta device differ. If no device reports its
        precision, a note on the requested one.
    """
    hints = _hints(compiled)
    if not hints:
        return _asked(asked)
    precisions = {member: _hinted(hint, compiled) for member, hint in hints.items()}
    if len(set(precisions.values())) == 1:
        return next(iter(precisions.values()))
    return ", ".join(f"{precision} on {member}" for member, precision in precisions.items())


def _asked(asked: str | None) -> str:
    return f"{asked} asked for" if asked else "its own precision"


def _hints(compiled: ov.CompiledModel) -> dict[str, ov.Type]:
    """Return the precision hint of each device; AUTO, HETERO and MULTI report it per member."""
    try:
        return {"": compiled.get_property(PRECISION_HINT)}
    except RuntimeError:
        pass
    try:
        members = compiled.get_property("DEVICE_PROPERTIES")
    except RuntimeError:
        return {}
    return {name: properties[PRECISION_HINT] for name, properties in members.items() if PRECISION_HINT in properties}


def _hinted(hint: ov.Type, compiled: ov.CompiledModel) -> str:
    from openvino import Type

    names = {Type.f32: "f32", Type.bf16: "bf16", Type.f16: "f16"}
    # With EXECUTION_MODE_HINT=ACCURACY, a device reports a dynamic type.
    return executed_precision(compiled) if hint == Type.dynamic else names.get(hint, str(hint))


@dataclass(frozen=True)
class Compilation:
    """A compiled model.

    Attributes:
        compiled: OpenVINO's compiled model.
        places: Positions of the outputs, by name.
        idle: Requests that are not in use.
        idle_sharing: The same of requests that read the caller's arrays. They are kept apart, because a request copies
            into the memory that it read last.
    """

    compiled: ov.CompiledModel
    places: Mapping[str, int]
    idle: deque[ov.InferRequest]
    idle_sharing: deque[ov.InferRequest]

    def take(self, states: Mapping[str, Array] | None, *, share: bool = False) -> Request:
        """Return an idle request.

        Args:
            states: Values of states; others are reset. None keeps all states.
            share: Read the arrays of the caller without copying them.
        """
        import openvino as ov

        idle = self.idle_sharing if share else self.idle
        try:
            request = idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        if states is not None:
            for state in request.query_state():
                if state.name in states:
                    state.state = ov.Tensor(states[state.name])
                else:
                    state.reset()
        return Request(self, request, idle, share)


@dataclass(frozen=True)
class Request:
    """A request of a compilation."""

    compilation: Compilation
    request: ov.InferRequest
    idle: deque[ov.InferRequest]
    share: bool

    def start(self, feeds: Mapping[str, Array]) -> None:
        """Start the request with a copy of the arrays, or with the arrays themselves."""
        if self.share:  # OpenVINO cannot share an array that is read-only, or has no axes
            feeds = {
                name: array if array.ndim and array.flags.writeable else array.copy() for name, array in feeds.items()
            }
        self.request.start_async(dict(feeds), share_inputs=self.share)

    def outputs(self) -> dict[str, Array]:
        """Wait for the outputs and return copies."""
        self.request.wait()
        return {name: array.copy() for name, array in shared_outputs(self.request, self.compilation.places).items()}

    def feeds(self) -> dict[str, Array]:
        """Return copies of the inputs that the request was started with."""
        return {port_name(port): self.request.get_tensor(port).data.copy() for port in self.compilation.compiled.inputs}

    def is_done(self) -> bool:
        """Return True if the request finished or failed; `outputs` raises the error."""
        try:
            return bool(self.request.wait_for(0))
        except RuntimeError:
            return True

    def give_back(self) -> None:
        """Return the request to the idle ones."""
        self.idle.append(self.request)


def shared_outputs(request: ov.InferRequest, places: Mapping[str, int]) -> dict[str, Array]:
    """Return the outputs of a request by name, without copying; bfloat16 as float32, since NumPy has none."""
    return {name: _array(request.get_output_tensor(place)) for name, place in places.items()}


def _array(tensor: ov.Tensor) -> Array:
    import openvino as ov

    data: Array = tensor.data
    if tensor.element_type != ov.Type.bf16:
        return data
    # OpenVINO 2026.4 returns the bits of bfloat16 as an array of float16.
    wide: Array = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return wide
