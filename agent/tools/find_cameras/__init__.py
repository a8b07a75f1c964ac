"""``agent doctor --find-cameras``: finds ONVIF cameras on the network, and writes the source of each stream.

discovery  WS-Discovery: who is there
soap       messages, and replies that nobody trusts: limits, no document type, faults
device     what one camera says of itself: profiles and the addresses of their streams
report     all of it as text and as JSON

Threads: ``find-cameras_N``, one for each camera that is asked, at most eight.
"""
