"""What is known about images, to measure the accuracy of a quantised network on: labels and masks, or classes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from pp_graph.data import open_labelled
from pp_graph.data.classified import NO_CLASS, ClassifiedImages, open_classified
from pp_graph.errors import DataError
from pp_graph.quantization.decisions import judge, rates, typed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.data import Images, LabelledImages, LabelledSource
    from pp_graph.fusion import Provenance
    from pp_graph.model import ModelInput
    from pp_graph.program import Program
    from pp_graph.steps import Array


class Judged(Protocol):
    """A judgement of the decisions about one image."""

    @property
    def right(self) -> float:
        """How right they are, in [0, 1]."""


@runtime_checkable
class Truth(Protocol):
    """Images about which is known what a model should decide."""

    @property
    def images(self) -> Images:
        """The images."""

    @property
    def name(self) -> str | None:
        """Name of the file or folder; None for arrays in memory."""

    def sha256(self) -> str:
        """Return the hash of what is known."""

    def fitted(self, inputs: Sequence[ModelInput], provenance: Provenance) -> Truth:
        """Return the truth for a model with these inputs."""

    def judge(self, program: Program, raw: Mapping[str, Array], indices: Sequence[int]) -> Sequence[Judged]:
        """Judge the decisions about some images, from their raw values by role, batch first."""

    def rates(self, judged: Sequence[Any]) -> dict[str, float]:
        """Return rates in [0, 1], by name; without those that are undefined for these images."""

    def f1(self, judged: Sequence[Any]) -> dict[str, float]:
        """Return F1 of the decisions that the model returns, by what they are about, likewise."""


@dataclass(frozen=True)
class LabelledTruth:
    """Labels and masks of an anomaly model."""

    labelled: LabelledImages

    @property
    def images(self) -> Images:
        """The images."""
        return self.labelled.images

    @property
    def name(self) -> str | None:
        """Name of the file or folder."""
        return self.labelled.name

    def sha256(self) -> str:
        """Return the hash of all images, labels and masks."""
        return self.labelled.sha256()

    def fitted(self, inputs: Sequence[ModelInput], provenance: Provenance) -> Truth:
        """Return itself, as it is the same for every model."""
        del inputs, provenance
        return self

    def judge(self, program: Program, raw: Mapping[str, Array], indices: Sequence[int]) -> Sequence[Judged]:
        """Count correct and wrong labels and pixels."""
        return judge(program, raw, self.labelled, indices)

    def rates(self, judged: Sequence[Any]) -> dict[str, float]:
        """Return balanced accuracy of labels and F1 of pixels."""
        return rates(judged)

    def f1(self, judged: Sequence[Any]) -> dict[str, float]:
        """Return 2 TP / (2 TP + FP + FN) of labels (`image`) and pixels (`mask`), where some are anomalous."""
        found = {}
        for name, part in (("image", "label"), ("mask", "mask")):
            right, wrong, _, missed = sum((getattr(each, part) for each in judged), np.zeros(4, np.int64))
            if right + missed:
                found[name] = float(2 * right / (2 * right + wrong + missed))
        return found


@dataclass(frozen=True)
class ClassJudgement:
    """Decisions about the classes of one image.

    Attributes:
        known: Share of right decisions; None if nothing is known about the image.
        found: Index of the class that the model finds, `NO_CLASS` for an unknown image; of several classes, whether
            each is found, bool, (C,).
        wanted: What is right, likewise.
    """

    known: float | None
    found: Any = NO_CLASS
    wanted: Any = NO_CLASS

    @property
    def right(self) -> float:
        """Share of right decisions; 1 if nothing is known."""
        return 1.0 if self.known is None else self.known


@dataclass(frozen=True)
class ClassTruth:
    """Classes of images.

    An image of one class is right if the model finds it and does not call the image unknown. One of no known class is
    right if it is called unknown, and does not count without such an output. If an image may be of several classes, the
    share of right labels counts.
    """

    classified: ClassifiedImages

    @property
    def images(self) -> Images:
        """The images."""
        return self.classified.images

    @property
    def name(self) -> str | None:
        """Name of the file or folder."""
        return self.classified.name

    def sha256(self) -> str:
        """Return the hash of all classes."""
        return hashlib.sha256(np.ascontiguousarray(self.classified.classes).data).hexdigest()

    def fitted(self, inputs: Sequence[ModelInput], provenance: Provenance) -> Truth:
        """Return itself, as it is the same for every model."""
        del inputs, provenance
        return self

    def judge(self, program: Program, raw: Mapping[str, Array], indices: Sequence[int]) -> Sequence[Judged]:
        """Compare the decisions with the classes."""
        values = typed(program, raw)
        found = program.predictions(program.run(values))
        classes = self.classified.classes[list(indices)]
        if self.classified.several:
            labels = np.asarray(found["pred_label"]) != 0
            return [ClassJudgement(float(np.mean(row == wanted)), row, wanted)
                    for row, wanted in zip(labels, classes, strict=True)]  # fmt: skip
        unknown = found.get("unknown")
        judged = []
        for row, wanted in enumerate(classes):
            rejected = unknown is not None and bool(unknown[row])
            decided = NO_CLASS if rejected else int(found["pred_class"][row])
            nothing_known = wanted == NO_CLASS and unknown is None
            judged.append(ClassJudgement(None if nothing_known else float(decided == wanted), decided, int(wanted)))
        return judged

    def rates(self, judged: Sequence[Any]) -> dict[str, float]:
        """Return the share of right decisions."""
        known = [each.known for each in judged if each.known is not None]
        return {"class_accuracy": float(np.mean(known))} if known else {}

    def f1(self, judged: Sequence[Any]) -> dict[str, float]:
        """Return the mean F1 of the classes that an image has or the model finds (macro F1)."""
        known = [each for each in judged if each.known is not None]
        if not known:
            return {}
        found, wanted = (np.stack([getattr(each, name) for each in known]) for name in ("found", "wanted"))
        if found.ndim == 1:  # as whether each class is found and wanted
            classes = np.arange(max(found.max(), wanted.max()) + 1)
            found, wanted = (each[:, None] == classes for each in (found, wanted))
        right, both = (found & wanted).sum(0), found.sum(0) + wanted.sum(0)
        present = both > 0
        return {"class": float((2 * right[present] / both[present]).mean())} if present.any() else {}


def open_truth(source: LabelledSource | Truth, provenance: Provenance) -> Truth:
    """Open what is known about images, as the family of a model needs it.

    Args:
        source: A folder, a file or arrays: for a classifier as `open_classified` takes them, otherwise as
            `open_labelled` does. Or an open one.
        provenance: Provenance of the model.

    Raises:
        DataError: The data hold nothing that fits the model.
    """
    if isinstance(source, Truth):
        return source
    outputs = provenance.predicted
    if any(output.meaning == "box" for output in outputs.values()) and "classes" in outputs:
        raise DataError(
            "Labelled images are given for a detector, expected its boxes: COCO JSON, or a folder of YOLO's text files "
            "(--boxes), or pp_graph.calibration.BoxTruth."
        )
    if "pred_class" not in outputs:
        return LabelledTruth(open_labelled(source))
    count = next(value.size("C") for value in provenance.signature.types.values() if "C" in value.axes)
    names = outputs["pred_class"].class_names
    classified = open_classified(source, count or len(names), names)  # type: ignore[arg-type]
    if classified.several and "pred_label" not in outputs:
        raise DataError(
            "The labelled images may be of several classes, and the model decides for one (pred_class), expected a "
            "class each. Fuse with --multi-label, or give folders by class."
        )
    return ClassTruth(classified)
