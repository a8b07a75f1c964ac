"""Bodies of requests: none larger than allowed, and all that are in memory together neither."""

from __future__ import annotations

from agent.web.http.replies import ClientGone, Receive, Refusal, Scope, header

_MIB = 1 << 20


class Bodies:
    """Reads bodies on one event loop. Each that was read is held until ``release``. Sizes in bytes.

    How long a body may take is limited by its connection, which also drops the rest of a refused one: a client that
    sends all of it before it reads would see a closed connection instead of the reason.
    """

    def __init__(self, *, max_body: int, max_all: int) -> None:
        self._max_body = max_body
        self._max_all = max_all
        self.held = 0
        """Bytes of all bodies that are being received or served."""

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body; the caller calls ``release`` with it.

        Raises:
            Refusal: 413, it is too large; 415, it is compressed; 429, all bodies together are too large.
            ClientGone: the connection was closed before its end.
        """
        self._check_head(scope)
        chunks: list[bytes] = []
        size = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunk: bytes = message.get("body", b"")
                self._check_size(size + len(chunk), len(chunk))
                size += len(chunk)
                self.held += len(chunk)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    body, size = chunks[0] if len(chunks) == 1 else b"".join(chunks), 0
                    return body
        finally:
            self.held -= size  # 0 for a whole body, which is released later

    def release(self, body: bytes) -> None:
        """The body of a ``read`` is not used any more."""
        self.held -= len(body)

    def _check_head(self, scope: Scope) -> None:
        encoding = (header(scope, b"content-encoding") or "identity").strip().lower()
        # The parser takes any coding that ends with `chunked`, such as `gzip, chunked`.
        transfer = (header(scope, b"transfer-encoding") or "chunked").strip().lower()
        if encoding not in {"", "identity"} or transfer != "chunked":
            raise Refusal(415, "the body is compressed, but this server takes plain bodies only; send it uncompressed")
        length = header(scope, b"content-length")
        if length is not None and length.isdigit():
            self._check_size(int(length), 0)

    def _check_size(self, size: int, more: int) -> None:
        if size > self._max_body:
            raise Refusal(
                413,
                f"the body has more than {self._max_body / _MIB:g} MiB, but that is the limit; send fewer images in a "
                "request, or raise serve.max_body_mib",
            )
        if self.held + more > self._max_all:
            raise Refusal(
                429,
                f"the bodies of all requests together have more than {self._max_all / _MIB:g} MiB, but that is the "
                "limit; send fewer at a time, or raise serve.max_bodies_mib",
                headers={"retry-after": "1"},
            )
