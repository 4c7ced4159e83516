"""`PostProcessorCallback`: finds the statistics in validation, keeps them in checkpoints, applies them."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

from pp_graph.errors import DataError, PostProcessorError, StatisticsError
from pp_graph.integrations.lightning.exporter import Exporter
from pp_graph.integrations.lightning.flavours import callback_bases
from pp_graph.integrations.lightning.outputs import Key, Keys, value_of, write_predictions
from pp_graph.integrations.lightning.state import NO_STATISTICS, OUTDATED, saved_state, statistics_in
from pp_graph.integrations.lightning.validation import Collector, Validation
from pp_graph.postprocessors import OneClassPostProcessor, PostProcessor

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pp_graph.calibration import CalibrationResult
    from pp_graph.calibration.calibration import CalibratorSettings
    from pp_graph.statistics import Statistics

    class _Callback:
        """Interface shared by the base classes of all flavours, for the type checker."""

else:
    _Callback = type("_Callback", callback_bases(), {})

_STAGES: Final = ("test", "predict")
_log = logging.getLogger(__name__)


class PostProcessorCallback(_Callback):
    """Finds the statistics of a post-processor in validation and applies it in test and predict.

    Each validation (in `fit` or `validate`; the sanity check does not count) starts anew. At its end the statistics are
    those that `pp_graph.calibrate_scores` finds on the same raw scores, maps, labels and masks, bit for bit: maps are
    kept in a temporary file for a second pass, as there. Several devices add up what they counted, in the order of
    their ranks; images that a `DistributedSampler` repeats to fill up the last batch are left out. Batches of all
    validation loaders count.

    Statistics go into every checkpoint, as plain types, and come back with it. Training on after a validation makes
    them those of older weights; test and predict then warn, and an export is refused.

    In test and predict, what the step returned gets the outputs of the post-processor in place, `pred_score`,
    `pred_label`, `anomaly_map` and `pred_mask` of an anomaly model; raw values of these names are replaced. Steps
    return a dict, or an object whose fields can be set: a NamedTuple can be read in validation, but not changed. A
    post-processor that reads other values than a score and a map finds them in the outputs by the names of its roles.

    Args:
        post: The post-processor; None for `OneClassPostProcessor()`. Statistics that it comes with hold until the first
            validation ends or a checkpoint is read.
        score_key: Name of the raw score (N,) or (N,1) in the outputs; None for `pred_score`, if it is there.
        map_key: Name of the raw map (N,H,W), (N,1,H,W) or (N,H,W,1) in the outputs; None for `anomaly_map`. Without a
            score, that of an image is the largest value of its map.
        label_key: Name of the labels (N,), bool or 0 and 1, in the outputs or else in the batch, or their position in a
            batch that is a tuple; None for `label` or `gt_label`. Without labels there is a range and no threshold.
        mask_key: The same for masks, (N,H,W) or (N,1,H,W), 0 for normal pixels; None for `mask` or `gt_mask`.
        apply_in: Where predictions are written: `test`, `predict`, both or neither.
        one_pass: Count maps once, with a bound, instead of keeping them in a temporary file for a second pass.
        resamples: Draws for the image level's confidence intervals in `result`; 0 for none. They take a second or so
            each validation, and no statistic depends on them.
        export_to: The `.xml` to export the model and the post-processor to at the end of training; None for no export.
            Training does not begin where the file is there already, unless `export_options` say `overwrite=True`.
        example: Example input for the export, such as a tensor (N,3,H,W); None for the module's `example_input_array`.
        export_module: Dotted name of the submodule to export, such as `model`; None for the Lightning module itself.
            Its `forward` returns the raw score, the raw map or both.
        export_options: Further keyword arguments of `pp_graph.integrations.torch.export`, such as `device`,
            `precision`, `images`.
        **settings: Keyword arguments of `pp_graph.Calibrator`: `image`, `pixel`, `image_range`, `pixel_range`,
            `placement`, `ignore_nonfinite`.

    Attributes:
        result: What the last validation found, with metrics and warnings; None until then.

    Raises:
        PostProcessorError: `post` is no post-processor, or `apply_in` names another stage.
        CalibrationError: An estimator or the placement is not known.
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
                f"The post-processor is {type(post).__name__}, expected a PostProcessor, as OneClassPostProcessor()."
            )
        if isinstance(apply_in, str) or not set(apply_in) <= set(_STAGES):
            raise PostProcessorError(f"apply_in is {apply_in!r}, expected some of {_STAGES}, such as ('test',) or ().")
        self._post, self._given, self._outdated = post, post.statistics, False
        # What cannot be saved or built is refused here, before any training.
        self.state_dict()
        Collector(settings).close()
        self._settings = settings
        self._keys = Keys(score_key, map_key, label_key, mask_key)
        self._apply_in = tuple(apply_in)
        self._one_pass = one_pass
        self._resamples = resamples
        self._export_to = None if export_to is None else Path(export_to)
        self._exporter = Exporter(example, export_module, dict(export_options or {}))
        self._validation: Validation | None = None
        self.result: CalibrationResult | None = None

    @property
    def state_key(self) -> str:
        """Name in checkpoints; callbacks that read other outputs have other names, so that a trainer takes several."""
        keys = [key for key in (self._keys.score, self._keys.map) if key is not None]
        return type(self).__qualname__ + (f"{{{', '.join(map(repr, keys))}}}" if keys else "")

    @property
    def post(self) -> PostProcessor:
        """The post-processor, with the statistics found last; `post(raw)` applies it."""
        return self._post

    @property
    def statistics(self) -> Statistics | None:
        """The statistics found last; None until the first validation has ended, if `post` came without."""
        return self._post.statistics

    @property
    def outdated(self) -> bool:
        """True if the model was trained further since the validation that gave the statistics."""
        return self._outdated and self.statistics is not None

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
        """Start anew."""
        del pl_module
        self._close()
        if not trainer.sanity_checking:
            self._validation = Validation(trainer, self._post, self._keys, self._settings, one_pass=self._one_pass)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int | None = None
    ) -> None:
        """Collect the outputs of a validation step.

        Raises:
            DataError: It lacks what is needed, or it does not fit together.
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
        """Set the statistics, before a checkpoint is written at the end of this validation.

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
        self._outdated = False

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Note that the weights are no longer those of the last validation."""
        del args, kwargs
        self._outdated = True

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave nothing behind on disk."""
        del trainer, pl_module, exception
        self._close()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Warn about the statistics where needed."""
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
        """Statistics and parameters of the post-processor, as plain types."""
        return saved_state(self._post, outdated=self._outdated)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the statistics from a checkpoint; parameters stay those that the callback was built with.

        Raises:
            StatisticsError: The state is of a later version, or damaged.
        """
        statistics = statistics_in(state_dict, self._post)
        self._post = self._post.with_statistics(self._given if statistics is None else statistics)
        self._outdated = bool(state_dict.get("outdated"))
        self.result = None

    # --- test and predict ---------------------------------------------------------------------------------------------

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Warn where the statistics are those of older weights."""
        del trainer, pl_module
        self._warn_if_outdated("test")

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Warn where the statistics are those of older weights."""
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
            outputs: What a step returned.
            step: Name of the step, for errors.

        Raises:
            StatisticsError: No validation has run yet, and no checkpoint was read.
            DataError: The outputs lack what is needed, or cannot be changed.
            PostProcessorError: A raw value has another shape or element type.
        """
        try:
            predictions = self._post(self._keys.raw(outputs, self._post.roles, step))
        except StatisticsError as error:
            if self.statistics is None:
                raise StatisticsError(NO_STATISTICS) from error
            raise
        write_predictions(outputs, predictions, step)

    def _warn_if_outdated(self, stage: str) -> None:
        if self.outdated and stage in self._apply_in:
            warnings.warn(f"{OUTDATED} Run trainer.validate before, or use a checkpoint saved after one.", stacklevel=2)

    # --- export -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Raise before training if the model could not be exported after it.

        Raises:
            PostProcessorError: There is no example input, or no such submodule.
            OutputFileError: A file is there already, and may not be replaced.
        """
        if stage == "fit" and self._export_to is not None:
            self._exporter.parts(pl_module)
            if not trainer.fast_dev_run:
                self._exporter.check_files(self._export_to)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Export, on the first process; not in a `fast_dev_run`."""
        if self._export_to is not None and trainer.is_global_zero and not trainer.fast_dev_run:
            self.export(pl_module, self._export_to)

    def export(self, pl_module: Any, path: str | Path) -> Any:
        """Export a model with the post-processor to OpenVINO.

        Args:
            pl_module: The Lightning module, its weights whole in memory.
            path: The `.xml` to write.

        Returns:
            What `pp_graph.integrations.torch.export` returned.

        Raises:
            StatisticsError: There are no statistics, or they are those of older weights.
            PPGraphError: There is no example input or no such submodule; see `pp_graph.integrations.torch.export`.
        """
        if self.statistics is None:
            raise StatisticsError(NO_STATISTICS)
        if self.outdated:
            raise StatisticsError(f"{OUTDATED} Run trainer.validate(model), and then callback.export(model, '{path}').")
        return self._exporter.export(pl_module, self._post, path)
