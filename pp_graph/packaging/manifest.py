"""`package.json`: what a package holds, for its own programs and for `inspect`."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from pp_graph.errors import DataError

MANIFEST: Final = "package.json"
SCHEMA_VERSION: Final = 1


class InputSpec(msgspec.Struct, frozen=True, kw_only=True):
    """An input of the packaged model.

    Attributes:
        name: Its name.
        dtype: NumPy's name of the element type.
        shape: Sizes, None for an open one; None if the rank is open.
        image: True for the input that takes the images.
        layout: `NCHW` or `NHWC`; empty for an input that takes no images.
        channel_order: `RGB` or `BGR`.
        scaled: True if 8-bit pictures are divided by 255.
    """

    name: str
    dtype: str
    shape: list[int | None] | None
    image: bool
    layout: str
    channel_order: str
    scaled: bool


class ChannelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """An output, or one of those that lie along the last axis of a packed output.

    Attributes:
        name: Its name.
        axes: A letter for each axis; None if unknown.
        meaning: What it holds: `number`, `decision`, `class`, `token`, `box`, `count` or `picture`.
        exact: True if the check wants equal values, and not near ones: decisions, classes, counts.
        description: The same in words.
    """

    name: str
    axes: str | None
    meaning: str
    exact: bool
    description: str


class OutputSpec(ChannelSpec, frozen=True, kw_only=True):
    """An output of the packaged model.

    Attributes:
        dtype: NumPy's name of the element type.
        shape: Sizes, None for an open one.
        class_names: Name of each class; empty if there are none.
        channels: Outputs along the last axis; empty unless it is packed.
    """

    dtype: str
    shape: list[int | None]
    class_names: list[str]
    channels: list[ChannelSpec]


class CutoffSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A cutoff that can be set while the model runs.

    Attributes:
        shape: Its shape: `[]`, or one for each class.
        default: The values in the model; None where a decision is never true.
    """

    shape: list[int]
    default: list[float | None]


class GoldenSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Golden images and where their results come from.

    Attributes:
        images: Name of each image; `golden/0` holds the arrays of the first.
        device: Device that computed the results.
        precision: Its inference precision.
        runtime: Runtime and version.
    """

    images: list[str]
    device: str
    precision: str
    runtime: str


class RawSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The raw model, for the benchmark.

    Attributes:
        file: Name of its file.
        sha256: Its hash.
        tensors: Names of the raw values in the packaged model, in the order of the inputs of `post`.
        model: Its file in the package; None if the benchmark takes the packaged model up to its raw values.
        post: The post-processing as a model of its own; None if it cannot run alone.
    """

    file: str | None
    sha256: str
    tensors: list[str]
    model: str | None
    post: str | None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Content of `package.json`.

    Attributes:
        schema_version: Version of this record.
        pp_graph: Version of pp_graph that wrote the package.
        target: What it is for: `python`, `cpp`, `ovms` or `triton`.
        name: Name of the model.
        model: File of the model, relative to the package.
        device: Device that it was converted for.
        properties: Properties to compile it with.
        inputs: Inputs, in the model's order.
        outputs: Outputs, in the model's order.
        cutoffs: Cutoffs that can be set while the model runs, by name.
        golden: The golden images.
        raw: The raw model.
        sha256: Hash of each file of the package, but for this one.
    """

    schema_version: int
    pp_graph: str
    target: str
    name: str
    model: str
    device: str
    properties: dict[str, str]
    inputs: list[InputSpec]
    outputs: list[OutputSpec]
    cutoffs: dict[str, CutoffSpec]
    golden: GoldenSpec
    raw: RawSpec
    sha256: dict[str, str] = {}

    def write(self, folder: Path) -> None:
        """Write it into a package, with the hashes of all files there."""
        hashes = {file.relative_to(folder).as_posix(): hash_of(file) for file in files_in(folder)}
        whole = msgspec.structs.replace(self, sha256=hashes)
        (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n")

    def changed_files(self, folder: Path) -> list[str]:
        """Return files of a package that are missing, or are others than when it was written."""
        return [
            name
            for name, digest in self.sha256.items()
            if not (folder / name).is_file() or hash_of(folder / name) != digest
        ]

    def summary(self, folder: Path) -> dict[str, str]:
        """Return the record as readable text, by label."""
        changed = self.changed_files(folder)
        return {
            "for": f"{self.target}, written by pp_graph {self.pp_graph}",
            "model": f"{self.model}, converted for {self.device}",
            "golden images": f"{', '.join(self.golden.images)} ({self.golden.runtime}, {self.golden.device} in "
            f"{self.golden.precision})",
            "files": f"{len(self.sha256)}, "
            + ("all as written" if not changed else f"changed since: {', '.join(changed)}"),
        }


def _inside(name: str) -> bool:
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


def files_in(folder: Path) -> list[Path]:
    """Return the files of a package, sorted, without its manifest."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / MANIFEST)


def hash_of(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(folder: str | Path) -> Manifest:
    """Read the manifest of a package.

    Raises:
        DataError: The folder is no package, or one of a later version.
    """
    path = Path(folder) / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"Folder '{folder}' is not a package: {MANIFEST} cannot be read ({error.strerror or error}), expected a "
            "folder that pp-graph package wrote. Name that, or a model file."
        ) from error
    try:
        found: dict[str, Any] = msgspec.json.decode(content, type=dict)
        if found.get("schema_version") != SCHEMA_VERSION:
            raise DataError(
                f"Package '{folder}' has schema version {found.get('schema_version')}, expected {SCHEMA_VERSION}. "
                "Package the model again, or upgrade pp_graph."
            )
        manifest = msgspec.convert(found, type=Manifest)
        outside = next((name for name in (manifest.model, *manifest.sha256) if not _inside(name)), None)
        if outside is not None:
            raise DataError(f"Package '{folder}' names '{outside}', expected files in it. Package the model again.")
        return manifest
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"File '{path}' is not the manifest of a package: {error}. Package the model again.") from error
