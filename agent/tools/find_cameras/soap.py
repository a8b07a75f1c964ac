"""SOAP 1.2 messages to cameras, and their replies, which come from anyone on the network.

A document type declaration is refused, as SOAP demands (SOAP 1.2 part 1, section 5): without one there are no
entities to expand. Sizes, depth and the number of elements are limited.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from datetime import datetime
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat
from xml.sax.saxutils import escape

MAX_BYTES = 1 << 20
_MAX_DEPTH = 64
_MAX_ELEMENTS = 20_000
ENVELOPE = "http://www.w3.org/2003/05/soap-envelope"
_SECURITY = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
_UTILITY = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"
_PASSWORD = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0#PasswordDigest"  # noqa: S105 - a name
_BASE64 = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-soap-message-security-1.0#Base64Binary"


class NotSoap(Exception):
    """The bytes are no acceptable SOAP message; the text says why."""


class SoapFault(Exception):
    """The camera refused a request. ``is_login`` if it asks for another login; the text is its reason."""

    def __init__(self, text: str, *, is_login: bool) -> None:
        super().__init__(text)
        self.is_login = is_login


def envelope(body: str, header: str = "", *, namespaces: str = "") -> bytes:
    """A message; ``body`` and ``header`` are XML."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><s:Envelope xmlns:s="{ENVELOPE}"{namespaces}>'
        f"<s:Header>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"
    ).encode()


def username_token(username: str, password: str, created: datetime, nonce: bytes | None = None) -> str:
    """The header that proves who asks, without the password itself.

    ``created`` is UTC by the camera's clock: it refuses an old one. Source: WS-Security UsernameToken Profile 1.0,
    section 3.1: Base64(SHA-1(nonce + created + password)).
    """
    nonce = secrets.token_bytes(16) if nonce is None else nonce
    stamp = created.strftime("%Y-%m-%dT%H:%M:%SZ")
    digest = hashlib.sha1(nonce + stamp.encode() + password.encode(), usedforsecurity=False).digest()
    return (
        f'<w:Security xmlns:w="{_SECURITY}" xmlns:u="{_UTILITY}" s:mustUnderstand="true"><w:UsernameToken>'
        f"<w:Username>{escape(username)}</w:Username>"
        f'<w:Password Type="{_PASSWORD}">{base64.b64encode(digest).decode()}</w:Password>'
        f'<w:Nonce EncodingType="{_BASE64}">{base64.b64encode(nonce).decode()}</w:Nonce>'
        f"<u:Created>{stamp}</u:Created></w:UsernameToken></w:Security>"
    )


class _Reader:
    """Builds the tree of one document within the limits."""

    def __init__(self) -> None:
        self._tree = TreeBuilder()
        self._depth = self._elements = 0
        self._parser = expat.ParserCreate(namespace_separator="}")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._tree.data

    def read(self, data: bytes) -> Element:
        """The root element."""
        try:
            self._parser.Parse(data, True)  # noqa: FBT003 - a positional argument of the library
        except (expat.ExpatError, ValueError, LookupError) as exc:
            raise NotSoap(f"it is no XML ({exc})") from exc
        return self._tree.close()

    def _refuse(self, *_: object) -> None:
        raise NotSoap("it has a document type declaration, which SOAP forbids")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._elements += 1
        if self._depth > _MAX_DEPTH or self._elements > _MAX_ELEMENTS:
            raise NotSoap(f"it has more than {_MAX_DEPTH} levels or {_MAX_ELEMENTS} elements")
        self._tree.start(_name(name), {_name(key): value for key, value in attributes.items()})

    def _end(self, name: str) -> None:
        self._depth -= 1
        self._tree.end(_name(name))


def _name(name: str) -> str:
    return f"{{{name}" if "}" in name else name


def body_of(data: bytes) -> Element:
    """The body of a message.

    Raises:
        NotSoap: it is none, or goes beyond a limit.
        SoapFault: the body is a fault.
    """
    return _parts_of(data)[1]


def header_and_body_of(data: bytes) -> tuple[Element, Element]:
    """The header, which may be empty, and the body; raises as ``body_of``."""
    return _parts_of(data)


def _parts_of(data: bytes) -> tuple[Element, Element]:
    if len(data) > MAX_BYTES:
        raise NotSoap(f"it has more than {MAX_BYTES} bytes")
    root = _Reader().read(data)
    body = root.find(f"{{{ENVELOPE}}}Body")
    if root.tag != f"{{{ENVELOPE}}}Envelope" or body is None:
        raise NotSoap("it is no SOAP 1.2 envelope with a body")
    fault = body.find(f"{{{ENVELOPE}}}Fault")
    if fault is not None:
        codes = [one.text or "" for one in fault.iter(f"{{{ENVELOPE}}}Value")]
        reason = next((one.text for one in fault.iter(f"{{{ENVELOPE}}}Text") if one.text), "a fault without a reason")
        is_login = any(code.rpartition(":")[2] in {"NotAuthorized", "FailedAuthentication"} for code in codes)
        raise SoapFault(reason.strip(), is_login=is_login)
    header = root.find(f"{{{ENVELOPE}}}Header")
    return Element("none") if header is None else header, body
