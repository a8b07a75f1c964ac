"""Which engine serves: names, probes, measurements, fallbacks, and the way to an open engine.

registry.py    engines by name, and whether each can run here
served.py      the engine that callers get
selection.py   measuring engines, and remembering the fastest
candidate.py   opening one engine by name, checked
open.py        ``open_engine``: everything that was considered, and what was taken
verify.py      the accuracy check by hand
load_child.py  the child process of a sandboxed load
"""
