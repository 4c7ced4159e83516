"""Quantise the network with NNCF, fed with calibration images.

Checked with NNCF 3.4. Importing it starts `openvino-telemetry` where that is installed (it comes with OpenVINO): a
client id is written to the home folder, and each call of `nncf.quantize` sends an event unless the user opted out. When
it is imported here it takes that library for absent, and what is called are the functions below their tracking. NNCF
writes bars and remarks to standard output, which belongs to the caller.
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
    """Images for NNCF, read when they are asked for.

    Args:
        images: The images.
        inputs: What the model is fed.
        most: Most images to use.
        progress: Called with the number of images just read.

    Attributes:
        used: Number of images in use.
        sha256: Hash of the numbers that the model is fed.

    Raises:
        DataError: An image does not fit, or holds numbers that are not finite.
    """

    def __init__(
        self, images: Images, inputs: Sequence[ModelInput], most: int, progress: Callable[[int], None] | None
    ) -> None:
        self._images = images
        self._inputs = inputs
        # Where the batch is open, NNCF sees each image by itself.
        self._batch = fixed_batch(inputs) or 1
        self._progress: Callable[[int], None] | None = None
        self._kept = {each.name for each in inputs}
        self._indices = np.unique(np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)).tolist()
        self.used = len(self._indices)
        digest = hashlib.sha256()
        for feed in self:
            for name, array in sorted(feed.items()):
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise DataError(
                        f"Calibration data for input '{name}' hold NaN or infinite numbers, expected finite ones: they "
                        "would become the ranges. Take those images out."
                    )
                digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
                digest.update(np.ascontiguousarray(array).data)
        self.sha256 = digest.hexdigest()
        self._progress = progress

    def keep(self, names: set[str]) -> None:
        """Feed only these inputs: others lead past the layers."""
        self._kept = names

    def __len__(self) -> int:
        return math.ceil(self.used / self._batch)

    def __getitem__(self, at: int) -> Mapping[str, Array]:
        indices = self._indices[at * self._batch : (at + 1) * self._batch]
        if not indices:
            raise IndexError(at)
        feed = read_some(self._images, indices, self._inputs, self._batch)
        if self._progress is not None:
            self._progress(len(indices))
        return {name: array for name, array in feed.items() if name in self._kept}

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        return (self[at] for at in range(len(self)))


def read_some(images: Images, indices: Sequence[int], inputs: Sequence[ModelInput], batch: int) -> dict[str, Array]:
    """Read some images for a model; a batch that they do not fill is filled up with the last one."""
    filled = [*indices, *[indices[-1]] * (batch - len(indices))]
    parts = [images.read(index, index + 1, inputs) for index in filled]
    places = batch_places(inputs)
    joined = {}
    for each in inputs:
        arrays = [part[each.name] for part in parts]
        axis = places[each.name].axis_of(arrays[0].shape, 1) if len(arrays) > 1 and each.name in places else None
        joined[each.name] = arrays[0] if axis is None else np.concatenate(arrays, axis)
    return joined


def model_inputs(model: ov.Model, declared: Sequence[ModelInput]) -> tuple[ModelInput, ...]:
    """What a model is fed.

    Args:
        model: The model.
        declared: The same inputs with the raw model's names of their sizes.
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
    """Import NNCF.

    Raises:
        ExtraError: It is not installed.
    """
    if "nncf" in sys.modules and sys.modules["nncf"] is not None:
        return require_extra("nncf", _EXTRA, "quantising")
    absent = object()
    before = sys.modules.get(_TELEMETRY, absent)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        # Its log handler keeps the stream that is standard output at this moment.
        with contextlib.redirect_stdout(sys.stderr):
            return require_extra("nncf", _EXTRA, "quantising")
    finally:
        del sys.modules[_TELEMETRY]
        if before is not absent:
            sys.modules[_TELEMETRY] = before  # type: ignore[assignment]


def quantize(layers: ov.Model, feeds: CalibrationFeeds, *, preset: str, device: str) -> ov.Model:
    """Quantise a model with ranges from some feeds.

    Args:
        layers: The model; it is not changed.
        feeds: What to run it on.
        preset: `performance` or `mixed`.
        device: OpenVINO device that it will run on.

    Returns:
        A quantised copy.

    Raises:
        ExtraError: NNCF is not installed.
        TargetError: NNCF cannot quantise it.
    """
    nncf = open_nncf()
    with _quietly():
        return inspect.unwrap(nncf.quantize)(
            layers,
            nncf.Dataset(feeds),
            **_settings(nncf, feeds, preset, device),
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
) -> ov.Model:
    """Quantise a model, and leave out layer by layer, the costliest first, until a measure falls little enough.

    Args:
        layers: The model; it is not changed.
        feeds: What to run it on.
        validate: Takes the compiled model and the indices of items; gives the measure, higher is better, and a number
            for each item by which NNCF finds those that suffer most.
        count: Number of items.
        max_drop: Most that the measure may fall.
        preset: `performance` or `mixed`.
        device: OpenVINO device that it will run on.

    Returns:
        A quantised copy. Its measure may still be too low, where NNCF did not succeed.

    Raises:
        ExtraError: NNCF is not installed.
        TargetError: NNCF cannot quantise it.
    """
    nncf = open_nncf()
    # Items are run one after the other; the workers would share what `validate` holds.
    restorer = nncf.AdvancedAccuracyRestorerParameters(num_ranking_workers=1)
    with _quietly():
        return inspect.unwrap(nncf.quantize_with_accuracy_control)(
            layers,
            nncf.Dataset(feeds),
            nncf.Dataset(range(count)),
            validate,
            max_drop=max_drop,
            drop_type=nncf.DropType.ABSOLUTE,
            **_settings(nncf, feeds, preset, device),
            advanced_quantization_parameters=_advanced(nncf),
            advanced_accuracy_restorer_parameters=restorer,
        )


def _settings(nncf: Any, feeds: CalibrationFeeds, preset: str, device: str) -> dict[str, Any]:
    name = device.split(".", 1)[0]
    return {
        "preset": nncf.QuantizationPreset(preset),
        "subset_size": len(feeds),
        "target_device": nncf.TargetDevice(name if name in _OWN_TARGETS else "ANY"),
    }


def _advanced(nncf: Any) -> Any:
    """Ranges reach from the smallest to the largest value seen.

    NNCF's default is the mean of the images' own extremes, which half of the images exceed. The largest activations are
    those of anomalies, and to cut them off hides what is looked for.
    """
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    return nncf.AdvancedQuantizationParameters(activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep NNCF from writing; turn its errors into ours.

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
