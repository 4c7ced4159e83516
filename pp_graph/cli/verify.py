"""`pp-graph verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.options import (
    PATH,
    cache_option,
    check_report,
    examples,
    force_option,
    image_options,
    image_settings,
    input_option,
    json_option,
    letterbox_option,
    report_option,
    worker_client,
    worker_options,
)
from pp_graph.cli.output import note, print_blocks, print_json, progress_bar
from pp_graph.cli.verb import Verb

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    cls=Verb,
    epilog=examples(
        "pp-graph verify raw.onnx model.xml --data images/",
        "pp-graph verify raw.onnx model.xml --data images/ --inference-precision bf16 --max-pixel-flips 0.05%",
    ),
)
@click.argument("raw", type=PATH)
@click.argument("artifact", type=PATH)
@click.option("--data", type=PATH, required=True, metavar="FILE.npz|FOLDER",
              help="Images: an .npz with an array 'image' (N,C,H,W or N,H,W,C), or a folder of images. For several "
              "inputs, an .npz with one array per input, by name.")  # fmt: skip
@click.option("--device", default="CPU", show_default=True, metavar="CPU|GPU|NPU|AUTO|...", help="OpenVINO device.")
@click.option("--inference-precision", type=click.Choice(["own", "f32", "bf16", "f16", "default"]), default="own",
              show_default=True, help="Precision to run in; 'own' is the one that convert --precision auto chose, "
              "otherwise f32; 'default' leaves it to the device.")  # fmt: skip
@click.option("--max-label-flips", default="0", show_default=True, metavar="N|P%",
              help="Fail if drift of the network flips more labels.")  # fmt: skip
@click.option("--max-pixel-flips", default="0.1%", show_default=True, metavar="N|P%",
              help="Fail if drift of the network flips more pixels.")  # fmt: skip
@click.option("--other-raw", is_flag=True, help="Accept a RAW that is not the model ARTIFACT was made from.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Images per batch, if the model leaves it open.")
@cache_option
@input_option
@image_options
@letterbox_option
@worker_options
@report_option
@force_option
@json_option
def verify(
    raw: Path,
    artifact: Path,
    data: Path,
    device: str,
    inference_precision: str,
    max_label_flips: str,
    max_pixel_flips: str,
    other_raw: bool,
    batch: int | None,
    cache_dir: Path | None,
    fixed_inputs: dict[str, Any] | None,
    report: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Check that ARTIFACT makes the same decisions as RAW.

    RAW is the raw ONNX model. It runs in onnxruntime in float32, followed by ARTIFACT's post-processing in NumPy.
    ARTIFACT is an OpenVINO IR (.xml) or a fused .onnx, which runs in onnxruntime.

    The verdict has two parts. The post-processing is exact if no decision differs from the reference on the artifact's
    own raw values. Drift of the network counts decisions that changed because the network in ARTIFACT computes slightly
    different raw values. Exit status 1 if the post-processing is not exact or drift exceeds a limit.
    """
    from pp_graph import verification
    from pp_graph.data import open_images

    inputs = [raw, artifact, artifact.with_suffix(".bin"), *([] if data.is_dir() else [data])]
    check_report(report, inputs, force=force)
    images = open_images(data, **image_settings(options))
    with worker_client(options) as client, progress_bar("Verifying", len(images)) as progress:
        result = verification.verify(
            raw,
            artifact,
            images,
            device=device,
            inference_precision=None if inference_precision == "default" else inference_precision,
            max_label_flips=max_label_flips,
            max_pixel_flips=max_pixel_flips,
            other_raw=other_raw,
            batch_size=batch,
            cache_dir=cache_dir,
            fixed_inputs=fixed_inputs,
            client=client,
            progress=progress,
        )
    if report is not None:
        from pp_graph.report import write_verification_report

        write_verification_report(result, report, overwrite=force, inputs=inputs)
        note(f"Wrote {report}")
    if as_json:
        print_json(result.to_dict())
    else:
        print_blocks(result.summary())
    if not result.passed:
        raise click.exceptions.Exit(1)
