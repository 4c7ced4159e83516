"""Post-processors as torch modules, and the export of a torch model to a verified OpenVINO model.

from pp_graph.integrations.torch import OneClassPostProcessor, export

post_processor = OneClassPostProcessor(image_sensitivity=0.5, statistics=pp.Statistics.load("stats.json"))
predictions = post_processor(model(images))
exported = export(model, post_processor, images, "model.xml")
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pp_graph.extras import check_extra

check_extra("torch", "torch", "post-processing in torch")

from pp_graph.integrations.exporting import ExportResult  # noqa: E402
from pp_graph.integrations.torch.batch import InferenceBatch  # noqa: E402
from pp_graph.integrations.torch.exporting import export  # noqa: E402
from pp_graph.integrations.torch.module import PostProcessor, PostProcessorModule  # noqa: E402
from pp_graph.integrations.torch.module_step import ModuleStep  # noqa: E402
from pp_graph.integrations.torch.one_class import OneClassModule  # noqa: E402

if TYPE_CHECKING:
    from pp_graph.integrations.lightning.one_class import OneClassPostProcessor


def __getattr__(name: str) -> Any:
    """Load `OneClassPostProcessor` on first use: `OneClassModule`, and a callback if Lightning is installed."""
    if name != "OneClassPostProcessor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if not any(find_spec(package) for package in ("lightning", "pytorch_lightning")):
        return OneClassModule
    from pp_graph.integrations.lightning.one_class import OneClassPostProcessor

    return OneClassPostProcessor


__all__ = [
    "ExportResult",
    "InferenceBatch",
    "ModuleStep",
    "OneClassModule",
    "OneClassPostProcessor",
    "PostProcessor",
    "PostProcessorModule",
    "export",
]
