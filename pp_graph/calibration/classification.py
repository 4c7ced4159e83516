"""Calibrate a classifier: temperature, the limit of unknown images, and a threshold for each class."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from pp_graph.calibration.calibrator import Calibrator
from pp_graph.calibration.family_summaries import classifier_blocks
from pp_graph.calibration.per_image import PerImageWork, collect, collect_on_workers
from pp_graph.calibration.thresholds import threshold_estimator
from pp_graph.data import choose_batch_size, feed_model, read_ahead
from pp_graph.data.classified import NO_CLASS, ClassifiedSource, open_classified
from pp_graph.errors import CalibrationError, StatisticsError
from pp_graph.files import written_together
from pp_graph.postprocessors import RAW_LOGITS, ClassificationPostProcessor
from pp_graph.progress import expect, shows_progress
from pp_graph.raw_values import open_raw_values
from pp_graph.reprs import short_repr
from pp_graph.statistics.other_files import CLASSIFIER, other_kind
from pp_graph.summary import Summarised
from pp_graph.workers.models import SentModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from distributed import Client

    from pp_graph.calibration.estimator import ThresholdEstimator
    from pp_graph.data import Images
    from pp_graph.fusion import Artifact
    from pp_graph.model import RawModel
    from pp_graph.raw_values import RawValues
    from pp_graph.summary import Block

Array = npt.NDArray[Any]
BINS: Final = 15
"""Bins of the expected calibration error, as in Guo et al., 2017."""
COLDEST: Final = 0.01
HOTTEST: Final = 100.0
"""Bounds of the temperature."""


@dataclass(frozen=True, repr=False)
class ClassifierCalibration(Summarised):
    """Result of `calibrate_classifier`.

    Attributes:
        temperature: Number that divides the logits; 1 for a model that returns probabilities.
        unknown_below: Probability below which an image is unknown; None without images to reject.
        multi_label: Threshold of each class; None if every image is of one class.
        metrics: `images`, `accuracy` (of one class), `nll` and `ece` before and after the temperature,
            `false_accepts` and `kept`: shares of the images to reject and of the others that are known; for several
            classes lists of `f1`, `precision` and `recall`.
        notes: Remarks.
    """

    temperature: float
    unknown_below: float | None
    multi_label: tuple[float, ...] | None
    metrics: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    __repr__ = short_repr

    def summary(self) -> list[Block]:
        """Return the result as tables."""
        return list(classifier_blocks(self))

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of `ClassificationPostProcessor` and of `pp_graph.retune`."""
        values = {"temperature": self.temperature, "unknown_below": self.unknown_below, "multi_label": self.multi_label}
        return {name: value for name, value in values.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        found: dict[str, Any] = msgspec.to_builtins({"schema_version": 1, "task": "classification", **asdict(self)})
        return found

    def save(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> Path:
        """Write JSON, which `--stats` reads.

        Raises:
            OutputFileError: The file exists without `overwrite`, is an input, or cannot be written.
        """
        file = Path(path)
        with written_together(file, overwrite=overwrite, inputs=inputs) as (draft,):
            draft.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        return file


def is_classifier_calibration(path: str | Path) -> bool:
    """Return True if a file holds the calibration of a classifier."""
    return _content(path) is not None


def load_classifier_settings(path: str | Path) -> dict[str, Any]:
    """Read the settings in a file that `ClassifierCalibration.save` wrote.

    Raises:
        StatisticsError: The file holds something else.
    """
    content = _content(path)
    if content is None:
        raise StatisticsError(
            f'\'{path}\' is not the calibration of a classifier, expected JSON with "task": "classification". Write '
            f"it with pp-graph calibrate --task classification.{other_kind(path, CLASSIFIER)}"
        )
    levels = content.get("multi_label")
    found = ClassifierCalibration(
        content.get("temperature", 1.0), content.get("unknown_below"), None if levels is None else tuple(levels), {}
    )
    return found.settings


def _content(path: str | Path) -> dict[str, Any] | None:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("task") == "classification" else None


@dataclass(frozen=True)
class _ClassifierRun:
    values: RawValues
    fixed_inputs: Mapping[str, npt.ArrayLike] | None

    @classmethod
    def open(
        cls,
        model: str | Path | RawModel | Artifact,
        *,
        fixed_inputs: Mapping[str, npt.ArrayLike] | None,
        **reading: Any,
    ) -> _ClassifierRun:
        values = open_raw_values(model, declared=ClassificationPostProcessor.roles, **reading)
        return cls(values, fixed_inputs)

    @property
    def classes(self) -> int:
        return self.values.signature[RAW_LOGITS].size("C") or 0

    def batches(
        self, images: Images, size: int, span: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, int, list[Array]]]:
        fed = feed_model(images, self.values.inputs, self.fixed_inputs)
        for start, stop, feeds in read_ahead(fed, self.values.inputs, size, span):
            yield start, stop, list(self.values.run(feeds)[RAW_LOGITS].reshape(stop - start, self.classes))


@shows_progress("Calibrating")
def calibrate_classifier(
    model: str | Path | RawModel | Artifact,
    images: ClassifiedSource,
    *,
    post: ClassificationPostProcessor | None = None,
    false_accepts: float = 0.05,
    thresholds: str | ThresholdEstimator = "f1",
    device: str | None = None,
    inference_precision: str | None = "f32",
    roles: Mapping[str, str] | None = None,
    batch_size: int | None = None,
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = None,
    client: Client | None = None,
    progress: Callable[[int], None] | bool | None = None,
    **reading: Any,
) -> ClassifierCalibration:
    """Run a classifier on images of known classes, and find its temperature and limits.

    The temperature maximises the likelihood of the classes (Guo et al., "On Calibration of Modern Neural Networks",
    2017). The limit of unknown images accepts at most a share `false_accepts` of those to reject: of the images of no
    known class, or if there are none, of those that are classified wrongly. With several classes an image, each class
    gets its own threshold.

    Args:
        model: A raw model or an artifact.
        images: Images and their classes; see `pp_graph.data.classified.open_classified`.
        post: Activation and labels for a raw model. An artifact has its own, but labels given here replace them.
        false_accepts: Largest share of the images to reject that may be known, in [0, 1).
        thresholds: Estimator for each of several classes: `f1`, `fbeta`, `youden`, `recall`, `precision`, `fpr`.
        device: OpenVINO device; see `calibrate`.
        inference_precision: OpenVINO's inference precision.
        roles: Name of the logits, `{"raw_logits": ...}`, where several outputs fit.
        batch_size: Images per batch, if the model leaves it open.
        fixed_inputs: Values of inputs other than the images.
        client: A `distributed.Client`, to share the images among the workers of a Dask cluster. The result is the same,
            bit for bit. None runs in this process.
        progress: Called after each batch; True shows a progress bar.
        reading: Further arguments of `open_images`.

    Raises:
        ModelError: The model cannot be used.
        DataError: Images or classes do not fit.
        CalibrationError: The model is no classifier, or its logits are not finite.
        TargetError: A runtime cannot run the model.
        ClusterError: The cluster cannot share the work.
    """
    opening = partial(
        _ClassifierRun.open,
        device=device,
        inference_precision=inference_precision,
        roles=roles,
        fixed_inputs=fixed_inputs,
    )
    run = opening(model)
    values = run.values
    given = post or ClassificationPostProcessor()
    if values.provenance is not None:
        built = values.provenance.build_post_processor(None, {})
        if not isinstance(built, ClassificationPostProcessor):
            raise CalibrationError(
                f"The model is fused with {type(built).__name__}, expected ClassificationPostProcessor. Leave out "
                "--task classification."
            )
        given = built if not given.labels else built.changed(None, {"labels": given.labels})
    source = open_classified(images, run.classes, given.labels, **reading)
    if source.several and given.multi_label is None:
        given = given.changed(None, {"multi_label": 0.5})
    given = given.settled(values.signature)
    feed_model(source.images, values.inputs, fixed_inputs)  # checked before workers start
    size = choose_batch_size(values.inputs, batch_size)
    expect(progress, len(source.images))
    tell = progress if callable(progress) else None
    if client is None:
        found = collect(run, source.images, size, tell)
    else:
        found = collect_on_workers(client, PerImageWork(SentModel.of(model), opening, size), source.images, tell)
    logits = np.stack(found).astype(np.float32)
    if not np.isfinite(logits).all():
        place = int(np.argmin(np.isfinite(logits).all(1)))
        raise CalibrationError(
            f"The logits of image '{source.images.names[place]}' are not finite, expected finite ones. Leave it out."
        )
    notes = list(source.images.notes)
    temperature = _temperature(logits, source.classes, given, notes)
    after = given.changed(None, {"temperature": temperature})
    before = given.changed(None, {"temperature": 1.0})
    if source.several:
        return _several(logits, source.classes, before, after, thresholds, notes)
    return _one(logits, source.classes, before, after, false_accepts, notes)


def _temperature(logits: Array, classes: Array, post: ClassificationPostProcessor, notes: list[str]) -> float:
    """Find the temperature of the largest likelihood, which is unimodal in its reciprocal, by bisection."""
    if post.activation == "none":
        notes.append("the model returns probabilities, so there is no temperature to find")
        return 1.0
    known = slice(None) if classes.ndim == 2 else classes != NO_CLASS
    z, truth = logits[known].astype(np.float64), classes[known]
    if truth.ndim == 1 and post.activation == "softmax":
        truth = np.eye(z.shape[1])[truth]
    elif truth.ndim == 1:
        truth = np.equal(np.arange(z.shape[1]), truth[:, None])

    def slope(inverse: float) -> float:
        return float((z * (_activated(z * inverse, post) - truth)).sum())

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low) >= 0 or slope(high) <= 0:
        notes.append(
            "the likelihood has no maximum, as "
            + ("no class fits" if slope(low) >= 0 else "all classes are right")
            + ": the temperature stays 1"
        )
        return 1.0
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(np.float32(1 / low))


