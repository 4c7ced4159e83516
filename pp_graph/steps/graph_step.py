"""Steps whose ONNX operators come as a model of their own, written by another tool."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import abstractmethod
from collections import OrderedDict
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.model.graphs import DEFAULT_DOMAINS
from pp_graph.steps.opset_adaptation import Trials, adapted, opset_of, run_model
from pp_graph.steps.step import Accepts, Array, Step
from pp_graph.values import DType, ValueType, spatial_axes

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import onnx
    import onnx_ir as ir

    from pp_graph.model import Shape
    from pp_graph.steps.operators.emitter import Emitter

_TAKES: Final = Accepts(dtypes=("float32", "bool"), known_rank=True)
_GIVES: Final = ("float32", "bool")
_BATCHES: Final = (3, 1)
_OPEN_SIZES: Final = ((48, 40), (64, 56))
"""Heights and widths that stand for a size that is not known."""
_OPEN_CLASSES: Final = 3
_OPEN_AXES: Final = {"C": _OPEN_CLASSES, "K": 5, "P": 4, "T": 2}
_KEPT: Final = 64


@dataclass(frozen=True)
class GraphStep(Step):
    """A step whose ONNX operators come as a model of their own.

    A subclass says where the model comes from (`model`), and what computes the same in NumPy (`reference`). When the
    step is bound, both are run on a few arrays of the type that it reads: from what comes out follows whether it
    computes a score (N,), (N,1) or (N,C), or a map (N,H,W), (N,1,H,W), (N,H,W,1) or (N,C,H,W), and whether it does so
    for any batch. The model is then written at the opset of the raw one, tried out again, and inlined under fresh
    names.

    Attributes:
        source: Name of the value read, float32 or bool.
        target: Name of the value written, float32 or bool.
        others: Names of further values to read, behind `source`.
        exact: Whether every runtime computes the same bits; see `Step`.
        types: Types of the values that are read; filled in.

    Raises:
        PostProcessorError: A name is no text.
    """

    pointwise: ClassVar[bool] = False
    source: str
    target: str
    _: KW_ONLY
    others: tuple[str, ...] = ()
    exact: bool = False  # type: ignore[misc]
    types: tuple[ValueType, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Take one further name for a list of one."""
        given: Any = self.others  # whatever a user wrote
        others = (given,) if isinstance(given, str) else tuple(given)
        object.__setattr__(self, "others", others)
        for name in (self.source, self.target, *others):
            if not isinstance(name, str):
                raise PostProcessorError(
                    f"{type(self).__name__} has {name!r} among its names, expected text: source and target first, "
                    "further values that it reads as others=(...)."
                )

    @property
    def reads(self) -> tuple[str, ...]:
        """`source` and `others`."""
        return (self.source, *self.others)

    @property
    def accepts(self) -> tuple[Accepts, ...]:  # type: ignore[override]
        """Numbers and decisions of known axes."""
        return tuple(_TAKES for _ in self.reads)

    @abstractmethod
    def model(self, types: Sequence[ValueType], example: tuple[Array, ...]) -> onnx.ModelProto:
        """The step as a model of one output, which reads values of some types in the order of `reads`.

        Args:
            types: Their types.
            example: Arrays of these types.

        Returns:
            The model, at an opset of its own; local functions are inlined later.

        Raises:
            PostProcessorError: It cannot be had.
        """

    def content(self) -> Hashable:
        """Return a key that determines the result of `model`, so that it is called once; None to call it each time."""
        return None

    def bind(self, *types: ValueType) -> Self:
        """This step with its model, for values of these types.

        Raises:
            PostProcessorError: Model or reference do not take them, or return neither a score nor a map.
        """
        step = dataclasses.replace(self, types=types)
        step._built  # noqa: B018 - refuse here what cannot be built
        return step

    def output_type(self, *types: ValueType) -> ValueType:
        """Type of the reference's results."""
        del types
        return self._built.type

    def emit(self, op: Emitter, *values: ir.Value) -> ir.Value:
        """Write the model's operators at the graph's opset.

        Raises:
            OpsetError: They have no form at that opset, or would compute something else.
        """
        built = self._built
        what = f"Step '{self.target}' ({type(self).__name__})"
        model = adapted(built.model, op.opset, built.trials, what)
        before = op.shape_of(values[0])
        batch = None if not before else before[0]
        return op.inline(model, values, _shape(built.type, batch))

    @cached_property
    def _built(self) -> _Built:
        if self.types is None:
            raise PostProcessorError(
                f"{type(self).__name__} of '{self.target}' does not know yet what it reads. Let a PostProcessor return "
                "it among its steps, or call bind(...) with the types."
            )
        content = self.content()
        if content is None:
            return _build(self, self.types)
        key = (type(self), content, self.types)
        if key not in _kept:
            _kept[key] = _build(self, self.types)
            if len(_kept) > _KEPT:
                _kept.popitem(last=False)
        return _kept[key]


