"""Fix the sizes of a converted model's inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pp_graph.errors import TargetError
from pp_graph.model import batch_places, format_shape, image_input
from pp_graph.openvino.core import first_line, partial_shape, port_name

if TYPE_CHECKING:
    import openvino as ov

    from pp_graph.model import ModelInput

InputShape = Sequence[int | None] | Mapping[str, Sequence[int | None]]
"""Shape of the input, or of each input by name; None for a size that stays open."""


def fix_shapes(
    model: ov.Model, inputs: Sequence[ModelInput], input_shape: InputShape | None, batch: int | None
) -> None:
    """Fix sizes of inputs, then the batch. Changes the model in place.

    Args:
        model: The model.
        inputs: Inputs of the raw model, which name their axes.
        input_shape: Sizes to fix; None for none.
        batch: Images per run, to fix the batch of every input that certainly has one; None leaves it as it is.

    Raises:
        TargetError: An input does not exist, the model has no batch axis, its batch is fixed to another number, or it
            cannot take the sizes.
    """
    if input_shape is not None:
        _reshape(model, input_shape)
    if batch is not None:
        _fix_batch(model, inputs, batch)


def _reshape(model: ov.Model, input_shape: InputShape) -> None:
    from openvino import PartialShape

    names = [port_name(node) for node in model.inputs]
    if not isinstance(input_shape, Mapping):
        if len(names) != 1:
            raise TargetError(
                f"An input shape without a name was given, but the model has {len(names)} inputs: {', '.join(names)}. "
                f"Give each by name: --input-shape {names[0]}:1,3,256,256."
            )
        input_shape = {names[0]: input_shape}
    shapes = {}
    for name, sizes in input_shape.items():
        if name not in names:
            raise TargetError(f"Input '{name}' does not exist. The inputs are: {', '.join(names)}. Name one of these.")
        declared = partial_shape(model.input(name))
        if declared is not None and len(declared) != len(sizes):
            raise TargetError(
                f"Input shape {format_shape(tuple(sizes))} for '{name}' has {len(sizes)} sizes, expected "
                f"{len(declared)} as in {format_shape(declared)}. Give one size for each, the batch first."
            )
        if any(size is not None and size < 1 for size in sizes):
            raise TargetError(
                f"Input shape {format_shape(tuple(sizes))} for '{name}' has a size below 1, expected positive sizes. "
                "For an open size, give ? (None)."
            )
    try:
        for name, sizes in input_shape.items():
            shapes[name] = PartialShape([-1 if size is None else size for size in sizes])
        reshape(model, shapes)
    except RuntimeError as error:
        wanted = ", ".join(f"{name} {format_shape(tuple(sizes))}" for name, sizes in input_shape.items())
        given = ", ".join(f"{name} {format_shape(partial_shape(model.input(name)))}" for name in input_shape)
        raise TargetError(
            f"The model cannot take the input shape {wanted}, expected sizes that fit {given}: {first_line(error)}. "
            "Use sizes it was trained for."
        ) from error


def reshape(model: ov.Model, shapes: Mapping[str, ov.PartialShape | list[int]]) -> None:
    """Set sizes of inputs by name, as `Model.reshape`, which does not compare numbers of elements.

    With known sizes, OpenVINO runs a Reshape from (2,43,43,2) to (2,2), and reads the first 4 numbers.

    Raises:
        RuntimeError: The model cannot take these sizes.
    """
    model.reshape(dict(shapes))
    for node in model.get_ops():
        if node.get_type_name() != "Reshape":
            continue
        found, wanted = node.get_input_partial_shape(0), node.get_output_partial_shape(0)
        if found.is_static and wanted.is_static and math.prod(found.to_shape()) != math.prod(wanted.to_shape()):
            raise RuntimeError(
                f"'{node.get_friendly_name()}' cannot make {tuple(wanted.to_shape())} of the "
                f"{tuple(found.to_shape())} that it gets"
            )


def _fix_batch(model: ov.Model, inputs: Sequence[ModelInput], batch: int) -> None:
    if batch < 1:
        raise TargetError(f"Batch is {batch}, expected at least 1. Give the number of images per run.")
    main = image_input(inputs)
    shape = None if main is None else partial_shape(model.input(main.name))
    if main is None or not shape:
        found = ", ".join(f"'{each.name}' {format_shape(each.shape)}" for each in inputs)
        raise TargetError(
            f"The batch is to be fixed to {batch}, but the model has no known batch axis: {found}. Leave out --batch "
            "(batch=...), or give all sizes with --input-shape (input_shape=...)."
        )
    shapes: dict[str, Sequence[int | None]] = {}
    for name, place in batch_places(inputs).items():
        declared = partial_shape(model.input(name))
        if not place.certain or not place.axes or declared is None:
            continue  # an axis that may or may not be the batch stays open, and takes either
        axis = place.axes[0]
        if declared[axis] not in (None, batch):
            raise TargetError(
                f"Batch {batch} was asked for, but input '{name}' is {format_shape(declared)}, whose batch is fixed "
                f"to {declared[axis]}. Leave out --batch (batch=...), or export the model with an open batch."
            )
        shapes[name] = [
            batch if at == axis else size if isinstance(size, int) else None for at, size in enumerate(declared)
        ]
    _reshape(model, shapes)


def batch_is_open(model: ov.Model, inputs: Sequence[ModelInput]) -> bool:
    """Return True if the input that takes the images has an open batch."""
    main = image_input(inputs)
    shape = None if main is None else partial_shape(model.input(main.name))
    return bool(shape) and shape is not None and shape[0] is None
