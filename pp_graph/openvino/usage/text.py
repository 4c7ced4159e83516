"""`model.usage.md`: a text beside a converted model that says what goes in, what comes out, and how to run it.

Everything in it is read from the model's ports and its provenance. It names no threshold, range, cutoff or sensitivity,
so that it stays true when the model is retuned; `renamed_usage` makes it that of a model of another name.
"""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pp_graph.model import ModelInput, batch_places
from pp_graph.openvino.core import partial_shape, port_name
from pp_graph.openvino.devices import device_profile, recommended_properties
from pp_graph.openvino.model_info import read_model_info, takes_frames
from pp_graph.openvino.usage.description import Port, Usage
from pp_graph.openvino.usage.programs import cpp_block, model_api_block, python_block, string, variables
from pp_graph.sessions.session import with_batch_axes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import openvino as ov

    from pp_graph.fusion import Provenance
    from pp_graph.model import Shape
    from pp_graph.program import OutputDescription

_ENDING: Final = ".usage.md"
_CHANNELS: Final = (1, 3)
_SIZES: Final = {"N": "number of images", "C": "channels", "H": "height", "W": "width"}


def usage_path(path: str | Path) -> Path:
    """Where the text about a model lies: `model.xml` -> `model.usage.md`."""
    return Path(path).with_suffix(_ENDING)


def usage_text(model: ov.Model, provenance: Provenance, file: str) -> str:
    """Write the text about a converted model.

    Args:
        model: The model.
        provenance: What was fused, and how it was converted.
        file: Name of its `.xml`, without folders.

    Returns:
        The text, in Markdown.
    """
    usage = Usage(
        file=file,
        inputs=tuple(_port(port, partial(_input_axes, _batch_axes(model, provenance))) for port in model.inputs),
        outputs=tuple(_output_port(port, provenance) for port in model.outputs),
        provenance=provenance,
        model_info=read_model_info(model),
        frames=takes_frames(model),
    )
    sections = (_heading, _inputs, _outputs, _running, _model_api, _changing, _checking)
    return "\n\n".join(text for section in sections if (text := section(usage))) + "\n"


def renamed_usage(text: str, before: str, after: str) -> str:
    """The text about a model, for a copy of it under another name.

    Args:
        text: What `usage_text` wrote.
        before: Name of the `.xml` that it was written for, without folders.
        after: The new name.
    """
    pairs = ((before, after), (Path(before).stem + ".bin", Path(after).stem + ".bin"))
    # As they are written in prose, in programs and on a command line.
    renamed = {quote(old): quote(new) for old, new in pairs for quote in (code, string, shlex.quote)}
    known = "|".join(map(re.escape, sorted(renamed, key=len, reverse=True)))
    return re.sub(rf"(?<![\w.-])(?:{known})(?!\w)", lambda found: renamed[found[0]], text)


def code(text: str) -> str:
    """A name as code in Markdown, also within a table."""
    fence = "``" if "`" in text else "`"
    space = " " if fence == "``" else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")


# --- what the ports are ---


def _output_port(port: ov.Output, provenance: Provenance) -> Port:
    written = {output.name: output.axes for output in provenance.outputs}
    kept = {record.tensor: record.axes for record in provenance.raw.read.values() if record.rank_known}

    def axes(name: str, shape: Shape, _: str) -> tuple[str, ...]:
        known = written.get(name) or kept.get(name) or ""
        return tuple(known) if len(known) == len(shape) else ("N", *"?" * (len(shape) - 1))[: len(shape)]

    return _port(port, axes, provenance.output_names)


def _port(port: ov.Output, axes: Callable[[str, Shape, str], tuple[str, ...]], written: Collection[str] = ()) -> Port:
    from openvino import layout_helpers

    shape, name = partial_shape(port), port_name(port, written)
    element = str(port.get_element_type().get_type_name())
    layout = layout_helpers.get_layout(port)
    declared = "" if layout.empty else str(layout.to_string()).strip("[]").replace(",", "")
    return Port(
        name=name,
        dtype=_dtype(element),
        element=element,
        shape=shape,
        axes=() if shape is None else axes(name, shape, declared),
    )


