"""Measure how many correct decisions a network loses by quantisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.labels import without_channel
from pp_graph.errors import AccuracyError, DataError, counted
from pp_graph.model import fixed_batch
from pp_graph.openvino.core import openvino_core, port_name
from pp_graph.quantization.nncf import read_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import openvino as ov

    from pp_graph.data import Images, LabelledImages
    from pp_graph.fusion import Provenance
    from pp_graph.model import ModelInput
    from pp_graph.program import Program
    from pp_graph.quantization.network_cut import CutModel
    from pp_graph.quantization.truth import Judged, Truth


Array = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]

LABELS: Final = "label_balanced_accuracy"
MASKS: Final = "mask_f1"


@dataclass(frozen=True)
class ImageDecisions:
    """Decisions about one image.

    Attributes:
        label: Counts of (true positive, false positive, true negative, false negative) labels; all 0 if unknown.
        mask: Counts of pixels, likewise.
    """

    label: Counts
    mask: Counts

    @property
    def right(self) -> float:
        """Share of correct decisions in [0, 1], averaged over label and mask; 1 if the truth is unknown."""
        shares = [(counts[0] + counts[2]) / counts.sum() for counts in (self.label, self.mask) if counts.sum()]
        return float(np.mean(shares)) if shares else 1.0


def typed(program: Program, raw: Mapping[str, Array]) -> dict[str, Array]:
    """Return raw values in the element types of their roles, without intermediates of the post-processing."""
    types = program.signature
    return {role: np.asarray(array, types[role].dtype) for role, array in raw.items() if role in types}


def judge(
    program: Program, raw: Mapping[str, Array], labelled: LabelledImages, indices: Sequence[int]
) -> list[ImageDecisions]:
    """Count correct and wrong decisions.

    Args:
        program: The program that decides, in float32.
        raw: Raw values of some images by role, batch first.
        labelled: All images, with labels and masks.
        indices: Indices of these images in `labelled`.

    Raises:
        DataError: A mask cannot be read.
    """
    values = typed(program, raw)
    predictions = program.predictions(program.run(values))
    pred_mask = predictions.pred_mask
    if pred_mask is not None:
        pred_mask = _without_classes(pred_mask, program.types["pred_mask"].axes)
    decisions = []
    for row, index in enumerate(indices):
        size = None if pred_mask is None else (pred_mask.shape[1], pred_mask.shape[2])
        truth = labelled.masks(index, index + 1, size)[0]
        if labelled.labels is not None:
            anomalous: bool | None = bool(labelled.labels[index])
        else:
            anomalous = None if truth is None else bool(truth.any())
        label = mask = np.zeros(4, np.int64)
        if predictions.pred_label is not None and anomalous is not None:
            label = _count(np.any(predictions.pred_label[row], keepdims=True).reshape(1), np.array([anomalous]))
        if pred_mask is not None:
            if truth is None and anomalous is False:
                truth = np.zeros(pred_mask.shape[1:], np.bool_)
            if truth is not None:
                mask = _count(pred_mask[row], truth)
        decisions.append(ImageDecisions(label, mask))
    return decisions


def _without_classes(masks: Array, axes: str) -> npt.NDArray[np.bool_]:
    """Convert masks to bool (N,H,W). A pixel is anomalous if it is in any class."""
    flags = masks > 0
    if flags.ndim == 4 and 1 not in (flags.shape[1], flags.shape[3]):
        return np.asarray(flags.any(axis=axes.index("C")))
    single: npt.NDArray[np.bool_] = without_channel(flags, "Predicted masks")
    return single


def rates(decisions: Sequence[ImageDecisions]) -> dict[str, float]:
    """Compute rates of correct decisions, in [0, 1].

    Labels are rated by balanced accuracy, the mean recall of anomalous and normal images. Masks are rated by F1 over
    the pixels of all images, because other rates are dominated by normal pixels. Undefined rates, such as F1 without
    anomalous pixels, are left out.
    """
    result: dict[str, float] = {}
    label = _sum([decision.label for decision in decisions])
    recalls = [
        right / total for right, total in ((label[0], label[0] + label[3]), (label[2], label[2] + label[1])) if total
    ]
    if recalls:
        result[LABELS] = float(np.mean(recalls))
    mask = _sum([decision.mask for decision in decisions])
    if mask[0] + mask[3]:
        result[MASKS] = float(2 * mask[0] / (2 * mask[0] + mask[1] + mask[3]))
    return result


def worst_drop(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Return the largest decrease of a rate; negative if all rates rose, 0 if there are none."""
    return max((before[name] - after.get(name, 0.0) for name in before), default=0.0)


