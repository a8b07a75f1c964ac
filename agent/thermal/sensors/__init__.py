"""Where temperatures and power come from: one contract, one file per source.

base.py          the contract, and the sample that every source delivers
choose.py        the sensor for a configuration
auto.py          jtop over sysfs
jtop.py          jtop through a child process
jtop_lines.py    from a line of that child to a sample
sysfs.py         the kernel's files
files.py         reading them without blocking
trips.py         the trip point at which a zone lowers clocks
cooling.py       cooling devices, and which of them lower clocks
throttling.py    why clocks are lowered now
over_current.py  over-current counters
rails.py         power by rail, and fans
known_boards.py  boards that throttle without a trip point
plausible.py     which readings to believe
simulated.py     the simulated board
"""
