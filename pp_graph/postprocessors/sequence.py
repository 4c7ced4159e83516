"""`SequencePostProcessor`: the tokens of a text, from the classes at each time (CTC)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, get_args

from pp_graph.errors import OutputRoleError, PostProcessorError
from pp_graph.model import RawModel, describe_outputs, format_shape, image_input
from pp_graph.postprocessors.classification import RAW_LOGITS
from pp_graph.postprocessors.post_processor import PostProcessor, chosen_outputs
from pp_graph.program import Output, Program, Role, Signature, find_roles
from pp_graph.steps import (
    ArgMax,
    BatchFirst,
    CollapseRepeats,
    CountTokens,
    GatherTimes,
    MaxOverClasses,
    MeanOfTokens,
    Softmax,
    Step,
)
from pp_graph.steps.step import require_one_of, require_whole

if TYPE_CHECKING:
    from pp_graph.statistics import Statistics

Layout = Literal["NTC", "TNC"]
_ACTIVATIONS: Final = ("softmax", "none")
BLANKS: Final = ("", "blank", "<blank>", "[blank]", "<blk>", "<pad>", "[PAD]", "<eps>")
"""Names of the blank in files of characters."""
CHARACTERS_KEY: Final = "character"
"""Metadata entry with one character a line, in PP-OCR's models of RapidOCR."""


def _role(layout: Layout) -> Role:
    return Role(
        RAW_LOGITS,
        (layout,),
        required=True,
        names=frozenset({"logits", "logit", "output", "outputs", "prob", "probs", "softmax", "log_probs", "ctc"}),
        noun="logits",
        meaning="one number per time and class",
    )


def _outputs(labels: tuple[str, ...]) -> tuple[Output, ...]:
    return (
        Output("token_ids", ("NK",), "token", "tokens of the text, -1 after the last", labels),
        Output("length", ("N",), "count", "number of tokens"),
        Output("confidence", ("N",), "number", "mean probability of the tokens, 0 without any"),
        Output("token_probs", ("NK",), "number", "probability of each token"),
        Output("token_times", ("NK",), "count", "time at which each token begins, -1 after the last"),
    )


