"""Warnings about results that are correct to the bit and still look wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.fusion import Provenance
    from pp_graph.preprocessing import Preprocessing
    from pp_graph.program import OutputDescription
    from pp_graph.statistics import Statistics
    from pp_graph.steps import Array

_FEWEST: Final = 10
"""A folder of fewer images may well hold nothing but anomalous ones, or none."""
_CAUSES: Final = (
    "Were the statistics calibrated on this model, and on images that were preprocessed in the same way (0..1 or "
    "0..255, mean, channel order)?"
)


def statistics_warnings(statistics: Statistics | None) -> list[str]:
    """Describe numbers that do not fit each other.

    Returns:
        A sentence for each level whose threshold lies outside its range.
    """
    found = []
    levels = () if statistics is None else (("image", statistics.image), ("pixel", statistics.pixel))
    for name, level in levels:
        low, high, threshold = level.min, level.max, level.threshold
        if low is not None and high is not None and threshold is not None and not low <= threshold <= high:
            found.append(
                f"The {name} threshold {threshold:g} lies outside the calibrated range from {low:g} to {high:g}: "
                f"{'everything' if threshold < low else 'nothing'} in that range is anomalous. Are these numbers from "
                "one calibration?"
            )
    return found


def preprocessing_warnings(preprocessing: Preprocessing | None) -> list[str]:
    """Describe a mean and scale that are on a different scale than the frames.

    Returns:
        A sentence if they seem to be for images in [0, 1] and frames are 0..255 or 0..65535, or the other way round.
    """
    if preprocessing is None:
        return []
    mean, scale = preprocessing.mean, preprocessing.scale
    largest = {"u8": 255, "u16": 65535}.get(preprocessing.dtype)
    if largest is not None and any(mean) and max(map(abs, mean)) <= 1 and max(scale, default=0.0) <= 1:
        means = ",".join(f"{number * largest:g}" for number in mean)
        scales = ",".join(f"{number * largest:g}" for number in scale) or str(largest)
        given = f"mean {_listed(mean)}" + (f" and scale {_listed(scale)}" if scale else "")
        return [
            (
                f"{given} suit images in [0, 1], and {preprocessing.dtype} frames are 0..{largest}. Was --mean {means} "
                f"--scale {scales} meant?"
            )
        ]
    if largest is not None and not mean and scale and max(scale) <= 1 and scale != (1.0,) * len(scale):
        return [
            (
                f"scale {_listed(scale)} suits images in [0, 1], and {preprocessing.dtype} frames are 0..{largest}. "
                f"Was --scale {','.join(f'{number * largest:g}' for number in scale)} meant?"
            )
        ]
    return []


def range_warnings(preprocessing: Preprocessing | None, low: float, high: float) -> list[str]:
    """Describe floating-point frames on a different scale than the mean and scale they meet.

    Args:
        preprocessing: Preprocessing in the artifact.
        low: Smallest number among the frames.
        high: Largest number among the frames.
    """
    if preprocessing is None or preprocessing.dtype != "f32" or not (preprocessing.mean or preprocessing.scale):
        return []
    numbers = [abs(number) for number in (*preprocessing.mean, *preprocessing.scale)]
    given = f"mean {_listed(preprocessing.mean) or 'none'}, scale {_listed(preprocessing.scale) or 'none'}"
    if low >= 0 and high <= 1 and max(numbers) > 2:
        return [
            (
                f"Frames lie between {low:g} and {high:g}, and the preprocessing in the model ({given}) is for "
                "0..255. Feed frames as 0..255, or convert with numbers for [0, 1]."
            )
        ]
    if high > 2 and max(numbers) <= 1:
        return [
            (
                f"Frames lie between {low:g} and {high:g}, and the preprocessing in the model ({given}) is for "
                "[0, 1]. Feed frames in [0, 1], or convert with numbers for 0..255."
            )
        ]
    return []


def _listed(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


class PredictionChecks:
    """Running totals over predictions, to notice results that are all alike."""

    def __init__(self, outputs: tuple[OutputDescription, ...]) -> None:
        """Start counting.

        Args:
            outputs: The outputs; see `Program.predicted`.
        """
        # The warnings about scores and labels are for anomaly models.
        classes = [output for output in outputs if output.classifies and output.axes == "N"]
        self._classes = {output.name: output for output in classes}
        self._found: dict[str, set[int]] = {name: set() for name in self._classes}
        self._images = 0
        self._nan: dict[str, tuple[int, int]] = {}
        outputs = () if classes else outputs
        self._labels = {output.name: output for output in outputs if output.decides and not output.per_pixel}
        self._scores = {
            output.name: output.scale
            for output in outputs
            if output.meaning == "number" and not output.per_pixel and output.scale is not None
        }
        self._counts = {name: np.zeros(2, np.int64) for name in self._labels}
        self._ends = {name: np.zeros(3, np.int64) for name in self._scores}

    def add(self, predictions: Mapping[str, Array]) -> None:
        """Add a batch of outputs and raw values, by name."""
        for name, values in predictions.items():
            array = np.asarray(values)
            if array.dtype.kind == "f" and array.ndim:
                found = np.isnan(array).any(axis=tuple(range(1, array.ndim)))
                images, with_nan = self._nan.get(name, (0, 0))
                self._nan[name] = images + len(found), with_nan + int(found.sum())
        for name in self._classes:
            if name in predictions:
                found = np.asarray(predictions[name])
                self._found[name] |= set(map(int, np.unique(found)))
                self._images += found.size
        for name, output in self._labels.items():
            if name not in predictions:
                continue
            array = np.asarray(predictions[name])
            if array.dtype == np.bool_:
                flags = array
            elif output.decision_values is not None:
                flags = array == output.decision_values[1]
            else:
                continue
            self._counts[name] += (flags.size, int(np.count_nonzero(flags)))
        for name, scale in self._scores.items():
            if name in predictions:
                scores = np.asarray(predictions[name])
                low, high = scale.low, scale.high
                self._ends[name] += (scores.size, int((scores == low).sum()), int((scores == high).sum()))

    def merge(self, other: PredictionChecks) -> None:
        """Add the totals of other predictions of the same model."""
        for name, (images, with_nan) in other._nan.items():
            ours = self._nan.get(name, (0, 0))
            self._nan[name] = ours[0] + images, ours[1] + with_nan
        for name, classes in other._found.items():
            self._found[name] |= classes
        self._images += other._images
        for name, counts in other._counts.items():
            self._counts[name] += counts
        for name, ends in other._ends.items():
            self._ends[name] += ends

    def warnings(self) -> list[str]:
        """Describe NaN, and outputs that are the same for at least ten images."""
        found = [
            f"'{name}' has NaN in {with_nan:,} of {counted(images, 'image')}, expected numbers. A detector keeps none, "
            "and other decisions about it follow on_nan. Does the model return numbers for these images in f32?"
            for name, (images, with_nan) in self._nan.items()
            if with_nan
        ]
        for name, classes in self._found.items():
            if self._images >= _FEWEST and len(classes) == 1:
                (index,), names = classes, self._classes[name].class_names
                called = f"class {index}" + (f" ('{names[index]}')" if index < len(names) else "")
                found.append(
                    f"All {self._images:,} images are of {called}. If they should not be: were they preprocessed as in "
                    "training (0..1 or 0..255, mean, channel order)?"
                )
        for name, (total, positive) in self._counts.items():
            if total >= _FEWEST and positive == total:
                found.append(f"All {total:,} decisions of '{name}' are anomalous. {_CAUSES}")
            elif total >= _FEWEST and not positive:
                found.append(
                    f"None of {total:,} decisions of '{name}' is anomalous. If some should be: "
                    f"{_CAUSES[0].lower()}{_CAUSES[1:]}"
                )
        for name, (total, lowest, highest) in self._ends.items():
            scale = self._scores[name]
            if total >= _FEWEST and lowest + highest == total:
                raw = "below or above" if lowest and highest else "below" if lowest else "above"
                found.append(
                    f"All {total:,} numbers of '{name}' are {scale.low:g} or {scale.high:g}: the raw scores lie "
                    f"{raw} the calibrated range. {_CAUSES}"
                )
        return found


def describe_warnings(provenance: Provenance) -> list[str]:
    """Return the warnings about an artifact's statistics, thresholds and preprocessing."""
    return [
        *statistics_warnings(provenance.statistics),
        *threshold_warnings(provenance.parameters),
        *preprocessing_warnings(provenance.preprocessing),
    ]


def threshold_warnings(parameters: Mapping[str, object]) -> list[str]:
    """Describe thresholds of regions that no probability exceeds, where it is not known whether the map holds some."""
    found = [(name, parameters.get(name)) for name in ("pixel_threshold", "box_threshold")]
    return [
        f"{name} is {value:g}, outside of [0, 1]. That suits a map that holds no probabilities. Is this one of these?"
        for name, value in found
        if isinstance(value, int | float) and not 0 <= value <= 1
    ]


def size_notes(provenance: Provenance, inputs: Sequence[str]) -> list[str]:
    """Describe an input that gives the size to which boxes are scaled.

    Args:
        provenance: Provenance of the fused model.
        inputs: Names of the model's inputs.

    Returns:
        A sentence that says what to give, if there is such an input.
    """
    size = provenance.raw.input_size
    if provenance.parameters.get("head") != "rtdetr-deploy" or size is None:
        return []
    return [
        f"The model scales its boxes to the size that input '{name}' gives, and they are read as pixels of the model's "
        f"images. Give it their width and height: --input {name}={size[1]},{size[0]}."
        for name in inputs
        if "sizes" in name
    ]
