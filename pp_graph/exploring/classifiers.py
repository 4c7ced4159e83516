"""A classifier to explore: probabilities, about which the page decides again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pp_graph.data import open_images
from pp_graph.data.classified import ClassifiedImages, open_classified
from pp_graph.errors import DataError
from pp_graph.postprocessors import RAW_LOGITS, ClassificationPostProcessor
from pp_graph.steps import Softmax

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.data import Images
    from pp_graph.data.classified import ClassifiedSource
    from pp_graph.fusion import Artifact
    from pp_graph.model import ModelInput
    from pp_graph.program import Program
    from pp_graph.steps import Array

Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ExploredClassifier:
    """A classifier that returns the probabilities that its limits are compared with; see `Family`.

    Attributes:
        post: The model's own post-processor.
        program: The model's own post-processing.
        reference: One that computes the probabilities that limits are compared with, in NumPy.
        images: The images.
        truth: Images with their classes; None if unknown.
        notes: Remarks about the data.
    """

    name: ClassVar[str] = "a classifier"
    script: ClassVar[str] = "classification.js"
    post: ClassificationPostProcessor
    program: Program
    reference: Program
    images: Images
    truth: ClassifiedImages | None
    notes: tuple[str, ...]

    @classmethod
    def open(cls, artifact: Artifact, images: Any, **reading: Any) -> ExploredClassifier:
        """Open images, with their classes if they have any.

        Raises:
            DataError: Images cannot be read or do not fit.
        """
        post = artifact.program.post
        assert isinstance(post, ClassificationPostProcessor)
        reference = artifact.program.replace(
            unknown_below=None,
            multi_label=None,
            top=None,
            thresholds="fixed",
            outputs=("probabilities", "pred_class", "pred_prob"),
        )
        source: ClassifiedSource = images
        try:
            truth = open_classified(source, reference.signature[RAW_LOGITS].size("C") or 0, post.labels, **reading)
        except DataError as error:
            opened = open_images(images, **reading)
            why = f"images without classes, so without confusion matrix. {str(error).rstrip('.')}"
            return cls(post, artifact.program, reference, opened, None, (*opened.notes, why))
        return cls(post, artifact.program, reference, truth.images, truth, tuple(truth.images.notes))

    def numbers(self, values: Mapping[str, Array]) -> list[Numbers]:
        """Return the largest probability, its class, and the probability of each class, (1,2+C)."""
        # A limit on a sigmoid is a cutoff on the logit, so its probability is that of the reference; a softmax is
        # compared as the runtime computes it.
        softmax = {step.target for step in self.reference.steps if isinstance(step, Softmax)}
        given = {name: each for name, each in values.items() if name in self.program.signature or name in softmax}
        found = self.reference.compute(given, ("pred_prob", "pred_class", "probabilities"))
        count = len(found["pred_prob"])
        columns = (
            found[name].reshape(count, -1).astype(np.float32) for name in ("pred_prob", "pred_class", "probabilities")
        )
        return [row[None] for row in np.concatenate(list(columns), 1)]

    def fitted(self, numbers: list[Numbers]) -> tuple[list[Numbers], dict[str, Any], tuple[str, ...]]:
        """Keep all."""
        return numbers, {}, ()

    def meta(
        self, places: Sequence[int], sizes: Sequence[tuple[int, int]], inputs: Sequence[ModelInput]
    ) -> dict[str, Any]:
        """Return settings and classes."""
        del sizes, inputs
        kept = self.post.outputs
        truth = None
        if self.truth is not None:
            chosen = self.truth.classes[list(places)]
            truth = [np.flatnonzero(row).tolist() if self.truth.several else int(row) for row in chosen]
        return {
            "classes": list(self.post.labels),
            "unknown": None if kept is not None and "unknown" not in kept else self.post.unknown_below,
            "multi": None if kept is not None and "pred_label" not in kept else self.post.multi_label,
            "nanIsUnknown": self.post.on_nan == "anomalous",
            "truth": truth,
            "several": self.truth is not None and self.truth.several,
        }
