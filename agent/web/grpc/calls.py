"""The calls of `GRPCInferenceService`. Those of trace, shared memory and log settings answer UNIMPLEMENTED."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from queue import SimpleQueue
from typing import Any, TypeVar

import grpc
import numpy as np
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from agent.web.call_faults import FAULT_TEXT, fault_logger
from agent.web.descriptions import (
    NO_LOG_SETTINGS,
    NO_SHARED_MEMORY,
    NO_TRACE,
    index_entry,
    model_config,
    model_metadata,
    server_metadata,
    statistics_of,
)
from agent.web.grpc.tensors import call_from_request, response_from_scores
from agent.web.http.replies import Refusal, status_of
from agent.web.served_models import (
    VERSION,
    Answer,
    BadInput,
    DeadlinePassed,
    QueueFull,
    RequestRefused,
    ServedModels,
    UnknownModel,
)
from agent.web.tokens import Gate, TooManyRequests
from agent.web.work import WorkThreads
from engines import PROTOCOL_SERVICE, protocol_message

T = TypeVar("T")
fault_logger("grpc._server")
_OPEN = frozenset({"ServerLive", "ServerReady"})
"""Answered without a token, as over HTTP."""
_STREAM = "ModelStreamInfer"
_ABSENT = {
    "TraceSetting": NO_TRACE,
    "LogSettings": NO_LOG_SETTINGS,
    **{
        f"{kind}SharedMemory{call}": NO_SHARED_MEMORY
        for kind in ("System", "Cuda")
        for call in ("Status", "Register", "Unregister")
    },
}
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
}
"""By the status that HTTP answers; UNAVAILABLE for others."""


class InferenceCalls(grpc.GenericRpcHandler):
    """Finds the method of a call and runs it, with a token where one is needed. On many threads.

    ``loader`` loads models, so no call holds a thread of the server longer than its client waits.
    """

    def __init__(self, models: ServedModels, gate: Gate, loader: WorkThreads) -> None:
        self._models = models
        self._gate = gate
        self._loader = loader
        methods: dict[str, Callable[[Any, Any], Any]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            "ModelInfer": self._infer,
        }
        self._handlers = {name: self._handler(name, method) for name, method in methods.items()}
        self._handlers[_STREAM] = grpc.stream_stream_rpc_method_handler(self._stream)
        self._handlers |= {name: _unimplemented(text) for name, text in _ABSENT.items()}

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call; one that answers UNIMPLEMENTED with what to do for a method that is not there."""
        service, _, name = handler_call_details.method.rpartition("/")
        if service != PROTOCOL_SERVICE:
            return _OTHER_SERVICE
        return self._handlers.get(name, _OTHER_CALL)

    def _handler(self, name: str, method: Callable[[Any, Any], Any]) -> Any:
        # As a stream, of which gRPC does not wait for the first message: who has no token must not hold a thread.
        return grpc.stream_unary_rpc_method_handler(
            lambda messages, context: self._answer(name, method, messages, context)
        )

    def _answer(self, name: str, method: Callable[[Any, Any], Any], messages: Iterator[bytes], context: Any) -> bytes:
        _expect_fault(context)
        try:
            request = None  # of those that anybody may ask, it has no fields
            if name not in _OPEN:
                self._admit(context)
                request = _parsed(name, _only(messages))
            answer: bytes = method(request, context).SerializeToString()
        except RequestRefused as exc:
            _abort(context, exc)
            raise  # never: abort raises
        except CancelledError:
            context.abort(grpc.StatusCode.CANCELLED, "the client cancelled the call")
            raise
        _expect_no_fault(context)
        return answer

    def _stream(self, requests: Iterable[bytes], context: Any) -> Iterator[bytes]:
        """Answer one after the other; a request that is refused has its error in the stream, which goes on."""
        _expect_fault(context)
        try:
            self._admit(context)
        except RequestRefused as exc:
            _abort(context, exc)
        try:
            for data in requests:
                yield self._answer_in_stream(data, context).SerializeToString()
        except CancelledError:
            pass
        _expect_no_fault(context)

    def _answer_in_stream(self, data: bytes, context: Any) -> Any:
        response_of = protocol_message("ModelStreamInferResponse")
        call_id = ""
        try:
            request = _parsed("ModelInfer", data)
            call_id = request.id
            return response_of(infer_response=self._infer(request, context))
        except RequestRefused as exc:
            return response_of(error_message=exc.message, infer_response={"id": call_id})

    def _admit(self, context: Any) -> None:
        given = [value for key, value in context.invocation_metadata() if key == "authorization"]
        if len(given) > 1:  # as over HTTP: a proxy may look at the other one
            raise BadInput("the call has the metadata authorization twice, but it may be there once; send one of them")
        self._gate.admit(given[0] if given and isinstance(given[0], str) else None)

    def _infer(self, request: Any, context: Any) -> Any:
        model = self._models.get(request.model_name, request.model_version)
        call = call_from_request(request, model)
        images = call.images
        if images is None:
            images = np.stack([model.decode(one) for one in call.encoded])
        left_s = context.time_remaining()
        timeout_s = min((one for one in (left_s, call.timeout_s) if one is not None), default=None)
        if timeout_s is not None and timeout_s <= 0:
            raise DeadlinePassed("Request timeout expired: its deadline was over when it arrived")
        future: Future[Answer] = Future()

        def start() -> None:
            model.submit(images, priority=call.priority, timeout_s=timeout_s, future=future)

        return response_from_scores(call, _result(future, context, start).scores, model)

    def _live(self, _: Any, __: Any) -> Any:
        return protocol_message("ServerLiveResponse")(live=True)

    def _ready(self, _: Any, __: Any) -> Any:
        return protocol_message("ServerReadyResponse")(ready=self._models.is_ready)

    def _model_ready(self, request: Any, _: Any) -> Any:
        try:
            is_ready = self._models.get(request.name, request.version).is_ready
        except RequestRefused:
            is_ready = False
        return protocol_message("ModelReadyResponse")(ready=is_ready)

    def _server_metadata(self, _: Any, __: Any) -> Any:
        return _filled("ServerMetadataResponse", server_metadata())

    def _model_metadata(self, request: Any, _: Any) -> Any:
        return _filled("ModelMetadataResponse", model_metadata(self._models.get(request.name, request.version)))

    def _model_config(self, request: Any, _: Any) -> Any:
        model = self._models.get(request.name, request.version)
        return _filled("ModelConfigResponse", {"config": model_config(model)})

    def _model_statistics(self, request: Any, _: Any) -> Any:
        names = (self._known(request),) if request.name else self._models.names
        entries = [statistics_of(name, VERSION, self._models.statistics(name)) for name in names]
        return _filled("ModelStatisticsResponse", {"model_stats": entries})

    def _known(self, request: Any) -> str:
        try:
            return self._models.check(request.name, request.version)
        except UnknownModel as exc:  # for statistics alone Triton takes it for a bad argument
            raise BadInput(exc.message) from exc

    def _index(self, request: Any, _: Any) -> Any:
        entries = [one for one in self._models.index() if one.state == "READY" or not request.ready]
        return _filled("RepositoryIndexResponse", {"models": [index_entry(one) for one in entries]})

    def _load(self, request: Any, context: Any) -> Any:
        if request.parameters:
            raise Refusal(501, "a model cannot be loaded with parameters; change the configuration file instead")
        _result(self._loader.submit(lambda: self._models.load(request.model_name)), context)
        return protocol_message("RepositoryModelLoadResponse")()

    def _unload(self, request: Any, context: Any) -> Any:
        _result(self._loader.submit(lambda: self._models.unload(request.model_name)), context)
        return protocol_message("RepositoryModelUnloadResponse")()


