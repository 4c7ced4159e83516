"""Pages in a browser; tests that need one are skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pp_graph as pp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright drives the browser: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Open a page, and fail on any error in it."""
    monkeypatch.chdir(tmp_path)
    errors: list[str] = []
    opened = []

    def open_one(exploration: pp.Exploration) -> Any:
        file = exploration.save(tmp_path / f"page{len(opened)}.html")
        page = browser.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: errors.append(request.url) if request.url.startswith("http") else None)
        page.goto(file.as_uri())
        page.wait_for_selector("body[data-ready]", timeout=120_000)
        settle(page)
        opened.append(page)
        return page

    yield open_one
    for page in opened:
        page.close()
    assert not errors


def set_number(page: Any, name: str, value: float) -> None:
    page.fill(f"#{name}", repr(value))
    page.press(f"#{name}", "Enter")
    settle(page)


def settle(page: Any) -> None:
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
