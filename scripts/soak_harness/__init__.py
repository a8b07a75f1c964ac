"""A long run of the agent with everything real around it, and faults drawn at random. Run by scripts/soak."""
