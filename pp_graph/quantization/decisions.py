"""Measure how many right decisions a quantised network loses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.labels import without_channel
from pp_graph.errors import AccuracyError, DataError
from pp_graph.model import fixed_batch
from pp_graph.openvino.core import openvino_core, port_name
from pp_graph.quantization.nncf import read_some

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import openvino as ov

    from pp_graph.data import Images, LabelledImages
    from pp_graph.fusion import Provenance
    from pp_graph.model import ModelInput
    from pp_graph.program import Program
    from pp_graph.quantization.network_cut import CutModel


Array = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]

LABELS: Final = "label_balanced_accuracy"
MASKS: Final = "mask_f1"


@dataclass(frozen=True)
class ImageDecisions:
    """Decisions about one image.

    Attributes:
        label: Counts of (true positive, false positive, true negative, false negative) labels; all 0 without labels.
        mask: The same for pixels.
    """

    label: Counts
    mask: Counts

    @property
    def right(self) -> float:
        """Share of right decisions, the mean over label and pixels, as far as there are any."""
        shares = [(counts[0] + counts[2]) / counts.sum() for counts in (self.label, self.mask) if counts.sum()]
        return float(np.mean(shares)) if shares else 1.0


def judge(
    program: Program, raw: Mapping[str, Array], labelled: LabelledImages, indices: Sequence[int]
) -> list[ImageDecisions]:
    """Count right and wrong decisions.

    Args:
        program: What decides, in float32.
        raw: Raw values of the images by role, batch first.
        labelled: The images, with labels and masks.
        indices: Which of the images these are.

    Raises:
        DataError: A mask cannot be read.
    """
    values = {role: np.asarray(array, program.signature[role].dtype) for role, array in raw.items()}
    found = program.predictions(program.run(values))
    # Masks may be numbers that stand for booleans.
    pred_mask = None if found.pred_mask is None else _without_classes(found.pred_mask, program.types["pred_mask"].axes)
    decisions = []
    for at, index in enumerate(indices):
        size = None if pred_mask is None else (pred_mask.shape[1], pred_mask.shape[2])
        truth = labelled.masks(index, index + 1, size)[0]
        if labelled.labels is not None:
            anomalous: bool | None = bool(labelled.labels[index])
        else:
            anomalous = None if truth is None else bool(truth.any())
        label = mask = np.zeros(4, np.int64)
        if found.pred_label is not None and anomalous is not None:
            label = _count(np.any(found.pred_label[at], keepdims=True).reshape(1), np.array([anomalous]))
        if pred_mask is not None:
            if truth is None and anomalous is False:
                truth = np.zeros(pred_mask.shape[1:], np.bool_)
            if truth is not None:
                mask = _count(pred_mask[at], truth)
        decisions.append(ImageDecisions(label, mask))
    return decisions


def _without_classes(masks: Array, axes: str) -> npt.NDArray[np.bool_]:
    """Masks as (N,H,W); of several classes, where any of them is anomalous."""
    found = masks > 0
    if found.ndim == 4 and 1 not in (found.shape[1], found.shape[3]):
        return np.asarray(found.any(axis=axes.index("C")))
    flags: npt.NDArray[np.bool_] = without_channel(found, "Predicted masks")
    return flags


def rates(decisions: Sequence[ImageDecisions]) -> dict[str, float]:
    """Rates of right decisions, in [0, 1].

    Labels have their balanced accuracy, the mean of the shares found among anomalous and among normal images. Masks
    have F1 over all pixels together, as there are so many more normal pixels that other rates hardly see the anomalous
    ones. A rate that has no meaning for these images, as F1 without anomalous pixels, is left out.
    """
    found: dict[str, float] = {}
    label = _sum([each.label for each in decisions])
    recalls = [
        right / total for right, total in ((label[0], label[0] + label[3]), (label[2], label[2] + label[1])) if total
    ]
    if recalls:
        found[LABELS] = float(np.mean(recalls))
    mask = _sum([each.mask for each in decisions])
    if mask[0] + mask[3]:
        found[MASKS] = float(2 * mask[0] / (2 * mask[0] + mask[1] + mask[3]))
    return found


def worst_drop(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """The most that a rate fell, negative where all of them rose; 0 where there is none."""
    return max((before[name] - after[name] for name in before), default=0.0)


def require_rates(found: Mapping[str, float]) -> None:
    """Make sure that there is something to measure.

    Raises:
        DataError: There is no decision of the model whose truth is known.
    """
    if not found:
        raise DataError(
            "The labelled data leave nothing to measure: none of its labels or masks belongs to a decision of this "
            "model, expected labels for a model that writes pred_label, or masks for one that writes pred_mask. Give "
            "such data, or leave out max_drop (--max-drop)."
        )


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
    """Measures decisions of quantised layers with the float32 part behind them, as it ships.

    Args:
        cut: The model, cut in two.
        provenance: What is fused into it.
        labelled: Images with labels or masks.
        images: The same, with all that the model is fed.
        inputs: What the model is fed.
        progress: Called with the number of images just run.

    Raises:
        DataError: The images do not fit, or there is nothing to measure on them.
    """

    def __init__(
        self,
        cut: CutModel,
        provenance: Provenance,
        labelled: LabelledImages,
        images: Images,
        inputs: Sequence[ModelInput],
        progress: Callable[[int], None] | None,
    ) -> None:
        self._labelled = labelled
        self._images = images
        self._inputs = inputs
        self._batch = fixed_batch(inputs) or 1
        self._progress = progress
        self._program = provenance.bind()
        self._roles = {role: record.tensor for role, record in provenance.raw.read.items()}
        self._fed = [port_name(port) for port in cut.layers.inputs]
        self._tail = _compiled(cut.tail(list(self._roles.values())))
        self._before = self._decisions(_compiled(cut.layers), range(len(labelled)))
        require_rates(rates(self._before))

    def validate(self, compiled: ov.CompiledModel, items: Sequence[int]) -> tuple[float, list[float]]:
        """1 minus the worst drop of a rate on some of the images, and the share of right decisions an image."""
        indices = list(items)
        found = self._decisions(compiled, indices)
        before = rates([self._before[index] for index in indices])
        return 1 - worst_drop(before, rates(found)), [each.right for each in found]

    def measure(self, layers: ov.Model, max_drop: float) -> dict[str, Any]:
        """Rates before and after, for the provenance.

        Raises:
            AccuracyError: One fell by more than is allowed.
        """
        before = rates(self._before)
        after = rates(self._decisions(_compiled(layers), range(len(self._labelled))))
        drop = worst_drop(before, after)
        if drop > max_drop:
            worst = max(before, key=lambda name: before[name] - after[name])
            raise AccuracyError(
                f"Quantised, {worst} falls from {before[worst]:.4f} to {after[worst]:.4f} on {len(self._labelled)} "
                f"images, by {drop:.4f}, expected {max_drop} at most; leaving layers in float32 did not do. "
                "Allow more (--max-drop), calibrate with more images, anomalous ones among them, or convert with "
                "precision f32 or f16."
            )
        return {"max_drop": max_drop, "drop": drop, "rates_f32": before, "rates_int8": after}

    def _decisions(self, compiled: ov.CompiledModel, indices: Sequence[int]) -> list[ImageDecisions]:
        found: list[ImageDecisions] = []
        for start in range(0, len(indices), self._batch):
            some = indices[start : start + self._batch]
            feeds = read_some(self._images, some, self._inputs, self._batch)
            outputs = compiled({name: feeds[name] for name in self._fed})
            joints = [outputs[port] for port in compiled.outputs]
            raw = self._tail([*joints, *(feeds[each.name] for each in self._inputs)])
            values = {role: raw[index][: len(some)] for index, role in enumerate(self._roles)}
            found += judge(self._program, values, self._labelled, some)
            if self._progress is not None:
                self._progress(len(some))
        return found


def _compiled(model: ov.Model) -> ov.CompiledModel:
    return openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
