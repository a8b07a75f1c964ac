"""Drills that provoke faults and count what they cost: delivery at random, and the table of docs/faults.md."""
