"""Base class of rules. A rule looks at a graph and proposes rewrites, or gives the reason why not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import onnx_ir as ir

    from pp_graph.fusion.tail.cost import Cost
    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.steps import Emitter


@dataclass(frozen=True)
class Match:
    """A rewrite that a rule proposes.

    Attributes:
        target: The value that is computed otherwise; its name stays.
        what: What becomes of what, for people.
        reads: The values that the new form reads.
        before: What the operators cost that are not needed any more.
        after: What the new ones cost.
        emit: Writes the new form; returns the value that stands for `target`. Its second argument gives, for a
            value of the graph, the one to read: the same, or its stand-in where the rewrite is tried out alone.
        exact: Whether the new form computes the same numbers to the bit.
        float32: Whether the new form is to stay in float32 when the network runs in bf16 or f16.
        tidies: Whether it only takes out what does nothing, and is wanted however little it saves.
        trial: Shapes to try it out with, for values whose open sizes depend on each other.
    """

    target: ir.Value
    what: str
    reads: tuple[ir.Value, ...]
    before: Cost
    after: Cost
    emit: Callable[[Emitter, Callable[[ir.Value], ir.Value]], ir.Value]
    exact: bool
    float32: bool = False
    tidies: bool = False
    trial: Mapping[ir.Value, tuple[int, ...]] = field(default_factory=dict)

    @property
    def saves(self) -> float:
        """Microseconds an image that the rewrite saves, by estimate."""
        return self.before.microseconds - self.after.microseconds


@dataclass(frozen=True)
class Miss:
    """A place that a rule was made for, and why it does not apply.

    Attributes:
        target: The value that stays as it is.
        what: What computes it, for people.
        why: The reason: what would have to be different.
    """

    target: ir.Value
    what: str
    why: str


class Rule(ABC):
    """A rewrite of the raw model's tail.

    Attributes:
        name: What the rule is called in `inspect --tail` and in the provenance.
    """

    name: ClassVar[str]

    @abstractmethod
    def find(self, view: GraphView) -> Iterator[Match | Miss]:
        """Propose rewrites, those nearest to the outputs first.

        The caller applies at most one of them before it asks again, so proposals may overlap.

        Args:
            view: The graph.
        """
