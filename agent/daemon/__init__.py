"""What makes the agent a service: logs, reports on itself, and the contract with systemd."""
