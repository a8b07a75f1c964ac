"""A broker on a port that stays the same when it is stopped and started again."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.publish.settings import BrokerAddress

_WITHIN_S = 10.0


def free_port() -> int:
    """One of the loopback interface that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def broker_at(port: int) -> Iterator[BrokerAddress]:
    """mosquitto on ``port`` until the block ends; nothing is kept between two of them.

    Raises:
        RuntimeError: it is not installed, or does not listen.
    """
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise RuntimeError("mosquitto is not installed, and an outage needs a broker that comes back. Install it")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
            "log_dest none\n",
            encoding="utf-8",
        )
        Path(folder).chmod(0o755)
        process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
        try:
            _wait_listening(port)
            yield BrokerAddress("127.0.0.1", port)
        finally:
            process.terminate()
            process.wait()


def _wait_listening(port: int) -> None:
    deadline_s = time.monotonic() + _WITHIN_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            return
        time.sleep(0.02)
    raise RuntimeError(f"mosquitto does not listen on port {port} after {_WITHIN_S:g} s")
