"""Run the model of this package. Needs OpenVINO and NumPy alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

FOLDER = Path(__file__).parent
MANIFEST: dict[str, Any] = json.loads((FOLDER / "package.json").read_text(encoding="utf-8"))
"""Inputs, outputs, compile properties and golden images of the package."""

Array = np.ndarray[Any, Any]


class PackageError(Exception):
    """Something given to the package does not fit; the message says what was expected."""


class Model:
    """The model, compiled for a device and for the sizes that come.

    Args:
        device: OpenVINO device; None for the one that the model was converted for.
        cutoffs: Cutoffs to set, by name, for a model converted with adjustable thresholds; see `set_cutoffs`.

    Raises:
        PackageError: There is no such cutoff.
    """

    def __init__(self, device: str | None = None, cutoffs: Mapping[str, Any] | None = None) -> None:
        self.core = ov.Core()
        self.device = device or MANIFEST["device"]
        self.network = self.core.read_model(FOLDER / MANIFEST["model"])
        self.defaults = {
            spec["name"]: np.load(file)
            for place, spec in enumerate(MANIFEST["inputs"])
            if (file := FOLDER / "defaults" / f"input_{place}.npy").is_file()
        }
        self.cutoffs: dict[str, Array] = {}
        self.requests: dict[tuple[tuple[int, ...], ...], ov.InferRequest] = {}
        self.set_cutoffs(cutoffs or {})

    def __call__(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model.

        Args:
            arrays: Array by input name, with the element type and shape in `MANIFEST["inputs"]`. Inputs in `defaults/`
                may be left out.

        Returns:
            Array by output name, as in `MANIFEST["outputs"]`.

        Raises:
            PackageError: An array is missing or does not fit, or the device is not on this machine.
        """
        specs = MANIFEST["inputs"]
        given = {**self.defaults, **arrays}
        missing = [spec["name"] for spec in specs if spec["name"] not in given]
        if missing:
            raise PackageError(f"Input '{missing[0]}' has no array. Give one with --input {missing[0]}=FILE.npy.")
        fed = [as_fed(given[spec["name"]], spec) for spec in specs]
        request = self.request_for(tuple(array.shape for array in fed))
        request.infer({place: ov.Tensor(array) for place, array in enumerate(fed)})
        outputs = [request.get_output_tensor(place) for place in range(len(MANIFEST["outputs"]))]
        return {spec["name"]: to_array(each) for spec, each in zip(MANIFEST["outputs"], outputs, strict=True)}

    def request_for(self, sizes: tuple[tuple[int, ...], ...]) -> ov.InferRequest:
        """Return a request that runs these sizes; OpenVINO is faster with fixed sizes than with open ones.

        Args:
            sizes: Shape of each input. Compilations for the last four are kept.
        """
        if sizes not in self.requests:
            if len(self.requests) == 4:
                del self.requests[next(iter(self.requests))]
            network = self.network.clone()
            try:
                network.reshape({place: list(shape) for place, shape in enumerate(sizes)})
                compiled = self.core.compile_model(network, self.device, properties(self.core, self.device))
            except RuntimeError as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                raise PackageError(
                    f"The model cannot be compiled for device '{self.device}' and shapes {sizes}. Devices of this "
                    f"machine (--device): {', '.join(self.core.available_devices)}. OpenVINO says: {lines[-1]}"
                ) from error
            self.requests[sizes] = compiled.create_infer_request()
            self._set_states(self.requests[sizes])
        return self.requests[sizes]

    def precision(self) -> str:
        """Return the precision that the network runs in; of a model that ran at least once."""
        compiled = next(iter(self.requests.values())).get_compiled_model()
        return running_precision(compiled)

    def set_cutoffs(self, cutoffs: Mapping[str, Any]) -> None:
        """Change cutoffs from the next run on.

        Args:
            cutoffs: The smallest raw value for which a decision is true, by name; one for each class if the model has
                several. NaN for none. `pp_graph.cutoffs_for` computes them from sensitivities or thresholds.

        Raises:
            PackageError: There is no such cutoff, or it has another number of values.
        """
        for name, value in cutoffs.items():
            if name not in MANIFEST["cutoffs"]:
                known = ", ".join(MANIFEST["cutoffs"]) or "none: it was not converted with --thresholds runtime"
                raise PackageError(f"Cutoff '{name}' is not in the model, expected one of: {known}.")
            shape = tuple(MANIFEST["cutoffs"][name]["shape"])
            numbers, count = np.asarray(value, np.float32), int(np.prod(shape))
            if numbers.size not in (1, count):
                raise PackageError(f"Cutoff '{name}' is given {numbers.size} values, expected 1 or {count}.")
            whole = np.broadcast_to(numbers.reshape(() if numbers.size == 1 else shape), shape)
            self.cutoffs[name] = np.array(whole)
        for request in self.requests.values():
            self._set_states(request)

    def _set_states(self, request: ov.InferRequest) -> None:
        for state in request.query_state():
            if state.name in self.cutoffs:
                state.state = ov.Tensor(self.cutoffs[state.name])


