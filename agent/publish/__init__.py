"""From a record of the pipeline to a packet that the broker has confirmed.

In reading order:

- ``publisher``: the thread between the pipeline and the sink; switching to another sink; the shutdown drain
- ``packets``: rate limit, sequence numbers, and packets made from records
- ``result_stream``: a result is sent, waits for room on the line, or is dropped
- ``delivery``: decides what is sent next and follows each packet to its confirmation
- ``outbox``: the events that the broker has not confirmed yet, in memory or on disk
- ``uplink``: builds all of this from the configuration, and applies a changed one
- ``home_assistant``: Home Assistant's device, and its discovery message
- ``listener_gate``: cuts off a sink that was replaced; ``json_lines``: a sink for ``agent run --print``

Threads: ``publisher``, owned by ``Publisher``, ends when ``stop`` closes its channels and the drain is over.
``outbox``, owned by ``SqliteOutbox``, ends with its ``close``. Records arrive from any thread in bounded channels.
"""
