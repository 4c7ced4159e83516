"""Interface of rewrite rules: a rule inspects a graph and proposes rewrites, or gives reasons against them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.model.shapes import Dimension
    from pp_graph.steps import Emitter


@dataclass(frozen=True)
class Match:
    """A rewrite that a rule proposes.

    Attributes:
        target: The value to compute differently. Its name stays.
        what: Readable description of the change.
        reads: Values that the new operators read.
        before: Estimated microseconds per image of the operators that become redundant.
        after: Estimated microseconds per image of the new operators.
        emit: Writes the new operators and returns the value that replaces `target`. Its second argument maps a value of
            the graph to the value to read: the same one, or its copy while the rewrite is tested alone.
        exact: True if the results are bit-identical.
        float32: True if the new operators stay in float32 when the network runs in bf16 or f16.
        tidies: True if the rewrite only removes operators without effect, and applies however little it saves.
        trial: Shapes of one image to test with, for values whose open sizes depend on each other. Batches multiply the
            first size.
        below: Exclusive upper bounds of the integers to test with: one for all, or one per position on the last axis.
            An open bound is the number of images. The smallest integer is 0.
    """

    target: ir.Value
    what: str
    reads: tuple[ir.Value, ...]
    before: float
    after: float
    emit: Callable[[Emitter, Callable[[ir.Value], ir.Value]], ir.Value]
    exact: bool
    float32: bool = False
    tidies: bool = False
    trial: Mapping[ir.Value, tuple[int, ...]] = field(default_factory=dict)
    below: Mapping[ir.Value, tuple[Dimension, ...]] = field(default_factory=dict)

    @property
    def saves(self) -> float:
        """Estimated saving in microseconds per image."""
        return self.before - self.after


@dataclass(frozen=True)
class Miss:
    """A place where a rule looks applicable and is not.

    Attributes:
        target: The value that stays unchanged.
        what: Readable description of the operators that compute it.
        why: Why the rule does not apply.
    """

    target: ir.Value
    what: str
    why: str


class Rule(ABC):
    """A rewrite of the raw model's tail.

    Attributes:
        name: Name in `inspect --tail` and in the provenance.
        spreads_nan: True if a NaN reaches more pixels than before. Such rules apply only where NaN counts as anomalous.
    """

    name: ClassVar[str]
    spreads_nan: ClassVar[bool] = False

    @abstractmethod
    def find(self, view: GraphView) -> Iterator[Match | Miss]:
        """Propose rewrites, those nearest to the outputs first. Proposals may overlap.

        Args:
            view: The graph.
        """
