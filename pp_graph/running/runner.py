"""`load` and `Runner`: run a model as it is deployed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from contextlib import closing, nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pp_graph.conversion import convert
from pp_graph.data import Images, fix_inputs
from pp_graph.data.fixed_inputs import refuse_twice
from pp_graph.errors import DataError, TargetError
from pp_graph.fusion import FusedModel, Provenance, cutoffs_for
from pp_graph.model import fixed_batch, format_shape
from pp_graph.opening import open_artifact
from pp_graph.openvino import OpenVINOModel, OpenVINOSession
from pp_graph.openvino.devices import RECOMMENDED, chosen_precision, device_profile
from pp_graph.progress import progress_bar
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
from pp_graph.video import Video, find_videos, open_video

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    import numpy.typing as npt

    from pp_graph.fusion import Artifact
    from pp_graph.model import ModelInput
    from pp_graph.program import Predictions
    from pp_graph.running.sources import RunnerInput
    from pp_graph.sessions.session import Array
    from pp_graph.statistics import Statistics
    from pp_graph.video import Frame, Place


Piece = tuple[int, int, bool]
"""A run: its number of images, its batch size, and True for the last of an item."""


def load(
    model: str | Path | Artifact,
    *,
    device: str = "CPU",
    inference_precision: str | None = RECOMMENDED,
    mode: str = "latency",
    cache_dir: str | Path | None = None,
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = None,
) -> Runner:
    """Load a model to run it.

    Args:
        model: An IR or a fused ONNX file, or one in memory. A fused ONNX model is converted in memory, with weights in
            float32.
        device: OpenVINO device.
        inference_precision: Inference precision of the network: `f32`, `bf16` or `f16`; `recommended` is the one that a
            search for this model chose, otherwise f32 wherever the device supports it. None means the device's default,
            which is bf16 on many CPUs and flips pixels. The post-processing always runs in float32.
        mode: `latency` for one image after the other, `throughput` for many in flight.
        cache_dir: Folder to keep the compiled model in, so that an IR loads faster from the second time on.
            A model with other constants, retuned ones included, is compiled again. Nothing in it is ever deleted. A
            fused ONNX model is converted every time, and only found if the process converted none before.
        fixed_inputs: Values for inputs that are not images, such as `{"sr": 16000}`, used for every image; see
            `pp_graph.data.fix_inputs`.

    Returns:
        The model, compiled for the device.

    Raises:
        ProvenanceError: The model was not made by pp_graph.
        ModelError: The ONNX file cannot be used.
        TargetError: OpenVINO cannot read or compile the model, or the precision or mode is unknown; `DeviceError` if
            the device is unknown or absent.
        OutputFileError: The cache's folder cannot be written.
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
        cache_dir=cache_dir,
        fixed_inputs=fixed_inputs,
    )


