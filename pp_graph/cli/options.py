"""Options that several verbs share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

_Function = TypeVar("_Function", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
STATS_HELP = (
    "Statistics: JSON or YAML with image_threshold, image_min, image_max, pixel_threshold, pixel_min and pixel_max, or "
    "another file that pp-graph stats can read"
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Write one JSON object to stdout, everything else to stderr."
)
force_option = click.option("--force", is_flag=True, help="Replace the output if it exists. Inputs are never replaced.")

report_option = click.option(
    "--report", type=PATH, metavar="FILE.html", help="Also write the result as a self-contained page."
)


def check_report(path: Path | None, inputs: Sequence[Path], *, force: bool) -> None:
    """Raise if the page of --report cannot be written, before the work starts."""
    if path is not None:
        from pp_graph.files import check_targets
        from pp_graph.report.page import check_page

        check_targets([check_page(path)], overwrite=force, inputs=inputs)


cache_option = click.option(
    "--cache-dir", type=PATH, metavar="DIR",
    help="Keep compiled models in this folder, and read them from it the next time.",
)  # fmt: skip


def examples(*lines: str) -> str:
    """Format example command lines as the end of a verb's help."""
    return "\n".join(["\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines)])


_IMAGE_OPTIONS = (
    click.option("--max-pixels", type=click.IntRange(min=1), metavar="N",
                 help="Refuse image files with more pixels.  [default: 268435456]"),
    click.option("--skip-broken", is_flag=True,
                 help="Skip image files that cannot be decoded, and list them; and damaged frames of a video."),
)  # fmt: skip


def image_options(function: _Function) -> _Function:
    """Add the options about image files, as `max_pixels` and `skip_broken`."""
    for option in reversed(_IMAGE_OPTIONS):
        function = option(function)
    return function


letterbox_option = click.option(
    "--letterbox", is_flag=True,
    help="Resize image files to the model's input without changing their aspect ratio, and fill the rest with gray.",
)  # fmt: skip


def image_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options about image files out of all options, as keyword arguments of `open_images`."""
    limit, skip_broken = options.pop("max_pixels"), options.pop("skip_broken")
    letterbox = {"letterbox": True} if options.pop("letterbox", False) else {}
    return {"skip_broken": skip_broken, **({} if limit is None else {"max_pixels": limit}), **letterbox}


def input_option(function: _Function, *, value_of: str = "Value of an input that is not an image") -> _Function:
    """Add the option for inputs that are not images, as `fixed_inputs`.

    Args:
        function: The verb.
        value_of: Beginning of the help text.
    """
    option = click.option(
        "--input", "fixed_inputs", multiple=True, metavar="NAME=VALUE",
        callback=lambda _, __, texts: parse_inputs(texts),
        help=f"{value_of}: a number, comma-separated numbers, true, false, or an .npy file. Repeat for each input.",
    )  # fmt: skip
    return option(function)


def parse_inputs(texts: Sequence[str]) -> dict[str, Any] | None:
    """Parse --input: `sr=16000`, `gain=0.5,1`, `flip=true`, `state=zeros.npy`; None if there are none."""
    found: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name or not value.strip() or name in found:
            problem = "is given twice" if name in found and separator else "is not an input with its value"
            raise click.BadParameter(
                f"'{name if name in found else text}' {problem}, expected NAME=VALUE such as sr=16000, one per input.",
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


_WORKER_OPTIONS = (
    click.option("--workers", type=click.IntRange(min=1), metavar="N",
                 help="Share the images among N processes on this machine. The result is the same, bit for bit. Needs "
                      "the extra 'fleet', as --scheduler."),
    click.option("--scheduler", metavar="ADDRESS",
                 help="Share the images among the workers of a running Dask cluster, such as tcp://host:8786."),
)  # fmt: skip


def worker_options(function: _Function) -> _Function:
    """Add the options about worker processes, as `workers` and `scheduler`."""
    for option in reversed(_WORKER_OPTIONS):
        function = option(function)
    return function


@contextlib.contextmanager
def worker_client(options: dict[str, Any]) -> Iterator[Any]:
    """Take the options about worker processes out of all options, and yield the client, or None."""
    workers, scheduler = options.pop("workers"), options.pop("scheduler")
    if workers is None and scheduler is None:
        yield None
        return
    from pp_graph.workers import open_client

    with open_client(workers, scheduler) as client:
        yield client


def refuse_given(context: click.Context, names: Sequence[str], why: str) -> None:
    """Raise if one of these options is given."""
    for name in names:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            flags = next(parameter.opts for parameter in context.command.params if parameter.name == name)
            raise click.UsageError(f"{max(flags, key=len)} {why}")


_ROLE_OPTIONS = (
    click.option("--score-output", metavar="NAME", help="Output that holds the raw score."),
    click.option("--map-output", metavar="NAME", help="Output that holds the raw map."),
    click.option("--role", multiple=True, metavar="ROLE=NAME",
                 help="Output to read in a role, for example raw_score=logits. Repeat for each role."),
)  # fmt: skip


def role_options(function: _Function) -> _Function:
    """Add the options that name outputs to a verb."""
    for option in reversed(_ROLE_OPTIONS):
        function = option(function)
    return function


def named_roles(options: Mapping[str, Any]) -> dict[str, str]:
    """Return names of outputs by role, from the options that `role_options` adds.

    Raises:
        click.BadParameter: An entry is not ROLE=NAME, or a role is given twice.
        OutputRoleError: A role is given by two options, differently.
    """
    roles: dict[str, str] = {}
    for text in options["role"]:
        role, _, name = text.partition("=")
        if not role or not name or role in roles:
            problem = f"'{role}' is given twice" if role in roles else f"'{text}' is not a role with its output"
            raise click.BadParameter(
                f"{problem}, expected ROLE=NAME such as raw_score=logits, one per role.", param_hint="--role"
            )
        roles[role] = name
    if options["score_output"] is None and options["map_output"] is None:
        return roles
    from pp_graph.postprocessors import merged_roles

    return merged_roles(roles, score_output=options["score_output"], map_output=options["map_output"])
