"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pp_graph.cli.output import note

if TYPE_CHECKING:
    from pp_graph.fusion import FusedModel
    from pp_graph.postprocessors import PostProcessor
    from pp_graph.statistics import Statistics

_Function = TypeVar("_Function", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
STATS_HELP = "Statistics: pp_graph's JSON, or a file that pp-graph stats can read"
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Write one JSON object to stdout, all else to stderr."
)
force_option = click.option("--force", is_flag=True, help="Replace the output if it exists. Inputs are never replaced.")


def input_option(function: _Function) -> _Function:
    """Add the option for inputs that are no images, as `fixed_inputs`."""
    option = click.option(
        "--input", "fixed_inputs", multiple=True, metavar="NAME=VALUE",
        callback=lambda _, __, texts: parse_inputs(texts),
        help="Value of an input that is no image and not in the data: a number, numbers with commas, true, false, or "
        "an .npy file. Once an input.",
    )  # fmt: skip
    return option(function)


def parse_inputs(texts: Sequence[str]) -> dict[str, Any] | None:
    """Read what was given with --input: `sr=16000`, `gain=0.5,1`, `flip=true`, `state=zeros.npy`; None for nothing."""
    found: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name or not value.strip() or name in found:
            problem = "is given twice" if name in found and separator else "is not an input with its value"
            raise click.BadParameter(
                f"'{name if name in found else text}' {problem}, expected NAME=VALUE such as sr=16000, once an input.",
                param_hint="--input",
            )
        if value.lower().endswith(".npy"):
            found[name] = _load_array(value)
            continue
        numbers = [_number(part.strip(), text) for part in value.split(",")]
        found[name] = numbers if "," in value else numbers[0]
    return found or None


def _number(text: str, whole: str) -> bool | int | float:
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            if "_" not in text:
                return kind(text)
        except ValueError:
            continue
    raise click.BadParameter(
        f"'{whole}' has the value '{text}', expected a number, true, false, or an .npy file. Write an array to "
        "one with numpy.save.",
        param_hint="--input",
    )


def _load_array(path: str) -> Any:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise click.BadParameter(
            f"'{path}' cannot be read: {error}. Expected an array written by numpy.save.", param_hint="--input"
        ) from error


FORM_OPTIONS = ("outputs", "mask_dtype", "map_size", "pack", "thresholds")
"""Options that change the form of a post-processing, and none of its numbers."""


@dataclass(frozen=True)
class PostProcessing:
    """What the options of `post_processing_options` say.

    Attributes:
        recipe: File that lists the steps; None for the one-class post-processor.
        roles: Names of outputs by role.
        keep_raw: Keep the raw outputs as well.
        tail: Rewrite the raw model's own tail.
        raise_opset: Opset to bring the raw model to first; None for its own.
        settings: Keyword arguments of `OneClassPostProcessor`.
        given: Those of them that were said, and not left to their defaults.
    """

    recipe: Path | None
    roles: dict[str, str]
    keep_raw: bool
    tail: bool
    raise_opset: int | None
    settings: dict[str, Any]
    given: frozenset[str]

    @property
    def form(self) -> dict[str, Any]:
        """What was said about the form of the outputs and of the thresholds."""
        return {name: self.settings[name] for name in FORM_OPTIONS if name in self.given}

    def fuse(self, raw: Path, stats: Path | None, *, replace: bool = False) -> FusedModel:
        """Fuse a raw model with the statistics of a file, and say what a person should know about it.

        Settings that came with the statistics hold where no option says otherwise.
        """
        from pp_graph.fusion import fuse
        from pp_graph.postprocessors import OneClassPostProcessor, RecipePostProcessor
        from pp_graph.statistics import Statistics

        statistics = None if stats is None else Statistics.load(stats)
        post: PostProcessor
        if self.recipe is None:
            settings = self.settings if stats is None or statistics is None else self._settings_with(statistics, stats)
            self._refuse_ineffective(settings)
            post = OneClassPostProcessor(statistics, **settings)
        else:
            self._refuse_settings()
            post = RecipePostProcessor.load(self.recipe, statistics)
        fused = fuse(
            raw,
            post,
            roles=self.roles,
            keep_raw=self.keep_raw,
            replace=replace,
            tail=self.tail,
            raise_opset=self.raise_opset,
        )
        for remark in fused.notes:
            note(f"Note: {remark}")
        return fused

    def _refuse_settings(self) -> None:
        given = next((name for name in self.settings if name in self.given), None)
        if given is not None:
            flag = f"--{given.replace('_', '-')}"
            raise click.UsageError(
                f"{flag} belongs to the one-class post-processor, and --recipe lists other steps. Leave out {flag}, or "
                "write what it does into the recipe."
            )

    def _refuse_ineffective(self, settings: dict[str, Any]) -> None:
        wanted = settings["outputs"]
        for name, decision in (("image_sensitivity", "pred_label"), ("pixel_sensitivity", "pred_mask")):
            written = settings["threshold"] and (not isinstance(wanted, list | tuple) or decision in wanted)
            if name in self.given and not written:
                flag = f"--{name.replace('_', '-')}"
                raise click.UsageError(f"{flag} moves {decision}, which is not written. Leave out one of both.")

    def _settings_with(self, statistics: Statistics, file: Path) -> dict[str, Any]:
        from pp_graph.errors import StatisticsError

        settings = dict(self.settings)
        if statistics.provenance is None:
            return settings
        for remark in statistics.provenance.notes:
            note(f"Note: {remark}")
        for name, value in statistics.provenance.settings.items():
            if name not in settings:
                raise StatisticsError(
                    f"Statistics file '{file}' brings a setting '{name}', expected some of: {', '.join(settings)}. "
                    "Take it out of the file."
                )
            if name not in self.given and value != settings[name]:
                note(f"Note: {name}={value} comes from {file.name}")
                settings[name] = value
        return settings


