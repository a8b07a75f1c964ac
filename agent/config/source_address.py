"""The address of a source: what may be published of it, and the whole of it for the library that opens it.

A path, a query or a pipeline may hold a password or a token that no pattern recognises. So nothing of them is
published: not in a message, a log line, an error or a report.

    rtsp://10.0.0.5:554/#3f2a91c0    scheme, host, port, and a hash of the rest, which tells two addresses apart
    gstreamer pipeline #5d0e77b1     a pipeline is only a hash
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from agent.config.credentials import PASSWORD, USERNAME, filled_pipeline, filled_url, quoted_values
from agent.config.sections.sources import AddressedSource, GStreamerSource, SourceConfig
from agent.runtime.secrets import MASK, Secret, masked, read_secret, redact

PUBLIC_KEYS = frozenset(
    {"type", "path", "transport", "reader", "codec", "device", "serial", "fourcc", "username"}
    | {"password_file", "ca_file", "decode", "order", "existing", "after", "move_to"}
)
DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "rtmps": 443}
# A hash that everybody can compute lets a reader of messages try passwords; each try should cost.
_HASH_ROUNDS = 20_000
_HASH_BYTES = 4
_MIN_PART_CHARS = 4
_MIN_REST_CHARS = 8
"""A shorter path, as /1 or /stream, is part of many texts."""


@dataclass(frozen=True, slots=True)
class SourceAccess:
    """How to reach a source, and how to speak of it.

    ``private`` is the URL or pipeline with its credentials, for the library that opens it; ``request_url`` is the URL
    without user and password in front of the host (empty for a pipeline). While this object lives, the log and every
    other output show ``public`` where a text repeats one of them.
    """

    public: str
    private: Secret
    request_url: Secret
    password: Secret | None
    _parts: tuple[str, ...] = field(repr=False)

    def cleaned(self, text: str) -> str:
        """``text`` of a library, without this source's address, the parts of it, and its credentials.

        By exact value, not by pattern; a short one where it stands alone.
        """
        text = redact(text)
        for part in self._parts:
            text = masked(text, part)
        return text


def public_address(source: AddressedSource | GStreamerSource) -> str:
    """What may be published of the source's address."""
    return public_pipeline(source.pipeline) if isinstance(source, GStreamerSource) else public_url(source.url)


def public_url(url: str) -> str:
    """``rtsp://host:port/#hash``; without a hash if nothing follows the port."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    port = parts.port or DEFAULT_PORTS.get(scheme)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    start = f"{scheme}://{host}" + ("" if port is None else f":{port}") + "/"
    rest = _rest(parts)
    return f"{start}#{_short_hash(start, rest)}" if rest.strip("/") else start


def public_pipeline(pipeline: str) -> str:
    """``gstreamer pipeline #hash``."""
    return f"gstreamer pipeline #{_short_hash('gstreamer', pipeline)}"


def public_value(key: str, value: object) -> object:
    """What may be shown of one value of a source's section: texts of ``PUBLIC_KEYS``, numbers, and else an address.

    A list of what is public, not of what is secret: a key that is new is hidden until it is named there.
    """
    if isinstance(value, dict):
        return {name: public_value(f"{key}.{name}", below) for name, below in value.items()}
    if isinstance(value, list):
        return [public_value(f"{key}[]", below) for below in value]
    if not isinstance(value, str) or key in PUBLIC_KEYS:
        return value
    if key == "url":
        return public_url(value)
    return public_pipeline(value) if key == "pipeline" else f"#{_short_hash(key, value)}"


def open_access(source: AddressedSource | GStreamerSource, base_dir: Path) -> SourceAccess:
    """The source's address with its credentials; the password file is read each time.

    Raises:
        ConfigError: the password file cannot be used.
    """
    password = None if source.password_file is None else read_secret(base_dir / source.password_file)
    word = None if password is None else password.reveal()
    public = public_address(source)
    if isinstance(source, GStreamerSource):
        whole, request = filled_pipeline(source.pipeline, source.username, word), ""
    else:
        whole, request = filled_url(source.url, source.username, word)
    parts = {value for text in (whole, request, _as_written(source)) for value in _values_of(text)}
    # Short values are part of ordinary words; the password counts at any length where it stands alone.
    secret = [] if word is None else [word, quote(word, safe="")]
    known = {part for part in parts if len(part) >= _MIN_PART_CHARS} | {one for one in secret if one}
    return SourceAccess(
        public,
        _hidden(whole, public),
        _hidden(request, public),
        password,
        tuple(sorted(known, key=len, reverse=True)),
    )


def known_addresses(sources: list[SourceConfig]) -> tuple[Secret, ...]:
    """The addresses as they stand in the file, so that no output repeats one while the result lives."""
    urls = [url for source in sources if isinstance(url := getattr(source, "url", None), str)]
    pipelines = [source.pipeline for source in sources if isinstance(source, GStreamerSource)]
    whole = [_hidden(url, public_url(url)) for url in urls]
    whole += [_hidden(pipeline, public_pipeline(pipeline)) for pipeline in pipelines]
    rests = [_rest(urlsplit(url)) for url in urls]
    # Many cameras have the same path, so a path alone does not say whose it is.
    return (*whole, *(Secret(rest, shown=f"/{MASK}") for rest in rests if len(rest) > _MIN_REST_CHARS))


def _hidden(text: str, public: str) -> Secret:
    # Nothing is hidden of an address that ends with its port: it is the beginning of its public form, which would be
    # replaced again. The name of a single element is no secret either, and GStreamer's errors are about it.
    is_whole = "#" in public or "@" in text
    return Secret(text, shown=public if is_whole and ("=" in text or "/" in text) else text)


def _as_written(source: AddressedSource | GStreamerSource) -> str:
    return source.pipeline if isinstance(source, GStreamerSource) else source.url


def _rest(parts: SplitResult) -> str:
    """All that follows the port."""
    query = f"?{parts.query}" if parts.query else ""
    return parts.path + query + (f"#{parts.fragment}" if parts.fragment else "")


@lru_cache(maxsize=256)
def _short_hash(start: str, rest: str) -> str:
    return hashlib.pbkdf2_hmac("sha256", rest.encode(), start.encode(), _HASH_ROUNDS, _HASH_BYTES).hex()


def _values_of(text: str) -> Iterator[str]:
    """Each value inside a URL or a pipeline that a library may repeat on its own."""
    if "://" not in text and "=" not in text:
        return
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        yield from _values_of_url(text)
        return
    for value in quoted_values(text):
        yield value
        if "://" in value:
            yield from _values_of_url(value)


def _values_of_url(url: str) -> Iterator[str]:
    try:
        parts = urlsplit(url)
        found = [
            parts.username,
            parts.password,
            parts.netloc.rpartition("@")[0],
            _rest(parts),
            parts.query,
            parts.fragment,
        ]
    except ValueError:
        return
    found += [value for _, value in parse_qsl(parts.query)]
    found += parts.path.split("/")
    for value in found:
        if value and value not in {USERNAME, PASSWORD}:
            yield value
            yield unquote(value)
