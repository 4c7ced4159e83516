"""What `bench.py` of a package needs: the raw model, and the post-processing as a model of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pp_graph.conversion import convert
from pp_graph.errors import DataError, TargetError
from pp_graph.fusion import FusedModel
from pp_graph.model import RawModel
from pp_graph.openvino.core import first_line
from pp_graph.openvino.ir_files import decimal_points, read_model
from pp_graph.openvino.island.island import extract_island
from pp_graph.packaging.manifest import RawSpec
from pp_graph.preprocessing import feed_by_hand

if TYPE_CHECKING:
    from pathlib import Path

    import openvino as ov

    from pp_graph.fusion import Artifact, Provenance
    from pp_graph.packaging.golden import GoldenImage


def write_timing(folder: Path, artifact: Artifact, golden: GoldenImage, raw: Path | None) -> RawSpec:
    """Write the models that the packaged one is timed against.

    Args:
        folder: The package.
        artifact: The packaged model.
        golden: An image, which fixes the sizes.
        raw: The raw model; None to take the packaged one up to its raw values.

    Raises:
        DataError: `raw` is another model than the one that the artifact was made from.
        TargetError: OpenVINO cannot read or write it.
    """
    converted = convert(artifact) if isinstance(artifact, FusedModel) else artifact
    provenance = artifact.provenance
    (folder / "bench").mkdir()
    tensors = [record.tensor for record in provenance.raw.read.values()]
    # The sizes of raw values on this image: its post-processing alone takes no others.
    probed = converted.session("CPU", probes=tensors).run(golden.inputs)
    island = extract_island(converted.network, provenance, [probed[name].shape for name in tensors], tensors)
    post = "bench/post.xml" if island.get_results() else None
    if post is not None:
        _save(island, folder / post)
    model = None
    if raw is not None:
        model = "bench/raw.xml"
        _save(_raw_network(raw, provenance), folder / model)
        if provenance.preprocessing is not None:
            fed = feed_by_hand(golden.inputs, provenance.preprocessing)
            for number, array in enumerate(fed.values()):
                np.save(folder / "bench" / f"input_{number}.npy", array)
    return RawSpec(file=provenance.raw.file, sha256=provenance.raw.sha256, tensors=tensors, model=model, post=post)


def _raw_network(path: Path, provenance: Provenance) -> ov.Model:
    """Read the raw model, with the raw values as its outputs in the order of the provenance."""
    import openvino as ov

    opened = RawModel.open(path)
    if opened.sha256 != provenance.raw.sha256:
        raise DataError(
            f"Raw model '{path}' has sha256 {opened.sha256[:16]}, expected {provenance.raw.sha256[:16]} as in the "
            "model to package. Give the raw model that it was made from, or leave --raw out."
        )
    try:
        model = read_model(path)
        names = [record.name for record in provenance.raw.read.values()]
        model.add_outputs([name for name in names if name not in provenance.raw.outputs])
        ports = [model.output(name).get_node().input_value(0) for name in names]
        return ov.Model(ports, model.get_parameters(), "raw")
    except RuntimeError as error:
        raise TargetError(f"OpenVINO cannot read the raw model '{path}': {first_line(error)}.") from error


def _save(model: ov.Model, path: Path) -> None:
    import openvino as ov

    with decimal_points():
        ov.save_model(model, str(path), compress_to_fp16=False)
