"""Steps that choose among classes: the largest ones, in order, and their numbers.

Equal numbers are ordered by class, lowest first, and NaN counts as the largest number, as in `numpy.argmax`. The
operators ArgMax and TopK promise neither: OpenVINO 2026.4 runs both as an unstable sort, and runtimes place NaN
differently. Here, every number gets a key: its class, moved before all others for NaN and after them for -inf.
The class is the smallest key among the largest numbers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.classes import check_class_count
from pp_graph.steps.step import CLASSES, Accepts, Array, Step, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType

LOWEST: Final = np.finfo(np.float32).min
_GATHER_ELEMENTS: Final = 11
_MOST_CLASSES: Final = 2**21
"""Keys of up to four times as many classes are exact in float32."""


@dataclass(frozen=True)
class ClassStep(Step):
    """Base class of steps over the axis of classes, whose number must be known.

    Attributes:
        source: Name of the numbers, float32: (N,C), (N,C,H,W) or (N,H,W,C).
        target: Name of the result.
        axes: Axes of the numbers; None until the step is bound.
        classes: Number of classes; None until the step is bound.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (CLASSES,)
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "classes"})
    source: str
    target: str

    def bind(self, value: ValueType, *_: ValueType) -> Self:
        """Bind the step to its input.

        Raises:
            PostProcessorError: The number of classes is open, or too large.
        """
        check_class_count(value)
        count = value.size("C")
        if count is not None and not 0 < count <= _MOST_CLASSES:
            raise PostProcessorError(f"{value} has {count} classes, expected 1 to {_MOST_CLASSES}.")
        return dataclasses.replace(self, axes=value.known_axes, classes=count)  # type: ignore[call-arg]

    @property
    def _axis(self) -> int:
        axes: str | None = getattr(self, "axes", None)
        return (axes or "NC").index("C")

    def index(self, classes: int) -> Array:
        """Index of each class, in a shape that broadcasts to the numbers."""
        axes: str | None = getattr(self, "axes", None)
        return np.arange(classes, dtype=np.float32).reshape(-1, *(1,) * (len(axes or "NC") - 1 - self._axis))

    def first_places(self, op: Emitter, value: ir.Value, count: int, classes: int | None) -> list[ir.Value]:
        """Write the indices of the `count` largest numbers, float32, with an axis of classes of size 1."""
        assert classes is not None, "bind() sets it"
        index = self.index(classes)
        behind_all = op.constant(np.float32(4 * classes), "behind_all")
        lowest = op.constant(np.float32(LOWEST), "lowest")
        one_more, none = op.constant(np.float32(classes), "classes"), op.constant(np.float32(0), "none")
        nan = op.is_nan(value)
        # OpenVINO reduces numbers that are all -inf to the lowest finite one.
        rest = op.where(op.less(value, lowest), lowest, value)
        rest = op.where(nan, op.constant(np.float32(np.inf), "largest"), rest)
        ordinary = op.where(op.less(value, lowest), op.array(index + classes, "last"), op.array(index, "index"))
        keys = op.where(nan, op.array(index - classes, "first"), ordinary)
        places = []
        for turn in range(count):
            below = op.below_other(rest, op.reduce("ReduceMax", rest, (self._axis,), keepdims=True), rest)
            tied = op.where(below, behind_all, keys)
            key = op.reduce("ReduceMin", tied, (self._axis,), keepdims=True)
            place = op.where(op.less(key, none), op.add(key, one_more), key)
            places.append(op.where(op.less(place, one_more), place, op.sub(place, one_more)))
            if turn + 1 < count:
                kept = op.below_other(key, tied, tied)
                rest, keys = op.where(kept, rest, lowest), op.where(kept, keys, behind_all)
        return places


class ChoosingStep(ClassStep):
    """A step that chooses classes. Runtimes make the same choice, as it only compares numbers."""

    def margins(self, array: Array) -> tuple[Array, Array]:
        """Return how clear each choice is.

        Args:
            array: The numbers of the classes.

        Returns:
            The chosen numbers, and the distance of each from the number nearest to it, in the shape of the result; NaN
            for a single class.
        """
        x = np.moveaxis(np.asarray(array, np.float32), self._axis, -1)
        order = _ordered(x)
        sorted_ = np.take_along_axis(x, order, axis=-1)
        with np.errstate(invalid="ignore"):
            apart = sorted_[..., :-1].astype(np.float64) - sorted_[..., 1:]
        end = np.full((*x.shape[:-1], 1), np.nan)
        apart = np.fmin(np.concatenate([apart, end], axis=-1), np.concatenate([end, apart], axis=-1))
        return self._chosen(sorted_), self._chosen(apart)

    def _chosen(self, ordered: Array) -> Array:
        """Take the entries of the chosen classes from an array ordered along its last axis."""
        first: Array = ordered[..., 0]
        return first


def _ordered(x: Array) -> Array:
    """Indices along the last axis, largest number first, equal numbers by index, NaN before all."""
    keys = np.where(np.isnan(x), -np.inf, -x.astype(np.float64))
    return np.lexsort((keys, ~np.isnan(x)), axis=-1)


