"""Write `model_info` into the `rt_info` of a converted model, where Intel's Model API reads how to run it.

This follows the source of openvino-model-api 0.4.7. If an anomaly model has the outputs `pred_score`, `pred_label`,
`anomaly_map` and `pred_mask`, its Python library applies no threshold: it returns score, label and mask unchanged, and
multiplies the map by 255 for a picture. If a model has one output, Model API takes it for a raw map and decides by
itself; it refuses other numbers of outputs. The C++ library only runs models with one output.

Therefore `model_type` is written only if all four outputs are there and `why_not` finds no other obstacle. A model with
only a map gets none, because Model API would label the image by the map's maximum instead of our score.

Other families get a `model_type` in the forms that keep their decisions: `SSD` for a detector with `names="model-api"`,
`Classification` for a classifier whose first output is a softmax of all classes, which Model API sorts, and
`Segmentation` for logits, of which Model API takes the largest.

Thresholds are written on the scale of the outputs, where the calibrated threshold is 0.5 and the range is 1. They do
not depend on statistics or sensitivities, so they stay true after retuning.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import TargetError
from pp_graph.model import format_shape
from pp_graph.openvino.core import declared_layout, partial_shape, port_name, rt_text
from pp_graph.openvino.island.graph import find_tensor
from pp_graph.postprocessors import OUTPUT_NAMES
from pp_graph.preprocessing import LETTERBOX
from pp_graph.program.detection_forms import MODEL_API
from pp_graph.statistics.model_api import MODEL_INFO, MODEL_TYPE, OWN_KEY, OWN_VALUE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import openvino as ov

    from pp_graph.fusion import Provenance

SSD: Final = "SSD"
_CLASSIFICATION: Final = "Classification"
_SEGMENTATION: Final = "Segmentation"
_RESIZED: Final = {LETTERBOX: "fit_to_window_letterbox"}
"""What Model API calls a way to resize frames; other ways stretch them (`standard`)."""
_LABELS: Final = "Normal Anomaly"
_CHANNELS: Final = 3
_ON_THE_OUTPUTS_SCALE: Final = {"image_threshold": "0.5", "pixel_threshold": "0.5", "normalization_scale": "1.0"}


def write_model_info(model: ov.Model, provenance: Provenance, feeding: Mapping[str, Any] | None = None) -> None:
    """Write the entries that Model API reads. Changes the model in place.

    An ONNX file does not record how to feed images (channel order, mean, scale). These entries are written only if they
    are given, or if the model contains preprocessing.

    Args:
        model: The converted model.
        provenance: The model's provenance.
        feeding: Entries for feeding images: `reverse_input_channels` (True for a model that takes RGB, because Model
            API expects BGR images), `mean_values` and `scale_values` (three numbers each in the model's channel order,
            on the scale of the images, such as 255 for uint8), `resize_type`, `interpolation_mode`, `pad_value`,
            `input_dtype`; and `labels`: two words, the normal one first.

    Raises:
        TargetError: An entry is unknown or invalid, or Model API would ignore it for this model.
    """
    # The characters of a text recogniser may be white space themselves.
    named = [output.class_names for output in provenance.outputs if output.class_names and output.meaning != "token"]
    names = next(iter(named), ())
    # Model API splits labels at white space.
    labels = " ".join("_".join(name.split()) for name in names)
    detects = any(output.meaning == "box" for output in provenance.outputs)
    model_type = _wrapper(model, provenance)
    task = "detection" if detects else "segmentation" if _has_map(model) else "classification"
    entries = {OWN_KEY: OWN_VALUE, "task": task}
    if labels or model_type == MODEL_TYPE:
        entries["labels"] = labels or _LABELS
    if _normalised(provenance):
        entries.update(_ON_THE_OUTPUTS_SCALE)
    reason = why_not(model, provenance)
    if reason is None:
        entries["model_type"] = model_type
        entries.update(_settings(model_type, provenance))
    if takes_frames(model):
        # Model API must neither resize nor scale frames.
        entries["embedded_processing"] = "YES"
        _, height, width, _ = partial_shape(model.inputs[0]) or (None,) * 4
        preprocessing = provenance.preprocessing
        if preprocessing is not None and preprocessing.resize is not None and model_type == SSD:
            # Its boxes are in pixels of the network's input, and Model API brings them back.
            height, width = preprocessing.model_size or (None, None)
            entries["resize_type"] = _RESIZED.get(preprocessing.resize, "standard")
        entries.update({name: str(size) for name, size in (("orig_height", height), ("orig_width", width)) if size})
    if feeding:
        if reason is not None:
            raise TargetError(
                f"Entries for Model API were given ({', '.join(feeding)}), but it cannot run this model: {reason}. "
                "Omit them."
            )
        entries.update(_checked(feeding, model, provenance))
    for name, value in entries.items():
        model.set_rt_info(value, [MODEL_INFO, name])


def why_not(model: ov.Model, provenance: Provenance) -> str | None:
    """Return why Model API cannot run a model and keep its decisions; None if it can.

    Args:
        model: The converted model.
        provenance: The model's provenance.
    """
    reason = _unlike_its_wrapper(model, provenance)
    if reason is not None:
        return reason
    if len(model.inputs) != 1:
        return f"it feeds one input, and there are {len(model.inputs)}"
    shape = partial_shape(model.inputs[0])
    if shape is None or len(shape) != 4:
        return f"it feeds images as (N,C,H,W) or (N,H,W,C), and the input's shape is {format_shape(shape)}"
    if provenance.preprocessing is not None and not takes_frames(model):
        return "it feeds frames as u8 NHWC, and the preprocessing in the model expects other frames"
    if shape[0] not in (None, 1):
        return f"it runs one image at a time, and the batch is fixed at {shape[0]}"
    # Without a declared layout, Model API guesses it this way.
    channels_first = declared_layout(model.inputs[0]) == "NCHW" or (
        not declared_layout(model.inputs[0]) and shape[1] in range(1, 5)
    )
    channels = shape[1 if channels_first else 3]
    if channels != _CHANNELS:
        return f"it feeds three channels, and the input has {'an open number' if channels is None else channels}"
    return None


def _wrapper(model: ov.Model, provenance: Provenance) -> str:
    """Return the wrapper of Model API that may fit; `_unlike_its_wrapper` tells whether it does."""
    family, first = provenance.post_processor, next(iter(_output_names(model, provenance)), "")
    if family == "DetectionPostProcessor" and provenance.parameters.get("names") == "model-api":
        return SSD
    if family == "ClassificationPostProcessor" and first == "probabilities":
        return _CLASSIFICATION
    if family == "SegmentationPostProcessor" and first == "class_scores":
        return _SEGMENTATION
    return MODEL_TYPE


def _unlike_its_wrapper(model: ov.Model, provenance: Provenance) -> str | None:
    """Return in what the outputs differ from those that a wrapper reads; None if they fit."""
    names, wrapper = _output_names(model, provenance), _wrapper(model, provenance)
    if wrapper == SSD:
        needed, listed = ", ".join(MODEL_API), ", ".join(names)
        return None if needed == listed else f"it needs exactly the outputs {needed}, and these are {listed}"
    if wrapper == _CLASSIFICATION:
        return None if _is_softmax(model, provenance) else "it applies a softmax, unless the probabilities are one"
    if wrapper == _SEGMENTATION:
        axes = provenance.predicted["class_scores"].axes
        return None if len(names) == 1 and axes == "NCHW" else "it needs class_scores alone, as (N,C,H,W)"
    if sorted(names) != sorted(OUTPUT_NAMES):
        return f"it needs exactly the outputs {', '.join(OUTPUT_NAMES)}, and these are {', '.join(sorted(names))}"
    if not provenance.predicted["anomaly_map"].bounded:
        return "it expects a map in [0, 1], and this one is not normalised"
    return None


def _output_names(model: ov.Model, provenance: Provenance) -> list[str]:
    return [port_name(port, provenance.output_names) for port in model.outputs if port.get_names()]


def _is_softmax(model: ov.Model, provenance: Provenance) -> bool:
    """Return True if the probabilities of a classifier sum up to 1."""
    if provenance.parameters.get("activation") == "softmax":
        return True
    (raw,) = (find_tensor(model, record.tensor) for record in provenance.raw.read.values())
    return bool(raw.get_node().get_type_name() == "Softmax")


def _settings(wrapper: str, provenance: Provenance) -> dict[str, str]:
    """Return entries with which a wrapper keeps what the model decided."""
    if wrapper == SSD:
        # Only the rows after the last detection have this score; boxes were suppressed in the model.
        return {"confidence_threshold": "0.0", "nms_execute": "NO"}
    top = provenance.parameters.get("top")
    return {"topk": str(top)} if wrapper == _CLASSIFICATION and top else {}


def _normalised(provenance: Provenance) -> bool:
    """Return True if the calibrated threshold is 0.5 in every score and map."""
    scales = [output.scale for output in provenance.predicted.values() if not output.decides]
    return bool(scales) and all(scale is not None and scale.threshold == 0.5 for scale in scales)


def takes_frames(model: ov.Model) -> bool:
    """Return True if the model takes frames: its only input is declared as uint8 (N,H,W,C)."""
    import openvino as ov

    if len(model.inputs) != 1:
        return False
    port = model.inputs[0]
    return bool(port.get_element_type() == ov.Type.u8 and declared_layout(port) == "NHWC")


def read_model_info(model: ov.Model) -> dict[str, str]:
    """Read the entries of a model's `model_info` that `write_model_info` may have written."""
    names = (OWN_KEY, "model_type", "task", "embedded_processing", *_ON_THE_OUTPUTS_SCALE, *_FEEDING)
    paths = {name: [MODEL_INFO, name] for name in names}
    return {name: rt_text(model.get_rt_info(path)) for name, path in paths.items() if model.has_rt_info(path)}


