"""What makes the agent a service: the contract with systemd, the state directory, an orderly end.

state_directory.py  one agent at a time, the session number, how the last run ended
start_backoff.py    waits before a start if the last ones failed
notify.py           states and watchdog messages for systemd
watchdog.py         sends them while every stage makes progress
alive.py            the same for a container: a file for `agent health`
control.py          the socket of `agent reload`
exit_deadline.py    ends the process if an orderly end takes too long
imports.py          the first imports: no threads of numpy and OpenCV, no search for garbage
heap.py             few arenas of the C library, which keep the memory of images; trimmed after loading

Thread: ``exit-deadline``, a timer that ``ExitDeadline`` starts, and cancels if the end was in time. Everything else
runs on the main thread.
"""
