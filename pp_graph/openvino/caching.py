"""Keep compiled models in a folder, so that they load faster the next time.

OpenVINO names a compiled model by a hash of 64 bits. For a model in memory it covers the graph, the constants and the
compile properties; for a path, not the content of the files, so that a retuned model would decide with its old cutoffs
(2026.4). So only models in memory are compiled with a cache, in a sub-folder named by a hash of their constants. That
holds even if a later version leaves weights out of its own hash, as it does on request (`ENABLE_WEIGHTLESS`).
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import OutputFileError
from pp_graph.openvino.core import all_operators

if TYPE_CHECKING:
    import openvino as ov

_SAMPLED: Final = 1 << 20
"""Bytes of a constant from which only a sample is hashed: reading a large network takes as long as compiling it."""
_SAMPLE: Final = 1 << 12


def cache_properties(model: ov.Model, folder: str | Path) -> dict[str, str]:
    """Return the properties to compile a model with, so that OpenVINO keeps it in a folder.

    Args:
        model: The model, with the constants that it is compiled with.
        folder: The folder; it is made if it does not exist.

    Raises:
        OutputFileError: The folder cannot be written.
    """
    own = Path(folder) / _constants_hash(model)
    try:
        own.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=own):
            pass
    except OSError as error:
        raise OutputFileError(
            f"Cache folder '{folder}' cannot be written: {error.strerror or error}. Choose another one, or leave out "
            "--cache-dir (cache_dir=...)."
        ) from error
    return {"CACHE_DIR": str(own)}


def is_from_cache(compiled: ov.CompiledModel) -> bool:
    """Return True if a compiled model was read from a cache."""
    try:
        return bool(compiled.get_property("LOADED_FROM_CACHE"))
    except RuntimeError:
        return False  # not every device reports it


def _constants_hash(model: ov.Model) -> str:
    digest = hashlib.sha256()
    for node in all_operators(model):
        if node.get_type_name() != "Constant" or node.get_element_type().get_type_name() == "string":
            continue
        content = np.ascontiguousarray(node.data).reshape(-1).view(np.uint8)
        digest.update(f"{node.get_friendly_name()}:{content.nbytes}:".encode())
        middle = content.nbytes // 2
        parts = (
            [content]
            if content.nbytes <= _SAMPLED
            else [content[:_SAMPLE], content[middle : middle + _SAMPLE], content[-_SAMPLE:]]
        )
        for part in parts:
            digest.update(part.data)
    return digest.hexdigest()[:32]