@dataclass(frozen=True)
class _Built:
    """A model at its own opset, the type of its output, and trial inputs."""

    model: onnx.ModelProto
    type: ValueType
    trials: Trials


_kept: OrderedDict[Hashable, _Built] = OrderedDict()


def _build(step: GraphStep, types: tuple[ValueType, ...]) -> _Built:
    trials = Trials(types, trial_arrays(types))
    results = [_reference(step, arrays) for arrays in trials.arrays]
    written = _type_of(types, trials.arrays, results)
    model = _typed(step.model(types, trials.arrays[-1]), types, written)
    for arrays, expected in zip(trials.arrays, results, strict=True):
        try:
            found = run_model(model, arrays)
        except Exception as failure:  # onnxruntime's errors have no common base
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise PostProcessorError(
                f"its model cannot be run on {shapes}: {str(failure).strip()}. Export it with an open batch, and "
                "heights and widths open where the raw model's are."
            ) from failure
        if found.shape != expected.shape or found.dtype != expected.dtype:
            raise PostProcessorError(
                f"its model returns {found.dtype} {found.shape}, expected {expected.dtype} {expected.shape} as its "
                "reference. Make both compute the same."
            )
    return _Built(model, written, trials)


def trial_arrays(types: Sequence[ValueType]) -> list[tuple[Array, ...]]:
    """Arrays of some types: several batches, and sizes where these are open; the last is the best example."""
    rng = np.random.default_rng(0)
    open_size = any(value.per_pixel and value.map_size is None for value in types)
    cases = [(batch, _OPEN_SIZES[0]) for batch in _BATCHES] + ([(2, _OPEN_SIZES[1])] if open_size else [])
    # An example of batch 1 would make an exporter take that for fixed.
    cases = [case for case in cases if case[0] == 1] + [case for case in cases if case[0] != 1]
    trials = []
    for turn, (batch, size) in enumerate(cases):
        arrays: list[Array] = []
        for value in types:
            height, width = value.map_size or size
            sized = value.resized(H=height, W=width) if value.per_pixel else value
            shape = sized.example_shape(batch=batch, **_OPEN_AXES)
            # Raw values lie around zero, or far above.
            numbers = rng.normal(20.0 * turn, 3.0 + 3.0 * turn, shape).astype(np.float32)
            arrays.append(numbers > 0 if value.dtype == "bool" else numbers)
        trials.append(tuple(arrays))
    return trials


def _reference(step: GraphStep, arrays: tuple[Array, ...]) -> Array:
    given = ", ".join(f"{array.dtype} {array.shape}" for array in arrays)
    try:
        with np.errstate(all="ignore"):
            result = np.asarray(step.reference(*arrays))
    except PostProcessorError:
        raise
    except Exception as failure:  # what the user's own code raises
        reason = str(failure).strip() or type(failure).__name__
        raise PostProcessorError(f"its reference fails on {given}: {reason}.") from failure
    batch = len(arrays[0])
    found = f"its reference returns {result.dtype} {result.shape} for {given}"
    if result.dtype.name not in _GIVES:
        raise PostProcessorError(f"{found}, expected {' or '.join(_GIVES)}. Cast it.")
    if result.ndim not in (1, 2, 3, 4) or result.shape[0] != batch or 0 in result.shape:
        raise PostProcessorError(
            f"{found}, expected a score (N,), (N,1) or (N,C), or a map (N,H,W), (N,1,H,W) or (N,H,W,1), with N={batch} "
            "as what it reads."
        )
    return result


