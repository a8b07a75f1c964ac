"""The section `serve`: models for programs over HTTP, and its limits."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from agent.config.sections.base import LISTEN_ADDRESS, PlacedError, Section

ListenAddress = Annotated[str, StringConstraints(pattern=LISTEN_ADDRESS)]
"""``host:port``; a host is a name, an IPv4 address, or an IPv6 address in brackets."""

_MAX_PORT = 65535


def split_address(address: str) -> tuple[str, int]:
    """Host, without brackets, and port of a ``ListenAddress``.

    Raises:
        ValueError: the port is above 65535.
    """
    host, _, port = address.rpartition(":")
    if int(port) > _MAX_PORT:
        raise ValueError(f"port {port} is above {_MAX_PORT}; name one that exists")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Whether only programs of this machine reach ``address``. A name other than localhost does not count."""
    host, _ = split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _overlap(one: str, other: str) -> bool:
    """Whether only one program can listen on both; two names of a host other than localhost are not looked up."""
    (host, port), (other_host, other_port) = split_address(one), split_address(other)
    if port == 0 or port != other_port:
        return False
    first, second = ("127.0.0.1" if name.lower() == "localhost" else name.lower() for name in (host, other_host))
    return first == second or _holds(first, second) or _holds(second, first)


def _holds(every: str, host: str) -> bool:
    """Whether ``every`` stands for all addresses of the machine, so for ``host`` too; `::` takes IPv4 as well."""
    try:
        address = ipaddress.ip_address(every)
    except ValueError:
        return False
    return address.is_unspecified and (address.version == 6 or ":" not in host)


_METRICS_START = b"# HELP "


def fault_of_metrics_file(path: Path) -> str | None:
    """Why ``path`` must not be replaced by a file of metrics: it is there, and holds something else; None otherwise.

    Raises:
        OSError: it cannot be looked at.
    """
    if path.parent.exists() and not path.parent.is_dir():
        return f"its folder must be a directory, but {path.parent} is a file; name another path"
    if not path.exists():
        return None
    if not path.is_file():
        return f"must be a regular file, but {path} is something else; name another path"
    with path.open("rb") as file:
        start = file.read(len(_METRICS_START))
    if start in {b"", _METRICS_START}:
        return None
    return f"would replace {path}, but that file holds no metrics of the agent; move it away, or name another path"


class ServeTlsConfig(Section):
    """Certificate of this server; without one, connections are in clear text."""

    cert_file: str | None = None
    """Certificate chain, PEM."""
    key_file: str | None = None
    """Key of the certificate, PEM, readable only by the agent."""

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> ServeTlsConfig:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or neither")
        return self


class ServeConfig(Section):
    """Models for programs: the Open Inference Protocol, and plain REST. Needs the extra `[serve]`."""

    http: ListenAddress | None = None
    """Address of the HTTP server such as `127.0.0.1:8000`; port 0 takes a free one; null is off."""
    grpc: ListenAddress | None = None
    """Address of the gRPC server such as `127.0.0.1:8001`, which needs the extra `[grpc]`; null is off."""
    tls: ServeTlsConfig = ServeTlsConfig()
    """Certificate of the server."""
    tokens_file: str | None = None
    """File with a line `NAME TOKEN` for each client; required on any address but loopback."""
    max_requests_per_s: float | None = Field(default=None, ge=0.1, le=100_000.0)
    """Maximum requests per second of one token, or of all clients together without tokens; null is no limit."""
    max_waiting: int = Field(default=64, ge=1, le=1024)
    """Maximum number of waiting requests per model; more are refused with 429."""
    timeout_ms: int = Field(default=10_000, ge=1, le=600_000)
    """How long a request may wait for its engine; a request may ask for less."""
    min_share_ratio: float = Field(default=0.2, ge=0.0, le=0.9)
    """Share of an engine's images that requests keep beside busy cameras; 0 serves them only while no frame waits."""
    max_body_mib: int = Field(default=16, ge=1, le=256)
    """Largest body of one request in MiB."""
    max_bodies_mib: int = Field(default=64, ge=1, le=4096)
    """Largest size of all bodies together that are being received or served, in MiB; at least `max_body_mib`."""
    max_image_mpx: int = Field(default=16, ge=1, le=50)
    """Largest encoded image in millions of pixels."""
    max_json_mib: int = Field(default=1, ge=1, le=64)
    """Largest JSON text of a request in MiB; send tensors as binary data."""
    max_connections: int = Field(default=64, ge=1, le=4096)
    """Maximum number of open connections of HTTP, and of gRPC; more are answered with 503, or closed over gRPC."""
    read_timeout_s: float = Field(default=10.0, ge=0.1, le=600.0)
    """How long a TLS handshake, the head of a request, and then its body, may take to arrive."""
    metrics_file: str | None = None
    """File of metrics, `NAME.prom`, such as `/var/lib/node_exporter/agent.prom`, every 15 s; needs no address."""
    page: bool = False
    """Serve the page for people at /page/, beside the calls of programs; needs `http`."""
    page_images: bool = True
    """Show the cameras' images on the page; false shows figures and labels alone."""
    control: bool = False
    """Let the page send the commands that `mqtt.commands` allows."""
    reports_dir: str = Field(default="reports", min_length=1)
    """Folder whose reports of `agent benchmark` (HTML, JSON, Markdown) the page lists."""
    allow_load: bool = False
    """Let clients load and unload models of this file."""

    @model_validator(mode="after")
    def _is_guarded(self) -> ServeConfig:
        for key, address in self.addresses.items():
            try:
                is_local = is_loopback(address)
            except ValueError as exc:
                raise PlacedError(str(exc), key) from None
            if not is_local and self.tokens_file is None:
                raise PlacedError(
                    f"{address} can be reached by other machines, but there is no tokens_file: give one, or listen on "
                    "127.0.0.1",
                    key,
                )
        if self.http is not None and self.grpc is not None and _overlap(self.http, self.grpc):
            raise PlacedError(
                f"http and grpc need an address each, but http has {self.http} and grpc {self.grpc}; give one of them "
                "another port",
                "grpc",
            )
        if self.max_bodies_mib < self.max_body_mib:
            raise ValueError(
                f"max_bodies_mib {self.max_bodies_mib} is below max_body_mib {self.max_body_mib}: raise it, because "
                "a body of the largest size must fit"
            )
        return self

    @model_validator(mode="after")
    def _page_has_its_server(self) -> ServeConfig:
        if self.page and self.http is None:
            raise PlacedError("page is true, but http has no address; write http: 127.0.0.1:8000", "page")
        if self.control and not self.page:
            raise PlacedError(
                "control is about the page, but page is false; write page: true, or leave it out", "control"
            )
        return self

    @model_validator(mode="after")
    def _metrics_file_is_for_the_collector(self) -> ServeConfig:
        given = self.metrics_file
        if given is not None and (not given.endswith(".prom") or Path(given).name == ".prom"):
            text = f"must name a file that ends in .prom, because node_exporter reads no other, but it is {given!r}"
            raise PlacedError(f"{text}; write for example /var/lib/node_exporter/agent.prom", "metrics_file")
        return self

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses to listen on, by key; none while serving is off."""
        given = {"http": self.http, "grpc": self.grpc}
        return {key: address for key, address in given.items() if address is not None}

    @property
    def is_on(self) -> bool:
        """Whether programs are served at all."""
        return bool(self.addresses)
