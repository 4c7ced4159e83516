"""Origin of statistics, kept in their JSON and in every model they are fused into."""

from __future__ import annotations

from typing import Any

import msgspec


class LevelRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Record of how one level, image or pixel, was calibrated.

    Attributes:
        method: Name of the threshold estimator, such as `f1`.
        parameters: Its parameters.
        placement: Position of the threshold between two scores: `midpoint` or `observed`; None for an estimator that
            computes the threshold.
        range: Name of the range estimator, such as `minmax`.
        range_parameters: Its parameters.
        normal: Number of normal images or pixels.
        anomalous: Number of anomalous images or pixels.
        exact: True if threshold and range equal those of the sorted data, bit for bit.
        threshold_bound: Smallest and largest possible value of the exact threshold; None if `exact`.
        dropped: Number of values left out because they were not finite.
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
        model: File name of the model; None if scores were given.
        model_sha256: Hash of the raw `.onnx` it was made from.
        model_weights: Hash of a sample of its external weights; None if it has none.
        runtime: Readable description of runtime, device and precision.
        device: Device that ran the network; None if scores were given.
        precision: Inference precision of the network; None if unknown.
        weights: Precision of the network's weights in an OpenVINO model.
        data: Name of the data's file or folder; None for data in memory.
        data_sha256: Hash of images, labels and masks, or of scores and labels.
        images: Number of images.
        anomalous_images: Number of anomalous images.
        image: The image level; None if not calibrated.
        pixel: The pixel level; None if not calibrated.
    """

    model: str | None = None
    model_sha256: str | None = None
    model_weights: str | None = None
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
        source: `calibration`, or the name of a file format.
        pp_graph_version: Version of pp_graph that wrote this record.
        file: Name of the file that was read.
        sha256: Hash of that file; None if it is larger than 64 MiB or a pipe.
        settings: Settings from that file, as keyword arguments of `OneClassPostProcessor`.
        notes: Notes for the user.
        calibration: Record of the calibration; None if unknown.
        raw_sha256: Hash of the raw `.onnx` of the artifact that they were read from; None for other sources.
        raw_weights: Hash of a sample of its external weights.
    """

    source: str
    pp_graph_version: str = ""
    file: str | None = None
    sha256: str | None = None
    settings: dict[str, Any] = {}
    notes: list[str] = []
    calibration: CalibrationRecord | None = None
    raw_sha256: str | None = None
    raw_weights: str | None = None
