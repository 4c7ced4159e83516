"""Compare an artifact's decisions with those of the f32 model, and with labels and masks if there are any."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from pp_graph.calibration import calibrate, range_estimator, threshold_estimator
from pp_graph.data import Detections, choose_batch_size, feed_model, read_ahead
from pp_graph.errors import CalibrationError
from pp_graph.fusion.runtime_cutoffs import retuned_program
from pp_graph.model import fixed_batch
from pp_graph.preprocessing import feed_by_hand
from pp_graph.program import detects
from pp_graph.quantization.decisions import typed
from pp_graph.quantization.truth import LabelledTruth
from pp_graph.raw_values import open_raw_values
from pp_graph.verification.detections import match_detections

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from pp_graph.data import Images
    from pp_graph.fusion import Artifact, FusedModel
    from pp_graph.model import ModelInput
    from pp_graph.program import Program
    from pp_graph.quantization.truth import Truth
    from pp_graph.statistics import Statistics
    from pp_graph.steps import Array

GIVEN, RECALIBRATED = "given", "recalibrated"
_LISTS = "detections"
"""Name of the lists of a detector among its decisions."""
LEVELS = ("image", "pixel")


@dataclass
class Decided:
    """Decisions of an artifact, compared with those of the f32 model.

    Attributes:
        thresholds: `given` for the statistics of the f32 model; `recalibrated` for those found on the artifact's own
            raw values.
        statistics: The recalibrated statistics, as plain values; None for the given ones.
        label_flips: Labels that differ; of a detector, lost, gained and otherwise classified detections.
        labels: Labels compared.
        pixel_flips: Pixels of masks that differ.
        pixels: Pixels compared.
        f1: F1 of labels (`image`) and of mask pixels (`mask`), where there is ground truth. Of a classifier, the share
            of right classes; of a detector, its average precision.
    """

    thresholds: str = GIVEN
    statistics: dict[str, Any] | None = None
    label_flips: int = 0
    labels: int = 0
    pixel_flips: int = 0
    pixels: int = 0
    f1: dict[str, float] = field(default_factory=dict)


class Judge:
    """Measures decisions of artifacts on the same images.

    Args:
        fused: The model. Its decisions in float32, in onnxruntime, are the reference.
        base: The same model converted in float32, with any preprocessing, to know what inputs it takes.
        images: Images to compare decisions on.
        truth: Images about which is known what to decide, to calibrate and to compute F1 on; None if there are none. If
            its images are not `images`, decisions are compared on both.
        fixed_inputs: Values of inputs that are neither images nor in the data.

    Attributes:
        base: Decisions of the f32 model itself.
        sha256: Hash of all inputs that the f32 model was fed, and of its labels and masks.

    Raises:
        DataError: The images do not fit the model.
    """

    def __init__(
        self,
        fused: FusedModel,
        base: Artifact,
        images: Images,
        truth: Truth | None,
        fixed_inputs: Mapping[str, npt.ArrayLike] | None,
    ) -> None:
        wanted = open_raw_values(base).inputs
        truth = None if truth is None else truth.fitted(wanted, base.provenance)
        self._sources: list[tuple[Images, bool]] = [(images, False)]
        if truth is not None:
            same = truth.images is images
            self._sources = [*([] if same else self._sources), (truth.images, True)]
        self._fixed = fixed_inputs
        self._truth = truth
        self._reference: list[dict[str, bytes]] = []
        digest = hashlib.sha256(b"" if truth is None else truth.sha256().encode())
        counts = TruthCounts(truth)
        reference, preprocessing = open_raw_values(fused), base.provenance.preprocessing
        for feeds, known, rows in self._batches(wanted):
            raw = reference.run(feed_by_hand(feeds, preprocessing))
            for name, array in sorted(feeds.items()):
                digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
            decided = _decisions(fused.program, raw)
            for row in range(len(rows)):
                self._reference.append({name: _packed(array[row]) for name, array in decided.items()})
            if known:
                counts.add(fused.program, raw, rows)
        self.sha256 = digest.hexdigest()
        self.base = Decided(f1=counts.f1())

    def decide(self, artifact: Artifact, device: str, precision: str | None, *, recalibrate: bool) -> list[Decided]:
        """Run an artifact, and compare its decisions with the given thresholds, and with recalibrated ones.

        Args:
            artifact: The artifact, with the statistics of the f32 model.
            device: Device to run it on.
            precision: Inference precision.
            recalibrate: Also decide with thresholds found on the artifact's raw values, if there is ground truth.
        """
        programs: list[tuple[Program, Decided]] = [(artifact.program, Decided())]
        statistics = self._recalibrated(artifact, device, precision) if recalibrate else None
        if statistics is not None:
            found = Decided(RECALIBRATED, msgspec.to_builtins(statistics))
            programs.append((retuned_program(artifact.provenance, statistics, {}), found))
        counts = [TruthCounts(self._truth) for _ in programs]
        at = 0
        values = open_raw_values(artifact, device=device, inference_precision=precision)
        for feeds, known, rows in self._batches(values.inputs):
            raw = values.run(feeds)
            for (program, decided), count in zip(programs, counts, strict=True):
                for name, array in _decisions(program, raw).items():
                    count_flips = _changed_detections if name == _LISTS else _flips
                    flips = sum(count_flips(array[row], self._reference[at + row][name]) for row in range(len(rows)))
                    if name == _LISTS:
                        decided.label_flips += flips
                        decided.labels += int((array[..., -1] >= 0).sum())
                    elif program.types[name].per_pixel:
                        decided.pixel_flips += flips
                        decided.pixels += array.size
                    else:
                        decided.label_flips += flips
                        decided.labels += array.size
                if known:
                    count.add(program, raw, rows)
            at += len(rows)
        for (_, decided), count in zip(programs, counts, strict=True):
            decided.f1 = count.f1()
        return [decided for _, decided in programs]

    def _recalibrated(self, artifact: Artifact, device: str, precision: str | None) -> Statistics | None:
        """Calibrate on the artifact's own raw values, with the method of its statistics if they record one.

        A level without ground truth keeps the given numbers.
        """
        given = artifact.provenance.statistics
        if not isinstance(self._truth, LabelledTruth) or given is None:
            return None
        try:
            found = calibrate(
                artifact,
                self._truth.labelled,
                device=device,
                inference_precision=precision,
                fixed_inputs=self._fixed,
                resamples=0,
                **_settings(given),
            ).statistics
        except CalibrationError:  # nothing to calibrate, or images of one class only
            return None
        kept = {level: getattr(given, level) for level in LEVELS if getattr(found, level).threshold is None}
        return msgspec.structs.replace(found, **kept)

    def _batches(self, inputs: tuple[ModelInput, ...]) -> Iterator[tuple[Mapping[str, Array], bool, Sequence[int]]]:
        """Yield feeds, whether the truth about these images is known, and indices of the images."""
        for images, known in self._sources:
            fed = feed_model(images, inputs, self._fixed)
            for start, stop, feeds in read_ahead(fed, inputs, choose_batch_size(inputs, fixed_batch(inputs))):
                yield feeds, known, range(start, stop)


class TruthCounts:
    """Correct and wrong decisions where the truth is known."""

    def __init__(self, truth: Truth | None) -> None:
        self._truth = truth
        self._judged: list[Any] = []

    def add(self, program: Program, raw: Mapping[str, Array], rows: Sequence[int]) -> None:
        """Judge the decisions about images."""
        if self._truth is not None:
            self._judged += self._truth.judge(program, raw, rows)

    def f1(self) -> dict[str, float]:
        """Return F1 of labels and pixels of an anomaly model, as far as there are anomalous ones; or other rates."""
        if self._truth is None:
            return {}
        return (self._truth.f1 if isinstance(self._truth, LabelledTruth) else self._truth.rates)(self._judged)


def _settings(statistics: Statistics) -> dict[str, Any]:
    """Return the calibration settings that statistics record; empty for the defaults."""
    record = None if statistics.provenance is None else statistics.provenance.calibration
    settings: dict[str, Any] = {}
    for level in LEVELS:
        own = None if record is None else getattr(record, level)
        if own is not None:
            settings[level] = threshold_estimator(own.method, own.parameters)
            settings[f"{level}_range"] = range_estimator(own.range, own.range_parameters)
            settings |= {"placement": own.placement} if own.placement else {}
    return settings


def _decisions(program: Program, raw: Mapping[str, Array]) -> dict[str, Array]:
    predictions = program.predictions(program.run(typed(program, raw)))
    found = {name: predictions[name] for name in program.decisions if name in predictions}
    if detects(program.predicted):
        # Lists shift when one detection is lost, so they are matched, not compared place by place.
        del found["classes"]
        found.pop("masks", None)
        found[_LISTS] = _lists(predictions, program.post.parameters())
    return found


def _lists(predictions: Mapping[str, Array], parameters: Mapping[str, Any]) -> Array:
    """Return corners, score and class of each detection, -1 after the last, (N,D,6)."""
    lists = np.full((*predictions["scores"].shape, 6), -1, np.float32)
    for row, filled in enumerate(lists):
        each = Detections.of_outputs(predictions, row, parameters)
        filled[: len(each)] = np.column_stack([each.boxes, each.scores, each.classes])
    return lists


def _changed_detections(found: Array, packed: bytes) -> int:
    """Count lost, gained and otherwise classified detections."""
    sides = []
    for rows in (np.frombuffer(zlib.decompress(packed), found.dtype).reshape(found.shape), found):
        kept = rows[rows[:, -1] >= 0]
        sides.append(Detections(kept[:, :4], kept[:, 4], kept[:, 5]))
    pairs = match_detections(*sides)
    same = sides[0].classes[pairs[:, 0]] == sides[1].classes[pairs[:, 1]]
    return sum(map(len, sides)) - 2 * len(pairs) + int((~same).sum())


def _packed(array: Array) -> bytes:
    # Masks of all images would not fit into memory, and compress to a hundredth.
    return zlib.compress(np.ascontiguousarray(array).tobytes(), 1)


def _flips(found: Array, packed: bytes) -> int:
    reference = np.frombuffer(zlib.decompress(packed), found.dtype).reshape(found.shape)
    return int((found != reference).sum())
