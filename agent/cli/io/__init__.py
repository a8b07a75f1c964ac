"""What commands share: their options, the terminal, signals.

options  options that mean the same in every command
console  text and tables on the terminal
signals  how a command ends on a signal
found_cameras  what `agent doctor --find-cameras` prints
"""
