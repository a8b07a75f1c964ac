"""The connection to the broker, its topics and its messages.

In reading order:

- ``base``: Packet, and the contract between the publisher and whatever sends packets (Sink, SinkListener)
- ``messages``: the public schema, one frozen class for each message
- ``topics``: the table of all messages with topic, QoS, retention and expiry; makes packets from messages
- ``identity``: device and session in every message, and the status message that is also the last will
- ``settings``: what one connection needs: address, credentials, certificates
- ``network``: the bytes between this program and a broker; with ``connection`` the only room that imports paho
- ``addresses``: the broker's addresses in order, which is in use, and when to come back to an earlier one
- ``unconfirmed``: packets that the broker has not confirmed, and whether it confirms any
- ``grants``: what the broker offers, from its CONNACK
- ``connection``: one connection from CONNECT to its end
- ``diagnosis``: why a connection ended, in texts that say what to do
- ``attempts``: which version and which server the next attempt asks for
- ``client``: the sink that connects and reconnects
- ``loopback``: whether commands arrive: probes on the client's own command topics
- ``inbound``: hands received messages to their listeners
- ``subscriber``: a small client for live views and tests
- ``embedded``: a private broker for a first try

Threads: ``mqtt``, owned by ``MqttClient``, runs the network of one connection after the other and calls the listener.
It ends within the time given to ``MqttClient.stop``, except during a name look-up, which cannot be interrupted.
``mqtt-return`` exists only with several addresses, and tries the earlier ones while a later one is in use.
"""
