"""The one-class post-processor as a torch module."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import torch

from pp_graph.integrations.torch.module import PostProcessorModule
from pp_graph.postprocessors import OneClassPostProcessor
from pp_graph.statistics.anomalib_checkpoint import read_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.statistics import Statistics

_CONFIG: Final = {
    "enable_normalization": "normalize",
    "enable_thresholding": "threshold",
    "enable_threshold_matching": "match_thresholds",
    "image_sensitivity": "image_sensitivity",
    "pixel_sensitivity": "pixel_sensitivity",
}


class OneClassModule(PostProcessorModule):
    """`pp_graph.OneClassPostProcessor` as a torch module: normalise, compare and mask.

    `PostProcessorModule` describes inputs, outputs and export.

    Args:
        image_sensitivity: Within [0, 1]: 0 flags no image, 0.5 flags above the threshold, 1 flags every score that
            normalises above 0. May be assigned later.
        pixel_sensitivity: The same for pixels.
        statistics: The calibrated numbers; None until they are loaded or assigned.
        input_size: Height and width of the model's images, for `map_size="input"`.
        settings: Further parameters of `pp_graph.OneClassPostProcessor`, such as `on_nan` or `mask_dtype`.

    Raises:
        PostProcessorError: A parameter is outside its range, or two contradict each other.
    """

    def __init__(
        self,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
        statistics: Statistics | None = None,
        *,
        input_size: tuple[int, int] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            OneClassPostProcessor(statistics, image_sensitivity, pixel_sensitivity, **settings), input_size=input_size
        )

    @property
    def image_sensitivity(self) -> float:
        """Sensitivity to images; assigning another moves the cutoff."""
        return self._described.image_sensitivity

    @image_sensitivity.setter
    def image_sensitivity(self, sensitivity: float) -> None:
        self._change(image_sensitivity=sensitivity)

    @property
    def pixel_sensitivity(self) -> float:
        """Sensitivity to pixels; assigning another moves the cutoff."""
        return self._described.pixel_sensitivity

    @pixel_sensitivity.setter
    def pixel_sensitivity(self, sensitivity: float) -> None:
        self._change(pixel_sensitivity=sensitivity)

    @property
    def image_threshold(self) -> torch.Tensor:
        """The raw threshold of images, or the pixels' where that is unknown and they are matched; NaN for unknown."""
        return self._matched(self._image_threshold, self._pixel_threshold)

    @property
    def pixel_threshold(self) -> torch.Tensor:
        """The raw threshold of pixels, or the images' where that is unknown and they are matched; NaN for unknown."""
        return self._matched(self._pixel_threshold, self._image_threshold)

    def checkpoint_config(self) -> dict[str, Any]:
        """The settings as Anomalib 2.7 keeps them in a checkpoint, under `anomalib_post_processor_config`."""
        return {theirs: getattr(self._described, ours) for theirs, ours in _CONFIG.items()}

    def load_checkpoint_config(self, config: Mapping[str, Any]) -> None:
        """Take settings over from what `checkpoint_config` gave, here or in Anomalib.

        Without normalisation sensitivities have no meaning, and become 0.5.

        Raises:
            StatisticsError: A setting is of the wrong type.
            PostProcessorError: A sensitivity is outside [0, 1].
        """
        settings, _ = read_settings(config)
        if settings.get("normalize") is False:
            settings |= {"image_sensitivity": 0.5, "pixel_sensitivity": 0.5}
        self._change(**settings)

    @property
    def _described(self) -> OneClassPostProcessor:
        assert isinstance(self._given, OneClassPostProcessor)
        return self._given

    def _change(self, **settings: Any) -> None:
        self._given = dataclasses.replace(self._described, **settings)
        self._post = None

    def _matched(self, own: Any, other: Any) -> torch.Tensor:
        return torch.where(torch.isnan(own), other, own) if self._described.match_thresholds else own
