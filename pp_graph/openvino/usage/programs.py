"""The programs in `model.usage.md`: short, complete, and with the model's own names, sizes and element types."""

from __future__ import annotations

import json
import keyword
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.openvino.usage.description import Port, Usage

_SAME_IN_CPP: Final = {f"{sign}{bits}": f"{name}{bits}_t" for sign, name in (("u", "uint"), ("i", "int"))
                       for bits in (8, 16, 32, 64)}  # fmt: skip
CPP_TYPES: Final = {
    "f32": "float",
    "f64": "double",
    "f16": "ov::float16",
    "bf16": "ov::bfloat16",
    "boolean": "bool",
    **{kind: f"std::{name}" for kind, name in _SAME_IN_CPP.items()},
}
"""OpenVINO's element types to those of C++."""

_TAKEN: Final = frozenset({"np", "ov", "core", "model", "request", "results", "print", "main", "std"})
_IMAGE_LEVEL: Final = ("pred_label", "pred_score")


def string(text: str) -> str:
    """A string literal, as Python and C++ both read it."""
    return json.dumps(text, ensure_ascii=False)


def python_block(usage: Usage, properties: Mapping[str, str]) -> str:
    """A Python program that runs the model once.

    Args:
        usage: The model.
        properties: Properties to compile it with.
    """
    inputs, outputs = variables(usage.inputs), variables(usage.outputs)
    options = f", {json.dumps(dict(properties))}" if properties else ""
    lines = [
        "import numpy as np",
        "import openvino as ov",
        "",
        "core = ov.Core()",
        f"model = core.compile_model({string(usage.file)}, {string(usage.device)}{options})",
    ]
    for variable, port in inputs.items():
        dtype = {"bool": "bool_", "bfloat16": "float32"}.get(port.dtype, port.dtype)
        lines.append(f"{variable} = np.zeros({port.example}, np.{dtype})  # put your own here{_axes(port)}")
    feeds = ", ".join(f"{string(port.name)}: {variable}" for variable, port in inputs.items())
    lines.append(f"results = model({{{feeds}}})")
    for variable, port in outputs.items():
        lines.append(f"{variable} = results[{string(port.name)}]  # {port.dtype}, {port.sizes}")
    lines.append(f"print({', '.join(_shown(outputs)) or next(iter(outputs)) + '.shape'})")
    return "\n".join(lines)


def cpp_block(usage: Usage, properties: Mapping[str, str]) -> str:
    """A C++ program that runs the model once, for OpenVINO's C++ API.

    Args:
        usage: The model.
        properties: Properties to compile it with.
    """
    inputs, outputs = variables(usage.inputs), variables(usage.outputs)
    options = ", ".join(f"{{{string(name)}, {string(value)}}}" for name, value in properties.items())
    options = f", ov::AnyMap{{{options}}}" if options else ""
    lines = [
        "#include <openvino/openvino.hpp>",
        "#include <cstring>",
        "#include <iostream>",
        "",
        "int main() {",
        "    ov::Core core;",
        f"    auto model = core.compile_model({string(usage.file)}, {string(usage.device)}{options});",
        "    auto request = model.create_infer_request();",
    ]
    for variable, port in inputs.items():
        sizes = ", ".join(map(str, port.example))
        lines += [
            f"    ov::Tensor {variable}(ov::element::{port.element}, ov::Shape{{{sizes}}});",
            f"    std::memset({variable}.data(), 0, {variable}.get_byte_size());  // put your own here{_axes(port)}",
            f"    request.set_tensor({string(port.name)}, {variable});",
        ]
    lines.append("    request.infer();")
    for variable, port in outputs.items():
        got = f"request.get_tensor({string(port.name)})"
        lines.append(f"    ov::Tensor {variable} = {got};  // {port.element}, {port.sizes}")
    shown = _shown(outputs) or [next(iter(outputs))]
    values = [
        f"{variable}.data<{CPP_TYPES[outputs[variable].element]}>()[0]"
        if variable in _IMAGE_LEVEL and outputs[variable].element in CPP_TYPES
        else f"{variable}.get_shape()"
        for variable in shown
    ]
    printed = """ << " " << """.join(values)
    lines += [f"    std::cout << {printed} << std::endl;", "}"]
    return "\n".join(lines)


def model_api_block(usage: Usage, properties: Mapping[str, str]) -> str:
    """A Python program that loads the model with Intel's Model API.

    Args:
        usage: The model.
        properties: Properties to compile it with.
    """
    options = f", plugin_config={json.dumps(dict(properties))}" if properties else ""
    return "\n".join(
        [
            "from model_api.adapters import OpenvinoAdapter, create_core",
            "from model_api.models import Model",
            "",
            f"adapter = OpenvinoAdapter(create_core(), {string(usage.file)}, device={string(usage.device)}{options})",
            "model = Model.create_model(adapter)",
            'result = model(image)  # one image, (H, W, 3); result.pred_label is "True" or "False"',
        ]
    )


def variables(ports: Sequence[Port]) -> dict[str, Port]:
    """A variable for each port, named after it as far as a language lets it."""
    found: dict[str, Port] = {}
    for index, port in enumerate(ports):
        name = re.sub(r"\W", "_", port.name, flags=re.ASCII).strip("_")
        if not name or not name[0].isalpha() or keyword.iskeyword(name) or name in {*_TAKEN, *_CPP_KEYWORDS, *found}:
            name = f"tensor_{index}"
        found[name] = port
    return found


_CPP_KEYWORDS: Final = frozenset(
    re.findall(
        r"\w+",
        """
        auto bool case catch char class concept const constexpr decltype default delete do double enum explicit
        export extern final float friend goto inline int long mutable namespace new operator override private
        protected public register requires short signed sizeof static struct switch template this throw typedef
        typeid typename union unsigned using virtual void volatile xor
        """,
    )
)


def _axes(port: Port) -> str:
    return f": {', '.join(port.axes)}" if len(port.axes) > 1 and "?" not in port.axes else ""


def _shown(outputs: Mapping[str, Port]) -> list[str]:
    """What to print of a run: the outcome for the image, where the model gives it."""
    return [variable for variable in outputs if variable in _IMAGE_LEVEL]
