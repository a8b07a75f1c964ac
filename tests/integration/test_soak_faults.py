"""What breaks an agent during a soak does what it says, to a process and to a line that are not the agent's."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from scripts.soak_harness.line import Line

_LIMITED = """
import mmap, resource, sys
file = open(sys.argv[1], "wb", buffering=0)
print("ready", flush=True)
sys.stdin.readline()
try:
    {attempt}
except (OSError, MemoryError) as exc:
    print(type(exc).__name__, getattr(exc, "errno", None), flush=True)
else:
    print("nothing happened", flush=True)
"""


@pytest.mark.parametrize(
    ("limit", "soft", "attempt", "answer"),
    [
        (
            psutil.RLIMIT_FSIZE,
            0,
            "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); file.write(b'x')",
            "27",
        ),
        (psutil.RLIMIT_NOFILE, 3, "open('/dev/null')", "24"),
        (psutil.RLIMIT_AS, None, "mmap.mmap(-1, 64 << 20)", "12"),
    ],
    ids=["disk", "descriptors", "memory"],
)
def test_a_limit_that_is_set_from_outside_holds_at_once(
    tmp_path_factory: pytest.TempPathFactory, limit: int, soft: int | None, attempt: str, answer: str
) -> None:
    file = tmp_path_factory.mktemp("limit") / "file"
    command = [sys.executable, "-c", _LIMITED.format(attempt=attempt), str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        process = psutil.Process(child.pid)
        value = process.memory_info().vms if soft is None else soft
        process.rlimit(limit, (value, process.rlimit(limit)[1]))
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline().split()[-1] == answer


@pytest.fixture
def speaker() -> Iterator[int]:
    """The port of something that sends each client bytes for ever, a thousand in a hundredth of a second."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def speak() -> None:
            listener.settimeout(0.05)
            with contextlib.ExitStack() as keep:
                clients: list[socket.socket] = []
                while not ended.wait(0.01):
                    with contextlib.suppress(TimeoutError):
                        clients.append(keep.enter_context(listener.accept()[0]))
                    for client in clients:
                        with contextlib.suppress(OSError):
                            client.sendall(bytes(1000))

        thread = threading.Thread(target=speak)
        thread.start()
        yield int(listener.getsockname()[1])
        ended.set()
        thread.join()


def _bytes_in(port: int, seconds: float) -> int:
    """How many come within this time over a new connection."""
    count, end = 0, time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", port), 5.0) as client:
        while (left_s := end - time.monotonic()) > 0:
            client.settimeout(left_s)
            try:
                data = client.recv(4096)
            except TimeoutError:
                break
            if not data:
                break
            count += len(data)
    return count


def test_a_line_passes_everything_a_trickle_or_nothing_and_can_be_cut(speaker: int) -> None:
    with Line(speaker) as line:
        assert _bytes_in(line.port, 1.0) > 1000
        line.trickle(200.0)
        assert 0 < _bytes_in(line.port, 1.5) <= 200 * 1.5 + 64
        line.mend()
        line.is_black_hole = True
        assert _bytes_in(line.port, 0.5) == 0
        line.mend()
        assert _bytes_in(line.port, 1.0) > 1000
        with socket.create_connection(("127.0.0.1", line.port), 5.0) as client:
            client.settimeout(10.0)
            assert client.recv(10)
            line.cut()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", line.port), 5.0)
            _read_to_the_end(client)
        line.mend()
        assert _bytes_in(line.port, 1.0) > 1000


def _read_to_the_end(client: socket.socket) -> None:
    """Returns when the connection is closed; fails by its timeout where it is not."""
    try:
        while client.recv(4096):
            pass
    except ConnectionResetError:
        pass
