"""A model to explore: what it compares, with what, and how to run it as `run` does."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.conversion import convert
from pp_graph.data.labels import without_channel
from pp_graph.errors import DataError, PostProcessorError, StatisticsError
from pp_graph.fusion import Artifact, FusedModel, Provenance, fuse
from pp_graph.model import RawModel, image_input
from pp_graph.one_class_options import OPTIONS
from pp_graph.opening import kind_of, open_artifact
from pp_graph.openvino import OpenVINOModel, OpenVINOSession
from pp_graph.openvino.devices import RECOMMENDED, chosen_precision
from pp_graph.postprocessors import OneClassPostProcessor
from pp_graph.sessions import run_in_batches
from pp_graph.sessions.session import with_batch_axes
from pp_graph.steps import Compare, MinMaxNormalize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.model import ModelInput
    from pp_graph.program import Program
    from pp_graph.statistics import Statistics
    from pp_graph.steps import Array

DECISIONS: Final = {"image": "pred_label", "pixel": "pred_mask"}
"""The decision of each level."""


@dataclass(frozen=True)
class ExploredModel:
    """A one-class model compiled for a device, with the raw values that it compares as further outputs.

    Attributes:
        name: Name of the model.
        command: Command line that writes the model with other settings, without the settings.
        ending: Ending of the file that the command writes.
        given: True if the statistics come from a file and not from the model.
        program: The program.
        tensors: Tensor of each raw value and intermediate, by name.
        session: The runtime, compiled as `load` compiles it.
        inputs: Inputs to feed.
    """

    name: str
    command: str
    ending: str
    given: bool
    program: Program
    tensors: Mapping[str, str]
    session: OpenVINOSession
    inputs: tuple[ModelInput, ...]

    @classmethod
    def open(
        cls,
        model: str | Path | RawModel | Artifact,
        statistics: Statistics | None,
        roles: Mapping[str, str] | None,
        device: str,
        precision: str | None,
    ) -> ExploredModel:
        """Open, fuse and convert as far as needed, and compile.

        Raises:
            PostProcessorError: The model is not of the one-class family, or decides nothing.
            StatisticsError: A raw model comes without statistics.
            PPGraphError: The model cannot be used, see `fuse`, `convert` and `load`.
        """
        named = model if isinstance(model, str | Path) else _file(model)
        artifact, raw = _artifact(model, statistics, roles)
        _require_one_class(artifact, named)
        if statistics is not None and not raw:
            artifact = artifact.with_program(artifact.program.replace(statistics))
        session, inputs, tensors = compiled(artifact, device, precision)
        file = shlex.quote(str(named)) if named is not None else "MODEL"
        return cls(
            Path(named).name if named is not None else artifact.provenance.raw.file or "(in memory)",
            " ".join(
                ["pp-graph convert", file, *_flags(artifact, roles, device)] if raw else ["pp-graph retune", file]
            ),
            ".onnx" if isinstance(artifact, FusedModel) and not raw else ".xml",
            raw or statistics is not None,
            artifact.program,
            tensors,
            session,
            inputs,
        )

    @property
    def comparisons(self) -> dict[str, Compare]:
        """The comparison of each level that decides something."""
        steps = {step.target: step for step in self.program.steps if isinstance(step, Compare)}
        return {level: steps[name] for level, name in DECISIONS.items() if name in steps}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run a batch.

        Returns:
            What each level compares, float32: scores (N,) under `image`, maps (N,H,W) under `pixel`.
        """
        outputs = run_in_batches(self.session, feeds)
        signature = self.program.signature
        with np.errstate(over="ignore"):
            values = {
                name: outputs[tensor].astype(signature[name].dtype if name in signature else np.float32)
                for name, tensor in self.tensors.items()
            }
        sources = {level: step.source for level, step in self.comparisons.items()}
        computed = self.program.compute(values, sources.values())
        return {
            level: without_channel(computed[name], "Maps") if level == "pixel" else computed[name].reshape(-1)
            for level, name in sources.items()
        }

    @property
    def statistics(self) -> dict[str, Any]:
        """Thresholds and ranges of both levels as JSON values."""
        statistics = self.program.statistics
        assert statistics is not None
        return {
            level: {name: getattr(getattr(statistics, level), name) for name in ("threshold", "min", "max")}
            for level in DECISIONS
        }

    def levels(self) -> dict[str, dict[str, Any]]:
        """Return the settings of each level as JSON values."""
        post = self.program.post
        assert isinstance(post, OneClassPostProcessor)
        found = {}
        for level, step in self.comparisons.items():
            normalizer = step.normalizer
            assert normalizer is None or isinstance(normalizer, MinMaxNormalize)
            found[level] = {
                "threshold": _float32(step.level if normalizer is None else normalizer.threshold),
                "min": None if normalizer is None else _float32(normalizer.minimum),
                "max": None if normalizer is None else _float32(normalizer.maximum),
                "sensitivity": getattr(post, f"{level}_sensitivity"),
                "nanIsAnomalous": step.on_nan == "anomalous",
                "adjustable": step.runtime,
            }
        return found


