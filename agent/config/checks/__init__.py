"""What the schema of the configuration cannot say.

crosschecks.py   faults between keys, and warnings
files.py         what this machine lacks of the named files and folders
"""
