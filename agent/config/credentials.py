"""``{username}`` and ``{password}`` in a URL or a pipeline: where they may stand, and how they are filled in.

In a URL they are percent-encoded. In a GStreamer pipeline they stand inside a URL, or are the whole value of a
property (``user-pw={password}``); then every special character is escaped for GStreamer's parser.
Source: GStreamer, gst/parse/parse.l and grammar.y (gst_parse_unescape), read at 1.22.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import quote, urlsplit

USERNAME, PASSWORD = "{username}", "{password}"
_PLACEHOLDER = re.compile(r"\{(?:username|password)\}")
_USER_INFO = re.compile(r"\A[A-Za-z][A-Za-z0-9+.-]*://(\{username\}(?::\{password\})?@)")
# A property's value: in double quotes, in single quotes, or up to the next blank.
_ASSIGNED = re.compile(r"""=\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|(?:[^\s\\]|\\.)+)""")


def placeholders(text: str) -> set[str]:
    """Which of ``{username}`` and ``{password}`` occur in ``text``."""
    return set(_PLACEHOLDER.findall(text))


def without_user_info(url: str) -> str:
    """``url`` without ``{username}:{password}@`` in front of the host."""
    found = _USER_INFO.match(url)
    return url if found is None else url[: found.start(1)] + url[found.end(1) :]


def filled_url(url: str, username: str | None, password: str | None) -> tuple[str, str]:
    """The URL with credentials, and the same without those in front of the host.

    Without placeholders, or with them in front of the host, user and password go there.
    """
    bare = without_user_info(url)
    request = _filled(bare, username, password)
    if username is None or (bare == url and placeholders(url)):
        return request, request
    user = quote(username, safe="") + ("" if password is None else ":" + quote(password, safe=""))
    parts = urlsplit(request)
    return parts._replace(netloc=f"{user}@{parts.netloc}").geturl(), request


def filled_pipeline(pipeline: str, username: str | None, password: str | None) -> str:
    """The pipeline with credentials, each escaped for where it stands.

    Raises:
        ValueError: a placeholder is part of a value that is not a URL.
    """
    return _replaced(pipeline, lambda name: (username if name == USERNAME else password) or "")


def check_placeholders(pipeline: str) -> None:
    """Refuse a placeholder where its escaping is not known.

    Raises:
        ValueError: as ``filled_pipeline``.
    """
    _replaced(pipeline, lambda _: "")


def quoted_values(pipeline: str) -> Iterator[str]:
    """The values of a pipeline's properties, without their quotes."""
    for found in _ASSIGNED.finditer(pipeline):
        yield _unquoted(found[1])


def _filled(text: str, username: str | None, password: str | None) -> str:
    values = {USERNAME: username or "", PASSWORD: password or ""}
    return _PLACEHOLDER.sub(lambda found: quote(values[found[0]], safe=""), text)


def _replaced(pipeline: str, value_of: Callable[[str], str]) -> str:
    def assigned(found: re.Match[str]) -> str:
        value = _unquoted(found[1])
        if not placeholders(value):
            return found[0]
        start = found[0][: found.start(1) - found.start()]
        if value in {USERNAME, PASSWORD}:
            return start + _escaped(value_of(value))
        if "://" in _PLACEHOLDER.split(value, maxsplit=1)[0]:
            return start + _PLACEHOLDER.sub(lambda one: quote(value_of(one[0]), safe=""), found[1])
        return found[0]

    text = _ASSIGNED.sub(assigned, pipeline)
    # A value that was filled in may hold the text of a placeholder, so the places are counted in the pipeline.
    left = _PLACEHOLDER.findall(_ASSIGNED.sub("", pipeline)) + [
        one
        for value in quoted_values(pipeline)
        if value not in {USERNAME, PASSWORD} and "://" not in _PLACEHOLDER.split(value, maxsplit=1)[0]
        for one in _PLACEHOLDER.findall(value)
    ]
    if left:
        raise ValueError(
            f"{left[0]} is neither inside a URL nor the whole value of a property, so it cannot be escaped: write it "
            "like user-pw={password} or location=rtsp://host/{password}"
        )
    return text


def _unquoted(value: str) -> str:
    return value[1:-1] if value[:1] in {'"', "'"} and value[-1:] == value[:1] and len(value) > 1 else value


def _escaped(value: str) -> str:
    """One property value for GStreamer's parser, which takes the backslashes away again."""
    if not value or value.startswith('"') or value.endswith("\\") or any(one.isspace() for one in value):
        # Quoted once more, and these quotes escaped too: text that begins with a quote counts as quoted, and a
        # backslash at the end of a value would escape the blank after it.
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return "".join(one if one.isalnum() else f"\\{one}" for one in value)
