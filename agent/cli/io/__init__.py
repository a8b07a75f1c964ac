"""What commands share: their options, the terminal, signals.

options  options that mean the same in every command
numbers  numbers on the command line
console  text and tables on the terminal
signals  how a command ends on a signal
found_cameras  what `agent doctor --find-cameras` prints
"""