def _type_of(types: Sequence[ValueType], trials: Sequence[tuple[Array, ...]], results: Sequence[Array]) -> ValueType:
    """Type of the output, inferred from results for several inputs."""
    first = results[0]
    if len({(result.ndim, result.dtype) for result in results}) > 1:
        seen = ", ".join(
            f"{result.shape} for {arrays[0].shape}" for arrays, result in zip(trials, results, strict=True)
        )
        raise PostProcessorError(
            f"its reference returns {seen}, expected one rank for any batch. Keep the axis of the batch: squeeze named "
            "axes only."
        )
    dtype: DType = "bool" if first.dtype == np.bool_ else "float32"
    for place, value in enumerate(types):
        if all(arrays[place].shape == result.shape for arrays, result in zip(trials, results, strict=True)):
            return value.as_dtype(dtype)
    open_classes = any(value.size("C") is None for value in types)
    if first.ndim <= 2:
        axes = "NC"[: first.ndim]
    elif first.ndim == 3:
        axes = "NHW"
    else:
        last = types[0].axes == "NHWC" and first.shape[3] == (types[0].size("C") or _OPEN_CLASSES)
        axes = "NHWC" if first.shape[1] != 1 and (last or first.shape[3] == 1) else "NCHW"
    written = ValueType(axes, dtype=dtype)
    if "C" in axes:
        count = first.shape[axes.index("C")]
        written = written.resized(C=None if open_classes and count == _OPEN_CLASSES else count)
    if written.per_pixel:
        height, width = _size(results, spatial_axes(axes))
        written = written.resized(H=height, W=width)
    return written


def _size(results: Sequence[Array], axes: tuple[int, int]) -> tuple[int | None, int | None]:
    """Height and width if they are the same for all inputs."""
    sizes = {(result.shape[axes[0]], result.shape[axes[1]]) for result in results}
    return sizes.pop() if len(sizes) == 1 else (None, None)


def _typed(model: onnx.ModelProto, types: Sequence[ValueType], written: ValueType) -> onnx.ModelProto:
    """A step's model without local functions, its inputs and output declared as they are."""
    import onnx
    from onnx import helper, inliner

    graph = model.graph
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [each for each in graph.input if each.name not in initializers]
    if len(inputs) != len(types) or len(graph.output) != 1:
        raise PostProcessorError(
            f"its model has {len(inputs)} inputs and {len(graph.output)} outputs, expected {len(types)} and 1. List "
            "what it reads as source and others=(...), and return one value."
        )
    for each, given in zip(inputs, types, strict=True):
        declared, wanted = each.type.tensor_type.elem_type, _element_type(given.dtype)
        if declared not in (0, wanted):
            raise PostProcessorError(
                f"its model takes {onnx.TensorProto.DataType.Name(declared)} for '{each.name}', expected "
                f"{onnx.TensorProto.DataType.Name(wanted)}. Cast it inside."
            )
    declared_inputs = [
        helper.make_tensor_value_info(each.name, _element_type(given.dtype), [None] * given.rank)
        for each, given in zip(inputs, types, strict=True)
    ]
    output = helper.make_tensor_value_info(graph.output[0].name, _element_type(written.dtype), [None] * written.rank)
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    for entries, new in ((typed.graph.input, declared_inputs), (typed.graph.output, [output])):
        del entries[:]
        entries.extend(new)
    del typed.graph.value_info[:]
    typed = inliner.inline_local_functions(typed)
    _check_domains(typed.graph)
    opset = opset_of(typed)
    if not opset:
        raise PostProcessorError("its model imports no opset of ONNX's own domain. Write it with ONNX operators.")
    del typed.opset_import[:]
    typed.opset_import.append(helper.make_opsetid("", opset))
    del typed.functions[:]
    del typed.metadata_props[:]
    typed.doc_string = typed.graph.doc_string = ""
    with contextlib.suppress(onnx.shape_inference.InferenceError):
        # onnxruntime says better what is wrong.
        typed = onnx.shape_inference.infer_shapes(typed)
    return typed


def _check_domains(graph: onnx.GraphProto) -> None:
    import onnx

    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.STRING or tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise PostProcessorError(
                f"its model holds the constant '{tensor.name}' as text or in another file, expected numbers in the "
                "model. Export it without these."
            )
    for node in graph.node:
        if node.domain not in DEFAULT_DOMAINS:
            raise PostProcessorError(
                f"its model has the operator {node.domain}::{node.op_type}, expected operators of ONNX's own domain or "
                "functions made of these: no other runtime would know it. Write it with ONNX operators."
            )
        node.domain = ""
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _check_domains(body)


def _element_type(dtype: str) -> int:
    import onnx

    return int(onnx.TensorProto.BOOL if dtype == "bool" else onnx.TensorProto.FLOAT)


def _shape(value: ValueType, batch: Any) -> Shape:
    return tuple(batch if axis == "N" else size for axis, size in zip(value.axes, value.sizes, strict=True))
