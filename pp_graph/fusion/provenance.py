"""The record that a fused model carries.

Schema versions: 2 added rewritten tails; 3 added intermediates, adjustable cutoffs and layouts; 4 added output
descriptions, and replaced the fixed score and map by roles.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from pp_graph.errors import PPGraphError, ProvenanceError
from pp_graph.fusion.tail import ReplacedPart, TailRecord
from pp_graph.model import METADATA_KEY
from pp_graph.model.opset_raising import RaisedOpset
from pp_graph.model.weights import WeightsRecord
from pp_graph.postprocessors import OUTPUTS, find_post_processor, post_processor_names
from pp_graph.preprocessing import Preprocessing
from pp_graph.program import OutputDescription, Program, Signature, unpacked
from pp_graph.statistics import Statistics
from pp_graph.statistics.statistics import HISTOGRAMS
from pp_graph.summary import Block, Fields, html_of, text_of
from pp_graph.values import ValueType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.postprocessors import PostProcessor
    from pp_graph.steps import Array


SCHEMA_VERSION: Final = 4
_READABLE: Final = (1, 2, 3, SCHEMA_VERSION)
_DIGEST: Final = "digest"
_LONGEST: Final = 100
"""Maximum number of characters of a parameter shown in summaries."""


def from_earlier(record: Any) -> Any:
    """Convert a record of version 1, 2 or 3, as decoded from JSON, to version 4."""
    if not isinstance(record, dict) or not isinstance(record.get("raw"), dict):
        return record
    changed = {**record, "schema_version": SCHEMA_VERSION, "intermediates": record.get("inner", {})}
    changed.pop("inner", None)
    raw = dict(record["raw"])
    read = {"raw_score": raw.pop("score", None), "raw_map": raw.pop("map", None)}
    raw["read"] = {role: _earlier_output(role, output) for role, output in read.items() if output is not None}
    raw["unread"] = [_earlier_output("", output) for output in raw.get("unread", [])]
    return {**changed, "raw": raw}


def _earlier_output(role: str, output: Any) -> Any:
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
        tensor: Name of the same value in the fused model. It differs from `name` if a post-processed output took that.
        axes: One letter per axis, such as `NCHW`; the role's usual axes if the rank is unknown.
        sizes: Size of each axis; None for an open one.
        dtype: Element type that the steps read.
        rank_known: True if the rank is known.
        declaration: The entry in the raw model's list of outputs, as a base64-encoded ONNX ValueInfoProto.
        declared_inside: True if the raw model also lists the output in its `value_info`.
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

    @property
    def narrow(self) -> str | None:
        """Element type of the raw value if it is narrower than float32: `float16` or `bfloat16`."""
        import onnx

        try:
            declared = onnx.ValueInfoProto.FromString(base64.b64decode(self.declaration))
        except Exception:  # strip reports a damaged record
            return None
        kinds = {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16"}
        return kinds.get(declared.type.tensor_type.elem_type)


class RawRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Record of the raw model, to recognise and restore it.

    Attributes:
        sha256: Hash of the raw `.onnx` file.
        file: File name without folders; None for a model in memory.
        read: The outputs, or values inside the model, that post-processing reads, by role.
        outputs: Names of all outputs, in order.
        renamed: Name in the raw model by new name, for inner values whose name a post-processed output needed.
        opset_added: True if the raw model did not import the default domain.
        input_size: Height and width of the model's images; None if unknown.
        unread: Outputs that were dropped, because no requested output needs them, or because post-processing reads
            inner values instead.
        weights: Identity of its external weights; None if it has none.
        difference: What the raw file has and onnx_ir does not keep, such as fields that are present and empty; see
            `message_difference`. None if there is nothing.
    """

    sha256: str
    file: str | None
    read: dict[str, RawOutputRecord]
    outputs: list[str]
    renamed: dict[str, str]
    opset_added: bool = False
    input_size: tuple[int, int] | None = None
    unread: list[RawOutputRecord] = []
    weights: WeightsRecord | None = None
    difference: str | None = None


class EmissionRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Operators and constants of the post-processing when it was written.

    Attributes:
        opset: Opset at which it was written.
        ir_version: IR version at which it was written.
        structure: Hash of everything except the values of float32 constants.
        constants: Bytes of each float32 constant in hexadecimal, by name; `sha256:` and the hash for large ones.
    """

    opset: int
    ir_version: int
    structure: str
    constants: dict[str, str]


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Record of the post-processing in a model.

    Attributes:
        schema_version: Schema version of the record.
        pp_graph_version: Version of pp_graph that wrote the record.
        post_processor: Class of the post-processor, with its module if it is not part of pp_graph.
        parameters: Parameters of the post-processor, without statistics.
        statistics: Calibrated statistics, if any.
        cutoffs: Smallest anomalous raw value by decision: a float32, "inf", "-inf" or "never". One cutoff per class is
            a list of these; one per pixel is a hash.
        prefix: Prefix of the names of all operators and constants of the post-processing.
        outputs: Descriptions of the post-processed outputs, in order.
        intermediates: Tensor names of the intermediates, by name of the step's result.
        adjustable: Names of the inputs (in OpenVINO: states) that hold cutoffs; empty if cutoffs are constants.
        raw: Record of the raw model.
        tail: Rewrites of the raw model's tail.
        replaced: Operators that these rewrites replaced; None in an IR or without rewrites.
        raised: How the raw model's opset was raised; None in an IR or if it was not.
        conversion: Settings of the conversion to OpenVINO; None in an ONNX file.
        preprocessing: Preprocessing in the converted model; None if it takes the raw model's input.
        emission: Record of the emitted operators and constants; None before schema version 4.
        weights: Identity of the external weights of a fused ONNX model; None if it has none.
        edited: True if the record was edited after it was written. Not stored; `from_json` finds out.
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
    weights: WeightsRecord | None = None
    edited: bool = False

    def __repr__(self) -> str:
        """Return post-processor, raw model and outputs in a line."""
        outputs = ", ".join(output.name for output in self.outputs)
        return f"<Provenance: {self.post_processor} in {self.raw.file or '(in memory)'} -> {outputs}>"

    def __str__(self) -> str:
        """Return the record as readable text."""
        return text_of(self._blocks())

    def _repr_html_(self) -> str:
        return html_of(self._blocks())

    def _blocks(self) -> list[Block]:
        return [Fields("Post-processing by pp_graph", self.summary())]

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Read the record from metadata.

        Raises:
            ProvenanceError: The text is not a provenance record, or has a later schema version.
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
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProvenanceError(
                f"Metadata '{METADATA_KEY}' is not pp_graph's provenance: {error}. Fuse the raw model again."
            ) from error

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Provenance | None:
        """Read the record from a model's metadata. Returns None if there is none."""
        text = metadata.get(METADATA_KEY)
        return None if text is None else cls.from_json(text)

    def to_json(self) -> str:
        """Return the record as one line of JSON, with a digest that reveals edits."""
        record = msgspec.to_builtins(self)
        del record["edited"]
        # Earlier versions do not know these fields.
        for part, name in ((record, "weights"), (record["raw"], "weights"), (record["raw"], "difference")):
            if part[name] is None:
                del part[name]
        for name in () if self.statistics is None else HISTOGRAMS:
            if getattr(self.statistics, name) is None:
                del record["statistics"][name]
        for output in record["outputs"]:
            for described in (output, *output["channels"]):
                if not described["class_names"]:
                    del described["class_names"]
        return msgspec.json.encode({**record, _DIGEST: _digest(record)}).decode()

    def revised(self, **changes: Any) -> Provenance:
        """Return a copy with some fields changed."""
        return msgspec.structs.replace(self, **changes)

    def check_unedited(self) -> None:
        """Raise if a record was edited after it was written.

        Raises:
            ProvenanceError: The digest does not match.
        """
        if self.edited:
            raise ProvenanceError(
                "Provenance in the model was edited after it was written, expected it unchanged: the model's constants "
                "are checked against it. Fuse the raw model again."
            )

    def summary(self) -> dict[str, str]:
        """Return the record as readable text, by label."""
        raw = self.raw
        lines = {
            "post-processor": f"{self.post_processor}, written by pp_graph {self.pp_graph_version}",
            "parameters": ", ".join(
                f"{key}={_brief(_plain(value))}" for key, value in self.parameters.items() if value not in (None, [])
            ),
        }
        if self.statistics is not None:
            lines |= _statistics_lines(self.statistics)
        for name, cutoff in self.cutoffs.items():
            if name not in self.output_names and "confidence" in self.parameters:
                continue  # a detector's own step; its confidence is among the parameters
            lines[f"{name} cutoff"] = _cutoff_line(cutoff, classes=any(each.classifies for each in self.outputs))
        lines["raw model"] = f"{raw.file or '(in memory)'}, sha256 {raw.sha256[:16]}…"
        if self.raised is not None:
            lines["opset"] = self.raised.summary
        for role, record in raw.read.items():
            renamed = f", here '{record.tensor}'" if record.tensor != record.name else ""
            kind = "output" if record.name in raw.outputs else "inner value"
            lines[role.replace("_", " ")] = f"{kind} '{record.name}'{renamed}"
        for rewrite in self.tail:
            lines[f"tail, '{rewrite.target}'"] = rewrite.what
        if self.conversion:
            flat = {key: value for key, value in self.conversion.items() if not isinstance(value, dict | list)}
            lines["conversion"] = ", ".join(f"{key} {value}" for key, value in flat.items())
            for key, record in self.conversion.items():
                if isinstance(record, dict):
                    lines[key] = ", ".join(
                        f"{name.replace('_', ' ')} {f'{value[:16]}…' if name.endswith('sha256') else _plain(value)}"
                        for name, value in record.items()
                        if value not in (None, [])
                    )
                elif isinstance(record, list):
                    lines[key] = "; ".join(record)
        if self.preprocessing is not None:
            lines["preprocessing"] = self.preprocessing.describe()
        return lines

    @property
    def signature(self) -> Signature:
        """Signature of the raw values that the post-processor reads."""
        read = self.raw.read
        outputs = {role: record.name for role, record in read.items()}
        narrow = {role: kind for role, record in read.items() if (kind := record.narrow) is not None}
        types = {role: record.type for role, record in read.items()}
        return Signature(types, self.raw.input_size, outputs=outputs, narrow=narrow)

    @property
    def tensors(self) -> dict[str, str]:
        """Tensor names of the raw values, by role, and of the intermediates, by name."""
        return {**{role: record.tensor for role, record in self.raw.read.items()}, **self.intermediates}

    @property
    def predicted(self) -> dict[str, OutputDescription]:
        """Descriptions of the post-processed outputs by name, with packed outputs taken apart."""
        return {single.name: single for output in self.outputs for single in (output.channels or (output,))}

    @property
    def output_names(self) -> frozenset[str]:
        """Names of the outputs that the post-processing writes."""
        return frozenset(output.name for output in self.outputs)

    def unpacked(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return a model's outputs with packed ones split into single predictions."""
        split = dict(outputs)
        for output in self.outputs:
            if output.channels and output.name in split:
                split |= unpacked(split.pop(output.name), output)
        return split

    def build_post_processor(self, statistics: Statistics | None, changes: Mapping[str, Any]) -> PostProcessor:
        """Rebuild the post-processor with the given statistics and changed parameters.

        Raises:
            ProvenanceError: The class is unknown, or does not accept the recorded parameters.
            PostProcessorError: A changed value is invalid.
        """
        kind = find_post_processor(self.post_processor)
        if kind is None:
            raise ProvenanceError(
                f"Post-processor '{self.post_processor}' is not known, expected one of: "
                f"{', '.join(post_processor_names())}. Import the module that defines it first (pp-graph --plugin "
                f"FILE.py). If it is part of pp_graph, use version {self.pp_graph_version} or later."
            )
        try:
            post = kind.from_parameters(statistics, self.parameters)
        except TypeError as error:
            raise ProvenanceError(
                f"Parameters of '{self.post_processor}' do not fit this version: {error}. They were written by "
                f"pp_graph {self.pp_graph_version}. Use that version, or fuse the raw model again."
            ) from error
        return post.changed(statistics, changes) if changes else post

    def bind(self) -> Program:
        """Rebuild the fused program.

        Raises:
            ProvenanceError: The post-processor's class is unknown, its cutoffs differ from the recorded ones, or the
                record was edited.
        """
        program = self.build_post_processor(self.statistics, {}).bind(self.signature)
        if program.cutoffs != self.cutoffs:
            raise ProvenanceError(
                f"Provenance has the cutoffs {_brief(self.cutoffs)}, expected {_brief(program.cutoffs)} from its "
                "statistics and parameters. It was edited, or written by a version that decides differently. Fuse the "
                "raw model again."
            )
        self.check_unedited()
        return program


def _with_outputs(record: Provenance) -> Provenance:
    """Add output descriptions to a record of an earlier version, which had none."""
    try:
        outputs = record.build_post_processor(record.statistics, {}).bind(record.signature).outputs
    except (PPGraphError, ValueError):
        # The class is custom and was not imported, so only names are known.
        outputs = tuple(OutputDescription(name=known.name, meaning=known.meaning or "number") for known in OUTPUTS)
    return record.revised(outputs=list(outputs))


def _statistics_lines(statistics: Statistics) -> dict[str, str]:
    lines = {}
    for level in ("image", "pixel"):
        numbers = getattr(statistics, level)
        lines[f"{level} statistics"] = (
            f"threshold {_number(numbers.threshold)}, min {_number(numbers.min)}, max {_number(numbers.max)}"
        )
    for name in HISTOGRAMS:
        histogram = getattr(statistics, name)
        if histogram is not None:
            lines[name.replace("_", " ")] = f"{histogram.describe()}, for pp-graph drift"
    return lines


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(record)).hexdigest()[:32]


