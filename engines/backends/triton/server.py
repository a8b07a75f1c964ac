"""What a client of either protocol does, the model's signature on the server, and the checks of its answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engines.base import INPUT_NAME, OUTPUT_NAME, Images, Scores
from engines.package.load import ModelPackage

_TEXT_CHARS = 300
SCORES_NEEDED = f"JSON with {OUTPUT_NAME!r} among its outputs, and their datatype, shape and data,"
"""What an answer with scores has; see ``reading``."""


class ServerFault(Exception):
    """What went wrong between this device and the server, as one line; never the token."""


class TokenRefused(ServerFault):
    """The server does not know the token, or wants one."""


def token_refused(code: object, said: object, *, has_token: bool) -> TokenRefused:
    """The fault of a call that the server answered with ``code``, a status of HTTP or gRPC, and the words ``said``."""
    what = "the token" if has_token else "a call without a token"
    words = one_line(said)
    return TokenRefused(f"it refused {what} ({code}){': ' if words else ''}{words}")


@contextlib.contextmanager
def translated(kinds: tuple[type[Exception], ...], said: Callable[[Exception], str]) -> Iterator[None]:
    """Turn the exceptions of ``kinds``, which a library raises, into a fault with what ``said`` makes of each.

    Raises:
        ServerFault: always that.
    """
    try:
        yield
    except ServerFault:
        raise
    except kinds as exc:
        raise ServerFault(said(exc) or type(exc).__name__) from exc


@contextlib.contextmanager
def reading(needed: str) -> Iterator[None]:
    """Read an answer of the server inside, and do nothing else.

    Raises:
        ServerFault: the answer is none of the protocol, which has ``needed``.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as exc:
        raise ServerFault(f"it answered what is no Open Inference Protocol: {needed} is needed") from exc


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output as the server describes it; -1 is a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ServedSignature:
    """How the server serves the model. ``max_batch``: the largest batch, None if the server states none.

    ``optional_inputs``: inputs that a request may leave out. ``server``: the server's name and version.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch: int | None
    optional_inputs: frozenset[str]
    version: str
    server: tuple[str, str]


class Server(Protocol):
    """One kept connection to a server. One thread uses it; only ``interrupt`` may be called from another."""

    def signature(self, *, deadline_s: float) -> ServedSignature:
        """Ask whether the model is ready and what it takes. ``deadline_s`` is on ``time.monotonic``.

        Raises:
            ServerFault: no connection, not ready, or an answer that is none.
        """
        ...

    def infer(self, batch: Images, *, deadline_s: float) -> Scores:
        """Send ``(N, H, W, 3)`` uint8 and return fresh ``(N, classes)`` float32.

        Raises:
            ServerFault: no answer in time, an error of the server, or an answer that does not fit.
        """
        ...

    def interrupt(self) -> None:
        """End the running call; no effect between calls."""
        ...

    def close(self) -> None:
        """Close the connection; harmless when called twice."""
        ...


def largest_batch(served: ServedSignature, package: ModelPackage, *, wanted: int) -> tuple[int, int | None]:
    """Hold the server's signature against ``package``; return the largest batch, and the fixed one if it is fixed.

    Raises:
        ServerFault: with what the server has and what the package needs.
    """
    height, width, classes = package.input.height, package.input.width, package.signature.classes
    images = _named(served.inputs, INPUT_NAME, "input")
    needed = [one.name for one in served.inputs if one.name not in {INPUT_NAME, *served.optional_inputs}]
    if needed:
        raise ServerFault(
            f"its model also needs the inputs {', '.join(needed)}, but the agent only sends {INPUT_NAME!r}"
        )
    _require(images, "UINT8", (height, width, 3))
    scores = _named(served.outputs, OUTPUT_NAME, "output")
    _require(scores, "FP32", (classes,))
    fixed = images.shape[0]
    if fixed == -1:
        return (wanted if served.max_batch is None else min(wanted, served.max_batch)), None
    return fixed, fixed


def scores_from(content: bytes, *, datatype: str, shape: Sequence[int], count: int, classes: int) -> Scores:
    """Return the scores of a raw output tensor as a fresh array.

    Raises:
        ServerFault: another type, shape or size than ``(count, classes)`` float32.
    """
    if datatype != "FP32" or list(shape) != [count, classes] or len(content) != 4 * count * classes:
        raise ServerFault(
            f"it answered {datatype} {list(shape)} in {len(content)} bytes, but FP32 [{count}, {classes}] was needed"
        )
    return np.frombuffer(content, "<f4").reshape(count, classes).astype(np.float32)


def one_line(text: object) -> str:
    """Return a server's text as one printable line of limited length."""
    line = "".join(char if char.isprintable() else " " for char in " ".join(str(text).split()))
    return line[:_TEXT_CHARS]


def batch_limit(config: Mapping[str, object] | None) -> int | None:
    """Return ``max_batch_size`` of a model's configuration; 0 there means that the model's own shape decides."""
    given = None if config is None else config.get("max_batch_size")
    return given if isinstance(given, int) and given > 0 else None


def _named(tensors: Sequence[Tensor], name: str, kind: str) -> Tensor:
    for tensor in tensors:
        if tensor.name == name:
            return tensor
    names = ", ".join(tensor.name for tensor in tensors) or "none"
    raise ServerFault(f"its model has the {kind}s {names}, but the agent needs {name!r}: serve the serving graph")


def _require(tensor: Tensor, datatype: str, row: tuple[int, ...]) -> None:
    batch, *rest = tensor.shape or (0,)
    if tensor.datatype != datatype or tuple(rest) != row or not (batch == -1 or batch >= 1):
        raise ServerFault(
            f"its model has {tensor.name!r} as {tensor.datatype} {list(tensor.shape)}, but the package needs "
            f"{datatype} {[-1, *row]}"
        )
