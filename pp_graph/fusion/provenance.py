"""What a fused model says about itself: a versioned JSON in its metadata."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from pp_graph.errors import PostProcessorError, ProvenanceError
from pp_graph.fusion.tail import ReplacedPart, TailRecord
from pp_graph.model import METADATA_KEY
from pp_graph.model.opset_raising import RaisedOpset
from pp_graph.postprocessors import (
    PACKED_NAME,
    CompiledSteps,
    PostProcessor,
    RawLayout,
    find_post_processor,
    post_processor_names,
    unpack,
)
from pp_graph.postprocessors.layout import RAW_MAP, RAW_SCORE
from pp_graph.preprocessing import Preprocessing
from pp_graph.statistics import Statistics
from pp_graph.steps import Compare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.steps import Array, Cutoff

SCHEMA_VERSION = 3
_LISTED_CUTOFFS = 1024
"""Cutoffs up to which those of a comparison are listed one by one."""
_LONGEST = 100
"""Characters of a parameter that are shown to people."""
_READABLE = (1, 2, SCHEMA_VERSION)
"""Version 1 knew no rewritten tails, version 2 no inner values, adjustable cutoffs and layouts."""


class RawOutputRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An output of the raw model that post-processing reads.

    Attributes:
        name: Name in the raw model.
        tensor: Name of the same value in the fused model; another one where ours took the name.
        rank: Its rank, None where it is not known.
        channels_last: Whether a map of rank 4 is (N,H,W,1).
        classes: Size of its axis of classes, 1 where it has none; None where it is not known.
        size: Height and width of a map; None where they are not known.
        declaration: Its entry among the raw model's outputs, as a base64 ONNX ValueInfoProto.
        declared_inside: Whether the raw model declares it among its inner values as well.
    """

    name: str
    tensor: str
    rank: int | None = None
    channels_last: bool = False
    classes: int | None = 1
    size: tuple[int, int] | None = None
    declaration: str
    declared_inside: bool = False


class RawRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The raw model, as far as it is needed to recognise and to restore it.

    Attributes:
        sha256: Hash of the raw `.onnx` file.
        file: Its name, without folders; None for a model that was in memory.
        score: The raw score; None where the model has none.
        map: The raw map; None where the model has none.
        outputs: Names of all its outputs, in order.
        renamed: New name to name in the raw model, for inner values whose name an output needed.
        opset_added: Whether the raw model did not import the default domain itself.
        input_size: Height and width of the images that the model takes; None where they are not known.
        unread: A score or map that is neither read nor kept, because only other outputs were asked for.
    """

    sha256: str
    file: str | None
    score: RawOutputRecord | None
    map: RawOutputRecord | None
    outputs: list[str]
    renamed: dict[str, str]
    opset_added: bool = False
    input_size: tuple[int, int] | None = None
    unread: list[RawOutputRecord] = []

    @property
    def read(self) -> dict[str, RawOutputRecord]:
        """The outputs that post-processing reads, by role: `raw_score`, `raw_map`."""
        records = {RAW_SCORE: self.score, RAW_MAP: self.map}
        return {role: record for role, record in records.items() if record is not None}


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the post-processing in a model comes from.

    Attributes:
        schema_version: Version of this record.
        pp_graph_version: Version that wrote it.
        post_processor: Class of the post-processor; with its module where it is not one of pp_graph.
        parameters: Its parameters, without the statistics.
        statistics: The calibrated numbers.
        cutoffs: What a comparison writes, to the smallest value that is anomalous: a float32, "inf", "-inf", or
            "never"; a list of these for one cutoff a class, and a hash for one a pixel.
        prefix: What the names of all nodes and constants of the post-processing begin with.
        inner: Values inside the post-processing that runtimes round differently and from which decisions follow, such
            as a resized map: name of the step's result to that of its tensor.
        adjustable: Names of the inputs (in OpenVINO: states) that hold cutoffs; empty where these are constants.
        raw: The raw model.
        tail: How the raw model's own tail was rewritten.
        replaced: What that replaced; None in an IR, and where nothing was.
        raised: How its opset was raised before; None in an IR, and where it was not.
        conversion: Settings of the conversion to OpenVINO; None in an ONNX file.
        preprocessing: What the converted model does with frames; None where it takes what the raw one does.
    """

    schema_version: int
    pp_graph_version: str
    post_processor: str
    parameters: dict[str, Any]
    statistics: Statistics | None
    cutoffs: dict[str, float | str | list[float | str]]
    prefix: str
    inner: dict[str, str] = {}
    adjustable: list[str] = []
    raw: RawRecord
    tail: list[TailRecord] = []
    replaced: ReplacedPart | None = None
    raised: RaisedOpset | None = None
    conversion: dict[str, Any] | None = None
    preprocessing: Preprocessing | None = None

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Read the record from metadata.

        Raises:
            ProvenanceError: The text is not such a record, or of a version this pp_graph does not know.
        """
        try:
            version = msgspec.json.decode(text, type=_Versioned).schema_version
            if version not in _READABLE:
                raise ProvenanceError(
                    f"Provenance has schema version {version}, expected at most {SCHEMA_VERSION}. "
                    "Upgrade pp_graph, or fuse the raw model again."
                )
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise ProvenanceError(
                f"Metadata '{METADATA_KEY}' is not pp_graph's provenance: {error}. Fuse the raw model again."
            ) from error

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Provenance | None:
        """Read the record from a model's metadata; None where there is none."""
        text = metadata.get(METADATA_KEY)
        return None if text is None else cls.from_json(text)

    def to_json(self) -> str:
        """Write the record as one line of JSON."""
        return msgspec.json.encode(self).decode()

    def summary(self) -> dict[str, str]:
        """The record as lines for people: what to what."""
        raw = self.raw
        lines = {
            "post-processor": f"{self.post_processor}, written by pp_graph {self.pp_graph_version}",
            "parameters": ", ".join(f"{key}={_brief(value)}" for key, value in self.parameters.items()),
        }
        if self.statistics is not None:
            for level in ("image", "pixel"):
                numbers = getattr(self.statistics, level)
                lines[f"{level} statistics"] = (
                    f"threshold {_number(numbers.threshold)}, min {_number(numbers.min)}, max {_number(numbers.max)}"
                )
        for name, cutoff in self.cutoffs.items():
            lines[f"{name} cutoff"] = _cutoff_line(cutoff)
        lines["raw model"] = f"{raw.file or '(in memory)'}, sha256 {raw.sha256[:16]}…"
        if self.raised is not None:
            lines["opset"] = self.raised.summary
        for role, record in raw.read.items():
            here = f", here '{record.tensor}'" if record.tensor != record.name else ""
            lines[role.replace("_", " ")] = f"output '{record.name}'{here}"
        for rewrite in self.tail:
            lines[f"tail, '{rewrite.target}'"] = rewrite.what
        if self.conversion:
            flat = {key: value for key, value in self.conversion.items() if not isinstance(value, dict)}
            lines["conversion"] = ", ".join(f"{key} {value}" for key, value in flat.items())
            for key, record in self.conversion.items():
                if isinstance(record, dict):
                    lines[key] = ", ".join(
                        f"{name} {value}" for name, value in record.items() if value not in (None, [])
                    )
        if self.preprocessing is not None:
            lines["preprocessing"] = self.preprocessing.describe()
        return lines

    @property
    def layout(self) -> RawLayout:
        """What the raw model gives to its post-processor."""
        return RawLayout(
            score=self.raw.score is not None,
            map=self.raw.map is not None,
            map_rank=None if self.raw.map is None else self.raw.map.rank,
            score_rank=None if self.raw.score is None else self.raw.score.rank,
            channels_last=self.raw.map is not None and self.raw.map.channels_last,
            map_size=None if self.raw.map is None else self.raw.map.size,
            input_size=self.raw.input_size,
            score_classes=1 if self.raw.score is None else self.raw.score.classes,
            map_classes=1 if self.raw.map is None else self.raw.map.classes,
        )

    @property
    def tensors(self) -> dict[str, str]:
        """Where the values lie from which decisions follow: names of raw and inner values to names of tensors."""
        return {**{role: record.tensor for role, record in self.raw.read.items()}, **self.inner}

    def unpacked(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """A model's outputs with all predictions under their own names, also where they come packed."""
        found = dict(outputs)
        if self.parameters.get("pack") and PACKED_NAME in found:
            found |= unpack(found.pop(PACKED_NAME), self.layout)
        return found

    def build_post_processor(self) -> PostProcessor:
        """Build the post-processor that was fused.

        Raises:
            ProvenanceError: Its class is not known to this version, or it does not decide by the cutoffs
                that were written into the model.
        """
        post = self.renewed_post_processor(self.statistics, {})
        cutoffs = cutoffs_to_json(post.compiled(self.layout))
        if cutoffs != self.cutoffs:
            raise ProvenanceError(
                f"Provenance names the cutoffs {_brief(self.cutoffs)}, but its statistics and parameters give "
                f"{_brief(cutoffs)}. It was edited, or written by a version that decides otherwise: fuse the raw model "
                "again."
            )
        return post

    def renewed_post_processor(self, statistics: Statistics | None, changes: Mapping[str, Any]) -> PostProcessor:
        """Build the post-processor that was fused with other statistics, or with other values of some parameters.

        Raises:
            ProvenanceError: Its class is not known, or does not take its parameters.
            PostProcessorError: It does not take a value.
        """
        kind = find_post_processor(self.post_processor)
        if kind is None:
            raise ProvenanceError(
                f"Post-processor '{self.post_processor}' is not known, expected one of: "
                f"{', '.join(post_processor_names())}. Import the module that defines it first (pp-graph --plugin "
                f"FILE.py); if it is one of pp_graph, use version {self.pp_graph_version} or a later one."
            )
        fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else None
        known = set(changes) if fields is None else {field.name for field in fields}
        unknown = next((name for name in changes if name not in known), None)
        if unknown is not None:
            raise PostProcessorError(
                f"Post-processor '{self.post_processor}' has no {unknown} (--{unknown.replace('_', '-')}), expected "
                f"one of: {', '.join(sorted(known - {'statistics'}))}. Leave it out."
            )
        try:
            return kind.from_parameters(statistics, {**self.parameters, **changes})
        except TypeError as error:
            raise ProvenanceError(
                f"Parameters of '{self.post_processor}' do not fit this version: {error}. They were written by "
                f"pp_graph {self.pp_graph_version}: use that version, or fuse the raw model again."
            ) from error


class _Versioned(msgspec.Struct):
    schema_version: int = 0


def cutoff_to_json(cutoff: Cutoff) -> float | str:
    """A cutoff as JSON can hold it; float32 numbers survive exactly."""
    if cutoff is None:
        return "never"
    return float(cutoff) if math.isfinite(cutoff) else str(np.float32(cutoff))


def cutoffs_to_json(compiled: CompiledSteps) -> dict[str, float | str | list[float | str]]:
    """The cutoffs of all comparisons, by what each writes."""
    found: dict[str, float | str | list[float | str]] = {}
    for name, step in compiled.compares.items():
        cutoffs = step.cutoffs
        each = [cutoff_to_json(None if np.isnan(cutoff) else cutoff) for cutoff in cutoffs.ravel()[:_LISTED_CUTOFFS]]
        if cutoffs.size == 1:
            found[name] = each[0]
        elif cutoffs.size <= _LISTED_CUTOFFS:
            found[name] = each
        else:
            found[name] = f"{cutoffs.size} cutoffs, sha256 {hashlib.sha256(cutoffs.tobytes()).hexdigest()}"
    return found


def adjustable_inputs(compiled: CompiledSteps) -> list[str]:
    """Names of the inputs that hold cutoffs which can be changed while the model runs."""
    return [step.input_name for step in compiled.compares.values() if isinstance(step, Compare) and step.runtime]


def _cutoff_line(cutoff: float | str | list[float | str]) -> str:
    """What a comparison calls anomalous, for people."""
    if isinstance(cutoff, list):
        return f"raw value of each class or pixel: {_brief(cutoff)} and above"
    if isinstance(cutoff, str) and "sha256" in cutoff:
        return cutoff
    return "never anomalous" if cutoff == "never" else f"raw value of {cutoff} and above"


def _brief(value: object) -> str:
    """A parameter for people: a map of levels is a very long text."""
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.9g}"
