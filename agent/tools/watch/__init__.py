"""Live view of a fleet, made from its messages: by MQTT (``agent watch``) or in the same process (``agent demo``).

documents   messages, checked and cleaned of what a terminal would obey
history     curves over the last minutes
fleet       what is known of each device
terminal    the fleet as tables
lines       the fleet as lines, where there is no terminal
screen      draws again while messages arrive
sink        receives the messages in the same process
"""
