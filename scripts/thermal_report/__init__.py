"""The governor and its alternatives on simulated boards. Run by scripts/thermal-report."""
