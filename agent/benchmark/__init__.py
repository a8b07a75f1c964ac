"""Measures the engines and the agent's own path on this device, so that the figures can be trusted.

    plan (cases) ─► one child process per engine ─► rounds, every engine in each ─► report ─► table, JSON, HTML, PNG

``scenarios`` say what is run and for how long, ``measurement`` times calls (it runs inside the children),
``session`` holds one child, ``rounds`` interleaves them, ``report`` is what comes out.
"""
