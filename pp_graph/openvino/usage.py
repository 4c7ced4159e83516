"""`model.usage.md`: how to run a converted model, in text and in Python and C++ programs.

The text comes from `usage_template.md`, the model's inputs and outputs, and its provenance. It names no threshold,
range, cutoff or sensitivity, so it stays true when the model is retuned.
"""

from __future__ import annotations

import json
import keyword
import re
import shlex
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Final, NamedTuple

from pp_graph.model import ModelInput, Port, batch_places
from pp_graph.openvino.core import declared_layout, partial_shape, port_name
from pp_graph.openvino.devices import device_profile, recommended_properties
from pp_graph.openvino.model_info import read_model_info, takes_frames
from pp_graph.sessions.session import with_batch_axes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    import openvino as ov

    from pp_graph.fusion import Provenance
    from pp_graph.program import OutputDescription

ELEMENT_TYPES: Final = {
    "f32": ("float32", "float"),
    "f64": ("float64", "double"),
    "f16": ("float16", "ov::float16"),
    "bf16": ("bfloat16", "ov::bfloat16"),
    "boolean": ("bool", "bool"),
    **{f"i{bits}": (f"int{bits}", f"std::int{bits}_t") for bits in (8, 16, 32, 64)},
    **{f"u{bits}": (f"uint{bits}", f"std::uint{bits}_t") for bits in (8, 16, 32, 64)},
}
"""OpenVINO's element types to NumPy's and C++'s."""

_ELEMENTS: Final = {dtype: element for element, (dtype, _) in ELEMENT_TYPES.items()}
_CHANNELS: Final = (1, 3)
_SIZES: Final = {"C": "channels", "H": "height", "W": "width"}
_EXAMPLE_SIZES: Final = {"N": 1, "C": 3, "H": 256, "W": 256}
_IMAGE_LEVEL: Final = ("pred_label", "pred_score")
_RESERVED: Final = frozenset(
    re.findall(
        r"\w+",
        """
        np ov core model request results print main std
        auto bool case catch char class concept const constexpr decltype default delete do double enum explicit export
        extern final float friend goto inline int long mutable namespace new operator override private protected public
        register requires short signed sizeof static struct switch template this throw typedef typeid typename union
        unsigned using virtual void volatile xor
        """,
    )
)
"""Names that the programs use, and keywords of C++."""

_REASONS: Final = {
    "CPU": "A CPU with bf16 runs the network in bf16 unless told otherwise",
    "GPU": "A GPU runs the network in f16 unless told otherwise",
}


def usage_path(path: str | Path) -> Path:
    """Return the path of the text about a model: `model.xml` -> `model.usage.md`."""
    return Path(path).with_suffix(".usage.md")


def usage_text(model: ov.Model, provenance: Provenance, file: str) -> str:
    """Write the text about a converted model.

    Args:
        model: The model.
        provenance: Its provenance, with the conversion's settings.
        file: Name of its `.xml`, without folders.

    Returns:
        The text, in Markdown.
    """
    inputs, outputs = _inputs_of(model, provenance), _outputs_of(model, provenance)
    sections = (
        _heading(provenance, file),
        _input_section(inputs, provenance),
        _output_section(outputs, provenance),
        _running(inputs, outputs, provenance, file),
        _model_api(model, provenance, file),
        _changing(inputs, provenance, file),
        _checking(provenance, file),
    )
    return "\n\n".join(filter(None, sections)) + "\n"


def renamed_usage(text: str, before: str, after: str) -> str:
    """Adapt the text about a model to a copy of the model under another name.

    Args:
        text: What `usage_text` wrote.
        before: Name of the `.xml` that it was written for, without folders.
        after: The new name.
    """
    pairs = ((before, after), (Path(before).stem + ".bin", Path(after).stem + ".bin"))
    # As they are written in prose, in programs and on a command line.
    renamed = {quote(old): quote(new) for old, new in pairs for quote in (_code, _literal, shlex.quote)}
    known = "|".join(map(re.escape, sorted(renamed, key=len, reverse=True)))
    return re.sub(rf"(?<![\w.-])(?:{known})(?!\w)", lambda match: renamed[match[0]], text)


def _render(section: str, **values: object) -> str:
    text = resources.files("pp_graph.openvino").joinpath("usage_template.md").read_text("utf-8")
    return Template(text.split(f"%% {section}\n", 1)[1].split("\n\n%% ", 1)[0].rstrip("\n")).substitute(values)


def _code(text: str) -> str:
    """Format a name as code in Markdown; a table may hold it."""
    fence, space = ("``", " ") if "`" in text else ("`", "")
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")


