"""Write `model.usage.md`: how to run a converted model, with programs in Python and C++.

Sentences come from `usage_template.md`. They name no threshold, range, cutoff or sensitivity, so they stay true after
retuning.
"""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Final

from pp_graph.openvino.devices import (
    PRECISION_HINT,
    RECOMMENDED,
    chosen_precision,
    device_profile,
    recommended_properties,
)
from pp_graph.openvino.model_info import read_model_info, takes_frames
from pp_graph.openvino.usage_tensors import ELEMENT_TYPES, Tensor, inputs_of, name_variables, outputs_of
from pp_graph.preprocessing import LETTERBOX
from pp_graph.preprocessing.placement import FRAME
from pp_graph.program import detects

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import openvino as ov

    from pp_graph.fusion import Provenance
    from pp_graph.program import OutputDescription

_SIZES: Final = {"C": "channels", "H": "height", "W": "width"}
_IMAGE_LEVEL: Final = ("pred_label", "pred_score")


def usage_path(path: str | Path) -> Path:
    """Return the path of the guide to a model: `model.xml` -> `model.usage.md`."""
    return Path(path).with_suffix(".usage.md")


def usage_text(model: ov.Model, provenance: Provenance, file: str) -> str:
    """Return the guide to a converted model, in Markdown.

    Args:
        model: The model.
        provenance: Its provenance, with the settings of the conversion.
        file: Name of its `.xml`, without folders.
    """
    inputs, outputs = inputs_of(model, provenance), outputs_of(model, provenance)
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
    """Adapt the guide to a model to a copy of the model under another name.

    Args:
        text: Result of `usage_text`.
        before: Name of the `.xml` in it, without folders.
        after: The new name.
    """
    pairs = ((before, after), (Path(before).stem + ".bin", Path(after).stem + ".bin"))
    # The text contains names as Markdown code, as string literals and as shell arguments.
    renamed = {quote(old): quote(new) for old, new in pairs for quote in (_code, _literal, shlex.quote)}
    known = "|".join(map(re.escape, sorted(renamed, key=len, reverse=True)))
    return re.sub(rf"(?<![\w.-])(?:{known})(?!\w)", lambda match: renamed[match[0]], text)


@cache
def _templates() -> dict[str, Template]:
    text = resources.files("pp_graph.openvino").joinpath("usage_template.md").read_text("utf-8")
    sections = re.findall(r"^%% (\w+)\n(.*?)\n*(?=^%% |\Z)", text, re.DOTALL | re.MULTILINE)
    return {name: Template(body) for name, body in sections}


def _render(section: str, **values: object) -> str:
    return _templates()[section].substitute(values)


