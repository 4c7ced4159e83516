"""The page of a fleet: every artifact, escaped; sorting and filtering in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pp_graph.fleet import FleetReport, read_manifest
from pp_graph.fleet.manifest import COLUMNS, write_manifest
from tests.exploring.conftest import browser  # noqa: F401


def report(folder: Path, count: int = 30) -> FleetReport:
    rows = []
    for index in range(count):
        status = "error" if index == 4 else "failed" if index == 5 else "passed"
        row: dict[str, Any] = dict.fromkeys(COLUMNS) | {
            "model": f"cam{index}", "device": "CPU", "precision": "int8" if index % 2 else "f32", "status": status,
            "raw": "raw.onnx", "tag_camera": index, "tag_product": "<b>bolt</b>" if index % 3 else "nut",
        }  # fmt: skip
        if index != 4:
            row |= {
                "artifact": f"models/cam{index}/CPU-f32/model.xml",
                "bytes": 1000 * (index * 7 % 30),
                "f1_image": 0.5,
            }
        else:
            row |= {"problem": "cam4: inspect: Model file 'x' is no model."}
        rows.append(row)
    (folder / "models" / "cam0" / "CPU-f32").mkdir(parents=True)
    (folder / "models" / "cam0" / "CPU-f32" / "verification.html").write_text("<title>Verification</title>")
    found = FleetReport(folder=folder, rows=tuple(rows))
    write_manifest(found)
    return found


def test_manifest_and_page(tmp_path: Path) -> None:
    found = report(tmp_path)
    assert read_manifest(tmp_path) == list(found.rows)
    page = (tmp_path / "fleet.html").read_text()
    assert page.count("<tr>") == 31
    assert "<b>bolt" not in page
    assert "&lt;b&gt;bolt&lt;/b&gt;" in page
    assert page.count("verification.html") == 1
    assert "Model file &#x27;x&#x27; is no model." in page
    assert "pixel threshold" not in page, "a column that no model has"
    assert "FAILED: of 30 artifacts, 1 over their limits and 1 not made or not checked." in str(found)


def test_tags_of_several_types(tmp_path: Path) -> None:
    rows = tuple(dict.fromkeys(COLUMNS) | {"model": name, "status": "passed", "tag_line": tag}
                 for name, tag in (("a", 1), ("b", "two"), ("c", None)))  # fmt: skip
    write_manifest(FleetReport(folder=tmp_path, rows=rows))
    assert [row["tag_line"] for row in read_manifest(tmp_path)] == ["1", "two", None]


def test_in_a_browser(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    report(tmp_path)
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.goto((tmp_path / "fleet.html").as_uri())

    def column(name: str) -> list[str]:
        index = page.eval_on_selector_all("thead th", "all => all.map(each => each.dataset.name)").index(name)
        return page.eval_on_selector_all(
            "tbody tr:not([hidden])", f"rows => rows.map(row => row.cells[{index}].dataset.value)"
        )

    assert page.inner_text("#count") == "30 of 30 artifacts"
    page.click("thead button:text-is('size')")
    sizes = column("bytes")
    assert sizes[-1] == "", "the missing one is last"
    assert list(map(float, sizes[:-1])) == sorted(map(float, sizes[:-1]))
    page.click("thead button:text-is('size')")
    assert list(map(float, column("bytes")[:-1])) == sorted(map(float, sizes[:-1]), reverse=True)
    page.select_option("select[data-name=precision]", "int8")
    page.select_option("select[data-name=status]", "failed")
    assert column("model") == ["cam5"]
    page.select_option("select[data-name=status]", "")
    page.select_option("select[data-name=precision]", "")
    page.fill("#text", "no model")
    assert column("model") == ["cam4"]
    page.reload()
    assert column("model") == ["cam4"], "the choice is in the address"
    page.fill("#text", "")
    page.click("a:text-is('verification')")
    assert page.title() == "Verification"
    page.close()
    assert not errors
