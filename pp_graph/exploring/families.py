"""Run a detector or a classifier on images, and write the page on which its limits can be moved."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from pp_graph.data import feed_model
from pp_graph.exploring.encoding import encode_map, encode_picture
from pp_graph.exploring.models import compiled, shown_input
from pp_graph.exploring.page import self_contained
from pp_graph.report.shown_images import picture_size, rgb_image
from pp_graph.running import open_source
from pp_graph.running.feeding import read_feeds
from pp_graph.sessions import run_in_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from pp_graph.data import Images
    from pp_graph.fusion import Artifact
    from pp_graph.model import ModelInput
    from pp_graph.openvino import OpenVINOSession
    from pp_graph.program import Program
    from pp_graph.running import Source
    from pp_graph.steps import Array


class Family(Protocol):
    """What differs between families of models.

    Attributes:
        name: Its models, in messages.
        script: Its script on the page.
        program: Post-processing to run; it has the outputs of the model's own.
        images: The images.
        notes: Remarks for the user.
    """

    name: ClassVar[str]
    script: ClassVar[str]

    @property
    def program(self) -> Program: ...  # noqa: D102
    @property
    def images(self) -> Images: ...  # noqa: D102
    @property
    def notes(self) -> tuple[str, ...]: ...  # noqa: D102
    def numbers(self, values: Mapping[str, Array]) -> list[npt.NDArray[np.float32]]:
        """Return the numbers of each image that the page decides about, (rows, columns)."""
        ...

    def meta(
        self, places: Sequence[int], sizes: Sequence[tuple[int, int]], inputs: Sequence[ModelInput]
    ) -> dict[str, Any]:
        """Return what else the page knows, as JSON values.

        Args:
            places: Indices of the images shown.
            sizes: Width and height of each.
            inputs: The model's inputs.
        """
        ...

    def fitted(
        self, numbers: list[npt.NDArray[np.float32]]
    ) -> tuple[list[npt.NDArray[np.float32]], dict[str, Any], tuple[str, ...]]:
        """Choose what the page holds of the numbers, and return it with JSON values and remarks about it."""
        ...


@dataclass(frozen=True)
class FamilyPage:
    """A page, and what it holds: HTML, number of images, number of those shown, remarks."""

    html: str
    images: int
    shown: int
    notes: tuple[str, ...]


def explore_family(
    family: Family,
    artifact: Artifact,
    *,
    device: str,
    precision: str | None,
    batch_size: int | None,
    fixed_inputs: Mapping[str, npt.ArrayLike] | None,
    max_images: int,
    max_bytes: float,
    progress: Callable[[int], None] | None,
) -> FamilyPage:
    """Run the model on the images, and make the page; see `explore`."""
    session, inputs, tensors = compiled(artifact.with_program(family.program), device, precision)
    shown_input(inputs)
    source = open_source(feed_model(family.images, inputs, fixed_inputs), inputs, batch_size=batch_size)
    count = len(source)
    places = _spread(range(count), max_images)
    found = _run(family, session, inputs, tensors, source, set(places), progress)
    pictures = {place: encode_picture(rgb_image(source, place, inputs)) for place in places}
    numbers, limits, remarks = family.fitted([found[place] for place in places])
    texts = dict(zip(places, map(encode_map, numbers), strict=True))
    arrays = dict(zip(places, numbers, strict=True))
    size = sum(len(pictures[place]) + len(texts[place]) for place in places)
    shown = places if size <= max_bytes else _spread(places, max(1, int(len(places) * max_bytes / size)))
    notes = (*family.notes, *remarks)
    if len(shown) < count:
        notes = (*notes, f"{len(shown)} of {count} images are shown, spread evenly; all numbers count these only")
    name = Path(artifact.file).name if artifact.file is not None else artifact.provenance.raw.file or "(in memory)"
    file = "MODEL" if artifact.file is None else shlex.quote(str(artifact.file))
    sizes = [picture_size(source, place, inputs) for place in shown]
    meta = {
        "images": count,
        "shown": list(shown),
        "names": [source.images.names[place].encode("utf-8", "replace").decode() for place in shown],
        "sizes": [list(arrays[place].shape) for place in shown],
        "command": f"pp-graph retune {file}",
        "ending": ".xml" if artifact.file is not None and artifact.file.suffix.lower() == ".xml" else ".onnx",
        **limits,
        **family.meta(shown, sizes, inputs),
    }
    data = (f"received({json.dumps([at, pictures[place], texts[place]])})" for at, place in enumerate(shown))
    html = self_contained([name], [session.description], notes, meta, ("limits.js", family.script), data)
    return FamilyPage(html, count, len(shown), notes)


def _run(
    family: Family,
    session: OpenVINOSession,
    inputs: Sequence[ModelInput],
    tensors: Mapping[str, str],
    source: Source,
    wanted: set[int],
    progress: Callable[[int], None] | None,
) -> dict[int, npt.NDArray[np.float32]]:
    """Run the batches of the images wanted, as a whole, because a smaller one may round differently."""
    signature = family.program.signature
    found: dict[int, npt.NDArray[np.float32]] = {}
    for start, stop in source.spans():
        if not wanted.isdisjoint(range(start, stop)):
            outputs = run_in_batches(session, read_feeds(source, start, stop, inputs))
            with np.errstate(over="ignore"):
                values = {
                    name: outputs[tensor].astype(signature[name].dtype if name in signature else np.float32)
                    for name, tensor in tensors.items()
                }
            found |= dict(zip(range(start, stop), family.numbers(values), strict=True))
        if progress is not None:
            progress(stop - start)
    return found


def _spread(places: Sequence[int], most: int) -> list[int]:
    if len(places) <= most:
        return list(places)
    return [places[int(at)] for at in np.linspace(0, len(places) - 1, most)]