_DTYPES: Final = {"f": "float", "bf": "bfloat", "u": "uint", "i": "int"}


def _dtype(element: str) -> str:
    """NumPy's name of an element type: `f32` -> `float32`."""
    kind = element.rstrip("0123456789")
    return "bool" if element == "boolean" else f"{_DTYPES.get(kind, kind)}{element.removeprefix(kind)}"


def _batch_axes(model: ov.Model, provenance: Provenance) -> dict[str, int]:
    """Where inputs have their batch, for those that have one."""
    inputs = [ModelInput(port_name(port), None, partial_shape(port)) for port in model.inputs]
    places = batch_places(with_batch_axes(inputs, provenance.conversion))
    return {name: place.axes[0] for name, place in places.items() if place.axes}


def _input_axes(batch: Mapping[str, int], name: str, shape: Shape, layout: str) -> tuple[str, ...]:
    if len(layout) == len(shape) and layout.isalpha():
        return tuple(layout)
    if len(shape) == 4 and batch.get(name) == 0:
        last = shape[3] in _CHANNELS and shape[1] not in _CHANNELS
        return ("N", "H", "W", "C") if last else ("N", "C", "H", "W")
    return tuple("N" if axis == batch.get(name) else "?" for axis in range(len(shape)))


# --- the sections ---


def _heading(usage: Usage) -> str:
    provenance, settings = usage.provenance, usage.provenance.conversion or {}
    inside = "It decides by itself" if usage.decides else "Post-processing is in it"
    raw = provenance.raw.file
    origin = f"{code(raw)}, a raw model" if raw else "a raw model"
    return (
        f"# {code(usage.file)}\n\n"
        f"An OpenVINO model. {inside}: the calibrated post-processing of `{provenance.post_processor}` is part of the "
        f"graph, and no code around it compares or normalises anything. {code(Path(usage.file).stem + '.bin')} holds "
        "its weights and belongs beside it.\n\n"
        f"Made by pp_graph from {origin} (sha256 `{provenance.raw.sha256[:16]}…`), for the device "
        f"{settings.get('device', 'CPU')}, with the network's weights in {settings.get('precision', 'f32')} and the "
        f"post-processing's in f32. Converted with OpenVINO {settings.get('openvino', '(version unknown)')}."
    )


def _inputs(usage: Usage) -> str:
    rows = [(code(port.name), port.dtype, port.sizes, " ".join(port.axes)) for port in usage.inputs]
    return f"## What goes in\n\n{_table(('input', 'dtype', 'shape', 'axes'), rows)}\n\n{_sizes(usage)} {_values(usage)}"


def _values(usage: Usage) -> str:
    preprocessing = usage.provenance.preprocessing
    if preprocessing is not None:
        return (
            f"The preprocessing is in the model, and a frame goes in as a camera gives it: {preprocessing.describe()}."
        )
    kinds = {port.dtype for port in usage.inputs if len(port.axes) == 4}
    feeds = {"float": "RGB, divided by 255", "uint8": "RGB, as they are"}
    ways = [way for kind, way in feeds.items() if any(each.startswith(kind) for each in kinds)]
    own = f" pp-graph's own verbs feed 8-bit pictures as {ways[0]}." if ways else ""
    return f"Values, order of channels and resizing are those that the raw model was trained with.{own}"


def _sizes(usage: Usage) -> str:
    open_axes = {
        axis for port in usage.inputs for axis, size in zip(port.axes, port.shape or (), strict=True) if size is None
    }
    batches = sorted({port.batch for port in usage.inputs if port.batch is not None})
    lines = []
    if "N" in open_axes:
        lines.append("N is the number of images in a batch, any from 1.")
    elif batches:
        lines.append(f"N, the number of images in a batch, is fixed at {batches[0]}: fill up a smaller batch.")
    others = [_SIZES[axis] for axis in ("C", "H", "W") if axis in open_axes]
    if others:
        lines.append(f"Open as well: {', '.join(others)}, as far as the raw model can take them.")
    if "?" in open_axes or any(port.shape is None for port in usage.inputs):
        lines.append("Other sizes that are open are those of the raw model.")
    return " ".join(lines)


