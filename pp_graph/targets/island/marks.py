"""The mark that keeps an operator in float32, in a saved model and in one that runs.

The runtime attribute `DisablePrecisionConversion` with the value `dynamic:bf16,f16` keeps a node out of compression to
f16 and of execution in bf16 or f16. It can only be read from an IR's XML: setting it from Python has no effect. Checked
against OpenVINO 2026.4.
"""

from __future__ import annotations

import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pp_graph.files import writing_temporarily
from pp_graph.targets.devices.devices import openvino_core

if TYPE_CHECKING:
    import openvino as ov

_MARK: Final = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:bf16,f16"}
_FLOATING_PRECISIONS: Final = frozenset({"FP32", "FP16", "BF16", "FP64"})


def mark_float32(island: ov.Model) -> ov.Model:
    """A copy of a small model, each of whose operators stays float32."""
    import openvino as ov

    with tempfile.TemporaryDirectory(prefix="pp_graph_") as folder:
        xml, weights = Path(folder) / "island.xml", Path(folder) / "island.bin"
        with writing_temporarily():
            ov.serialize(island, str(xml), str(weights))
        tree = ET.parse(xml)  # noqa: S314 - written by OpenVINO a moment ago
        for layer in tree.iter("layer"):
            if layer.get("type") in ("Parameter", "Result"):
                continue
            # The mark breaks compilation on nodes without floating-point numbers, such as integer axes.
            if not _FLOATING_PRECISIONS & {port.get("precision") for port in layer.iter("port")}:
                continue
            info = layer.find("rt_info")
            if info is not None and any(entry.get("name") == _MARK["name"] for entry in info):
                continue
            if info is None:
                info = ET.Element("rt_info")
                layer.insert(0, info)
            ET.SubElement(info, "attribute", _MARK)
        return openvino_core().read_model(ET.tostring(tree.getroot()), weights.read_bytes())


def is_marked(node: ov.Node) -> bool:
    """Whether a node is marked to stay float32. Python sees that a mark is there, but not what it says."""
    return any(str(key).startswith(_MARK["name"]) for key in node.get_rt_info())
