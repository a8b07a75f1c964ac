"""Tests the engines of an NVIDIA GPU on its machine: builds, answers, speed, refusals; writes one report."""