def _activated(z: Array, post: ClassificationPostProcessor) -> Array:
    if post.activation == "softmax":
        powers = np.exp(z - z.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True))
    return np.asarray(1 / (1 + np.exp(-np.clip(z, -700, 700)))) if post.activation == "sigmoid" else z


def _probabilities(logits: Array, post: ClassificationPostProcessor) -> Array:
    return _activated(logits.astype(np.float64) / post.temperature, post)


def expected_calibration_error(confidence: Array, correct: Array) -> float:
    """Mean distance of confidence and accuracy over `BINS` equal bins, weighted by their size (Guo et al., 2017)."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    sums = [np.bincount(bins, weights, BINS) for weights in (confidence, correct)]
    return float(np.abs(sums[0] - sums[1]).sum() / max(len(confidence), 1))


def _one(
    logits: Array,
    classes: Array,
    before: ClassificationPostProcessor,
    after: ClassificationPostProcessor,
    false_accepts: float,
    notes: list[str],
) -> ClassifierCalibration:
    known, correct = classes != NO_CLASS, logits.argmax(1) == classes
    metrics: dict[str, Any] = {"images": len(classes), "accuracy": float(correct[known].mean())}
    for name, post in (("before", before), ("after", after)):
        chances = _probabilities(logits[known], post)
        truth = chances[np.arange(len(chances)), classes[known]]
        metrics[f"nll_{name}"] = float(-np.log(np.maximum(truth, np.finfo(np.float64).tiny)).mean())
        metrics[f"ece_{name}"] = expected_calibration_error(chances.max(1), correct[known])
    rejected = ~known if not known.all() else ~correct
    kept = correct & known
    limit = None
    if rejected.any() and kept.any():
        # The number that the model compares, so that the rate holds for these images.
        scores = after({RAW_LOGITS: logits}).pred_prob
        used = rejected | kept
        level = _cut(scores[used], kept[used], threshold_estimator("fpr", {"rate": false_accepts}))
        limit = float(np.nextafter(np.float32(level), np.float32(np.inf)))
        if 0 < limit <= 1:
            accepted = scores >= np.float32(limit)
            metrics |= {"false_accepts": float(accepted[rejected].mean()), "kept": float(accepted[kept].mean())}
        else:
            notes.append("no limit up to 1 rejects enough images, so unknown_below is left out")
            limit = None
    else:
        notes.append("no image is to be rejected, so unknown_below is left out: add images of no known class")
    return ClassifierCalibration(after.temperature, limit, None, metrics, tuple(notes))


def _several(
    logits: Array,
    present: Array,
    before: ClassificationPostProcessor,
    after: ClassificationPostProcessor,
    thresholds: str | ThresholdEstimator,
    notes: list[str],
) -> ClassifierCalibration:
    metrics: dict[str, Any] = {"images": len(present)}
    for name, post in (("before", before), ("after", after)):
        chances = np.clip(_probabilities(logits, post), 1e-300, 1 - 1e-16)
        metrics[f"nll_{name}"] = float(-np.log(np.where(present, chances, 1 - chances)).mean())
        metrics[f"ece_{name}"] = expected_calibration_error(chances.ravel(), present.ravel())
    scores = _probabilities(logits, after).astype(np.float32)
    levels = []
    for place, truth in enumerate(present.T):
        if truth.all() or not truth.any():
            notes.append(f"class {place} is in {'all images' if truth.all() else 'no image'}: its threshold stays 0.5")
            levels.append(0.5)
            continue
        levels.append(min(max(_cut(scores[:, place], truth, thresholds), 0.0), 1.0))
    found = scores > np.asarray(levels, np.float32)
    right = (found & present).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = {
            "precision": right / found.sum(0),
            "recall": right / present.sum(0),
            "f1": 2 * right / (found.sum(0) + present.sum(0)),
        }
    metrics |= {name: [None if np.isnan(rate) else float(rate) for rate in each] for name, each in rates.items()}
    return ClassifierCalibration(after.temperature, None, tuple(levels), metrics, tuple(notes))


def _cut(scores: Array, flags: Array, estimator: str | ThresholdEstimator) -> float:
    """Find the threshold above which scores count as those of the flagged images."""
    calibrator = Calibrator(image=estimator)
    calibrator.update(scores=scores.astype(np.float32), labels=flags)
    level = calibrator.result(resamples=0).image
    assert level is not None
    assert level.statistics.threshold is not None
    return level.statistics.threshold
