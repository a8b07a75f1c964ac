"""What every section of the configuration shares: the base class, and the patterns of names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

DEVICE_ID = r"^[a-z0-9][a-z0-9_-]{0,63}$"
REQUEST_ID = r"^[A-Za-z0-9._:+-]{1,64}$"
NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
TOPIC_PREFIX = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"
CLIENT_ID = r"^[A-Za-z0-9._-]{1,64}$"
FOURCC = r"^[A-Za-z0-9 ]{4}$"
RTSP_URL = r"^rtsps?://[^\s]+$"
HEADER_NAME = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$"
ALPN_NAME = r"^[\x21-\x7e]{1,255}$"
HOST_NAME = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"
HTTP_URL = r"^https?://[^\s]+$"
LISTEN_ADDRESS = r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*):[0-9]{1,5}$"
STREAM_URL = r"^(https?|rtmps?|srt|udp|tcp)://[^\s]+$"
VIDEO_DEVICE = r"^/[^\s*?]+$"

PATTERNS_IN_WORDS: Mapping[str, str] = {
    DEVICE_ID: "1 to 64 lower-case letters, digits, - and _ that start with a letter or digit",
    REQUEST_ID: "1 to 64 letters, digits and . _ : + -",
    NAME: "1 to 64 lower-case letters, digits, - _ and . that start with a letter or digit",
    TOPIC_PREFIX: "topic levels of letters, digits, . _ and - with / between them",
    CLIENT_ID: "1 to 64 letters, digits, . _ and -",
    FOURCC: "4 letters, digits or blanks such as MJPG",
    HEADER_NAME: "the name of an HTTP header",
    ALPN_NAME: "1 to 255 printable ASCII characters without blanks",
    HOST_NAME: "a host name",
    LISTEN_ADDRESS: "host:port, such as 127.0.0.1:8000 or [::1]:8000",
    RTSP_URL: "an address without blanks that starts with rtsp:// or rtsps:// in small letters; the types `http` and "
    "`stream` take others",
    HTTP_URL: "an address without blanks that starts with http:// or https:// in small letters; for rtsp:// write "
    "`type: rtsp`",
    STREAM_URL: "an address without blanks that starts with http://, https://, rtmp://, rtmps://, srt://, udp:// or "
    "tcp:// in small letters; for rtsp:// write `type: rtsp`",
    VIDEO_DEVICE: "the path of one device file, such as /dev/video0: it starts with / and has no blanks and no * or ?",
}
"""What an error message and the reference say instead of the pattern."""

DeviceId = Annotated[str, StringConstraints(pattern=DEVICE_ID)]
Name = Annotated[str, StringConstraints(pattern=NAME)]
"""Of a model, a camera or a classifier: a level of a topic."""
TopicPrefix = Annotated[str, StringConstraints(pattern=TOPIC_PREFIX, max_length=128)]
ClientId = Annotated[str, StringConstraints(pattern=CLIENT_ID)]
HeaderName = Annotated[str, StringConstraints(pattern=HEADER_NAME)]
AlpnName = Annotated[str, StringConstraints(pattern=ALPN_NAME)]
HostName = Annotated[str, StringConstraints(pattern=HOST_NAME, max_length=253)]


class PlacedError(ValueError):
    """A fault at ``below``, the keys from the section that raises it to the value that is wrong."""

    def __init__(self, message: str, *below: str | int) -> None:
        super().__init__(message)
        self.below = below


class Section(BaseModel):
    """Base of every section: refuses unknown keys, and is frozen.

    ``agent.config.sections.field_docs`` reads the docstrings below the fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)
