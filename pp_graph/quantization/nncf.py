"""Quantise layers with NNCF and calibration images.

Checked with NNCF 3.4. Importing NNCF starts `openvino-telemetry` if installed (it comes with OpenVINO): it writes a
client id to the home folder, and each call of `nncf.quantize` sends an event unless the user opted out. This module
hides that library during the import, and calls the functions inside NNCF's tracking wrappers. NNCF also prints progress
bars and remarks to standard output, which this module suppresses.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import logging
import math
import sys
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.errors import DataError, PPGraphError, TargetError
from pp_graph.extras import require_extra
from pp_graph.model import ModelInput, batch_places, fixed_batch
from pp_graph.model.batch import further_axes
from pp_graph.openvino.core import partial_shape, port_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import openvino as ov

    from pp_graph.data import Images
    from pp_graph.sessions.session import Array


class CalibrationFeeds:
    """Calibration images for NNCF, read on access.

    Args:
        images: The images.
        inputs: Inputs of the model.
        subset_size: Maximum number of images to use.
        progress: Called with the number of images just read.

    Attributes:
        used: Number of images used.
        sha256: Hash of all arrays fed to the model.

    Raises:
        DataError: An image does not fit, or contains values that are not finite.
    """

    def __init__(
        self, images: Images, inputs: Sequence[ModelInput], subset_size: int, progress: Callable[[int], object] | None
    ) -> None:
        self._images = images
        self._inputs = inputs
        # With an open batch, NNCF gets one image at a time.
        self._batch = fixed_batch(inputs) or 1
        self._progress: Callable[[int], object] | None = None
        self._kept = {model_input.name for model_input in inputs}
        count = min(subset_size, len(images))
        self._indices = np.unique(np.linspace(0, len(images) - 1, count).round().astype(int)).tolist()
        self.used = len(self._indices)
        digest = hashlib.sha256()
        for feed in self:
            for name, array in sorted(feed.items()):
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise DataError(
                        f"Calibration data for input '{name}' hold NaN or infinite numbers, expected finite ones, "
                        "because ranges follow from them. Remove those images."
                    )
                digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
                digest.update(np.ascontiguousarray(array).data)
        self.sha256 = digest.hexdigest()
        self._progress = progress

    def keep(self, names: set[str]) -> None:
        """Feed only these inputs, those that the layers read."""
        self._kept = names

    def __len__(self) -> int:
        return math.ceil(self.used / self._batch)

    def __getitem__(self, index: int) -> Mapping[str, Array]:
        indices = self._indices[index * self._batch : (index + 1) * self._batch]
        if not indices:
            raise IndexError(index)
        feed = read_batch(self._images, indices, self._inputs, self._batch)
        if self._progress is not None:
            self._progress(len(indices))
        return {name: array for name, array in feed.items() if name in self._kept}

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        return (self[index] for index in range(len(self)))


def read_batch(images: Images, indices: Sequence[int], inputs: Sequence[ModelInput], batch: int) -> dict[str, Array]:
    """Read images as one batch. If there are fewer than `batch`, the last one is repeated."""
    filled = [*indices, *[indices[-1]] * (batch - len(indices))]
    parts = [images.read(index, index + 1, inputs) for index in filled]
    places = batch_places(inputs)
    joined = {}
    for name in (model_input.name for model_input in inputs):
        arrays = [part[name] for part in parts]
        axis = places[name].axis_of(arrays[0].shape, 1) if len(arrays) > 1 and name in places else None
        joined[name] = arrays[0] if axis is None else np.concatenate(arrays, axis)
    return joined


def model_inputs(model: ov.Model, declared: Sequence[ModelInput]) -> tuple[ModelInput, ...]:
    """Describe the inputs of a converted model.

    Args:
        model: The model.
        declared: Inputs of the raw model, whose named sizes tell the batch axes.
    """
    axes = further_axes(declared)
    return tuple(
        ModelInput(
            port_name(port),
            np.dtype(port.get_element_type().to_dtype()).name,
            partial_shape(port),
            batch_axis=axes.get(port_name(port)),
        )
        for port in model.inputs
    )


_EXTRA: Final = "quantize"
_TELEMETRY: Final = "openvino_telemetry"
_OWN_TARGETS: Final = ("CPU", "GPU", "NPU")


def open_nncf() -> Any:
    """Import NNCF without starting its telemetry.

    Raises:
        ExtraError: NNCF is not installed.
    """
    if "nncf" in sys.modules and sys.modules["nncf"] is not None:
        return require_extra("nncf", _EXTRA, "quantising")
    absent = object()
    before = sys.modules.get(_TELEMETRY, absent)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        # NNCF's log handler keeps the stream that is standard output during the import.
        with contextlib.redirect_stdout(sys.stderr):
            return require_extra("nncf", _EXTRA, "quantising")
    finally:
        del sys.modules[_TELEMETRY]
        if before is not absent:
            sys.modules[_TELEMETRY] = before  # type: ignore[assignment]


def quantize(
    layers: ov.Model, feeds: CalibrationFeeds, *, preset: str, device: str, float_operators: Sequence[str] = ()
) -> ov.Model:
    """Quantise a model.

    Args:
        layers: The model. It is not modified.
        feeds: Calibration images, which determine the ranges.
        preset: `performance` or `mixed`.
        device: OpenVINO device that will run the model.
        float_operators: Names of operators that stay float32; those that are not in the model are ignored.

    Returns:
        A quantised copy.

    Raises:
        ExtraError: NNCF is not installed.
        TargetError: NNCF failed.
    """
    nncf = open_nncf()
    with _quietly():
        return inspect.unwrap(nncf.quantize)(
            layers,
            nncf.Dataset(feeds),
            **_settings(nncf, feeds, preset, device, float_operators),
            advanced_parameters=_advanced(nncf),
        )


def quantize_within(
    layers: ov.Model,
    feeds: CalibrationFeeds,
    validate: Callable[[ov.CompiledModel, Sequence[int]], tuple[float, list[float]]],
    count: int,
    *,
    max_drop: float,
    preset: str,
    device: str,
    float_operators: Sequence[str] = (),
) -> ov.Model:
    """Quantise a model, and revert the layers that cost most accuracy until it falls by at most `max_drop`.

    Args:
        layers: The model. It is not modified.
        feeds: Calibration images, which determine the ranges.
        validate: Takes the compiled model and indices of validation images. Returns the accuracy, and a score for each
            image by which NNCF finds those that suffer most; higher is better.
        count: Number of validation images.
        max_drop: Maximum decrease of the accuracy.
        preset: `performance` or `mixed`.
        device: OpenVINO device that will run the model.
        float_operators: Names of operators that stay float32; those that are not in the model are ignored.

    Returns:
        A quantised copy. Its accuracy may still be too low if NNCF did not succeed.

    Raises:
        ExtraError: NNCF is not installed.
        TargetError: NNCF failed.
    """
    nncf = open_nncf()
    # `validate` is not thread-safe, so use a single worker.
    restorer = nncf.AdvancedAccuracyRestorerParameters(num_ranking_workers=1)
    with _quietly():
        return inspect.unwrap(nncf.quantize_with_accuracy_control)(
            layers,
            nncf.Dataset(feeds),
            nncf.Dataset(range(count)),
            validate,
            max_drop=max_drop,
            drop_type=nncf.DropType.ABSOLUTE,
            **_settings(nncf, feeds, preset, device, float_operators),
            advanced_quantization_parameters=_advanced(nncf),
            advanced_accuracy_restorer_parameters=restorer,
        )


def _settings(
    nncf: Any, feeds: CalibrationFeeds, preset: str, device: str, float_operators: Sequence[str]
) -> dict[str, Any]:
    name = device.split(".", 1)[0]
    return {
        "preset": nncf.QuantizationPreset(preset),
        "subset_size": len(feeds),
        "target_device": nncf.TargetDevice(name if name in _OWN_TARGETS else "ANY"),
        "ignored_scope": nncf.IgnoredScope(names=list(float_operators), validate=False) if float_operators else None,
    }


def _advanced(nncf: Any) -> Any:
    """Use ranges from the smallest to the largest value of all images.

    NNCF's default averages the extremes of each image, so about half of the images exceed it. Anomalies have the
    largest activations, and clipping them would hide anomalies.
    """
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    return nncf.AdvancedQuantizationParameters(activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress NNCF's output and convert its errors.

    Raises:
        TargetError: NNCF failed.
    """
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except PPGraphError:
        raise
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "").rstrip(".")
        raise TargetError(
            f"NNCF cannot quantise the network: {type(error).__name__}{f', {reason}' if reason else ''}. Convert with "
            "precision f32 or f16, or let the network stay float32 from an earlier tensor on (float_from=..., "
            "--float-from)."
        ) from error
    finally:
        logger.setLevel(level)