def _outputs(usage: Usage) -> str:
    rows = [(code(port.name), port.dtype, port.sizes, *_meaning(port, usage.provenance)) for port in usage.outputs]
    table = _table(("output", "dtype", "shape", "range", "meaning"), rows)
    notes = ["Outputs are found by name."]
    if usage.decides:
        notes.append(
            "Decisions are made inside the model, before scores and maps are normalised; use them as they are, since "
            "comparing a score or map once more with a number may decide otherwise."
        )
        on_nan = {output.on_nan for output in usage.provenance.predicted.values() if output.decides}
        if len(on_nan) == 1 and None not in on_nan:
            notes.append(f"NaN from the network counts as {on_nan.pop()}.")
    return f"## What comes out\n\n{table}\n\n{' '.join(notes)}"


def _meaning(port: Port, provenance: Provenance) -> tuple[str, str]:
    """Range and meaning of an output."""
    read = {record.tensor: record.name for record in provenance.raw.read.values()}
    written = {output.name: output for output in provenance.outputs}
    if port.name in written:
        return _written(written[port.name])
    if port.name in read:
        return "that of the raw model", f"raw value, output {code(read[port.name])} of the raw model"
    return "that of the raw model", "further output of the raw model, unchanged"


def _written(output: OutputDescription) -> tuple[str, str]:
    """Range and meaning of an output that post-processing writes."""
    if output.channels:
        numbers = {_range(channel) for channel in output.channels if not channel.decides}
        what = "; ".join(f"`[..., {place}]` {_written(each)[1]}" for place, each in enumerate(output.channels))
        spread = "what is of the image is the same at every pixel, and decisions are 0 or 1"
        return numbers.pop() if len(numbers) == 1 else "see the meaning", f"{what}; {spread}"
    description = output.description or f"`{output.name}`"
    if output.type is not None and output.type.size("C") != 1:
        description = f"{description}, for each class"
    if output.decides:
        where = f"where {description.removeprefix('whether ')}"
        if output.dtype == "bool":
            return "true or false", f"true {where}"
        values = output.decision_values
        coded = "0, or not 0" if values is None else f"{values[0]:g} or {values[1]:g}"
        return coded, f"not 0 {where}"
    if output.scale is not None and output.scale.threshold is not None:
        return _range(output), f"{description}, normalised: the calibrated threshold lies at {output.scale.threshold:g}"
    if output.unchanged is not None:
        return _range(output), f"{description} as the network gives it, not normalised"
    return _range(output), description


def _range(output: OutputDescription) -> str:
    if output.scale is not None:
        return f"{output.scale.low:g} to {output.scale.high:g}"
    return "that of the raw model" if output.unchanged is not None else "not bounded"


_REASONS: Final = {
    "CPU": "A CPU with bf16 runs the network in bf16 unless told otherwise",
    "GPU": "A GPU runs the network in f16 unless told otherwise",
}


def _running(usage: Usage) -> str:
    properties = recommended_properties(usage.device)
    if any("INFERENCE_PRECISION_HINT" in name + value for name, value in properties.items()):
        reason = _REASONS.get(usage.device.split(".", 1)[0], "The device may run the network in bf16 or f16 otherwise")
        listed = ", ".join(f"`{name}: {value}`" for name, value in properties.items())
        advice = (
            f"Compile it with {listed}. {reason}, and the rounding of its layers then moves raw values across the "
            "threshold and flips decisions near it. The post-processing itself is marked to stay in f32 either way; "
            "`pp-graph verify` on the device says what it runs in."
        )
    else:
        listed = "".join(f"Compile it with `{name}: {value}`. " for name, value in properties.items())
        advice = (
            f"{listed}{usage.device} computes the network in f16, and there is nothing to choose. The post-processing "
            "is marked to stay in f32; `pp-graph verify` on the device says what it runs in."
        )
    return (
        f"## Running it\n\n{advice}\n\n```python\n{python_block(usage, properties)}\n```\n\n"
        f"In C++, with OpenVINO's headers:\n\n```cpp\n{cpp_block(usage, properties)}\n```"
    )


