"""The main job on a small real model: raw export and statistics in, verified OpenVINO models and pictures out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.conversion import convert
from pp_graph.data import Images, open_images
from pp_graph.errors import OutputFileError
from pp_graph.files import written_together
from pp_graph.fusion import FusedModel, fuse
from pp_graph.openvino import OpenVINOModel
from pp_graph.postprocessors import OneClassPostProcessor
from pp_graph.report import prediction_panel, stack_panels
from pp_graph.statistics import Statistics
from pp_graph.verification import VerificationReport, verify

if TYPE_CHECKING:
    from collections.abc import Callable

DATA: Final = Path(__file__).parent / "data"
RAW: Final = DATA / "raw.onnx"
STATISTICS: Final = DATA / "stats.json"
IMAGES: Final = DATA / "images"
MASKS: Final = DATA / "ground_truth"

# Name of the IR, precision of its weights, precision it runs in.
_RUNS: Final = (("model.xml", "f32", "f32"), ("model_f16.xml", "f16", "f32"), ("model.xml", "f32", "bf16"))


@dataclass(frozen=True)
class ImageResult:
    """Prediction of the converted model for one image.

    Attributes:
        name: The image file.
        pred_score: Normalised score, in [0, 1].
        pred_label: Whether it is anomalous.
        anomalous_pixels: Pixels in the mask.
    """

    name: str
    pred_score: float
    pred_label: bool
    anomalous_pixels: int


@dataclass(frozen=True)
class DemoResult:
    """Files and reports of the demo.

    Attributes:
        folder: Output folder.
        fused: The fused model.
        reports: Verification report by combination, such as `f16 weights, f32 execution`.
        images: Prediction for each image.
        files: Written files by kind: `fused`, `ir`, `ir_f16`, `picture`, `inputs`.
    """

    folder: Path
    fused: FusedModel
    reports: dict[str, VerificationReport]
    images: tuple[ImageResult, ...]
    files: dict[str, Path]


def run_demo(folder: str | Path, *, overwrite: bool = False, say: Callable[[str], None] = lambda _: None) -> DemoResult:
    """Fuse, convert, verify and draw, on the model and the photographs that come with the package.

    Args:
        folder: Folder to write to; created if it does not exist.
        overwrite: Replace results of an earlier run.
        say: Called with a line about each stage.

    Returns:
        Written files and reports.

    Raises:
        OutputFileError: The folder cannot be written, or holds results and `overwrite` is false.
        TargetError: OpenVINO cannot run on this machine.
    """
    folder = Path(folder)
    files = {
        "fused": folder / "fused.onnx",
        "ir": folder / "model.xml",
        "ir_f16": folder / "model_f16.xml",
        "picture": folder / "predictions.png",
        "inputs": folder / "inputs",
    }
    beside = [files[name].with_suffix(ending) for name in ("ir", "ir_f16") for ending in (".bin", ".usage.md")]
    for file in (*files.values(), *beside):
        if file.exists() and not overwrite:
            raise OutputFileError(f"Output '{file}' exists already. Use --force (overwrite=True) to replace it.")
        if file.is_dir() != (file == files["inputs"]) and file.exists():
            raise OutputFileError(f"Output '{file}' is in the way: remove it, or choose another folder.")
    _copy_inputs(files["inputs"], overwrite=overwrite)
    say(f"Fusing {RAW.name} with {STATISTICS.name}")
    fused = fuse(RAW, OneClassPostProcessor(Statistics.load(STATISTICS)))
    fused.save(files["fused"], overwrite=overwrite)
    artifacts: dict[str, OpenVINOModel] = {}
    reports = {}
    images = open_images(IMAGES)
    for name, weights, execution in _RUNS:
        if name not in artifacts:
            say(f"Converting to OpenVINO, weights in {weights}")
            artifacts[name] = convert(fused, precision=weights)
            artifacts[name].save(folder / name, overwrite=overwrite)
        say(f"Verifying weights in {weights}, executed in {execution}")
        # From the files, as they will be deployed.
        reports[f"{weights} weights, {execution} execution"] = verify(
            RAW, folder / name, images, inference_precision=execution
        )
    say("Drawing predictions")
    results = _draw(OpenVINOModel.load(files["ir"]), images, files["picture"])
    return DemoResult(folder, fused, reports, results, files)


def _copy_inputs(folder: Path, *, overwrite: bool) -> None:
    """Copy the inputs, so that every step can be repeated by hand."""
    pictures = sorted(file for folder in (IMAGES, MASKS) for file in folder.rglob("*.png"))
    for source in (RAW, STATISTICS, *pictures):
        target = folder / source.relative_to(DATA)
        with written_together(target, overwrite=overwrite) as (draft,):
            draft.write_bytes(source.read_bytes())


def _draw(artifact: OpenVINOModel, images: Images, picture: Path) -> tuple[ImageResult, ...]:
    session = artifact.session()
    name_of_input = session.inputs[0].name
    panels, results = [], []
    for index, name in enumerate(images.names):
        feeds = images.read(index, index + 1, session.inputs)
        outputs = session.run(feeds)
        result = ImageResult(
            name=name,
            pred_score=float(outputs["pred_score"].ravel()[0]),
            pred_label=bool(outputs["pred_label"].ravel()[0]),
            anomalous_pixels=int(outputs["pred_mask"].sum()),
        )
        results.append(result)
        verdict = "anomalous" if result.pred_label else "normal"
        panels.append(
            prediction_panel(
                np.round(feeds[name_of_input][0].transpose(1, 2, 0) * 255).astype(np.uint8),
                outputs["anomaly_map"][0, 0],
                outputs["pred_mask"][0, 0],
                f"{name}: {verdict}, score {result.pred_score:.3f}",
            )
        )
    with written_together(picture, overwrite=True) as (draft,):
        stack_panels(panels).save(draft)
    return tuple(results)
