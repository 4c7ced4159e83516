"""The file of limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec

from pp_graph.errors import PPGraphError
from pp_graph.verification import FlipLimit
from pp_graph.yaml_document import Document

SCHEMA_VERSION: Final = 1
_Ratio = Annotated[float, msgspec.Meta(gt=0)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model may cost. The post-processing itself must be exact in any case.

    Attributes:
        label_flips: Labels that drift of the network may flip: a number, or a share such as `1%`.
        pixel_flips: The same for pixels.
        ratio_to_raw: Largest latency over that of the raw model; None for any.
        ratio_to_release: Largest latency over that of the last release, each over the raw model of its run; None for
            any.
    """

    label_flips: int | str = 0
    pixel_flips: int | str = "0.1%"
    ratio_to_raw: _Ratio | None = None
    ratio_to_release: _Ratio | None = None


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model to check. Paths are relative to the file of limits.

    Attributes:
        raw: Raw ONNX model.
        model: The artifact: an IR, or a fused ONNX file.
        data: Images: a folder, or an .npz.
        name: Name in reports; that of the model's file by default.
        device: Device to verify and measure on.
        inference_precision: `f32`, `bf16`, `f16` or `default`.
        release: The last release: a report of `benchmark --json`, or the artifact itself, which is then measured beside
            the model.
        seconds: Seconds to measure latency.
        limits: The limits.
    """

    raw: _Text
    model: _Text
    data: _Text
    name: str = ""
    device: str = "CPU"
    inference_precision: str = "f32"
    release: _Text | None = None
    seconds: _Ratio = 5.0
    limits: Limits = Limits()

    @property
    def title(self) -> str:
        """Name in reports."""
        return self.name or self.model


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    checks: Annotated[list[Check], msgspec.Meta(min_length=1)]
    schema_version: int = SCHEMA_VERSION


def read_limits(path: str | Path) -> list[Check]:
    """Read the checks of a file of limits.

    Args:
        path: A YAML file with a list `checks`; see `Check`.

    Raises:
        SettingsError: The file cannot be read, or a field does not fit; the message names line and field.
    """
    document = Document(Path(path), "Limits", "a list 'checks' of raw, model and data. See pp-graph ci --help.")
    version = document.root.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise document.error(("schema_version",), f"is {version!r}, expected {SCHEMA_VERSION}. Upgrade pp_graph.")
    checks = document.converted(_File).checks
    for index, check in enumerate(checks):
        place = ("checks", index, "limits")
        for name in ("label_flips", "pixel_flips"):
            try:
                FlipLimit.parse(getattr(check.limits, name), name)
            except PPGraphError as error:
                raise document.error((*place, name), str(error).partition(" is ")[2] or str(error)) from error
        if check.limits.ratio_to_release is not None and check.release is None:
            raise document.error(
                (*place, "ratio_to_release"),
                "needs the last release. Add 'release': a report of pp-graph benchmark --json, or the artifact.",
            )
    titles = [check.title for check in checks]
    twice = next((index for index, title in enumerate(titles) if title in titles[:index]), None)
    if twice is not None:
        raise document.error(
            ("checks", twice), f"'{titles[twice]}' is checked twice, expected different names. Give one a 'name'."
        )
    return checks
