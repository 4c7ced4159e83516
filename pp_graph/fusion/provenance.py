"""The record that a fused model carries.

Version 1 knew no rewritten tails, version 2 no intermediates, adjustable cutoffs and layouts; version 3 knew one score
and one map by name, and did not describe its outputs.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pp_graph.errors import PPGraphError, ProvenanceError
from pp_graph.fusion.tail import ReplacedPart, TailRecord
from pp_graph.model import METADATA_KEY
from pp_graph.model.opset_raising import RaisedOpset
from pp_graph.postprocessors import OUTPUTS, find_post_processor, post_processor_names
from pp_graph.preprocessing import Preprocessing
from pp_graph.program import OutputDescription, Program, Signature, unpacked
from pp_graph.statistics import Statistics
from pp_graph.values import ValueType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.postprocessors import PostProcessor
    from pp_graph.steps import Array


SCHEMA_VERSION: Final = 4
_READABLE: Final = (1, 2, 3, SCHEMA_VERSION)
_DIGEST: Final = "digest"
_LONGEST: Final = 100
"""Characters of a parameter that are shown to people."""


def from_earlier(record: Any) -> Any:
    """Bring a record of version 1, 2 or 3, as plain JSON values, into the form of version 4."""
    if not isinstance(record, dict) or not isinstance(record.get("raw"), dict):
        return record
    changed = {**record, "schema_version": SCHEMA_VERSION, "intermediates": record.get("inner", {})}
    changed.pop("inner", None)
    raw = dict(record["raw"])
    found = {"raw_score": raw.pop("score", None), "raw_map": raw.pop("map", None)}
    raw["read"] = {role: _output(role, output) for role, output in found.items() if output is not None}
    raw["unread"] = [_output("", output) for output in raw.get("unread", [])]
    return {**changed, "raw": raw}


def _output(role: str, output: Any) -> Any:
    if not isinstance(output, dict):
        return output
    kept = dict(output)
    rank, last = kept.pop("rank", None), kept.pop("channels_last", False)
    classes, size = kept.pop("classes", 1), kept.pop("size", None)
    axes = {1: "N", 2: "NC", 3: "NHW", 4: "NHWC" if last else "NCHW"}.get(rank)
    known = axes is not None
    if axes is None:
        axes = "NCHW" if role == "raw_map" else "NC"
    height, width = size or (None, None)
    sizes = {"N": None, "C": classes, "H": height, "W": width}
    return {**kept, "axes": axes, "sizes": [sizes[axis] for axis in axes], "rank_known": known}


class RawOutputRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An output of the raw model that has a role.

    Attributes:
        name: Name in the raw model.
        tensor: Name of the same value in the fused model; another one where ours took the name.
        axes: A letter for each axis, such as `NCHW`; the usual ones where the rank is not known.
        sizes: Size of each axis, None for an open one.
        dtype: Element type in which the steps read it.
        rank_known: Whether its rank is known.
        declaration: Its entry among the raw model's outputs, as a base64 ONNX ValueInfoProto.
        declared_inside: Whether the raw model declares it among its inner values as well.
    """

    name: str
    tensor: str
    axes: str
    sizes: tuple[int | None, ...]
    dtype: str = "float32"
    rank_known: bool = True
    declaration: str
    declared_inside: bool = False

    @property
    def type(self) -> ValueType:
        """Type of the raw value as the steps read it."""
        return ValueType(self.axes, self.sizes, self.dtype, self.rank_known)  # type: ignore[arg-type]


class RawRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Record of the raw model, to recognise and restore it.

    Attributes:
        sha256: Hash of the raw `.onnx` file.
        file: Its name, without folders; None for a model that was in memory.
        read: The outputs that post-processing reads, by role.
        outputs: Names of all its outputs, in order.
        renamed: New name to name in the raw model, for inner values whose name an output needed.
        opset_added: Whether the raw model did not import the default domain itself.
        input_size: Height and width of the images that the model takes; None where they are not known.
        unread: Outputs that have a role and are neither read nor kept, because only other outputs were asked for.
    """

    sha256: str
    file: str | None
    read: dict[str, RawOutputRecord]
    outputs: list[str]
    renamed: dict[str, str]
    opset_added: bool = False
    input_size: tuple[int, int] | None = None
    unread: list[RawOutputRecord] = []


class EmissionRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The operators and constants of the post-processing as they were written.

    Attributes:
        opset: Opset at which it was written.
        ir_version: IR version at which it was written.
        structure: Hash of everything but the float32 constants' numbers.
        constants: Bytes of each float32 constant in hexadecimal, by name; of a large one `sha256:` and their hash.
    """

    opset: int
    ir_version: int
    structure: str
    constants: dict[str, str]


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Record of the post-processing in a model.

    Attributes:
        schema_version: Version of this record.
        pp_graph_version: Version that wrote it.
        post_processor: Class of the post-processor; with its module where it is not one of pp_graph.
        parameters: Its parameters, without the statistics.
        statistics: The calibrated numbers.
        cutoffs: What a comparison writes, to the smallest value that is anomalous: a float32, "inf", "-inf", or
            "never"; a list of these for one cutoff a class, and a hash for one a pixel.
        prefix: What the names of all nodes and constants of the post-processing begin with.
        outputs: What comes out of the post-processing, in order.
        intermediates: Values inside the post-processing that runtimes round differently and from which decisions
            follow, such as a resized map: name of the step's result to that of its tensor.
        adjustable: Names of the inputs (in OpenVINO: states) that hold cutoffs; empty where these are constants.
        raw: The raw model.
        tail: How the raw model's own tail was rewritten.
        replaced: What that replaced; None in an IR, and where nothing was.
        raised: How its opset was raised before; None in an IR, and where it was not.
        conversion: Settings of the conversion to OpenVINO; None in an ONNX file.
        preprocessing: What the converted model does with frames; None where it takes what the raw one does.
        emission: How the post-processing was written; None in records before version 4.
        edited: Whether it was edited after it was written.
    """

    schema_version: int
    pp_graph_version: str
    post_processor: str
    parameters: dict[str, Any]
    statistics: Statistics | None
    cutoffs: dict[str, float | str | list[float | str]]
    prefix: str
    outputs: list[OutputDescription] = []
    intermediates: dict[str, str] = {}
    adjustable: list[str] = []
    raw: RawRecord
    tail: list[TailRecord] = []
    replaced: ReplacedPart | None = None
    raised: RaisedOpset | None = None
    conversion: dict[str, Any] | None = None
    preprocessing: Preprocessing | None = None
    emission: EmissionRecord | None = None
    edited: bool = False

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
            record = msgspec.json.decode(text)
            if version < SCHEMA_VERSION:
                return _with_outputs(msgspec.convert(from_earlier(record), type=cls))
            digest = record.pop(_DIGEST, None)
            return msgspec.convert({**record, "edited": digest != _digest(record)}, type=cls)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise ProvenanceError(
                f"Metadata '{METADATA_KEY}' is not pp_graph's provenance: {error}. Fuse the raw model again."
            ) from error

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Provenance | None:
        """Read the record from a model's metadata; None if it has none."""
        text = metadata.get(METADATA_KEY)
        return None if text is None else cls.from_json(text)

    def to_json(self) -> str:
        """Return the record as one line of JSON, with a digest that reveals edits."""
        record = msgspec.to_builtins(self)
        del record["edited"]
        return msgspec.json.encode({**record, _DIGEST: _digest(record)}).decode()

    def revised(self, **changes: Any) -> Provenance:
        """The record with some things changed."""
        return msgspec.structs.replace(self, **changes)

    def check_unedited(self) -> None:
        """Raise if a record was edited after it was written.

        Raises:
            ProvenanceError: It was edited.
        """
        if self.edited:
            raise ProvenanceError(
                "Provenance in the model was edited after it was written, so nobody knows what its constants should "
                "be. Fuse the raw model again."
            )

    def summary(self) -> dict[str, str]:
        """Return the record as lines for people."""
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
    def signature(self) -> Signature:
        """Signature of the raw model, as far as the post-processor reads it."""
        read = self.raw.read
        outputs = {role: record.name for role, record in read.items()}
        return Signature({role: record.type for role, record in read.items()}, self.raw.input_size, outputs=outputs)

    @property
    def tensors(self) -> dict[str, str]:
        """Tensors of the raw values and intermediates that decisions depend on, by name."""
        return {**{role: record.tensor for role, record in self.raw.read.items()}, **self.intermediates}

    @property
    def predicted(self) -> dict[str, OutputDescription]:
        """The post-processed outputs one by one, also where they come packed, by name."""
        return {each.name: each for output in self.outputs for each in (output.channels or (output,))}

    @property
    def output_names(self) -> frozenset[str]:
        """Names of the outputs that the post-processing writes."""
        return frozenset(output.name for output in self.outputs)

    def unpacked(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """A model's outputs with all predictions under their own names, also where they come packed."""
        found = dict(outputs)
        for output in self.outputs:
            if output.channels and output.name in found:
                found |= unpacked(found.pop(output.name), output)
        return found

    def build_post_processor(self, statistics: Statistics | None, changes: Mapping[str, Any]) -> PostProcessor:
        """The post-processor that was fused, with other statistics or other values of some parameters.

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
        try:
            post = kind.from_parameters(statistics, self.parameters)
        except TypeError as error:
            raise ProvenanceError(
                f"Parameters of '{self.post_processor}' do not fit this version: {error}. They were written by "
                f"pp_graph {self.pp_graph_version}: use that version, or fuse the raw model again."
            ) from error
        return post.changed(statistics, changes) if changes else post

    def bind(self) -> Program:
        """The program that was fused.

        Raises:
            ProvenanceError: The class of its post-processor is not known to this version, or it does not decide by the
                cutoffs that were written into the model.
        """
        program = self.build_post_processor(self.statistics, {}).bind(self.signature)
        if program.cutoffs != self.cutoffs:
            raise ProvenanceError(
                f"Provenance names the cutoffs {_brief(self.cutoffs)}, but its statistics and parameters give "
                f"{_brief(program.cutoffs)}. It was edited, or written by a version that decides otherwise: fuse the "
                "raw model again."
            )
        self.check_unedited()
        return program


def _with_outputs(record: Provenance) -> Provenance:
    """A record of an earlier version, with the descriptions of outputs that it did not hold."""
    try:
        outputs = record.build_post_processor(record.statistics, {}).bind(record.signature).outputs
    except (PPGraphError, ValueError):
        # A class of somebody's own that was not imported: the outputs are known by name alone.
        outputs = tuple(OutputDescription(name=each.name, meaning=each.meaning or "number") for each in OUTPUTS)
    return record.revised(outputs=list(outputs))


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(record)).hexdigest()[:32]


class _Versioned(msgspec.Struct):
    schema_version: int = 0


def _cutoff_line(cutoff: float | str | list[float | str]) -> str:
    """Describe the values that a comparison calls anomalous."""
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
