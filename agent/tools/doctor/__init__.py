"""Checks of ``agent doctor``: what the machine, the configuration and what it names are ready for.

examination   all checks, in order
checks        one function per check
findings      what a check found, and the report
terminal      the report on a terminal
bundle        an archive for a support request
"""
