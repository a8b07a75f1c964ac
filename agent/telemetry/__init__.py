"""Messages about the agent itself, made from the statistics of its parts."""
