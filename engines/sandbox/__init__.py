"""Builds and first loads in a limited child process.

isolated.py    how Python is started: nothing of the current directory is imported
json_child.py  a child process that answers in JSON lines
serve.py       the child's side
memory.py      how much memory there is, for this process and its control groups
child.py       a child with limits: time, its own memory, what the system must keep
package_check.py  package_child.py    the first reading of a package that is new to this device
load.py        the sandboxed load of a model that is new to this device
"""
