"""The sections of the configuration, one file each.

base  what every section inherits, and the patterns of names
"""
