"""`OneClassPostProcessor`: a torch module and a Lightning callback in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pp_graph.integrations.lightning.callback import PostProcessorCallback, callback_bases
from pp_graph.integrations.torch.batch import fields_of
from pp_graph.integrations.torch.one_class import OneClassModule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.calibration import CalibrationResult
    from pp_graph.statistics import Statistics

    class _Callback:
        """Interface shared by the base classes of all flavours, for the type checker."""

else:
    _Callback = type("_Callback", callback_bases(), {})


class OneClassPostProcessor(OneClassModule, _Callback):
    """`OneClassModule` that is a Lightning callback as well: it finds its own statistics in validation.

    As a module it normalises and decides, and is exported with the model. As a callback (`Trainer(callbacks=[post])`,
    or `configure_callbacks`) it calibrates in validation like `PostProcessorCallback`, and adds predictions to the
    outputs of test and predict steps that return raw values. Outputs that hold decisions already are left alone.

    Args:
        image_sensitivity: In [0, 1]; None for the default.
        pixel_sensitivity: The same for pixels.
        statistics: The calibrated numbers; None until validation finds them, or a state dict is loaded.
        input_size: Height and width of the model's images, for `map_size="input"`.
        callback: Keyword arguments of `PostProcessorCallback`, such as `{"export_to": "model.xml"}`.
        settings: Other options of `pp_graph.OneClassPostProcessor`.

    Raises:
        PostProcessorError: A parameter is outside its range, or two contradict each other.
    """

    def __init__(
        self,
        image_sensitivity: float | None = None,
        pixel_sensitivity: float | None = None,
        statistics: Statistics | None = None,
        *,
        input_size: tuple[int, int] | None = None,
        callback: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(image_sensitivity, pixel_sensitivity, statistics, input_size=input_size, **settings)
        self._callback = PostProcessorCallback(self.post, **(callback or {}))

    @property
    def result(self) -> CalibrationResult | None:
        """What the last validation found, with metrics and warnings; None until then."""
        return self._callback.result

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """See `PostProcessorCallback.setup`."""
        self._callback.setup(trainer, pl_module, stage)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """See `PostProcessorCallback.teardown`."""
        self._callback.teardown(trainer, pl_module, stage)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """See `PostProcessorCallback.on_train_start`."""
        self._synchronised().on_train_start(trainer, pl_module)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """See `PostProcessorCallback.on_train_batch_end`."""
        self._callback.on_train_batch_end(*args, **kwargs)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """See `PostProcessorCallback.on_validation_start`."""
        self._synchronised().on_validation_start(trainer, pl_module)

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """See `PostProcessorCallback.on_validation_batch_end`."""
        self._callback.on_validation_batch_end(*args, **kwargs)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the statistics that validation found into the buffers."""
        before = self._callback.statistics
        self._callback.on_validation_epoch_end(trainer, pl_module)
        if self._callback.statistics is not before:
            self.statistics = self._callback.statistics

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """See `PostProcessorCallback.on_exception`."""
        self._callback.on_exception(trainer, pl_module, exception)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """See `PostProcessorCallback.on_test_start`."""
        self._synchronised().on_test_start(trainer, pl_module)

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """See `PostProcessorCallback.on_predict_start`."""
        self._synchronised().on_predict_start(trainer, pl_module)

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        """Add predictions to the outputs of a test step that returns raw values."""
        if not _holds_decisions(outputs):
            self._callback.on_test_batch_end(trainer, pl_module, outputs, *args, **kwargs)

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        """Add predictions to the outputs of a predict step that returns raw values."""
        if not _holds_decisions(outputs):
            self._callback.on_predict_batch_end(trainer, pl_module, outputs, *args, **kwargs)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """See `PostProcessorCallback.on_fit_end`."""
        self._synchronised().on_fit_end(trainer, pl_module)

    def export(self, pl_module: Any, path: Any) -> Any:
        """See `PostProcessorCallback.export`."""
        return self._synchronised().export(pl_module, path)

    def _synchronised(self) -> PostProcessorCallback:
        """Return the callback with the statistics and sensitivities that the module holds now."""
        self._callback.use(self.post)
        return self._callback


def _holds_decisions(outputs: Any) -> bool:
    found = fields_of(outputs)
    return found.get("pred_label") is not None or found.get("pred_mask") is not None
