"""A support bundle, made by `agent doctor` in a process of its own, as a user would make it."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from pathlib import Path

from agent.runtime.logs import get_logger
from agent.web.served_models import NotReady
from engines import module_command

log = get_logger(__name__)

_WITHIN_S = 180.0
_running = threading.Lock()


def support_bundle(config: Path, *, within_s: float = _WITHIN_S) -> bytes:
    """The bundle for the configuration file ``config``, a tar.gz. Takes seconds to minutes; one at a time.

    Raises:
        NotReady: another one is being made, or `agent doctor` wrote none in time.
    """
    if not _running.acquire(blocking=False):
        raise NotReady("a support bundle is being made already; wait for it")
    try:
        with tempfile.TemporaryDirectory(prefix="agent-bundle-") as folder:
            return _made(config, Path(folder) / "bundle.tar.gz", within_s)
    finally:
        _running.release()


def _made(config: Path, target: Path, within_s: float) -> bytes:
    command = module_command("agent", "doctor", "-c", str(config.absolute()), "--bundle", str(target))
    log.info("bundle.started")
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=within_s, check=False)
    except subprocess.TimeoutExpired:
        raise NotReady(f"agent doctor has not ended within {within_s:.0f} s; run it on the device") from None
    if not target.exists():
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise NotReady(f"agent doctor wrote no bundle: {''.join(last) or f'exit code {done.returncode}'}")
    return target.read_bytes()
