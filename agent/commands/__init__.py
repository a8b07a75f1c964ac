"""Commands over MQTT: what may be asked, who carries it out, and one reply to each.

In reading order:

- ``requests``: the schema of each verb
- ``server``: receives commands, checks them, and sends the replies
- ``contract``: between the server and its handlers
- ``handlers``: carries the commands out on the running agent
- ``overrides``: what ``set`` changed, applied on top of the configuration
- ``explanation``: the findings of ``explain``
- ``schemas``: JSON Schemas and the AsyncAPI document, generated from the message classes

Threads: ``commands``, owned by ``CommandServer``, carries out one command after the other; ``stop`` ends it. Commands
arrive on the thread of the MQTT connection.
"""
