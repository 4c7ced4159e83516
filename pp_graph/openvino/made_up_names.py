"""Names that OpenVINO makes up, such as `Constant_2428`.

It counts the nodes of the process, so the same model gets other names when it is converted a second time.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from pp_graph.openvino.core import all_operators

if TYPE_CHECKING:
    from collections.abc import Collection

    import openvino as ov

_MADE_UP: Final = re.compile(r"(?:^|(?<=/))([A-Z][A-Za-z0-9]*)_\d+(?![A-Za-z0-9_])")


def renumber(model: ov.Model, kept: Collection[str]) -> set[str]:
    """Number the names that OpenVINO made up by the order of the operators. Changes the model in place.

    Args:
        model: The model.
        kept: Names that stay, which are those of the ONNX model or of an earlier call.

    Returns:
        The names that stay after this call: those given, and all in the model.
    """
    nodes = list(all_operators(model))
    stay = {*kept}
    counts: Counter[str] = Counter()
    made: dict[str, str] = {}

    def numbered(found: re.Match[str]) -> str:
        if found[0] in stay:
            return found[0]
        while found[0] not in made:
            name = f"{found[1]}_{counts[found[1]]}"
            counts[found[1]] += 1
            if name not in stay:
                made[found[0]] = name
        return made[found[0]]

    for node in nodes:
        name = node.get_friendly_name()
        if name not in stay:
            node.set_friendly_name(_MADE_UP.sub(numbered, name))
    return stay | {node.get_friendly_name() for node in nodes}
