"""Values with named axes: what is known of an array before it is computed, and float32 numbers as integers in order."""

from __future__ import annotations

from pp_graph.values.value_type import AXES, DTYPES, DType, Scale, ValueType, axes_of_shape, spatial_axes

__all__ = ["AXES", "DTYPES", "DType", "Scale", "ValueType", "axes_of_shape", "spatial_axes"]
