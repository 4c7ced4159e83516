"""`PostProcessorCallback`: calibrates in validation, stores statistics in checkpoints, applies the post-processor."""

from __future__ import annotations

import importlib
import logging
import warnings
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

import msgspec

from pp_graph.errors import DataError, PostProcessorError, StatisticsError
from pp_graph.extras import require_extra
from pp_graph.integrations.exporting import check_output_files
from pp_graph.integrations.lightning.outputs import Key, Keys, value_of, write_predictions
from pp_graph.integrations.lightning.validation import Collector, Validation
from pp_graph.postprocessors import OneClassPostProcessor, PostProcessor
from pp_graph.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pp_graph.calibration import CalibrationResult
    from pp_graph.calibration.calibration import CalibratorSettings

_STATE_VERSION: Final = 1
_PACKAGES: Final = ("lightning.pytorch", "pytorch_lightning")
"""Two names of one library. Each has its own classes, and a trainer accepts only callbacks of its package."""
_STAGES: Final = ("test", "predict")
_NO_STATISTICS: Final = (
    "No validation has run yet, and no checkpoint with statistics was loaded, expected calibrated statistics. Run "
    "trainer.fit or trainer.validate first, pass ckpt_path=, or pass the callback a post-processor with statistics."
)
_OUTDATED: Final = (
    "The model was trained further after the validation that gave its statistics, expected statistics of the current "
    "weights: thresholds may not fit."
)
_log = logging.getLogger(__name__)


def callback_bases() -> tuple[type[Any], ...]:
    """Return `Callback` of each installed Lightning package."""
    bases: list[type[Any]] = []
    for name in _PACKAGES:
        try:
            bases.append(importlib.import_module(name).Callback)
        except ImportError:
            continue
    if not bases:
        require_extra(_PACKAGES[0], "lightning", "the Lightning callback")
    return tuple(bases)


if TYPE_CHECKING:

    class _Callback:
        """Interface shared by the base classes of both packages, for the type checker."""

else:
    _Callback = type("_Callback", callback_bases(), {})


