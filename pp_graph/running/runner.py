"""`load` and `Runner`: a model as it is deployed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from pp_graph.conversion import convert
from pp_graph.data import Images, fix_inputs
from pp_graph.data.fixed_inputs import refuse_twice
from pp_graph.errors import DataError, TargetError
from pp_graph.fusion import FusedModel, Provenance, cutoffs_for
from pp_graph.model import fixed_batch, format_shape
from pp_graph.opening import open_artifact
from pp_graph.openvino import OpenVINOModel, OpenVINOSession
from pp_graph.openvino.devices import RECOMMENDED, device_profile
from pp_graph.running.feeding import (
    first_of,
    join_predictions,
    predicted_fields,
    raw_fields,
    read_feeds,
    to_predictions,
)
from pp_graph.running.sources import open_source
from pp_graph.sessions import cut_to_batch
from pp_graph.sessions.session import OUTPUT_AXES, with_batch_axes

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import numpy.typing as npt

    from pp_graph.fusion import Artifact
    from pp_graph.model import ModelInput
    from pp_graph.program import Predictions
    from pp_graph.running.sources import RunnerInput
    from pp_graph.sessions.session import Array
    from pp_graph.statistics import Statistics


def load(
    model: str | Path | Artifact,
    *,
    device: str = "CPU",
    inference_precision: str | None = RECOMMENDED,
    mode: str = "latency",
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = None,
) -> Runner:
    """Load a model to run it.

    Args:
        model: An IR or a fused ONNX file, or one in memory. A fused ONNX model is converted in memory, with
            weights in float32, so that it runs as its IR would.
        device: OpenVINO device.
        inference_precision: Precision to run the network in: `f32`, `bf16` or `f16`; `recommended` for f32 wherever
            the device can be asked for it. None leaves it to the device, which on many CPUs is bf16, and flips pixels.
            The post-processing runs in float32 whatever is asked.
        mode: `latency` for one image after the other, `throughput` for many in flight.
        fixed_inputs: Values for inputs that are no images, such as `{"sr": 16000}`, with which every image is run; see
            `pp_graph.data.fix_inputs`.

    Returns:
        The runner.

    Raises:
        ProvenanceError: The model was not made by pp_graph.
        ModelError: The ONNX file cannot be used.
        TargetError: OpenVINO cannot read or compile the model, or the precision or mode is not known; `DeviceError`
            where the device is not known or not on this machine.
        DataError: A fixed input does not exist, or its value does not fit.
    """
    if isinstance(model, str | Path):
        model = open_artifact(model)
    name = _name(model)
    if isinstance(model, FusedModel):
        model = convert(model, device=device)
    assert isinstance(model, OpenVINOModel)
    return Runner(
        model,
        device=device,
        inference_precision=inference_precision,
        mode=mode,
        name=name,
        fixed_inputs=fixed_inputs,
    )


class Runner:
    """A model compiled for a device: call it with images, get predictions.

    Safe to call and to stream from any number of threads at the same time; each call takes a request of its own. A
    generator that `stream` returned belongs to one thread at a time, as any generator does. The runner must not be
    carried over a fork.

    Args:
        artifact: The converted model.
        device: OpenVINO device.
        inference_precision: Precision to run the network in; see `load`.
        mode: `latency` or `throughput`.
        name: What to call the model; None for the name of its file.
        fixed_inputs: Values for inputs that are no images; see `load`.

    Attributes:
        name: What the model is called: its file, without folders.
        description: Runtime, device and precision, for people.
        inputs: What a call feeds the model: name, NumPy type and shape of each input, None for an open size. Those that
            are fixed are not among them.
        outputs: Names of the post-processed outputs, in order.
        raw_outputs: Names of the raw model's outputs that come out as well: values that were kept, and outputs that
            post-processing does not read, such as states. `Predictions` hold them, too.
        provenance: What was fused: statistics, parameters, cutoffs, the raw model's hash.
        device: The device.
        precision: Precision that the network runs in, which may not be the one asked for where the device lacks that.
        mode: What it was compiled for.
        in_flight: Requests that `stream` keeps busy.

    Raises:
        TargetError: OpenVINO cannot compile the model; `DeviceError` where the device is absent.
    """

    def __init__(
        self,
        artifact: OpenVINOModel,
        *,
        device: str = "CPU",
        inference_precision: str | None = RECOMMENDED,
        mode: str = "latency",
        name: str | None = None,
        fixed_inputs: Mapping[str, npt.ArrayLike] | None = None,
    ) -> None:
        self._session = OpenVINOSession(
            artifact.network,
            device=device,
            precision=inference_precision,
            performance_hint=mode,
            preprocessing=artifact.provenance.preprocessing,
        )
        self.name = _name(artifact) if name is None else name
        self._fixed = fix_inputs(fixed_inputs, with_batch_axes(self._session.inputs, artifact.provenance.conversion))
        self.inputs: tuple[ModelInput, ...] = self._fixed.rest
        self.outputs = predicted_fields(self._session.outputs, artifact.provenance)
        self.raw_outputs = raw_fields(self._session.outputs, artifact.provenance)
        # Earlier versions did not note where outputs have the batch.
        axes = (artifact.provenance.conversion or {}).get(OUTPUT_AXES, dict.fromkeys(self.raw_outputs, 0))
        self._raw_axes: dict[str, int | None] = {name: axes.get(name) for name in self.raw_outputs}
        self.provenance: Provenance = artifact.provenance
        self.device = device
        self.description = self._session.description
        self.precision = self._session.precision
        self.mode = mode
        self.in_flight = self._session.in_flight

    def __repr__(self) -> str:
        inputs = ", ".join(f"{each.name} {format_shape(each.shape)} {each.dtype}" for each in self.inputs)
        outputs = ", ".join([*self.outputs, *self.raw_outputs])
        return f"<Runner {self.name}: {inputs} -> {outputs}; {self.description}, for {self.mode}>"

    def __call__(self, images: RunnerInput) -> Predictions:
        """Predict.

        Args:
            images: (N,C,H,W) or (N,H,W,C); one image, (C,H,W) or (H,W,C); an array an input by name, with or without a
                batch axis, where the input has one; a folder, searched recursively in order of names; an `.npz` or
                `.npy`; an image file; or a list of image files or of arrays. Floating point is used as it is, uint8 is
                scaled to [0,1] where the input is floating point. Files are resized to the size that the input fixes;
                arrays must have it. Any number of images may be given, also where the model fixes its batch. Where the
                model preprocesses frames, arrays go in as they are, in the order of channels that the model takes;
                pictures, and what is read from disk, are RGB and brought into that order.

        Returns:
            The predictions, batch first: a single image is a batch of one. They stay valid, whatever is run later. What
            is read from disk is run a few images at a time, but all its maps are returned: use `stream` for more images
            than memory holds maps of. Where the images are run in more than one go, an output of the raw model that is
            not of single images, such as a state, is left out.

        Raises:
            DataError: There are no images, or they cannot be read or do not fit the model.
            TargetError: The runtime fails.
        """
        with closing(self._stream([images])) as results:
            return next(results)

    def set_thresholds(
        self,
        *,
        image_sensitivity: float | None = None,
        pixel_sensitivity: float | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        """Decide by other sensitivities or statistics from the next image on; what is in flight is decided as before.

        Labels and masks are those of the model fused anew with these. Scores and maps stay normalised with the
        statistics in the model. Without arguments, the model's own thresholds hold again.

        Args:
            image_sensitivity: Sensitivity for images, in [0, 1]; None for the model's own.
            pixel_sensitivity: The same for pixels.
            statistics: Statistics to decide by; None for the model's own.

        Raises:
            ProvenanceError: The model's cutoffs are constants: it was not fused with `thresholds="runtime"`.
            PostProcessorError: A sensitivity is outside its range, or has no meaning for this model.
            TargetError: States cannot be set one by one on this device.
        """
        cutoffs = cutoffs_for(
            self.provenance,
            image_sensitivity=image_sensitivity,
            pixel_sensitivity=pixel_sensitivity,
            statistics=statistics,
        )
        if not device_profile(self.device).states:
            raise TargetError(
                f"Device '{self.device}' does not heed states that are set, expected one that does, such as CPU. Load "
                "the model there, or change the file with pp-graph retune."
            )
        changed = not (image_sensitivity is None and pixel_sensitivity is None and statistics is None)
        self._session.set_states(cutoffs if changed else {})

    def stream(self, items: Iterable[RunnerInput] | str | Path | Images) -> Generator[Predictions, None, None]:
        """Predict for one item after the other, with several requests in flight.

        Args:
            items: Whatever the runner can be called with, one after the other and of any size each; may be endless. The
                images of a folder or `.npz` that is given by itself are items of one image each. At most
                `in_flight` + 1 items are read ahead of what was yielded.

        Returns:
            A generator of one `Predictions` an item, in the order given, equal to those of a call for each. Once an
            item is read, results that are ready come before the next one is asked for. An error in the items or the
            runtime is raised after the results of the items before it; the runner stays usable. Closing the generator
            early waits for the requests in flight.

        Raises:
            DataError: An item cannot be read or does not fit the model; nothing that can be iterated was given.
            TargetError: The runtime fails.
        """
        if isinstance(items, str | Path | Images):
            items = open_source(items, self.inputs, batch_size=1).batches()
        elif isinstance(items, Mapping) or not isinstance(items, Iterable):
            raise DataError(
                f"A stream is given as {type(items).__name__}, expected an iterable of images or batches. Give a list "
                "of them, or call the runner."
            )
        return self._stream(items)

    def _stream(self, items: Iterable[RunnerInput]) -> Generator[Predictions, None, None]:
        parts: list[Predictions] = []
        with closing(self._session.stream(self._pieces(items))) as results:
            for (count, fed, ends_item), outputs in results:
                parts.append(first_of(to_predictions(outputs, self.provenance), count, fed, self._raw_axes))
                if ends_item:
                    joined, parts = join_predictions(parts, self._raw_axes), []
                    yield joined

    def _pieces(self, items: Iterable[RunnerInput]) -> Iterator[tuple[tuple[int, int, bool], Mapping[str, Array]]]:
        """Items in pieces that the model can take: how many images count and were fed, and whether it ends its item."""
        for item in items:
            source = open_source(item, self.inputs)
            refuse_twice(source.images, self._fixed)
            missing = len(source)
            for start, stop in source.spans():
                for cut in cut_to_batch(self.inputs, read_feeds(source, start, stop, self.inputs)):
                    missing -= cut.count
                    fed = fixed_batch(self.inputs) or cut.count
                    yield (cut.count, fed, missing == 0), {**cut.feeds, **self._fixed.arrays(fed)}


def _name(model: Artifact) -> str:
    return model.file.name if model.file is not None else model.provenance.raw.file or "(in memory)"
