"""``agent doctor``: checks the machine, a configuration and everything that it names.

examination   all checks, in order
checks        the machine, its engines, the cameras, the state directory
models        the engine of each model, opened as at a start of the agent
broker        each address of the broker, its limits, and whether commands arrive
broker_way    how long a message takes to the broker and back
serve         the server for programs: tokens, certificate, addresses
findings      what a check found, and the report
terminal      the report on a terminal
bundle        an archive for a support request

Threads: one per check, each with a deadline. A check that hangs in a library is left behind.
"""
