"""Requests of programs to one model.

queue       priorities, deadlines, and their share beside the frames
statistics  their counts and durations, as Triton has them
"""
