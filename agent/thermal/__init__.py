"""Temperature and power: the sensors, the governor that acts on them, and a simulated board to try both on."""
