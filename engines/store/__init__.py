"""What is kept on disk, and how: whole files, content addresses, plans.

owned.py       reading files that only this user or root can have written
files.py       ``write_atomic``, checksums beside a file, content addresses
records.py     one value in one JSON file, with the facts that it is true of
prepared.py    what is known beforehand of the bundled package
plan_cache.py  plans that this device built: entries, locks, quarantine, pruning
"""