def _sentences(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _code(text: str) -> str:
    """Format a name as code in Markdown, also for tables."""
    fence, space = ("``", " ") if "`" in text else ("`", "")
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")


def _literal(text: str) -> str:
    """Format a string literal of Python and C++."""
    return json.dumps(text, ensure_ascii=False)


def _rows(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _device(provenance: Provenance) -> str:
    return str((provenance.conversion or {}).get("device", "CPU"))


def _feeds(inputs: Sequence[Tensor]) -> str:
    return ", ".join(f"{_literal(tensor.name)}: {variable}" for variable, tensor in name_variables(inputs).items())


def _reminder(tensor: Tensor) -> str:
    axes = f": {', '.join(tensor.axes)}" if len(tensor.axes) > 1 and "?" not in tensor.axes else ""
    return f"put your own here{axes}"


def _heading(provenance: Provenance, file: str) -> str:
    settings, raw = provenance.conversion or {}, provenance.raw.file
    decides = any(output.decides for output in provenance.predicted.values())
    return _render(
        "heading",
        file=_code(file),
        inside=_render("it_decides" if decides else "it_post_processes"),
        post_processor=provenance.post_processor,
        weights=_code(Path(file).stem + ".bin"),
        raw=f"{_code(raw)}, a raw model" if raw else "a raw model",
        sha256=provenance.raw.sha256[:16],
        device=_device(provenance),
        precision=settings.get("precision", "f32"),
        openvino=settings.get("openvino", "(version unknown)"),
    )


def _input_section(inputs: Sequence[Tensor], provenance: Provenance) -> str:
    rows = _rows((_code(each.name), each.dtype, each.sizes, " ".join(each.axes)) for each in inputs)
    return _render("inputs", rows=rows, sizes=_sizes(inputs), values=_values(inputs, provenance))


def _values(inputs: Sequence[Tensor], provenance: Provenance) -> str:
    if provenance.preprocessing is not None:
        return _render("frames", preprocessing=provenance.preprocessing.describe())
    image_dtypes = [each.dtype for each in inputs if len(each.axes) == 4]
    if any(dtype.startswith("float") for dtype in image_dtypes):
        return _sentences(_render("values"), _render("commands_feed_floats"))
    return _sentences(_render("values"), _render("commands_feed_bytes") if "uint8" in image_dtypes else "")


def _sizes(inputs: Sequence[Tensor]) -> str:
    sizes = [pair for each in inputs for pair in zip(each.axes, each.shape or (), strict=True)]
    open_axes = {axis for axis, size in sizes if size is None}
    batches = [size for axis, size in sizes if axis == "N" and isinstance(size, int)]
    open_sizes = [name for axis, name in _SIZES.items() if axis in open_axes]
    batch = ""
    if "N" in open_axes:
        batch = _render("open_batch")
    elif batches:
        batch = _render("fixed_batch", batch=min(batches))
    return _sentences(
        batch,
        _render("open_sizes", sizes=", ".join(open_sizes)) if open_sizes else "",
        _render("other_sizes") if "?" in open_axes or any(each.shape is None for each in inputs) else "",
    )


def _boxes(provenance: Provenance) -> str:
    """Say how boxes find back to the frame, if the model resizes it."""
    preprocessing = provenance.preprocessing
    if preprocessing is None or preprocessing.resize is None:
        return ""
    height, width = preprocessing.model_size or ("H", "W")
    if preprocessing.box_coordinates == FRAME:
        placed = "placed_letterboxed" if preprocessing.resize == LETTERBOX else "placed_stretched"
        sizes = {"height": height, "width": width}
        of_input = _render("maps_of_input", **sizes, placed=_render(placed, **sizes))
        in_frame = preprocessing.map_size == FRAME
        return _render("boxes_in_frame", maps=_render("maps_in_frame") if in_frame else of_input)
    if preprocessing.map_size == FRAME:
        return _render("maps_in_frame")
    if not detects(provenance.predicted.values()):
        return ""
    section = "boxes_letterboxed" if preprocessing.resize == LETTERBOX else "boxes_stretched"
    return _render(section, height=height, width=width)


def _output_section(outputs: Sequence[Tensor], provenance: Provenance) -> str:
    raw_names = {record.tensor: record.name for record in provenance.raw.read.values()}
    written = {output.name: output for output in provenance.outputs}

    def meaning(name: str) -> tuple[str, str]:
        if name in written:
            return _meaning(written[name])
        if name in raw_names:
            return "that of the raw model", f"raw value, output {_code(raw_names[name])} of the raw model"
        return "that of the raw model", "further output of the raw model, unchanged"

    on_nan = {output.on_nan for output in provenance.predicted.values() if output.decides}
    notes = _sentences(
        _render("outputs_by_name"),
        _boxes(provenance),
        _render("decisions") if on_nan else "",
        _render("nan", decision=next(iter(on_nan))) if len(on_nan) == 1 and None not in on_nan else "",
    )
    rows = _rows((_code(each.name), each.dtype, each.sizes, *meaning(each.name)) for each in outputs)
    return _render("outputs", rows=rows, notes=notes)


def _meaning(output: OutputDescription) -> tuple[str, str]:
    """Return range and meaning of an output of the post-processing, for the table."""
    if output.channels and output.per_pixel:
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
    if output.classifies:
        return "class index"
    if output.scale is not None:
        return f"{output.scale.low:g} to {output.scale.high:g}"
    return "that of the raw model" if output.unchanged is not None else "not bounded"


def _running(inputs: Sequence[Tensor], outputs: Sequence[Tensor], provenance: Provenance, file: str) -> str:
    device = _device(provenance)
    properties = _properties(provenance)
    choice = (provenance.conversion or {}).get("precision_choice")
    if choice is not None:
        listed = ", ".join(f"`{name}: {value}`" for name, value in properties.items())
        advice = _render("advice_chosen", listed=listed, plan=choice["plan"], limits=choice["limits"])
    elif any(PRECISION_HINT in name + value for name, value in properties.items()):
        kind = device.split(".", 1)[0]
        advice = _render(
            "advice_f32",
            listed=", ".join(f"`{name}: {value}`" for name, value in properties.items()),
            reason=_render(f"reason_{kind if kind in ('CPU', 'GPU') else 'other'}"),
        )
    else:
        compile_with = [_render("compile_with", name=name, value=value) for name, value in properties.items()]
        advice = _sentences(*compile_with, _render("advice_fixed", device=device))
    fed, read = name_variables(inputs), name_variables(outputs)
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


def _properties(provenance: Provenance) -> dict[str, str]:
    device = _device(provenance)
    return recommended_properties(device, inference_precision=chosen_precision(provenance, device) or RECOMMENDED)


def _python_input(variable: str, tensor: Tensor) -> str:
    dtype = {"bool": "bool_", "bfloat16": "float32"}.get(tensor.dtype, tensor.dtype)
    return f"{variable} = np.zeros({tensor.example}, np.{dtype})  # {_reminder(tensor)}"


def _cpp_input(variable: str, tensor: Tensor) -> str:
    sizes = ", ".join(map(str, tensor.example))
    return (
        f"    ov::Tensor {variable}(ov::element::{tensor.element}, ov::Shape{{{sizes}}});\n"
        f"    std::memset({variable}.data(), 0, {variable}.get_byte_size());  // {_reminder(tensor)}\n"
        f"    request.set_tensor({_literal(tensor.name)}, {variable});"
    )


def _model_api(model: ov.Model, provenance: Provenance, file: str) -> str:
    info = read_model_info(model)
    if "model_type" not in info:
        return ""
    known = takes_frames(model) or {"scale_values", "reverse_input_channels", "input_dtype"} & info.keys()
    properties = _properties(provenance)
    result = _MODEL_API_RESULTS.get(info["model_type"])
    about = "model_api_outputs" if result is None else "model_api_other_outputs"
    return _render(
        "model_api",
        result=result or 'result.pred_label is "True" or "False"',
        about=_sentences(_render(about), "" if known else _render("model_api_feeding")),
        file=_literal(file),
        device=_literal(_device(provenance)),
        properties=f", plugin_config={json.dumps(properties)}" if properties else "",
    )


_MODEL_API_RESULTS: Final = {
    "SSD": "result.bboxes, result.scores, result.label_names",
    "Classification": "result.top_labels[0].name",
    "Segmentation": "result.resultImage is the class of each pixel",
}
_ADJUSTED: Final = {
    "known_cutoff": "unknown_below=0.8",
    "pred_label_cutoff": "multi_label=0.6",
    "confidence_cutoff": "confidence=0.4",
}
"""Example of a change, by input that holds cutoffs."""
_LIMITS: Final = {
    "ClassificationPostProcessor": {
        "unknown": "--unknown-below 0.8",
        "pred_label": "--multi-label 0.6",
        "pred_prob": "--temperature 1.5",
    },
    "DetectionPostProcessor": {"boxes": "--confidence 0.4"},
    "SegmentationPostProcessor": {"class_masks": "--class-thresholds 0.6"},
    "SequencePostProcessor": {},
    "RegionsPostProcessor": {"region_boxes": "--box-threshold 0.7"},
}
"""Options of retune, by the output that they change."""


def _changing(inputs: Sequence[Tensor], provenance: Provenance, file: str) -> str:
    quoted = shlex.quote(file)
    sensitivities = [output.sensitivity for output in provenance.predicted.values() if output.sensitivity is not None]
    changes = [*(f"--{name.replace('_', '-')} 0.6" for name in sensitivities), "--stats new.json"]
    if provenance.post_processor in _LIMITS:
        limits = _LIMITS[provenance.post_processor]
        changes = [change for name, change in limits.items() if name in provenance.predicted]
        if not changes:
            return ""
    parts = [
        _render(
            "changing",
            about=_sentences(
                _render("network_alone" if provenance.post_processor in _LIMITS else "network_kept"),
                _render("sensitivity") if sensitivities else "",
            ),
            commands="\n".join(f"pp-graph retune {quoted} {change} -o retuned.xml" for change in changes),
        )
    ]
    if (provenance.conversion or {}).get("precision") == "int8":
        parts.append(_render("calibrating", file=quoted))
    # Some devices ignore the states of a request.
    if provenance.adjustable and device_profile(_device(provenance)).states:
        parts.append(
            _render(
                "states",
                names=", ".join(map(_code, provenance.adjustable)),
                file=_literal(file),
                changes=_ADJUSTED[provenance.adjustable[0]]
                if provenance.post_processor in _LIMITS
                else f"{sensitivities[0]}=0.6"
                if sensitivities
                else 'statistics=pp.Statistics.load("new.json")',
                feeds=_feeds(inputs),
            )
        )
    return "\n\n".join(parts)


def _checking(provenance: Provenance, file: str) -> str:
    device = _device(provenance)
    return _render(
        "checking",
        raw=shlex.quote(provenance.raw.file or "raw.onnx"),
        file=shlex.quote(file),
        device="" if device == "CPU" else f" --device {shlex.quote(device)}",
    )
