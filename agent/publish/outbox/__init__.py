"""Where events wait until the broker has confirmed them.

In reading order: ``base`` (the contract, and the outbox in memory), ``sqlite`` (the outbox on disk, with the thread
that writes), ``file`` (the database and its faults), ``index`` (rows read ahead, and the newest key of each topic),
``choose`` (the configured outbox).

Threads: ``outbox``, owned by ``SqliteOutbox``, writes; it ends with ``close``, which waits one second for it.
"""
