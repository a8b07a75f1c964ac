"""The page in a real browser, of a real agent: what people see, may do and may not."""

from __future__ import annotations

import json
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agent.demo import demo_clip
from tests.browser.conftest import Look, PageAgent, clip
from tests.fixtures.agent_process import AgentProcess
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import free_port

_TOKEN = "a-token-of-this-test-0123456789"
_VIEWS = ("cameras", "camera/gate", "models", "heat", "delivery", "log", "tools")
_IMAGES = "[...document.querySelectorAll('.shot img')].filter((one) => one.naturalWidth > 0).length"


def _wait(page: Any, expression: str, *, within_s: float) -> None:
    """Wait until a JavaScript expression is true. Playwright's own wait needs eval, which the page's policy blocks."""
    wait_until(lambda: page.evaluate(expression), within_s=within_s)


def _card(page: Any, name: str) -> Any:
    return page.locator(f"article[aria-label='Camera {name}']")


def _label(page: Any, name: str) -> str:
    return str(_card(page, name).locator(".decision .label").inner_text())


def _labels_of_the_clip() -> set[str]:
    truth = json.loads(demo_clip().with_name("conveyor.truth.json").read_text(encoding="utf-8"))
    return {word for word in ("ok", "scratch", "dent", "missing_label", "empty") if f'"{word}"' in json.dumps(truth)}


def test_first_image_comes_within_two_seconds(look: Look, eight: PageAgent) -> None:
    page = look.page

    def first_image_ms() -> float:
        page.goto("about:blank")
        page.goto(eight.url)
        _wait(page, f"{_IMAGES} >= 1", within_s=20)
        return float(page.evaluate("performance.now()"))

    # The best of three: the machine of the tests has other work.
    assert min(first_image_ms() for _ in range(3)) < 2000


def test_eight_cameras_update_while_the_stream_holds_a_connection(look: Look, eight: PageAgent) -> None:
    page = look.open(eight.url)
    page.set_viewport_size({"width": 1920, "height": 1600})
    _wait(page, f"{_IMAGES} === 8", within_s=15)
    page.evaluate("window.before = [...document.querySelectorAll('.shot img')].map((one) => one.src)")
    changed = "[...document.querySelectorAll('.shot img')].every((one, at) => one.src !== window.before[at])"
    _wait(page, changed, within_s=15)
    assert page.locator(".badge", has_text="connected").count() == 8


def test_labels_follow_the_clip(look: Look, eight: PageAgent) -> None:
    page = look.open(eight.url)
    known, seen = _labels_of_the_clip(), {_label(page, "gate")}

    def has_seen_three() -> bool:
        seen.add(_label(page, "gate"))
        return len(seen & known) >= 3

    wait_until(has_seen_three, within_s=60)
    assert seen <= known | {"unknown", "stale", "no result yet"}


def test_region_of_interest_lies_over_the_image(look: Look, eight: PageAgent) -> None:
    page = look.open(eight.url)
    box = _card(page, "gate").locator("rect.roi")
    assert [box.get_attribute(name) for name in ("x", "y")] == ["0.1", "0.1"]
    assert _card(page, "line-1").locator("rect.roi").count() == 0


