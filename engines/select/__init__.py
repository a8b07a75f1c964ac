"""Selects and opens the engine that serves: names, probes, measurements, fallbacks.

registry.py    engines by name, and whether each can run here
remedies.py    what to do about an engine that cannot run
served.py      the engine that callers get
selection.py   measuring engines, and remembering the fastest
candidate.py   opening one engine by name, checked
open.py        ``open_engine``: tries engines in order, and reports those that were rejected
prepared.py    engines that are already built in a precision with less work
verify.py      the accuracy check for ``agent verify``
load_child.py  the child process of a sandboxed load
"""
