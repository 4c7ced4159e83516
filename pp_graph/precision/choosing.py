"""`choose_precision`: the fastest precision that keeps the decisions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pp_graph.benchmarking.measuring import describe_machine
from pp_graph.data import LabelledImages, feed_model, open_images, open_labelled
from pp_graph.errors import DataError, TargetError
from pp_graph.fusion import FusedModel, fuse, strip
from pp_graph.fusion.runtime_cutoffs import WITHOUT_STATISTICS, retuned_program
from pp_graph.model import fixed_batch
from pp_graph.openvino.core import openvino_core
from pp_graph.openvino.devices import device_profile, require_device
from pp_graph.precision.blocks import cut_into_blocks
from pp_graph.precision.choice import F1_LEVELS, PrecisionChoice
from pp_graph.precision.decisions import Judge
from pp_graph.precision.measured import Limits, Measured
from pp_graph.precision.plan import BASE, HALVES, INT8, Builder
from pp_graph.precision.search import Search
from pp_graph.precision.state import State
from pp_graph.precision.timing import Stopwatch
from pp_graph.progress import expect, shows_progress
from pp_graph.quantization import Quantization
from pp_graph.quantization.nncf import CalibrationFeeds, read_batch
from pp_graph.quantization.truth import LabelledTruth, open_truth
from pp_graph.raw_values import open_raw_values
from pp_graph.statistics import Statistics
from pp_graph.verification import verify
from pp_graph.verification.report import MAX_LABEL_FLIPS, MAX_PIXEL_FLIPS
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from pp_graph.data import Images, ImageSource, LabelledSource
    from pp_graph.fusion import Provenance
    from pp_graph.openvino import OpenVINOModel
    from pp_graph.postprocessors import PostProcessor
    from pp_graph.precision.blocks import Block
    from pp_graph.quantization.truth import Truth

BUDGET: Final = 10.0
"""Default minutes to search for."""
_CAPABILITIES: Final = {"bf16": "BF16", "f16": "FP16"}


@shows_progress("Searching", seconds=True)
def choose_precision(
    model: FusedModel | str | Path,
    images: ImageSource | LabelledImages,
    *,
    labels: LabelledSource | Truth | None = None,
    device: str = "CPU",
    post: PostProcessor | None = None,
    max_label_flips: int | str | None = MAX_LABEL_FLIPS,
    max_pixel_flips: int | str | None = MAX_PIXEL_FLIPS,
    max_drop: float | None = None,
    precisions: Sequence[str] = (*HALVES, INT8),
    budget: float = BUDGET,
    quantization: Quantization | None = None,
    state: str | Path | None = None,
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = None,
    progress: Callable[[float], None] | bool | None = None,
    **conversion: Any,
) -> PrecisionChoice:
    """Convert a model in the fastest precision, or mixture of precisions, that keeps its decisions.

    Tries f32, bf16 or f16 as far as the device computes in it, int8 if NNCF is installed, and mixtures of them block by
    block. Speed is latency, measured in turns with the f32 model. Decisions are compared with those of the model in
    float32, with its own thresholds and with thresholds calibrated on the artifact.

    Args:
        model: A fused model or its path; with `post`, the path of a raw model.
        images: Images to compare decisions on; labels and masks among them are used.
        labels: Images with labels or masks, to calibrate and to compute F1 on, if `images` have none. For a classifier,
            images with classes; for a detector, a `pp_graph.calibration.BoxTruth`.
        device: Device to measure and run on.
        post: Post-processor to fuse into a raw model first.
        max_label_flips: Labels that may differ from those of the f32 model: a number, or a share such as `"1%"`; None
            for any number.
        max_pixel_flips: Pixels of masks that may differ, likewise.
        max_drop: Maximum decrease, in [0, 1), of the F1 of labels and of the F1 of mask pixels; of a classifier, of the
            share of right classes; of a detector, of its average precision. Needs `labels`.
        precisions: Precisions to try below f32: `bf16`, `f16`, `int8`. Those that the device lacks are left out.
        budget: Minutes to search for. What was found by then is returned.
        quantization: Settings of int8; None calibrates with `images`.
        state: File that keeps the measurements, so that a later call with the same inputs goes on; None for none.
        fixed_inputs: Values of inputs that are neither images nor in the data.
        progress: Called with the seconds just spent; True shows a progress bar.
        **conversion: Further arguments of `convert`: `input_shape`, `batch`, `preprocessing`, `model_info`.

    Returns:
        The artifact and all measurements. If nothing faster is within the limits, the artifact is f32.

    Raises:
        DataError: There are no images, they do not fit, a limit or the budget is out of range, or `max_drop` is given
            without labels.
        DeviceError: The device is not on this machine.
        TargetError: The device does not compute in f32, or OpenVINO cannot convert or run the model.
        PPGraphError: Fusing or converting fails; see `fuse` and `convert`.
    """
    limits = Limits.parse(max_label_flips, max_pixel_flips, max_drop)
    if not 0 < budget < float("inf"):
        raise DataError(f"Budget is {budget:g} minutes, expected a positive number, such as 10. Give more time.")
    require_device(device)
    notes: list[str] = []
    fused = (
        fuse(model, post) if post is not None else model if isinstance(model, FusedModel) else FusedModel.load(model)
    )
    opened, truth = _open(images, labels, notes, fused.provenance)
    if max_drop is not None and truth is None:
        raise DataError(
            f"max_drop is {max_drop} and the images have no labels or masks, expected some to compute F1 with. Give "
            f"labelled images (labels=..., --labels), or leave max_drop out. {' '.join(notes)}".rstrip()
        )
    raw = strip(fused)
    levels = [*_halves(device, precisions), *([INT8] if INT8 in precisions else [])]
    if INT8 in levels and importlib.util.find_spec("nncf") is None:
        levels.remove(INT8)
        notes.append("int8 was left out: NNCF is not installed. Install the extra 'quantize' to try it.")
    quantization = quantization or Quantization(opened, fixed_inputs=fixed_inputs)
    builder = Builder(fused, {"device": device, **conversion}, quantization)
    judge = Judge(fused, builder.base, opened, truth, fixed_inputs)
    inputs = open_raw_values(builder.base, device=device).inputs
    batch = fixed_batch(inputs) or 1
    first = range(min(batch, len(opened)))
    stopwatch = Stopwatch(read_batch(feed_model(opened, inputs, fixed_inputs), first, inputs, batch), device)
    path = None if state is None else Path(state)
    kept = State(path, _key(builder, judge, device, levels))
    if BASE not in kept.times:
        kept.times[BASE] = stopwatch.operator_times(builder.base, BASE)
    builder.blocks = cut_into_blocks(builder.base.network, builder.base.provenance, kept.times[BASE])
    if not builder.blocks:
        raise TargetError(
            "The model has no operators before its post-processing, expected a network to choose a precision for. "
            "Convert it with precision f32."
        )
    if budget < float("inf"):
        expect(progress, round(60 * budget))
    search = Search(
        builder,
        judge,
        stopwatch,
        limits,
        device=device,
        levels=levels,
        state=kept,
        seconds=60 * budget,
        progress=progress if callable(progress) else None,
    )
    search.run()
    for chosen in search.finalists():
        artifact = _finished(builder, chosen, limits, len(opened))
        verification = verify(
            raw,
            artifact,
            opened,
            device=device,
            max_label_flips=max_label_flips,
            max_pixel_flips=max_pixel_flips,
            other_raw=True,
            fixed_inputs=fixed_inputs,
        )
        if verification.passed or chosen.plan.is_base:
            break
        notes.append(f"{chosen.plan} was left out: verify fails, {'; '.join(verification.failures)}.")
    if not verification.passed:
        notes.append(f"Even in f32 verify fails: {'; '.join(verification.failures)}. Set the limits higher.")
    plans = sorted((each for each in search.measured if each.timing is not None), key=_milliseconds)
    if kept.resumed:
        notes.append(f"{kept.resumed} plans were measured by an earlier run with the same inputs ({path}).")
    if not search.complete:
        notes.append(
            f"The budget of {budget:g} minutes was spent before the search ended; {len(plans)} plans were timed, "
            f"the f32 model included. Give more time (budget, --budget)"
            + ("." if path is None else ", or run again to go on.")
        )
    if search.complete and chosen.plan.is_base:
        notes.append(f"Nothing faster than f32 is within the limits ({limits}).")
    return PrecisionChoice(
        artifact,
        chosen.plan.inference_precision,
        chosen,
        tuple(plans),
        tuple(map(search.allowed, plans)),
        tuple(_describe(builder.blocks)),
        judge.base,
        limits,
        verification,
        len(opened),
        search.complete,
        (*notes, *search.notes, *chosen.otherwise),
    )


def _open(
    images: ImageSource | LabelledImages,
    labels: LabelledSource | Truth | None,
    notes: list[str],
    provenance: Provenance,
) -> tuple[Images, Truth | None]:
    """Open images; with their own labels and masks if they have some and none are given."""
    if labels is not None:
        own = images.images if isinstance(images, LabelledImages) else open_images(images)
        return own, open_truth(labels, provenance)
    if provenance.post_processor in WITHOUT_STATISTICS and not isinstance(images, LabelledImages):
        return open_images(images), None
    if isinstance(images, str | Path | Mapping | LabelledImages):
        try:
            labelled = open_labelled(images)
        except DataError as error:
            notes.append(f"Images are taken without labels and masks: {error}")
        else:
            return labelled.images, LabelledTruth(labelled)
    assert not isinstance(images, LabelledImages)
    return open_images(images), None


def _halves(device: str, asked: Sequence[str]) -> list[str]:
    """Return which of bf16 and f16 are asked for and built into the device, as far as OpenVINO reports it."""
    unknown = [precision for precision in asked if precision not in (*HALVES, INT8)]
    if unknown:
        raise TargetError(
            f"Precision '{unknown[0]}' is not known, expected some of: {', '.join((*HALVES, INT8))}. f32 is always "
            "tried; name the others."
        )
    supported = device_profile(device).precisions
    if BASE not in supported:
        raise TargetError(
            f"Device '{device}' computes in {', '.join(supported) or 'its own precision'}, expected f32 to compare "
            "with. There is nothing to choose: convert with precision f32, f16 or int8."
        )
    try:
        capabilities = openvino_core().get_property(device, "OPTIMIZATION_CAPABILITIES")
    except RuntimeError:  # a meta device
        capabilities = []
    return [half for half in HALVES if half in asked and half in supported and _CAPABILITIES[half] in capabilities]


def _key(builder: Builder, judge: Judge, device: str, levels: list[str]) -> str:
    """Return a hash of all that measurements depend on; the limits and the budget may change."""
    versions = [importlib.metadata.version("openvino")]
    settings: tuple[Any, ...] = ()
    if INT8 in levels:
        quantization, inputs = builder.quantization, builder.fused.network.inputs
        versions.append(importlib.metadata.version("nncf"))
        calibration = feed_model(open_images(quantization.images), inputs, quantization.fixed_inputs)
        feeds = CalibrationFeeds(calibration, inputs, quantization.subset_size, None)
        settings = (feeds.sha256, quantization.preset, quantization.float_from)
    return hashlib.sha256(
        repr(
            (
                builder.base.provenance.to_json(),
                judge.sha256,
                device,
                levels,
                settings,
                versions,
                __version__,
                describe_machine(),
            )
        ).encode()
    ).hexdigest()


def _finished(builder: Builder, chosen: Measured, limits: Limits, images: int) -> OpenVINOModel:
    """Build the chosen artifact, with its thresholds and a record of the choice."""
    found, timing = chosen.decided, chosen.timing
    assert timing is not None
    program = None
    if found.statistics is not None:
        statistics = msgspec.convert(found.statistics, Statistics)
        program = retuned_program(builder.base.provenance, statistics, {})
    artifact = builder.build(chosen.plan, program)
    measured = [f"{F1_LEVELS.get(name, name.replace('_', ' '))} {each:.4f}" for name, each in found.f1.items()]
    measured.append(f"{timing.milliseconds:.2f} ms")
    measured.append(f"{timing.ratio:.3f} of f32 ({timing.ratio_low:.3f} to {timing.ratio_high:.3f})")
    record = {
        "plan": str(chosen.plan),
        "limits": str(limits),
        "labels flipped": f"{found.label_flips} of {found.labels}",
        "pixels flipped": f"{found.pixel_flips} of {found.pixels}",
        "measured": "; ".join(measured),
        "thresholds": found.thresholds,
        "images": images,
        "run otherwise": "; ".join(chosen.otherwise) or None,
    }
    conversion = {
        **artifact.conversion,
        "inference_precision": chosen.plan.inference_precision,
        "precision_choice": record,
        "precision_blocks": [
            f"{precision}: {description}"
            for precision, description in zip(chosen.plan.precisions, _describe(builder.blocks), strict=True)
        ],
    }
    finished = replace(artifact, provenance=artifact.provenance.revised(conversion=conversion))
    finished.stamp()
    return finished


def _describe(blocks: list[Block]) -> list[str]:
    return [
        f"block {number}, {len(block.names)} operators from '{block.names[0]}' to '{block.names[-1]}'"
        for number, block in enumerate(blocks, 1)
    ]


def _milliseconds(measured: Measured) -> float:
    assert measured.timing is not None
    return measured.timing.ratio
