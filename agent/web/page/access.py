"""Who may see the page: with a token, which a proxy may add, or with the cookie of a session."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from agent.web.http.replies import Refusal, Scope, header
from agent.web.tokens import ANYBODY, Gate, Unauthorized, digest_of

COOKIE = "agent_session"
SESSION_S = 12 * 3600.0
MAX_SESSIONS = 64
"""The oldest session ends for a new one."""
_LOGINS = 10
"""Failed logins in a minute, of all clients together; more are refused before the token is looked at."""
_MINUTE_S = 60.0
CSRF_HEADER = b"x-csrf-token"


@dataclass(frozen=True, slots=True)
class _Session:
    client: str
    until_s: float


class Access:
    """Admits requests to the page, and opens and ends sessions. Used by the server's thread; any thread may.

    ``csrf`` is the value that every request which changes something must bring in ``X-CSRF-Token``: only a page of
    this server can read it.
    """

    def __init__(self, gate: Gate, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self.csrf = secrets.token_urlsafe(24)
        self._gate = gate
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._failed_at_s: list[float] = []

    def admit(self, scope: Scope) -> str:
        """The name of who asks.

        Raises:
            Unauthorized: nobody that this server knows.
        """
        if header(scope, b"authorization") is not None:
            return self._gate.admit(header(scope, b"authorization"))
        session = self._session(scope)
        if session is not None:
            return session.client
        if self._gate.needs_tokens:
            raise Unauthorized("this page needs a token: log in with one of serve.tokens_file")
        return ANYBODY

    def log_in(self, token: str) -> tuple[str, str]:
        """Open a session for ``token``: its cookie's value, and the client's name.

        Raises:
            Unauthorized: the token is unknown.
            Refusal: too many logins failed lately.
        """
        now_s = self._monotonic_s()
        with self._lock:
            self._failed_at_s = [at_s for at_s in self._failed_at_s if now_s - at_s < _MINUTE_S]
            if len(self._failed_at_s) >= _LOGINS:
                wait_s = max(1, round(_MINUTE_S - (now_s - self._failed_at_s[0])))
                raise Refusal(
                    429,
                    f"{_LOGINS} logins failed within a minute; try again in {wait_s} s",
                    headers={"retry-after": str(wait_s)},
                )
        if not self._gate.needs_tokens:
            raise Refusal(400, "this server needs no login, because serve.tokens_file names no file")
        try:
            client = self._gate.admit(f"Bearer {token}")
        except Unauthorized:
            with self._lock:
                self._failed_at_s.append(now_s)
            raise
        value = secrets.token_urlsafe(32)
        with self._lock:
            self._sessions[digest_of(value)] = _Session(client, now_s + SESSION_S)
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return value, client

    def log_out(self, scope: Scope) -> None:
        """End the session of this request, if it has one."""
        with self._lock:
            self._sessions.pop(digest_of(_cookie(scope)), None)

    def require_csrf(self, scope: Scope) -> None:
        """Raises Refusal unless the request brings the value that only this page can read."""
        given = header(scope, CSRF_HEADER) or ""
        if not secrets.compare_digest(given.encode("utf-8", "replace"), self.csrf.encode()):
            raise Refusal(403, "the request has no valid X-CSRF-Token; load the page again")

    def _session(self, scope: Scope) -> _Session | None:
        value = _cookie(scope)
        if not value:
            return None
        with self._lock:
            session = self._sessions.get(digest_of(value))
            if session is not None and session.until_s < self._monotonic_s():
                del self._sessions[digest_of(value)]
                return None
            return session


def _cookie(scope: Scope) -> str:
    for part in (header(scope, b"cookie") or "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""
