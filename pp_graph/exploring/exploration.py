"""`explore`: run models on images, and write a page on which their settings can be moved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pp_graph.data import LabelledImages, open_images, open_labelled
from pp_graph.data.image_files import MAX_PIXELS
from pp_graph.errors import DataError, PostProcessorError, UnlabelledError
from pp_graph.exploring.classifiers import ExploredClassifier
from pp_graph.exploring.collecting import collect
from pp_graph.exploring.detectors import ExploredDetector
from pp_graph.exploring.families import explore_family
from pp_graph.exploring.models import ExploredModel, opened_artifact
from pp_graph.exploring.page import explore_page
from pp_graph.files import written_together
from pp_graph.openvino.devices import RECOMMENDED
from pp_graph.postprocessors import ClassificationPostProcessor, DetectionPostProcessor
from pp_graph.progress import expect, shows_progress
from pp_graph.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from pp_graph.data import Images, ImageSource, LabelledSource
    from pp_graph.exploring.families import Family
    from pp_graph.fusion import Artifact
    from pp_graph.model import RawModel

MOST_IMAGES: Final = 200
MOST_MEGABYTES: Final = 100.0


@dataclass(frozen=True)
class Exploration:
    """A page to explore; see `explore`. A notebook shows it.

    Attributes:
        html: The page, self-contained.
        images: Number of images that were run.
        shown: Number of images with picture and map on the page.
        notes: Remarks for the user, such as skipped files.
    """

    html: str
    images: int
    shown: int
    notes: tuple[str, ...] = ()

    def save(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> Path:
        """Write the page to an `.html` file, atomically; `inputs` are files that are never replaced.

        Raises:
            OutputFileError: The file exists and `overwrite` is false, is an input, or cannot be written.
        """
        path = Path(path)
        with written_together(path, overwrite=overwrite, inputs=inputs) as (draft,):
            draft.write_bytes(self.html.encode("utf-8", "replace"))
        return path

    def __repr__(self) -> str:
        return f"<Exploration of {self.images} images, {len(self.html) / 1e6:.1f} MB: save('explore.html')>"

    def _repr_html_(self) -> str:
        return (
            '<iframe sandbox="allow-scripts" style="width:100%;height:800px;border:0" '
            f'srcdoc="{escape(self.html)}"></iframe>'
        )


@shows_progress("Running")
def explore(
    model: str | Path | RawModel | Artifact,
    images: ImageSource | LabelledSource,
    *,
    statistics: Statistics | str | Path | None = None,
    compare: str | Path | RawModel | Artifact | Statistics | None = None,
    device: str = "CPU",
    inference_precision: str | None = RECOMMENDED,
    roles: Mapping[str, str] | None = None,
    masks: str | Path | bool = True,
    boxes: str | Path | None = None,
    letterbox: bool = False,
    max_images: int = MOST_IMAGES,
    max_megabytes: float = MOST_MEGABYTES,
    batch_size: int | None = None,
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = None,
    max_pixels: int | None = MAX_PIXELS,
    skip_broken: bool = False,
    progress: Callable[[int], None] | bool | None = None,
) -> Exploration:
    """Run an anomaly model, a detector or a classifier on images, and make a page on which its limits can be moved.

    The page holds what the model compares bit for bit and decides in float32 as the model does, so it shows what the
    model decides after `retune` with the same settings.

    Args:
        model: A raw ONNX model, a fused one or an IR. It runs as `load` runs it.
        images: Images, with labels and masks or without; see `open_labelled` and `open_images`. Of a classifier, with
            classes or without; see `pp_graph.data.classified.open_classified`.
        statistics: Statistics to start from, or a file of them. None takes those in the model; a raw model has none.
        compare: A second model to show beside the first, or other statistics for the same model. Anomaly models only.
        device: OpenVINO device.
        inference_precision: Inference precision; see `load`.
        roles: Names of a raw model's outputs by role, where axes and sizes are ambiguous.
        masks: Folder of the masks; False to use none.
        boxes: Ground truth of a detector, COCO JSON or a folder of YOLO's text files; see
            `pp_graph.data.open_ground_truth`.
        letterbox: Resize images without changing their aspect ratio, for a detector that does not preprocess frames.
        max_images: Most images to show. Of more, half of those shown are wrong or nearest to the cutoff of an anomaly
            model, and the others are spread evenly over the scores; numbers of images still count all. Of detectors and
            classifiers, those shown are spread evenly over the data, and all numbers count these.
        max_megabytes: Size of the page above which fewer images are shown.
        batch_size: Images to run at a time.
        fixed_inputs: Values of inputs other than the images; see `pp_graph.data.fix_inputs`.
        max_pixels: Refuse image files with more pixels; None for no limit.
        skip_broken: Skip image files that cannot be decoded, and list them in `notes`.
        progress: Called with the number of images just done; True shows a progress bar.

    Returns:
        The page.

    Raises:
        PostProcessorError: The model is of another family, or decides nothing, or an option belongs to another family.
        StatisticsError: A raw model comes without statistics, or a file of statistics cannot be read.
        DataError: Images cannot be read or do not fit, or a limit is not positive.
        PPGraphError: The model cannot be opened, converted or run.
    """
    if max_images < 1 or not max_megabytes > 0:
        raise DataError(
            f"The limits are {max_images} images and {max_megabytes:g} MB, expected positive numbers. Give more."
        )
    if isinstance(statistics, str | Path):
        statistics = Statistics.load(statistics)
    if isinstance(compare, str | Path) and Path(compare).suffix.lower() == ".json":
        compare = Statistics.load(compare)
    artifact = opened_artifact(model)
    if artifact is not None and isinstance(artifact.program.post, ClassificationPostProcessor | DetectionPostProcessor):
        family = _open_family(
            artifact, images, boxes, letterbox=letterbox, max_pixels=max_pixels, skip_broken=skip_broken
        )
        if statistics is not None or compare is not None:
            raise PostProcessorError(
                f"Statistics or a second model are given for {family.name}, expected them for anomaly models only. "
                "Leave out --stats and --compare (statistics=, compare=)."
            )
        expect(progress, len(family.images))
        shown = explore_family(
            family,
            artifact,
            device=device,
            precision=inference_precision,
            batch_size=batch_size,
            fixed_inputs=fixed_inputs,
            max_images=max_images,
            max_bytes=max_megabytes * 1e6,
            progress=progress if callable(progress) else None,
        )
        return Exploration(shown.html, shown.images, shown.shown, shown.notes)
    if boxes is not None or letterbox:
        raise PostProcessorError(
            f"{'Boxes of ground truth' if boxes is not None else 'Letterboxing'} are given for a model without "
            "detections, expected a detector that pp-graph fused or converted. Leave out --boxes and --letterbox."
        )
    pairs = [(model, statistics)]
    if isinstance(compare, Statistics):
        pairs.append((model, compare))
    elif compare is not None:
        pairs.append((compare, statistics))
    models = [ExploredModel.open(each, numbers, roles, device, inference_precision) for each, numbers in pairs]
    if isinstance(compare, Statistics):
        models[1] = replace(models[1], name=f"{models[1].name}, other statistics")
    if len(models) > 1 and set(models[0].comparisons) != set(models[1].comparisons):
        raise PostProcessorError(
            f"The models decide about {' and '.join(models[0].comparisons)} and about "
            f"{' and '.join(models[1].comparisons)}, expected the same levels. Compare models with the same outputs."
        )
    labelled, opened, notes = _open(images, masks, max_pixels=max_pixels, skip_broken=skip_broken)
    expect(progress, len(opened))
    found = collect(
        models,
        opened,
        labelled,
        batch_size=batch_size,
        fixed_inputs=fixed_inputs,
        max_images=max_images,
        max_bytes=max_megabytes * 1e6,
        progress=progress if callable(progress) else None,
    )
    notes += opened.notes if labelled is None else labelled.notes
    if len(found.shown) < found.images:
        sample = (
            f"{len(found.shown)} of {found.images} images are shown: half of them are wrong or nearest to the cutoff, "
            "the others are spread evenly over the scores. Numbers of images count all, numbers of pixels those shown"
        )
        notes = (*notes, sample)
    return Exploration(explore_page(models, found, notes), found.images, len(found.shown), notes)


def _open_family(
    artifact: Artifact,
    images: ImageSource | LabelledSource,
    boxes: str | Path | None,
    *,
    letterbox: bool,
    max_pixels: int | None,
    skip_broken: bool,
) -> Family:
    if isinstance(artifact.program.post, DetectionPostProcessor):
        source: Any = images
        return ExploredDetector.open(
            artifact, source, boxes, letterbox=letterbox, max_pixels=max_pixels, skip_broken=skip_broken
        )
    if boxes is not None or letterbox:
        raise PostProcessorError(
            "Boxes of ground truth or letterboxing are given for a classifier, expected neither. Leave out --boxes and "
            "--letterbox: classes are those of the folders."
        )
    return ExploredClassifier.open(artifact, images, max_pixels=max_pixels, skip_broken=skip_broken)


def _open(
    images: ImageSource | LabelledSource, masks: str | Path | bool, *, max_pixels: int | None, skip_broken: bool
) -> tuple[LabelledImages | None, Images, tuple[str, ...]]:
    """Open images with labels if they have any, otherwise without."""
    if isinstance(images, LabelledImages):
        return images, images.images, ()
    why = "images without labels: no confusion matrix"
    if isinstance(images, Mapping) or (isinstance(images, str | Path) and _may_be_labelled(Path(images))):
        try:
            labelled = open_labelled(images, masks=masks, max_pixels=max_pixels, skip_broken=skip_broken)
        except UnlabelledError as error:
            if not isinstance(masks, bool):
                raise
            why = f"images without labels, so without confusion matrix. {str(error).rstrip('.')}"
        else:
            return labelled, labelled.images, ()
    return None, open_images(images, max_pixels=max_pixels, skip_broken=skip_broken), (why,)


def _may_be_labelled(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() == ".npz"