_ROLE_OPTIONS = (
    click.option("--score-output", metavar="NAME", help="Output that holds the raw score."),
    click.option("--map-output", metavar="NAME", help="Output that holds the raw map."),
    click.option("--role", multiple=True, metavar="ROLE=NAME",
                 help="Output that is read in a role, such as raw_score=logits or one that a recipe declares. "
                 "Once a role."),
)  # fmt: skip


def role_options(function: _Function) -> _Function:
    """Add the options that name outputs to a verb."""
    for option in reversed(_ROLE_OPTIONS):
        function = option(function)
    return function


def named_roles(options: Mapping[str, Any]) -> dict[str, str]:
    """Names of outputs by role, as the options that `role_options` adds say.

    Raises:
        click.BadParameter: An entry is no ROLE=NAME, or a role is given twice.
        OutputRoleError: A role is given by two options, differently.
    """
    roles: dict[str, str] = {}
    for text in options["role"]:
        role, _, name = text.partition("=")
        if not role or not name or role in roles:
            problem = f"'{role}' is given twice" if role in roles else f"'{text}' is no role with its output"
            raise click.BadParameter(
                f"{problem}, expected ROLE=NAME such as raw_score=logits, once a role.", param_hint="--role"
            )
        roles[role] = name
    if options["score_output"] is None and options["map_output"] is None:
        return roles
    from pp_graph.postprocessors import merged_roles

    return merged_roles(roles, score_output=options["score_output"], map_output=options["map_output"])


_OPTIONS = (
    click.option("--recipe", type=PATH, metavar="FILE.yaml",
                 help="Take the steps that this file lists, or the class it names, instead of the one-class "
                 "post-processor."),
    click.option("--image-sensitivity", type=float, metavar="S", default=0.5, show_default=True,
                 help="0 flags no image, 0.5 those above the threshold, 1 all that normalise above 0."),
    click.option("--pixel-sensitivity", type=float, metavar="S", default=0.5, show_default=True,
                 help="The same for pixels."),
    role_options,
    click.option("--on-nan", type=click.Choice(["anomalous", "normal"]), default="anomalous", show_default=True,
                 help="What NaN counts as."),
    click.option("--normalize/--no-normalize", default=True,
                 help="Normalise score and map, or leave them raw and compare with the raw threshold."),
    click.option("--threshold/--no-threshold", default=True, help="Write label and mask, or neither."),
    click.option("--match-thresholds/--no-match-thresholds", default=True,
                 help="Take an unknown threshold from the other level, or do not."),
    click.option("--outputs", metavar="NAMES",
                 help="Write only these of pred_score,pred_label,anomaly_map,pred_mask; the rest is not computed."),
    click.option("--mask-dtype", type=click.Choice(["bool", "u8", "u8_255", "f32"]), default="bool", show_default=True,
                 help="Element type of pred_mask; u8_255 is 0 and 255."),
    click.option("--map-size", metavar="HxW|input",
                 help="Resize map and mask, to the size of the model's input for example."),
    click.option("--pack/--no-pack", default=False,
                 help="Return one float32 tensor (N,H,W,4): map, score, label, mask along its last axis."),
    click.option("--thresholds", type=click.Choice(["fixed", "runtime"]), default="fixed", show_default=True,
                 help="Write the cutoffs as constants, or so that they can be changed while the model runs."),
    click.option("--no-tail", is_flag=True, help="Leave the raw model's own tail as it is, instead of rewriting it."),
    click.option("--raise-opset", type=int, metavar="VERSION",
                 help="Bring a raw model of an earlier opset to this one first, such as 18, for steps that need it; "
                 "refused where that would change a bit of its outputs. strip gives the file of its own opset back."),
    click.option("--keep-raw", is_flag=True, help="Keep the raw values that are read as outputs too."),
)  # fmt: skip


def post_processing_options(function: _Function) -> _Function:
    """Add the options of the one-class post-processor to a verb."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def _map_size(text: str | None) -> tuple[int, int] | str | None:
    if text is None or text == "input":
        return text
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise click.BadParameter(
            f"'{text}' is no size, expected height and width such as 256x256, or input.", param_hint="--map-size"
        )
    return int(height), int(width)


def post_processing(options: dict[str, Any]) -> PostProcessing:
    """Collect what the options say."""
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    return PostProcessing(
        recipe=options["recipe"],
        roles=named_roles(options),
        keep_raw=options["keep_raw"],
        tail=not options["no_tail"],
        raise_opset=options["raise_opset"],
        settings={
            "image_sensitivity": options["image_sensitivity"],
            "pixel_sensitivity": options["pixel_sensitivity"],
            "normalize": options["normalize"],
            "threshold": options["threshold"],
            "match_thresholds": options["match_thresholds"],
            "on_nan": options["on_nan"],
            "outputs": None if options["outputs"] is None else tuple(map(str.strip, options["outputs"].split(","))),
            "mask_dtype": options["mask_dtype"],
            "map_size": _map_size(options["map_size"]),
            "pack": options["pack"],
            "thresholds": options["thresholds"],
        },
        given=frozenset(name for name in options if context.get_parameter_source(name) is not default),
    )
