"""What is kept on disk, and how: whole files, content addresses, plans.

atomic.py       writing a file so that it is whole or absent, with a checksum beside it
plan_files.py   reading native code: no links, no foreign owner, each file opened once
plan_cache.py   plans that this device built: entries, locks, quarantine, pruning
"""
