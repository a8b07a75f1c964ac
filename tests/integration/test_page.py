"""The page over a real HTTP port: its files, stream, images, logins, commands and reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import orjson
import pytest

from agent.mqtt.base import Packet, Received
from agent.mqtt.topics import Topics
from agent.runtime.clock import SystemClock
from agent.runtime.records import Frame
from agent.web.page.feed import PageFeed
from agent.web.page.sources import PageSources
from tests.fixtures.deadlines import wait_until
from tests.fixtures.own_logs import logs_of
from tests.fixtures.serving import Server, serving, serving_config

_TOPICS = Topics("edge", "line-3")
_TOKEN = "0123456789abcdef0123"


def _frame(index: int) -> Frame:
    return Frame(
        "front", index, np.full((90, 160, 3), index % 256, np.uint8), 0, 1_700_000_000_000_000_000 + index, 1.0
    )


@dataclass
class Agent:
    """What stands behind the page: a feed, one camera's newest frame, and commands that answer at once."""

    reports_dir: Path
    frames: dict[str, Frame | None] = field(default_factory=lambda: {"front": None})
    commands: list[dict[str, Any]] = field(default_factory=list)
    senders: list[str | None] = field(default_factory=list)
    verbs: tuple[str, ...] = ("set", "selftest")
    answers: bool = True
    is_flooded: bool = False
    feed: PageFeed = field(default_factory=lambda: PageFeed(_TOPICS, SystemClock()))

    @property
    def sources(self) -> PageSources:
        return PageSources(
            feed=self.feed,
            topics=_TOPICS,
            agent="0.1.0",
            verbs=self.verbs,
            newest_frame=lambda camera: self.frames[camera],
            explain=lambda camera: {"findings": [str(self.frames[camera])]},
            receive=self._receive,
            heat=lambda: [{"at": 1, "celsius": 50.0}],
            reports_dir=lambda: self.reports_dir,
            bundle=lambda: b"\x1f\x8b of the device",
        )

    def publish(self, topic: str, **fields: object) -> None:
        self.feed.send(Packet(f"edge/line-3/{topic}", orjson.dumps(fields)))

    def _receive(self, message: Received) -> bool:
        if self.is_flooded:
            return False
        command = orjson.loads(message.payload)
        self.commands.append({"topic": message.topic, **command})
        self.senders.append(message.sender)
        verb = message.topic.rpartition("/")[2]
        if self.answers:
            threading.Timer(0.01, self.publish, (f"reply/{verb}",), {"id": command["id"], "outcome": "done"}).start()
        return True


@contextmanager
def _page(
    tmp_path: Path, *, verbs: tuple[str, ...] = ("set", "selftest"), **serve: Any
) -> Iterator[tuple[Server, Agent]]:
    agent = Agent(tmp_path / "reports", verbs=verbs)
    with serving(tmp_path, page_sources=agent.sources, **{"page": True, **serve}) as server:
        yield server, agent


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[Server, Agent]]:
    with _page(tmp_path, control=True) as running:
        yield running


def _events(server: Server, count: int, **more: Any) -> Iterator[tuple[str, Any]]:
    """The first events of the stream, as name and data."""
    with server.client.stream("GET", "/page/api/events", **more) as stream:
        assert stream.status_code == 200
        name = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                yield name, orjson.loads(line[6:])
                count -= 1
                if not count:
                    return


def _csrf(server: Server) -> str:
    return str(next(_events(server, 1))[1]["csrf"])


def _tokens(tmp_path: Path) -> str:
    file = tmp_path / "tokens"
    file.write_text(f"dashboard {_TOKEN}\n")
    file.chmod(0o600)
    return str(file)


