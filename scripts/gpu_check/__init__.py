"""Checks the engines of this machine's NVIDIA GPU: builds, accuracy, speed, refused plans; writes one report."""
