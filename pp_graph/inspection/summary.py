"""An inspection's result as tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pp_graph.errors import counted
from pp_graph.model import format_shape
from pp_graph.statistics.summary import describe_numbers, describe_settings
from pp_graph.summary import Block, Fields, Line, Remark, Table, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pp_graph.inspection.output_values import OutputValues
    from pp_graph.inspection.result import Inspection, TailInspection
    from pp_graph.statistics.anomalib_onnx import GraphStatistics


def blocks_of(found: Inspection) -> Iterator[Block]:
    """Yield an inspection as tables."""
    path = found.path or "MODEL.onnx"
    if found.package is not None:
        yield Fields("Package", found.package.summary(Path(path)))
    yield Fields("Model", _facts(found))
    ports = [(port.name, port.dtype or "?", format_shape(port.shape)) for port in found.inputs]
    yield Table("Inputs", ("name", "type", "shape"), ports)
    roles = any(port.role for port in found.outputs)  # those of the post-processing have none
    rows = [
        (
            port.name,
            port.dtype or "?",
            format_shape(port.shape),
            *((port.role or "-",) if roles else ()),
            "; ".join(part for part in (port.why, port.note) if part),
        )
        for port in found.outputs
    ]
    further = ("role", "why") if roles else ("meaning",)
    yield Table("Outputs", ("name", "type", "shape", *further), rows)
    if found.values:
        yield from _values(found.values)
    if found.provenance is not None:
        yield Fields("Post-processing by pp_graph", found.provenance.summary())
    if found.post_processing is not None:
        yield Fields("Post-processing by Anomalib 2.x found", _describe(found.post_processing))
        yield Remark(f"Next: pp-graph stats convert {path} -o stats.json")
    if found.families:
        several = " (several fit; choose by what the model was trained for)" if len(found.families) > 1 else ""
        yield Line(f"Likely family{several}", bold=True)
        for family in found.families:
            yield Line(f"  {family.model}: {family.why}\n    pp-graph convert {path} {family.options} -o model.xml")
        yield Line("")
    elif found.problem is not None:
        yield Remark(f"Note: {found.problem}")
    if found.tail is not None:
        yield from _tail(found.tail)


def _values(values: Sequence[OutputValues]) -> Iterator[Block]:
    rows = [
        (
            each.name,
            f"{each.count:,}",
            *("-" if number is None else f"{number:.6g}" for number in (each.minimum, each.mean, each.maximum)),
            f"{each.nan:.2%}" + (f", {each.infinite:.2%} inf" if each.infinite else ""),
            _auroc(each),
        )
        for each in values
    ]
    yield Table("Values on the images", ("output", "values", "min", "mean", "max", "NaN", "AUROC"), rows)
    bars = [(each.name, kind, _bars(counts)) for each in values for kind, counts in each.histogram.items()]
    if bars:
        yield Table("Histograms from min to max, each class scaled to its peak", ("output", "class", "values"), bars)
    rated = [each for each in values if each.per == "image" and each.auroc is not None]
    if len(rated) > 1:
        best = max(rated, key=lambda each: each.auroc or 0)
        yield Line(f"Of the outputs per image, {best.name} separates the classes best (AUROC {best.auroc:.4f}).\n")


def _auroc(each: OutputValues) -> str:
    if each.auroc is None or each.auroc_bound is None:
        return "-"
    low, high = each.auroc_bound
    return f"{each.auroc:.4f}" + (f" ± {(high - low) / 2:.1g}" if high > low else "")


def _bars(counts: Sequence[int]) -> str:
    """Draw a histogram. A count that is not 0 shows at least the lowest bar."""
    levels, peak = "▁▂▃▄▅▆▇█", max(counts)
    return "".join("·" if not count else levels[min(count * 8 // peak, 7)] for count in counts)


def _facts(found: Inspection) -> dict[str, str]:
    fields = {"file": found.path or "", "kind": found.kind}
    if found.opset is not None:
        fields["opset"] = str(found.opset)
    if found.domains:
        fields["domains"] = ", ".join(f"{domain} {version}" for domain, version in found.domains.items())
    fields["IR version"] = str(found.ir_version)
    fields["producer"] = found.producer or "(not named)"
    functions = f", {found.functions} local functions" if found.functions else ""
    fields["graph"] = f"{counted(found.nodes, 'operator')}{functions}"
    where = f" in {', '.join(found.weight_files)}" if found.weight_files else ", embedded"
    fields["weights"] = f"{size_text(found.weight_bytes)}{where}"
    if found.metadata:
        fields["metadata"] = ", ".join(found.metadata)
    return fields


def _describe(found: GraphStatistics) -> dict[str, str]:
    fields = {f"{level} level": describe_numbers(numbers) for level, numbers in found.numbers.items()}
    fields["settings"] = describe_settings(found.settings)
    return {**fields, **{"note" if index == 0 else " " * index: text for index, text in enumerate(found.notes)}}


def _tail(tail: TailInspection) -> Iterator[Block]:
    if tail.rewrites:
        yield Table(
            "Tail: what is rewritten",
            ("value", "rule", "change", "estimate before", "after", "numbers"),
            [
                (
                    each.target,
                    each.rule,
                    each.what,
                    f"{each.before_us:,.0f} µs",
                    f"{each.after_us:,.0f} µs",
                    "the same" if each.exact else "up to rounding",
                )
                for each in tail.rewrites
            ],
        )
        saved = sum(each.before_us - each.after_us for each in tail.rewrites) / 1000
        yield Line(f"Estimated saving: {saved:.1f} ms per image. Measure it with pp-graph benchmark.\n")
    else:
        yield Line("Tail: nothing is rewritten.\n")
    if tail.missed:
        yield Table(
            "Tail: what is not rewritten, and why",
            ("value", "rule", "what", "why not"),
            [(each.target, each.rule, each.what, each.why) for each in tail.missed],
        )
