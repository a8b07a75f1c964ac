"""Threads, channels, clocks, logs and files: what every room above builds on."""