def compiled(
    artifact: Artifact, device: str, precision: str | None
) -> tuple[OpenVINOSession, tuple[ModelInput, ...], dict[str, str]]:
    """Compile as `load` does, with raw values and intermediates as further outputs.

    Returns:
        The session, its inputs, and the tensor of each raw value and intermediate, by name.
    """
    converted = convert(artifact, device=device) if isinstance(artifact, FusedModel) else artifact
    assert isinstance(converted, OpenVINOModel)
    provenance = converted.provenance
    session = OpenVINOSession(
        converted.network,
        device=device,
        precision=(chosen_precision(provenance, device) or RECOMMENDED) if precision == RECOMMENDED else precision,
        performance_hint="throughput",
        probes=list(provenance.tensors.values()),
        preprocessing=provenance.preprocessing,
        fit_sizes=True,
    )
    return session, with_batch_axes(session.inputs, provenance.conversion), provenance.tensors


def shown_input(inputs: Sequence[ModelInput]) -> ModelInput:
    """Return the input that takes the images to show.

    Raises:
        DataError: There is none.
    """
    images = image_input(inputs)
    if images is None:
        names = ", ".join(f"'{each.name}'" for each in inputs)
        raise DataError(
            f"The model's inputs are {names}, expected one that takes images to show. Run it with pp-graph run."
        )
    return images


def _file(model: RawModel | Artifact) -> Path | None:
    return model.source if isinstance(model, RawModel) else model.file


def opened_artifact(model: str | Path | RawModel | Artifact) -> Artifact | None:
    """Open an artifact; None for a raw model."""
    if isinstance(model, Artifact):
        return model
    if isinstance(model, str | Path) and kind_of(model) == "ir":
        return open_artifact(model)
    raw = RawModel.open(model)
    provenance = Provenance.from_metadata(raw.model.metadata_props)
    return None if provenance is None else FusedModel.of(raw, provenance)


def _artifact(
    model: str | Path | RawModel | Artifact, statistics: Statistics | None, roles: Mapping[str, str] | None
) -> tuple[Artifact, bool]:
    """Open the model; fuse a raw one. The second result is True for a raw one."""
    artifact = opened_artifact(model)
    if artifact is not None:
        return artifact, False
    raw = RawModel.open(model)  # type: ignore[arg-type]
    if statistics is None:
        raise StatisticsError(
            f"'{raw.source or 'The model'}' is a raw model without statistics, expected thresholds and ranges to start "
            "from. Give --stats FILE (statistics=Statistics.load(FILE)); pp-graph calibrate finds them. Convert a "
            "detector or a classifier first (pp-graph convert --task ...)."
        )
    settings = {} if statistics.provenance is None else statistics.provenance.settings
    return fuse(raw, OneClassPostProcessor(statistics, **settings), roles=roles), True


def _require_one_class(artifact: Artifact, named: object) -> None:
    found = artifact.provenance.post_processor
    what = f"Model '{named}'" if named is not None else "The model"
    if not isinstance(artifact.program.post, OneClassPostProcessor):
        raise PostProcessorError(
            f"{what} is no anomaly model, detector or classifier (it has the post-processor {found}), expected one: "
            "explore serves no other. Draw the results with pp-graph run MODEL IMAGES -o DIR --report FILE.html."
        )
    if not any(name in artifact.provenance.predicted for name in DECISIONS.values()):
        raise PostProcessorError(
            f"{what} returns {', '.join(artifact.provenance.predicted)}, expected pred_label or pred_mask: without "
            "decisions there is nothing to adjust. Fuse the raw model without --no-threshold and --outputs."
        )


def _flags(artifact: Artifact, roles: Mapping[str, str] | None, device: str) -> list[str]:
    """Return what `convert` needs beside the statistics and sensitivities."""
    flags = [] if device == "CPU" else ["--device", device]
    flags += [word for role, name in (roles or {}).items() for word in ("--role", f"{role}={name}")]
    post = artifact.program.post
    for name, option in OPTIONS.items():
        value = getattr(post, name)
        if value == option.default or option.moves is not None:
            continue
        if option.is_switch:
            flags.append(option.flag if value else f"--no-{option.flag.removeprefix('--')}")
        elif isinstance(value, str):
            flags += [option.flag, value]
    return [shlex.quote(flag) for flag in flags]


def _float32(number: float) -> float:
    return float(np.float32(number))
