"""Find post-processor and step classes by name, in pp_graph and in user modules that are imported already.

No module is imported here, so that a file cannot choose which code runs.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from pp_graph.postprocessors.post_processor import PostProcessor
from pp_graph.steps import STEPS, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGE = "pp_graph."


def class_name(kind: type[PostProcessor]) -> str:
    """Name of a class in provenance: the bare name for pp_graph's own, else `module:Name`."""
    return kind.__name__ if kind.__module__.startswith(_PACKAGE) else f"{kind.__module__}:{kind.__qualname__}"


def find_post_processor(name: str) -> type[PostProcessor] | None:
    """Return the class with a name that `class_name` returned; None if there is none, or if it is ambiguous.

    A class in another module is returned if it is the only one of that name: a script that ran as `__main__` may be
    imported under its own name later.
    """
    module, _, bare = name.rpartition(":")
    same = [kind for kind in _concrete(PostProcessor) if kind.__qualname__ == bare]
    if not module:
        ours = [kind for kind in same if kind.__module__.startswith(_PACKAGE)]
        same, module = (ours, ours[0].__module__) if ours else (same, "")
    exact = [kind for kind in same if kind.__module__ == module]
    if exact:
        # A class that was defined again, as in a notebook, replaces the older one.
        return exact[-1]
    return same[-1] if len({kind.__module__ for kind in same}) == 1 else None


def post_processor_names() -> list[str]:
    """Return the names of all known post-processors."""
    return list(dict.fromkeys(class_name(kind) for kind in _concrete(PostProcessor)))


def step_name(kind: type[Step]) -> str:
    """Name of a step in a recipe: `gaussian_blur` for `GaussianBlur`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind.__name__).lower()


def find_steps() -> dict[str, type[Step]]:
    """Return all steps by their recipe name. Custom steps cannot replace pp_graph's own."""
    ours = {step_name(kind): kind for kind in STEPS}
    others = {step_name(kind): kind for kind in _concrete(Step) if not kind.__module__.startswith(_PACKAGE)}
    return {**others, **ours}


def _concrete(base: type[Any]) -> Iterator[type[Any]]:
    for kind in base.__subclasses__():
        if not inspect.isabstract(kind):
            yield kind
        yield from _concrete(kind)
