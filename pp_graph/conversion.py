"""Convert a fused ONNX model to OpenVINO for a device."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pp_graph.errors import TargetError
from pp_graph.files import SCRATCH_PREFIX, locked, writing_temporarily
from pp_graph.fusion import METADATA_KEY, FusedModel, fuse
from pp_graph.model import RawModel, format_shape
from pp_graph.model.graphs import all_names, bodies_of
from pp_graph.model.shapes import declared_shape
from pp_graph.openvino.core import first_line
from pp_graph.openvino.device_check import require_static
from pp_graph.openvino.devices import device_profile
from pp_graph.openvino.frame_boxes import move_to_frame
from pp_graph.openvino.input_shapes import InputShape, batch_is_open, fix_shapes
from pp_graph.openvino.ir_files import decimal_points, read_model
from pp_graph.openvino.island.island import add_states, isolate_island
from pp_graph.openvino.made_up_names import renumber
from pp_graph.openvino.model import RT_INFO_PATH, OpenVINOModel
from pp_graph.openvino.model_info import write_model_info
from pp_graph.openvino.preprocessing import add_preprocessing
from pp_graph.openvino.workarounds import work_around_defects
from pp_graph.postprocessors import merged_roles
from pp_graph.quantization.quantization import Quantization, check_quantization, quantize_network
from pp_graph.sessions.session import record_batch_axes

if TYPE_CHECKING:
    import onnx_ir as ir
    import openvino as ov

    from pp_graph.model import Shape
    from pp_graph.postprocessors import PostProcessor
    from pp_graph.preprocessing import Preprocessing

_ONNX_METADATA: Final = ["framework", METADATA_KEY]
PRECISIONS: Final = ("f32", "f16", "int8")
"""Precisions of the network's weights. With int8, its layers compute in int8 too."""
_DEEPEST: Final = 16
"""Branches or loops in each other that OpenVINO's CPU plugin compiles in a second."""

OPEN_BATCH: Final = (
    "The batch is open. On the CPU, OpenVINO runs an open batch 1.2 to 1.36 times slower than a fixed one. pp.load and "
    "pp-graph run avoid this by compiling for the sizes that come; for other programs, fix the batch that you deploy: "
    "--batch 1 (batch=1)."
)
ONE_IMAGE: Final = (
    "The batch is fixed to 1, one image per run, because {device} runs fixed sizes only. For more, give --batch N "
    "(batch=N)."
)


