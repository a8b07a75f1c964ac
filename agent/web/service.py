"""The server of one configuration: its sockets, tokens, certificate and faces; a reload replaces it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.config.loader import LoadedConfig
from agent.config.sections.serve import ServeConfig
from agent.runtime.errors import BROKEN_IMPORT, PartMissing
from agent.runtime.logs import get_logger
from agent.web.http.app import HttpApp
from agent.web.http.bodies import Bodies
from agent.web.http.infer import Inference
from agent.web.http.listener import HttpListener, bind
from agent.web.inputs import Tls, read_inputs
from agent.web.metrics.exposition import Metrics
from agent.web.page.routes import ROOT as PAGE_ROOT
from agent.web.page.routes import PageRoutes, make_page
from agent.web.page.sources import PageSources
from agent.web.served_models import ServedModels
from agent.web.tokens import Gate, Tokens
from agent.web.work import WorkThreads

if TYPE_CHECKING:
    from agent.web.grpc.calls import InferenceCalls
    from agent.web.grpc.listener import GrpcListener

log = get_logger(__name__)

_MIB = 1 << 20
_DECODERS = 2
_STOP_S = 0.5
_GRPC_STOP_S = 1.0


class WebService:
    """Owns the server of the configuration in force, and its threads. ``start`` and ``stop`` on the main thread.

    The sockets are bound at once, so an address that is in use is an error at the start, not later.
    """

    def __init__(
        self,
        loaded: LoadedConfig,
        models: ServedModels,
        metrics: Metrics | None = None,
        page: PageSources | None = None,
    ) -> None:
        """``page`` is what the page shows; None without one.

        Raises:
            AgentError: the address, the tokens or the certificate cannot be used.
        """
        self._models = models
        self._metrics = metrics
        self._page = page
        self._lock = threading.Lock()
        self._is_stopped = False
        self._prepared: socket.socket | None = None
        self._inputs, tokens, tls = read_inputs(loaded)
        _require_free(self._inputs.config)
        self._socket = _bound(self._inputs.config)
        self._faces = self._made(self._inputs.config, tokens, tls, self._socket)

    def start(self) -> None:
        """Start to answer."""
        self._faces.start()
        models = ", ".join(self._models.names)
        log.info("serve.started", http=self.address, grpc=self.grpc_address, models=models)

    def stop(self) -> None:
        """End all connections, and wait for the threads. Idempotent."""
        with self._lock:
            self._is_stopped = True
        self._faces.stop()
        if self._socket is not None:
            self._socket.close()

    @property
    def address(self) -> str | None:
        """Where HTTP is served, with the port that was taken for port 0; None without HTTP."""
        return _address(self._inputs.config, self._socket)

    @property
    def page_url(self) -> str | None:
        """Where the page is; None without one."""
        if self.address is None or not self._inputs.config.page or self._page is None:
            return None
        return _page_url(self._inputs.config, self.address)

    @property
    def grpc_address(self) -> str | None:
        """Where gRPC is served, with the port that was taken for port 0; None without gRPC."""
        address, listener = self._inputs.config.grpc, self._faces.grpc
        return None if address is None or listener is None else f"{address.rpartition(':')[0]}:{listener.port}"

    @property
    def failure(self) -> Exception | None:
        """The exception that ended one of the threads."""
        return self._faces.failure

    def prepare(self, loaded: LoadedConfig) -> Callable[[], None] | None:
        """Check ``loaded`` and return what switches to it; None if nothing differs. ``drop`` forgets it instead.

        Raises:
            AgentError: the address, the tokens or the certificate cannot be used.
        """
        inputs, tokens, tls = read_inputs(loaded)
        if inputs == self._inputs:
            return None
        if inputs.config.grpc is not None:
            _grpc_face()
        if inputs.config.grpc != self._inputs.config.grpc:
            _require_free(inputs.config)
        if inputs.config.http == self._inputs.config.http:
            listening = self._socket
        else:
            listening = self._prepared = _bound(inputs.config)

        def apply_change() -> None:
            self._prepared = None
            faces = self._made(inputs.config, tokens, tls, listening)
            self._faces.stop(_successor(inputs.config, listening))
            if self._socket is not listening and self._socket is not None:
                self._socket.close()
            with self._lock:
                self._inputs, self._socket, self._faces = inputs, listening, faces
                if self._is_stopped:
                    return
                faces.start()
            log.info("serve.changed", http=self.address, grpc=self.grpc_address)

        return apply_change

    def drop(self) -> None:
        """Close the socket of a prepared change that was not applied. On the thread of ``prepare``."""
        if self._prepared is not None:
            self._prepared.close()
            self._prepared = None

    def _made(
        self, config: ServeConfig, tokens: Tokens | None, tls: Tls | None, listening: socket.socket | None
    ) -> _Faces:
        decoders, loader = WorkThreads("decode", _DECODERS), WorkThreads("load", 1)
        bodies = Bodies(max_body=config.max_body_mib * _MIB, max_all=config.max_bodies_mib * _MIB)
        inference = Inference(self._models, bodies, decoders, max_json=config.max_json_mib * _MIB)
        gate = Gate(tokens, max_per_s=config.max_requests_per_s)
        page = None
        if config.page and self._page is not None:
            page = make_page(self._page, config, gate, is_secure=tls is not None)
        app = HttpApp(inference, gate, loader, self._metrics, page)
        context = None if tls is None else tls.context
        http = None if listening is None else HttpListener(app, config, listening, tls=context)
        grpc = None if config.grpc is None else _grpc_listener(config, self._models, gate, loader, tls)
        return _Faces(http, grpc, (decoders, loader), bodies, tokens, page)


@dataclass(frozen=True, slots=True)
class _Faces:
    """The threads of one server. ``tokens`` are kept so that no log shows them."""

    http: HttpListener | None
    grpc: GrpcListener | None
    work: tuple[WorkThreads, ...]
    bodies: Bodies
    tokens: Tokens | None
    page: PageRoutes | None

    def start(self) -> None:
        for threads in self.work:
            threads.start()
        for listener in (self.http, self.grpc):
            if listener is not None:
                listener.start()

    def stop(self, successor: str | None = None) -> None:
        """End all; ``successor`` tells viewers of the page where it is afterwards."""
        if self.page is not None:
            self.page.close(successor)
        for listener in (self.http, self.grpc):
            if listener is not None:
                listener.stop()
        for threads in self.work:
            threads.close()
        if self.http is not None and not self.http.join():
            log.warning("stop.cut_off", thread="serve-http")
        if self.grpc is not None and not self.grpc.join(_GRPC_STOP_S):
            log.warning("stop.cut_off", thread="serve-grpc")
        for threads in self.work:
            if not threads.join(_STOP_S):
                log.warning("stop.cut_off", thread="serve-decode or serve-load")

    @property
    def failure(self) -> Exception | None:
        failures = [None if self.http is None else self.http.failure, *(threads.failure for threads in self.work)]
        return next((one for one in failures if one is not None), None)


def _require_free(config: ServeConfig) -> None:
    """Raises Unavailable if another program listens on the gRPC address, which gRPC itself would share."""
    if config.grpc is not None:
        bind(config.grpc, "grpc").close()


def _grpc_listener(
    config: ServeConfig, models: ServedModels, gate: Gate, loader: WorkThreads, tls: Tls | None
) -> GrpcListener:
    listener, calls = _grpc_face()
    pair = None if tls is None else (tls.key, tls.chain)
    return listener(calls(models, gate, loader), config, certificate=pair)


def _grpc_face() -> tuple[type[GrpcListener], type[InferenceCalls]]:
    """The parts of the gRPC face; raises PartMissing without its library."""
    try:
        from agent.web.grpc.calls import InferenceCalls
        from agent.web.grpc.listener import GrpcListener
    except BROKEN_IMPORT as exc:
        raise PartMissing("serve.grpc", "grpc", exc) from exc
    return GrpcListener, InferenceCalls


def _address(config: ServeConfig, listening: socket.socket | None) -> str | None:
    if config.http is None or listening is None:
        return None
    return f"{config.http.rpartition(':')[0]}:{listening.getsockname()[1]}"


def _page_url(config: ServeConfig, address: str) -> str:
    return f"{'http' if config.tls.cert_file is None else 'https'}://{address}{PAGE_ROOT}/"


def _successor(config: ServeConfig, listening: socket.socket | None) -> str:
    """For people: where the page of ``config`` is."""
    address = _address(config, listening)
    if address is None or not config.page:
        return "it has no page, so this one ends"
    return f"the page is at {_page_url(config, address)} now"


def _bound(config: ServeConfig) -> socket.socket | None:
    return None if config.http is None else bind(config.http, "http")
