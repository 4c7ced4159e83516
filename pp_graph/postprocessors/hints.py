"""Tell which families of models the outputs of a raw model fit, and the options of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pp_graph.errors import OutputRoleError
from pp_graph.model import describe_outputs, format_shape, image_input
from pp_graph.model.image_size import image_size
from pp_graph.model.outputs import last_activation
from pp_graph.postprocessors import classification, segmentation
from pp_graph.postprocessors.anomaly import ROLES, SCORE
from pp_graph.postprocessors.detection_heads import HEADS
from pp_graph.postprocessors.head_choice import corner_outputs, find_heads
from pp_graph.postprocessors.sequence import CHARACTERS_KEY
from pp_graph.program import find_roles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.model import OutputInfo, RawModel
    from pp_graph.program import Role, RoleMatch

_MOST_CLASSES: Final = 1300
"""The largest data set of boxes (LVIS) has 1,203 classes; a detector of more is a text recogniser."""
_LINE_HEIGHT: Final = 64
"""Text recognisers read lines of a fixed height up to this."""
_FEWEST_TOKENS: Final = 10
_IMAGE_RANK: Final = 4
_FEWEST_LISTS: Final = 2
_MOST_HEADS: Final = 4
"""Outputs of a classifier that are proposed."""


@dataclass(frozen=True)
class Family:
    """A family of models that the outputs of a raw model fit.

    Attributes:
        task: Value of `--task`; `anomaly` for the default.
        model: What such a model is called: `a classifier`.
        why: Outputs that fit, with their shapes.
        options: Options of `fuse` and `convert`: `--task detection --head yolov8`.
        roles: What the outputs hold, by name.
    """

    task: str
    model: str
    why: str
    options: str
    roles: Mapping[str, str]


def find_families(raw: RawModel) -> tuple[Family, ...]:
    """Return the families that the outputs of a raw model fit, the likeliest first; empty if none does."""
    outputs = describe_outputs(raw)
    text = _text(raw, outputs)
    # The classes of a text recogniser would be parts of a candidate.
    found = () if text else _detection(raw, outputs)
    if len(found) > 1:
        found = (*_of_open_size(raw, outputs), *found)
    if not found and text:
        found = text
    if not found:
        found = _classification_or_segmentation(raw, outputs)
    return found or _maps(raw, outputs) or _of_open_size(raw, outputs)


def task_hint(raw: RawModel) -> str:
    """Return a sentence that names the families of a raw model and their options; empty if none is found."""
    found = [family for family in find_families(raw) if family.task != "anomaly"]
    named = " If the model is ".join(f"{family.model} ({family.why}), use {family.options}." for family in found)
    return f" If the model is {named}" if named else ""


def mismatch_note(raw: RawModel, task: str) -> str:
    """Return a sentence that names the family of a raw model if it is not the task's; empty if it may be."""
    found = find_families(raw)
    # A map may be anything, so only other readings contradict the task.
    if not found or any(family.task in (task, "anomaly") for family in found):
        return ""
    return f"The model looks like {found[0].model} ({found[0].why}). If it is one, use {found[0].options}."


def _match(outputs: Sequence[OutputInfo], *roles: Role) -> dict[str, RoleMatch]:
    try:
        return find_roles(outputs, roles)
    except OutputRoleError:
        return {}


def _named(info: OutputInfo) -> str:
    return f"'{info.name}' {format_shape(info.shape)}"


def _opset(raw: RawModel, needed: int) -> str:
    return f" --raise-opset {needed}" if 0 < (raw.opset or 0) < needed else ""


def _classification_or_segmentation(raw: RawModel, outputs: Sequence[OutputInfo]) -> tuple[Family, ...]:
    classes, pixels = _classification(raw, outputs), _segmentation(raw, outputs)
    # Open rows and columns are those of a map rather than a single pixel, where the image's are open, too.
    return (*pixels, *classes) if image_size(raw) is None else (*classes, *pixels)


def _classification(raw: RawModel, outputs: Sequence[OutputInfo]) -> tuple[Family, ...]:
    role = classification.LOGITS
    named = _match(outputs, role).get(role.name)
    if named is None and any(info.shape and SCORE.read(info.shape) for info in outputs):
        return ()  # several numbers beside a score may be anything
    fitting = [info for info in outputs if named is None or info is named.output]
    matches = [match for info in fitting for match in _match([info], role).values() if match.type.size("C") != 1]
    if len(matches) > 1:
        # Beside classes, models return places, such as a face's, or features.
        matches = [match for match in matches if last_activation(raw, match.output.name) == "softmax"] or matches
    choice = f" --role {role.name}={{}}" if named is None else ""
    return tuple(
        Family(
            "classification",
            "a classifier",
            f"{_named(match.output)} holds a number for each class",
            f"--task classification{choice.format(match.output.name)}",
            {match.output.name: "logits"},
        )
        for match in matches[:_MOST_HEADS]
    )


