"""Run the models to explore on images, and keep what the page needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data import feed_model
from pp_graph.exploring.encoding import encode_map, encode_mask, encode_picture
from pp_graph.exploring.models import shown_input
from pp_graph.report.shown_images import rgb_image
from pp_graph.running import open_source
from pp_graph.running.feeding import read_feeds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pp_graph.data import Images, LabelledImages
    from pp_graph.exploring.models import ExploredModel
    from pp_graph.running import Source

UNKNOWN: Final = -1
"""Label of an image without one."""
_PICTURE_BYTES: Final = 40_000
"""Estimate for a picture on the page."""

Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EncodedMap:
    """A map as the page holds it.

    Attributes:
        text: The encoded numbers.
        size: Height and width.
        least: Smallest finite number; 0 if there is none.
        most: Largest finite number; 0 if there is none.
    """

    text: str
    size: tuple[int, int]
    least: float
    most: float

    @classmethod
    def of(cls, numbers: Numbers) -> EncodedMap:
        """Encode a map (H,W)."""
        finite = numbers[np.isfinite(numbers)]
        least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        return cls(encode_map(numbers), (numbers.shape[0], numbers.shape[1]), least, most)


@dataclass(frozen=True)
class Collected:
    """Results of all models.

    Attributes:
        images: Number of images.
        shown: Indices of the images to show, ascending.
        names: Name of each image shown.
        labels: 1 for anomalous, 0 for normal, -1 for unknown, int8, (N,).
        scores: Raw scores of each model, float32, (N,); None if the models have none.
        maps: Maps of each model by index of the image.
        pictures: Encoded picture of each image shown.
        masks: Encoded ground truth of each model's map size, by index of the image.
    """

    images: int
    shown: tuple[int, ...]
    names: tuple[str, ...]
    labels: npt.NDArray[np.int8]
    scores: tuple[Numbers, ...] | None
    maps: tuple[dict[int, EncodedMap], ...]
    pictures: tuple[str, ...]
    masks: tuple[dict[int, str], ...]


def collect(
    models: Sequence[ExploredModel],
    images: Images,
    labelled: LabelledImages | None,
    *,
    batch_size: int | None,
    fixed_inputs: Mapping[str, npt.ArrayLike] | None,
    max_images: int,
    max_bytes: float,
    progress: Callable[[int], None] | None,
) -> Collected:
    """Run the models on all images, and choose the ones to show; see `explore`."""
    sources = [
        open_source(feed_model(images, model.inputs, fixed_inputs), model.inputs, batch_size=batch_size)
        for model in models
    ]
    shown_input(models[0].inputs)
    count = len(sources[0])
    labels = _labels(labelled, count)
    scores: list[Numbers] = []
    maps: list[dict[int, EncodedMap]] = []
    most = max_images
    for model, source in zip(models, sources, strict=True):
        found: list[Numbers] = []
        kept: dict[int, EncodedMap] = {}
        for start, stop in source.spans():
            values = model.run(read_feeds(source, start, stop, model.inputs))
            if "image" in values:
                found.append(values["image"])
            if "pixel" in values and (count <= most or not kept):
                kept |= {index: EncodedMap.of(each) for index, each in enumerate(values["pixel"], start)}
                size = len(models) * max(len(each.text) for each in kept.values()) + _PICTURE_BYTES
                most = min(most, max(1, int(max_bytes // size)))
            if progress is not None and model is models[0]:
                progress(stop - start)
        maps.append(kept)
        if found:
            scores.append(np.concatenate(found))
    shown = range(count) if count <= most else _chosen(models, labels, scores, most)
    for model, source, kept in zip(models, sources, maps, strict=True):
        if kept:
            kept.update(_maps_of(model, source, set(shown) - set(kept)))
    first = sources[0]
    return Collected(
        images=count,
        shown=tuple(shown),
        names=tuple(first.images.names[index].encode("utf-8", "replace").decode() for index in shown),
        labels=labels,
        scores=tuple(scores) or None,
        maps=tuple(maps),
        pictures=tuple(encode_picture(rgb_image(first, index, models[0].inputs)) for index in shown),
        masks=tuple(_masks(labelled, shown, kept) for kept in maps),
    )


def _labels(labelled: LabelledImages | None, count: int) -> npt.NDArray[np.int8]:
    if labelled is None:
        return np.full(count, UNKNOWN, np.int8)
    if labelled.labels is not None:
        return labelled.labels.astype(np.int8)
    masks = (labelled.masks(index, index + 1, None)[0] for index in range(count))
    return np.array([UNKNOWN if mask is None else mask.any() for mask in masks], np.int8)


def _masks(labelled: LabelledImages | None, shown: Sequence[int], maps: Mapping[int, EncodedMap]) -> dict[int, str]:
    if labelled is None or not maps:
        return {}
    masks = ((index, labelled.masks(index, index + 1, maps[index].size)[0]) for index in shown)
    return {index: encode_mask(mask) for index, mask in masks if mask is not None and mask.any()}


def _chosen(
    models: Sequence[ExploredModel], labels: npt.NDArray[np.int8], scores: Sequence[Numbers], most: int
) -> list[int]:
    """Choose images: half wrong, decided differently or nearest to the cutoff, half spread over the scores."""
    if not scores:
        return [int(index) for index in np.linspace(0, len(labels) - 1, most)]
    comparisons = [model.comparisons["image"] for model in models]
    decided = [step.reference(each).astype(bool) for step, each in zip(comparisons, scores, strict=True)]
    notable = (labels != UNKNOWN) & (decided[0] != (labels == 1)) | (decided[0] != decided[-1])
    distance = np.abs(np.nan_to_num(scores[0].astype(np.float64)) - float(comparisons[0].cutoffs))
    order = np.lexsort((distance, ~notable))
    chosen = order[: most // 2]
    others = order[most // 2 :][np.argsort(scores[0][order[most // 2 :]], kind="stable")]
    spread = np.linspace(0, len(others) - 1, most - len(chosen)).astype(int)
    return sorted(int(index) for index in (*chosen, *others[spread]))


def _maps_of(model: ExploredModel, source: Source, wanted: set[int]) -> dict[int, EncodedMap]:
    """Run the batches of some images again; whole batches, because a smaller one may round differently."""
    found: dict[int, EncodedMap] = {}
    for start, stop in source.spans():
        if wanted.isdisjoint(range(start, stop)):
            continue
        values = model.run(read_feeds(source, start, stop, model.inputs))
        found |= {index: EncodedMap.of(values["pixel"][index - start]) for index in wanted if start <= index < stop}
    return found
