"""Quantise the network of a converted model to int8, after training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pp_graph.data import ImageSource, LabelledSource, feed_model, open_images
from pp_graph.errors import AccuracyError, TargetError
from pp_graph.openvino.core import port_name
from pp_graph.progress import expect, shows_progress
from pp_graph.quantization.decisions import DecisionCheck
from pp_graph.quantization.network_cut import count_layers, count_quantised_layers, cut_behind_layers
from pp_graph.quantization.nncf import CalibrationFeeds, model_inputs, open_nncf, quantize, quantize_within
from pp_graph.quantization.truth import Truth, open_truth
from pp_graph.reprs import short_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt
    import openvino as ov

    from pp_graph.fusion import Provenance
    from pp_graph.model import ModelInput

PRESETS: Final = ("performance", "mixed")
"""Symmetric and asymmetric activations. Weights are symmetric in both."""


@dataclass(frozen=True)
class Quantization:
    """How to quantise a network to int8.

    Attributes:
        images: Calibration images, in a form that `pp_graph.data.open_images` accepts: a folder, a file or arrays. They
            determine the ranges of activations, and values outside are clipped, so include anomalies.
        preset: `performance` for symmetric activations, which are faster and have wider ranges, or `mixed` for
            asymmetric ones, which are more precise if all values have the same sign.
        subset_size: Maximum number of images. An evenly spaced subset is used if there are more.
        float_from: Names of tensors of the raw model after which the network stays float32. By default, everything up
            to the last layer on every path is quantised, and distances computed after it stay float32.
        float_operators: Names of operators of the converted model that stay float32.
        max_drop: Maximum decrease, in [0, 1), of the balanced accuracy of labels and of the F1 of mask pixels; of a
            classifier, of the share of right classes; of a detector, of its average precision. Layers that cost too
            much accuracy stay float32.
        labelled: Images with labels or masks to measure `max_drop` on, in a form that `pp_graph.data.open_labelled`
            accepts; for a classifier, images with classes as `pp_graph.calibrate_classifier` takes them; for a
            detector, a `pp_graph.calibration.BoxTruth`.
        progress: Called with the number of images just run; True shows a progress bar.
        fixed_inputs: Values of inputs that are neither images nor in the data; see `pp_graph.data.fix_inputs`.

    Raises:
        TargetError: A setting is out of range, or only one of `max_drop` and `labelled` is given.
    """

    images: ImageSource
    preset: str = "performance"
    subset_size: int = 300
    float_from: tuple[str, ...] = ()
    float_operators: tuple[str, ...] = ()
    max_drop: float | None = None
    labelled: LabelledSource | Truth | None = None
    progress: Callable[[int], object] | bool | None = field(default=None, compare=False)
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = field(default=None, compare=False)

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise TargetError(
                f"Preset '{self.preset}' is not known, expected one of: {', '.join(PRESETS)}. Choose one."
            )
        if self.subset_size < 1:
            raise TargetError(
                f"subset_size is {self.subset_size}, expected at least 1 image to calibrate with. Leave it out for 300."
            )
        if self.max_drop is not None and not 0 <= self.max_drop < 1:
            raise TargetError(
                f"max_drop is {self.max_drop}, expected at least 0 and below 1. For example, 0.01 allows the accuracy "
                "to fall from 0.95 to 0.94."
            )
        if self.max_drop is not None and self.labelled is None:
            raise TargetError(
                "max_drop was given without labelled images, expected both, because accuracy is measured on them. Give "
                "labelled=... (--labels)."
            )
        if self.labelled is not None and self.max_drop is None:
            raise TargetError(
                "Labelled images were given without max_drop, expected both, because only max_drop uses them. Give "
                "max_drop=... (--max-drop), or leave them out."
            )


def check_quantization(precision: str, quantization: Quantization | None) -> None:
    """Raise unless int8 and calibration data are given together.

    Raises:
        TargetError: One is given without the other.
        ExtraError: NNCF is not installed.
    """
    if precision != "int8":
        if quantization is not None:
            raise TargetError(
                f"Calibration data were given with precision {precision}, expected int8, the only one that uses them. "
                "Choose precision int8 (--precision int8), or leave them out."
            )
        return
    if quantization is None:
        raise TargetError(
            "Precision int8 was requested without calibration data, expected images to measure activations on. "
            "Give quantization=Quantization(images) (--data FOLDER)."
        )
    open_nncf()


@shows_progress("Quantising")
def quantize_network(
    model: ov.Model,
    provenance: Provenance,
    quantization: Quantization,
    device: str,
    declared: Sequence[ModelInput],
    *,
    progress: Callable[[int], object] | bool | None = None,
) -> dict[str, Any]:
    """Quantise the layers of a converted model, in place.

    Args:
        model: The converted model, in float32.
        provenance: Provenance of the model.
        quantization: Settings and calibration images.
        device: OpenVINO device that will run the model. Ranges are measured on the CPU.
        declared: Inputs of the raw model, with the names of dynamic sizes that OpenVINO drops.
        progress: See `Quantization`.

    Returns:
        Record for the provenance.

    Raises:
        DataError: The images do not fit, there are none, or they contain values that are not finite.
        TargetError: The network has no layer to quantise, or NNCF failed.
        AccuracyError: `max_drop` was exceeded.
        ExtraError: NNCF is not installed.
    """
    inputs = model_inputs(model, declared)
    images = feed_model(open_images(quantization.images), inputs, quantization.fixed_inputs)
    told = progress if callable(progress) else None
    feeds = CalibrationFeeds(images, inputs, quantization.subset_size, told)
    cut = cut_behind_layers(model, provenance, quantization.float_from)
    feeds.keep({port_name(port) for port in cut.layers.inputs})
    settings: dict[str, Any] = {
        "preset": quantization.preset,
        "device": device,
        "float_operators": quantization.float_operators,
    }
    record = {
        "preset": quantization.preset,
        "subset_size": quantization.subset_size,
        "images": feeds.used,
        "data": _name(quantization.images),
        "data_sha256": feeds.sha256,
        "float_from": list(quantization.float_from),
        "nncf": str(open_nncf().__version__),
    }
    if quantization.max_drop is None or quantization.labelled is None:
        expect(progress, feeds.used)
        layers = quantize(cut.layers, feeds, **settings)
    else:
        truth = open_truth(quantization.labelled, provenance)
        images = feed_model(truth.images, inputs, quantization.fixed_inputs)
        # Labelled images run in float32, in int8, and an unknown number of times while NNCF reverts layers: a guess.
        expect(progress, feeds.used + 3 * len(images))
        check = DecisionCheck(cut, provenance, truth, images, inputs, told)
        layers = quantize_within(
            cut.layers, feeds, check.validate, len(truth.images), max_drop=quantization.max_drop, **settings
        )
        record |= check.measure(layers, quantization.max_drop)
        record["labels"] = truth.name
    total, quantised = count_layers(cut.layers), count_quantised_layers(layers)
    if not quantised and quantization.max_drop is not None:
        raise AccuracyError(
            f"max_drop {quantization.max_drop} is kept only with all {total} layers in float32, expected some in int8. "
            "Allow more (--max-drop), calibrate with other images, or convert with precision f32 or f16."
        )
    if not quantised:
        raise TargetError(f"NNCF quantised none of {total} layers, expected some. Convert with precision f32 or f16.")
    record["layers"] = f"{quantised} of {total} in int8"
    cut.join(layers)
    return record


def _name(source: ImageSource) -> str | None:
    return Path(source).name or None if isinstance(source, str | Path) else None