def _detection(raw: RawModel, outputs: Sequence[OutputInfo]) -> tuple[Family, ...]:
    readings = find_heads(outputs, image_size(raw), raw.model.metadata_props, corner_outputs(raw))
    return tuple(
        Family(
            "detection",
            f"a detector like {HEADS[name].title.split(':')[0]}",
            reading.why,
            f"--task detection --head {name}{_opset(raw, 11)}",
            {output: role.removeprefix("raw_").replace("_", " ") for role, output in reading.roles.items()},
        )
        for name, reading in readings.items()
    )


def _of_open_size(raw: RawModel, outputs: Sequence[OutputInfo]) -> tuple[Family, ...]:
    """Find a detector that leaves the size of its images open, which may tell its head. It is not run to find out."""
    images = [each for each in raw.inputs if each.shape is not None and len(each.shape) == _IMAGE_RANK]
    floats = [info for info in outputs if info.dtype in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")]
    lists = [info for info in floats if info.shape and len(info.shape) == _IMAGE_RANK - 1]
    if image_size(raw) is not None or len(images) != 1 or len(lists) < _FEWEST_LISTS:
        return ()
    why = f"{len(lists)} outputs may list candidates, and '{images[0].name}' leaves open the size that tells how"
    options = "--task detection --input-size 640x640"
    return (Family("detection", "a detector", why, options, {info.name: "candidates" for info in lists}),)


def _text(raw: RawModel, outputs: Sequence[OutputInfo]) -> tuple[Family, ...]:
    """Find the numbers for each time and class of a text recogniser: few times, many classes."""
    three = [
        info for info in outputs
        if info.dtype in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE") and info.shape and len(info.shape) == 3
    ]  # fmt: skip
    if len(three) != 1:
        return ()
    (info,), images = three, image_input(raw.inputs)
    shape = (images.shape if images is not None else None) or ()
    times, classes = (info.shape or ())[1:]
    height, width = shape[2:] if len(shape) == 4 else (None, None)
    wide = not isinstance(width, int) or (isinstance(height, int) and width >= 2 * height)
    line = isinstance(height, int) and height <= _LINE_HEIGHT and wide
    # Sizes in the proportions of the image are those of a map, and lines of text are wide.
    map_like = (
        isinstance(times, int)
        and isinstance(classes, int)
        and isinstance(height, int)
        and isinstance(width, int)
        and (not line or times * width == classes * height)
    )
    many = isinstance(classes, int) and classes > _MOST_CLASSES
    few = isinstance(classes, int) and classes < _FEWEST_TOKENS
    floats = images is not None and (images.dtype or "").startswith("float")
    sound = floats and len(shape) in (2, 3) and isinstance(classes, int)
    if few or map_like or not (line or many or sound or CHARACTERS_KEY in raw.model.metadata_props):
        return ()
    why = f"{_named(info)} holds a number for each time and class"
    options = "--task sequence"
    if CHARACTERS_KEY not in raw.model.metadata_props:
        options += " --labels characters.txt"
    return (Family("sequence", "a text recogniser (CTC)", why, options, {info.name: "logits"}),)


def _segmentation(raw: RawModel, outputs: Sequence[OutputInfo]) -> tuple[Family, ...]:
    matches = _match(outputs, segmentation.LOGITS, segmentation.CLASSES)
    if len(matches) != 1:
        return ()
    (match,) = matches.values()
    if match.role is segmentation.LOGITS and (match.type.size("C") or 1) == 1:
        return ()
    what = "a number for each pixel and class" if match.role is segmentation.LOGITS else "the class of each pixel"
    options = f"--task segmentation{_opset(raw, 16)}"
    why = f"{_named(match.output)} holds {what}"
    return (Family("segmentation", "for segmentation", why, options, {match.output.name: match.role.noun}),)


def _maps(raw: RawModel, outputs: Sequence[OutputInfo]) -> tuple[Family, ...]:
    """Families of models that return one number for each pixel, which shapes do not tell apart."""
    found = {match.role.noun: match.output for match in _match(outputs, *ROLES).values()}
    anomaly = Family(
        "anomaly",
        "an anomaly model",
        " and ".join(f"{_named(info)} is a {noun}" for noun, info in found.items()),
        "--stats stats.json",
        {info.name: noun for noun, info in found.items()},
    )
    if not found or "score" in found:
        return (anomaly,) if found else ()
    name = found["map"].name
    kind = last_activation(raw, name)
    why = f"{_named(found['map'])} is a map of one channel" + (f" that ends in a {kind}" if kind else "")
    roles = {name: "map"}
    return (
        anomaly,
        Family("regions", "a text detector, or another map of regions", why,
               f"--task regions{_opset(raw, 18)}", roles),
        Family("segmentation", "for cutting out a foreground (a matte)", why,
               f"--task segmentation{_opset(raw, 11)}", roles),
    )  # fmt: skip
