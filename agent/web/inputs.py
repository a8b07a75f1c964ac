"""What a server is made from, beside its addresses: its section, the tokens and the certificate, each checked."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent.config.loader import LoadedConfig
from agent.config.sections.serve import ServeConfig
from agent.runtime.errors import ConfigError
from agent.runtime.secrets import SecretKind, read_secret_bytes
from agent.web.tokens import Tokens, read_tokens


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a server is made from; one whose inputs are the same need not be replaced."""

    config: ServeConfig
    clients: dict[bytes, str] | None
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Tls:
    """The certificate in the forms of both faces. Never logged: it holds the key."""

    context: ssl.SSLContext
    chain: bytes
    key: bytes = field(repr=False)


def read_inputs(loaded: LoadedConfig) -> tuple[Inputs, Tokens | None, Tls | None]:
    """Read the files that ``serve`` names.

    Raises:
        ConfigError: the tokens or the certificate cannot be used.
    """
    tokens, tls = _tokens(loaded), _tls(loaded)
    certificate = b"" if tls is None else tls.chain
    return Inputs(loaded.config.serve, None if tokens is None else dict(tokens.clients), certificate), tokens, tls


def input_faults(loaded: LoadedConfig) -> Iterator[tuple[str, str]]:
    """What ``read_inputs`` would refuse: the key below ``serve``, and why."""
    for key, fault in (("tokens_file", _fault(_tokens, loaded)), ("tls", _fault(_tls, loaded))):
        if fault is not None:
            yield key, fault


def _fault(read: Callable[[LoadedConfig], object], loaded: LoadedConfig) -> str | None:
    try:
        read(loaded)
    except ConfigError as exc:
        return exc.message
    return None


def _tokens(loaded: LoadedConfig) -> Tokens | None:
    file = loaded.config.serve.tokens_file
    return None if file is None else read_tokens(loaded.resolve(file))


def _tls(loaded: LoadedConfig) -> Tls | None:
    """The context, and the certificate's bytes, by which a renewed one is noticed."""
    config = loaded.config.serve.tls
    if config.cert_file is None or config.key_file is None:
        return None
    cert_file, key_file = loaded.resolve(config.cert_file), loaded.resolve(config.key_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    key = read_secret_bytes(key_file, SecretKind.KEY)
    try:
        chain = cert_file.read_bytes()
        # An empty password instead of a question on the terminal.
        context.load_cert_chain(cert_file, key_file, password="")
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(
            f"the server's certificate {cert_file} and key {key_file} cannot be used: {exc.strerror or exc}; give a "
            "PEM certificate chain and its key without a password"
        ) from exc
    return Tls(context, chain, key)
