"""The parts of a sketch: raw outputs, the steps that read them, and the outputs of the model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pp_graph.errors import PPGraphError
from pp_graph.model import format_shape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pp_graph.fusion import Provenance
    from pp_graph.model import Port
    from pp_graph.program import OutputDescription
    from pp_graph.steps import Step

Kind = Literal["layer", "raw", "step", "output"]

_UNTOLD = ("source", "target", "axes", "dtype", "on_nan", "runtime", "level")
"""Fields of steps that a sketch leaves out: they are drawn, compiled to a cutoff, or say little."""
_LISTED = 3


@dataclass(frozen=True)
class Part:
    """A box of the sketch.

    Attributes:
        key: What other parts call it in `reads`.
        kind: Layer of the network, raw output, step of the post-processing, or output of the model.
        title: Operator, step or name.
        shape: Shape, with the element type where it matters.
        detail: Name, decision or meaning.
        reads: Keys of the parts that it reads; others are not drawn.
    """

    key: str
    kind: Kind
    title: str
    shape: str = ""
    detail: str = ""
    reads: tuple[str, ...] = ()


def linked(layers: Sequence[Part], parts: Sequence[Part], links: Mapping[str, str]) -> tuple[Part, ...]:
    """Return layers and parts, with the layers' keys in place of the tensors that the parts read."""
    return (
        *layers,
        *(dataclasses.replace(part, reads=tuple(links.get(key, key) for key in part.reads)) for part in parts),
    )


def unfused(outputs: Sequence[Port], told: Sequence[str]) -> tuple[Part, ...]:
    """Return the outputs of a model without post-processing, with what is known of each."""
    return tuple(
        Part(f"output {port.name}", "raw", port.name, typed(port), detail, (f"tensor {port.name}",))
        for port, detail in zip(outputs, told, strict=True)
    )


def sketched(provenance: Provenance, outputs: Sequence[Port] = ()) -> tuple[Part, ...]:
    """Return raw values, steps and outputs of a model that pp_graph wrote.

    Args:
        provenance: Its record.
        outputs: Outputs of the model, to add those that the post-processing does not write.
    """
    raw = [
        Part(
            f"value {role}",
            "raw",
            record.name,
            format_shape(tuple(size or axis for axis, size in zip(record.axes, record.sizes, strict=True))),
            f"read as {role}" + ("" if record.name in provenance.raw.outputs else ", a value inside the network"),
            (f"tensor {record.tensor}",),
        )
        for role, record in provenance.raw.read.items()
    ]
    passed = [
        Part(f"output {port.name}", "output", port.name, typed(port), "raw, passed through", (f"tensor {port.name}",))
        for port in outputs
        if port.name not in provenance.output_names
    ]
    return (*raw, *_steps(provenance), *map(_output, provenance.outputs), *passed)


def typed(port: Port) -> str:
    """Return element type and shape of an output."""
    return f"{port.dtype or '?'} {format_shape(port.shape)}"


def _steps(provenance: Provenance) -> Iterator[Part]:
    roles = tuple(f"value {role}" for role in provenance.raw.read)
    try:
        program = provenance.bind()
    except (PPGraphError, ValueError):
        # A class that was not imported, or an edited record: what the record says is all that is known.
        for output in provenance.outputs:
            name, cutoff = output.name, provenance.cutoffs.get(output.name)
            detail = "" if cutoff is None else f"{name}: raw value {_from(cutoff)}"
            yield Part(f"value {name}", "step", provenance.post_processor, detail=detail, reads=roles)
        return
    for step in program.steps:
        target, value = step.target, program.types.get(step.target)
        if target in program.cutoffs:
            detail = f"{target}: {step.reads[0]} {_from(program.cutoffs[target])}"
        else:
            detail = " ".join((f"{target} from {', '.join(step.reads)}", *_settings(step)))
        sizes = () if value is None else tuple(size or axis for axis, size in zip(value.axes, value.sizes, strict=True))
        shape = "" if value is None else format_shape(sizes)
        reads = tuple(f"value {name}" for name in step.reads)
        yield Part(f"value {target}", "step", type(step).__name__, shape, detail, reads)


def _output(output: OutputDescription) -> Part:
    reads = tuple(f"value {part.name}" for part in output.channels or (output,))
    sizes = format_shape(tuple(size or axis for axis, size in zip(output.axes or "", output.sizes, strict=True)))
    shape = f"{output.dtype} {sizes}" if output.axes else output.dtype or ""
    return Part(f"output {output.name}", "output", output.name, shape, output.description or output.meaning, reads)


def _settings(step: Step) -> Iterator[str]:
    """Describe the numbers that were chosen for a step, such as `(iou=0.45)`."""
    untold = {*_UNTOLD, *step.settled}
    told = [
        f"{field.name}={value:.6g}" if isinstance(value, float) else f"{field.name}={value}"
        for field in dataclasses.fields(step)  # type: ignore[arg-type]
        if field.name not in untold
        and isinstance(value := getattr(step, field.name), int | float)
        and not isinstance(value, bool)
    ]
    if told:
        yield f"({', '.join(told)})"


def _from(cutoff: float | str | list[float | str]) -> str:
    """Describe the values that a decision is true for."""
    numbers = cutoff if isinstance(cutoff, list) else [cutoff]
    if numbers == ["never"]:
        return "is never enough"
    if isinstance(cutoff, str) and "sha256" in cutoff:
        return f"≥ {cutoff.split(',')[0]}"
    texts = [f"{number:.9g}" if isinstance(number, float) else str(number) for number in dict.fromkeys(numbers)]
    more = f", … {len(texts) - _LISTED} more" if len(texts) > _LISTED else ""
    return f"≥ {', '.join(texts[:_LISTED])}{more}"