def _has_map(model: ov.Model) -> bool:
    return any(port.get_names() & {"anomaly_map", "pred_mask"} for port in model.outputs)


def _checked(feeding: Mapping[str, Any], model: ov.Model, provenance: Provenance) -> dict[str, str]:
    unknown = [name for name in feeding if name not in _FEEDING]
    if unknown:
        raise TargetError(
            f"Entry '{unknown[0]}' for Model API is unknown or written by pp_graph itself, expected some of: "
            f"{', '.join(_FEEDING)}. Omit it."
        )
    shape = partial_shape(model.inputs[0]) or ()
    image_entries = [name for name in feeding if name != "labels"]
    if image_entries and provenance.preprocessing is not None:
        raise TargetError(
            f"Entry '{image_entries[0]}' for Model API was given, but the preprocessing is in the model already. Omit "
            "it."
        )
    if image_entries and sum(size is None for size in shape[1:]):
        raise TargetError(
            f"Entry '{image_entries[0]}' for Model API was given for the input shape {format_shape(shape)}, expected "
            "fixed sizes: with a dynamic height or width, Model API neither resizes images nor uses the entry. Fix the "
            "sizes with --input-shape (input_shape=...)."
        )
    entries = {}
    for name, value in feeding.items():
        text = _FEEDING[name][1](value)
        if text is None:
            raise TargetError(f"Entry '{name}' for Model API is {value!r}, expected {_FEEDING[name][0]}.")
        entries[name] = text
    return entries


