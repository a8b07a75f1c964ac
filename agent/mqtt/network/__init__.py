"""The bytes between this program and a broker.

transport      the way to a broker: TCP or unix socket, proxy, TLS
websocket      MQTT over WebSocket
wire           received packets as bytes, read without trust in the broker
line           how fast the line drains, and how much may wait for it
packet_client  paho's client with its bytes in our hands
"""
