"""Golden images: what goes into the model, and what must come out on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.data import feed_model, fix_inputs
from pp_graph.fusion import FusedModel
from pp_graph.model import image_input
from pp_graph.openvino.core import partial_shape, port_name
from pp_graph.openvino.devices import RECOMMENDED, chosen_precision
from pp_graph.openvino.model import OpenVINOModel
from pp_graph.packaging.manifest import ChannelSpec, InputSpec, OutputSpec
from pp_graph.program import OutputDescription
from pp_graph.sessions import OnnxSession, cut_to_batch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from pp_graph.data import Images
    from pp_graph.fusion import Artifact
    from pp_graph.model import ModelInput, Shape
    from pp_graph.sessions import Session
    from pp_graph.sessions.session import Array

COUNT: Final = 3
"""Number of golden images."""
_CHANNELS: Final = (1, 3)
_EXACT: Final = ("decision", "class", "token", "count")


@dataclass(frozen=True)
class GoldenImage:
    """An image with the expected results.

    Attributes:
        name: Its name among the images.
        inputs: Array by input name, as the model takes it.
        outputs: Array by output name.
    """

    name: str
    inputs: dict[str, Array]
    outputs: dict[str, Array]


def golden_session(artifact: Artifact) -> Session:
    """Return a session that runs an artifact as it is deployed, on the CPU."""
    if isinstance(artifact, OpenVINOModel):
        precision = chosen_precision(artifact.provenance, "CPU")
        return artifact.session("CPU", precision="f32" if precision in (None, RECOMMENDED) else precision)
    return artifact.session("CPU")


def run_golden(
    session: Session, artifact: Artifact, images: Images, fixed_inputs: Mapping[str, npt.ArrayLike] | None
) -> list[GoldenImage]:
    """Run the first image, one from the middle and the last one.

    They are sorted by name, so that images of several folders are among them. A model with a fixed batch gets the image
    as often as the batch needs.

    Raises:
        DataError: The images do not fit the model.
        TargetError: The runtime fails.
    """
    source = feed_model(images, session.inputs, fixed_inputs)
    last = len(source) - 1
    names = output_names(artifact)
    found = []
    for index in sorted({round(place * last / (COUNT - 1)) for place in range(COUNT)}):
        cut = next(iter(cut_to_batch(session.inputs, source.read(index, index + 1, session.inputs))))
        inputs = {each.name: np.asarray(cut.feeds[each.name], order="C") for each in session.inputs}
        results = session.run(inputs)
        found.append(GoldenImage(source.names[index], inputs, {name: results[name] for name in names}))
    return found


def output_names(artifact: Artifact) -> list[str]:
    """Return the names of a model's outputs, in its order."""
    if isinstance(artifact, FusedModel):
        return [str(output.name) for output in artifact.network.model.graph.outputs]
    return [port_name(port, artifact.provenance.output_names) for port in artifact.network.outputs]


def write_golden(folder: Path, golden: Sequence[GoldenImage], fixed: Sequence[str]) -> None:
    """Write `golden/0/input_0.npy`, `golden/0/output_0.npy` and so on, and the values of fixed inputs."""
    for index, image in enumerate(golden):
        place = folder / "golden" / str(index)
        place.mkdir(parents=True)
        for side, arrays in (("input", image.inputs), ("output", image.outputs)):
            for number, array in enumerate(arrays.values()):
                np.save(place / f"{side}_{number}.npy", array)
    for number, (name, array) in enumerate(golden[0].inputs.items()):
        if name in fixed:
            (folder / "defaults").mkdir(exist_ok=True)
            np.save(folder / "defaults" / f"input_{number}.npy", array)


def fixed_names(session: Session, fixed_inputs: Mapping[str, npt.ArrayLike] | None) -> list[str]:
    """Return the names of the inputs with fixed values."""
    return list(fix_inputs(fixed_inputs, session.inputs).values)


def input_specs(inputs: Sequence[ModelInput]) -> list[InputSpec]:
    """Describe the inputs of a model."""
    main = image_input(inputs) or inputs[0]
    return [_input_spec(each, image=each is main) for each in inputs]


def _input_spec(wanted: ModelInput, *, image: bool) -> InputSpec:
    shape = None if wanted.shape is None else [size if isinstance(size, int) else None for size in wanted.shape]
    frames, dtype = wanted.frames, wanted.dtype or "float32"
    layout = ""
    if frames is not None:
        layout = frames.layout
    elif image and (shape is None or len(shape) == 4):
        last = shape is not None and shape[1] not in _CHANNELS and shape[3] in _CHANNELS
        layout = "NHWC" if last else "NCHW"
    return InputSpec(
        name=wanted.name,
        dtype=dtype,
        shape=shape,
        image=image,
        layout=layout,
        channel_order="RGB" if frames is None else frames.channel_order,
        scaled=frames is None and np.dtype(dtype).kind == "f",
    )


def output_specs(artifact: Artifact, session: Session, golden: GoldenImage) -> list[OutputSpec]:
    """Describe the outputs of a model, in its order."""
    shapes: Mapping[str, Shape | None]
    if isinstance(session, OnnxSession):
        shapes = session.output_shapes
    else:
        shapes = dict(zip(golden.outputs, map(partial_shape, artifact.network.outputs), strict=True))
    described = {output.name: output for output in artifact.outputs}
    roles = {record.tensor: (role, record) for role, record in artifact.provenance.raw.read.items()}
    specs = []
    for name, array in golden.outputs.items():
        output = described.get(name)
        if output is None:
            role, record = roles.get(name, ("", None))
            axes = record.axes if record is not None and record.rank_known else None
            text = f"raw value, {role.replace('_', ' ')}" if role else "further output of the raw model"
            output = OutputDescription(name=name, dtype=str(array.dtype), axes=axes, description=text)
            exact = array.dtype.kind in "iub"
        else:
            exact = is_exact(output, array)
        shape = shapes[name] or ()
        known = [size if isinstance(size, int) else None for size in shape]
        specs.append(
            OutputSpec(
                name=name,
                axes=output.axes,
                meaning=output.meaning,
                exact=exact,
                description=output.description,
                dtype=str(array.dtype),
                shape=known if len(known) == array.ndim else [None] * array.ndim,
                class_names=list(output.class_names),
                channels=[
                    ChannelSpec(
                        name=each.name,
                        axes=each.axes,
                        meaning=each.meaning,
                        exact=is_exact(each, array),
                        description=each.description,
                    )
                    for each in output.channels
                ],
            )
        )
    return specs


def is_exact(output: OutputDescription, array: npt.NDArray[Any]) -> bool:
    """Return True if an output must be equal on every machine: decisions, classes, counts."""
    return output.meaning in _EXACT or array.dtype.kind == "b"
