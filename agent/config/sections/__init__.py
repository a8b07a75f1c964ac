"""The sections of the configuration, one file each.

base        what every section inherits, and the patterns of names
decide      how results become a stable label, and the rule of each label
field_docs  the docstrings below fields, for schemas and the reference
"""