def convert(
    model: FusedModel | str | Path,
    *,
    device: str = "CPU",
    precision: str = "f32",
    input_shape: InputShape | None = None,
    batch: int | None = None,
    post: PostProcessor | None = None,
    raise_opset: int | None = None,
    input_size: tuple[int, int] | None = None,
    quantization: Quantization | None = None,
    preprocessing: Preprocessing | None = None,
    model_info: Mapping[str, Any] | None = None,
    roles: Mapping[str, str] | None = None,
    score_output: str | None = None,
    map_output: str | None = None,
) -> OpenVINOModel:
    """Convert a fused model to OpenVINO.

    Names of inputs and outputs stay, the batch stays dynamic if the device allows it, and the post-processing stays in
    float32 whatever the precision. The device need not be on this machine. Parts of the network that OpenVINO is known
    to compute wrongly are rewritten; `OpenVINOModel.conversion` lists them under `workarounds`.

    Args:
        model: A fused model or its path; with `post`, the path of a raw model.
        device: `CPU`, `GPU`, `NPU`, or a meta device such as `AUTO`, `HETERO:GPU,CPU` or `BATCH:GPU(4)`.
        precision: Precision of the network's weights: `f32`, `f16` or `int8`. With `int8`, layers compute in it too.
        input_shape: Shape to fix for the input, or by name for several inputs.
        batch: Images per run, to fix the batch alone; None leaves it as it is, but fixes an open one to 1 for a device
            that runs fixed sizes only, such as the NPU. On the CPU, OpenVINO runs an open batch
            1.2 to 1.36 times slower than a fixed one, except in a `Runner`, which compiles for the sizes that come.
        post: Post-processor to fuse into a raw model first.
        raise_opset: Opset to raise the raw model to before fusing; see `fuse`.
        input_size: Height and width of the images of a raw model that leaves them open; see `fuse`.
        quantization: Calibration images and settings; required for `int8`, not allowed otherwise.
        preprocessing: Preprocessing to add, so that the model takes frames; None adds none. `input_shape` is the shape
            after preprocessing.
        model_info: Settings with which Intel's Model API prepares images, such as `{"reverse_input_channels": True,
            "scale_values": (255, 255, 255)}` for a model that takes RGB in [0, 1]; see `write_model_info`.
        roles: Output names of the raw model by role, with `post`; see `fuse`.
        score_output: Short form of `roles={"raw_score": ...}`.
        map_output: Short form of `roles={"raw_map": ...}`.

    Returns:
        The converted model; its `notes` are those of fusing, and the cost of an open batch. Nothing is written until
        `save`.

    Raises:
        TargetError: OpenVINO cannot read the model, input shape, batch or preprocessing do not fit, the device (NPU)
            needs static shapes and the model has dynamic ones, `model_info` has an entry that is unknown or without
            effect, or the network cannot be quantised.
        AccuracyError: Quantising costs more correct decisions than `quantization` allows.
        DataError: The calibration images do not fit the model.
        ExtraError: NNCF, which quantising needs, is not installed.
        DeviceError: The device is unknown, or a meta device cannot have these members.
        ProvenanceError: The model has no post-processing and `post` is None.
        OutputFileError: A temporary file cannot be written.
        PPGraphError: Fusing fails; see `fuse`.
    """
    profile = device_profile(device)
    if precision not in PRECISIONS:
        search = " Use choose_precision, which takes the images that a search needs." if precision == "auto" else ""
        raise TargetError(f"Precision '{precision}' is not known, expected one of: {', '.join(PRECISIONS)}.{search}")
    check_quantization(precision, quantization)
    roles = merged_roles(roles, score_output=score_output, map_output=map_output)
    fused = _fused(model, post, raise_opset, roles, input_size)
    converted = _read(fused)
    workarounds = work_around_defects(converted, fused.provenance.prefix)
    names = renumber(converted, all_names(fused.network.model.graph))  # NNCF appends to them
    fix_shapes(converted, fused.network.inputs, input_shape, batch)
    notes = fused.notes
    if not profile.dynamic_shapes:
        if batch is None and batch_is_open(converted, fused.network.inputs):
            fix_shapes(converted, fused.network.inputs, None, 1)
            notes = (*notes, ONE_IMAGE.format(device=device))
        require_static(converted, device)
        if preprocessing is not None and preprocessing.resize is not None and preprocessing.frame_size is None:
            raise TargetError(
                f"Frames of any size are to be resized, expected one size: {device} runs static shapes only. Give it "
                "with frame_size=... (--frame-size 1080x1920)."
            )
    settings: dict[str, Any] = {
        "device": device,
        "precision": precision,
        "openvino": _version(),
        **record_batch_axes(fused.network.inputs, _passed_through(fused)),
    }
    if workarounds:
        settings["workarounds"] = workarounds
    if quantization is not None:
        settings["quantization"] = quantize_network(
            converted,
            fused.provenance,
            quantization,
            device,
            fused.network.inputs,
            progress=quantization.progress,
        )
    add_states(converted, fused.provenance.adjustable)
    try:
        isolate_island(converted, fused.provenance)
    except RuntimeError as error:
        raise TargetError(
            f"The post-processing cannot be kept in float32: {first_line(error)}. Was the model changed after it was "
            "fused, so that other operators read values of the post-processing? Convert the model as pp-graph fuse "
            "wrote it."
        ) from error
    if precision == "f16":
        converted = _with_f16_weights(converted)
    if preprocessing is not None:
        preprocessing = add_preprocessing(converted, preprocessing, fused.provenance)
    raw_record = msgspec.structs.replace(fused.provenance.raw, difference=None)
    provenance = fused.provenance.revised(
        raw=raw_record, conversion=settings, replaced=None, raised=None, preprocessing=preprocessing
    )
    move_to_frame(converted, provenance)
    renumber(converted, names)
    if converted.has_rt_info(_ONNX_METADATA):
        # OpenVINO copies the ONNX metadata, whose provenance is now outdated.
        converted.set_rt_info(f"see {'/'.join(RT_INFO_PATH)}", _ONNX_METADATA)
    raw = fused.network
    inputs = [Path(tensor.path) for tensor in raw.external_tensors()]
    if raw.source is not None:
        inputs.append(raw.source)
    if batch_is_open(converted, raw.inputs) and profile.dynamic_shapes and not profile.dynamic_remark:
        notes = (*notes, OPEN_BATCH)
    artifact = OpenVINOModel(
        converted, provenance, precision, None, tuple(dict.fromkeys(inputs)), notes, fused._program
    )
    artifact.stamp()
    write_model_info(converted, provenance, model_info)
    return artifact


def input_shape_warnings(fused: FusedModel, input_shape: InputShape) -> list[str]:
    """Describe sizes that contradict those the raw model declares.

    Returns:
        A sentence for each input that fixes a height, width or channels and is given another one.
    """
    given = input_shape if isinstance(input_shape, Mapping) else {fused.network.inputs[0].name: input_shape}
    found = []
    for model_input in fused.network.inputs:
        sizes, declared = given.get(model_input.name), model_input.shape
        if sizes is None or declared is None or len(sizes) != len(declared):
            continue
        if any(isinstance(own, int) and own != size for own, size in zip(declared[1:], sizes[1:], strict=True)):
            found.append(
                f"Input '{model_input.name}' is declared as {format_shape(declared)}, and --input-shape makes it "
                f"{format_shape(tuple(sizes))}: the model was trained on different sizes, and verify cannot compare "
                "them."
            )
    return found


def _version() -> str:
    import openvino as ov

    return str(ov.__version__).split("-", 1)[0]


