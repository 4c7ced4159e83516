"""What was measured of a plan, and the limits it must keep."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pp_graph.errors import DataError
from pp_graph.precision.decisions import Decided
from pp_graph.precision.plan import Plan
from pp_graph.precision.timing import Timing
from pp_graph.verification.parts import FlipLimit


@dataclass(frozen=True)
class Limits:
    """Limits of what a plan may change; None for no limit.

    Attributes:
        label_flips: Labels that differ from those of the f32 model.
        pixel_flips: Pixels that differ.
        drop: Largest decrease of the F1 of labels and of the F1 of mask pixels.
    """

    label_flips: FlipLimit | None
    pixel_flips: FlipLimit | None
    drop: float | None

    @classmethod
    def parse(cls, label_flips: int | str | None, pixel_flips: int | str | None, drop: float | None) -> Limits:
        """Read limits.

        Raises:
            DataError: A limit is out of range.
        """
        if drop is not None and not 0 <= drop < 1:
            raise DataError(
                f"max_drop is {drop}, expected at least 0 and below 1. For example, 0.01 allows F1 to fall from 0.95 "
                "to 0.94."
            )
        return cls(
            FlipLimit.parse(label_flips, "max_label_flips"), FlipLimit.parse(pixel_flips, "max_pixel_flips"), drop
        )

    def allow(self, decided: Decided, base: Decided) -> bool:
        """Return True if decisions are within the limits; `base` has those of the f32 model."""
        labels = self.label_flips is None or self.label_flips.allows(decided.label_flips, decided.labels)
        pixels = self.pixel_flips is None or self.pixel_flips.allows(decided.pixel_flips, decided.pixels)
        return labels and pixels and (self.drop is None or drop(decided, base) <= self.drop)

    def __str__(self) -> str:
        """Return for example `at most 0 labels and 0.1% of pixels flipped`."""
        flips = [
            f"{limit} {'of ' if limit.percent else ''}{name}"
            for limit, name in ((self.label_flips, "labels"), (self.pixel_flips, "pixels"))
            if limit is not None
        ]
        parts = [f"at most {' and '.join(flips)} flipped"] if flips else []
        return (
            ", ".join([*parts, *([] if self.drop is None else [f"F1 or accuracy at most {self.drop:g} lower"])])
            or "none"
        )


def drop(decided: Decided, base: Decided) -> float:
    """Return the largest decrease of F1; 0 without ground truth."""
    return max((before - decided.f1.get(name, 0.0) for name, before in base.f1.items()), default=0.0)


@dataclass
class Measured:
    """What was measured of a plan.

    Attributes:
        plan: The plan.
        options: Its decisions with the given thresholds, and with recalibrated ones.
        decided: One of these, chosen by the limits.
        timing: Its latency; None if it was not timed.
        otherwise: Operators that the device runs in another precision than planned.
    """

    plan: Plan
    options: list[Decided]
    decided: Decided = field(init=False)
    timing: Timing | None = None
    otherwise: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "plan": list(self.plan.precisions)}

    def choose(self, limits: Limits, base: Decided) -> None:
        """Choose thresholds within the limits, if any are, then those that flip fewer labels, then fewer pixels."""
        self.decided = min(
            self.options, key=lambda each: (not limits.allow(each, base), each.label_flips, each.pixel_flips)
        )

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Measured:
        """Read the result of `to_dict`."""
        timing = None if record["timing"] is None else Timing(**record["timing"])
        options = [Decided(**each) for each in record["options"]]
        return cls(Plan(tuple(record["plan"])), options, timing, tuple(record["otherwise"]))
