"""The one-class post-processor as a torch module."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from pp_graph.errors import PostProcessorError
from pp_graph.integrations.torch.module import PostProcessorModule
from pp_graph.one_class_options import OPTIONS
from pp_graph.postprocessors import OneClassPostProcessor
from pp_graph.statistics.anomalib_checkpoint import SETTINGS, read_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.statistics import Statistics


def _sensitivity(name: str, given: float | None) -> float:
    default: float = OPTIONS[name].default
    return default if given is None else given


class OneClassModule(PostProcessorModule):
    """`pp_graph.OneClassPostProcessor` as a torch module: normalise, compare and mask.

    `PostProcessorModule` describes inputs, outputs and export.

    Args:
        image_sensitivity: In [0, 1]; see `pp_graph.OneClassPostProcessor`. None for the default. Can be assigned later.
        pixel_sensitivity: The same for pixels.
        statistics: The calibrated numbers; None to load or assign them later.
        input_size: Height and width of the model's images, for `map_size="input"`.
        settings: Other options of `pp_graph.OneClassPostProcessor`, such as `on_nan` or `mask_dtype`.

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
        **settings: Any,
    ) -> None:
        if settings.get("regions") is not None:
            raise PostProcessorError(
                "regions is given to a torch module, expected None: torch has no loops that regions are searched with. "
                "Give it when the model is fused or converted: pp_graph.OneClassPostProcessor(regions=K) "
                "(pp-graph convert --regions K)."
            )
        super().__init__(
            OneClassPostProcessor(
                statistics,
                _sensitivity("image_sensitivity", image_sensitivity),
                _sensitivity("pixel_sensitivity", pixel_sensitivity),
                **settings,
            ),
            input_size=input_size,
        )

    @property
    def image_sensitivity(self) -> float:
        """Sensitivity for images; assigning it moves the cutoff."""
        return self._one_class.image_sensitivity

    @image_sensitivity.setter
    def image_sensitivity(self, sensitivity: float | None) -> None:
        self._replace_settings(image_sensitivity=_sensitivity("image_sensitivity", sensitivity))

    @property
    def pixel_sensitivity(self) -> float:
        """Sensitivity for pixels; assigning it moves the cutoff."""
        return self._one_class.pixel_sensitivity

    @pixel_sensitivity.setter
    def pixel_sensitivity(self, sensitivity: float | None) -> None:
        self._replace_settings(pixel_sensitivity=_sensitivity("pixel_sensitivity", sensitivity))

    @property
    def image_threshold(self) -> torch.Tensor:
        """Raw threshold of images, NaN if unknown. With `match_thresholds`, the pixels' threshold replaces NaN."""
        return self._matched(self._image_threshold, self._pixel_threshold)

    @property
    def pixel_threshold(self) -> torch.Tensor:
        """Raw threshold of pixels, NaN if unknown. With `match_thresholds`, the images' threshold replaces NaN."""
        return self._matched(self._pixel_threshold, self._image_threshold)

    def checkpoint_config(self) -> dict[str, Any]:
        """Return the settings as Anomalib 2.7 stores them in a checkpoint, under `anomalib_post_processor_config`."""
        return {setting: getattr(self._one_class, option) for setting, option in SETTINGS.items()}

    def load_checkpoint_config(self, config: Mapping[str, Any]) -> None:
        """Load settings that `checkpoint_config` or Anomalib stored.

        Without normalisation, sensitivities have no meaning and are reset to 0.5.

        Raises:
            StatisticsError: A setting has the wrong type.
            PostProcessorError: A sensitivity is outside [0, 1].
        """
        settings, _ = read_settings(config)
        if settings.get("normalize") is False:
            settings |= {"image_sensitivity": 0.5, "pixel_sensitivity": 0.5}
        self._replace_settings(**settings)

    @property
    def _one_class(self) -> OneClassPostProcessor:
        assert isinstance(self._original, OneClassPostProcessor)
        return self._original

    def _replace_settings(self, **settings: Any) -> None:
        self._original = dataclasses.replace(self._one_class, **settings)
        self._post = None

    def _matched(self, own: Any, other: Any) -> torch.Tensor:
        return torch.where(torch.isnan(own), other, own) if self._one_class.match_thresholds else own
