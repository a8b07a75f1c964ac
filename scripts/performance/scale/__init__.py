"""What more work costs: the parts `scale-…` of scripts/measure, for docs/scale.md.

point  one measurement of one agent under one load
axes   the loads: cameras, models, classes, events, rows in the outbox, dead cameras
words  tables, and what they say about growth and limits
chart  the same as a picture
"""
