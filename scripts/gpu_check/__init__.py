"""Proves the engines of an NVIDIA GPU on the machine that has it: builds, answers, speed, refusals, one report."""
