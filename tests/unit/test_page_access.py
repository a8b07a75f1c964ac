from __future__ import annotations

from pathlib import Path

import pytest

from agent.web.http.replies import Refusal, Scope
from agent.web.page.access import COOKIE, MAX_SESSIONS, SESSION_S, Access
from agent.web.tokens import ANYBODY, Gate, Unauthorized, read_tokens

_TOKEN = "0123456789abcdef0123"


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    file = tmp_path / "tokens"
    file.write_text(f"dashboard {_TOKEN}\n")
    file.chmod(0o600)
    return Gate(read_tokens(file), max_per_s=None)


def _scope(client: str = "192.0.2.7", **headers: str) -> Scope:
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "client": (client, 40000), "headers": given}


def test_a_session_admits_until_it_ends(gate: Gate) -> None:
    now_s = 0.0
    access = Access(gate, monotonic_s=lambda: now_s)
    cookie, client = access.log_in(_TOKEN)
    assert client == "dashboard"
    scope = _scope(cookie=f"theme=dark; {COOKIE}={cookie}; x=y")
    assert access.admit(scope) == "dashboard"
    now_s = SESSION_S + 1
    with pytest.raises(Unauthorized):
        access.admit(scope)
    now_s = 0.0
    with pytest.raises(Unauthorized):
        access.admit(scope)  # it does not come back with the clock


def test_a_session_ends_with_its_logout_and_with_too_many_later_ones(gate: Gate) -> None:
    access = Access(gate)
    cookies = [access.log_in(_TOKEN)[0] for _ in range(MAX_SESSIONS + 1)]
    with pytest.raises(Unauthorized):
        access.admit(_scope(cookie=f"{COOKIE}={cookies[0]}"))
    scope = _scope(cookie=f"{COOKIE}={cookies[1]}")
    access.admit(scope)
    access.log_out(scope)
    with pytest.raises(Unauthorized):
        access.admit(scope)
    access.admit(_scope(cookie=f"{COOKIE}={cookies[2]}"))


@pytest.mark.parametrize(
    "headers", [{}, {"cookie": f"{COOKIE}="}, {"cookie": f"{COOKIE}=\xff"}, {"authorization": "Bearer no"}]
)
def test_nobody_else_is_admitted(gate: Gate, headers: dict[str, str]) -> None:
    with pytest.raises(Unauthorized):
        Access(gate).admit(_scope(**headers))


def test_a_token_admits_without_a_session(gate: Gate) -> None:
    assert Access(gate).admit(_scope(authorization=f"Bearer {_TOKEN}")) == "dashboard"
    assert Access(Gate(None, max_per_s=None)).admit(_scope()) == ANYBODY


def test_failed_logins_are_limited_and_good_ones_do_not_count(gate: Gate) -> None:
    now_s = 0.0
    access = Access(gate, monotonic_s=lambda: now_s)
    for _ in range(20):
        access.log_in(_TOKEN)
    for _ in range(10):
        with pytest.raises(Unauthorized):
            access.log_in("wrong-wrong-wrong")
    with pytest.raises(Refusal) as refused:
        access.log_in(_TOKEN)
    assert refused.value.status == 429
    assert int(refused.value.headers["retry-after"]) == 60
    now_s = 61.0
    access.log_in(_TOKEN)


@pytest.mark.parametrize("given", [None, "", "x", "\xff"])
def test_a_change_needs_the_value_that_only_the_page_can_read(gate: Gate, given: str | None) -> None:
    access = Access(gate)
    headers = {} if given is None else {"x_csrf_token": given}
    with pytest.raises(Refusal) as refused:
        access.require_csrf(_scope(**headers))
    assert refused.value.status == 403
    access.require_csrf(_scope(x_csrf_token=access.csrf))
    assert access.csrf != Access(gate).csrf
