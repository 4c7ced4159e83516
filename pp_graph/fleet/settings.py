"""The file that describes a fleet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from pp_graph.calibration import range_estimator, threshold_estimator
from pp_graph.conversion import PRECISIONS
from pp_graph.errors import CalibrationError, PPGraphError
from pp_graph.fleet.post_processing import FAMILIES, build_post_processor
from pp_graph.openvino.devices import device_profile
from pp_graph.packaging import TARGETS
from pp_graph.precision.choosing import BUDGET
from pp_graph.urls import UrlPath, as_path
from pp_graph.verification import FlipLimit
from pp_graph.yaml_document import Document

SCHEMA_VERSION: Final = 1
AUTO: Final = "auto"
"""Precision that a search chooses."""
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Tag = str | int | float | bool
_Method = str | dict[str, dict[str, Any]]
_UNITS: Final = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_LEAST_MEMORY: Final = 2**30
_PLACEHOLDERS: Final = ("stem", "folder", "name")


class FleetLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model may cost. The post-processing itself must be exact in any case.

    Attributes:
        label_flips: Labels that drift of the network may flip: a number, or a share such as `1%`; None for any.
        pixel_flips: The same for pixels.
        ratio_to_raw: Largest latency over that of the raw model; None for any. Needs `benchmark_seconds`.
    """

    label_flips: int | str | None = 0
    pixel_flips: int | str | None = "0.1%"
    ratio_to_raw: _Positive | None = None


class FleetCalibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to calibrate a model without statistics; see `pp_graph.calibrate`.

    Attributes:
        image: Threshold estimator of images: a name, or a name with its parameters such as `{fpr: {rate: 0.001}}`.
        pixel: The same for pixels.
        image_range: Range estimator of images.
        pixel_range: The same for pixels.
        placement: Position of a threshold among scores.
    """

    image: _Method = "f1"
    pixel: _Method = "f1"
    image_range: _Method = "minmax"
    pixel_range: _Method = "minmax"
    placement: Literal["midpoint", "observed"] = "midpoint"

    def keywords(self) -> dict[str, Any]:
        """Return keyword arguments of `calibrate`.

        Raises:
            CalibrationError: An estimator or a parameter is not known.
        """
        found: dict[str, Any] = {"placement": self.placement}
        for name in ("image", "pixel", "image_range", "pixel_range"):
            method = getattr(self, name)
            if not isinstance(method, str) and len(method) != 1:
                raise CalibrationError(
                    f"{name} names {len(method)} methods, expected one, such as f1 or {{fpr: {{rate: 0.001}}}}."
                )
            kind, parameters = (method, {}) if isinstance(method, str) else next(iter(method.items()))
            build = range_estimator if name.endswith("range") else threshold_estimator
            found[name] = build(kind, parameters)
        return found


class FleetModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of a fleet, with all its settings.

    Attributes:
        name: Its name, unique in the fleet; also that of its folder.
        path: The raw ONNX model; a `UrlPath` if it is given by URL.
        data: Images to verify on, with labels also to calibrate on and to compute F1.
        boxes: Ground truth of a detector for `data`, COCO JSON or a folder of YOLO's text files; None for none.
        tags: Free properties, such as the camera, to select and group by.
        statistics: Statistics file; None to calibrate on `data`.
        task: Family of the model.
        recipe: Recipe in the place of the family's post-processor.
        options: Options of the post-processor, as in Python.
        roles: Outputs of the raw model by role.
        calibrate: How to calibrate.
        recalibrate: Calibrate again on each artifact, on its device and in its precision.
        devices: Devices to convert for.
        precisions: Precisions of the weights; `auto` searches for the fastest mixture within the limits.
        inference_precision: Precision to run in; `default` is that of the device.
        batch: Images per run; None leaves an open batch open.
        input_shape: Sizes of the input, None for one that stays open; None leaves all as they are.
        limits: What the model may cost.
        search_minutes: Time to search for the precision `auto`.
        benchmark_seconds: Seconds to measure latency; None for no measurement.
        packages: Targets of `pp_graph.package` to write folders for, such as `python` and `cpp`.
        source: URL of the raw model, if `path` is a copy.
    """

    name: str
    path: Path
    tags: dict[str, _Tag] = {}
    statistics: Path | None = None
    data: Path
    boxes: Path | None = None
    task: Literal[tuple(FAMILIES)] = "anomaly"  # type: ignore[valid-type]
    recipe: Path | None = None
    options: dict[str, Any] = {}
    roles: dict[str, str] = {}
    calibrate: FleetCalibration = FleetCalibration()
    recalibrate: bool = False
    devices: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("CPU",)
    precisions: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("f32",)
    inference_precision: Literal["f32", "bf16", "f16", "default"] = "f32"
    batch: Annotated[int, msgspec.Meta(ge=1)] | None = None
    input_shape: tuple[int | None, ...] | None = None
    limits: FleetLimits = FleetLimits()
    search_minutes: _Positive = BUDGET
    benchmark_seconds: _Positive | None = None
    packages: tuple[str, ...] = ()
    source: str = ""

    @property
    def calibrated(self) -> bool:
        """True if its statistics are found on its data."""
        return self.statistics is None and self.task == "anomaly" and self.recipe is None

    @property
    def executed(self) -> str | None:
        """Inference precision, as functions take it."""
        return None if self.inference_precision == "default" else self.inference_precision


