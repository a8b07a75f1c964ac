"""JPEG images over HTTP: a stream of them (MJPEG), or one for each request."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx

from agent.cameras.sources.base import Capture
from agent.cameras.sources.failures import FailureKind, Interrupted, StreamFailed
from agent.cameras.sources.http.jpeg_stream import MAX_PART_BYTES, NotMultipart, Parts, boundary_of
from agent.cameras.sources.http.time_limit import TimeLimit
from agent.cameras.sources.lifecycle import SourceBase
from agent.cameras.sources.network_errors import lost_because, not_opened_because, read_access
from agent.cameras.sources.reaching import Opening, is_server_there
from agent.config.sections.sources import HttpSource
from agent.config.source_address import SourceAccess, public_address
from agent.runtime.clock import Clock
from agent.runtime.logs import get_logger
from agent.runtime.records import Image
from engines import ImageRejected, decode_image

log = get_logger(__name__)

_UNDECODABLE_S = 30.0
_ASK_AGAIN_S = 0.2
"""After an image that was wanted now but cannot be decoded."""
_REPEAT_S = 30.0
"""An image that does not change is delivered again after this time, so that the check for frozen images sees it."""
_STATUS_KINDS: dict[int, FailureKind] = {401: "unauthorized", 403: "forbidden", 404: "not_found"}


class _Login(httpx.DigestAuth):
    """Answers what the server asks for: Digest where it is offered, since it hides the password, else Basic.

    Once it has asked, it gets the login with each request, so a login does not double the requests.
    """

    def __init__(self, username: str, password: str) -> None:
        super().__init__(username, password)
        self._basic = httpx.BasicAuth(username, password)
        self._asks_for_basic = False

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """See httpx.Auth."""
        if self._asks_for_basic:
            yield next(self._basic.auth_flow(request))
            return
        digest = super().auth_flow(request)
        response = yield next(digest)
        challenges = response.headers.get_list("www-authenticate")
        if response.status_code == 401 and not any(one.lower().startswith("digest") for one in challenges):
            if any(one.lower().startswith("basic") for one in challenges):
                response = yield next(self._basic.auth_flow(request))
                self._asks_for_basic = response.status_code != 401
            return
        with suppress(StopIteration):
            while True:
                response = yield digest.send(response)


class HttpCamera(SourceBase):
    """A camera that sends JPEG images over HTTP. The answer's Content-Type tells a stream from a single image.

    ``captured_at_ns`` is when the last bytes of an image came, ``capture_ms`` its decoding; ``not_before_ns`` is when
    a single image was asked for, and for a stream when the image before was complete. A single image is asked for
    every ``interval_s``, and only delivered if it changed, or every 30 s. The first answer, with its image if it is a
    single one, has ``open_timeout_s``, each further image ``read_timeout_s``. An interruption takes effect at once.
    """

    is_live = True
    kind = "http"

    def __init__(self, config: HttpSource, *, base_dir: Path, clock: Clock) -> None:
        super().__init__(public_address(config), clock=clock)
        self._config = config
        self._base_dir = base_dir
        self._access: SourceAccess | None = None
        self._client: httpx.Client | None = None
        self._response: httpx.Response | None = None
        self._limit = TimeLimit()
        self._images: Iterator[bytes] | None = None
        self._wanted = threading.Event()
        """Set to end the wait for the next request: an image is wanted now, or the camera is interrupted."""
        self._is_wanted = self._is_damaged = False
        """Of the newest single image: it was wanted now; it could not be decoded."""
        self._not_before_ns = self._part_ended_ns = 0

    @property
    def fps(self) -> float | None:
        """See Source."""
        return self._config.fps

    def open(self) -> None:
        """See Source. Waits for the head of a stream, or for the first single image."""
        self.check_open()
        if self._images is not None:
            return
        config = self._config
        self._access = read_access(config, self._base_dir, self)
        try:
            self._client = self._make_client(self._access)
            self._limit.start()
            with self._limit.within(config.open_timeout_s, "no answer came"):
                response = self._ask()
                if response.headers.get("content-type", "").lower().startswith("multipart/"):
                    self._images = self._streamed(response)
                else:
                    self._images = self._single(_first_image(response), _conditions(response))
        except StreamFailed as exc:
            self.close()
            self.check_open()
            raise not_opened_because(exc.cleaned(self._access.cleaned), config, self) from None

    def read(self) -> Capture | None:
        """See Source. A further ``reason`` is ``damaged``: no image could be decoded for 30 s."""
        deadline = time.monotonic() + _UNDECODABLE_S
        while True:
            images = self.opened(self._images)
            try:
                data = next(images, None)
            except StreamFailed as exc:
                self.opened(self._images)
                failure = exc if self._access is None else exc.cleaned(self._access.cleaned)
                raise lost_because(failure, self, self._config.read_timeout_s) from None
            self.opened(self._images)
            if data is None:
                raise self.lost("ended", f"{self.description} ended the stream, or the connection broke")
            now_ns, now_utc_ns = self._clock.monotonic_ns(), self._clock.utc_ns()
            image = self._decoded(data, is_last=time.monotonic() > deadline)
            self._is_damaged = image is None
            if image is None and self._is_wanted:
                self.interrupted.wait(_ASK_AGAIN_S)
                self._wanted.set()
            elif image is not None:
                return replace(self._delivered(image, now_ns, now_utc_ns), not_before_ns=self._not_before_ns)

    def is_there(self) -> bool | None:
        """See Source."""
        return is_server_there(self._config, self.interrupted)

    def close(self) -> None:
        """See Source."""
        self._images = None
        if self._response is not None:
            self._response.close()
            self._response = None
        if self._client is not None:
            self._client.close()
            self._client = None
        self._limit.stop()

    def interrupt(self) -> None:
        """See Source. Ends the connection, which wakes a call that waits for data."""
        super().interrupt()
        self._wanted.set()
        self._limit.cut()

    def fetch_now(self) -> None:
        """See FetchingSource; a stream sends its next image anyway."""
        self._wanted.set()

    def _make_client(self, access: SourceAccess) -> httpx.Client:
        config = self._config
        auth = None
        if config.username is not None:
            auth = _Login(config.username, "" if access.password is None else access.password.reveal())
        return httpx.Client(
            auth=auth,
            verify=self._trusted(),
            timeout=httpx.Timeout(max(config.open_timeout_s, config.read_timeout_s), connect=config.open_timeout_s),
            limits=httpx.Limits(max_connections=1),
            follow_redirects=True,
            trust_env=False,
        )

    def _trusted(self) -> ssl.SSLContext:
        ca_file = self._config.ca_file
        path = None if ca_file is None else self._base_dir / ca_file
        try:
            return ssl.create_default_context(cafile=path)
        except (OSError, ssl.SSLError) as exc:
            raise StreamFailed("certificate", f"the `ca_file` {path} cannot be used ({exc})") from exc

    def _ask(self, headers: dict[str, str] | None = None) -> httpx.Response:
        """The server's answer, whose body is not read yet.

        Raises:
            StreamFailed: none, or one that refuses.
        """
        client = self._client
        if client is None or self._access is None:
            raise StreamFailed("failed", "the connection was closed")
        self._not_before_ns = self._clock.monotonic_ns()
        url, extensions = self._access.request_url.reveal(), {"trace": self._limit.trace}
        request = client.build_request("GET", url, headers=headers, extensions=extensions)
        try:
            # Looking up the name and connecting cannot be interrupted.
            opening = Opening(lambda: client.send(request, stream=True), httpx.Response.close)
            response = opening.wait(self.interrupted)
        except Interrupted:
            raise StreamFailed("failed", "interrupted") from None
        except httpx.HTTPError as exc:
            raise _failure(exc) from None
        self._response = response
        if response.status_code not in (200, 304):
            response.close()
            kind = _STATUS_KINDS.get(response.status_code, "status")
            raise StreamFailed(kind, f"{response.status_code} {response.reason_phrase}", response.status_code)
        return response

    def _streamed(self, response: httpx.Response) -> Iterator[bytes]:
        """The images of one answer."""
        self._part_ended_ns = self._clock.monotonic_ns()
        try:
            parts = Parts(boundary_of(response.headers["content-type"]))
        except NotMultipart as exc:
            raise StreamFailed("not_understood", str(exc)) from exc
        return self._parts(response, parts)

    def _parts(self, response: httpx.Response, parts: Parts) -> Iterator[bytes]:
        received = (part for data in response.iter_bytes() for part in parts.feed(data))
        while (part := self._next_part(received)) is not None:
            yield part

    def _next_part(self, received: Iterator[bytes]) -> bytes | None:
        try:
            with self._limit.within(self._config.read_timeout_s, "no whole image came"):
                part = next(received, None)
        except httpx.HTTPError as exc:
            raise _failure(exc) from None
        except NotMultipart as exc:
            raise StreamFailed("not_understood", str(exc)) from exc
        # Its first bytes came after the last ones of the image before.
        self._not_before_ns, self._part_ended_ns = self._part_ended_ns, self._clock.monotonic_ns()
        return part

    def _single(self, newest: bytes, conditions: dict[str, str]) -> Iterator[bytes]:
        """The image of the first answer, and of one each interval."""
        due = delivered = time.monotonic()
        yield newest
        while True:
            due = max(due + self._config.interval_s, time.monotonic())
            self._wanted.wait(max(0.0, due - time.monotonic()))
            self._is_wanted = self._wanted.is_set()
            if self._is_wanted:
                self._wanted.clear()
                due = time.monotonic()
            if self.interrupted.is_set():
                return
            with self._limit.within(self._config.read_timeout_s, "no whole image came"):
                response = self._ask(None if self._is_damaged else conditions)
                is_new = response.status_code != 304
                if is_new:
                    newest, conditions = _body(response), _conditions(response)
            if not is_new:
                response.close()
                if not self._is_wanted and time.monotonic() - delivered < _REPEAT_S:
                    continue
            delivered = time.monotonic()
            yield newest

    def _decoded(self, data: bytes, *, is_last: bool) -> Image | None:
        """The image; None for one that cannot be decoded, which is counted.

        Raises:
            SourceLost: ``is_last``, and it cannot be decoded.
        """
        try:
            return decode_image(data, name="an image", remedy=". Look at it in a browser")
        except ImageRejected as exc:
            self.count_skipped("unreadable_image")
            log.warning("image.skipped", source=self.description, reason=exc.message)
            if is_last:
                raise self.lost(
                    "damaged", f"{self.description} gave no image that can be decoded for 30 s: {exc.message}"
                ) from exc
            return None


def _conditions(response: httpx.Response) -> dict[str, str]:
    """Ask for the image only if it differs from that of ``response``."""
    pairs = (("etag", "If-None-Match"), ("last-modified", "If-Modified-Since"))
    return {ask: response.headers[name] for name, ask in pairs if name in response.headers}


def _first_image(response: httpx.Response) -> bytes:
    """The body of the first answer, which tells whether the address is that of an image."""
    data = _body(response)
    try:
        decode_image(data, name="the answer", remedy="")
    except ImageRejected as exc:
        kind = response.headers.get("content-type", "no Content-Type")
        raise StreamFailed("no_image", f"{kind}; {exc.message}") from exc
    return data


def _body(response: httpx.Response) -> bytes:
    """The whole body, which is bounded."""
    received = bytearray()
    try:
        for data in response.iter_bytes():
            received += data
            if len(received) > MAX_PART_BYTES:
                raise StreamFailed("not_understood", f"its answer has more than {MAX_PART_BYTES} bytes")
    except httpx.HTTPError as exc:
        raise _failure(exc) from None
    finally:
        response.close()
    return bytes(received)


def _failure(error: httpx.HTTPError) -> StreamFailed:
    """The failure for an error of httpx; the cause inside it tells more than its class."""
    detail = str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return StreamFailed("timeout", detail)
    if isinstance(error, httpx.TooManyRedirects):
        return StreamFailed("redirect", "too many redirects, one after another")
    if isinstance(error, httpx.UnsupportedProtocol):  # `url` itself is always HTTP
        scheme = error.request.url.scheme
        return StreamFailed("redirect", f"to the scheme {scheme}, which is neither http nor https")
    causes = list(_causes(error))
    kinds: tuple[tuple[type[BaseException], FailureKind], ...] = (
        (ssl.SSLCertVerificationError, "certificate"),
        (ssl.SSLError, "not_understood"),
        (socket.gaierror, "unknown_host"),
        (ConnectionRefusedError, "refused"),
    )
    for known, kind in kinds:
        if any(isinstance(cause, known) for cause in causes):
            return StreamFailed(kind, detail)
    if isinstance(error, httpx.ConnectError):
        return StreamFailed("unreachable", detail)
    return StreamFailed("failed" if isinstance(error, httpx.NetworkError) else "not_understood", detail)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