class Runner:
    """A model compiled for a device: call it with images, get predictions.

    A model with open sizes is compiled again for the sizes that come (for four at a time), because OpenVINO fuses less
    with open ones. The first image of a size waits for that. Numbers of two sizes can therefore differ by rounding.

    Thread-safe: any number of threads may call and stream at the same time. As with any generator, one that `stream`
    returned belongs to one thread at a time. Do not use a runner across a fork.

    Args:
        artifact: The converted model.
        device: OpenVINO device.
        inference_precision: Inference precision of the network; see `load`.
        mode: `latency` or `throughput`.
        name: Name of the model; None for that of its file.
        cache_dir: Folder to keep the compiled model in; see `load`.
        fixed_inputs: Values for inputs that are not images; see `load`.

    Attributes:
        name: Name of the model; by default its file, without folders.
        description: Runtime, device and precision in words.
        inputs: Name, NumPy type and shape of each input, None for an open size. Fixed inputs are left out.
        outputs: Names of the post-processed outputs, in order.
        raw_outputs: Names of the raw model's outputs in `Predictions`: kept raw values, and outputs that the
            post-processing does not read, such as states.
        provenance: Provenance of the model: statistics, parameters, cutoffs, hash of the raw model.
        device: The device.
        precision: Inference precision of the network, which may differ from the requested one.
        mode: `latency` or `throughput`.
        in_flight: Number of requests that `stream` keeps busy.
        artifact: The converted model.
        loading: Keyword arguments of `load` that load it again.
        thresholds: Arguments of the last `set_thresholds`; empty for the model's own.

    Raises:
        TargetError: OpenVINO cannot compile the model; `DeviceError` if the device is absent.
        OutputFileError: The cache's folder cannot be written.
    """

    def __init__(
        self,
        artifact: OpenVINOModel,
        *,
        device: str = "CPU",
        inference_precision: str | None = RECOMMENDED,
        mode: str = "latency",
        name: str | None = None,
        cache_dir: str | Path | None = None,
        fixed_inputs: Mapping[str, npt.ArrayLike] | None = None,
    ) -> None:
        if inference_precision == RECOMMENDED:
            inference_precision = chosen_precision(artifact.provenance, device) or RECOMMENDED
        self._session = OpenVINOSession(
            artifact.network,
            device=device,
            precision=inference_precision,
            performance_hint=mode,
            preprocessing=artifact.provenance.preprocessing,
            cache_dir=cache_dir,
            fit_sizes=True,
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
        self.artifact = artifact
        self.loading: dict[str, Any] = {
            "device": device,
            "inference_precision": inference_precision,
            "mode": mode,
            "fixed_inputs": fixed_inputs,
        }
        self.thresholds: dict[str, Any] = {}

    def __repr__(self) -> str:
        inputs = ", ".join(f"{info.name} {format_shape(info.shape)} {info.dtype}" for info in self.inputs)
        outputs = ", ".join([*self.outputs, *self.raw_outputs])
        return f"<Runner {self.name}: {inputs} -> {outputs}; {self.description}, for {self.mode}>"

    def __call__(self, images: RunnerInput) -> Predictions:
        """Predict.

        Args:
            images: One of: an array of images, (N,C,H,W) or (N,H,W,C); one image, (C,H,W) or (H,W,C); arrays by input
                name, with or without a batch axis; a folder, searched recursively and sorted by name; an `.npz` or
                `.npy`; an image file; a list of image files or of arrays.
                Floating-point values are used unchanged; uint8 is scaled to [0, 1] if the input is floating point.
                Files are resized to the size of the input; arrays must have it. Any number of images is accepted, even
                if the model fixes its batch. If the model preprocesses frames, arrays are passed unchanged, in the
                model's channel order; PIL images and files are RGB and are converted to that order.

        Returns:
            The predictions, batch first; a single image is a batch of one. Images from disk run a few at a time, but
            all maps are kept in memory: use `stream` for large folders. If the images take several runs, outputs of the
            raw model without a batch axis, such as a state, are left out.

        Raises:
            DataError: There are no images, or they cannot be read or do not fit the model.
            TargetError: The runtime fails.
        """
        pieces = self._pieces([images])
        (count, fed, is_all), feeds = first = next(pieces)
        if is_all:
            found = to_predictions(self._session.run(feeds), self.provenance)
            return join_predictions([first_of(found, count, fed, self._raw_axes)], self._raw_axes)
        with closing(self._joined(chain([first], pieces))) as results:
            return next(results)

    def set_thresholds(
        self,
        *,
        image_sensitivity: float | None = None,
        pixel_sensitivity: float | None = None,
        unknown_below: float | None = None,
        multi_label: float | Sequence[float] | None = None,
        confidence: float | Sequence[float] | None = None,
        iou: float | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        """Change sensitivities, limits or statistics from the next image on; requests in flight keep the old ones.

        Labels and masks become those of a model fused with the new values. Scores and maps stay normalised with the
        statistics in the model. Call without arguments to restore the model's own thresholds.

        Args:
            image_sensitivity: Sensitivity for images, in [0, 1]; None for the model's own.
            pixel_sensitivity: The same for pixels.
            unknown_below: Probability below which a classifier calls an image unknown; None for the model's own.
            multi_label: Threshold of a classifier for all classes, or one for each; None for the model's own.
            confidence: Score that a detection exceeds, for all classes or each; None for the model's own.
            iou: Overlap above which a detector suppresses a box; None for the model's own.
            statistics: New statistics; None for the model's own.

        Raises:
            ProvenanceError: The model's cutoffs are constants: it was not fused with `thresholds="runtime"`.
            PostProcessorError: A sensitivity is outside its range, or has no meaning for this model.
            TargetError: The device does not support states.
        """
        cutoffs = cutoffs_for(
            self.provenance,
            image_sensitivity=image_sensitivity,
            pixel_sensitivity=pixel_sensitivity,
            unknown_below=unknown_below,
            multi_label=multi_label,
            confidence=confidence,
            iou=iou,
            statistics=statistics,
        )
        if not device_profile(self.device).states:
            raise TargetError(
                f"Device '{self.device}' ignores states, so thresholds cannot change at run time. Load the model on "
                "CPU, or change the file with pp-graph retune."
            )
        given = {
            "image_sensitivity": image_sensitivity,
            "pixel_sensitivity": pixel_sensitivity,
            "unknown_below": unknown_below,
            "multi_label": multi_label,
            "confidence": confidence,
            "iou": iou,
            "statistics": statistics,
        }
        self.thresholds = {name: value for name, value in given.items() if value is not None}
        self._session.set_states(cutoffs if self.thresholds else {})

    def stream(
        self,
        items: Iterable[RunnerInput] | str | Path | Images | Video,
        *,
        progress: Callable[[int], object] | bool | None = None,
    ) -> Generator[Predictions, None, None]:
        """Predict for one item after the other, with several requests in flight.

        Args:
            items: An iterable of anything that the runner can be called with; may be endless. A folder, a pattern or an
                `.npz` is streamed image by image, and frame by frame a video: its file, a pattern of files, the number
                of a camera as text, a URL, or what `pp_graph.open_video` returns. At most `in_flight` + 1 items are
                read ahead of the results; of a video that drops frames, none.
            progress: Called with 1 after each item; True shows a progress bar.

        Returns:
            A generator of one `Predictions` per item, in order, equal to those of separate calls (but for rounding, if
            more than four sizes come). Finished results are
            yielded before the next item is read. Errors are raised after the results of the items before, and leave the
            runner usable. Closing the generator early waits for the requests in flight.

        Raises:
            DataError: An item cannot be read or does not fit the model, or `items` is not iterable; `VideoError` if a
                video cannot be read.
            TargetError: The runtime fails.
        """
        videos = find_videos(items) if isinstance(items, str | Path) else ()
        if len(videos) == 1:
            items = open_video(videos[0])
        elif videos:
            items = _frames_of(videos)
        total = len(items) if isinstance(items, Sized) else None
        if isinstance(items, Video):
            total = items.count
        elif isinstance(items, str | Path | Images):
            source = open_source(items, self.inputs, batch_size=1)
            items, total = source.batches(), len(source)
        elif isinstance(items, Mapping) or not isinstance(items, Iterable):
            raise DataError(
                f"A stream is given as {type(items).__name__}, expected an iterable of images or batches. Give a list "
                "of them, or call the runner."
            )
        return self._stream(items, total, progress)

    def _stream(
        self, items: Iterable[RunnerInput], total: int | None, progress: Callable[[int], object] | bool | None
    ) -> Generator[Predictions, None, None]:
        bar = progress_bar("Running", total) if progress is True else nullcontext(progress or None)
        dropping = isinstance(items, Video) and items.drops
        # With several frames in flight, each result would wait for the next frame.
        stream = (self(item) for item in items) if dropping else self._joined(self._pieces(items))
        with bar as tell, closing(stream) as results:
            for predictions in results:
                yield predictions
                if tell is not None:
                    tell(1)

    def _joined(self, pieces: Iterable[tuple[Piece, Mapping[str, Array]]]) -> Generator[Predictions, None, None]:
        parts: list[Predictions] = []
        with closing(self._session.stream(pieces)) as results:
            for (count, fed, ends_item), outputs in results:
                parts.append(first_of(to_predictions(outputs, self.provenance), count, fed, self._raw_axes))
                if ends_item:
                    joined, parts = join_predictions(parts, self._raw_axes), []
                    yield joined

    def _pieces(self, items: Iterable[RunnerInput]) -> Iterator[tuple[Piece, Mapping[str, Array]]]:
        """Yield the feeds of each run, after its description."""
        for item in items:
            source = open_source(item, self.inputs)
            refuse_twice(source.images, self._fixed)
            missing = len(source)
            for start, stop in source.spans():
                for cut in cut_to_batch(self.inputs, read_feeds(source, start, stop, self.inputs)):
                    missing -= cut.count
                    fed = fixed_batch(self.inputs) or cut.count
                    yield (cut.count, fed, missing == 0), {**cut.feeds, **self._fixed.arrays(fed)}


def _frames_of(places: Iterable[Place]) -> Iterator[Frame]:
    for place in places:
        with open_video(place) as video:
            yield from video


def _name(model: Artifact) -> str:
    return model.file.name if model.file is not None else model.provenance.raw.file or "(in memory)"
