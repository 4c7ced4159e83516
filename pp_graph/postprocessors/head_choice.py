"""Choose the head of a detector by its outputs, or check the one that the user names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pp_graph.errors import OutputRoleError
from pp_graph.model import OutputInfo, format_shape
from pp_graph.postprocessors.detection_heads import HEADS, Head
from pp_graph.postprocessors.head_finding import RAW_BOXES, Reading, Size

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pp_graph.model import RawModel


def find_heads(
    outputs: Sequence[OutputInfo], size: Size, metadata: Mapping[str, str], decoded: Collection[str] = ()
) -> dict[str, Reading]:
    """Return the readings of a model's outputs, by head.

    Args:
        outputs: The outputs.
        size: Size of the model's images.
        metadata: Metadata of the model, where Ultralytics writes `task` and `kpt_shape`.
        decoded: Names of outputs that hold corners; see `corner_outputs`.
    """
    found = {
        name: reading
        for name, head in HEADS.items()
        if head.task in (None, metadata.get("task")) and (reading := head.find(outputs, size)) is not None
    }
    if "yolov8-pose" in found and stored_key_points(metadata) is None:
        del found["yolov8-pose"]
    # The same network exported without its decoding returns deltas of the same sizes.
    if "ultraface" in found:
        del found["ultraface-raw" if found["ultraface"].roles[RAW_BOXES] in decoded else "ultraface"]
    extended = {HEADS[name].extends for name in found}
    certain = [{*reading.roles.values()} for reading in found.values() if reading.own]
    return {
        name: reading
        for name, reading in found.items()
        if name not in extended and (reading.own or {*reading.roles.values()} not in certain)
    }


def corner_outputs(raw: RawModel) -> frozenset[str]:
    """Names of outputs that join differences and sums, as corners of boxes are joined: centre - half, centre + half."""
    found = set()
    for output in raw.model.graph.outputs:
        node = output.producer()
        if node is not None and node.op_type == "Concat":
            makers = [None if value is None else value.producer() for value in node.inputs]
            if [maker and maker.op_type for maker in makers] == ["Sub", "Add"]:
                found.add(output.name or "")
    return frozenset(found)


def stored_key_points(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Number of key points, and numbers of each, that Ultralytics writes into a model; None without."""
    found = re.fullmatch(r"\s*[\[(]\s*(\d+)\s*,\s*([23])\s*[\])]\s*", metadata.get("kpt_shape", ""))
    return None if found is None else (int(found[1]), int(found[2]))


def choose_head(
    outputs: Sequence[OutputInfo], size: Size, metadata: Mapping[str, str], decoded: Collection[str] = ()
) -> tuple[Head, Reading]:
    """Return the only head that fits a model's outputs; see `find_heads` for arguments.

    Raises:
        OutputRoleError: None fits, or several do.
    """
    readings = find_heads(outputs, size, metadata, decoded)
    if len(readings) == 1:
        ((name, reading),) = readings.items()
        return HEADS[name], reading
    images = "images of unknown size" if size is None else f"images of {size[0]}x{size[1]} pixels"
    listed = "\n".join(f"  '{each.name}' {format_shape(each.shape)}" for each in outputs)
    known = size is not None and all(isinstance(axis, int) for each in outputs for axis in (each.shape or (None,))[1:])
    give = "" if known else ", or give the size of the images with input_size=(640, 640) (--input-size 640x640)"
    if not readings:
        heads = "\n".join(f"  {head.name}: {head.title}" for head in HEADS.values())
        raise OutputRoleError(
            f"The outputs fit no head of a detector, for {images}:\n{listed}\nexpected one of:\n{heads}\nName the head "
            f"with head=... (--head NAME){give}, or export the model with its input and output shapes."
        )
    fitting = "\n".join(f"  {name}: {reading.why}" for name, reading in readings.items())
    raise OutputRoleError(
        f"The outputs fit {len(readings)} heads, for {images}:\n{listed}\ncan be read as\n{fitting}\nexpected one. "
        f"Name the head with head=... (--head NAME){give}."
    )


def named_head(outputs: Sequence[OutputInfo], size: Size, name: str, *, given: bool) -> Reading:
    """Return the reading of a head that the user named, empty if its sizes do not tell.

    Args:
        outputs: The outputs of the model.
        size: Size of its images.
        name: Name of the head.
        given: True if the user named outputs, too.

    Raises:
        OutputRoleError: The outputs fit other heads only.
    """
    own = None if given else HEADS[name].find(outputs, size)
    if own is not None:
        return own
    readings = {} if given else find_heads(outputs, size, {})
    if readings:
        listed = "\n".join(f"  '{each.name}' {format_shape(each.shape)}" for each in outputs)
        fitting = "\n".join(f"  {other}: {reading.why}" for other, reading in readings.items())
        raise OutputRoleError(
            f"head is '{name}', {HEADS[name].title}, and the outputs\n{listed}\nfit only\n{fitting}\nName one of these "
            "with head=... (--head NAME), or leave it out."
        )
    return Reading({}, "")