def test_nothing_is_fetched_for_a_card_that_nobody_sees(look: Look, eight: PageAgent) -> None:
    asked: list[str] = []
    look.page.on("request", lambda request: asked.append(request.url))
    page = look.page
    page.set_viewport_size({"width": 320, "height": 480})
    look.open(eight.url)
    _wait(page, f"{_IMAGES} >= 1", within_s=10)
    first, last = page.locator("article").first, page.locator("article").last
    names = [str(one.get_attribute("aria-label")).removeprefix("Camera ") for one in (first, last)]
    assert any(f"/{names[0]}/frame.jpg" in url for url in asked)
    assert not any(f"/{names[1]}/frame.jpg" in url for url in asked)
    last.scroll_into_view_if_needed()
    with page.expect_request(lambda request: f"/{names[1]}/frame.jpg" in request.url, timeout=10_000):
        pass


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_finding_of_accessibility(browser: Any, eight: PageAgent, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    look = Look(browser, color_scheme=scheme)
    found: list[str] = []
    for view in _VIEWS:
        page = look.open(eight.url, view)
        _wait(page, "!document.querySelector('#main .empty')", within_s=20)
        result = Axe().run(page).response
        assert result["passes"], "axe has looked at nothing"
        for one in result["violations"]:
            if one["impact"] in {"serious", "critical"}:
                found += [
                    f"{view}: {one['id']} at {node['target']}: {node['failureSummary']}" for node in one["nodes"]
                ]
    assert found == []
    assert look.violations == []


def test_axe_finds_a_planted_fault(browser: Any, eight: PageAgent) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = Look(browser).open(eight.url)
    page.evaluate("document.getElementById('main').append(document.createElement('button'))")
    assert "button-name" in {one["id"] for one in Axe().run(page).response["violations"]}


@pytest.mark.parametrize("view", _VIEWS)
def test_fits_a_phone_of_320_px(look: Look, eight: PageAgent, view: str) -> None:
    look.page.set_viewport_size({"width": 320, "height": 640})
    page = look.open(eight.url, view)
    _wait(page, "!document.querySelector('#main .empty')", within_s=20)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_keyboard_reaches_the_content_and_moves_between_cards(look: Look, eight: PageAgent) -> None:
    page = look.open(eight.url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    links = page.locator(".grid .title a")
    links.first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == links.nth(1).inner_text()
    page.keyboard.press("Enter")
    page.wait_for_selector("h2:has-text('Latency by stage')")


def test_change_is_confirmed_and_carried_out(look: Look, eight: PageAgent) -> None:
    page = look.open(eight.url, "camera/line-7")
    page.get_by_role("button", name="Enable or disable").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert page.locator(".controls + .answer").is_hidden()
    page.get_by_role("button", name="Enable or disable").click()
    assert page.get_by_role("dialog", name="Disable line-7?").is_visible()
    page.get_by_role("dialog").get_by_role("button", name="Change it").click()
    page.wait_for_selector(".answer:has-text('done')", timeout=20_000)
    page.wait_for_selector(".head .badge:has-text('disabled')", timeout=20_000)
    page.get_by_role("button", name="Enable or disable").click()
    page.get_by_role("dialog").get_by_role("button", name="Change it").click()
    page.wait_for_selector(".head .badge:has-text('connected')", timeout=30_000)


def test_reload_shows_a_fault_with_its_line(look: Look, eight: PageAgent) -> None:
    text = eight.config.read_text(encoding="utf-8")
    page = look.open(eight.url, "tools")
    try:
        eight.config.write_text(f"{text}colour: red\n", encoding="utf-8")
        page.get_by_role("button", name="Reload the configuration").click()
        page.get_by_role("dialog").get_by_role("button", name="Reload").click()
        line = len(text.splitlines()) + 1
        page.wait_for_selector(f".answer:has-text('{eight.config.name}:{line}')", timeout=20_000)
    finally:
        eight.config.write_text(text, encoding="utf-8")


def test_command_without_the_csrf_token_is_refused(look: Look, eight: PageAgent) -> None:
    page = look.open(eight.url)
    send = """async (headers) => (await fetch("api/command", { method: "POST", headers,
      body: JSON.stringify({ verb: "set", camera: "line-1", enabled: false }) })).status"""
    assert page.evaluate(send, {}) == 403
    assert page.evaluate(send, {"x-csrf-token": "guessed"}) == 403
    assert page.evaluate("fetch('api/cameras/line-1/frame.jpg').then((answer) => answer.status)") == 200
    assert _card(page, "line-1").locator(".badge").inner_text() == "connected"


def test_policy_blocks_a_planted_script(browser: Any, eight: PageAgent) -> None:
    look = Look(browser)
    page = look.open(eight.url)
    page.evaluate(
        """() => {
          const one = document.createElement("script");
          one.textContent = "window.ran = 1";
          document.body.append(one);
        }"""
    )
    _wait(page, "window.violations.length > 0", within_s=5)
    assert page.evaluate("window.ran") is None


def _is_file(url: str) -> bool:
    """Neither a call nor an image that is in the browser already."""
    return url.startswith("http") and "/api/" not in url


def test_page_weighs_at_most_150_kb_compressed(eight: PageAgent, look: Look) -> None:
    names: list[str] = []
    look.page.on("response", lambda one: names.append(one.url) if _is_file(one.url) else None)
    look.open(eight.url)
    total = 0
    for url in set(names):
        asked = urllib.request.Request(url.split("#")[0], headers={"accept-encoding": "gzip"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            total += len(answer.read())
    assert len(set(names)) >= 5
    assert total <= 150_000


def test_login_and_reconnect_after_a_restart(look: Look, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"operator {_TOKEN}\n", encoding="utf-8")
    tokens.chmod(0o600)
    agent = PageAgent(tmp_path, {"belt": clip(2.0)}, tokens_file=str(tokens))
    with agent.running():
        page = look.page
        page.goto(agent.url)
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        page.wait_for_selector(".login .trouble:not(:empty)")
        assert page.evaluate("fetch('api/cameras/belt/frame.jpg').then((answer) => answer.status)") == 401
        page.get_by_label("Token").fill(_TOKEN)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_selector("article[aria-label='Camera belt']", timeout=20_000)
        assert page.evaluate("document.cookie") == "", "a script can read the session"
        assert page.evaluate("document.querySelector('#leave').hidden") is False
        look.open(agent.url, "tools")
        page.get_by_text("This page may only look.").wait_for()
        look.open(agent.url)
    page.wait_for_selector("#state:has-text('Disconnected since')", timeout=20_000)
    assert page.locator("#banner").is_visible()
    with agent.running():
        # Sessions end with the agent: the page asks again, and goes on.
        page.wait_for_selector(".login", timeout=30_000)
        page.get_by_label("Token").fill(_TOKEN)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_selector(".card .badge:has-text('connected')", timeout=30_000)
        assert page.locator("#banner").is_hidden()


def test_refused_viewer_sees_why_and_is_let_in_when_there_is_room(look: Look, tmp_path: Path) -> None:
    agent = PageAgent(tmp_path, {"belt": clip(2.0)}, max_connections=16)
    with agent.running():
        with ExitStack() as viewers:
            for _ in range(8):
                viewers.enter_context(urllib.request.urlopen(f"{agent.url}api/events", timeout=30))
            look.page.goto(agent.url)
            look.page.wait_for_selector(
                "#banner:has-text('half of serve.max_connections are viewers')", timeout=20_000
            )
        look.page.wait_for_selector(".card .badge:has-text('connected')", timeout=40_000)
        assert look.page.locator("#banner").is_hidden()


def test_reload_that_changes_the_server_is_answered_and_the_page_comes_back(look: Look, tmp_path: Path) -> None:
    agent = PageAgent(tmp_path, {"belt": clip(2.0)}, control=True, max_waiting=7)
    with agent.running():
        page = look.open(agent.url, "tools")
        agent.config.write_text(agent.config.read_text(encoding="utf-8").replace("max_waiting: 7", "max_waiting: 8"))
        page.get_by_role("button", name="Reload the configuration").click()
        page.get_by_role("dialog").get_by_role("button", name="Reload").click()
        page.wait_for_selector("#banner:has-text('reloaded and changed serve')", timeout=20_000)
        page.wait_for_selector(f".answer:has-text('the page is at {agent.url} now')", timeout=20_000)
        page.wait_for_selector("#banner", state="hidden", timeout=20_000)
        page.get_by_role("button", name="Self-test").click()
        page.get_by_role("dialog").get_by_role("button", name="Self-test").click()
        page.wait_for_selector(".answer:has-text('Self-test: done')", timeout=30_000)


def test_camera_lost_and_back_is_shown(look: Look, tmp_path: Path) -> None:
    port = free_port()
    stream = ("demo", "--rtsp", "--listen", f"127.0.0.1:{port}")
    camera = {**clip(2.0), "source": {"type": "rtsp", "url": f"rtsp://127.0.0.1:{port}/clip"}}
    agent = PageAgent(tmp_path / "agent", {"front": camera})
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with AgentProcess(tmp_path / "first", *stream) as source, agent.running():
        page = look.open(agent.url)
        page.wait_for_selector(".card .badge:has-text('connected')", timeout=30_000)
        _wait(page, f"{_IMAGES} === 1", within_s=10)
        source.end()
        page.wait_for_selector(".card .badge:has-text('lost')", timeout=30_000)
        assert "Lost" in page.locator(".card .trouble").inner_text()
        page.wait_for_selector("#state:has-text('Camera front is lost')", timeout=10_000)
        assert page.locator("#spoken").text_content() == "Camera front is lost"
        with AgentProcess(tmp_path / "second", *stream):
            page.wait_for_selector(".card .badge:has-text('connected')", timeout=40_000)
