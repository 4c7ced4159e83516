"""Base class of steps whose ONNX operators come from a model that another tool wrote."""

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
from pp_graph.steps.opset_adaptation import OPEN_CLASSES, adapted, opset_of, run_model, trial_arrays
from pp_graph.steps.step import Accepts, Array, Step
from pp_graph.values import DType, ValueType, spatial_axes

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import onnx
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter

_DTYPES: Final[tuple[DType, ...]] = ("float32", "bool")
_MAX_CACHED: Final = 64


@dataclass(frozen=True)
class GraphStep(Step):
    """A step whose ONNX operators come as a model of their own.

    A subclass returns the model (`model`) and computes the same in NumPy (`reference`). `bind` runs both on a few
    arrays of the input's type. The results determine the output: a score (N,), (N,1) or (N,C), or a map (N,H,W),
    (N,1,H,W), (N,H,W,1) or (N,C,H,W). They also show that the step works for any batch. `emit` converts the model to
    the raw model's opset, checks that it still computes the same, and inlines it under fresh names.

    Attributes:
        source: Name of the first input, float32 or bool.
        target: Name of the output, float32 or bool.
        others: Names of further inputs.
        exact: True if every runtime computes the same bits; see `Step`.
        types: Types of the inputs; None until the step is bound.

    Raises:
        PostProcessorError: A name is not a string.
    """

    pointwise: ClassVar[bool] = False
    source: str
    target: str
    _: KW_ONLY
    others: tuple[str, ...] = ()
    exact: bool = False  # type: ignore[misc]
    types: tuple[ValueType, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Accept a single string as `others`, and check the names."""
        given: Any = self.others  # users may pass anything
        others = (given,) if isinstance(given, str) else tuple(given)
        object.__setattr__(self, "others", others)
        for name in (self.source, self.target, *others):
            if not isinstance(name, str):
                raise PostProcessorError(
                    f"{type(self).__name__} has {name!r} among its names, expected strings: source and target first, "
                    "further inputs as others=(...)."
                )

    @property
    def reads(self) -> tuple[str, ...]:
        """`source` and `others`."""
        return (self.source, *self.others)

    @property
    def accepts(self) -> tuple[Accepts, ...]:  # type: ignore[override]
        """Numbers and decisions of known axes."""
        return (Accepts(dtypes=_DTYPES, known_rank=True),) * len(self.reads)

    @abstractmethod
    def model(self, types: Sequence[ValueType], example: tuple[Array, ...]) -> onnx.ModelProto:
        """Return the step as a model.

        Args:
            types: Types of the inputs, in the order of `reads`.
            example: Arrays of these types.

        Returns:
            A model with these inputs and one output, at any opset. It may have local functions.

        Raises:
            PostProcessorError: The model cannot be built.
        """

    def content(self) -> Hashable:
        """Return a key that determines the result of `model`, which is then cached; None for no caching."""
        return None

    def bind(self, *types: ValueType) -> Self:
        """Bind the step to its inputs, and build its model.

        Raises:
            PostProcessorError: Model or reference fail on these types, or return neither a score nor a map.
        """
        step = dataclasses.replace(self, types=types)
        step._built  # noqa: B018 - raises if the model cannot be built
        return step

    def output_type(self, *types: ValueType) -> ValueType:
        """Type of the reference's result."""
        del types
        return self._built.type

    def emit(self, op: Emitter, *values: ir.Value) -> ir.Value:
        """Write the model's operators at the graph's opset.

        Raises:
            OpsetError: The model cannot be converted to that opset, or would compute other results.
        """
        built, types = self._built, self.types or ()
        what = f"Step '{self.target}' ({type(self).__name__})"
        model = adapted(built.model, op.opset, types, what)
        shape = op.shape_of(values[0])
        batch = shape[0] if shape else None
        sizes = zip(built.type.axes, built.type.sizes, strict=True)
        return op.inline(model, values, tuple(batch if axis == "N" else size for axis, size in sizes))

    @cached_property
    def _built(self) -> _Built:
        if self.types is None:
            raise PostProcessorError(
                f"{type(self).__name__} of '{self.target}' is not bound to its inputs. Let a PostProcessor return it "
                "among its steps, or call bind(...) with the types."
            )
        content = self.content()
        if content is None:
            return _build(self, self.types)
        key = (type(self), content, self.types)
        if key not in _cache:
            _cache[key] = _build(self, self.types)
            if len(_cache) > _MAX_CACHED:
                _cache.popitem(last=False)
        return _cache[key]


@dataclass(frozen=True)
class _Built:
    """A model at its original opset, and the type of its output."""

    model: onnx.ModelProto
    type: ValueType


_cache: OrderedDict[Hashable, _Built] = OrderedDict()


def _build(step: GraphStep, types: tuple[ValueType, ...]) -> _Built:
    trials = trial_arrays(types)
    results = [_run_reference(step, arrays) for arrays in trials]
    output = _output_type(types, trials, results)
    model = _typed(step.model(types, trials[-1]), types, output)
    for arrays, expected in zip(trials, results, strict=True):
        try:
            result = run_model(model, arrays)
        except Exception as failure:  # onnxruntime's errors have no common base
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise PostProcessorError(
                f"its model cannot be run on {shapes}: {str(failure).strip()}. Export it with an open batch, and "
                "open heights and widths if the raw model has them."
            ) from failure
        if result.shape != expected.shape or result.dtype != expected.dtype:
            raise PostProcessorError(
                f"its model returns {result.dtype} {result.shape}, expected {expected.dtype} {expected.shape} like its "
                "reference. Make both compute the same."
            )
    return _Built(model, output)


def _run_reference(step: GraphStep, arrays: tuple[Array, ...]) -> Array:
    given = ", ".join(f"{array.dtype} {array.shape}" for array in arrays)
    try:
        with np.errstate(all="ignore"):
            result = np.asarray(step.reference(*arrays))
    except PostProcessorError:
        raise
    except Exception as failure:  # user code may raise anything
        reason = str(failure).strip() or type(failure).__name__
        raise PostProcessorError(f"its reference fails on {given}: {reason}.") from failure
    batch = len(arrays[0])
    found = f"its reference returns {result.dtype} {result.shape} for {given}"
    if result.dtype.name not in _DTYPES:
        raise PostProcessorError(f"{found}, expected {' or '.join(_DTYPES)}. Cast it.")
    if result.ndim not in (1, 2, 3, 4) or result.shape[0] != batch or 0 in result.shape:
        raise PostProcessorError(
            f"{found}, expected a score (N,), (N,1) or (N,C), or a map (N,H,W), (N,1,H,W) or (N,H,W,1), with N={batch} "
            "like its input."
        )
    return result


def _output_type(
    types: Sequence[ValueType], trials: Sequence[tuple[Array, ...]], results: Sequence[Array]
) -> ValueType:
    """Type of the output, inferred from results for several inputs."""
    first = results[0]
    if len({(result.ndim, result.dtype) for result in results}) > 1:
        seen = ", ".join(
            f"{result.shape} for {arrays[0].shape}" for arrays, result in zip(trials, results, strict=True)
        )
        raise PostProcessorError(
            f"its reference returns {seen}, expected the same rank for any batch. Keep the batch axis: name the axes "
            "to squeeze."
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
        last = types[0].axes == "NHWC" and first.shape[3] == (types[0].size("C") or OPEN_CLASSES)
        axes = "NHWC" if first.shape[1] != 1 and (last or first.shape[3] == 1) else "NCHW"
    output = ValueType(axes, dtype=dtype)
    if "C" in axes:
        count = first.shape[axes.index("C")]
        output = output.resized(C=None if open_classes and count == OPEN_CLASSES else count)
    if output.per_pixel:
        rows, columns = spatial_axes(axes)
        sizes = {(result.shape[rows], result.shape[columns]) for result in results}
        height, width = sizes.pop() if len(sizes) == 1 else (None, None)
        output = output.resized(H=height, W=width)
    return output


def _typed(model: onnx.ModelProto, types: Sequence[ValueType], output_type: ValueType) -> onnx.ModelProto:
    """Return a step's model with its inputs and output declared, and local functions inlined."""
    import onnx
    from onnx import helper, inliner

    graph = model.graph
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [info for info in graph.input if info.name not in initializers]
    if len(inputs) != len(types) or len(graph.output) != 1:
        raise PostProcessorError(
            f"its model has {len(inputs)} inputs and {len(graph.output)} outputs, expected {len(types)} and 1. List "
            "its inputs as source and others=(...), and return one value."
        )

    def declaration(info: onnx.ValueInfoProto, value: ValueType) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(info.name, _element_type(value.dtype), [None] * value.rank)

    for info, value in zip(inputs, types, strict=True):
        declared, expected = info.type.tensor_type.elem_type, _element_type(value.dtype)
        if declared not in (0, expected):
            raise PostProcessorError(
                f"its model takes {onnx.TensorProto.DataType.Name(declared)} for '{info.name}', expected "
                f"{onnx.TensorProto.DataType.Name(expected)}. Cast it in the model."
            )
    declared_inputs = [declaration(info, value) for info, value in zip(inputs, types, strict=True)]
    output = declaration(graph.output[0], output_type)
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
        raise PostProcessorError("its model does not import the default ONNX domain. Write it with ONNX operators.")
    del typed.opset_import[:]
    typed.opset_import.append(helper.make_opsetid("", opset))
    del typed.functions[:]
    del typed.metadata_props[:]
    typed.doc_string = typed.graph.doc_string = ""
    with contextlib.suppress(onnx.shape_inference.InferenceError):
        # onnxruntime reports the mistake more clearly.
        typed = onnx.shape_inference.infer_shapes(typed)
    return typed


def _check_domains(graph: onnx.GraphProto) -> None:
    import onnx

    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.STRING or tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise PostProcessorError(
                f"its model holds the constant '{tensor.name}' as text or in another file, expected numbers in the "
                "model. Export it without such constants."
            )
    for node in graph.node:
        if node.domain not in DEFAULT_DOMAINS:
            raise PostProcessorError(
                f"its model has the operator {node.domain}::{node.op_type}, expected operators of the default ONNX "
                "domain or functions of such operators, as runtimes know no others. Write it with ONNX operators."
            )
        node.domain = ""
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _check_domains(body)


def _element_type(dtype: str) -> int:
    import onnx

    return int(onnx.TensorProto.BOOL if dtype == "bool" else onnx.TensorProto.FLOAT)
