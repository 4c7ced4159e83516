"""Run quantised layers with the float32 part behind them, and see how many decisions are still right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pp_graph.errors import AccuracyError
from pp_graph.model import fixed_batch
from pp_graph.targets.devices.devices import openvino_core
from pp_graph.targets.openvino_ports import port_name
from pp_graph.targets.quantization.calibration_feeds import read_some
from pp_graph.targets.quantization.decision_rates import ImageDecisions, judge, rates, require_rates, worst_drop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import openvino as ov

    from pp_graph.data import Images, LabelledImages
    from pp_graph.fusion import Provenance
    from pp_graph.model import ModelInput
    from pp_graph.targets.quantization.network_cut import CutModel


class DecisionCheck:
    """Measures decisions of quantised layers with the float32 part behind them, as it ships.

    Args:
        cut: The model, cut in two.
        provenance: What is fused into it.
        labelled: Images with labels or masks.
        images: The same, with all that the model is fed.
        inputs: What the model is fed.
        progress: Called with the number of images just run.

    Raises:
        DataError: The images do not fit, or there is nothing to measure on them.
    """

    def __init__(
        self,
        cut: CutModel,
        provenance: Provenance,
        labelled: LabelledImages,
        images: Images,
        inputs: Sequence[ModelInput],
        progress: Callable[[int], None] | None,
    ) -> None:
        self._labelled = labelled
        self._images = images
        self._inputs = inputs
        self._batch = fixed_batch(inputs) or 1
        self._progress = progress
        self._program = provenance.bind()
        self._roles = {role: record.tensor for role, record in provenance.raw.read.items()}
        self._fed = [port_name(port) for port in cut.layers.inputs]
        self._tail = _compiled(cut.tail(list(self._roles.values())))
        self._before = self._decisions(_compiled(cut.layers), range(len(labelled)))
        require_rates(rates(self._before))

    def validate(self, compiled: ov.CompiledModel, items: Sequence[int]) -> tuple[float, list[float]]:
        """1 minus the worst drop of a rate on some of the images, and the share of right decisions an image."""
        indices = list(items)
        found = self._decisions(compiled, indices)
        before = rates([self._before[index] for index in indices])
        return 1 - worst_drop(before, rates(found)), [each.right for each in found]

    def measure(self, layers: ov.Model, max_drop: float) -> dict[str, Any]:
        """Rates before and after, for the provenance.

        Raises:
            AccuracyError: One fell by more than is allowed.
        """
        before = rates(self._before)
        after = rates(self._decisions(_compiled(layers), range(len(self._labelled))))
        drop = worst_drop(before, after)
        if drop > max_drop:
            worst = max(before, key=lambda name: before[name] - after[name])
            raise AccuracyError(
                f"Quantised, {worst} falls from {before[worst]:.4f} to {after[worst]:.4f} on {len(self._labelled)} "
                f"images, by {drop:.4f}, expected {max_drop} at most; leaving layers in float32 did not do. "
                "Allow more (--max-drop), calibrate with more images, anomalous ones among them, or convert with "
                "precision f32 or f16."
            )
        return {"max_drop": max_drop, "drop": drop, "rates_f32": before, "rates_int8": after}

    def _decisions(self, compiled: ov.CompiledModel, indices: Sequence[int]) -> list[ImageDecisions]:
        found: list[ImageDecisions] = []
        for start in range(0, len(indices), self._batch):
            some = indices[start : start + self._batch]
            feeds = read_some(self._images, some, self._inputs, self._batch)
            outputs = compiled({name: feeds[name] for name in self._fed})
            joints = [outputs[port] for port in compiled.outputs]
            raw = self._tail([*joints, *(feeds[each.name] for each in self._inputs)])
            values = {role: raw[index][: len(some)] for index, role in enumerate(self._roles)}
            found += judge(self._program, values, self._labelled, some)
            if self._progress is not None:
                self._progress(len(some))
        return found


def _compiled(model: ov.Model) -> ov.CompiledModel:
    return openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