def to_array(tensor: ov.Tensor) -> Array:
    """Return a copy of a tensor; bfloat16 as float32, which NumPy lacks."""
    if tensor.element_type == ov.Type.bf16:
        wide: Array = (tensor.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return wide
    array: Array = np.array(tensor.data)
    return array


def running_precision(compiled: ov.CompiledModel) -> str:
    """Return the precision that a compiled model runs in."""
    try:
        name = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    except RuntimeError:  # a device that has no choice, such as an NPU
        return "its own precision"
    return str(name)


def properties(core: ov.Core, device: str, precision: str | None = None) -> dict[str, str]:
    """Return the properties to compile with.

    Args:
        core: OpenVINO.
        device: The device.
        precision: `f32`, or `default` for the device's own; None for the one that the model was converted for.
    """
    if device == MANIFEST["device"] and precision is None:
        return dict(MANIFEST["properties"])
    found = {"PERFORMANCE_HINT": "LATENCY"}
    try:
        exact = "FP32" in core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    except RuntimeError:  # a device made of several, such as AUTO
        exact = False
    # A device without f32, such as an NPU, refuses the hint.
    return {**found, "INFERENCE_PRECISION_HINT": "f32"} if exact and precision != "default" else found


def as_fed(array: Array, spec: Mapping[str, Any]) -> Array:
    """Return an array as the model takes it: contiguous, with the input's element type, its shape checked."""
    shape = spec["shape"]
    fits = shape is None or (
        array.ndim == len(shape) and all(size in (None, own) for size, own in zip(shape, array.shape, strict=True))
    )
    if not fits or array.dtype != spec["dtype"]:
        sizes = ", ".join("?" if size is None else str(size) for size in shape or ())
        wanted = "any shape" if shape is None else f"({sizes})"
        raise PackageError(
            f"Array for input '{spec['name']}' is {array.dtype} {array.shape}, expected {spec['dtype']} {wanted}."
        )
    return np.array(array, order="C")


def read_picture(path: str | Path) -> Array:
    """Read a picture or an array.

    Args:
        path: `.npy`; `.ppm` or `.pgm` (binary, 8 bits); other pictures if Pillow is installed.

    Returns:
        The array as it is in the file; a picture as (height, width, channels), uint8, RGB.

    Raises:
        PackageError: The file cannot be read.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        if path.suffix.lower() in (".ppm", ".pgm"):
            return _read_netpbm(path.read_bytes())
        from PIL import Image, ImageOps

        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
        if image.mode == "F" or image.mode.startswith("I"):  # Pillow would cut its numbers off at 255
            raise ValueError("it has more than 8 bits; save it with 8, or as an .npy as the input takes it")
        return np.asarray(image.convert("RGB"))
    except ImportError as error:
        raise PackageError(f"Picture '{path}' needs Pillow, expected .npy, .ppm or .pgm without it.") from error
    except (OSError, ValueError, EOFError) as error:
        raise PackageError(f"Picture '{path}' cannot be read: {error}.") from error


def _read_netpbm(data: bytes) -> Array:
    words: list[bytes] = []
    at = 0
    while len(words) < 4:  # kind, width, height, largest number
        line_end = data.index(b"\n", at) if data[at : at + 1] == b"#" else None
        if line_end is not None:
            at = line_end + 1
            continue
        end = at
        while end < len(data) and not data[end : end + 1].isspace():
            end += 1
        words += [data[at:end]] if end > at else []
        at = end + 1
        if at > len(data):
            raise ValueError("its header is cut off")
    channels = {b"P6": 3, b"P5": 1}.get(words[0])
    width, height, largest = (int(word) for word in words[1:])
    if channels is None or largest != 255 or len(data) - at < width * height * channels:
        raise ValueError("it is not a whole binary picture (P5 or P6) of 8 bits")
    return np.frombuffer(data, np.uint8, width * height * channels, at).reshape(height, width, channels)


def to_input(picture: Array, spec: Mapping[str, Any]) -> Array:
    """Bring a picture into the form of an input.

    Args:
        picture: An array with the input's element type, used as it is; or a picture (H,W,C) or (H,W) of uint8 in RGB,
            which is laid out, and divided by 255 if the input takes floating point in [0, 1].
        spec: The input, from `MANIFEST["inputs"]`.

    Returns:
        The array with a batch axis, repeated if the model fixes a larger batch.

    Raises:
        PackageError: It does not fit.
    """
    shape = spec["shape"]
    rank = 4 if shape is None else len(shape)
    array = picture
    if array.dtype == np.uint8 and array.ndim in (2, 3) and rank == 4 and _is_picture(array, spec):
        array = _with_channels(array if array.ndim == 3 else array[..., None], spec)
        if spec["channel_order"] == "BGR" and array.shape[2] == 3:
            array = array[..., ::-1]
        array = array if spec["layout"] == "NHWC" else array.transpose(2, 0, 1)
        if spec["dtype"] != "uint8":
            wide = array.astype(np.float32)
            array = (wide / np.float32(255) if spec["scaled"] else wide).astype(spec["dtype"])
    if array.ndim == rank - 1:
        array = array[None]
    batch = shape[0] if shape else None
    if batch and len(array) == 1:
        array = np.repeat(array, batch, axis=0)
    return as_fed(array, spec)


def _is_picture(array: Array, spec: Mapping[str, Any]) -> bool:
    """Tell (H,W,C) from an array that has the input's layout already."""
    shape = spec["shape"]
    if spec["dtype"] == "uint8" and shape is not None and array.ndim == 3 and spec["layout"] == "NCHW":
        return not all(size in (None, own) for size, own in zip(shape[1:], array.shape, strict=True))
    return True


def _with_channels(picture: Array, spec: Mapping[str, Any]) -> Array:
    """Turn RGB into gray or gray into RGB, as Pillow does, if the input takes that."""
    channels = None if spec["shape"] is None else spec["shape"][3 if spec["layout"] == "NHWC" else 1]
    if spec["channel_order"] not in ("RGB", "BGR"):
        if picture.shape[2] == 3:
            raise PackageError(
                f"Input '{spec['name']}' takes the bytes of {spec['channel_order']} frames, and the picture is RGB. "
                "Give the bytes as a camera does: an .npy of uint8, (3/2 height, width) for NV12 and I420, (height, "
                "width, 2) for YUYV."
            )
    elif channels == 3 and picture.shape[2] == 1:
        return np.repeat(picture, 3, axis=2)
    elif channels == 1 and picture.shape[2] == 3:
        weighted = picture.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
        return ((weighted + 0x8000) >> 16).astype(np.uint8)[..., None]
    return picture


def as_json(results: Mapping[str, Array]) -> dict[str, Any]:
    """Return the results of the first image as JSON values.

    Maps and masks are summarised: their shape, and the number of pixels that are true, or the lowest and highest value.
    Lists of candidates end where the model's count says. A packed tensor is taken apart.
    """
    counts = [spec["name"] for spec in MANIFEST["outputs"] if spec["meaning"] == "count"]
    count = int(np.ravel(results[counts[0]])[0]) if counts else None
    found: dict[str, Any] = {}
    for spec, array, axes in _taken_apart(results):
        if axes.startswith("N") and array.ndim:
            array, axes = array[0], axes[1:]  # noqa: PLW2901
        if count is not None and axes.startswith("K"):
            array = array[:count]  # noqa: PLW2901
        found[spec["name"]] = _summary(array, spec) if "H" in axes or array.size > 4096 else _plain(array)
    return found


def _taken_apart(results: Mapping[str, Array]) -> Iterator[tuple[dict[str, Any], Array, str]]:
    """Yield each output with its axes; those of a packed tensor one by one, decisions among them as true or false."""
    for spec in MANIFEST["outputs"]:
        array, axes = results[spec["name"]], spec["axes"] or ""
        if not spec["channels"]:
            yield spec, array, axes
        for place, each in enumerate(spec["channels"]):
            part = array[..., place] != 0 if each["meaning"] == "decision" else array[..., place]
            if "H" in axes and "H" not in each["axes"]:  # repeated at every pixel
                yield each, part.reshape(len(part), -1)[:, :1], "NC"
            else:
                yield each, part, axes[:-1]


def _summary(array: Array, spec: Mapping[str, Any]) -> dict[str, Any]:
    if spec["exact"]:
        return {"shape": list(array.shape), "true": int(np.count_nonzero(array))}
    return {"shape": list(array.shape), "min": _plain(np.min(array)), "max": _plain(np.max(array))}


def _plain(array: Any) -> Any:
    value = array.tolist() if hasattr(array, "tolist") else array
    if isinstance(value, list):
        return [_plain(each) for each in value]
    # JSON has no NaN and no infinity.
    return None if isinstance(value, float) and not np.isfinite(value) else value
