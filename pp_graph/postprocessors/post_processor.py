"""`PostProcessor`: the abstract base that composes steps, run in NumPy or written as an ONNX subgraph."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from pp_graph.errors import PostProcessorError, StatisticsError
from pp_graph.model import RawModel
from pp_graph.postprocessors.anomaly import OUTPUTS, RAW_MAP, RAW_SCORE, ROLES
from pp_graph.postprocessors.raw_values import checked_values
from pp_graph.program import Output, Program, Role, Signature
from pp_graph.program.compilation import CompiledSteps, check_steps, compile_steps
from pp_graph.statistics import LevelStatistics, Statistics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike

    from pp_graph.program import Predictions
    from pp_graph.statistics import Level
    from pp_graph.steps import Array, Step

_RAW: Final[Mapping[Level, str]] = {"image": RAW_SCORE, "pixel": RAW_MAP}
_LIKELY: Final = LevelStatistics(threshold=5.0, min=4.0, max=6.0)
_OTHERS: Final = LevelStatistics(threshold=50.0, min=10.0, max=100.0)
"""Statistics that could be calibrated; steps that differ between the two follow from statistics."""


class PostProcessor(ABC):
    """Turns the outputs of a raw model into predictions.

    Subclasses say which steps to take. `bind` meets them with a raw model: it checks the steps and compiles their
    decisions to cutoffs, and the `Program` that comes of it runs in NumPy or is written into the model
    (`pp_graph.fuse`). Both see the same steps, so they cannot drift apart.
    A subclass is a frozen dataclass whose first field is `statistics`; its other fields hold plain JSON values, from
    which it is built again when a model is verified or retuned.

    Attributes:
        roles: The outputs of a raw model that the steps may read; the score and map of an anomaly model unless a
            subclass says else.
        declared_outputs: What may come out, in order; a step whose target has the name of one writes it.
        replaces_unread: Whether an output that has a role and is not read is left out of the fused model all the same,
            as where only labels are wanted of a score and a map.
        statistics: The calibrated numbers; None until they are known.
        pack: Whether a fused model returns all predictions in one tensor, (N,H,W,4) (see `pp_graph.program.packing`).
    """

    roles: tuple[Role, ...] = ROLES
    declared_outputs: tuple[Output, ...] = OUTPUTS
    replaces_unread: ClassVar[bool] = False
    statistics: Statistics | None
    pack: bool = False

    def __post_init__(self) -> None:
        """Try the steps out on raw models that could come, so that what does not fit shows now.

        Raises:
            PostProcessorError: The steps fit no raw model: one reads what is not there or does not fit.
        """
        check_steps(self.steps, self.roles, self.declared_outputs)

    @abstractmethod
    def steps(self, raw: Signature) -> Sequence[Step]:
        """Steps to take, in order.

        Each reads raw values, by role, or earlier steps' targets.

        Args:
            raw: What the raw model gives: the type of each value, by role.

        Raises:
            StatisticsError: A number that a step needs is not known.
        """

    def parameters(self) -> dict[str, Any]:
        """Everything but the statistics that is needed to build this post-processor again; plain JSON values.

        Raises:
            PostProcessorError: The class is no dataclass, so that its parameters cannot be told.
        """
        described: object = self
        if not dataclasses.is_dataclass(described):
            raise PostProcessorError(
                f"{type(self).__name__} is no dataclass, expected one, or a method parameters() that returns all but "
                "the statistics. Write @dataclass(frozen=True) above it."
            )
        names = [field.name for field in dataclasses.fields(described) if field.init and field.name != "statistics"]
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_parameters(cls, statistics: Statistics | None, parameters: Mapping[str, Any]) -> Self:
        """Build a post-processor from what `parameters` returned."""
        return cls(statistics=statistics, **parameters)  # type: ignore[call-arg]

    def with_statistics(self, statistics: Statistics | None) -> Self:
        """The same post-processor with other calibrated numbers."""
        return self.from_parameters(statistics, self.parameters())

    def changed(self, statistics: Statistics | None, changes: Mapping[str, Any]) -> Self:
        """The same post-processor with other calibrated numbers and other values of some parameters.

        Raises:
            PostProcessorError: It has no such parameter, or does not take the value.
        """
        kind: Any = type(self)
        known = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set(changes)
        unknown = next((name for name in changes if name not in known), None)
        if unknown is not None:
            raise PostProcessorError(
                f"Post-processor '{type(self).__name__}' has no {unknown} (--{unknown.replace('_', '-')}), expected "
                f"one of: {', '.join(sorted(known - {'statistics'}))}. Leave it out."
            )
        return self.from_parameters(statistics, {**self.parameters(), **changes})

    @property
    def sensitivities(self) -> Mapping[str, str]:
        """Parameters in [0, 1] that move a decision, and the output that each moves."""
        return {}

    def settled(self, raw: Signature) -> Self:
        """This post-processor with parameters settled that depend on the raw model."""
        del raw
        return self

    def bind(self, raw: RawModel | Signature, roles: Mapping[str, str] | None = None) -> Program:
        """Meet the outputs of a raw model: find the roles, check the steps and compile their decisions.

        Args:
            raw: The raw model, or what it gives where that is known already.
            roles: Names of outputs by role, where axes and sizes leave a choice.

        Returns:
            The program: everything that fusing, verifying and retuning need to know.

        Raises:
            OutputRoleError: Roles cannot be told apart, or nothing can be read.
            StatisticsError: A number that a step needs is not known.
            PostProcessorError: The steps do not fit each other or the raw model.
        """
        if not isinstance(raw, Signature | RawModel):
            raise PostProcessorError(
                f"bind() is given {type(raw).__name__}, expected a RawModel or a Signature. Open the file first: "
                "pp_graph.RawModel.open(path)."
            )
        signature = raw if isinstance(raw, Signature) else Signature.of_model(raw, self.roles, roles)
        return Program.compile(self.settled(signature), signature)

    def calibrated_names(self, raw: Signature) -> dict[Level, str]:
        """Names of the values whose threshold and range the statistics of each level are.

        Args:
            raw: What the raw model gives.

        Returns:
            Names under `image` and `pixel`; those of the raw values unless a subclass says else. Where one has several
            classes, it is what the first step reads that follows from the statistics, if that is one number an image
            or pixel.
        """
        names = {level: name for level, name in _RAW.items() if name in raw}
        single = {role.name for role in self.roles if "C" in role.sizes}
        for level, name in names.items():
            if name not in single and raw[name].size("C") != 1:
                names[level] = self._compared(raw, level) or name
        return names

    def bind_calibration(self, raw: Signature) -> CompiledSteps:
        """The steps that compute the values which are calibrated, before any statistics are known.

        Args:
            raw: What the raw model gives.

        Raises:
            PostProcessorError: What is to be calibrated follows from statistics itself.
        """
        names = tuple(self.calibrated_names(raw).values())
        if all(name in raw for name in names):
            return compile_steps((), raw, wanted=())
        settled = self.settled(raw)
        steps, others = (settled.with_statistics(Statistics(image=each, pixel=each)) for each in (_LIKELY, _OTHERS))
        compiled = compile_steps(steps.steps(raw), raw, wanted=names)
        for step, other in zip(compiled.steps, compile_steps(others.steps(raw), raw, wanted=names).steps, strict=False):
            if step != other:
                raise PostProcessorError(
                    f"Step '{step.target}' of {type(self).__name__} follows from statistics, and what is to be "
                    f"calibrated ({', '.join(names)}) from it, expected steps before it that need none. Calibrate what "
                    "comes before it first, and write those numbers into the steps."
                )
        return compiled

    def _compared(self, raw: Signature, level: Level) -> str | None:
        """What the first step reads that follows from the statistics of a level; None where that cannot be told."""
        image, pixel = (_OTHERS if each == level else _LIKELY for each in _RAW)
        try:
            settled = self.settled(raw)
            steps = settled.with_statistics(Statistics(image=_LIKELY, pixel=_LIKELY)).steps(raw)
            others = settled.with_statistics(Statistics(image=image, pixel=pixel)).steps(raw)
            types = compile_steps(steps, raw, wanted=()).types
        except (PostProcessorError, StatisticsError):
            return None
        name = next((step.reads[0] for step, other in zip(steps, others, strict=False) if step != other), None)
        if name is None or types[name].size("C") != 1 or types[name].per_pixel != (level == "pixel"):
            return None
        return name

    def __call__(self, raw: Mapping[str, ArrayLike | None] | object) -> Predictions:
        """Post-process the raw outputs of a batch in NumPy, float32 throughout.

        Args:
            raw: `pred_score` of shape (N,) or (N,1), `anomaly_map` of shape (N,H,W), (N,1,H,W) or
                (N,H,W,1), or both; floating point. A mapping, or an object with attributes of these names.

        Returns:
            The predictions.

        Raises:
            ValueError: Neither is given, or one has another shape or element type.
            StatisticsError: A number that is needed is not known.
        """
        return self.predict(checked_values(raw, self.roles))

    def predict(self, values: Mapping[str, Array]) -> Predictions:
        """Post-process raw values, by role; see `Program.run`.

        Raises:
            StatisticsError: A number that is needed is not known.
        """
        program = self.bind(Signature.of_values(values, self.roles))
        return program.predictions(program.run(values))
