"""From a record of the pipeline to a packet that the broker has confirmed.

In reading order:

- ``publisher``: the thread between the pipeline and the sink; switching to another sink; the shutdown drain
- ``packets``: rate limit, sequence numbers, and packets made from records
- ``delivery``: sends packets and follows each to its confirmation: streams, retained values, events
- ``outbox``: the events that the broker has not confirmed yet, in memory or on disk
- ``retained_topics``: which retained topics of cameras the broker may hold, so that old ones can be cleared
- ``uplink``: builds all of this from the configuration, and applies a changed one
- ``home_assistant``, ``discovery``: Home Assistant's device, and its discovery message
- ``json_lines``: a sink for ``agent run --print``

Threads: ``publisher``, owned by ``Publisher``, ends when ``stop`` closes its channels and the drain is over.
``outbox``, owned by ``SqliteOutbox``, ends with its ``close``. Records arrive from any thread in bounded channels.
"""
