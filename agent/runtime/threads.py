"""A thread that keeps the exception that ended it: the one place where a stage's exceptions are caught.

Also the end of a process in which a library's call still holds such a thread.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable


class StageThread:
    """Runs ``work`` once. Its exception is kept in ``failure``, and the owner raises it on the main thread.

    ``on_failure`` is called with it, on the stage's own thread. The thread is a daemon: a call that never returns from
    a library must not keep the process from ending. The owner logs which thread was cut off.
    """

    def __init__(
        self, name: str, work: Callable[[], None], *, on_failure: Callable[[Exception], None] | None = None
    ) -> None:
        self.failure: Exception | None = None
        self._work = work
        self._on_failure = on_failure
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def start(self) -> None:
        """Start it; once."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for its end; False if it still runs after ``timeout_s``. True if it was never started."""
        if self.is_started:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_started(self) -> bool:
        """Whether it was started; also after its end."""
        return self._thread.ident is not None

    @property
    def is_alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._thread.is_alive()

    def _main(self) -> None:
        try:
            self._work()
        except Exception as exc:  # noqa: BLE001 - top of every stage's thread: recorded, the owner raises it in main
            self.failure = exc
            if self._on_failure is not None:
                self._on_failure(exc)


def end_now_if_threads_are_left(exit_code: int) -> None:
    """End this process if a daemon thread still runs; otherwise return.

    Such a thread may be inside FFmpeg, which asks PyAV several times a second whether to go on, and PyAV asks the
    interpreter. After an ordinary end there is none, and now and then the process crashed instead of exiting with its
    code. Python's exit functions run, those of C do not. The caller has flushed the standard streams.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    if not any(thread.daemon for thread in others):
        return
    for thread in others:
        if not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()  # noqa: SLF001 - as the interpreter's own end does, which has no public name
    os._exit(exit_code)