def _passed_through(fused: FusedModel) -> dict[str, Shape | None]:
    """Return the shapes of the outputs that pass through from the raw model."""
    written = fused.provenance.output_names
    outputs = fused.network.model.graph.outputs
    return {output.name or "": declared_shape(output) for output in outputs if output.name not in written}


def _fused(
    model: FusedModel | str | Path,
    post: PostProcessor | None,
    raise_opset: int | None,
    roles: Mapping[str, str] | None,
    input_size: tuple[int, int] | None,
) -> FusedModel:
    """Return the fused model; fuse first if a post-processor is given."""
    if post is not None:
        if isinstance(model, FusedModel):
            raise TargetError(
                "A fused model was given together with a post-processor, expected one or the other. Leave out post, or "
                "fuse again with fuse(..., replace=True)."
            )
        return fuse(model, post, raise_opset=raise_opset, roles=roles, input_size=input_size)
    if roles:
        raise TargetError(
            f"Role '{next(iter(roles))}' was given without a post-processor, expected both: roles name the outputs of "
            "a raw model. Add post=..., or leave the role out."
        )
    if input_size is not None:
        raise TargetError(
            "input_size was given without a post-processor, expected both: it is for fusing. Add post=..., or give "
            "input_shape to fix the sizes of a fused model."
        )
    if raise_opset is not None:
        raise TargetError(
            "raise_opset was given without a post-processor, expected both: the opset is raised before fusing. Add "
            "post=..., or give raise_opset to fuse."
        )
    return model if isinstance(model, FusedModel) else FusedModel.load(model)


def _nesting(graph: ir.Graph) -> int:
    return max((1 + _nesting(body) for node in graph for body in bodies_of(node)), default=0)


def _read(fused: FusedModel) -> ov.Model:
    """Read a fused model into OpenVINO; external weights are memory-mapped in place."""
    fused = _without_functions(fused)
    opened = fused.network
    nested = _nesting(opened.model.graph)
    if nested > _DEEPEST:
        raise TargetError(
            f"The model nests branches or loops {nested} deep, expected at most {_DEEPEST}: OpenVINO takes twice the "
            "time to compile it for each further one. The fused ONNX file still runs in onnxruntime."
        )
    try:
        if not opened.external_tensors():
            content = fused.to_proto().SerializeToString()
            model = read_model(content)
            names = {name for port in model.inputs for name in port.get_names()}
            if all(each.name in names for each in opened.inputs):
                return model
            # From memory, OpenVINO 2026.4 drops inputs that nothing reads; from a file it keeps them.
            with tempfile.TemporaryDirectory(prefix="pp_graph_", ignore_cleanup_errors=True) as folder:
                path = Path(folder) / "fused.onnx"
                with writing_temporarily():
                    path.write_bytes(content)
                return read_model(path)
        if opened.source is not None and opened.unchanged_file() and opened.source.suffix == ".onnx":
            return read_model(opened.source)
        with _written_beside_its_weights(fused) as path:
            return read_model(path)
    except RuntimeError as error:
        if isinstance(error, TargetError):
            raise
        raise TargetError(
            f"OpenVINO cannot read the model: {first_line(error)}. Does it use operators that OpenVINO lacks? "
            "The fused ONNX file still runs in onnxruntime."
        ) from error


@contextlib.contextmanager
def _written_beside_its_weights(fused: FusedModel) -> Iterator[Path]:
    """Write a model to a temporary file beside its weights.

    OpenVINO does not read external weights outside the model's folder. If that folder is read-only, use a temporary
    folder with a copy of the weights.
    """
    with tempfile.TemporaryDirectory(prefix="pp_graph_") as elsewhere:
        try:
            handle, name = tempfile.mkstemp(
                prefix=SCRATCH_PREFIX, suffix=".onnx", dir=fused.network.external_tensors()[0].base_dir
            )
            os.close(handle)
            path = Path(name)
        except OSError:
            path = Path(elsewhere) / "fused.onnx"
        try:
            with locked(fused.save(path, overwrite=True)):
                yield path
        finally:
            for file in (path, path.with_name(f"{path.name}.data")):
                file.unlink(missing_ok=True)


def _with_f16_weights(model: ov.Model) -> ov.Model:
    """Compress weights by saving and reading back, so that the model in memory equals the saved one."""
    import openvino as ov

    with tempfile.TemporaryDirectory(prefix="pp_graph_", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.xml"
        with writing_temporarily(), decimal_points():
            ov.save_model(model, str(path), compress_to_fp16=True)
        return read_model(path)


def _without_functions(fused: FusedModel) -> FusedModel:
    """Inline local functions, which OpenVINO does not support."""
    if not fused.network.model.functions:
        return fused
    from onnx_ir.passes import common

    opened = RawModel.open(replace(fused.network, edited=True))
    try:
        inlined = common.InlinePass()(opened.model).model
    except Exception as error:  # onnx_ir raises many types
        cause = error.__cause__ or error
        raise TargetError(
            f"The model's local functions cannot be inlined: {first_line(cause)}. OpenVINO has no functions. Inline "
            "them with onnx.inliner.inline_local_functions(model, convert_version=True) and fuse again."
        ) from error
    return FusedModel(replace(opened, model=inlined), fused.provenance)
