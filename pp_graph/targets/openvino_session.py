"""Run a converted model in OpenVINO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import TargetError
from pp_graph.model import ModelInput
from pp_graph.targets.devices import openvino_core, require_device
from pp_graph.targets.island import add_probes
from pp_graph.targets.island_precision import island_precisions
from pp_graph.targets.openvino_model import OpenVINOModel, first_line, partial_shape, port_name
from pp_graph.targets.preprocessing import frame_format
from pp_graph.targets.session import Array, Session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import openvino as ov

INFERENCE_PRECISIONS: Final = ("f32", "bf16", "f16")


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
        if inference_precision is not None and inference_precision not in INFERENCE_PRECISIONS:
            raise TargetError(
                f"Inference precision '{inference_precision}' is not known, expected one of: "
                f"{', '.join(INFERENCE_PRECISIONS)}."
            )
        model = artifact.model
        if probes:
            model = model.clone()
            add_probes(model, probes)
        self._compiled = compile_for(model, device, inference_precision, {})
        self._request = self._compiled.create_infer_request()
        ports = self._compiled.outputs
        count = len(artifact.model.outputs)
        self._outputs = {name: port for port in ports[:count] for name in port.get_names()}
        self._outputs.update(zip(probes, ports[count:], strict=True))
        self.inputs = tuple(
            ModelInput(
                name=port_name(port),
                dtype=np.dtype(port.get_element_type().to_dtype()).name,
                shape=partial_shape(port),
                frames=frame_format(artifact.provenance.preprocessing, port_name(port)),
            )
            for port in self._compiled.inputs
        )
        self.precision = running_precision(self._compiled, inference_precision)
        self.island = island_precisions(self._compiled, artifact.provenance.prefix)
        wish = inference_precision
        unmet = wish is not None and wish != self.precision and " " not in self.precision
        self.description = f"OpenVINO on {device}, {self.precision}{f' ({wish} is not to be had)' if unmet else ''}"

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch."""
        try:
            self._request.infer(dict(feeds))
        except RuntimeError as error:
            raise TargetError(
                f"OpenVINO failed on a batch: {first_line(error)}. Do the images have the size and layout of the model?"
            ) from error
        return {name: self._request.get_tensor(port).data.copy() for name, port in self._outputs.items()}


def compile_for(
    model: ov.Model, device: str, inference_precision: str | None, settings: Mapping[str, object]
) -> ov.CompiledModel:
    """Compile a model for a device.

    Raises:
        TargetError: OpenVINO cannot.
    """
    hint = {} if inference_precision is None else {"INFERENCE_PRECISION_HINT": inference_precision}
    try:
        return openvino_core().compile_model(model, device, {**settings, **hint})
    except RuntimeError as error:
        raise TargetError(
            f"OpenVINO cannot compile the model for {device}"
            f"{'' if inference_precision is None else ' in ' + inference_precision}: {first_line(error)}. "
            "Try another device or precision, or fix the input shape when converting."
        ) from error


def running_precision(compiled: ov.CompiledModel, asked: str | None) -> str:
    """The precision a device runs in: it may not have the one asked for. AUTO does not tell."""
    from openvino import Type

    names = {Type.f32: "f32", Type.bf16: "bf16", Type.f16: "f16"}
    try:
        running = compiled.get_property("INFERENCE_PRECISION_HINT")
    except RuntimeError:
        return f"{asked} asked for" if asked else "its own precision"
    return names.get(running, str(running))
