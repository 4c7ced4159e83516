"""Mark operators to stay in float32, and read the precision in which they are saved and run.

The runtime attribute `DisablePrecisionConversion` with the value `dynamic:bf16,f16` stops OpenVINO from compressing a
node to f16 and from running it in bf16 or f16. OpenVINO reads it only from an IR's XML; setting it from Python has no
effect. Checked with OpenVINO 2026.4.
"""

from __future__ import annotations

import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pp_graph.files import writing_temporarily
from pp_graph.fusion.tail import NETWORK_SCOPE
from pp_graph.openvino.ir_files import decimal_points, read_model

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import openvino as ov

_MARK: Final = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:bf16,f16"}
_FLOATING_PRECISIONS: Final = frozenset({"FP32", "FP16", "BF16", "FP64"})
_PRODUCTS: Final = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


def mark_float32(model: ov.Model, names: Collection[str] | None = None) -> ov.Model:
    """Return a copy of a model with operators marked to stay in float32. The weights are copied: keep the model small.

    Args:
        model: The model.
        names: Names of the operators to mark; None for all.
    """
    import openvino as ov

    with tempfile.TemporaryDirectory(prefix="pp_graph_") as folder:
        xml, weights = Path(folder) / "island.xml", Path(folder) / "island.bin"
        with writing_temporarily(), decimal_points():
            ov.serialize(model, str(xml), str(weights))
        tree = ET.parse(xml)  # noqa: S314 - written by OpenVINO a moment ago
        for layer in tree.iter("layer"):
            if layer.get("type") in ("Parameter", "Result") or (names is not None and layer.get("name") not in names):
                continue
            # Compilation fails if nodes without floating-point values, such as integer axes, are marked.
            if not _FLOATING_PRECISIONS & {port.get("precision") for port in layer.iter("port")}:
                continue
            info = layer.find("rt_info")
            if info is not None and any(entry.get("name") == _MARK["name"] for entry in info):
                continue
            if info is None:
                info = ET.Element("rt_info")
                layer.insert(0, info)
            ET.SubElement(info, "attribute", _MARK)
        return read_model(ET.tostring(tree.getroot()), weights.read_bytes())


def is_marked(node: ov.Node) -> bool:
    """Return True if a node is marked to stay in float32. Python cannot read the value of the mark."""
    return any(str(key).startswith(_MARK["name"]) for key in node.get_rt_info())


PREPROCESSING_SCOPE: Final = "preprocessing"
"""Scope of the preprocessing operators under the prefix. They are marked too, but do not belong to the island: the
runtime may merge the last one with the network's first operator, which rounds its input anyway."""


def island_constants(model: ov.Model, prefix: str, adjustable: Sequence[str] = ()) -> dict[str, str]:
    """Return the element types of the f32 island's floating-point constants.

    Args:
        model: The model.
        prefix: Prefix of the names of the post-processing's nodes.
        adjustable: Names of constants that are defaults of states.

    Returns:
        Constant name to element type, such as `f32`.
    """
    types = {
        node.get_friendly_name(): str(node.get_element_type().get_type_name())
        for node in model.get_ops()
        if node.get_type_name() == "Constant"
        and (_in_island(node.get_friendly_name(), prefix) or node.get_friendly_name() in adjustable)
    }
    return {name: kind for name, kind in types.items() if is_floating(kind)}


def _in_island(name: str, prefix: str) -> bool:
    return name.startswith(f"{prefix}/") and not name.startswith(
        (f"{prefix}/{NETWORK_SCOPE}/", f"{prefix}/{PREPROCESSING_SCOPE}/")
    )


def is_floating(precision: str) -> bool:
    """Return True if an OpenVINO element type, such as `bf16` or `u8`, is floating-point."""
    return precision.startswith(("f", "bf"))


def executed_precision(compiled: ov.CompiledModel) -> str:
    """Return the narrowest floating-point precision that a compiled model computes in, such as `bf16`."""
    kinds = set()
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if "runtimePrecision" in info and node.get_type_name() not in ("Parameter", "Result"):
            kinds.add(str(info["runtimePrecision"].value))
    return next((kind for kind in ("bf16", "f16") if kind in kinds), "f32")


def names_operators(compiled: ov.CompiledModel) -> bool:
    """Return True if a compiled model reports the names of the original operators; not every device does."""
    return any("originalLayersNames" in node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops())


def island_precisions(compiled: ov.CompiledModel, prefix: str) -> dict[str, str]:
    """Return the precisions in which a compiled model runs its post-processing.

    Args:
        compiled: The compiled model.
        prefix: Prefix of the names of the post-processing's nodes.

    Returns:
        Precision of each executed operator, such as `f32`, by the names of its original operators, joined by commas if
        they were merged.
    """
    precisions: dict[str, str] = {}
    for names, precision in operator_precisions(compiled).items():
        ours = [name for name in names.split(",") if _in_island(name, prefix)]
        if ours:
            precisions[",".join(ours)] = precision
    return precisions


def operator_precisions(compiled: ov.CompiledModel) -> dict[str, str]:
    """Return the precision of each executed operator by the names of its original operators, joined by commas.

    A convolution or matrix product of integers is `int8`, whatever it returns.
    """
    precisions = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        original = str(info["originalLayersNames"].value) if "originalLayersNames" in info else ""
        # ShapeOf reads no values, so its precision does not matter.
        if original and "runtimePrecision" in info and str(info["layerType"].value) != "ShapeOf":
            # runtimePrecision is that of the first input, which is the condition for Select. So look at outputs too.
            kinds = [str(info["runtimePrecision"].value), *str(info["outputPrecisions"].value).split(",")]
            floating = [kind for kind in kinds if is_floating(kind)]
            narrow = [kind for kind in floating if kind != "f32"]
            integer = kinds[0] in ("i8", "u8") and str(info["layerType"].value) in _PRODUCTS
            precisions[original] = "int8" if integer else (narrow or floating or kinds)[0]
    return precisions
