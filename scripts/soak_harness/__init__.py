"""A long run of the agent with a real broker and camera, and random faults. Run by scripts/soak."""
