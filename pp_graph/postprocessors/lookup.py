"""Find the class of a post-processor or a step by its name: ours, and those of modules that were imported.

No module is imported here: what a file names must not decide which code runs.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from pp_graph.postprocessors.post_processor import PostProcessor
from pp_graph.steps import STEPS, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

_OURS = "pp_graph."


def class_name(kind: type[PostProcessor]) -> str:
    """What provenance calls a class: the bare name of one of ours, else `module:Name`."""
    return kind.__name__ if kind.__module__.startswith(_OURS) else f"{kind.__module__}:{kind.__qualname__}"


def find_post_processor(name: str) -> type[PostProcessor] | None:
    """The class of that name, as `class_name` gives it; None where there is none, or where several could be meant.

    A class is found in another module than the one noted where it is the only one of its name: a script that was run
    as `__main__` may be imported later.
    """
    module, _, bare = name.rpartition(":")
    same = [kind for kind in _concrete(PostProcessor) if kind.__qualname__ == bare]
    if not module:
        ours = [kind for kind in same if kind.__module__.startswith(_OURS)]
        same, module = (ours, ours[0].__module__) if ours else (same, "")
    exact = [kind for kind in same if kind.__module__ == module]
    if exact:
        # A class that was defined again, as in a notebook, takes the place of the older one.
        return exact[-1]
    return same[-1] if len({kind.__module__ for kind in same}) == 1 else None


def post_processor_names() -> list[str]:
    """Names of all post-processors that can be found."""
    return list(dict.fromkeys(class_name(kind) for kind in _concrete(PostProcessor)))


def step_name(kind: type[Step]) -> str:
    """What a recipe calls a step: `GaussianBlur` is `gaussian_blur`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind.__name__).lower()


def find_steps() -> dict[str, type[Step]]:
    """Steps that a recipe may name: ours, and those of modules that were imported, which cannot take our names."""
    ours = {step_name(kind): kind for kind in STEPS}
    others = {step_name(kind): kind for kind in _concrete(Step) if not kind.__module__.startswith(_OURS)}
    return {**others, **ours}


def _concrete(base: type[Any]) -> Iterator[type[Any]]:
    for kind in base.__subclasses__():
        if not inspect.isabstract(kind):
            yield kind
        yield from _concrete(kind)
