"""The README's commands and the installation on minimal roots; see scripts/fresh-machine.

roots.py     which roots there are, and how a base of one is made and kept
host.py      what of this machine's apt and pip is carried into a root
chamber.py   runs a command in a root, in namespaces of its own, for a bounded time
jobs.py      what is run there, and what is looked for in the output
stand_ins.py packages that stand in for L4T and TensorRT
report.py    the table and the JSON

The standard library alone: the machine that runs it need not have the agent's packages.
"""