def _words(value: Any) -> list[str] | None:
    if isinstance(value, str):
        return value.replace(",", " ").split()
    try:
        return [str(item) for item in value]
    except TypeError:
        return None


def _three_numbers(value: Any) -> str | None:
    try:
        numbers = [float(word) for word in _words(value) or ()]
    except ValueError:
        return None
    return " ".join(map(repr, numbers)) if len(numbers) == _CHANNELS and all(map(math.isfinite, numbers)) else None


def _three_divisors(value: Any) -> str | None:
    text = _three_numbers(value)
    return None if text is None or any(float(word) == 0 for word in text.split()) else text


def _yes_or_no(value: Any) -> str | None:
    return {"true": "YES", "yes": "YES", "false": "NO", "no": "NO"}.get(str(value).lower())


def _byte(value: Any) -> str | None:
    text = str(value)
    return text if text.isdecimal() and int(text) <= 255 else None


def _two_words(value: Any) -> str | None:
    words = _words(value) or []
    # Model API splits labels at white space.
    return " ".join(words) if len(words) == 2 and all(len(word.split()) == 1 for word in words) else None


def _one_of(*choices: str) -> tuple[str, Callable[[Any], str | None]]:
    return f"one of: {', '.join(choices)}", lambda value: str(value) if str(value) in choices else None


_FEEDING: Final[dict[str, tuple[str, Callable[[Any], str | None]]]] = {
    "reverse_input_channels": ("True or False", _yes_or_no),
    "mean_values": ("three numbers", _three_numbers),
    "scale_values": ("three numbers other than 0", _three_divisors),
    "resize_type": _one_of("standard", "fit_to_window", "fit_to_window_letterbox", "crop"),
    "interpolation_mode": _one_of("LINEAR", "CUBIC", "NEAREST"),
    "pad_value": ("a whole number from 0 to 255", _byte),
    "input_dtype": _one_of("u8", "f32", "u16", "i16"),
    "labels": ("two words, the normal one first", _two_words),
}
