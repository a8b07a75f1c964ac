"""Agents with a page, and a real browser to look at it. Run by `./scripts/test --with browser`; skipped elsewhere."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.mosquitto import free_port

# As root Chromium has no sandbox; the others keep it from asking hosts on the internet at each start.
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_TROUBLE = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(
  `${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a browser where there is none; `REQUIRE_BROWSER` makes that a failure."""
    if os.environ.get("REQUIRE_BROWSER") or (importlib.util.find_spec("playwright") and shutil.which("chromium")):
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(
                pytest.mark.skip(reason="Playwright or Chromium is missing: ./scripts/test --with browser")
            )


@pytest.fixture(scope="session")
def playwright() -> Iterator[Any]:
    """Playwright's own process. Each test starts its own browser, so none leaves one behind."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        yield running


class Look:
    """One tab of a browser: ``page`` is Playwright's, ``errors`` what its console had to complain about."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.context.add_init_script(_TROUBLE)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, url: str, view: str = "cameras") -> Any:
        """Go to a view and wait until the page is drawn."""
        self.page.goto(f"{url}#/{view}")
        self.page.wait_for_selector("#main > :not(.empty)")
        return self.page

    @property
    def violations(self) -> list[str]:
        """What the content security policy has blocked in this document."""
        found: list[str] = self.page.evaluate("window.violations")
        return found


@pytest.fixture
def browser(playwright: Any) -> Iterator[Any]:
    """Debian's Chromium without a screen."""
    running = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(_FLAGS))
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def look(browser: Any) -> Iterator[Look]:
    """A tab. When the test ends, no script may have failed and the policy may have blocked nothing."""
    tab = Look(browser)
    yield tab
    assert tab.errors == []
    assert tab.violations == []


def clip(rate_hz: float, **more: object) -> dict[str, object]:
    """A camera that shows the demo's clip."""
    decide = {"enter": 0.7, "exit": 0.5, "votes": 2, "window": 3}
    return {
        "source": {"type": "file", "path": "demo", "loop": True},
        "rate_hz": rate_hz,
        "classify": [{"model": "inspect", "decide": decide, **more}],
    }


class PageAgent:
    """An agent with a page on a free port; it can be ended and started again on the same one."""

    def __init__(self, folder: Path, cameras: dict[str, object], **serve: object) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/page/"
        self._folder = folder
        config = {
            "models": {"inspect": {"package": "demo"}},
            "cameras": cameras,
            "mqtt": {"broker": "embedded", "commands": {"enabled": True, "allow": ["set", "selftest", "reload"]}},
            "serve": {"http": f"127.0.0.1:{self.port}", "page": True, **serve},
        }
        self.config = write_config(folder, config)

    @contextmanager
    def running(self) -> Iterator[AgentProcess]:
        """The agent, ready to be looked at."""
        with AgentProcess(self._folder, "run", "-c", str(self.config)) as process:
            process.wait_for_log("agent.ready", 60)
            yield process
            process.end(deadline_s=60)


@pytest.fixture(scope="session")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageAgent]:
    """Eight cameras, one of them with a region of interest, and a page that may command."""
    cameras: dict[str, object] = {f"line-{number}": clip(1.0) for number in range(1, 8)}
    # A file is read as fast as it is classified: this one shows its whole clip in 30 s.
    cameras["gate"] = clip(30.0, roi=[0.1, 0.1, 0.9, 0.9])
    agent = PageAgent(tmp_path_factory.mktemp("eight"), cameras, control=True)
    with agent.running():
        yield agent
