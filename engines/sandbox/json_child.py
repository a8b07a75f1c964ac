"""A child process that answers in JSON lines on its standard output.

The child reads one line, its job, from standard input, or one line for each ``send``. Every line of its standard
output that is a JSON object is a message; every other line, and all of standard error, is kept for the error text:
libraries write to both.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

_MAX_LAST_LINES = 6
_MAX_LINE_CHARS = 2000
_READ_BYTES = 65536
_MAX_LINE_BYTES = 4 * 2**20
_LOOK_EVERY_S = 0.01


class JsonChild:
    """One running child. Made, read and closed by one thread; ``close`` kills it if it still runs."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        on_message: Callable[[dict[str, object]], None],
        job: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        keeps_input: bool = False,
        ends_group: bool = False,
    ) -> None:
        """Start ``command`` with ``environ`` added to this process's environment, and send it ``job`` as one line.

        ``job`` must be smaller than a pipe's buffer (64 KiB), so that sending it never waits. ``keeps_input`` leaves
        standard input open for ``send``; it ends with this process. ``ends_group``: ``close`` also kills what the
        child has started.
        """
        # A group of its own: an interrupt from a terminal reaches this process alone, which ends the child in order.
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE if job is not None or keeps_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, **(environ or {})},
        )
        self.began_s = time.monotonic()
        self.error_lines: deque[str] = deque(maxlen=_MAX_LAST_LINES)
        """The last lines that were no message, oldest first."""
        self._on_message = on_message
        self._ends_group = ends_group
        self._selector = selectors.DefaultSelector()
        self._lines: dict[int, _Lines] = {}
        for stream, take in ((self._process.stdout, self._take_output), (self._process.stderr, self._keep)):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                self._selector.register(stream, selectors.EVENT_READ)
                self._lines[stream.fileno()] = _Lines(take)
        if job is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended already, which the exit code will say
                self.send(job)
        if not keeps_input:
            self._close_input()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began_s

    @property
    def ending(self) -> str:
        """How an ended child ended, for messages: ``exit code 1`` or ``signal 9 (SIGKILL)``."""
        code = self.exit_code
        if code is not None and code < 0:
            return f"signal {-code} ({signal_name(-code)})"
        return f"exit code {code}"

    @property
    def exit_code(self) -> int | None:
        """As in ``subprocess``: None while it runs, below 0 for a signal."""
        if not self._ends_group or self._process.returncode is not None:
            return self._process.poll()
        # Not reaped before ``close``: the number of a reaped child, which is its group's, may go to another program.
        left = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if left is None:
            return None
        return left.si_status if left.si_code == os.CLD_EXITED else -left.si_status

    def send(self, message: Mapping[str, object]) -> None:
        """Write ``message`` as one line to the child's standard input.

        Raises:
            BrokenPipeError: the child has ended, or has closed its input.
        """
        if self._process.stdin is None or self._process.stdin.closed:
            raise RuntimeError("this child was started without keeps_input, or is closed")
        self._process.stdin.write(json.dumps(dict(message)).encode() + b"\n")
        self._process.stdin.flush()

    def read(self, timeout_s: float) -> bool:
        """Wait up to ``timeout_s`` and take what the child has written; False once it has ended and all is read.

        A child may close its output and run on; so the wait goes on until the process is gone.
        """
        if not self._selector.get_map():
            self._wait(timeout_s)
            return self.exit_code is None
        for ready, _ in self._selector.select(timeout_s):
            if not self._lines[ready.fd].take_from(ready.fd):
                self._selector.unregister(ready.fileobj)
        return bool(self._selector.get_map()) or self.exit_code is None

    def close(self, *, grace_s: float = 0.0, reap_s: float | None = None) -> bool:
        """End the child's input, kill it if it still runs after ``grace_s``, reap it and close the pipes.

        False if it did not end within ``reap_s`` of the kill: a device that hangs can keep it. Harmless when repeated.
        """
        self._close_input()
        if grace_s > 0.0:
            self._wait(grace_s)
        self._kill()
        try:
            self._process.wait(reap_s)
        except subprocess.TimeoutExpired:
            return False
        finally:
            self._selector.close()
            for stream in (self._process.stdout, self._process.stderr):
                if stream is not None:
                    stream.close()
        return True

    def __enter__(self) -> JsonChild:
        """Use the child for a while."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _wait(self, timeout_s: float) -> None:
        if not self._ends_group:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
            return
        deadline_s = time.monotonic() + timeout_s
        while self.exit_code is None and time.monotonic() < deadline_s:
            time.sleep(_LOOK_EVERY_S)

    def _kill(self) -> None:
        if not self._ends_group:
            if self._process.poll() is None:
                self._process.kill()
        elif self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _close_input(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def _take_output(self, line: str) -> None:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            self._on_message(value)
        else:
            self._keep(line)

    def _keep(self, line: str) -> None:
        self.error_lines.append(line[:_MAX_LINE_CHARS])


class _Lines:
    """Puts whole lines together from a pipe that must not block."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._rest = b""

    def take_from(self, descriptor: int) -> bool:
        """Take what is there; False at the end of the stream."""
        data = os.read(descriptor, _READ_BYTES)
        if len(self._rest) > _MAX_LINE_BYTES:
            self._rest = b""  # no message is that long
        *whole, self._rest = (self._rest + data).split(b"\n")
        if not data and self._rest:
            whole, self._rest = [self._rest], b""
        for line in whole:
            text = line.decode(errors="replace").strip()
            if text:
                self._take(text)
        return bool(data)


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; ``signal 64`` for a number without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
