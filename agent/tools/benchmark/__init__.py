"""Measures the engines and the agent's own path on this device, so that the figures can be trusted.

    plan (cases) ─► one child process per engine ─► rounds, every engine in each ─► report ─► table, JSON, HTML, PNG

scenarios    what is run and for how long
study        one run of the command: everything below, in order
measure/     engines, each in a child process
pipeline/    the agent's own path, in a process
conditions   load, clocks, temperature, power while something is measured
statistics   percentiles and ratios with their intervals
judge        what makes a figure unusable or doubtful
report       the record that comes out, and its JSON
recommend    the engine to use
compare      two reports, and gates for continuous integration
apply        writes a recommendation into a configuration
inputs       checks what a run reads and writes before it measures
render/      the forms of a report
"""
