"""Parts of a verification's result: errors of numbers, flipped decisions, and drift with its limits."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import DataError, counted
from pp_graph.reprs import short_repr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAX_LISTED_FLIPS: Final = 1000
"""Flips that `to_dict` lists for each output and cause, the furthest from the cutoff first."""


@dataclass(frozen=True)
class ErrorReport:
    """Errors of the numbers of one output.

    Attributes:
        name: The output, or `raw_score` or `raw_map` for a raw value.
        max_abs: Largest absolute difference.
        mean_abs: Mean absolute difference.
        max_scaled: Largest difference, divided by the expected number if that is above 1.
        count: Numbers compared. The difference is 0 if both are NaN or the same infinity, and infinite if only one is.
    """

    name: str
    max_abs: float
    mean_abs: float
    max_scaled: float
    count: int


@dataclass(frozen=True)
class BoundaryReport:
    """Result of the post-processing alone, on raw values at and around its cutoffs.

    Attributes:
        values: Number of raw values.
        flips: Decisions that differ from the NumPy reference; must be 0.
        max_scaled: Largest error of the numbers; see `ErrorReport`.
    """

    values: int
    flips: int
    max_scaled: float


@dataclass(frozen=True)
class Flips:
    """Flipped decisions of one output and one cause.

    Attributes:
        image: Index of the image, (flips,).
        pixel: Flattened index within the image, (flips,); 0 for labels.
        raw_value: The raw value that was compared, (flips,).
        margin: Distance of the raw value from the cutoff, (flips,), divided by the calibrated range if there is one.
            NaN if the raw value is NaN, or if no comparison was made at that place.
        place: Row and column of the pixel, (flips, 2); -1 for decisions that are not about a pixel.
    """

    image: npt.NDArray[np.int64]
    pixel: npt.NDArray[np.int64]
    raw_value: npt.NDArray[np.float32]
    margin: npt.NDArray[np.float64]
    place: npt.NDArray[np.int64]

    __repr__ = short_repr

    @classmethod
    def joined(cls, parts: Sequence[Flips]) -> Flips:
        """Concatenate flips."""
        none = np.empty(0, np.int64)
        empty = cls(none, none, np.empty(0, np.float32), np.empty(0), nowhere(0))
        arrays = ([getattr(part, attribute.name) for part in (empty, *parts)] for attribute in fields(cls))
        return cls(*map(np.concatenate, arrays))

    def __len__(self) -> int:
        return len(self.image)

    def summary(self) -> dict[str, Any]:
        """Return the count, and smallest, median and largest margin."""
        finite = self.margin[np.isfinite(self.margin)]
        low, middle, high = (
            (float(finite.min()), float(np.median(finite)), float(finite.max())) if len(finite) else (None,) * 3
        )
        return {"count": len(self), "margin_min": low, "margin_median": middle, "margin_max": high}

    def listed(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """List up to 1000 flips, the furthest from the cutoff first."""
        order = np.argsort(-np.nan_to_num(self.margin, nan=np.inf), kind="stable")[:_MAX_LISTED_FLIPS]
        return [
            {
                "image": names[self.image[i]],
                "pixel": int(self.pixel[i]),
                **({} if self.place[i, 0] < 0 else {"row": int(self.place[i, 0]), "column": int(self.place[i, 1])}),
                "raw_value": finite(float(self.raw_value[i])),
                "margin": finite(float(self.margin[i])),
            }
            for i in order
        ]


def nowhere(count: int) -> npt.NDArray[np.int64]:
    """Return `place` of flips that are not about pixels."""
    return np.full((count, 2), -1, np.int64)


def place_text(flip: Mapping[str, Any]) -> str:
    """Return where a flip of `Flips.listed` is: row and column of a pixel, otherwise its index."""
    return f"row {flip['row']}, column {flip['column']}" if "row" in flip else str(flip["pixel"])


@dataclass(frozen=True)
class DecisionReport:
    """Comparison of the decisions of one output.

    Attributes:
        name: Name of the output, such as `pred_label`.
        per_pixel: True for a mask, False for labels.
        total: Decisions compared.
        positive: Decisions that are anomalous in the reference; 0 for class indices.
        compare: Name of the comparison whose cutoff margins are measured from; None if there is none.
        cutoff: The smallest anomalous value; None if no value is anomalous, or if there are several cutoffs.
        scale: Divisor of the margins: `max - min` of the level, or 1 without a range.
        flips: Decisions of the artifact that differ from the float32 reference, for any cause.
        postprocessing: Flips caused by the post-processing: the artifact's decision differs from that of the NumPy
            reference on the artifact's own raw value. Must be empty.
        drift: Flips caused by drift of the network: the NumPy reference decides differently on the artifact's raw value
            and on the float32 one.
        classes: True for class indices. A margin is then the distance from the next smaller number of a class.
        detections: True for the classes of detections. Flips by drift are then lost, gained and otherwise classified
            detections, and a margin is the distance of the score from the confidence.
    """

    name: str
    per_pixel: bool
    total: int
    positive: int
    compare: str | None
    cutoff: float | None
    scale: float
    flips: int
    postprocessing: Flips
    drift: Flips
    classes: bool = False
    detections: bool = False

    __repr__ = short_repr


@dataclass(frozen=True)
class FlipLimit:
    """Largest number or share of decisions that drift may flip.

    Attributes:
        number: A number of decisions, or a share in percent.
        percent: True if `number` is a share.
    """

    number: float
    percent: bool = False

    @classmethod
    def parse(cls, given: int | str | None, name: str) -> FlipLimit | None:
        """Read a limit such as 5, `"5"` or `"0.1%"`; None for any number.

        Raises:
            DataError: It is neither a number nor a share.
        """
        if given is None:
            return None
        text = str(given).strip()
        percent = text.endswith("%")
        try:
            number = float(text.removesuffix("%"))
            if not (0 <= number < math.inf) or (percent and number > 100) or not (percent or number.is_integer()):
                raise ValueError
        except ValueError:
            raise DataError(
                f"{name} is '{given}', expected a number of decisions such as 5, or a share such as 0.1%. Use 100% for "
                "any number."
            ) from None
        return cls(number, percent)

    def allows(self, flips: int, total: int) -> bool:
        """Return True if so many flips of so many decisions are within the limit."""
        return flips <= (self.number * total / 100 if self.percent else self.number)

    def __str__(self) -> str:
        return f"{self.number:g}{'%' if self.percent else ''}"


@dataclass(frozen=True)
class Drift:
    """Decisions that drift of the network flips, of all labels or of all pixels.

    Attributes:
        kind: `labels` or `pixels`; `detections` for the labels of a detector.
        flips: Flipped decisions.
        total: Decisions compared.
        margin: Largest distance of a flipped raw value from its cutoff, as a share of the calibrated range; None
            without flips.
        limit: What is tolerated; None for any number.
        scaled: True if margins are shares of a range, False if they are differences of raw values.
    """

    kind: str
    flips: int
    total: int
    margin: float | None
    limit: FlipLimit | None
    scaled: bool = True

    @property
    def option(self) -> str:
        """Name of the limit's argument."""
        return "max_pixel_flips" if self.kind == "pixels" else "max_label_flips"

    @property
    def share(self) -> float:
        """Flipped share of the decisions, from 0 to 1."""
        return self.flips / self.total if self.total else 0.0

    @property
    def within_limit(self) -> bool:
        """True if the limit allows these flips."""
        return self.limit is None or self.limit.allows(self.flips, self.total)

    def __str__(self) -> str:
        if self.kind == "detections":
            text = f"{counted(self.flips, 'detection')} lost, gained or classified otherwise, of {self.total:,}"
            if self.margin is None:
                return text
            return f"{text}, with scores at most {self.margin:.3g} from the confidence"
        text = f"{self.flips:,} of {self.total:,} {self.kind} flipped"
        if self.flips and self.kind == "pixels":
            text += f" ({100 * self.share:.2g} %)"
        if self.margin is None:
            return text
        if not self.scaled:
            return f"{text}, with a margin of at most {self.margin:.3g}"
        return f"{text}, at most {100 * self.margin:.2g} % of the range from the cutoff"

    def to_dict(self) -> dict[str, Any]:
        """Return the drift as JSON values."""
        return {
            "flips": self.flips,
            "total": self.total,
            "share": self.share,
            "margin_max": self.margin,
            "limit": None if self.limit is None else str(self.limit),
            "within_limit": self.within_limit,
        }


def error_values(error: ErrorReport) -> dict[str, Any]:
    """Return errors as JSON values."""
    return {name: finite(value) if isinstance(value, float) else value for name, value in asdict(error).items()}


def finite(number: float) -> float | None:
    """Return a number that JSON can hold; None for others."""
    return number if math.isfinite(number) else None