@dataclass(frozen=True)
class SequencePostProcessor(PostProcessor):
    """Post-processing for text recognisers trained with CTC: logits of each class at each time in, a text out.

    The most probable class at each time, as `numpy.argmax`; then repeats are dropped, and then blanks (greedy decoding,
    Graves et al., 2006). All outputs have as many places K as there are times.

    - `token_ids`: the classes of the text, -1 after the last. int64, (N,K).
    - `length`: how many there are. int64, (N,).
    - `confidence`: mean of `token_probs` over the tokens, as in PP-OCR; 0 for an empty text. float32, (N,).
    - `token_probs`: probability of each token at the time at which it begins, 0 after the last. float32, (N,K).
    - `token_times`: these times, -1 after the last. int64, (N,K).

    Classes are compared by their logits, so tokens are the same in every runtime.

    Attributes:
        statistics: Not used.
        activation: `softmax` for logits or log-probabilities, `none` for a model that returns probabilities. None
            chooses: `none` if the model ends in a softmax, else `softmax`.
        blank: Class that stands for no token; negative numbers count from the last. None takes the label that is empty
            or called `<blank>` or similar, otherwise 0.
        layout: Axes of the logits, `NTC` or `TNC`. None finds them by the batch of the model's input; arrays are
            (N,T,C).
        labels: Character or token of each class, in order. If there is one label less than classes, the blank is left
            out; if two less, as in PP-OCR's files, the blank and a space as last class. Empty takes those in the
            model's metadata, if there are any.

        outputs: Outputs to compute, from those above; None for all.

    Raises:
        PostProcessorError: An option is outside its range.
    """

    roles: ClassVar[tuple[Role, ...]] = (_role("NTC"),)  # type: ignore[misc]
    tunable: ClassVar[tuple[str, ...]] = ()
    statistics: Statistics | None = None
    activation: Literal["softmax", "none"] | None = None
    blank: int | None = None
    layout: Layout | None = None
    labels: tuple[str, ...] = ()
    outputs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check each option."""
        require_one_of(self.activation, "activation", (*_ACTIVATIONS, None))
        require_one_of(self.layout, "layout", (*get_args(Layout), None))
        if self.blank is not None:
            require_whole(self.blank, "blank", -(2**21))
        given: Any = () if self.labels is None else self.labels
        if (
            isinstance(given, str)
            or not isinstance(given, Sequence)
            or not all(isinstance(each, str) for each in given)
        ):
            raise PostProcessorError("labels is not a list of texts, expected the character of each class, in order.")
        object.__setattr__(self, "labels", tuple(given))
        object.__setattr__(self, "roles", (_role(self.layout or "NTC"),))
        object.__setattr__(self, "outputs", None if self.outputs is None else tuple(self.outputs))
        object.__setattr__(self, "declared_outputs", chosen_outputs(_outputs(self.labels), self.outputs))

    def bind(self, raw: RawModel | Signature, roles: Mapping[str, str] | None = None) -> Program:
        """Bind to a raw model, whose batch and metadata tell the layout and the labels; see `PostProcessor.bind`."""
        if not isinstance(raw, RawModel):
            return super().bind(raw, roles)
        found = self
        if self.layout is None:
            found = dataclasses.replace(found, layout=_layout_of(raw, roles or {}))
        else:
            _check_layout(raw, roles or {}, self.layout)
        characters = raw.model.metadata_props.get(CHARACTERS_KEY)
        if not self.labels and characters:
            found = dataclasses.replace(found, labels=tuple(characters.removesuffix("\n").split("\n")))
        signature = Signature.of_model(raw, found.roles, roles)
        value = signature[RAW_LOGITS]
        if found.labels and value.rank_known and value.size("C") is None:
            # Another number of classes fails in the runtime, as its constants do not broadcast.
            sized = value.resized(C=len(found.labels))
            why = f"its classes are open and taken as the {len(found.labels)} labels"
            match = dataclasses.replace(signature.matches[RAW_LOGITS], type=sized, certain=False, why=why)
            signature = dataclasses.replace(signature, types={RAW_LOGITS: sized}, matches={RAW_LOGITS: match})
        return super(SequencePostProcessor, found).bind(signature)

    def settled(self, raw: Signature) -> SequencePostProcessor:
        """Choose activation and blank, and give every class its label."""
        value, ends_in = raw[RAW_LOGITS], raw.activations.get(RAW_LOGITS)
        output = f"output '{raw.outputs[RAW_LOGITS]}'" if RAW_LOGITS in raw.outputs else "the value"
        if ends_in is not None and self.activation == "softmax":
            raise PostProcessorError(
                f"activation is softmax, and {output} holds probabilities, because the model ends in a {ends_in}, "
                "expected none. Leave the activation out (--activation)."
            )
        count = value.size("C")
        if count is None or not value.rank_known:
            raise PostProcessorError(
                f"The number of classes of {output}, {value}, is open, expected a known one. Export the model with "
                "its output shapes, or give a label for each class, the blank too (--labels FILE)."
            )
        blank, labels = self._named_classes(count, f"{output}, {value},")
        activation = self.activation or ("softmax" if ends_in is None else "none")
        return dataclasses.replace(self, activation=activation, blank=blank, labels=labels)

    def _named_classes(self, count: int, what: str) -> tuple[int, tuple[str, ...]]:
        """Return the blank, and a label for each class; those of the blank are empty."""
        labels, blank = self.labels, self.blank
        if blank is None:
            named = [place for place, label in enumerate(labels) if label in BLANKS] if len(labels) == count else []
            blank = named[0] if named else 0
        if not -count <= blank < count:
            raise PostProcessorError(
                f"blank is {blank}, and {what} has {count} classes, expected 0 to {count - 1}, or -1 for the last "
                "(--blank)."
            )
        blank %= count
        if labels and len(labels) == count - 2 and blank == 0:
            labels = (*labels, " ")
        if labels and len(labels) == count - 1:
            labels = (*labels[:blank], "", *labels[blank:])
        if labels and len(labels) != count:
            without_both = ", or two less without blank and space" if blank == 0 else f" (class {blank})"
            raise PostProcessorError(
                f"There are {len(self.labels)} labels, and {what} has {count} classes, expected a label for each, "
                f"or one less without the blank{without_both}. Correct the blank (--blank), or the labels (--labels "
                f"FILE, one character a line), or name another output with --role {RAW_LOGITS}=NAME."
            )
        return blank, tuple("" if place == blank else label for place, label in enumerate(labels))

    def steps(self, raw: Signature) -> tuple[Step, ...]:
        """Choose a class at each time, collapse, and gather the tokens."""
        steps: list[Step] = []
        logits = probabilities = RAW_LOGITS
        if raw[RAW_LOGITS].axes == "TNC":
            logits = probabilities = "logits"
            steps.append(BatchFirst(RAW_LOGITS, logits))
        if self.activation == "softmax":
            probabilities = "probabilities"
            steps.append(Softmax(logits, probabilities))
        return (
            *steps,
            ArgMax(logits, "path"),
            MaxOverClasses(probabilities, "path_probs"),
            CollapseRepeats("path", "token_times", self.blank or 0),
            GatherTimes("path", "token_ids", "token_times"),
            CountTokens("token_times", "length"),
            GatherTimes("path_probs", "token_probs", "token_times"),
            MeanOfTokens("token_probs", "confidence", "token_times"),
        )


def _check_layout(raw: RawModel, roles: Mapping[str, str], given: Layout) -> None:
    """Raise if the batch of the model's input contradicts a layout."""
    try:
        certain = _layout_of(raw, roles)
    except OutputRoleError:
        return
    if certain != given:
        raise OutputRoleError(
            f"The layout is {given}, and the other axis of the output has the size of the input's batch, expected "
            f"{certain}. Leave the layout out (--layout)."
        )


def _layout_of(raw: RawModel, roles: Mapping[str, str]) -> Layout:
    """Find the layout of the logits by the batch of the model's input.

    Raises:
        OutputRoleError: Both layouts fit.
    """
    described = [dataclasses.replace(info, other_batch=False) for info in describe_outputs(raw)]
    info = find_roles(described, (_role("NTC"),), roles)[RAW_LOGITS].output
    images = image_input(raw.inputs)
    batch = images.shape[0] if images is not None and images.shape else None
    first, second = (info.shape or (None, None))[:2]
    if batch is None or (first == batch) == (second == batch):
        raise OutputRoleError(
            f"Output '{info.name}' {format_shape(info.shape)} can be read as (N,T,C) or as (T,N,C), expected a size "
            f"that is the batch of the input, {batch or 'unknown'}. Give the layout: layout='NTC' or 'TNC' (--layout)."
        )
    return "NTC" if first == batch else "TNC"
