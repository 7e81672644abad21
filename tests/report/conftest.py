"""Frames with known numbers, and headless Chromium from the system, without a network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The installed Chromium; a skip where there is none, unless FSAMLAB_REQUIRE_CHROMIUM asks for one."""
    if CHROMIUM is None:
        if os.environ.get("FSAMLAB_REQUIRE_CHROMIUM"):
            pytest.fail("FSAMLAB_REQUIRE_CHROMIUM is set, and there is no chromium on the PATH")
        pytest.skip("no chromium on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page from file:// with the network off; any console message, error or request fails the test."""
    contexts, trouble = [], []

    def open_page(path: Path, *, scheme: str = "light", width: int = 1400) -> Any:
        context = browser.new_context(offline=True, color_scheme=scheme, viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)  # a busy machine
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        uri = path.resolve().as_uri()
        page.on("request", lambda r: None if r.url in (uri, "data:,") else trouble.append(f"request: {r.url}"))
        page.goto(uri)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []
