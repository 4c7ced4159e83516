"""Run a converted model in OpenVINO."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import TargetError
from pp_graph.model import ModelInput
from pp_graph.targets.devices.devices import device_profile, openvino_core, precision_properties, require_device
from pp_graph.targets.devices.names import parse_device
from pp_graph.targets.island.island import add_probes
from pp_graph.targets.island.precision import executed_precision, island_precisions, names_operators
from pp_graph.targets.openvino_ports import first_line, partial_shape, port_name
from pp_graph.targets.preprocessing import frame_format
from pp_graph.targets.session import Array, Session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import openvino as ov

    from pp_graph.fusion import Provenance
    from pp_graph.model import Shape
    from pp_graph.targets.openvino_model import OpenVINOModel

INFERENCE_PRECISIONS: Final = ("f32", "bf16", "f16")
_HINT: Final = "INFERENCE_PRECISION_HINT"


class OpenVINOSession(Session):
    """A converted model, compiled for a device.

    Args:
        artifact: The model.
        device: Device to run on.
        inference_precision: Precision to run the network in: `f32`, `bf16` or `f16`. None leaves it to
            the device, which may choose bf16 or f16 by itself.
        probes: Names of inner tensors to return as well.

    Attributes:
        precision: The precision that the device runs in.
        island: Precision of each operator of the post-processing in the compiled model.

    Raises:
        DeviceError: The device is not on this machine.
        TargetError: OpenVINO cannot compile the model.
    """

    def __init__(
        self,
        artifact: OpenVINOModel,
        *,
        device: str = "CPU",
        inference_precision: str | None = "f32",
        probes: Sequence[str] = (),
    ) -> None:
        require_device(device)
        require_inference_precision(inference_precision)
        model = artifact.model
        if probes:
            model = model.clone()
            add_probes(model, probes)
        self._compiled = compile_for(model, device, inference_precision, {})
        self._requests = [
            self._compiled.create_infer_request() for _ in range(_requests_in_batch(self._compiled, device))
        ]
        ports = self._compiled.outputs
        count = len(artifact.model.outputs)
        self._outputs = {name: port for port in ports[:count] for name in port.get_names()}
        self._outputs.update(zip(probes, ports[count:], strict=True))
        inputs = compiled_inputs(self._compiled, artifact.provenance)
        self.inputs = tuple(replace(each, shape=self._fed(each.shape)) for each in inputs)
        self.precision = running_precision(self._compiled, inference_precision)
        self.island = island_precisions(self._compiled, artifact.provenance.prefix)
        # A decision that is never made may have no operator left.
        decides = any(cutoff != "never" for cutoff in artifact.provenance.cutoffs.values())
        if decides and not self.island and names_operators(self._compiled):
            raise TargetError(
                f"No operator of the post-processing is found under '{artifact.provenance.prefix}/' in the compiled "
                "model, expected those that decide, so nobody knows in which precision they run. The model was changed "
                "after it was converted: convert the fused model again."
            )
        wish = inference_precision
        unmet = wish is not None and wish != self.precision and " " not in self.precision
        self.description = f"OpenVINO on {device}, {self.precision}{f' ({wish} is not to be had)' if unmet else ''}"

    def _fed(self, shape: Shape | None) -> Shape | None:
        """Sizes to feed: any number of images where requests are grouped."""
        return (None, *shape[1:]) if shape and len(self._requests) > 1 else shape

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch."""
        try:
            return self._run_grouped(feeds) if len(self._requests) > 1 else self._infer(feeds)
        except RuntimeError as error:
            raise TargetError(
                f"OpenVINO failed on a batch: {first_line(error)}. Do the images have the size and layout of the model?"
            ) from error

    def _infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self._requests[0].infer(dict(feeds))
        return self._read(self._requests[0])

    def _run_grouped(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Feed images to requests one each, always a full batch of requests: a lone one would run another graph."""
        count, size = len(next(iter(feeds.values()))), len(self._requests)
        found: list[dict[str, Array]] = []
        for start in range(0, count, size):
            for offset, request in enumerate(self._requests):
                image = min(start + offset, count - 1)
                request.start_async({name: array[image : image + 1] for name, array in feeds.items()})
            for request in self._requests:
                request.wait()
            found += [self._read(request) for request in self._requests]
        return {name: np.concatenate([each[name] for each in found[:count]]) for name in self._outputs}

    def _read(self, request: ov.InferRequest) -> dict[str, Array]:
        return {name: request.get_tensor(port).data.copy() for name, port in self._outputs.items()}


def _requests_in_batch(compiled: ov.CompiledModel, device: str) -> int:
    """How many requests BATCH runs together; 1 where it groups none, and for every other device."""
    name = parse_device(device)
    if name.profile.members is None or not name.profile.members.batch:
        return 1
    count = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    shapes = [partial_shape(port) for port in compiled.inputs]
    single = all(shape and shape[0] == 1 and None not in shape for shape in shapes)
    return min(name.batch or count, count) if single else 1


def require_inference_precision(precision: str | None) -> None:
    """Make sure that a precision to run in is one that is known; None leaves it to the device.

    Raises:
        TargetError: It is not.
    """
    if precision is not None and precision not in INFERENCE_PRECISIONS:
        raise TargetError(
            f"Inference precision '{precision}' is not known, expected one of: {', '.join(INFERENCE_PRECISIONS)}."
        )


def compiled_inputs(compiled: ov.CompiledModel, provenance: Provenance) -> tuple[ModelInput, ...]:
    """What to feed a compiled model; frames where it preprocesses them."""
    return tuple(
        ModelInput(
            name=port_name(port),
            dtype=np.dtype(port.get_element_type().to_dtype()).name,
            shape=partial_shape(port),
            frames=frame_format(provenance.preprocessing, port_name(port)),
        )
        for port in compiled.inputs
    )


def compile_for(
    model: ov.Model, device: str, inference_precision: str | None, settings: Mapping[str, object]
) -> ov.CompiledModel:
    """Compile a model for a device.

    Args:
        model: The model.
        device: Device, also a meta device.
        inference_precision: `f32`, `bf16` or `f16`; None leaves it to the device. Where f32 is asked for, nothing else
            is accepted.
        settings: Further properties, which go before the device's own.

    Raises:
        TargetError: OpenVINO cannot, or the device does not run in f32 although asked to.
    """
    hint = precision_properties(device, inference_precision)
    try:
        compiled = openvino_core().compile_model(model, device, {**device_profile(device).always, **settings, **hint})
    except RuntimeError as error:
        raise TargetError(
            f"OpenVINO cannot compile the model for {device}"
            f"{'' if inference_precision is None else ' in ' + inference_precision}: {first_line(error)}. "
            "Try another device or precision, or fix the input shape when converting."
        ) from error
    running = running_precision(compiled, inference_precision)
    if inference_precision == "f32" and running not in ("f32", _asked(inference_precision)):
        raise TargetError(
            f"Device '{device}' was asked to run in f32 and runs in {running}, so its decisions could differ. Take "
            "another device, or leave the precision to it (inference_precision=None, --inference-precision default)."
        )
    return compiled


def running_precision(compiled: ov.CompiledModel, asked: str | None) -> str:
    """The precision a device runs in: it may not have the one asked for.

    Returns:
        `f32`, `bf16` or `f16`; where members of a meta device differ, each with its device. Where no device tells, what
        was asked for.
    """
    hints = _hints(compiled)
    if not hints:
        return _asked(asked)
    found = {member: _hinted(hint, compiled) for member, hint in hints.items()}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ", ".join(f"{precision} on {member}" for member, precision in found.items())


def _asked(asked: str | None) -> str:
    return f"{asked} asked for" if asked else "its own precision"


def _hints(compiled: ov.CompiledModel) -> dict[str, ov.Type]:
    """What each device says it runs in; AUTO, HETERO and MULTI only tell it of their members."""
    try:
        return {"": compiled.get_property(_HINT)}
    except RuntimeError:
        pass
    try:
        members = compiled.get_property("DEVICE_PROPERTIES")
    except RuntimeError:
        return {}
    return {name: properties[_HINT] for name, properties in members.items() if _HINT in properties}


def _hinted(hint: ov.Type, compiled: ov.CompiledModel) -> str:
    from openvino import Type

    names = {Type.f32: "f32", Type.bf16: "bf16", Type.f16: "f16"}
    # With EXECUTION_MODE_HINT=ACCURACY a device names no precision.
    return executed_precision(compiled) if hint == Type.dynamic else names.get(hint, str(hint))
