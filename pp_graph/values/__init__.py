"""`ValueType`: element type, named axes and sizes of a value. `float_keys`: float32 numbers as ordered integers."""

from __future__ import annotations

from pp_graph.values.value_type import AXES, DTYPES, DType, Scale, ValueType, axes_of_shape, spatial_axes, valid_axes

__all__ = ["AXES", "DTYPES", "DType", "Scale", "ValueType", "axes_of_shape", "spatial_axes", "valid_axes"]