def _model_api(usage: Usage) -> str:
    if "model_type" not in usage.model_info:
        return ""
    info = usage.model_info
    known = usage.frames or {"scale_values", "reverse_input_channels", "input_dtype"} & info.keys()
    feeding = "" if known else (
        " The file does not say how the raw model wants its images: give it as `configuration=`, for example "
        '`{"reverse_input_channels": True, "scale_values": [255, 255, 255]}` for a model that takes RGB in [0, 1], or '
        "convert once more with `--model-info`."
    )  # fmt: skip
    properties = recommended_properties(usage.device)
    return (
        "## With Model API\n\nIntel's Model API (openvino-model-api 0.4) loads the file as it is. Score, label and "
        f"mask are the model's own; its pictures of map and mask are resized to the image.{feeding}\n\n"
        f"```python\n{model_api_block(usage, properties)}\n```"
    )


def _changing(usage: Usage) -> str:
    moved_by = [output.sensitivity for output in usage.provenance.predicted.values()]
    options = [f"--{parameter.replace('_', '-')} 0.6" for parameter in moved_by if parameter is not None]
    commands = [f"pp-graph retune {shlex.quote(usage.file)} {option} -o retuned.xml" for option in options]
    commands += [f"pp-graph retune {shlex.quote(usage.file)} --stats new.json -o retuned.xml"]
    scale = " A sensitivity goes from 0, flags nothing, to 1, flags all that normalises above 0." if options else ""
    return (
        f"## Changing thresholds\n\nThe network is not touched; `new.json` holds other statistics.{scale}\n\n"
        "```bash\n" + "\n".join(commands) + "\n```" + _calibrating(usage) + _states(usage)
    )


def _calibrating(usage: Usage) -> str:
    if (usage.provenance.conversion or {}).get("precision") != "int8":
        return ""
    return (
        "\n\nThe network computes in int8, so its raw values are not those that the thresholds were calibrated on. "
        "Calibrate on the model itself, with labelled images:\n\n"
        f"```bash\npp-graph calibrate {shlex.quote(usage.file)} --data IMAGES --retune calibrated.xml\n```"
    )


def _states(usage: Usage) -> str:
    # Some devices do not heed a state that is set on a request.
    if not usage.provenance.adjustable or not device_profile(usage.device).states:
        return ""
    names = ", ".join(map(code, usage.provenance.adjustable))
    moved_by = [output.sensitivity for output in usage.provenance.predicted.values()]
    sensitivity = next((parameter for parameter in moved_by if parameter is not None), None)
    changes = 'statistics=pp.Statistics.load("new.json")' if sensitivity is None else f"{sensitivity}=0.6"
    feeds = ", ".join(f"{string(port.name)}: {variable}" for variable, port in variables(usage.inputs).items())
    program = [
        "import openvino as ov",
        "import pp_graph as pp",
        "",
        f"artifact = pp.open({string(usage.file)})",
        f"cutoffs = pp.cutoffs_for(artifact.provenance, {changes})",
        "request = model.create_infer_request()  # of the compiled model, as above",
        "for state in request.query_state():",
        "    state.state = ov.Tensor(cutoffs[state.name])  # state.reset() brings the default back",
        f"results = request.infer({{{feeds}}})",
    ]
    return (
        f"\n\nWhile the model runs, its cutoffs are states ({names}): the smallest raw value that is anomalous, NaN "
        "for none. Each request has its own. Before the first run a state reads 0, and its default counts all the "
        "same.\n\n"
        "```python\n" + "\n".join(program) + "\n```"
    )


def _checking(usage: Usage) -> str:
    raw = shlex.quote(usage.provenance.raw.file or "raw.onnx")
    device = "" if usage.device == "CPU" else f" --device {shlex.quote(usage.device)}"
    return (
        "## Checking it\n\nCounts every decision that differs from those of the raw model in float32, on your "
        "images:\n\n"
        f"```bash\npp-graph verify {raw} {shlex.quote(usage.file)} --data IMAGES{device}\npp-graph inspect "
        f"{shlex.quote(usage.file)}\n```"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
