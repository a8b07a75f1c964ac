"""Live view of a fleet, made from its messages: by MQTT (``agent watch``), or in the same process (``agent demo``).

documents   messages of unknown senders, read safely
history     curves over the last minutes
fleet       what is known of each device
reasons     why a classifier has decided its labels, or none
terminal    the fleet as tables
lines       the fleet as lines, where there is no terminal
screen      redraws while messages arrive; one thread
sink        buffers the messages of the same process
"""
