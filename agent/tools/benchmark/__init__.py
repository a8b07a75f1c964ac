"""Measures engines and the agent's own path on this device.

    cases ─► one child process per engine ─► rounds with a block of every engine ─► report ─► terminal, files

scenarios    what is run and for how long
job          the command: checks its options, measures, writes, compares, applies
study        one package from request to report
measure/     engines, each in a child process
pipeline/    the agent's own path, in a process
conditions   load, clocks, temperature, power while something is measured
statistics   percentiles and ratios with their intervals
judge        what makes a figure unusable or doubtful
report       the record that comes out, and its JSON
recommend    the engine to use
compare      two reports, and gates for continuous integration
apply, edit  write a recommendation into a configuration and keep its comments
inputs       checks what a run reads before it measures
render/      the forms of a report, and the files they are written to

Threads: one samples the conditions, one of paho receives what a measured agent publishes. Engines run in processes.
"""
