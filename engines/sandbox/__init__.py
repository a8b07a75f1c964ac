"""Builds and first loads in a limited child process.

memory.py  how much memory there is, for this process and its control groups
child.py   starting a child, watching its limits, reading its answer
serve.py   the child's side
load.py    the sandboxed load of a model that is new to this device
"""
