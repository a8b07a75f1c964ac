"""The Open Inference Protocol over gRPC, with tensors as raw bytes."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from engines.backends.triton.http import tls_context
from engines.backends.triton.messages import SERVICE, message
from engines.backends.triton.options import RemoteOptions
from engines.backends.triton.server import (
    SCORES_NEEDED,
    ServedSignature,
    ServerFault,
    Tensor,
    one_line,
    reading,
    scores_from,
    token_refused,
    translated,
)
from engines.base import INPUT_NAME, OUTPUT_NAME, Images, Scores

_NO_CONFIG = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND)
_TOKEN_REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_FAULTS = (grpc.RpcError, DecodeError, OSError, ValueError, LookupError, TypeError, RuntimeError, MemoryError)
_CHANNEL = (
    ("grpc.max_receive_message_length", 16 * 2**20),
    ("grpc.max_send_message_length", -1),
    # A proxy of the environment is for browsers; a server in the local network is not behind it.
    ("grpc.enable_http_proxy", 0),
    # Channels with equal options would share a connection, and closing one would not close it.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class GrpcServer:
    """A client of one model; see ``Server``."""

    def __init__(self, options: RemoteOptions, *, classes: int) -> None:
        """Read certificates and token; the connection is made by the first call.

        Raises:
            ServerFault: ``ca_file`` cannot be used.
            EngineUnavailable: the token cannot be read.
        """
        self._options = options
        self._classes = classes
        token = options.token()
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._credentials = _credentials(options)
        self._channel: Any = None
        self._is_running = False

    def signature(self, *, deadline_s: float) -> ServedSignature:
        """See ``Server.signature``."""
        with translated(_FAULTS, _failure):
            named = {"name": self._options.model, "version": self._options.version}
            if not self._ask("ModelReady", deadline_s, **named).ready:
                raise ServerFault(f"its model {self._options.model} is not ready")
            server = self._ask("ServerMetadata", deadline_s)
            model = self._ask("ModelMetadata", deadline_s, **named)
            config = self._config(deadline_s, named)
        return ServedSignature(
            inputs=tuple(Tensor(one.name, one.datatype, tuple(one.shape)) for one in model.inputs),
            outputs=tuple(Tensor(one.name, one.datatype, tuple(one.shape)) for one in model.outputs),
            max_batch=None if config is None or config.max_batch_size <= 0 else config.max_batch_size,
            optional_inputs=frozenset(one.name for one in config.input if one.optional) if config else frozenset(),
            version=", ".join(model.versions),
            server=(one_line(server.name), one_line(server.version)),
        )

    def infer(self, batch: Images, *, deadline_s: float) -> Scores:
        """See ``Server.infer``."""
        with translated(_FAULTS, _failure):
            request = message("ModelInferRequest")(model_name=self._options.model, model_version=self._options.version)
            request.inputs.add(name=INPUT_NAME, datatype="UINT8", shape=batch.shape)
            request.outputs.add(name=OUTPUT_NAME)
            request.parameters["timeout"].int64_param = max(1, int((deadline_s - time.monotonic()) * 1e6))
            request.raw_input_contents.append(np.ascontiguousarray(batch).tobytes())
            answer = self._call("ModelInfer", request, deadline_s)
            with reading(SCORES_NEEDED):
                return self._scores(answer, count=len(batch))

    def interrupt(self) -> None:
        """See ``Server.interrupt``."""
        channel = self._channel
        if self._is_running and channel is not None:
            channel.close()  # it cancels the running call

    def close(self) -> None:
        """See ``Server.close``."""
        channel, self._channel = self._channel, None
        if channel is not None:
            with contextlib.suppress(*_FAULTS):
                channel.close()

    def _scores(self, answer: Any, *, count: int) -> Scores:
        (place,) = (index for index, one in enumerate(answer.outputs) if one.name == OUTPUT_NAME)
        output = answer.outputs[place]
        if answer.raw_output_contents:
            raw = answer.raw_output_contents[place]
        else:  # a server may also answer in typed values
            raw = np.asarray(output.contents.fp32_contents, "<f4").tobytes()
        return scores_from(raw, datatype=output.datatype, shape=output.shape, count=count, classes=self._classes)

    def _config(self, deadline_s: float, named: dict[str, str]) -> Any:
        try:
            return self._ask("ModelConfig", deadline_s, **named).config
        except grpc.RpcError as exc:
            if _code(exc) in _NO_CONFIG:
                return None
            raise

    def _ask(self, method: str, deadline_s: float, **fields: str) -> Any:
        return self._call(method, message(f"{method}Request")(**fields), deadline_s)

    def _call(self, method: str, request: Any, deadline_s: float) -> Any:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise ServerFault("it did not answer in time")
        call = self._opened().unary_unary(
            f"{SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=message(f"{method}Response").FromString,
        )
        self._is_running = True
        with contextlib.ExitStack() as undo:
            # An interrupted channel is closed; after another failure a new one connects at once, without a pause.
            undo.callback(self.close)
            try:
                answer = call(request, timeout=left_s, metadata=self._metadata)
            except grpc.RpcError as exc:
                if _code(exc) in _TOKEN_REFUSED:
                    refused: Any = exc
                    raise token_refused(
                        _code(exc).name, refused.details() or "", has_token=bool(self._metadata)
                    ) from exc
                raise
            finally:
                self._is_running = False
            undo.pop_all()
        return answer

    def _opened(self) -> Any:
        if self._channel is None:
            url = self._options.url
            if self._credentials is None:
                self._channel = grpc.insecure_channel(url, options=_CHANNEL)
            else:
                self._channel = grpc.secure_channel(url, self._credentials, options=_CHANNEL)
        return self._channel


def _credentials(options: RemoteOptions) -> Any:
    if not options.tls:
        return None
    tls_context(options)  # it says what is wrong with ca_file; gRPC fails at the first call, without a reason
    if not options.ca_file:
        return grpc.ssl_channel_credentials()
    try:
        return grpc.ssl_channel_credentials(root_certificates=Path(options.ca_file).read_bytes())
    except OSError as exc:
        raise ServerFault(f"ca_file {options.ca_file} cannot be used: {one_line(exc)}") from exc


def _code(error: object) -> Any:
    return error.code() if isinstance(error, grpc.Call) else None


def _failure(error: object) -> str:
    if _code(error) is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "it did not answer in time"
    if not isinstance(error, grpc.Call):
        return one_line(error)
    return f"{_code(error).name}: {one_line(error.details() or 'without a reason')}"
