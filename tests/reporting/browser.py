"""A page in headless Chromium: which one, how it is started, and what it must not do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

__all__ = ["FLAGS", "Opened", "chromium", "opened", "started"]

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str:
    """The Chromium to run: that of ``LASER_FX_BROWSER``, else the system's.

    Raises:
        FileNotFoundError: there is none. The tests fail then: a page that nobody opened is not tested.
    """
    found = os.environ.get("LASER_FX_BROWSER") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise FileNotFoundError(
            "the report's page is tested in Chromium, which is missing: apt-get install chromium, or name one in"
            " LASER_FX_BROWSER; LASER_FX_BROWSER=none leaves these tests out"
        )
    return found


@contextmanager
def started() -> Iterator[Browser]:
    """A browser of its own, with nothing in it; Playwright gives it an empty folder and removes that."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Opened:
    """A page that is open, what it asked for, and what it complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def ready(self) -> None:
        """Waits until it can be used and all charts are drawn."""
        try:
            self.page.wait_for_selector("html[data-complete]", timeout=20_000)
        except TimeoutError as error:
            raise AssertionError(f"the page did not get ready: {self.complaints}") from error

    def check(self, path: Path) -> None:
        """It asked for itself alone, and complained of nothing."""
        others = [url for url in self.requests if url != path.as_uri() and not url.startswith("blob:")]
        if others or self.complaints:
            raise AssertionError(f"the page asked for {others} and complained: {self.complaints}")


@contextmanager
def opened(browser: Browser, path: Path, width: int = 1280, height: int = 900, **context: Any) -> Iterator[Opened]:
    """The file in a fresh profile. At the end it must have asked for itself alone, and complained of nothing."""
    with browser.new_context(viewport={"width": width, "height": height}, **context) as profile:
        profile.set_default_timeout(15_000)  # of a machine that does other things, too
        profile.set_default_navigation_timeout(30_000)
        opened = Opened(profile.new_page())
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.on("console", lambda message: opened.complaints.append(f"{message.type}: {message.text}"))
        opened.page.on("pageerror", lambda error: opened.complaints.append(f"error: {error}"))
        opened.page.goto(path.as_uri())
        if context.get("java_script_enabled", True):
            opened.ready()
        yield opened
        opened.check(path)