def test_the_page_and_its_files_come_small_safe_and_once(page: tuple[Server, Agent]) -> None:
    client = page[0].client
    assert client.get("/").headers["location"] == "/page/"
    index = client.get("/page/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    policy = index.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert index.headers["x-frame-options"] == "DENY"
    names = [path.name for path in Path("agent/web/page/static").iterdir()]
    weight = 0
    for name in names:
        file = client.get(f"/page/static/{name}")
        assert file.status_code == 200, name
        assert file.headers["content-encoding"] == "gzip"
        weight += int(file.headers["content-length"])
        again = client.get(f"/page/static/{name}", headers={"if-none-match": file.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        plain = client.get(f"/page/static/{name}", headers={"accept-encoding": "identity"})
        assert plain.content == file.content
        assert b"http://" not in file.content.replace(b"http://www.w3.org/2000/svg", b""), "nothing from elsewhere"
        assert b"https://" not in file.content
    assert weight < 150_000
    for name in ("nothing.js", "..%2froutes.py", "%2e%2e/routes.py", "__init__.py"):
        assert client.get(f"/page/static/{name}").status_code == 404, name


def test_the_stream_says_what_is_there_and_then_what_changes(page: tuple[Server, Agent]) -> None:
    server, agent = page
    agent.publish("health", uptime_s=1)
    events = _events(server, 3)
    name, hello = next(events)
    assert (name, hello["device"], hello["may"]) == (
        "hello",
        "line-3",
        {"images": True, "commands": ["set", "selftest"], "bundle": True},
    )
    assert next(events)[1]["messages"] == {"health": {"uptime_s": 1}}
    agent.publish("camera/front/inspect/result", label="ok")
    name, part = next(events)
    assert (name, part["messages"]) == ("part", {"camera/front/inspect/result": {"label": "ok"}})
    events.close()  # type: ignore[attr-defined]  # a generator


def test_a_frame_is_encoded_once_for_all_who_look_and_never_without(
    page: tuple[Server, Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, agent = page
    encodings: list[int] = []
    real = cv2.imencode

    def counted(kind: str, image: Any, *how: Any) -> Any:
        encodings.append(image.shape[1])
        return real(kind, image, *how)

    monkeypatch.setattr(cv2, "imencode", counted)
    url = "/page/api/cameras/front/frame.jpg?width=160"
    assert server.client.get(url).status_code == 204
    agent.frames["front"] = _frame(1)
    list(_events(server, 1))
    assert encodings == [], "a viewer of figures alone costs no encoding"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.client.get(url), range(20)))
    assert {one.status_code for one in answers} == {200}
    assert len({one.content for one in answers}) == 1
    assert answers[0].content[:2] == b"\xff\xd8"
    assert answers[0].headers["x-captured-at"].startswith("2023-11-14T22:13:20")
    assert encodings == [160]
    tag = answers[0].headers["etag"]
    assert server.client.get(url, headers={"if-none-match": tag}).status_code == 304
    assert encodings == [160]
    agent.frames["front"] = _frame(2)
    assert server.client.get(url, headers={"if-none-match": tag}).status_code == 200
    assert encodings == [160, 160]


def test_odd_questions_for_images_are_refused_with_a_reason(page: tuple[Server, Agent]) -> None:
    client = page[0].client
    assert "no camera 'back' runs" in client.get("/page/api/cameras/back/frame.jpg").json()["error"]
    for width in ("161", "0", "-1", "x" * 1000, ""):
        answer = client.get(f"/page/api/cameras/front/frame.jpg?width={width}")
        assert (answer.status_code, "must be one of 160, 320" in answer.json()["error"]) == (400, True)
    assert client.get("/page/api/cameras/back/explain").status_code == 404
    assert client.get("/page/api/cameras/front/explain").json() == {"findings": ["None"]}
    assert client.get("/page/api/heat").json() == {"minutes": [{"at": 1, "celsius": 50.0}]}


def test_images_and_commands_are_for_those_who_may(tmp_path: Path) -> None:
    with _page(tmp_path, page_images=False) as (server, agent):
        agent.frames["front"] = _frame(1)
        answer = server.client.get("/page/api/cameras/front/frame.jpg")
        assert (answer.status_code, "serve.page_images is false" in answer.json()["error"]) == (403, True)
        hello = next(_events(server, 1))[1]
        assert hello["may"] == {"images": False, "commands": [], "bundle": False}
        headers = {"x-csrf-token": hello["csrf"]}
        answer = server.client.post("/page/api/command", json={"verb": "set"}, headers=headers)
        assert (answer.status_code, "serve.control is false" in answer.json()["error"]) == (403, True)
        assert agent.commands == []


def test_a_command_goes_the_way_of_mqtt_and_brings_its_reply(page: tuple[Server, Agent]) -> None:
    server, agent = page
    headers = {"x-csrf-token": _csrf(server)}
    body = {"verb": "set", "camera": "front", "rate_hz": 2, "id": "mine"}
    answer = server.client.post("/page/api/command", json=body, headers=headers)
    assert answer.json() == {"id": agent.commands[0]["id"], "outcome": "done"}
    assert agent.commands[0] | {"id": 0} == {"topic": "edge/line-3/cmd/set", "camera": "front", "rate_hz": 2, "id": 0}
    assert agent.commands[0]["id"].startswith("page-"), "the page cannot pass for another client"
    refused = server.client.post("/page/api/command", json={"verb": "reload"}, headers=headers)
    assert (refused.status_code, "allowed: set, selftest" in refused.json()["error"]) == (403, True)
    bodies = ((b"[]", 400), (b"{", 400), (b"{}", 400), (b'{"verb":3}', 400), (b'{"verb":"set","keep":true}', 400))
    for content, status in (*bodies, (b" " * 9000, 413)):
        assert server.client.post("/page/api/command", content=content, headers=headers).status_code == status
    assert len(agent.commands) == 1


def test_a_command_that_nobody_will_answer_is_refused_at_once(page: tuple[Server, Agent]) -> None:
    server, agent = page
    agent.is_flooded = True
    headers = {"x-csrf-token": _csrf(server)}
    refused = server.client.post("/page/api/command", json={"verb": "set"}, headers=headers)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
    assert "max_per_minute" in refused.json()["error"]


def test_a_stop_answers_a_command_that_still_waits(tmp_path: Path) -> None:
    with _page(tmp_path, control=True) as (server, agent):
        agent.answers = False
        headers = {"x-csrf-token": _csrf(server)}
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(server.client.post, "/page/api/command", json={"verb": "set"}, headers=headers)
            wait_until(lambda: bool(agent.commands), within_s=5)
            server.service.stop()
            answer = waiting.result(5)
    assert (answer.status_code, "load the page again" in answer.json()["error"]) == (503, True)


def test_a_reload_that_changes_the_server_is_answered_with_the_new_place(tmp_path: Path) -> None:
    """All who look are told too; the reply of the command itself comes too late for this server."""
    with _page(tmp_path, verbs=("reload", "selftest"), control=True) as (server, agent):
        agent.answers = False
        headers = {"x-csrf-token": _csrf(server)}
        change = server.service.prepare(serving_config(tmp_path, page=True, control=True, max_waiting=7))
        assert change is not None

        def send(verb: str) -> httpx.Response:
            return server.client.post("/page/api/command", json={"verb": verb}, headers=headers)

        stream = _events(server, 2)
        assert next(stream)[0] == "hello"
        with ThreadPoolExecutor(2) as pool:
            answers = [pool.submit(send, verb) for verb in agent.verbs]
            wait_until(lambda: len(agent.commands) == 2, within_s=5)
            change()
            reload, selftest = (one.result(5) for one in answers)
        place = f"the page is at http://{server.service.address}/page/ now"
        assert (reload.status_code, reload.json()["outcome"], place in reload.json()["text"]) == (200, "done", True)
        assert selftest.status_code == 503
        assert "before selftest was answered, a reload changed `serve`" in selftest.json()["error"]
        assert list(stream) == [("end", {"text": place})]
        assert server.client.get("/page/api/heat").status_code == 200


def test_logins_commands_and_bundles_are_logged_with_who_and_from_where(tmp_path: Path) -> None:
    with _page(tmp_path, tokens_file=_tokens(tmp_path), control=True) as (server, agent):
        with logs_of("agent.web") as lines:
            server.client.post("/page/api/login", json={"token": "wrong-wrong-wrong"})
            server.client.post("/page/api/login", json={"token": _TOKEN})
            headers = {"x-csrf-token": _csrf(server)}
            server.client.post("/page/api/command", json={"verb": "set"}, headers=headers)
            server.client.post("/page/api/bundle", headers=headers)
        assert agent.senders == ["the page, client dashboard, from 127.0.0.1"]
    logged = [(line["event"], line.get("client"), line.get("address")) for line in lines]
    assert logged == [
        ("page.login_failed", None, "127.0.0.1"),
        ("page.logged_in", "dashboard", "127.0.0.1"),
        ("page.bundle_requested", "dashboard", "127.0.0.1"),
    ]


def test_viewers_leave_half_of_the_connections_to_programs(tmp_path: Path) -> None:
    with _page(tmp_path, max_connections=8) as (server, _), ExitStack() as stack:
        for _ in range(4):
            stream = server.client.stream("GET", "/page/api/events")
            assert stack.enter_context(stream).status_code == 200
        refused = server.client.get("/page/api/events")
        assert (refused.status_code, "half of serve.max_connections" in refused.json()["error"]) == (503, True)
        assert server.client.get("/v2/health/live").status_code == 200


def test_another_site_changes_nothing(page: tuple[Server, Agent]) -> None:
    server, agent = page
    csrf = _csrf(server)
    body = {"verb": "selftest"}
    for headers in (
        {},
        {"x-csrf-token": "guess"},
        {"x-csrf-token": csrf, "origin": "https://evil.example"},
        {"x-csrf-token": csrf, "host": "evil.example"},
    ):
        answer = server.client.post("/page/api/command", json=body, headers=headers)
        assert answer.status_code == 403, headers
    assert server.client.get("/page/api/heat", headers={"origin": "https://evil.example"}).status_code == 403
    assert agent.commands == []


def test_with_tokens_nothing_is_shown_before_a_login(tmp_path: Path) -> None:
    with _page(tmp_path, tokens_file=_tokens(tmp_path), control=True) as (server, agent):
        agent.frames["front"] = _frame(1)
        calls = ["events", "cameras/front/frame.jpg", "cameras/front/explain", "heat", "reports", "reports/a.json"]
        assert server.client.get("/page/").status_code == 200, "the page itself holds no data"
        for call in calls:
            assert server.client.get(f"/page/api/{call}").status_code == 401, call
        assert server.client.post("/page/api/command", json={"verb": "set"}).status_code == 401
        wrong = server.client.post("/page/api/login", json={"token": "wrong-wrong-wrong"})
        assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)
        bodies: tuple[object, ...] = ([], {}, {"token": 3})
        for body in bodies:
            assert server.client.post("/page/api/login", json=body).status_code == 400
        right = server.client.post("/page/api/login", json={"token": _TOKEN})
        cookie = right.headers["set-cookie"]
        assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Path=/page", "Max-Age=43200"))
        assert server.client.get("/page/api/heat").status_code == 200
        assert _TOKEN not in repr(list(_events(server, 1)))
        assert server.client.get("/v2/models/inspect").status_code == 401, "a session is for the page alone"
        assert server.client.post("/page/api/logout").status_code == 403
        headers = {"x-csrf-token": _csrf(server)}
        assert server.client.post("/page/api/logout", headers=headers).status_code == 204
        assert server.client.get("/page/api/heat").status_code == 401


def test_a_proxy_with_a_token_serves_under_any_name_and_nobody_else_does(tmp_path: Path) -> None:
    """The headers of the recipes in docs/page.md: the proxy logs in, names no user here, and adds the token."""
    foreign = {"host": "evil.example", "origin": "http://evil.example", "remote-user": "x", "x-forwarded-user": "x"}
    with _page(tmp_path, tokens_file=_tokens(tmp_path), control=True) as (server, agent):
        proxied = {"authorization": f"Bearer {_TOKEN}", "host": "agent.plant.example"}
        assert server.client.get("/page/api/heat", headers=proxied).status_code == 200
        cookie = server.client.post(
            "/page/api/login", json={"token": _TOKEN}, headers={"x-forwarded-proto": "https"}
        ).headers["set-cookie"]
        assert "Secure" in cookie
        server.client.cookies.clear()
        for call in ("heat", "events", "cameras/front/frame.jpg"):
            assert server.client.get(f"/page/api/{call}", headers=foreign).status_code == 401, call
        assert server.client.post("/page/api/command", json={"verb": "set"}, headers=foreign).status_code == 401
        assert agent.commands == []
    with _page(tmp_path) as (server, _):
        for call in ("heat", "events", "cameras/front/frame.jpg"):
            assert server.client.get(f"/page/api/{call}", headers=foreign).status_code == 403, call


def test_an_internal_error_is_answered_in_json_and_logged_once(page: tuple[Server, Agent]) -> None:
    server, agent = page
    del agent.frames  # so that the page's question for an explanation ends in an exception that nobody expects
    with logs_of("agent.web") as lines:
        answer = server.client.get("/page/api/cameras/front/explain")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/json")
    assert "the agent's log has it as serve.call_failed" in answer.json()["error"]
    assert [(line["event"], line["log_level"]) for line in lines] == [("serve.call_failed", "error")]
    line = lines[0]
    assert line["error"] == "AttributeError: 'Agent' object has no attribute 'frames'"
    assert line["exc_info"][0] is AttributeError
    assert server.client.get("/page/api/heat").status_code == 200
    assert server.service.failure is None


def test_reports_are_listed_and_nothing_else_is_read(page: tuple[Server, Agent], tmp_path: Path) -> None:
    server, agent = page
    assert server.client.get("/page/api/reports").json() == {"reports": []}
    agent.reports_dir.mkdir()
    (agent.reports_dir / "today.html").write_text("<script>alert(1)</script>")
    (agent.reports_dir / "notes.txt").write_text("no report")
    (agent.reports_dir / ".hidden.json").write_text("{}")
    (tmp_path / "secret.json").write_text("{}")
    (agent.reports_dir / "link.json").symlink_to(tmp_path / "secret.json")
    names = [one["name"] for one in server.client.get("/page/api/reports").json()["reports"]]
    assert names == ["today.html"], "neither a link nor another kind of file"
    report = server.client.get("/page/api/reports/today.html")
    assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    for name in (
        "notes.txt",
        "link.json",
        "..%2fsecret.json",
        "%2e%2e%2fsecret.json",
        "nothing.json",
        f"{'x' * 300}.json",
        "a%00.json",
    ):
        assert server.client.get(f"/page/api/reports/{name}").status_code == 404, name


def test_a_bundle_is_made_for_those_who_may_command(tmp_path: Path) -> None:
    for control, status in ((True, 200), (False, 403)):
        with _page(tmp_path, control=control) as (server, _):
            assert server.client.get("/page/api/bundle").status_code == 405
            assert server.client.post("/page/api/bundle").status_code == 403
            answer = server.client.post("/page/api/bundle", headers={"x-csrf-token": _csrf(server)})
            assert answer.status_code == status
            assert answer.content.startswith(b"\x1f\x8b") == control


def test_a_stop_ends_open_streams_at_once_and_quietly(tmp_path: Path) -> None:
    with logs_of("agent.web") as lines, _page(tmp_path) as (server, _):
        opened, ended = threading.Event(), threading.Event()

        def look() -> None:
            try:
                for _ in _events(server, 1000):
                    opened.set()
            except httpx.HTTPError:
                pass
            ended.set()

        threading.Thread(target=look).start()
        assert opened.wait(5)
        began = time.monotonic()
        server.service.stop()
        assert time.monotonic() - began < 1.5
        assert ended.wait(5)
    assert [line for line in lines if line["log_level"] != "info"] == []


def test_without_page_there_is_none(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        for path in ("/page", "/page/", "/page/api/heat", "/page/static/page.js"):
            assert server.client.get(path).status_code == 404, path
