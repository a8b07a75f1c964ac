"""The README's commands and the installation on minimal roots; see scripts/fresh-machine.

roots.py     the roots, and the archives of their bases
host.py      the settings of this machine's apt and pip that a root needs
chamber.py   runs a command in a root, in its own namespaces, with a time limit
jobs.py      what runs there, and what its output must show
stand_ins.py packages that replace those of L4T and TensorRT
report.py    the table and the JSON

Uses only the standard library: this machine need not have the agent's packages.
"""
