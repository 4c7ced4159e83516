"""A family of models is known everywhere: in Python, in the fleet, on the command line and in the docs."""

from __future__ import annotations

import pytest

import pp_graph as pp
from pp_graph.cli import COMMANDS
from pp_graph.cli.tasks import ANOMALY, TASKS
from pp_graph.cli.verb import _SECTIONS
from pp_graph.fleet.post_processing import FAMILIES
from pp_graph.fusion.runtime_cutoffs import WITHOUT_STATISTICS
from pp_graph.openvino.usage import _LIMITS
from pp_graph.postprocessors import POST_PROCESSORS
from tests.conftest import ROOT

# The first has calibrated numbers, and the second is what its file says.
OWN = [kind for kind in POST_PROCESSORS if kind not in (pp.OneClassPostProcessor, pp.RecipePostProcessor)]


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.__name__)
def test_a_family_is_known_everywhere(kind: type[pp.PostProcessor]) -> None:
    name = kind.__name__
    places = {
        "pp_graph.__all__": name in pp.__all__,
        "fusion.runtime_cutoffs.WITHOUT_STATISTICS": name in WITHOUT_STATISTICS,
        "openvino.usage._LIMITS": name in _LIMITS,
        "fleet.post_processing.FAMILIES": kind in FAMILIES.values(),
        "docs/reference/post-processors.md": name in (ROOT / "docs/reference/post-processors.md").read_text("utf-8"),
        "docs/families.md": name in (ROOT / "docs/families.md").read_text("utf-8"),
    }
    assert not [place for place, known in places.items() if not known]


def test_the_command_line_and_the_fleet_have_the_same_families() -> None:
    assert set(FAMILIES) == {ANOMALY, *TASKS}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_its_options(task: str) -> None:
    assert task in _SECTIONS
    for verb in ("fuse", "convert"):
        command = next(each for each in COMMANDS if each.name == verb)
        assert set(TASKS[task].names) <= {parameter.name for parameter in command.params}


@pytest.mark.parametrize("task", TASKS)
def test_what_can_be_tuned_is_an_option_of_retune(task: str) -> None:
    command = next(each for each in COMMANDS if each.name == "retune")
    assert set(FAMILIES[task].tunable or ()) <= {parameter.name for parameter in command.params}