@dataclass(frozen=True)
class ArgMax(ChoosingStep):
    """Find the class with the largest number; the first of equal ones, and the first NaN before all numbers.

    Source: `numpy.argmax(x, axis)`.

    Attributes:
        source: Name of the numbers, float32: (N,C), (N,C,H,W) or (N,H,W,C).
        target: Name of the class, int64: (N,) or (N,H,W).
        axes: Axes of the numbers; None until the step is bound.
        classes: Number of classes; None until the step is bound.
    """

    axes: str | None = None
    classes: int | None = None

    def output_type(self, value: ValueType) -> ValueType:
        """int64, without the axis of classes."""
        return value.reduced("C").as_dtype("int64")

    def reference(self, array: Array) -> Array:
        """Find the class in an array."""
        found: Array = np.argmax(np.asarray(array, np.float32), axis=self._axis).astype(np.int64)
        return found

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the smallest key among the largest numbers."""
        (place,) = self.first_places(op, value, 1, self.classes)
        return op.squeeze(op.cast(place, np.dtype(np.int64)), self._axis)


@dataclass(frozen=True)
class TopClasses(ChoosingStep):
    """Find the classes with the largest numbers, in order; equal numbers by class, and NaN before all numbers.

    Source: `numpy.argsort(-x, kind="stable")[:, :k]`; its first class is that of `ArgMax`.

    Attributes:
        source: Name of the numbers, float32, (N,C).
        target: Name of the classes, int64, (N,K).
        k: Number of classes to find; at most C.
        axes: Axes of the numbers; None until the step is bound.
        classes: Number of classes; None until the step is bound.

    Raises:
        PostProcessorError: `k` is not a whole number from 1 to 100.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(axes=("NC",), known_rank=True),)
    k: int
    axes: str | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        """Check the number."""
        require_whole(self.k, f"k of '{self.target}'", 1, 100)
        object.__setattr__(self, "k", int(self.k))

    def bind(self, value: ValueType, *_: ValueType) -> Self:
        """Bind the step to its input.

        Raises:
            PostProcessorError: There are fewer classes than `k`.
        """
        bound = super().bind(value)
        if bound.classes is not None and self.k > bound.classes:
            raise PostProcessorError(f"k is {self.k}, and {value} has {bound.classes} classes, expected at most those.")
        return bound

    def output_type(self, value: ValueType) -> ValueType:
        """int64, (N,K)."""
        return dataclasses.replace(value, axes="NK", sizes=(value.size("N"), self.k), dtype="int64")

    def reference(self, array: Array) -> Array:
        """Order the classes of an array."""
        return self._chosen(_ordered(np.asarray(array, np.float32))).astype(np.int64)

    def _chosen(self, ordered: Array) -> Array:
        return ordered[:, : self.k]

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the smallest key among the largest numbers, `k` times, each time without those found."""
        places = self.first_places(op, value, self.k, self.classes)
        return op.cast(op.concat(places, 1) if len(places) > 1 else places[0], np.dtype(np.int64))


@dataclass(frozen=True)
class GatherClasses(Step):
    """Take the numbers of the classes that another value lists.

    Source: `numpy.take_along_axis(x, classes, 1)`.

    Attributes:
        source: Name of the numbers, float32, (N,C).
        target: Name of the numbers of the listed classes, float32, (N,K).
        classes: Name of the classes, int64, (N,K), such as the result of `TopClasses`.
        count: Number of classes C; None until the step is bound.
    """

    pointwise: ClassVar[bool] = False
    keeps_scale: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (
        Accepts(axes=("NC",), known_rank=True),
        Accepts(dtypes=("int64",), axes=("NK",), known_rank=True),
    )
    settled: ClassVar[frozenset[str]] = frozenset({"count"})
    source: str
    target: str
    classes: str
    count: int | None = None

    def bind(self, value: ValueType, classes: ValueType) -> Self:
        """Bind the step to its inputs.

        Raises:
            PostProcessorError: The number of classes is open.
        """
        del classes
        check_class_count(value)
        return dataclasses.replace(self, count=value.size("C"))

    @property
    def reads(self) -> tuple[str, ...]:
        """Numbers and classes."""
        return (self.source, self.classes)

    def output_type(self, value: ValueType, classes: ValueType) -> ValueType:
        """float32, (N,K)."""
        del value
        return classes.as_dtype("float32")

    def reference(self, array: Array, classes: Array) -> Array:
        """Take the numbers from an array."""
        return np.take_along_axis(np.asarray(array, np.float32), classes, axis=1)

    def emit(self, op: Emitter, value: ir.Value, classes: ir.Value) -> ir.Value:
        """Write GatherElements, or before opset 11 a sum over the numbers of the listed class and zeros."""
        dtype = np.dtype(np.float32)
        if op.opset < _GATHER_ELEMENTS:
            assert self.count is not None, "bind() sets it"
            listed, shape = op.unsqueeze(classes, (2,)), op.shape_of(classes)
            index = op.constant(tuple(range(self.count)), "index")
            chosen = op.node(
                "Equal", [listed, index], {}, np.dtype(np.bool_), None if shape is None else (*shape, None)
            )
            kept = op.where(chosen, op.unsqueeze(value, (1,)), op.constant(np.float32(0), "none"))
            return op.reduce("ReduceSum", kept, (2,))
        return op.node("GatherElements", [value, classes], {"axis": 1}, dtype, op.shape_of(classes))
