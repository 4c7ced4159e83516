"""A pass of Olive (https://github.com/microsoft/Olive): post-processing as a step of a workflow."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pp_graph.extras import require_extra
from pp_graph.files import written_together

require_extra("olive", "olive", "a pass of Olive")

from olive.model import ONNXModelHandler, OpenVINOModelHandler  # noqa: E402
from olive.passes import Pass  # noqa: E402
from olive.passes.pass_config import PassConfigParam  # noqa: E402

if TYPE_CHECKING:
    from olive.hardware.accelerator import AcceleratorSpec
    from olive.passes.pass_config import BasePassConfig

_NAME = "PPGraph"


class PPGraph(Pass):  # type: ignore[misc]
    """Write post-processing into an ONNX model, and optionally convert it to OpenVINO.

    Put it after the passes that make an ONNX model, and before those that quantise or convert it; or let it convert
    (`output`: `openvino`), which keeps the post-processing in float32 on devices that compute in less.

    A workflow finds the pass through the file that `python -m pp_graph.integrations.olive FILE.json` writes:
    `olive run --config workflow.json --package-config FILE.json`.
    """

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        del accelerator_spec
        return {
            "statistics": PassConfigParam(
                type_=str, default_value=None, description="File of calibrated thresholds; see pp-graph calibrate."
            ),
            "post_processor": PassConfigParam(
                type_=str,
                default_value="OneClassPostProcessor",
                description="Class of the post-processor, such as ClassificationPostProcessor.",
            ),
            "parameters": PassConfigParam(
                type_=dict, default_value={}, description="Its arguments, such as {'unknown_below': 0.6}."
            ),
            "recipe": PassConfigParam(
                type_=str, default_value=None, description="YAML recipe, instead of post_processor and parameters."
            ),
            "output": PassConfigParam(
                type_=str, default_value="onnx", description="onnx, or openvino to convert to an IR as well."
            ),
            "device": PassConfigParam(type_=str, default_value="CPU", description="OpenVINO device to convert for."),
            "precision": PassConfigParam(
                type_=str, default_value="f32", description="Precision of the IR's weights: f32 or f16."
            ),
            "images": PassConfigParam(
                type_=str,
                default_value=None,
                description="Images to verify with, a folder or .npz: the pass fails if a decision changed.",
            ),
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler | OpenVINOModelHandler:
        import pp_graph as pp
        from pp_graph.errors import SettingsError, VerificationError

        settings: Any = config
        if settings.output not in ("onnx", "openvino"):
            raise SettingsError(f"output of the pass {_NAME} is '{settings.output}', expected onnx or openvino.")
        raw = Path(model.model_path)
        fused = pp.fuse(raw, _post_processor(settings))
        target = Path(output_model_path)
        if settings.output == "onnx":
            artifact: pp.Artifact = fused
            file = target if target.suffix == ".onnx" else target / "model.onnx"
        else:
            artifact = pp.convert(fused, device=settings.device, precision=settings.precision)
            file = target.with_suffix("") / "model.xml"
        if settings.images is not None:
            report = pp.verify(raw, artifact, settings.images)
            if not report.passed:
                raise VerificationError(f"{report.verdict} Run pp-graph verify for the details.")
        file.parent.mkdir(parents=True, exist_ok=True)
        artifact.save(file, overwrite=True)
        if settings.output == "onnx":
            return ONNXModelHandler(model_path=str(file))
        return OpenVINOModelHandler(model_path=str(file.parent))


def _post_processor(settings: Any) -> Any:
    import pp_graph as pp
    from pp_graph.errors import PostProcessorError
    from pp_graph.postprocessors.lookup import find_post_processor, post_processor_names

    statistics = None if settings.statistics is None else pp.Statistics.load(settings.statistics)
    if settings.recipe is not None:
        return pp.RecipePostProcessor.load(settings.recipe, statistics)
    kind = find_post_processor(settings.post_processor)
    if kind is None:
        raise PostProcessorError(
            f"post_processor of the pass {_NAME} is '{settings.post_processor}', expected one of: "
            f"{', '.join(post_processor_names())}."
        )
    given = {} if statistics is None else {"statistics": statistics}
    try:
        return kind(**given, **settings.parameters)
    except TypeError as error:
        raise PostProcessorError(
            f"parameters of {settings.post_processor} in the pass {_NAME}: {error}. Correct the names."
        ) from error


def package_config() -> dict[str, Any]:
    """Return Olive's own package configuration with the pass `PPGraph` in it, for `olive.workflows.run`."""
    from olive.package_config import OlivePackageConfig

    config: dict[str, Any] = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text("utf-8"))
    config["passes"][_NAME] = {
        "module_path": f"pp_graph.integrations.olive.{_NAME}",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
        "supported_algorithms": [],
        "supported_quantization_encodings": [],
    }
    return config


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a package configuration with the pass PPGraph, for olive run.")
    parser.add_argument("file", type=Path, metavar="FILE.json")
    with written_together(parser.parse_args().file, overwrite=True) as (draft,):
        draft.write_text(json.dumps(package_config(), indent=1), encoding="utf-8")