class _Versioned(msgspec.Struct):
    schema_version: int = 0


def _cutoff_line(cutoff: float | str | list[float | str], *, classes: bool) -> str:
    """Describe which raw values are anomalous, or for a classifier for which values a decision is true."""
    if classes and isinstance(cutoff, list):
        return f"true from a value of {_brief(cutoff)}, for each class"
    if classes and not (isinstance(cutoff, str) and "sha256" in cutoff):
        return "never true" if cutoff == "never" else f"true from a value of {_cutoff(cutoff)}"
    if isinstance(cutoff, list):
        return f"raw value of each class or pixel: {_brief(cutoff)} and above"
    if isinstance(cutoff, str) and "sha256" in cutoff:
        return cutoff
    return "never anomalous" if cutoff == "never" else f"raw value of {_cutoff(cutoff)} and above"


def _plain(value: object) -> str:
    """Write a parameter as people do on the command line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return str(np.float32(value)) if isinstance(value, float) else str(value)


def _cutoff(cutoff: object) -> str:
    """Format a cutoff in the nine digits that tell float32 numbers apart."""
    return f"{cutoff:.9g}" if isinstance(cutoff, float) else str(cutoff)


def _brief(value: object) -> str:
    """Format a parameter, shortened: a map of levels would be very long."""
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.9g}"
