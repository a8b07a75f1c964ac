"""What can run on this machine, what cannot, and what to do about it."""
