"""What every room of the agent may use. Imports nothing of ``agent``, only ``engines`` below it.

statistics   percentiles of measured times
"""
