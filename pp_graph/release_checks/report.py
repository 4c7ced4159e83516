"""What a check of a release found: tables, JUnit XML, Markdown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from pp_graph.saving import Saved
from pp_graph.summary import Line, Table

if TYPE_CHECKING:
    from pp_graph.summary import Block


@dataclass(frozen=True)
class Finding:
    """One figure and its limit.

    Attributes:
        name: Name of the figure.
        passed: True if it is within its limit.
        found: The figure.
        limit: The limit.
        detail: What is wrong, if more can be said.
    """

    name: str
    passed: bool
    found: str
    limit: str
    detail: str = ""


@dataclass(frozen=True)
class CheckedModel:
    """What was found about a model.

    Attributes:
        name: Name of the model.
        findings: The figures; empty if it could not be checked.
        error: Why it could not be checked; empty if it was.
    """

    name: str
    findings: tuple[Finding, ...]
    error: str = ""

    @property
    def passed(self) -> bool:
        """True if it was checked and every figure is within its limit."""
        return not self.error and all(each.passed for each in self.findings)


@dataclass(frozen=True)
class ReleaseReport(Saved):
    """What was found about all models.

    Attributes:
        models: The models, in the order of the file.
    """

    models: tuple[CheckedModel, ...]

    @property
    def passed(self) -> bool:
        """True if every model passed."""
        return all(each.passed for each in self.models)

    @property
    def errors(self) -> tuple[str, ...]:
        """Why models could not be checked."""
        return tuple(f"{each.name}: {each.error}" for each in self.models if each.error)

    @property
    def verdict(self) -> str:
        """A sentence."""
        failed = [each.name for each in self.models if not each.passed]
        count = f"{len(self.models)} model{'' if len(self.models) == 1 else 's'}"
        if not failed:
            return f"PASSED: {count} within the limits."
        return f"FAILED: {len(failed)} of {count}: {', '.join(failed)}."

    def summary(self) -> list[Block]:
        """Return the findings as a table."""
        return [
            Table("Release", ("model", "figure", "found", "limit", ""), self._rows()),
            Line(self.verdict, bold=True),
        ]

    def __repr__(self) -> str:
        """Return the verdict."""
        return f"<ReleaseReport, {self.verdict}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "passed": self.passed,
            "models": [
                {
                    "name": model.name,
                    "passed": model.passed,
                    "error": model.error or None,
                    "findings": [asdict(each) for each in model.findings],
                }
                for model in self.models
            ],
        }

    def to_junit(self) -> str:
        """Return JUnit XML: a suite for each model, a case for each figure."""
        root = ElementTree.Element("testsuites", name="pp-graph")
        for model in self.models:
            suite = ElementTree.SubElement(
                root,
                "testsuite",
                name=model.name,
                tests=str(max(1, len(model.findings))),
                failures=str(sum(not each.passed for each in model.findings)),
                errors=str(int(bool(model.error))),
            )
            if model.error:
                case = ElementTree.SubElement(suite, "testcase", classname=model.name, name="check")
                ElementTree.SubElement(case, "error", message=model.error.splitlines()[0]).text = model.error
            for each in model.findings:
                case = ElementTree.SubElement(suite, "testcase", classname=model.name, name=each.name)
                text = f"{each.found}, limit {each.limit}"
                if each.passed:
                    ElementTree.SubElement(case, "system-out").text = text
                else:
                    ElementTree.SubElement(case, "failure", message=text).text = each.detail or text
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"

    def to_markdown(self) -> str:
        """Return a table for a pull request."""
        rows = [("model", "figure", "found", "limit", ""), ("---",) * 5, *self._rows()]
        table = "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
        )
        return f"**pp-graph: {self.verdict}**\n\n{table}\n"

    def _rows(self) -> list[tuple[str, str, str, str, str]]:
        rows = []
        for model in self.models:
            rows += [
                (model.name, each.name, each.found, each.limit, "ok" if each.passed else "exceeded")
                for each in model.findings
            ]
            if model.error:
                rows.append((model.name, "check", model.error, "", "not checked"))
        return rows