def _literal(text: str) -> str:
    """Format a string literal that Python and C++ both read."""
    return json.dumps(text, ensure_ascii=False)


def _rows(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _device(provenance: Provenance) -> str:
    return str((provenance.conversion or {}).get("device", "CPU"))


# --- inputs and outputs ---


class _Tensor(NamedTuple):
    """An input or output with its axes: `N` images, `C` channels, `H` height, `W` width, `?` unknown."""

    port: Port
    axes: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.port.name

    @property
    def dtype(self) -> str:
        return self.port.dtype or "?"

    @property
    def element(self) -> str:
        return _ELEMENTS.get(self.dtype, self.dtype)

    @property
    def sizes(self) -> str:
        """The sizes with letters for open ones, such as `(N, 3, 256, 256)`."""
        if self.port.shape is None:
            return "(any rank)"
        sizes = [axis if size is None else str(size) for axis, size in zip(self.axes, self.port.shape, strict=True)]
        return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"

    @property
    def example(self) -> tuple[int, ...]:
        """Sizes for an example: one image where the batch is open."""
        shape, axes = ((None,) * 4, "NCHW") if self.port.shape is None else (self.port.shape, self.axes)
        return tuple(
            size if isinstance(size, int) else _EXAMPLE_SIZES.get(axis, 1)
            for size, axis in zip(shape, axes, strict=True)
        )

    @property
    def hint(self) -> str:
        return f": {', '.join(self.axes)}" if len(self.axes) > 1 and "?" not in self.axes else ""


def _port(port: ov.Output, written: Collection[str] = ()) -> Port:
    element = str(port.get_element_type().get_type_name())
    return Port(port_name(port, written), ELEMENT_TYPES.get(element, (element,))[0], partial_shape(port))


def _inputs_of(model: ov.Model, provenance: Provenance) -> list[_Tensor]:
    undeclared = [ModelInput(port_name(port), None, partial_shape(port)) for port in model.inputs]
    places = batch_places(with_batch_axes(undeclared, provenance.conversion))
    batch_axis = {name: place.axes[0] for name, place in places.items() if place.axes}

    def axes(port: Port, layout: str) -> tuple[str, ...]:
        shape = port.shape or ()
        if len(layout) == len(shape) and layout.isalpha():
            return tuple(layout)
        if len(shape) == 4 and batch_axis.get(port.name) == 0:
            return tuple("NHWC" if shape[3] in _CHANNELS and shape[1] not in _CHANNELS else "NCHW")
        return tuple("N" if axis == batch_axis.get(port.name) else "?" for axis in range(len(shape)))

    return [_Tensor(port, axes(port, declared_layout(node))) for node in model.inputs for port in (_port(node),)]


def _outputs_of(model: ov.Model, provenance: Provenance) -> list[_Tensor]:
    known = {record.tensor: record.axes for record in provenance.raw.read.values() if record.rank_known}
    known |= {output.name: output.axes for output in provenance.outputs if output.axes}
    tensors = []
    for port in (_port(each, provenance.output_names) for each in model.outputs):
        rank, axes = len(port.shape or ()), known.get(port.name) or ""
        tensors.append(_Tensor(port, tuple(axes) if len(axes) == rank else ("N", *"?" * (rank - 1))[:rank]))
    return tensors


def _variables(tensors: Sequence[_Tensor]) -> dict[str, _Tensor]:
    """Name a variable after each tensor, as far as Python and C++ allow."""
    named: dict[str, _Tensor] = {}
    for index, tensor in enumerate(tensors):
        name = re.sub(r"\W", "_", tensor.name, flags=re.ASCII).strip("_")
        if not name or not name[0].isalpha() or keyword.iskeyword(name) or name in _RESERVED or name in named:
            name = f"tensor_{index}"
        named[name] = tensor
    return named


def _feeds(inputs: Sequence[_Tensor]) -> str:
    return ", ".join(f"{_literal(tensor.name)}: {variable}" for variable, tensor in _variables(inputs).items())


# --- the sections ---


def _heading(provenance: Provenance, file: str) -> str:
    settings, raw = provenance.conversion or {}, provenance.raw.file
    decides = any(output.decides for output in provenance.predicted.values())
    return _render(
        "heading",
        file=_code(file),
        inside="It decides by itself" if decides else "Post-processing is in it",
        post_processor=provenance.post_processor,
        weights=_code(Path(file).stem + ".bin"),
        raw=f"{_code(raw)}, a raw model" if raw else "a raw model",
        sha256=provenance.raw.sha256[:16],
        device=_device(provenance),
        precision=settings.get("precision", "f32"),
        openvino=settings.get("openvino", "(version unknown)"),
    )


def _input_section(inputs: Sequence[_Tensor], provenance: Provenance) -> str:
    rows = _rows((_code(each.name), each.dtype, each.sizes, " ".join(each.axes)) for each in inputs)
    return _render("inputs", rows=rows, sizes=_sizes(inputs), values=_values(inputs, provenance))


def _values(inputs: Sequence[_Tensor], provenance: Provenance) -> str:
    if provenance.preprocessing is not None:
        described = provenance.preprocessing.describe()
        return f"The preprocessing is in the model, and a frame goes in as a camera gives it: {described}."
    image_dtypes = [each.dtype for each in inputs if len(each.axes) == 4]
    own = ""
    if any(dtype.startswith("float") for dtype in image_dtypes):
        own = " The pp-graph commands feed 8-bit pictures as RGB, divided by 255."
    elif "uint8" in image_dtypes:
        own = " The pp-graph commands feed 8-bit pictures as RGB, as they are."
    return f"Use the range of values, order of channels and resizing that the raw model was trained with.{own}"


def _sizes(inputs: Sequence[_Tensor]) -> str:
    sizes = [pair for each in inputs for pair in zip(each.axes, each.port.shape or (), strict=True)]
    open_axes = {axis for axis, size in sizes if size is None}
    batches = [size for axis, size in sizes if axis == "N" and isinstance(size, int)]
    lines = []
    if "N" in open_axes:
        lines.append("N is the number of images in a batch, any from 1.")
    elif batches:
        lines.append(f"N, the number of images in a batch, is fixed at {min(batches)}: fill up a smaller batch.")
    others = [name for axis, name in _SIZES.items() if axis in open_axes]
    if others:
        lines.append(f"Open as well: {', '.join(others)}, as far as the raw model can take them.")
    if "?" in open_axes or any(each.port.shape is None for each in inputs):
        lines.append("Other open sizes are those of the raw model.")
    return " ".join(lines)


def _output_section(outputs: Sequence[_Tensor], provenance: Provenance) -> str:
    raw_names = {record.tensor: record.name for record in provenance.raw.read.values()}
    written = {output.name: output for output in provenance.outputs}

    def meaning(name: str) -> tuple[str, str]:
        if name in written:
            return _meaning(written[name])
        if name in raw_names:
            return "that of the raw model", f"raw value, output {_code(raw_names[name])} of the raw model"
        return "that of the raw model", "further output of the raw model, unchanged"

    on_nan = {output.on_nan for output in provenance.predicted.values() if output.decides}
    notes = _render("decides") if on_nan else ""
    if len(on_nan) == 1 and None not in on_nan:
        notes += f" NaN from the network counts as {on_nan.pop()}."
    rows = _rows((_code(each.name), each.dtype, each.sizes, *meaning(each.name)) for each in outputs)
    return _render("outputs", rows=rows, notes=notes)


def _meaning(output: OutputDescription) -> tuple[str, str]:
    """Range and meaning of an output that post-processing writes."""
    if output.channels:
        ranges = {_range(channel) for channel in output.channels if not channel.decides}
        channels = "; ".join(f"`[..., {place}]` {_meaning(each)[1]}" for place, each in enumerate(output.channels))
        common = "image-level values repeat at every pixel, and decisions are 0 or 1"
        return ranges.pop() if len(ranges) == 1 else "see the meaning", f"{channels}; {common}"
    description = output.description or f"`{output.name}`"
    if output.type is not None and output.type.size("C") != 1:
        description = f"{description}, for each class"
    if output.decides:
        where = f"where {description.removeprefix('whether ')}"
        if output.dtype == "bool":
            return "true or false", f"true {where}"
        values = output.decision_values
        return "0, or not 0" if values is None else f"{values[0]:g} or {values[1]:g}", f"not 0 {where}"
    if output.scale is not None and output.scale.threshold is not None:
        return _range(output), f"{description}, normalised: the calibrated threshold lies at {output.scale.threshold:g}"
    if output.unchanged is not None:
        return _range(output), f"{description} as the network gives it, not normalised"
    return _range(output), description


def _range(output: OutputDescription) -> str:
    if output.scale is not None:
        return f"{output.scale.low:g} to {output.scale.high:g}"
    return "that of the raw model" if output.unchanged is not None else "not bounded"


def _running(inputs: Sequence[_Tensor], outputs: Sequence[_Tensor], provenance: Provenance, file: str) -> str:
    device = _device(provenance)
    properties = recommended_properties(device)
    if any("INFERENCE_PRECISION_HINT" in name + value for name, value in properties.items()):
        advice = _render(
            "advice_f32",
            listed=", ".join(f"`{name}: {value}`" for name, value in properties.items()),
            reason=_REASONS.get(device.split(".", 1)[0], "The device may run the network in bf16 or f16 otherwise"),
        )
    else:
        listed = "".join(f"Compile it with `{name}: {value}`. " for name, value in properties.items())
        advice = _render("advice_fixed", listed=listed, device=device)
    fed, read = _variables(inputs), _variables(outputs)
    printed = [variable for variable in read if variable in _IMAGE_LEVEL]
    streamed = [
        f"{variable}.data<{ELEMENT_TYPES[read[variable].element][1]}>()[0]"
        if read[variable].element in ELEMENT_TYPES
        else f"{variable}.get_shape()"
        for variable in printed
    ]
    first = next(iter(read))
    cpp_properties = ", ".join(f"{{{_literal(name)}, {_literal(value)}}}" for name, value in properties.items())
    return _render(
        "running",
        advice=advice,
        file=_literal(file),
        device=_literal(device),
        feeds=_feeds(inputs),
        python_properties=f", {json.dumps(properties)}" if properties else "",
        python_inputs="\n".join(_python_input(*item) for item in fed.items()),
        python_outputs="\n".join(
            f"{variable} = results[{_literal(each.name)}]  # {each.dtype}, {each.sizes}"
            for variable, each in read.items()
        ),
        printed=", ".join(printed) or f"{first}.shape",
        cpp_properties=f", ov::AnyMap{{{cpp_properties}}}" if properties else "",
        cpp_inputs="\n".join(_cpp_input(*item) for item in fed.items()),
        cpp_outputs="\n".join(
            f"    ov::Tensor {variable} = request.get_tensor({_literal(each.name)});  // {each.element}, {each.sizes}"
            for variable, each in read.items()
        ),
        streamed=' << " " << '.join(streamed) or f"{first}.get_shape()",
    )


def _python_input(variable: str, tensor: _Tensor) -> str:
    dtype = {"bool": "bool_", "bfloat16": "float32"}.get(tensor.dtype, tensor.dtype)
    return f"{variable} = np.zeros({tensor.example}, np.{dtype})  # put your own here{tensor.hint}"


def _cpp_input(variable: str, tensor: _Tensor) -> str:
    sizes = ", ".join(map(str, tensor.example))
    return (
        f"    ov::Tensor {variable}(ov::element::{tensor.element}, ov::Shape{{{sizes}}});\n"
        f"    std::memset({variable}.data(), 0, {variable}.get_byte_size());  // put your own here{tensor.hint}\n"
        f"    request.set_tensor({_literal(tensor.name)}, {variable});"
    )


def _model_api(model: ov.Model, provenance: Provenance, file: str) -> str:
    info = read_model_info(model)
    if "model_type" not in info:
        return ""
    known = takes_frames(model) or {"scale_values", "reverse_input_channels", "input_dtype"} & info.keys()
    properties = recommended_properties(_device(provenance))
    return _render(
        "model_api",
        feeding="" if known else _render("model_api_feeding"),
        file=_literal(file),
        device=_literal(_device(provenance)),
        properties=f", plugin_config={json.dumps(properties)}" if properties else "",
    )


def _changing(inputs: Sequence[_Tensor], provenance: Provenance, file: str) -> str:
    quoted = shlex.quote(file)
    sensitivities = [output.sensitivity for output in provenance.predicted.values() if output.sensitivity is not None]
    changes = [*(f"--{name.replace('_', '-')} 0.6" for name in sensitivities), "--stats new.json"]
    text = _render(
        "changing",
        scale=" A sensitivity goes from 0, flags nothing, to 1, flags all that normalises above 0."
        if sensitivities
        else "",
        commands="\n".join(f"pp-graph retune {quoted} {change} -o retuned.xml" for change in changes),
    )
    if (provenance.conversion or {}).get("precision") == "int8":
        text += _render("calibrating", file=quoted)
    # Some devices ignore a state that is set on a request.
    if provenance.adjustable and device_profile(_device(provenance)).states:
        text += _render(
            "states",
            names=", ".join(map(_code, provenance.adjustable)),
            file=_literal(file),
            changes=f"{sensitivities[0]}=0.6" if sensitivities else 'statistics=pp.Statistics.load("new.json")',
            feeds=_feeds(inputs),
        )
    return text


def _checking(provenance: Provenance, file: str) -> str:
    device = _device(provenance)
    return _render(
        "checking",
        raw=shlex.quote(provenance.raw.file or "raw.onnx"),
        file=shlex.quote(file),
        device="" if device == "CPU" else f" --device {shlex.quote(device)}",
    )
