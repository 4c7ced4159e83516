"""Origin of statistics, kept in their JSON and in every model they are fused into."""

from __future__ import annotations

from typing import Any

import msgspec


class LevelRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Record of how one level, image or pixel, was calibrated.

    Attributes:
        method: Name of the threshold estimator, such as `f1`.
        parameters: Its parameters.
        placement: `midpoint` or `observed`: where between two scores the threshold lies; None for an estimator that
            computes it.
        range: Name of the range estimator, such as `minmax`.
        range_parameters: Its parameters.
        normal: Normal images or pixels that were counted.
        anomalous: Anomalous ones.
        exact: Whether threshold and range are those of the sorted data, bit for bit.
        threshold_bound: Where an exact threshold is proven to lie, smallest and largest; None where `exact`.
        dropped: Values left out because they were not finite.
    """

    method: str
    parameters: dict[str, Any] = {}
    placement: str | None = None
    range: str
    range_parameters: dict[str, Any] = {}
    normal: int
    anomalous: int
    exact: bool
    threshold_bound: tuple[float, float] | None = None
    dropped: int = 0


class CalibrationRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Record of the model and data of a calibration.

    Attributes:
        model: File of the model, without folders; None where scores were given.
        model_sha256: Hash of the raw `.onnx` in it.
        runtime: Runtime, device and precision, for people.
        device: Device the network ran on; None where scores were given.
        precision: Precision the network ran in; None where it is not known.
        weights: Precision of the network's weights in an OpenVINO model.
        data: File or folder of the data, without folders above it; None for data in memory.
        data_sha256: Hash of images, labels and masks, or of scores and labels.
        images: Number of images.
        anomalous_images: Anomalous ones among them.
        image: The image level; None where it was not calibrated.
        pixel: The pixel level; None where it was not calibrated.
    """

    model: str | None = None
    model_sha256: str | None = None
    runtime: str | None = None
    device: str | None = None
    precision: str | None = None
    weights: str | None = None
    data: str | None = None
    data_sha256: str | None = None
    images: int
    anomalous_images: int
    image: LevelRecord | None = None
    pixel: LevelRecord | None = None


class StatisticsProvenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Origin of statistics.

    Attributes:
        source: Origin: `calibration`, or the name of a format.
        pp_graph_version: Version that wrote this.
        file: File they were read from, without folders.
        sha256: Hash of that file; None where it is larger than 64 MiB, or was a pipe.
        settings: Settings that came with them, as keyword arguments of `OneClassPostProcessor`.
        notes: What a person should know about how they were read.
        calibration: How they were calibrated; None where that is not known.
    """

    source: str
    pp_graph_version: str = ""
    file: str | None = None
    sha256: str | None = None
    settings: dict[str, Any] = {}
    notes: list[str] = []
    calibration: CalibrationRecord | None = None
