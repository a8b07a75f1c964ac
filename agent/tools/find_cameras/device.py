"""What one ONVIF camera says of itself: its profiles, and the address of the stream of each.

Source: ONVIF Core Specification (Device service), Media Service Specification 1.0 (GetProfiles, GetStreamUri).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from urllib.parse import unquote, urlsplit, urlunsplit
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

import httpx
from pydantic import ValidationError

from agent.cameras.sources.failures import StreamFailed
from agent.cameras.sources.http.time_limit import TimeLimit
from agent.config.credentials import PASSWORD, USERNAME
from agent.config.sections.sources import RtspSource
from agent.runtime.secrets import Secret
from agent.tools.find_cameras.discovery import Found, host_of
from agent.tools.find_cameras.soap import MAX_BYTES, NotSoap, SoapFault, body_of, envelope, username_token

_DEVICE = "http://www.onvif.org/ver10/device/wsdl"
_MEDIA = "http://www.onvif.org/ver10/media/wsdl"
_SCHEMA = "http://www.onvif.org/ver10/schema"
_NAMESPACES = f' xmlns:tds="{_DEVICE}" xmlns:trt="{_MEDIA}" xmlns:tt="{_SCHEMA}"'
_EXCHANGE_S = 5.0
_MAX_PROFILES = 32
_STREAM = (
    "<trt:GetStreamUri><trt:StreamSetup><tt:Stream>RTP-Unicast</tt:Stream><tt:Transport><tt:Protocol>RTSP</tt:Protocol>"
    "</tt:Transport></trt:StreamSetup><trt:ProfileToken>{}</trt:ProfileToken></trt:GetStreamUri>"
)


class CameraRefused(Exception):
    """The camera does not say what was asked; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Login:
    """A user on the cameras, and the file that the password came from."""

    username: str
    password: Secret
    password_file: str


@dataclass(frozen=True, slots=True)
class Profile:
    """One stream. ``source`` is its section for the configuration, None if there is none: ``error`` says why."""

    token: str
    name: str
    codec: str
    width: int | None
    height: int | None
    fps: float | None
    source: dict[str, object] | None
    error: str | None


def profiles_of(found: Found, login: Login | None) -> list[Profile]:
    """The streams of a camera.

    The login goes to the host that answered and to no other, whatever addresses that names.

    Raises:
        CameraRefused: it does not answer, refuses the login, or names addresses of other hosts alone.
    """
    addresses = found.own_addresses
    if not addresses:
        raise CameraRefused(
            f"the answer came from {found.sender}, but it names {' '.join(found.addresses)}; it is not asked there. "
            "Correct the address in the camera's network settings, or ask from its own network"
        )
    refusals = []
    for address in addresses:
        with _Session(address, found.sender, login) as session:
            try:
                return list(session.profiles())
            except CameraRefused as exc:
                refusals.append(str(exc))
    raise CameraRefused("; ".join(dict.fromkeys(refusals)))


