"""The configuration file: reading it, refusing it with file and line, and the result.

model.py         the whole tree, made of the sections in sections/
loader.py        from a file to a ``LoadedConfig``, or to one error with every fault
problems.py      from faults to lines of text
shape.py         what may stand at a place of the file, in words
labels.py        gates and rules, checked against the labels of the models
checks/          faults between keys, warnings, files that are not there
device.py        the device id
state_dir.py     the default state and cache directory
overridden.py    what commands have changed
dump.py          back to YAML
reference.py     the tables of docs/configuration.md
"""
