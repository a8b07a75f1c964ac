"""The engine ``triton``: batches go to a server, scores come back, each call within its time limit."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import replace
from types import TracebackType

import numpy as np

from engines.backends.batches import check_batch, check_scores
from engines.backends.triton.options import RemoteOptions, remote_options
from engines.backends.triton.server import ServedSignature, Server, ServerFault, TokenRefused, largest_batch
from engines.base import EngineInfo, EngineOptions, Images, Scores
from engines.errors import EngineUnavailable, InferenceFailed, ServerFailed
from engines.package.load import ModelPackage

_WARM_UP_RUNS = 2


class TritonEngine:
    """A model on a server. Used by one thread; only ``interrupt`` may be called from another."""

    def __init__(
        self,
        server: Server,
        *,
        info: EngineInfo,
        options: RemoteOptions,
        package: ModelPackage,
        fixed_batch: int | None,
    ) -> None:
        """Take ownership of ``server``; ``fixed_batch`` is the only batch size that its model takes."""
        self._server: Server | None = server
        self._info = info
        self._options = options
        self._size = package.input
        self._fixed_batch = fixed_batch

    @property
    def info(self) -> EngineInfo:
        """What runs."""
        return self._info

    def infer(self, batch: Images) -> Scores:
        """Classify a batch; see ``engines.base.Engine``.

        Raises:
            ServerFailed: no answer within ``timeout_ms``, or an answer that does not fit.
        """
        server = self._server
        if server is None:
            raise InferenceFailed("triton was used after it was closed. Open it again", engine="triton")
        check_batch(batch, height=self._size.height, width=self._size.width, max_batch=self._info.max_batch)
        count = len(batch)
        fed = batch if self._fixed_batch in (None, count) else self._padded(batch)
        try:
            scores = server.infer(fed, deadline_s=time.monotonic() + self._options.timeout_s)[:count]
        except ServerFault as exc:
            raise ServerFailed(
                f"{_place(self._options)} did not classify a batch of {count} within {self._options.timeout_ms} ms: "
                f"{exc}. Three in a row let a local engine take over",
                engine="triton",
                images=count,
                reason=f"{_place(self._options)}: {exc}",
            ) from exc
        check_scores(scores, engine="triton")
        return scores

    def interrupt(self) -> None:
        """End the running call; a later one is not affected."""
        server = self._server
        if server is not None:
            server.interrupt()

    def close(self) -> None:
        """Close the connection."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def __enter__(self) -> TritonEngine:
        """Use the engine for a while."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def warm_up(self, started_ns: int) -> None:
        """Run the smallest and the largest batch, and record the load time since ``started_ns``."""
        for size in sorted({1, self._info.max_batch}):
            grey = np.full((size, self._size.height, self._size.width, 3), 127, np.uint8)
            for _ in range(_WARM_UP_RUNS):
                self.infer(grey)
        self._info = replace(self._info, load_ms=(time.perf_counter_ns() - started_ns) / 1e6)

    def _padded(self, batch: Images) -> Images:
        padded = np.zeros((self._fixed_batch or 1, *batch.shape[1:]), np.uint8)
        padded[: len(batch)] = batch
        return padded


def open_triton(package: ModelPackage, options: EngineOptions) -> TritonEngine:
    """Connect, hold the server's model against ``package``, and run the smallest and the largest batch.

    Raises:
        OptionsRejected: an option that does not exist, is missing or has a wrong value.
        EngineUnavailable: the server cannot serve this package now; the message says why.
        InferenceFailed: it gave NaN or infinity for a whole batch.
    """
    started_ns = time.perf_counter_ns()
    remote = remote_options(options.options)
    try:
        with ExitStack() as undo:
            server = undo.enter_context(closing(connect(remote, classes=package.signature.classes)))
            served = server.signature(deadline_s=time.monotonic() + remote.timeout_s)
            max_batch, fixed = largest_batch(served, package, wanted=options.max_batch)
            info = _info(package, options, remote, served, max_batch)
            engine = TritonEngine(server, info=info, options=remote, package=package, fixed_batch=fixed)
            engine.warm_up(started_ns)
            undo.pop_all()
            return engine
    except (ServerFault, ServerFailed) as exc:
        raise _unavailable(remote, exc) from exc


def connect(options: RemoteOptions, *, classes: int) -> Server:
    """Return a client for the protocol of ``options``.

    Raises:
        EngineUnavailable: a library or the token is missing. ServerFault: the server's name cannot be resolved, ...
    """
    # Each is imported on use: opening another engine must not wait for a client of this one.
    if options.protocol == "http":
        from engines.backends.triton.http import HttpServer

        return HttpServer(options, classes=classes)
    try:
        from engines.backends.triton.grpc import GrpcServer
    except (ImportError, OSError) as exc:
        remedy = "add the part [grpc] of the agent, as docs/installation.md says, or set protocol: http"
        raise EngineUnavailable(
            f"engine triton has protocol grpc, but grpcio cannot be imported: {exc}. To get it, {remedy}",
            engine="triton",
            reason=f"grpcio cannot be imported: {exc}",
            remedy=remedy,
        ) from exc
    return GrpcServer(options, classes=classes)


def _info(
    package: ModelPackage, options: EngineOptions, remote: RemoteOptions, served: ServedSignature, max_batch: int
) -> EngineInfo:
    name, version = served.server
    return EngineInfo(
        name="triton",
        requested=options.engine,
        # A server does not say what it computes in; the accuracy check accepts its answers by the limits of this one.
        precision=options.precision,
        requested_precision=options.precision,
        device=f"{name} {version} at {remote.url}",
        max_batch=max_batch,
        classes=package.signature.classes,
        versions={name: version},
        details={
            "url": remote.url,
            "protocol": remote.protocol,
            "tls": remote.tls,
            "timeout_ms": remote.timeout_ms,
            "model": remote.model,
            "model_version": remote.version or served.version,
        },
    )


def _unavailable(remote: RemoteOptions, error: Exception) -> EngineUnavailable:
    # A failed warm-up names the place itself.
    fault = error.__cause__ if isinstance(error, ServerFailed) else error
    remedy = _TOKEN_REMEDY if isinstance(fault, TokenRefused) else _REMEDY
    return EngineUnavailable(
        f"engine triton needs {_place(remote)}, but {fault}. To get it, {remedy}",
        engine="triton",
        reason=f"{_place(remote)}: {fault}",
        remedy=remedy,
    )


_REMEDY = "see that the server runs, is reachable and has loaded this package's model"
_TOKEN_REMEDY = "write a token that the server knows into a file, and name it with the option token_file"  # noqa: S105 a text


def _place(remote: RemoteOptions) -> str:
    return f"model {remote.model} at {remote.url} ({remote.protocol})"