def _result(future: Future[T], context: Any, start: Callable[[], None] | None = None) -> T:
    """The result of ``future``, which is cancelled when the call ends: its client went, or its deadline passed.

    ``start`` begins the work for ``future``, after all that this call prepares: see RequestQueue.submit.

    Raises:
        CancelledError: the call ended first, also if the engine still works on it.
        RequestRefused: see ``agent.web.served_models``.
    """
    ended: SimpleQueue[object] = SimpleQueue()
    future.add_done_callback(ended.put)
    if context.add_callback(lambda: ended.put(None)):
        if start is not None:
            start()
        ended.get()
    if not future.done():
        future.cancel()
        raise CancelledError
    return future.result()


def _only(messages: Iterator[bytes]) -> bytes:
    """The message of a call that has one."""
    data = next(messages, None)
    if data is None:
        raise BadInput("the call ended without a message; send one")
    return data


def _parsed(name: str, data: bytes) -> Any:
    """The request of the call ``name``. Not by gRPC, which answers INTERNAL and logs the client's mistake."""
    try:
        return protocol_message(f"{name}Request").FromString(data)
    except DecodeError as exc:
        raise BadInput(f"the message is no {name}Request: {exc}; send one of the protocol's") from exc


def _expect_fault(context: Any) -> None:
    """From here on gRPC answers an exception that nobody expects with INTERNAL, and not with its text."""
    context.set_code(grpc.StatusCode.INTERNAL)
    context.set_details(FAULT_TEXT)


def _expect_no_fault(context: Any) -> None:
    context.set_code(grpc.StatusCode.OK)
    context.set_details("")


def _unimplemented(text: str) -> Any:
    """A handler that refuses a call, whatever its message is."""
    return grpc.stream_unary_rpc_method_handler(lambda _, context: context.abort(grpc.StatusCode.UNIMPLEMENTED, text))


def _filled(name: str, values: dict[str, Any]) -> Any:
    return ParseDict(values, protocol_message(name)())


def _abort(context: Any, error: RequestRefused) -> None:
    if isinstance(error, QueueFull | TooManyRequests):
        context.set_trailing_metadata((("retry-after", str(error.retry_after_s)),))
    context.abort(_CODES.get(status_of(error), grpc.StatusCode.UNAVAILABLE), error.message)


_OTHER_CALL = _unimplemented(
    f"{PROTOCOL_SERVICE} has no such call here; use those of the Open Inference Protocol version 2"
)
_OTHER_SERVICE = _unimplemented(f"this server has the service {PROTOCOL_SERVICE} alone; call that one")
