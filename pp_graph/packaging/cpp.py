"""The C++ target: a CMake project, and the description of the model as a header."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pp_graph.packaging.shipping import copy_shipped

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pp_graph.fusion import Artifact
    from pp_graph.packaging.manifest import ChannelSpec, InputSpec, Manifest, OutputSpec


def write_cpp(folder: Path, manifest: Manifest, artifact: Artifact) -> None:
    """Write the C++ project into a package."""
    del artifact
    copy_shipped("cpp", folder)
    (folder / "src" / "package.hpp").write_text(_header(manifest), encoding="utf-8")


def _header(manifest: Manifest) -> str:
    pairs = (_braces(_text(name), _text(value)) for name, value in manifest.properties.items())
    cutoffs = (_braces(_text(name), _braces(*map(str, each.shape))) for name, each in manifest.cutoffs.items())
    fields = (
        _text(manifest.model),
        _text(manifest.device),
        _braces(*pairs),
        _braces(*map(_input, manifest.inputs), lines=True),
        _braces(*map(_output, manifest.outputs), lines=True),
        _braces(*cutoffs),
        _braces(*map(_text, manifest.golden.images)),
    )
    return (
        "// Written by pp_graph: what this program knows about the model.\n#pragma once\n\n"
        '#include "description.hpp"\n\n'
        f"inline const Description DESCRIPTION{_braces(*fields, lines=True)};\n"
    )


def _input(spec: InputSpec) -> str:
    sizes = (str(-1 if size is None else size) for size in spec.shape or ())
    flags = (spec.image, spec.layout == "NHWC", spec.channel_order == "BGR", spec.scaled)
    return _braces(_text(spec.name), _text(spec.dtype), _flag(spec.shape is None), _braces(*sizes), *map(_flag, flags))


def _output(spec: OutputSpec) -> str:
    channels = _braces(*map(_channel, spec.channels))
    counts = spec.meaning == "count"
    return _braces(_text(spec.name), _text(spec.axes or ""), _flag(spec.exact), _flag(counts), channels)


def _channel(spec: ChannelSpec) -> str:
    flags = (spec.exact, spec.meaning == "decision")
    return _braces(_text(spec.name), _text(spec.axes or ""), *map(_flag, flags))


def _braces(*parts: str, lines: bool = False) -> str:
    if lines:
        return "{\n" + "".join(f"{part},\n" for part in parts) + "}"
    return "{" + ", ".join(parts) + "}"


def _text(text: str) -> str:
    """Return a string literal in UTF-8, of which C++ reads every byte."""
    # Escapes of JSON are those of C++, but for those of characters outside ASCII, which are left as they are.
    return json.dumps(text, ensure_ascii=False)


def _flag(value: Iterable[object] | bool) -> str:
    return "true" if value else "false"
