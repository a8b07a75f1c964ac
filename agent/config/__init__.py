"""The configuration file: reading it, refusing it with file and line, and what came out."""
