"""The Open Inference Protocol over one kept HTTP connection, with tensors as raw bytes.

Source: Open Inference Protocol v2, and Triton's extension "binary tensor data".
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson

from engines.backends.triton.options import RemoteOptions
from engines.backends.triton.server import (
    SCORES_NEEDED,
    ServedSignature,
    ServerFault,
    Tensor,
    batch_limit,
    one_line,
    reading,
    scores_from,
    token_refused,
    translated,
)
from engines.base import INPUT_NAME, OUTPUT_NAME, Images, Scores

_HEADER_LENGTH = "Inference-Header-Content-Length"
_MAX_ANSWER_BYTES = 16 * 2**20
_OK = 200
# A server that does not have the model's configuration says so with one of these.
_NO_CONFIG = (400, 404, 405, 501)
_TOKEN_REFUSED = (401, 403)
_FAULTS = (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, RuntimeError, MemoryError)


class HttpServer:
    """A client of one model; see ``Server``. The name is resolved once, so no call waits for a name server."""

    def __init__(self, options: RemoteOptions, *, classes: int) -> None:
        """Resolve the server's name and read certificates and token.

        Raises:
            ServerFault: the name cannot be resolved, or ``ca_file`` cannot be used.
            EngineUnavailable: the token cannot be read.
        """
        self._options = options
        self._classes = classes
        self._context = _context(options)
        self._addresses = _addresses(options)
        token = options.token()
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        version = f"/versions/{quote(options.version)}" if options.version else ""
        self._path = f"/v2/models/{quote(options.model)}{version}"
        self._sock: _TimedSocket | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._is_running = self._is_interrupted = False

    def signature(self, *, deadline_s: float) -> ServedSignature:
        """See ``Server.signature``."""
        with translated(_FAULTS, _failure):
            if self._call("GET", f"{self._path}/ready", deadline_s=deadline_s)[0] != _OK:
                raise ServerFault(f"its model {self._options.model} is not ready")
            server, model = (self._json("GET", path, deadline_s) for path in ("/v2", self._path))
            status, _, content = self._call("GET", f"{self._path}/config", deadline_s=deadline_s)
            if status != _OK and status not in _NO_CONFIG:
                raise ServerFault(_refusal(status, content))
            with reading("the server's name and version, and the model's inputs and outputs,"):
                config = orjson.loads(content) if status == _OK else None
                return signature_from(server, model, config)

    def infer(self, batch: Images, *, deadline_s: float) -> Scores:
        """See ``Server.infer``."""
        with translated(_FAULTS, _failure):
            pixels = np.ascontiguousarray(batch).data.cast("B")
            header = self._request(batch.shape, len(pixels), deadline_s)
            status, headers, content = self._call(
                "POST",
                f"{self._path}/infer",
                deadline_s=deadline_s,
                body=(header, pixels),
                headers={_HEADER_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"},
            )
            if status != _OK:
                raise ServerFault(_refusal(status, content))
            with reading(SCORES_NEEDED):
                length = headers.get(_HEADER_LENGTH)
                return self._scores(content, None if length is None else int(length), count=len(batch))

    def interrupt(self) -> None:
        """See ``Server.interrupt``."""
        self._is_interrupted = True
        sock = self._sock
        if self._is_running and sock is not None:
            sock.shut_down()

    def close(self) -> None:
        """See ``Server.close``."""
        connection, self._connection = self._connection, None
        sock, self._sock = self._sock, None
        if connection is not None and sock is not None:
            with contextlib.suppress(*_FAULTS):
                sock.close()
                connection.close()

    def _request(self, shape: Sequence[int], size: int, deadline_s: float) -> bytes:
        """The JSON part of a request; the server drops the request when its time, in microseconds, is over."""
        left_us = max(1, int((deadline_s - time.monotonic()) * 1e6))
        parameters = {"binary_data_size": size}
        image = {"name": INPUT_NAME, "shape": list(shape), "datatype": "UINT8", "parameters": parameters}
        wanted = {"name": OUTPUT_NAME, "parameters": {"binary_data": True}}
        return orjson.dumps({"inputs": [image], "outputs": [wanted], "parameters": {"timeout": left_us}})

    def _scores(self, content: bytes, length: int | None, *, count: int) -> Scores:
        answer = orjson.loads(content if length is None else content[:length])
        (output,) = (one for one in answer["outputs"] if one["name"] == OUTPUT_NAME)
        if "data" in output:  # a server without the extension answers in JSON
            raw = np.asarray(output["data"], "<f4").tobytes()
        else:
            raw = content[length:] if length is not None else b""
        return scores_from(raw, datatype=output["datatype"], shape=output["shape"], count=count, classes=self._classes)

    def _json(self, method: str, path: str, deadline_s: float) -> Mapping[str, Any]:
        status, _, content = self._call(method, path, deadline_s=deadline_s)
        if status != _OK:
            raise ServerFault(_refusal(status, content))
        with reading(f"a JSON object from {path}"):
            answer = orjson.loads(content)
            if not isinstance(answer, dict):
                raise TypeError(path)
        return answer

    def _call(
        self,
        method: str,
        path: str,
        *,
        deadline_s: float,
        body: Sequence[bytes | memoryview] = (),
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send a request and read the answer, once more if the kept connection turns out to be closed."""
        self._is_interrupted = False
        self._is_running = True
        size = sum(map(len, body))
        sent = {**self._headers, **(headers or {}), **({"Content-Length": str(size)} if body else {})}
        is_kept = self._connection is not None
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)  # after a failure the next call needs a new connection
            try:
                answer = self._exchange(method, path, body, sent, deadline_s)
            except (ConnectionError, http.client.BadStatusLine):
                self.close()
                # The server may close a connection that rested, and inference changes nothing: safe to send again.
                if not is_kept or self._is_interrupted:
                    raise
                answer = self._exchange(method, path, body, sent, deadline_s)
            finally:
                self._is_running = False
            undo.pop_all()
        status, _, content = answer
        if status in _TOKEN_REFUSED:
            raise token_refused(status, _said(content), has_token=bool(self._headers))
        return answer

    def _exchange(
        self,
        method: str,
        path: str,
        body: Sequence[bytes | memoryview],
        headers: Mapping[str, str],
        deadline_s: float,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection, sock = self._connected(deadline_s)
        sock.deadline_s = deadline_s
        connection.request(method, path, body=iter(body) if body else None, headers=dict(headers))
        response = connection.getresponse()
        content = response.read(_MAX_ANSWER_BYTES + 1)
        if len(content) > _MAX_ANSWER_BYTES:
            raise ServerFault(f"its answer has more than {_MAX_ANSWER_BYTES} bytes")
        if response.will_close:
            self.close()
        return response.status, response.headers, content

    def _connected(self, deadline_s: float) -> tuple[http.client.HTTPConnection, _TimedSocket]:
        if self._connection is None or self._sock is None:
            self._sock = _connect(self._addresses, self._context, self._options.host, deadline_s)
            connection = http.client.HTTPConnection(self._options.host, self._options.port)
            connection.sock = self._sock
            connection.auto_open = 0  # it would connect without a deadline
            self._connection = connection
        return self._connection, self._sock


def signature_from(
    server: Mapping[str, Any], model: Mapping[str, Any], config: Mapping[str, Any] | None
) -> ServedSignature:
    """Read the answers of a server; ``config`` is None if it has none.

    Raises:
        LookupError, TypeError, ValueError: they are not those of the protocol.
    """
    inputs, outputs = (
        tuple(Tensor(str(one["name"]), str(one["datatype"]), tuple(map(int, one["shape"]))) for one in model[kind])
        for kind in ("inputs", "outputs")
    )
    described = () if config is None else config.get("input", ())
    return ServedSignature(
        inputs=inputs,
        outputs=outputs,
        max_batch=batch_limit(config),
        optional_inputs=frozenset(str(one["name"]) for one in described if one.get("optional") is True),
        version=", ".join(map(str, model.get("versions") or ())),
        server=(one_line(server["name"]), one_line(server["version"])),
    )


def tls_context(options: RemoteOptions) -> ssl.SSLContext:
    """Return what checks the server's certificate.

    Raises:
        ServerFault: ``ca_file`` cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=options.ca_file or None)
    except (OSError, ValueError) as exc:
        raise ServerFault(f"ca_file {options.ca_file} cannot be used: {one_line(exc)}") from exc


class _TimedSocket:
    """A socket on which no operation goes on after ``deadline_s``.

    A time limit of a socket is one for each operation: a server that sends a byte now and then would hold a call for
    ever.
    """

    def __init__(self, sock: socket.socket, deadline_s: float) -> None:
        self._sock = sock
        self.deadline_s = deadline_s

    def sendall(self, data: bytes | memoryview) -> None:
        """Send everything."""
        view = memoryview(data)
        while view:
            self._limit()
            view = view[self._sock.send(view) :]

    def recv_into(self, buffer: Any) -> int:
        """Read what is there, waiting for the first byte."""
        self._limit()
        return self._sock.recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What ``http.client`` reads an answer from."""
        return io.BufferedReader(_Reader(self))

    def shut_down(self) -> None:
        """Wake a thread that waits in an operation."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _limit(self) -> None:
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left_s)


class _Reader(io.RawIOBase):
    def __init__(self, sock: _TimedSocket) -> None:
        self._timed = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._timed.recv_into(buffer)


def _context(options: RemoteOptions) -> ssl.SSLContext | None:
    return tls_context(options) if options.tls else None


def _addresses(options: RemoteOptions) -> tuple[tuple[Any, ...], ...]:
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise ServerFault(f"its name cannot be resolved: {one_line(exc)}") from exc
    return tuple((family, address) for family, _, _, _, address in found)


def _connect(
    addresses: Sequence[tuple[Any, ...]], context: ssl.SSLContext | None, host: str, deadline_s: float
) -> _TimedSocket:
    last: OSError = ConnectionError("there is no address")
    for number, (family, address) in enumerate(addresses):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            # An address that does not answer leaves time for the others.
            left_s = max(deadline_s - time.monotonic(), 0.001)
            sock.settimeout(left_s / (len(addresses) - number))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                sock.settimeout(max(deadline_s - time.monotonic(), 0.001))
                sock = context.wrap_socket(sock, server_hostname=host)
            return _TimedSocket(sock, deadline_s)
        except OSError as exc:
            sock.close()
            last = exc
    raise last


def _refusal(status: int, content: bytes) -> str:
    return f"it answered {status}: {one_line(_said(content))}"


def _said(content: bytes) -> object:
    try:
        return orjson.loads(content)["error"]
    except (ValueError, LookupError, TypeError):
        return content[:200].decode("ascii", "replace")


def _failure(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, http.client.RemoteDisconnected):
        return "it closed the connection without an answer, as a server does that expects TLS (tls: true)"
    if isinstance(error, http.client.BadStatusLine | http.client.LineTooLong | http.client.UnknownProtocol):
        return "its answer is no HTTP; give its port of HTTP, or set protocol: grpc if this is its port of gRPC"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was refused: {one_line(error.verify_message)}; name its authority with ca_file"
    if isinstance(error, ssl.SSLError):
        return f"TLS with it failed: {one_line(error.reason)}; set tls: false, or give its port of TLS"
    return one_line(getattr(error, "strerror", None) or error)
