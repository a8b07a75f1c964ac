"""Schemathesis makes requests from the OpenAPI document and holds each answer against it.

Only with `scripts/test --with schemathesis`, which makes its environment. `AGENT_OPENAPI_EXAMPLES` is the number of
requests to each call and phase.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from agent.web.served_models import ModelControl
from tests.fixtures.serving import Server, png, serving

_PROGRAM = os.environ.get("SCHEMATHESIS")
_EXAMPLES = os.environ.get("AGENT_OPENAPI_EXAMPLES", "30")
_TOKEN = "0123456789abcdef0123"
_INEXPRESSIBLE = "positive_data_acceptance"
"""Left out: any bytes fit `format: binary` but are no image, and the number of values must fit the shape."""

pytestmark = [
    pytest.mark.skipif(_PROGRAM is None, reason="needs Schemathesis: scripts/test --with schemathesis"),
    pytest.mark.timeout(600),
]


def _findings(server: Server, cwd: Path, *more: str) -> subprocess.CompletedProcess[str]:
    address = f"http://{server.host}:{server.port}/openapi.json"
    limits = ("--max-examples", _EXAMPLES, "--seed", "1", "--request-timeout", "20", "--no-color")
    command = [_PROGRAM or "", "run", address, "--exclude-checks", _INEXPRESSIBLE, *limits, *more]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=580, check=False)


def test_every_answer_is_one_that_the_document_names(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"fuzzer {_TOKEN}\n")
    tokens.chmod(0o600)
    control, headers = ModelControl(lambda _: None, lambda _: None), {"authorization": f"Bearer {_TOKEN}"}
    with serving(tmp_path, tokens_file="tokens", allow_load=True, model_control=control, headers=headers) as server:
        done = _findings(server, tmp_path, "--header", f"Authorization: Bearer {_TOKEN}")
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
        assert "Tested: 19" in done.stdout
        assert server.client.post("/v1/models/inspect:classify", content=png(1)).status_code == 200
        assert server.service.failure is None
        assert server.service._faces.bodies.held == 0


def test_it_finds_a_planted_fault(tmp_path: Path) -> None:
    """Without permission to load, those calls answer 503, which it takes for an error of the server."""
    with serving(tmp_path) as server:
        done = _findings(server, tmp_path, "--include-path-regex", "/load$", "--phases", "coverage")
    assert done.returncode == 1
    assert "Server error" in done.stdout