class PostProcessorCallback(_Callback):
    """Calibrates a post-processor in validation and applies it in test and predict.

    Each validation in `fit` or `validate` (not the sanity check) starts from zero. It gives the same statistics, bit
    for bit, as `pp_graph.calibrate_scores` on the same raw scores, maps, labels and masks. Maps are kept in a temporary
    file for a second pass. Several devices add up their counts in the order of their ranks, without the images that
    `DistributedSampler` repeats to fill the last batch. All validation loaders count.

    Every checkpoint contains the statistics as plain types and restores them. If the model is trained further after a
    validation, its statistics are outdated: test and predict warn, and `export` raises.

    In test and predict, the callback writes the outputs of the post-processor into the step's return value; for an
    anomaly model these are `pred_score`, `pred_label`, `anomaly_map` and `pred_mask`. They replace raw values of the
    same name. The step must return a dict or an object with assignable fields; a NamedTuple works in validation only. A
    post-processor that reads other values than a score and a map finds them by the names of its roles.

    Args:
        post: The post-processor; None for `OneClassPostProcessor()`. Its statistics apply until the first validation
            ends or a checkpoint is loaded.
        score_key: Name of the raw score (N,) or (N,1) in the outputs; None for `pred_score`, if present.
        map_key: Name of the raw map (N,H,W), (N,1,H,W) or (N,H,W,1) in the outputs; None for `anomaly_map`. Without a
            score, the largest value of an image's map is its score.
        label_key: Name of the labels (N,), bool or 0 and 1, in the outputs or else in the batch, or their position in a
            batch that is a tuple; None for `label` or `gt_label`. Without labels, calibration finds a range only.
        mask_key: The same for masks (N,H,W) or (N,1,H,W), 0 for normal pixels; None for `mask` or `gt_mask`.
        apply_in: Stages in which to write predictions: `test`, `predict`, both or neither.
        one_pass: Count maps once, with bounded error, instead of keeping them in a temporary file for a second pass.
        resamples: Bootstrap resamples for the confidence intervals of the image level in `result`; 0 for none. They
            take about a second per validation and do not change the statistics.
        export_to: The `.xml` to export the model with the post-processor to after training; None for no export.
            Training does not start if the file exists, unless `export_options` contain `overwrite=True`.
        example: Example input for the export, such as a tensor (N,3,H,W); None for the module's `example_input_array`.
        export_module: Dotted name of the submodule to export, such as `model`; None for the Lightning module itself.
            Its `forward` returns the raw score, the raw map or both.
        export_options: Further keyword arguments of `pp_graph.integrations.torch.export`, such as `device`,
            `precision`, `images`.
        **settings: Keyword arguments of `pp_graph.Calibrator`: `image`, `pixel`, `image_range`, `pixel_range`,
            `placement`, `ignore_nonfinite`.

    Attributes:
        result: Statistics, metrics and warnings of the last validation; None before the first.

    Raises:
        PostProcessorError: `post` is not a post-processor, or `apply_in` contains another stage.
        CalibrationError: An estimator or the placement is unknown.
        ExtraError: An estimator needs a library that is not installed.
    """

    def __init__(
        self,
        post: PostProcessor | None = None,
        *,
        score_key: str | None = None,
        map_key: str | None = None,
        label_key: Key | None = None,
        mask_key: Key | None = None,
        apply_in: Collection[str] = _STAGES,
        one_pass: bool = False,
        resamples: int = 0,
        export_to: str | Path | None = None,
        example: Any = None,
        export_module: str | None = None,
        export_options: Mapping[str, Any] | None = None,
        **settings: Unpack[CalibratorSettings],
    ) -> None:
        post = OneClassPostProcessor() if post is None else post
        if not isinstance(post, PostProcessor):
            raise PostProcessorError(
                f"The post-processor is {type(post).__name__}, expected a PostProcessor such as "
                "OneClassPostProcessor()."
            )
        if isinstance(apply_in, str) or not set(apply_in) <= set(_STAGES):
            raise PostProcessorError(f"apply_in is {apply_in!r}, expected some of {_STAGES}, such as ('test',) or ().")
        self._post, self._initial_statistics, self._trained_since = post, post.statistics, False
        # Raise before training if the state cannot be saved or the calibrator cannot be built.
        self.state_dict()
        Collector(settings).close()
        self._settings = settings
        self._keys = Keys(score_key, map_key, label_key, mask_key)
        self._apply_in = tuple(apply_in)
        self._one_pass = one_pass
        self._resamples = resamples
        self._export_to = None if export_to is None else Path(export_to)
        self._example = example
        self._export_module = export_module
        self._export_options = dict(export_options or {})
        self._validation: Validation | None = None
        self.result: CalibrationResult | None = None

    @property
    def state_key(self) -> str:
        """Name in checkpoints. It contains the keys, so that a trainer can hold one callback per pair of outputs."""
        keys = [key for key in (self._keys.score, self._keys.map) if key is not None]
        return type(self).__qualname__ + (f"{{{', '.join(map(repr, keys))}}}" if keys else "")

    @property
    def post(self) -> PostProcessor:
        """The post-processor with the latest statistics; `post(raw)` applies it."""
        return self._post

    @property
    def statistics(self) -> Statistics | None:
        """The latest statistics; None before the first validation, unless `post` had some."""
        return self._post.statistics

    @property
    def outdated(self) -> bool:
        """True if the model was trained further after the validation that gave the statistics."""
        return self._trained_since and self.statistics is not None

    def use(self, post: PostProcessor) -> None:
        """Replace the post-processor, statistics included."""
        self._post = post

    # --- validation ---------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Raise before training if the callback would do nothing.

        Raises:
            PostProcessorError: There is no validation that could find the statistics, and there are none yet.
        """
        del pl_module
        if self.statistics is None and not trainer.enable_validation:
            raise PostProcessorError(
                f"{type(self).__name__} has no statistics, and the trainer does not validate, expected validation "
                "images with labels: it would do nothing. Give fit a validation loader and the module a "
                "validation_step, or build the callback with a post-processor that has statistics."
            )

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Start a new calibration."""
        del pl_module
        self._close()
        if not trainer.sanity_checking:
            self._validation = Validation(trainer, self._post, self._keys, self._settings, one_pass=self._one_pass)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int | None = None
    ) -> None:
        """Collect the outputs of a validation step.

        Raises:
            DataError: A value is missing, or shapes do not match.
        """
        del trainer, pl_module
        if self._validation is not None:
            done = next((name for name in ("pred_label", "pred_mask") if value_of(outputs, (name,)) is not None), None)
            if done is not None:
                raise DataError(
                    f"validation_step returned '{done}', so its values are post-processed, expected raw ones: "
                    "statistics of normalised values would decide wrongly. Return what the model gives."
                )
            self._validation.add(outputs, batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Set the statistics, before Lightning writes the checkpoint of this validation.

        Raises:
            CalibrationError: There were no images, or their scores do not allow an estimate.
        """
        del trainer, pl_module
        if self._validation is None:
            return
        try:
            self.result = self._validation.result(resamples=self._resamples)
        finally:
            self._close()
        self._post = self._post.with_statistics(self.result.statistics)
        self._trained_since = False

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Mark the statistics as outdated."""
        del args, kwargs
        self._trained_since = True

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Delete the temporary files."""
        del trainer, pl_module, exception
        self._close()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Log the warnings of the last calibration."""
        del pl_module
        self._close()
        if stage in ("fit", "validate") and self.result is not None and trainer.is_global_zero:
            for name, level in self.result.levels.items():
                for warning in level.warnings:
                    _log.warning("%s: %s", name, warning)

    def _close(self) -> None:
        if self._validation is not None:
            self._validation.close()
        self._validation = None

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return statistics and parameters as plain types, so that a checkpoint loads with `weights_only`."""
        statistics = None if self.statistics is None else msgspec.json.decode(self.statistics.to_json())
        return {
            "version": _STATE_VERSION,
            "statistics": statistics,
            "outdated": self._trained_since,
            "post_processor": type(self._post).__name__,
            "parameters": msgspec.json.decode(msgspec.json.encode(self._post.parameters())),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the statistics of a checkpoint, but keep the callback's parameters; warn if the checkpoint's differ.

        Raises:
            StatisticsError: The state has a later version or is damaged.
        """
        if state_dict.get("version") != _STATE_VERSION:
            raise StatisticsError(
                f"The checkpoint's post-processor state has version {state_dict.get('version')!r}, expected "
                f"{_STATE_VERSION}. Upgrade pp_graph, or validate again."
            )
        saved, current = _named_settings(state_dict), _named_settings(self.state_dict())
        changed = [
            f"{name} was {saved.get(name)!r} and is {current.get(name)!r}"
            for name in {**saved, **current}
            if saved.get(name) != current.get(name)
        ]
        if changed:
            warnings.warn(
                f"The checkpoint was saved with another post-processor, so decisions may differ: {'; '.join(changed)}. "
                "The callback's own settings apply.",
                stacklevel=2,
            )
        statistics = self._initial_statistics
        if (stored := state_dict.get("statistics")) is not None:
            statistics = Statistics.from_json(msgspec.json.encode(stored))
        self._post = self._post.with_statistics(statistics)
        self._trained_since = bool(state_dict.get("outdated"))
        self.result = None

    # --- test and predict ---------------------------------------------------------------------------------------------

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Warn if the statistics are outdated."""
        del trainer, pl_module
        self._warn_if_outdated("test")

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Warn if the statistics are outdated."""
        del trainer, pl_module
        self._warn_if_outdated("predict")

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        """Add predictions to the outputs of a test step; see `apply`."""
        del trainer, pl_module, args, kwargs
        if "test" in self._apply_in:
            self.apply(outputs, step="test_step")

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        """Add predictions to the outputs of a predict step, which `Trainer.predict` returns."""
        del trainer, pl_module, args, kwargs
        if "predict" in self._apply_in:
            self.apply(outputs, step="predict_step")

    def apply(self, outputs: Any, *, step: str = "the step") -> None:
        """Write predictions into outputs that hold raw values, in place.

        Args:
            outputs: The return value of a step.
            step: Name of the step, for error messages.

        Raises:
            StatisticsError: No validation has run yet, and no checkpoint was loaded.
            DataError: The outputs lack a raw value, or cannot be changed.
            PostProcessorError: A raw value has a different shape or element type.
        """
        try:
            predictions = self._post(self._keys.raw(outputs, self._post.roles, step))
        except StatisticsError as error:
            if self.statistics is None:
                raise StatisticsError(_NO_STATISTICS) from error
            raise
        write_predictions(outputs, predictions, step)

    def _warn_if_outdated(self, stage: str) -> None:
        if self.outdated and stage in self._apply_in:
            warnings.warn(
                f"{_OUTDATED} Run trainer.validate first, or load a checkpoint saved after a validation.", stacklevel=2
            )

    # --- export -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Raise before training if the model could not be exported after it.

        Raises:
            PostProcessorError: The example input or the submodule is missing.
            OutputFileError: A file exists and must not be replaced.
        """
        if stage == "fit" and self._export_to is not None:
            self._module_and_example(pl_module)
            if not trainer.fast_dev_run:
                raw = self._export_options.get("raw")
                overwrite = bool(self._export_options.get("overwrite"))
                check_output_files(self._export_to, None if raw is None else Path(raw), overwrite=overwrite)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Export on the first process; not in a `fast_dev_run`."""
        if self._export_to is not None and trainer.is_global_zero and not trainer.fast_dev_run:
            self.export(pl_module, self._export_to)

    def export(self, pl_module: Any, path: str | Path) -> Any:
        """Export a model with the post-processor to OpenVINO.

        Args:
            pl_module: The Lightning module; all of its weights must be in memory.
            path: The `.xml` to write.

        Returns:
            The `ExportResult` of `pp_graph.integrations.torch.export`.

        Raises:
            StatisticsError: There are no statistics, or they are outdated.
            PPGraphError: The example input or the submodule is missing; see `pp_graph.integrations.torch.export`.
        """
        from pp_graph.integrations.torch import export

        if self.statistics is None:
            raise StatisticsError(_NO_STATISTICS)
        if self.outdated:
            raise StatisticsError(f"{_OUTDATED} Run trainer.validate(model), then callback.export(model, '{path}').")
        module, example = self._module_and_example(pl_module)
        return export(module, self._post, example, path, **self._export_options)

    def _module_and_example(self, pl_module: Any) -> tuple[Any, Any]:
        """Return the module to export and its example input."""
        module = pl_module
        if self._export_module is not None:
            try:
                module = attrgetter(self._export_module)(pl_module)
            except AttributeError as error:
                names = ", ".join(f"'{name}'" for name, _ in pl_module.named_children())
                raise PostProcessorError(
                    f"export_module is '{self._export_module}', and {type(pl_module).__name__} has no such submodule, "
                    f"expected one of: {names}."
                ) from error
        example = getattr(pl_module, "example_input_array", None) if self._example is None else self._example
        if example is None:
            raise PostProcessorError(
                "The export has no example input, expected one to trace the model with. Pass example=, a tensor that "
                "the model accepts, or set the module's example_input_array."
            )
        return module, example


def _named_settings(state: Mapping[str, Any]) -> dict[str, Any]:
    return {"post_processor": state.get("post_processor"), **state.get("parameters", {})}
