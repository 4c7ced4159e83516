"""Outputs of a model: names, element types and trusted shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pp_graph.model.batch import image_input
from pp_graph.model.shape_inference import ShapeInference
from pp_graph.model.shapes import Dimension, Shape, declared_shape, format_shape

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import onnx_ir as ir

    from pp_graph.model.raw_model import ModelInput, RawModel
    from pp_graph.model.shape_inference import InferredValue


@dataclass(frozen=True)
class OutputInfo:
    """An output of a raw model, with its trusted shape.

    Attributes:
        name: Name in the graph.
        dtype: ONNX name of the element type, such as `FLOAT`; `SEQUENCE` or `OPTIONAL` if it is not a tensor; None if
            unknown.
        shape: The trusted shape; None if even the rank is unknown.
        proven: The same without symbolic names that are only declared. Some exporters give the same name to different
            sizes, and runtimes reuse memory by these names.
        note: A contradiction between the declared and the inferred shape; None without one.
        other_batch: True if its first size cannot be the batch, as in a class vector (1000,).
    """

    name: str
    dtype: str | None
    shape: Shape | None
    proven: Shape | None
    note: str | None
    other_batch: bool


def _dtype(output: ir.Value) -> str | None:
    import onnx_ir as ir

    if output.type is None or isinstance(output.type, ir.TensorType):
        return None if output.dtype is None else output.dtype.name
    return type(output.type).__name__.removesuffix("Type").upper()


def _reconciled(
    declared: Shape | None, inferred: Shape | None, input_symbols: Collection[str]
) -> tuple[Shape | None, str | None]:
    """Merge a declared and an inferred shape. Inference wins if they contradict each other.

    A size that inference derives from a symbolic size of the inputs is dynamic, even if the file declares a number.

    Returns:
        The shape, and a description of the contradiction or None.
    """
    if declared is None or inferred is None:
        return (inferred if declared is None else declared), None
    note = f"declared as {format_shape(declared)}, but computed as {format_shape(inferred)}"
    if len(declared) != len(inferred):
        return inferred, note
    merged: list[Dimension] = []
    conflict = False
    for declares, infers in zip(declared, inferred, strict=True):
        if isinstance(declares, int):
            contradicts = infers in input_symbols if isinstance(infers, str) else infers not in (None, declares)
            conflict |= contradicts
            merged.append(infers if contradicts else declares)
        else:
            merged.append(infers if isinstance(infers, int) or declares is None else declares)
    return tuple(merged), note if conflict else None


def _proven(shape: Shape, inferred: Shape | None, input_symbols: Collection[str]) -> Shape:
    known = inferred if inferred is not None and len(inferred) == len(shape) else (None,) * len(shape)
    return tuple(
        known_size if known_size in input_symbols else (size if isinstance(size, int) else None)
        for size, known_size in zip(shape, known, strict=True)
    )


def _other_batch(shape: Shape, input_shape: Shape | None) -> bool:
    """True if the first size cannot be the batch, as in a class vector (1000,) or a state (2,N,128)."""
    if not input_shape or not shape:
        return False
    batch = input_shape[0]
    if isinstance(batch, str) and batch in shape[1:] and shape[0] != batch:
        return True
    return isinstance(shape[0], int) and shape[0] != batch and (isinstance(batch, int) or shape[0] != 1)


def _inputs_with_the_batch_first(shapes: Sequence[Shape | None], images: ModelInput | None) -> list[Shape | None]:
    """Return the input shapes with the batch first: no scalars, and no states such as (2,N,128)."""
    if images is None:
        return []
    batch = images.shape[0] if images.shape else None
    return [shape for shape in shapes if shape != () and not (shape and shape[0] != batch and batch in shape[1:])]


def describe_outputs(raw: RawModel, inner: Collection[str] = ()) -> tuple[OutputInfo, ...]:
    """Describe every output of a model, in the order of the graph.

    Args:
        raw: The opened model.
        inner: Names of inner values to describe after the outputs.
    """
    inferred = ShapeInference(raw.model).infer()
    batches = _inputs_with_the_batch_first([model_input.shape for model_input in raw.inputs], image_input(raw.inputs))
    symbols = {size for model_input in raw.inputs for size in model_input.shape or () if isinstance(size, str)}
    described = []
    made = (value for node in raw.model.graph for value in node.outputs) if inner else ()
    for output in [*raw.model.graph.outputs, *(value for value in made if value.name in inner)]:
        name = output.name or ""
        inferred_shape = (inferred[name].shape if name in inferred else None) or _rank_of_reshape(output, inferred)
        shape, note = _reconciled(declared_shape(output), inferred_shape, symbols)
        proven = None if shape is None else _proven(shape, inferred_shape, symbols)
        other = shape is not None and bool(batches) and all(_other_batch(shape, input_shape) for input_shape in batches)
        dtype = _dtype(output) or (inferred[name].dtype if name in inferred else None)
        described.append(OutputInfo(name, dtype, shape, proven, note, other))
    return tuple(described)


def _rank_of_reshape(output: ir.Value, inferred: Mapping[str, InferredValue]) -> Shape | None:
    """Return open sizes for a Reshape to a list of known length, whose numbers inference does not find."""
    node = output.producer()
    if node is None or node.op_type != "Reshape" or node.inputs[1] is None:
        return None
    sizes = inferred.get(node.inputs[1].name or "")
    if sizes is None or sizes.shape is None or len(sizes.shape) != 1 or not isinstance(sizes.shape[0], int):
        return None
    return (None,) * sizes.shape[0]


_MOVES: Final = frozenset({"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Cast", "Expand"})


def last_activation(raw: RawModel, output: str) -> str | None:
    """Return `softmax` or `sigmoid` if an output is the result of this function, else None.

    Exporters also write a softmax as `Exp` divided by its sum.
    """
    value = next((value for value in raw.model.graph.outputs if value.name == output), None)
    node = _maker(value)
    if node is None:
        return None
    if node.op_type == "Div":
        above = _maker(node.inputs[0])
        return "softmax" if above is not None and above.op_type == "Exp" else None
    return {"Softmax": "softmax", "Sigmoid": "sigmoid"}.get(node.op_type)


def _maker(value: ir.Value | None) -> ir.Node | None:
    """Return the operator that computes a value, looking through those that only move numbers."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _MOVES and node.inputs and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node