class _Session:
    """Asks one camera at one of its addresses, with HTTP Digest or a WS-Security token, as it wants."""

    def __init__(self, address: str, host: str, login: Login | None) -> None:
        self._address, self._host, self._login = address, host, login
        self._ahead = timedelta()
        self._limit = TimeLimit()
        auth = None if login is None else httpx.DigestAuth(login.username, login.password.reveal())
        # No check of the certificate: cameras sign their own, and nobody has said yet which one is right.
        self._client = httpx.Client(auth=auth, timeout=_EXCHANGE_S, trust_env=False, verify=False)  # noqa: S501 - see above

    def __enter__(self) -> _Session:
        self._limit.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._limit.stop()

    def profiles(self) -> Iterator[Profile]:
        """See ``profiles_of``."""
        self._compare_clocks()
        media = self._media_address()
        body = self._ask(media, "<trt:GetProfiles/>")
        for profile in list(body.iter(f"{{{_MEDIA}}}Profiles"))[:_MAX_PROFILES]:
            token = profile.get("token", "")
            source, error = self._source(media, token)
            yield _profile(profile, token, source, error)

    def _compare_clocks(self) -> None:
        """A token is refused if its time is not the camera's, which everyone may ask."""
        try:
            body = self._ask(self._address, "<tds:GetSystemDateAndTime/>", is_open=True)
            now = body.find(f".//{{{_SCHEMA}}}UTCDateTime")
            if now is not None:
                self._ahead = _time_of(now) - datetime.now(timezone.utc)
        except (CameraRefused, ValueError, OverflowError):
            self._ahead = timedelta()

    def _media_address(self) -> str:
        """The address of the media service, which must be on the same host."""
        body = self._ask(
            self._address, "<tds:GetCapabilities><tds:Category>Media</tds:Category></tds:GetCapabilities>"
        )
        found = body.find(f".//{{{_SCHEMA}}}Media/{{{_SCHEMA}}}XAddr")
        address = "" if found is None else (found.text or "").strip()
        if not address:
            raise CameraRefused("it names no media service; it may be a recorder or an access control, or no camera")
        if host_of(address) != self._host:
            raise CameraRefused(
                f"it answers at {self._host}, but names {address} for its media service; correct the address in its "
                "network settings"
            )
        return address

    def _source(self, media: str, token: str) -> tuple[dict[str, object] | None, str | None]:
        """The section of one stream, or why there is none."""
        try:
            body = self._ask(media, _STREAM.format(escape(token)))
        except CameraRefused as exc:
            return None, str(exc)
        found = body.find(f".//{{{_MEDIA}}}MediaUri/{{{_SCHEMA}}}Uri")
        url = "" if found is None else (found.text or "").strip()
        login = self._login
        section: dict[str, object] = {"type": "rtsp", "url": _without_login(url, login)}
        if login is not None:
            section |= {"username": login.username, "password_file": login.password_file}
        try:
            RtspSource.model_validate(section)
        except ValidationError as exc:
            fault = exc.errors()[0]
            is_other = fault["type"] == "string_pattern_mismatch"
            problem = "it is no rtsp address" if is_other else fault["msg"].removeprefix("Value error, ")
            return None, f"the address that it names for the stream cannot be used: {problem}"
        host = host_of(url, ("rtsp", "rtsps"))
        if host != self._host:
            # Pasted with a login, the section would send it to a host that only this answer names.
            return None, (
                f"it answers at {self._host}, but names {host} for the stream; correct the address in its network "
                "settings. If the stream is there, write its section by hand"
            )
        return section, None

    def _ask(self, address: str, request: str, *, is_open: bool = False) -> Element:
        """The body of the answer; ``is_open`` asks without a login."""
        header = ""
        if self._login is not None and not is_open:
            now = datetime.now(timezone.utc) + self._ahead
            header = username_token(self._login.username, self._login.password.reveal(), now)
        try:
            with self._limit.within(_EXCHANGE_S, "no whole answer came"):
                status, data = self._post(address, envelope(request, header, namespaces=_NAMESPACES))
            return body_of(data)
        except SoapFault as exc:
            if exc.is_login:
                raise self._refused() from exc
            raise CameraRefused(f"it refused the request: {exc}") from exc
        except NotSoap as exc:
            if status in {401, 403}:
                raise self._refused() from exc
            raise CameraRefused(f"its answer (status {status}) cannot be read: {exc}") from exc
        except (httpx.HTTPError, httpx.InvalidURL, StreamFailed) as exc:
            raise CameraRefused(f"{address} gave no answer ({str(exc) or type(exc).__name__})") from exc

    def _post(self, address: str, message: bytes) -> tuple[int, bytes]:
        kind = {"Content-Type": "application/soap+xml; charset=utf-8"}
        received = bytearray()
        with self._client.stream(
            "POST", address, content=message, headers=kind, extensions={"trace": self._limit.trace}
        ) as response:
            for data in response.iter_bytes():
                received += data
                if len(received) > MAX_BYTES:
                    break
            return response.status_code, bytes(received)

    def _refused(self) -> CameraRefused:
        if self._login is None:
            return CameraRefused("it asks for a login; give one with --username and --password-file")
        return CameraRefused(
            f"it refused the user {self._login.username!r}; check user and password. Many cameras have users of their "
            "own for ONVIF, and lock an address out after a few wrong passwords"
        )


def _profile(profile: Element, token: str, source: dict[str, object] | None, error: str | None) -> Profile:
    encoder = f"{{{_SCHEMA}}}VideoEncoderConfiguration"
    resolution = f"{encoder}/{{{_SCHEMA}}}Resolution"
    return Profile(
        token=token,
        name=_text(profile, f"{{{_SCHEMA}}}Name"),
        codec=_text(profile, f"{encoder}/{{{_SCHEMA}}}Encoding"),
        width=_whole(_text(profile, f"{resolution}/{{{_SCHEMA}}}Width")),
        height=_whole(_text(profile, f"{resolution}/{{{_SCHEMA}}}Height")),
        fps=_whole(_text(profile, f"{encoder}/{{{_SCHEMA}}}RateControl/{{{_SCHEMA}}}FrameRateLimit")),
        source=source,
        error=error,
    )


def _text(element: Element, path: str) -> str:
    found = element.find(path)
    return "" if found is None else (found.text or "").strip()


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else None


def _time_of(now: Element) -> datetime:
    """The UTC time of an answer to GetSystemDateAndTime.

    Raises:
        ValueError: it is no time.
    """
    date, time = f"{{{_SCHEMA}}}Date/{{{_SCHEMA}}}", f"{{{_SCHEMA}}}Time/{{{_SCHEMA}}}"
    year, month, day = (int(_text(now, f"{date}{name}")) for name in ("Year", "Month", "Day"))
    hour, minute, second = (int(_text(now, f"{time}{name}")) for name in ("Hour", "Minute", "Second"))
    return datetime(year, month, day, hour, minute, min(second, 59), tzinfo=timezone.utc)


def _without_login(url: str, login: Login | None) -> str:
    """The address with the places of the credentials that some cameras write into it, instead of these.

    In front of the host they go: `username` and `password_file` say them.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    if login is None:
        return url
    values = {login.username: USERNAME, login.password.reveal(): PASSWORD}

    def place(found: re.Match[str]) -> str:
        return found[1] + values.get(unquote(found[2]), found[2])

    return re.sub(r"([?&_/;][A-Za-z]+=)([^?&_/;#]*)", place, url)