def _entry(name: str, further: list[Any]) -> Any:
    """Make the struct of an entry of the file: the fields of `FleetModel`, each optional, with paths as text."""
    texts = {Path: _Text, Path | None: _Text | None}
    fields = [
        (each.name, texts.get(each.type, each.type) | msgspec.UnsetType, msgspec.UNSET)
        for each in msgspec.structs.fields(FleetModel)
        if each.name not in ("name", "path", "source")
    ]
    return msgspec.defstruct(name, [*fields, *further], kw_only=True, frozen=True, forbid_unknown_fields=True)


_Shared = _entry("_Shared", [])
_Model = _entry("_Model", [("path", _Text), ("name", str, "")])


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    models: Annotated[list[_Model], msgspec.Meta(min_length=1)]  # type: ignore[valid-type]
    output: _Text
    defaults: _Shared = _Shared()  # type: ignore[valid-type]
    timeout: _Positive = 1800.0
    memory: str | int | None = None
    retries: Annotated[int, msgspec.Meta(ge=0)] = 1
    schema_version: int = SCHEMA_VERSION


class FleetSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet.

    Attributes:
        path: The file it was read from.
        output: Folder of the results.
        models: The models.
        timeout: Seconds after which a task is stopped.
        memory: Bytes that the process of a task may allocate; None for its share of the machine's.
        retries: How often a task is tried again after its process crashed or a file could not be used.
    """

    path: Path
    output: Path
    models: tuple[FleetModel, ...]
    timeout: float
    memory: int | None
    retries: int


def read_fleet(path: str | Path) -> FleetSettings:
    """Read the file that describes a fleet.

    Args:
        path: A YAML file; see `docs/fleet.md`. Paths in it are relative to its folder.

    Raises:
        SettingsError: The file cannot be read, a field does not fit, or a file that it names is missing; the message
            names line and field.
    """
    path = Path(path)
    document = Document(path, "Fleet", "'output' and a list 'models'. See pp-graph fleet run --help.")
    version = document.root.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise document.error(("schema_version",), f"is {version!r}, expected {SCHEMA_VERSION}. Upgrade pp_graph.")
    file = document.converted(_File)
    reader = _Reader(document, file, path.absolute().parent)
    models: list[FleetModel] = []
    for index in range(len(file.models)):
        for model in reader.models(index):
            if any(model.name == other.name for other in models):
                raise document.error(
                    ("models", index),
                    f"'{model.name}' is the name of two models, expected different names. Give a 'name', for a pattern "
                    "with {folder} or {stem}.",
                )
            models.append(model)
    memory = file.memory if file.memory is None else reader.memory(file.memory)
    return FleetSettings(
        path=path,
        output=reader.folder / file.output,
        models=tuple(models),
        timeout=file.timeout,
        memory=memory,
        retries=file.retries,
    )


class _Reader:
    """Turns entries of the file into models."""

    def __init__(self, document: Document, file: _File, folder: Path) -> None:
        self._document, self._file, self.folder = document, file, folder
        self._checked: set[str] = set()

    def memory(self, given: str | int) -> int:
        """Parse `4 GiB`."""
        found = re.fullmatch(r"([\d.]+)\s*(\w*)", str(given).strip())
        try:
            size = -1 if found is None else int(float(found[1]) * (_UNITS[found[2]] if found[2] else 1))
        except (KeyError, ValueError):
            size = -1
        if size < _LEAST_MEMORY:
            raise self._document.error(
                ("memory",), f"is '{given}', expected at least 1 GiB, with a unit ({', '.join(_UNITS)}): 4 GiB."
            )
        return size

    def models(self, index: int) -> list[FleetModel]:
        """Return the models of an entry: one, or all that match a pattern."""
        entry: Any = self._file.models[index]
        place = ("models", index)
        pattern = any(sign in entry.path for sign in "*?[")
        try:
            # A pattern is an input like any other, so its order must not follow the file system.
            paths = self._matches(self._path(entry.path)) if pattern else [self._path(entry.path)]
        except (PPGraphError, OSError) as error:
            raise self._document.error((*place, "path"), f"'{entry.path}' cannot be listed: {error}") from error
        if not paths:
            raise self._document.error((*place, "path"), f"'{entry.path}' matches no file. Check the pattern.")
        return [self._model(entry, place, path) for path in paths]

    def _path(self, text: str) -> Path:
        """Return a path, relative ones to the file's folder, or a URL."""
        found = as_path(text)
        return found if isinstance(found, UrlPath) else self.folder / found

    @staticmethod
    def _matches(pattern: Path) -> list[Path]:
        if isinstance(pattern, UrlPath):
            return list(pattern.matches())
        return sorted(path for path in Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
                      if path.is_file())  # fmt: skip

    def _model(self, entry: Any, place: tuple[str | int, ...], path: Path) -> FleetModel:
        # A URL that does not answer fails its own model, and not the whole fleet.
        if not isinstance(path, UrlPath) and not path.is_file():
            raise self._document.error((*place, "path"), f"'{path}' is not a file, expected a raw ONNX model.")
        values = {"stem": path.stem, "folder": path.parent.name}
        values["name"] = name = self._filled(entry.name or "{stem}", values, (*place, "name"))
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise self._document.error(
                (*place, "name"),
                f"'{name}' is no name, expected letters, digits, '_', '-' and '.', because it is also that of a "
                "folder. Give another 'name'.",
            )
        given: dict[str, Any] = {}
        where: dict[str, tuple[str | int, ...]] = {}
        for settings, at in ((self._file.defaults, ("defaults",)), (entry, place)):
            for field in _Shared.__struct_fields__:
                value = getattr(settings, field)
                if value is not msgspec.UNSET:
                    given[field] = {**given.get(field, {}), **value} if isinstance(value, dict) else value
                    where[field] = (*at, field)
        if "data" not in given:
            raise self._document.error(
                place, f"'{name}' has no 'data', expected images to verify on: a folder or an .npz. Add 'data'."
            )
        for field in ("statistics", "data", "boxes", "recipe"):
            if given.get(field) is not None:
                given[field] = self._file_of(name, field, self._filled(given[field], values, where[field]), where)
        given["tags"] = {
            key: self._filled(value, values, where["tags"]) if isinstance(value, str) else value
            for key, value in given.get("tags", {}).items()
        }
        if isinstance(given.get("options", {}).get("labels"), str):
            labels = self._filled(given["options"]["labels"], values, where["options"])
            given["options"] = {**given["options"], "labels": str(self.folder / labels)}
        model = FleetModel(name=name, path=path, **given)
        self._check(model, where, place)
        return model

    def _file_of(self, model: str, field: str, text: str, where: dict[str, tuple[str | int, ...]]) -> Path:
        file = self._path(text)
        if isinstance(file, UrlPath):
            if field in ("data", "boxes"):
                raise self._document.error(
                    where[field], f"of '{model}' is '{file}', expected a place on this machine, or on a drive that the "
                    "workers share. Copy it; only models, statistics and recipes may be URLs."
                )  # fmt: skip
        elif not file.exists():
            raise self._document.error(where[field], f"of '{model}' is '{file}', which does not exist.")
        return file

    def _filled(self, text: str, values: dict[str, str], place: tuple[str | int, ...]) -> str:
        unknown = next((each for each in re.findall(r"\{(.*?)\}", text) if each not in values), None)
        if unknown is not None:
            raise self._document.error(
                place, f"has '{{{unknown}}}', expected some of: {', '.join(f'{{{each}}}' for each in _PLACEHOLDERS)}."
            )
        return re.sub(r"\{(.*?)\}", lambda found: values[found[1]], text)

    def _check(self, model: FleetModel, where: dict[str, tuple[str | int, ...]], place: tuple[str | int, ...]) -> None:
        """Check what needs no model, once for all models with the same settings."""
        settings = (model.task, model.recipe, model.options, model.roles, model.calibrate, model.devices,
                    model.precisions, model.limits, model.benchmark_seconds, model.input_shape, model.packages,
                    bool(model.statistics), model.boxes, model.search_minutes)  # fmt: skip
        if repr(settings) in self._checked:
            return
        self._checked.add(repr(settings))

        def attempt(field: str, check: Any, *arguments: Any) -> None:
            try:
                check(*arguments)
            except (PPGraphError, TypeError, ValueError) as error:
                raise self._document.error(where.get(field, place), f"of '{model.name}': {error}") from error

        for device in model.devices:
            attempt("devices", device_profile, device)
        for field, known in (("precisions", (*PRECISIONS, AUTO)), ("packages", [each.name for each in TARGETS])):
            unknown = next((each for each in getattr(model, field) if each not in known), None)
            if unknown is not None:
                raise self._document.error(where[field], f"has '{unknown}', expected some of: {', '.join(known)}.")
        if AUTO in model.precisions and 60 * model.search_minutes >= self._file.timeout:
            raise self._document.error(
                where.get("search_minutes", where["precisions"]), f"searches {model.search_minutes:g} minutes for the "
                f"precision '{AUTO}', and a task may take {self._file.timeout:g} s, expected more. Set 'timeout' "
                "higher, or 'search_minutes' lower."
            )  # fmt: skip
        if model.boxes is not None and model.recipe is None and model.task != "detection":
            raise self._document.error(
                where["boxes"], f"does not apply to task '{model.task}', expected ground truth of a detector. Leave it "
                "out, or set 'task: detection'."
            )  # fmt: skip
        for level in ("label_flips", "pixel_flips"):
            attempt("limits", FlipLimit.parse, getattr(model.limits, level), level)
        if model.limits.ratio_to_raw is not None and model.benchmark_seconds is None:
            raise self._document.error(where["limits"], "has 'ratio_to_raw', which needs 'benchmark_seconds'. Add it.")
        if model.benchmark_seconds is not None and None in (model.input_shape or ())[1:]:
            raise self._document.error(
                where["input_shape"], "leaves a size open besides the batch, and 'benchmark_seconds' needs it. Give it."
            )
        attempt("calibrate", model.calibrate.keywords)
        if model.statistics is not None and model.task != "anomaly":
            raise self._document.error(
                where["statistics"], f"does not apply to task '{model.task}'. Leave it out, and write its limits as "
                "'options'."
            )  # fmt: skip
        if model.recipe is None:
            attempt("options", build_post_processor, model, None)
        elif model.options:
            raise self._document.error(where["options"], "does not apply with a recipe. Write it into the recipe.")
