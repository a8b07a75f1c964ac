"""Keeps the board below its limits: sensors, governor and levers. Knows no MQTT; it emits snapshots.

sensors/        what is read: jtop, sysfs, a simulated board; the contract in ``base``
jtop_child.py   the program that talks to jtop, under an interpreter of its own
limits.py       soft and hard limit of each zone, from trip points or the configuration
trend.py        least-squares line through the last seconds of a quantity
prediction.py   where a zone will be, and how wrong predictions were
governor.py     from temperatures and power to one effort (pure)
decision.py     what it decides, in one record and one line of text
levers.py       from the effort to batches, engine, clocks and rate
clocks.py       the lever on the clocks: the kernel's files, lowered and restored
monitor.py      the thread: sensor, governor, levers, snapshots
reloadable.py   replaces the monitor when the configuration changes
minutes.py      the last 24 hours on disk
boards.py       parameters of the boards that can be simulated
model.py        the simulated board as an RC network

Threads: ``thermal-monitor`` (owner ThermalMonitor; ends with ``stop``), ``thermal-jtop`` and ``thermal-sysfs`` (owners
JtopSensor and SysfsSensor; end with ``stop``). All are daemon threads, because a read from a bus may hang.
"""
