"""`PostProcessor`: abstract base of all compositions of steps."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from pp_graph.errors import PostProcessorError, StatisticsError
from pp_graph.model import RawModel
from pp_graph.postprocessors.anomaly import OUTPUTS, RAW_MAP, RAW_SCORE, ROLES
from pp_graph.postprocessors.input_checks import checked_values
from pp_graph.program import Output, Program, Role, Signature, packed_output
from pp_graph.program.compilation import CompiledSteps, check_steps, compile_steps
from pp_graph.reprs import short_repr
from pp_graph.statistics import LevelStatistics, Statistics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike

    from pp_graph.program import OutputDescription, Predictions
    from pp_graph.statistics import Level
    from pp_graph.steps import Array, Step
    from pp_graph.values import ValueType

_RAW: Final[Mapping[Level, str]] = {"image": RAW_SCORE, "pixel": RAW_MAP}
_PLAUSIBLE: Final = LevelStatistics(threshold=5.0, min=4.0, max=6.0)
_ALTERNATIVE: Final = LevelStatistics(threshold=50.0, min=10.0, max=100.0)
"""Two plausible statistics. Steps that differ between them depend on statistics."""


def chosen_outputs(
    possible: Sequence[Output], wanted: Sequence[str] | None, on_request: Sequence[str] = ()
) -> tuple[Output, ...]:
    """Return the outputs to compute, in the order of the possible ones.

    Args:
        possible: All outputs of a family.
        wanted: Names of those to compute; None for all but those `on_request`.
        on_request: Names of outputs that are computed only if they are named.

    Raises:
        PostProcessorError: There is no such output, or none is wanted.
    """
    known = [output.name for output in possible]
    if wanted is not None and (not wanted or not set(wanted) <= set(known)):
        raise PostProcessorError(f"outputs is {tuple(wanted)!r}, expected some of: {', '.join(known)}.")
    return tuple(
        each for each in possible if (each.name in wanted if wanted is not None else each.name not in on_request)
    )


class PostProcessor(ABC):
    """Turns the outputs of a raw model into predictions.

    Subclasses define the steps. `bind` checks them against a raw model and compiles their decisions to cutoffs. The
    resulting `Program` runs in NumPy or is written into the model (`pp_graph.fuse`); both use the same steps.
    A subclass is a frozen dataclass whose first field is `statistics`. Its other fields are JSON values, from which it
    is built again to verify or retune a model.

    Attributes:
        roles: Outputs of a raw model that the steps may read; by default the score and map of an anomaly model.
        declared_outputs: Possible outputs, in order. A step writes an output if its target has that name.
        replaces_unread: If True, raw outputs with a role are dropped from the fused model even if no step reads them.
            By default, unread raw outputs stay outputs.
        tunable: Parameters that `pp-graph retune` changes; None for all.
        statistics: The calibrated numbers; None until they are known.
        pack: Return all predictions in one tensor, (N,H,W,4) (see `pp_graph.program.packing`).
    """

    roles: tuple[Role, ...] = ROLES
    declared_outputs: tuple[Output, ...] = OUTPUTS
    replaces_unread: ClassVar[bool] = False
    tunable: ClassVar[tuple[str, ...] | None] = None
    statistics: Statistics | None
    pack: bool = False

    def __init_subclass__(cls, **settings: Any) -> None:
        """Shorten the `repr`, before a dataclass writes a long one."""
        super().__init_subclass__(**settings)
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = short_repr  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        """Check the steps against typical raw models, so that errors show early.

        Raises:
            PostProcessorError: The steps fit no raw model: a step reads a value that is missing or does not fit.
        """
        check_steps(self.steps, self.roles, self.declared_outputs)

    @abstractmethod
    def steps(self, raw: Signature) -> Sequence[Step]:
        """Return the steps, in order. Each reads raw values by role, or targets of earlier steps.

        Args:
            raw: Types of the raw values, by role.

        Raises:
            StatisticsError: A number that a step needs is unknown.
        """

    def parameters(self) -> dict[str, Any]:
        """Return all parameters except the statistics, as JSON values.

        Raises:
            PostProcessorError: The class is not a dataclass.
        """
        described: object = self
        if not dataclasses.is_dataclass(described):
            raise PostProcessorError(
                f"{type(self).__name__} is not a dataclass, expected one, or a method parameters() that returns all "
                "parameters but the statistics. Write @dataclass(frozen=True) above it."
            )
        names = [field.name for field in dataclasses.fields(described) if field.init and field.name != "statistics"]
        given = {name: getattr(self, name) for name in names}
        return {name: list(each) if isinstance(each, tuple) else each for name, each in given.items()}

    @classmethod
    def from_parameters(cls, statistics: Statistics | None, parameters: Mapping[str, Any]) -> Self:
        """Build a post-processor from the result of `parameters`."""
        return cls(statistics=statistics, **parameters)  # type: ignore[call-arg]

    def with_statistics(self, statistics: Statistics | None) -> Self:
        """Return the post-processor with other statistics."""
        return self.from_parameters(statistics, self.parameters())

    def changed(self, statistics: Statistics | None, changes: Mapping[str, Any]) -> Self:
        """Return the post-processor with other statistics and some parameters changed.

        Raises:
            PostProcessorError: There is no such parameter, or it rejects the value.
        """
        kind: Any = type(self)
        known = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set(changes)
        unknown = next((name for name in changes if name not in known), None)
        if unknown is not None:
            if self.tunable is None:
                # What describes the post-processor itself cannot be changed.
                listed = ", ".join(sorted(known - {"statistics", "declared_outputs", "recipe", "roles"}))
            else:
                listed = ", ".join(f"{name} (--{name.replace('_', '-')})" for name in self.tunable if name in known)
            raise PostProcessorError(
                f"Post-processor '{type(self).__name__}' has no {unknown} (--{unknown.replace('_', '-')}), expected "
                f"{f'one of: {listed}' if listed else 'none: it has no limits'}. Leave it out. To change other "
                "options, fuse or convert the raw model again."
            )
        return self.from_parameters(statistics, {**self.parameters(), **changes})

    @property
    def sensitivities(self) -> Mapping[str, str]:
        """The output that each sensitivity moves, by parameter name. Sensitivities are in [0, 1]."""
        return {}

    def arranged(
        self, outputs: tuple[OutputDescription, ...], types: Mapping[str, ValueType]
    ) -> tuple[OutputDescription, ...]:
        """Return the outputs in the form in which the model returns them; one tensor with `pack`."""
        return (packed_output(outputs, types),) if self.pack else outputs

    def settled(self, raw: Signature) -> Self:
        """Return the post-processor with parameters resolved that depend on the raw model."""
        del raw
        return self

    def bind(self, raw: RawModel | Signature, roles: Mapping[str, str] | None = None) -> Program:
        """Bind to a raw model: find the roles, check the steps and compile their decisions.

        Args:
            raw: The raw model, or its signature.
            roles: Output names by role, where axes and sizes are ambiguous.

        Returns:
            The program, from which models are fused, verified and retuned.

        Raises:
            OutputRoleError: Roles are ambiguous, or no output fits one.
            StatisticsError: A number that a step needs is unknown.
            PostProcessorError: The steps do not fit each other or the raw model.
        """
        if not isinstance(raw, Signature | RawModel):
            raise PostProcessorError(
                f"bind() is given {type(raw).__name__}, expected a RawModel or a Signature. Open the file first: "
                "pp_graph.RawModel.open(path)."
            )
        signature = raw if isinstance(raw, Signature) else Signature.of_model(raw, self.roles, roles)
        program = Program.compile(self.settled(signature), signature)
        written = [output.name for output in program.predicted]
        missing = [name for name in getattr(self, "outputs", None) or () if name not in written]
        if missing:
            raise PostProcessorError(
                f"outputs holds {', '.join(missing)}, and with these options the post-processing writes "
                f"{', '.join(written) or 'none of them'}, expected outputs that it writes. Leave {missing[0]} out, or "
                "give the option that writes it."
            )
        return program

    def calibrated_names(self, raw: Signature) -> dict[Level, str]:
        """Return the name of the value that is calibrated at each level.

        Args:
            raw: Types of the raw values.

        Returns:
            Names under `image` and `pixel`; by default the raw values. For a raw value with several classes, the input
            of the first step that depends on statistics, if that is one number per image or pixel.
        """
        names = {level: name for level, name in _RAW.items() if name in raw}
        single = {role.name for role in self.roles if "C" in role.sizes}
        for level, name in names.items():
            if name not in single and raw[name].size("C") != 1:
                names[level] = self._compared(raw, level) or name
        return names

    def bind_calibration(self, raw: Signature) -> CompiledSteps:
        """Compile the steps that compute the values to calibrate, before statistics are known.

        Args:
            raw: Types of the raw values.

        Raises:
            PostProcessorError: A value to calibrate depends on statistics itself.
        """
        names = tuple(self.calibrated_names(raw).values())
        if all(name in raw for name in names):
            return compile_steps((), raw, wanted=())
        settled = self.settled(raw)
        steps = settled.with_statistics(Statistics(image=_PLAUSIBLE, pixel=_PLAUSIBLE))
        others = settled.with_statistics(Statistics(image=_ALTERNATIVE, pixel=_ALTERNATIVE))
        compiled = compile_steps(steps.steps(raw), raw, wanted=names)
        for step, other in zip(compiled.steps, compile_steps(others.steps(raw), raw, wanted=names).steps, strict=False):
            if step != other:
                raise PostProcessorError(
                    f"Step '{step.target}' of {type(self).__name__} depends on statistics, and a value to calibrate "
                    f"({', '.join(names)}) depends on it. Calibrate its input first, and write those numbers into the "
                    "steps."
                )
        return compiled

    def _compared(self, raw: Signature, level: Level) -> str | None:
        """Input of the first step that depends on the statistics of a level; None if there is no such step."""
        image, pixel = (_ALTERNATIVE if other == level else _PLAUSIBLE for other in _RAW)
        try:
            settled = self.settled(raw)
            steps = settled.with_statistics(Statistics(image=_PLAUSIBLE, pixel=_PLAUSIBLE)).steps(raw)
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

        Raises:
            ValueError: Neither is given, or one has a different shape or element type.
            StatisticsError: A number that a step needs is unknown.
        """
        return self.predict(checked_values(raw, self.roles))

    def predict(self, values: Mapping[str, Array]) -> Predictions:
        """Post-process raw values, by role; see `Program.run`.

        Raises:
            StatisticsError: A number that a step needs is unknown.
        """
        program = self.bind(Signature.of_values(values, self.roles))
        return program.predictions(program.run(values))
