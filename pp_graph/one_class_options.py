"""Options of `OneClassPostProcessor`: default, check and help text of each.

The dataclass and the command line are built from this table. It imports no NumPy, so that `pp-graph --help` is fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Final, SupportsFloat

from pp_graph.errors import PostProcessorError

OUTPUT_NAMES: Final = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
"""Outputs of an anomaly model, in the order in which a fused model lists them."""
_MAX_PIXELS: Final = 2**27
_MOST_DIGITS: Final = 20
_LONGEST_SIDE: Final = 2**20
"""Pixels of a map's side. Resizing to it stores two positions and a weight each, and is as slow as its longest side."""
MOST_REGIONS: Final = 1000
"""Largest number of regions in a table."""


@dataclass(frozen=True)
class Option:
    """An option of `OneClassPostProcessor`.

    Attributes:
        name: Name of the dataclass field; the flag is the same with dashes.
        default: Default value.
        help: Help text of the flag.
        check: Takes a value and returns it in the option's own type. Raises `PostProcessorError` if it does not fit.
        choices: The accepted strings; empty if there are other values.
        metavar: Placeholder of the value in `--help`.
        parse: Converts the text from the command line to a value to check; raises `ValueError`.
        moves: The decision that a sensitivity moves.
        output_form: True if `convert` can change the option in a fused model (outputs, mask_dtype, map_size, regions,
            pack, thresholds). Provenance records such an option only if it is not the default.
    """

    name: str
    default: Any
    help: str
    check: Callable[[Any], Any]
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None
    moves: str | None = None
    output_form: bool = False

    @property
    def flag(self) -> str:
        """The flag on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_switch(self) -> bool:
        """True if the option is on or off."""
        return isinstance(self.default, bool)


def _sensitivity(name: str, moves: str, help_text: str) -> Option:
    def check(value: Any) -> float:
        if isinstance(value, bool | str) or not isinstance(value, SupportsFloat) or not 0 <= float(value) <= 1:
            raise PostProcessorError(
                f"{name} is {value!r}, expected a number from 0 (flags only NaN) to 1 (flags everything above 0)."
            )
        return float(value)

    return Option(name, 0.5, help_text, check, metavar="S", moves=moves)


def _switch(name: str, default: bool, help_text: str, *, output_form: bool = False) -> Option:
    def check(value: Any) -> bool:
        import numpy as np

        if not isinstance(value, bool | np.bool_):
            raise PostProcessorError(f"{name} is {value!r}, expected True or False.")
        return bool(value)

    return Option(name, default, help_text, check, output_form=output_form)


def _choice(name: str, choices: tuple[str, ...], help_text: str, *, output_form: bool = False) -> Option:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise PostProcessorError(f"{name} is {value!r}, expected one of: {', '.join(choices)}.")
        return value

    return Option(name, choices[0], help_text, check, choices, output_form=output_form)


def _check_outputs(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, Iterable):
        raise PostProcessorError(f"outputs is {value!r}, expected names, some of: {', '.join(OUTPUT_NAMES)}.")
    names = (value,) if isinstance(value, str) else tuple(value)
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise PostProcessorError(f"outputs holds {duplicate!r} twice, expected each name once.")
    unknown = next((name for name in names if name not in OUTPUT_NAMES), None if names else "nothing")
    if unknown is not None:
        raise PostProcessorError(f"outputs holds {unknown!r}, expected some of: {', '.join(OUTPUT_NAMES)}.")
    return names


def _check_map_size(value: Any) -> Any:
    if value is None or (isinstance(value, str) and value == "input"):
        return value
    size = tuple(value) if isinstance(value, list | tuple) else ()
    if len(size) != 2 or not all(map(_is_pixel_count, size)):
        raise PostProcessorError(
            f"map_size is {value!r}, expected height and width in pixels, such as (256, 256) (--map-size 256x256), or "
            "'input'. The size of the frame, map_size='frame' of Preprocessing, is set when converting."
        )
    if size[0] * size[1] > _MAX_PIXELS:
        raise PostProcessorError(
            f"map_size is {value!r}, {size[0] * size[1]:,} pixels, expected at most {_MAX_PIXELS:,}. Give a smaller "
            "size."
        )
    if max(size) > _LONGEST_SIDE:
        raise PostProcessorError(
            f"map_size is {value!r}, expected sides of at most {_LONGEST_SIDE:,} pixels. Give a smaller size."
        )
    return int(size[0]), int(size[1])


def _check_regions(value: Any) -> int | None:
    if value is None:
        return None
    if not _is_pixel_count(value) or value > MOST_REGIONS:
        raise PostProcessorError(f"regions is {value!r}, expected a whole number from 1 to {MOST_REGIONS}.")
    return int(value)


def _is_pixel_count(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) > 0


def _parse_outputs(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= _MOST_DIGITS


def _parse_whole(text: str) -> int:
    if not _is_number(text):
        raise ValueError(f"'{text}' is not a whole number, expected one such as 10.")
    return int(text)


def _parse_map_size(text: str) -> tuple[int, int] | str:
    height, _, width = text.lower().partition("x")
    if text in ("input", "frame"):  # convert takes 'frame' out: it is about frames, not about the post-processing
        return text
    if not (_is_number(height) and _is_number(width)):
        raise ValueError(f"'{text}' is not a size, expected height and width such as 256x256, or input.")
    return int(height), int(width)


OPTIONS: Final = {
    option.name: option
    for option in (
        _sensitivity(
            "image_sensitivity",
            "pred_label",
            "0 flags no image (except NaN), 0.5 those above the threshold, 1 all whose normalised score is above 0.",
        ),
        _sensitivity("pixel_sensitivity", "pred_mask", "The same for pixels."),
        _switch("normalize", True, "Normalise score and map, or leave them raw and compare with the raw threshold."),
        _switch("threshold", True, "Write label and mask, or neither (unrelated to --thresholds)."),
        _switch("match_thresholds", True, "Use the other level's threshold where one is unknown."),
        _choice("on_nan", ("anomalous", "normal"), "How to classify NaN."),
        Option(
            "outputs",
            None,
            f"Write only these of {','.join(OUTPUT_NAMES)}, or of those of the task; the rest is not computed.",
            _check_outputs,
            metavar="NAMES",
            parse=_parse_outputs,
            output_form=True,
        ),
        _choice(
            "mask_dtype",
            ("bool", "u8", "u8_255", "f32"),
            "Element type of pred_mask; u8_255 is 0 and 255.",
            output_form=True,
        ),
        Option(
            "map_size",
            None,
            "Resize map and mask, for example to the size of the model's input; with --resize also of the 'frame'.",
            _check_map_size,
            metavar="HxW|input|frame",
            parse=_parse_map_size,
            output_form=True,
        ),
        Option(
            "regions",
            None,
            "Also return the K largest connected regions of the mask: boxes, areas, scores, centroids, and the count.",
            _check_regions,
            metavar="K",
            parse=_parse_whole,
            output_form=True,
        ),
        _switch(
            "pack",
            False,
            "Return one float32 tensor (N,H,W,4): map, score, label, mask along its last axis.",
            output_form=True,
        ),
        _choice(
            "thresholds",
            ("fixed", "runtime"),
            "Write the cutoffs as constants, or so that they can be changed while the model runs (unrelated to "
            "--threshold).",
            output_form=True,
        ),
    )
}
"""All options by name, in the order of the dataclass fields."""
