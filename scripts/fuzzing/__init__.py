"""Fuzzing with Hypothesis: what strangers write is damaged and given to its readers.

mutation.py   damaged copies of good input
targets.py    the readers, with the errors that they may raise
__main__.py   runs targets for a time, each in a process of its own
"""
