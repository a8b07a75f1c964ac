"""Turns the statistics of the parts into messages; the only package that does.

reporter.py        when `latency`, `health` and camera health are due, and their content
reports.py         from statistics to these messages
runtime.py         the `runtime` message: what runs here
thermal.py         the `thermal` message
engine_changes.py  builds and replacements of engines, for the log and the service manager
starvation.py      cameras that get no results, or far less than their share
status.py          the line of `systemctl status`
process.py         memory, CPU time, threads and descriptors of this process

No threads: everything runs on the main loop, except ``thermal_message``, which runs on the thermal monitor's thread.
"""
