"""Home Assistant's MQTT discovery.

device     the publisher's part: when to send the discovery message, and what Home Assistant says of itself
discovery  the message
"""