def _count(decided: Array, truth: Array) -> Counts:
    return np.array(
        [
            np.sum(decided & truth),
            np.sum(decided & ~truth),
            np.sum(~decided & ~truth),
            np.sum(~decided & truth),
        ],
        np.int64,
    )


def _sum(counts: Sequence[Counts]) -> Counts:
    return np.sum(counts, axis=0, dtype=np.int64) if counts else np.zeros(4, np.int64)


class DecisionCheck:
    """Measures the decisions of quantised layers together with the float32 part after them.

    Args:
        cut: The model, cut into layers and float32 part.
        provenance: Provenance of the model.
        truth: Images about which is known what to decide.
        images: The same images, with values for all inputs.
        inputs: Inputs of the model.
        progress: Called with the number of images just run.

    Raises:
        DataError: The images do not fit, or no decision of the model has a known truth.
    """

    def __init__(
        self,
        cut: CutModel,
        provenance: Provenance,
        truth: Truth,
        images: Images,
        inputs: Sequence[ModelInput],
        progress: Callable[[int], object] | None,
    ) -> None:
        self._truth = truth.fitted(inputs, provenance)
        self._count = len(truth.images)
        self._images = images
        self._inputs = inputs
        self._batch = fixed_batch(inputs) or 1
        self._progress = progress
        self._program = provenance.bind()
        self._roles = {role: record.tensor for role, record in provenance.raw.read.items()}
        self._fed = [port_name(port) for port in cut.layers.inputs]
        self._tail = _compiled(cut.tail(list(self._roles.values())))
        self._before = self._decisions(_compiled(cut.layers), range(self._count))
        if not self._truth.rates(self._before):
            raise DataError(
                "The labelled data leave nothing to measure: no label or mask belongs to a decision of this model, "
                "expected labels for a model with pred_label, masks for one with pred_mask, classes for a classifier "
                "and boxes for a detector. Give such data, or leave out max_drop (--max-drop)."
            )

    def validate(self, compiled: ov.CompiledModel, items: Sequence[int]) -> tuple[float, list[float]]:
        """Return 1 minus the worst drop of a rate on some images, and the share of correct decisions of each image."""
        indices = list(items)
        decisions = self._decisions(compiled, indices)
        before = self._truth.rates([self._before[index] for index in indices])
        return 1 - worst_drop(before, self._truth.rates(decisions)), [decision.right for decision in decisions]

    def measure(self, layers: ov.Model, max_drop: float) -> dict[str, Any]:
        """Return the rates before and after quantisation, for the provenance.

        Raises:
            AccuracyError: A rate fell by more than `max_drop`.
        """
        before = self._truth.rates(self._before)
        after = self._truth.rates(self._decisions(_compiled(layers), range(self._count)))
        drop = worst_drop(before, after)
        if drop > max_drop:
            worst = max(before, key=lambda name: before[name] - after.get(name, 0.0))
            raise AccuracyError(
                f"Quantised, {worst} falls from {before[worst]:.4f} to {after.get(worst, 0.0):.4f} on "
                f"{counted(self._count, 'image')}, by {drop:.4f}, expected {max_drop} at most, even with layers left "
                "in float32. Allow more (--max-drop), calibrate with more images, including anomalous ones, or convert "
                "with precision f32 or f16."
            )
        return {"max_drop": max_drop, "drop": drop, "rates_f32": before, "rates_int8": after}

    def _decisions(self, compiled: ov.CompiledModel, indices: Sequence[int]) -> list[Judged]:
        decisions: list[Judged] = []
        for start in range(0, len(indices), self._batch):
            batch = indices[start : start + self._batch]
            feeds = read_batch(self._images, batch, self._inputs, self._batch)
            outputs = compiled({name: feeds[name] for name in self._fed})
            joints = [outputs[port] for port in compiled.outputs]
            raw = self._tail([*joints, *(feeds[model_input.name] for model_input in self._inputs)])
            values = {role: raw[index][: len(batch)] for index, role in enumerate(self._roles)}
            decisions += self._truth.judge(self._program, values, batch)
            if self._progress is not None:
                self._progress(len(batch))
        return decisions


def _compiled(model: ov.Model) -> ov.CompiledModel:
    return openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
